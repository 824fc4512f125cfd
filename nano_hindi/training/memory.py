"""The memory of a run: how much it needs, how much is available, and how many sequences fit on the
device at once."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from nano_hindi.common import IS_WINDOWS, is_out_of_memory
from nano_hindi.config import GPTConfig
from nano_hindi.distributed import World
from nano_hindi.errors import UserError
from nano_hindi.model import GPT

CPU_BATCH_TOKENS = 8192  # on a CPU a larger batch is no faster: loss and attention work in chunks anyway
MEMORY_FRACTION = 0.9  # of the free device memory; the rest is for fragmentation and the libraries' own allocations
SPILL_ROOM = 2**28  # bytes of device memory that PyTorch's allocator leaves free on Windows, for kernels and libraries


def activation_bytes(config: GPTConfig, dtype: torch.dtype, recompute: bool = False) -> int:
    """Return the bytes that the trunk saves for its backward, per sequence, without compile; with
    `recompute` only the inputs of the blocks, and all of one block.

    Counted on the meta device, where tensors have shapes but no memory.
    """
    if recompute:
        inputs = config.n_layer * config.sequence_len * config.n_embd * dtype.itemsize
        return activation_bytes(dataclasses.replace(config, n_layer=1), dtype) + inputs
    with torch.device("meta"):
        model = GPT(config)
        model.compute_dtype = dtype
        parameters = {p.untyped_storage()._cdata for p in model.parameters()}
        kept: dict[int, torch.Tensor] = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            kept[tensor.untyped_storage()._cdata] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), _FusedAttention():
            model.trunk(torch.zeros(1, config.sequence_len, dtype=torch.int64))
    return sum(t.untyped_storage().nbytes() for key, t in kept.items() if key not in parameters)


class _FusedAttention(TorchFunctionMode):
    """In this context SDPA keeps what a fused kernel does. On the meta device it would keep the
    attention weights (B, H, T, N) in float32, which no backend does."""

    def __torch_function__(self, function: Callable, types: object, args: Sequence = (), kwargs: dict | None = None) -> Any:
        return _FusedKernel.apply(*args) if function is scaled_dot_product_attention else function(*args, **(kwargs or {}))


class _FusedKernel(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        out, log_sums = torch.empty_like(q), q.new_empty(q.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(q, k, v, out, log_sums)
        return out


def optimizer_bytes(model: GPT, buckets: int = 0) -> int:
    """Return the bytes of the optimizer states: momentum for Muon's matrices (not the vectors of
    its second moment), two moments for the rest. For wte and lm_head also the updates of `buckets`
    of n-grams, their gradients and two moments."""
    config, params = model.config, model.num_params()
    rows_of_ngrams = buckets * (1 if config.tie_embeddings else 2)
    return 4 * (params["blocks"] + 2 * (params["total"] - params["blocks"]) + 4 * rows_of_ngrams * config.n_embd)


def state_bytes(model: GPT, buckets: int = 0) -> int:
    """Return the bytes of weights, gradients and optimizer states, all float32."""
    return 4 * 2 * model.num_params()["total"] + optimizer_bytes(model, buckets)


def peak_memory(device: torch.device) -> int | None:
    """Return the peak memory of this process in bytes: GPU memory since the run began, or on a CPU
    the resident set; None on Windows."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if IS_WINDOWS:
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024


def require_memory(config: GPTConfig, buckets: int, device: torch.device) -> None:
    """Raise UserError if the model's weights, gradients and optimizer states, with `buckets` of
    n-grams, do not fit on the device.

    Checked before they are allocated and filled, which could bring the machine down: memory that is
    reserved but not touched costs nothing.
    """
    try:
        with torch.device("meta"):
            needed = state_bytes(GPT(config), buckets)
        torch.empty(needed, dtype=torch.uint8, device=device)
    except RuntimeError as error:  # includes CUDA's OutOfMemoryError; on the meta device, sizes that overflow
        raise UserError(
            "the model is too large for the memory of this device; use a smaller --config, or a smaller --n_embd, --n_layer"
            f"{', --ngram_buckets' if buckets else ''} or vocabulary"
        ) from error
    if device.type == "cuda":
        torch.cuda.empty_cache()


def forbid_spilling(device: torch.device) -> None:
    """Make allocations beyond the free GPU memory raise OutOfMemoryError on Windows and WSL too.

    Their driver would silently place them in system memory, where training is very slow. A smaller
    per-process memory fraction that is already set stays.
    """
    if device.type != "cuda" or not (IS_WINDOWS or "microsoft" in platform.release().lower()):
        return
    free, total = torch.cuda.mem_get_info(device)
    allowed = max(0, free + torch.cuda.memory_reserved(device) - SPILL_ROOM) / total
    torch.cuda.set_per_process_memory_fraction(min(allowed, torch.cuda.get_per_process_memory_fraction(device)), device)


def choose_device_batch_size(
    wanted: int | str, per_rank: int, sequence_len: int, try_step: Callable[[int], None], bytes_to_come: int, world: World
) -> int:
    """Return the number of sequences per device batch: a divisor of `per_rank`, the smallest over
    all ranks; 0 if not even one sequence fits on a GPU.

    A number in `wanted` is used as it is, up to `per_rank`. On a GPU "auto" runs `try_step(1)` and
    `try_step(2)` (forward and backward of so many sequences) and computes the memory per further
    sequence from their peaks; `bytes_to_come` are kept free for what is allocated later.
    """
    if isinstance(wanted, int):
        return min(wanted, per_rank)
    fits = max(1, CPU_BATCH_TOKENS // sequence_len)
    if world.device.type == "cuda":
        fits = _fits_on_gpu(per_rank, try_step, bytes_to_come, world.device)
    if world.size > 1:
        smallest = torch.tensor(fits, device=world.device)
        dist.all_reduce(smallest, op=dist.ReduceOp.MIN)
        fits = int(smallest)
    return max((n for n in range(1, min(per_rank, fits) + 1) if per_rank % n == 0), default=0)


def _fits_on_gpu(per_rank: int, try_step: Callable[[int], None], bytes_to_come: int, device: torch.device) -> int:
    peaks = []
    try:
        for sequences in range(1, min(per_rank, 2) + 1):
            torch.cuda.reset_peak_memory_stats(device)
            try_step(sequences)
            peaks.append(torch.cuda.max_memory_allocated(device))
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    if len(peaks) < 2:
        return len(peaks)
    one, further = peaks[0], max(1, peaks[1] - peaks[0])
    free, total = torch.cuda.mem_get_info(device)
    allowed = total * torch.cuda.get_per_process_memory_fraction(device)
    usable = MEMORY_FRACTION * min(free + torch.cuda.memory_reserved(device), allowed)
    torch.cuda.empty_cache()
    return 1 + int((usable - one - bytes_to_come) // further)
