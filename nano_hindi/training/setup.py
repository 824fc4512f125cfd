"""Build a training run from flags and data, or from a checkpoint, and turn it into a checkpoint
again."""

from __future__ import annotations

import argparse
import dataclasses
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

from nano_hindi.checkpoint import FORMAT, remove_leftovers
from nano_hindi.common import can_compile, compute_dtype
from nano_hindi.config import DEFAULT_PRESET, GPTConfig, TrainConfig
from nano_hindi.console import Console, shown
from nano_hindi.corpus.prepared import DataInfo, check_data
from nano_hindi.dataloader import SequenceLoader, val_batches
from nano_hindi.distributed import World, from_main, require_same, weight_sums
from nano_hindi.errors import UserError
from nano_hindi.files import file_digest
from nano_hindi.flash_attention import select_backend
from nano_hindi.loss import compile_kernels as compile_loss
from nano_hindi.model import GPT
from nano_hindi.optim import LossScale, TrainOptimizer
from nano_hindi.training import memory, report
from nano_hindi.training.curves import LiveCurves
from nano_hindi.training.metrics import Metrics, WandbLog
from nano_hindi.training.prefetch import Prefetcher, pinned
from nano_hindi.training.resume import checkpoint_to_resume, configs_of, data_record, tokenizer_record, updates_made
from nano_hindi.training.saving import Saver


@dataclass
class Run:
    """The state of a training run: everything that the training loop works with."""

    preset: str
    model_config: GPTConfig
    config: TrainConfig
    world: World
    folder: Path
    data_dir: Path
    data: DataInfo
    model: GPT
    optimizer: TrainOptimizer
    loss_scale: LossScale
    loader: SequenceLoader
    update: int = 0  # updates made so far
    skipped: int = 0  # of them, those with a non-finite loss or gradient
    latest: dict = field(default_factory=dict)  # the latest loss, val_loss and val_bpb
    meter: report.Meter = field(default_factory=report.Meter)
    saver: Saver | None = None
    metrics: Metrics | None = None  # on rank 0 only
    wandb: WandbLog | None = None
    pace: report.Pace = field(default_factory=report.Pace)

    def __post_init__(self):
        self.prefetcher = Prefetcher(self.device_batches)
        self.curves = LiveCurves(self.folder)
        self.console = Console(self.world.is_main)

    @property
    def step(self) -> int:
        return self.update * self.config.gradient_accumulation_steps

    @property
    def is_finished(self) -> bool:
        return self.update >= self.config.updates

    def device_batches(self, update: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield this rank's sequences of an update: inputs and targets, int64 (device batch, T) on
        the CPU; in pinned memory if the device is a GPU."""
        per_rank = self.config.sequences_per_rank(self.world.size)
        first, size = update * self.config.sequences_per_update + self.world.rank * per_rank, self.config.device_batch_size
        for done in range(0, per_rank, size):
            batch = self.loader.batch(first + done, min(size, per_rank - done))
            yield pinned(batch) if self.world.device.type == "cuda" else batch

    def halve_device_batch_size(self) -> None:
        """Reduce the device batch size after the device ran out of memory: to the largest divisor
        of the sequences per rank that is at most half of it.

        Raises UserError if it is 1 already.
        """
        size, per_rank = self.config.device_batch_size, self.config.sequences_per_rank(self.world.size)
        if size == 1:
            raise UserError(
                "the device has no memory for a single sequence; use a smaller --config or a shorter --sequence_len; or close other programs that use it "
                "and resume from the last checkpoint with --resume auto"
            )
        smaller = max(n for n in range(1, size // 2 + 1) if per_rank % n == 0)
        self.config = dataclasses.replace(self.config, device_batch_size=smaller)
        self.prefetcher.close()  # the batches that it has read ahead are too large
        self.console.clear()
        print(f"notice: out of memory on {self.world.device} with {size} sequences at once; continuing with {smaller}", flush=True)

    def require_same_weights(self) -> None:
        """Raise UserError if a rank has other weights than rank 0: averaging their gradients would
        be wrong. Collective."""
        if self.world.size > 1:
            remedy = "a machine computes wrongly, or not all have the same GPU, PyTorch and program; --resume auto resumes from the newest checkpoint"
            require_same(self.world, "weights", weight_sums(self.model), remedy)

    def checkpoint(self) -> dict:
        """Return the state of the run as plain tensors, numbers, strings, lists and dicts.
        Collective: every rank has to call it.

        Raises UserError if the weights are not the same on all ranks.
        """
        self.require_same_weights()
        return {
            "format": FORMAT,
            "step": self.step,
            "tokens_seen": self.update * self.config.tokens_per_update,
            "preset": self.preset,
            "model_config": dataclasses.asdict(self.model_config),
            "train_config": dataclasses.asdict(self.config),
            "model_state_dict": dict(self.model.state_dict()),
            "optimizers": {**self.optimizer.state_dict(), "loss_scale": self.loss_scale.state_dict()},
            "rng": {"torch": torch.get_rng_state()},
            "metrics": {"latest": self.latest, "meter": self.meter.state_dict(), "skipped": self.skipped},
            "tokenizer": tokenizer_record(self.data),
            "data": data_record(self.data),
        }

    def restore(self, checkpoint: dict) -> None:
        """Load the state of a checkpoint. Raises UserError if its tensors do not fit the model."""
        try:
            self.model.load_state_dict(checkpoint["model_state_dict"])
            self.optimizer.load_state_dict(checkpoint["optimizers"])
            self.loss_scale.load_state_dict(checkpoint["optimizers"]["loss_scale"])
            torch.set_rng_state(checkpoint["rng"]["torch"])
            self.update = updates_made(checkpoint, self.config)
            self.latest, self.skipped = dict(checkpoint["metrics"]["latest"]), checkpoint["metrics"]["skipped"]
            self.meter = report.Meter(checkpoint["metrics"]["meter"])
        except (UserError, RuntimeError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"the checkpoint of step {checkpoint['step']} does not fit its own configuration ({str(error).splitlines()[0]}); use an older one"
            ) from error


def open_run(args: argparse.Namespace, world: World) -> Run:
    """Build the run that the flags of train.py ask for, new or resumed, and print its start page.

    Raises UserError if flags, data and checkpoint contradict each other.
    """
    data = check_data(args.data_dir)
    require_same(
        world,
        "data",
        {"tokenizer": data.fingerprint, **{name: file_digest(args.data_dir / name) for name in ("train.bin", "val.bin")}},
        "copy that machine's --data_dir to all of them",
    )
    saved = from_main(world, lambda: checkpoint_to_resume(args))
    model_config, config = configs_of(args, data, saved, world)
    require_same(
        world,
        "configuration",
        {**dataclasses.asdict(model_config), **dataclasses.asdict(config), "compute_dtype": str(compute_dtype(world.device))},
        "give the same command on every machine, with GPUs of the same kind",
    )
    config.sequences_per_rank(world.size)
    # fails now if val.bin is too short, not at the first evaluation
    val_batches(args.data_dir / "val.bin", config.sequence_len, 1, config.eval_tokens, data.vocab_size)
    loader = SequenceLoader(args.data_dir / "train.bin", config.sequence_len, config.seed, data.vocab_size)

    memory.require_memory(model_config, world.device)
    torch.manual_seed(config.seed)
    model = GPT(model_config)
    model.init_weights()
    model.to(world.device)
    model.compute_dtype = compute_dtype(world.device)
    run = Run(
        preset=saved["preset"] if saved else args.config or DEFAULT_PRESET,
        model_config=model_config,
        config=config,
        world=world,
        folder=args.checkpoint_dir,
        data_dir=args.data_dir,
        data=data,
        model=model,
        optimizer=TrainOptimizer(model, config, world),
        loss_scale=LossScale(enabled=model.compute_dtype == torch.float16),
        loader=loader,
    )
    if saved is not None:
        run.restore(saved)
    run.require_same_weights()
    if world.is_main:  # only now: a run that fails above must leave the folder as it was
        remove_leftovers(run.folder)
    if not run.is_finished:
        _prepare(run, args)
    return run


def _prepare(run: Run, args: argparse.Namespace) -> None:
    """Set up what an unfinished run needs besides its state: backends, device batch size, files in
    its folder. Prints the start page."""
    model, mc, config, world = run.model, run.model_config, run.config, run.world
    backend = select_backend(world.device, model.compute_dtype, head_dim=mc.head_dim, n_head=mc.n_head, n_kv_head=mc.n_kv_head, training=True)
    why_eager = "--no_compile" if args.no_compile else can_compile(world.device)
    for line in (
        report.device_line(run.preset, world, model.compute_dtype),
        f"attention   {backend}",
        f"compile     {'on: the first update takes a minute or two' if why_eager is None else f'off ({why_eager})'}",
        *report.parameter_lines(model, config),
        *report.plan_lines(mc, config, run.data.train_tokens),
        *report.estimate_lines(model, mc, config, world, model.compute_dtype, run.update),
    ):
        world.print(line)
    optimizer_bytes = 0 if run.update else memory.optimizer_bytes(model.num_params())  # made by the first update

    def try_step(sequences: int) -> None:
        x, y = run.loader.batch(0, sequences)
        try:
            model(x.to(world.device), y.to(world.device)).backward()
        finally:
            model.zero_grad(set_to_none=True)

    memory.forbid_spilling(world.device)
    per_rank = config.sequences_per_rank(world.size)
    size = memory.choose_device_batch_size(config.device_batch_size, per_rank, config.sequence_len, try_step, optimizer_bytes, world)
    run.config = dataclasses.replace(config, device_batch_size=size)
    # only now: each `try_step` would be compiled separately, half a minute on a GPU; without
    # compile it needs more memory, which errs on the safe side
    if why_eager is None:
        model.compile_blocks()
        run.optimizer.compile()
        if world.device.type == "cuda":  # on a CPU the eager loss stays within the cache and is as fast
            compile_loss()
    world.print(f"at once     {size} sequences on each device")
    world.print(f"folder      {shown(run.folder)}; Ctrl-C saves and stops")
    run.saver = Saver(run.folder, config.keep_checkpoints, run.console.print)
    run.wandb = WandbLog(args.wandb and world.is_main, {**dataclasses.asdict(mc), **dataclasses.asdict(run.config)}, run.folder, run.console.print)
    if world.is_main:
        shutil.copytree(args.data_dir / "tokenizer", run.folder / "tokenizer", dirs_exist_ok=True)
        run.metrics = Metrics(run.folder / "metrics.jsonl", run.step)
