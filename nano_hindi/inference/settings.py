"""The sampling settings with their defaults and valid values, and sample prompts."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from nano_hindi.errors import UserError

SAMPLE_PROMPTS = ("भारत एक", "एक समय की बात है", "आज सुबह", "विज्ञान और तकनीक")


def _setting(default: Any, metavar: str, text: str, rule: str, holds: Callable[..., bool], parse: Callable[[str], Any] | None = None) -> Any:
    """Return a dataclass field with its help text, and the rule for its values as text and as a
    function."""
    return field(default=default, metadata={"metavar": metavar, "help": text, "rule": rule, "holds": holds, "parse": parse or type(default)})


@dataclass(frozen=True)
class Settings:
    """The sampling settings. The fields are flags of generate.py, and most of them are commands of
    its chat."""

    max_tokens: int = _setting(200, "N", "maximum number of tokens to generate", "at least 1", lambda n: n >= 1)
    temperature: float = _setting(0.8, "T", "0 always takes the most likely token; higher is more random", "0 or more", lambda t: 0 <= t < math.inf)
    top_k: int = _setting(50, "K", "sample from the K most likely tokens; 0 samples from all", "0 or more", lambda k: k >= 0)
    top_p: float = _setting(
        1.0,
        "P",
        "sample from the most likely tokens that together have this probability; 1 samples from all",
        "above 0 and at most 1",
        lambda p: 0 < p <= 1,
    )
    repetition_penalty: float = _setting(
        1.0, "R", "above 1 makes tokens that are already in the text less likely; 1.1 is strong", "above 0", lambda r: 0 < r < math.inf
    )
    seed: int | None = _setting(
        None,
        "S",
        "the same seed gives the same text; random, the default, gives a new one each time",
        "a whole number below 2**63 and above -2**63, or random",
        lambda s: s is None or abs(s) < 2**63,
        parse=lambda text: None if text == "random" else int(text),
    )


SETTINGS = {f.name: f for f in dataclasses.fields(Settings)}


def parse_setting(name: str, flag: str, text: str) -> Any:
    """Parse `text` as a value of the setting `name`. Raises UserError, which names `flag`, if it
    breaks the setting's rule."""
    what = SETTINGS[name].metadata
    with contextlib.suppress(ValueError):
        if what["holds"](value := what["parse"](text)):
            return value
    raise UserError(f"{flag} must be {what['rule']}, not {text}")
