"""The two exception types that a script turns into one line on stderr and exit code 2: UserError,
and OSError."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator


class UserError(ValueError):
    """An error that the user can fix. The message says what is wrong and what to do about it."""


def require(condition: bool, message: str) -> None:
    """Raise UserError with `message` unless `condition` holds."""
    if not condition:
        raise UserError(message)


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
            error.filename = error.filename or str(path)
        elif number := _errno(error):
            raise OSError(number, os.strerror(number), str(path)) from error
        raise


def _errno(error: Exception) -> int | None:
    """Return the errno of an error that a library made of one of the operating system."""
    if isinstance(error, RuntimeError) and isinstance(error.__context__, OSError):  # torch: a write in Python failed, then its own
        return error.__context__.errno
    text = str(error)
    numbers = map(int, re.findall(r"\((?:os error )?(\d{1,3})\)", text))  # Rust: No such device (os error 19); C++: No such device (19)
    return next((number for number in numbers if os.strerror(number) in text), None)


def system_error(error: OSError) -> str:
    """Return the file of an OSError, and the words of the system or of a library."""
    copy = f" -> {error.filename2}" if error.filename2 else ""
    return f"{error.filename or 'the output'}{copy}: {error.strerror or error}"
