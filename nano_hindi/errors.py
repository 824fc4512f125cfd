"""The two exception types that a script turns into one line on stderr and exit code 2: UserError,
and OSError."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


class UserError(ValueError):
    """An error that the user can fix. The message says what is wrong and what to do about it."""


def require(condition: bool, message: str) -> None:
    """Raise UserError with `message` unless `condition` holds."""
    if not condition:
        raise UserError(message)


@contextlib.contextmanager
def naming(path: object) -> Iterator[None]:
    """Name `path` in an OSError of the block that names no file: Python does not when it reads,
    writes, flushes or closes one."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def system_error(error: OSError) -> str:
    """Return the file of an OSError, and the words of the system or of a library."""
    return f"{error.filename or 'the output'}: {error.strerror or error}"
