"""Valid values: of flags, and of the fields of a configuration."""

from __future__ import annotations

import argparse
import contextlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nano_hindi.errors import QUOTED_CHARACTERS


@dataclass(frozen=True, eq=False)  # argparse needs a hash
class Range:
    """The numbers from `low` to `high`, of type int or float. A bound that is `open` is not valid
    itself. `words` are valid texts of a flag besides the numbers, and their values.

    A range is a `type` for argparse: called with a flag's text, it returns the value.
    """

    kind: type[int] | type[float]
    low: float = -math.inf
    high: float = math.inf
    low_open: bool = False
    high_open: bool = False
    words: Mapping[str, object] = field(default_factory=dict)

    def __contains__(self, value: object) -> bool:
        """Return whether `value` is valid. A bool is not; an int is valid as a float."""
        if type(value) is not int and type(value) is not self.kind:
            return value in self.words.values()
        return (self.low < value if self.low_open else self.low <= value) and (value < self.high if self.high_open else value <= self.high)

    def __str__(self) -> str:
        bounds = []
        if math.isfinite(self.low):
            bounds.append(f"{'above' if self.low_open else 'at least'} {_shown(self.low)}")
        if math.isfinite(self.high):
            bounds.append(f"{'below' if self.high_open else 'at most'} {_shown(self.high)}")
        number = "a whole number" if self.kind is int else "a number"
        return " or ".join([*self.words, number + (f", {' and '.join(bounds)}" if bounds else "")])

    def __call__(self, text: str) -> Any:
        """Return the value of a flag's text. Raises ArgumentTypeError, which names the valid
        values."""
        with contextlib.suppress(ValueError):
            if text in self.words:
                return self.words[text]
            if (value := self.kind(text)) in self:
                return value
        raise argparse.ArgumentTypeError(f"must be {self}, not {text[:QUOTED_CHARACTERS]}")


@dataclass(frozen=True, eq=False)
class Choice:
    """A few values. Like a Range, it is a `type` for argparse; a flag may be in any case."""

    values: tuple[object, ...]

    def __contains__(self, value: object) -> bool:
        """Return whether `value` is valid. 1 and 0 are not True and False."""
        return any(type(value) is type(valid) and value == valid for valid in self.values)

    def __str__(self) -> str:
        *others, last = map(str, self.values)
        return f"{', '.join(others)} or {last}"

    def __call__(self, text: str) -> Any:
        """Return the value of a flag's text. Raises ArgumentTypeError for another text."""
        for value in self.values:
            if text.lower() == str(value).lower():
                return value
        raise argparse.ArgumentTypeError(f"must be {self}, not {text[:QUOTED_CHARACTERS]}")


def whole(low: int, below: int, **words: object) -> Range:
    """Return the range of whole numbers from `low` to `below` - 1."""
    return Range(int, low, below, high_open=True, words=words)


def _shown(bound: float) -> str:
    if not isinstance(bound, int):
        return f"{bound:g}"
    is_power = abs(bound) >= 2**16 and not abs(bound) & (abs(bound) - 1)
    return f"{'-' * (bound < 0)}2**{abs(bound).bit_length() - 1}" if is_power else str(bound)
