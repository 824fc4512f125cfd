"""Figures against sums by hand, the interval against simulated data with a known value, passages
against the text they come from."""

import math

import numpy as np
import pytest

from nano_hindi.evaluation.report import FEW_DOCUMENTS, Figures, passages_of, ratio, report_lines
from nano_hindi.evaluation.scoring import Scored


def scored_words(words: int, seed: int = 0, cost=None) -> Scored:
    """Return a text of `words` numbered words, with a token for each and its space; the losses are
    random, or all `cost`."""
    rng = np.random.default_rng(seed)
    tokens = [f"{' ' if i else ''}शब्द{i}" for i in range(words)]
    losses = rng.exponential(3, words) if cost is None else np.full(words, float(cost))
    return Scored("".join(tokens), losses, np.array([len(token.encode()) for token in tokens]), np.arange(words) % 100, 0)


def figures_of(documents) -> Figures:
    figures = Figures()
    for scored in documents:
        figures.add(scored)
    return figures


def test_interval_covers_the_true_value_in_95_of_100_corpora():
    """Documents of very different length, whose bits per byte vary and depend on the length; the
    true value is E[nats] / E[bytes]."""
    rng, hits, simulations, documents = np.random.default_rng(1), 0, 500, 60

    def draw(n):
        sizes = rng.lognormal(6, 0.7, n)
        return sizes * rng.gamma(20, 0.05, n) * (sizes / 400) ** -0.1, sizes

    nats, sizes = draw(2_000_000)
    truth = nats.sum() / sizes.sum()
    for _ in range(simulations):
        low, high = ratio(*draw(documents)).interval
        hits += low < truth < high
    assert 0.91 < hits / simulations < 0.98


@pytest.mark.parametrize("documents", [100, 1600])
def test_interval_is_deterministic_and_approaches_the_large_sample_formula(documents):
    """The variance of a ratio estimate r = sum(n) / sum(d) is about sum((n - r d)^2) / sum(d)^2:
    Cochran 1977, Sampling Techniques, eq. 6.13."""
    rng = np.random.default_rng(2)
    sizes = rng.lognormal(6, 0.5, documents)
    nats = sizes * rng.gamma(20, 0.05, documents)
    first, again = ratio(nats, sizes), ratio(nats, sizes)
    assert first == again
    assert first.value == pytest.approx(nats.sum() / sizes.sum())
    half = 1.96 * math.sqrt(((nats - first.value * sizes) ** 2).sum()) / sizes.sum()
    np.testing.assert_allclose(first.interval, (first.value - half, first.value + half), atol=0.25 * half)


def test_one_document_has_no_interval_and_few_documents_get_a_warning():
    one, few, many = (report_lines(figures_of(scored_words(30, seed) for seed in range(n))) for n in (1, 3, FEW_DOCUMENTS))
    assert ratio([2.0], [4.0]).interval is None
    assert any("no interval" in line for line in one)
    assert any("from 3 documents is too narrow" in line for line in few)
    assert not any("interval:" in line or "narrow" in line for line in many)


def test_figures_equal_their_definitions():
    documents = [scored_words(n, seed=n) for n in (5, 130, 1)]
    figures = figures_of(documents)
    nats = sum(scored.losses.sum() for scored in documents)
    size = sum(len(scored.text.encode()) for scored in documents)
    assert figures.bits_per_byte().value == pytest.approx(nats / math.log(2) / size)
    assert figures.perplexity_per_word().value == pytest.approx(math.exp(nats / 136))
    assert figures.perplexity_per_token().value == pytest.approx(math.exp(nats / 136))
    low, high = figures.perplexity_per_word().interval
    assert math.log(low) < nats / 136 < math.log(high)


def test_positions_are_counted_in_buckets_of_doubling_width():
    documents = [scored_words(n, seed=n) for n in (70, 100, 3)]
    rows = figures_of(documents).positions()
    assert [(row["from"], row["to"]) for row in rows] == [(0, 0), (1, 1), (2, 3), (4, 7), (8, 15), (16, 31), (32, 63), (64, 127)]
    for row in rows:
        inside = [(scored.positions >= row["from"]) & (scored.positions <= row["to"]) for scored in documents]
        nats = sum(scored.losses[where].sum() for scored, where in zip(documents, inside, strict=True))
        size = sum(scored.sizes[where].sum() for scored, where in zip(documents, inside, strict=True))
        assert row["tokens"] == sum(where.sum() for where in inside)
        assert row["nats_per_token"] == pytest.approx(nats / row["tokens"])
        assert row["bits_per_byte"] == pytest.approx(nats / math.log(2) / size)


@pytest.mark.parametrize("words", [1, 39, 40, 41, 59, 60, 79, 80, 100, 400])
def test_passages_split_the_text_between_words_and_each_token_counts_in_one(words):
    scored = scored_words(words, seed=3)
    passages = passages_of(scored, 7)
    assert " ".join(passage.text for passage in passages) == scored.text
    lengths = [len(passage.text.split()) for passage in passages]
    assert set(lengths[:-1]) <= {40}
    assert words < 40 or 20 <= lengths[-1] < 60
    begin = 0
    for passage, length in zip(passages, lengths, strict=True):
        part = slice(begin, begin + length)
        assert passage.document == 7
        assert passage.bits_per_byte == pytest.approx(scored.losses[part].sum() / math.log(2) / scored.sizes[part].sum())
        begin += length


def test_best_and_worst_are_ranked_by_bits_per_byte_without_repetition():
    documents = [scored_words(30 + n, cost=n) for n in range(1, 9)]
    best, worst = figures_of([*documents, *documents]).best_and_worst()
    assert [passage.text for passage in best] == [scored.text for scored in documents[:3]]
    assert [passage.text for passage in worst] == [scored.text for scored in documents[:-4:-1]]


def test_short_passage_is_shown_only_if_there_are_no_others():
    short = scored_words(2, cost=100)
    assert not any(passage.text == short.text for passage in figures_of([short, scored_words(400)]).best_and_worst()[1])
    assert figures_of([short, scored_words(30, cost=1)]).best_and_worst()[1][0].text == short.text


def test_lost_text_is_reported_with_its_fraction():
    scored = scored_words(30)
    figures = figures_of([Scored(scored.text, scored.losses, scored.sizes, scored.positions, lost=3)])
    (line,) = [line for line in report_lines(figures) if line.startswith("warning")]
    assert f"3 of {len(scored.text)} characters ({3 / len(scored.text):.3%})" in line


def test_report_is_plain_ascii_around_the_text():
    lines = report_lines(figures_of(scored_words(200, seed) for seed in range(3)))
    assert all(line.isascii() for line in lines if "शब्द" not in line)
    assert max(len(line) for line in lines if "शब्द" not in line) < 120
