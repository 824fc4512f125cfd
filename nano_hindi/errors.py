"""The one exception type that a script turns into one line on stderr and exit code 2, and how it
quotes what a file holds."""

from __future__ import annotations

import reprlib

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
