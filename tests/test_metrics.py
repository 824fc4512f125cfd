"""metrics.jsonl, which a resume cuts back, and which may be damaged."""

import json
import math
import os
import shutil
import tracemalloc

import pytest

import train
from conftest import SMALL
from nano_hindi.training.metrics import FLOAT32_MAX, FLOAT32_MIN, LONGEST_LINE, Metrics, read_metrics, training_seconds


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


def test_resume_drops_only_the_evaluation_made_again_also_from_another_folder(tmp_path):
    old, new = tmp_path / "metrics.jsonl", tmp_path / "new" / "metrics.jsonl"
    records = [made for step in (10, 20, 30) for made in (record(step), {"step": step, "tokens": step * 10, "val_bpb": 1.5})]
    metrics = Metrics(old)
    for made in records:
        metrics.write(made)
    for evaluates_again, kept in ((True, records[:3]), (False, records[:4])):
        Metrics(new, 20, old, evaluates_again)
        assert read_metrics(new) == kept
    assert read_metrics(old) == records


INVALID = {  # lines that are no records
    "garbage": b"\x00\xff\xfe loss 3.2",
    "not UTF-8": b'{"step": 20, "tokens": 200, "note": "\xe0\xa4"}',
    "incomplete": b'{"step": 20, "tokens": 200, "lo',
    "a list": b"[1]",
    "a number": b"20",
    "deeply nested": b"[" * 60_000,
    "a number of 5000 digits": b'{"step": 20, "tokens": 200, "loss": ' + b"9" * 5000 + b"}",
    "no tokens": b'{"step": 20, "loss": 3.0}',
    "no step": b'{"tokens": 200, "loss": 3.0}',
    "as long as a line may be": b"x" * (LONGEST_LINE - 1),
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
    valid = {"step": 10, "tokens": 100, "grad_norm": FLOAT32_MAX, "val_loss": FLOAT32_MIN, "skipped": 0}
    path.write_text(f'{json.dumps(valid)[:-1]}, "{key}": {value}}}\n')
    assert read_metrics(path) == [{**valid, key: None}]
    assert training_seconds(read_metrics(path)) == 0


def test_resume_keeps_every_record_as_it_is_and_counts_the_lines_that_it_removes(tmp_path, capsys):
    path = damaged(tmp_path)
    mine = b'{"tokens": 150,  "step": 15, "note": "changed by hand", "loss": NaN}'
    path.write_bytes(mine + b"\r\n\n" + path.read_bytes())
    Metrics(path, 20).write(record(30))
    assert path.read_bytes() == b"\n".join([mine, *(json.dumps(record(step)).encode() for step in (10, 20, 30)), b""])
    told = f"notice: removed what is not a record from metrics.jsonl: {2 * len(INVALID) + 1} of {2 * len(INVALID) + 5} lines, the first is line 3\n"
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
