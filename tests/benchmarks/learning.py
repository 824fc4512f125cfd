"""What each part of the recipe brings: a small model of the same architecture, trained in many ways on the same tokens in the same order.

python tests/benchmarks/learning.py --corpus ../shared/corpus --work /tmp/learning                    # every recipe of recipes.py, 3 seeds
python tests/benchmarks/learning.py --corpus ../shared/corpus --work /tmp/learning default --set muon_lr=0.01 model.X0_LAMBDA=0.3

A seed decides the first weights and the order of the data, for all recipes alike, so recipes are compared seed by seed. Runs that are in `--work` already are
not made again. Every run has one thread; `--jobs` of them go on at once. With `--dtype bfloat16` the products are computed as on a GPU (where the CPU has units for
it, in two thirds of the time); such runs are compared with each other only.

With `--device cuda` an update is one CUDA graph, and the seeds of a recipe learn beside each other; a run of 2 M tokens takes a second of an H100. So many runs share
the device that their times say nothing.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import dataclasses
import importlib
import itertools
import json
import math
import multiprocessing
import statistics
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from unittest import mock

import timing  # noqa: F401 - puts the repo's root on the path
import torch
from recipes import CANDIDATES, RECIPES, Recipe

from nano_hindi import loss
from nano_hindi.common import World, replacing
from nano_hindi.config import GPTConfig, TrainConfig
from nano_hindi.corpus import read_documents, write_document
from nano_hindi.dataloader import check_data, val_batches
from nano_hindi.eval import compute_token_bytes, evaluate_bpb
from nano_hindi.tokenizing import is_for_validation

ALL = RECIPES | CANDIDATES
SHAPE = {"n_layer": 4, "n_head": 4, "n_kv_head": 2, "sequence_len": 256}
BATCH = 16  # sequences of an update
EVALUATIONS = 8
VAL_BATCH = {"cpu": 16, "cuda": 64}  # sequences that are evaluated at once
VAL_FRACTION = 0.05
ONE_CORE = {"CHUNK_BYTES": 8 << 20, "ROWS_BYTES": 2 << 20}  # what the loss works on at once: a run has the cache of one core, not of the machine


@dataclasses.dataclass(frozen=True)
class Run:
    """One training: what decides its outcome. Its name is that of its file."""

    recipe: str
    seed: int
    width: int
    tokens: int
    changes: tuple[tuple[str, str], ...] = ()
    dtype: str = "float32"
    device: str = "cpu"

    @property
    def label(self) -> str:
        return " ".join([self.recipe, *(f"{key}={value}" for key, value in self.changes)])

    @property
    def name(self) -> str:
        dtype = [] if self.dtype == "float32" else [self.dtype]
        device = [] if self.device == "cpu" else [self.device]
        return "-".join([*self.label.split(), f"width{self.width}", f"tokens{self.tokens}", *dtype, *device, f"seed{self.seed}"])


def prepare(corpus: Path, vocab_size: int, folder: Path, unseen: bool = False) -> Path:
    """Token files of all .txt files of `corpus`, with a tokenizer trained on them. Of `unseen` text: without the documents that validate otherwise, with
    others in their place. What is there already stays: such a folder can go to a machine without the corpus."""
    if (folder / "preprocess_meta.txt").is_file():
        return folder
    from data import preprocess

    sources, share = sorted(corpus.glob("*.txt")), VAL_FRACTION
    if unseen:
        folder.mkdir(parents=True, exist_ok=True)
        rest = folder / "rest.txt"
        with open(rest, "wb") as file:
            for text in (text for source in sources for text in read_documents(source)):
                if not is_for_validation(text.encode(), VAL_FRACTION):
                    write_document(file, text)
        sources, share = [rest], 2 * VAL_FRACTION  # the hashes from one to two shares
    argv = ["--input", *map(str, sources), "--output_dir", str(folder), "--train_tokenizer", str(vocab_size), "--val_fraction", str(share)]
    if preprocess.main(argv):
        raise SystemExit(1)
    return folder


def configs(run: Run, recipe: Recipe, vocab_size: int) -> tuple[GPTConfig, TrainConfig]:
    """The default recipe at this size, and what differs from it."""
    shape = SHAPE | {"vocab_size": vocab_size, "n_embd": run.width}
    train = {
        "total_tokens": run.tokens,
        "batch_size": BATCH,
        "gradient_accumulation_steps": 1,
        "sequence_len": SHAPE["sequence_len"],
        "seed": run.seed,
    }
    shape_fields = {field.name for field in dataclasses.fields(GPTConfig)}
    for key, value in {**recipe.changes, **dict(run.changes)}.items():
        if "." in key:
            continue  # a constant: see changed_constants
        owner, chosen = (GPTConfig, shape) if key in shape_fields else (TrainConfig, train)
        chosen[key] = type(getattr(owner, key))(value)  # "8" and 8.0 are 8 where the default is a whole number
    return recipe.config(**shape), TrainConfig(**train)


@contextlib.contextmanager
def changed_constants(run: Run) -> Iterator[None]:
    """While it holds, constants of nano_hindi's modules have the values of `run.changes`: model.X0_LAMBDA=0.3. Raises AttributeError for one there is not."""
    with contextlib.ExitStack() as stack:
        for key, value in run.changes:
            if "." in key:
                module, name = key.split(".")
                stack.enter_context(mock.patch.object(importlib.import_module(f"nano_hindi.{module}"), name, float(value)))
        for name, size in ONE_CORE.items():
            stack.enter_context(mock.patch.dict(getattr(loss, name), cpu=size))
        yield


class Training:
    """A run under way: `update(i)` makes the update number i, `point(i)` says how far it has come after it."""

    def __init__(self, run: Run, data_dir: Path, eval_tokens: int):
        recipe, info = ALL[run.recipe], check_data(data_dir)
        shape, self.config = configs(run, recipe, info.vocab_size)
        self.device, self.seconds = torch.device(run.device), 0.0
        torch.manual_seed(run.seed)
        self.model = recipe.model(shape)
        self.model.init_weights()
        self.model.to(self.device)
        self.model.compute_dtype = getattr(torch, run.dtype)
        self.optimizer = recipe.optimizer(self.model, self.config, World(0, 1, self.device))
        self.loader = recipe.loader(data_dir / "train.bin", self.config.sequence_len, run.seed, info.vocab_size)
        self.token_bytes = compute_token_bytes(info.tokenizer)
        self.val_batches = partial(val_batches, data_dir / "val.bin", self.config.sequence_len, VAL_BATCH[run.device], eval_tokens, info.vocab_size)
        self.rates = [
            recipe.schedule(update, self.config.updates, self.config.warmup_updates, self.config.min_lr_ratio)
            for update in range(self.config.updates)
        ]

    def update(self, i: int) -> None:
        start = time.perf_counter()
        x, y = self.loader.batch(i * self.config.batch_size, self.config.batch_size)
        self.model(x.to(self.device), y.to(self.device)).backward()
        self.optimizer.step(self.rates[i])
        self.seconds += time.perf_counter() - start

    def point(self, i: int) -> dict:
        bpb = evaluate_bpb(self.model, self.val_batches(), self.token_bytes)
        return {"tokens": (i + 1) * self.config.tokens_per_update, "seconds": round(self.seconds, 1), "bpb": bpb}


class CapturedTraining(Training):
    """The same on a GPU. The model is so small that launching its kernels would take most of the time: they are recorded once, and replayed for every update."""

    def __init__(self, *args):
        super().__init__(*args)
        self.stream = torch.cuda.Stream()  # of its own, with the workspaces of its own: other runs go on beside it
        self.rates = torch.tensor(self.rates, device=self.device)
        self.batches = [tokens.to(self.device) for tokens in self.loader.batch(0, self.config.updates * self.config.batch_size)]
        self.rate, self.batch = torch.empty((), device=self.device), [torch.empty_like(tokens[: self.config.batch_size]) for tokens in self.batches]
        for group in self.optimizer.adamw.param_groups:
            group["capturable"] = True
        with torch.cuda.stream(self.stream):
            self._warm_up()
        torch.cuda.synchronize()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, stream=self.stream):
            self._update()

    def _warm_up(self) -> None:
        """An update that makes what is made once: libraries' handles, AdamW's state. Then weights and moments are as before it."""
        weights = [p.clone() for p in self.model.parameters()]
        self._read(0)
        self._update()
        with torch.no_grad():
            for p, before in zip(self.model.parameters(), weights, strict=True):
                p.copy_(before)
        state = self.optimizer.state_dict()
        moments = itertools.chain.from_iterable(named.values() for named in (*state["muon"].values(), *state["adamw"].values()))
        for tensor in moments:
            tensor.zero_()
        self.optimizer.load_state_dict(state)

    def _read(self, i: int) -> None:
        self.rate.copy_(self.rates[i])
        for static, tokens in zip(self.batch, self.batches, strict=True):
            static.copy_(tokens[i * len(static) : (i + 1) * len(static)])

    def _update(self) -> None:
        self.model(*self.batch).backward()
        self.optimizer.step(self.rate)

    def update(self, i: int) -> None:
        with torch.cuda.stream(self.stream):
            self._read(i)
            self.graph.replay()

    def point(self, i: int) -> dict:
        torch.cuda.synchronize()
        return super().point(i)


def learn(runs: list[Run], data_dir: str, eval_tokens: int) -> list[list[dict]]:
    """Train runs that differ in their seeds alone. Returns for each tokens, seconds of training and validation bits per byte, at some points and at the end."""
    torch.set_num_threads(1)
    first, make = runs[0], Training if runs[0].device == "cpu" else CapturedTraining
    with ALL[first.recipe].patched(), changed_constants(first):
        trainings = [make(run, Path(data_dir), eval_tokens) for run in runs]
        updates, points = trainings[0].config.updates, [[] for _ in runs]
        marks = {round(updates * (i + 1) / EVALUATIONS) for i in range(EVALUATIONS)}
        for i in range(updates):
            for training in trainings:
                training.update(i)
            if i + 1 in marks:
                for training, its_points in zip(trainings, points, strict=True):
                    its_points.append(training.point(i))
    return points


def load(work: Path, run: Run) -> list[dict] | None:
    path = work / f"{run.name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def save(work: Path, run: Run, points: list[dict]) -> None:
    with replacing(work / f"{run.name}.json") as temporary:
        temporary.write_text(json.dumps(points), encoding="utf-8")


def mean_and_spread(values: list[float]) -> str:
    """Mean and standard error, where there are several."""
    if len(values) == 1:
        return f"{values[0]:+.2%}"
    return f"{statistics.mean(values):+.2%} +- {statistics.stdev(values) / math.sqrt(len(values)):.2%}"


def table(work: Path, runs: list[Run]) -> list[str]:
    """A row for each recipe: final bits per byte by seed, the difference to the default seed by seed, and time."""
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
        slower = [mine[seed][-1]["seconds"] / default[seed][-1]["seconds"] for seed in shared]
        recipe, *changed = label.split()
        differs = ", ".join([ALL[recipe].differs, *changed])
        row = f"| {label} | {differs} | {statistics.mean(ends):.4f} ({min(ends):.4f}-{max(ends):.4f}) | "
        row += (
            f"{mean_and_spread(against) if against and label != 'default' else ''} | {len(ends)} | {statistics.median(slower or [math.nan]):.2f} x |"
        )
        rows.append((statistics.mean(ends), row))
    return lines + [row for _, row in sorted(rows)]


def curves(work: Path, runs: list[Run]) -> list[str]:
    """Mean bits per byte over the seeds at each point, by tokens and by seconds."""
    lines = []
    for label in dict.fromkeys(run.label for run in runs):
        several = [points for run in runs if run.label == label and (points := load(work, run))]
        if several:
            at = [
                (p[0]["tokens"], statistics.mean(q["seconds"] for q in p), statistics.mean(q["bpb"] for q in p)) for p in zip(*several, strict=True)
            ]
            lines.append(f"{label:32} " + "  ".join(f"{tokens / 1e6:.2f}M {seconds:.0f}s {bpb:.4f}" for tokens, seconds, bpb in at))
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "recipes", nargs="*", default=list(RECIPES), metavar="RECIPE", help=f"of {', '.join(RECIPES)} (all of these); of {', '.join(CANDIDATES)}"
    )
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="FIELD=VALUE[,...]",
        help="besides, each recipe with these fields of a configuration, or constants of a module, changed",
    )
    parser.add_argument("--corpus", type=Path, required=True, help="a folder of .txt files")
    parser.add_argument("--work", type=Path, required=True, help="where token files and outcomes stay")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--vocab_size", type=int, default=8192)
    parser.add_argument("--tokens", type=int, default=2_097_152)
    parser.add_argument(
        "--unseen",
        action="store_true",
        help="validate on documents that no choice was made on; train without those that choices were made on; takes a --work of its own",
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
    tasks: dict[object, list[Run]] = {}
    for run in runs:
        if load(args.work, run) is None:
            tasks.setdefault(run if run.device == "cpu" else run.label, []).append(run)
    with concurrent.futures.ProcessPoolExecutor(args.jobs, multiprocessing.get_context("spawn")) as pool:
        futures = {pool.submit(learn, together, str(data_dir), args.eval_tokens): together for together in tasks.values()}
        with contextlib.suppress(KeyboardInterrupt):  # what is done stays, and the table shows it
            for future in concurrent.futures.as_completed(futures):
                for run, points in zip(futures[future], future.result(), strict=True):
                    save(args.work, run, points)
                    print(f"{run.name}: {points[-1]['bpb']:.4f}", flush=True)
        pool.shutdown(wait=False, cancel_futures=True)
    print("\n".join(["", *table(args.work, runs), "", *curves(args.work, runs)]))


if __name__ == "__main__":
    main()
