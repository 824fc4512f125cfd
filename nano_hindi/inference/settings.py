"""The sampling settings with their defaults and valid values, and sample prompts."""

from __future__ import annotations

import dataclasses
import secrets
from dataclasses import dataclass, field
from typing import Any

from nano_hindi.ranges import Range, whole

# continued in the training log and by generate.py; stories of the sample begin with each
SAMPLE_PROMPTS = (
    "भारत एक",
    "एक समय की बात है",
    "आज सुबह",
    "विज्ञान और तकनीक",
    "नई दिल्ली में आज",  # news
    "“क्या हुआ?”",  # a dialogue
    "क्या आप जानते हैं कि",  # a question
    "प्रिय दादी,",  # a letter
    "खीर बनाने के लिए",  # a recipe
)
SAMPLING = ("temperature", "top_k", "top_p", "repetition_penalty")  # the settings that say how to sample, beside the seed


def _setting(default: Any, metavar: str, text: str, valid: Range) -> Any:
    """Return a dataclass field with its help text and its valid values."""
    return field(default=default, metadata={"metavar": metavar, "help": text, "valid": valid})


@dataclass(frozen=True)
class Settings:
    """The sampling settings. The fields are flags of generate.py, and most of them are commands of
    its sessions. Within the ranges, the logits stay finite in float32."""

    max_tokens: int = _setting(200, "N", "maximum number of tokens to generate", whole(1, 2**63))
    temperature: float = _setting(0.8, "T", "0 always takes the most likely token; higher is more random", Range(float, 0, 1e30))
    top_k: int = _setting(50, "K", "sample from the K most likely tokens; 0 samples from all", whole(0, 2**63))
    top_p: float = _setting(
        1.0, "P", "sample from the most likely tokens that together have this probability; 1 samples from all", Range(float, 0, 1, low_open=True)
    )
    repetition_penalty: float = _setting(
        1.0, "R", "above 1 makes tokens that are already in the text less likely; 1.1 is strong", Range(float, 0.01, 100)
    )
    seed: int | None = _setting(
        None, "S", "the same seed gives the same text; random, the default, gives a new one each time", whole(-(2**63), 2**63, random=None)
    )

    def sampling(self) -> dict[str, Any]:
        """Return the sampling arguments of `engine.generate_batch`; without a seed, with a new
        one."""
        seed = secrets.randbits(32) if self.seed is None else self.seed
        return {"seed": seed, **{name: getattr(self, name) for name in SAMPLING}}


SETTINGS = {f.name: f for f in dataclasses.fields(Settings)}
