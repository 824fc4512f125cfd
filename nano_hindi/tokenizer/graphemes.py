"""Text that comes in pieces, shown in whole characters.

What a reader takes for one character may be many code points: a letter with nukta and matra, a conjunct, a family in one emoji. The rule here is that
of extended grapheme clusters (Unicode Standard Annex 29), kept short by joining more: marks join whatever stands before them, letters any virama,
and all but spaces and flags a zero width joiner. Left out are the parts of Hangul syllables and the rare signs that join what follows.
"""

from __future__ import annotations

import unicodedata

ZWNJ, ZWJ = "\u200c", "\u200d"
VIRAMA = 9  # canonical combining class of what joins two consonants, in all scripts of India


class Clusters:
    """`push` gives what is whole and keeps the last character, which more text may still change; `flush` gives that one."""

    def __init__(self):
        self._kept = ""

    def push(self, text: str) -> str:
        """The characters of what was kept and of `text`, all but the last."""
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
    """Whether `char` is still part of the same character as the `cluster` before it."""
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
    """Marks (matras, nukta, virama, variation selectors, keycaps), joiners, skin tones, and the tags in the flags of regions."""
    is_tone_or_tag = "\U0001f3fb" <= char <= "\U0001f3ff" or "\U000e0020" <= char <= "\U000e007f"
    return is_tone_or_tag or char in (ZWNJ, ZWJ) or unicodedata.category(char).startswith("M")


def _ends_with_virama(cluster: str) -> bool:
    """Also with other marks or joiners behind the virama."""
    for char in reversed(cluster):
        if unicodedata.combining(char) == VIRAMA:
            return True
        if not _extends(char):
            return False
    return False


def _is_flag_letter(char: str) -> bool:
    return "\U0001f1e6" <= char <= "\U0001f1ff"
