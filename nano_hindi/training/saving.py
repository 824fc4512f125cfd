"""Saving while training goes on: a copy in host memory, written by a thread."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import torch

from nano_hindi.checkpoint import save_checkpoint, save_model
from nano_hindi.console import shown

PATIENCE = 5.0  # seconds that a second Ctrl-C leaves to the writer


class Saver:
    """Writes the checkpoints of a run, one at a time, in the background. What became of them is told by `report` and `wait`, on the caller's thread.

    A `with` block ends when the last one is written; a failed save is told and training goes on. `tell` takes a line for the user.
    """

    def __init__(self, folder: Path, keep: int, tell: Callable[[str], None]):
        self.folder, self.keep, self.tell = folder, keep, tell
        self.stalled = 0.0  # seconds that training has waited for all this
        self.failure: str | None = None  # of the newest save that has ended
        self._writer = threading.Thread()
        self._news: deque[str] = deque()

    def save(self, checkpoint: dict, prepare: Callable[[], None], with_model: bool = False) -> None:
        """Begin to write `checkpoint`; its tensors may change as soon as this returns. Waits for the one before.

        `prepare` is called at once: where it raises OSError, as where the metrics do not come to disk, the save has failed.
        """
        start = time.perf_counter()
        self.wait()
        self._write_in_background(checkpoint, prepare, with_model)
        self.stalled += time.perf_counter() - start

    def _write_in_background(self, checkpoint: dict, prepare: Callable[[], None], with_model: bool) -> None:
        try:
            prepare()
        except OSError as error:
            return self._fail(checkpoint, error)
        try:
            copy = host_copy(checkpoint)
            finish_copies()
        except (RuntimeError, MemoryError):  # no room for a copy: training waits for the disk
            return self._write(checkpoint, with_model)
        self._writer = threading.Thread(target=self._write, args=(copy, with_model), name="saver", daemon=True)
        self._writer.start()

    def _write(self, checkpoint: dict, with_model: bool) -> None:
        try:
            flush_to_disk(self.folder / "metrics.jsonl")
            if with_model:  # before the checkpoint: a run that ends between the two is resumed and writes both again
                save_model(self.folder, checkpoint)
            path = save_checkpoint(self.folder, checkpoint, self.keep)
        except Exception as error:  # noqa: BLE001 - whatever it is, hours of training are worth more
            self._fail(checkpoint, error)
        else:
            self.failure = None
            self._news.append(f"saved {shown(path)}")

    def _fail(self, checkpoint: dict, error: Exception) -> None:
        reason = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.strerror else f"{type(error).__name__}: {error}"
        self.failure = f"step {checkpoint['step']} is not saved ({' '.join(reason.split())[:300]})"
        self._news.append(f"notice: {self.failure}; training goes on")

    def report(self) -> None:
        """Tell what became of the saves that have ended since the last time."""
        while self._news:
            self.tell(self._news.popleft())

    def wait(self, patience: float | None = None) -> None:
        """Wait until nothing is being written, `patience` seconds at most, and report."""
        end = None if patience is None else time.monotonic() + patience
        while self._writer.is_alive() and (end is None or time.monotonic() < end):
            self._writer.join(0.1)  # in slices: on Windows nothing else lets Ctrl-C through
        self.report()

    def wait_a_little(self) -> None:
        """Wait PATIENCE seconds for the writer, after a second Ctrl-C. If it needs longer, end the process at once with code 130.

        At an ordinary exit the C++ code of a thread that still writes would abort the process.
        """
        self.wait(PATIENCE)
        if self._writer.is_alive():
            print("\nstopped; the checkpoint that was being written is lost", file=sys.stderr, flush=True)
            os._exit(130)

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, kind: type | None, *exc_info) -> None:
        if kind is not KeyboardInterrupt:  # then the caller decides how long to wait
            start = time.perf_counter()
            self.wait()
            self.stalled += time.perf_counter() - start


def host_copy(value):
    """`value` with every tensor, dict and list in it copied to host memory; nothing is shared. `finish_copies` before a tensor changes or is read."""
    if isinstance(value, torch.Tensor):
        # pinned memory comes from PyTorch's cache from the second time on, and the GPU writes there at full speed
        return torch.empty(value.shape, dtype=value.dtype, pin_memory=value.is_cuda).copy_(value.detach(), non_blocking=True)
    if isinstance(value, dict):
        return {key: host_copy(content) for key, content in value.items()}
    if isinstance(value, (list, tuple)):
        return [host_copy(content) for content in value]
    return value


def finish_copies() -> None:
    """Wait for the copies that `host_copy` has begun."""
    if torch.cuda.is_initialized():
        torch.cuda.current_stream().synchronize()


def flush_to_disk(path: Path) -> None:
    """The file's bytes survive a power cut from now on."""
    with open(path, "ab") as file:
        os.fsync(file.fileno())
