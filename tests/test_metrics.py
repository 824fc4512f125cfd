"""metrics.jsonl, and wandb, which may be missing."""

import json
import math
import os
import shutil
import sys
import threading
import tracemalloc
import types

import pytest

import train
from conftest import PATIENCE, SMALL, run_command
from nano_hindi.inference.settings import SAMPLE_PROMPTS
from nano_hindi.training.metrics import Metrics, WandbLog, read_metrics, training_seconds


def record(step: int, **more) -> dict:
    return {"step": step, "tokens": step * 10, "loss": 5.0 - step / 100, "lr": 0.02, **more}


def test_resume_truncates_the_file_to_the_step_of_the_checkpoint(tmp_path):
    path = tmp_path / "metrics.jsonl"
    metrics = Metrics(path)
    for step in (10, 20, 30):
        metrics.write(record(step))
    metrics = Metrics(path, resumed_step=20)
    metrics.write(record(30, loss=1.0))
    assert read_metrics(path) == [record(10), record(20), record(30, loss=1.0)]


INVALID = {  # lines that are no records
    "garbage": b"\x00\xff\xfe loss 3.2",
    "not UTF-8": b'{"step": 20, "tokens": 200, "note": "\xe0\xa4"}',
    "incomplete": b'{"step": 20, "tokens": 200, "lo',
    "a list": b"[1]",
    "a number": b"20",
    "deeply nested": b"[" * 60_000,
    "a deeply nested value": b'{"step": 20, "tokens": 200, "loss": ' + b'{"a":' * 9_000 + b"1" + b"}" * 9_001,
    "a number of 5000 digits": b'{"step": 20, "tokens": 200, "loss": ' + b"9" * 5000 + b"}",
    "no tokens": b'{"step": 20, "loss": 3.0}',
    "no step": b'{"tokens": 200, "loss": 3.0}',
    "longer than any record": b'{"step": 20, "tokens": 200}' + b" " * 70_000 + b"x",
    **{
        f"{key} {value}": json.dumps({"step": 20, "tokens": 200, "loss": 3.0})
        .encode()
        .replace(f'"{key}": {n}'.encode(), f'"{key}": {value}'.encode())
        for key, n in (("step", 20), ("tokens", 200))
        for value in ('"many"', "true", "null", "[1]", '{"a": 1}', "1.5", "1e3", "1e400", "NaN", "-1", str(2**63), str(10**30))
    },
}
INVALID_VALUES = ('"fast"', "true", "null", "[1]", '{"a": [1]}', "NaN", "Infinity", "-Infinity", "-1", "1e308", "1e400", "1e-300", str(10**400))


def damaged(tmp_path):
    """Return a metrics file with two records between invalid lines."""
    path = tmp_path / "metrics.jsonl"
    lines = [*INVALID.values(), json.dumps(record(10)).encode(), *INVALID.values(), json.dumps(record(20)).encode(), INVALID["incomplete"]]
    path.write_bytes(b"\n".join(lines))
    return path


@pytest.mark.parametrize("name", INVALID)
def test_invalid_line_is_skipped(tmp_path, name):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"\n".join([json.dumps(record(10)).encode(), INVALID[name], json.dumps(record(30)).encode()]))
    assert read_metrics(path) == [record(10), record(30)]


@pytest.mark.parametrize("key", ["loss", "lr", "tokens_per_second", "val_bpb", "of my own"])
@pytest.mark.parametrize("value", INVALID_VALUES)
def test_value_that_is_no_plausible_number_is_missing_and_the_rest_is_valid(tmp_path, key, value):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 10, "tokens": 100, "grad_norm": 3.4e38, "{key}": {value}}}\n')
    assert read_metrics(path) == [{"step": 10, "tokens": 100, "grad_norm": 3.4e38, key: None}]
    assert training_seconds(read_metrics(path)) == 0


def test_resume_keeps_every_record_as_it_is_and_counts_the_lines_that_it_removes(tmp_path, capsys):
    path = damaged(tmp_path)
    mine = b'{"tokens": 150,  "step": 15, "note": "changed by hand", "loss": NaN}'
    path.write_bytes(mine + b"\r\n\n" + path.read_bytes())
    Metrics(path, 20).write(record(30))
    assert path.read_bytes() == b"\n".join([mine, *(json.dumps(record(step)).encode() for step in (10, 20, 30)), b""])
    told = f"notice: {2 * len(INVALID) + 1} of {2 * len(INVALID) + 5} lines in metrics.jsonl are no records and are removed, first line 3\n"
    assert capsys.readouterr().out == told
    Metrics(path, 20)
    assert capsys.readouterr().out == ""


def test_a_line_of_100_mb_is_read_in_bounded_memory(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps(record(10)) + "\n")
    os.truncate(path, 10**8)  # zeros, which take no space on the disk
    with open(path, "ab") as file:
        file.write(b"\n" + json.dumps(record(20)).encode() + b"\n")
    tracemalloc.start()
    try:
        assert read_metrics(path) == [record(10), record(20)]
        assert tracemalloc.get_traced_memory()[1] < 10**6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("damage", ["lines", "a folder", "no file"])
def test_end_of_a_run_and_its_resume_survive_damaged_metrics(data_dir, straight, tmp_path, capsys, damage):
    run = shutil.copytree(straight, tmp_path / "run")
    (run / "metrics.jsonl").unlink()
    if damage == "lines":
        damaged(run)
    elif damage == "a folder":
        (run / "metrics.jsonl").mkdir()
    argv = [*SMALL, "--data_dir", str(data_dir), "--checkpoint_dir", str(run), "--resume", "auto"]
    assert train.main(argv) == 0
    output = capsys.readouterr().out
    assert "this run is finished" in output
    assert "was not drawn" not in output
    assert "done:       12 updates, 3.07 k tokens\n" in output  # without a speed, which is not known
    more = train.main([*argv, "--total_tokens", str(32 * 8 * 14)])
    output, errors = capsys.readouterr()
    if damage == "a folder":
        assert more == 2
        assert errors.count("\n") == 1
        assert "metrics.jsonl" in errors
    else:
        assert more == 0
        assert output.count("notice: ") == 1 + (damage == "lines")  # of the larger budget
        assert [line["step"] for line in read_metrics(run / "metrics.jsonl") if "val_bpb" in line] == [28]


def test_non_finite_values_are_written_as_null(tmp_path):
    Metrics(tmp_path / "metrics.jsonl").write(record(10, loss=math.nan, grad_norm=math.inf))
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line, parse_constant=lambda name: pytest.fail(name)) == record(10, loss=None, grad_norm=None)


# ---- wandb


class Service:
    """Stands in for the wandb package: records calls, slowly or with errors."""

    def __init__(self, *, mode="online", key=True, log=None, init=None):
        self.settings, self.key, self.on_log, self.on_init, self.id = types.SimpleNamespace(mode=mode), key, log, init, "abc123"
        self.logged, self.asked, self.finished, self.url, self.dir = [], None, False, "https://there", "here"

    def Settings(self, **settings):  # noqa: N802
        return settings

    def setup(self, settings):
        return self

    def login(self, *, prompt, verify):
        assert not prompt
        return self.key

    def init(self, **asked):
        self.asked = asked
        if self.on_init:
            self.on_init()
        return self

    def define_metric(self, name, step_metric):
        assert (name, step_metric) == ("*", "step")

    def Table(self, columns, data):  # noqa: N802
        return [columns, *data]

    def log(self, values):
        if self.on_log:
            self.on_log()
        self.logged.append(values)

    def finish(self):
        self.finished = True


def run_of(service, folder, monkeypatch) -> tuple[WandbLog, list[str]]:
    """Return a WandbLog that uses `service`, and the messages it prints."""
    monkeypatch.setitem(sys.modules, "wandb", service)
    told = []
    return WandbLog(True, {"n_layer": 2}, folder, told.append), told


def test_wandb_receives_config_metrics_and_samples_in_order(tmp_path, monkeypatch):
    service = Service()
    log, told = run_of(service, tmp_path, monkeypatch)
    log.log({"step": 1, "loss": 2.0})
    log.log_samples(1, [("भारत", "भारत एक")])
    log.finish()
    assert service.asked["config"] == {"n_layer": 2}
    assert service.logged == [{"step": 1, "loss": 2.0}, {"step": 1, "samples": [["step", "prompt", "text"], [1, "भारत", "भारत एक"]]}]
    assert service.finished
    assert told == ["wandb       https://there"]


def test_resumed_run_keeps_its_wandb_id_and_another_folder_gets_a_new_one(tmp_path, monkeypatch):
    asked = []
    for folder in ("run", "run", "other"):
        (tmp_path / folder).mkdir(exist_ok=True)
        service = Service()
        run_of(service, tmp_path / folder, monkeypatch)[0].finish()
        asked.append(service.asked["id"])
    assert asked == [None, "abc123", None]


def failing(error: Exception):
    def fail(*_):
        raise error

    return fail


@pytest.mark.parametrize(
    ("service", "words"),
    [
        (None, "import of wandb halted"),
        (Service(key=False), "not logged in"),
        (Service(init=failing(TimeoutError("no answer\nin 30 s"))), "TimeoutError: no answer in 30 s"),
        (Service(log=failing(ConnectionError("gone"))), "ConnectionError: gone"),
    ],
    ids=["missing", "not logged in", "no network", "fails later"],
)
def test_wandb_failure_is_one_line_and_does_not_stop_training(tmp_path, monkeypatch, capfd, service, words):
    log, told = run_of(service, tmp_path, monkeypatch)
    for step in (1, 2, 3):
        log.log({"step": step, "loss": 2.0})
    log.finish()
    log.log({"step": 4, "loss": 2.0})
    (line,) = [line for line in told if line.startswith("wandb: off")]
    assert words in line
    assert "\n" not in line
    assert capfd.readouterr() == ("", "")


def test_training_does_not_wait_for_a_slow_wandb(tmp_path, monkeypatch):
    answer, came = threading.Event(), []
    service = Service(init=lambda: came.append(answer.wait(PATIENCE)))
    log, _ = run_of(service, tmp_path, monkeypatch)
    for step in range(100):
        log.log({"step": step, "loss": 2.0})
    assert came == service.logged == []  # everything is queued, and there is no connection yet
    answer.set()
    log.finish()
    assert [values["step"] for values in service.logged] == list(range(100))


def test_without_the_flag_wandb_is_not_used(tmp_path, monkeypatch):
    service = Service()
    monkeypatch.setitem(sys.modules, "wandb", service)
    log = WandbLog(False, {}, tmp_path, failing(AssertionError("told")))
    log.log({"step": 1})
    log.finish()
    assert service.asked is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_real_wandb_offline_records_a_run_and_its_id(data_dir, tmp_path):
    """A run of train.py and its resume, without a network; what is read back is what `wandb sync`
    would upload."""
    pytest.importorskip("wandb", reason="needs wandb: pip install wandb")
    flags = ["--inference_interval", "12", "--resume", "auto", "--wandb"]
    script = (
        f"import os, sys, train; os.environ.update(HOME={str(tmp_path)!r}, WANDB_CACHE_DIR={str(tmp_path)!r}); sys.exit(train.main(sys.argv[1:]))"
    )
    env = {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}
    for tokens in (1024, 2048):
        argv = [*SMALL, "--data_dir", data_dir, "--checkpoint_dir", tmp_path / "run", *flags, "--total_tokens", tokens]
        done = run_command([sys.executable, "-c", script, *argv], fork=True, env=env)
        assert (done.returncode, done.stderr) == (0, "")
        assert sum(line.startswith("wandb") for line in done.stdout.splitlines()) == 1, done.stdout
    runs = sorted((tmp_path / "run" / "wandb").glob("offline-run-*"))
    run_id = (tmp_path / "run" / "wandb_id.txt").read_text()
    assert [folder.name.split("-")[-1] for folder in runs] == [run_id, run_id]
    for folder in runs:
        (log,) = folder.glob("*.wandb")
        for word in (b"val_bpb", b"tokens_per_second", b"grad_norm", b"n_layer", b"muon_lr"):
            assert word in log.read_bytes()
        tables = [json.loads(path.read_text(encoding="utf-8")) for path in folder.rglob("*.table.json")]
        assert tables
        assert all(table["columns"] == ["step", "prompt", "text"] and len(table["data"]) == len(SAMPLE_PROMPTS) for table in tables)
