"""Signals, diverged weights and a log that cannot be written: training stops with a checkpoint, or
continues."""

import contextlib
import functools
import itertools
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from benchmarks.kill_resume import differences
from conftest import PATIENCE, launched, run_command, start, wait_until
from nano_hindi.checkpoint import list_checkpoints, load_checkpoint
from nano_hindi.training import loop, resume, setup, text_data
from nano_hindi.training.metrics import read_metrics
from test_faults import assert_equal_runs, at_update, command, curve, steps

pytestmark = pytest.mark.slow
posix = pytest.mark.skipif(os.name == "nt", reason="needs the signals and devices of POSIX")


# ---- signals


@posix
def test_ignored_hangup_stays_ignored(data_dir, tmp_path):
    argv = command(data_dir, tmp_path / "run", "--log_interval", 2, "--checkpoint_interval", 0, "--total_tokens", 32 * 8 * 10**6)
    nohup = "import signal, sys, train; signal.signal(signal.SIGHUP, signal.SIG_IGN); sys.exit(train.main(sys.argv[1:]))"
    with launched([sys.executable, "-c", nohup, *argv[2:]], fork=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        for line in process.stdout:
            if line.startswith("step 4/"):
                process.send_signal(signal.SIGHUP)
            if line.startswith("step 40/"):
                break
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + signal.SIGTERM, output


@pytest.mark.parametrize("evaluation", [1, 2, 3], ids=["first", "middle", "last"])
def test_stop_during_an_evaluation_ends_it_after_a_batch_and_loses_nothing(evaluation, data_dir, tmp_path, straight, monkeypatch):
    """The run is resumed, and equals the uninterrupted run to the bit, evaluations included."""
    folder, real, evaluations, batches = tmp_path / "run", text_data.val_batches, itertools.count(1), []

    def val_batches(*args, **kwargs):
        stops = next(evaluations) == evaluation
        for batch in real(*args, **kwargs):
            if stops:
                batches.append(batch)
                signal.raise_signal(signal.SIGTERM)
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(text_data, "val_batches", val_batches)
        assert start(data_dir, folder) == 128 + signal.SIGTERM
    assert len(batches) == 1
    assert steps(folder)[-1] == 8 * evaluation
    assert sum("val_bpb" in record for record in read_metrics(folder / "metrics.jsonl")) == evaluation - 1
    with monkeypatch.context() as patch:  # the second Ctrl-C, after the evaluation and before the next checkpoint
        for name in ("train_update", "sample"):
            patch.setattr(loop, name, Mock(side_effect=KeyboardInterrupt))
        assert start(data_dir, folder, "--resume", "auto") == 130
    assert sum("val_bpb" in record for record in read_metrics(folder / "metrics.jsonl")) == evaluation
    assert start(data_dir, folder, "--resume", "auto") == 0
    assert_equal_runs(folder, straight)
    model = [torch.load(f / "model.pt", weights_only=True)["model_state_dict"] for f in (folder, straight)]
    assert all(torch.equal(model[0][name], model[1][name]) for name in model[1])


@pytest.mark.skipif(os.name != "nt", reason="Ctrl-Break is of Windows")
def test_ctrl_break_stops_with_a_checkpoint(data_dir, tmp_path):
    argv = command(data_dir, tmp_path / "run", "--log_interval", 2, "--checkpoint_interval", 0, "--total_tokens", 32 * 8 * 10**6)
    with launched(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, creationflags=subprocess.CREATE_NEW_PROCESS_GROUP) as process:
        next(line for line in process.stdout if line.startswith("step 4/"))
        process.send_signal(signal.CTRL_BREAK_EVENT)
        output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, output
    assert len(steps(tmp_path / "run")) == 1


@pytest.mark.parametrize(("event", "name"), [(2, "close"), (5, "logoff"), (6, "shutdown")])
def test_closed_window_logoff_and_shutdown_wait_until_the_run_is_saved(event, name, data_dir, tmp_path, monkeypatch):
    """Windows calls the handler on a thread, and ends the process when it returns."""
    handlers, saved = [], []

    @contextlib.contextmanager
    def console_events(handle):
        handlers.append(handle)
        yield

    def windows():
        assert handlers[0](event) is True
        saved.extend(steps(tmp_path / "run"))

    monkeypatch.setattr("nano_hindi.training.stop.console_events", console_events)
    thread = threading.Thread(target=windows)
    with at_update(monkeypatch, 6, lambda run: thread.start()):
        assert start(data_dir, tmp_path / "run", "--checkpoint_interval", 0, "--total_tokens", 32 * 8 * 10**6) == 130
    thread.join()
    assert len(saved) == 1
    assert saved[0] >= 6
    assert handlers[0](0) is False, "Ctrl-C is Python's"


# ---- a log that cannot be written


@posix
@pytest.mark.parametrize("stdout", ["a full disk", "a closed pipe", "closed"])
def test_training_continues_when_its_log_cannot_be_written(stdout, data_dir, tmp_path, straight):
    folder = tmp_path / "run"
    argv = command(data_dir, folder)
    if stdout == "a full disk":
        streams = {"stdout": os.open("/dev/full", os.O_WRONLY)}
    elif stdout == "closed":
        streams = {"preexec_fn": lambda: os.close(1)}
    else:
        reading, writing = os.pipe()
        os.close(reading)
        streams = {"stdout": writing}
    with launched(argv, stderr=subprocess.PIPE, **streams) as process:
        errors = process.communicate(timeout=PATIENCE)[1]
    if "stdout" in streams:
        os.close(streams["stdout"])
    assert process.returncode == 0
    assert errors == ""
    assert_equal_runs(folder, straight)


# ---- diverged weights


@pytest.fixture
def half_precision(monkeypatch):
    """Train in fp16 with loss scaling, on the CPU."""
    for module in (setup, resume):
        monkeypatch.setattr(module, "compute_dtype", lambda *args: torch.float16)


def assert_saved_weights_are_finite(folder) -> None:
    for _, path in list_checkpoints(folder):
        assert all(weight.isfinite().all() for weight in load_checkpoint(path)["model_state_dict"].values())


def test_fp16_run_finds_its_loss_scale_counts_the_skips_and_finishes(data_dir, tmp_path, half_precision, monkeypatch):
    monkeypatch.setattr("nano_hindi.optim.FIRST_LOSS_SCALE", 2.0**26)
    assert start(data_dir, tmp_path, "--total_tokens", 32 * 8 * 40) == 0
    assert 3 < read_metrics(tmp_path / "metrics.jsonl")[-2]["skipped"] < 26
    assert_saved_weights_are_finite(tmp_path)


def test_diverging_fp16_run_stops_and_keeps_its_finite_checkpoints(data_dir, tmp_path, half_precision, capsys):
    flags = ("--checkpoint_interval", 2, "--total_tokens", 32 * 8 * 400, "--warmup_steps", 40)
    assert start(data_dir, tmp_path, "--muon_lr", 200, *flags) == 2
    assert "updates in a row" in capsys.readouterr().err
    assert_saved_weights_are_finite(tmp_path)


def test_state_with_a_non_finite_weight_is_never_saved_and_replaces_nothing(data_dir, tmp_path, monkeypatch, capsys):
    """The weight turns to NaN in the update before a save that would delete the oldest
    checkpoint."""
    real = loop.train_update

    def train_update(run, stop):
        result = real(run, stop)
        if run.update == 6:
            run.model.lm_head.weight.data[0, 0] = float("nan")
        return result

    monkeypatch.setattr(loop, "train_update", train_update)
    assert start(data_dir, tmp_path, "--checkpoint_interval", 2, "--keep_checkpoints", 2) == 2
    output = capsys.readouterr()
    assert "step 12 is not saved (lm_head.weight" in output.out
    assert steps(tmp_path) == [8, 10]
    assert not (tmp_path / "model.pt").exists()
    assert "checkpoint_step10.pt" in output.err
    assert_saved_weights_are_finite(tmp_path)


# ---- a compiler that fails in the run, after its probe


# without the search for vector instructions, for which the compiler runs several times
COMPILE = (
    "import os, sys, train; from nano_hindi.training import setup\n"
    "import torch._inductor.config as inductor; inductor.cpp.vec_isa_ok = False\n"
    "real = setup.can_compile\n"
    "def can_compile(device):\n"
    "    why = real(device)\n"
    "    {after_the_probe}\n"
    "    return why\n"
    "setup.can_compile = can_compile\n"
    "sys.exit(train.main(sys.argv[1:]))"
)


def compiling(data_dir: Path, folder: Path, after_the_probe: str, *flags: object) -> list[str]:
    """Return the command of a run with torch.compile that does `after_the_probe` when `can_compile`
    has answered `why`."""
    argv = [word for word in command(data_dir, folder, *flags)[2:] if word != "--no_compile"]
    return [sys.executable, "-c", COMPILE.format(after_the_probe=after_the_probe), *argv]


@pytest.fixture(scope="module")
def cache_with_the_probe(data_dir, tmp_path_factory) -> Path:
    """Return a cache of torch.compile with nothing but the probe, for which the compiler runs a
    dozen times. The tests are skipped if there is no compiler."""
    folder = tmp_path_factory.mktemp("cache")
    argv = compiling(data_dir, folder / "run", "raise SystemExit(why)")
    done = run_command(argv, fork=True, env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(folder)})
    if done.returncode:
        pytest.skip(f"needs torch.compile on the CPU ({done.stderr})")
    return folder


@pytest.fixture
def compiled(cache_with_the_probe, data_dir, tmp_path, monkeypatch) -> Callable[..., list[str]]:
    """Return a function that makes the command of a run whose cache has only the probe: neither
    test finishes a compilation."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(cache_with_the_probe))
    return functools.partial(compiling, data_dir, tmp_path / "run")


def test_run_continues_without_compile_when_the_compiler_fails(compiled, tmp_path, straight):
    done = run_command(compiled("inductor.cpp.cxx, inductor.compile_threads = ('/bin/false',), 1"), fork=True)
    assert done.returncode == 0, done.stderr
    assert "compile     on" in done.stdout
    assert re.search(r"notice: torch.compile failed \(.*\); continuing without it", done.stdout)
    assert curve(tmp_path / "run") == curve(straight)
    weights = [load_checkpoint(list_checkpoints(folder)[-1][1])["model_state_dict"] for folder in (tmp_path / "run", straight)]
    assert list(differences(*weights)) == []


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds g++ with pgrep")
def test_ctrl_c_during_compilation_is_one_line_and_code_130(compiled, tmp_path):
    """As in a terminal, the compiler's processes get the signal too."""

    def compiler_runs() -> bool:
        time.sleep(0.2)  # pgrep reads about every process of the machine
        return bool(subprocess.run(["pgrep", "-s", str(process.pid), "cc1plus"], capture_output=True).stdout)

    only_the_model = "setup.TrainOptimizer.compile = lambda self: print('compiling', flush=True)"  # the optimizer would take 20 seconds more
    argv = compiled(only_the_model, "--n_layer", 1, "--total_tokens", 32 * 8 * 10**6)
    with launched(argv, fork=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        next(line for line in process.stdout if line.startswith("compiling"))
        wait_until(compiler_runs, "the compiler")
        os.killpg(process.pid, signal.SIGINT)
        output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, output
    assert re.search(r"stopped after step \d+; the same command with --resume auto resumes from there", output), output
    assert "Error" not in output
    assert len(steps(tmp_path / "run")) == 1
