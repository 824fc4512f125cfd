"""The GPU checks as part of the suite, where there is a GPU."""

import sys

import pytest
import torch

from conftest import run_script


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: python tests/gpu/check.py")
def test_the_gpu_checks_pass():
    done = run_script("tests/gpu/check.py", timeout=900)
    sys.stdout.write(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
