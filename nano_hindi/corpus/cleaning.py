"""Clean documents for `data/download.py --clean`: two rules repair a text, four drop it, and each
counts what it removed.

The rules drop only what is wrong for any Hindi model; quality (bad words, style, boilerplate) is
not judged.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy

MIN_CHARACTERS = 50  # a shorter document is mostly a caption or a fragment of a menu
MIN_DEVANAGARI = 0.5  # of the letters and marks
MAX_BROKEN = 0.001  # of the characters; a rare replacement character is tolerated

# C0 and C1 controls except tab and newline; soft hyphen, zero-width space, direction marks, byte
# order mark. ZWJ and ZWNJ are Hindi spelling and stay.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb]")
_LINE_ENDS = re.compile("\r\n?|\u2028|\u2029")
# U+FFFD, noncharacters, and UTF-8 of Devanagari (E0 A4 .., E0 A5 ..) that was read as Latin-1 or
# cp1252
_BROKEN = re.compile("\ufffd|[\ufdd0-\ufdef\ufffe\uffff]|\u00e0[\u00a4\u00a5].")
_SURROGATE = re.compile("[\ud800-\udfff]")
_DEVANAGARI = re.compile("[\u0900-\u0963\u0970-\u097f]+")  # letters and their marks, no dandas and digits
_OTHER_LETTERS = re.compile(r"[^\W\d_\u0900-\u097f]+")


@dataclass
class Count:
    """Count what one rule changed."""

    documents: int = 0  # repaired or dropped
    bytes: int = 0  # of UTF-8 removed from the documents


class Cleaner:
    """Clean texts: `cleaner(text)` returns the repaired text, or None if it is dropped.

    `counts` has a Count for each rule, in the order in which they are applied.
    """

    def __init__(self):
        self.counts = {rule: Count() for rule in ("control characters", "not NFC", "broken encoding", "not Devanagari", "too short", "duplicate")}
        self._seen = Seen()

    def __call__(self, text: str) -> str | None:
        mended = _CONTROL.sub("", _LINE_ENDS.sub("\n", text))
        composed = unicodedata.normalize("NFC", mended)
        for rule, before, after in (("control characters", text, mended), ("not NFC", mended, composed)):
            if before != after:
                self._count(rule, _size(before) - _size(after))
        rule = self._why_not(composed)
        if rule is None:
            return composed
        self._count(rule, _size(composed))
        return None

    def remember(self, text: str) -> None:
        """Mark a document as already kept, so that a resumed download also drops duplicates of what
        it wrote before."""
        self._seen.add(text)

    def _count(self, rule: str, size: int) -> None:
        self.counts[rule].documents += 1
        self.counts[rule].bytes += size

    def _why_not(self, text: str) -> str | None:
        """Return the rule that drops `text`, or None if it is kept."""
        if _length(_BROKEN, text) > MAX_BROKEN * len(text) or _SURROGATE.search(text):
            return "broken encoding"
        devanagari = _length(_DEVANAGARI, text)
        if devanagari == 0 or devanagari < MIN_DEVANAGARI * (devanagari + _length(_OTHER_LETTERS, text)):
            return "not Devanagari"
        if len(text.strip()) < MIN_CHARACTERS:
            return "too short"
        return None if self._seen.add(text) else "duplicate"

    def metadata(self) -> dict[str, int]:
        """Return the counts as lines of metadata.txt."""
        return {_key(rule, kind): getattr(n, kind) for rule, n in self.counts.items() for kind in ("documents", "bytes")}

    @classmethod
    def recorded(cls, metadata: dict[str, str]) -> Cleaner:
        """Restore a Cleaner from the counts that `metadata()` returned, or from none.

        Call `remember` for each document kept so far.
        """
        cleaner = cls()
        for rule in cleaner.counts:
            cleaner.counts[rule] = Count(*(int(metadata.get(_key(rule, kind), 0)) for kind in ("documents", "bytes")))
        return cleaner

    def lines(self) -> list[str]:
        """Return the counts as lines of a table to print."""
        rows = [(f"{rule} ({'repaired' if i < 2 else 'dropped'})", n) for i, (rule, n) in enumerate(self.counts.items())]
        return [f"cleaned  {'documents':>11} {'bytes':>15}", *(f"         {n.documents:>11,} {n.bytes:>15,}  {words}" for words, n in rows)]


def _key(rule: str, kind: str) -> str:
    return f"cleaned_{rule.replace(' ', '_').lower()}_{kind}"


def _size(text: str) -> int:
    """Return the UTF-8 bytes of `text`; half a surrogate pair, which JSON can contain, counts as
    three."""
    return len(text.encode("utf-8", "surrogatepass"))


def _length(pattern: re.Pattern, text: str) -> int:
    """Return the number of characters of `text` that match `pattern`."""
    return sum(map(len, pattern.findall(text)))


class Seen:
    """Keep a set of texts by 64 bits of their BLAKE2b hash, in 16 to 32 bytes each: the thirty
    million documents of Sangraha take 0.5 to 1 GB.

    The probability that any two of so many different texts share a hash is 1 in 40,000. The table
    uses linear probing.
    """

    def __init__(self):
        self._table, self._used = _table(1024), 0

    def add(self, text: str) -> bool:
        """Add `text`. Returns whether it is new."""
        key = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") or 1  # 0 marks an empty slot
        if not self._insert(key):
            return False
        self._used += 1
        if 2 * self._used > len(self._table):
            keys = self._table[self._table != 0]
            self._table = _table(2 * len(self._table))
            for old in keys.tolist():
                self._insert(old)
        return True

    def _insert(self, key: int) -> bool:
        mask = len(self._table) - 1
        place = key & mask
        while (there := int(self._table[place])) != 0:
            if there == key:
                return False
            place = (place + 1) & mask
        self._table[place] = key
        return True


def _table(places: int) -> numpy.ndarray:
    import numpy  # imported here so that --help stays fast

    return numpy.zeros(places, dtype=numpy.uint64)
