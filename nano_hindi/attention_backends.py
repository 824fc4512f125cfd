"""The attention backends: FlashAttention-3, PyTorch's variable-length kernel, SDPA.

A loader raises if its backend cannot run on the device. `flash_attention.select_backend` probes
what it returns.
"""

# B batch, T queries, H query heads, D head width

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nano_hindi import sdpa_attention


@dataclass(frozen=True)
class Backend:
    """An attention backend. Programs print `str(backend)` at startup."""

    name: str
    attend: Callable[..., Tensor]  # (q, k, v, left) -> (B, T, H, D)
    attend_cached: Callable[..., Tensor]  # (q, k_cache, v_cache, k, v, cache_seqlens, left) -> (B, T, H, D)
    may_exit: bool = False  # of FA3 only: a failed kernel launch may end the process, so a child process probes it first (fa3_child.py)
    reason: str = ""  # why the backends before it were rejected, or that it was forced

    def __str__(self) -> str:
        return self.name + (f" ({self.reason})" if self.reason else "")


class UnusableError(Exception):
    """Raised if a backend cannot run here; the message is a short reason."""


def _require_cuda(device: torch.device, dtype: torch.dtype, majors: range, dtypes: tuple[torch.dtype, ...]) -> int:
    """Return the major compute capability. Raises UnusableError unless `device` is a CUDA GPU with
    one of `majors`, and `dtype` one of `dtypes`."""
    if device.type != "cuda" or torch.version.cuda is None:
        raise UnusableError("no CUDA")
    major, minor = torch.cuda.get_device_capability(device)
    if major not in majors:
        raise UnusableError(f"not for compute capability {major}.{minor}")
    if dtype not in dtypes:
        raise UnusableError(f"does not take {str(dtype).removeprefix('torch.')}")
    return major


# ---- varlen: PyTorch's own flash kernel, which supports windows since 2.11


def varlen_backend(varlen_attn: Callable[..., Any]) -> Backend:
    takes_gqa = "enable_gqa" in inspect.signature(varlen_attn).parameters

    def attend(q: Tensor, k: Tensor, v: Tensor, left: int) -> Tensor:
        B, T, H, D = q.shape
        if not takes_gqa:
            k, v = sdpa_attention.expand_heads(k, H), sdpa_attention.expand_heads(v, H)
        bounds = torch.arange(0, (B + 1) * T, T, dtype=torch.int32, device=q.device)
        packed = [x.reshape(B * T, -1, D) for x in (q, k, v)]
        return varlen_attn(*packed, bounds, bounds, T, T, window_size=(left, 0), **({"enable_gqa": True} if takes_gqa else {})).view(B, T, H, D)

    # a single query with a cache needs no mask, and SDPA needs no packing
    return Backend("varlen", attend, functools.partial(sdpa_attention.attend_cached, attend_prompt=attend))


def _load_varlen(device: torch.device, dtype: torch.dtype) -> Backend:
    _require_cuda(device, dtype, range(8, 100), (torch.bfloat16, torch.float16))
    if not torch.backends.cuda.is_flash_attention_available():
        raise UnusableError("this PyTorch is built without flash attention")
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        raise UnusableError("this PyTorch has no varlen_attn") from None
    if "window_size" not in inspect.signature(varlen_attn).parameters:
        raise UnusableError("this PyTorch's varlen_attn has no window_size")
    return varlen_backend(varlen_attn)


# ---- FlashAttention-3


def fa3_backend(module: Any) -> Backend:
    """Return the backend for `module`, which has FA3's functions: the package flash_attn_interface,
    or the hub's kernel."""
    attend_func, attend_with_cache = module.flash_attn_func, module.flash_attn_with_kvcache

    def output(result: Any) -> Tensor:
        return result[0] if isinstance(result, tuple) else result  # older builds return (out, lse)

    def attend(q: Tensor, k: Tensor, v: Tensor, left: int) -> Tensor:
        return output(attend_func(q, k, v, causal=True, window_size=(left, 0)))

    def attend_cached(
        q: Tensor, k_cache: Tensor, v_cache: Tensor, k: Tensor | None, v: Tensor | None, cache_seqlens: int | Tensor, left: int
    ) -> Tensor:
        return output(attend_with_cache(q, k_cache, v_cache, k=k, v=v, cache_seqlens=cache_seqlens, causal=True, window_size=(left, 0)))

    return Backend("fa3", attend, attend_cached)


def _load_fa3(device: torch.device, dtype: torch.dtype) -> Backend:
    major = _require_cuda(device, dtype, range(9, 100), (torch.bfloat16,))
    # Most builds have kernels only for Hopper (sm90a), which no later GPU runs, and a build does
    # not list its architectures.
    return dataclasses.replace(fa3_backend(fa3_module()), may_exit=major > 9)


def fa3_module() -> Any:
    """Return the module with FA3's functions: the package flash_attn_interface, or the hub's
    kernel.

    Raises UnusableError if neither is installed.
    """
    try:
        import flash_attn_interface as module
    except ImportError:
        try:
            from kernels import get_kernel
        except ImportError:
            raise UnusableError("not installed") from None
        version = {"version": 1} if "version" in inspect.signature(get_kernel).parameters else {}
        module = get_kernel("kernels-community/flash-attn3", **version)
    return module


# ---- SDPA


def _load_sdpa(device: torch.device, dtype: torch.dtype) -> Backend:
    return Backend("sdpa", sdpa_attention.attend, sdpa_attention.attend_cached)


LOADERS = {"fa3": _load_fa3, "varlen": _load_varlen, "sdpa": _load_sdpa}  # in order of preference; a new backend goes here
