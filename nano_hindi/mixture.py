"""Mix the sequences of several sources by weights, into one endless stream.

The source of a position is a pure function of the weights and the position, so a run can resume,
or change its number of GPUs, without repeating a sequence. Before the anneal, and within it,
the count of each source so far differs from its weight times the positions by less than 1.

n sources, D positions in a period, T tokens in a sequence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import torch

from nano_hindi.dataloader import SequenceLoader

LONGEST_PERIOD = 10_000  # positions; weights that need a longer one are rounded


class SourceOrder:
    """The source of each position of an endless stream, by weights that sum to 1."""

    def __init__(self, weights: Sequence[Fraction]):
        """Take weights as `normalized` returns them; a source of weight 0 has no position."""
        self.period = math.lcm(*(weight.denominator for weight in weights))
        self._order = chairman_assignment([int(weight * self.period) for weight in weights])
        is_source = self._order[:, None] == np.arange(len(weights))
        self._counts = np.concatenate([np.zeros((1, len(weights)), dtype=np.int64), is_source.cumsum(axis=0)])

    def sources(self, start: int, count: int) -> np.ndarray:
        """Return the sources of the positions `start` to `start + count`, int64 (count,)."""
        return self._order[(start % self.period + np.arange(count)) % self.period]

    def counts(self, position: int) -> np.ndarray:
        """Return how many of the first `position` positions each source has, int64 (n,)."""
        periods, rest = divmod(position, self.period)
        return periods * self._counts[-1] + self._counts[rest]


class Mixture:
    """The source of each position of a run: by `weights`, and by `anneal_weights` from position
    `anneal_start` on."""

    def __init__(self, weights: Sequence[Fraction], anneal_weights: Sequence[Fraction] | None = None, anneal_start: int | None = None):
        self._order, self._anneal_start = SourceOrder(weights), anneal_start
        self._anneal_order = self._order if anneal_weights is None else SourceOrder(anneal_weights)

    def counts(self, position: int) -> np.ndarray:
        """Return how many of the first `position` sequences each source has, int64 (n,)."""
        before = self._before_anneal(position)
        return self._order.counts(before) + self._anneal_order.counts(position - before)

    def sources(self, start: int, count: int) -> np.ndarray:
        """Return the sources of the positions `start` to `start + count`, int64 (count,)."""
        first, last = self._before_anneal(start), self._before_anneal(start + count)
        annealed = self._anneal_order.sources(start - first, count - (last - first))
        return np.concatenate([self._order.sources(first, last - first), annealed])

    def _before_anneal(self, position: int) -> int:
        """Return how many of the first `position` positions come before the anneal."""
        return position if self._anneal_start is None else min(position, self._anneal_start)


class MixedLoader:
    """The sequences of several sources as one stream, like that of a `SequenceLoader`.

    The sequences of a source are in the order of its own loader, epoch after epoch. When the
    weights change, a source of both mixtures continues where it was.
    """

    def __init__(self, loaders: Sequence[SequenceLoader], mixture: Mixture):
        self._loaders, self._mixture, self.sequence_len = loaders, mixture, loaders[0].sequence_len

    def batch(self, start: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return inputs and targets, int64 (count, T), of the sequences `start` to `start + count`
        of the stream. Raises DataError as `SequenceLoader.batch` does."""
        sources, first = self._mixture.sources(start, count), self._mixture.counts(start).tolist()
        x, y = (torch.empty((count, self.sequence_len), dtype=torch.int64) for _ in range(2))
        for source in np.unique(sources).tolist():
            rows = torch.from_numpy(np.flatnonzero(sources == source))
            x[rows], y[rows] = self._loaders[source].batch(first[source], len(rows))
        return x, y


def normalized(weights: Sequence[Fraction]) -> list[Fraction]:
    """Return positive weights divided by their sum. If their common denominator is above
    LONGEST_PERIOD they are rounded to multiples of 1 / LONGEST_PERIOD, at least 1, by the largest
    remainders."""
    fractions = [weight / sum(weights) for weight in weights]
    if math.lcm(*(fraction.denominator for fraction in fractions)) <= LONGEST_PERIOD:
        return fractions
    scaled = [fraction * LONGEST_PERIOD for fraction in fractions]
    counts = [max(1, int(count)) for count in scaled]
    while (missing := LONGEST_PERIOD - sum(counts)) != 0:
        step = 1 if missing > 0 else -1
        movable = [i for i, count in enumerate(counts) if count + step > 0]
        counts[max(movable, key=lambda i: step * (scaled[i] - counts[i]))] += step
    return [Fraction(count, LONGEST_PERIOD) for count in counts]


def chairman_assignment(counts: Sequence[int]) -> np.ndarray:
    """Return the source of each of D = sum(counts) positions, int64 (D,), where source i comes
    `counts[i]` times, and |its count in the first k - k * counts[i] / D| < 1 for every k.

    R. Tijdeman, The chairman assignment problem, Discrete Mathematics 32 (1980): of the sources
    that may have the position, the one that must have one soonest.
    """
    D, chosen = sum(counts), [i for i, count in enumerate(counts) if count > 0]
    if len(chosen) == 1:
        return np.full(D, chosen[0], dtype=np.int64)
    scale = 2 * len(chosen) - 2
    common = math.lcm(*(counts[i] for i in chosen))
    due = [0] * len(counts)  # D * (k * counts[i] / D - count so far)
    order = np.empty(D, dtype=np.int64)
    for k in range(D):
        for i in chosen:
            due[i] += counts[i]
        allowed = [i for i in chosen if due[i] * scale >= D]
        order[k] = soonest = min(allowed, key=lambda i: (D * (scale - 1) - due[i] * scale) * (common // counts[i]))
        due[soonest] -= D
    return order
