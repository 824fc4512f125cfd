"""--init_from: a new run with the weights of a trained model."""

import dataclasses
import os
import re
import signal
import sys
from pathlib import Path

import pytest
import torch

import standin
import train
from conftest import arguments, run_command, start
from nano_hindi.checkpoint import list_checkpoints
from nano_hindi.config import TrainConfig, get_train_config
from nano_hindi.optim import learning_rate_scale
from nano_hindi.training import loop
from nano_hindi.training.metrics import read_metrics


def load(path: Path) -> dict:
    return torch.load(path, weights_only=True)


def other_data(folder: Path, tokenizer: Path) -> Path:
    """Return a data folder with other documents than `data_dir`."""
    return standin.make_data(folder, standin.documents(300, seed=7), tokenizer)


@pytest.fixture
def first_update(monkeypatch) -> list:
    """Return a list to which the first update of each run appends its weights, its optimizer states
    and its position before it."""
    real, seen = loop.train_update, []

    def train_update(run, stop):
        if not seen or seen[-1][0] is not run:
            weights = {name: weight.clone() for name, weight in run.model.state_dict().items()}
            seen.append((run, weights, run.optimizer.state_dict(), run.update))
        return real(run, stop)

    monkeypatch.setattr(loop, "train_update", train_update)
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("tied", ["false", "true"])
def test_new_run_has_the_weights_of_the_model_and_nothing_else_of_its_run(data_dir, tmp_path, capsys, first_update, tied):
    shape = ["--tie_embeddings", tied, "--value_embeddings", "false"]
    assert start(data_dir, tmp_path / "old", *shape, "--checkpoint_interval", 10) == 0
    other = other_data(tmp_path / "data", data_dir / "standin")
    steps = {"old": 24, "old/model.pt": 24, "old/checkpoint_step10.pt": 10}
    for number, (model, step) in enumerate(steps.items()):
        folder = tmp_path / f"new {number}"
        capsys.readouterr()
        assert start(other, folder, "--init_from", tmp_path / model, "--log_interval", 1, *shape) == 0
        output = capsys.readouterr().out
        _, weights, optimizers, update = first_update[-1]
        expected = load(tmp_path / "old" / f"checkpoint_step{step}.pt")["model_state_dict"]
        torch.testing.assert_close(weights, expected, rtol=0, atol=0)
        assert (update, optimizers["adamw"]) == (0, {})
        assert not any(momentum.any() for momentum in tensors(optimizers["muon"]))
        assert re.search(rf"^init from   {re.escape(str(tmp_path / 'old'))}.*, step {step}$", output, re.MULTILINE)

        records = [record for record in read_metrics(folder / "metrics.jsonl") if "lr" in record]
        assert [record["step"] for record in records] == list(range(2, 25, 2))
        # 12 updates, 2 of them warm-up: from a tenth of the peak to all of it
        assert [record["lr"] for record in records[:3]] == pytest.approx([0.1 * 0.02, 0.55 * 0.02, 0.02])
        saved = load(list_checkpoints(folder)[-1][1])
        assert saved["parent"] == load(folder / "model.pt")["parent"]
        assert (Path(saved["parent"]["file"]).parent, saved["parent"]["step"]) == (tmp_path / "old", step)
    digests = [load(tmp_path / f"new {number}" / "model.pt")["parent"]["digest"] for number in range(3)]
    assert digests[0] == digests[1] != digests[2]  # that of the weights, whichever file they are in


def tensors(tree) -> list[torch.Tensor]:
    return [tree] if isinstance(tree, torch.Tensor) else [t for branch in tree.values() for t in tensors(branch)] if isinstance(tree, dict) else []


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_run_killed_with_sigkill_resumes_by_the_same_command_to_the_bit(data_dir, straight, tmp_path):
    """The command of a job script, `--init_from MODEL --resume auto`, begins the run and resumes
    it; the kill comes before the update after the checkpoint of step 10."""
    job = ["--init_from", straight, "--resume", "auto"]
    script = (
        "import os, sys, signal, train; from nano_hindi.training import loop\n"
        "real = loop.train_update\n"
        "def train_update(run, stop):\n"
        "    if run.update == 7: run.saver.wait(); os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return real(run, stop)\n"
        "loop.train_update = train_update\n"
        "sys.exit(train.main(sys.argv[1:]))"
    )
    killed = run_command([sys.executable, "-c", script, *arguments(data_dir, tmp_path / "killed", *job)], fork=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert [step for step, _ in list_checkpoints(tmp_path / "killed")] == [10]
    for folder in ("killed", "uninterrupted"):
        assert start(data_dir, tmp_path / folder, *job) == 0
    one, two = (load(tmp_path / folder / "checkpoint_step24.pt") for folder in ("killed", "uninterrupted"))
    for key in ("model_state_dict", "optimizers", "rng"):
        torch.testing.assert_close(one[key], two[key], rtol=0, atol=0)
    assert one["parent"] == two["parent"]
    assert one["train_config"] == two["train_config"]
    assert one["train_config"]["init_lr_fraction"] == 0.1
    one, two = ([{**r, "tokens_per_second": 0} for r in read_metrics(tmp_path / folder / "metrics.jsonl")] for folder in ("killed", "uninterrupted"))
    assert one == two


@pytest.mark.slow
def test_two_ranks_begin_with_the_weights_that_rank_0_has_read(data_dir, straight, tmp_path):
    """The losses are means over both ranks, and equal those of a run with one."""
    assert start(data_dir, tmp_path / "one", "--init_from", straight, "--log_interval", 1) == 0
    argv = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "train.py"]
    done = run_command([*argv, *arguments(data_dir, tmp_path / "two", "--init_from", straight, "--log_interval", 1)])
    assert done.returncode == 0, done.stderr
    one, two = ([r["loss"] for r in read_metrics(tmp_path / folder / "metrics.jsonl") if "loss" in r] for folder in ("one", "two"))
    assert two == pytest.approx(one, rel=1e-4)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--n_layer", "3", "--n_head", "4"], ["--n_layer 3 (model: 2)", "--n_head 4 (model: 2)"]),
        (["--init_lr_fraction", "1.5"], ["--init_lr_fraction must be a number, at least 0 and at most 1"]),
        (["--init_lr_fraction", "0.5", "--warmup_steps", "0"], ["--init_lr_fraction belongs to --warmup_steps N"]),
        (["--adamw_tied_lr", "0.1"], ["--adamw_tied_lr belongs to --tie_embeddings True"]),
    ],
)
def test_flags_that_contradict_the_model_are_refused_in_one_line(data_dir, straight, tmp_path, capsys, flags, words):
    for more in ([], ["--dry_run"]):
        capsys.readouterr()
        assert start(data_dir, tmp_path / "run", "--init_from", straight, *flags, *more) == 2
        errors = capsys.readouterr().err
        assert errors.count("\n") == 1
        assert all(word in errors for word in words)
        assert not (tmp_path / "run").exists()


def test_preset_of_another_shape_is_refused_and_its_recipe_is_used_for_its_own(data_dir, straight, tmp_path, capsys):
    bare = ["--data_dir", str(data_dir), "--checkpoint_dir", str(tmp_path / "run"), "--device", "cpu", "--dry_run", "--init_from", str(straight)]
    assert train.main([*bare, "--config", "tiny"]) == 2
    assert "n_layer of --config tiny: 4 (model: 2), n_kv_head of --config tiny: 2 (model: 1)" in capsys.readouterr().err
    assert train.main(bare) == 0  # no preset has this shape: the recipe of the model's own run, which its model.pt does not have
    assert "plan        12 updates = 24 steps of 4 x 32 tokens" in capsys.readouterr().out
    shape = [
        word
        for name, value in (("n_layer", 2), ("n_head", 2), ("n_kv_head", 1), ("n_embd", 32), ("window_pattern", "SSSL"), ("sequence_len", 32))
        for word in (f"--{name}", str(value))
    ]
    assert train.main([*bare, "--config", "tiny", *shape]) == 0
    recipe = dataclasses.replace(get_train_config("tiny"), sequence_len=32)
    assert f"plan        {recipe.updates:,} updates = {recipe.steps:,} steps of 8 x 32 tokens" in capsys.readouterr().out


def test_new_run_shares_updates_by_ngrams_only_if_it_is_told_to(data_dir, tmp_path, capsys):
    """Its tokens have been read, and the n-grams count reads from its own start."""
    line = "n-grams     64 buckets"
    old = ["--total_tokens", 256, "--ngram_buckets", 64]
    for folder, flags, has_line in (("old", old, True), ("new", [], False), ("told", ["--ngram_buckets", 64], True)):
        more = [] if folder == "old" else ["--init_from", tmp_path / "old", "--dry_run"]
        argv = arguments(data_dir, tmp_path / folder, *flags, *more)
        assert train.main(argv if folder == "old" else argv[2:]) == 0  # without --config, whose recipe has no n-grams
        assert (line in capsys.readouterr().out) == has_line


def test_another_tokenizer_is_refused_by_the_name_of_both(data_dir, straight, tmp_path, capsys):
    other = other_data(tmp_path / "data", standin.make_tokenizer(tmp_path / "tokens", vocab_size=600))
    capsys.readouterr()
    assert start(other, tmp_path / "run", "--init_from", straight) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    for words in (str(other), "tokens (600 tokens", str(straight / "tokenizer"), "(512 tokens"):
        assert words in errors
    assert not (tmp_path / "run").exists()


def test_parent_is_kept_over_a_resume_and_another_one_is_refused(data_dir, straight, tmp_path, capsys):
    run, late, half = tmp_path / "run", ["--total_tokens", "1536", "--resume", "auto"], ["--total_tokens", "768"]
    assert start(data_dir, run, "--init_from", straight / "checkpoint_step20.pt", *half) == 0
    parent = load(run / "model.pt")["parent"]
    for model, words in ((straight, "this run began from"), (run, "this run began from")):
        capsys.readouterr()
        assert start(data_dir, run, *late, "--init_from", model) == 2
        errors = capsys.readouterr().err
        assert errors.count("\n") == 1
        assert words in errors
        assert f"checkpoint_step20.pt (step 20), and --init_from names other weights, {model}" in errors
    assert start(data_dir, run, *late) == 0
    assert f"init from   {straight / 'checkpoint_step20.pt'}, step 20" in capsys.readouterr().out
    assert load(run / "model.pt")["parent"] == parent == load(run / "checkpoint_step12.pt")["parent"]


def test_run_without_a_parent_is_saved_as_before_and_cannot_get_one(data_dir, straight, capsys):
    saved, model = load(straight / "checkpoint_step24.pt"), load(straight / "model.pt")
    assert "parent" not in {*saved, *model}
    for folder, flags, words in (
        (straight, ["--resume", "auto", "--init_from", straight], "did not begin from a model"),
        (straight, ["--init_from", straight], "already holds a run"),
        (straight, ["--resume", "auto", "--init_lr_fraction", "0"], "--init_lr_fraction belongs to --init_from"),
        (straight / "new", ["--init_lr_fraction", "0.1"], "--init_lr_fraction belongs to --init_from"),
    ):
        capsys.readouterr()
        assert start(data_dir, folder, *flags) == 2
        assert words in capsys.readouterr().err


def test_warm_up_rises_linearly_from_its_first_fraction():
    config = TrainConfig(total_tokens=100 * 262_144, warmup_steps=40, init_lr_fraction=0.2)
    assert [learning_rate_scale(config, update) for update in range(11)] == pytest.approx([0.2 + 0.08 * update for update in range(11)])
    constant = dataclasses.replace(config, init_lr_fraction=1.0)
    assert {learning_rate_scale(constant, update) for update in range(11)} == {1.0}
