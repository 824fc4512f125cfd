"""Muon against float64 formulas (numpy, singular value decompositions). For several ranks, and what
TrainOptimizer makes of it, see test_optim.py."""

import contextlib
import math
import shutil

import numpy as np
import pytest
import torch
from torch import nn

from nano_hindi.errors import UserError
from nano_hindi.muon import POLAR_EXPRESS, DistMuon, Muon, muon_update, polar_express

ERROR = 0.13363  # of POLAR_EXPRESS on [1e-3, 1]
SHAPES = {"tall": (40, 12), "wide": (12, 40), "square": (24, 24)}
CUSHION = 0.02407327424182761  # Amsel et al., appendix G


def minimax_quintic(low: float, high: float) -> np.ndarray:
    """Return a, b, c of the odd quintic nearest to 1 on [low, high]: alternate between the values
    at four points and the extrema (algorithm 3)."""
    q, r = low + (high - low) / 4, low + 3 * (high - low) / 4
    for _ in range(100):
        points = np.array([low, q, r, high])
        a, b, c, _ = np.linalg.solve(np.stack([points, points**3, points**5, [1, -1, 1, -1]], axis=1), np.ones(4))
        q, r = np.sqrt((-3 * b + np.array([-1, 1]) * math.sqrt(9 * b * b - 20 * a * c)) / (10 * c))
    return np.array([a, b, c])


def value(coefficients, x):
    a, b, c = coefficients
    return a * x + b * x**3 + c * x**5


def greedy_minimax(steps: int, low: float, safety: float) -> list[np.ndarray]:
    """Return the paper's composition for singular values in [low, 1] with its two safeguards."""
    high, polynomials = 1.0, []
    for step in range(steps):
        p = minimax_quintic(max(low, CUSHION * high), high)
        if CUSHION * high > low:
            p = p * 2 / (value(p, low) + value(p, high))  # centred on 1 again
        if step < steps - 1:
            p = p / np.array([safety, safety**3, safety**5])
        polynomials.append(p)
        low = value(p, low)
        high = 2 - low
    return polynomials


def exact_polar(x: torch.Tensor) -> torch.Tensor:
    u, _, vt = torch.linalg.svd(x.double(), full_matrices=False)
    return u @ vt


def matrix_with(singular_values: torch.Tensor, rows: int, cols: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    u, _ = torch.linalg.qr(torch.randn(rows, len(singular_values), generator=generator, dtype=torch.float64))
    v, _ = torch.linalg.qr(torch.randn(cols, len(singular_values), generator=generator, dtype=torch.float64))
    return (u * singular_values.double()) @ v.mT


class Formula:
    """Muon for one matrix in float64 numpy, written from the papers; the polynomials act on
    singular values, not on matrices."""

    def __init__(self, weight, lr, momentum=0.95, nesterov=True, beta2=0.95, weight_decay=0.0):
        self.w, self.lr, self.mu, self.nesterov, self.beta2, self.wd = weight.double().numpy(), lr, momentum, nesterov, beta2, weight_decay
        self.m, self.v = np.zeros_like(self.w), 0.0

    def step(self, gradient):
        g, (rows, cols) = gradient.double().numpy(), self.w.shape
        self.m = self.mu * self.m + g  # Keller Jordan's sum, not our average
        u, s, vt = np.linalg.svd(g + self.mu * self.m if self.nesterov else self.m, full_matrices=False)
        s = s / (1.01 * np.sqrt((s**2).sum()))
        for p in POLAR_EXPRESS:
            s = value(p, s)
        o = u @ np.diag(s) @ vt
        self.v = self.beta2 * self.v + (1 - self.beta2) * (o**2).mean(axis=1 if rows >= cols else 0, keepdims=True)
        update = o / np.sqrt(self.v)
        update *= np.linalg.norm(o) / np.linalg.norm(update)
        decay = np.where(np.sign(update) == np.sign(self.w), self.w, 0)
        self.w = self.w - self.lr * self.wd * decay - self.lr * max(1, rows / cols) ** 0.5 * update


def some(shape, updates=4, n=3):
    """Return (weights, gradients of several updates) for n matrices, float64."""
    generator = torch.Generator().manual_seed(7)
    draw = torch.randn(updates + 1, n, *shape, generator=generator, dtype=torch.float64)
    return draw[0], list(draw[1:])


def parameters(*shapes, dtype=torch.float32):
    generator = torch.Generator().manual_seed(3)
    return [nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype)) for shape in shapes]


def give_gradients(params, seed=5):
    generator = torch.Generator().manual_seed(seed)
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator)


# ---- Polar Express


def test_coefficients_are_the_minimax_polynomials_of_the_paper():
    printed = [
        (8.28721201814563, -23.595886519098837, 17.300387312530933),
        (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    ]  # 1st and 5th
    without_safety = greedy_minimax(5, 1e-3, safety=1.0)
    np.testing.assert_allclose([without_safety[0], without_safety[4]], printed, rtol=1e-10)
    np.testing.assert_allclose(POLAR_EXPRESS, greedy_minimax(5, 1e-3, safety=1.01), rtol=1e-10)


def test_singular_values_in_1e_minus_3_to_1_end_within_the_known_error_of_1():
    x = np.geomspace(1e-3, 1, 200_001)
    for p in POLAR_EXPRESS:
        x = value(p, x)
    assert 0.1336 < abs(x - 1).max() < ERROR


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_update_is_the_polar_factor_up_to_the_error_of_the_polynomials(shape):
    gaussian, _ = some(shape)
    spread = torch.stack([matrix_with(torch.logspace(0, -2.4, min(shape)), *shape, seed) for seed in range(3)])
    for matrices in (gaussian, spread, 1e-9 * spread, 1e9 * gaussian):
        got = polar_express(matrices.float()).double()
        distance = torch.linalg.matrix_norm(got - exact_polar(matrices), ord=2)
        assert distance.max() < ERROR + 1e-3
        u, _, vt = torch.linalg.svd(matrices, full_matrices=False)
        rotated = u.mT @ got @ vt.mT  # the same singular vectors: diagonal
        assert (rotated - torch.diag_embed(rotated.diagonal(dim1=1, dim2=2))).abs().max() < 1e-3


def test_iterations_beyond_the_fifth_converge_to_the_exact_polar_factor():
    matrices, _ = some((12, 30))
    errors = [torch.linalg.matrix_norm(polar_express(matrices, steps, torch.float64) - exact_polar(matrices), ord=2).max() for steps in (5, 6, 7)]
    assert errors[0] < ERROR
    assert errors[1] < 0.01
    assert errors[2] < 1e-5


@pytest.mark.parametrize("shape", [(16, 64), (64, 16), (24, 48)])
@pytest.mark.parametrize("decades", [0.1, 3, 7, 12])
def test_gram_iteration_for_wide_matrices_equals_the_iteration_in_float64(shape, decades):
    """Also where singular values span more than float32 resolves, and for zeros."""
    matrices = torch.stack(
        [*(matrix_with(torch.logspace(0, -decades, min(shape)), *shape, seed) for seed in range(4)), torch.zeros(shape, dtype=torch.float64)]
    )
    distance = torch.linalg.matrix_norm(polar_express(matrices.float()).double() - polar_express(matrices, dtype=torch.float64))
    assert distance.max() < 2e-3 * min(shape) ** 0.5  # the Frobenius norm of the factor is about that root
    assert distance[-1] == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rank", [1, 2, 32])
def test_half_precision_rounding_does_not_diverge(dtype, rank):
    matrices = torch.stack([matrix_with(torch.logspace(0, -2, rank), 32, 64, seed) for seed in range(4)]).float()
    got = torch.linalg.svdvals(polar_express(matrices, dtype=dtype).double())
    assert (got[:, :rank] - 1).abs().max() < ERROR + 0.02
    assert got.max() < 1 + ERROR + 0.02


# ---- the whole update


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_several_updates_and_their_state_equal_the_float64_formula(shape, nesterov):
    weights, gradients = some(shape)
    got, momentum = weights.clone(), torch.zeros_like(weights)
    second_moment = torch.zeros_like(weights[..., :1] if shape[0] >= shape[1] else weights[:, :1])
    settings = {"momentum": 0.9, "nesterov": nesterov, "ns_steps": 5, "beta2": 0.8, "weight_decay": 0.3, "dtype": torch.float64}
    for g in gradients:
        muon_update(got, g, momentum, second_moment, torch.tensor(0.02), torch.tensor(1.0), **settings)
    for i, weight in enumerate(weights):
        formula = Formula(weight, 0.02, weight_decay=0.3, nesterov=nesterov, beta2=0.8, momentum=0.9)
        for g in gradients:
            formula.step(g[i])
        np.testing.assert_allclose(got[i], formula.w, rtol=0, atol=1e-9)  # an update changes weights by about 4e-3
        np.testing.assert_allclose(momentum[i], (1 - 0.9) * formula.m, rtol=1e-9)
        np.testing.assert_allclose(second_moment[i], formula.v, rtol=1e-6)


def test_float32_optimizer_equals_the_formula():
    shapes = [(40, 12), (12, 40), (24, 24), (40, 12)]
    params = parameters(*shapes)
    optimizer, formulas = Muon(params, lr=0.1), [Formula(p.detach(), 0.1) for p in params]
    for update in range(4):
        give_gradients(params, update)
        for p, formula in zip(params, formulas, strict=True):
            formula.step(p.grad)
        optimizer.step()
    for p, formula in zip(params, formulas, strict=True):
        np.testing.assert_allclose(p.detach(), formula.w, rtol=0, atol=2e-5)


def test_grad_scale_multiplies_the_gradient():
    """Visible in the momentum: the first update does not depend on the norm of its gradient."""
    scaled, plain = parameters((6, 9)), parameters((6, 9))
    a, b = Muon(scaled), Muon(plain)
    give_gradients(scaled)
    give_gradients(plain)
    plain[0].grad *= 0.25
    a.step(grad_scale=0.25)
    b.step()
    torch.testing.assert_close(a.state_dict(), b.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(scaled[0], plain[0], rtol=0, atol=0)


def test_matrix_with_zero_gradient_is_unchanged():
    params = parameters((6, 9), (6, 9))
    before = params[1].detach().clone()
    give_gradients(params)
    params[1].grad.zero_()
    Muon(params).step()
    assert torch.equal(params[1], before)


def test_invalid_arguments_are_named():
    with pytest.raises(ValueError, match="bias has shape"):
        Muon([("bias", nn.Parameter(torch.zeros(3)))])
    params = parameters((6, 9), (6, 9))
    optimizer = Muon([("first", params[0]), ("second", params[1])])
    params[0].grad = torch.zeros(6, 9)
    with pytest.raises(RuntimeError, match="second has no gradient"):
        optimizer.step()


def test_dist_muon_on_several_ranks_without_a_process_group_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RuntimeError, match="init_process_group"):
        DistMuon(parameters((6, 9)))


# ---- state


def test_state_is_saved_by_name_and_continues_bit_for_bit(tmp_path):
    names = ["a", "b", "c"]
    params = dict(zip(names, parameters((6, 9), (9, 6), (6, 9)), strict=True))
    optimizer = Muon(params.items())
    give_gradients(params.values())
    optimizer.step()
    torch.save({"weights": params, "optimizer": optimizer.state_dict()}, tmp_path / "state.pt")
    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    assert saved["optimizer"].keys() == {"momentum", "second_moment"}
    assert all(saved["optimizer"]["momentum"][name].shape == params[name].shape for name in names)

    copies = {name: nn.Parameter(saved["weights"][name].detach().clone()) for name in reversed(names)}  # another order
    other = Muon(copies.items())
    other.load_state_dict(saved["optimizer"])
    for update in range(2):
        for name in names:
            give_gradients([params[name], copies[name]], update)
            copies[name].grad = params[name].grad.clone()
        optimizer.step()
        other.step()
    for name in names:
        torch.testing.assert_close(copies[name], params[name], rtol=0, atol=1e-6)  # stacked in another order
    torch.testing.assert_close(other.state_dict(), optimizer.state_dict(), rtol=0, atol=1e-6)


def test_saved_state_does_not_change_with_further_updates():
    params = parameters((6, 9))
    optimizer = Muon(params)
    give_gradients(params)
    optimizer.step()
    state = optimizer.state_dict()
    copy = {kind: {name: t.clone() for name, t in tensors.items()} for kind, tensors in state.items()}
    give_gradients(params, 8)
    optimizer.step()
    torch.testing.assert_close(state, copy, rtol=0, atol=0)


def test_a_state_that_is_refused_changes_nothing():
    params = parameters((6, 9), (9, 6))
    optimizer = Muon(params)
    give_gradients(params)
    optimizer.step()
    before = optimizer.state_dict()
    other = {kind: {name: t + 1 for name, t in tensors.items()} for kind, tensors in before.items()}
    other["second_moment"]["1"] = other["second_moment"]["1"][:, :-1]
    with pytest.raises(UserError, match="second_moment 1"):
        optimizer.load_state_dict(other)
    torch.testing.assert_close(optimizer.state_dict(), before, rtol=0, atol=0)


# ---- compiled


@pytest.mark.parametrize(("error", "is_raised"), [(torch.cuda.OutOfMemoryError("CUDA out of memory"), True), (ValueError("no compiler"), False)])
def test_memory_that_runs_out_in_the_compiled_kernel_is_raised_and_other_failures_run_it_eagerly(error, is_raised, monkeypatch, capsys):
    def fails(*args, **kwargs):
        raise error

    params, eager = parameters((6, 9)), parameters((6, 9))
    for each in (params, eager):
        give_gradients(each)
    optimizer = Muon(params)
    monkeypatch.setattr(torch, "compile", lambda *_, **__: fails)
    optimizer.compile_kernel()
    with pytest.raises(type(error)) if is_raised else contextlib.nullcontext():
        optimizer.step()
    Muon(eager).step()
    assert torch.equal(params[0], eager[0]) != is_raised
    assert bool(capsys.readouterr().out) != is_raised


def test_resumed_run_equals_the_straight_one_if_a_shape_does_not_compile(monkeypatch, capsys):
    """As with PyTorch 2.13 in bfloat16 on a CPU, for several gates of one row (--n_kv_head 1)."""

    def compiled(weights, *args, **kwargs):
        if weights.size(1) == 1:
            raise ValueError("KeyError: 'buf24'")
        muon_update(weights, *args, **kwargs)
        weights.mul_(1.01)  # other rounding than the eager kernel's

    monkeypatch.setattr(torch, "compile", lambda *_, **__: compiled)
    params = parameters((8, 24), (1, 24), (6, 9))
    ends = []
    for starts in ((0,), (0, 2)):
        weights, state = [p.detach().clone().requires_grad_() for p in params], None
        for update in range(4):
            if update in starts:
                optimizer = Muon(weights)
                optimizer.compile_kernel()
                if state is not None:
                    optimizer.load_state_dict(state)
            give_gradients(weights, update)
            optimizer.step()
            state = optimizer.state_dict()
        ends.append(weights)
        assert capsys.readouterr().out.count("notice:") == len(starts)
    for straight, resumed in zip(*ends, strict=True):
        assert torch.equal(straight, resumed)


@pytest.mark.slow
@pytest.mark.skipif(not any(shutil.which(name) for name in ("c++", "g++", "clang++", "cl")), reason="no C++ compiler for torch.compile")
def test_compiled_kernel_equals_the_eager_one():
    eager, compiled = parameters((8, 24), (8, 24)), parameters((8, 24), (8, 24))
    optimizers = Muon(eager, weight_decay=0.1, ns_steps=2), Muon(compiled, weight_decay=0.1, ns_steps=2)
    optimizers[1].compile_kernel()
    for update in range(3):
        for params, optimizer in zip((eager, compiled), optimizers, strict=True):
            give_gradients(params, update)
            optimizer.param_groups[0]["lr"] = 0.02 / (1 + update)
            with torch._dynamo.config.patch(error_on_recompile=update > 0) if optimizer is optimizers[1] else contextlib.nullcontext():
                optimizer.step(grad_scale=0.5)
    for a, b in zip(eager, compiled, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
