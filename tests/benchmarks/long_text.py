"""Measure bits per byte beyond the training length: by position, in windows of four times
`sequence_len`.

python tests/benchmarks/long_text.py --checkpoint checkpoints --data_dir data

Requirement: positions from 1 to 4 x sequence_len cost at most 2 % more than those from half of it
to sequence_len, whose context is as long as in training. Otherwise the engine has to re-read the
last half when its cache is full.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import timing  # noqa: F401 - puts the repo's root on the path
import torch

from nano_hindi.dataloader import val_batches
from nano_hindi.eval import compute_token_bytes
from nano_hindi.inference.loading import build_model, load_for_inference
from nano_hindi.token_file import TokenFile

TIMES = 4  # window length in sequence_len


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default="checkpoints")
    parser.add_argument("--data_dir", type=Path, default="data")
    parser.add_argument("--tokens", type=int, default=2_097_152)
    args = parser.parse_args()
    trained = load_for_inference(args.checkpoint)
    model = build_model(trained, torch.device("cpu"))
    length, bytes_of = trained.config.sequence_len, compute_token_bytes(trained.tokenizer)
    nats, size = torch.zeros(2, TIMES * length, dtype=torch.float64)
    for x, y in val_batches(TokenFile(args.data_dir / "val.bin", trained.config.vocab_size), TIMES * length, 1, args.tokens):
        target_bytes = torch.where(y >= 0, bytes_of[y.clamp(min=0)], 0)[0]
        nats += torch.where(target_bytes > 0, model(x, y, loss_reduction="none")[0], 0)
        size += target_bytes

    def bits_per_byte(first: int, last: int) -> float:
        return (nats[first:last].sum() / size[first:last].sum()).item() / math.log(2)

    within = bits_per_byte(length // 2, length)
    print(f"{trained.path}, step {trained.step}: {int(size.sum()):,} bytes of text in windows of {TIMES * length} tokens")
    print(f"positions {length // 2:5} to {length:5}: {within:.4f} bits per byte")
    for i in range(1, TIMES):
        beyond = bits_per_byte(i * length, (i + 1) * length)
        print(f"positions {i * length:5} to {(i + 1) * length:5}: {beyond:.4f} bits per byte, {beyond / within - 1:+.2%}")


if __name__ == "__main__":
    main()
