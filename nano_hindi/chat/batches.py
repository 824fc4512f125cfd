"""Turn the conversations of a chat data folder into batches: whole ones, right-padded, of similar
length, with the loss on the assistant's tokens alone.

As in dataloader.py the order is a pure function of (seed, position). An update takes the next
conversations of the stream and sorts them by length. Every conversation has targets, so every batch
has.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from nano_hindi.dataloader import IGNORED, DataError, TokenFile, epoch_order
from nano_hindi.errors import UserError

TARGET = 2**31  # bit of a token that is a target
PAD_MULTIPLE = 16  # lengths are padded to a multiple of this


class Conversations:
    """The conversations of one split whose inputs fit into `sequence_len` tokens. Conversation i
    has `lengths[i]` inputs and `targets[i]` targets."""

    def __init__(self, file: TokenFile, index_path: Path, sequence_len: int):
        """Raise UserError if the index is not of this file, or if no conversation fits."""
        index = np.fromfile(index_path, dtype="<u4").reshape(-1, 2).astype(np.int64)
        if not len(index) or index[:, 0].sum() != len(file) or index.min() < 1 or (index[:, 1] >= index[:, 0]).any():
            raise UserError(f"{index_path} is damaged: it does not describe {file.path.name}; run data/chat.py again")
        fits = index[:, 0] - 1 <= sequence_len
        if not fits.any():
            raise UserError(f"no conversation of {file.path} fits into the model's context of {sequence_len} tokens; give data/chat.py shorter ones")
        self._file, self._begins = file, (np.cumsum(index[:, 0]) - index[:, 0])[fits]
        self.lengths, self.targets = index[fits, 0] - 1, index[fits, 1]
        self.left_out = int((~fits).sum())

    def __len__(self) -> int:
        return len(self.lengths)

    def batch(self, chosen: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Return inputs and targets, int64 (B, T), of the conversations `chosen`. Padding has input
        0 and target -1, and what is not the assistant's has target -1.

        Raises DataError if the file has changed, or for an id outside the vocabulary.
        """
        T = -(-int(self.lengths[chosen].max()) // PAD_MULTIPLE) * PAD_MULTIPLE
        x, y = np.zeros((len(chosen), T), dtype=np.int64), np.full((len(chosen), T), IGNORED, dtype=np.int64)
        for row, i in enumerate(chosen.tolist()):
            n, begin = int(self.lengths[i]), int(self._begins[i])
            marked = self._file[begin : begin + n + 1]
            ids, is_target = marked % TARGET, marked >= TARGET
            self._file.require_in_vocabulary(ids)
            if is_target[1:].sum() != self.targets[i]:
                raise DataError(f"{self._file.path} is damaged: conversation {i} has other targets than its index says; run data/chat.py again")
            x[row, :n], y[row, :n] = ids[:-1], np.where(is_target[1:], ids[1:].astype(np.int64), IGNORED)
        self._file.require_unchanged()
        return torch.from_numpy(x), torch.from_numpy(y)


def grouped(conversations: Conversations, chosen: np.ndarray, tokens: int) -> Iterator[np.ndarray]:
    """Yield `chosen`, which is sorted by length from the longest on, in groups whose padded batch
    has at most `tokens` positions (or a single conversation)."""
    while len(chosen):
        longest = -(-int(conversations.lengths[chosen[0]]) // PAD_MULTIPLE) * PAD_MULTIPLE
        count = max(1, tokens // longest)
        yield chosen[:count]
        chosen = chosen[count:]
