"""What only a GPU can check, in one command:

    python tests/gpu/check.py            everything, then a short table
    python tests/gpu/check.py --updates 5

Each attention backend that the device offers against float64; the model in the device's dtype against float32; compiled against eager; the optimizer's
kernel against eager; then full updates of the default `25m` on random tokens, with tokens/s, MFU and peak memory. Exit code 1 where a check fails.
It needs no data, no hub, no wandb. Copy the table into tests/benchmarks/RESULTS.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import tempfile
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch

from nano_hindi import budget
from nano_hindi.common import World, can_compile, compute_dtype
from nano_hindi.config import get_config, get_train_config
from nano_hindi.dataloader import WindowLoader
from nano_hindi.flash_attention import flash_attn, select_backend
from nano_hindi.loss import compile_kernels, softcapped_cross_entropy
from nano_hindi.model import GPT
from nano_hindi.optim import LossScale, TrainOptimizer
from nano_hindi.run import Run
from nano_hindi.training import StopSignal, train_update

DEVICE = torch.device("cuda", 0)


def relative_error(value: torch.Tensor, reference: torch.Tensor) -> float:
    return ((value.double() - reference).norm() / reference.norm()).item()


def attention_reference(q, k, v, left: int):
    """Attention in float64 with an explicit mask. q (B, T, H, D), k and v (B, T, G, D)."""
    q, k, v = (x.double().transpose(1, 2) for x in (q, k, v))
    k, v = (x.repeat_interleave(q.size(1) // x.size(1), dim=1) for x in (k, v))
    i = torch.arange(q.size(2), device=q.device)
    distance = i[:, None] - i[None, :]
    seen = (distance >= 0) & (distance <= left)
    scores = (q @ k.transpose(-2, -1)) / q.size(-1) ** 0.5
    return (scores.masked_fill(~seen, float("-inf")).softmax(-1) @ v).transpose(1, 2)


def check_attention(name: str, dtype: torch.dtype) -> str:
    """Forward and backward of one backend against float64, a short and a long window."""
    os.environ["NANO_HINDI_ATTENTION"] = name
    try:
        select_backend(DEVICE, dtype, head_dim=64, n_head=6, n_kv_head=2, training=True)
        errors = []
        for left in (255, 1023):
            torch.manual_seed(0)
            q, k, v = (torch.randn(2, 1024, heads, 64, device=DEVICE, dtype=dtype, requires_grad=True) for heads in (6, 2, 2))
            out = flash_attn.flash_attn_func(q, k, v, causal=True, window_size=(left, 0))
            reference = attention_reference(q, k, v, left)
            upstream = torch.randn_like(out)
            grads = torch.autograd.grad(out, (q, k, v), upstream)
            expected = torch.autograd.grad(reference, (q, k, v), upstream.double())
            errors += [relative_error(out, reference), *(relative_error(g, e) for g, e in zip(grads, expected, strict=True))]
        limit = 1e-5 if dtype == torch.float32 else 2e-2
        assert max(errors) < limit, f"relative error {max(errors):.2g}"
        return f"relative error {max(errors):.1e}"
    finally:
        del os.environ["NANO_HINDI_ATTENTION"]


def check_loss(dtype: torch.dtype) -> str:
    """Value and gradients of the soft-capped loss in the device's dtype against float64."""
    torch.manual_seed(0)
    x = (torch.randn(512, 384, device=DEVICE)).to(dtype).requires_grad_()
    weight = (torch.randn(68096, 384, device=DEVICE) * 0.05).requires_grad_()
    targets = torch.randint(0, 68096, (512,), device=DEVICE)
    loss = softcapped_cross_entropy(x, weight, targets)
    grads = torch.autograd.grad(loss, (x, weight))
    logits = 15 * torch.tanh(x.double() @ weight.double().T / 15)
    reference = torch.nn.functional.cross_entropy(logits, targets)
    expected = torch.autograd.grad(reference, (x, weight))
    errors = [abs(loss.item() - reference.item()) / reference.item(), *(relative_error(g, e) for g, e in zip(grads, expected, strict=True))]
    assert max(errors) < 2e-2, f"relative errors {errors}"
    return f"relative error {max(errors):.1e}"


def new_model(dtype: torch.dtype) -> GPT:
    torch.manual_seed(0)
    model = GPT(get_config("25m"))
    model.init_weights()
    model.to(DEVICE)
    for block in model.transformer.h:  # zero-initialised projections would hide the blocks
        torch.nn.init.normal_(block.attn.c_proj.weight, std=0.02)
        torch.nn.init.normal_(block.mlp.c_proj.weight, std=0.02)
    model.compute_dtype = dtype
    return model


def check_model(dtype: torch.dtype) -> str:
    """Hidden states in the device's dtype against float32, and compiled against eager."""
    idx = torch.randint(0, 68096, (2, 1024), device=DEVICE)
    model = new_model(torch.float32)
    with torch.no_grad():
        reference = model.trunk(idx).double()
        model.compute_dtype = dtype
        eager = model.trunk(idx)
    words = f"{str(dtype).removeprefix('torch.')} against float32 {relative_error(eager, reference):.1e}"
    assert relative_error(eager, reference) < 5e-2, words
    if (why := can_compile(DEVICE)) is not None:
        return f"{words}; compile off: {why}"
    parameters = list(model.parameters())
    before = torch.autograd.grad(model(idx, idx), parameters)
    model.compile_blocks()
    after = torch.autograd.grad(model(idx, idx), parameters)
    worst = max(relative_error(a, b.double()) for a, b in zip(after, before, strict=True))
    assert worst < 1e-1, f"a gradient of the compiled model is off by {worst:.2g}"
    return f"{words}; worst gradient, compiled against eager: {worst:.1e}"


def check_updates(updates: int) -> str:
    """Full updates of the default `25m`: 262,144 random tokens each."""
    config, train = get_config("25m"), get_train_config("25m")
    world = World(0, 1, DEVICE)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.bin"
        np.random.default_rng(0).integers(0, config.vocab_size, 2_000_000).astype("<u4").tofile(path)
        model = GPT(config)
        torch.manual_seed(train.seed)
        model.init_weights()
        model.to(DEVICE)
        model.compute_dtype = dtype = compute_dtype(DEVICE)
        select_backend(DEVICE, dtype, head_dim=config.head_dim, n_head=config.n_head, n_kv_head=config.n_kv_head, training=True)
        optimizer = TrainOptimizer(model, train, world)
        if can_compile(DEVICE) is None:
            model.compile_blocks()
            optimizer.compile()
            compile_kernels()
        loader = WindowLoader(path, train.sequence_len, train.seed, config.vocab_size)

        def try_step(sequences: int) -> None:
            x, y = loader.batch(0, sequences)
            model(x.to(DEVICE), y.to(DEVICE)).backward()
            model.zero_grad(set_to_none=True)

        size = budget.choose_device_batch_size(
            "auto", train.sequences_per_update, train.sequence_len, try_step, budget.optimizer_bytes(model.num_params()), world
        )
        train = dataclasses.replace(train, device_batch_size=size)
        run = Run("25m", config, train, world, Path(folder), Path(folder), None, model, optimizer, LossScale(dtype == torch.float16), loader)
        with StopSignal() as stop:
            first = train_update(run, stop)[0]
            train_update(run, stop)
            torch.cuda.reset_peak_memory_stats()
            torch.cuda.synchronize()
            start = time.perf_counter()
            for _ in range(updates):
                loss = train_update(run, stop)[0]
            torch.cuda.synchronize()
        seconds = (time.perf_counter() - start) / updates
    assert np.isfinite(loss), "the loss is not finite"
    assert loss < first, f"the loss went from {first} to {loss}"
    rate, peak = train.tokens_per_update / seconds, budget.peak_flops(DEVICE)
    mfu = f", MFU {rate * model.flops_per_token() / peak:.1%}" if peak else ""
    return f"{updates} updates: {rate:,.0f} tokens/s{mfu}, {seconds:.2f} s each, peak {torch.cuda.max_memory_allocated() / 1e9:.2f} GB at {size} sequences, loss {first:.3f} -> {loss:.3f}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=20)
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print("tests/gpu: skipped, it needs a CUDA device")
        return 0
    dtype = compute_dtype(DEVICE)
    checks = {f"attention {name}": (check_attention, name, dtype) for name in ("fa3", "varlen", "sdpa")}
    checks |= {"loss": (check_loss, dtype), "model": (check_model, dtype), "25m": (check_updates, args.updates)}
    rows, failed = [], 0
    for name, (check, *arguments) in checks.items():
        try:
            rows.append((name, "ok", check(*arguments)))
        except Exception as error:  # noqa: BLE001 - one broken check must not hide the others
            unavailable = name.startswith("attention") and "sdpa" not in name and not isinstance(error, AssertionError)
            failed += not unavailable
            rows.append((name, "not here" if unavailable else "FAILED", " ".join(str(error).split())[:150]))
            if not unavailable:
                traceback.print_exc()
    print(f"\n{torch.cuda.get_device_name(0)}, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}\n")
    for name, verdict, words in rows:
        print(f"| {name:16} | {verdict:8} | {words} |")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
