"""The report of `python -m nano_hindi.eval`: a model's figures on texts, with confidence intervals,
and its best and worst passages.

    bits per byte = nats / (ln 2 * UTF-8 bytes of the texts)
    perplexity per word = e^(nats / words)

Nats, bytes and words do not depend on how a tokenizer splits the text, so both figures compare any
two models on the same texts; perplexity per token does not.
"""

# D documents, R resamples

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from nano_hindi.console import count, counted
from nano_hindi.evaluation.scoring import Scored

RESAMPLES, SEED = 1000, 0
RESAMPLED_AT_ONCE = 2**20  # documents drawn at once; bounds the memory
FEW_DOCUMENTS = 20  # an interval from fewer is too narrow
PASSAGE_WORDS = 40
SHOWN = 3  # passages of each kind


@dataclass(frozen=True)
class Ratio:
    """The ratio of two sums over documents, with the bounds of its 95 % confidence interval: None
    if there is only one document."""

    value: float
    interval: tuple[float, float] | None

    def map(self, function: Callable[[float], float]) -> Ratio:
        """Return the ratio and its interval transformed by an increasing function."""
        return Ratio(function(self.value), self.interval and (function(self.interval[0]), function(self.interval[1])))


@dataclass(frozen=True)
class Passage:
    """A passage of a document, and its bits per byte. Documents count from 1."""

    text: str
    document: int
    bits_per_byte: float


@dataclass
class Figures:
    """The totals of a model's `Scored` texts."""

    nats: list[float] = field(default_factory=list)  # per document, like the next three
    tokens: list[int] = field(default_factory=list)
    bytes: list[int] = field(default_factory=list)
    words: list[int] = field(default_factory=list)
    characters: int = 0
    lost: int = 0  # characters that decoding does not restore
    by_position: np.ndarray = field(default_factory=lambda: np.zeros((64, 3)))  # tokens, nats and bytes of positions 0, 1, 2-3, 4-7, ...
    passages: list[Passage] = field(default_factory=list)

    def add(self, scored: Scored) -> None:
        """Add a document."""
        self.nats.append(float(scored.losses.sum()))
        self.tokens.append(len(scored.losses))
        self.bytes.append(len(scored.text.encode()))
        self.words.append(len(scored.text.split()))
        self.characters += len(scored.text)
        self.lost += scored.lost
        buckets = np.frexp(scored.positions)[1]
        for column, weights in enumerate((None, scored.losses, scored.sizes)):
            self.by_position[:, column] += np.bincount(buckets, weights, minlength=len(self.by_position))
        self.passages += passages_of(scored, len(self.nats))

    def bits_per_byte(self) -> Ratio:
        return ratio(self.nats, self.bytes).map(lambda nats: nats / math.log(2))

    def perplexity_per_word(self) -> Ratio:
        return ratio(self.nats, self.words).map(_exp)

    def perplexity_per_token(self) -> Ratio:
        return ratio(self.nats, self.tokens).map(_exp)

    def positions(self) -> list[dict]:
        """Return the loss by tokens of context, from fewest to most, without empty buckets."""
        return [
            {
                "from": 2**bucket // 2,
                "to": max(2**bucket - 1, 0),
                "tokens": int(tokens),
                "nats_per_token": nats / tokens,
                "bits_per_byte": bits(nats, size),
            }
            for bucket, (tokens, nats, size) in enumerate(self.by_position.tolist())
            if tokens
        ]

    def best_and_worst(self) -> tuple[list[Passage], list[Passage]]:
        """Return at most SHOWN best and worst passages, none twice. Short passages are used only if
        there are not enough long ones."""
        different = list({passage.text: passage for passage in self.passages}.values())
        long = [passage for passage in different if len(passage.text.split()) > PASSAGE_WORDS // 2]
        ranked = sorted(long if len(long) >= 2 * SHOWN else different, key=lambda passage: passage.bits_per_byte)
        shown = min(SHOWN, len(ranked) // 2)
        return ranked[:shown], ranked[::-1][:shown]


def bits(nats: float, size: int) -> float:
    """Return bits per byte; nan if there are no bytes."""
    return nats / math.log(2) / size if size else math.nan


def _exp(x: float) -> float:
    return math.exp(x) if x < 700 else math.inf


def ratio(numerators: Iterable[float], denominators: Iterable[float]) -> Ratio:
    """Return the ratio of the sums over D documents, with its bootstrap interval: the 2.5th and
    97.5th percentiles of the ratio over RESAMPLES draws of D documents.

    Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13. The same input gives
    the same interval.
    """
    parts = np.array([list(numerators), list(denominators)], dtype=np.float64)  # (2, D)
    documents = parts.shape[1]
    value = float(parts[0].sum() / parts[1].sum())
    if documents == 1:
        return Ratio(value, None)
    random, found, rows = np.random.default_rng(SEED), [], max(1, RESAMPLED_AT_ONCE // documents)
    for begin in range(0, RESAMPLES, rows):
        drawn = random.integers(documents, size=(min(rows, RESAMPLES - begin), documents))
        numerator, denominator = parts[:, drawn].sum(axis=2)  # (R,) each
        found.append(numerator / denominator)
    low, high = np.percentile(np.concatenate(found), (2.5, 97.5))
    return Ratio(value, (float(low), float(high)))


def passages_of(scored: Scored, document: int) -> list[Passage]:
    """Split the text into passages of PASSAGE_WORDS words, the last one of half to one and a half
    times as many. A shorter text is one passage.

    A passage begins with the space before its first word, where most tokenizers begin a token. A
    token that spans two passages counts in the first.
    """
    words = [word.start() for word in re.finditer(r"\s*\S+", scored.text)]
    if not words:
        return []
    starts = words[::PASSAGE_WORDS]
    if len(starts) > 1 and len(words) % PASSAGE_WORDS in range(1, PASSAGE_WORDS // 2):
        starts.pop()
    texts = [scored.text[begin:end] for begin, end in zip(starts, [*starts[1:], None], strict=True)]
    byte_ends = np.cumsum([len(text.encode()) for text in texts])
    passages = np.searchsorted(byte_ends, np.cumsum(scored.sizes) - scored.sizes, side="right").clip(max=len(texts) - 1)
    nats = np.bincount(passages, scored.losses, minlength=len(texts))
    sizes = np.bincount(passages, scored.sizes, minlength=len(texts))
    return [Passage(text.strip(), document, bits(*cost)) for text, *cost in zip(texts, nats.tolist(), sizes.tolist(), strict=True) if cost[1]]


def report_lines(figures: Figures) -> list[str]:
    """Return the report as lines of text."""
    documents, tokens, words = len(figures.nats), sum(figures.tokens), sum(figures.words)
    lines = [
        f"size        {counted(documents, 'document')}, {count(sum(figures.bytes))} bytes, {count(words)} words, {count(tokens)} tokens "
        f"({tokens / words:.2f} per word)"
    ]
    if figures.lost:
        lines.append(
            f"warning     the tokenizer loses {figures.lost:,} of {figures.characters:,} characters ({figures.lost / figures.characters:.3%}): "
            "this model has predicted an altered text, and its figures cannot be compared with others"
        )
    named = {
        "bits per byte": (figures.bits_per_byte(), "{:.4f}", "compares any models on this text; lower is better"),
        "perplexity per word": (figures.perplexity_per_word(), "{:.5g}", "compares any models on this text"),
        "perplexity per token": (figures.perplexity_per_token(), "{:.5g}", "compares models with the same tokenizer"),
    }
    lines += ["", f"{'95 % interval':>50}"]
    for name, (figure, form, use) in named.items():
        interval = f"{form.format(figure.interval[0])} to {form.format(figure.interval[1])}" if figure.interval else "-"
        lines.append(f"{name:22}{form.format(figure.value):>12}   {interval:>26}   {use}")
    if documents < FEW_DOCUMENTS:
        lines.append(
            "There is no interval: it is computed from the differences between documents, and there is only one."
            if documents == 1
            else f"An interval from {documents} documents is too narrow; give at least {FEW_DOCUMENTS}."
        )
    lines += ["", "Loss by the number of tokens before it in the document:", "tokens before       tokens   nats/token   bits/byte"]
    for row in figures.positions():
        span = str(row["from"]) if row["from"] == row["to"] else f"{row['from']}-{row['to']}"
        lines.append(f"{span:15}{row['tokens']:>11,}{row['nats_per_token']:>13.3f}{row['bits_per_byte']:>12.3f}")
    for title, passages in zip(("best predicted", "worst predicted"), figures.best_and_worst(), strict=True):
        for passage in passages:
            lines += ["", f"--- {title}: {passage.bits_per_byte:.3f} bits per byte, document {passage.document:,}", passage.text]
    return lines


def as_json(figures: Figures) -> dict:
    """Return the figures as plain numbers, strings, lists and dicts."""
    best, worst = ([vars(passage) for passage in passages] for passages in figures.best_and_worst())
    found = {name: getattr(figures, name)() for name in ("bits_per_byte", "perplexity_per_word", "perplexity_per_token")}
    return {
        "documents": len(figures.nats),
        **{name: sum(getattr(figures, name)) for name in ("nats", "tokens", "bytes", "words")},
        "characters": figures.characters,
        "lost_characters": figures.lost,
        **{name: figure.value for name, figure in found.items()},
        **{f"{name}_interval": figure.interval for name, figure in found.items()},
        "by_position": figures.positions(),
        "best": best,
        "worst": worst,
    }
