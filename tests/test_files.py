"""Files are replaced as a whole or not at all."""

import os
import stat

import pytest

from conftest import as_nobody
from nano_hindi import files
from nano_hindi.files import copy_contents, file_digest, replacing, utf8_path


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


def test_file_is_flushed_to_disk_before_its_name_and_its_name_at_once(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(os, "fsync", lambda fd, fsync=os.fsync: (calls.append("folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file"), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda *paths, replace=os.replace: (calls.append("rename"), replace(*paths)))
    with replacing(tmp_path / "a.bin") as temporary:
        temporary.write_bytes(b"content")
    assert calls == ["file", "rename"] + ["folder"] * (os.name != "nt")


def test_folder_in_the_place_of_a_file_is_an_error_before_the_work(tmp_path):
    with pytest.raises(IsADirectoryError), replacing(tmp_path):
        pytest.fail("the work was done")


def test_digest_of_a_large_file_is_of_its_first_byte_its_last_and_its_size(tmp_path):
    digests = set()
    for content in (bytes(2**21), bytes(2**21 + 1), b"1" + bytes(2**21 - 1), bytes(2**21 - 1) + b"1"):
        (tmp_path / "a.bin").write_bytes(content)
        digests.add(file_digest(tmp_path / "a.bin"))
    assert len(digests) == 4


def test_read_only_file_is_not_waited_for_on_windows(tmp_path, monkeypatch):
    def refused():
        raise PermissionError

    (tmp_path / "a.txt").touch()
    monkeypatch.setattr(files, "IS_WINDOWS", True)
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr(files.time, "sleep", lambda seconds: pytest.fail("it has waited"))
    with pytest.raises(PermissionError):
        files.when_released(tmp_path / "a.txt", refused)


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


# ---- a folder copied without its permissions


@pytest.fixture
def unprivileged(tmp_path):
    """Return a folder in which the test runs with the rights of its owner: root becomes another
    user until the test ends."""
    if os.name != "nt" and os.geteuid() == 0:
        os.chown(tmp_path, 65534, -1)
    with as_nobody(tmp_path.parent):
        yield tmp_path


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
    if os.name != "nt":  # where a folder that is read-only takes new files
        with pytest.raises(PermissionError):
            (target / "b.json").write_text("three")
    target.chmod(0o755)


def test_folder_copied_onto_itself_is_unchanged(tmp_path):
    (tmp_path / "a.json").write_text("one")
    copy_contents(tmp_path, tmp_path)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.json", "one")]


def test_path_is_linked_only_where_it_is_not_utf8(tmp_path):
    for name in ("हिन्दी.pt".encode(), b"\xff.pt"):
        try:
            name = os.fsdecode(name)
            (tmp_path / name).write_text("content")
        except (OSError, UnicodeError):
            pytest.skip("file names are always Unicode here")
        with utf8_path(tmp_path / name) as path:
            assert str(path).encode().decode() == os.fsencode(path).decode()
            assert path.read_text() == "content"
            is_linked = name == "\udcff.pt"
            assert (path != tmp_path / name) == is_linked
        assert path.exists() != is_linked
