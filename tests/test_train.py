"""Training as a user sees it: output and files of a run, resume, signals, ranks, user errors."""

import shutil
import signal
import subprocess
import sys

import pytest
import torch

import additions
import train
from benchmarks.kill_resume import differences
from conftest import PATIENCE, SMALL, launched, run_script, start
from nano_hindi.checkpoint import MODEL_KEYS, list_checkpoints, load_checkpoint
from nano_hindi.config import TrainConfig, from_dict
from nano_hindi.optim import learning_rate_scale
from nano_hindi.training import loop, report
from test_faults import curve, last_state


def losses(folder) -> list[float]:
    return [record["loss"] for record in curve(folder) if "loss" in record]


def bits_per_byte(folder) -> list[float]:
    return [record["val_bpb"] for record in curve(folder) if "val_bpb" in record]


def test_run_learns_and_writes_its_files(straight):
    assert sorted(p.name for p in straight.iterdir()) == [
        "checkpoint_step10.pt", "checkpoint_step20.pt", "checkpoint_step24.pt", "curves.png", "metrics.jsonl", "model.pt", "tokenizer",
    ]  # fmt: skip
    assert (straight / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert (straight / "curves.png").stat().st_mtime_ns >= (straight / "model.pt").stat().st_mtime_ns  # drawn last, of all metrics
    curve = losses(straight)
    assert len(curve) == 6
    assert curve[-1] < curve[0] - 0.5
    bpb = bits_per_byte(straight)
    assert len(bpb) == 3
    assert bpb[-1] < bpb[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tied", "values", "added", "buckets"),
    [("true", "false", additions.FLAGS, "64"), ("true", "true", [], "0"), ("false", "false", ["--embedding_conv", "1"], "512")],
)
def test_run_of_another_network_resumes_to_the_bit_and_writes_text(data_dir, tmp_path, capsys, tied, values, added, buckets):
    import generate
    from nano_hindi.evaluation import command

    flags = ["--tie_embeddings", tied, "--value_embeddings", values, *added, "--ngram_buckets", buckets]
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    assert start(data_dir, whole, *flags) == 0
    assert bits_per_byte(whole)[-1] < bits_per_byte(whole)[0]
    resumed.mkdir()
    shutil.copy(whole / "checkpoint_step10.pt", resumed)
    assert start(data_dir, resumed, *flags, "--resume", "auto") == 0
    assert list(differences(last_state(whole), last_state(resumed))) == []
    moments = last_state(whole)["optimizers"]["adamw"].get("transformer.wte.weight.ngrams")
    assert (moments is not None and moments["exp_avg"].any()) == (buckets != "0")
    names = load_checkpoint(resumed / "model.pt", MODEL_KEYS)["model_state_dict"].keys()
    assert ("lm_head.weight" in names) == (tied == "false")
    assert any("value_embeds" in name for name in names) == (values == "true")
    assert ("transformer.smear.gate.weight" in names) == ("--smear" in added)
    assert ("transformer.conv.weight" in names) == ("--embedding_conv" in added)
    assert generate.main(["--checkpoint", str(whole), "--prompt", "राम", "--max_tokens", "5", "--device", "cpu"]) == 0
    assert command.main(["--checkpoint", str(whole), "--data_dir", str(data_dir), "--max_bytes", "2000", "--device", "cpu"]) == 0
    assert "bits per byte" in capsys.readouterr().out
    other = ["--tie_embeddings", "true" if tied == "false" else "false"]
    assert start(data_dir, whole, *other, "--resume", "auto") == 2
    assert "--tie_embeddings" in capsys.readouterr().err


def test_run_in_bfloat16_keeps_its_dtype_and_resumes_to_the_bit(data_dir, tmp_path, straight, capsys, monkeypatch):
    slow = "notice: bfloat16 is slower than float32 here; --dtype auto is faster"
    monkeypatch.setattr(report, "matmul_flops", lambda device, dtype: 1e12)
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    assert start(data_dir, whole, "--dtype", "bfloat16") == 0
    output = capsys.readouterr().out
    assert "in bfloat16, 1 rank" in output
    assert slow not in output
    assert losses(whole) != losses(straight)
    assert losses(whole) == pytest.approx(losses(straight), rel=0.02)
    resumed.mkdir()
    shutil.copy(whole / "checkpoint_step10.pt", resumed)
    monkeypatch.setattr(report, "matmul_flops", lambda device, dtype: 1e12 if dtype == torch.float32 else 1e9)
    assert start(data_dir, resumed, "--resume", "auto") == 0
    output = capsys.readouterr().out
    assert "in bfloat16" in output
    assert slow in output
    assert list(differences(last_state(whole), last_state(resumed))) == []
    assert all(w.dtype == torch.float32 for w in last_state(resumed)["model_state_dict"].values())
    shutil.copy(whole / "checkpoint_step10.pt", tmp_path)
    assert start(data_dir, tmp_path / "other", "--resume", str(tmp_path / "checkpoint_step10.pt"), "--dtype", "float32") == 0
    output = capsys.readouterr().out
    assert "in float32" in output
    assert slow not in output
    assert start(data_dir, tmp_path / "child", "--init_from", str(whole)) == 0  # perhaps on another machine
    assert "in float32" in capsys.readouterr().out


def test_intervals_act_at_the_first_update_at_or_after_a_multiple(straight):
    """An update has two steps here; the intervals are 4, 8 and 10 steps."""
    assert [r["step"] for r in curve(straight) if "loss" in r] == [4, 8, 12, 16, 20, 24]
    assert [r["step"] for r in curve(straight) if "val_bpb" in r] == [8, 16, 24]
    assert all(r["tokens"] == r["step"] * 4 * 32 and r["update"] == r["step"] // 2 for r in curve(straight))


def test_first_update_has_the_first_learning_rate_of_the_schedule(straight):
    config = from_dict(TrainConfig, load_checkpoint(straight / "checkpoint_step24.pt")["train_config"])
    logged = {r["update"] - 1: r["lr"] for r in curve(straight) if "lr" in r}
    assert logged == {update: config.muon_lr * learning_rate_scale(config, update) for update in (1, 3, 5, 7, 9, 11)}


def test_checkpoint_has_the_documented_keys_and_no_wrapper_prefixes(straight):
    state = torch.load(straight / "checkpoint_step24.pt", weights_only=True)
    assert set(state) >= {
        "format", "step", "tokens_seen", "model_state_dict", "optimizers", "model_config", "train_config", "rng", "metrics", "tokenizer", "data",
    }  # fmt: skip
    assert state["tokens_seen"] == 24 * 4 * 32
    assert not any(name.startswith(("_orig_mod", "module")) for name in state["model_state_dict"])
    assert all(tensor.dtype == torch.float32 for tensor in state["model_state_dict"].values())


@pytest.mark.slow
def test_logged_loss_is_the_mean_over_the_logged_updates(data_dir, tmp_path, straight):
    assert start(data_dir, tmp_path / "every", "--log_interval", "1") == 0
    each = losses(tmp_path / "every")
    assert len(each) == 12
    assert losses(straight) == pytest.approx([(a + b) / 2 for a, b in zip(each[::2], each[1::2], strict=True)], rel=1e-6)


@pytest.mark.slow
def test_device_batch_size_changes_nothing_beyond_rounding(data_dir, tmp_path, straight):
    for size in (1, 3, 8):  # 3 does not divide the 8 sequences of an update
        assert start(data_dir, tmp_path / str(size), "--device_batch_size", str(size)) == 0
        assert losses(tmp_path / str(size)) == pytest.approx(losses(straight), rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_signal_saves_the_update_says_how_to_resume_and_the_rest_is_equal(data_dir, tmp_path, straight, name, code):
    """The signal arrives in the middle of the second update, which is finished first."""
    if not hasattr(signal, name):
        pytest.skip("Windows has no SIGHUP")
    folder = tmp_path / "run"
    script = (
        "import sys, time, train; from nano_hindi.training import loop\n"
        "real = loop.train_update\n"
        "def train_update(run, stop):\n"
        "    while run.update == 1 and stop.signal is None: time.sleep(0.01)\n"
        "    return real(run, stop)\n"
        "loop.train_update = train_update\n"
        "sys.exit(train.main(sys.argv[1:]))"
    )
    argv = [sys.executable, "-c", script, *SMALL, "--data_dir", data_dir, "--checkpoint_dir", folder, "--log_interval", "1"]
    with launched(argv, fork=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        for line in process.stdout:
            if line.startswith("step 2/"):
                process.send_signal(getattr(signal, name))
                break
        output, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == code, errors
    assert "stopped after step 4" in output
    assert "--resume auto" in output
    assert "Traceback" not in errors
    assert [step for step, _ in list_checkpoints(folder)] == [4]
    assert start(data_dir, folder, "--log_interval", "1", "--resume", "auto") == 0
    assert list(differences(*[last_state(f)["model_state_dict"] for f in (straight, folder)])) == []


def test_resuming_a_finished_run_says_so_and_exits_with_0(data_dir, straight, capsys):
    before = (straight / "metrics.jsonl").read_bytes()
    assert start(data_dir, straight, "--resume", "auto") == 0
    assert "finished" in (out := capsys.readouterr().out)
    assert f", training loss {losses(straight)[-1]:.4f}\n" in out
    assert (straight / "metrics.jsonl").read_bytes() == before


def test_three_non_finite_updates_in_a_row_stop_the_run_and_name_the_checkpoint(data_dir, tmp_path, capsys, monkeypatch):
    """Two do not. The loss in the log, of two updates a line, is that of the finite ones."""
    real = loop.train_update

    def train_update(run, stop):
        weight = run.model.lm_head.weight.data[0, 0]
        before = weight.clone()
        if run.update in (1, 2) or run.update >= 5:
            weight.fill_(float("nan"))
        made = real(run, stop)
        if run.update in (2, 3):  # after updates 1 and 2
            weight.copy_(before)
        return made

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_update", train_update)
        assert start(data_dir, tmp_path / "run") == 2
    output = capsys.readouterr()
    assert output.out.count("skipped") == 5
    assert "step 16" in output.err
    assert "checkpoint_step10.pt" in output.err
    assert "Traceback" not in output.err
    assert [r["skipped"] for r in curve(tmp_path / "run") if "loss" in r] == [1, 2, 3]
    assert None not in losses(tmp_path / "run")
    assert (tmp_path / "run" / "curves.png").exists()  # since the evaluation at step 8
    assert start(data_dir, tmp_path / "run", "--resume", "auto") == 0
    assert [r["skipped"] for r in curve(tmp_path / "run") if "loss" in r] == [1, 2, 2, 2, 2, 2]


def test_dry_run_of_the_default_works_without_data(tmp_path, capsys):
    argv = ["--config", "25m", "--total_tokens", "500000000", "--dry_run", "--device", "cpu"]
    assert train.main([*argv, "--data_dir", str(tmp_path), "--checkpoint_dir", str(tmp_path / "none")]) == 0
    output = capsys.readouterr().out
    for words in (
        "1,907 updates",
        "7,628 steps",
        "schedule    cosine: warm-up over 1,000 steps, then down to 0.1 of each learning rate",
        "windows     SSSL: 128 128 128 1024 128 128 128 1024 keys per layer",
        "99.7 M (99,7",
        "blocks 12.6 M",
        "value embeddings 34.9 M",
        "5.01 per parameter",
        "an estimate",
    ):
        assert words in output
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_too_many_ranks_are_refused_with_numbers_that_work(data_dir, tmp_path):
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=3"]
    done = run_script(*torchrun, "train.py", *SMALL, "--data_dir", data_dir, "--checkpoint_dir", tmp_path / "run")
    assert done.returncode != 0
    assert "these numbers of ranks work: 1, 2, 4, 8" in done.stderr
