"""Attention behind one interface, and the choice of its backend on a device.

The two functions of `flash_attn` are called like FlashAttention-3's, with fewer arguments
(github.com/Dao-AILab/flash-attention, hopper/). Attention is always causal.
`window_size = (left, 0)`: a query sees itself and the `left` keys before it; left = -1: all of
them.

Nothing is probed at import: the first call on a device calls `select_backend`, which caches its
result.
"""

# B batch, T queries, S slots of a cache, N keys, H query heads, G key/value heads, D head width

from __future__ import annotations

import dataclasses
import functools
import json
import os
import sys
from types import SimpleNamespace

import torch
from torch import Tensor

from nano_hindi import fa3_child
from nano_hindi.attention_backends import LOADERS, Backend, UnusableError, fa3_backend, fa3_module
from nano_hindi.errors import UserError

PROBE_TOLERANCE = 0.03  # largest relative error of a probe; bf16 rounding causes 0.005, a window off by one more than 0.1


# ---- the interface


def _flash_attn_func(q: Tensor, k: Tensor, v: Tensor, causal: bool = True, window_size: tuple[int, int] = (-1, -1)) -> Tensor:
    """Compute causal attention within a sequence. Differentiable. Raises ValueError for unsupported
    shapes or windows.

    q (B, T, H, D); k, v (B, T, G, D), each K/V head shared by H/G adjacent query heads; returns
    (B, T, H, D). Scores are scaled by D ** -0.5.
    """
    _check(q, k, v, causal, window_size)
    if q.shape[1] != k.shape[1]:
        raise ValueError(f"{q.shape[1]} queries and {k.shape[1]} keys: flash_attn_func needs the same number of both")
    wants_grad = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
    left = window_size[0] if window_size[0] < k.shape[1] - 1 else -1  # one value for "all keys"
    backend = select_backend(q.device, q.dtype, q.shape[3], q.shape[2], k.shape[2], wants_grad)
    return backend.attend(q, k, v, left)


def _flash_attn_with_kvcache(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    k: Tensor | None = None,
    v: Tensor | None = None,
    cache_seqlens: int | Tensor | None = None,
    causal: bool = True,
    window_size: tuple[int, int] = (-1, -1),
) -> Tensor:
    """Write k, v into the caches in place after the first `cache_seqlens` keys, then attend to all
    keys so far. Forward only.

    q (B, T, H, D); caches (B, S, G, D); k, v (B, T, G, D) or None if the cache holds them already;
    cache_seqlens an int (no readback from the device) or an int32 tensor (B,), None for a full
    cache. The last query has the position of the last key. Returns (B, T, H, D). Raises ValueError
    if the cache is too short, RuntimeError if a gradient is required.
    """
    _check(q, k_cache, v_cache, causal, window_size)
    if (k is None) != (v is None):
        raise ValueError("flash_attn_with_kvcache needs both of k and v, or neither")
    if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in (q, k_cache, k, v)):
        raise RuntimeError("flash_attn_with_kvcache computes no gradients; call it under torch.no_grad() or torch.inference_mode()")
    if cache_seqlens is None:
        cache_seqlens = k_cache.shape[1]
    if not isinstance(cache_seqlens, Tensor):
        new = 0 if k is None else k.shape[1]
        if cache_seqlens + new > k_cache.shape[1]:
            raise ValueError(f"{cache_seqlens} + {new} keys do not fit into a cache of {k_cache.shape[1]}")
        if cache_seqlens + new < q.shape[1]:
            raise ValueError(f"{q.shape[1]} queries but only {cache_seqlens + new} keys in the cache")
    backend = select_backend(q.device, q.dtype, q.shape[3], q.shape[2], k_cache.shape[2], training=False)
    return backend.attend_cached(q, k_cache, v_cache, k, v, cache_seqlens, window_size[0])


flash_attn = SimpleNamespace(flash_attn_func=_flash_attn_func, flash_attn_with_kvcache=_flash_attn_with_kvcache)


def _check(q: Tensor, k: Tensor, v: Tensor, causal: bool, window_size: tuple[int, int]) -> None:
    if not causal or window_size[0] < -1 or window_size[1] not in (-1, 0):
        raise ValueError(f"only causal attention with window_size (left, 0) or (-1, -1) is supported, not causal={causal}, window_size={window_size}")
    if q.dim() != 4 or k.shape != v.shape or q.shape[0] != k.shape[0] or q.shape[3] != k.shape[3] or q.shape[2] % k.shape[2] != 0:
        raise ValueError(f"expected q (B, T, H, D) and k, v (B, N, G, D) with G dividing H, not {tuple(q.shape)}, {tuple(k.shape)}, {tuple(v.shape)}")


# ---- the choice


def select_backend(
    device: torch.device | str, dtype: torch.dtype, head_dim: int = 64, n_head: int = 6, n_kv_head: int = 2, training: bool = True
) -> Backend:
    """Return the first backend that passes a tiny probe with these shapes on `device`: forward, and
    also backward for training. Probes once.

    NANO_HINDI_ATTENTION, a name in LOADERS, forces one, except on the meta device, where only
    shapes count. Raises UserError for an unknown name, or a forced backend that does not work here.
    """
    device = torch.device(device)
    if device == torch.device("cuda"):  # without an index
        device = torch.device("cuda", torch.cuda.current_device())
    forced = os.environ.get("NANO_HINDI_ATTENTION") if device.type != "meta" else None
    return _select(forced or None, device, dtype, head_dim, n_head, n_kv_head, training)


@functools.cache
def _select(forced: str | None, device: torch.device, dtype: torch.dtype, head_dim: int, n_head: int, n_kv_head: int, training: bool) -> Backend:
    if forced is not None and forced not in LOADERS:
        raise UserError(f"NANO_HINDI_ATTENTION={forced} names no attention backend; choose one of {', '.join(LOADERS)}, or unset it")
    rejected = []
    for name in [forced] if forced else LOADERS:
        try:
            backend = LOADERS[name](device, dtype)
            if backend.may_exit and (reason := fa3_child.probe_in_child(device, dtype, head_dim, n_head, n_kv_head, training)):
                raise UnusableError(reason)
            if name != "sdpa":  # sdpa is the reference that the others are compared with
                _probe(backend, device, dtype, head_dim, n_head, n_kv_head, training)
        except Exception as error:  # noqa: BLE001 - a kernel that does not support the GPU raises many exception types
            rejected.append(f"{name}: {_short_reason(error)}")
        else:
            if backend.may_exit and training:  # probe for evaluation now: later, training fills the memory that the child needs
                _select(forced, device, dtype, head_dim, n_head, n_kv_head, False)
            return dataclasses.replace(backend, reason="forced by NANO_HINDI_ATTENTION" if forced else "; ".join(rejected))
    raise UserError(f"NANO_HINDI_ATTENTION={forced} does not work here ({rejected[0]}); unset it, or set it to sdpa")


def _short_reason(error: Exception) -> str:
    """Return why a backend cannot be used, without line breaks."""
    if isinstance(error, UnusableError):
        return str(error)
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"[:120]


def _probe(backend: Backend, device: torch.device, dtype: torch.dtype, head_dim: int, n_head: int, n_kv_head: int, training: bool) -> None:
    """Compare the backend with SDPA in float32, on tiny shapes. Raises what the kernel raises, or
    UnusableError if the results differ."""
    generator = torch.Generator().manual_seed(0)  # does not change the run's random state

    def random(n: int, heads: int) -> Tensor:
        return torch.randn(2, n, heads, head_dim, generator=generator).to(device, dtype)

    def compare(what: str, got: Tensor, expected: Tensor) -> None:
        error = ((got.float() - expected).norm() / expected.norm()).item()
        if not error <= PROBE_TOLERANCE:
            raise UnusableError(f"wrong {what} in the probe (relative error {error:.2g})")

    with torch.inference_mode(False), torch.set_grad_enabled(training):
        reference = LOADERS["sdpa"](device, torch.float32)
        for left in (-1, 40):
            q, k, v, grad_output = (random(160, heads) for heads in (n_head, n_kv_head, n_kv_head, n_head))
            exact, rounded = ([x.detach().to(kind).requires_grad_(training) for x in (q, k, v)] for kind in (torch.float32, dtype))
            expected, got = reference.attend(*exact, left), backend.attend(*rounded, left)
            compare("output", got, expected)
            if training:
                expected_gradients = torch.autograd.grad(expected, exact, grad_output.float())
                for name, *gradients in zip("qkv", torch.autograd.grad(got, rounded, grad_output), expected_gradients, strict=True):
                    compare(f"gradient of {name}", *gradients)
                continue
            for n in (1, 24):
                q, k, v = (random(n, heads) for heads in (n_head, n_kv_head, n_kv_head))
                k_cache, v_cache = (random(160, n_kv_head) for _ in range(2))
                inputs = (q, k_cache, v_cache, k, v)
                expected = reference.attend_cached(*(x.float() for x in inputs), 100, left)
                compare("output with a cache", backend.attend_cached(*inputs, 100, left), expected)
                compare("key in the cache", k_cache[:, 100 : 100 + n], k.float())
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def probe_fa3(device: torch.device, dtype: torch.dtype, head_dim: int, n_head: int, n_kv_head: int, training: bool) -> str:
    """Probe FA3 in this process, on any GPU. Return why it cannot be used, "" if it can. Called in
    the child process of `fa3_child`."""
    try:
        if device.type == "cuda":
            torch.cuda.set_device(device)  # so that no memory is taken on GPU 0
        _probe(fa3_backend(fa3_module()), device, dtype, head_dim, n_head, n_kv_head, training)
    except Exception as error:  # noqa: BLE001 - as in `_select`
        return _short_reason(error)
    return ""


if __name__ == "__main__":  # the child process of `fa3_child`
    device, dtype, *shapes = json.loads(sys.argv[1])
    print(fa3_child.VERDICT + probe_fa3(torch.device(device), getattr(torch, dtype), *shapes))
