"""Attention against explicit float64 masks, forward and backward, and the choice of the backend."""

import itertools
import json
import os
import random
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from conftest import launched
from nano_hindi import attention_backends, fa3_child, flash_attention, sdpa_attention
from nano_hindi.config import get_config
from nano_hindi.errors import UserError
from nano_hindi.flash_attention import Backend, flash_attn, select_backend
from nano_hindi.training.memory import activation_bytes


@pytest.fixture(autouse=True)
def fresh_choice(monkeypatch):
    monkeypatch.delenv("NANO_HINDI_ATTENTION", raising=False)
    flash_attention._select.cache_clear()
    yield
    flash_attention._select.cache_clear()


def make(T, H, G, D, *, B=2, N=None, dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(B, n, heads, D, generator=g, dtype=torch.float64).to(dtype) for n, heads in ((T, H), (N or T, G), (N or T, G))]


def reference(q, k, v, left, positions=None):
    """Compute attention with an explicit mask and softmax, one query, head and row at a time; query
    i of row b is at positions[b][i]."""
    B, T, H, D = q.shape
    N, G = k.shape[1], k.shape[2]
    positions = torch.arange(T).expand(B, T) if positions is None else positions
    rows = []
    for b in range(B):
        heads = []
        for h in range(H):
            kv = h // (H // G)
            scores = q[b, :, h] @ k[b, :, kv].T / D**0.5
            i, j = positions[b][:, None], torch.arange(N)[None]
            seen = (j <= i) & ((j >= i - left) if left >= 0 else torch.ones(1, dtype=torch.bool))
            heads.append(torch.softmax(scores.masked_fill(~seen, float("-inf")), 1) @ v[b, :, kv])
        rows.append(torch.stack(heads, 1))
    return torch.stack(rows)


def cases():
    fixed = [(200, left) for left in (-1, 0, 1, 127, 128, 129, 198, 199, 200, 5000)] + [(1, 0), (1, -1), (128, 64), (129, 1), (385, 255)]
    rng = random.Random(0)
    drawn = [(rng.randint(2, 400), rng.randint(0, 300)) for _ in range(8)]
    return [(T, left, *rng.choice([(6, 2, 16), (4, 4, 8), (3, 1, 16), (8, 2, 24)])) for T, left in fixed + drawn]


@pytest.mark.parametrize(("T", "left", "H", "G", "D"), cases())
def test_output_and_gradients_equal_the_explicit_mask(T, left, H, G, D):
    tensors = [x.requires_grad_() for x in make(T, H, G, D)]
    expected = reference(*tensors, left)
    upstream = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected_grads = torch.autograd.grad(expected, tensors, upstream)
    got = flash_attn.flash_attn_func(*tensors, causal=True, window_size=(left, 0))
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)
    for name, a, b in zip("qkv", torch.autograd.grad(got, tensors, upstream), expected_grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12, msg=lambda m, name=name: f"gradient of {name}: {m}")
    with torch.no_grad():
        torch.testing.assert_close(flash_attn.flash_attn_func(*tensors, window_size=(left, 0)), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_half_precision_agrees_with_float64_up_to_rounding(dtype):
    tensors = make(300, 6, 2, 64, dtype=dtype)
    got = flash_attn.flash_attn_func(*tensors, window_size=(100, 0))
    assert got.dtype == dtype
    expected = reference(*(x.double() for x in tensors), 100)
    assert (got.double() - expected).norm() / expected.norm() < (1e-6 if dtype == torch.float32 else 1e-2)


@pytest.mark.parametrize("left", [-1, 299, 300, 4000])
def test_window_that_covers_everything_uses_the_plain_causal_path(monkeypatch, left):
    monkeypatch.setattr(sdpa_attention, "_attend_window", None)
    q, k, v = make(300, 2, 1, 8)
    torch.testing.assert_close(flash_attn.flash_attn_func(q, k, v, window_size=(left, 0)), reference(q, k, v, -1))


class LargestTensor(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.numel, self.total, self.shapes = 0, 0, set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(x, torch.Tensor):
                self.numel = max(self.numel, x.untyped_storage().nbytes() // x.element_size())
                self.total += x.numel()
                self.shapes.add(tuple(x.shape))
        return out


def test_windowed_attention_makes_no_tensor_quadratic_in_the_context_nor_all_together():
    totals = []
    for T in (2048, 4096):
        tensors = [x.requires_grad_() for x in make(T, 6, 2, 16, B=1, dtype=torch.float32)]
        with LargestTensor() as watch:
            flash_attn.flash_attn_func(*tensors, window_size=(255, 0)).sum().backward()
        assert watch.numel <= 6 * T * 16, "larger than q itself"
        assert not any(sum(size >= T for size in shape) >= 2 for shape in watch.shapes), watch.shapes
        totals.append(watch.total)
    assert totals[1] < 2.2 * totals[0]


@pytest.mark.parametrize("kind", ["int", "tensor"])
def test_decoded_token_reads_only_the_keys_of_its_window(kind):
    q, k_new, v_new = make(1, 6, 2, 16, B=1)
    k_cache, v_cache = torch.full((1, 1000, 2, 16), float("nan"), dtype=q.dtype), torch.full((1, 1000, 2, 16), float("nan"), dtype=q.dtype)
    k_cache[:, 690:700], v_cache[:, 690:700] = 0.5, 1.0
    lengths = 700 if kind == "int" else torch.tensor([700], dtype=torch.int32)
    with LargestTensor() as watch:
        out = flash_attn.flash_attn_with_kvcache(q, k_cache, v_cache, k_new, v_new, cache_seqlens=lengths, window_size=(10, 0))
    assert out.isfinite().all()
    assert watch.shapes, "no operation was recorded"
    torch.testing.assert_close(out, reference(q, k_cache[:, 690:701], v_cache[:, 690:701], 10, torch.tensor([[10]])))


# ---- the cache


@pytest.mark.parametrize(("filled", "new"), [(100, 40), (381, 130), (512, 7), (700, 1)])
@pytest.mark.parametrize("left", [63, 255])
@pytest.mark.parametrize("kind", ["int", "tensor"])
def test_with_a_cache_masks_start_aligned_and_cudnn_is_off(monkeypatch, filled, new, left, kind):
    """GPU kernels read masks 16 bytes at a time, and cuDNN makes a plan for each length: both
    problems showed on an H200 only."""
    calls, sdpa = [], sdpa_attention.scaled_dot_product_attention

    def watch(q, k, v, attn_mask=None, **options):
        calls.append((attn_mask, torch.backends.cuda.cudnn_sdp_enabled()))
        return sdpa(q, k, v, attn_mask=attn_mask, **options)

    monkeypatch.setattr(sdpa_attention, "scaled_dot_product_attention", watch)
    q, k, v = make(new, 6, 2, 16, B=1)
    caches = make(900, 2, 2, 16, B=1)[:2]
    with torch.inference_mode():
        flash_attn.flash_attn_with_kvcache(
            q, *caches, k, v, cache_seqlens=filled if kind == "int" else torch.tensor([filled], dtype=torch.int32), window_size=(left, 0)
        )
    assert calls
    for mask, cudnn in calls:
        assert not cudnn
        assert mask is None or (mask.is_contiguous() and mask.storage_offset() == 0)
    assert torch.backends.cuda.cudnn_sdp_enabled(), "training does without cuDNN too"


@pytest.mark.parametrize("left", [-1, 0, 5, 130, 4000])
@pytest.mark.parametrize("kind", ["int", "tensor"])
def test_chunked_prefill_with_a_cache_equals_one_pass(left, kind):
    T, B = 420, 2
    q, k, v = make(T, 6, 2, 16, B=B)
    expected = reference(q, k, v, left)
    k_cache, v_cache = (torch.full((B, 450, 2, 16), 7.0, dtype=q.dtype) for _ in range(2))
    position, outs = 0, []
    for n in (3, 200, 1, 1, 150, 2, 1, 62):
        chunk = slice(position, position + n)
        lengths = position if kind == "int" else torch.full((B,), position, dtype=torch.int32)
        outs.append(flash_attn.flash_attn_with_kvcache(q[:, chunk], k_cache, v_cache, k[:, chunk], v[:, chunk], lengths, window_size=(left, 0)))
        position += n
    assert position == T
    torch.testing.assert_close(torch.cat(outs, 1), expected, rtol=1e-10, atol=1e-12)
    assert torch.equal(k_cache[:, :T], k)
    assert torch.equal(v_cache[:, :T], v)
    assert (k_cache[:, T:] == 7).all(), "slots after the last key were written"


@pytest.mark.parametrize("left", [-1, 0, 9, 60, 200])
@pytest.mark.parametrize("n", [1, 5, 140])
def test_rows_of_different_lengths_each_continue_at_their_own_position(left, n):
    S, lengths = 300, [0, 17, 150]
    q, k_new, v_new = make(n, 4, 2, 8, B=3)
    _, k_cache, v_cache = make(1, 4, 2, 8, B=3, N=S, seed=5)
    k_all, v_all = k_cache.clone(), v_cache.clone()
    for b, length in enumerate(lengths):
        k_all[b, length : length + n], v_all[b, length : length + n] = k_new[b], v_new[b]
    positions = torch.tensor(lengths)[:, None] + torch.arange(n)
    seqlens = torch.tensor(lengths, dtype=torch.int32)
    out = flash_attn.flash_attn_with_kvcache(q, k_cache, v_cache, k_new, v_new, cache_seqlens=seqlens, window_size=(left, 0))
    torch.testing.assert_close(out, reference(q, k_all, v_all, left, positions), rtol=1e-10, atol=1e-12)
    assert torch.equal(k_cache, k_all)
    assert torch.equal(v_cache, v_all)
    assert seqlens.tolist() == lengths, "only the caller may advance the lengths"


def test_without_new_keys_the_last_query_is_at_the_last_key():
    q, _, _ = make(4, 4, 2, 8)
    _, k_cache, v_cache = make(1, 4, 2, 8, N=50, seed=3)
    for lengths, n in ((30, 30), (torch.full((2,), 30, dtype=torch.int32), 30), (None, 50)):
        positions = (torch.arange(4) + n - 4).expand(2, 4)
        out = flash_attn.flash_attn_with_kvcache(q, k_cache, v_cache, cache_seqlens=lengths, window_size=(12, 0))
        torch.testing.assert_close(out, reference(q, k_cache, v_cache, 12, positions))


def test_misuse_is_refused():
    q, k, v = make(4, 4, 2, 8)
    cache = torch.zeros(2, 5, 2, 8, dtype=q.dtype)
    with pytest.raises(ValueError, match="do not fit"):
        flash_attn.flash_attn_with_kvcache(q, cache, cache.clone(), k, v, cache_seqlens=2)
    with pytest.raises(ValueError, match="both of k and v"):
        flash_attn.flash_attn_with_kvcache(q, cache, cache.clone(), k, cache_seqlens=0)
    with pytest.raises(ValueError, match="only causal"):
        flash_attn.flash_attn_func(q, k, v, causal=False)
    with pytest.raises(ValueError, match="window_size"):
        flash_attn.flash_attn_func(q, k, v, window_size=(4, 4))
    with pytest.raises(ValueError, match="dividing"):
        flash_attn.flash_attn_func(q[:, :, :3], k, v)
    for few in ((q[:, :3], k, v), (q, k[:, :3], v[:, :3])):  # whose positions are not known
        with pytest.raises(ValueError, match="the same number of both"):
            flash_attn.flash_attn_func(*few)
    with pytest.raises(ValueError, match="only 3 keys in the cache"):
        flash_attn.flash_attn_with_kvcache(q, cache, cache.clone(), cache_seqlens=3)
    for x in (q, cache, k, v):
        x.requires_grad_()
        with pytest.raises(RuntimeError, match="no gradients"):
            flash_attn.flash_attn_with_kvcache(q, cache, torch.zeros_like(cache), k, v, cache_seqlens=0)
        x.requires_grad_(False)


# ---- the choice of the backend


def broken(change):
    """Return a backend that is correct except for `change(q, k, v, left)` of its inputs."""

    def attend(*args):
        return sdpa_attention.attend(*change(*args))

    def attend_cached(q, k_cache, v_cache, k, v, n, left):
        return sdpa_attention.attend_cached(q, k_cache, v_cache, k, v, n, change(None, None, None, left)[3])

    return Backend("fa3", attend, attend_cached)


def offer(monkeypatch, backend):
    def load(device, dtype):
        if isinstance(backend, Exception):
            raise backend
        return backend

    monkeypatch.setitem(flash_attention.LOADERS, "fa3", load)


def test_cpu_uses_sdpa_and_runs_no_gpu_code(monkeypatch):
    def forbidden(*args, **kwargs):
        raise AssertionError("GPU code was touched")

    for name in ("is_available", "get_device_capability", "current_device", "synchronize", "_lazy_init"):
        monkeypatch.setattr(torch.cuda, name, forbidden)
    monkeypatch.setitem(sys.modules, "flash_attn_interface", None)
    backend = select_backend("cpu", torch.float32)
    assert str(backend) == "sdpa (fa3: no CUDA; varlen: no CUDA)"


def test_backend_that_passes_the_probe_is_chosen(monkeypatch):
    """The probe draws its inputs without the global generator."""
    offer(monkeypatch, broken(lambda *args: args))
    before = torch.get_rng_state()
    assert select_backend("cpu", torch.float32).name == "fa3"
    assert select_backend("cpu", torch.bfloat16, 72, 8, 2, training=False).name == "fa3"
    assert torch.equal(torch.get_rng_state(), before)


def test_probe_runs_once_for_training(monkeypatch):
    probed, real_probe = [], flash_attention._probe
    monkeypatch.setattr(flash_attention, "_probe", lambda *args: (probed.append(args[-1]), real_probe(*args)))
    offer(monkeypatch, Backend("fa3", sdpa_attention.attend, sdpa_attention.attend_cached))
    tensors = [x.requires_grad_() for x in make(64, 6, 2, 16, dtype=torch.float32)]
    for _ in range(2):
        flash_attn.flash_attn_func(*tensors, window_size=(20, 0))
    assert probed == [True]


@pytest.mark.parametrize("training", [True, False])
def test_probe_rejects_a_window_off_by_one_even_in_bf16(monkeypatch, training):
    for step in (-1, 1):
        flash_attention._select.cache_clear()
        offer(monkeypatch, broken(lambda q, k, v, left, step=step: (q, k, v, left + step if left >= 0 else left)))
        backend = select_backend("cpu", torch.bfloat16, training=training)
        assert backend.name == "sdpa"
        assert "fa3: wrong output" in backend.reason


@pytest.mark.parametrize("wrong_at", ["one query", "several queries"])
def test_probe_rejects_a_kernel_that_is_wrong_only_with_a_cache(monkeypatch, wrong_at):
    def ahead(q, k_cache, v_cache, k, v, n, left):
        return sdpa_attention.attend_cached(q, k_cache, v_cache, k, v, n + ((q.shape[1] == 1) == (wrong_at == "one query")), left)

    offer(monkeypatch, Backend("fa3", sdpa_attention.attend, ahead))
    assert "with a cache" in select_backend("cpu", torch.float32, training=False).reason


@pytest.mark.parametrize(
    "change",
    [
        lambda q, k, v, left: (q, k.flip(2), v.flip(2), left),
        lambda q, k, v, left: (q, k, v, 100 if left < 0 else left),
        lambda q, k, v, left: (q, k, v * float("nan"), left),
    ],
    ids=["K/V heads in the wrong order", "a window where there is none", "nan"],
)
def test_probe_rejects_a_wrong_kernel(monkeypatch, change):
    offer(monkeypatch, broken(change))
    assert "fa3: wrong output" in select_backend("cpu", torch.float32).reason


def test_forward_only_kernel_is_used_for_generation_but_not_for_training(monkeypatch):
    class NoBackward(torch.autograd.Function):
        @staticmethod
        def forward(ctx, q, k, v, left):
            return sdpa_attention.attend(q, k, v, left)

        @staticmethod
        def backward(ctx, upstream):
            raise NotImplementedError("backward is not built")

    offer(monkeypatch, Backend("fa3", NoBackward.apply, sdpa_attention.attend_cached))
    training = select_backend("cpu", torch.float32, training=True)
    assert training.name == "sdpa"
    assert "fa3: NotImplementedError: backward is not built" in str(training)
    with torch.inference_mode():
        assert select_backend("cpu", torch.float32, training=False).name == "fa3"


def test_probe_rejects_a_wrong_gradient(monkeypatch):
    class HalfGradient(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, upstream):
            return upstream * 0.9

    offer(monkeypatch, broken(lambda q, k, v, left: (q, HalfGradient.apply(k) if k is not None else None, v, left)))
    assert "wrong gradient of k" in select_backend("cpu", torch.float32).reason


def test_backend_that_fails_to_load_is_reported_and_skipped(monkeypatch):
    offer(monkeypatch, OSError("libcudart.so.12: cannot open shared object file"))
    assert "fa3: OSError: libcudart.so.12" in str(select_backend("cpu", torch.float32))


def test_environment_variable_forces_a_backend_and_a_wrong_value_is_a_user_error(monkeypatch):
    monkeypatch.setenv("NANO_HINDI_ATTENTION", "sdpa")
    assert str(select_backend("cpu", torch.float32)) == "sdpa (forced by NANO_HINDI_ATTENTION)"
    monkeypatch.setenv("NANO_HINDI_ATTENTION", "fa2")
    with pytest.raises(UserError, match="fa2 names no attention backend; choose one of fa3, varlen, sdpa"):
        select_backend("cpu", torch.float32)
    monkeypatch.setenv("NANO_HINDI_ATTENTION", "varlen")
    with pytest.raises(UserError, match=r"varlen does not work here .*no CUDA"):
        flash_attn.flash_attn_func(*make(4, 2, 2, 8))
    assert activation_bytes(get_config("tiny"), torch.bfloat16) > 0  # on the meta device, before any GPU is used
    monkeypatch.setenv("NANO_HINDI_ATTENTION", "")
    assert str(select_backend("cpu", torch.float32)) == "sdpa (fa3: no CUDA; varlen: no CUDA)"


# ---- the calls of the GPU backends, recorded by stand-ins with the kernels' signatures


@pytest.mark.parametrize("takes_gqa", [True, False])
@pytest.mark.parametrize("left", [-1, 0, 20])
def test_varlen_packs_rows_and_passes_flash_attentions_window(takes_gqa, left):
    seen = []

    def attend_packed(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, window_size):
        seen.append(key.shape[1])
        assert isinstance(window_size, tuple), "varlen_attn compares with the tuple (-1, 0)"
        assert window_size[1] == 0
        assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
        rows = [slice(int(a), int(b)) for a, b in itertools.pairwise(cu_seq_q)]
        assert all(r.stop - r.start == max_q == max_k for r in rows)
        return torch.cat([reference(query[r][None], key[r][None], value[r][None], window_size[0])[0] for r in rows])

    def with_gqa(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, window_size=(-1, -1), enable_gqa=False):
        assert enable_gqa
        return attend_packed(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, window_size)

    def without_gqa(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, window_size=(-1, -1)):
        return attend_packed(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, window_size)

    backend = attention_backends.varlen_backend(with_gqa if takes_gqa else without_gqa)
    q, k, v = make(40, 6, 2, 8, B=3)
    torch.testing.assert_close(backend.attend(q, k, v, left), reference(q, k, v, left))
    caches = (torch.zeros(3, 50, 2, 8, dtype=q.dtype) for _ in range(2))
    torch.testing.assert_close(backend.attend_cached(q, *caches, k, v, 0, left), reference(q, k, v, left))  # a prompt
    assert seen == [2 if takes_gqa else 6] * 2


def test_fa3_gets_its_own_arguments_and_may_return_a_tuple():
    calls = []

    def flash_attn_func(q, k, v, softmax_scale=None, causal=False, window_size=(-1, -1)):
        calls.append((causal, window_size))
        return reference(q, k, v, window_size[0]), "lse"

    def flash_attn_with_kvcache(q, k_cache, v_cache, k=None, v=None, cache_seqlens=None, causal=False, window_size=(-1, -1)):
        calls.append((causal, window_size))
        return sdpa_attention.attend_cached(q, k_cache, v_cache, k, v, cache_seqlens, window_size[0])

    backend = attention_backends.fa3_backend(SimpleNamespace(flash_attn_func=flash_attn_func, flash_attn_with_kvcache=flash_attn_with_kvcache))
    q, k, v = make(10, 4, 2, 8)
    torch.testing.assert_close(backend.attend(q, k, v, 3), reference(q, k, v, 3))
    cache = torch.zeros(2, 20, 2, 8, dtype=q.dtype)
    torch.testing.assert_close(backend.attend_cached(q, cache, cache.clone(), k, v, 0, -1), reference(q, k, v, -1))
    assert calls == [(True, (3, 0)), (True, (-1, 0))]


@pytest.mark.parametrize("takes_version", [True, False])
def test_kernel_of_the_hub_is_that_of_version_1_where_one_can_be_named(monkeypatch, takes_version):
    def with_version(name, *, version=None):
        return name, version

    def without(name):
        return name, None

    monkeypatch.setitem(sys.modules, "flash_attn_interface", None)
    monkeypatch.setitem(sys.modules, "kernels", SimpleNamespace(get_kernel=with_version if takes_version else without))
    assert attention_backends.fa3_module() == ("kernels-community/flash-attn3", 1 if takes_version else None)


@pytest.mark.parametrize(
    ("capability", "dtype", "fa3", "varlen"),
    [
        ((7, 5), torch.float16, "not for compute capability 7.5", "not for compute capability 7.5"),
        ((8, 6), torch.bfloat16, "not for compute capability 8.6", "this PyTorch is built without flash attention"),
        ((9, 0), torch.float16, "does not take float16", "this PyTorch is built without flash attention"),
        ((12, 0), torch.float32, "does not take float32", "does not take float32"),
        ((12, 0), torch.bfloat16, "not installed", "this PyTorch is built without flash attention"),
        (None, torch.bfloat16, "no CUDA", "no CUDA"),
    ],
)
def test_no_child_process_is_started_where_fa3_cannot_run(monkeypatch, capability, dtype, fa3, varlen):
    """Without a capability it is an AMD GPU, which PyTorch calls "cuda" too."""
    monkeypatch.setattr(torch.version, "cuda", capability and "12.8")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: False)
    for module in ("flash_attn_interface", "kernels"):
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(fa3_child, "probe_in_child", None)
    assert select_backend(torch.device("cuda", 0), dtype).reason == f"fa3: {fa3}; varlen: {varlen}"


@pytest.mark.parametrize(
    ("module", "why"),
    [
        (None, "this PyTorch has no varlen_attn"),
        (SimpleNamespace(varlen_attn=lambda query, key, value: None), "this PyTorch's varlen_attn has no window_size"),
    ],
)
def test_older_pytorch_without_windows_uses_no_varlen(monkeypatch, module, why):
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: True)
    monkeypatch.setitem(sys.modules, "torch.nn.attention.varlen", module)
    assert select_backend(torch.device("cuda", 0), torch.bfloat16).reason.endswith(f"; varlen: {why}")


# ---- FA3 on GPUs later than Hopper: a child process tries it first

FA3 = """
import os, time
from nano_hindi import sdpa_attention

def flash_attn_func(q, k, v, causal=False, window_size=(-1, -1)):
    if os.getpid() != {parent}:
        {in_child}
    return sdpa_attention.attend(q, k, v, window_size[0])

def flash_attn_with_kvcache(q, k_cache, v_cache, k=None, v=None, cache_seqlens=None, causal=False, window_size=(-1, -1)):
    return sdpa_attention.attend_cached(q, k_cache, v_cache, k, v, cache_seqlens, window_size[0])
"""


@pytest.fixture
def children(monkeypatch):
    """Let child processes be forks that have imported PyTorch, unless NANO_HINDI_ATTENTION is set.
    Return the list of their arguments."""
    started = []

    def run(argv, *, text, timeout, **options):
        started.append(json.loads(argv[-1]))
        with launched(argv, encoding="utf-8", **options) as child:
            output, _ = child.communicate(timeout=timeout)
        return subprocess.CompletedProcess(argv, child.returncode, output)

    monkeypatch.setattr(fa3_child.subprocess, "run", run)
    return started


@pytest.fixture
def fa3_build(monkeypatch, tmp_path, children):
    """Return a function that installs a `flash_attn_interface` and gives the CPU the compute
    capability `capability`. `in_child` runs at every call, in child processes only."""

    def install(capability, in_child="pass"):
        (tmp_path / "flash_attn_interface.py").write_text(FA3.format(parent=os.getpid(), in_child=in_child))
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "flash_attn_interface", raising=False)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        monkeypatch.setattr(attention_backends, "_require_cuda", lambda *_: capability[0])
        monkeypatch.delitem(flash_attention.LOADERS, "varlen")  # it would treat the CPU as a GPU too

    yield install
    sys.modules.pop("flash_attn_interface", None)


def choose(training=True):
    return str(select_backend("cpu", torch.bfloat16, head_dim=16, n_head=4, n_kv_head=2, training=training))


@pytest.mark.slow
def test_fa3_that_works_in_a_child_process_is_used_under_torchrun_too(monkeypatch, fa3_build, children):
    """The child inherits the environment of a rank but joins no process group: nothing listens at
    this address."""
    for name, value in dict(RANK=1, WORLD_SIZE=2, LOCAL_RANK=1, MASTER_ADDR="127.0.0.1", MASTER_PORT=9, NANO_HINDI_ATTENTION="fa3").items():
        monkeypatch.setenv(name, str(value))
    fa3_build((12, 0))
    assert choose() == "fa3 (forced by NANO_HINDI_ATTENTION)"
    assert children == [["cpu", "bfloat16", 16, 4, 2, training] for training in (True, False)]
    assert choose(training=False) == "fa3 (forced by NANO_HINDI_ATTENTION)"
    assert len(children) == 2, "evaluation started a child when training had filled the memory"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("in_child", "why"),
    [
        ("os._exit(0)", r"crashes on compute capability 10\.0 \(exit code 0\)"),
        ("os.abort()", r"crashes on compute capability 10\.0 \(exit code -?\d+\)"),
        ("import atexit; atexit.register(os._exit, 3)", r"crashes on compute capability 10\.0 \(exit code 3\)"),  # after its result
        ("return sdpa_attention.attend(q, k, v, max(window_size[0], 0))", r"wrong output in the probe \(relative error \d.*\)"),
    ],
)
def test_fa3_that_fails_in_a_child_process_is_skipped_with_the_reason(fa3_build, children, in_child, why):
    fa3_build((10, 0), in_child)
    assert re.fullmatch(rf"sdpa \(fa3: {why}\)", choose())
    assert len(children) == 1


@pytest.mark.slow
def test_fa3_that_hangs_is_skipped_after_a_timeout(monkeypatch, fa3_build):
    monkeypatch.setattr(fa3_child, "TIMEOUT", 4)
    fa3_build((12, 0), "time.sleep(600)")
    assert choose() == "sdpa (fa3: no result from the probe after 4 s)"


def test_on_hopper_the_probe_runs_in_this_process(fa3_build, children):
    fa3_build((9, 0), "os._exit(1)")
    assert choose() == "fa3"
    assert children == []
