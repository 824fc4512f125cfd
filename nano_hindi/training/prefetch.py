"""Read batches ahead of the training loop, in a thread."""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

import torch

AHEAD = 4  # batches in the queue: enough to hide a slow disk read, in little memory
POLL_SECONDS = 0.1  # interval at which a waiting thread checks whether it should end

Batch = TypeVar("Batch")


class Prefetcher(Generic[Batch]):
    """An iterator over the batches of consecutive updates, read ahead by a thread. Use it as a
    context manager, which ends the thread.

    `batches_of(update)` returns the batches of an update, for any number; it runs in the thread.
    `of` raises what it raises.
    """

    def __init__(self, batches_of: Callable[[int], Iterable[Batch]]):
        self._batches_of = batches_of
        self._next: int | None = None  # the update whose first batch is next in the queue
        self._thread: threading.Thread | None = None

    def of(self, update: int) -> Iterator[Batch]:
        """Yield the batches of `update`. If it is not the next one, or was interrupted, it is read
        from its beginning."""
        if update != self._next:
            self.close()
            self._queue, self._unwanted = queue.Queue(AHEAD), threading.Event()
            self._thread = threading.Thread(target=self._read, args=(update, self._queue, self._unwanted), name="prefetch", daemon=True)
            self._thread.start()
        self._next = None
        while (item := self._take()) is not _END:
            if isinstance(item, BaseException):
                raise item
            yield item
        self._next = update + 1

    def _take(self):
        while True:
            try:
                return self._queue.get(timeout=1)  # with a timeout: on Windows, Ctrl-C does not interrupt a wait without one
            except queue.Empty:
                continue

    def _read(self, update: int, items: queue.Queue, unwanted: threading.Event) -> None:
        def put(item) -> bool:
            while not unwanted.is_set():
                try:
                    items.put(item, timeout=POLL_SECONDS)
                    return True
                except queue.Full:
                    continue
            return False

        try:
            for number in itertools.count(update):
                for batch in self._batches_of(number):
                    if not put(batch):
                        return
                if not put(_END):
                    return
        except BaseException as error:  # noqa: BLE001 - raised again in the training loop, by `of`
            put(error)

    def close(self) -> None:
        """End the thread and discard what it has read. The next `of` starts a new one."""
        if self._thread is not None:
            self._unwanted.set()
            self._thread.join()
            self._thread = self._next = None

    def __enter__(self) -> Prefetcher[Batch]:
        return self

    def __exit__(self, *exc_info) -> None:
        self.close()


_END = object()  # follows the last batch of an update in the queue


def pinned(batch: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """Return `batch` in pinned memory, from which a GPU copies asynchronously; unchanged if none is
    available (WSL has little)."""
    try:
        return tuple(tensor.pin_memory() for tensor in batch)
    except RuntimeError:
        return batch
