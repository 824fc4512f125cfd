"""Train one small model by a recipe: on one CPU core, or many side by side on a GPU. learning.py
chooses the runs and reports the results."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
import importlib
import itertools
import time
from collections import deque
from collections.abc import Iterable, Iterator
from functools import partial
from unittest import mock

import timing  # noqa: F401 - puts the repo's root on the path
import torch
from ideas import CANDIDATES
from recipes import RECIPES, Recipe
from torch import Tensor

from nano_hindi.config import GPTConfig, TrainConfig
from nano_hindi.corpus.prepared import DataInfo, check_data
from nano_hindi.dataloader import val_batches
from nano_hindi.distributed import World
from nano_hindi.eval import compute_token_bytes, evaluate_bpb
from nano_hindi.optim import learning_rate_scale
from nano_hindi.training.setup import new_ngrams
from optimizer_step import take_step

ALL = RECIPES | CANDIDATES
SHAPE = {"n_layer": 4, "n_head": 4, "n_kv_head": 2, "sequence_len": 256}
BATCH = 16  # sequences per update
EVALUATIONS = 8
VAL_BATCH = {"cpu": 16, "cuda": 64}  # sequences evaluated at once


@dataclasses.dataclass(frozen=True)
class Run:
    """One training run: everything that determines its result. Its name is that of its file."""

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


def configs(run: Run, recipe: Recipe, vocab_size: int) -> tuple[GPTConfig, TrainConfig]:
    """Return the default recipe at this size, with the changes of the run."""
    shape = SHAPE | {"vocab_size": vocab_size, "n_embd": run.width}
    train = {
        "total_tokens": run.tokens,
        "batch_size": BATCH,
        "gradient_accumulation_steps": 1,
        "sequence_len": SHAPE["sequence_len"],
        "seed": run.seed,
        "dtype": run.dtype,
    }
    shape_fields = {field.name for field in dataclasses.fields(GPTConfig)}
    for key, value in {**recipe.changes, **dict(run.changes)}.items():
        if "." in key:
            continue  # a constant: see conditions
        owner, chosen = (GPTConfig, shape) if key in shape_fields else (TrainConfig, train)
        kind = type(getattr(owner, key))
        chosen[key] = str(value) == "True" if kind is bool else kind(value)  # "8" and 8.0 are 8 where the default is a whole number
    return GPTConfig(**shape), TrainConfig(**train)


@contextlib.contextmanager
def conditions(run: Run) -> Iterator[None]:
    """Apply the patches of the run's recipe and its constants of nano_hindi's modules
    (model.X0_LAMBDA=0.3) while the context is open. Raises AttributeError for a constant that does
    not exist."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(ALL[run.recipe].patched())
        for key, value in run.changes:
            if "." in key:
                module, name = key.split(".")
                stack.enter_context(mock.patch.object(importlib.import_module(f"nano_hindi.{module}"), name, float(value)))
        yield


@functools.cache
def data_info(data_dir: str) -> tuple[DataInfo, Tensor]:
    """Return the metadata of the token files, and the bytes of each token."""
    info = check_data(data_dir)
    return info, compute_token_bytes(info.tokenizer)


class Training:
    """A run in progress. `points`: tokens, seconds of training and validation bits per byte, at
    some updates and at the last."""

    def __init__(self, run: Run, data_dir: str, eval_tokens: int):
        self.run, self.device, self.made, self.seconds, self.points = run, torch.device(run.device), 0, 0.0, []
        self.losses: list[tuple[float, float]] = []  # of each update on a CPU: the loss, and the norm of the gradient
        info, self.token_bytes = data_info(data_dir)
        recipe = ALL[run.recipe]
        with conditions(run):
            shape, self.config = configs(run, recipe, info.vocab_size)
            self.loader = recipe.loader(info.train, self.config.sequence_len, run.seed)
            torch.manual_seed(run.seed)
            self.model = recipe.model(shape)
            self.model.init_weights()
            self.model.to(self.device)
            self.model.compute_dtype, self.model.fp8_head = getattr(torch, run.dtype), self.config.fp8_head
            ngrams = new_ngrams(info.tokenizer, self.loader, self.config, self.device)
            self.optimizer = recipe.optimizer(self.model, self.config, World(0, 1, self.device), ngrams)
        updates = self.config.updates
        self.lr_scales = [learning_rate_scale(self.config, i) for i in range(updates)]
        self.at_once = recipe.at_once or self.config.batch_size
        self.val = partial(val_batches, info.val, self.config.sequence_len, recipe.at_once or VAL_BATCH[run.device], eval_tokens)
        self.marks = {round(updates * (i + 1) / EVALUATIONS) for i in range(EVALUATIONS)}

    @property
    def is_done(self) -> bool:
        return self.made == self.config.updates

    def advance(self) -> None:
        """Make an update, and evaluate where that is due."""
        with conditions(self.run):
            start = time.perf_counter()
            x, y = self.loader.batch(self.made * self.config.batch_size, self.config.batch_size)
            loss = self.gradient(x.to(self.device), y.to(self.device))
            norm = take_step(self.optimizer, self.lr_scales[self.made])
            self.losses.append((float(loss), float(norm)))
            self.seconds += time.perf_counter() - start
            self.end_update()

    def gradient(self, x: Tensor, y: Tensor) -> Tensor:
        """Add the gradient of the mean loss of an update, and return that loss."""
        parts = list(zip(x.split(self.at_once), y.split(self.at_once), strict=True))
        mean = torch.zeros((), device=self.device)
        for part in parts:
            loss = self.model(*part) / len(parts)
            loss.backward()
            mean += loss.detach()
        return mean

    def end_update(self) -> None:
        """Count the update, and evaluate where that is due."""
        self.made += 1
        if self.made in self.marks:
            bpb = evaluate_bpb(self.model, self.val(), self.token_bytes)
            seconds = round(self.seconds, 1) if self.device.type == "cpu" else None
            self.points.append({"tokens": self.made * self.config.tokens_per_update, "seconds": seconds, "bpb": bpb})


class CapturedTraining(Training):
    """The same on a GPU. The model is so small that launching its kernels would dominate the time:
    they are captured once and replayed for every update."""

    def __init__(self, *args):
        super().__init__(*args)
        self.stream = torch.cuda.Stream()  # a stream and workspaces of its own: other runs share the device
        self.lr_scales = torch.tensor(self.lr_scales, device=self.device)
        self.batches = [tokens.to(self.device) for tokens in self.loader.batch(0, self.config.updates * self.config.batch_size)]
        self.lr_scale, self.batch = (
            torch.empty((), device=self.device),
            [torch.empty_like(tokens[: self.config.batch_size]) for tokens in self.batches],
        )
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
        """Make an update that creates what is created once (library handles, AdamW's state), then
        restore weights and moments."""
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
        """Copy the next update's tokens and learning rates to where the captured kernels read
        them."""
        self.lr_scale.copy_(self.lr_scales[self.made])
        for static, tokens in zip(self.batch, self.batches, strict=True):
            static.copy_(tokens[self.made * len(static) : (self.made + 1) * len(static)])

    def update(self) -> None:
        self.model(*self.batch).backward()
        take_step(self.optimizer, self.lr_scale)

    def advance(self) -> None:
        with torch.cuda.stream(self.stream):
            self.read()
            self.graph.replay()
            with conditions(self.run) if self.made + 1 in self.marks else contextlib.nullcontext():
                self.end_update()


def learn(run: Run, data_dir: str, eval_tokens: int) -> list[dict]:
    """Train on the CPU. Returns the `points`."""
    training = Training(run, data_dir, eval_tokens)
    while not training.is_done:
        training.advance()
    return training.points


def learn_together(runs: Iterable[Run], data_dir: str, eval_tokens: int, at_once: int) -> Iterator[tuple[Run, list[dict]]]:
    """Train on a GPU, `at_once` runs side by side. Yields each with its `points` when it is
    done."""
    gc.freeze()  # a capture begins with a garbage collection, which need not visit permanent objects
    waiting, under_way = deque(runs), []
    while waiting or under_way:
        while waiting and len(under_way) < at_once:
            under_way.append(CapturedTraining(waiting.popleft(), data_dir, eval_tokens))
        for training in under_way:
            training.advance()
        yield from ((training.run, training.points) for training in under_way if training.is_done)
        under_way = [training for training in under_way if not training.is_done]
