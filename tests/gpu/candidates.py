"""Two candidates for the loss of nano_hindi/loss.py. profile.py measures them beside it on a GPU,
and check.py compares them with float64. One enters the package when a measurement says so.

B: the elementwise pass happens in the epilogue of the logits matmul, in Triton. A tile of logits
goes from the accumulator to u; z itself is never written. Each tile writes its own row sums of e,
which are added in a fixed order, so a given tile size gives the same bits in every run.

fp8: dX and dW are scaled fp8 matmuls; the logits stay in the compute dtype. Of u, a target's entry
has most of the norm and thousands of small entries have the rest: e5m2 has the range for them,
e4m3 would round a probability of 1e-5 to zero. e5m2's two bits of mantissa would cost 4 % of the
gradients at the target's entry, so each row is divided by that entry, which makes it exactly -1.
The divisor multiplies dX's row and x's row, and all rows share one scale. w and x are e4m3, with
one scale each: they need the third bit and little range. Against float64 that leaves 2.7 %, which
comes from w and x; small runs learn as without it (docs/LOG.md).
"""

# N tokens, n tokens of a chunk, C width, V vocabulary, c softcap

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
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
U_SCALE = 2.0**9  # of u in e5m2, whose target's entry is -1 and whose others are at most 64: 2^15 fits
OWN = loss._in_chunks  # of the package


@contextlib.contextmanager
def in_use(name: str | None) -> Iterator[None]:
    """Let `softcapped_cross_entropy` compute its gradients with a candidate; None: with its own
    code."""
    before = loss._in_chunks
    if name is not None:
        loss._in_chunks = functools.partial(in_chunks, CANDIDATES[name])
    try:
        yield
    finally:
        loss._in_chunks = before


@torch.no_grad()
def in_chunks(
    candidate: Callable[[Tensor, float], Callable[..., Tensor]],
    x: Tensor,
    weight: Tensor,
    targets: Tensor,
    softcap: float,
    vocab_size: int,
    *wanted: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return what `loss._in_chunks` returns: with both gradients if one is wanted."""
    if not any(wanted):
        return OWN(x, weight, targets, softcap, vocab_size)
    if x.dtype == torch.float16:
        raise UserError("the candidates need bfloat16 or float32")  # for fp16, loss.py scales the gradients
    w = weight[:vocab_size].to(x.dtype)
    losses, grad_x = torch.empty(len(x), device=x.device), torch.empty_like(x)
    grad_weight = torch.zeros(weight.shape, device=x.device)
    of_chunk = candidate(w, softcap)
    n = loss._chunk_tokens(len(x), vocab_size, x)
    for chunk in (slice(start, start + n) for start in range(0, len(x), n)):
        is_target = (targets[chunk] != loss.IGNORED)[:, None]
        index = targets[chunk, None].masked_fill(~is_target, 0)
        losses[chunk] = of_chunk(x[chunk], is_target, index, grad_x[chunk], grad_weight[:vocab_size]).masked_fill(~is_target, 0)[:, 0]
    return losses, grad_x, grad_weight


# ---- B: the elementwise pass in the epilogue of the logits matmul


def path_b(w: Tensor, softcap: float) -> Callable[..., Tensor]:
    if triton is None or not (w.is_cuda or INTERPRETED):
        raise UserError("path B needs a GPU and Triton")

    def of_chunk(x: Tensor, is_target: Tensor, index: Tensor, grad_x: Tensor, grad_w: Tensor) -> Tensor:
        """Write dX, add dW and return the losses (n, 1) of a chunk."""
        t = torch.tanh((x.float() * w[index[:, 0]].float()).sum(1, keepdim=True) / softcap)  # of the target
        u, total = logits_pass(x, w, softcap)
        u.scatter_(1, index, (((softcap * t).exp() - total) * (1 - t * t)).to(u.dtype))
        factor = is_target / total
        torch.mm(u, w, out=grad_x).mul_(factor)
        loss._add_product_(grad_w, u, (x * factor).to(x.dtype))
        return total.log() - softcap * t

    return of_chunk


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


# ---- fp8: dX and dW as scaled fp8 matmuls


def fp8(w: Tensor, softcap: float) -> Callable[..., Tensor]:
    """torch._scaled_mm needs n, V and C to be multiples of 16 on a GPU."""
    if w.is_cuda and torch.cuda.get_device_capability(w.device) < (8, 9):
        raise UserError("fp8 needs compute capability 8.9")
    quantized = _compiled_quantized_pass() if loss._compiled_pass else _quantized_pass
    w8, w_scale = _to_e4m3(w)
    u_scale = torch.full((), 1 / U_SCALE, device=w.device)

    def of_chunk(x: Tensor, is_target: Tensor, index: Tensor, grad_x: Tensor, grad_w: Tensor) -> Tensor:
        """Write dX, add dW and return the losses (n, 1) of a chunk."""
        z = x.new_empty(len(x), len(w)).addmm_(x, w.T, beta=0, alpha=1 / softcap)
        t = z.gather(1, index).float().tanh()
        u, u_columns, total, divisor = quantized(z, index, t, softcap)
        factor = is_target * divisor
        x8, x_scale = _to_e4m3(x * factor)
        torch._scaled_mm(u, w8, u_scale, w_scale, out_dtype=x.dtype, out=grad_x).mul_(factor)
        grad_w.add_(torch._scaled_mm(u_columns, x8, u_scale, x_scale, out_dtype=torch.float32))
        return total.log() - softcap * t

    return of_chunk


def _quantized_pass(z: Tensor, index: Tensor, target_t: Tensor, softcap: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return u / (S divisor) in e5m2, (n, V) and as a contiguous (V, n), S and the divisor (n, 1).

    Of p, the target's probability, and its t, the target's entry is -(1 - p) (1 - t^2), and the
    divisor is its size. The limits keep the others finite where one of the two factors vanishes."""
    t = torch.tanh(z.float())
    e = torch.exp(softcap * t)
    total = e.sum(1, keepdim=True)
    q, slope = 1 - torch.exp(softcap * target_t) / total, 1 - target_t * target_t
    divisor = q.clamp(min=1e-6) * slope.clamp(min=1 / 64)
    is_target = torch.arange(z.shape[1], device=z.device) == index
    u = torch.where(is_target, -q * slope, e * (1 - t * t) / total) * (U_SCALE / divisor)
    u8 = u.to(torch.float8_e5m2)
    return u8, u8.T.contiguous(), total, divisor


@functools.cache
def _compiled_quantized_pass() -> Callable[..., Any]:
    return torch.compile(_quantized_pass, dynamic=False)


def _to_e4m3(a: Tensor) -> tuple[Tensor, Tensor]:
    """Return a (rows, columns) over its scale, stored by columns as Hopper's second factors are,
    and the scale."""
    scale = a.abs().amax().float().clamp(min=1e-30) / torch.finfo(torch.float8_e4m3fn).max
    return (a.float() / scale).to(torch.float8_e4m3fn).T.contiguous().T, scale


CANDIDATES = {"B": path_b, "fp8": fp8}
