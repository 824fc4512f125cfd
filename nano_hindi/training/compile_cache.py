"""Keep the kernels of torch.compile for the next start, also after a reboot."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import sys
import tempfile
from pathlib import Path

from nano_hindi.common import IS_WINDOWS

VARIABLE = "TORCHINDUCTOR_CACHE_DIR"  # where it is not set, PyTorch sets it to its default when it imports its compiler


def keep_compiled_kernels() -> None:
    """Let torch.compile keep its kernels in the user's cache folder. By default they are among the
    temporary files, which a reboot deletes.

    Changes nothing if the user has chosen a folder, or if this one cannot be written. Call it
    before anything imports PyTorch's compiler, whose default would count as the user's choice.
    """
    if os.environ.get(VARIABLE):
        return
    with contextlib.suppress(OSError, RuntimeError):  # RuntimeError: there is no home
        folder = _user_cache() / "nano_hindi" / "compiled" / _processor()
        if " " in str(folder):  # PyTorch puts it unquoted into the compiler's command
            return
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            os.environ[VARIABLE] = str(folder)


def _user_cache() -> Path:
    """Return the system's folder for what a user's programs can make again. Raises RuntimeError if
    there is none."""
    if IS_WINDOWS:
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    chosen = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return chosen if chosen.is_absolute() else Path.home() / ".cache"  # a relative path is invalid, says the specification


def _processor() -> str:
    """Return a name for the instruction set of this machine's processor. Machines may share a home,
    and a kernel compiled for one processor can crash on another."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.startswith(("flags", "Features")):
                return f"{platform.machine()}-{hashlib.sha256(line.encode()).hexdigest()[:8]}"
    return platform.machine()
