"""What is true in a story while it is told, so that no sentence contradicts another.

A fact is a word: `winter`, `fair` (a fair has been announced), `a.flies` (the character a can
fly). A line says which facts it `needs` (`-x`: x must not be true) and which it `sets` (`-x`: x is
no longer true). Of the facts of a group only one is true at a time; the time of day moves only
forward until `newday`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

ERA = ("old", "today")
SEASON = ("winter", "spring", "summer", "rains")
SETTING = ("village", "town", "city")
TIME = ("morning", "noon", "evening", "night")
GIVEN = (ERA, SEASON, SETTING)  # one of each is true from the beginning of every story
GROUPS = (*GIVEN, TIME)

Facts = frozenset[str]


@dataclass(frozen=True)
class Line:
    """A text of a story with the facts that it needs and sets. say() makes one."""

    text: str
    needs: str = ""
    sets: str = ""

    def after(self, facts: Facts) -> Facts | None:
        """Return the facts once this line is told, or None if it cannot be told now."""
        if not all((fact[1:] not in facts) if fact.startswith("-") else fact in facts for fact in self.needs.split()):
            return None
        for fact in self.sets.split():
            if fact == "newday":
                facts -= {*TIME}
            elif fact in TIME and not facts.isdisjoint(TIME[TIME.index(fact) :]):
                return None  # it is as late already, or later
            elif fact.startswith("-"):
                facts -= {fact[1:]}
            else:
                facts = facts.difference(*(group for group in GROUPS if fact in group)) | {fact}
        return facts


def say(text: str = "", needs: str = "", sets: str = "") -> Line:
    """Return a line; without a text it is a condition at the beginning of a tuple."""
    return Line(text, needs, sets)


Part = str | Line | list | tuple  # a text, alternatives (list), or parts told in order (tuple)


@dataclass(frozen=True)
class Plot:
    """A plot: its parts, the candidates for its cast, and the facts that its stories begin with:
    `"old|today winter"` allows both eras and one season; a group that is not named is free."""

    name: str
    parts: Part
    cast: dict[str, Sequence] = field(default_factory=dict)
    world: str = ""

    def beginnings(self) -> list[Sequence[str]]:
        """Return alternatives, of each of which one fact holds when a story begins."""
        stated = [choice.split("|") for choice in self.world.split()]
        return [*stated, *(group for group in GIVEN if not any(set(group) & set(choice) for choice in stated))]


def possible(part: Part, facts: Facts) -> bool:
    """Return whether a part can begin now: a tuple can if its first part can."""
    if isinstance(part, Line):
        return part.after(facts) is not None
    if isinstance(part, list):
        return any(possible(alternative, facts) for alternative in part)
    return isinstance(part, str) or not part or possible(part[0], facts)
