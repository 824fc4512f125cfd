"""Fit bits per byte as a function of the parameters of the blocks (N) and tokens (D) to final
results of learning.py: the source of `nano_hindi.training.estimates.expected_bpb`.

python tests/benchmarks/learning.py plateau --corpus DIR --work WORK --seeds 0 \\\\
    --width 64 --tokens 524288                             # and other widths and numbers of tokens
python tests/benchmarks/outcome.py --work WORK

The form is that of Hoffmann et al. 2022 (arXiv:2203.15556), floor + A N^-alpha + B D^-beta, with
their exponents: runs this small determine the two factors well, but not the exponents and the floor
at the same time. `--free` fits the exponents too, to show how little it gains.
"""

from __future__ import annotations

import argparse
import itertools
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import timing  # noqa: F401 - puts the repo's root on the path
import torch
from learning import load
from small_runs import ALL, Run, configs

from nano_hindi.corpus.prepared import check_data
from nano_hindi.model import GPT

NAME = re.compile(r"width(\d+)-tokens(\d+)(?:-([a-z]+\d+))?(?:-(cuda))?-seed(\d+)")  # of Run, after its recipe
EXPONENTS = (0.34, 0.28)  # Hoffmann et al. 2022, their third approach


class Outcome(NamedTuple):
    run: Run
    tokens: int
    parameters: int
    bpb: float


def outcomes(work: Path, recipe: str) -> list[Outcome]:
    """Return the final result of every run of `recipe` in `work`."""
    (meta,) = work.glob("tokens*/preprocess_meta.txt")
    vocab_size, found = check_data(meta.parent).vocab_size, []
    for path in sorted(work.glob(f"{recipe}-width*.json")):
        width, tokens, dtype, device, seed = NAME.fullmatch(path.stem.removeprefix(f"{recipe}-")).groups()
        run = Run(recipe, int(seed), int(width), int(tokens), (), dtype or "float32", device or "cpu")
        with torch.device("meta"):
            parameters = GPT(configs(run, ALL[recipe], vocab_size)[0]).num_params()["blocks"]
        found.append(Outcome(run, run.tokens, parameters, load(work, run)[-1]["bpb"]))
    return found


def fit(found: list[Outcome], alpha: float, beta: float) -> tuple[np.ndarray, float]:
    """Return floor, A and B, none of them negative, and the largest relative error."""
    n, d, bpb = (np.array(column, dtype=float) for column in zip(*((o.parameters, o.tokens, o.bpb) for o in found), strict=True))
    columns = np.stack([np.ones_like(bpb), n**-alpha, d**-beta], axis=1) / bpb[:, None]  # relative errors
    best = None
    for kept in itertools.chain.from_iterable(itertools.combinations(range(3), k) for k in (1, 2, 3)):
        weights = np.zeros(3)
        weights[list(kept)] = np.linalg.lstsq(columns[:, kept], np.ones_like(bpb), rcond=None)[0]
        squares = ((columns @ weights - 1) ** 2).sum()
        if (weights >= 0).all() and (best is None or squares < best[0]):
            best = squares, weights
    return best[1], np.abs(columns @ best[1] - 1).max()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="--work of learning.py")
    parser.add_argument("--recipe", default="plateau", choices=ALL, help="the recipe of the runs; expected_bpb was fitted to plateau")
    parser.add_argument("--free", action="store_true", help="fit the exponents too")
    args = parser.parse_args()
    found = outcomes(args.work, args.recipe)
    shapes = len({o.parameters for o in found}), len({o.tokens for o in found})
    if min(shapes) < 2:
        raise SystemExit(f"{args.work} holds {args.recipe} runs of {shapes[0]} widths and {shapes[1]} numbers of tokens; two of each are needed")
    grid = itertools.product(np.arange(0.05, 1.01, 0.05), repeat=2) if args.free else [EXPONENTS]
    alpha, beta = min(grid, key=lambda exponents: fit(found, *exponents)[1])
    (floor, a, b), error = fit(found, alpha, beta)
    print(f"{len(found)} runs: {floor:.4f} + {a:.4g} N^-{alpha:.2f} + {b:.4g} D^-{beta:.2f}, largest error {error:.1%}")
    for o in found:
        print(f"{o.parameters / 1e6:6.2f} M parameters, {o.tokens / 1e6:5.2f} M tokens, seed {o.run.seed}: {o.bpb:.4f}, "
              f"fitted {floor + a * o.parameters**-alpha + b * o.tokens**-beta:.4f}")  # fmt: skip


if __name__ == "__main__":
    main()
