"""Check that deep models train as steadily as shallow ones: narrow models of several depths, in
float32 and bfloat16, on the same tokens in the same order.

python tests/benchmarks/depth.py --data DIR            # depths 8 and 32, some hundred updates each

For each run: bits per byte at the end; the highest excess of an update's loss over that of the
first depth in float32, which has the same batch (its own noise is not a spike), after the warm-up;
the number of updates with an excess of 0.2 nats or more; the largest norm of the gradient after the
warm-up as a multiple of its median; and the root mean square of the residual stream behind the last
block.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import itertools
import multiprocessing
import statistics
from pathlib import Path

import timing  # noqa: F401 - puts the repo's root on the path
import torch
from small_runs import Run, Training

SPIKE = 0.2  # nats


def measure(run: Run, data_dir: str, eval_tokens: int) -> tuple[list[float], str]:
    """Train on one core. Returns the losses after the warm-up, and the columns of the table that
    need no other run."""
    training = Training(run, data_dir, eval_tokens)
    while not training.is_done:
        training.advance()
    losses, norms = zip(*training.losses[training.config.warmup_updates :], strict=True)
    return list(losses), f"{training.points[-1]['bpb']:.4f} | {max(norms) / statistics.median(norms):.1f} x | {residual_rms(training):.1f}"


@torch.no_grad()
def residual_rms(training: Training) -> float:
    """Return the root mean square of the residual stream behind the last block, on a training
    batch."""
    found: list[float] = []
    hook = training.model.transformer.h[-1].register_forward_hook(lambda _, __, x: found.append(float(x.float().square().mean().sqrt())))
    x, y = training.loader.batch(0, training.config.batch_size)
    training.model(x, y)
    hook.remove()
    return found[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a data folder, such as tokens8192 in the --work folder of learning.py")
    parser.add_argument("--depths", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--recipes", nargs="+", default=["tied_only"], help="recipes of learning.py")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=1_638_400, help="4,096 are an update")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--eval_tokens", type=int, default=65_536)
    parser.add_argument("--set", nargs="+", default=[], metavar="FIELD=VALUE", help="change these fields or module constants in every run")
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    changes = tuple(tuple(change.split("=")) for change in args.set)
    print("| run | bits per byte | largest norm | residual | highest excess | spikes |\n|---|---|---|---|---|---|", flush=True)
    with concurrent.futures.ProcessPoolExecutor(args.jobs, multiprocessing.get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        for recipe, seed in itertools.product(args.recipes, args.seeds):
            runs = [
                Run(recipe, seed, args.width, args.tokens, (("n_layer", str(depth)), *changes), dtype)
                for depth, dtype in itertools.product(args.depths, ("float32", "bfloat16"))
            ]
            baseline: list[float] = []
            for run, (losses, columns) in zip(
                runs, pool.map(measure, runs, itertools.repeat(str(args.data)), itertools.repeat(args.eval_tokens)), strict=True
            ):
                baseline = baseline or losses
                excess = [loss - other for loss, other in zip(losses, baseline, strict=True)]
                print(f"| {run.label}, {run.dtype}, seed {seed} | {columns} | {max(excess):+.2f} | {sum(e >= SPIKE for e in excess)} |", flush=True)


if __name__ == "__main__":
    main()
