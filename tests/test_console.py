"""Numbers, durations and progress as shown to people. test_report.py tests the status line."""

import io
import os
import shutil
import sys
from pathlib import Path

import pytest

from nano_hindi.common import ROOT
from nano_hindi.console import Progress, count, counted, dispensable_output, duration, python_command, shown, unique_names


@pytest.mark.parametrize("inside", [True, False])
def test_printed_command_starts_this_python_activated_or_not(inside, tmp_path, monkeypatch):
    """A shell runs what is printed; a `python` that is another one comes first in its PATH."""
    others, own, repo = tmp_path / "others", tmp_path / "my repo" / "venv" / "bin", tmp_path / "my repo"
    for folder in (others, own):
        folder.mkdir(parents=True)
    name = "python.exe" if os.name == "nt" else "python"
    shutil.copy(shutil.which("whoami"), others / name)  # any program
    shutil.copy(sys.executable, own / name)
    (repo / "generate.py").write_text("")
    monkeypatch.setattr("nano_hindi.console.ROOT", repo)
    monkeypatch.setattr(sys, "executable", str(own / name))
    monkeypatch.chdir(repo if inside else tmp_path)
    script = "generate.py" if inside else shell(Path("my repo", "generate.py"))
    monkeypatch.setenv("PATH", os.pathsep.join([str(others), str(own)]))
    assert python_command("generate.py") == f"{shell(own.relative_to(Path.cwd()) / name)} {script}"
    monkeypatch.setenv("PATH", os.pathsep.join([str(own), str(others)]))
    assert python_command("generate.py") == f"python {script}"


@pytest.mark.skipif(os.name == "nt", reason="Windows does not delete the current folder")
def test_paths_are_absolute_after_the_current_folder_was_deleted(tmp_path, monkeypatch):
    """A run that goes on for weeks may outlive the folder that it was started in."""
    (tmp_path / "started").mkdir()
    monkeypatch.chdir(tmp_path / "started")
    (tmp_path / "started").rmdir()
    monkeypatch.setenv("PATH", "")
    assert shown(tmp_path / "run") == str(tmp_path / "run")
    assert python_command("generate.py") == f"{shell(Path(sys.executable))} {shell(ROOT / 'generate.py')}"


def shell(path: Path) -> str:
    """Return a path as a shell takes it."""
    word = str(path)
    return word if " " not in word else f'"{word}"' if os.name == "nt" else f"'{word}'"


def test_equal_names_are_told_apart_by_their_parents(tmp_path):
    folders = [tmp_path / name for name in ("a/data", "b/data", "b/x/data", "c/x/data", "news")]
    assert unique_names(folders) == ["a/data", "b/data", "b/x/data", "c/x/data", "news"]
    assert unique_names([tmp_path / "x" / "data"]) == ["data"]
    assert unique_names([Path("/data"), Path("/mnt/data")]) == ["/data", "mnt/data"]


@pytest.mark.parametrize(
    ("n", "text"),
    [(0, "0"), (999, "999"), (1000, "1.00 k"), (9_999, "10.0 k"), (12_582_912, "12.6 M"), (500_000_000, "500 M"), (999_900_000, "1.00 B")],
)
def test_counts_have_three_significant_digits(n, text):
    assert count(n) == text


@pytest.mark.parametrize(("n", "text"), [(0, "0 updates"), (1, "1 update"), (1907, "1,907 updates")])
def test_one_thing_is_in_the_singular(n, text):
    assert counted(n, "update") == text


@pytest.mark.parametrize(("seconds", "text"), [(0, "0s"), (59.4, "59s"), (59.6, "1m 00s"), (3599.7, "1h 00m"), (7800, "2h 10m"), (273_600, "3d 4h")])
def test_durations_have_two_units(seconds, text):
    assert duration(seconds) == text


def test_library_may_replace_a_closed_stderr_meanwhile(monkeypatch):
    """transformers does."""
    monkeypatch.setattr(sys, "stderr", None)
    with dispensable_output():
        sys.stderr = io.StringIO()
    assert sys.stderr is None
    sys.stdout.write("")  # that of before


@pytest.mark.parametrize("notebook", [False, True])
def test_progress_prints_plain_lines_without_a_terminal(notebook, capsys, monkeypatch):
    monkeypatch.setattr("nano_hindi.console.QUIET_SECONDS", 0)
    if notebook:  # a terminal for the command, but the page keeps every state of a line
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
        monkeypatch.setenv("JPY_PARENT_PID", "1")
    with Progress(100, "tokens", "reading a\x1b[31m") as progress:
        progress.update(40)
        progress.update(60, documents=3)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(r"reading a\x1b[31m: 40/100 tokens (")  # the name of a file may have control characters
    assert "left" in lines[0]
    assert len(lines) == 2  # the end prints nothing twice
    assert lines[1].endswith("documents 3")
    assert "\r" not in "".join(lines)
