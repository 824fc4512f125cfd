"""Count where a tokenizer cuts words."""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

from nano_hindi.tokenizer import Tokenizer

JOINERS = "\u200c\u200d"


class Cuts(NamedTuple):
    """What is counted in a text: `inside` are the token boundaries inside words, `before_mark`
    those of them directly before a mark, `in_akshara` these and those after a virama."""

    words: int
    size: int  # bytes
    tokens: int
    inside: int
    before_mark: int
    in_akshara: int


def is_mark(character: str) -> bool:
    return unicodedata.category(character)[0] == "M"


def cuts(tokenizer: Tokenizer, texts: Sequence[str]) -> Cuts:
    """Count the tokens of NFC texts and their boundaries inside words: between letters, marks and
    joiners."""
    tokens = inside = before_mark = in_akshara = 0
    for text, ids in zip(texts, tokenizer.encode_batch(texts), strict=True):
        tokens += len(ids)
        ends = set(itertools.accumulate((len(tokenizer.piece_bytes[i]) for i in ids), initial=-tokenizer.has_dummy_space))
        starts = itertools.accumulate(len(c.encode()) for c in text)
        for (left, right), start in zip(itertools.pairwise(text), starts, strict=False):
            if start in ends and all(c.isalpha() or is_mark(c) or c in JOINERS for c in (left, right)):
                inside += 1
                before_mark += is_mark(right)
                in_akshara += is_mark(right) or left == "\u094d"
    words = sum(len(text.split()) for text in texts)
    return Cuts(words, sum(len(text.encode()) for text in texts), tokens, inside, before_mark, in_akshara)


def tokens_that_begin_with_a_mark(tokenizer: Tokenizer) -> int:
    """Count the tokens of two or more characters whose first is a mark."""
    texts = [raw.decode(errors="replace") for raw in tokenizer.piece_bytes]
    return sum(len(text) > 1 and is_mark(text[0]) for text in texts)
