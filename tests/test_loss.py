"""The chunked loss against the plain float64 formula, and the guarantee that the full logits never
exist."""

import contextlib
import dataclasses
import math
import random
import weakref
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from nano_hindi import fp8
from nano_hindi import loss as loss_module
from nano_hindi.config import GPTConfig, TrainConfig
from nano_hindi.errors import UserError
from nano_hindi.loss import softcapped_cross_entropy
from nano_hindi.training.setup import new_model


def make(N, C, V, *, padding=0, ignored=0.0, scale=1.0, dtype=torch.float32, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(N, C, generator=g).to(dtype)
    weight = torch.randn(V + padding, C, generator=g) * scale
    targets = torch.randint(0, V, (N,), generator=g)
    targets[torch.rand(N, generator=g) < ignored] = -1
    return x.requires_grad_(), weight.requires_grad_(), targets


def reference(x, weight, targets, softcap=15.0, vocab_size=None):
    """Return the losses (N,) in float64 by the definition."""
    logits = x.double() @ weight.double()[:vocab_size].T
    capped = softcap * torch.tanh(logits / softcap)
    return F.cross_entropy(capped, targets, ignore_index=-1, reduction="none")


def gradients_of(value, x, weight):
    return torch.autograd.grad(value, (x, weight))


@pytest.fixture
def tiny_chunks(monkeypatch):
    """Use chunks of a few tokens and blocks of fewer rows, so that every boundary is crossed."""
    monkeypatch.setattr(loss_module, "CHUNK_BYTES", {"cpu": 16 * 4 * 100})
    monkeypatch.setattr(loss_module, "ROWS_BYTES", {"cpu": 3 * 4 * 100})
    monkeypatch.setattr(loss_module, "PRODUCT_ROWS", 7)


def draw_cases():
    rng = random.Random(0)
    for seed in range(12):
        N, C, V = rng.randint(1, 90), rng.randint(1, 40), rng.randint(2, 200)
        yield pytest.param(N, C, V, rng.choice([0, 1, 37]), rng.choice([0.0, 0.3]), rng.choice([5.0, 15.0, 30.0]), rng.choice([0.1, 1.0, 3.0]), seed)


@pytest.mark.usefixtures("tiny_chunks")
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize(("N", "C", "V", "padding", "ignored", "softcap", "scale", "seed"), list(draw_cases()))
def test_value_and_gradients_equal_the_float64_formula(N, C, V, padding, ignored, softcap, scale, seed, reduction):
    x, weight, targets = make(N, C, V, padding=padding, ignored=ignored, scale=scale, seed=seed)
    expected = reference(x, weight, targets, softcap, V).sum()
    if reduction == "mean":
        expected = expected / max(1, (targets >= 0).sum().item())
    got = softcapped_cross_entropy(x, weight, targets, softcap=softcap, reduction=reduction, vocab_size=V if padding else None)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), expected, rtol=3e-6, atol=1e-6)
    for name, a, b in zip(("x", "weight"), gradients_of(got, x, weight), gradients_of(expected, x, weight), strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=1e-5, atol=2e-6 * max(1.0, b.abs().max().item()), msg=lambda m, name=name: f"{name}: {m}")


def test_rows_without_a_target_are_not_computed():
    """Most tokens of a conversation have none."""
    x, weight, targets = make(40, 8, 30, ignored=0.5)
    results = []
    for content in (0.0, math.nan):
        with torch.no_grad():
            x[targets < 0] = content
            each = softcapped_cross_entropy(x, weight, targets, reduction="none")
        value = softcapped_cross_entropy(x, weight, targets)
        results.append((value, each, *gradients_of(value, x, weight)))
    for first, second in zip(*results, strict=True):
        assert torch.equal(first, second)


def test_reduction_none_is_refused_where_a_gradient_is_needed():
    x, weight, targets = make(4, 8, 7)
    with pytest.raises(RuntimeError, match="computes no gradients"):
        softcapped_cross_entropy(x, weight, targets, reduction="none")
    softcapped_cross_entropy(x.detach(), weight.detach(), targets, reduction="none")


def test_batch_without_targets_gives_zero_loss_and_zero_gradients():
    x, weight, targets = make(6, 8, 7)
    for reduction in ("mean", "sum"):
        value = softcapped_cross_entropy(x, weight, targets.fill_(-1), reduction=reduction)
        assert value.item() == 0
        assert all((grad == 0).all() for grad in gradients_of(value, x, weight))
    empty = softcapped_cross_entropy(x[:0], weight, targets[:0])
    assert empty.item() == 0
    assert all((grad == 0).all() for grad in gradients_of(empty, x, weight))


def test_extreme_logits_stay_finite():
    x, weight, targets = make(30, 8, 70, scale=1e6)
    value = softcapped_cross_entropy(x, weight, targets, softcap=60.0)
    torch.testing.assert_close(value.double(), reference(x, weight, targets, 60.0).mean(), rtol=1e-5, atol=0)
    assert all(grad.isfinite().all() for grad in gradients_of(value, x, weight))


def test_only_the_needed_gradients_are_computed():
    x, weight, targets = make(10, 8, 30)
    expected = gradients_of(softcapped_cross_entropy(x, weight, targets), x, weight)
    for i, wanted in enumerate((x, weight)):
        arguments = [x.detach(), weight.detach()]
        arguments[i] = wanted
        with Watch() as watch:
            (grad,) = torch.autograd.grad(softcapped_cross_entropy(*arguments, targets), wanted)
        torch.testing.assert_close(grad, expected[i])
        assert watch.matmuls == 2
    with Watch() as watch, torch.no_grad():
        softcapped_cross_entropy(x, weight, targets)
    assert watch.matmuls == 1


# ---- memory


class Watch(TorchDispatchMode):
    """Record the size of the largest new tensor and the number of matrix products."""

    def __init__(self):
        super().__init__()
        self.numel = self.matmuls = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.matmuls += func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.addmm_)
        known = {x.untyped_storage().data_ptr() for x in args if isinstance(x, torch.Tensor)}
        if isinstance(out, torch.Tensor) and out.untyped_storage().data_ptr() not in known:
            self.numel = max(self.numel, out.untyped_storage().nbytes() // out.element_size())
        return out


@pytest.mark.slow
def test_full_logits_never_exist_in_forward_or_backward():
    N, C, V = 20_000, 4, 8192
    x, weight, targets = make(N, C, V)
    limit = loss_module.CHUNK_BYTES["cpu"] // 4
    assert 8 * limit < N * V, "the test would prove nothing"
    with Watch() as watch:
        softcapped_cross_entropy(x, weight, targets).backward()
    assert 0 < watch.numel <= limit
    with Watch() as watch, torch.no_grad():
        softcapped_cross_entropy(x, weight, targets, reduction="none")
    assert 0 < watch.numel <= limit


@pytest.mark.usefixtures("tiny_chunks")
def test_backward_makes_no_matrix_product_and_no_second_copy():
    x, weight, targets = make(64, 8, 100)
    value = softcapped_cross_entropy(x, weight, targets)
    with Watch() as watch:
        value.backward()
    assert watch.matmuls == 0
    assert watch.numel <= 1, "backward allocated more than scalars"


def test_chunk_of_the_default_vocabulary_is_256_tokens_on_a_cpu():
    assert loss_module._chunk_tokens(1024, 68096, torch.empty(0)) == 256
    assert loss_module._chunk_tokens(100, 68096, torch.empty(0)) == 100


@pytest.mark.parametrize(("gigabytes", "fraction", "tokens"), [(24, 1.0, 4096), (141, 1.0, 16384), (141, 0.2, 4096)])
def test_chunk_on_a_gpu_depends_on_the_memory_that_the_process_may_use(monkeypatch, gigabytes, fraction, tokens):
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=gigabytes * 10**9))
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda device: fraction, raising=False)
    x = SimpleNamespace(device=torch.device("cuda", 0), element_size=lambda: torch.bfloat16.itemsize)
    assert loss_module._chunk_tokens(65536, 68096, x) == tokens


# ---- backward


def test_second_backward_is_refused():
    x, weight, targets = make(10, 8, 30)
    value = softcapped_cross_entropy(x, weight, targets, reduction="sum")
    value.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="compute the loss again"):
        value.backward()


# ---- compute dtypes


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("upstream", [1.0, 1 / 65536, 1024.0])
def test_half_precision_gradients_are_exact_up_to_rounding(dtype, upstream):
    x, weight, targets = make(256, 32, 500, scale=0.3, dtype=dtype)
    # rounding x and the weight changes the true value: not an error of the loss
    true_x, true_weight = x.detach().double().requires_grad_(), weight.detach().to(dtype).double().requires_grad_()
    expected = reference(true_x, true_weight, targets).mean()
    value = softcapped_cross_entropy(x, weight, targets)
    torch.testing.assert_close(value.double(), expected, rtol=2e-3, atol=0)
    grads = torch.autograd.grad(value * upstream, (x, weight))
    assert [grad.dtype for grad in grads] == [dtype, torch.float32]
    for name, a, b in zip(("x", "weight"), grads, torch.autograd.grad(expected * upstream, (true_x, true_weight)), strict=True):
        if name == "x" and dtype == torch.float16 and upstream < 1:
            continue  # 1/65536 of a mean underflows in fp16; loss scaling is for that
        assert (a.double() - b).norm() / b.norm() < 0.01, name


@pytest.mark.usefixtures("tiny_chunks")
@pytest.mark.parametrize("one_pass", ["_eager_pass", "_fused_pass"])
@pytest.mark.parametrize(
    ("dtype", "softcap", "scale"),
    [(torch.float32, 60.0, 30.0), (torch.bfloat16, 60.0, 30.0), (torch.bfloat16, 15.0, 5.0), (torch.float16, 15.0, 5.0)],
)
def test_gradients_are_exact_at_logits_over_the_whole_range(dtype, softcap, scale, one_pass, monkeypatch):
    """Before the division by S, u reaches 1e5 with softcap 15, beyond float16, and 1e25 with 60."""
    monkeypatch.setattr(loss_module, "_compiled_pass", getattr(loss_module, one_pass))
    x, weight, targets = make(90, 8, 100, padding=3, ignored=0.2, scale=scale, dtype=dtype)
    w = weight.detach()[:100].to(dtype)
    # the logits of the definition are rounded as the loss rounds them: at 60 that is a tenth of p
    capped = (x.detach().float() @ w.float().T / softcap).to(dtype).double().requires_grad_()
    t = capped.tanh()
    assert t.max() > 0.999
    assert t.min() < -0.999
    expected = F.cross_entropy(softcap * t, targets, ignore_index=-1)
    (grad,) = torch.autograd.grad(expected / softcap, capped)
    got = softcapped_cross_entropy(x, weight, targets, softcap=softcap, vocab_size=100)
    torch.testing.assert_close(got.double(), expected, rtol=1e-5 if dtype == torch.float32 else 1e-3, atol=0)
    for a, b in zip(gradients_of(got, x, weight), (grad @ w.double(), F.pad(grad.T @ x.detach().double(), (0, 0, 0, 3))), strict=True):
        assert (a.double() - b).norm() / b.norm() < (1e-5 if dtype == torch.float32 else 5e-3)


def test_weight_gradient_is_summed_in_float32_over_many_chunks(monkeypatch):
    x, weight, targets = make(2048, 16, 50, scale=0.3, dtype=torch.bfloat16)
    with torch.no_grad():
        x += 1  # all chunks have the same sign: a half-precision sum would lose the later ones
    monkeypatch.setattr(loss_module, "CHUNK_BYTES", {"cpu": 16 * 50 * 2})
    true_weight = weight.detach().bfloat16().double().requires_grad_()
    (expected,) = torch.autograd.grad(reference(x.detach().double(), true_weight, targets).mean(), true_weight)
    (got,) = torch.autograd.grad(softcapped_cross_entropy(x, weight, targets), weight)
    assert (got.double() - expected).norm() / expected.norm() < 0.002  # summed in bf16: 0.015


def test_loss_scale_1024_keeps_the_fp16_gradients_of_rare_tokens():
    """The softmax of a rare token, 1e-7 here, is a subnormal of fp16 with one bit left unless it is
    scaled first."""
    V, C = 2000, 16
    x, weight, targets = make(64, C, V, scale=0.1, dtype=torch.float16)
    with torch.no_grad():
        x[:, 0] = 2.0
        weight[:, 0] = -4.0
        weight[:3, 0] = 4.0
        targets.random_(0, 3, generator=torch.Generator().manual_seed(0))
    true_x, true_weight = x.detach().double(), weight.detach().half().double().requires_grad_()
    (expected,) = torch.autograd.grad(reference(true_x, true_weight, targets).mean() * 1024, true_weight)
    (got,) = torch.autograd.grad(softcapped_cross_entropy(x, weight, targets) * 1024, weight)
    rare = slice(3, None)
    assert (got[rare].double() - expected[rare]).norm() / expected[rare].norm() < 0.03


def test_autocast_does_not_change_the_loss(monkeypatch):
    """It is off within the loss. The values alone would not show it: the matmuls are in place or
    have `out`, and PyTorch casts none of these."""
    x, weight, targets = make(30, 8, 50)
    plain = softcapped_cross_entropy(x, weight, targets)
    is_on, elementwise = [], loss_module._elementwise
    monkeypatch.setattr(loss_module, "_elementwise", lambda *args: is_on.append(torch.is_autocast_enabled("cpu")) or elementwise(*args))
    with torch.autocast("cpu", torch.bfloat16):
        inside = softcapped_cross_entropy(x, weight, targets)
    assert is_on == [False]
    for a, b in zip((plain, *gradients_of(plain, x, weight)), (inside, *gradients_of(inside, x, weight)), strict=True):
        assert torch.equal(a, b)


# ---- the fused form for torch.compile


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_fused_form_equals_the_eager_one(dtype, monkeypatch):
    x, weight, targets = make(60, 8, 300, ignored=0.3, dtype=dtype)

    def results():
        value = softcapped_cross_entropy(x, weight, targets)
        with torch.no_grad():
            each = softcapped_cross_entropy(x, weight, targets, reduction="none")
        return value, each, *gradients_of(value, x, weight)

    eager, compiled = results(), []
    monkeypatch.setattr(loss_module, "_compiled_pass", None)
    monkeypatch.setattr(torch, "compile", lambda f: lambda *args: (compiled.append(f), f(*args))[1])
    loss_module.compile_kernels()
    torch.testing.assert_close(results(), eager, rtol=1e-5 if dtype == torch.float32 else 0.01, atol=1e-6)
    assert compiled == [loss_module._fused_pass] * 2


@pytest.mark.usefixtures("tiny_chunks")
def test_compiled_pass_keeps_one_chunk_beside_the_logits(monkeypatch):
    made = []

    def one_pass(*arguments):
        assert all(u() is None for u in made), "the last chunk is still held"
        u, total = loss_module._fused_pass(*arguments)
        made.append(weakref.ref(u))
        return u, total

    monkeypatch.setattr(loss_module, "_compiled_pass", one_pass)
    softcapped_cross_entropy(*make(64, 8, 100))
    assert len(made) == 4


# ---- fp8


# a standard deviation of the logits of 2.7 and of 27, beyond the cap
@pytest.mark.parametrize("scale", [0.3, 3.0])
def test_fp8_gradients_have_the_rounding_errors_of_x_and_w_alone(scale, monkeypatch):
    V = 1104
    x, weight, targets = make(160, 80, V, padding=16, ignored=0.2, scale=scale)
    monkeypatch.setattr(loss_module, "CHUNK_BYTES", {"cpu": 64 * 4 * V})
    value, again = (softcapped_cross_entropy(x, weight, targets, reduction="sum", vocab_size=V, fp8=True) for _ in range(2))
    grads = gradients_of(value, x, weight)
    assert all(map(torch.equal, grads, gradients_of(again, x, weight)))
    assert not grads[0][targets == -1].any()
    assert not grads[1][V:].any()
    expected = reference(x, weight, targets, vocab_size=V).sum()
    errors = [((a - b).norm() / b.norm()).item() for a, b in zip((value, *grads), (expected, *gradients_of(expected, x, weight)), strict=True)]
    assert errors[0] < 1e-6
    assert all(0.015 < error < 0.03 for error in errors[1:]), errors


def test_fp8_computes_no_more_than_whole_chunks_with_both_gradients(monkeypatch):
    x, weight, targets = make(90, 16, 32)
    monkeypatch.setattr(loss_module, "CHUNK_BYTES", {"cpu": 64 * 4 * 32})
    plain = gradients_of(softcapped_cross_entropy(x, weight, targets), x, weight)
    grad_x, _ = gradients_of(softcapped_cross_entropy(x, weight, targets, fp8=True), x, weight)
    assert torch.equal(grad_x[64:], plain[0][64:])  # 26 tokens: no multiple of 16
    assert not torch.isclose(grad_x[:64], plain[0][:64]).all()
    value = softcapped_cross_entropy(x.detach(), weight, targets, fp8=True)
    assert torch.equal(*torch.autograd.grad(value, weight), plain[1])
    nothing = softcapped_cross_entropy(x, weight, torch.full_like(targets, -1), fp8=True)
    assert not any(grad.any() for grad in gradients_of(nothing, x, weight))


def test_flag_of_fp8_changes_the_gradients_of_the_head_within_rounding():
    config, recipe, cpu = GPTConfig(vocab_size=32, sequence_len=32, n_layer=1, n_head=1, n_kv_head=1, n_embd=16), TrainConfig(), torch.device("cpu")
    tokens, grads = torch.randint(32, (1, 33), generator=torch.Generator().manual_seed(0)), []
    for fp8_head in (False, True):
        model = new_model(config, dataclasses.replace(recipe, fp8_head=fp8_head), cpu)
        model(tokens[:, :-1], tokens[:, 1:]).backward()
        grads.append(model.lm_head.weight.grad)
    assert 0.01 < (grads[1] - grads[0]).norm() / grads[0].norm() < 0.05


@pytest.mark.parametrize(
    ("capability", "dtype", "sizes", "words"),
    [
        ((8, 9), torch.bfloat16, (48, 64), None),
        ((8, 6), torch.bfloat16, (48, 64), "capability 8.9"),
        ((9, 0), torch.float32, (48, 64), "--dtype bfloat16"),
        ((9, 0), torch.bfloat16, (40, 64), "n_embd to be a multiple of 16, and it is 40"),
        ((9, 0), torch.bfloat16, (48, 70), "vocab_size to be a multiple of 16, and it is 70"),
    ],
)
def test_fp8_is_refused_where_it_cannot_work(capability, dtype, sizes, words, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    with pytest.raises(UserError, match=words) if words else contextlib.nullcontext():
        fp8.require_fp8(*sizes, dtype, torch.device("cuda"))


@pytest.mark.slow
def test_compiled_fp8_gradients_equal_the_eager_ones(monkeypatch):
    x, weight, targets = make(96, 16, 64, dtype=torch.bfloat16)
    eager = gradients_of(softcapped_cross_entropy(x, weight, targets, fp8=True), x, weight)
    monkeypatch.setattr(loss_module, "_compiled_pass", loss_module._fused_pass)
    compiled = gradients_of(softcapped_cross_entropy(x, weight, targets, fp8=True), x, weight)
    torch.testing.assert_close(compiled, eager, rtol=0.02, atol=1e-5)
    assert fp8._compiled_kernels.cache_info().currsize == 1


def test_misuse_is_refused():
    x, weight, targets = make(4, 8, 7)
    for arguments, options in [
        ((x[None], weight, targets[None]), {}),
        ((x, weight[:, :4], targets), {}),
        ((x, weight, targets), {"reduction": "avg"}),
        ((x, weight, targets), {"softcap": 0.0}),
        ((x, weight, targets), {"softcap": 90.0}),
        ((x, weight, targets), {"vocab_size": 8}),
        ((x, weight, targets), {"fp8": True}),  # 7 columns
        (make(4, 8, 16), {"fp8": True}),
        (make(4, 16, 16, dtype=torch.float16), {"fp8": True}),
    ]:
        with pytest.raises(ValueError):
            softcapped_cross_entropy(*arguments, **options)
