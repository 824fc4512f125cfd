"""Build a training run from its plan, and turn it into a checkpoint."""

from __future__ import annotations

import argparse
import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

import torch

from nano_hindi.chat.template import TEMPLATE_VERSION
from nano_hindi.checkpoint import FORMAT, remove_leftovers
from nano_hindi.common import can_compile, compute_dtype
from nano_hindi.config import GPTConfig, TrainConfig
from nano_hindi.console import Console, shown
from nano_hindi.corpus.prepared import tokenizer_record
from nano_hindi.dataloader import Sequences, UpdateBatches
from nano_hindi.distributed import World, require_same, weight_sums
from nano_hindi.errors import require
from nano_hindi.files import copy_contents
from nano_hindi.flash_attention import select_backend
from nano_hindi.loss import chunk_bytes as loss_chunk_bytes
from nano_hindi.loss import compile_kernels as compile_loss
from nano_hindi.model import GPT
from nano_hindi.ngrams import NGrams
from nano_hindi.optim import LossScale, TrainOptimizer
from nano_hindi.tokenizer import Tokenizer
from nano_hindi.training import memory, report
from nano_hindi.training.chat_data import ChatData
from nano_hindi.training.curves import LiveCurves
from nano_hindi.training.meter import Meter, Pace
from nano_hindi.training.metrics import Metrics
from nano_hindi.training.resume import Plan, evaluation_is_pending
from nano_hindi.training.saving import Saver
from nano_hindi.training.text_data import TextData
from nano_hindi.training.wandb_log import WandbLog

COUNTED_TOKENS = 2**22  # in which the reads of each token are counted: seconds at most, even where reading is slow
RECOMPUTED = "each block computed again in the backward pass: less memory, but about a third more time"


@dataclass
class Run:
    """A training run between two updates: everything that the training loop works with."""

    preset: str
    config: TrainConfig
    world: World
    folder: Path
    data: TextData | ChatData
    model: GPT
    optimizer: TrainOptimizer
    loss_scale: LossScale
    batches: UpdateBatches
    console: Console
    saver: Saver
    metrics: Metrics | None  # on rank 0 only
    wandb: WandbLog
    curves: LiveCurves
    anneal_start: int | None = None  # the number of updates before the anneal, if there is one
    parent: dict | None = None  # the record of the model that it began with (training/parent.py)
    update: int = 0  # updates made so far
    skipped: int = 0  # of them, those with a non-finite loss or gradient
    nonfinite_in_a_row: int = 0  # of these, the latest ones; not those that fp16 skips to find its loss scale
    latest: dict = field(default_factory=dict)  # the latest loss, val_loss and val_bpb, and the step of the latter two (val_step)
    meter: Meter = field(default_factory=Meter)
    pace: Pace = field(default_factory=Pace)

    @property
    def step(self) -> int:
        return self.config.steps_of(self.update)

    @property
    def is_finished(self) -> bool:
        return self.update >= self.config.updates

    def checkpoint(self) -> dict:
        """Return the state of the run as plain tensors, numbers, strings, lists and dicts.
        Collective: every rank has to call it.

        Raises UserError if the weights are not the same on all ranks.
        """
        require_same_weights(self.model, self.world)
        return {
            "format": FORMAT,
            "step": self.step,
            "tokens_seen": self.update * self.config.tokens_per_update,
            "preset": self.preset,
            "model_config": dataclasses.asdict(self.model.config),
            "train_config": dataclasses.asdict(self.config),
            "model_state_dict": self.model.state_dict(),
            "optimizers": {**self.optimizer.state_dict(), "loss_scale": self.loss_scale.state_dict()},
            "rng": {"torch": torch.get_rng_state()},
            "metrics": {"latest": self.latest, "meter": self.meter.state_dict(), "skipped": self.skipped},
            "tokenizer": tokenizer_record(self.data.tokenizer) | {"name": self.data.tokenizer.name},  # a resumed run may have another
            "data": self.data.record(self.anneal_start),
            **({"parent": self.parent} if self.parent is not None else {}),
            **({"chat": {"template": TEMPLATE_VERSION}} if isinstance(self.data, ChatData) else {}),
        }


def open_run(plan: Plan, args: argparse.Namespace, world: World) -> Run:
    """Build the run of a plan that is not complete yet, and print its startup summary.

    Raises UserError if the model does not fit in memory, or if the ranks differ.
    """
    model_config, config, data, saved = plan.model_config, plan.config, plan.data, plan.saved
    assert data is not None  # it is only for --dry_run
    loader = data.loader(config, plan.anneal_start)

    memory.require_memory(model_config, config.ngram_buckets, world.device)
    model = new_model(model_config, config, world.device)
    optimizer = TrainOptimizer(model, config, world, new_ngrams(data.tokenizer, loader, config, world.device))
    loss_scale = LossScale(enabled=model.compute_dtype == torch.float16)
    if saved is not None:
        restore(saved, model, optimizer, loss_scale)
    elif plan.parent is not None:
        model.load_state_dict(plan.parent.state_dict)
    require_same_weights(model, world)
    if world.is_main:  # only now: a run that fails above must leave the folder as it was
        remove_leftovers(args.checkpoint_dir)

    device_batch_size = _prepare_device(plan, args, world, loader, model, optimizer)
    world.print(f"batch       {device_batch_size} x {model_config.sequence_len} tokens at once on each device (--device_batch_size)")
    world.print(f"folder      {shown(args.checkpoint_dir)}; Ctrl-C saves and stops")
    if world.is_main:
        copy_contents(data.tokenizer_dir, args.checkpoint_dir / "tokenizer")
    console = Console(world.is_main)
    progress: dict = saved["metrics"] if saved is not None else {"skipped": 0, "latest": {}, "meter": None}
    evaluates_again = evaluation_is_pending(config, plan.update, progress["latest"])
    return Run(
        preset=plan.preset,
        config=config,
        world=world,
        folder=args.checkpoint_dir,
        data=data,
        model=model,
        optimizer=optimizer,
        loss_scale=loss_scale,
        batches=data.train_batches(loader, config, device_batch_size, world),
        console=console,
        saver=Saver(args.checkpoint_dir, config.keep_checkpoints, console.print),
        metrics=Metrics(args.checkpoint_dir / "metrics.jsonl", plan.step, _history(args), evaluates_again) if world.is_main else None,
        wandb=WandbLog(
            args.wandb and world.is_main, {**dataclasses.asdict(model_config), **dataclasses.asdict(config)}, args.checkpoint_dir, console.print
        ),
        curves=LiveCurves(args.checkpoint_dir),
        anneal_start=plan.anneal_start,
        parent=plan.parent_record,
        update=plan.update,
        skipped=progress["skipped"],
        latest=dict(progress["latest"]),
        meter=Meter(progress["meter"]),
    )


def _history(args: argparse.Namespace) -> Path | None:
    """Return the metrics file beside the checkpoint that `--resume` names, None if there is none
    (or it is the run's own, with `--resume auto`)."""
    beside = Path(args.resume).parent / "metrics.jsonl" if args.resume not in (None, "auto") else None
    return beside if beside is not None and beside.is_file() else None


def new_ngrams(tokenizer: Tokenizer, loader: Sequences, config: TrainConfig, device: torch.device) -> NGrams | None:
    """Return the n-grams of the tokens, or None if `config.ngram_buckets` is 0.

    How often an update reads each token is counted in the run's first updates, up to COUNTED_TOKENS
    tokens: the same on every rank, and in a run that resumes with the same budget.
    """
    if not config.ngram_buckets:
        return None
    updates = min(config.updates, -(-COUNTED_TOKENS // config.tokens_per_update))
    x, _ = loader.batch(0, updates * config.sequences_per_update)
    reads = torch.bincount(x.flatten(), minlength=tokenizer.vocab_size) / updates
    return NGrams(tokenizer.piece_bytes, config.ngram_buckets, reads, device)


def new_model(config: GPTConfig, train: TrainConfig, device: torch.device) -> GPT:
    """Return a model with initial weights, which computes in the dtype of the recipe."""
    torch.manual_seed(train.seed)
    model = GPT(config)
    model.init_weights()
    model.to(device)
    model.compute_dtype, model.fp8_head = compute_dtype(device, train.dtype), train.fp8_head
    return model


def restore(saved: dict, model: GPT, optimizer: TrainOptimizer, loss_scale: LossScale) -> None:
    """Load the tensors and the random state of a checkpoint that `load_checkpoint` returned."""
    model.load_state_dict(saved["model_state_dict"])
    optimizer.load_state_dict(saved["optimizers"])
    loss_scale.load_state_dict(saved["optimizers"]["loss_scale"])
    torch.set_rng_state(saved["rng"]["torch"])


def require_same_weights(model: GPT, world: World) -> None:
    """Raise UserError if a rank has other weights than rank 0: averaging their gradients would be
    wrong. Collective."""
    if world.size > 1:
        remedy = "a machine computes wrongly, or not all have the same GPU, PyTorch and program; --resume auto resumes from the newest checkpoint"
        require_same(world, "weights", weight_sums(model), remedy)


def _prepare_device(plan: Plan, args: argparse.Namespace, world: World, loader: Sequences, model: GPT, optimizer: TrainOptimizer) -> int:
    """Select the attention backend, compile the kernels, and return the device batch size. Prints
    the startup summary."""
    model_config, config = plan.model_config, plan.config
    backend = select_backend(
        world.device, model.compute_dtype, head_dim=model_config.head_dim, n_head=model_config.n_head, n_kv_head=model_config.n_kv_head, training=True
    )
    is_chat = isinstance(plan.data, ChatData)  # each length of a conversation would be compiled separately
    why_eager = "conversations vary in length" if is_chat else "--no_compile" if args.no_compile else can_compile(world.device)
    for line in (
        report.device_line(plan.preset, world, model.compute_dtype),
        *report.parent_lines(plan),
        f"attention   {backend}",
        f"compile     {'on: the first update takes a minute or two' if why_eager is None else f'off ({why_eager})'}",
        *report.run_lines(plan, model, world),
    ):
        world.print(line)
    memory.forbid_spilling(world.device)
    compiles_loss = why_eager is None and world.device.type == "cuda"  # on a CPU the eager loss stays within the cache and is as fast
    # allocated later: the optimizer's states, and a second chunk of logits by the compiled loss
    states = 0 if plan.update else memory.optimizer_bytes(model, config.ngram_buckets)
    bytes_to_come = states + compiles_loss * loss_chunk_bytes(world.device)
    size = fitting_batch_size(config, world, loader, model, bytes_to_come)
    # only now: each size that was tried would be compiled separately, half a minute on a GPU;
    # without compile it needs more memory, which errs on the safe side
    if why_eager is None:
        model.compile_blocks()
        optimizer.compile()
        if compiles_loss:
            compile_loss()
    return size


def fitting_batch_size(config: TrainConfig, world: World, loader: Sequences, model: GPT, bytes_to_come: int) -> int:
    """Return the number of sequences that the device takes at once, see
    `memory.choose_device_batch_size`; a GPU tries it with the first sequences of the data. If not
    even one fits, set `model.recomputes_blocks` and try again. Raises UserError if that is not
    enough."""

    def try_step(sequences: int) -> None:
        x, y = loader.batch(0, sequences)
        try:
            model(x.to(world.device), y.to(world.device)).backward()
        finally:
            model.zero_grad(set_to_none=True)

    per_rank = config.sequences_per_rank(world.size)
    arguments = config.device_batch_size, per_rank, model.config.sequence_len, try_step, bytes_to_come, world
    size = memory.choose_device_batch_size(*arguments)
    if size == 0:
        model.recomputes_blocks = True
        world.print(f"notice: not even one sequence fits; continuing with {RECOMPUTED}")
        size = memory.choose_device_batch_size(*arguments)
    require(
        size > 0,
        "not even one sequence fits in the device's memory; use a smaller --config or a shorter --sequence_len, or close other programs that use the GPU",
    )
    return size
