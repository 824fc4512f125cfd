"""Files that appear whole, words for people, devices."""

import os

import pytest

from conftest import run_script
from nano_hindi import common
from nano_hindi.common import Progress, count, duration, replacing
from nano_hindi.errors import UserError


def test_a_replaced_file_is_the_old_one_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), replacing(path) as temporary:
        temporary.write_bytes(b"half")
        _ = 1 // 0
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]
    assert path.read_bytes() == b"old"
    with replacing(path) as temporary:
        temporary.write_bytes(b"new")
        assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]
    assert path.read_bytes() == b"new"


def test_a_short_sharing_violation_on_windows_is_waited_for(tmp_path, monkeypatch):
    calls, replace = [], os.replace

    def busy_twice(source, target):
        calls.append(source)
        if len(calls) < 3:
            raise PermissionError(13, "used by another process")
        replace(source, target)

    (tmp_path / "a").write_bytes(b"x")
    monkeypatch.setattr(common.os, "replace", busy_twice)
    monkeypatch.setattr(common.time, "sleep", lambda seconds: None)
    with pytest.raises(PermissionError):  # on other systems a refusal is final
        common.rename(tmp_path / "a", tmp_path / "b")
    monkeypatch.setattr(common, "IS_WINDOWS", True)
    common.rename(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"x"
    assert len(calls) == 3


@pytest.mark.parametrize(
    ("n", "text"),
    [(0, "0"), (999, "999"), (1000, "1.00 k"), (9_999, "10.0 k"), (12_582_912, "12.6 M"), (500_000_000, "500 M"), (999_900_000, "1.00 B")],
)
def test_counts_have_three_digits(n, text):
    assert count(n) == text


@pytest.mark.parametrize(("seconds", "text"), [(0, "0s"), (59.4, "59s"), (59.6, "1m 00s"), (3599.7, "1h 00m"), (7800, "2h 10m"), (273_600, "3d 4h")])
def test_durations_have_two_units(seconds, text):
    assert duration(seconds) == text


def test_progress_prints_plain_lines_where_there_is_no_terminal(capsys):
    with Progress(100, "tokens", "reading", quiet_seconds=0) as progress:
        progress.update(40)
        progress.update(60, documents=3)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("reading: 40/100 tokens (")
    assert "left" in lines[0]
    assert lines[-1].endswith("documents 3")
    assert "\r" not in "".join(lines)


def test_a_device_that_is_not_there_is_refused():
    import torch

    with pytest.raises(UserError, match="use cpu or cuda"):
        common.pick_device("tpu")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="--device cpu"):
            common.pick_device("cuda")


@pytest.mark.parametrize("script", ["train.py", "generate.py", "data/download.py", "data/preprocess.py"])
def test_help_needs_no_heavy_import(script):
    """Start-up under a second, said without a clock: none of the slow packages is loaded."""
    code = f"import runpy, sys; sys.argv = [{script!r}, '--help']\ntry: runpy.run_path({script!r}, run_name='__main__')\nexcept SystemExit: pass\n"
    code += "print(sorted({'torch', 'transformers', 'datasets', 'pyarrow', 'matplotlib', 'wandb'} & set(sys.modules)))"
    output = run_script("-c", code)
    assert output.stdout.splitlines()[-1] == "[]", output.stderr
    assert "usage:" in output.stdout
