"""The peak FLOP/s of a GPU."""

import pytest
import torch

from nano_hindi.training import estimates


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", None),
        ("NVIDIA H200", 989),
        ("NVIDIA A100-SXM4-40GB", 312),
        ("NVIDIA RTX A1000", None),
        ("NVIDIA L4", 121),
        ("NVIDIA L40S", 362),
        ("Tesla V100-SXM2-16GB", 125),
        ("Tesla V100-PCIE-16GB", 112),
        ("Tesla T4", 65),
        ("NVIDIA GeForce RTX 3090", 71),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA GeForce RTX 4080 SUPER", None),
        ("NVIDIA GeForce RTX 3060 Ti", None),
        ("NVIDIA GeForce RTX 4090 D", None),
        ("NVIDIA H100 80GB HBM3 MIG 3g.40gb", None),
    ],
)
def test_peak_flops_are_looked_up_by_the_name_of_the_gpu(monkeypatch, name, tflops):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert estimates.peak_flops(torch.device("cuda", 0)) == (tflops and tflops * 1e12)
    assert estimates.peak_flops(torch.device("cpu")) is None


def test_measured_speed_is_that_of_the_fastest_matmul_and_leaves_the_random_state(monkeypatch):
    times, before = iter([0.0, 3.0, 3.0, 3.75]), torch.get_rng_state()  # after a slow second matmul no third is made
    monkeypatch.setattr(estimates.time, "perf_counter", lambda: next(times))
    assert estimates.matmul_flops(torch.device("cpu"), torch.float32) == 2 * 1024**3 / 0.75
    assert torch.equal(torch.get_rng_state(), before)
