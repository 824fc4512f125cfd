"""A test of Hindi without a download: pairs of sentences that differ in one point, the score being how often the right one is more probable.

Nine kinds, each made of contrasts. A contrast is a pair and its mirror image, in which the same words are exchanged and the other one is right:

    राजू कल मेले में गया। / *गई।        मीना कल मेले में गई। / *गया।

So the test is balanced. Whatever only knows how probable each word is, counts tokens or letters, or likes one form better than the other, wrong in the
one pair where it is right in the other, scores 50 % in every kind. The idea of minimal pairs is that of BLiMP (Warstadt et al. 2020, arXiv:1912.00582).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from nano_hindi.minimal_pairs.agreement import gender, honorific, number, person
from nano_hindi.minimal_pairs.case import ergative, oblique
from nano_hindi.minimal_pairs.lookalikes import spelling
from nano_hindi.minimal_pairs.negatives import negation
from nano_hindi.minimal_pairs.word_order import order

KINDS = {kind.__name__: kind for kind in (gender, number, person, ergative, oblique, order, negation, spelling, honorific)}
TIE = 1e-4  # nats; closer probabilities differ by the rounding of sums
Z = 1.959964  # 97.5 % of a normal distribution lie below it


@dataclass(frozen=True)
class Pair:
    """Two sentences that differ in one point; `contrast` names the kind, a number and the words exchanged, and is shared with the mirror image alone."""

    kind: str
    good: str
    bad: str
    contrast: str


def pairs() -> list[Pair]:
    """All pairs, the same in the same order every time, by kind; a pair stands beside its mirror image."""
    return [
        Pair(kind, good, bad, f"{kind} {count} {contrast.x}/{contrast.y}")
        for kind, contrasts in KINDS.items()
        for count, contrast in enumerate(contrasts(), 1)
        for good, bad in contrast.pairs()
    ]


@dataclass(frozen=True)
class Score:
    """The share of `pairs` pairs that were told right, and its 95 % confidence interval `low` to `high`."""

    right: float
    low: float
    high: float
    pairs: int


@dataclass(frozen=True)
class PairScores:
    """Scores by kind and in all, and the pairs that were got wrong, those by the widest margin first."""

    kinds: dict[str, Score]
    total: Score
    wrong: list[Pair]

    def report(self) -> str:
        """A table: a line for each kind and one for all."""
        lines = [f"{'kind':<10} {'right':>7}  {'95 % interval':>15} {'pairs':>6}"]
        for name, score in {**self.kinds, "all": self.total}.items():
            lines.append(f"{name:<10} {score.right:>7.1%}  {f'{score.low:.1%} - {score.high:.1%}':>15} {score.pairs:>6}")
        return "\n".join(lines)

    def mistakes(self, each: int = 3) -> str:
        """The worst `each` pairs of every kind that were got wrong: `kind: good / *bad`."""
        return "\n".join(
            f"{pair.kind}: {pair.good} / *{pair.bad}" for kind in self.kinds for pair in [wrong for wrong in self.wrong if wrong.kind == kind][:each]
        )


def score_pairs(total_nats: Callable[[list[str]], Sequence[float]], pairs: Sequence[Pair]) -> PairScores:
    """How often `total_nats`, minus the log probability of each of a list of sentences, is lower for the right one. A tie counts half.

    The interval is Wilson's (1927), with the number of contrasts for that of trials: a pair and its mirror image share their words and may well be told
    right together. It is right if they always are, and too wide, never too narrow, if not. A bootstrap over contrasts would be tighter, but of no width at
    all where everything is right or every mirror image wrong, which is just where chance and skill are to be told apart.
    """
    nats = total_nats([sentence for pair in pairs for sentence in (pair.good, pair.bad)])
    margins = [bad - good for good, bad in zip(nats[::2], nats[1::2], strict=True)]
    by_kind = defaultdict(list)
    for pair, margin in zip(pairs, margins, strict=True):
        by_kind[pair.kind].append((pair.contrast, margin))
    wrong = sorted((margin, i) for i, margin in enumerate(margins) if margin < -TIE)
    everything = [told for kind in by_kind.values() for told in kind]
    return PairScores({kind: _score(told) for kind, told in by_kind.items()}, _score(everything), [pairs[i] for _, i in wrong])


def _score(told: Iterable[tuple[str, float]]) -> Score:
    """The score of pairs, each of them its contrast and how much more probable its right sentence is, in nats."""
    points = [0.5 if abs(margin) <= TIE else float(margin > 0) for _, margin in told]
    right = sum(points) / len(points)
    return Score(right, *wilson(right, len({contrast for contrast, _ in told})), len(points))


def wilson(share: float, n: int) -> tuple[float, float]:
    """The 95 % confidence interval of a share of n trials (Wilson 1927): the probabilities from which `share` is 1.96 standard deviations away or less."""
    middle = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    return max(0.0, middle - half), min(1.0, middle + half)
