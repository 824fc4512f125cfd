"""Probe FlashAttention-3 in a child process, for GPUs where a failed kernel launch may end the
process.

FA3 calls exit() if a kernel cannot be launched (CHECK_CUDA in hopper/cuda_check.h), so the process
that probes cannot catch it. The child is a fresh interpreter, because CUDA does not survive a fork.
It runs the probe and nothing else: it selects no backend and joins no process group.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import torch

TIMEOUT = 120  # seconds; importing torch and FA3 and launching the first kernels should take about ten
VERDICT = "FA3 probe: "  # the child prints this at its end, followed by why FA3 cannot be used, or by nothing if it can


def probe_in_child(device: torch.device, dtype: torch.dtype, head_dim: int, n_head: int, n_kv_head: int, training: bool) -> str:
    """Probe FA3 with these shapes on `device` in a child process. Return why it cannot be used, ""
    if it can."""
    arguments = json.dumps([str(device), str(dtype).removeprefix("torch."), head_dim, n_head, n_kv_head, training])
    path = os.pathsep.join(map(os.path.abspath, sys.path))  # the child imports the same modules as this process
    try:
        child = subprocess.run(
            [sys.executable, "-m", "nano_hindi.flash_attention", arguments],
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            errors="replace",
            timeout=TIMEOUT,
        )
    except subprocess.TimeoutExpired:
        return f"no result from the probe after {TIMEOUT} s"
    _, mark, verdict = child.stdout.rpartition(VERDICT)
    if child.returncode or not mark:
        major, minor = torch.cuda.get_device_capability(device)
        return f"crashes on compute capability {major}.{minor} (exit code {child.returncode})"
    return verdict.strip()
