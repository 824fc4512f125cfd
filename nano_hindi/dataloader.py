"""Turn token files into batches.

The order is a pure function of (seed, position), so a run can resume, or change its number of GPUs,
without repeating a sequence.

N tokens of a file, T tokens of a sequence, S = (N - 1) // T sequences: sequence i holds the tokens
i*T ... i*T + T, both included, so inputs and targets (shifted by one) cover the file without gap or
overlap.
"""

from __future__ import annotations

import concurrent.futures
import itertools
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from nano_hindi.errors import UserError
from nano_hindi.files import file_size

IGNORED = -1  # target of a padding position
READ_AHEAD = 4  # device batches: enough to hide a slow disk read, in little memory
TOKEN_BYTES = 4  # little-endian uint32


class TokenFile:
    """The memory-mapped tokens of a .bin file. Raises UserError for a file that is missing, empty
    or truncated within a token."""

    def __init__(self, path: str | Path, vocab_size: int):
        self.path, self.vocab_size = Path(path), vocab_size
        size = file_size(self.path)
        if size == 0 or size % TOKEN_BYTES:
            raise UserError(f"{path} is damaged: {size:,} bytes are not a whole number of 4-byte tokens; run data/preprocess.py again")
        self.tokens = np.asarray(np.memmap(self.path, dtype="<u4", mode="r"))

    def __len__(self) -> int:
        return len(self.tokens)

    def num_sequences(self, sequence_len: int, remedy: str) -> int:
        """Return S. Raises UserError, with the remedy, if the file is shorter than one sequence."""
        if len(self) <= sequence_len:
            raise UserError(f"{self.path} holds {len(self):,} tokens, but one sequence needs {sequence_len + 1:,}; {remedy}")
        return (len(self) - 1) // sequence_len

    def checked(self, tokens: np.ndarray) -> np.ndarray:
        """Return `tokens` as int64. Raises UserError for an id outside the vocabulary, which on a
        GPU would be an assertion far from its cause."""
        self.require_in_vocabulary(tokens)
        return tokens.astype(np.int64)

    def require_in_vocabulary(self, tokens: np.ndarray) -> None:
        """Raise UserError for an id outside the vocabulary."""
        highest = int(tokens.max(initial=0))
        if highest >= self.vocab_size:
            raise UserError(
                f"{self.path} holds token id {highest}, but the vocabulary has {self.vocab_size} tokens; "
                "it is damaged or was made with another tokenizer, so run data/preprocess.py again"
            )


class SequenceLoader:
    """Training sequences as an endless stream: every sequence once per epoch, each epoch in its own
    order, from (seed, epoch)."""

    def __init__(self, path: str | Path, sequence_len: int, seed: int, vocab_size: int):
        """Open the token file. Raises UserError if it is damaged or holds no full sequence."""
        self._file = TokenFile(path, vocab_size)
        self.sequence_len, self.seed = sequence_len, seed
        self.num_sequences = self._file.num_sequences(sequence_len, "get more data, or use a smaller --sequence_len")
        self._orders: dict[int, np.ndarray] = {}  # of the last two epochs requested: a batch may cross an epoch boundary

    def batch(self, start: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return inputs and targets, int64 (count, T), of the sequences `start` to `start + count`
        of the stream.

        Raises UserError for an id outside the vocabulary.
        """
        T, tokens = self.sequence_len, self._file.tokens
        sequences = self._sequences_at(start, count)
        rows = np.empty((count, T + 1), dtype=tokens.dtype)
        rows[:, :T] = tokens[: self.num_sequences * T].reshape(self.num_sequences, T)[sequences]
        rows[:, T] = tokens[(sequences + 1) * T]
        checked = torch.from_numpy(self._file.checked(rows))
        return checked[:, :-1].contiguous(), checked[:, 1:].contiguous()

    def _sequences_at(self, start: int, count: int) -> np.ndarray:
        """Return the sequences at the positions `start` to `start + count` of the stream."""
        parts = []
        while count > 0:
            epoch, first = divmod(start, self.num_sequences)
            parts.append(self._order(epoch)[first : first + count])
            start, count = start + len(parts[-1]), count - len(parts[-1])
        return np.concatenate(parts)

    def _order(self, epoch: int) -> np.ndarray:
        if epoch not in self._orders:
            self._orders[epoch] = epoch_order(self.num_sequences, self.seed, epoch)
            while len(self._orders) > 2:
                self._orders.pop(next(iter(self._orders)))
        return self._orders[epoch]


class TrainBatches:
    """The device batches of one rank, update after update, read ahead by a thread. Use it as a
    context manager, which ends the thread.

    An update takes the next `per_update` sequences of the stream; rank r of n takes the r-th of n
    equal slices of them. `device_batch_size` may be changed between two calls of `of`. Tensors are
    in pinned memory if `pin_memory`.
    """

    def __init__(self, loader: SequenceLoader, per_update: int, device_batch_size: int, rank: int = 0, world_size: int = 1, pin_memory: bool = False):
        self.loader, self.per_update, self.per_rank, self.rank = loader, per_update, per_update // world_size, rank
        self.device_batch_size, self.pin_memory = device_batch_size, pin_memory
        self._reader = concurrent.futures.ThreadPoolExecutor(1, "prefetch")
        self._next: tuple[int, int] | None = None  # the update and device batch size that `_ahead` begins with
        self._ahead: deque[concurrent.futures.Future] = deque()

    def of(self, update: int) -> Iterator[tuple[torch.Tensor, torch.Tensor, bool]]:
        """Yield the device batches of `update`: inputs and targets, int64 (device batch, T) on the
        CPU, and whether it is the last one.

        If `update` is not the next one, or the last iteration was not completed, reading starts
        again at its first sequence. Raises UserError for an id outside the vocabulary.
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


def epoch_order(num_sequences: int, seed: int, epoch: int) -> np.ndarray:
    """Return a permutation of the sequences, int64 (S,): the order of raw PCG64 words, which NumPy
    promises to keep (unlike `permutation`)."""
    bits = np.random.PCG64(np.random.SeedSequence([seed, epoch]))
    return np.argsort(bits.random_raw(num_sequences), kind="stable")


def val_batches(
    path: str | Path, sequence_len: int, batch_size: int, eval_tokens: int, vocab_size: int, rank: int = 0, world_size: int = 1
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Return an iterator over inputs and targets, int64 (batch_size, T).

    They are this rank's shard of the first `eval_tokens` targets of a file, in file order.

    Each target appears once, whatever the batch and world size. Padding of the last sequence and
    the last batch has input 0 and target -1; a rank with less than one batch of sequences gets one
    batch of just those, and a rank without sequences none. Raises UserError at once for a file that
    is damaged or holds no full sequence, and during iteration for an id outside the vocabulary.
    """
    file = TokenFile(path, vocab_size)
    file.num_sequences(sequence_len, "get more data, give data/preprocess.py a larger --val_fraction, or use a smaller --sequence_len")
    T, targets = sequence_len, min(eval_tokens, len(file) - 1)
    sequences = -(-targets // T)
    first, last = sequences * rank // world_size, sequences * (rank + 1) // world_size
    size = min(batch_size, last - first)

    def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for begin in range(first, last, max(1, size)):
            span = torch.from_numpy(file.checked(file.tokens[begin * T : min(min(begin + size, last) * T, targets) + 1]))
            x, y = torch.zeros(size * T, dtype=torch.int64), torch.full((size * T,), IGNORED)
            x[: len(span) - 1], y[: len(span) - 1] = span[:-1], span[1:]
            yield x.view(size, T), y.view(size, T)

    return batches()
