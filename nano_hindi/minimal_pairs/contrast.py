"""What every kind of the test is made of: two sentences, each with one gap, and two fillers, each of which is right in one of them."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from nano_hindi.sample.grammar import Noun

GAP = "_"


class Contrast(NamedTuple):
    """`x` fills the gap of `one`, `y` that of `other`, and neither fits the other gap: a pair and its mirror image."""

    one: str
    other: str
    x: str
    y: str

    def pairs(self) -> Iterator[tuple[str, str]]:
        """The right and the wrong sentence, twice."""
        yield self.one.replace(GAP, self.x), self.one.replace(GAP, self.y)
        yield self.other.replace(GAP, self.y), self.other.replace(GAP, self.x)


class Frame(NamedTuple):
    """A sentence with a gap for what agrees with `{n}`, and the gap's filler as a format of that noun: `गया था`, `+काला`."""

    sentence: str
    agreeing: str


def contrasts_of(frames: Iterable[Frame], ones: Sequence[Noun], others: Sequence[Noun], each: int, **more: Sequence[Noun]) -> Iterator[Contrast]:
    """`each` contrasts a frame. `{n}` is one of `ones` or of `others`, a name of `more` one of its nouns; all take turns, over the frames on."""
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


def many(nouns: Iterable[Noun]) -> list[Noun]:
    """Their plurals."""
    return [dataclasses.replace(noun, plural=True) for noun in nouns]


# the subjects of two sentences, what belongs to the first and the second of them, and frames with `{}` for the subject
Table = list[tuple[str, str, str, str, list[str]]]


def contrasts_of_table(table: Table) -> Iterator[Contrast]:
    """A contrast for each frame of each row."""
    for one, other, x, y, frames in table:
        for frame in frames:
            yield Contrast(frame.format(one), frame.format(other), x, y)
