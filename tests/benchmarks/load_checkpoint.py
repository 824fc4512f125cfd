"""Time what the checks of a checkpoint cost: `load_checkpoint` (checksums of all tensors that are
read, configuration, finite weights) against torch.load alone, both memory-mapped and both followed
by the copy into a model, and for a resumed run into its optimizers.

OMP_NUM_THREADS=2 python tests/benchmarks/load_checkpoint.py

Requirement: at most three times the time of torch.load and the copies, with the file in the page
cache.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import zlib
from hashlib import blake2b
from pathlib import Path

import timing
import torch

from nano_hindi.checkpoint import CHECKPOINT_KEYS, FORMAT, MODEL_KEYS, load_checkpoint, save_checkpoint, save_model
from nano_hindi.config import get_config, get_train_config
from nano_hindi.distributed import World
from nano_hindi.model import GPT
from nano_hindi.optim import LossScale, TrainOptimizer
from optimizer_step import take_step

ROUNDS = 7


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    config, recipe = get_config("25m"), get_train_config("25m")
    model = GPT(config)
    model.init_weights()
    optimizer = TrainOptimizer(model, recipe, World(0, 1, torch.device("cpu")))
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 1e-3)
    take_step(optimizer)
    checkpoint = {
        "format": FORMAT,
        "step": 4,
        "tokens_seen": 4 * recipe.batch_size * recipe.sequence_len,
        "preset": "25m",
        "model_config": dataclasses.asdict(config),
        "train_config": dataclasses.asdict(recipe),
        "model_state_dict": dict(model.state_dict()),
        "optimizers": {**optimizer.state_dict(), "loss_scale": LossScale(False).state_dict()},
        "rng": {"torch": torch.get_rng_state()},
        "metrics": {"latest": {}, "meter": {"loss_sum": 0.0, "updates": 0}, "skipped": 0},
        "tokenizer": {},
        "data": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        model_file, run_file = save_model(Path(folder), checkpoint), save_checkpoint(Path(folder), checkpoint, 1)

        def generate(state: dict) -> None:
            model.load_state_dict(state["model_state_dict"])

        def resume(state: dict) -> None:
            generate(state)
            optimizer.load_state_dict(state["optimizers"])

        def mapped(path: Path) -> dict:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)

        seconds = timing.medians(
            {
                "generate": lambda: generate(load_checkpoint(model_file, MODEL_KEYS)),
                "generate, unchecked": lambda: generate(mapped(model_file)),
                "resume": lambda: resume(load_checkpoint(run_file, CHECKPOINT_KEYS)),
                "resume, unchecked": lambda: resume(mapped(run_file)),
                "CRC-32 of model.pt": lambda: zlib.crc32(model_file.read_bytes()),
                "BLAKE2b of model.pt": lambda: blake2b(model_file.read_bytes()),
            },
            ROUNDS,
        )
        sizes = {"generate": model_file.stat().st_size, "resume": run_file.stat().st_size}
    for name, size in sizes.items():
        checked, unchecked = seconds[name], seconds[f"{name}, unchecked"]
        print(f"{name}: {size / 1e6:,.0f} MB in {checked:.3f} s; torch.load and the copies {unchecked:.3f} s; ratio {checked / unchecked:.2f}")
    print(f"CRC-32 {seconds['CRC-32 of model.pt']:.3f} s, BLAKE2b {seconds['BLAKE2b of model.pt']:.3f} s for model.pt")


if __name__ == "__main__":
    main()
