"""How a model writes when nobody says otherwise: the sampling settings, their defaults and rules, and prompts to try."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field

from nano_hindi.errors import UserError

SAMPLE_PROMPTS = ("भारत एक", "एक समय की बात है", "आज सुबह", "विज्ञान और तकनीक")


def _setting(default, metavar: str, text: str, rule: str, holds: Callable[..., bool], parse=None):
    """A field with its meaning beside it, and the rule for its values in words and as a function."""
    return field(default=default, metadata={"metavar": metavar, "help": text, "rule": rule, "holds": holds, "parse": parse or type(default)})


@dataclass(frozen=True)
class Settings:
    """How the model writes. The fields are flags of generate.py, and most of them commands of its chat."""

    max_tokens: int = _setting(200, "N", "tokens to write at most", "at least 1", lambda n: n >= 1)
    temperature: float = _setting(0.8, "T", "0 always takes the likeliest token; higher is more surprising", "0 or more", lambda t: 0 <= t < math.inf)
    top_k: int = _setting(50, "K", "draw from the K likeliest tokens; 0 draws from all", "0 or more", lambda k: k >= 0)
    top_p: float = _setting(
        1.0,
        "P",
        "draw from the likeliest tokens that together have this probability; 1 draws from all",
        "above 0 and at most 1",
        lambda p: 0 < p <= 1,
    )
    repetition_penalty: float = _setting(
        1.0, "R", "above 1 tokens that are in the text already become less likely; 1.1 is much", "above 0", lambda r: 0 < r < math.inf
    )
    seed: int | None = _setting(
        None,
        "S",
        "repeats a text; random makes every text new, as it is without a seed",
        "a whole number below 2**63 and above -2**63, or random",
        lambda s: s is None or abs(s) < 2**63,
        parse=lambda text: None if text == "random" else int(text),
    )


SETTINGS = {f.name: f for f in dataclasses.fields(Settings)}


def parse_setting(name: str, flag: str, text: str):
    """The value of the setting `name` that `text` stands for. Raises UserError, which calls it `flag`, where that breaks its rule."""
    what = SETTINGS[name].metadata
    with contextlib.suppress(ValueError):
        if what["holds"](value := what["parse"](text)):
            return value
    raise UserError(f"{flag} must be {what['rule']}, not {text}")
