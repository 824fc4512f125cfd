"""Model files from elsewhere: generate.py, the evaluation and the export check what train.py
checks, before anything is built."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

import generate
from nano_hindi.evaluation import command as evaluation
from nano_hindi.export import command as export

SECONDS = 300  # each takes a few seconds at most; the sizes in these files would take hours, or all memory


def nested(depth: int) -> list:
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


def config(**values):
    return lambda state: state["model_config"].update(values)


def whole(**values):
    return lambda state: state.update(values)


def weight(change):
    return lambda state: change(state["model_state_dict"])


FOREIGN = {
    "a billion layers": (config(n_layer=10**9), "n_layer must be a whole number, at least 1 and below 1024, not 1000000000"),
    "ten billion heads": (config(n_head=10**10), "n_head must be a whole number, at least 1 and below 4096, not 10000000000"),
    "a billion heads of width 2": (
        config(n_embd=2**31 - 2, n_head=2**30 - 1, n_kv_head=2),
        "n_head must be a whole number, at least 1 and below 4096, not 1073741823",
    ),
    "a context of 10**12": (config(sequence_len=10**12), "sequence_len must be a whole number, at least"),
    "a vocabulary of 10**12": (config(vocab_size=10**12), "vocab_size must be a whole number, at least"),
    "a vocabulary of 10**25": (config(vocab_size=10**25), "vocab_size must be a whole number, at least"),
    "a vocabulary of 2**30": (config(vocab_size=2**30), "does not fit its own configuration"),
    "a vocabulary with fewer tokens": (config(vocab_size=500), "vocab_size is 500, but its tokenizer has 512"),
    "a width of 10**15": (config(n_embd=10**15), "n_embd must be a whole number, at least"),
    "a width of 2**30": (config(n_embd=2**30), "does not fit its own configuration"),
    "true for a number": (config(n_layer=True), "n_layer must be a whole number, at least 1 and below 1024, not True"),
    "a fraction for a number": (config(n_embd=32.0), "n_embd must be a whole number, at least 1 and below 2**24, not 32.0"),
    "a number for a name": (lambda state: state["model_config"].update({7: 1}), "GPTConfig has no field 7"),
    "a long unknown name": (config(**{"x" * 10**6: 1}), "GPTConfig has no field x"),
    "a long pattern": (config(window_pattern="X" * 10**6), "window_pattern 'XXX"),
    "numbers for names of weights": (weight(lambda weights: weights.update({1: torch.zeros(1)})), "1 is missing or unexpected"),
    "a deep list for the format": (whole(format=nested(200)), "has format [[[["),
    "a long list for the format": (whole(format=list(range(10**5))), "has format [0, 1, 2"),
    "a tensor for the format": (whole(format=torch.zeros(3)), "has format tensor("),
    "true for the format": (whole(format=True), "has format True"),
    "true for the step": (whole(step=True), "its step cannot be used"),
    "a step of 10**600": (whole(step=10**600), "step 1000"),
    "a weight that is not a number": (weight(lambda weights: weights["lm_head.weight"][3, 4].fill_(float("nan"))), "lm_head.weight has 1 non-finite"),
    "a word for a weight": (weight(lambda weights: weights.update({"lm_head.weight": "heavy"})), "lm_head.weight is a str"),
    "one value for all": (weight(lambda weights: weights.update({"lm_head.weight": torch.zeros(1).expand(512, 32)})), "does not hold the values"),
}


@pytest.fixture
def commands(tmp_path) -> list:
    """Return the three commands that read a model, for the folder `run` of tmp_path."""
    checkpoint, text = str(tmp_path / "run"), tmp_path / "text.txt"
    text.write_text("राम घर जाता है।", encoding="utf-8")
    return [
        lambda: generate.main(["--checkpoint", checkpoint, "--prompt", "राम", "--max_tokens", "3", "--device", "cpu"]),
        lambda: evaluation.main(["--checkpoint", checkpoint, "--text", str(text), "--device", "cpu"]),
        lambda: export.main(["--checkpoint", checkpoint, "--output_dir", str(tmp_path / "out")]),
    ]


def saved(straight: Path, folder: Path, change) -> None:
    """Write the model of `straight`, changed by `change`, and its tokenizer into `folder`."""
    shutil.copytree(straight / "tokenizer", folder / "tokenizer")
    state = torch.load(straight / "model.pt", weights_only=True)
    change(state)
    torch.save(state, folder / "model.pt")


@pytest.mark.timeout(SECONDS)
@pytest.mark.parametrize(("damage", "words"), FOREIGN.values(), ids=FOREIGN)
def test_foreign_model_is_one_line_in_every_command(straight, tmp_path, commands, capsys, damage, words):
    saved(straight, tmp_path / "run", damage)
    for command in commands:
        assert command() == 2
        output, errors = capsys.readouterr()
        assert output == ""
        assert errors.count("\n") == 1
        assert words in errors
        assert len(errors) < 700 + len(str(tmp_path))
    assert not (tmp_path / "out").exists()


@pytest.mark.timeout(SECONDS)
def test_context_that_does_not_fit_in_memory_is_one_line(straight, tmp_path, commands, capsys):
    resource = pytest.importorskip("resource", reason="needs the limits of POSIX")
    saved(straight, tmp_path / "run", config(sequence_len=2**31 - 1, window_pattern="L"))
    generating, *others = commands
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (2**37, before[1]))  # 137 GB, for machines that have the 1.1 TB
    try:
        assert generating() == 2
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert "not have enough memory for a context of 2,147,483,647 tokens" in capsys.readouterr().err
    for command in others:  # they need no more memory than for their text
        assert command() == 0


def test_damaged_model_of_a_folder_is_skipped_for_its_checkpoint(straight, tmp_path, commands, capsys):
    shutil.copytree(straight, tmp_path / "run")
    os.truncate(tmp_path / "run" / "model.pt", 1000)
    for command in commands:
        assert command() == 0
        assert "notice: skipped" in capsys.readouterr().err


@pytest.mark.timeout(SECONDS)
@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("num_hidden_layers", 10**9, "1000000000 layers, but"),
        ("text_config", {"num_hidden_layers": 10**9}, "1000000000 layers, but"),  # of a model that also reads images
        ("hidden_size", 10**15, "that can be loaded"),
    ],
)
def test_foreign_hugging_face_model_is_one_line(straight, modules_cache, tmp_path, capfd, field, value, words):
    assert export.main(["--checkpoint", str(straight), "--output_dir", str(tmp_path / "model")]) == 0
    config = tmp_path / "model" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text(encoding="utf-8")), "layer_types": None, field: value}), encoding="utf-8")
    (tmp_path / "text.txt").write_text("राम", encoding="utf-8")
    capfd.readouterr()
    arguments = ["--hf", tmp_path / "model", "--trust_remote_code", "--text", tmp_path / "text.txt", "--device", "cpu"]
    assert evaluation.main(list(map(str, arguments))) == 2
    errors = capfd.readouterr().err
    assert errors.count("\n") == 1
    assert words in errors
