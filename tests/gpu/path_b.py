"""Path B, a candidate for the loss of nano_hindi/loss.py: the elementwise pass happens in the
epilogue of the logits matmul, in Triton. profile.py measures it beside the present loss on a GPU,
and check.py compares it with float64. It enters the package when a measurement says so.

A tile of logits goes from the accumulator to u; z itself is never written. Each tile writes its own
row sums of e, which are added in a fixed order, so a given tile size gives the same bits in every
run.
"""

# N tokens, n tokens of a chunk, C width, V vocabulary, c softcap

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import lab  # noqa: F401 - puts the checkout on the path
from nano_hindi import loss
from nano_hindi.errors import UserError

try:
    import triton
    from triton import language as tl
except ImportError:  # PyTorch for CPUs comes without it
    triton = None

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # without a GPU, by Triton's interpreter
V_TILE = 128  # columns of a tile; the row sums have one entry for each
# tokens of a tile, width of a step of the matmul, stages of its pipeline, warps. Compiled for
# Hopper, none spills registers; of the first, three fit on a multiprocessor at once, so that the
# epilogue of one can overlap with the matmul of another
TILES = ((64, 64, 3, 4), (64, 128, 2, 4), (128, 64, 3, 8), (128, 64, 3, 16))
Gradients = tuple[Tensor, Tensor | None, Tensor | None]  # the losses, dX and dW


def cross_entropy(*arguments: Any, **options: Any) -> Tensor:
    """Return what `softcapped_cross_entropy` returns, computed by path B if it needs gradients."""
    own, loss._in_chunks = loss._in_chunks, functools.partial(in_chunks, loss._in_chunks)
    try:
        return loss.softcapped_cross_entropy(*arguments, **options)
    finally:
        loss._in_chunks = own


@torch.no_grad()
def in_chunks(own: Callable[..., Gradients], x: Tensor, weight: Tensor, targets: Tensor, softcap: float, vocab_size: int, *wanted: bool) -> Gradients:
    """Return what `loss._in_chunks` (`own`) returns: with both gradients if one is wanted."""
    if not any(wanted):
        return own(x, weight, targets, softcap, vocab_size)
    if triton is None or not (x.is_cuda or INTERPRETED):
        raise UserError("path B needs a GPU and Triton")
    if x.dtype == torch.float16:
        raise UserError("path B needs bfloat16 or float32")  # for fp16, loss.py scales the gradients
    w = weight[:vocab_size].to(x.dtype)
    losses, grad_x = torch.empty(len(x), device=x.device), torch.empty_like(x)
    grad_weight = torch.zeros(weight.shape, device=x.device)
    n = loss._chunk_tokens(len(x), vocab_size, x)
    for chunk in (slice(start, start + n) for start in range(0, len(x), n)):
        is_target = (targets[chunk] != loss.IGNORED)[:, None]
        index = targets[chunk, None].masked_fill(~is_target, 0)
        t = torch.tanh((x[chunk].float() * w[index[:, 0]].float()).sum(1, keepdim=True) / softcap)  # of the target
        u, total = logits_pass(x[chunk], w, softcap)
        u.scatter_(1, index, (((softcap * t).exp() - total) * (1 - t * t)).to(u.dtype))
        factor = is_target / total
        torch.mm(u, w, out=grad_x[chunk]).mul_(factor)
        loss._add_product_(grad_weight[:vocab_size], u, (x[chunk] * factor).to(x.dtype))
        losses[chunk] = (total.log() - softcap * t).masked_fill(~is_target, 0)[:, 0]
    return losses, grad_x, grad_weight


def logits_pass(x: Tensor, w: Tensor, softcap: float) -> tuple[Tensor, Tensor]:
    """Return e (1 - t^2) (n, V) in x's dtype and S (n, 1) in float32, of x (n, C) and w (V, C)."""
    (n, C), V = x.shape, len(w)
    u = x.new_empty(n, V)
    sums = x.new_empty(triton.cdiv(V, V_TILE), n, dtype=torch.float32)
    _logits_pass_kernel()[lambda tile: (triton.cdiv(n, tile["N_TILE"]) * len(sums),)](x, w, u, sums, softcap, n, V, C)
    return u, sums.sum(0)[:, None]


@functools.cache
def _logits_pass_kernel() -> Any:
    configs = [
        triton.Config({"N_TILE": n, "V_TILE": V_TILE, "C_TILE": C, "GROUP": 8}, num_stages=stages, num_warps=warps) for n, C, stages, warps in TILES
    ]
    return triton.autotune(configs[:1] if INTERPRETED else configs, key=["n", "V", "C"])(triton.jit(_logits_pass))


def _logits_pass(
    x, w, u, sums, softcap, n, V, C: tl.constexpr, N_TILE: tl.constexpr, V_TILE: tl.constexpr, C_TILE: tl.constexpr, GROUP: tl.constexpr
):
    # neighbours share GROUP tiles of w, which stay in the L2 cache while all tokens pass by
    tiles_n, tiles_v = tl.cdiv(n, N_TILE), tl.cdiv(V, V_TILE)
    group, place = tl.program_id(0) // (GROUP * tiles_n), tl.program_id(0) % (GROUP * tiles_n)
    width = min(tiles_v - group * GROUP, GROUP)
    i, j = place // width, group * GROUP + place % width
    rows, columns = (i * N_TILE + tl.arange(0, N_TILE))[:, None], (j * V_TILE + tl.arange(0, V_TILE))[None, :]

    z = tl.zeros((N_TILE, V_TILE), tl.float32)
    for start in range(0, C, C_TILE):
        k = start + tl.arange(0, C_TILE)
        a = tl.load(x + rows * C + k[None, :], mask=(rows < n) & (k[None, :] < C), other=0.0)
        b = tl.load(w + columns * C + k[:, None], mask=(columns < V) & (k[:, None] < C), other=0.0)
        z = tl.dot(a, b, z, input_precision="ieee")

    d = 2 / (tl.exp(z * (2 / softcap)) + 1)  # 1 - t; an infinite exp gives the right limit
    e = tl.where(columns < V, tl.exp(softcap * (1 - d)), 0.0)
    tl.store(sums + j * n + rows, tl.sum(e, 1, keep_dims=True), mask=rows < n)
    tl.store(u + rows.to(tl.int64) * V + columns, (e * (d * (2 - d))).to(u.dtype.element_ty), mask=(rows < n) & (columns < V))
