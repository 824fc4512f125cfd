"""The forks of support/forked.py start, end, fail and are killed like new interpreters."""

import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest

import forked
from conftest import launched, run_command, wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks only on Linux")

PROGRAMS = {
    "returns": "print('done')",
    "exit code": "import sys; print('out'); print('err', file=sys.stderr); sys.exit(7)",
    "exit code above 255": "raise SystemExit(256 + 3)",
    "exit without a code": "raise SystemExit",
    "exit with a message": "raise SystemExit('bye')",
    "exception": "print('out')\n1 / 0",
    "syntax error": "def",
    "Ctrl-C": "import signal; signal.raise_signal(signal.SIGINT)",
    "killed": "import os, signal; print('lost'); os.kill(os.getpid(), signal.SIGKILL)",
    "terminated": "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
    "full disk": "import os; os.dup2(os.open('/dev/full', os.O_WRONLY), 1); print('lost')",
    "exit handlers and threads": "import atexit, threading, time\n"
    "atexit.register(print, 'at exit')\n"
    "threading.Thread(target=lambda: (time.sleep(0.1), print('thread'))).start()",
    "process": "import os, sys, signal\n"
    "def f(x: 1 + 1): print(f.__annotations__)\n"
    "f(0)\n"
    "print(sys.argv, sys.path, __name__, os.getcwd(), os.environ['COLUMNS'], os.getsid(0) == os.getpid(), sys.stdin.read())\n"
    "print([(s.encoding, s.errors, s.line_buffering, s.write_through, s.name, s.fileno()) for s in (sys.stdin, sys.stdout, sys.stderr)])\n"
    "print([signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGPIPE)])",
    "processes of its own": "import multiprocessing, subprocess, sys\n"
    "def double(x): return 2 * x\n"
    "if __name__ == '__main__':\n"
    "    with multiprocessing.get_context('fork').Pool(2) as pool: print(pool.map(double, [1, 2]))\n"
    "    print(subprocess.run(['sh', '-c', 'exit 5']).returncode)",
}


def outcome(done: subprocess.CompletedProcess) -> tuple[int, str, str]:
    """Return exit code and output, without the lines of a traceback that name the caller, or show
    the source of `-c`, as an interpreter does from Python 3.13 on."""
    errors = re.sub(r'Traceback .*\n|  File "[^"]*(forked.py|<frozen runpy>)".*\n(    .*\n)*', "", done.stderr)
    return done.returncode, done.stdout, re.sub(r'(  File "<string>".*\n)(    .*\n)*', r"\1", errors)


@pytest.mark.parametrize("name", PROGRAMS)
def test_fork_runs_a_program_like_a_new_interpreter(tmp_path, name):
    (tmp_path / "program.py").write_text(PROGRAMS[name])
    options = {"cwd": tmp_path, "env": {**os.environ, "COLUMNS": "é", "PYTHONPATH": str(tmp_path)}, "input": "भारत"}
    ways = [["-c", PROGRAMS[name]], [tmp_path / "program.py"], ["-m", "program"]]
    for way in ways if name in ("process", "processes of its own") else ways[:1]:
        theirs, ours = (run_command([sys.executable, *way, "a b", "ü"], fork=fork, **options) for fork in (False, True))
        assert outcome(ours) == outcome(theirs)


def test_program_of_a_fork_has_pytorch_and_none_of_this_repo():
    program = (
        "import sys; print('torch._dynamo' in sys.modules, [m for m in sys.modules if m.startswith(('nano_hindi', 'train', 'conftest', 'pytest'))])"
    )
    done = run_command([sys.executable, "-c", program], fork=True)
    assert done.stdout == "True []\n", done.stderr


def test_threads_of_pytorch_are_those_of_the_environment():
    for threads in "12":
        argv = [sys.executable, "-c", "import torch; print(torch.get_num_threads())"]
        assert run_command(argv, fork=True, env={**os.environ, "OMP_NUM_THREADS": threads}).stdout == f"{threads}\n"


@pytest.mark.parametrize("fork", [True, False])
def test_fork_that_hangs_times_out_and_ends_with_the_block(fork):
    program = "import subprocess, time; print(subprocess.Popen(['sleep', '1000']).pid, flush=True); time.sleep(1000)"
    with (
        pytest.raises(subprocess.TimeoutExpired),
        launched([sys.executable, "-c", program], fork=fork, stdout=subprocess.PIPE) as process,
    ):
        sleeper = int(process.stdout.readline())
        assert process.poll() is None
        os.kill(process.pid, 0)
        process.wait(0.1)
    assert process.returncode == -signal.SIGTERM
    stat = Path(f"/proc/{sleeper}/stat")
    wait_until(lambda: not stat.exists() or "Z" in stat.read_text().split()[2], "the end of its child")


def test_fork_can_be_killed_with_its_group_as_soon_as_it_is_started():
    """As torchrun does with the other ranks when one fails."""
    for _ in range(20):
        with launched([sys.executable, "-c", "import time; time.sleep(1000)"], fork=True) as process:
            os.killpg(process.pid, signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL


def test_server_survives_clients_that_are_killed():
    argv = [sys.executable, "-c", "pass"]
    run_command(argv, fork=True)
    body = json.dumps({"argv": argv[1:], "cwd": "/", "env": dict(os.environ)}).encode()
    for sends_all in (False, True):
        with socket.socket(socket.AF_UNIX) as client, open(os.devnull) as stream:
            client.connect(forked.Process.server)
            if sends_all:
                socket.send_fds(client, [struct.pack("!I", len(body))], [stream.fileno()] * 3)
                client.sendall(body)
        assert run_command(argv, fork=True).returncode == 0


def test_libraries_find_another_environment_only_in_a_new_interpreter():
    options = {"stdout": subprocess.PIPE, "start_new_session": True}
    argv = [sys.executable, "train.py"]
    assert forked.can_fork(argv, options)
    assert forked.can_fork(argv, {**options, "env": {**os.environ, "RANK": "1", "_TORCHINDUCTOR_X": "set by a compilation"}})
    for other in ({"HF_HUB_OFFLINE": "x"}, {"HOME": "x"}, {"LD_PRELOAD": "x"}):
        assert not forked.can_fork(argv, {**options, "env": {**os.environ, **other}})
    assert not forked.can_fork(argv, {**options, "preexec_fn": print})
    assert not forked.can_fork([sys.executable, "-X", "utf8", "train.py"], options)
    assert not forked.can_fork(["bash", "train.py"], options)
