"""Soft-capped linear cross-entropy that never materializes all logits.

For a vocabulary of 68,096 the logits of a step are far larger than the model. So they are computed
for one chunk of tokens at a time, together with the chunk's contribution to both gradients: no
logits are stored or recomputed. Forward saves the gradients themselves; backward only multiplies
them by grad_output.

With z = x W^T, t = tanh(z / c), p = softmax(c t):
    loss = log(sum(exp(c t))) - c t[target]
    d loss / d z = (p - onehot) * (1 - t^2)
"""

# N tokens, n tokens of a chunk, C width, V vocabulary, c softcap

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

IGNORED = -1  # target of a token that is left out of the loss
MAX_SOFTCAP = 60.0  # exp(60) times any vocabulary size fits into float32, so the log-sum-exp need not subtract the maximum

CHUNK_BYTES = {"cpu": 72 << 20, "cuda": 576 << 20}  # logits of a chunk, for a vocabulary of 68,096: 256 tokens on a CPU, 4,096 in bf16 on a GPU
# logits that the soft-cap processes at a time: bounds its temporaries, and fits into a CPU's
# last-level cache. 1 MiB measured no faster, and its thousands of small parallel regions stall when
# other programs use the cores too
ROWS_BYTES = {"cpu": 16 << 20, "cuda": 128 << 20}
FP16_SCALE = 256.0  # keeps the softmax of rare tokens out of fp16's subnormal range; divided out in backward


def softcapped_cross_entropy(
    x: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    softcap: float = 15.0,
    reduction: str = "mean",
    vocab_size: int | None = None,
) -> Tensor:
    """Return the cross-entropy of `softcap * tanh(x @ weight.T / softcap)` with `targets`, in nats.

    x (N, C), float32 or the compute dtype; weight (rows, C), cast to x's dtype once; targets (N,)
    int64, -1 is ignored. Rows from `vocab_size` on are padding: they have no effect and their
    gradient is zero. Returns a float32 scalar for "sum" and "mean" (over the targets that are not
    ignored; 0, with zero gradients, if all are), or (N,) float32 for "none", with 0 at ignored
    targets.

    Gradients are computed in the forward pass, only if one is required; the weight's is accumulated
    in float32. Backward can be called once. Raises ValueError for unsupported shapes and options,
    RuntimeError if "none" would need a gradient or backward is called again.
    """
    vocab_size = weight.shape[0] if vocab_size is None else vocab_size
    if x.dim() != 2 or weight.dim() != 2 or x.shape[1] != weight.shape[1] or targets.shape != x.shape[:1]:
        raise ValueError(f"expected x (N, C), weight (V, C), targets (N,), not {tuple(x.shape)}, {tuple(weight.shape)}, {tuple(targets.shape)}")
    if not 0 < softcap <= MAX_SOFTCAP:
        raise ValueError(f"softcap must be above 0 and at most {MAX_SOFTCAP:.0f}, not {softcap}")
    if not 0 < vocab_size <= weight.shape[0]:
        raise ValueError(f"vocab_size must be from 1 to the {weight.shape[0]} rows of weight, not {vocab_size}")
    wants_grad = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    if reduction == "none":
        if wants_grad:
            raise RuntimeError('reduction="none" computes no gradients; call it under torch.no_grad(), or use "sum" or "mean"')
        return _in_chunks(x, weight, targets, softcap, vocab_size)[0]
    if reduction not in ("sum", "mean"):
        raise ValueError(f'reduction must be "mean", "sum" or "none", not {reduction!r}')
    arguments = (x, weight, targets, softcap, vocab_size)
    total = _SummedLoss.apply(*arguments) if wants_grad else _in_chunks(*arguments)[0].sum()
    return total if reduction == "sum" else total / (targets != IGNORED).sum().clamp(min=1)


class _SummedLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, targets: Tensor, softcap: float, vocab_size: int) -> Tensor:
        losses, *ctx.grads = _in_chunks(x, weight, targets, softcap, vocab_size, *ctx.needs_input_grad[:2])
        ctx.unscale = 1 / _gradient_scale(x.dtype)
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
        return (*grads, None, None, None)


def _scale_(tensor: Tensor, factor: Tensor) -> None:
    """Multiply `tensor` by `factor` in place, in the factor's dtype: a GPU would round a 0-d
    operand to the dtype of a narrower tensor."""
    if tensor.dtype == factor.dtype:
        tensor.mul_(factor)
    else:
        for rows in tensor.split(8192):
            rows.copy_(rows.to(factor.dtype).mul_(factor))


def _gradient_scale(dtype: torch.dtype) -> float:
    return FP16_SCALE if dtype == torch.float16 else 1.0


@torch.no_grad()
def _in_chunks(
    x: Tensor, weight: Tensor, targets: Tensor, softcap: float, vocab_size: int, x_grad: bool = False, weight_grad: bool = False
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return losses (N,) and, if requested, the gradients of their sum times _gradient_scale:
    (N, C) in x's dtype, (rows, C) in float32."""
    sum_dtype = torch.promote_types(x.dtype, torch.float32)
    with torch.autocast(x.device.type, enabled=False):
        w = weight[:vocab_size].to(x.dtype)
        losses = torch.empty(len(x), dtype=sum_dtype, device=x.device)
        grad_x = torch.empty_like(x) if x_grad else None
        grad_weight = torch.zeros(weight.shape, dtype=sum_dtype, device=x.device) if weight_grad else None
        n = _chunk_tokens(len(x), vocab_size, x)
        logits = torch.empty(n, vocab_size, dtype=x.dtype, device=x.device)
        for start in range(0, len(x), n):
            chunk = slice(start, start + n)
            z = torch.mm(x[chunk], w.T, out=logits[: len(x) - start])
            losses[chunk] = _cap(z, targets[chunk], softcap, x_grad or weight_grad)
            if grad_x is not None:
                torch.mm(z, w, out=grad_x[chunk])
            if grad_weight is not None:
                _add_product_(grad_weight[:vocab_size], z, x[chunk])
    return losses, grad_x, grad_weight


def _chunk_tokens(n_tokens: int, vocab_size: int, x: Tensor) -> int:
    """Return the number of tokens of a chunk, a power of two: the usual batch then splits evenly,
    and a compiled kernel sees one shape."""
    fitting = max(1, CHUNK_BYTES[_kind(x)] // (vocab_size * x.element_size()))
    return max(1, min(n_tokens, 1 << (fitting.bit_length() - 1)))


def _kind(tensor: Tensor) -> str:
    return "cpu" if tensor.device.type == "cpu" else "cuda"


def _add_product_(total: Tensor, z: Tensor, x: Tensor) -> None:
    """Add z^T x to total (V, C), accumulated in total's dtype; z (n, V) and x (n, C) may have a
    narrower one."""
    if z.dtype == total.dtype:
        total.addmm_(z.T, x)
    elif z.is_cuda:
        total.add_(torch.mm(z.T, x, out_dtype=total.dtype))
    else:
        total.addmm_(z.T.to(total.dtype), x.to(total.dtype))


# ---- the elementwise part: from logits to losses and their gradients, in place


def _cap(z: Tensor, targets: Tensor, softcap: float, with_gradient: bool) -> Tensor:
    """Return losses (n,) of raw logits z (n, V), which are overwritten: with the gradient times
    _gradient_scale, if it is requested."""
    scale = _gradient_scale(z.dtype)
    if _compiled_cap is not None:
        return _compiled_cap(z, targets, softcap, scale, with_gradient)
    rows = max(1, ROWS_BYTES[_kind(z)] // (4 * z.shape[1]))
    parts = zip(z.split(rows), targets.split(rows), strict=True)
    return torch.cat([_cap_rows(part, target, softcap, scale, with_gradient) for part, target in parts])


def _cap_rows(z: Tensor, targets: Tensor, softcap: float, scale: float, with_gradient: bool) -> Tensor:
    """Compute `_cap` eagerly, with few passes and little memory. z (n, V) is overwritten."""
    counts = (targets != IGNORED)[:, None]
    index = targets[:, None].masked_fill(~counts, 0)
    t = z.to(torch.promote_types(z.dtype, torch.float32))  # z itself if that is its dtype
    t.mul_(1 / softcap).tanh_()
    target_logit = softcap * t.gather(1, index)
    p = (torch.mul(t, softcap) if with_gradient else t.mul_(softcap)).exp_()
    total = p.sum(1, keepdim=True)
    if with_gradient:
        factor = counts.to(t.dtype) * scale
        p.mul_(factor / total)  # softmax
        p.scatter_add_(1, index, -factor)
        t.square_()
        torch.addcmul(p, p, t, value=-1, out=t)  # p * (1 - t^2)
        if t is not z:
            z.copy_(t)
    return (total.log() - target_logit).masked_fill(~counts, 0).squeeze(1)


def _cap_fused(z: Tensor, targets: Tensor, softcap: float, scale: float, with_gradient: bool) -> Tensor:
    """Compute `_cap` as one expression for a compiler to fuse: it reads z twice and writes it
    once."""
    counts = (targets != IGNORED)[:, None]
    index = targets[:, None].masked_fill(~counts, 0)
    target_logit = softcap * torch.tanh(z.gather(1, index).float() / softcap)
    t = torch.tanh(z.float() / softcap)
    p = torch.exp(softcap * t)
    total = p.sum(1, keepdim=True)
    if with_gradient:
        onehot = torch.arange(z.shape[1], device=z.device) == index
        z.copy_((p / total - onehot.float()) * (1 - t * t) * (counts * scale))
    return (total.log() - target_logit).masked_fill(~counts, 0).squeeze(1)


_compiled_cap: Callable[..., Tensor] | None = None


def compile_kernels() -> None:
    """Run the elementwise part through torch.compile from now on. For a GPU, and only if compiling
    works there (common.can_compile)."""
    global _compiled_cap
    _compiled_cap = torch.compile(_cap_fused)


def run_eagerly() -> None:
    """Undo `compile_kernels`."""
    global _compiled_cap
    _compiled_cap = None
