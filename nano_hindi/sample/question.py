"""A question about stories of the sample, and its right answers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Question:
    """A question about the stories of one plot, by its name (None: of any), whose templates contain
    `given`: its wordings, and its answers, a whole sentence and shorter ones."""

    kind: str
    plot: str | None
    given: str
    wordings: tuple[str, ...]
    answers: tuple[str, ...]
