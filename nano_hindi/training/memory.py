"""The memory of a run: what it needs, what there is, and how many sequences the device takes at once."""

from __future__ import annotations

import platform
from collections.abc import Callable

import torch
import torch.distributed as dist

from nano_hindi.common import IS_WINDOWS
from nano_hindi.config import GPTConfig
from nano_hindi.distributed import World
from nano_hindi.errors import UserError
from nano_hindi.model import GPT

CPU_BATCH_TOKENS = 8192  # on a CPU more at once gains nothing: the loss and the attention work in chunks anyway
MEMORY_SHARE = 0.9  # of the free device memory; the rest is fragmentation and what the libraries take for themselves
SPILL_ROOM = 2**28  # bytes of it that stay free of PyTorch's allocator on Windows: kernels and libraries load into them


def activation_bytes(config: GPTConfig, dtype: torch.dtype) -> int:
    """Bytes that the trunk keeps for its backward, per sequence, without compile. Counted on the meta device, where tensors have shapes but no memory."""
    with torch.device("meta"):
        model = GPT(config)
        model.compute_dtype = dtype
        parameters = {p.untyped_storage()._cdata for p in model.parameters()}
        kept: dict[int, torch.Tensor] = {}

        def keep(tensor):
            kept[tensor.untyped_storage()._cdata] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            model.trunk(torch.zeros(1, config.sequence_len, dtype=torch.int64))
    return sum(t.untyped_storage().nbytes() for key, t in kept.items() if key not in parameters)


def optimizer_bytes(params: dict[str, int]) -> int:
    """Bytes of the optimizers' states: a momentum for Muon's matrices, two moments for the rest. `params` is `GPT.num_params()`."""
    return 4 * (params["blocks"] + 2 * (params["total"] - params["blocks"]))


def state_bytes(params: dict[str, int]) -> int:
    """Bytes of weights, gradients and optimizer states, all float32."""
    return 4 * 2 * params["total"] + optimizer_bytes(params)


def peak_memory(device: torch.device) -> int | None:
    """The most bytes that this process has held: of the GPU since the run began, else of the computer's memory; None where that is not known (Windows)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if IS_WINDOWS:
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024


def require_memory(config: GPTConfig, device: torch.device) -> None:
    """Raises UserError where not even the model's weights, gradients and optimizer states fit the device; to fill them first could take the machine down.

    Memory that is asked for and not touched costs nothing.
    """
    try:
        with torch.device("meta"):
            needed = state_bytes(GPT(config).num_params())
        torch.empty(needed, dtype=torch.uint8, device=device)
    except RuntimeError as error:  # OutOfMemoryError of CUDA is one too; on the meta device: sizes that no number holds
        raise UserError(
            "the model is too large for the memory of this device; use a smaller --config, or a smaller --n_embd, --n_layer or vocabulary"
        ) from error
    if device.type == "cuda":
        torch.cuda.empty_cache()


def forbid_spilling(device: torch.device) -> None:
    """Let what goes beyond the free memory of a GPU raise OutOfMemoryError also on Windows, and Linux within it (WSL), whose driver would quietly move it to
    the memory of the system, where training crawls. A smaller fraction that is set already stays."""
    if device.type != "cuda" or not (IS_WINDOWS or "microsoft" in platform.release().lower()):
        return
    free, total = torch.cuda.mem_get_info(device)
    allowed = max(0, free + torch.cuda.memory_reserved(device) - SPILL_ROOM) / total
    torch.cuda.set_per_process_memory_fraction(min(allowed, torch.cuda.get_per_process_memory_fraction(device)), device)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether the device's memory ran out: PyTorch's own error, or what Triton, cuBLAS and a compiler around them make of it."""
    return isinstance(error, torch.cuda.OutOfMemoryError) or any(words in str(error) for words in ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED"))


def choose_device_batch_size(
    wanted: int | str, per_rank: int, sequence_len: int, try_step: Callable[[int], None], bytes_to_come: int, world: World
) -> int:
    """Sequences that the device takes at once: a divisor of `per_rank`, the smallest of all ranks.

    A number that is `wanted` is taken as it is. On a GPU "auto" runs `try_step(1)` and `try_step(2)` (forward and backward of so many sequences), and
    reads from their peak memory what a further sequence costs; `bytes_to_come` are kept free for the optimizers. Raises UserError where not even one fits.
    """
    if wanted != "auto":
        return min(wanted, per_rank)
    fits = max(1, CPU_BATCH_TOKENS // sequence_len)
    if world.device.type == "cuda":
        fits = _fits_on_gpu(per_rank, try_step, bytes_to_come, world.device)
    if world.size > 1:
        smallest = torch.tensor(fits, device=world.device)
        dist.all_reduce(smallest, op=dist.ReduceOp.MIN)
        fits = int(smallest)
    if fits < 1:
        raise UserError(
            "not even one sequence fits into the device's memory; use a smaller --config or a shorter --sequence_len, or close other programs that use the GPU"
        )
    return max(n for n in range(1, min(per_rank, fits) + 1) if per_rank % n == 0)


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
    usable = MEMORY_SHARE * min(free + torch.cuda.memory_reserved(device), allowed)
    torch.cuda.empty_cache()
    return 1 + int((usable - one - bytes_to_come) // further) if usable > one + bytes_to_come else 0
