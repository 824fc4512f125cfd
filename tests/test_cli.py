"""What makes main(argv) a command: one-line errors, exit codes, flags, the console."""

import errno
import io
import sys

import pytest

from nano_hindi.cli import Parser, command_line, use_utf8_console
from nano_hindi.errors import UserError


def run(body, capsys):
    @command_line
    def main(argv=None):
        return body()

    code = main([])
    return code, capsys.readouterr()


def fail(error):
    raise error


def test_a_mistake_of_the_user_is_one_line_and_code_2(capsys):
    code, output = run(lambda: fail(UserError("no such\nfile; do this")), capsys)
    assert (code, output.out, output.err) == (2, "", "error: no such file; do this\n")


def test_a_full_disk_is_one_line_and_code_2(capsys):
    code, output = run(lambda: fail(OSError(errno.ENOSPC, "No space left on device", "x.bin")), capsys)
    assert code == 2
    assert output.err.count("\n") == 1
    assert "x.bin: No space left" in output.err


def test_ctrl_c_is_code_130_without_a_traceback(capsys):
    code, output = run(lambda: fail(KeyboardInterrupt()), capsys)
    assert code == 130
    assert "Traceback" not in output.err


def test_a_fault_of_the_program_still_shows_its_traceback():
    with pytest.raises(ZeroDivisionError):
        command_line(lambda argv=None: 1 // 0)([])


def test_flags_cannot_be_abbreviated_or_invented():
    parser = Parser()
    parser.add_argument("--checkpoint_dir")
    for argv in (["--checkpoint", "x"], ["--foo"], ["--checkpoint_dir"]):
        with pytest.raises(UserError):
            parser.parse_args(argv)


def test_devanagari_reaches_a_console_of_another_encoding(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="cp1252"))
    use_utf8_console()
    print("भारत", flush=True)
    assert raw.getvalue().decode("utf-8").strip() == "भारत"
