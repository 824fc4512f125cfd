"""The parts of the network that are off by default, turned on: a new field of GPTConfig needs no
change here, unless it is a number and 3 is no value of it."""

from __future__ import annotations

import dataclasses

from nano_hindi.config import GPTConfig
from nano_hindi.ranges import Choice

_FIELDS = dataclasses.fields(GPTConfig)
_FIRST = [f.name for f in _FIELDS].index("smear")  # the fields before it are the shape, which each test chooses
ADDITIONS = {
    f.name: next(value for value in valid.values if value != f.default) if isinstance(valid := f.metadata["valid"], Choice) else 3
    for f in _FIELDS[_FIRST:]
}
FLAGS = [word for name, value in ADDITIONS.items() for word in (f"--{name}", str(value))]
