"""UserError, which a script turns into one line on stderr and exit code 2; and how such a line
names files and quotes what they hold."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import reprlib
import sys
from collections.abc import Iterator

QUOTED_CHARACTERS = 200
_short = reprlib.Repr()
_short.maxstring = _short.maxother = QUOTED_CHARACTERS


class UserError(ValueError):
    """An error that the user can fix. The message says what is wrong and what to do about it."""


def require(condition: bool, message: str) -> None:
    """Raise UserError with `message` unless `condition` holds."""
    if not condition:
        raise UserError(message)


def quoted(value: object) -> str:
    """Return `repr(value)`, at most QUOTED_CHARACTERS long: a value from a file may be of any size
    and depth."""
    try:
        text = _short.repr(value)
    except (ValueError, RecursionError):  # thousands of digits, or nested too deeply
        return f"a {type(value).__name__}"
    return text if len(text) <= QUOTED_CHARACTERS else text[: QUOTED_CHARACTERS - 3] + "..."


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its type if it has none; at most
    QUOTED_CHARACTERS, without the punctuation at its end."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:QUOTED_CHARACTERS].rstrip(".:")


@contextlib.contextmanager
def naming(path: object) -> Iterator[None]:
    """Raise errors of the operating system as OSErrors that name a file: `path`, if they name none.

    Python names a file when it opens, renames or deletes it, not when it reads, writes, flushes or
    closes it. Libraries in C++ and Rust raise other types.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if isinstance(error, OSError):
            if error.errno is not None:  # without one, a name would take the place of the message
                error.filename = error.filename or str(path)
        elif number := _errno(error):
            raise OSError(number, os.strerror(number), str(path)) from error
        raise


def _errno(error: Exception) -> int | None:
    """Return the errno of an error that a library made of one of the operating system."""
    if isinstance(error, RuntimeError) and isinstance(error.__context__, OSError):  # torch: a write in Python failed, then its own
        return error.__context__.errno
    text = str(error)
    for number in map(int, re.findall(r"\((?:os error )?(\d{1,3})\)", text)):  # Rust: No such device (os error 19); C++: No such device (19)
        if os.strerror(number) in text:
            return number
        if sys.platform == "win32" and ctypes.FormatError(number) in text:  # Rust gives the number and the text of Windows
            return ctypes.WinError(number).errno
    return None


def system_error(error: OSError) -> str:
    """Return the file of an OSError, and the words of the system or of a library."""
    copy = f" -> {error.filename2}" if error.filename2 else ""
    return f"{error.filename or 'the output'}{copy}: {error.strerror or error}"
