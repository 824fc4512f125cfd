"""nano_hindi: train a small Hindi GPT from scratch on hardware you own."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from types import FrameType

__version__ = "0.2.0"


def _on_ctrl_c(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt, as Python does; while a module is imported, end the process with
    code 130 instead: PyTorch and numpy may drop a KeyboardInterrupt there or raise ImportError,
    and nothing outside `command_line` catches it."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            with contextlib.suppress(OSError, ValueError, AttributeError, RuntimeError):  # closed, full, or just being written to
                sys.stdout.flush()
            with contextlib.suppress(OSError):
                os.write(2, b"\nstopped\n")
            os._exit(130)
        frame = frame.f_back
    raise KeyboardInterrupt


def _is_command() -> bool:
    """Return whether Python was started with a script of this repo or `-m`, and not with a program,
    `-c` or a prompt that only imports the package: its Ctrl-C stays as it is."""
    started, root = sys.argv[0] if sys.argv else "", os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
    folders = (root, os.path.join(root, "data"))
    return started == "-m" or (os.path.isfile(started) and os.path.dirname(os.path.realpath(started)) in folders)


if _is_command() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not ignored, as by nohup
    with contextlib.suppress(ValueError):  # a thread imports the package
        signal.signal(signal.SIGINT, _on_ctrl_c)
