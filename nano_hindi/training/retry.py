"""Repeat an update or an evaluation that failed: with less memory, or without torch.compile."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import TypeVar

import torch

from nano_hindi.common import is_out_of_memory, print_compile_failure
from nano_hindi.distributed import is_lost_rank
from nano_hindi.errors import UserError
from nano_hindi.loss import run_eagerly as run_loss_eagerly
from nano_hindi.training.setup import RECOMPUTED, Run
from nano_hindi.training.stop import StopSignal

Result = TypeVar("Result")


def retried(run: Run, stop: StopSignal, work: Callable[[], Result]) -> Result:
    """Return `work()`, an update or an evaluation. If the device runs out of memory, start it again
    with less, until it fits; if torch.compile fails, start it again without it.

    A rank can do this alone, while the others wait for it. `work` sums over the rank's own
    sequences, so the device batch size does not matter, and `TrainOptimizer.last_backward` sends
    each gradient once, even if it is computed twice. Raises UserError if a single sequence does not
    fit.
    """
    while True:
        try:
            return work()
        except Exception as error:
            is_memory = is_out_of_memory(error)
            if isinstance(error, UserError) or is_lost_rank(error) or run.optimizer.is_stepping or not (is_memory or run.model.is_compiled):
                raise
            if not is_memory and stop.signal is None:  # else Ctrl-C has ended the compiler's processes too
                run.console.clear()
                print_compile_failure(error)
        # only here, after the `except` block, are the tensors freed that the exception's frames
        # referenced
        run.model.zero_grad(set_to_none=True)
        gc.collect()
        torch.cuda.empty_cache()
        if is_memory:
            use_less_memory(run)
        else:
            run.model.run_eagerly()
            run_loss_eagerly()


def use_less_memory(run: Run) -> None:
    """Reduce the device batch size to the largest divisor of the sequences per rank that is at most
    half of it. If it is 1 already, compute the blocks again in the backward pass; raises UserError
    if they are."""
    size, per_rank = run.batches.device_batch_size, run.config.sequences_per_rank(run.world.size)
    if size > 1:
        run.batches.device_batch_size = smaller = max(n for n in range(1, size // 2 + 1) if per_rank % n == 0)
        what = f"with {size} sequences at once; continuing with {smaller}"
    elif not run.model.recomputes_blocks:
        run.model.recomputes_blocks = True
        what = f"with one sequence; continuing with {RECOMPUTED}"
    else:
        raise UserError(
            "the device has no memory for a single sequence; use a smaller --config or a shorter --sequence_len; or close other programs that use it "
            "and resume from the last checkpoint with --resume auto"
        )
    run.console.clear()
    print(f"notice: out of memory on {run.world.device} {what}", flush=True)
