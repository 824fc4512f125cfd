"""Measure one section of profile.py in one checkout, in a process of its own that profile.py starts:

python tests/gpu/measures.py CHECKOUT SECTION DEVICE full|small [PEER]

It sends the names of its measures as a JSON line, then for each name that it reads a line with the
result: seconds, a text, rows of a table, or a dict. Each waits until it is asked, so that two
checkouts can be measured in turn.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# lab.py and the others come from the measured checkout, and behind the standard library, whose
# `profile` torch.compile imports
sys.path = [*sys.path[1:], *(str(Path(sys.argv[1]) / "tests" / name) for name in ("gpu", "benchmarks"))]

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile, schedule

import numerics
from check import make_lab
from lab import Lab
from nano_hindi import loss, model
from nano_hindi.common import can_compile
from nano_hindi.flash_attention import flash_attn
from nano_hindi.training.estimates import matmul_flops, peak_flops
from timing import medians
from updates import make_updates, synchronize

Measures = dict[str, Callable[[], Any]]

# B batch, T time, C width, H query heads, G key/value heads, D head width, V vocabulary, n tokens of a chunk


def random(lab: Lab, *shape: int, std: float = 1.0, dtype: torch.dtype | None = None) -> Tensor:
    return (torch.randn(*shape, device=lab.device) * std).to(dtype or lab.dtype).requires_grad_()


def seconds(lab: Lab, work: Callable[[], object]) -> float:
    """Return the median seconds of one call of `work`, of five rounds of as many calls as take 20
    ms: the time to launch a kernel and to wait for it does not count then."""

    def call(n: int) -> None:
        for _ in range(n):
            work()
        synchronize(lab)

    n = 1 + int(0.02 / medians({"once": lambda: call(1)}, rounds=1)["once"]) if lab.full else 1
    return medians({"calls": lambda: call(n)}, rounds=5 if lab.full else 1)["calls"] / n


def both_passes(lab: Lab, name: str, function: Callable[..., tuple[Tensor, ...]], *inputs: Tensor) -> Measures:
    """Return the measures of the forward pass alone, and with the backward pass."""
    grad_outputs: list[Tensor] = []

    def forward() -> None:
        with torch.no_grad():
            function(*inputs)

    def forward_backward() -> None:
        outputs = function(*inputs)
        if not grad_outputs:  # made once, so that they cost nothing
            grad_outputs.extend(map(torch.randn_like, outputs))
        torch.autograd.grad(outputs, inputs, grad_outputs)

    return {
        f"{name}, forward": functools.partial(seconds, lab, forward),
        f"{name}, forward and backward": functools.partial(seconds, lab, forward_backward),
    }


# ---- kernels


# the first that matches counts; Inductor names a kernel after all operators that it fuses, attention
# and matmuls beside it included
KERNEL_CLASSES = {
    "memcpy": r"^Mem(cpy|set)",
    "attention": r"^(?!triton_).*(flash|fmha|attention|sdpa)",
    "matmul": r"triton_(tem|mm)|^(?!triton_).*(gemm|gemv|nvjet|cutlass|xmma|cublas|splitk|::(b|add|badd)?mm)",
    "loss elementwise": r"tanh",
    "optimizer (AdamW)": r"adam|multi_tensor|foreach",
    "other elementwise": r"triton|elementwise|reduce|norm|copy",
    "other": r"",
}


def kernel_class(name: str) -> str:
    return next(kind for kind, pattern in KERNEL_CLASSES.items() if re.search(pattern, name, re.IGNORECASE))


def kernels_of(lab: Lab, work: Callable[[], object]) -> list[tuple[float, float, str]]:
    """Return start and duration in microseconds and the name of each kernel of the second of two
    calls of `work`, in order; on a CPU of each operator that calls no other."""
    on_gpu = lab.device.type == "cuda"  # and only its activities: recording the host's would slow the launches
    categories = ("kernel", "gpu_memcpy", "gpu_memset") if on_gpu else ("cpu_op",)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        with profile(
            activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU],
            schedule=schedule(wait=0, warmup=1, active=1, repeat=1),
            on_trace_ready=lambda profiler: profiler.export_chrome_trace(str(path)),
        ) as profiler:
            for _ in range(2):
                work()
                synchronize(lab)
                profiler.step()
        events = json.loads(path.read_text(encoding="utf-8", errors="replace"), strict=False)["traceEvents"]
    found = [(float(e["ts"]), float(e["dur"]), e["name"]) for e in events if e.get("ph") == "X" and e.get("cat") in categories]
    assert found, "the profiler recorded no kernels"
    found.sort(key=lambda kernel: (kernel[0], -kernel[1]))
    if not on_gpu:
        ends = [*(start for start, _, _ in found[1:]), float("inf")]
        found = [kernel for kernel, following in zip(found, ends, strict=True) if following >= kernel[0] + kernel[1]]
    return found


def by_class(found: list[tuple[float, float, str]]) -> dict[str, float]:
    """Return the seconds of each class of kernels."""
    total = dict.fromkeys(KERNEL_CLASSES, 0.0)
    for _, duration, name in found:
        total[kernel_class(name)] += duration / 1e6
    return total


def kernel_rows(found: list[tuple[float, float, str]], updates: int) -> list[tuple[str, str]]:
    """Return rows about the kernels of some updates: the time of each class, the gaps in which no
    kernel runs, and the ten kernels that take longest."""
    busy = gaps = 0.0
    end = found[0][0]
    for start, duration, _ in found:
        gaps += max(0.0, start - end)
        busy += max(0.0, start + duration - max(start, end))
        end = max(end, start + duration)
    rows = [(kind, f"{s / updates * 1e3:.2f} ms an update, {s * 1e6 / (busy + gaps):.1%}") for kind, s in by_class(found).items()]
    rows.append(("gaps between kernels", f"{gaps / updates / 1e3:.2f} ms an update, {gaps / (busy + gaps):.1%} of {(busy + gaps) / updates / 1e3:.1f} ms"))
    by_name = defaultdict(list)
    for _, duration, name in found:
        by_name[name].append(duration)
    longest = sorted(by_name.items(), key=lambda item: -sum(item[1]))[:10]
    return rows + [
        (f"kernel {i}", f"{sum(times) / updates / 1e3:.2f} ms an update in {len(times) / updates:.0f} calls: {name[:90].replace('|', ' ')}")
        for i, (name, times) in enumerate(longest, 1)
    ]


# ---- the sections


@contextlib.contextmanager
def versions(lab: Lab) -> Iterator[Measures]:
    n, columns = (8192, 68096) if lab.full else (64, 512)
    on_gpu = lab.device.type == "cuda"

    def software() -> str:
        driver = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        texts = {
            "driver": subprocess.run(driver, capture_output=True, text=True).stdout.split("\n")[0] if shutil.which(driver[0]) else None,
            "CUDA": torch.version.cuda,
            "torch": torch.__version__,
            "triton": next((importlib.metadata.version(d.name) for d in importlib.metadata.distributions() if d.name == "triton"), None),
        }
        return ", ".join([torch.cuda.get_device_name(lab.device) if on_gpu else "CPU", *(f"{name} {value}" for name, value in texts.items())])

    def matmul() -> str:
        a, b = random(lab, n, 384).detach(), random(lab, 384, columns).detach()
        return f"{2 * n * 384 * columns / seconds(lab, lambda: a @ b) / 1e12:.4g} TFLOP/s"

    def copy() -> str:
        a, b = (torch.empty(2**28 if lab.full else 2**20, dtype=torch.float32, device=lab.device) for _ in range(2))
        return f"{2 * a.nbytes / seconds(lab, lambda: b.copy_(a)) / 1e9:.4g} GB/s"

    yield {
        "software": software,
        "matmul, square": lambda: f"{matmul_flops(lab.device, lab.dtype) / 1e12:.4g} TFLOP/s",
        f"matmul, {n:,} x 384 x {columns:,}": matmul,
        "copy, read and written": copy,
    }


@contextlib.contextmanager
def head(lab: Lab) -> Iterator[Measures]:
    """Measure the head for 65,536 tokens in chunks of different sizes."""
    V, C, tokens = lab.model.vocab_size, lab.model.n_embd, 65536 if lab.full else 128
    x, weight = random(lab, tokens, C), random(lab, V, C, std=0.05, dtype=torch.float32)
    targets = torch.randint(0, V, (tokens,), device=lab.device)
    if lab.full and can_compile(lab.device) is None:
        loss.compile_kernels()
    yield {name: measure for n in ((4096, 8192, 16384) if lab.full else (64,)) for name, measure in head_in_chunks(lab, x, weight, targets, n).items()}


def head_in_chunks(lab: Lab, x: Tensor, weight: Tensor, targets: Tensor, n: int) -> Measures:
    chunks, w = x.detach().split(n), weight.detach().to(lab.dtype)
    z = functools.cache(lambda: torch.mm(chunks[0], w.T))  # made when it is needed: 2 GB for 16,384 tokens
    grad_x, grad_weight = torch.empty_like(chunks[0]), torch.zeros_like(weight).detach()
    chunk_bytes = n * len(weight) * w.element_size()

    def of_chunks(work: Callable[[Tensor], object]) -> Callable[[], float]:
        return functools.partial(seconds, lab, lambda: [work(chunk) for chunk in chunks])

    def whole() -> None:
        if loss.CHUNK_BYTES["cuda"] != chunk_bytes:
            loss.CHUNK_BYTES.update(cuda=chunk_bytes, cpu=chunk_bytes)
            torch.compiler.reset()  # else the kernel of the second size would be compiled for any size
        torch.autograd.grad(loss.softcapped_cross_entropy(x, weight, targets), (x, weight))

    if lab.dtype == torch.float32:
        accumulation: dict[str, Callable[[Tensor], object]] = {"addmm_": lambda chunk: grad_weight.addmm_(z().T, chunk)}
    else:
        accumulation = {
            "mm and add_": lambda chunk: grad_weight.add_(torch.mm(z().T, chunk, out_dtype=torch.float32)),
            "addmm": lambda chunk: torch.addmm(grad_weight, z().T, chunk, out_dtype=torch.float32, out=grad_weight),
        }
    measures = {
        "logits": of_chunks(lambda chunk: torch.mm(chunk, w.T, out=z())),
        "dX": of_chunks(lambda chunk: torch.mm(z(), w, out=grad_x)),
        **{f"dW, {name}": of_chunks(work) for name, work in accumulation.items()},
        "elementwise": lambda: by_class(kernels_of(lab, whole))["loss elementwise"],
        "whole loss": functools.partial(seconds, lab, whole),
    }
    return {f"{name}, chunks of {n:,}": measure for name, measure in measures.items()}


@contextlib.contextmanager
def blocks(lab: Lab) -> Iterator[Measures]:
    """Measure what the blocks consist of, for the tokens of an update."""
    c, (B, T) = lab.model, (lab.train.sequences_per_update, lab.model.sequence_len)
    kv = c.n_kv_head * c.head_dim
    x, hidden = random(lab, B * T, c.n_embd), random(lab, B * T, model.MLP_FACTOR * c.n_embd)
    q, k, v = (random(lab, B, T, heads, c.head_dim) for heads in (c.n_head, c.n_kv_head, c.n_kv_head))
    c_q, c_k, c_v, c_fc, c_proj = (random(lab, n, m, std=0.05) for n, m in ((c.n_embd,) * 2, *((kv, c.n_embd),) * 2, (hidden.size(1), c.n_embd), (c.n_embd, hidden.size(1))))
    compiles = lab.full and can_compile(lab.device) is None

    def fused(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], tuple[Tensor, ...]]:
        compiled = torch.compile(function, dynamic=False) if compiles else function
        return lambda x: (compiled(x),)

    def rope_and_norm(q: Tensor) -> Tensor:
        return model.rms_norm(model.apply_rope(q, *model.rope_angles(torch.arange(T, device=lab.device), c.head_dim)))

    def attend(backend: str, window: int, *qkv: Tensor) -> tuple[Tensor, ...]:
        with numerics.forced_backend(backend):
            return (flash_attn.flash_attn_func(*qkv, causal=True, window_size=(window - 1, 0)),)

    measure = functools.partial(both_passes, lab)
    yield {
        **measure("QKV, three matmuls", lambda x, *weights: tuple(F.linear(x, w) for w in weights), x, c_q, c_k, c_v),
        **measure("QKV, one matmul", lambda x, *weights: (F.linear(x, torch.cat(weights)),), x, c_q, c_k, c_v),
        **measure("c_fc", lambda x, w: (F.linear(x, w),), x, c_fc),
        **measure("MLP's c_proj", lambda x, w: (F.linear(x, w),), hidden, c_proj),
        **measure("relu^2", fused(lambda x: F.relu(x).square()), hidden),
        **measure("rms_norm", fused(model.rms_norm), x),
        **measure("rope and QK-norm of q", fused(rope_and_norm), q),
        **{
            name: timed
            for backend in ("fa3", "varlen", "sdpa")
            for window in sorted(set(c.windows))
            for name, timed in measure(f"attention {backend}, window {window}", functools.partial(attend, backend, window), q, k, v).items()
        },
    }


def timed_updates(lab: Lab, update: Callable[[], float], n: int) -> dict[str, Any]:
    """Make n updates. Return the seconds and the loss of each, and the peak memory in GB."""
    times, losses = [], []
    for _ in range(n):
        start = time.perf_counter()
        losses.append(update())
        synchronize(lab)
        times.append(time.perf_counter() - start)
    return {"seconds": times, "losses": losses, "peak": torch.cuda.max_memory_allocated(lab.device) / 1e9 if lab.device.type == "cuda" else 0}


@contextlib.contextmanager
def updates(lab: Lab) -> Iterator[Measures]:
    """Measure whole updates: five of each call."""
    with lab.run() as run:
        make_updates(run, 2)
        if lab.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(lab.device)
        tokens, peak = run.config.tokens_per_update, peak_flops(lab.device)
        of_run = {"tokens": tokens, "sequences": run.config.device_batch_size, "utilisation": tokens * run.model.flops_per_token() / peak if peak else 0}
        yield {"updates": lambda: of_run | timed_updates(lab, lambda: make_updates(run, 1)[0], 5)}


@contextlib.contextmanager
def kernels(lab: Lab) -> Iterator[Measures]:
    with lab.run() as run:
        make_updates(run, 2)
        yield {"3 updates": lambda: kernel_rows(kernels_of(lab, lambda: make_updates(run, 3)), 3)}


@contextlib.contextmanager
def start(lab: Lab) -> Iterator[Measures]:
    """Make the first update; profile.py takes the time until it is made."""
    with lab.run() as run:
        make_updates(run, 1)
        yield {}


@contextlib.contextmanager
def nan(lab: Lab) -> Iterator[Measures]:
    if lab.full and can_compile(lab.device) is None:
        loss.compile_kernels()
    repeats = 100 if lab.full else 3
    yield {f"{repeats} seeds": lambda: numerics.network(lab, repeats)}


@contextlib.contextmanager
def peer(lab: Lab) -> Iterator[Measures]:
    """Measure updates of nanochat's model and optimizer at the same shape, with 32 sequences at
    once as in its own script, since it holds all their logits. Its short windows are a quarter of
    the context."""
    sys.path.append(sys.argv[5])
    from nanochat.gpt import GPT, GPTConfig

    c, sequences, at_once = lab.model, lab.train.sequences_per_update, min(32, lab.train.batch_size)
    with torch.device("meta"):
        shape = {name: getattr(c, name) for name in ("sequence_len", "vocab_size", "n_layer", "n_head", "n_kv_head", "n_embd", "window_pattern")}
        net = GPT(GPTConfig(**shape))
    net.to_empty(device=lab.device)
    net.init_weights()
    optimizer = net.setup_optimizer()
    forward = torch.compile(net, dynamic=False) if lab.full else net
    idx = torch.randint(0, c.vocab_size, (at_once, c.sequence_len + 1), device=lab.device)
    x, y = idx[:, :-1].contiguous(), idx[:, 1:].contiguous()

    def update() -> float:
        for _ in range(sequences // at_once):
            value = forward(x, y)
            (value * at_once / sequences).backward()
        optimizer.step()
        net.zero_grad(set_to_none=True)
        return value.item()

    for _ in range(2):
        update()
    yield {"updates": lambda: {"tokens": sequences * c.sequence_len, "sequences": at_once, "utilisation": 0} | timed_updates(lab, update, 5)}


SECTIONS = {section.__name__: section for section in (versions, head, blocks, updates, kernels, start, nan, peer)}


def main() -> None:
    _, _, section, device, size, *_ = sys.argv
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what the packages print is no result

    def send(value: object) -> None:
        print(json.dumps(value), file=channel, flush=True)

    lab = make_lab(torch.device(device, 0) if device == "cuda" else torch.device(device), size == "small")
    with SECTIONS[section](lab) as measures:
        send(list(measures))
        for line in sys.stdin:
            try:
                send({"result": measures[line.rstrip("\n")]()})
            except Exception as error:  # noqa: BLE001 - one broken measure must not hide the others
                traceback.print_exc()
                send({"error": f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"})


if __name__ == "__main__":
    main()
