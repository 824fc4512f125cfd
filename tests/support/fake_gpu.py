"""Run a script as if this machine had a GPU: `python fake_gpu.py LIBRARY SCRIPT ARGUMENTS...`.

LIBRARY is what `build` makes of fake_gpu.cpp: tensors on `cuda` whose operators run on the
CPU, and fail if they read tensors of both devices. Nothing can be compiled by torch.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

TORCH = Path(importlib.util.find_spec("torch").origin).parent
GIB = 1 << 30


def build(folder: Path) -> Path:
    """Compile the library into `folder` and return its path. Raises CalledProcessError."""
    library = folder / "fake_gpu.so"
    include = TORCH / "include"
    sources = [Path(__file__).with_suffix(".cpp"), f"-I{include}", f"-I{include / 'torch' / 'csrc' / 'api' / 'include'}"]
    link = [f"-L{TORCH / 'lib'}", f"-Wl,-rpath,{TORCH / 'lib'}", "-ltorch", "-ltorch_cpu", "-lc10"]
    command = [os.environ.get("CXX", "c++"), "-std=c++20", "-shared", "-fPIC", *sources, "-o", library, *link]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return library


def install(library: str) -> None:
    """Load the library, then torch, whose functions about GPUs answer as on an H200."""
    ctypes.CDLL(library)  # before torch, which asks only once what there is
    import torch
    import torch._inductor.utils  # before the functions below are replaced

    properties = SimpleNamespace(total_memory=141 * GIB, name="NVIDIA H200", major=9, minor=0)
    nothing = [
        "_lazy_init",
        "set_device",
        "synchronize",
        "empty_cache",
        "manual_seed_all",
        "reset_peak_memory_stats",
        "set_per_process_memory_fraction",
    ]
    sizes = ["memory_allocated", "max_memory_allocated", "memory_reserved", "max_memory_reserved"]
    answers = dict.fromkeys(nothing) | dict.fromkeys(sizes, GIB)
    answers |= {"is_available": True, "is_initialized": True, "device_count": 1, "current_device": 0}
    answers |= {"get_device_name": properties.name, "get_device_capability": (9, 0), "get_device_properties": properties}
    answers |= {"mem_get_info": (140 * GIB, 141 * GIB), "get_per_process_memory_fraction": 1.0}
    answers |= {"current_stream": SimpleNamespace(synchronize=lambda: None)}
    for name, answer in answers.items():
        setattr(torch.cuda, name, lambda *_, answer=answer: answer)


if __name__ == "__main__":
    install(sys.argv[1])
    sys.argv = sys.argv[2:]
    sys.path[0] = str(Path(sys.argv[0]).resolve().parent)
    runpy.run_path(sys.argv[0], run_name="__main__")
