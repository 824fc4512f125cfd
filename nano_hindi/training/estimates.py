"""The speed of a device, from which a run is estimated."""

from __future__ import annotations

import re
import time

import torch

# dense tensor-core TFLOP/s in bf16 or fp16 with float32 accumulation, from NVIDIA's data sheets and
# architecture white papers
PEAK_TFLOPS = {
    "H100 PCIe": 756,
    "H100": 989,
    "H200": 989,
    "A100": 312,
    "A10G": 70,
    "L4": 121,
    "L40S": 362,
    "T4": 65,
    "V100-PCIE": 112,
    "V100": 125,
    "RTX 3060": 25.6,
    "RTX 3070": 40.6,
    "RTX 3080": 59.5,
    "RTX 3090": 71,
    "RTX 4080": 97.5,
    "RTX 4090": 165.2,
    "RTX 5080": 112.6,
    "RTX 5090": 209.5,
}
EXPECTED_UTILIZATION = 0.4  # fraction of the measured matmul speed, for time estimates before the first update


def peak_flops(device: torch.device) -> float | None:
    """Return the peak FLOP/s of a known GPU according to its data sheet, else None: then no MFU is
    shown."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    if re.search(r"\b(Laptop|Ti|SUPER|D|NVL|MIG)\b", name):  # less or more than the card of that number
        return None
    matches = [known for known in PEAK_TFLOPS if re.search(rf"\b{known}\b", name)]
    return PEAK_TFLOPS[max(matches, key=len)] * 1e12 if matches else None


def matmul_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Measure the FLOP/s of a square matmul, an upper limit for this machine: the best of five, or
    of two if it is slow, for example in a half precision that the CPU lacks."""
    n = 8192 if device.type == "cuda" else 1024
    own = torch.Generator(device).manual_seed(0)  # the global one must keep the state that a checkpoint has restored
    a, b = (torch.randn(n, n, device=device, dtype=dtype, generator=own) for _ in range(2))
    best = float("inf")
    for i in range(5):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        c = a @ b
        c[0, 0].item()  # waits for the product
        best = min(best, time.perf_counter() - start)
        if i and best > 0.5:  # the first may have loaded a library
            break
    return 2 * n**3 / best
