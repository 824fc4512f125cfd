"""The minimal pairs: correct and incorrect sentences according to a second grammar, and balanced,
so that no scorer without knowledge of Hindi is better than chance."""

import dataclasses
import json
import math
import re
import unicodedata
from collections import Counter, defaultdict
from pathlib import Path

import pytest
import torch
import yaml

import pair_rules
import standin
from conftest import run_script
from nano_hindi import minimal_pairs
from nano_hindi.config import get_config
from nano_hindi.minimal_pairs import KINDS, TIE, Pair, score_pairs, wilson
from nano_hindi.model import GPT
from nano_hindi.tokenizer import load_tokenizer

PAIRS = minimal_pairs.pairs()
# the rules that the second grammar should report for the wrong sentences of a kind, if not only the
# rule with the name of the kind
FAULTS = {
    "number": {"number", "case"}, "oblique": {"case"}, "aspect": {"ergative"}, "attractor": {"gender", "number", "case"},
    "coordination": {"gender", "number", "person"}, "honorific": {"tone", "person", "number"},
}  # fmt: skip


def of_kind(kind: str) -> list[Pair]:
    return [pair for pair in PAIRS if pair.kind == kind]


def tokens(sentence: str) -> Counter:
    """Return the words of a sentence, the first and the last marked as such: all that a scorer of
    single words can see."""
    first, *middle, last = sentence.split(" ")
    return Counter([f"^{first}", *middle, f"{last}$"])


def scored(nats_of_one) -> dict[str, float]:
    scores = score_pairs(lambda sentences: [nats_of_one(sentence) for sentence in sentences], PAIRS)
    return {kind: score.right for kind, score in {**scores.kinds, "all": scores.total}.items()}


CHANCE = {kind: 0.5 for kind in [*KINDS, "all"]}


# ---- the sentences


def test_kinds_have_enough_distinct_pairs_and_contrasted_forms():
    counts = Counter(pair.kind for pair in PAIRS)
    assert list(counts) == list(KINDS)
    assert min(counts.values()) >= 50
    assert 2000 < len(PAIRS) < 3000
    forms = {kind: len({pair.contrast.split(" ", 2)[2] for pair in of_kind(kind)}) for kind in ("gender", "number", "person")}
    assert all(found >= least for found, least in zip(forms.values(), (42, 27, 36), strict=True)), forms
    assert len({(pair.good, pair.bad) for pair in PAIRS}) == len(PAIRS) == len({frozenset((pair.good, pair.bad)) for pair in PAIRS})
    assert minimal_pairs.pairs() == PAIRS


def test_documentation_lists_the_kinds_and_the_number_of_pairs():
    text = (Path(__file__).parents[1] / "docs" / "evaluation.md").read_text(encoding="utf-8")
    section = text.partition("## Minimal pairs")[2].partition("\n##")[0]
    rows = re.findall(r"^\| (\w+) \| .*\*.* \| (\d+) \|$", section, re.MULTILINE)
    assert rows == [(kind, str(len(of_kind(kind)))) for kind in KINDS]
    assert f"{len(PAIRS):,} pairs" in section


def test_no_sentence_is_correct_in_one_pair_and_wrong_in_another():
    assert not {pair.good for pair in PAIRS} & {pair.bad for pair in PAIRS}


def test_sentences_are_nfc_single_spaced_and_end_in_a_danda():
    for sentence in {sentence for pair in PAIRS for sentence in (pair.good, pair.bad)}:
        assert unicodedata.is_normalized("NFC", sentence)
        assert re.fullmatch(r"[ऀ-ॣ-]+(,? [ऀ-ॣ-]+)+।", sentence), sentence


@pytest.mark.parametrize("kind", KINDS)
def test_second_grammar_accepts_the_correct_and_rejects_the_wrong_sentence(kind):
    for pair in of_kind(kind):
        assert pair_rules.faults(kind, pair.good) == set(), pair.good
        found = pair_rules.faults(kind, pair.bad)
        assert found, pair.bad
        assert found <= FAULTS.get(kind, {kind}), (pair.bad, found)


@pytest.mark.parametrize("kind", ["number", "attractor", "coordination"])
def test_no_wrong_plural_is_also_a_wish(kind):
    """वह कल आए is correct: may he come. गए, हुए, थे and the future are no wishes."""
    assert [pair.bad for pair in of_kind(kind) if pair.bad.endswith(("ए।", "े।")) and not pair.bad.endswith(("गए।", "हुए।", "थे।", "गे।"))] == []


def test_no_wrong_perfective_is_also_a_command():
    """मोहन इस समय छाछ पी is correct: drink."""
    assert [pair.bad for pair in of_kind("aspect") if pair.bad.endswith(" पी।") and " वे " not in pair.bad] == []


def test_word_order_pairs_swap_two_neighbouring_words():
    for pair in of_kind("order"):
        good, bad = pair.good.split(), pair.bad.split()
        changed = [i for i, (one, other) in enumerate(zip(good, bad, strict=True)) if one != other]
        assert len(changed) == 2
        assert changed[1] == changed[0] + 1
        assert (good[changed[0]], good[changed[1]]) == (bad[changed[1]], bad[changed[0]])


# ---- balance


def test_contrast_is_a_pair_and_its_mirror_whose_words_cancel():
    groups = defaultdict(list)
    for pair in PAIRS:
        groups[pair.contrast].append(pair)
    for one, mirror in groups.values():  # always two
        assert one.kind == mirror.kind
        good, bad = tokens(one.good), tokens(one.bad)
        assert good - bad == tokens(mirror.bad) - tokens(mirror.good), one.contrast
        assert bad - good == tokens(mirror.good) - tokens(mirror.bad), one.contrast


@pytest.mark.parametrize("kind", ["bpe", "byte_level"])
def test_uniform_model_scores_one_half_in_every_kind_for_any_tokenizer(kind, tmp_path):
    tokenizer = load_tokenizer(str(standin.make_tokenizer(tmp_path, kind=kind)))
    sentences = sorted({sentence for pair in PAIRS for sentence in (pair.good, pair.bad)})
    lengths = dict(zip(sentences, map(len, tokenizer.encode_batch(sentences)), strict=True))
    assert scored(lambda sentence: lengths[sentence] * math.log(640)) == CHANCE


@pytest.mark.slow
def test_untrained_model_scores_one_half_within_the_interval_of_every_kind(tmp_path):
    tokenizer = load_tokenizer(str(standin.make_tokenizer(tmp_path)))
    torch.manual_seed(0)
    model = GPT(dataclasses.replace(get_config("tiny"), vocab_size=640, n_layer=2, n_embd=64, n_head=2, n_kv_head=1)).eval()
    model.init_weights()

    @torch.no_grad()
    def total_nats(sentences: list[str]) -> list[float]:
        ids = [[tokenizer.bos_id, *row] for row in tokenizer.encode_batch(sentences)]
        padded = torch.full((len(ids), max(map(len, ids))), -1)
        for row, of_sentence in zip(padded, ids, strict=True):
            row[: len(of_sentence)] = torch.tensor(of_sentence)
        nats = []
        for rows in padded.split(256):
            nats += model(rows[:, :-1].clamp(min=0), rows[:, 1:], loss_reduction="none").view(len(rows), -1).double().sum(1).tolist()
        return nats

    scores = score_pairs(total_nats, PAIRS)
    for kind, score in {**scores.kinds, "all": scores.total}.items():
        assert score.low < 0.5 < score.high, kind


# ---- scores


def test_perfect_scorer_scores_1_and_inverted_scorer_0():
    good = {pair.good for pair in PAIRS}
    assert set(scored(lambda sentence: sentence not in good).values()) == {1.0}
    assert set(scored(lambda sentence: sentence in good).values()) == {0.0}


def test_tie_counts_half_and_the_worst_mistakes_come_first():
    pairs = [Pair("gender", f"ठीक {i}", f"गलत {i}", f"gender {i // 2}") for i in range(4)]
    margins = {0: 3.0, 1: -TIE / 2, 2: -2e-4, 3: -2.0}
    scores = score_pairs(lambda sentences: [10 + (margins[int(s[-1])] if "गलत" in s else 0) for s in sentences], pairs)
    assert scores.kinds["gender"].right == scores.total.right == 1.5 / 4
    assert scores.wrong == [pairs[3], pairs[2]]
    assert scores.mistakes(1) == "gender: ठीक 3 / *गलत 3"
    assert scores.total.pairs == 4
    assert (scores.total.low, scores.total.high) == wilson(1.5 / 4, 2)  # two contrasts


@pytest.mark.parametrize(("share", "n"), [(0, 5), (0.3, 20), (0.5, 61), (0.97, 636), (1, 60)])
def test_interval_ends_are_1_96_standard_deviations_away(share, n):
    low, high = wilson(share, n)
    assert 0 <= low < high <= 1
    for end in (low, high):
        assert (end - share) ** 2 == pytest.approx(1.959964**2 * end * (1 - end) / n, abs=1e-9)


def test_interval_covers_the_true_score_when_mirrored_pairs_agree():
    generator = torch.Generator().manual_seed(0)
    for skill in (0.5, 0.8, 0.95):
        right = torch.rand(2000, 70, generator=generator) < skill  # 70 contrasts, two thousand times
        held = [low <= skill <= high for low, high in (wilson(share, 70) for share in right.double().mean(1).tolist())]
        assert 0.92 < sum(held) / len(held) < 0.98


def test_report_has_a_line_for_each_kind_and_one_for_all():
    lines = score_pairs(lambda sentences: [0.0] * len(sentences), PAIRS).report().splitlines()
    assert [line.split()[0] for line in lines[1:]] == [*KINDS, "all"]
    assert all(" 50.0% " in line for line in lines[1:])
    assert len(set(map(len, lines))) == 1
    assert lines[-1].split()[-1] == str(len(PAIRS))


# ---- the command


def test_command_writes_every_pair_as_a_line_of_json(tmp_path):
    done = run_script("-m", "nano_hindi.minimal_pairs", "--output", tmp_path / "new" / "pairs.jsonl")
    assert (done.returncode, done.stderr) == (0, "")
    text = (tmp_path / "new" / "pairs.jsonl").read_bytes().decode("utf-8")
    assert [Pair(**json.loads(line)) for line in text.splitlines()] == PAIRS
    assert "\\u" not in text
    assert "\r" not in text


def test_command_prints_some_of_each_kind_without_torch():
    done = run_script(
        "-c", "import runpy, sys; sys.argv[1:] = []; runpy.run_module('nano_hindi.minimal_pairs.__main__'); print('torch' in sys.modules)"
    )
    assert done.stdout.splitlines()[-1] == "False"
    shown = run_script("-m", "nano_hindi.minimal_pairs").stdout
    for kind in KINDS:
        assert f"\n{kind} (" in "\n" + shown
        assert of_kind(kind)[0].bad in shown


def test_harness_tasks_have_every_pair_with_the_correct_sentence_first(tmp_path):
    folder = tmp_path / "काम: 1"  # a colon and a space are special in YAML
    done = run_script("-m", "nano_hindi.minimal_pairs", "--lm_eval", folder)
    assert (done.returncode, done.stderr) == (0, "")
    group = yaml.safe_load((folder / "nano_hindi_pairs.yaml").read_text(encoding="utf-8"))
    tasks = {
        task["task"]: task
        for path in folder.glob("*.yaml")
        if "task" in (task := yaml.safe_load(path.read_text(encoding="utf-8"))) and "group" not in task
    }
    assert group["group"] == "nano_hindi_pairs"
    assert group["task"] == [f"nano_hindi_pairs_{kind}" for kind in KINDS]
    assert set(group["task"]) == set(tasks)
    written = []
    for name in group["task"]:
        task = tasks[name]
        assert (task["doc_to_choice"], task["doc_to_target"], task["doc_to_text"], task["target_delimiter"]) == ("{{[good, bad]}}", 0, "", "")
        file = Path(task["dataset_kwargs"]["data_files"]["test"])
        assert file.is_absolute()
        written += [Pair(**json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()]
    assert written == PAIRS
