"""The parts of the network that are off by default, turned on: a new field of GPTConfig needs no
change here, unless 3 is no value of it."""

from __future__ import annotations

import dataclasses

from nano_hindi.config import GPTConfig

ADDITIONS = {
    f.name: True if isinstance(f.default, bool) else 3 for f in dataclasses.fields(GPTConfig) if not f.default and f.name != "tie_embeddings"
}
FLAGS = [word for name, value in ADDITIONS.items() for word in (f"--{name}", str(value))]
