"""How main(argv) becomes a command: one-line errors, exit codes, flags, console encoding."""

import contextlib
import datetime
import errno
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import PATIENCE, ROOT, launched, run_command
from nano_hindi import cli
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
    assert ("make room" in output.err) == (number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG))  # it does not help on a read-only file system


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


def errors_of(stderr: str) -> list[str]:
    return [line for line in stderr.splitlines() if line.startswith("error: ")]


# ---- torchrun


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_error_of_all_ranks_is_printed_once(ranks):
    argv = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}", "--max_restarts=0", "train.py"]
    done = run_command([*argv, "--adamw_eps", "0"], env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode != 0
    assert errors_of(done.stderr) == ["error: --adamw_eps must be a number, at least 1e-20 and at most 1, not 0 (--help lists all flags)"]


@pytest.mark.slow
@pytest.mark.parametrize("failing", [0, 2])
def test_error_of_one_rank_is_printed(tmp_path, failing):
    worker = tmp_path / "worker.py"
    worker.write_text(
        f"import os, sys, time\nsys.path.insert(0, {str(ROOT)!r})\nimport train\n"
        f"if os.environ['RANK'] != '{failing}':\n    time.sleep({PATIENCE})\n"  # torchrun ends it
        "sys.exit(train.main(['--muon_lr', '-1' + os.environ['RANK']]))\n"
    )
    argv = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=3", worker]
    done = run_command(argv, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode != 0
    (error,) = errors_of(done.stderr)
    assert f"--muon_lr must be a number, at least 0 and at most 1e+06, not -1{failing} " in error


@pytest.mark.slow
def test_ranks_print_different_errors_and_every_machine_and_restart_prints_its_own():
    """The ranks of torchrun, with its store in this process."""
    import torch.distributed as dist

    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    ranks = [("0", "0", "nan"), ("0", "0", "nan"), ("0", "0", "inf"), ("1", "0", "nan"), ("0", "1", "nan"), ("1", "0", "nan")]
    with contextlib.ExitStack() as stack:
        started = []
        for machine, restarts, lr in ranks:
            env = {"LOCAL_WORLD_SIZE": "2", "GROUP_RANK": machine, "TORCHELASTIC_RESTART_COUNT": restarts, "TORCHELASTIC_USE_AGENT_STORE": "True"}
            env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "OMP_NUM_THREADS": "1"}
            argv = [sys.executable, "train.py", "--muon_lr", lr]
            started.append(stack.enter_context(launched(argv, stderr=subprocess.PIPE, env={**os.environ, **env})))
        errors = [process.communicate(timeout=PATIENCE)[1] for process in started]
    assert [process.returncode for process in started] == [2] * len(ranks)
    printed = [rank for rank, error in zip(ranks, errors, strict=True) if error]
    assert sorted(printed) == sorted(set(ranks))
    assert all(error.count("\n") <= 1 for error in errors)


@pytest.mark.slow
def test_error_is_printed_if_torchrun_has_ended(monkeypatch, capfd):
    for name, value in {"LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_USE_AGENT_STORE": "True", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(cli, "STORE_TIMEOUT", datetime.timedelta(seconds=1))
    assert command_line(lambda argv=None: fail(UserError("no data; do this")))([]) == 2
    assert errors_of(capfd.readouterr().err) == ["error: no data; do this"]


def test_ctrl_c_exits_with_130_without_a_traceback(capsys):
    code, output = run(lambda: fail(KeyboardInterrupt()), capsys)
    assert code == 130
    assert "Traceback" not in output.err


INTERRUPTED_IMPORT = """
import os, signal, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == os.environ["AT"]:
            try:
                signal.raise_signal(signal.SIGINT)
            except KeyboardInterrupt:
                raise ImportError("cannot load module more than once per process") from None
sys.meta_path.insert(0, Finder())
"""
SCRIPTS = ("train.py", "finetune.py", "generate.py", "serve.py", "data/download.py", "data/preprocess.py", "data/chat.py")
MODULES = ("nano_hindi.eval", "nano_hindi.export", "nano_hindi.plot", "nano_hindi.minimal_pairs")


@pytest.mark.parametrize(
    ("command", "module"),
    [*((script, "nano_hindi.cli") for script in SCRIPTS), *(("-m " + name, "nano_hindi.cli") for name in MODULES), ("generate.py", "torch")],
)
def test_ctrl_c_during_an_import_ends_a_command_like_any_other(command, module, tmp_path):
    """Libraries turn the KeyboardInterrupt into other exceptions, as numpy does."""
    (tmp_path / "sitecustomize.py").write_text(INTERRUPTED_IMPORT)
    env = {**os.environ, "PYTHONPATH": str(tmp_path), "AT": module}
    done = run_command([sys.executable, *command.split(), "--checkpoint", "nowhere"], env=env, fork=False)
    assert (done.returncode, done.stderr) == (130, "\nstopped\n")


def test_ctrl_c_stays_as_it_is_in_other_programs_and_where_it_is_ignored(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(INTERRUPTED_IMPORT)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)]), "AT": "nano_hindi.cli"}
    (tmp_path / "mine.py").write_text("import nano_hindi.cli")
    for other in ([str(tmp_path / "mine.py")], ["-c", "import nano_hindi.cli"]):
        assert "cannot load module" in run_command([sys.executable, *other], cwd=ROOT, env=env, fork=False).stderr
    if os.name != "nt":
        ignoring = ["sh", "-c", 'trap "" INT; exec "$@"', "sh", sys.executable, "generate.py", "--help"]
        assert run_command(ignoring, env=env).returncode == 0


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


@pytest.mark.parametrize("script", ["train.py", "finetune.py", "generate.py", "serve.py"])
def test_python_without_the_packages_says_how_to_start_that_of_the_environment(script, tmp_path):
    """The system's Python, typed by habit. -S hides what is installed here."""
    words = [] if script == "train.py" else ["--checkpoint", tmp_path]
    done = run_command([sys.executable, "-S", ROOT / script, *words], cwd=tmp_path)
    assert done.returncode == 2
    assert re.fullmatch(r"error: torch is not installed in .*; (run setup_env|start the script with .*venv.* or activate).*\n", done.stderr)


def test_closed_pipe_of_windows_ends_quietly_but_an_impossible_name_does_not(capsys, monkeypatch):
    monkeypatch.setattr(cli, "IS_WINDOWS", True)
    assert run(lambda: fail(OSError(errno.EINVAL, "Invalid argument")), capsys)[0] == 141
    code, output = run(lambda: fail(OSError(errno.EINVAL, "Invalid name", "a?b")), capsys)
    assert code == 2
    assert output.err.startswith("error: a?b: Invalid name")


@pytest.mark.skipif(os.name == "nt", reason="the reader of a Windows pipe may be gone before the writer notices")
def test_help_to_a_closed_pipe_is_silent():
    reading, writing = os.pipe()
    os.close(reading)
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}  # the text is written when the interpreter ends
    done = subprocess.run(
        [sys.executable, ROOT / "generate.py", "--help"], stdout=writing, stderr=subprocess.PIPE, env=env, text=True, timeout=PATIENCE
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


def test_command_whose_reader_has_ended_does_not_succeed(capsys):
    """As if `data/preprocess.py | head` had stopped halfway: what it prints goes to a closed
    pipe."""
    code, output = run(lambda: fail(BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))), capsys)
    assert (code, output.err) == (141, "")
