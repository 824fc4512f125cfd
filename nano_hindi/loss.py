"""Soft-capped linear cross-entropy that never materializes all logits.

For a vocabulary of 68,096 the logits of a step are far larger than the model. So they are computed
for one chunk of tokens at a time, together with the chunk's contribution to both gradients: no
logits are stored or recomputed. Forward saves the gradients themselves; backward only multiplies
them by grad_output.

With t = tanh(x W^T / c), e = exp(c t), S = sum(e):
    loss = log(S) - c t[target]
    u = (e - S onehot) (1 - t^2),  d loss / d x = (u W) / S,  d loss / d W = u^T (x / S)
One pass over the logits makes S and u: they are bounded, so no maximum is subtracted, and S divides
the narrow factors of the matmuls. float16 cannot hold u and stores u / S.
"""

# N tokens, n tokens of a chunk, C width, V vocabulary, c softcap

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nano_hindi.common import IGNORED
from nano_hindi.fp8 import MULTIPLE, Fp8Head

MAX_SOFTCAP = 60.0  # exp(60) times any vocabulary size fits into float32, so the log-sum-exp need not subtract the maximum

# logits of a chunk; for a vocabulary of 68,096: 256 tokens on a CPU, in bf16 4,096 on a GPU and
# 16,384 on a large one, where fewer chunks add to the weight's gradient, and each matmul has tiles
# for all multiprocessors
CHUNK_BYTES = {"cpu": 72 << 20, "cuda": 576 << 20, "large cuda": 2304 << 20}
LARGE_GPU = 40e9  # bytes of memory
# logits that the pass takes at a time: bounds its temporary of the same size, and both fit into the
# last-level cache of small CPUs. 16 MiB needs a fifth more CPU time; the thousands of small
# parallel regions of 1 MiB stall when other programs use the cores too
ROWS_BYTES = {"cpu": 4 << 20, "cuda": 128 << 20}
PRODUCT_ROWS = 4096  # of the weight's gradient in bfloat16 on a CPU: a product of so many rows is still in the cache when it is added
# whether a GPU's matmul of half-precision factors can add to a float32 tensor; else the product is
# a tensor of its own
ADDS_TO_FLOAT32 = torch.__version__ >= (2, 10)  # type: ignore[operator] # a TorchVersion takes tuples
FP16_SCALE = 256.0  # of float16 gradients: keeps the softmax of rare tokens out of its subnormal range; divided out in backward


def softcapped_cross_entropy(
    x: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    softcap: float = 15.0,
    reduction: str = "mean",
    vocab_size: int | None = None,
    fp8: bool = False,
) -> Tensor:
    """Return the cross-entropy of `softcap * tanh(x @ weight.T / softcap)` with `targets`, in nats.

    x (N, C), float32 or the compute dtype; weight (rows, C), cast to x's dtype once; targets (N,)
    int64, -1 is ignored. Rows from `vocab_size` on are padding: they have no effect and their
    gradient is zero. Returns a float32 scalar for "sum" and "mean" (over the targets that are not
    ignored; 0, with zero gradients, if all are), or (N,) float32 for "none", with 0 at ignored
    targets.

    Gradients are computed in the forward pass, only if one is required; the weight's is accumulated
    in float32. Against float64, the relative error of both in bfloat16 is 2e-3 to 6e-3 on a CPU.
    With `fp8`, they come from fp8 matmuls with an error of 3e-2, if both are required and except in
    a chunk whose length is no multiple of 16. It needs C and vocab_size that are multiples of 16,
    and x in another dtype than float16.

    Backward can be called once. Raises ValueError for unsupported shapes and options, RuntimeError
    if "none" would need a gradient or backward is called again.
    """
    vocab_size = weight.shape[0] if vocab_size is None else vocab_size
    if x.dim() != 2 or weight.dim() != 2 or x.shape[1] != weight.shape[1] or targets.shape != x.shape[:1]:
        raise ValueError(f"expected x (N, C), weight (V, C), targets (N,), not {tuple(x.shape)}, {tuple(weight.shape)}, {tuple(targets.shape)}")
    if not 0 < softcap <= MAX_SOFTCAP:
        raise ValueError(f"softcap must be above 0 and at most {MAX_SOFTCAP:.0f}, not {softcap}")
    if not 0 < vocab_size <= weight.shape[0]:
        raise ValueError(f"vocab_size must be from 1 to the {weight.shape[0]} rows of weight, not {vocab_size}")
    if fp8 and (x.dtype == torch.float16 or x.shape[1] % MULTIPLE or vocab_size % MULTIPLE):
        raise ValueError(f"fp8 needs sizes that are multiples of {MULTIPLE}, not in float16: {x.dtype}, width {x.shape[1]}, vocab_size {vocab_size}")
    wants_grad = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    if reduction == "none":
        if wants_grad:
            raise RuntimeError('reduction="none" computes no gradients; call it under torch.no_grad(), or use "sum" or "mean"')
        return _in_chunks(x, weight, targets, softcap, vocab_size)[0]
    if reduction not in ("sum", "mean"):
        raise ValueError(f'reduction must be "mean", "sum" or "none", not {reduction!r}')
    arguments = (x, weight, targets, softcap, vocab_size)
    total = _SummedLoss.apply(*arguments, fp8) if wants_grad else _in_chunks(*arguments)[0].sum()
    return total if reduction == "sum" else total / (targets != IGNORED).sum().clamp(min=1)


class _SummedLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, targets: Tensor, softcap: float, vocab_size: int, fp8: bool) -> Tensor:
        needs_x, needs_weight, *_ = ctx.needs_input_grad
        losses, *ctx.grads = _in_chunks(x, weight, targets, softcap, vocab_size, needs_x, needs_weight, fp8)
        ctx.unscale = 1 / FP16_SCALE if x.dtype == torch.float16 else 1.0
        return losses.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.grads is None:
            raise RuntimeError("backward was already called on this loss, which frees its gradients; compute the loss again")
        grads, ctx.grads = ctx.grads, None  # scaled in place and returned: there is no second copy
        for grad in grads:
            if grad is not None:
                _scale_(grad, grad_output * ctx.unscale)
        return (*grads, None, None, None, None)


def _scale_(tensor: Tensor, factor: Tensor) -> None:
    """Multiply `tensor` by `factor` in place, in the factor's dtype: a GPU would round a 0-d
    operand to the dtype of a narrower tensor."""
    if tensor.dtype == factor.dtype:
        tensor.mul_(factor)
    else:
        for rows in tensor.split(8192):
            rows.copy_(rows.to(factor.dtype).mul_(factor))


@torch.no_grad()
def _in_chunks(
    x: Tensor, weight: Tensor, targets: Tensor, softcap: float, vocab_size: int, needs_x: bool = False, needs_weight: bool = False, fp8: bool = False
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return losses (N,) and the gradients of their sum, None if not needed: (N, C) in x's dtype,
    (rows, C) in float32; both times FP16_SCALE if x is float16."""
    is_target = targets != IGNORED
    # skip the tokens without a target, most of those of a conversation; but a compiled kernel needs
    # one shape. `all` makes the host wait for a GPU, once for each call
    if _compiled_pass is None and not is_target.all():
        kept = is_target.nonzero().squeeze(1)
        kept_losses, kept_grad, grad_weight = _in_chunks(x[kept], weight, targets[kept], softcap, vocab_size, needs_x, needs_weight, fp8)
        losses = kept_losses.new_zeros(len(x)).index_copy_(0, kept, kept_losses)
        return losses, None if kept_grad is None else torch.zeros_like(x).index_copy_(0, kept, kept_grad), grad_weight
    sum_dtype = torch.promote_types(x.dtype, torch.float32)
    with torch.autocast(x.device.type, enabled=False):
        w = weight[:vocab_size].to(x.dtype)
        losses = torch.empty(len(x), dtype=sum_dtype, device=x.device)
        grad_x = torch.empty_like(x) if needs_x else None
        grad_weight = torch.zeros(weight.shape, dtype=sum_dtype, device=x.device) if needs_weight else None
        n = _chunk_tokens(len(x), vocab_size, x)
        logits = torch.empty(n, vocab_size, dtype=x.dtype, device=x.device)
        fp8_head = Fp8Head(w, softcap, compiled=_compiled_pass is not None) if fp8 else None
        for start in range(0, len(x), n):
            chunk = slice(start, start + n)
            z = logits[: len(x) - start].addmm_(x[chunk], w.T, beta=0, alpha=1 / softcap)
            is_target = (targets[chunk] != IGNORED)[:, None]
            index = targets[chunk, None].masked_fill(~is_target, 0)
            t = z.gather(1, index).to(sum_dtype).tanh_()
            if fp8_head and grad_x is not None and grad_weight is not None and len(z) % MULTIPLE == 0:
                total = fp8_head.add_gradients(z, index, t, is_target, x[chunk], grad_x[chunk], grad_weight[:vocab_size])
            else:
                u, total, factor = _elementwise(z, index, t, is_target, softcap, needs_x or needs_weight)
                if grad_x is not None:
                    torch.mm(u, w, out=grad_x[chunk]).mul_(factor)
                if grad_weight is not None:
                    _add_product_(grad_weight[:vocab_size], u, (x[chunk] * factor).to(x.dtype))
                del u  # compiled, it is a tensor of its own: free it before the next is made
            losses[chunk] = (total.log() - softcap * t).masked_fill(~is_target, 0).squeeze(1)
    return losses, grad_x, grad_weight


def _chunk_tokens(n_tokens: int, vocab_size: int, x: Tensor) -> int:
    """Return the number of tokens of a chunk, a power of two: the usual batch then splits evenly,
    and a compiled kernel sees one shape."""
    fitting = max(1, chunk_bytes(x.device) // (vocab_size * x.element_size()))
    return max(1, min(n_tokens, 1 << (fitting.bit_length() - 1)))


def chunk_bytes(device: torch.device) -> int:
    """Return how many bytes the logits of a chunk may take."""
    if device.type != "cuda":
        return CHUNK_BYTES["cpu"]
    allowed = torch.cuda.get_device_properties(device).total_memory * torch.cuda.get_per_process_memory_fraction(device)
    return CHUNK_BYTES["large cuda" if allowed >= LARGE_GPU else "cuda"]


def _kind(tensor: Tensor) -> str:
    return "cpu" if tensor.device.type == "cpu" else "cuda"


def _add_product_(total: Tensor, u: Tensor, x: Tensor) -> None:
    """Add u^T x to total (V, C), accumulated in total's dtype; u (n, V) and x (n, C) may have a
    narrower one."""
    if u.dtype == total.dtype:
        total.addmm_(u.T, x)
    elif u.is_cuda and ADDS_TO_FLOAT32:
        torch.addmm(total, u.T, x, out_dtype=total.dtype, out=total)
    elif u.is_cuda:
        total.add_(torch.mm(u.T, x, out_dtype=total.dtype))
    elif u.dtype == torch.bfloat16:  # each product is rounded, their sum is not
        for rows, columns in zip(total.split(PRODUCT_ROWS), u.T.split(PRODUCT_ROWS), strict=True):
            rows.add_(torch.mm(columns, x))
    else:
        total.addmm_(u.T.to(total.dtype), x.to(total.dtype))


# ---- the elementwise part: from logits / c to u and S


def _elementwise(z: Tensor, index: Tensor, t: Tensor, is_target: Tensor, softcap: float, with_gradient: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return u (n, V), S (n, 1), and the factor of each row of u in the gradients (n, 1): 1 / S, or
    1 in float16, and 0 at an ignored target. u and the factor are valid only `with_gradient`.
    z (n, V), the logits divided by c, may be overwritten. index, t and is_target (n, 1): each
    target's column, its t, and whether it is not ignored."""
    u, total = (_compiled_pass or _eager_pass)(z, softcap, with_gradient)
    half = z.dtype == torch.float16  # u is normalized
    if with_gradient:
        target_u = ((softcap * t).exp_() - total) * (1 - t * t)
        values = (target_u * (FP16_SCALE / total) if half else target_u).to(u.dtype)
        u[torch.arange(len(u), device=u.device), index[:, 0]] = values[:, 0]  # on a CPU, scatter_ would copy all of a half-precision u
    return u, total, is_target.to(t.dtype) if half else is_target / total


def _eager_pass(z: Tensor, softcap: float, with_gradient: bool) -> tuple[Tensor, Tensor]:
    """Return u in place of z (n, V), its target's column still e (1 - t^2), and S (n, 1)."""
    totals = z.new_empty(len(z), 1, dtype=torch.promote_types(z.dtype, torch.float32))
    rows = max(1, ROWS_BYTES[_kind(z)] // (4 * z.shape[1]))
    e_rows, t_rows = z.new_empty(2, min(rows, len(z)), z.shape[1], dtype=totals.dtype)  # allocated once: fresh memory costs as much as the arithmetic
    exponent = softcap / math.log(2)
    for chunk, total in zip(z.split(rows), totals.split(rows), strict=True):
        t = _tanh_(chunk if chunk.dtype == totals.dtype else t_rows[: len(chunk)].copy_(chunk))
        e = torch.mul(t, exponent, out=e_rows[: len(chunk)]).exp2_()  # on a CPU, exp takes three times as long
        torch.sum(e, 1, keepdim=True, out=total)
        if with_gradient:
            torch.ops.aten.tanh_backward.grad_input(e, t, grad_input=t)  # e (1 - t^2)
            if z.dtype == torch.float16:
                t.mul_(FP16_SCALE / total)
            if t is not chunk:
                chunk.copy_(t)
    return z, totals


def _tanh_(z: Tensor) -> Tensor:
    """Compute tanh in place. On a CPU, PyTorch's takes six times as long as its sigmoid."""
    return z.tanh_() if z.is_cuda else z.mul_(2).sigmoid_().mul_(2).sub_(1)


def _fused_pass(z: Tensor, softcap: float, with_gradient: bool) -> tuple[Tensor, Tensor]:
    """Compute `_eager_pass` as one expression for a compiler to fuse, into a tensor beside z: it
    reads z once and writes u once. In place, Inductor would make that tensor and copy it."""
    t = torch.tanh(z.float())
    e = torch.exp(softcap * t)
    total = e.sum(1, keepdim=True)
    if not with_gradient:
        return z, total
    u = e * (1 - t * t)
    if z.dtype == torch.float16:
        u = u * (FP16_SCALE / total)
    return u.to(z.dtype), total


_compiled_pass: Callable[..., tuple[Tensor, Tensor]] | None = None


def compile_kernels() -> None:
    """Run the elementwise part through torch.compile from now on. For a GPU, and only if compiling
    works there (common.can_compile); it takes the memory of one chunk more."""
    global _compiled_pass
    _compiled_pass = torch.compile(_fused_pass)


def run_eagerly() -> None:
    """Undo `compile_kernels`."""
    global _compiled_pass
    _compiled_pass = None
