"""Errors of the operating system name a file, whoever raises them."""

import errno
import io
import os
from pathlib import Path

import pytest
import tokenizers
import torch

from nano_hindi.errors import UserError, first_line, naming

needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a full disk")


def write(file) -> None:
    file.write(b"1")


def save(file) -> None:
    torch.save({"a": torch.ones(10)}, file)


@needs_full
@pytest.mark.parametrize("work", [write, save])
@pytest.mark.parametrize("buffering", [0, 2**20])
def test_failed_write_of_python_and_of_torch_names_the_file(work, buffering):
    with pytest.raises(OSError) as caught, naming("a/b.pt"), open("/dev/full", "wb", buffering=buffering) as file:
        work(file)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, "a/b.pt")


@pytest.mark.parametrize("number", range(1, 9))
def test_torch_save_that_fails_at_any_write_raises_the_error_of_the_system(number):
    """After some writes, torch raises a RuntimeError of its own."""

    class File(io.BytesIO):
        writes = 0

        def write(self, data):
            self.writes += 1
            if self.writes >= number:
                raise OSError(errno.EIO, "Input/output error")
            return super().write(data)

    with pytest.raises(OSError) as caught, naming("a.pt"):
        save(File())
    assert (caught.value.errno, caught.value.filename) == (errno.EIO, "a.pt")


def test_error_of_a_rust_library_is_an_os_error_with_a_name(tmp_path):
    with pytest.raises(PermissionError if os.name == "nt" else IsADirectoryError) as caught, naming("t.json"):
        tokenizers.Tokenizer.from_file(str(tmp_path))
    assert caught.value.filename == "t.json"


def test_other_errors_and_names_are_left_as_they_are(tmp_path):
    with pytest.raises(FileNotFoundError) as caught, naming("other"):
        (tmp_path / "missing").read_bytes()
    assert caught.value.filename == str(tmp_path / "missing")
    for error in (UserError("Input/output error (5)"), RuntimeError("bad index (5)"), ValueError("no number"), OSError("404 Client Error")):
        message = str(error)
        with pytest.raises(type(error)) as caught, naming("other"):
            raise error
        assert caught.value is error
        assert str(error) == message


@pytest.mark.parametrize(("message", "line"), [("", "ValueError"), (" \n", "ValueError"), ("no room:\nfor b", "no room"), ("a" * 999, "a" * 200)])
def test_first_line_of_an_error_is_never_empty_and_never_long(message, line):
    assert first_line(ValueError(message)) == line
