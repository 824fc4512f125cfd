"""Name the characters of Devanagari by their function, as parts of character classes."""

from __future__ import annotations

CONSONANT = "\u0915-\u0939\u0958-\u095f\u0978-\u097f"
LETTER = f"\u0904-\u0914\u0960\u0961\u0972-\u0977{CONSONANT}"
MATRA = "\u093a\u093b\u093e-\u094c\u094e\u094f\u0955-\u0957\u0962\u0963"
BINDU = "\u0900-\u0903"  # candrabindu, anusvara, visarga
NUKTA, VIRAMA = "\u093c", "\u094d"
SIGN = MATRA + BINDU + NUKTA + VIRAMA
WORD = "\u0900-\u0963\u0971-\u097f"  # letters and their signs, no dandas and digits


def words(text: str) -> frozenset[str]:
    """Return the words of a list written with spaces."""
    return frozenset(text.split())
