"""Encode a long text in parts, so that memory does not grow with its length. The ids are those of
the whole text.

A text is cut only at a single space between two words, where two conditions hold:
    No token contains the byte before the space and a space after it. So no merge of BPE crosses the
    cut, and the merges before and after it do not depend on each other, at any distance.
    The text around the cut, WINDOW characters on each side, has the same ids whole and in two
    parts. So normalizer, pre-tokenizer, added tokens and dummy space act there as in the whole
    text: what they do at a space depends on the words beside it, not on those far away.
If a document starts with a dummy space, that of the second part stands for the space at the cut.
A Unigram model is cut only where its pre-tokenizer splits at spaces: over a longer text, the sums
of its scores round differently, which decides between segmentations of equal score.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from nano_hindi.tokenizer.pieces import SPACE, components

if TYPE_CHECKING:
    from nano_hindi.tokenizer import Tokenizer

PART = 100_000  # characters of a part, at least; a shorter text is not cut
WINDOW = 1_000
TRIES = 8  # cuts that are compared before the rest of a text is encoded whole
_SPACE_BETWEEN_WORDS = re.compile(rf"(?<=[^\s{SPACE}]) (?=\w)")  # \w: not a combining mark, which may compose with what is before it


def encode_in_parts(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Return `tokenizer.encode_whole(texts)`, but encode long texts in parts."""
    others = iter(tokenizer.encode_whole([text for text in texts if len(text) <= PART]))
    return [next(others) if len(text) <= PART else _encode_long(tokenizer, text) for text in texts]


def _encode_long(tokenizer: Tokenizer, text: str) -> list[int]:
    ids: list[int] = []
    same: dict[int, int] = {}  # one int object for each id: a list of a million tokens needs 8 MB, not 36
    for part in _parts(tokenizer, text):
        ids += [same.setdefault(i, i) for i in tokenizer.encode_whole([part])[0]]
    return ids


def _parts(tokenizer: Tokenizer, text: str) -> Iterator[str]:
    inside, omitted, begin = _before_spaces(tokenizer), int(tokenizer.has_dummy_space), 0

    def is_safe(cut: int) -> bool:
        before, after = text[max(0, cut - WINDOW) : cut], text[cut : cut + WINDOW]
        whole, first, second = tokenizer.encode_whole([before + after, before, after[omitted:]])
        return whole == first + second

    while inside is not None and len(text) - begin > PART:
        spaces = (match.start() for match in _SPACE_BETWEEN_WORDS.finditer(text, begin + PART))
        cuts = (space for space in spaces if text[space - 1].encode(errors="surrogatepass")[-1] not in inside)
        cut = next(filter(is_safe, itertools.islice(cuts, TRIES)), None)
        if cut is None:
            break
        yield text[begin:cut]
        begin = cut + omitted
    yield text[begin:]


@functools.lru_cache(maxsize=1)
def _before_spaces(tokenizer: Tokenizer) -> frozenset[int] | None:
    """Return the bytes that come before a space within a token, or None if texts must not be
    cut."""
    description = tokenizer.definition()
    splits = any(part["type"] == "Metaspace" and part["split"] for part in components(description["pre_tokenizer"], "pretokenizers"))
    if description["model"]["type"] != "BPE" and not splits:
        return None
    return frozenset(found[0] for found in re.findall(rb"\S ", b"\n".join(tokenizer.piece_bytes)))
