"""Estimate the gain of several GPUs: count the bytes that an update transfers from the code, and
estimate the speed over NVLink, PCIe and Ethernet.

python tests/benchmarks/scaling.py [--config 25m] [--tokens_per_second N]

Without a measured speed of one GPU (--tokens_per_second, as train.py logs it), each GPU is assumed
to reach a fraction of its peak FLOP/s. T is the time of an update on one GPU, N their number. The
update on N GPUs takes
    (T - A) / N         forward, backward, Muon: divided
    + A                 AdamW and the norm of its gradients: each GPU does all of it, limited by its
                        memory bandwidth
    + bytes / bandwidth (N - 1) / N of the bytes of a reduce-scatter or all-gather, twice that of a
                        (ring) all-reduce, and a latency for each
    - overlap           the gradients of lm_head and the value embeddings are sent during the last
                        backward
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import timing  # noqa: F401 - puts the repo's root on the path
import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore  # a process group whose collectives do nothing

from dist_muon_worker import numbers_sent
from nano_hindi.config import get_config, get_train_config
from nano_hindi.distributed import World
from nano_hindi.model import GPT
from nano_hindi.optim import TrainOptimizer
from nano_hindi.training.estimates import EXPECTED_UTILIZATION, PEAK_TFLOPS
from optimizer_step import take_step

FLOAT = 4  # bytes; gradients and weights are sent in their own dtype
ADAMW_PASSES = 8  # passes over its parameters: reads weight, gradient and two moments, writes three, and the norm reads the gradient again
MEMORY_RATE = {"H100": 3350e9, "A100": 2039e9, "RTX 4090": 1008e9, "RTX 3090": 936e9, "T4": 320e9}  # bytes/s, data sheets
# bytes/s of a ring in each direction, latency of a collective in seconds: assumed, about 3/4 of the
# nominal bandwidth, half on PCIe
LINKS = {
    "NVLink 4": (340e9, 30e-6),
    "NVLink 3": (220e9, 30e-6),
    "PCIe 4.0 x16": (16e9, 30e-6),
    "PCIe 3.0 x16": (8e9, 30e-6),
    "Ethernet 100 Gb/s": (9.4e9, 100e-6),
    "Ethernet 25 Gb/s": (2.3e9, 100e-6),
    "Ethernet 10 Gb/s": (0.94e9, 100e-6),
}
BOXES = {
    "H100": ("NVLink 4", "Ethernet 100 Gb/s"),
    "A100": ("NVLink 3", "PCIe 4.0 x16", "Ethernet 100 Gb/s"),
    "RTX 4090": ("PCIe 4.0 x16", "Ethernet 25 Gb/s", "Ethernet 10 Gb/s"),
    "RTX 3090": ("PCIe 4.0 x16", "Ethernet 10 Gb/s"),
    "T4": ("PCIe 3.0 x16", "Ethernet 10 Gb/s"),
}


@dataclass
class Transfers:
    """Bytes that one rank passes to the collectives in an update."""

    all_reduce: int
    reduce_scatter: int
    all_gather: int  # of all ranks together
    calls: int
    hideable: int  # the all-reduces that are launched before the backward ends: all but wte and the scalars


def count_transfers(preset: str, ranks: int) -> Transfers:
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks)
    model = GPT(get_config(preset))
    model.init_weights()
    optimizer = TrainOptimizer(model, get_train_config(preset), World(0, ranks, torch.device("cpu")))
    tokens = torch.zeros(1, 8, dtype=torch.int64)
    with numbers_sent() as sent:
        with optimizer.last_backward():
            model(tokens, tokens).backward()
        assert sum(sent["all_reduce"]) == sum(p.numel() for _, p in optimizer._adamw_parameters())
        take_step(optimizer)
    dist.destroy_process_group()
    n = model.num_params()
    return Transfers(
        all_reduce=FLOAT * sum(sent["all_reduce"]),
        reduce_scatter=FLOAT * sum(sent["reduce_scatter"]),
        all_gather=FLOAT * sum(sent["all_gather"]) * ranks,
        calls=sum(map(len, sent.values())),
        hideable=FLOAT * (n["lm_head"] + n["value_embeds"]),
    )


def seconds_on(ranks: int, seconds: float, adamw: float, window: float, transfers: Transfers, link: str) -> float:
    """Return the seconds of an update on `ranks` GPUs; `window`: seconds of the last backward
    that can hide the hideable transfers."""
    rate, latency = LINKS[link]
    ring = (ranks - 1) / ranks / rate
    crossing = ring * (2 * transfers.all_reduce + transfers.reduce_scatter + transfers.all_gather) + transfers.calls * latency
    return (seconds - adamw) / ranks + adamw + crossing - min(window, 2 * ring * transfers.hideable)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="25m")
    parser.add_argument("--tokens_per_second", type=float, help="measured on one GPU")
    parser.add_argument("--device_batch_size", type=int, default=32, help="sequences at once: the size of the last backward")
    args = parser.parse_args()

    recipe, config = get_train_config(args.config), get_config(args.config)
    with torch.device("meta"):
        model = GPT(config)
    n, flops = model.num_params(), model.flops_per_token()
    transfers = {ranks: count_transfers(args.config, ranks) for ranks in (2, 4, 8)}
    print(f"{args.config}: MB that a rank transfers in an update; {recipe.tokens_per_update:,} tokens\n")
    print(
        "| ranks | all-reduce (AdamW) | of it during backward | reduce-scatter (Muon) | all-gather (Muon) | sent by each, ring |\n|---|---|---|---|---|---|"
    )
    for ranks, t in transfers.items():
        sent = (ranks - 1) / ranks * (2 * t.all_reduce + t.reduce_scatter + t.all_gather)
        print(f"| {ranks} | " + " | ".join(f"{x / 1e6:.1f}" for x in (t.all_reduce, t.hideable, t.reduce_scatter, t.all_gather, sent)) + " |")

    print("\nEstimates, not measured on several GPUs: the fraction of one GPU's speed that each further GPU adds (without hiding transfers)\n")
    print("| GPU | tokens/s of one | link | 2 GPUs | 4 GPUs | 8 GPUs |\n|---|---|---|---|---|---|")
    for gpu, links in BOXES.items():
        rate = args.tokens_per_second or EXPECTED_UTILIZATION * PEAK_TFLOPS[gpu] * 1e12 / flops
        seconds = recipe.tokens_per_update / rate
        adamw = ADAMW_PASSES * FLOAT * (n["total"] - n["blocks"]) / MEMORY_RATE[gpu]
        # the backward of the trunk, 2/3 of its operations, for the last device batch
        trunk = 2 / 3 * (1 - 6 * n["lm_head"] / flops)
        for link in links:
            cells = []
            for ranks, t in transfers.items():
                window = trunk * min(args.device_batch_size, recipe.sequences_per_rank(ranks)) * recipe.sequence_len / rate
                times = [seconds_on(ranks, seconds, adamw, w, t, link) for w in (window, 0)]
                with_hiding, without = ((seconds / x - 1) / (ranks - 1) for x in times)
                cells.append(f"{with_hiding:.0%} ({without:.0%})")
            print(
                f"| {gpu} | {rate:,.0f}{'' if args.tokens_per_second else f' ({EXPECTED_UTILIZATION:.0%} of peak)'} | {link} | "
                + " | ".join(cells)
                + " |"
            )


if __name__ == "__main__":
    main()
