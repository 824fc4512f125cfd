"""The peak FLOP/s of a GPU, and the expected bits per byte of a run."""

import pytest
import torch

from nano_hindi.config import GPTConfig
from nano_hindi.model import GPT
from nano_hindi.training import estimates

MEASURED = ((64, 524_288, 0.9215), (64, 2_097_152, 0.8252), (128, 1_048_576, 0.8418), (256, 524_288, 0.8909), (256, 2_097_152, 0.7733))


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA A100-SXM4-40GB", 312),
        ("NVIDIA RTX A1000", None),
        ("NVIDIA L4", 121),
        ("NVIDIA L40S", 362),
        ("Tesla T4", 65),
        ("NVIDIA GeForce RTX 3090", 71),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA GeForce RTX 4080 SUPER", None),
        ("NVIDIA H100 80GB HBM3 MIG 3g.40gb", None),
    ],
)
def test_peak_flops_are_looked_up_by_the_name_of_the_gpu(monkeypatch, name, tflops):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert estimates.peak_flops(torch.device("cuda", 0)) == (tflops and tflops * 1e12)
    assert estimates.peak_flops(torch.device("cpu")) is None


def test_expected_bpb_matches_the_fitted_runs_and_falls_with_model_and_data_size():
    """The final results are in docs/LOG.md, with the command that made them."""
    for width, tokens, bpb in MEASURED:
        with torch.device("meta"):
            blocks = GPT(GPTConfig(vocab_size=64, n_layer=4, n_head=4, n_kv_head=2, n_embd=width)).num_params()["blocks"]
        assert estimates.expected_bpb(blocks, tokens) == pytest.approx(bpb, rel=0.01)
        assert estimates.expected_bpb(2 * blocks, tokens) < estimates.expected_bpb(blocks, tokens)
        assert estimates.expected_bpb(blocks, 2 * tokens) < estimates.expected_bpb(blocks, tokens)
    assert 0.2 < estimates.expected_bpb(12_600_000, 500_000_000) < min(bpb for _, _, bpb in MEASURED)
