"""The character n-grams of tokens, through which tokens with similar spelling share updates.

Bojanowski et al. 2017 (arXiv 1607.04606) make the row of a word the sum of rows of its n-grams.
Here a table W of token rows is E + S G: E has a row for each token, G a row for each bucket of
hashed n-grams, and S has 1 / sqrt(n) for each of the n n-grams of a token. AdamW without weight
decay adds its updates up, so neither E nor G has to exist: the gradient of E is that of W, the
gradient of G is S^T times it, and W changes by the update of E plus S times the update of G. The
model, checkpoints and exports hold only W.

The embedding of a token that is read often depends less on its spelling. So S times the update of G
is multiplied by HALF_READS / (HALF_READS + how often the token was read so far); without that the
gain is gone after a few hundred reads of each token (docs/LOG.md).

Tokens whose n-grams share a bucket by chance share updates too: 68,096 tokens have about 250,000
n-grams. Random buckets in place of n-grams gain nothing (docs/LOG.md).
"""

# V rows of the table, N buckets, C width

from __future__ import annotations

import itertools
import zlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

LENGTHS = range(2, 6)  # characters of an n-gram
HALF_READS = 256  # after so many reads a token takes half of the updates of its n-grams (docs/LOG.md)


def ngrams(piece: bytes) -> set[str]:
    """Return the n-grams of a token with a mark at its end, and at its beginning unless that is a
    space; and the token without a space before or after it. A special token has none, nor has one
    that is not whole characters."""
    try:
        text = piece.decode()
    except UnicodeDecodeError:
        return set()
    if not text:
        return set()
    marked = f"{'' if text.startswith(' ') else '<'}{text}>"
    return {marked[i : i + n] for n in LENGTHS for i in range(len(marked) - n + 1)} | {text.strip(" ")}


class NGrams:
    """The matrix S (V, N) of the module's docstring, for the bytes of each token. A table may
    have more rows: those have no n-grams. `reads` (V,): how often an update reads each token, on
    average."""

    def __init__(self, pieces: Sequence[bytes], buckets: int, reads: Tensor, device: torch.device):
        self.buckets = buckets
        # sorted: sums in the order of a set would differ between processes
        hashes = [sorted(zlib.crc32(ngram.encode()) % buckets for ngram in ngrams(piece)) for piece in pieces]
        counts = np.array([len(of_token) for of_token in hashes], np.int64)
        hashed, tokens = np.array([*itertools.chain(*hashes)], np.int64), np.repeat(np.arange(len(pieces)), counts)
        weights = np.repeat(np.maximum(counts, 1) ** -0.5, counts).astype(np.float32)
        order = np.argsort(hashed, kind="stable")
        # how to compute S G, a sum for each token, and S^T W, a sum for each bucket
        self._of_tokens = _bags(hashed, counts, weights, device)
        self._of_buckets = _bags(tokens[order], np.bincount(hashed, minlength=buckets), weights[order], device)
        self.reads = reads[: len(pieces), None].to(device)

    def gradient(self, of_table: Tensor) -> Tensor:
        """Return the gradient of G (N, C), S^T times that of the table (V, C)."""
        return _sums(of_table, self._of_buckets)

    def update(self, table: Tensor, of_buckets: Tensor, number: float | Tensor) -> None:
        """Add S times the update of G (N, C), weighted by the reads of the tokens, to the table
        (V, C). `number` is that of the update, from 1."""
        change = _sums(of_buckets, self._of_tokens) * (HALF_READS / (HALF_READS + self.reads * number))
        table[: len(change)].add_(change)


def _bags(index: np.ndarray, counts: np.ndarray, weights: np.ndarray, device: torch.device) -> list[Tensor]:
    """Return the index of each term of sums with `counts` terms, where each sum begins, and the
    weight of each term."""
    return [torch.from_numpy(array).to(device) for array in (index, counts.cumsum() - counts, weights)]


def _sums(rows: Tensor, bags: list[Tensor]) -> Tensor:
    """Return the weighted sums of rows that `bags` describe. Always added in the same order, unlike
    a product with a sparse matrix on a GPU, so all ranks get the same."""
    index, offsets, weights = bags
    return F.embedding_bag(index, rows, offsets, mode="sum", per_sample_weights=weights)
