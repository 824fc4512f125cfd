"""Generate the offline sample: short Hindi stories from templates and a small grammar, so that
everything can be tried without a network.

Each story takes one of the plots of plots.py, a cast from words.py, and one of the wordings of each
sentence.
"""

from __future__ import annotations

import functools
import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from nano_hindi.sample import beats, words
from nano_hindi.sample.grammar import Noun
from nano_hindi.sample.plots import PLOTS
from nano_hindi.sample.world import Facts, Line, Part, Plot, possible

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
    """A story, and what it was made from: its plot, the templates of its sentences, the characters
    and things in them, and what is true at its end."""

    plot: Plot
    templates: list[str]
    cast: dict
    facts: Facts

    @functools.cached_property  # a question is asked in several wordings, each around the text
    def text(self) -> str:
        return " ".join(self.sentences).replace(" \n ", "\n")

    @property
    def sentences(self) -> list[str]:
        """Return the sentences; a line end is one of its own."""
        return [self.fill(template) for template in self.templates]

    def fill(self, template: str) -> str:
        """Return a template with the cast of this story, in its spelling."""
        text = template.format_map(self.cast)
        return text.replace("ँ", "ं") if ANUSVARA in self.facts else text


ANUSVARA = "anusvara"  # the fact that a story is spelt as much of the web is: गांव, पांच
WITH_ANUSVARA = 0.15  # of the stories


def compose(rng: random.Random) -> Story:
    """Return a story with one of the plots, a cast, and one of the wordings of each sentence."""
    plot = _pick(rng, PLOTS)
    facts = frozenset(_pick(rng, choice) for choice in plot.beginnings())
    if rng.random() < WITH_ANUSVARA:
        facts |= {ANUSVARA}
    cast, facts = _cast(rng, plot.cast, facts)
    templates, facts = _tell(rng, plot.parts, facts)
    return Story(plot, templates, cast, facts)


def _pick(rng: random.Random, items: Sequence[Any]) -> Any:
    return items[int(rng.random() * len(items))]  # rng.choice may change between versions of Python, rng.random does not


def _tell(rng: random.Random, part: Part, facts: Facts) -> tuple[list[str], Facts]:
    """Return the templates of a part, one of each choice that is possible, and the facts after
    them.

    Raises `ValueError` where nothing is possible: a plot must be able to go on from wherever it can
    get.
    """
    if isinstance(part, tuple):
        templates: list[str] = []
        for step in part:
            told, facts = _tell(rng, step, facts)
            templates += told
        return templates, facts
    if isinstance(part, list):
        candidates = [alternative for alternative in part if possible(alternative, facts)]
        if not candidates:
            raise ValueError(f"nothing of {part} is possible when {sorted(facts)}")
        return _tell(rng, _pick(rng, candidates), facts)
    line = Line(part) if isinstance(part, str) else part
    after = line.after(facts)
    if after is None:
        raise ValueError(f"{line} is not possible when {sorted(facts)}")
    return [line.text] if line.text else [], after


def _cast(rng: random.Random, extras: dict[str, Sequence], facts: Facts) -> tuple[dict, Facts]:
    """Return the characters, things and places of a story, no two with the same name, each possible
    at its beginning, and the facts with what these bring: traits, and the hills of a place."""
    cast: dict = {}

    def add(name: str, candidates: Sequence) -> None:
        nonlocal facts
        taken, rest, after = {str(other) for other in cast.values()}, list(candidates), None
        while after is None:
            chosen = rest.pop(int(rng.random() * len(rest)))
            after = None if str(chosen) in taken else _brings(name, chosen).after(facts)
        facts = after
        text = chosen.text if isinstance(chosen, Line) else chosen
        cast[name] = text.format_map(cast) if isinstance(text, str) else text

    for name, candidates in (DEFAULT_CAST | extras).items():
        add(name, candidates)
    add("k", [trade for trade in extras.get("k", words.TRADES) if trade.gender == cast["h"].gender])
    cast["t"] = cast["k"].tool
    facts = _brings("t", cast["t"]).after(facts) or facts
    for name, (one, other) in {"d": ("h", "f"), "he": ("h", "e"), "ab": ("a", "b"), "ca": ("c", "a")}.items():
        if one in cast and other in cast:
            cast[name] = _both(cast[one], cast[other])
    return cast, facts


DEFAULT_CAST: dict[str, Sequence] = {
    "h": words.PEOPLE,
    "f": words.PEOPLE,
    "e": words.FAMILY,
    "v": words.VILLAGES,
    "p": beats.PLACES,
    "forest": beats.FORESTS,
    "age": words.AGES,
    "virtue": words.VIRTUES,
}


def _brings(name: str, one: object) -> Line:
    """Return the facts that a candidate for the cast needs and sets, as a line."""
    if isinstance(one, Line):
        return one
    return Line("", getattr(one, "needs", ""), " ".join(f"{name}.{trait}" for trait in getattr(one, "traits", "").split()))


def _both(one: Noun, other: Noun) -> Noun:
    """Return a plural noun for both. It is feminine only if both are."""
    return Noun("दोनों", "f" if one.gender == other.gender == "f" else "m", fixed=True, plural=True)
