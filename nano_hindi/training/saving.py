"""Save checkpoints while training continues: a thread writes a copy in host memory."""

from __future__ import annotations

import concurrent.futures
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from nano_hindi.checkpoint import save_checkpoint, save_model
from nano_hindi.console import shown
from nano_hindi.errors import UserError, naming, system_error
from nano_hindi.files import when_released

PATIENCE = 5.0  # seconds that the writer has left after a second Ctrl-C


class Saver:
    """A writer that saves the checkpoints of a run in the background, one at a time.

    `report` and `wait` tell the user the results: they call `tell` with a line. A failed save is
    reported and training continues. A `with` block ends when the last checkpoint is written.
    """

    def __init__(self, folder: Path, keep: int, tell: Callable[[str], None]):
        self.folder, self.keep, self.tell = folder, keep, tell
        self.failure: str | None = None  # why the last save failed; None if it succeeded
        self._writer = concurrent.futures.ThreadPoolExecutor(1, "saver")
        self._idle = threading.Event()  # cleared before a save begins: a Ctrl-C may come before its Future is known
        self._idle.set()
        # of the save whose result is not reported yet
        self._step = 0
        self._saving: concurrent.futures.Future[tuple[Path, Exception | None]] | None = None

    def save(self, checkpoint: dict, prepare: Callable[[], None], with_model: bool = False) -> None:
        """Start writing `checkpoint`, after the previous one is written. Its tensors may change as
        soon as this returns.

        `prepare` is called first: if it raises OSError, for example because the metrics cannot be
        written, the save has failed.
        """
        self.wait()
        self._step = checkpoint["step"]
        try:
            prepare()
            copy = host_copy(checkpoint)
            finish_copies()
        except OSError as error:
            self._fail(error)
        except (RuntimeError, MemoryError):  # no memory for a copy: training waits for the disk
            self._submit(checkpoint, with_model)
            self.wait()
        else:
            self._submit(copy, with_model)

    def _submit(self, checkpoint: dict, with_model: bool) -> None:
        self._idle.clear()
        self._saving = self._writer.submit(self._write, checkpoint, with_model)

    def _write(self, checkpoint: dict, with_model: bool) -> tuple[Path, Exception | None]:
        """Write the checkpoint, then model.pt, which another program may have open. Returns the
        checkpoint's path, and why model.pt is not written; a resumed run then writes it again."""
        try:
            flush_to_disk(self.folder / "metrics.jsonl")
            path = save_checkpoint(self.folder, checkpoint, self.keep)
            if with_model:
                try:
                    save_model(self.folder, checkpoint)
                except Exception as error:  # noqa: BLE001 - reported like that of a checkpoint
                    return path, error
            return path, None
        finally:
            self._idle.set()

    def report(self) -> None:
        """Tell the user the result of the last save, once it is known."""
        if self._saving is not None and self._idle.is_set():
            saving, self._saving = self._saving, None
            try:
                path, model_error = saving.result()
            except Exception as error:  # noqa: BLE001 - no failed save may end a run of hours
                self._fail(error)
            else:
                self.failure = None
                self.tell(f"saved {shown(path)}")
                if model_error is not None:
                    self._fail(model_error, "model.pt is not written")

    def _fail(self, error: Exception, what: str | None = None) -> None:
        reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        if isinstance(error, OSError):
            reason = system_error(error)
        self.failure = f"{what or f'step {self._step} is not saved'} ({' '.join(reason.split())[:300]})"
        self.tell(f"notice: {self.failure}")

    def wait(self, patience: float | None = None) -> None:
        """Wait at most `patience` seconds until nothing is being written, and report."""
        end = None if patience is None else time.monotonic() + patience
        while not self._idle.wait(0.1) and (end is None or time.monotonic() < end):  # on Windows, Ctrl-C does not interrupt a wait without a timeout
            pass
        self.report()

    def wait_a_little(self) -> None:
        """Wait PATIENCE seconds for the writer, after a second Ctrl-C. If it needs longer, end the
        process at once with code 130: an ordinary exit waits for the thread."""
        self.wait(PATIENCE)
        if not self._idle.is_set():
            print("\nstopped; the file that was being written is lost", file=sys.stderr, flush=True)
            os._exit(130)

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, kind: type | None, *exc_info: object) -> None:
        if kind is not KeyboardInterrupt:  # then the caller decides how long to wait
            self.wait()
        self._writer.shutdown(wait=False)


def host_copy(value: Any) -> Any:
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

    def flush() -> None:
        with naming(path), open(path, "ab") as file:
            os.fsync(file.fileno())

    when_released(path, flush)
