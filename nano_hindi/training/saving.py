"""Save checkpoints while training continues: a thread writes a copy in host memory."""

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

PATIENCE = 5.0  # seconds that the writer has left after a second Ctrl-C


class Saver:
    """A writer that saves the checkpoints of a run in the background, one at a time.

    `report` and `wait` tell the user the results: they call `tell` with a line, on the caller's
    thread. A failed save is reported and training continues. A `with` block ends when the last
    checkpoint is written.
    """

    def __init__(self, folder: Path, keep: int, tell: Callable[[str], None]):
        self.folder, self.keep, self.tell = folder, keep, tell
        self.stalled = 0.0  # seconds that training has waited for saves
        self.failure: str | None = None  # why the last finished save failed; None if it succeeded
        self._writer = threading.Thread()
        self._news: deque[str] = deque()

    def save(self, checkpoint: dict, prepare: Callable[[], None], with_model: bool = False) -> None:
        """Start writing `checkpoint`, after the previous one is written. Its tensors may change as
        soon as this returns.

        `prepare` is called first: if it raises OSError, for example because the metrics cannot be
        written, the save has failed.
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
        except (RuntimeError, MemoryError):  # no memory for a copy: training waits for the disk
            return self._write(checkpoint, with_model)
        self._writer = threading.Thread(target=self._write, args=(copy, with_model), name="saver", daemon=True)
        self._writer.start()

    def _write(self, checkpoint: dict, with_model: bool) -> None:
        try:
            flush_to_disk(self.folder / "metrics.jsonl")
            if with_model:  # before the checkpoint: a run killed between the two is resumed and writes both again
                save_model(self.folder, checkpoint)
            path = save_checkpoint(self.folder, checkpoint, self.keep)
        except Exception as error:  # noqa: BLE001 - no failed save may end a run of hours
            self._fail(checkpoint, error)
        else:
            self.failure = None
            self._news.append(f"saved {shown(path)}")

    def _fail(self, checkpoint: dict, error: Exception) -> None:
        reason = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.strerror else f"{type(error).__name__}: {error}"
        self.failure = f"step {checkpoint['step']} is not saved ({' '.join(reason.split())[:300]})"
        self._news.append(f"notice: {self.failure}; training continues")

    def report(self) -> None:
        """Tell the user the results of the saves that have finished since the last call."""
        while self._news:
            self.tell(self._news.popleft())

    def wait(self, patience: float | None = None) -> None:
        """Wait at most `patience` seconds until nothing is being written, and report."""
        end = None if patience is None else time.monotonic() + patience
        while self._writer.is_alive() and (end is None or time.monotonic() < end):
            self._writer.join(0.1)  # with a timeout: on Windows, Ctrl-C does not interrupt a join without one
        self.report()

    def wait_a_little(self) -> None:
        """Wait PATIENCE seconds for the writer, after a second Ctrl-C. If it needs longer, end the
        process at once with code 130.

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
    """Return a deep copy of `value` with its tensors in host memory. Call `finish_copies` before
    any tensor is changed or read."""
    if isinstance(value, torch.Tensor):
        # pinned memory: the GPU copies to it at full speed, and from the second save on it comes
        # from PyTorch's cache
        return torch.empty(value.shape, dtype=value.dtype, pin_memory=value.is_cuda).copy_(value.detach(), non_blocking=True)
    if isinstance(value, dict):
        return {key: host_copy(content) for key, content in value.items()}
    if isinstance(value, (list, tuple)):
        return [host_copy(content) for content in value]
    return value


def finish_copies() -> None:
    """Wait for the copies that `host_copy` has launched."""
    if torch.cuda.is_initialized():
        torch.cuda.current_stream().synchronize()


def flush_to_disk(path: Path) -> None:
    """Flush a file to disk, so that it survives a power cut."""
    with open(path, "ab") as file:
        os.fsync(file.fileno())
