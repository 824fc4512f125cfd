"""Generate the offline sample: short Hindi stories from templates and a small grammar, so that
everything can be tried without a network.

Each story takes one of the plots of plots.py, a cast from words.py, and one of the wordings of each
sentence.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from nano_hindi.sample import words
from nano_hindi.sample.grammar import Noun
from nano_hindi.sample.plots import PLOTS

LICENCE = "MIT, written by nano_hindi/sample"


def stories(seed: int = 0) -> Iterator[str]:
    """Yield stories without end, none of them twice. The same seed gives the same stories in the
    same order, in any version of Python."""
    rng = random.Random(seed)
    told = set()
    while True:
        text = tell(rng)
        mark = hashlib.blake2b(text.encode(), digest_size=8).digest()  # instead of the text, to save memory
        if mark not in told:
            told.add(mark)
            yield text


def tell(rng: random.Random) -> str:
    """Return one story: a few sentences, and its moral on a separate line."""
    return compose(rng).text


@dataclass(frozen=True)
class Story:
    """A story, and what it was made from: its plot, the templates of its sentences, and the
    characters and things in them."""

    plot: tuple
    templates: list[str]
    cast: dict

    @property
    def text(self) -> str:
        return " ".join(self.sentences).replace(" \n ", "\n")

    @property
    def sentences(self) -> list[str]:
        """Return the sentences; a line end is one of its own."""
        return [template.format_map(self.cast) for template in self.templates]


def compose(rng: random.Random) -> Story:
    """Return a story with one of the plots, a cast, and one of the wordings of each sentence."""
    plot, extras = _pick(rng, PLOTS)
    cast = _cast(rng, extras)
    return Story(plot, [template for template in _choose(rng, plot) if template], cast)


def _pick(rng: random.Random, items: Sequence):
    return items[int(rng.random() * len(items))]  # rng.choice may change between versions of Python, rng.random does not


def _choose(rng: random.Random, plot: str | list | tuple) -> Iterator[str]:
    """Yield the sentences of a plot, one of each choice."""
    if isinstance(plot, str):
        yield plot
    elif isinstance(plot, list):
        yield from _choose(rng, _pick(rng, plot))
    else:
        for part in plot:
            yield from _choose(rng, part)


def _cast(rng: random.Random, extras: dict[str, list]) -> dict:
    """Choose the characters and things of a story, no two with the same name."""
    cast = {}
    for name, candidates in ({"h": words.PEOPLE, "f": words.PEOPLE, "e": words.FAMILY} | extras).items():
        taken = [str(other) for other in cast.values()]
        cast[name] = _pick(rng, [candidate for candidate in candidates if str(candidate) not in taken])
    cast["k"] = _pick(rng, [trade for trade in words.TRADES if trade.gender == cast["h"].gender])
    cast["t"] = cast["k"].tool
    for name, (one, other) in {"d": "hf", "he": "he", "ab": "ab", "ca": "ca"}.items():
        if one in cast and other in cast:
            cast[name] = _both(cast[one], cast[other])
    for name, texts in {"v": words.VILLAGES, "p": words.PLACES, "forest": words.FORESTS, "age": words.AGES, "virtue": words.VIRTUES}.items():
        cast[name] = _pick(rng, texts).format_map(cast)
    return cast


def _both(one: Noun, other: Noun) -> Noun:
    """Return a plural noun for both. It is feminine only if both are."""
    return Noun("दोनों", "f" if one.gender == other.gender == "f" else "m", fixed=True, plural=True)
