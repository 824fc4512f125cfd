"""Turn token files into batches.

The order is a pure function of (seed, position), so a run can resume, or change its number of GPUs,
without repeating a sequence.

N tokens of a file, T tokens of a sequence, S = (N - 1) // T sequences: sequence i holds the tokens
i*T ... i*T + T, both included, so inputs and targets (shifted by one) cover the file without gap or
overlap.
"""

from __future__ import annotations

import concurrent.futures
import functools
import itertools
from collections import deque
from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch

from nano_hindi.common import IGNORED
from nano_hindi.token_file import TOKEN_BYTES, TokenFile

READ_AHEAD = 4  # device batches: enough to hide a slow disk read, in little memory


def epoch_order(n: int, seed: int, epoch: int) -> np.ndarray:
    """Return a permutation of the numbers below n, int64 (n,): the order of raw PCG64 words, which
    NumPy promises to keep (unlike `permutation`)."""
    bits = np.random.PCG64(np.random.SeedSequence([seed, epoch]))
    return np.argsort(bits.random_raw(n), kind="stable")


class EpochStream:
    """The numbers below n as an endless stream: each once per epoch, each epoch in its own order,
    from (seed, epoch)."""

    def __init__(self, n: int, seed: int):
        self.n = n
        # keeps the last two epochs: a batch may cross an epoch boundary
        self._order = functools.lru_cache(maxsize=2)(functools.partial(epoch_order, n, seed))

    def at(self, start: int, count: int) -> np.ndarray:
        """Return the numbers at the positions `start` to `start + count`, int64 (count,)."""
        chunks = []
        while count > 0:
            epoch, first = divmod(start, self.n)
            chunks.append(self._order(epoch)[first : first + count])
            start, count = start + len(chunks[-1]), count - len(chunks[-1])
        return np.concatenate(chunks)


class SequenceLoader:
    """The training sequences of a file as an endless stream, in the order of an `EpochStream`."""

    def __init__(self, file: TokenFile, sequence_len: int, seed: int):
        """Raise UserError if the file holds no full sequence."""
        self._file = file
        self.sequence_len = sequence_len
        self.num_sequences = file.num_sequences(sequence_len, "get more data, or use a smaller --sequence_len")
        self._stream = EpochStream(self.num_sequences, seed)

    def batch(self, start: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return inputs and targets, int64 (count, T), of the sequences `start` to `start + count`
        of the stream.

        Raises DataError if the file has changed, or for an id outside the vocabulary.
        """
        T = self.sequence_len
        rows = np.empty((count, T + 1), dtype="<u4")
        for row, sequence in zip(rows.view(np.uint8), self._stream.at(start, count).tolist(), strict=True):
            self._file.read(sequence * T * TOKEN_BYTES, row.data)
        self._file.require_unchanged()
        self._file.require_in_vocabulary(rows)
        return torch.from_numpy(rows[:, :-1].astype(np.int64)), torch.from_numpy(rows[:, 1:].astype(np.int64))


class Sequences(Protocol):
    """What `TrainBatches` reads: the stream of a `SequenceLoader`, or of several mixed."""

    @property
    def sequence_len(self) -> int: ...

    def batch(self, start: int, count: int) -> tuple[torch.Tensor, torch.Tensor]: ...


class UpdateBatches(Protocol):
    """What the training loop needs of `TrainBatches`, and of the batches of conversations."""

    device_batch_size: int  # may be changed between two calls of `of`

    def of(self, update: int) -> Iterator[tuple[torch.Tensor, torch.Tensor, bool]]: ...
    def targets(self, update: int) -> int: ...
    def __enter__(self) -> UpdateBatches: ...
    def __exit__(self, *exc_info: object) -> None: ...


class TrainBatches:
    """The device batches of one rank, update after update, read ahead by a thread. Use it as a
    context manager, which ends the thread.

    An update takes the next `per_update` sequences of the stream; rank r of n takes the r-th of n
    equal slices of them. `device_batch_size` may be changed between two calls of `of`. Tensors are
    in pinned memory if `pin_memory`.
    """

    def __init__(self, loader: Sequences, per_update: int, device_batch_size: int, rank: int = 0, world_size: int = 1, pin_memory: bool = False):
        self.loader, self.per_update, self.per_rank, self.rank = loader, per_update, per_update // world_size, rank
        self.device_batch_size, self.pin_memory = device_batch_size, pin_memory
        self._reader = concurrent.futures.ThreadPoolExecutor(1, "prefetch")
        self._next: tuple[int, int] | None = None  # the update and device batch size that `_ahead` begins with
        self._ahead: deque[concurrent.futures.Future] = deque()
        self._positions: Iterator[tuple[int, int]] = iter(())  # of the next reads: the update, and how many of its sequences come before

    def of(self, update: int) -> Iterator[tuple[torch.Tensor, torch.Tensor, bool]]:
        """Yield the device batches of `update`: inputs and targets, int64 (device batch, T) on the
        CPU, and whether it is the last one.

        If `update` is not the next one, or the last iteration was not completed, reading starts
        again at its first sequence. Raises DataError as `SequenceLoader.batch` does.
        """
        if self._next != (update, self.device_batch_size):
            self.close()
            self._positions = ((i, done) for i in itertools.count(update) for done in range(0, self.per_rank, self.device_batch_size))
        self._next = None
        for done in range(0, self.per_rank, self.device_batch_size):
            while len(self._ahead) <= READ_AHEAD:
                self._ahead.append(self._reader.submit(self._read, *next(self._positions)))
            reading = self._ahead.popleft()
            while not reading.done():
                concurrent.futures.wait([reading], timeout=1)  # on Windows, Ctrl-C does not interrupt a wait without a timeout
            yield (*reading.result(), done + self.device_batch_size >= self.per_rank)
        self._next = update + 1, self.device_batch_size

    def targets(self, update: int) -> int:
        """Return the number of targets of an update on all ranks."""
        return self.per_update * self.loader.sequence_len

    def _read(self, update: int, done: int) -> tuple[torch.Tensor, torch.Tensor]:
        first = update * self.per_update + self.rank * self.per_rank
        x, y = self.loader.batch(first + done, min(self.device_batch_size, self.per_rank - done))
        if self.pin_memory:
            try:
                return x.pin_memory(), y.pin_memory()  # from there a GPU copies asynchronously
            except RuntimeError:  # WSL has little pinned memory
                pass
        return x, y

    def close(self) -> None:
        """Discard what is read ahead, and wait for the read in progress."""
        for reading in self._ahead:
            reading.cancel()
        concurrent.futures.wait(self._ahead)
        self._ahead.clear()
        self._next = None

    def __enter__(self) -> TrainBatches:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
        self._reader.shutdown()


def val_batches(
    file: TokenFile, sequence_len: int, batch_size: int, eval_tokens: int, rank: int = 0, world_size: int = 1
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Return an iterator over inputs and targets, int64 (batch_size, T).

    They are this rank's shard of `eval_tokens` targets of a file, in sequences that are spread
    evenly over it, in file order; all targets of a shorter file.

    Each target appears once, whatever the batch and world size. Padding of the last sequence and
    the last batch has input 0 and target -1; a rank with less than one batch of sequences gets one
    batch of just those, and a rank without sequences none. Raises UserError at once for a file that
    holds no full sequence, and during iteration DataError as `SequenceLoader.batch` does.
    """
    file.num_sequences(sequence_len, "get more data, give data/preprocess.py a larger --val_fraction, or use a smaller --sequence_len")
    T, available = sequence_len, len(file) - 1
    targets = min(eval_tokens, available)
    sequences, sequences_in_file = -(-targets // T), -(-available // T)
    first, last = sequences * rank // world_size, sequences * (rank + 1) // world_size
    size = min(batch_size, last - first)

    def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for begin in range(first, last, max(1, size)):
            numbers = range(begin, min(begin + size, last))
            starts = (number * sequences_in_file // sequences * T for number in numbers)
            rows = [file[start : start + min(T, targets - number * T) + 1] for number, start in zip(numbers, starts, strict=True)]
            file.require_unchanged()
            x, y = torch.zeros(size, T, dtype=torch.int64), torch.full((size, T), IGNORED)
            for row, tokens in enumerate(rows):
                file.require_in_vocabulary(tokens)
                span = torch.from_numpy(tokens.astype(np.int64))
                x[row, : len(span) - 1], y[row, : len(span) - 1] = span[:-1], span[1:]
            yield x, y

    return batches()
