"""A folder has one writer, or any number of readers."""

import contextlib
import errno
import os
import subprocess
import sys
import threading

import pytest

from conftest import ROOT
from nano_hindi import locks
from nano_hindi.errors import UserError
from nano_hindi.locks import locked, locked_for_reading


def test_folder_has_many_readers_or_one_writer(tmp_path):
    with locked_for_reading(tmp_path, "--data_dir"), locked_for_reading(tmp_path, "--data_dir"):
        refused = pytest.raises(UserError, match="a run reads this folder; wait for it, stop it, or choose another --output_dir")
        with refused, locked(tmp_path, "is tokenizing there", "--output_dir"):
            pass
        with locked_for_reading(tmp_path, "--data_dir"):
            pass
        with pytest.raises(UserError, match="a run reads"), locked(tmp_path, "is tokenizing there", "--output_dir"):  # the others still read
            pass
    refused = pytest.raises(UserError, match=rf"in use: process {os.getpid()}, since .*, is tokenizing there; .* choose another --data_dir")
    with locked(tmp_path, "is tokenizing there", "--output_dir"), refused, locked_for_reading(tmp_path, "--data_dir"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_new_folder_that_stays_empty_is_removed(tmp_path):
    with locked(tmp_path / "a" / "b", "work", "--folder"):
        assert (tmp_path / "a" / "b").is_dir()
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name == "nt", reason="an open file cannot be deleted")
def test_lock_file_that_its_last_holder_deleted_locks_nothing(tmp_path, monkeypatch):
    deleted = []

    def try_lock(lock, shared, try_lock=locks._try_lock):
        if not deleted:
            deleted.append((tmp_path / locks.LOCK).unlink())
        return try_lock(lock, shared)

    monkeypatch.setattr(locks, "_try_lock", try_lock)
    with locked(tmp_path, "work", "--folder"), pytest.raises(UserError, match="in use"), locked(tmp_path, "work", "--folder"):
        pass


def test_readers_that_come_and_go_never_refuse_each_other_or_let_a_writer_in(tmp_path):
    failures, writers = [], []

    def read():
        for _ in range(300):
            try:
                with locked_for_reading(tmp_path, "--data_dir", failures.append):
                    pass
            except UserError as error:
                failures.append(error)

    threads = [threading.Thread(target=read) for _ in range(2)]
    with locked_for_reading(tmp_path, "--data_dir"):
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            with contextlib.suppress(UserError), locked(tmp_path, "writes", "--output_dir"):
                writers.append(1)
    assert failures == writers == []


def test_lock_of_a_killed_reader_does_not_block(tmp_path):
    code = f"""
from pathlib import Path
from nano_hindi.locks import locked_for_reading
with locked_for_reading(Path({str(tmp_path)!r}), "--data_dir"):
    print("reads", flush=True)
    input()
"""
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"reads" + os.linesep.encode()
        with pytest.raises(UserError, match="a run reads"), locked(tmp_path, "writes", "--output_dir"):
            pass
        process.kill()
        process.wait()
    assert (tmp_path / locks.LOCK).exists()
    with locked(tmp_path, "writes", "--output_dir"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_folder_that_cannot_be_written_is_read_and_locked_if_it_has_a_lock_file(tmp_path, monkeypatch):
    real = os.open

    def without_permission(path, flags, *mode):
        if flags & (os.O_CREAT | os.O_RDWR):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, flags, *mode)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", without_permission)
        with locked_for_reading(tmp_path, "--data_dir", pytest.fail):
            pass
    (tmp_path / locks.LOCK).touch()  # made by a user who may write
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", without_permission)
        reading = locked_for_reading(tmp_path, "--data_dir", pytest.fail)
        reading.__enter__()
    with pytest.raises(UserError, match="a run reads this folder"), locked(tmp_path, "writes", "--output_dir"):
        pass
    reading.__exit__(None, None, None)


def test_drive_without_locks_is_used_with_a_notice(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    notices = []
    monkeypatch.setattr(locks, "_try_lock", no_locks)
    with locked_for_reading(tmp_path, "--data_dir", notices.append):
        pass
    with locked(tmp_path, "writes", "--output_dir", notices.append):
        pass
    assert ["No locks available" in notices[0], "without file locks" in notices[1]] == [True, True]
    assert list(tmp_path.iterdir()) == []


def test_missing_folder_is_not_made_for_a_reader(tmp_path):
    with locked_for_reading(tmp_path / "none", "--data_dir", pytest.fail):
        pass
    assert list(tmp_path.iterdir()) == []
