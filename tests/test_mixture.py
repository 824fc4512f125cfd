"""Several sources: every prefix of the stream has each of them by its weight, the stream is a pure
function of the position, and runs resume within it to the bit."""

import contextlib
import os
import random
import shutil
import signal
import sys
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import standin
import train
from benchmarks.kill_resume import differences
from conftest import ROOT, SMALL, run_command
from nano_hindi.checkpoint import list_checkpoints, load_checkpoint
from nano_hindi.config import GPTConfig, TrainConfig
from nano_hindi.dataloader import SequenceLoader, TrainBatches
from nano_hindi.distributed import World
from nano_hindi.export.model_card import Card, data_metadata
from nano_hindi.files import read_metadata
from nano_hindi.flags import WeightedFolder, weighted_folder
from nano_hindi.mixture import LONGEST_PERIOD, MixedLoader, Mixture, SourceOrder, normalized
from nano_hindi.token_file import TokenFile
from nano_hindi.training import loop
from nano_hindi.training.curves import by_source, make_figure
from nano_hindi.training.resume import Plan
from nano_hindi.training.text_data import MixtureSource, TextData, different_keys, open_text
from test_faults import curve

T, VOCAB = 4, 10_000
ALONE = World(0, 1, torch.device("cpu"))


def random_weights(rng: random.Random, n: int, highest: int) -> list[Fraction]:
    return normalized([Fraction(rng.randint(1, highest), rng.choice([1, 1, 3])) for _ in range(n)])


# ---- the order of the sources


def test_every_prefix_has_each_source_to_within_one_sequence():
    rng = random.Random(0)
    cases = [random_weights(rng, n, highest) for n in range(1, 8) for highest in (2, 30, 300)]
    for weights in [*cases, normalized([Fraction(1), Fraction(98), Fraction(1, 50_000), Fraction(7, 3)])]:
        period = SourceOrder(weights).period
        sources = SourceOrder(weights).sources(0, 2 * period + 3)
        assert (SourceOrder([Fraction(0), *weights]).sources(0, len(sources)) == sources + 1).all()  # one that is not read changes nothing
        lengths = np.arange(1, len(sources) + 1)
        for i, weight in enumerate(weights):  # in whole numbers, so that nothing is rounded
            count = (sources == i).cumsum()
            assert (np.abs(count * period - lengths * int(weight * period)) < period).all(), weights


def test_weights_sum_to_one_and_none_is_rounded_to_nothing():
    rng = random.Random(1)
    for n in range(1, 8):
        given = [Fraction(rng.randint(1, 10 ** rng.randint(1, 9)), 10**6) for _ in range(n)]
        weights = normalized(given)
        assert sum(weights) == 1
        assert min(weights) * LONGEST_PERIOD >= 1
        for weight, expected in zip(weights, given, strict=True):
            assert abs(weight - expected / sum(given)) <= Fraction(n, LONGEST_PERIOD)
    assert normalized([Fraction("0.6"), Fraction("0.3"), Fraction("0.1")]) == [Fraction(3, 5), Fraction(3, 10), Fraction(1, 10)]


def test_order_never_changes():
    """A resumed run must continue in the order of the interrupted run, whatever version it has."""
    assert SourceOrder([Fraction(3, 5), Fraction(3, 10), Fraction(1, 10)]).sources(0, 10).tolist() == [0, 1, 0, 0, 1, 0, 2, 0, 1, 0]
    small = Fraction(1, 10**9)
    for given, expected in (((10_001, 3, 4), [9993, 3, 4]), ((98, Fraction(1, 3), Fraction(1, 3), small, small, small), [9931, 33, 33, 1, 1, 1])):
        assert [weight * 10_000 for weight in normalized([Fraction(weight) for weight in given])] == expected


# ---- the stream


@pytest.fixture(scope="module")
def loaders(tmp_path_factory) -> list[SequenceLoader]:
    """Return loaders of 5, 11 and 3 sequences, whose tokens tell the source and the sequence."""
    folder, made = tmp_path_factory.mktemp("tokens"), []
    for i, sequences in enumerate((5, 11, 3)):
        (1000 * i + np.arange(sequences * T + 1)).astype("<u4").tofile(folder / str(i))
        made.append(SequenceLoader(TokenFile(folder / str(i), VOCAB), T, seed=1))
    return made


def mixed(loaders, anneal_start=40) -> MixedLoader:
    weights, anneal = [Fraction(7, 10), Fraction(3, 10), Fraction(0)], [Fraction(0), Fraction(1, 3), Fraction(2, 3)]
    return MixedLoader(loaders, Mixture(weights, anneal, anneal_start))


def test_each_source_is_read_in_its_own_order_through_both_stages(loaders):
    """The second source is in both: it continues where it was."""
    x, y = mixed(loaders).batch(0, 100)
    assert torch.equal(x[:, 1:], y[:, :-1])
    for i, number in enumerate((28, 12 + 20, 40)):
        rows = x[:, 0] // 1000 == i
        assert torch.equal(x[rows], loaders[i].batch(0, number)[0])
    assert (x[:40, 0] < 2000).all()
    assert (x[40:, 0] >= 1000).all()


def test_any_slice_of_the_stream_equals_the_sequential_one(loaders):
    stream = mixed(loaders)
    one_by_one = torch.cat([stream.batch(i, 1)[0] for i in range(90)])
    for start in range(0, 80, 3):
        for count in (1, 2, 7, 90 - start):
            assert torch.equal(mixed(loaders).batch(start, count)[0], one_by_one[start : start + count])
    for update in (0, 3, 4, 5):  # the anneal begins within update 4: each of two ranks reads half of the same sequences
        parts = []
        for rank in range(2):
            with TrainBatches(mixed(loaders, 42), per_update=10, device_batch_size=2, rank=rank, world_size=2) as batches:
                parts += [x for x, _, _ in batches.of(update)]
        assert torch.equal(torch.cat(parts), mixed(loaders, 42).batch(update * 10, 10)[0])


def test_one_source_gives_the_stream_of_its_loader(loaders):
    alone = MixedLoader(loaders[1:2], Mixture([Fraction(1)]))
    for start, count in ((0, 30), (9, 5), (10_000, 1)):
        for ours, expected in zip(alone.batch(start, count), loaders[1].batch(start, count), strict=True):
            assert torch.equal(ours, expected)


@pytest.mark.parametrize(
    ("update", "saved_start", "total", "expected"),
    [
        (0, None, 100, 90),
        (50, 90, 100, 90),
        (50, 90, 200, 180),  # it has not begun, so it moves
        (90, 90, 200, 180),
        (91, 90, 200, 90),  # it has
        (100, 90, 200, 90),
        (50, 90, 52, 50),  # not to before what has been read
        (0, None, 1, 0),
    ],
)
def test_another_budget_moves_an_anneal_that_has_not_begun(update, saved_start, total, expected):
    config = TrainConfig(batch_size=1, gradient_accumulation_steps=1, sequence_len=4, total_tokens=4 * total)
    saved = None if saved_start is None else {"tokens_seen": 4 * update, "data": {"anneal_start": saved_start}}
    assert Plan("tiny", GPTConfig(), config, SimpleNamespace(has_anneal=True), saved).anneal_start == expected
    assert Plan("tiny", GPTConfig(), config, SimpleNamespace(has_anneal=False), saved).anneal_start is None


# ---- flags and names


def test_startup_summary_says_how_often_each_source_is_seen_in_both_stages():
    """9 of 12 updates of 10 sequences are before the anneal."""
    config = TrainConfig(batch_size=5, gradient_accumulation_steps=2, sequence_len=4, total_tokens=480)
    folders = [("news", 29 * 4, Fraction(4, 5), Fraction(1, 2)), ("stories", 66 * 4, Fraction(1, 5), Fraction(1, 2))]
    both = TextData(
        [MixtureSource(name, Path(name), SimpleNamespace(train_tokens=tokens, tokenizer=None), *weights) for name, tokens, *weights in folders]
    )
    assert both.lines(config, 9) == [
        "data        news: weight 0.8, 116 tokens to train on, seen 3.00 times",
        "            stories: weight 0.2, 264 tokens to train on, seen 0.50 times",
        "anneal      after step 18, for 3 updates: news 0.5, stories 0.5",
    ]
    for tokens, seen, notices in ((160, "3.00", 0), (120, "4.00", 0), (100, "4.80", 1)):
        alone = TextData([MixtureSource("news", Path("news"), SimpleNamespace(train_tokens=tokens, tokenizer=None), Fraction(1), Fraction(0))])
        line, *notice = alone.lines(config, None)
        assert line == f"data        {tokens} tokens to train on, seen {seen} times"
        assert len(notice) == notices
        assert all(line.startswith("notice: text read more than 4 times teaches little; ") for line in notice)


def test_folder_with_an_equals_sign_is_a_plain_path_if_it_exists(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lr=0.1").mkdir()
    for text, folder, weight in (
        ("news", "news", None),
        ("news=0.6", "news", "0.6"),
        ("lr=0.1", "lr=0.1", None),
        ("lr=0.1=3", "lr=0.1", "3"),
        ("lr=0.2/data", "lr=0.2/data", None),
        ("x=.5", "x", "0.5"),
    ):
        given = weighted_folder(text)
        assert (str(given.folder), given.weight) == (str(tmp_path.joinpath(folder).relative_to(tmp_path)), weight and Fraction(weight))
    assert train.parse([]).data_dir == [WeightedFolder(ROOT / "data")]


# ---- runs


@pytest.fixture(scope="module")
def stories(data_dir, tmp_path_factory):
    """Return a second data folder with the tokenizer of the first."""
    return prepared(tmp_path_factory.mktemp("prepared") / "stories", data_dir / "standin")


def prepared(folder, tokenizer, documents=90, val_fraction=0.3):
    return standin.make_data(folder, standin.documents(documents, seed=7), tokenizer, val_fraction)


def flags(data_dir, stories) -> list[str]:
    """Return the flags of a run of 12 updates: both sources, and from update 9 on an anneal."""
    mixture = ["--data_dir", f"{data_dir}=0.8", f"{stories}=0.2", "--anneal_data_dir", f"{stories}=3", f"{data_dir}=1"]
    return [*SMALL, *mixture, "--anneal_fraction", "0.25", "--keep_checkpoints", "9", "--checkpoint_interval", "2"]


@pytest.fixture(scope="module")
def run(data_dir, stories, tmp_path_factory):
    """Return the folder of an uninterrupted run; run.log beside it is its output."""
    folder = tmp_path_factory.mktemp("mixed") / "run"
    with open(folder.with_suffix(".log"), "w", encoding="utf-8") as log, contextlib.redirect_stdout(log):
        assert train.main([*flags(data_dir, stories), "--checkpoint_dir", str(folder)]) == 0
    return folder


def outcome(folder) -> tuple[dict, list[dict]]:
    return load_checkpoint(list_checkpoints(folder)[-1][1]), curve(folder)


def assert_equal(found, expected) -> None:
    assert list(differences(found[0], expected[0])) == []
    assert found[1] == expected[1]


@pytest.mark.slow
@pytest.mark.parametrize("step", [8, 18, 20])
def test_run_resumed_in_either_stage_equals_the_uninterrupted_one_to_the_bit(data_dir, stories, run, tmp_path, step):
    folder = shutil.copytree(run, tmp_path / "run")
    for later in [path for number, path in list_checkpoints(folder) if number > step]:
        later.unlink()
    (folder / "model.pt").unlink()
    assert train.main([*flags(data_dir, stories), "--checkpoint_dir", str(folder), "--resume", "auto"]) == 0
    assert_equal(outcome(folder), outcome(run))


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_run_killed_in_the_anneal_resumes_to_the_bit(data_dir, stories, run, tmp_path):
    argv = [*flags(data_dir, stories), "--checkpoint_dir", str(tmp_path)]
    program = f"""
import os, signal, sys
sys.path.insert(0, {str(ROOT)!r})
import train
from nano_hindi.training import loop
real = loop.train_update
def train_update(run, stop):
    if run.update == 11:
        run.saver.wait()
        os.kill(os.getpid(), signal.SIGKILL)
    return real(run, stop)
loop.train_update = train_update
train.main({argv!r})
"""
    assert run_command([sys.executable, "-c", program], fork=True).returncode == -signal.SIGKILL
    assert list_checkpoints(tmp_path)
    assert train.main([*argv, "--resume", "auto"]) == 0
    assert_equal(outcome(tmp_path), outcome(run))


def test_log_metrics_and_curves_have_each_source_and_their_mean(data_dir, run):
    out, name = run.with_suffix(".log").read_text(encoding="utf-8"), data_dir.name
    assert f"data        {name}: weight 0.8, " in out
    assert "            stories: weight 0.2, " in out
    assert f"anneal      after step 18, for 3 updates: {name} 0.25, stories 0.75" in out
    assert out.count("the anneal begins") == 1
    assert "step 18/24 (update 9/12) | the anneal begins" in out
    records = outcome(run)[1]
    [first, *_] = evaluations = [record for record in records if "val_bpb" in record]
    for key in ("val_loss", "val_bpb"):
        assert first[key] == pytest.approx((first[f"{key}/{name}"] + first[f"{key}/stories"]) / 2)
        assert first[f"{key}/{name}"] != first[f"{key}/stories"]
    assert f"| validation of stories: loss {first['val_loss/stories']:.4f}, {first['val_bpb/stories']:.4f} bits per byte" in out
    panel = make_figure({"run": records}).axes[1]
    assert [text.get_text() for text in panel.get_legend().get_texts()] == ["mean", name, "stories"]
    drawn = [line.get_ydata().tolist() for line in panel.get_lines()]
    assert [record["val_bpb/stories"] for record in evaluations] in drawn
    assert list(by_source(records)) == [name, "stories"]


def test_retried_evaluation_repeats_no_source_that_is_done(data_dir, stories, tmp_path, monkeypatch, capsys):
    evaluated, real = [], loop.evaluate_model

    def fails_once(model, batches, token_bytes):
        x, _ = next(batches := iter(batches))
        evaluated.append((x[0, :4].tolist(), len(x)))
        if len(evaluated) == 2:  # another rank would wait for the second all-reduce, not for the first again
            raise torch.cuda.OutOfMemoryError
        return real(model, batches, token_bytes)

    monkeypatch.setattr(loop, "evaluate_model", fails_once)
    argv = ["--data_dir", str(data_dir), str(stories), "--total_tokens", "1", "--checkpoint_dir", str(tmp_path)]
    assert train.main([*SMALL, *argv]) == 0
    (first, full), (second, _), again = evaluated
    assert (again, first != second) == ((second, full // 2), True)
    saved = load_checkpoint(list_checkpoints(tmp_path)[-1][1])
    assert saved["train_config"]["device_batch_size"] == "auto"  # the next start measures anew
    assert f"continuing with {full // 2}" in capsys.readouterr().out


def test_model_card_says_that_the_text_is_a_mixture(data_dir, run):
    training = outcome(run)[0]
    card = Card(GPTConfig(), 24, "float32", "transformers", False, run, training, data_metadata(data_dir, training))
    assert "a mixture of 2 folders" in card.notices()[0]
    assert "A mixture of 2 folders." in " ".join(card.data_section())


def test_other_mixtures_and_damage_are_refused_by_name(data_dir, stories, run, tmp_path, capsys):
    other = prepared_with_another_tokenizer(tmp_path)
    small, damaged = prepared(tmp_path / "small", data_dir / "standin", 12, 0.8), shutil.copytree(stories, tmp_path / "damaged")
    with open(damaged / "train.bin", "r+b") as file:
        file.seek(400)
        file.write(bytes(400))
    resumed = [*flags(data_dir, stories), "--resume", "auto", "--checkpoint_dir", run]
    new = [*SMALL, "--checkpoint_dir", tmp_path / "new", "--data_dir"]
    for argv, words in (
        ([*new, data_dir, damaged], f"{damaged / 'train.bin'} is damaged"),
        ([*new, data_dir, other], f"{other} has another tokenizer than {data_dir}"),
        ([*new, data_dir, stories, stories / ".." / "stories"], "names the folder"),
        ([*new, f"{data_dir}=1", stories], "weights for some of its folders only"),
        ([*new, data_dir, f"{stories}=0"], "positive number W"),
        ([*new, data_dir, f"{stories}=-1"], "positive number W"),
        ([*new, data_dir, f"{stories}=nan"], "positive number W"),
        ([*new, data_dir, small, "--sequence_len", "256", "--dry_run"], f"{small / 'train.bin'} holds"),
        ([*new, data_dir, stories, "--anneal_fraction", "0.2"], "--anneal_fraction belongs to --anneal_data_dir"),
        ([*resumed, "--data_dir", f"{data_dir}=0.7", f"{stories}=0.3"], "data source 1 weight, data source 2 weight differ"),
        ([*resumed, "--data_dir", data_dir], "data source"),
        ([*resumed, "--anneal_data_dir", stories], "data source 1 anneal_weight, data source 2 anneal_weight differ"),
        ([*resumed, "--anneal_fraction", "0.5"], "--anneal_fraction 0.5 (checkpoint: 0.25)"),
    ):
        assert train.main([str(x) for x in argv]) == 2, words
        assert words in capsys.readouterr().err
    capsys.readouterr()
    moved = shutil.copytree(stories, tmp_path / "moved")
    assert (
        train.main([str(x) for x in (*flags(data_dir, moved), "--resume", "auto", "--checkpoint_dir", run, "--dry_run", "--total_tokens", 6144)]) == 0
    )
    output = capsys.readouterr().out
    assert "notice: the anneal begins after step 18, not 36 as this budget implies" in output
    assert "anneal      after step 18, for 15 updates" in output


def test_budget_that_is_spent_before_the_anneal_announces_none(data_dir, stories, run, tmp_path, capsys):
    resumed = ["--resume", run / "checkpoint_step8.pt", "--checkpoint_dir", tmp_path, "--total_tokens", 512]
    assert train.main([str(x) for x in (*flags(data_dir, stories), *resumed)]) == 0
    assert "1,024 tokens are done, more than the 512 of --total_tokens: the run ends here" in (out := capsys.readouterr().out)
    assert "the anneal begins" not in out
    assert "anneal      after step" not in out


def test_record_of_a_mixture_without_an_anneal_holds_every_folder(data_dir, stories):
    def record(weight: str) -> dict:
        return open_text([weighted_folder(f"{data_dir}={weight}"), weighted_folder(f"{stories}=0.2")], [], ALONE, every_chunk=False).record(None)

    digests = [read_metadata(folder / "preprocess_meta.txt")["train_digest"] for folder in (data_dir, stories)]
    assert [source["train_digest"] for source in record("0.8")["sources"]] == digests
    assert different_keys(record("0.8"), record("0.6")) == ["source 1 weight", "source 2 weight"]


def test_resume_without_the_anneal_is_refused_even_if_the_folder_is_the_same(data_dir, tmp_path, capsys):
    short = [*SMALL, "--total_tokens", 1024, "--data_dir", data_dir, "--checkpoint_dir", tmp_path / "run"]
    assert train.main([str(x) for x in (*short, "--anneal_data_dir", data_dir)]) == 0
    capsys.readouterr()
    assert train.main([str(x) for x in (*short, "--total_tokens", 2048, "--resume", "auto")]) == 2
    assert "data sources differ; give the right --data_dir and --anneal_data_dir, or" in capsys.readouterr().err


def prepared_with_another_tokenizer(folder):
    standin.make_tokenizer(folder / "standin", vocab_size=600)
    return prepared(folder / "other", folder / "standin")
