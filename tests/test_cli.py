"""How main(argv) becomes a command: one-line errors, exit codes, flags, console encoding."""

import errno
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT
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


@pytest.mark.parametrize("number", sorted(errno.errorcode.keys() - {errno.EPIPE, errno.ESHUTDOWN}), ids=errno.errorcode.get)
def test_any_error_of_the_system_is_one_line_with_code_2(capsys, number):
    code, output = run(lambda: fail(OSError(number, os.strerror(number), "x.bin")), capsys)
    assert (code, output.out) == (2, "")
    assert re.fullmatch(re.escape(f"error: x.bin: {os.strerror(number)}; ") + "[^\n]+, then run the same command again\n", output.err), output.err


def test_error_of_a_library_without_a_number_is_one_line_with_code_2(capsys):
    code, output = run(lambda: fail(OSError("the footer\nis cut")), capsys)
    assert code == 2
    assert output.err.startswith("error: the output: the footer is cut; ")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a full disk")
@pytest.mark.parametrize("body", ["print('a')", "print('a') or open('missing')"])
def test_output_that_cannot_be_written_is_one_line_with_code_2(body):
    script = f"import sys; from nano_hindi.cli import command_line; sys.exit(command_line(lambda argv=None: {body})([]))"
    with open("/dev/full", "wb") as full:
        done = subprocess.run([sys.executable, "-c", script], stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    assert done.returncode == 2
    assert re.fullmatch("error: [^\n]+\n", done.stderr), done.stderr


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
