"""A run keeps the computer awake, for as long as it lasts."""

import contextlib
import ctypes
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from conftest import start, wait_until
from nano_hindi.training import loop
from nano_hindi.training.awake import inhibitor, kept_awake
from test_faults import at_update


def test_windows_is_asked_to_stay_awake_until_the_run_ends(monkeypatch):
    states = []
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(ctypes, "windll", SimpleNamespace(kernel32=SimpleNamespace(SetThreadExecutionState=states.append)), raising=False)
    with pytest.raises(KeyboardInterrupt), kept_awake():
        assert states == [0x80000001]  # ES_CONTINUOUS | ES_SYSTEM_REQUIRED
        raise KeyboardInterrupt
    assert states[1:] == [0x80000000]


@pytest.mark.skipif(os.name == "nt", reason="runs programs of Linux and macOS")
@pytest.mark.parametrize(("platform", "program"), [("linux", "systemd-inhibit"), ("darwin", "caffeinate")])
def test_inhibitor_runs_for_as_long_as_the_run(platform, program, tmp_path, monkeypatch):
    path = tmp_path / program
    path.write_text(f'#!/bin/sh\ntrap "touch {tmp_path}/ended; exit" TERM\necho "$@" >{tmp_path}/words\nwhile :; do sleep 0.05; done\n')
    path.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(sys, "platform", platform)
    with kept_awake():
        wait_until((tmp_path / "words").exists, "the inhibitor")
        assert not (tmp_path / "ended").exists()
    assert (tmp_path / "ended").exists()
    assert str(os.getpid()) in (tmp_path / "words").read_text()


def test_without_a_screen_or_a_program_nothing_is_started(monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    assert inhibitor("linux", 1) is None
    monkeypatch.setenv("PATH", "")
    assert inhibitor("darwin", 1) is None
    monkeypatch.setattr(subprocess, "Popen", None)
    monkeypatch.setattr(sys, "platform", "linux")
    with kept_awake():
        pass


@pytest.mark.slow
def test_training_keeps_the_computer_awake(data_dir, tmp_path, monkeypatch):
    events = []

    @contextlib.contextmanager
    def recorded():
        events.append("awake")
        yield
        events.append("may sleep")

    monkeypatch.setattr(loop, "kept_awake", recorded)
    with at_update(monkeypatch, 0, lambda run: events.append("first")), at_update(monkeypatch, 11, lambda run: events.append("last")):
        assert start(data_dir, tmp_path) == 0
    assert events == ["awake", "first", "last", "may sleep"]
