"""Muon: momentum SGD with (nearly) orthogonalized updates, for matrices. DistMuon splits the work
over ranks.

One update of a matrix W with gradient G:
    momentum        M <- mu M + (1 - mu) G,  U = mu M + (1 - mu) G                            [1]
    polar factor    U <- about U (U'U)^-1/2                                                   [2]
    variance        v <- beta2 v + (1 - beta2) mean(U^2),  U <- U / sqrt(v), rescaled to
                    its old Frobenius norm                                                    [3]
    cautious decay  W <- W - lr wd W, only where U and W agree in sign                        [4]
    step            W <- W - lr sqrt(max(1, rows/cols)) U

[1] Nesterov momentum as in K. Jordan 2024, kellerjordan.github.io/posts/muon. There M is a plain
    sum; this average has the same direction, and the polar factor normalizes.
[2] Polar Express, Amsel et al. 2025, arXiv 2505.16932
[3] NorMuon, arXiv 2510.05491
[4] Chen et al. 2025, arXiv 2510.12402

Matrices of the same shape are stacked, and the kernel updates a whole stack.

Shapes: K matrices of one shape, those that this rank owns; R rows, C columns
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from nano_hindi.common import compute_dtype, is_out_of_memory, print_compile_failure
from nano_hindi.saved_state import require_alike

# Polynomials a x + b x^3 + c x^5 that, applied in order, bring singular values from [1e-3, 1] to
# within 0.134 of 1: each is minimax optimal on the interval left by those before it (Amsel et al.,
# theorem 4.1 and algorithm 3), with the paper's two guards against rounding (section 4.4): a safety
# factor of 1.01 on every step but the last, and a cushion of 0.02407 (appendix G).
# tests/test_muon.py derives them again.
POLAR_EXPRESS = (
    (8.205160414005569, -22.90193498705604, 16.460724910180307),
    (4.066915619879591, -2.8612845345884783, 0.5183804464778612),
    (3.9134926112054647, -2.8242518767230895, 0.5248485625148539),
    (3.3060139701337676, -2.430227567449683, 0.4869515205509475),
    (2.3270569820839184, -1.692496733182747, 0.4213605389287794),
)
POLAR_LIMIT = (15 / 8, -10 / 8, 3 / 8)  # limit of the minimax polynomials as the interval shrinks to 1: used for every iteration after the fifth
NORM_SAFETY = 1.01  # keeps rounding from lifting a singular value above 1, where the first polynomial is steep (algorithm 1)
TINY = 1e-20  # keeps a division by the norm of an all-zero matrix finite
MIN_MEAN_SQUARE = 1e-10  # floor of the second moment (NorMuon's epsilon): that of a nonzero row is about 1 / max(R, C)


def polar_express(matrices: Tensor, steps: int = 5, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return the approximate orthogonal polar factor of each matrix (K, R, C), in `dtype`: the same
    singular vectors, singular values near 1.

    After 5 steps a singular value of at least 1.01e-3 times the matrix's Frobenius norm is within
    0.134 of 1; smaller ones grow less, zeros stay zero.
    """
    is_tall = matrices.size(-2) > matrices.size(-1)
    x = matrices.mT if is_tall else matrices  # so that X X' below is the smaller of the two Gram matrices
    norm = torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True)
    x = (x / (NORM_SAFETY * norm).clamp_min(TINY)).to(dtype)
    coefficients = [*POLAR_EXPRESS, *[POLAR_LIMIT] * steps][:steps]
    if dtype == torch.float32 and x.size(-1) >= 2 * x.size(-2):
        x = _product_of_polynomials(x @ x.mT, coefficients) @ x
    else:
        for a, b, c in coefficients:
            x = torch.baddbmm(x, _quadratic(x @ x.mT, b, c), x, beta=a)
    return x.mT if is_tall else x


def _quadratic(gram: Tensor, b: float, c: float) -> Tensor:
    """Return b G + c G^2 for each G (K, R, R)."""
    return torch.baddbmm(gram, gram, gram, beta=b, alpha=c)


def _product_of_polynomials(gram: Tensor, coefficients: list[tuple[float, float, float]]) -> Tensor:
    """Return the product of the polynomials of all iterations on X (K, R, C), computed from G = X
    X' (K, R, R): two products with C columns, not ten.

    An iteration X <- P X with P = a I + b G + c G^2 turns G into P G P, and P commutes with every
    G. In half precision the smallest singular values would be lost in the rounding of G, which
    holds their squares; in float32 the result differs from the iteration's by at most 1e-3, at a
    condition number of 1e7.
    """
    product = polynomial = _polynomial(gram, *coefficients[0])
    for iteration in coefficients[1:]:
        gram = polynomial @ gram @ polynomial
        polynomial = _polynomial(gram, *iteration)
        product = polynomial @ product
    return product


def _polynomial(gram: Tensor, a: float, b: float, c: float) -> Tensor:
    """Return a I + b G + c G^2 for each G (K, R, R)."""
    polynomial = _quadratic(gram, b, c)
    polynomial.diagonal(dim1=-2, dim2=-1).add_(a)
    return polynomial


def second_moment_dim(rows: int, cols: int) -> int:
    """Return the dimension that NorMuon's second moment averages over: -1 (one value per row), or
    -2 (one value per column) for a wide matrix.

    The paper keeps one value per row. The rows of a wide matrix with orthogonal rows all have norm
    1, so there is nothing to normalize; its columns differ.
    """
    return -1 if rows >= cols else -2


def muon_update(
    weights: Tensor,
    gradients: Tensor,
    momentum_buffer: Tensor,
    second_moment: Tensor,
    lr: Tensor,
    grad_scale: Tensor,
    *,
    momentum: float,
    nesterov: bool,
    ns_steps: int,
    beta2: float,
    weight_decay: float,
    dtype: torch.dtype,
) -> None:
    """Update a stack of matrices in place: weights, gradients and momentum (K, R, C), second moment
    (K, R, 1) or (K, 1, C), lr and grad_scale 0-d.

    If grad_scale is not finite, nothing changes; the host does not wait for the device to find out.
    The matmuls run in `dtype`, everything else in the dtype of its tensors.
    """
    rows, cols = weights.shape[-2:]
    is_finite = torch.isfinite(grad_scale)
    gradients = gradients * grad_scale
    new_momentum = torch.lerp(momentum_buffer, gradients, 1 - momentum)
    direction = torch.lerp(gradients, new_momentum, momentum) if nesterov else new_momentum
    update = polar_express(direction, ns_steps, dtype).to(weights.dtype)

    mean_square = update.square().mean(dim=second_moment_dim(rows, cols), keepdim=True)
    new_second_moment = torch.lerp(second_moment, mean_square, 1 - beta2)
    shrink = new_second_moment.clamp_min(MIN_MEAN_SQUARE).rsqrt()
    # both Frobenius norms follow from the mean squares, up to the same factor
    norm_before, norm_after = (x.sum(dim=(-2, -1), keepdim=True) for x in (mean_square, mean_square * shrink.square()))
    update = update * (shrink * (norm_before / norm_after.clamp_min(TINY)).sqrt())

    step = lr * max(1, rows / cols) ** 0.5 * update
    if weight_decay:
        step = step + lr * weight_decay * torch.where(update * weights >= 0, weights, 0)
    weights.sub_(torch.where(is_finite, step, 0))
    momentum_buffer.copy_(torch.where(is_finite, new_momentum, momentum_buffer))
    second_moment.copy_(torch.where(is_finite, new_second_moment, second_moment))


@dataclass
class _Pending:
    """A tensor that an async collective may still be writing. `source` is its input, kept alive
    until then; `divisor` turns a sum into a mean."""

    result: Tensor
    work: dist.Work | None = None
    source: Tensor | None = None
    divisor: int = 1

    def wait(self) -> Tensor:
        if self.work is not None:
            self.work.wait()
            self.work = self.source = None
            if self.divisor > 1:
                self.result.div_(self.divisor)
        return self.result


def _stack(tensors: list[Tensor], slots: int, like: Tensor) -> Tensor:
    """Return `tensors` stacked into (slots, R, C); unused slots hold zeros, which the kernel keeps
    zero."""
    stack = torch.empty((slots, *like.shape), dtype=like.dtype, device=like.device)
    if tensors:
        torch.stack(tensors, out=stack[: len(tensors)])
    stack[len(tensors) :].zero_()
    return stack


def _scalar(value: Tensor | float, device: torch.device) -> Tensor:
    """Return `value` as a 0-d tensor: torch.compile would compile a number into the kernel."""
    return value if isinstance(value, Tensor) else torch.full((), value, device=device)


class Muon(torch.optim.Optimizer):
    """Muon on one rank. `params`: matrices, or (name, matrix) pairs; the state is stored by name,
    and the name of an unnamed matrix is its index. `dtype` is that of the matmuls, by default
    compute_dtype(device).

    Each shape is one of `param_groups`. Raises ValueError for a parameter that is not a matrix.
    Every matrix must have a gradient at each step: a missing one raises RuntimeError, since a stack
    is updated as a whole.
    """

    rank, world_size = 0, 1

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[tuple[str, Tensor]],
        lr: float = 0.02,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_steps: int = 5,
        beta2: float = 0.95,
        weight_decay: float = 0.0,
        dtype: torch.dtype | None = None,
    ):
        by_shape: dict[tuple, list[tuple[str, Tensor]]] = {}
        for i, entry in enumerate(params):
            name, p = entry if isinstance(entry, tuple) else (str(i), entry)
            if p.ndim != 2:
                raise ValueError(f"Muon is for matrices, but {name} has shape {tuple(p.shape)}")
            by_shape.setdefault((p.shape, p.dtype, p.device), []).append((name, p))
        defaults = {"lr": lr, "momentum": momentum, "nesterov": nesterov, "ns_steps": ns_steps, "beta2": beta2, "weight_decay": weight_decay}
        super().__init__([{"params": named} for named in by_shape.values()], defaults)

        self._stacks: dict[str, list[Tensor]] = {"momentum": [], "second_moment": []}  # one per group, this rank's matrices only
        for group in self.param_groups:
            first = group["params"][0]
            self._stacks["momentum"].append(_stack([], self._slots(group), first))
            self._stacks["second_moment"].append(_stack([], self._slots(group), first.narrow(second_moment_dim(*first.shape), 0, 1)))
        self._gradients: list[_Pending] = []
        self._dtype = dtype or compute_dtype(self.param_groups[0]["params"][0].device)
        self._kernel = muon_update

    def compile_kernel(self) -> None:
        """Compile the update, once per shape, at its next use.

        If that fails for a shape, its matrices are updated eagerly from then on, the others not: so
        a resumed run computes the same. The first failure prints a notice. A kernel that does not
        compile has not changed anything yet.
        """
        compiled = torch.compile(muon_update, dynamic=False)
        failed: set[torch.Size] = set()

        def kernel(weights: Tensor, *args: Any, **kwargs: Any) -> None:
            if weights.shape not in failed:
                try:
                    return compiled(weights, *args, **kwargs)
                except Exception as error:
                    if is_out_of_memory(error):
                        raise
                    if not failed:
                        print_compile_failure(error)
                    failed.add(weights.shape)
            return muon_update(weights, *args, **kwargs)

        self._kernel = kernel

    # ---- one update: reduce_gradients, grad_sq_norm, step

    @torch.no_grad()
    def reduce_gradients(self) -> None:
        """Stack the gradients and launch their average over the ranks, without waiting for it. A
        second call does nothing."""
        if self._gradients:
            return
        for group in self.param_groups:
            for name, p in zip(group["param_names"], group["params"], strict=True):
                if p.grad is None:
                    raise RuntimeError(f"{name} has no gradient: Muon needs one for every matrix before each step (was backward called?)")
        for group in self.param_groups:
            gradients = [p.grad for p in group["params"]]
            self._gradients.append(self._reduce_scatter(_stack(gradients, self._slots(group) * self.world_size, group["params"][0])))

    def grad_sq_norm(self) -> Tensor:
        """Return the squared norm of the averaged gradients of this rank's matrices, 0-d float32:
        each matrix counts on one rank."""
        self.reduce_gradients()
        return torch.stack([torch.linalg.vector_norm(pending.wait(), dtype=torch.float32) for pending in self._gradients]).square().sum()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None, *, grad_scale: Tensor | float = 1.0) -> float | None:  # type: ignore[override] # torch.optim has overloads
        """Update every matrix with its gradient times `grad_scale` (0-d tensor or number). If that
        is not finite, weights and state do not change.

        Calls `reduce_gradients` if that was not done. Never waits for the device. As in
        torch.optim, `closure` computes the gradients first; its loss is returned.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.reduce_gradients()
        device = self.param_groups[0]["params"][0].device
        scale = _scalar(grad_scale, device)
        updated = []
        for group, pending, momentum, second_moment in zip(self.param_groups, self._gradients, *self._stacks.values(), strict=True):
            weights = _stack(self._own(group, group["params"]), self._slots(group), group["params"][0])
            lr = _scalar(group["lr"], device)
            settings = {key: group[key] for key in self.defaults if key != "lr"}
            self._kernel(weights, pending.wait(), momentum, second_moment, lr, scale, **settings, dtype=self._dtype)
            updated.append(self._all_gather(weights))
        for group, pending in zip(self.param_groups, updated, strict=True):
            for p, new in zip(group["params"], pending.wait(), strict=False):  # the rest is padding
                p.copy_(new)
        self._gradients = []
        return loss

    # ---- state

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """Return {"momentum", "second_moment"}, each {name: copy of the full tensor}. Collective:
        every rank gets the same, whatever the world size.

        Learning rates and betas are not in it: they belong to the configuration.
        """
        return {
            kind: {
                name: tensor.clone()
                for group, stack in zip(self.param_groups, stacks, strict=True)
                for name, tensor in zip(group["param_names"], self._all_gather(stack).wait(), strict=False)
            }
            for kind, stacks in self._stacks.items()
        }

    def load_state_dict(self, state_dict: dict[str, dict[str, Tensor]]) -> None:
        """Restore a `state_dict()` saved with any world size. Raises UserError, and changes
        nothing, if it is that of another model."""
        expected = {
            kind: {name: stack[0] for group, stack in zip(self.param_groups, stacks, strict=True) for name in group["param_names"]}
            for kind, stacks in self._stacks.items()
        }
        require_alike(state_dict, expected, "muon")
        for kind, stacks in self._stacks.items():
            for group, stack in zip(self.param_groups, stacks, strict=True):
                for name, slot in zip(self._own(group, group["param_names"]), stack, strict=False):
                    slot.copy_(state_dict[kind][name])

    # ---- ownership: rank r owns the slots r K to (r + 1) K of every group

    def _slots(self, group: dict) -> int:
        """Return K, the number of slots of each rank for the matrices of a group."""
        return -(-len(group["params"]) // self.world_size)

    def _own(self, group: dict, items: list) -> list:
        """Return those of `items`, one for each matrix of the group, that this rank owns."""
        slots = self._slots(group)
        return items[self.rank * slots : (self.rank + 1) * slots]

    def _reduce_scatter(self, stack: Tensor) -> _Pending:
        """Reduce this rank's gradients (K * world size, R, C) to the mean over all ranks of its own
        slots (K, R, C)."""
        return _Pending(stack)

    def _all_gather(self, own: Tensor) -> _Pending:
        """Gather own slots (K, R, C) into those of all ranks (K * world size, R, C)."""
        return _Pending(own)


class DistMuon(Muon):
    """Muon over the ranks of the default process group: the same arguments, and the same result as
    Muon on the mean of their gradients.

    Each shape is padded to a multiple of the world size. Each matrix is owned by one rank, which
    receives its mean gradient by reduce-scatter, keeps its state and computes its update; the new
    weights are all-gathered. All ranks must hold the same parameters in the same order. Gloo has no
    true reduce-scatter: PyTorch emulates it with an all-reduce, which sends twice the bytes. On a
    single rank without a process group it is Muon. Raises RuntimeError if torchrun started several
    ranks and there is no group yet.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        if dist.is_available() and dist.is_initialized():
            self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        elif int(os.environ.get("WORLD_SIZE", 1)) > 1:  # each rank would train a model of its own
            raise RuntimeError("DistMuon on several ranks needs a process group: call torch.distributed.init_process_group first")
        super().__init__(*args, **kwargs)

    def _reduce_scatter(self, stack: Tensor) -> _Pending:
        if self.world_size == 1:
            return super()._reduce_scatter(stack)
        own = stack.new_empty((stack.size(0) // self.world_size, *stack.shape[1:]))
        collective = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor  # the new name since torch 2.13
        return _Pending(own, collective(own, stack, async_op=True), stack, self.world_size)  # sum, then divide: gloo has no mean

    def _all_gather(self, own: Tensor) -> _Pending:
        if self.world_size == 1:
            return super()._all_gather(own)
        everything = own.new_empty((own.size(0) * self.world_size, *own.shape[1:]))
        collective = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
        return _Pending(everything, collective(everything, own, async_op=True), own)
