"""Attention with PyTorch's scaled_dot_product_attention (SDPA), which runs everywhere.

It is the last of attention_backends.py, and the reference of flash_attention's probe.

A window is computed in blocks of queries, each against its own slice of keys: never a T x T mask.
`left` is FlashAttention's: a query sees itself and the `left` keys before it; -1 means all of them.
"""

# B batch, T queries, S slots of a cache, N keys, H query heads, G key/value heads, R = H/G, D head
# width

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.backends.cuda import cudnn_sdp_enabled, enable_cudnn_sdp
from torch.nn.functional import scaled_dot_product_attention

BLOCK = 128  # queries that share one slice of keys: at a window of 256, 64 measured the same and 256 slower


@contextlib.contextmanager
def without_cudnn() -> Iterator[None]:
    """Compute attention with PyTorch's other kernels within the block.

    With a cache, the number of keys differs for every token. cuDNN, which PyTorch prefers on
    Hopper, builds a plan for each number: 55 ms per token (tests/gpu, H200). PyTorch's
    `sdpa_kernel` takes ten times as long as this, 7 % of the time of a token of `tiny`.
    """
    was_enabled = cudnn_sdp_enabled()
    enable_cudnn_sdp(False)
    try:
        yield
    finally:
        enable_cudnn_sdp(was_enabled)


def attend(q: Tensor, k: Tensor, v: Tensor, left: int) -> Tensor:
    """Compute causal attention within a sequence: q (B, T, H, D), k, v (B, T, G, D) ->
    (B, T, H, D). Differentiable."""
    if left >= 0:
        return _attend_window(q, k, v, left, 0)
    # enable_gqa=True may silently fall back to the O(T^2) math kernel if flash is not built: give
    # each query head its own K and V
    k, v = (expand_heads(x, q.shape[2]).transpose(1, 2) for x in (k, v))
    return scaled_dot_product_attention(q.transpose(1, 2), k, v, is_causal=True).transpose(1, 2)


def expand_heads(x: Tensor, n_head: int) -> Tensor:  # (B, N, G, D) -> (B, N, H, D)
    B, N, G, D = x.shape
    return x if n_head == G else x[:, :, :, None].expand(B, N, G, n_head // G, D).reshape(B, N, n_head, D)


def _fold_heads(q: Tensor, G: int) -> Tensor:
    """Reshape (B, T, H, D) to (B, G, T*R, D): the R query heads of a K/V head become more queries
    of it, so K and V are read once and not copied."""
    B, T, H, D = q.shape
    return q.reshape(B, T, G, H // G, D).transpose(1, 2).reshape(B, G, T * (H // G), D)


def _unfold_heads(out: Tensor, T: int) -> Tensor:  # (B, G, T*R, D) -> (B, T, H, D)
    B, G, TR, D = out.shape
    return out.view(B, G, T, TR // T, D).transpose(1, 2).reshape(B, T, G * (TR // T), D)


def _attend_window(q: Tensor, k: Tensor, v: Tensor, left: int, offset: int) -> Tensor:
    """Attend in blocks of queries, each to its own slice of keys: O(T * window) time and memory,
    the largest mask R*BLOCK x (left + BLOCK).

    q (B, T, H, D) has key positions offset..offset+T of k, v (B, offset+T, G, D). All blocks share
    one mask, since only distances matter.
    """
    T, G = q.shape[1], k.shape[2]
    R = q.shape[2] // G
    left = min(left, offset + T)
    reach = -(-left // BLOCK) * BLOCK  # slices begin at multiples of BLOCK before their block: aligned for the GPU, and joined from whole chunks
    rows = min(BLOCK, T)
    distance = torch.arange(reach, reach + rows, device=q.device)[:, None] - torch.arange(reach + rows, device=q.device)
    mask = torch.zeros(distance.shape, dtype=q.dtype, device=q.device).masked_fill((distance < 0) | (distance > left), float("-inf"))
    mask = mask.repeat_interleave(R, 0)  # (rows*R, reach+rows)

    keys, values = (_slices(x.transpose(1, 2), offset) for x in (k, v))
    outs = []
    for i, q_block in enumerate(_fold_heads(q, G).split(BLOCK * R, 2)):
        first = offset + i * BLOCK  # the key position of the block's first query
        start, end = max(0, first - reach), first + q_block.shape[2] // R
        block_mask = mask[: q_block.shape[2], start - first + reach : end - first + reach]
        if offset:  # then a row may begin at any address, but a GPU kernel reads it 16 bytes at a time
            block_mask = block_mask.contiguous()
        outs.append(scaled_dot_product_attention(q_block, keys(start, end), values(start, end), attn_mask=block_mask))
    return _unfold_heads(torch.cat(outs, 2), T)


def _slices(x: Tensor, offset: int) -> Callable[[int, int], Tensor]:
    """Return a function (start, end) -> x[:, :, start:end].

    For training it concatenates whole chunks: the gradient of a plain slice is as long as all of x,
    and one per block would make that O(T^2).
    """
    if offset or not (torch.is_grad_enabled() and x.requires_grad):
        return lambda start, end: x[:, :, start:end]
    chunks = x.split(BLOCK, 2)
    return lambda start, end: torch.cat(chunks[start // BLOCK : -(-end // BLOCK)], 2)


def attend_cached(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    k: Tensor | None,
    v: Tensor | None,
    cache_seqlens: int | Tensor,
    left: int,
    attend_prompt: Callable[[Tensor, Tensor, Tensor, int], Tensor] = attend,
) -> Tensor:
    """Write k, v (B, N, G, D) into the caches (B, S, G, D) at cache_seqlens, then attend with q
    (B, T, H, D), which reads only the window's keys.

    `attend_prompt` computes attention for a prompt that starts an empty cache.
    """
    left = left if left >= 0 else k_cache.shape[1]  # no key is further back
    if isinstance(cache_seqlens, Tensor):
        with without_cudnn():
            return _attend_rows(q, k_cache, v_cache, k, v, cache_seqlens, left)
    T, end = q.shape[1], cache_seqlens
    if k is not None and v is not None:
        end += k.shape[1]
        k_cache[:, cache_seqlens:end] = k
        v_cache[:, cache_seqlens:end] = v
    if end == T:  # a prompt into an empty cache
        return attend_prompt(q, k_cache[:, :end], v_cache[:, :end], left if left < end - 1 else -1)
    start = max(0, end - T - left)
    k_seen, v_seen = k_cache[:, start:end], v_cache[:, start:end]
    with without_cudnn():
        if T > 1:
            return _attend_window(q, k_seen, v_seen, left, end - T - start)
        out = scaled_dot_product_attention(_fold_heads(q, k_cache.shape[2]), k_seen.transpose(1, 2), v_seen.transpose(1, 2))
        return _unfold_heads(out, 1)


def _attend_rows(q: Tensor, k_cache: Tensor, v_cache: Tensor, k: Tensor | None, v: Tensor | None, cache_seqlens: Tensor, left: int) -> Tensor:
    """Compute attend_cached for rows of different lengths, given as a tensor (B,) on the device
    that is never read back."""
    (B, T), (S, G), device = q.shape[:2], k_cache.shape[1:3], q.device
    R = q.shape[2] // G
    row = torch.arange(B, device=device)[:, None]
    if k is not None and v is not None:
        slots = cache_seqlens.long()[:, None] + torch.arange(k.shape[1], device=device)
        k_cache[row, slots] = k
        v_cache[row, slots] = v
        cache_seqlens = cache_seqlens + k.shape[1]
    position = cache_seqlens.long()[:, None] - T + torch.arange(T, device=device)  # (B, T): the key position of each query
    outs = []
    for pos, q_block in zip(position.split(BLOCK, 1), _fold_heads(q, G).split(BLOCK * R, 2), strict=True):
        span = left + pos.shape[1]  # keys that a block can see
        if span >= S:
            key_at, k_seen, v_seen = torch.arange(S, device=device).expand(B, S), k_cache, v_cache
        else:
            key_at = pos[:, :1] - left + torch.arange(span, device=device)  # (B, span); those before 0 are masked
            k_seen, v_seen = k_cache[row, key_at.clamp(min=0)], v_cache[row, key_at.clamp(min=0)]
        distance = pos[:, :, None] - key_at[:, None, :]
        visible = (distance >= 0) & (key_at >= 0)[:, None, :] & (distance <= left)
        mask = visible.repeat_interleave(R, 1)[:, None]  # (B, 1, T*R, N)
        outs.append(scaled_dot_product_attention(q_block, k_seen.transpose(1, 2), v_seen.transpose(1, 2), attn_mask=mask))
    return _unfold_heads(torch.cat(outs, 2), T)
