"""Check updates on a device: speed, memory, synchronizations, resuming. Each check returns a short
text, or raises AssertionError."""

from __future__ import annotations

import math
import re
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from unittest import mock

import torch

import standin
from lab import Lab, SkippedError
from nano_hindi.flash_attention import select_backend
from nano_hindi.loss import CHUNK_BYTES
from nano_hindi.training import estimates
from nano_hindi.training.loop import train_update
from nano_hindi.training.saving import finish_copies, host_copy
from nano_hindi.training.setup import Run
from nano_hindi.training.stop import StopSignal

ROOT = Path(__file__).resolve().parents[2]


def make_updates(run: Run, n: int) -> list[float]:
    """Make the next n updates and return their losses."""
    with StopSignal() as stop:
        return [train_update(run, stop)[0] for _ in range(n)]


def synchronize(lab: Lab) -> None:
    if lab.device.type == "cuda":
        torch.cuda.synchronize(lab.device)


def full_updates(lab: Lab, updates: int) -> str:
    """Measure updates of the preset at its defaults: 262,144 tokens per update for `25m`."""
    with lab.run() as run:
        first, _ = make_updates(run, 2)
        if lab.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(lab.device)
        synchronize(lab)
        start = time.perf_counter()
        losses = make_updates(run, updates)
        synchronize(lab)
        seconds = (time.perf_counter() - start) / updates
        tokens, size = run.config.tokens_per_update, run.batches.device_batch_size
        flops = run.model.flops_per_token()
    assert losses[-1] < first, f"the loss went from {first} to {losses[-1]}"
    rate, peak = tokens / seconds, estimates.peak_flops(lab.device)
    mfu = f", MFU {rate * flops / peak:.1%}" if peak else ""
    memory = f", peak {torch.cuda.max_memory_allocated(lab.device) / 1e9:.2f} GB" if lab.device.type == "cuda" else ""
    return f"{updates} updates: {rate:,.0f} tokens/s{mfu}, {seconds:.3g} s each{memory} at {size} sequences, loss {first:.3f} -> {losses[-1]:.3f}"


def memory_ceiling(lab: Lab, gigabytes: float, size: int | str) -> str:
    """Make two updates at the defaults within a memory limit."""
    with lab.memory(gigabytes * 1e9), lab.run(size) as run:
        make_updates(run, 2)
        peak, chosen = torch.cuda.max_memory_reserved(lab.device), run.batches.device_batch_size
    assert peak < gigabytes * 1e9, f"{peak / 1e9:.2f} GB"
    assert size in ("auto", chosen), f"out of memory: {chosen} sequences are left"
    return f"{chosen} sequences at once, {peak / 1e9:.2f} GB reserved"


def no_hidden_waits(lab: Lab) -> str:
    """Check that the host waits for the device once per update, when it reads the loss and the
    norm."""
    lab.needs_gpu()
    with lab.run(gradient_accumulation_steps=2) as run:
        make_updates(run, 2)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                make_updates(run, 1)
            finally:
                torch.cuda.set_sync_debug_mode("default")
    waits = [str(w.message) for w in caught if "synchroniz" in str(w.message)]
    assert len(waits) <= 1, f"{len(waits)} waits: {waits[:3]}"
    return f"{len(waits)} wait, for the readback"


def half_precision(lab: Lab) -> str:
    """Train in float16 with loss scaling, whatever else the device supports: the loss falls, and
    the loss scale settles."""
    with lab.run(dtype=torch.float16, batch_size=8, gradient_accumulation_steps=1, warmup_steps=1) as run:
        scales, losses, update = [], [], 0
        while update < 12 and len(scales) < 40:
            losses += make_updates(run, 1)
            update += math.isfinite(losses[-1])
            scales.append(run.loss_scale.value)
    finite = [loss for loss in losses if math.isfinite(loss)]
    assert finite[-1] < finite[0], f"the loss went from {finite[0]} to {finite[-1]}"
    assert scales[-1] >= 1, f"the loss scale fell to {scales[-1]}"
    return f"loss {finite[0]:.3f} -> {finite[-1]:.3f}, scale {scales[0]:g} -> {scales[-1]:g}"


def memory_ends(lab: Lab) -> str:
    """Check that a device batch that is too large is halved until it fits, with the same loss."""
    lab.needs_gpu()
    shape = {"batch_size": 32, "gradient_accumulation_steps": 1}
    with mock.patch.dict(CHUNK_BYTES, {"large cuda": CHUNK_BYTES["cuda"]}):  # with smaller chunks in the second run, all would fit
        with lab.run(32, **shape) as run:
            torch.cuda.reset_peak_memory_stats(lab.device)
            expected = make_updates(run, 2)
            peak = torch.cuda.max_memory_reserved(lab.device)
        with lab.memory(0.7 * peak), lab.run(32, **shape) as run:
            losses, size = make_updates(run, 2), run.batches.device_batch_size
    assert size < 32, "it did fit"
    assert all(abs(a - b) < 1e-2 * a for a, b in zip(expected, losses, strict=True)), f"{expected} against {losses}"
    return f"32 -> {size} sequences, loss {losses[-1]:.4f} against {expected[-1]:.4f}"


def resume(lab: Lab) -> str:
    """Check that three updates from a copy of the state in host memory equal those without it."""
    shape = {"batch_size": 4, "gradient_accumulation_steps": 2}
    with lab.run(4, **shape) as run:
        make_updates(run, 3)
        saved = host_copy({"model": run.model.state_dict(), "optimizer": run.optimizer.state_dict()})
        finish_copies()
        expected = make_updates(run, 3)
    with lab.run(4, **shape) as run:
        run.model.load_state_dict(saved["model"])
        run.optimizer.load_state_dict(saved["optimizer"])
        run.update = 3
        losses = make_updates(run, 3)
    difference = max(abs(a - b) / a for a, b in zip(expected, losses, strict=True))
    assert difference < 1e-3, f"{expected} against {losses}"
    return f"losses differ by {difference:.1e} at most"


def commands(lab: Lab) -> str:
    """Run preprocess, train (twice: the second start finds the compiled kernels) and generate as a
    user does."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        standin.write_corpus(folder / "corpus.txt", standin.documents(400))
        tokenizer = standin.make_tokenizer(folder / "standin", vocab_size=512)
        data, small = ["--data_dir", folder], ["--sequence_len", 32, "--batch_size", 8, "--total_tokens", 32 * 8 * 40, "--eval_tokens", 640]
        call(lab, "data/preprocess.py", "--input", folder / "corpus.txt", "--output_dir", folder, "--tokenizer", tokenizer, "--val_fraction", 0.1)
        train = ["train.py", "--config", "tiny", *data, *small, "--device", lab.device.type, *([] if lab.full else ["--no_compile", "--n_layer", 2])]
        seconds = [call(lab, *train, "--checkpoint_dir", folder / f"run{i}")[0] for i in range(2 if lab.full else 1)]
        text = call(lab, "generate.py", "--checkpoint", folder / "run0", "--prompt", "एक", "--max_tokens", 50, "--device", lab.device.type)[1]
    assert re.match("एक", text), text
    return f"train.py took {', then '.join(f'{s:.0f} s' for s in seconds)}; generate.py wrote {len(text)} characters"


def call(lab: Lab, *argv) -> tuple[float, str]:
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *map(str, argv)], cwd=ROOT, capture_output=True, text=True, encoding="utf-8", timeout=240)
    assert done.returncode == 0, f"{argv[0]}: {done.stderr.strip()[-300:] or done.stdout[-300:]}"
    return time.perf_counter() - start, done.stdout


def decoding_speed(lab: Lab) -> str:
    """Measure the tokens/s of generation after a prompt of 512 tokens."""
    if not lab.full:
        raise SkippedError("needs a GPU")
    from nano_hindi.engine import generate_tokens

    with lab.run(1) as run:
        model, mc = run.model.eval(), run.model.config
        select_backend(lab.device, lab.dtype, head_dim=mc.head_dim, n_head=mc.n_head, n_kv_head=mc.n_kv_head, training=False)
        list(generate_tokens(model, [1] * 512, 8))
        synchronize(lab)
        start = time.perf_counter()
        n = len(list(generate_tokens(model, [1] * 512, 200)))
        seconds = time.perf_counter() - start
    return f"{n / seconds:.0f} tokens/s with the prompt's reading"
