"""Real faults: a killed process, a full disk, a folder that vanishes or becomes read-only, two runs
at once. No data is lost and no file is partial."""

import contextlib
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch

import standin
from benchmarks.kill_resume import differences, kill_and_resume
from conftest import PATIENCE, arguments, launched, run_command, start
from nano_hindi import distributed, files, locks
from nano_hindi.checkpoint import list_checkpoints, load_checkpoint
from nano_hindi.distributed import World
from nano_hindi.training import loop, metrics, saving
from nano_hindi.training.metrics import Metrics, read_metrics
from nano_hindi.training.stop import StopSignal

pytestmark = pytest.mark.slow
posix = pytest.mark.skipif(os.name == "nt", reason="needs the limits, users and signals of POSIX")


def command(data_dir, folder, *flags) -> list[str]:
    return [sys.executable, "train.py", *arguments(data_dir, folder, *flags)]


def steps(folder) -> list[int]:
    return [step for step, _ in list_checkpoints(folder)]


def curve(folder) -> list[dict]:
    return [{key: value for key, value in record.items() if key != "tokens_per_second"} for record in read_metrics(folder / "metrics.jsonl")]


def last_state(folder) -> dict:
    """Return weights, moments, random state and metrics of the last checkpoint."""
    state = load_checkpoint(list_checkpoints(folder)[-1][1])
    return {key: state[key] for key in ("step", "tokens_seen", "model_state_dict", "optimizers", "rng", "metrics")}


def assert_equal_runs(a, b) -> None:
    """Check that the last states and the curves are equal to the bit."""
    assert list(differences(last_state(a), last_state(b))) == []
    assert curve(a) == curve(b)


def assert_all_whole(folder) -> None:
    """Check that no file is partial under its final name and that no temporary file is left."""
    for _, path in list_checkpoints(folder):
        load_checkpoint(path)
    assert not list(folder.glob("*.tmp"))


@contextlib.contextmanager
def at_update(monkeypatch, number: int, act):
    """Call `act` before the update that follows `number` updates."""
    real = loop.train_update

    def train_update(run, stop):
        if run.update == number:
            act(run)
        return real(run, stop)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_update", train_update)
        yield


# ---- killed


@posix
@pytest.mark.timeout(1800)
def test_runs_killed_ten_times_and_resumed_equal_the_uninterrupted_run_to_the_bit(tmp_path):
    seed = time.time_ns()
    tally, found = kill_and_resume(tmp_path, standin.make_data(tmp_path / "data", standin.documents(60)), kills=10, seed=seed)
    assert tally.kills >= 10
    assert found == [], f"seed {seed}"


@posix
def test_partial_save_is_removed_and_metrics_are_cut_back_to_the_checkpoint(data_dir, tmp_path, straight):
    """The process kills itself between the copy and the rename; the partial line of a power cut is
    added."""
    folder = tmp_path / "run"
    script = (
        "import os, signal, sys, train; from nano_hindi import files\n"
        "real = files.rename\n"
        "def rename(source, target):\n"
        "    if target.name == 'checkpoint_step20.pt': os.kill(os.getpid(), signal.SIGKILL)\n"
        "    real(source, target)\n"
        "files.rename = rename\n"
        "train.main(sys.argv[1:])"
    )
    done = run_command([sys.executable, "-c", script, *command(data_dir, folder)[2:]], fork=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert steps(folder) == [10]
    assert (folder / "checkpoint_step20.pt.tmp").exists()
    assert max(record["step"] for record in read_metrics(folder / "metrics.jsonl")) >= 20
    with open(folder / "metrics.jsonl", "ab") as file:
        file.write(b'{"step": 24, "lo')
    (folder / "checkpoint_step16.pt.tmp").write_bytes(b"half")  # of another interval, so it is never overwritten
    assert start(data_dir, folder, "--resume", "auto") == 0
    assert_equal_runs(folder, straight)
    assert_all_whole(folder)


def test_run_killed_before_its_last_deletion_deletes_and_draws_on_resume(data_dir, tmp_path, straight):
    folder = tmp_path / "run"
    shutil.copytree(straight, folder)
    *_, last = list_checkpoints(folder)
    for step in (2, 4, 6):
        shutil.copy(last[1], folder / f"checkpoint_step{step}.pt")
    (folder / "checkpoint_step8.pt.tmp").write_bytes(b"half")
    (folder / "curves.png").unlink()
    assert start(data_dir, folder, "--resume", "auto") == 0
    assert steps(folder) == sorted([2, 4, 6, *steps(straight)])[-3:]
    assert not list(folder.glob("*.tmp"))
    assert (folder / "curves.png").is_file()


def test_exception_in_training_waits_for_the_checkpoint_being_written(data_dir, tmp_path, straight, monkeypatch):
    folder, write, failed = tmp_path / "run", saving.Saver._write, threading.Event()

    def held_back(*args):
        assert failed.wait(PATIENCE)
        time.sleep(0.2)
        return write(*args)

    def fail(run):
        assert steps(folder) == []
        failed.set()
        raise ZeroDivisionError

    monkeypatch.setattr(saving.Saver, "_write", held_back)
    with at_update(monkeypatch, 6, fail), pytest.raises(ZeroDivisionError):  # the checkpoint of step 10 is being written
        start(data_dir, folder, "--log_interval", "0")
    assert steps(folder) == [10]
    monkeypatch.undo()
    assert start(data_dir, folder, "--resume", "auto", "--log_interval", "4") == 0
    assert list(differences(*[last_state(f)["model_state_dict"] for f in (folder, straight)])) == []


# ---- the copy


def test_training_continues_during_a_save_without_changing_the_checkpoint(data_dir, tmp_path, straight, monkeypatch, capsys):
    """The writer waits until two more updates are made; it writes the state of its own step, and
    `saved` is printed after that."""
    folder, write, go_on = tmp_path / "run", saving.Saver._write, threading.Event()

    def held_back(self, checkpoint, with_model):
        assert go_on.wait(PATIENCE)
        return write(self, checkpoint, with_model)

    def check(run):
        assert not list_checkpoints(folder)
        assert "saved" not in capsys.readouterr().out
        go_on.set()

    monkeypatch.setattr(saving.Saver, "_write", held_back)
    with at_update(monkeypatch, 7, check):
        assert start(data_dir, folder, "--keep_checkpoints", "9") == 0
    assert re.findall(r"(?m)^saved .*checkpoint_step(\d+)", capsys.readouterr().out) == ["10", "20", "24"]
    for (_, mine), (_, other) in zip(list_checkpoints(folder), list_checkpoints(straight), strict=True):
        a, b = load_checkpoint(mine), load_checkpoint(other)
        a.pop("train_config"), b.pop("train_config")
        assert list(differences(a, b)) == []


def test_without_memory_for_a_copy_training_waits_for_the_disk(data_dir, tmp_path, straight, monkeypatch):
    def no_memory(value):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(saving, "host_copy", no_memory)
    assert start(data_dir, tmp_path / "run") == 0
    assert_equal_runs(tmp_path / "run", straight)


def test_one_checkpoint_is_written_at_a_time(data_dir, tmp_path, monkeypatch):
    write, inside, most = saving.Saver._write, [], []

    def counted(*args):
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.1)
        path = write(*args)
        inside.pop()
        return path

    monkeypatch.setattr(saving.Saver, "_write", counted)
    assert start(data_dir, tmp_path / "run", "--checkpoint_interval", "2") == 0
    assert most == [1] * 12
    assert steps(tmp_path / "run") == [20, 22, 24]


@posix
@pytest.mark.parametrize(
    ("signals", "end", "code", "saved"),
    [
        ([signal.SIGTERM], "__exit__", 143, 1),
        ([signal.SIGINT, signal.SIGINT], "wait_a_little", 130, 1),
        ([signal.SIGINT, signal.SIGINT], None, 130, 0),
    ],
)
def test_stop_waits_for_a_slow_disk_and_a_second_ctrl_c_only_briefly(data_dir, tmp_path, signals, end, code, saved):
    """The write finishes a second after the main thread begins to wait for it in `Saver.{end}`, or
    never."""
    script = (
        "import sys, threading, time, torch, train; from nano_hindi.training import saving\n"
        "write, begun = saving.Saver._write, threading.Event()\n"
        "def slow(*args):\n"
        "    print('writing', flush=True)\n"
        f"    def spin(): torch.save([torch.zeros(10**6)] * 2, {str(tmp_path / 'other')!r})\n"  # in C++, not asleep
        "    while not begun.is_set(): spin()\n"
        "    end = time.monotonic() + 1\n"
        "    while time.monotonic() < end: spin()\n"
        "    return write(*args)\n"
        "def begin(self, *args):\n"
        "    begun.set()\n"
        "    return wait(self, *args)\n"
        f"saving.Saver._write, saving.PATIENCE = slow, {PATIENCE if saved else 2}\n"
        f"if {end!r}: wait = getattr(saving.Saver, {end!r}); setattr(saving.Saver, {end!r}, begin)\n"
        "sys.exit(train.main(sys.argv[1:]))"
    )
    argv = [sys.executable, "-c", script, *command(data_dir, tmp_path / "run", "--log_interval", 2, "--checkpoint_interval", 0)[2:]]
    argv += ["--total_tokens", str(32 * 8 * 10**6)]
    with launched(argv, fork=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        for line in process.stdout:
            if line.startswith("step 4/"):
                process.send_signal(signals[0])
            if line.startswith("writing"):
                break
        for number in signals[1:]:
            process.send_signal(number)
        output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == code, output
    assert len(steps(tmp_path / "run")) == saved
    assert "Traceback" not in output


def test_second_ctrl_c_that_python_drops_in_a_finalizer_still_counts(monkeypatch):
    """Another error in a finalizer is shown as usual."""

    class Finalized:
        def __init__(self, act):
            self.act = act

        def __del__(self):
            self.act()

    shown = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: shown.append(unraisable.exc_type))
    with StopSignal() as stop:
        signal.raise_signal(signal.SIGINT)
        stop.raise_if_repeated()
        Finalized(lambda: signal.raise_signal(signal.SIGINT))  # as within gc.collect(): the KeyboardInterrupt is lost
        with pytest.raises(KeyboardInterrupt):
            stop.raise_if_repeated()
        Finalized(lambda: 1 / 0)
    assert shown == [ZeroDivisionError]


# ---- disks and folders


def limited(data_dir, folder, limit: int, *flags) -> subprocess.CompletedProcess:
    """Run training in a process that may write no file above `limit` bytes, which fails like a full
    disk."""
    script = f"import resource, sys, train; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit})); sys.exit(train.main(sys.argv[1:]))"
    return run_command([sys.executable, "-c", script, *command(data_dir, folder, *flags)[2:]], fork=True)


@posix
def test_full_disk_is_reported_at_every_save_and_training_finishes(data_dir, tmp_path, straight):
    folder = tmp_path / "run"
    done = limited(data_dir, folder, 200_000)
    assert [int(step) for step in re.findall(r"notice: step (\d+) is not saved .*", done.stdout)] == [10, 20, 24]
    assert done.returncode == 2
    assert re.fullmatch(r"error: the run has ended, but step 24 is not saved .*; .*begins a new run, as there is no checkpoint\n", done.stderr)
    assert curve(folder) == curve(straight)
    assert steps(folder) == []
    assert_all_whole(folder)
    assert not (folder / "model.pt").exists()
    assert start(data_dir, folder, "--resume", "auto") == 0  # with free space again
    assert_equal_runs(folder, straight)


@posix
def test_partially_written_metrics_line_is_completed_later(tmp_path):
    script = (
        "import resource, sys; from pathlib import Path; from nano_hindi.training.metrics import Metrics\n"
        "metrics = Metrics(Path(sys.argv[1]))\n"
        "metrics.write({'step': 1, 'tokens': 0})\n"
        "limit = lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))\n"
        "limit(40)\n"
        "metrics.write({'step': 2, 'tokens': 9}); metrics.write({'step': 3, 'tokens': 9})\n"
        "size = Path(sys.argv[1]).stat().st_size\n"
        "try: metrics.flush()\n"
        "except OSError as error: print(size, error.errno)\n"
        "limit(resource.RLIM_INFINITY)\n"
        "metrics.flush()"
    )
    path = tmp_path / "metrics.jsonl"
    done = run_command([sys.executable, "-c", script, path])
    assert done.stdout.split() == ["40", "27"], done.stderr
    assert read_metrics(path) == [{"step": 1, "tokens": 0}, {"step": 2, "tokens": 9}, {"step": 3, "tokens": 9}]


def test_checkpoint_is_not_saved_before_its_metrics(data_dir, tmp_path, straight, monkeypatch, capsys):
    """The metrics cannot be written at steps 8 and 10, and the process dies after 20: --resume auto
    still continues from consistent files."""
    folder, full = tmp_path / "run", [False]
    flush = Metrics.flush

    def flush_or_fail(self):
        if full[0]:
            raise OSError(28, "No space left on device", str(self.path))
        flush(self)

    monkeypatch.setattr(Metrics, "flush", flush_or_fail)

    def fault(run):
        full[0] = run.update == 3
        if run.update == 9:
            raise ZeroDivisionError

    with at_update(monkeypatch, 3, fault), at_update(monkeypatch, 9, fault), pytest.raises(ZeroDivisionError):
        start(data_dir, folder)
    output = capsys.readouterr().out
    assert "step 10 is not saved" in output
    assert "metrics.jsonl: No space left" in output
    assert steps(folder) == []
    monkeypatch.undo()
    assert start(data_dir, folder, "--resume", "auto") == 0
    assert_equal_runs(folder, straight)


def test_missing_folder_is_reported_at_every_save_and_used_once_it_is_back(data_dir, tmp_path, straight, monkeypatch, capsys):
    folder = tmp_path / "run"
    with at_update(monkeypatch, 4, lambda run: shutil.rmtree(folder)), at_update(monkeypatch, 11, lambda run: folder.mkdir()):
        assert start(data_dir, folder) == 0
    assert re.findall(r"notice: step (\d+) is not saved .*No such file.*", capsys.readouterr().out) == ["10", "20"]
    assert steps(folder) == [24]
    assert list(differences(*[load_checkpoint(f / "checkpoint_step24.pt")["model_state_dict"] for f in (folder, straight)])) == []


def test_stop_whose_save_fails_says_what_a_resume_does(data_dir, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "run"
    with at_update(monkeypatch, 4, lambda run: (shutil.rmtree(folder), signal.raise_signal(signal.SIGTERM))):
        assert start(data_dir, folder) == 128 + signal.SIGTERM
    words = r"stopped after step 10; .* begins a new run, as there is no checkpoint: step 10 is not saved \(.*No such file.*\)\n"
    assert re.search(words, capsys.readouterr().out)


@pytest.mark.parametrize("in_its_place", ["nothing", "a file"])
def test_folder_missing_until_the_end_is_one_line_with_code_2(data_dir, tmp_path, monkeypatch, capsys, in_its_place):
    folder = tmp_path / "run"

    def remove(run):
        shutil.rmtree(folder)
        if in_its_place == "a file":
            folder.write_text("mine")

    with at_update(monkeypatch, 4, remove):
        assert start(data_dir, folder) == 2
    output = capsys.readouterr()
    assert output.out.count("is not saved") == 3
    assert output.err.count("\n") == 1
    assert "the run has ended, but step 24 is not saved" in output.err
    assert folder.read_text() == "mine" if in_its_place == "a file" else not folder.exists()


def test_rename_refused_by_windows_is_retried_and_then_reported(data_dir, tmp_path, straight, monkeypatch, capsys):
    """A virus scanner blocks each new file twice, and the checkpoint of step 20 permanently."""
    replace, tries = os.replace, {}

    def held(source, target):
        name = os.path.basename(target)
        tries[name] = tries.get(name, 0) + 1
        if name == "checkpoint_step20.pt" or (name.endswith(".pt") and tries[name] <= 2):
            raise PermissionError(13, "The process cannot access the file because it is being used by another process", str(source))
        replace(source, target)

    monkeypatch.setattr(files, "IS_WINDOWS", True)
    monkeypatch.setattr(files.os, "replace", held)
    monkeypatch.setattr(files.time, "sleep", lambda seconds: None)
    assert start(data_dir, tmp_path / "run") == 0
    assert re.findall(r"step (\d+) is not saved .*used by another process", capsys.readouterr().out) == ["20"]
    assert steps(tmp_path / "run") == [10, 24]
    assert tries["checkpoint_step24.pt"] == 3
    assert_equal_runs(tmp_path / "run", straight)
    assert_all_whole(tmp_path / "run")


def test_metrics_that_windows_refuses_for_a_moment_cost_no_save(data_dir, tmp_path, straight, monkeypatch):
    """Another program has the file open whenever it is opened the first and the second time."""
    tries = itertools.count(1)

    def held(path, mode, **options):
        if mode == "ab" and next(tries) % 3:
            raise PermissionError(13, "The process cannot access the file because it is being used by another process", str(path))
        return open(path, mode, **options)

    monkeypatch.setattr(files, "IS_WINDOWS", True)
    monkeypatch.setattr(files.time, "sleep", lambda seconds: None)
    for module in (metrics, saving):
        monkeypatch.setattr(module, "open", held, raising=False)
    assert start(data_dir, tmp_path / "run") == 0
    assert steps(tmp_path / "run") == [10, 20, 24]
    assert_equal_runs(tmp_path / "run", straight)


# ---- two runs in one folder


@contextlib.contextmanager
def holder(data_dir, folder):
    """Start another process that trains in `folder` for a long time."""
    argv = command(data_dir, folder, "--total_tokens", 32 * 8 * 10**6)
    with launched(argv, stdout=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"}) as process:
        for line in process.stdout:
            if line.startswith("saved"):
                break
        threading.Thread(target=process.stdout.read, daemon=True).start()  # a full pipe would block it
        yield process
        process.kill()
        process.wait()


@pytest.mark.parametrize("flags", [[], ["--resume", "auto"]])
def test_second_run_in_a_folder_names_the_first_and_changes_nothing(data_dir, tmp_path, capsys, flags):
    import generate

    folder = tmp_path / "run"
    with holder(data_dir, folder) as first:
        before = (folder / "metrics.jsonl").stat().st_ino
        assert start(data_dir, folder, *flags) == 2
        errors = capsys.readouterr().err
        assert re.search(rf"^error: .*run is in use: process {first.pid}, since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d, is training there", errors), errors
        assert errors.count("\n") == 1
        assert first.poll() is None
        assert (folder / "metrics.jsonl").stat().st_ino == before
        checkpoint = folder / "mine.pt"
        while not checkpoint.exists():
            with contextlib.suppress(FileNotFoundError):  # the run deletes older checkpoints
                shutil.copy(list_checkpoints(folder)[-1][1], checkpoint)
        assert generate.main(["--checkpoint", str(checkpoint), "--prompt", "एक", "--max_tokens", "3", "--device", "cpu"]) == 0
    # the lock of a killed process does not block
    assert (folder / locks.HOLDER).exists()
    step = steps(folder)[-1]
    assert start(data_dir, folder, "--resume", "auto", "--total_tokens", 4 * 32 * step) == 0


def test_all_ranks_are_refused_together(data_dir, tmp_path):
    """Under torchrun only rank 0 takes the lock; no other rank hangs when it is refused."""
    with distributed.only_run_in(tmp_path, World(0, 1, torch.device("cpu"))):
        argv = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", *command(data_dir, tmp_path)[1:]]
        done = run_command(argv)
    assert done.returncode != 0
    assert f"process {os.getpid()}, since" in done.stderr
    assert done.stderr.count("is training there") == 1  # once per machine


# ---- data that changes under a run


def cut(path):
    os.truncate(path, path.stat().st_size // 2)


def reverse(path):
    content = path.read_bytes()
    with open(path, "r+b") as file:  # in place, as cp does
        for i in range(0, len(content), 4):
            file.write(content[len(content) - 4 - i :][:4])


@posix
@pytest.mark.parametrize("change", [cut, reverse])
@pytest.mark.parametrize(("name", "update"), [("train.bin", 6), ("val.bin", 7)])
def test_data_changed_in_place_is_one_line_after_a_save(data_dir, tmp_path, straight, monkeypatch, capsys, name, update, change):
    data, folder = shutil.copytree(data_dir, tmp_path / "data"), tmp_path / "run"
    with at_update(monkeypatch, update, lambda run: change(data / name)):
        assert start(data, folder) == 2
    [error] = capsys.readouterr().err.splitlines()
    assert f"{name} was truncated or changed while it was in use; restore it, or run data/preprocess.py again" in error
    # training reads up to five device batches ahead; the evaluation after update 8 is the first one
    # to read val.bin
    [last] = [step for step in steps(folder) if step != 10]
    assert 2 * update <= last <= 2 * (update + 5) if name == "train.bin" else last == 16
    assert start(data, folder, "--resume", "auto") == 2  # before anything is made
    assert f"{name} {'has' if change is cut else 'is damaged: from byte 0 on'}" in capsys.readouterr().err
    shutil.copy(data_dir / name, data / name)
    assert start(data, folder, "--resume", "auto") == 0
    assert_equal_runs(folder, straight)


@posix
def test_run_reads_the_files_of_its_start_to_the_end(data_dir, tmp_path, straight, monkeypatch, capsys):
    """Both files get a new content under their names, and a file that is only written again is not
    a change."""
    data, folder = shutil.copytree(data_dir, tmp_path / "data"), tmp_path / "run"

    def replace(run):
        for name in ("train.bin", "val.bin"):
            (data / name).rename(data / f"old {name}")
            (data / name).write_bytes(b"")
            os.utime(data / f"old {name}")

    with at_update(monkeypatch, 1, replace):
        assert start(data, folder) == 0
    assert_equal_runs(folder, straight)


def test_preprocess_and_download_leave_a_folder_alone_that_a_run_reads(data_dir, tmp_path, straight, monkeypatch, capsys):
    from data import download, preprocess

    data, folder = shutil.copytree(data_dir, tmp_path / "data"), tmp_path / "run"
    corpus, other = str(data / "corpus.txt"), tmp_path / "other"
    commands = (
        (preprocess, ["--input", corpus, "--output_dir", str(data), "--tokenizer", str(data / "standin"), "--val_fraction", "0.3"]),
        (download, ["--source", corpus, "--output_dir", str(data), "--tokenizer", str(data / "standin")]),
    )
    before = {path: path.read_bytes() for path in data.rglob("*") if path.is_file()}

    def during(run):
        capsys.readouterr()
        for script, argv in commands:
            assert script.main(argv) == 2
            [error] = capsys.readouterr().err.splitlines()
            assert f"{data} is in use: a run reads this folder; wait for it, stop it, or choose another --output_dir" in error
        assert {path: path.read_bytes() for path in data.rglob("*") if path.is_file() and path.name != locks.LOCK} == before
        assert start(data, other) == 0  # a second run may read it

    with at_update(monkeypatch, 4, lambda run: during(run) if run.folder == folder else None):
        assert start(data, folder) == 0
    assert_equal_runs(folder, straight)
    assert_equal_runs(other, straight)
    assert not (data / locks.LOCK).exists()
    for script, argv in commands:
        assert script.main(argv) == 0


def test_model_pt_held_at_the_end_costs_only_itself_and_a_resume_writes_it(data_dir, tmp_path, straight, monkeypatch, capsys):
    """Another program, such as a chat, has the model.pt of an earlier run open."""
    replace = os.replace

    def held(source, target):
        if os.path.basename(target) == "model.pt":
            raise PermissionError(13, "The process cannot access the file because it is being used by another process", str(source))
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", held)
        assert start(data_dir, tmp_path / "run") == 2
    output = capsys.readouterr()
    assert "notice: model.pt is not written (" in output.out
    assert re.fullmatch(
        r"error: the run has ended, but model.pt is not written \(.*another process\).*resumes from the last checkpoint\n", output.err
    )
    assert steps(tmp_path / "run") == [10, 20, 24]
    assert not (tmp_path / "run/model.pt").exists()
    assert start(data_dir, tmp_path / "run", "--resume", "auto") == 0
    assert (tmp_path / "run/model.pt").exists()
    assert_equal_runs(tmp_path / "run", straight)
