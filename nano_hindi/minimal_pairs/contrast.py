"""Contrasts, from which every kind of pair is made: two sentences, each with one gap, and two
fillers, each right in one of the sentences."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from nano_hindi.minimal_pairs import words
from nano_hindi.sample.grammar import Noun

GAP = "_"


class Contrast(NamedTuple):
    """`x` fills the gap of `one`, `y` that of `other`, and neither fits the other gap: a pair and
    its mirror image."""

    one: str
    other: str
    x: str
    y: str

    def pairs(self) -> Iterator[tuple[str, str]]:
        """Yield the pair and its mirror image, each as (right sentence, wrong sentence)."""
        yield self.one.replace(GAP, self.x), self.one.replace(GAP, self.y)
        yield self.other.replace(GAP, self.y), self.other.replace(GAP, self.x)


class Frame(NamedTuple):
    """A sentence with a gap for words that agree with the noun `{n}`, and the filler as a format
    spec of that noun: `गया था`, `+काला`."""

    sentence: str
    agreeing: str


def contrasts_of(frames: Iterable[Frame], ones: Sequence[Noun], others: Sequence[Noun], each: int, **more: Sequence[Noun]) -> Iterator[Contrast]:
    """Yield `each` contrasts per frame. `{n}` is a noun of `ones` or of `others`, and `{name}` one
    of the nouns in `more[name]`.

    Every list is cycled through, across the frames.
    """
    turns = {name: itertools.cycle(nouns) for name, nouns in {"one": ones, "other": others, **more}.items()}
    for frame in frames:
        for _ in range(each):
            turn = {name: next(nouns) for name, nouns in turns.items()}
            one, other = turn.pop("one"), turn.pop("other")
            yield Contrast(
                frame.sentence.format(n=one, **turn),
                frame.sentence.format(n=other, **turn),
                format(one, frame.agreeing),
                format(other, frame.agreeing),
            )


# two subjects, the filler that agrees with the first and with the second, and frames with `{}` for
# the subject
Table = list[tuple[str, str, str, str, list[str]]]


def contrasts_of_table(table: Table) -> Iterator[Contrast]:
    """Yield a contrast for each frame of each row."""
    for one, other, x, y, frames in table:
        for frame in frames:
            yield Contrast(frame.format(one), frame.format(other), x, y)


# the fillers x and y, the sentence of x, the sentence of y. `{boy}`, `{friend}` (another boy) and
# `{girl}` are names, the same in all four
Row = tuple[str, str, str, str]


def contrasts_of_rows(rows: Iterable[Row], each: int = 1) -> Iterator[Contrast]:
    """Yield `each` contrasts of every row, with other names each time."""
    boys, girls = itertools.cycle(words.BOYS), itertools.cycle(words.GIRLS)
    for x, y, one, other in rows:
        for _ in range(each):
            names = {"boy": next(boys), "friend": next(boys), "girl": next(girls)}
            yield Contrast(*(text.format(**names) for text in (one, other, x, y)))
