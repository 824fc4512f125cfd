"""Time the decoding of one token: against reading the weights once, against recomputing the whole
text; the cost of sampling from the logits; a token of each of several texts, with one forward pass
as serve.py does it against one by one; and the ways to multiply one row by each weight, in seconds
of the calling thread, which other programs on the cores change little.

OMP_NUM_THREADS=2 OMP_WAIT_POLICY=passive python tests/benchmarks/decode.py [--config 25m]

MKL has other kernels for a CPU that is not Intel's. On one of Intel's they are measured so:

echo 'int mkl_serv_intel_cpu(void) { return 0; } int mkl_serv_intel_cpu_true(void) { return 0; }' |
    gcc -shared -fPIC -o not_intel.so -x c -
LD_PRELOAD=./not_intel.so OMP_NUM_THREADS=2 ... python tests/benchmarks/decode.py
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial

import torch
from timing import medians  # puts the repo's root on the path
from torch import Tensor
from torch.nn import functional as F

from nano_hindi.config import get_config
from nano_hindi.engine import JoinedCaches, KVCache, next_logits, sample_token
from nano_hindi.model import GPT, Linear, linear

PROMPT = 512  # tokens
TEXTS = 16  # at once
READ = 2**24  # entries of a shape's weights, at least, that are read in a measurement: a millisecond


def in_blocks(n: int, x: Tensor, weight: Tensor) -> Tensor:
    """Multiply a row (1, n_in) by a weight (n_out, n_in) as a batch of n blocks."""
    return torch.bmm(weight.view(n, -1, weight.size(1)), x.T.expand(n, -1, 1)).view(1, -1)


def print_one_row(model: GPT, rounds: int) -> None:
    """Print how long each way to multiply one row takes for the weights of each shape."""
    threads = torch.get_num_threads()
    ways = {
        "F.linear": F.linear,
        "as the model does it": linear,
        "64 blocks": partial(in_blocks, 64),
        "a block a thread": partial(in_blocks, threads),
    }
    weights: dict[torch.Size, list[Tensor]] = {}
    for layer in model.modules():
        if isinstance(layer, Linear) and layer.weight.size(0) % 64 == 0:
            weights.setdefault(layer.weight.shape, []).append(layer.weight)
    weights[model.head_weight.shape] = [model.head_weight]
    print(f"one row, {threads} thread{'s' * (threads > 1)}, microseconds, and times as long as the fastest:")
    for shape, same in sorted(weights.items()):
        rivals = {name: partial(multiply, way, torch.randn(1, shape[1]), same, -(-READ // (shape.numel() * len(same)))) for name, way in ways.items()}
        seconds = medians(rivals, rounds, time.thread_time)
        each = [
            f"{name} {seconds[name] / rivals[name].args[-1] / len(same) * 1e6:.0f} ({seconds[name] / min(seconds.values()):.2f})" for name in ways
        ]
        print(f"  {shape[0]:6} x {shape[1]:<4}", *each, sep="  ")


def multiply(way: Callable[[Tensor, Tensor], Tensor], x: Tensor, weights: list[Tensor], times: int) -> None:
    """Multiply the row by each of the weights, `times` times."""
    for _ in range(times):
        for weight in weights:
            way(x, weight)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="25m")
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    torch.manual_seed(0)
    config = get_config(args.config)
    model = GPT(config)
    model.init_weights()
    model.eval()
    text, new = torch.randint(config.vocab_size, (1, PROMPT)), torch.randint(config.vocab_size, (1, 1))
    cache = KVCache(config, 1, "cpu", torch.float32)
    next_logits(model, text, cache)
    texts = [KVCache(config, 1, "cpu", torch.float32) for _ in range(TEXTS)]
    for length, text_cache in enumerate(texts, start=50):
        next_logits(model, text[:, :length], text_cache)
    read = 4 * (model.num_params()["blocks"] + model.head_weight.numel())  # only one row of the embeddings is read
    memory = torch.randn(256 * 2**20)
    logits, generator = 3 * torch.randn(1, config.vocab_size), torch.Generator().manual_seed(0)
    cached, recomputed, top_k, both, top_p, joined, separate, reading = medians(
        {
            "a token with the cache": lambda: next_logits(model, new, cache),
            f"a token by recomputing {PROMPT}": lambda: model.logits(model.trunk(text)[:, -1:]),
            "drawn with top_k 50": lambda: sample_token(logits, 0.8, 50, generator),
            "drawn with top_k 50 and top_p 0.9": lambda: sample_token(logits, 0.8, 50, generator, 0.9),
            "drawn with top_p 0.9": lambda: sample_token(logits, 0.8, 0, generator, 0.9),
            f"a token of each of {TEXTS} texts": lambda: next_logits(model, new.expand(TEXTS, 1), JoinedCaches(texts)),
            "the same one by one": lambda: [next_logits(model, new, text_cache) for text_cache in texts],
            "1 GiB read once": lambda: memory.sum(),
        },
        args.rounds,
    ).values()
    bandwidth = memory.nbytes / reading
    print(f"weights read for a token: {read / 1e6:.0f} MB, at the measured {bandwidth / 1e9:.1f} GB/s {read / bandwidth * 1e3:.2f} ms")
    print(f"a token with the cache: {cached * 1e3:.2f} ms, {1 / cached:.0f} tokens/s: {read / bandwidth / cached:.0%} of that rate")
    print(f"recomputing {PROMPT} tokens: {recomputed * 1e3:.0f} ms, {recomputed / cached:.0f} x as long")
    print(f"drawing a token: top_k 50 {top_k * 1e3:.2f} ms, with top_p 0.9 {both * 1e3:.2f} ms, top_p 0.9 alone {top_p * 1e3:.2f} ms")
    print(f"a token of each of {TEXTS} texts: {joined * 1e3:.0f} ms, one by one {separate * 1e3:.0f} ms, {separate / joined:.1f} x as long")
    print_one_row(model, args.rounds)


if __name__ == "__main__":
    main()
