"""Measure the effect of each component of the recipe: train a small model of the same architecture
with many recipes on the same tokens in the same order.

python tests/benchmarks/learning.py --corpus DIR --work DIR    # every recipe of recipes.py, 3 seeds
python tests/benchmarks/learning.py --corpus DIR --work DIR default --set muon_lr=0.01

A seed determines the initial weights and the order of the data, the same for all recipes, so
recipes are compared seed by seed. Runs that are already in `--work` are not repeated. Every run has
one thread; `--jobs` of them run at once. With `--dtype bfloat16` matrix products are computed as on
a GPU (two thirds of the time on a CPU with bfloat16 units); compare such runs only with each other.

With `--device cuda` an update is one CUDA graph, and `--jobs` runs, say 16, share the device; their
times mean nothing.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import json
import math
import multiprocessing
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path

import timing  # noqa: F401 - puts the repo's root on the path
import torch
from ideas import CANDIDATES
from recipes import RECIPES
from small_runs import ALL, Run, learn, learn_together

from nano_hindi.corpus.documents import read_documents, write_document
from nano_hindi.corpus.tokenize import is_for_validation
from nano_hindi.files import replacing

VAL_FRACTION = 0.05


def prepare(corpus: Path, vocab_size: int, folder: Path, unseen: bool = False, tokenizer: str | None = None) -> Path:
    """Write token files of all .txt files of `corpus`, with `tokenizer` or one trained on them.

    With `unseen`, omit the documents that otherwise validate and validate on others. Files that
    exist are kept, so the folder can be copied to a machine without the corpus.
    """
    if (folder / "preprocess_meta.txt").is_file():
        return folder
    from data import preprocess

    sources, fraction = sorted(corpus.glob("*.txt")), VAL_FRACTION
    if unseen:
        folder.mkdir(parents=True, exist_ok=True)
        rest = folder / "rest.txt"
        with open(rest, "wb") as file:
            for text in (text for source in sources for text in read_documents(source)):
                if not is_for_validation(text.encode(), VAL_FRACTION):
                    write_document(file, text)
        sources, fraction = [rest], 2 * VAL_FRACTION  # documents with hashes between one and two VAL_FRACTIONs
    argv = ["--input", *map(str, sources), "--output_dir", str(folder), "--val_fraction", str(fraction)]
    argv += ["--tokenizer", tokenizer] if tokenizer else ["--train_tokenizer", str(vocab_size)]
    if preprocess.main(argv):
        raise SystemExit(1)
    return folder


def outcomes(
    runs: list[Run], data_dir: str, eval_tokens: int, jobs: int, train: Callable[[Run, str, int], list[dict]] = learn
) -> Iterator[tuple[Run, list[dict]]]:
    """Yield each run with its points when it is done; `jobs` run at once, on a CPU by `train`."""
    if any(run.device == "cuda" for run in runs):
        yield from learn_together(runs, data_dir, eval_tokens, jobs)
        return
    with concurrent.futures.ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        futures = {pool.submit(train, run, data_dir, eval_tokens): run for run in runs}
        try:
            for future in concurrent.futures.as_completed(futures):
                yield futures[future], future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def load(work: Path, run: Run) -> list[dict] | None:
    path = work / f"{run.name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def save(work: Path, run: Run, points: list[dict]) -> None:
    with replacing(work / f"{run.name}.json") as temporary:
        temporary.write_text(json.dumps(points), encoding="utf-8")


def mean_and_spread(values: list[float]) -> str:
    """Return the mean, and the standard error of several values."""
    if len(values) == 1:
        return f"{values[0]:+.2%}"
    return f"{statistics.mean(values):+.2%} +- {statistics.stdev(values) / math.sqrt(len(values)):.2%}"


def table(work: Path, runs: list[Run]) -> list[str]:
    """Return a row for each recipe: final bits per byte by seed, the difference to the default of
    the same seed, and time."""
    found = {run: points for run in runs if (points := load(work, run))}
    default = {run.seed: points for run, points in found.items() if run.label == "default"}
    lines = ["| recipe | what differs | bits per byte, mean (range) | against the default | seeds | time |", "|---|---|---|---|---|---|"]
    rows = []
    for label in dict.fromkeys(run.label for run in runs):
        mine = {run.seed: points for run, points in found.items() if run.label == label}
        if not mine:
            continue
        ends = [points[-1]["bpb"] for points in mine.values()]
        shared = [seed for seed in mine if seed in default]
        against = [mine[seed][-1]["bpb"] / default[seed][-1]["bpb"] - 1 for seed in shared]
        slower = [mine[seed][-1]["seconds"] / default[seed][-1]["seconds"] for seed in shared if mine[seed][-1]["seconds"]]
        recipe, *changed = label.split()
        differs = ", ".join([ALL[recipe].differs, *changed])
        row = f"| {label} | {differs} | {statistics.mean(ends):.4f} ({min(ends):.4f}-{max(ends):.4f}) | "
        row += f"{mean_and_spread(against) if against and label != 'default' else ''} | {len(ends)} | "
        row += f"{statistics.median(slower):.2f} x |" if slower else "|"
        rows.append((statistics.mean(ends), row))
    return lines + [row for _, row in sorted(rows)]


def curves(work: Path, runs: list[Run]) -> list[str]:
    """Return the mean bits per byte over the seeds at each point, by tokens and by seconds."""
    lines = []
    for label in dict.fromkeys(run.label for run in runs):
        several = [points for run in runs if run.label == label and (points := load(work, run))]
        if several:
            at = []
            for p in zip(*several, strict=True):
                seconds = "" if p[0]["seconds"] is None else f" {statistics.mean(q['seconds'] for q in p):.0f}s"
                at.append(f"{p[0]['tokens'] / 1e6:.2f}M{seconds} {statistics.mean(q['bpb'] for q in p):.4f}")
            lines.append(f"{label:32} " + "  ".join(at))
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "recipes", nargs="*", default=list(RECIPES), metavar="RECIPE", help=f"{', '.join(RECIPES)} (default: these); {', '.join(CANDIDATES)}"
    )
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="FIELD=VALUE[,...]",
        help="also run each recipe with these configuration fields or module constants changed",
    )
    parser.add_argument("--corpus", type=Path, required=True, help="a folder of .txt files")
    parser.add_argument("--work", type=Path, required=True, help="folder for token files and results")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--vocab_size", type=int, default=8192)
    parser.add_argument("--tokens", type=int, default=2_097_152)
    parser.add_argument(
        "--unseen",
        action="store_true",
        help="validate on documents that no choice was based on, and train without those that were; needs its own --work",
    )
    parser.add_argument("--eval_tokens", type=int, default=65_536)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="of the matrix products")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    if unknown := set(args.recipes) - set(ALL):
        raise SystemExit(f"there is no recipe {', '.join(sorted(unknown))}; these are: {', '.join(ALL)}")
    data_dir = prepare(args.corpus, args.vocab_size, args.work / f"tokens{args.vocab_size}", args.unseen)
    changes = [()] + [tuple(tuple(change.split("=")) for change in text.split(",")) for text in args.set]
    runs = [
        Run(recipe, seed, args.width, args.tokens, change, args.dtype, args.device)
        for seed in args.seeds
        for recipe in args.recipes
        for change in changes
    ]
    missing = [run for run in runs if load(args.work, run) is None]
    with contextlib.suppress(KeyboardInterrupt):  # the table shows the finished runs
        for run, points in outcomes(missing, str(data_dir), args.eval_tokens, args.jobs):
            save(args.work, run, points)
            print(f"{run.name}: {points[-1]['bpb']:.4f}", flush=True)
    print("\n".join(["", *table(args.work, runs), "", *curves(args.work, runs)]))


if __name__ == "__main__":
    main()
