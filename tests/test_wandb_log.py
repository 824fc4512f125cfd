"""wandb, which may be missing, slow or broken."""

import json
import os
import sys
import threading
import types

import pytest

from conftest import PATIENCE, SMALL, run_command
from nano_hindi.inference.settings import SAMPLE_PROMPTS
from nano_hindi.training.wandb_log import WandbLog


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
