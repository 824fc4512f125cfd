"""The folder in which torch.compile keeps its kernels."""

import io
import os
import sys
from pathlib import Path

import pytest

import train
from nano_hindi.errors import UserError
from nano_hindi.training import compile_cache, loop

NAME = compile_cache.VARIABLE


@pytest.fixture
def chosen(tmp_path, monkeypatch):
    """Return a function that gives what `keep_compiled_kernels` chooses, with `tmp_path` as the
    home and the cache folder of the user, and other environment variables."""
    monkeypatch.setenv(NAME, "")
    for name, folder in {"HOME": tmp_path, "USERPROFILE": tmp_path, "LOCALAPPDATA": tmp_path, "XDG_CACHE_HOME": tmp_path}.items():
        monkeypatch.setenv(name, str(folder))

    def choose(**environment) -> str:
        for name, value in environment.items():
            monkeypatch.setenv(name, str(value))
        compile_cache.keep_compiled_kernels()
        return os.environ[NAME]

    return choose


def test_folder_is_the_users_and_outlives_the_temporary_files(chosen, tmp_path):
    folder = Path(chosen())
    assert folder.is_dir()
    assert not list(folder.iterdir())
    place = Path("Library", "Caches") if sys.platform == "darwin" else Path()
    assert folder.parent == tmp_path / place / "nano_hindi" / "compiled"


def test_users_own_choice_stays(chosen, tmp_path):
    assert chosen(**{NAME: "mine"}) == "mine"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("flags", [[], ["--no_compile"]])
def test_run_chooses_it_before_it_makes_a_plan(chosen, tmp_path, monkeypatch, capsys, flags):
    """An optimizer, of which `plan_run` makes one to check a checkpoint, imports PyTorch's
    compiler, and that sets the variable to its default."""

    def plan(*_) -> None:
        raise UserError(f"folder {os.environ[NAME]!r}")

    monkeypatch.setattr(loop, "plan_run", plan)
    assert train.main(["--device", "cpu", "--data_dir", str(tmp_path), "--checkpoint_dir", str(tmp_path / "run"), *flags]) == 2
    assert ("nano_hindi" in capsys.readouterr().err) == (not flags)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="XDG_CACHE_HOME is of Linux")
def test_relative_cache_home_is_ignored(chosen, tmp_path):
    assert Path(chosen(XDG_CACHE_HOME="cache")).is_relative_to(tmp_path / ".cache")


@pytest.mark.parametrize("kind", ["a file in its place", "a space, which the compiler does not take"])
def test_folder_that_cannot_be_used_changes_nothing(chosen, tmp_path, kind):
    home = tmp_path / ("file" if kind.startswith("a file") else "First Last")
    home.touch()
    assert chosen(**dict.fromkeys(("HOME", "USERPROFILE", "LOCALAPPDATA", "XDG_CACHE_HOME"), home)) == ""


def test_another_processor_gets_a_folder_of_its_own(chosen, monkeypatch):
    """Machines of a cluster share a home; kernels are compiled for the processor."""
    if not sys.platform.startswith("linux"):
        pytest.skip("reads /proc/cpuinfo")
    folders = set()
    for flags in ("flags : avx2", "flags : avx512f", "Features : sve"):
        monkeypatch.setattr(compile_cache, "open", lambda path, flags=flags, **_: io.StringIO(f"processor : 0\n{flags}\n"), raising=False)
        folders.add(chosen(**{NAME: ""}))
    assert len(folders) == 3
