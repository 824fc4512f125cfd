"""Compare attention with a window of 256, forward and backward, with SDPA and a dense mask, on the
CPU.

python tests/benchmarks/attention.py
"""

from __future__ import annotations

import argparse

import torch
from timing import medians  # puts the repo's root on the path
from torch.nn.functional import scaled_dot_product_attention

from nano_hindi.flash_attention import flash_attn

HEADS, KV_HEADS, HEAD_DIM, WINDOW = 6, 2, 64, 256


def blocks(q, k, v):
    return flash_attn.flash_attn_func(q, k, v, window_size=(WINDOW - 1, 0))


def dense_mask(q, k, v):
    distance = torch.arange(q.size(1))[:, None] - torch.arange(q.size(1))
    mask = (distance >= 0) & (distance < WINDOW)
    q, k, v = (x.repeat_interleave(HEADS // x.size(2), dim=2).transpose(1, 2) for x in (q, k, v))
    return scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.manual_seed(0)
    for length in (1024, 4096):
        tensors = [torch.randn(1, length, heads, HEAD_DIM, requires_grad=True) for heads in (HEADS, KV_HEADS, KV_HEADS)]
        upstream = torch.randn(1, length, HEADS, HEAD_DIM)
        rivals = {f.__name__: lambda f=f: torch.autograd.grad(f(*tensors), tensors, upstream) for f in (blocks, dense_mask)}  # noqa: B023 - called in this iteration
        times = medians(rivals, rounds=11 if length == 1024 else 3)
        print(
            f"T = {length}: blocks {times['blocks'] * 1e3:.1f} ms, dense mask {times['dense_mask'] * 1e3:.1f} ms, "
            f"ratio {times['dense_mask'] / times['blocks']:.1f}"
        )


if __name__ == "__main__":
    main()
