"""Compare a device's results with float64, and one code path with another. Each check returns a
short text, or raises AssertionError."""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Callable, Iterator
from unittest import mock

import torch

import path_b
from lab import Lab
from nano_hindi.common import can_compile
from nano_hindi.engine import PREFILL_TOKENS, KVCache
from nano_hindi.flash_attention import flash_attn, select_backend
from nano_hindi.fp8 import require_fp8
from nano_hindi.loss import CHUNK_BYTES, softcapped_cross_entropy
from nano_hindi.model import GPT, SOFTCAP
from nano_hindi.ngrams import NGrams


def relative_error(value: torch.Tensor, reference: torch.Tensor) -> float:
    return ((value.double() - reference.double()).norm() / reference.double().norm()).item()


@contextlib.contextmanager
def forced_backend(name: str) -> Iterator[None]:
    before = os.environ.get("NANO_HINDI_ATTENTION")
    os.environ["NANO_HINDI_ATTENTION"] = name
    try:
        yield
    finally:
        del os.environ["NANO_HINDI_ATTENTION"]
        if before is not None:
            os.environ["NANO_HINDI_ATTENTION"] = before


def attention_reference(q, k, v, left: int) -> torch.Tensor:
    """Return attention in float64 with an explicit mask. q (B, T, H, D), k and v (B, T, G, D)."""
    q, k, v = (x.double().transpose(1, 2) for x in (q, k, v))
    k, v = (x.repeat_interleave(q.size(1) // x.size(1), dim=1) for x in (k, v))
    i = torch.arange(q.size(2), device=q.device)
    distance = i[:, None] - i[None, :]
    scores = (q @ k.transpose(-2, -1)) / q.size(-1) ** 0.5
    return (scores.masked_fill((distance < 0) | (distance > left), float("-inf")).softmax(-1) @ v).transpose(1, 2)


def attention(lab: Lab, name: str) -> str:
    """Compare forward and backward of one backend with float64, for a short and a long window."""
    length = 1024 if lab.full else 192
    with forced_backend(name):
        select_backend(lab.device, lab.dtype, head_dim=64, n_head=6, n_kv_head=2, training=True)
        errors = []
        for left in (length // 4 - 1, length - 1):
            torch.manual_seed(0)
            q, k, v = (torch.randn(2, length, heads, 64, device=lab.device, dtype=lab.dtype, requires_grad=True) for heads in (6, 2, 2))
            out = flash_attn.flash_attn_func(q, k, v, causal=True, window_size=(left, 0))
            reference = attention_reference(q, k, v, left)
            grad_output = torch.randn_like(out)
            grads = torch.autograd.grad(out, (q, k, v), grad_output)
            expected = torch.autograd.grad(reference, (q, k, v), grad_output.double())
            errors += [relative_error(out, reference), *map(relative_error, grads, expected)]
    assert max(errors) < (1e-5 if lab.dtype == torch.float32 else 2e-2), f"relative error {max(errors):.2g}"
    return f"relative error {max(errors):.1e}"


def decoding(lab: Lab, name: str) -> str:
    """Compare decoding with the KV cache, a long prefill and then token by token, with one forward
    pass over the whole text."""
    model = random_model(lab, lab.dtype)
    length = 700 if lab.full else 90  # longer than the short windows and the initial size of their caches
    idx = torch.randint(0, model.config.vocab_size, (2, length), device=lab.device)
    with torch.inference_mode():
        with forced_backend(name):
            cache = KVCache(model.config, 2, lab.device, lab.dtype)
            chunks = [model.trunk(chunk, cache) for chunk in (*idx[:, :-40].split(PREFILL_TOKENS, dim=1), *idx[:, -40:].split(1, dim=1))]
        with forced_backend("sdpa"):
            whole = model.trunk(idx)
    error = relative_error(torch.cat(chunks, dim=1), whole)
    assert error < (1e-4 if lab.dtype == torch.float32 else 5e-2), f"relative error {error:.2g}"
    return f"{length} positions, relative error {error:.1e}"


def fp8_cross_entropy(x: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    require_fp8(weight.shape[1], weight.shape[0], torch.bfloat16, x.device)
    return softcapped_cross_entropy(x, weight, targets, fp8=True)


LOSSES: dict[str, Callable[..., torch.Tensor]] = {
    "": softcapped_cross_entropy,
    "B": path_b.cross_entropy,
    "fp8": fp8_cross_entropy,
}


def loss(lab: Lab, name: str = "") -> str:
    """Compare value and gradients of one of the LOSSES in the device's dtype with float64."""
    errors = loss_errors(lab, name)
    assert max(errors) < (4e-2 if name == "fp8" else 2e-2), f"relative errors {errors}"
    return f"relative error {max(errors):.1e}"


def loss_errors(lab: Lab, name: str) -> list[float]:
    """Return the relative errors of one of the LOSSES, computed in four chunks, and of its
    gradients with respect to x and the weight."""
    torch.manual_seed(0)
    vocab = 68096 if lab.full else 2048
    x = torch.randn(512, 384, device=lab.device).to(lab.dtype).requires_grad_()
    weight = (torch.randn(vocab, 384, device=lab.device) * 0.05).requires_grad_()
    targets = torch.randint(0, vocab, (512,), device=lab.device)
    with mock.patch.dict(CHUNK_BYTES, dict.fromkeys(CHUNK_BYTES, 128 * vocab * lab.dtype.itemsize)):
        value = LOSSES[name](x, weight, targets)
    grads = torch.autograd.grad(value, (x, weight))
    reference = torch.nn.functional.cross_entropy(SOFTCAP * torch.tanh(x.double() @ weight.double().T / SOFTCAP), targets)
    expected = torch.autograd.grad(reference, (x, weight))
    return [abs(value.item() - reference.item()) / reference.item(), *map(relative_error, grads, expected)]


def network(lab: Lab, seeds: int = 1) -> str:
    """Compare hidden states in the device's dtype with float32, and compiled gradients with eager
    ones, for as many seeds of the weights and tokens."""
    model, compiled = random_model(lab, lab.dtype), random_model(lab, lab.dtype)
    why_eager = can_compile(lab.device) if lab.full else "small"
    if why_eager is None:
        compiled.compile_blocks()
    names, parameters = zip(*model.named_parameters(), strict=True)
    rounding = worst = 0.0
    for seed in range(seeds):
        for each in (model, compiled):
            randomize(each, seed)
        idx = torch.randint(0, model.config.vocab_size, (2, lab.train.sequence_len), device=lab.device)
        with torch.no_grad():
            model.compute_dtype = torch.float32
            reference = model.trunk(idx)
            model.compute_dtype = lab.dtype
            error = relative_error(model.trunk(idx), reference)
        assert error < 5e-2, f"{lab.dtype} against float32 {error:.1e}, seed {seed}"
        rounding = max(rounding, error)
        if why_eager is None:
            expected = torch.autograd.grad(model(idx, idx), parameters)
            fill_free_memory(lab)
            grads = torch.autograd.grad(compiled(idx, idx), list(compiled.parameters()))
            errors = dict(zip(names, map(relative_error, grads, expected), strict=True))
            bad = [f"{name} {errors[name]:.2g} of {g.norm():.2g}" for name, g in zip(names, expected, strict=True) if not errors[name] < 1e-1]
            assert not bad, f"gradients of the compiled model are off, seed {seed}: {', '.join(bad)}"
            worst = max(worst, *errors.values())
    words = f"{str(lab.dtype).removeprefix('torch.')} against float32 {rounding:.1e}"
    return f"{words}; {f'compile off: {why_eager}' if why_eager else f'worst gradient, compiled against eager: {worst:.1e}'}; seeds: {seeds}"


def fill_free_memory(lab: Lab) -> None:
    """Fill the memory that the next tensors on a GPU get with nan, so that a kernel that reads what
    nothing has written shows."""
    if lab.device.type == "cuda":
        torch.cuda.empty_cache()
        sizes = (2**29, *[2**17] * 64)  # the allocator keeps large and small blocks apart
        blocks = [torch.full((size,), float("nan"), device=lab.device) for size in sizes]
        del blocks


def random_model(lab: Lab, dtype: torch.dtype) -> GPT:
    model = GPT(lab.model).to(lab.device)
    model.compute_dtype = dtype
    randomize(model)
    return model


def randomize(model: GPT, seed: int = 0) -> None:
    """Give a model random weights, those of the output projections included: with the usual zero
    initialisation the blocks would have no effect."""
    torch.manual_seed(seed)
    model.init_weights()
    for block in model.transformer.h:
        torch.nn.init.normal_(block.attn.c_proj.weight, std=0.02)
        torch.nn.init.normal_(block.mlp.c_proj.weight, std=0.02)


def ngrams(lab: Lab) -> str:
    """Check that both products of n-gram updates are with the same matrix, repeat them to the bit,
    as ranks have to, and time those of one table."""
    rng, V, C = random.Random(0), lab.model.vocab_size, lab.model.n_embd
    pieces = [f" {''.join(rng.choices('कखगतदनपमरलसािीे', k=rng.randint(1, 8)))}".encode() for _ in range(V)]
    matrix, gradient, tables = NGrams(pieces, 4096, torch.zeros(V), lab.device), torch.randn(V, C, device=lab.device), []
    for _ in range(3):
        table = torch.zeros_like(gradient)
        float(table[0, 0])  # waits for the device
        start = time.perf_counter()
        of_buckets = matrix.gradient(gradient)
        matrix.update(table, of_buckets, 1)
        float(table[0, 0])
        milliseconds = 1e3 * (time.perf_counter() - start)
        tables.append(table)
    error = relative_error((table.double() * gradient.double()).sum(), of_buckets.double().square().sum())
    assert error < 1e-5, f"relative error {error:.2g}"
    assert all(torch.equal(table, tables[0]) for table in tables), "not the same twice"
    return f"relative error {error:.1e}, the same three times, {milliseconds:.1f} ms for a table"
