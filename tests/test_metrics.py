"""metrics.jsonl, and a wandb that may be missing."""

import json
import sys

from nano_hindi.metrics import Metrics, WandbLog, read_metrics


def record(step: int, **more) -> dict:
    return {"step": step, "tokens": step * 10, "loss": 5.0 - step / 100, "lr": 0.02, **more}


def test_a_resumed_run_cuts_the_file_back_to_the_checkpoints_step(tmp_path):
    path = tmp_path / "metrics.jsonl"
    metrics = Metrics(path)
    for step in (10, 20, 30):
        metrics.write(record(step))
    metrics = Metrics(path, resumed_step=20)
    metrics.write(record(30, loss=1.0))
    assert read_metrics(path) == [record(10), record(20), record(30, loss=1.0)]


def test_half_lines_and_foreign_lines_are_passed_over(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'[1]\n{"a": 1}\n' + json.dumps(record(10)).encode() + b'\n{"step": 20, "lo')
    assert read_metrics(path) == [record(10)]
    Metrics(path, resumed_step=10).write(record(20))
    assert read_metrics(path) == [record(10), record(20)]


def test_a_missing_wandb_is_one_line_and_stops_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb", None)
    log = WandbLog(True, {}, tmp_path)
    log.log({"step": 1, "loss": 2.0})
    log.finish()
    assert capsys.readouterr().out.count("\n") == 1


def test_a_wandb_that_fails_later_is_one_line_and_stops_nothing(tmp_path, monkeypatch, capsys):
    class Broken:
        def init(self, **kwargs):
            return self

        def log(self, record, step):
            raise ConnectionError("gone")

    monkeypatch.setitem(sys.modules, "wandb", Broken())
    log = WandbLog(True, {}, tmp_path)
    for step in (1, 2, 3):
        log.log({"step": step, "loss": 2.0})
    log.finish()
    assert capsys.readouterr().out.count("wandb: off (ConnectionError: gone)") == 1
