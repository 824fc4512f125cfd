"""The gradients of the head from fp8 matmuls (`--fp8_head`): loss.py gives the logits of a chunk,
and gets their row sums; u, S, t and c are those of its docstring.

Of a row of u, the target's entry has most of the norm and thousands of small entries have the rest.
e5m2 has the range for them: e4m3 would round a probability of 1e-5 to zero. But its two bits of
mantissa would cost 4 % of the target's entry, so each row is divided by that entry, which becomes
exactly -1; the divisor multiplies dX's row and x's row. W and x are e4m3, with one scale each: they
need the third bit, and little range. Their rounding remains, 2.7 % of either gradient against
float64. Runs learn as without it (docs/LOG.md). The two formats are those of Micikevicius et al.
2022, arXiv 2209.05433.
"""

# n tokens of a chunk, C width, V vocabulary, c softcap

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from nano_hindi.errors import require

MULTIPLE = 16  # that n, C and V need for torch._scaled_mm on a GPU
U_SCALE = 2.0**9  # of u in e5m2, whose target's entry is -1 and whose others are at most 64: 2^15 fits
Kernels = tuple[Callable[..., tuple[Tensor, Tensor, Tensor]], Callable[[Tensor], Tensor]]


def require_fp8(n_embd: int, vocab_size: int, dtype: torch.dtype, device: torch.device) -> None:
    """Raise UserError if a model with these sizes and this compute dtype cannot use fp8 on
    `device`. A CPU computes the products from the same fp8 numbers, but slowly."""
    supported = device.type != "cuda" or torch.cuda.get_device_capability(device) >= (8, 9)
    require(supported, "fp8 needs a GPU of compute capability 8.9 or later, such as an RTX 4090 or an H100; give --fp8_head False")
    require(dtype == torch.bfloat16, "fp8 needs the other matmuls in bfloat16; give --dtype bfloat16, or --fp8_head False")
    for name, size in (("n_embd", n_embd), ("vocab_size", vocab_size)):
        require(size % MULTIPLE == 0, f"fp8 needs {name} to be a multiple of {MULTIPLE}, and it is {size}; give --fp8_head False")


class Fp8Head:
    """Computes both gradients of the head for a weight w (V, C). Without `compiled` kernels it
    takes the memory of several chunks of float32 logits."""

    def __init__(self, w: Tensor, softcap: float, compiled: bool):
        self.w, self.w_scale = _to_e4m3(w)
        self.u_scale = torch.full((), 1 / U_SCALE, device=w.device)
        self.softcap = softcap
        kernels: Kernels = _compiled_kernels() if compiled else (_quantized_pass, _transposed)
        self.quantize, self.transpose = kernels

    def add_gradients(self, z: Tensor, index: Tensor, t: Tensor, is_target: Tensor, x: Tensor, grad_x: Tensor, grad_w: Tensor) -> Tensor:
        """Write dX into grad_x (n, C), add dW to grad_w (V, C), float32, and return S (n, 1).

        z (n, V), the logits divided by c; index, t and is_target (n, 1): each target's column, its
        t, and whether it is not ignored; x (n, C), the hidden states.
        """
        u, total, divisor = self.quantize(z, index, t, self.softcap)
        factor = is_target * divisor
        x8, x_scale = _to_e4m3(x * factor)
        torch._scaled_mm(u, self.w, self.u_scale, self.w_scale, out_dtype=grad_x.dtype, out=grad_x).mul_(factor)
        grad_w.add_(torch._scaled_mm(self.transpose(u), x8, self.u_scale, x_scale, out_dtype=torch.float32))
        return total


def _quantized_pass(z: Tensor, index: Tensor, target_t: Tensor, softcap: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return u / (S divisor) (n, V) in e5m2, S and the divisor (n, 1).

    Of p, the target's probability, and its t, the target's entry is -(1 - p) (1 - t^2), and the
    divisor is its size. The limits keep the others finite where one of the two factors vanishes.
    """
    t = torch.tanh(z.float())
    e = torch.exp(softcap * t)
    total = e.sum(1, keepdim=True)
    q, slope = 1 - torch.exp(softcap * target_t) / total, 1 - target_t * target_t
    divisor = q.clamp(min=1e-6) * slope.clamp(min=1 / 64)
    is_target = torch.arange(z.shape[1], device=z.device) == index
    u = torch.where(is_target, -q * slope * total, e * (1 - t * t)) * (U_SCALE / (total * divisor))  # no division for each logit
    return u.to(torch.float8_e5m2), total, divisor


def _transposed(u: Tensor) -> Tensor:
    return u.T.contiguous()


@functools.cache
def _compiled_kernels() -> Kernels:
    """Return both functions compiled, but not as one: PyTorch 2.13 would make a single kernel,
    which reads rows and stores their columns as single bytes far apart."""
    return torch.compile(_quantized_pass, dynamic=False), torch.compile(_transposed, dynamic=False)


def _to_e4m3(a: Tensor) -> tuple[Tensor, Tensor]:
    """Return a (rows, columns) divided by its scale, stored by columns as Hopper's second factors
    are, and the scale."""
    scale = a.abs().amax().float().clamp(min=1e-30) / torch.finfo(torch.float8_e4m3fn).max
    return (a.float() / scale).to(torch.float8_e4m3fn).T.contiguous().T, scale
