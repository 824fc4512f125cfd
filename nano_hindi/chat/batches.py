"""Turn the conversations of a chat data folder into batches: whole ones, right-padded, of similar
length, with the loss on the assistant's tokens alone.

As in dataloader.py, the order is a pure function of (seed, position): an update takes the next
conversations of the stream. They are sorted by length and dealt to the ranks. Every conversation
has targets, so every batch has.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from nano_hindi.common import IGNORED
from nano_hindi.corpus.prepared import DataInfo, index_file, read_conversations
from nano_hindi.dataloader import EpochStream
from nano_hindi.errors import UserError
from nano_hindi.token_file import TARGET, DataError

PAD_MULTIPLE = 16  # rows are padded to a multiple of this: few shapes, and fast matmuls


class Conversations:
    """The conversations of a split that fit into the context of a model, `sequence_len` tokens.
    Conversation i has `lengths[i]` inputs and `targets[i]` targets; `left_out` do not fit."""

    def __init__(self, folder: Path, info: DataInfo, split: str, sequence_len: int):
        """Raise UserError if no conversation fits, or if their index does not fit the tokens."""
        index = read_conversations(folder, info, split)
        tokens, targets = index.T
        self.file, self.sequence_len = (info.train if split == "train" else info.val), sequence_len
        if (targets < 1).any() or (targets >= tokens).any():
            raise UserError(f"{index_file(folder, split)} is damaged: a conversation has no targets; run data/chat.py again")
        fits = tokens - 1 <= sequence_len
        if not fits.any():
            raise UserError(
                f"no conversation of {self.file.path} fits into the {sequence_len:,} tokens of the model's context; "
                f"the shortest has {tokens.min():,}; use a model with a longer context, or other conversations"
            )
        self._begins = (np.cumsum(tokens) - tokens)[fits]
        self.lengths, self.targets = tokens[fits] - 1, targets[fits]
        self.left_out = int((~fits).sum())

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def mean_length(self) -> int:
        """Return the mean number of inputs, rounded up."""
        return -(-int(self.lengths.sum()) // len(self))

    def batch(self, chosen: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Return inputs and targets, int64 (B, T), of the conversations `chosen`. Padding has input
        0; padding and tokens that are not the assistant's have target -1.

        Raises DataError if the file has changed, or does not fit its index.
        """
        T = self._padded(chosen)
        x, y = np.zeros((len(chosen), T), dtype=np.int64), np.full((len(chosen), T), IGNORED, dtype=np.int64)
        for row, i in enumerate(chosen.tolist()):
            n, begin = int(self.lengths[i]), int(self._begins[i])
            tokens = self.file[begin : begin + n + 1].astype(np.int64)
            self.file.require_in_vocabulary(tokens)
            ids, is_target = tokens % TARGET, tokens[1:] >= TARGET
            if np.count_nonzero(is_target) != self.targets[i]:
                raise DataError(f"{self.file.path} is damaged: the targets of a conversation are not as many as was written; run data/chat.py again")
            x[row, :n], y[row, :n] = ids[:-1], np.where(is_target, ids[1:], IGNORED)
        self.file.require_unchanged()
        return torch.from_numpy(x), torch.from_numpy(y)

    def batches(self, chosen: np.ndarray, device_batch_size: int, rank: int, world_size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor, bool]]:
        """Yield inputs and targets of this rank's batches of `chosen`, the longest conversations
        first, and whether each is the last one. A batch has at most as many positions as
        `device_batch_size` rows of the whole context."""
        chosen = chosen[np.argsort(-self.lengths[chosen], kind="stable")][rank::world_size]
        while len(chosen):
            size = max(1, device_batch_size * self.sequence_len // self._padded(chosen))
            yield *self.batch(chosen[:size]), len(chosen) <= size
            chosen = chosen[size:]

    def _padded(self, chosen: np.ndarray) -> int:
        return -(-int(self.lengths[chosen].max()) // PAD_MULTIPLE) * PAD_MULTIPLE


class ChatBatches:
    """The device batches of one rank, update after update, as `dataloader.TrainBatches` gives
    those of text. `targets` is the number of targets of an update on all ranks."""

    def __init__(self, conversations: Conversations, per_update: int, seed: int, device_batch_size: int, rank: int = 0, world_size: int = 1):
        self.conversations, self.per_update, self._stream = conversations, per_update, EpochStream(len(conversations), seed)
        self.device_batch_size, self.rank, self.world_size = device_batch_size, rank, world_size

    def of(self, update: int) -> Iterator[tuple[torch.Tensor, torch.Tensor, bool]]:
        """Yield inputs and targets, int64 (B, T), of this rank's batches of `update`, and whether
        it is the last one. Raises DataError as `Conversations.batch` does."""
        return self.conversations.batches(self._chosen(update), self.device_batch_size, self.rank, self.world_size)

    def targets(self, update: int) -> int:
        return int(self.conversations.targets[self._chosen(update)].sum())

    def __enter__(self) -> ChatBatches:
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass

    def _chosen(self, update: int) -> np.ndarray:
        """Return the conversations of an update on all ranks."""
        return self._stream.at(update * self.per_update, self.per_update)
