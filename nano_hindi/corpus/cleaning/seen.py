"""Find duplicates: a compact set of hashes, and one that knows texts that differ little."""

from __future__ import annotations

import hashlib

# MinHash over shingles of five words, cut into bands (Broder 1997; Indyk and Motwani 1998). Two
# texts whose sets of shingles have the Jaccard similarity s share a band with probability
# s ** ROWS; a text with MIN_BANDS known bands is a near-duplicate: 5 in 1000 at s = 0.5, 1 in 3 at
# 0.7, 5 in 6 at 0.8, 998 in 1000 at 0.9. One band alone would also drop texts that share a passage
# with thousands of others.
SHINGLE, BANDS, ROWS, MIN_BANDS = 5, 14, 7, 2
SIGNATURE = 128  # values of a signature, of which BANDS * ROWS are used; rensa is fastest with a power of two
SEED = 1
MULTIPLIER = 0x9E3779B97F4A7C15  # odd, 2**64 / golden ratio
MAX_LOAD = 5 / 6  # of the slots of a table


class Seen:
    """A set of keys of 64 bits from `hash_key`, in 10 to 19 bytes each.

    The key of a text is 64 bits of its BLAKE2b hash. The probability that any two of thirty million
    different texts share one is 1 in 40,000. The table uses linear probing.
    """

    def __init__(self) -> None:
        self._used = 0
        self._set_table(1024)

    def __contains__(self, key: int) -> bool:
        return self._slots[self._place(key)] == key

    def add(self, key: int) -> None:
        place = self._place(key)
        if self._slots[place] != key:
            self._slots[place] = key
            self._used += 1
            if self._used > MAX_LOAD * len(self._table):
                self._grow()

    def _place(self, key: int) -> int:
        """Return where `key` is, or the empty slot where it belongs."""
        slots, mask = self._slots, len(self._slots) - 1
        place = key & mask
        while (there := slots[place]) != 0 and there != key:
            place = (place + 1) & mask
        return place

    def _grow(self) -> None:
        import numpy

        old = self._table
        self._set_table(2 * len(old))
        mask = numpy.uint64(len(self._table) - 1)
        for begin in range(0, len(old), 2**20):  # by chunks: the copies of all keys would not fit beside the two tables
            keys = old[begin : begin + 2**20]
            keys = keys[keys != 0]
            places = keys & mask
            while len(keys):
                free = self._table[places] == 0
                self._table[places[free]] = keys[free]  # of keys with the same slot the last wins; the others try the next slot
                left = self._table[places] != keys
                keys, places = keys[left], (places[left] + numpy.uint64(1)) & mask

    def _set_table(self, places: int) -> None:
        import numpy  # imported here so that --help stays fast

        self._table: numpy.ndarray = numpy.zeros(places, dtype=numpy.uint64)
        self._slots = self._table.data  # reads one element several times as fast as numpy


class NearlySeen:
    """A set of texts by their MinHash signatures, to find texts that are nearly the same.

    BANDS keys of `Seen` for each text, 134 to 269 bytes: the thirty million documents of Sangraha
    take 4.3 GB. Texts are compared by their words; white space does not matter.
    """

    def __init__(self) -> None:
        self._bands = Seen()

    def keys(self, text: str) -> list[int]:
        """Return the keys of the bands of a text."""
        import numpy
        from rensa import RMinHash

        words = numpy.array(RMinHash.hash_token_sets([text.split()])[0], dtype=numpy.uint64)
        shingles = numpy.zeros(max(1, len(words) - SHINGLE + 1), dtype=numpy.uint64)
        for i in range(min(SHINGLE, len(words))):  # a polynomial in the words' hashes, of all shingles at once
            shingles = shingles * numpy.uint64(MULTIPLIER) + words[i : i + len(shingles)]
        signature = RMinHash.digest_matrix_from_flat_token_hashes(shingles, [0, len(shingles)], SIGNATURE, SEED).to_rows()[0]
        rows = numpy.array(signature[: BANDS * ROWS], dtype="<u4").reshape(BANDS, ROWS)
        return [hash_key(bytes([band]) + row.tobytes()) for band, row in enumerate(rows)]

    def knows(self, keys: list[int]) -> bool:
        return sum(key in self._bands for key in keys) >= MIN_BANDS

    def add(self, keys: list[int]) -> None:
        for key in keys:
            self._bands.add(key)


def hash_key(raw: bytes) -> int:
    """Return 64 bits of a hash, never 0, which marks an empty slot."""
    return int.from_bytes(hashlib.blake2b(raw, digest_size=8).digest(), "little") or 1
