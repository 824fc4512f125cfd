"""Make runs on random tokens for the GPU checks, on a given device and in given sizes."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
# this folder goes last: its profile.py is not the standard library's, which torch.compile imports
others = [entry for entry in sys.path if Path(entry).resolve() != HERE]
sys.path = [str(ROOT), str(ROOT / "tests" / "support"), *others, str(HERE)]

import numpy as np
import torch

from nano_hindi.common import can_compile
from nano_hindi.config import GPTConfig, TrainConfig
from nano_hindi.console import Console
from nano_hindi.dataloader import SequenceLoader, TrainBatches
from nano_hindi.distributed import World
from nano_hindi.flash_attention import select_backend
from nano_hindi.loss import chunk_bytes, compile_kernels
from nano_hindi.optim import LossScale, TrainOptimizer
from nano_hindi.token_file import TokenFile
from nano_hindi.training import memory
from nano_hindi.training.curves import LiveCurves
from nano_hindi.training.saving import Saver
from nano_hindi.training.setup import Run, fitting_batch_size, new_model
from nano_hindi.training.wandb_log import WandbLog


class SkippedError(Exception):
    """Raised by a check that cannot run on this device; the message says what it needs."""


@dataclass
class Lab:
    """A device and the configuration of its runs: the real sizes if `full`, else a model that a CPU
    trains in a second."""

    device: torch.device
    dtype: torch.dtype
    model: GPTConfig
    train: TrainConfig
    full: bool

    def needs_gpu(self) -> None:
        if self.device.type != "cuda":
            raise SkippedError("needs a GPU")

    @contextlib.contextmanager
    def run(self, size: int | str = "auto", dtype: torch.dtype | None = None, **changes) -> Iterator[Run]:
        """Yield a run before its first update, as train.py would build it, with device batch size
        `size`."""
        self._free()
        dtype = dtype or self.dtype
        config = dataclasses.replace(self.train, **changes)
        world = World(0, 1, self.device)
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:  # Windows deletes no file that is mapped
            folder = Path(name)
            tokens = (
                np.random.default_rng(0).zipf(1.3, 2_000_000 if self.full else 20_000) % self.model.vocab_size
            )  # a skewed distribution, like that of words, so that there is something to learn
            tokens.astype("<u4").tofile(folder / "train.bin")
            mc = self.model
            model = new_model(mc, config, self.device)
            model.compute_dtype = dtype
            select_backend(self.device, dtype, head_dim=mc.head_dim, n_head=mc.n_head, n_kv_head=mc.n_kv_head, training=True)
            optimizer = TrainOptimizer(model, config, world)
            loader = SequenceLoader(TokenFile(folder / "train.bin", mc.vocab_size), config.sequence_len, config.seed)
            config = dataclasses.replace(config, device_batch_size=size)
            compiles = self.full and can_compile(self.device) is None
            to_come = memory.optimizer_bytes(model) + compiles * chunk_bytes(self.device)
            config = dataclasses.replace(config, device_batch_size=fitting_batch_size(config, world, loader, model, to_come))
            if compiles:
                model.compile_blocks()
                optimizer.compile()
                compile_kernels()
            with TrainBatches(loader, config.sequences_per_update, config.device_batch_size, pin_memory=self.device.type == "cuda") as batches:
                yield Run(
                    preset="check",
                    config=config,
                    world=world,
                    folder=folder,
                    data=None,
                    model=model,
                    optimizer=optimizer,
                    loss_scale=LossScale(dtype == torch.float16),
                    batches=batches,
                    console=Console(False),
                    saver=Saver(folder, 1, print),
                    metrics=None,
                    wandb=WandbLog(False, {}, folder, print),
                    curves=LiveCurves(folder),
                )

    @contextlib.contextmanager
    def memory(self, limit: float) -> Iterator[None]:
        """Limit PyTorch's allocator to `limit` bytes, as on a smaller card. Raises SkippedError if
        the device has less."""
        self.needs_gpu()
        self._free()
        total = torch.cuda.mem_get_info(self.device)[1]
        if limit > total:
            raise SkippedError(f"needs a GPU of {limit / 1e9:.0f} GB")
        torch.cuda.set_per_process_memory_fraction(limit / total, self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, self.device)

    def _free(self) -> None:
        """Free the memory of the last run."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
