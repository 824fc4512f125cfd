"""Batches that are read ahead of the loop, by a thread."""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

import torch

AHEAD = 4  # batches that wait to be taken: enough to hide a slow page of the disk, little memory
POLL_SECONDS = 0.1  # how soon a thread that waits sees that nobody wants its batches any more

Batch = TypeVar("Batch")


class Prefetcher(Generic[Batch]):
    """Gives out the batches of one update after the other, read ahead by a thread. Use it as a context manager, which ends the thread.

    `batches_of(update)` gives the batches of an update, of which there is no last; it runs in the thread. What it raises comes out of `of`.
    """

    def __init__(self, batches_of: Callable[[int], Iterable[Batch]]):
        self._batches_of = batches_of
        self._next: int | None = None  # the update whose first batch is the next one to come
        self._thread: threading.Thread | None = None

    def of(self, update: int) -> Iterator[Batch]:
        """The batches of `update`. An update that was left half way, or out of turn, is read from its beginning."""
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
                return self._queue.get(timeout=1)  # in slices: on Windows nothing else lets Ctrl-C through
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
        except BaseException as error:  # noqa: BLE001 - it is the loop's to handle
            put(error)

    def close(self) -> None:
        """End the thread and forget what it has read. `of` begins with a new one."""
        if self._thread is not None:
            self._unwanted.set()
            self._thread.join()
            self._thread = self._next = None

    def __enter__(self) -> Prefetcher[Batch]:
        return self

    def __exit__(self, *exc_info) -> None:
        self.close()


_END = object()  # stands behind the last batch of an update


def pinned(batch: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """`batch` in memory from which a GPU copies while the program goes on; as it is where there is none to be had (WSL has little)."""
    try:
        return tuple(tensor.pin_memory() for tensor in batch)
    except RuntimeError:
        return batch
