"""Measure where the time of a training step goes: each stage, the whole step, two lower bounds, and
naive variants, interleaved in one run.

OMP_NUM_THREADS=2 python tests/benchmarks/train_step.py [--config 25m] [--batch 1] [--device cuda]
[--dtype bfloat16] [--compile]

The lower bound of a stage is the longer of its operations at the matmul speed and its bytes at the
copy speed of this device, both measured here.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import timing  # noqa: F401 - puts the repo's root on the path
import torch
from torch.nn import functional as F

from nano_hindi.common import pick_device
from nano_hindi.config import DTYPES, get_config, get_train_config
from nano_hindi.dataloader import SequenceLoader
from nano_hindi.distributed import World
from nano_hindi.flash_attention import flash_attn
from nano_hindi.loss import compile_kernels as compile_loss
from nano_hindi.loss import softcapped_cross_entropy
from nano_hindi.optim import TrainOptimizer
from nano_hindi.token_file import TokenFile
from nano_hindi.training.estimates import matmul_flops, peak_flops
from nano_hindi.training.setup import new_model
from optimizer_step import take_step


class Bench:
    """A model, its optimizers and a batch; the methods are the stages of a step, each of which
    leaves what the next one needs."""

    def __init__(self, args, device: torch.device, folder: Path):
        self.config, self.device = get_config(args.config), device
        recipe = dataclasses.replace(get_train_config(args.config), dtype=args.dtype)
        self.model = new_model(self.config, recipe, device)
        self.optimizer = TrainOptimizer(self.model, recipe, World(0, 1, device))
        if args.compile:
            self.model.compile_blocks()
            self.optimizer.compile()
            if device.type == "cuda":
                compile_loss()
        rng = np.random.default_rng(0)
        rng.integers(self.config.vocab_size, size=2_000_000, dtype=np.uint32).tofile(folder / "train.bin")
        self.loader, self.size = SequenceLoader(TokenFile(folder / "train.bin", self.config.vocab_size), self.config.sequence_len, 0), args.batch
        self.position = 0
        self.read()

    def read(self) -> None:
        x, y = self.loader.batch(self.position, self.size)
        self.position += self.size
        self.x, self.y = x.to(self.device), y.to(self.device)

    def embed(self) -> None:
        self.model.transformer.wte(self.x)
        for embedding in self.model.value_embeds.values():
            embedding(self.x)

    def trunk(self) -> None:
        self.hidden = self.model.trunk(self.x)

    def head(self) -> None:
        """Compute the loss with its gradients, which are made in the forward pass."""
        self.leaf = self.hidden.detach().requires_grad_()
        softcapped_cross_entropy(self.leaf.flatten(0, 1), self.model.head_weight, self.y.flatten(), vocab_size=self.config.vocab_size).backward()

    def backward(self) -> None:
        self.hidden.backward(self.leaf.grad)

    def optimize(self) -> None:
        take_step(self.optimizer)

    def attention(self) -> None:
        """Run forward and backward of the attention of all layers."""
        c = self.config
        for window in c.windows:
            q, k, v = (
                torch.randn(self.size, c.sequence_len, heads, c.head_dim, device=self.device, dtype=self.model.compute_dtype, requires_grad=True)
                for heads in (c.n_head, c.n_kv_head, c.n_kv_head)
            )
            flash_attn.flash_attn_func(q, k, v, causal=True, window_size=(window - 1, 0)).sum().backward()

    def step(self) -> None:
        for part in (self.read, self.trunk, self.head, self.backward, self.optimize):
            part()

    def step_with_all_logits(self) -> None:
        self.read()
        F.cross_entropy(self.model.logits(self.model.trunk(self.x)).flatten(0, 1), self.y.flatten()).backward()
        self.optimize()

    def step_with_dense_masks(self) -> None:
        with dense_masks():
            self.read()
            self.hidden = self.model.trunk(self.x)
            self.head()
            self.backward()
        self.optimize()


@contextlib.contextmanager
def dense_masks() -> Iterator[None]:
    """Replace attention with SDPA and a T x T mask, heads expanded."""

    def attend(q, k, v, causal=True, window_size=(-1, -1)):
        T, heads = q.size(1), q.size(2) // k.size(2)
        distance = torch.arange(T, device=q.device)[:, None] - torch.arange(T, device=q.device)
        mask = (distance >= 0) & (distance <= window_size[0])
        k, v = (t.repeat_interleave(heads, dim=2) for t in (k, v))
        return F.scaled_dot_product_attention(*(t.transpose(1, 2) for t in (q, k, v)), attn_mask=mask).transpose(1, 2)

    ours, flash_attn.flash_attn_func = flash_attn.flash_attn_func, attend
    try:
        yield
    finally:
        flash_attn.flash_attn_func = ours


def copy_rate(device: torch.device) -> float:
    """Return the bytes per second of a copy, read and written."""
    a, b = (torch.empty(64 * 2**20, device=device) for _ in range(2))
    return 2 * a.nbytes / min(seconds_of(lambda: b.copy_(a), device) for _ in range(6))


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def floors(bench: Bench, flops: float, rate: float) -> dict[str, float]:
    """Return a lower bound in seconds for each stage, from the operations and bytes that no
    implementation avoids."""
    n, c, tokens, head = bench.model.num_params(), bench.config, bench.x.numel(), bench.model.head_weight.numel()
    width = 2 if bench.model.compute_dtype != torch.float32 else 4
    kept = tokens * c.n_embd * c.n_layer * width  # one tensor of the residual stream for each block
    keys = sum(sum(min(i + 1, w) for i in range(c.sequence_len)) for w in c.windows) * bench.size  # that the queries of all layers attend to
    scores = 4 * keys * c.n_head * c.head_dim
    adamw = n["total"] - n["blocks"]
    # five iterations, or the product of their polynomials (nano_hindi/muon.py), whichever has fewer
    # operations; half as many suffice for a symmetric product
    shapes = [sorted(p.shape) for group in bench.optimizer.muon.param_groups for p in group["params"]]
    polar = sum(3 * m * m * columns + min(12 * m * m * columns + 5 * m**3, 17 * m**3) for m, columns in shapes)
    parts = {
        "read": (0, 0),
        "embed": (0, 2 * width * tokens * c.n_embd * (1 + len(c.value_embedding_layers) * c.n_kv_head / c.n_head)),
        "trunk": (2 * tokens * n["blocks"] + scores, 4 * n["blocks"] + 2 * kept),
        "head": (6 * tokens * head, 4 * 4 * head),
        "backward": (4 * tokens * n["blocks"] + 2 * scores, 8 * n["blocks"] + 2 * kept + 4 * (n["wte"] + n["value_embeds"])),
        "optimize": (polar, 4 * (7 * adamw + 5 * n["blocks"])),
        "attention": (3 * scores, 0),
    }
    return {name: max(operations / flops, size / rate) for name, (operations, size) in parts.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="25m")
    parser.add_argument("--batch", type=int, default=1, help="sequences")
    parser.add_argument("--device", choices=("cpu", "cuda"))
    parser.add_argument("--dtype", choices=DTYPES, default="auto")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    device = pick_device(args.device)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(args, device, Path(folder))
        flops, rate = matmul_flops(device, bench.model.compute_dtype), copy_rate(device)
        at_least = floors(bench, flops, rate)
        parts = ("read", "embed", "trunk", "head", "backward", "optimize", "attention")  # in this order: each needs the ones before
        wholes = ("step", "step_with_all_logits", "step_with_dense_masks")
        seconds = {name: [] for name in (*parts, *wholes)}
        for i in range(args.rounds + 1):
            for name in seconds:
                taken = seconds_of(getattr(bench, name), device)
                if i:  # the first round compiles and warms the caches
                    seconds[name].append(taken)
            bench.model.zero_grad(set_to_none=True)
    median = {name: statistics.median(values) for name, values in seconds.items()}

    tokens = args.batch * bench.config.sequence_len
    print(
        f"{args.config}, {args.batch} x {bench.config.sequence_len} tokens on {device} in {str(bench.model.compute_dtype).removeprefix('torch.')}, ",
        end="",
    )
    print(f"trunk {'compiled' if args.compile else 'eager'}; matmul {flops / 1e12:.3g} TFLOP/s, copy {rate / 1e9:.3g} GB/s")
    labels = {"read": "data", "embed": "embeddings (in the next)", "trunk": "forward of the blocks", "head": "head + loss, both passes"}
    labels |= {"backward": "backward of the blocks", "optimize": "clip + optimizers", "attention": "attention, both passes (in the above)"}
    for name in parts:
        floor = f"{median[name] / at_least[name]:6.1f} x its floor" if at_least[name] else ""
        print(f"{labels[name]:40} {median[name] * 1e3:10.1f} ms {median[name] / median['step']:6.0%} {floor}")
    total = sum(at_least[name] for name in parts if name not in ("attention", "embed"))
    step = median["step"]
    print(f"{'step':40} {step * 1e3:10.1f} ms  {tokens / step:,.0f} tokens/s, {step / total:.2f} x the sum of the floors")
    for name in wholes[1:]:
        print(f"{name.replace('_', ' '):40} {median[name] * 1e3:10.1f} ms  {median[name] / step:.2f} x the step")
    if peak := peak_flops(device):
        print(f"MFU {tokens / step * bench.model.flops_per_token() / peak:.1%} of {peak / 1e12:.0f} TFLOP/s")
    if device.type == "cuda":
        print(f"peak memory {torch.cuda.max_memory_allocated(device) / 1e9:.2f} GB, naive variants included")


if __name__ == "__main__":
    main()
