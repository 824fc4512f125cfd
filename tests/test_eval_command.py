"""`python -m nano_hindi.eval` as a user runs it."""

import json
import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import standin
from conftest import run_script
from nano_hindi.corpus.documents import read_documents
from nano_hindi.corpus.tokenize import is_for_validation
from nano_hindi.evaluation import command
from nano_hindi.evaluation.scoring import CheckpointScorer, Scored
from nano_hindi.inference.loading import load_for_inference
from nano_hindi.minimal_pairs import pairs, score_pairs
from nano_hindi.minimal_pairs.__main__ import write_pairs
from test_scoring import save_hugging_face


@pytest.fixture
def story(tmp_path):
    return standin.write_corpus(tmp_path / "stories.txt", standin.documents(25, seed=11))


def evaluated(tmp_path, *argv) -> dict:
    assert command.main([*map(str, argv), "--json", str(tmp_path / "figures.json"), "--device", "cpu"]) == 0
    return json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"), parse_constant=lambda _: pytest.fail("JSON knows no NaN"))


def test_figures_match_the_text(straight, story, tmp_path, capsys):
    found = evaluated(tmp_path, "--checkpoint", straight, "--text", story)
    texts = list(read_documents(story))
    scored = list(CheckpointScorer(load_for_inference(straight), torch.device("cpu")).score(texts))
    nats = sum(document.losses.sum() for document in scored)
    size = sum(len(text.encode()) for text in texts)
    assert found["documents"] == 25
    assert found["bytes"] == size
    assert found["words"] == sum(len(text.split()) for text in texts)
    assert found["bits_per_byte"] == pytest.approx(nats / math.log(2) / size)
    assert found["bits_per_byte_interval"][0] < found["bits_per_byte"] < found["bits_per_byte_interval"][1]
    assert sum(row["tokens"] for row in found["by_position"]) == found["tokens"] == sum(len(document.losses) for document in scored)
    shown = capsys.readouterr().out
    assert f"{found['bits_per_byte']:.4f}" in shown
    assert all(passage["text"] in shown for passage in found["best"] + found["worst"])


def test_place_for_the_figures_is_checked_before_the_work(tmp_path, capsys):
    for place, message in ((tmp_path / "none" / "x.json", "its folder does not exist"), (tmp_path, "this is a folder")):
        assert command.main(["--checkpoint", "nothing", "--json", str(place)]) == 2
        assert message in capsys.readouterr().err


def test_without_text_it_scores_the_documents_of_val_bin(straight, data_dir, tmp_path):
    args = command.parse(["--checkpoint", str(straight), "--data_dir", str(data_dir)])
    held_out = [text for text in read_documents(data_dir / "corpus.txt") if is_for_validation(text.encode(), 0.1)]
    read = command.read_texts(args)
    assert sorted(read) == sorted(held_out)
    args.max_bytes = sum(len(text.encode()) for text in held_out) // 3
    some = command.read_texts(args)  # from all of the file, which has the sources one after another
    assert read[: len(some) - 1] == some[:-1]
    thirds = {3 * held_out.index(text) // len(held_out) for text in some[:-1]}
    assert thirds == {0, 1, 2}
    found = evaluated(tmp_path, "--checkpoint", straight, "--data_dir", data_dir)
    assert found["documents"] == len(held_out) > 10


def test_models_with_different_tokenizers_are_compared_on_the_same_bytes(straight, story, tmp_path, capsys):
    found = [evaluated(tmp_path, "--checkpoint", straight, "--text", story)]
    for kind in ("llama", "gpt2"):
        found.append(evaluated(tmp_path, "--hf", save_hugging_face(tmp_path / kind, kind), "--text", story))
    assert len({(figures["documents"], figures["bytes"], figures["words"]) for figures in found}) == 1
    assert len({figures["tokens"] for figures in found}) == 3
    assert found[0]["bits_per_byte"] < min(figures["bits_per_byte"] for figures in found[1:])  # the others are random


def test_pairs_are_decided_by_the_losses_of_whole_sentences(straight, tmp_path, capsys):
    found = evaluated(tmp_path, "--checkpoint", straight, "--pairs")
    scorer = CheckpointScorer(load_for_inference(straight), torch.device("cpu"))
    scores = score_pairs(lambda sentences: [sum(scored.losses) for scored in scorer.score(sentences)], pairs())
    assert found["pairs"]["all"] == {"right": scores.total.right, "low": scores.total.low, "high": scores.total.high, "pairs": len(pairs())}
    assert list(found["pairs"]) == [*scores.kinds, "all"]
    assert "bits_per_byte" not in found  # no text was given
    out = capsys.readouterr().out
    assert scores.report() in out
    assert scores.mistakes() in out


def test_pairs_of_files_are_scored_by_kind(straight, tmp_path, capsys):
    one, other = pairs()[:30], pairs()[-30:]
    write_pairs(tmp_path / "one.jsonl", one)
    kinds = [f"a kind with a long name, {number}\x1b" for number in (1, 2)]
    rows = [["sen", "wrong_sen", "phenomenon"], *([pair.good, pair.bad, kinds[i % 2]] for i, pair in enumerate(other))]
    (tmp_path / "hin.tsv").write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")
    found = evaluated(tmp_path, "--checkpoint", straight, "--pairs", tmp_path / "one.jsonl", tmp_path / "hin.tsv")["pairs"]
    scorer = CheckpointScorer(load_for_inference(straight), torch.device("cpu"))
    for kind, some in [(one[0].kind, one), *((kind, other[i::2]) for i, kind in enumerate(kinds))]:
        points = [bad.losses.sum() > good.losses.sum() for good, bad in (scorer.score([pair.good, pair.bad]) for pair in some)]
        assert found[kind]["right"] == pytest.approx(np.mean(points))
    assert found["all"]["pairs"] == 60
    out = capsys.readouterr().out
    table = [line for line in out.splitlines() if line.endswith((" 30", " 15", " 60", " pairs"))]
    assert len(table) == 5
    assert len({len(line.replace("\\x1b", "x")) for line in table}) == 1  # aligned
    assert "\x1b" not in out


def test_mistakes_have_no_heading_if_there_are_none(straight, tmp_path, capsys):
    (tmp_path / "pairs.tsv").write_text("good\tbad\nराम\tराम ॐ ॐ ॐ\n", encoding="utf-8")
    assert evaluated(tmp_path, "--checkpoint", straight, "--pairs", tmp_path / "pairs.tsv")["pairs"]["all"]["right"] == 1
    assert "the worst mistakes" not in capsys.readouterr().out


def test_sentences_that_the_tokenizer_loses_are_reported(capsys):
    def scorer(loses: str) -> SimpleNamespace:
        one = np.ones(1)
        return SimpleNamespace(score=lambda sentences: [Scored(sentence, one, one, one, lost=loses in sentence) for sentence in sentences])

    lossy = sum("ऊ" in sentence for pair in pairs() for sentence in (pair.good, pair.bad))
    assert command.scores_of_pairs(scorer("ऊ"), pairs()).total.right == 0.5
    assert f"loses characters in {lossy} of {2 * len(pairs()):,} sentences" in capsys.readouterr().out
    command.scores_of_pairs(scorer("x"), pairs())
    assert "loses" not in capsys.readouterr().out


def test_pairs_and_text_together(straight, story, tmp_path):
    both = evaluated(tmp_path, "--checkpoint", straight, "--pairs", "--text", story)
    text = evaluated(tmp_path, "--checkpoint", straight, "--text", story)
    assert {name: both[name] for name in text} == text
    assert "pairs" in both


def test_max_bytes_limits_the_text(straight, story, tmp_path):
    whole = b"".join(text.encode() for text in read_documents(story))
    found = evaluated(tmp_path, "--checkpoint", straight, "--text", story, story, "--max_bytes", 700)
    assert 700 - 3 <= found["bytes"] <= 700
    args = command.parse(["--checkpoint", "x", "--text", str(story), "--max_bytes", "700"])
    assert whole.startswith("".join(command.read_texts(args)).encode())


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], "--checkpoint"),
        (["--checkpoint", "a", "--hf", "b"], "not allowed"),
        (["--checkpoint", "a", "--trust_remote_code"], "--hf"),
        (["--checkpoint", "{run}", "--max_bytes", "0"], "--max_bytes"),
        (["--checkpoint", "{run}", "--text", "missing.txt"], "missing.txt"),
        (["--checkpoint", "{tmp}", "--pairs", "{tmp}/story.csv"], "story.csv, line 2"),  # before the model is loaded
        (["--checkpoint", "{run}", "--text", "{tmp}/story.doc"], ".parquet"),
        (["--checkpoint", "{run}", "--text", "{tmp}/blank.txt"], "no text"),
        (["--checkpoint", "{run}", "--data_dir", "{tmp}"], "preprocess_meta.txt"),
        (["--checkpoint", "{tmp}", "--text", "{tmp}/story.txt"], "no checkpoint"),
        (["--hf", "{tmp}/nowhere", "--text", "{tmp}/story.txt"], "nowhere; --hf takes a folder"),
        (["--hf", "sarvamai/sarvam-1", "--text", "{tmp}/story.txt"], "there is no folder sarvamai"),  # not the hub's tokenizer
        (["--hf", "{tmp}", "--text", "{tmp}/story.txt"], "tokenizer.json"),
    ],
)
def test_user_error_is_one_line_with_code_2(argv, words, straight, tmp_path, capsys):
    for name, text in (("story.txt", "राम"), ("story.csv", "good,bad\nराम\n"), ("story.doc", "राम"), ("blank.txt", " \n")):
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert command.main([word.format(run=straight, tmp=tmp_path) for word in argv]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert words in error


def test_custom_model_code_runs_only_if_trusted(story, modules_cache, tmp_path, capsys):
    folder = save_hugging_face(tmp_path / "hf", "llama")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        "print('the code of the folder runs')\n"
        "class OwnConfig(LlamaConfig):\n    model_type = 'own'\n"
        "class OwnModel(LlamaForCausalLM):\n    config_class = OwnConfig\n"
    )
    argv = ["--hf", str(folder), "--text", str(story), "--device", "cpu"]
    assert command.main(argv) == 2
    refused = capsys.readouterr()
    assert "--trust_remote_code" in refused.err
    assert "the code of the folder runs" not in refused.out
    assert command.main([*argv, "--trust_remote_code"]) == 0
    assert "the code of the folder runs" in capsys.readouterr().out


def test_help_does_not_import_torch():
    done = run_script("-c", "import sys, nano_hindi.evaluation.command as e\ntry: e.main(['--help'])\nfinally: assert 'torch' not in sys.modules")
    assert done.returncode == 0, done.stderr
    assert "--hf DIR" in done.stdout
    assert sys.flags.utf8_mode or done.stdout.isascii()
