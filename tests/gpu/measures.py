"""Measure a section of profile.py in one checkout, in a process that profile.py starts:

python tests/gpu/measures.py CHECKOUT SECTION DEVICE full|small FRACTION PEER

It sends the names of its measures as a line of JSON. For each name that it reads, it sends a line
with the result: a dict with "seconds", a "text" behind them, "losses", or the "rows" of a table. It
waits until it is asked, so that two checkouts can be measured in turn.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import itertools
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# lab.py and the others are those of the measured checkout. They go behind the standard library,
# whose `profile` torch.compile imports
sys.path = [*sys.path[1:], *(str(Path(sys.argv[1]) / "tests" / name) for name in ("gpu", "benchmarks"))]

import torch
from timing import medians
from torch import Tensor
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile, schedule

import numerics
from check import make_lab
from lab import Lab
from nano_hindi import loss, model
from nano_hindi.common import can_compile
from nano_hindi.errors import UserError
from nano_hindi.flash_attention import LOADERS, flash_attn
from nano_hindi.training.estimates import matmul_flops, peak_flops
from updates import make_updates, synchronize

# B batch, T time, C width, D head width, V vocabulary, n tokens of a chunk

Work = Callable[[], object]
Measures = dict[str, Callable[[], dict[str, Any]]]
Kernels = list[tuple[float, float, str]]  # start and duration in microseconds, name


def seconds_of(lab: Lab, work: Work) -> float:
    """Return the median seconds of a call of `work`, over five rounds of as many calls as take 20
    ms, so that launching the first kernel and waiting for the last count little."""

    def call(n: int) -> None:
        for _ in range(n):
            work()
        synchronize(lab)

    n = 1 + int(0.02 / medians({"": lambda: call(1)}, rounds=1)[""]) if lab.full else 1
    return medians({"": lambda: call(n)}, rounds=5 if lab.full else 1)[""] / n


def timed(lab: Lab, work: Work) -> Callable[[], dict[str, Any]]:
    return lambda: {"seconds": [seconds_of(lab, work)]}


def compiles(lab: Lab) -> bool:
    return lab.full and can_compile(lab.device) is None


def random(lab: Lab, *shape: int, std: float = 1.0, dtype: torch.dtype | None = None) -> Tensor:
    return (torch.randn(*shape, device=lab.device) * std).to(dtype or lab.dtype).requires_grad_()


# ---- kernels

# The first that matches counts. Inductor names a kernel after the operators that it fuses, among
# them attention and matmuls, whose inputs or outputs it computes.
KERNEL_CLASSES = {
    "memcpy": r"^Mem(cpy|set)",
    "attention": r"^(?!triton_).*(flash|fmha|attention|sdpa)",
    "matmul": r"^triton_(tem|mm)|^(?!triton_).*(gemm|gemv|nvjet|cutlass|xmma|cublas|splitk|::linear|::matmul|::(b|add)?mm)",
    "loss elementwise": r"tanh",
    "optimizer (AdamW)": r"adam|multi_tensor|foreach",
    "other elementwise": r"triton|elementwise|reduce|norm|copy|aten::",
    "other": r"",
}


def kernels_of(lab: Lab, work: Work) -> Kernels:
    """Return the kernels of the second of two calls of `work`, in order; on a CPU the operators
    that no other has called."""
    on_gpu = lab.device.type == "cuda"  # and only its activities: recording the host's would slow the launches
    activity = ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        cycle = schedule(wait=0, warmup=1, active=1, repeat=1)
        with profile(activities=[activity], schedule=cycle, on_trace_ready=lambda p: p.export_chrome_trace(str(trace))) as profiler:
            for _ in range(2):
                work()
                synchronize(lab)
                profiler.step()
        events = json.loads(trace.read_text(encoding="utf-8", errors="replace"), strict=False)["traceEvents"]
    kinds = ("kernel", "gpu_memcpy", "gpu_memset") if on_gpu else ("cpu_op",)
    events = [e for e in events if e.get("ph") == "X" and e.get("cat") in kinds and (on_gpu or e["name"].startswith("aten::"))]
    kernels = sorted((float(e["ts"]), float(e["dur"]), e["name"]) for e in events)
    if not on_gpu:
        ends = itertools.accumulate((start + duration for start, duration, _ in kernels), max, initial=0.0)
        kernels = [kernel for kernel, end in zip(kernels, ends, strict=False) if kernel[0] >= end]
    assert kernels, "the profiler has recorded nothing"
    return kernels


def by_class(kernels: Kernels) -> dict[str, float]:
    """Return the milliseconds of each class of kernels."""
    total = dict.fromkeys(KERNEL_CLASSES, 0.0)
    for _, duration, name in kernels:
        total[next(kind for kind, pattern in KERNEL_CLASSES.items() if re.search(pattern, name, re.IGNORECASE))] += duration / 1e3
    return total


def kernel_rows(kernels: Kernels, updates: int) -> list[tuple[str, str]]:
    """Return rows with the time of each class of kernels, of the gaps in which none runs, and of
    the ten names that take longest; per update, and as a fraction of the wall time."""
    gaps, end = 0.0, kernels[0][0]
    for start, duration, _ in kernels:
        gaps += max(0.0, start - end) / 1e3
        end = max(end, start + duration)
    wall = (end - kernels[0][0]) / 1e3
    by_name = defaultdict(list)
    for _, duration, name in kernels:
        by_name[name[:100].replace("|", " ")].append(duration / 1e3)
    longest = sorted(by_name.items(), key=lambda item: -sum(item[1]))[:10]
    rows = {**by_class(kernels), "gaps between kernels": gaps, "wall time": wall}
    return [(name, f"{ms / updates:.2f} ms, {ms / wall:.1%}") for name, ms in rows.items()] + [
        (f"kernel {i}", f"{sum(times) / updates:.2f} ms, {len(times) / updates:.3g} x {name}") for i, (name, times) in enumerate(longest, 1)
    ]


# ---- the sections


@contextlib.contextmanager
def versions(lab: Lab) -> Iterator[Measures]:
    n, C, V = (8192, 384, 68096) if lab.full else (64, 32, 512)

    def software() -> str:
        query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        card = subprocess.run(query, capture_output=True, text=True).stdout.strip() if shutil.which(query[0]) else lab.device.type
        packages = {d.name: d.version for d in importlib.metadata.distributions()}
        return f"{card}; CUDA {torch.version.cuda}, torch {torch.__version__}, triton {packages.get('triton')}"

    def matmul() -> str:
        x, weight = random(lab, n, C).detach(), random(lab, V, C).detach()
        return f"{2 * n * C * V / seconds_of(lab, lambda: x @ weight.T) / 1e12:.4g} TFLOP/s"

    def copy() -> str:
        a, b = (torch.empty(2**28 if lab.full else 2**16, device=lab.device) for _ in range(2))
        return f"{2 * a.nbytes / seconds_of(lab, lambda: b.copy_(a)) / 1e9:.4g} GB/s"

    texts = {
        "software": software,
        "matmul, square": lambda: f"{matmul_flops(lab.device, lab.dtype) / 1e12:.4g} TFLOP/s",
        f"matmul, {n:,} x {C} x {V:,}": matmul,
        "copy, read and written": copy,
    }
    yield {name: lambda name=name, text=text: {"rows": [(name, text())]} for name, text in texts.items()}


@contextlib.contextmanager
def head(lab: Lab) -> Iterator[Measures]:
    """Measure the head for 65,536 tokens, in chunks of different sizes; with the last, also the
    other losses."""
    tokens, sizes = (65536, (4096, 16384, 8192)) if lab.full else (128, (64,))
    x, weight = random(lab, tokens, lab.model.n_embd), random(lab, lab.model.vocab_size, lab.model.n_embd, std=0.05, dtype=torch.float32)
    targets = torch.randint(0, lab.model.vocab_size, (tokens,), device=lab.device)
    if compiles(lab):
        loss.compile_kernels()
    yield {f"{name}, chunks of {n:,}": measure for n in sizes for name, measure in head_in_chunks(lab, x, weight, targets, n).items()}


def head_in_chunks(lab: Lab, x: Tensor, weight: Tensor, targets: Tensor, n: int) -> Measures:
    chunks, w, chunk_bytes = x.detach().split(n), weight.detach().to(lab.dtype), n * len(weight) * lab.dtype.itemsize
    z = functools.cache(lambda: torch.mm(chunks[0], w.T))  # (n, V), made when it is needed
    grad_x, grad_weight = torch.empty_like(chunks[0]), torch.zeros_like(weight.detach())

    def whole(cross_entropy: Callable[..., Tensor] = loss.softcapped_cross_entropy) -> None:
        if loss.CHUNK_BYTES["cuda"] != chunk_bytes:
            loss.CHUNK_BYTES.update(dict.fromkeys(loss.CHUNK_BYTES, chunk_bytes))
            if lab.full:
                torch.compiler.reset()  # else the second size would be compiled as a variable one
        torch.autograd.grad(cross_entropy(x, weight, targets), (x, weight))

    def other(name: str) -> dict[str, Any]:
        seconds = seconds_of(lab, functools.partial(whole, numerics.LOSSES[name]))
        errors = zip(("loss", "dX", "dW"), numerics.loss_errors(lab, name), strict=True)
        return {"seconds": [seconds], "text": f"; relative error {', '.join(f'{of} {error:.1e}' for of, error in errors)}"}

    matmuls: dict[str, Callable[[Tensor], object]] = {
        "logits": lambda chunk: torch.mm(chunk, w.T, out=z()),
        "dX": lambda chunk: torch.mm(z(), w, out=grad_x),
    }
    if lab.dtype == torch.float32:
        matmuls["dW, addmm_"] = lambda chunk: grad_weight.addmm_(z().T, chunk)
    else:
        matmuls["dW, mm and add_"] = lambda chunk: grad_weight.add_(torch.mm(z().T, chunk, out_dtype=torch.float32))
        matmuls["dW, addmm"] = lambda chunk: torch.addmm(grad_weight, z().T, chunk, out_dtype=torch.float32, out=grad_weight)
    others = ("B", "fp8") if hasattr(numerics, "LOSSES") and (n == 8192 or not lab.full) else ()  # an older checkout has none
    return {
        **{name: timed(lab, lambda work=work: [work(chunk) for chunk in chunks]) for name, work in matmuls.items()},
        "elementwise": lambda: {"seconds": [by_class(kernels_of(lab, whole))["loss elementwise"] / 1e3]},
        "whole loss": timed(lab, whole),
        **{f"{name}: whole loss": functools.partial(other, name) for name in others},
    }


@contextlib.contextmanager
def blocks(lab: Lab) -> Iterator[Measures]:
    """Measure the parts of the blocks for the tokens of an update, forward alone and with
    backward."""
    c, B, T = lab.model, lab.train.sequences_per_update, lab.model.sequence_len
    C, kv, wide = c.n_embd, c.n_kv_head * c.head_dim, model.MLP_FACTOR * c.n_embd
    x, hidden = random(lab, B * T, C), random(lab, B * T, wide)
    c_q, c_k, c_v, c_fc, c_proj = (random(lab, *shape, std=0.05) for shape in ((C, C), (kv, C), (kv, C), (wide, C), (C, wide)))
    q, k, v = (random(lab, B, T, heads, c.head_dim) for heads in (c.n_head, c.n_kv_head, c.n_kv_head))
    fused = functools.partial(torch.compile, dynamic=False) if compiles(lab) else lambda function: function

    rope = model.rope_factors if hasattr(model, "rope_factors") else model.rope_angles  # its name before 2026-11-28

    def rope_and_norm(q: Tensor) -> Tensor:
        return model.rms_norm(model.apply_rope(q, *rope(torch.arange(T, device=lab.device), c.head_dim)))

    def attend(backend: str, window: int, *qkv: Tensor) -> Tensor:
        with numerics.forced_backend(backend):
            return flash_attn.flash_attn_func(*qkv, causal=True, window_size=(window - 1, 0))

    parts: dict[str, tuple[Any, ...]] = {
        "QKV, three matmuls": (lambda x, *weights: [F.linear(x, w) for w in weights], x, c_q, c_k, c_v),
        "QKV, one matmul": (lambda x, *weights: F.linear(x, torch.cat(weights)), x, c_q, c_k, c_v),
        "c_fc": (F.linear, x, c_fc),
        "c_proj of the MLP": (F.linear, hidden, c_proj),
        "relu^2": (fused(lambda x: F.relu(x).square()), hidden),
        "rms_norm": (fused(lambda x: model.rms_norm(x)), x),
        "rope and norm of q": (fused(rope_and_norm), q),
        **{
            f"attention {backend}, window {window}": (functools.partial(attend, backend, window), q, k, v)
            for backend in LOADERS
            for window in sorted(set(c.windows))
        },
    }
    yield {f"{name}, {passes}": timed(lab, work) for name, part in parts.items() for passes, work in forward_and_backward(*part).items()}


def forward_and_backward(function: Callable[..., Any], *inputs: Tensor) -> dict[str, Work]:
    grad_outputs: list[Tensor] = []

    def forward() -> None:
        with torch.no_grad():
            function(*inputs)

    def both() -> None:
        outputs = function(*inputs)
        outputs = [outputs] if isinstance(outputs, Tensor) else outputs
        if not grad_outputs:  # made once: they must not count
            grad_outputs.extend(map(torch.randn_like, outputs))
        torch.autograd.grad(outputs, inputs, grad_outputs)

    return {"forward": forward, "forward and backward": both}


def timed_updates(lab: Lab, update: Callable[[], float], tokens: int, flops: float, sequences: int) -> Measures:
    """Return the measure of five whole updates. `update` makes one and returns its loss; `flops`
    are those of a token."""
    peak = peak_flops(lab.device)
    if lab.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(lab.device)

    def five() -> dict[str, Any]:
        seconds, losses = [], []
        for _ in range(5):
            start = time.perf_counter()
            losses.append(update())
            synchronize(lab)
            seconds.append(time.perf_counter() - start)
        rate = tokens / statistics.median(seconds)
        text = f": {rate:,.0f} tokens/s at {sequences} sequences" + (f", MFU {rate * flops / peak:.1%}" if peak else "")
        if lab.device.type == "cuda":
            text += f", peak {torch.cuda.max_memory_allocated(lab.device) / 1e9:.2f} GB"
        return {"seconds": seconds, "losses": losses, "text": text}

    return {"whole updates": five}


@contextlib.contextmanager
def updates(lab: Lab, **changes: Any) -> Iterator[Measures]:
    """Measure whole updates, with changes of the recipe."""
    with lab.run(**changes) as run:
        make_updates(run, 2)
        yield timed_updates(
            lab, lambda: make_updates(run, 1)[0], run.config.tokens_per_update, run.model.flops_per_token(), run.batches.device_batch_size
        )


@contextlib.contextmanager
def kernels(lab: Lab) -> Iterator[Measures]:
    with lab.run() as run:
        make_updates(run, 2)
        yield {"three updates": lambda: {"rows": kernel_rows(kernels_of(lab, lambda: make_updates(run, 3)), 3)}}


@contextlib.contextmanager
def start(lab: Lab) -> Iterator[Measures]:
    """Measure the seconds until a new process has made its first update: with an empty cache of
    compiled kernels, then with the one that this leaves."""
    with tempfile.TemporaryDirectory() as cache:
        env = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": cache, "TRITON_CACHE_DIR": f"{cache}/triton"}
        argv = [sys.executable, __file__, sys.argv[1], "first_update", *sys.argv[3:]]

        def first() -> dict[str, Any]:
            begin = time.perf_counter()
            subprocess.run(argv, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)
            return {"seconds": [time.perf_counter() - begin]}

        yield {"first update, cold": first, "first update, warm": first}


@contextlib.contextmanager
def first_update(lab: Lab) -> Iterator[Measures]:
    with lab.run() as run:
        make_updates(run, 1)
        yield {}


@contextlib.contextmanager
def nan(lab: Lab) -> Iterator[Measures]:
    seeds = 100 if lab.full else 2
    if compiles(lab):
        loss.compile_kernels()
    yield {"network": lambda: {"rows": [("network", numerics.network(lab, seeds))]}}


@contextlib.contextmanager
def peer(lab: Lab) -> Iterator[Measures]:
    """Measure updates of nanochat's model and optimizer at the same shape. It holds all logits, so
    it takes 16 sequences at once: half of its default, with twice the vocabulary."""
    sys.path.append(sys.argv[6])
    from nanochat.gpt import GPT, GPTConfig

    c, at_once = lab.model, min(16, lab.train.batch_size)
    accumulation = lab.train.sequences_per_update // at_once
    names = ("sequence_len", "vocab_size", "n_layer", "n_head", "n_kv_head", "n_embd", "window_pattern")
    with torch.device("meta"):
        net = GPT(GPTConfig(**{name: getattr(c, name) for name in names}))
    net.to_empty(device=lab.device)
    net.init_weights()
    optimizer, forward = net.setup_optimizer(), torch.compile(net, dynamic=False) if lab.full else net
    idx = torch.randint(0, c.vocab_size, (at_once, c.sequence_len + 1), device=lab.device)
    x, y = idx[:, :-1].contiguous(), idx[:, 1:].contiguous()

    def update() -> float:
        for _ in range(accumulation):
            value = forward(x, y) / accumulation
            value.backward()
        optimizer.step()
        net.zero_grad(set_to_none=True)
        return value.item()

    for _ in range(2):
        update()
    with torch.device("meta"):
        flops = model.GPT(c).flops_per_token()
    yield timed_updates(lab, update, lab.train.tokens_per_update, flops, at_once)


SECTIONS = {section.__name__: section for section in (versions, head, blocks, updates, kernels, start, first_update, nan, peer)}
SECTIONS["fp8"] = functools.partial(updates, fp8_head=True)


def main() -> None:
    section, device, size, fraction = sys.argv[2:6]
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what the packages print is no result

    def send(value: object) -> None:
        print(json.dumps(value), file=channel, flush=True)

    lab = make_lab(torch.device(device, 0) if device == "cuda" else torch.device(device), size == "small")
    if device == "cuda":
        torch.cuda.set_per_process_memory_fraction(float(fraction), lab.device)
    with SECTIONS[section](lab) as measures:
        send(list(measures))
        for line in sys.stdin:
            try:
                send(measures[line.rstrip("\n")]())
            except Exception as error:  # noqa: BLE001 - one broken measure must not hide the others
                if not isinstance(error, UserError):  # of an attention backend that is not installed
                    traceback.print_exc()
                send({"error": f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"})


if __name__ == "__main__":
    main()
