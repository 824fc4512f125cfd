"""Files are replaced as a whole or not at all."""

import contextlib
import errno
import os
import subprocess
import sys
import threading

import pytest

from conftest import ROOT
from nano_hindi import files
from nano_hindi.errors import UserError
from nano_hindi.files import copy_contents, locked, locked_for_reading, replacing, utf8_path


def test_replaced_file_keeps_the_old_content_until_the_new_one_is_complete(tmp_path):
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


def test_file_held_by_another_program_on_windows_is_waited_for_up_to_a_minute(tmp_path, monkeypatch, capsys):
    waited, held, replace = [], 50.0, os.replace

    def busy(source, target):
        if sum(waited) < held:
            raise PermissionError(13, "used by another process")
        replace(source, target)

    (tmp_path / "a").write_bytes(b"x")
    monkeypatch.setattr(files.os, "replace", busy)
    monkeypatch.setattr(files.time, "sleep", waited.append)
    monkeypatch.setattr(files, "IS_WINDOWS", False)
    with pytest.raises(PermissionError):  # on other systems a refusal is final
        files.rename(tmp_path / "a", tmp_path / "b")
    assert waited == []
    monkeypatch.setattr(files, "IS_WINDOWS", True)
    files.rename(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"x"
    assert capsys.readouterr().out.count("another program has") == 1
    waited.clear()
    held = 1e9
    with pytest.raises(PermissionError):
        files.rename(tmp_path / "b", tmp_path / "a")
    assert 55 < sum(waited) < 65


# ---- locks


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
from nano_hindi.files import locked_for_reading
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
    assert (tmp_path / files.LOCK).exists()
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
    (tmp_path / files.LOCK).touch()  # made by a user who may write
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", without_permission)
        reading = locked_for_reading(tmp_path, "--data_dir", pytest.fail)
        reading.__enter__()
    with pytest.raises(UserError, match="a run reads this folder"), locked(tmp_path, "writes", "--output_dir"):
        pass
    reading.__exit__(None, None, None)


def test_drive_without_locks_is_read_with_a_notice(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    notices = []
    monkeypatch.setattr(files, "_try_lock", no_locks)
    with locked_for_reading(tmp_path, "--data_dir", notices.append):
        pass
    assert ["No locks available" in notice for notice in notices] == [True]
    assert list(tmp_path.iterdir()) == []


def test_missing_folder_is_not_made_for_a_reader(tmp_path):
    with locked_for_reading(tmp_path / "none", "--data_dir", pytest.fail):
        pass
    assert list(tmp_path.iterdir()) == []


# ---- a folder copied without its permissions


@pytest.fixture
def unprivileged(tmp_path):
    """Return a folder in which the test runs with the rights of its owner: root becomes another
    user until the test ends."""
    if os.name == "nt" or os.geteuid() != 0:
        yield tmp_path
        return
    for parent in tmp_path.parents:  # pytest makes its folders accessible to their owner only
        parent.chmod(parent.stat().st_mode | 0o011)
    os.chown(tmp_path, 65534, -1)
    os.seteuid(65534)
    yield tmp_path
    os.seteuid(0)


def test_read_only_folder_is_copied_again_and_again(unprivileged):
    source, target = unprivileged / "source", unprivileged / "target"
    source.mkdir()
    for text in ("one", "two"):
        (source / "a.json").write_text(text)
        (source / "a.json").chmod(0o444)
        source.chmod(0o555)
        copy_contents(source, target)
        assert [path.read_text() for path in target.iterdir()] == [text]
        assert target.stat().st_mode & 0o200
        assert (target / "a.json").stat().st_mode & 0o200
        for path, mode in ((target / "a.json", 0o444), (target, 0o555)):  # what an earlier version left
            path.chmod(mode)
        for path, mode in ((source, 0o755), (source / "a.json", 0o644)):
            path.chmod(mode)
    with pytest.raises(PermissionError):
        (target / "b.json").write_text("three")
    target.chmod(0o755)


def test_folder_copied_onto_itself_is_unchanged(tmp_path):
    (tmp_path / "a.json").write_text("one")
    copy_contents(tmp_path, tmp_path)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.json", "one")]


def test_path_is_linked_only_where_it_is_not_utf8(tmp_path):
    for name, is_linked in (("हिन्दी.pt", False), (os.fsdecode(b"\xff.pt"), os.fsdecode(b"\xff") == "\udcff")):
        try:
            (tmp_path / name).write_text("content")
        except (OSError, UnicodeError):
            pytest.skip("file names are always Unicode here")
        with utf8_path(tmp_path / name) as path:
            assert str(path).encode().decode() == os.fsencode(path).decode()
            assert path.read_text() == "content"
            assert (path != tmp_path / name) == is_linked
        assert path.exists() != is_linked
