"""Keep the computer awake during a run: a sleeping one does not train."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator

from nano_hindi.common import has_display

# https://learn.microsoft.com/windows/win32/api/winbase/nf-winbase-setthreadexecutionstate
_ES_CONTINUOUS, _ES_SYSTEM_REQUIRED = 0x80000000, 0x00000001


@contextlib.contextmanager
def kept_awake() -> Iterator[None]:
    """Ask the system not to sleep by itself until the block ends, where it can be asked: Windows,
    macOS, and Linux with systemd and a screen. The user can still send it to sleep."""
    if sys.platform == "win32":
        import ctypes

        ask = ctypes.windll.kernel32.SetThreadExecutionState
        ask(_ES_CONTINUOUS | _ES_SYSTEM_REQUIRED)  # holds until this thread ends, at the latest
        try:
            yield
        finally:
            ask(_ES_CONTINUOUS)
        return
    command = inhibitor(sys.platform, os.getpid())
    process, quiet = None, subprocess.DEVNULL
    if command is not None:
        with contextlib.suppress(OSError):
            # in a session of its own: Ctrl-C in the terminal must not end it
            process = subprocess.Popen(command, start_new_session=True, stdin=quiet, stdout=quiet, stderr=quiet)
    try:
        yield
    finally:
        if process is not None:
            process.terminate()
            process.wait()


def inhibitor(platform: str, pid: int) -> list[str] | None:
    """Return the command that keeps this system awake while the process `pid` lives, None if there
    is none."""
    if platform == "darwin" and shutil.which("caffeinate"):
        return ["caffeinate", "-i", "-w", str(pid)]
    # without a display it is a server, which does not go to sleep by itself
    if platform == "linux" and has_display() and shutil.which("systemd-inhibit") and shutil.which("tail"):
        return ["systemd-inhibit", "--what=idle:sleep", "--who=nano_hindi", "--why=training", "tail", f"--pid={pid}", "-f", os.devnull]
    return None
