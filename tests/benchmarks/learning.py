"""What each part of the recipe brings: a small model of the same architecture, trained in many ways on the same tokens in the same order.

python tests/benchmarks/learning.py --corpus ../shared/corpus --work /tmp/learning                    # every recipe of recipes.py, 3 seeds
python tests/benchmarks/learning.py --corpus ../shared/corpus --work /tmp/learning default --set muon_lr=0.01 model.X0_LAMBDA=0.3

A seed decides the first weights and the order of the data, for all recipes alike, so recipes are compared seed by seed. Runs that are in `--work` already are
not made again. Every run has one thread; `--jobs` of them go on at once. With `--dtype bfloat16` the products are computed as on a GPU (where the CPU has units for
it, in two thirds of the time); such runs are compared with each other only.

With `--device cuda` an update is one CUDA graph, and `--jobs` runs, 16 say, learn beside each other on one device; their times say nothing.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import dataclasses
import functools
import gc
import importlib
import itertools
import json
import math
import multiprocessing
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from unittest import mock

import timing  # noqa: F401 - puts the repo's root on the path
import torch
from recipes import CANDIDATES, RECIPES, Recipe
from torch import Tensor

from nano_hindi import loss
from nano_hindi.common import World, replacing
from nano_hindi.config import GPTConfig, TrainConfig
from nano_hindi.corpus import read_documents, write_document
from nano_hindi.dataloader import DataInfo, check_data, val_batches
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
            continue  # a constant: see conditions
        owner, chosen = (GPTConfig, shape) if key in shape_fields else (TrainConfig, train)
        chosen[key] = type(getattr(owner, key))(value)  # "8" and 8.0 are 8 where the default is a whole number
    return recipe.config(**shape), TrainConfig(**train)


@contextlib.contextmanager
def conditions(run: Run) -> Iterator[None]:
    """While it holds, the product is as `run` wants it: the patches of its recipe, and constants of nano_hindi's modules: model.X0_LAMBDA=0.3. Raises
    AttributeError for one there is not."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(ALL[run.recipe].patched())
        for key, value in run.changes:
            if "." in key:
                module, name = key.split(".")
                stack.enter_context(mock.patch.object(importlib.import_module(f"nano_hindi.{module}"), name, float(value)))
        for name, size in ONE_CORE.items():
            stack.enter_context(mock.patch.dict(getattr(loss, name), cpu=size))
        yield


@functools.cache
def facts(data_dir: str) -> tuple[DataInfo, Tensor]:
    """What the token files are, and the bytes of each token."""
    info = check_data(data_dir)
    return info, compute_token_bytes(info.tokenizer)


class Training:
    """A run under way. `points`: tokens, seconds of training and validation bits per byte, at some updates and at the last."""

    def __init__(self, run: Run, data_dir: str, eval_tokens: int):
        self.run, self.device, self.made, self.seconds, self.points = run, torch.device(run.device), 0, 0.0, []
        info, self.token_bytes = facts(data_dir)
        recipe = ALL[run.recipe]
        with conditions(run):
            shape, self.config = configs(run, recipe, info.vocab_size)
            torch.manual_seed(run.seed)
            self.model = recipe.model(shape)
            self.model.init_weights()
            self.model.to(self.device)
            self.model.compute_dtype = getattr(torch, run.dtype)
            self.optimizer = recipe.optimizer(self.model, self.config, World(0, 1, self.device))
        config, updates = self.config, self.config.updates
        self.rates = [recipe.schedule(i, updates, config.warmup_updates, config.constant_share, config.min_lr_ratio) for i in range(updates)]
        self.loader = recipe.loader(Path(data_dir) / "train.bin", self.config.sequence_len, run.seed, info.vocab_size)
        self.val = partial(val_batches, Path(data_dir) / "val.bin", self.config.sequence_len, VAL_BATCH[run.device], eval_tokens, info.vocab_size)
        self.marks = {round(updates * (i + 1) / EVALUATIONS) for i in range(EVALUATIONS)}

    @property
    def is_done(self) -> bool:
        return self.made == self.config.updates

    def advance(self) -> None:
        """Make an update, and see how good the model is where that is due."""
        with conditions(self.run):
            start = time.perf_counter()
            x, y = self.loader.batch(self.made * self.config.batch_size, self.config.batch_size)
            self.model(x.to(self.device), y.to(self.device)).backward()
            self.optimizer.step(self.rates[self.made])
            self.seconds += time.perf_counter() - start
            self.look()

    def look(self) -> None:
        self.made += 1
        if self.made in self.marks:
            bpb = evaluate_bpb(self.model, self.val(), self.token_bytes)
            seconds = round(self.seconds, 1) if self.device.type == "cpu" else None
            self.points.append({"tokens": self.made * self.config.tokens_per_update, "seconds": seconds, "bpb": bpb})


class CapturedTraining(Training):
    """The same on a GPU. The model is so small that launching its kernels would take most of the time: they are recorded once, and replayed for every update."""

    def __init__(self, *args):
        super().__init__(*args)
        self.stream = torch.cuda.Stream()  # of its own, with workspaces of its own: other runs go on beside it
        self.rates = torch.tensor(self.rates, device=self.device)
        self.batches = [tokens.to(self.device) for tokens in self.loader.batch(0, self.config.updates * self.config.batch_size)]
        self.rate, self.batch = torch.empty((), device=self.device), [torch.empty_like(tokens[: self.config.batch_size]) for tokens in self.batches]
        for group in self.optimizer.adamw.param_groups:
            group["capturable"] = True
        with conditions(self.run):
            torch.cuda.synchronize()
            with torch.cuda.stream(self.stream):
                self.warm_up()
            torch.cuda.synchronize()
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph, stream=self.stream):
                self.update()

    def warm_up(self) -> None:
        """An update that makes what is made once: libraries' handles, AdamW's state. Then weights and moments are as before it."""
        weights = [p.clone() for p in self.model.parameters()]
        self.read()
        self.update()
        with torch.no_grad():
            for p, before in zip(self.model.parameters(), weights, strict=True):
                p.copy_(before)
        state = self.optimizer.state_dict()
        for tensor in itertools.chain.from_iterable(named.values() for named in (*state["muon"].values(), *state["adamw"].values())):
            tensor.zero_()
        self.optimizer.load_state_dict(state)

    def read(self) -> None:
        """The next update's tokens and rate, to where the recorded kernels look for them."""
        self.rate.copy_(self.rates[self.made])
        for static, tokens in zip(self.batch, self.batches, strict=True):
            static.copy_(tokens[self.made * len(static) : (self.made + 1) * len(static)])

    def update(self) -> None:
        self.model(*self.batch).backward()
        self.optimizer.step(self.rate)

    def advance(self) -> None:
        with torch.cuda.stream(self.stream):
            self.read()
            self.graph.replay()
            with conditions(self.run) if self.made + 1 in self.marks else contextlib.nullcontext():
                self.look()


def learn(run: Run, data_dir: str, eval_tokens: int) -> list[dict]:
    """Train on one core. Returns the `points`."""
    torch.set_num_threads(1)
    training = Training(run, data_dir, eval_tokens)
    while not training.is_done:
        training.advance()
    return training.points


def learn_together(start: Callable[[Run], CapturedTraining], runs: Iterable[Run], at_once: int) -> Iterator[tuple[Run, list[dict]]]:
    """Train on a GPU, so many runs beside each other. Yields each with its `points` when it is done."""
    gc.freeze()  # recording begins with a collection: it need not look at what is here for good
    waiting, under_way = deque(runs), []
    while waiting or under_way:
        while waiting and len(under_way) < at_once:
            under_way.append(start(waiting.popleft()))
        for training in under_way:
            training.advance()
        yield from ((training.run, training.points) for training in under_way if training.is_done)
        under_way = [training for training in under_way if not training.is_done]


def outcomes(runs: list[Run], data_dir: str, eval_tokens: int, jobs: int) -> Iterator[tuple[Run, list[dict]]]:
    """Each run with its points, as they are done, `jobs` at once."""
    if any(run.device == "cuda" for run in runs):
        yield from learn_together(lambda run: CapturedTraining(run, data_dir, eval_tokens), runs, jobs)
        return
    with concurrent.futures.ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        futures = {pool.submit(learn, run, data_dir, eval_tokens): run for run in runs}
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
        slower = [mine[seed][-1]["seconds"] / default[seed][-1]["seconds"] for seed in shared if mine[seed][-1]["seconds"]]
        recipe, *changed = label.split()
        differs = ", ".join([ALL[recipe].differs, *changed])
        row = f"| {label} | {differs} | {statistics.mean(ends):.4f} ({min(ends):.4f}-{max(ends):.4f}) | "
        row += f"{mean_and_spread(against) if against and label != 'default' else ''} | {len(ends)} | "
        row += f"{statistics.median(slower):.2f} x |" if slower else "|"
        rows.append((statistics.mean(ends), row))
    return lines + [row for _, row in sorted(rows)]


def curves(work: Path, runs: list[Run]) -> list[str]:
    """Mean bits per byte over the seeds at each point, by tokens and by seconds."""
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
    missing = [run for run in runs if load(args.work, run) is None]
    with contextlib.suppress(KeyboardInterrupt):  # what is done stays, and the table shows it
        for run, points in outcomes(missing, str(data_dir), args.eval_tokens, args.jobs):
            save(args.work, run, points)
            print(f"{run.name}: {points[-1]['bpb']:.4f}", flush=True)
    print("\n".join(["", *table(args.work, runs), "", *curves(args.work, runs)]))


if __name__ == "__main__":
    main()
