"""Soft-capped linear cross-entropy that never holds all logits.

For a vocabulary of 68,096 the logits of a step are far larger than the model, so they are made for a chunk of tokens at a time, and the chunk's
share of both gradients is made at once, while its logits are there: no logit is kept, none is computed twice. What is kept for backward is the
gradients themselves, which only wait for the number that flows in from above.

With z = x W^T, t = tanh(z / c), p = softmax(c t):   loss = log(sum(exp(c t))) - c t[target],   d loss / d z = (p - onehot) * (1 - t^2)
"""

# N tokens, n tokens of a chunk, C width, V vocabulary, c softcap

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

IGNORED = -1  # target of a token that does not count
MAX_SOFTCAP = 60.0  # exp(60) times any vocabulary still fits into float32, so the log-sum-exp needs no maximum taken off

CHUNK_BYTES = {"cpu": 72 << 20, "cuda": 576 << 20}  # the logits of a chunk: on a CPU 256 tokens of 68,096 pieces, on a GPU 4,096 in bf16
# the part of it that the soft-cap works on at once: bounds its temporaries, and stays in a CPU's last-level cache; 1 MiB measured no faster, and its
# thousands of small parallel regions stall where other programs want the cores too
ROWS_BYTES = {"cpu": 16 << 20, "cuda": 128 << 20}
FP16_SCALE = 256.0  # lifts the softmax of rare pieces out of fp16's subnormal numbers; taken out again in backward


def softcapped_cross_entropy(
    x: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    softcap: float = 15.0,
    reduction: str = "mean",
    vocab_size: int | None = None,
) -> Tensor:
    """Cross-entropy of `softcap * tanh(x @ weight.T / softcap)` with `targets`, in nats.

    x (N, C), float32 or the compute dtype; weight (rows, C), cast to x's dtype once; targets (N,) int64, -1 is ignored. Rows from
    `vocab_size` on are padding: they take no part and their gradient is zero. Returns a float32 scalar for "sum" and "mean" (over the targets that
    count; 0, with zero gradients, where none does), or (N,) float32 for "none", with 0 at ignored targets.

    Gradients are made in the forward pass, only where one is wanted; that of the weight is summed in float32. Backward can be called once.
    Raises ValueError for shapes and options that it does not take, RuntimeError where "none" is asked for a gradient or backward is called again.
    """
    vocab_size = weight.shape[0] if vocab_size is None else vocab_size
    if x.dim() != 2 or weight.dim() != 2 or x.shape[1] != weight.shape[1] or targets.shape != x.shape[:1]:
        raise ValueError(f"x (N, C), weight (V, C), targets (N,), not {tuple(x.shape)}, {tuple(weight.shape)}, {tuple(targets.shape)}")
    if not 0 < softcap <= MAX_SOFTCAP:
        raise ValueError(f"softcap must be above 0 and at most {MAX_SOFTCAP:.0f}, not {softcap}")
    if not 0 < vocab_size <= weight.shape[0]:
        raise ValueError(f"vocab_size must be from 1 to the {weight.shape[0]} rows of weight, not {vocab_size}")
    wants_grad = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    if reduction == "none":
        if wants_grad:
            raise RuntimeError('reduction="none" makes no gradients; call it under torch.no_grad(), or use "sum" or "mean"')
        return _in_chunks(x, weight, targets, softcap, vocab_size)[0]
    if reduction not in ("sum", "mean"):
        raise ValueError(f'reduction must be "mean", "sum" or "none", not {reduction!r}')
    arguments = (x, weight, targets, softcap, vocab_size)
    total = _SummedLoss.apply(*arguments) if wants_grad else _in_chunks(*arguments)[0].sum()
    return total if reduction == "sum" else total / (targets != IGNORED).sum().clamp(min=1)


class _SummedLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, targets, softcap, vocab_size):
        losses, *ctx.grads = _in_chunks(x, weight, targets, softcap, vocab_size, *ctx.needs_input_grad[:2])
        ctx.unscale = 1 / _gradient_scale(x.dtype)
        return losses.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        if ctx.grads is None:
            raise RuntimeError("the gradients of this loss were handed out by an earlier backward; compute the loss again")
        grads, ctx.grads = ctx.grads, None  # scaled in place and given away: there is no second copy
        for grad in grads:
            if grad is not None:
                _scale_(grad, upstream * ctx.unscale)
        return (*grads, None, None, None)


def _scale_(tensor: Tensor, factor: Tensor) -> None:
    """tensor *= factor, with the factor in float32 also where the tensor is not: a GPU would round a 0-d operand to the tensor's dtype."""
    if tensor.dtype == factor.dtype:
        tensor.mul_(factor)
    else:
        for rows in tensor.split(8192):
            rows.copy_(rows.to(factor.dtype).mul_(factor))


def _gradient_scale(dtype: torch.dtype) -> float:
    return FP16_SCALE if dtype == torch.float16 else 1.0


@torch.no_grad()
def _in_chunks(x, weight, targets, softcap, vocab_size, x_grad=False, weight_grad=False) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Losses (N,), and where asked for the gradients of their sum, times _gradient_scale: (N, C) in x's dtype, (rows, C) in float32."""
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
            if x_grad:
                torch.mm(z, w, out=grad_x[chunk])
            if weight_grad:
                _add_product_(grad_weight[:vocab_size], z, x[chunk])
    return losses, grad_x, grad_weight


def _chunk_tokens(n_tokens: int, vocab_size: int, x: Tensor) -> int:
    """Tokens of a chunk, a power of two: the usual batch is then cut evenly, and a compiled kernel meets one shape."""
    fitting = max(1, CHUNK_BYTES[_kind(x)] // (vocab_size * x.element_size()))
    return max(1, min(n_tokens, 1 << (fitting.bit_length() - 1)))


def _kind(tensor: Tensor) -> str:
    return "cpu" if tensor.device.type == "cpu" else "cuda"


def _add_product_(total: Tensor, z: Tensor, x: Tensor) -> None:
    """total (V, C) += z^T x, summed in total's dtype; z (n, V) and x (n, C) may be of a narrower one."""
    if z.dtype == total.dtype:
        total.addmm_(z.T, x)
    elif z.is_cuda:
        total.add_(torch.mm(z.T, x, out_dtype=total.dtype))
    else:
        total.addmm_(z.T.to(total.dtype), x.to(total.dtype))


# ---- the elementwise part: from logits to losses and their gradients, in the same memory


def _cap(z: Tensor, targets: Tensor, softcap: float, with_gradient: bool) -> Tensor:
    """Losses (n,) of raw logits z (n, V), which are overwritten: with the gradient, times _gradient_scale, where it is wanted."""
    scale = _gradient_scale(z.dtype)
    if _compiled_cap is not None:
        return _compiled_cap(z, targets, softcap, scale, with_gradient)
    rows = max(1, ROWS_BYTES[_kind(z)] // (4 * z.shape[1]))
    parts = zip(z.split(rows), targets.split(rows), strict=True)
    return torch.cat([_cap_rows(part, target, softcap, scale, with_gradient) for part, target in parts])


def _cap_rows(z: Tensor, targets: Tensor, softcap: float, scale: float, with_gradient: bool) -> Tensor:
    """Eager: as few passes over as little memory as it takes. z (n, V) is overwritten."""
    counts = (targets != IGNORED)[:, None]
    index = targets[:, None].masked_fill(~counts, 0)
    t = z.to(torch.promote_types(z.dtype, torch.float32))  # z itself where that is its dtype
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
    """The same as one expression, for a compiler to fuse: it reads z twice and writes it once."""
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
    """From now on run the elementwise part through torch.compile. For a GPU, after a probe that compiling works there (common.can_compile)."""
    global _compiled_cap
    _compiled_cap = torch.compile(_cap_fused)
