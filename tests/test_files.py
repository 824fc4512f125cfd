"""Files are replaced as a whole or not at all."""

import os

import pytest

from nano_hindi import files
from nano_hindi.files import replacing


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


def test_short_sharing_violation_on_windows_is_retried(tmp_path, monkeypatch):
    calls, replace = [], os.replace

    def busy_twice(source, target):
        calls.append(source)
        if len(calls) < 3:
            raise PermissionError(13, "used by another process")
        replace(source, target)

    (tmp_path / "a").write_bytes(b"x")
    monkeypatch.setattr(files.os, "replace", busy_twice)
    monkeypatch.setattr(files.time, "sleep", lambda seconds: None)
    with pytest.raises(PermissionError):  # on other systems a refusal is final
        files.rename(tmp_path / "a", tmp_path / "b")
    monkeypatch.setattr(files, "IS_WINDOWS", True)
    files.rename(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"x"
    assert len(calls) == 3
