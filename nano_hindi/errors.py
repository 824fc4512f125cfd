"""The one exception type that a script turns into one line on stderr and exit code 2."""


class UserError(ValueError):
    """An error that the user can fix. The message says what is wrong and what to do about it."""


def require(condition: bool, message: str) -> None:
    """Raise UserError with `message` unless `condition` holds."""
    if not condition:
        raise UserError(message)
