"""Split streamed text into grapheme clusters, so that only complete ones are shown.

What a reader sees as one character may be many code points: a letter with nukta and matra, a
conjunct, a family in one emoji. The rules are those of extended grapheme clusters (Unicode Standard
Annex 29), simplified by joining more: marks join whatever precedes them, letters join any virama,
and everything but spaces and flags joins a zero width joiner. Hangul jamo and prepended characters
are not handled.
"""

from __future__ import annotations

import unicodedata

ZWNJ, ZWJ = "\u200c", "\u200d"
VIRAMA = 9  # canonical combining class of the sign that joins two consonants, in all Indic scripts


class Clusters:
    """Buffer the last grapheme cluster, which more text may still extend: `push` returns the
    complete ones, `flush` the last."""

    def __init__(self):
        self._kept = ""

    def push(self, text: str) -> str:
        """Return the clusters of the buffer and `text`, all but the last."""
        start, known, text = 0, len(self._kept), self._kept + text
        for i in range(max(1, known), len(text)):
            if not _joins(text[start:i], text[i]):
                start = i
        self._kept = text[start:]
        return text[:start]

    def flush(self) -> str:
        kept, self._kept = self._kept, ""
        return kept


def _joins(cluster: str, char: str) -> bool:
    """Return whether `char` belongs to the `cluster` before it."""
    if _extends(char):
        return True
    if _is_flag_letter(char):
        return len(cluster) == 1 and _is_flag_letter(cluster)
    if cluster[-1] == ZWJ:
        return not char.isspace()
    if unicodedata.category(char) == "Lo":
        return _ends_with_virama(cluster)
    return (cluster, char) == ("\r", "\n")


def _extends(char: str) -> bool:
    """Return whether `char` extends what precedes it.

    Marks (matras, nukta, virama, variation selectors, keycaps), joiners, skin tones, and the tags
    in flags of regions do.
    """
    is_tone_or_tag = "\U0001f3fb" <= char <= "\U0001f3ff" or "\U000e0020" <= char <= "\U000e007f"
    return is_tone_or_tag or char in (ZWNJ, ZWJ) or unicodedata.category(char).startswith("M")


def _ends_with_virama(cluster: str) -> bool:
    """Return whether `cluster` ends with a virama, ignoring marks and joiners after it."""
    for char in reversed(cluster):
        if unicodedata.combining(char) == VIRAMA:
            return True
        if not _extends(char):
            return False
    return False


def _is_flag_letter(char: str) -> bool:
    return "\U0001f1e6" <= char <= "\U0001f1ff"
