"""Choose the device and the compute dtype, detect an Intel CPU, test whether torch.compile works,
and escape control characters in text from outside.

torch is imported inside the functions, so that `--help` answers at once.
"""

from __future__ import annotations

import functools
import os
import platform
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nano_hindi.errors import UserError

if TYPE_CHECKING:
    import torch

IGNORED = -1  # target of a token that is left out of the loss, such as padding
IS_WINDOWS = os.name == "nt"
ROOT = Path(__file__).resolve().parent.parent  # of the repository
# what a terminal would obey: control characters but newline and tab, the embeddings, overrides and
# isolates of bidirectional text; and surrogates, which cannot be printed
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    """Return `text` with control characters as escapes, such as \\x1b or \\u202e. Newline, tab, ZWJ
    and ZWNJ stay.

    For everything from outside that is printed for people: generated text, file names, tokens.
    """
    return _CONTROLS.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:  # how Python represents a byte of a file name that is not UTF-8
        code -= 0xDC00
    elif code >= 0x80:
        return f"\\u{code:04x}"
    return f"\\x{code:02x}"


def has_display() -> bool:
    """Return whether a window could open here."""
    return sys.platform in ("win32", "darwin") or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))


def pick_device(name: str | None, local_rank: int = 0) -> torch.device:
    """Return the device to compute on and make it current. Raises UserError if it is not
    available."""
    import torch

    kind = name or ("cuda" if torch.cuda.is_available() else "cpu")
    if kind == "cpu":
        return torch.device("cpu")
    if kind != "cuda":
        raise UserError(f"the device {kind!r} is not supported; use cpu or cuda")
    if not torch.cuda.is_available():
        raise UserError("no CUDA device is usable here (is the driver installed, and this PyTorch a CUDA build?); use --device cpu")
    if local_rank >= torch.cuda.device_count():
        raise UserError(
            f"local rank {local_rank} has no GPU: this machine has {torch.cuda.device_count()}; start torchrun with that --nproc_per_node"
        )
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device


@functools.cache
def is_intel_cpu(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Return whether the CPU is Intel's, by Linux's file `cpuinfo` or, on Windows, its name."""
    try:
        description = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        description = platform.processor()
    return "GenuineIntel" in description


def compute_dtype(device: torch.device, name: str = "auto") -> torch.dtype:
    """Return the dtype of the matmuls: the one called `name`, or for "auto" bf16 from compute
    capability 8.0, fp16 (with loss scaling) on 7.x, fp32 elsewhere.

    `torch.cuda.is_bf16_supported()` is not used: it is also true on a T4, where bf16 is emulated
    and slow.
    """
    import torch

    if name != "auto":
        return getattr(torch, name)
    if device.type != "cuda":
        return torch.float32
    major, _ = torch.cuda.get_device_capability(device)
    return torch.bfloat16 if major >= 8 else torch.float16 if major == 7 else torch.float32


def can_compile(device: torch.device) -> str | None:
    """Return None if torch.compile works on `device`, else a short reason. Compiles a small
    function to find out."""
    import torch

    def probe(x: torch.Tensor) -> torch.Tensor:
        return (x * 2 + 1).relu().sum()

    try:
        x = torch.ones(64, device=device, requires_grad=True)  # not random: the generator has the state that a checkpoint has restored
        torch.compile(probe)(x).backward()  # imports the compiler, which may fail too
    except Exception as error:  # noqa: BLE001 - a missing compiler or Triton raises many exception types
        return compile_failure(error)
    return None


def compile_failure(error: Exception) -> str:
    """Return in one line why torch.compile failed."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.rstrip().endswith("raised:")]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"[:160]


def print_compile_failure(error: Exception) -> None:
    print(f"notice: torch.compile failed ({compile_failure(error)}); continuing without it", flush=True)


def is_out_of_memory(error: Exception) -> bool:
    """Return whether `error` means that the device ran out of memory: PyTorch's own error, on a CPU
    too, or one of Triton, cuBLAS or a compiler."""
    import torch

    of_others = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "DefaultCPUAllocator")
    return isinstance(error, torch.cuda.OutOfMemoryError) or any(words in str(error) for words in of_others)


def common_prefix_length(a: Sequence, b: Sequence) -> int:
    """Return the number of items at the beginning of `a` and `b` that are equal."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
