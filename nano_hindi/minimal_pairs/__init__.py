"""A test of Hindi that needs no download: pairs of sentences that differ in one point. The score is
how often the right one is more probable.

Each kind of pairs is made of contrasts. A contrast is a pair and its mirror image, in which the
same words are exchanged and the other one is right:

    राजू कल मेले में गया। / *गई।        मीना कल मेले में गई। / *गया।

So the test is balanced: a model that only knows word frequencies, counts tokens or letters, or
always prefers one form is wrong in one pair of a contrast and right in the other, and scores 50 %
in every kind.

The wrong sentences are wrong in standard Hindi, and no educated writer would write them: a common
form (आप हो, a missing nasal sign) is not used as a wrong one, even if grammars reject it. Minimal
pairs follow BLiMP (Warstadt et al. 2020, arXiv:1912.00582).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from nano_hindi.minimal_pairs.agreement import gender, honorific, number, person
from nano_hindi.minimal_pairs.attraction import attractor, coordination
from nano_hindi.minimal_pairs.case import ergative, oblique
from nano_hindi.minimal_pairs.government import dative, government
from nano_hindi.minimal_pairs.lookalikes import spelling
from nano_hindi.minimal_pairs.negatives import negation
from nano_hindi.minimal_pairs.pronouns import indefinite, reflexive, relative
from nano_hindi.minimal_pairs.verb_forms import aspect, conjunctive, infinitive, passive, tense
from nano_hindi.minimal_pairs.word_order import order

KINDS = {
    kind.__name__: kind
    for kind in (
        *(gender, number, person, attractor, coordination, ergative, aspect, passive, oblique, government, dative),
        *(infinitive, conjunctive, tense, relative, reflexive, indefinite, order, negation, spelling, honorific),
    )
}
TIE = 1e-4  # nats; smaller differences are within the rounding of the sums
Z = 1.959964  # 97.5 % of a normal distribution lie below it


@dataclass(frozen=True)
class Pair:
    """Two sentences that differ in one point. `contrast` names the kind, a number and the words
    exchanged; only the mirror image has the same."""

    kind: str
    good: str
    bad: str
    contrast: str


def pairs() -> list[Pair]:
    """Return all pairs by kind, always in the same order, each next to its mirror image."""
    return [
        Pair(kind, good, bad, f"{kind} {count} {contrast.x}/{contrast.y}")
        for kind, contrasts in KINDS.items()
        for count, contrast in enumerate(contrasts(), 1)
        for good, bad in contrast.pairs()
    ]


@dataclass(frozen=True)
class Score:
    """The fraction `right` of `pairs` pairs that were judged correctly, and its 95 % confidence
    interval `low` to `high`."""

    right: float
    low: float
    high: float
    pairs: int


@dataclass(frozen=True)
class PairScores:
    """The scores by kind and in total, and the pairs that were judged wrongly, largest margin
    first."""

    kinds: dict[str, Score]
    total: Score
    wrong: list[Pair]

    def report(self) -> str:
        """Return a table with a line for each kind and one for all pairs."""
        width = max(12, *map(len, self.kinds))
        lines = [f"{'kind':<{width}} {'right':>7}  {'95 % interval':>15} {'pairs':>6}"]
        for name, score in {**self.kinds, "all": self.total}.items():
            lines.append(f"{name:<{width}} {score.right:>7.1%}  {f'{score.low:.1%} - {score.high:.1%}':>15} {score.pairs:>6}")
        return "\n".join(lines)

    def mistakes(self, each: int = 3) -> str:
        """Return the worst `each` mistakes of every kind, one per line: `kind: good / *bad`."""
        return "\n".join(
            f"{pair.kind}: {pair.good} / *{pair.bad}" for kind in self.kinds for pair in [wrong for wrong in self.wrong if wrong.kind == kind][:each]
        )


def score_pairs(total_nats: Callable[[list[str]], Sequence[float]], pairs: Sequence[Pair]) -> PairScores:
    """Score how often the right sentence of a pair is more probable. A tie counts half.

    `total_nats` returns minus the log probability of each sentence of a list. The interval is
    Wilson's (1927), with the number of contrasts as that of trials: a pair and its mirror image
    share their words, so both are often judged alike. If they always are, the interval is right; if
    not, it is too wide, never too narrow. A bootstrap over contrasts would be tighter, but would
    have zero width if every pair is right, or exactly one of each contrast, which is just where
    skill must be distinguished from chance.
    """
    nats = total_nats([sentence for pair in pairs for sentence in (pair.good, pair.bad)])
    margins = [bad - good for good, bad in zip(nats[::2], nats[1::2], strict=True)]
    by_kind = defaultdict(list)
    for pair, margin in zip(pairs, margins, strict=True):
        by_kind[pair.kind].append((pair.contrast, margin))
    wrong = sorted((margin, i) for i, margin in enumerate(margins) if margin < -TIE)
    everything = [judged for kind in by_kind.values() for judged in kind]
    return PairScores({kind: _score(judged) for kind, judged in by_kind.items()}, _score(everything), [pairs[i] for _, i in wrong])


def _score(judged: Iterable[tuple[str, float]]) -> Score:
    """Return the score of pairs, each given as its contrast and the nats by which its right
    sentence is more probable."""
    points = [0.5 if abs(margin) <= TIE else float(margin > 0) for _, margin in judged]
    right = sum(points) / len(points)
    return Score(right, *wilson(right, len({contrast for contrast, _ in judged})), len(points))


def wilson(fraction: float, n: int) -> tuple[float, float]:
    """Return the 95 % confidence interval of a fraction of n trials (Wilson 1927): the
    probabilities at most 1.96 standard deviations from `fraction`."""
    middle = (fraction + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * math.sqrt(fraction * (1 - fraction) / n + Z**2 / (4 * n**2))
    return max(0.0, middle - half), min(1.0, middle + half)
