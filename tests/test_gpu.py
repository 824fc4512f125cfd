"""The GPU checks as part of the suite: all of them where there is a GPU, and a small version
everywhere, to test the checks themselves."""

import sys

import pytest
import torch

from conftest import run_script


@pytest.mark.slow
@pytest.mark.gpu
@pytest.mark.timeout(2000)
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: python tests/gpu/check.py")
def test_gpu_checks_pass():
    done = run_script("tests/gpu/check.py", timeout=1800)
    sys.stdout.write(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.timeout(2000)
def test_gpu_checks_run_on_a_cpu():
    done = run_script("tests/gpu/check.py", "--device", "cpu", "--small", "--updates", "3", timeout=1800)
    verdicts = {row.split("|")[1].strip(): row.split("|")[2].strip() for row in done.stdout.splitlines() if row.startswith("| ")}
    assert done.returncode == 0, done.stdout + done.stderr
    passed = {"attention sdpa", "decoding sdpa", "loss", "network", "updates", "float16", "resume", "commands"}
    assert {name for name, verdict in verdicts.items() if verdict == "ok"} == passed
    assert {name for name, verdict in verdicts.items() if verdict == "skipped"} == {
        "8 GB, auto",
        "16 GB, 64 at once",
        "hidden waits",
        "memory ends",
        "generation",
    }
