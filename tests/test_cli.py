"""How main(argv) becomes a command: one-line errors, exit codes, flags, console encoding."""

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


def test_user_error_is_one_line_with_code_2(capsys):
    code, output = run(lambda: fail(UserError("no such\nfile; do this")), capsys)
    assert (code, output.out, output.err) == (2, "", "error: no such file; do this\n")


def test_full_disk_is_one_line_with_code_2(capsys):
    code, output = run(lambda: fail(OSError(errno.ENOSPC, "No space left on device", "x.bin")), capsys)
    assert code == 2
    assert output.err.count("\n") == 1
    assert "x.bin: No space left" in output.err


def test_ctrl_c_exits_with_130_without_a_traceback(capsys):
    code, output = run(lambda: fail(KeyboardInterrupt()), capsys)
    assert code == 130
    assert "Traceback" not in output.err


def test_programming_error_shows_its_traceback():
    with pytest.raises(ZeroDivisionError):
        command_line(lambda argv=None: 1 // 0)([])


def test_abbreviated_and_unknown_flags_are_refused():
    parser = Parser()
    parser.add_argument("--checkpoint_dir")
    for argv in (["--checkpoint", "x"], ["--foo"], ["--checkpoint_dir"]):
        with pytest.raises(UserError):
            parser.parse_args(argv)


def test_devanagari_can_be_printed_on_a_console_with_another_encoding(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="cp1252"))
    use_utf8_console()
    print("भारत", flush=True)
    assert raw.getvalue().decode("utf-8").strip() == "भारत"
