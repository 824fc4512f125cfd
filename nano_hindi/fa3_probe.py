"""Run one probe of FlashAttention-3 in the child process of `fa3_child`, and print its verdict.
Selects no backend and joins no process group."""

from __future__ import annotations

import json
import sys

import torch

from nano_hindi.fa3_child import VERDICT
from nano_hindi.flash_attention import probe_fa3


def main() -> None:
    """Run the probe that the arguments describe and print its verdict."""
    device, dtype, *shapes = json.loads(sys.argv[1])
    reason = probe_fa3(torch.device(device), getattr(torch, dtype), *shapes)
    print(VERDICT + reason)


if __name__ == "__main__":
    main()
