"""The loss and the speed of a run between two log lines, and the time that is left of it."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Meter:
    """The mean loss and the speed since the last log line. Pauses (evaluations, samples,
    checkpoints) do not count."""

    def __init__(self, state: dict | None = None):
        self.loss_sum: float = state["loss_sum"] if state else 0.0
        self.updates: int = state["updates"] if state else 0
        self.tokens_per_second: float | None = None  # at the last `read`
        self._start_interval()

    def state_dict(self) -> dict:
        """Return the sums so far, from which a resumed run continues."""
        return {"loss_sum": self.loss_sum, "updates": self.updates}

    def _start_interval(self) -> None:
        self.tokens, self.start = 0, time.perf_counter()

    def add(self, loss: float | None, tokens: int) -> None:
        """Add an update. Its loss is None if it was skipped."""
        self.tokens += tokens
        if loss is not None:
            self.loss_sum += loss
            self.updates += 1

    @contextmanager
    def paused(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.start += time.perf_counter() - start

    def read(self) -> tuple[float, float]:
        """Return (mean loss, tokens per second) since the last call. The loss is nan if every
        update was skipped."""
        loss = self.loss_sum / self.updates if self.updates else math.nan
        self.tokens_per_second = self.tokens / max(1e-9, time.perf_counter() - self.start)
        self.loss_sum, self.updates = 0.0, 0
        self._start_interval()
        return loss, self.tokens_per_second


class Pace:
    """An estimate of the time that is left of a run."""

    def __init__(self) -> None:
        self.first: tuple[int, float] | None = None  # the first update since this start, and its end: it compiles, so its time does not count

    def mark(self, update: int) -> None:
        """Record the end of an update. Call it after every update."""
        self.first = self.first or (update, time.perf_counter())

    def left(self, update: int, updates: int) -> float | None:
        """Return the seconds from `update` to the last of `updates` at the pace since this start,
        evaluations included; None after the first update."""
        if self.first is None or update == self.first[0]:
            return None
        first, end = self.first
        return (updates - update) * (time.perf_counter() - end) / (update - first)
