"""Start Python processes that have already imported PyTorch: forks of one server per test process.

Importing PyTorch, its compiler and transformers takes four CPU seconds, and most tests that start a
process train for less than one. The server has imported these libraries, but nothing of this repo.
Its forks are processes like any other, with a pid, a session, signals, exit codes and streams of
their own, and the interpreter starts and ends the script itself. `Process` is a `subprocess.Popen`;
what a fork could do differently from a new interpreter gets a new interpreter (`can_fork`).
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import io
import json
import os
import runpy
import select
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

# none of them may start a thread, which a fork would lose; datasets does
PRELOADED = (
    "torch._dynamo",
    "torch.distributed.launcher.api",
    "transformers.models.auto.tokenization_auto",
    "matplotlib.figure",
    "matplotlib.backends.backend_agg",
    "PIL.PngImagePlugin",
)
# read when they are used; the libraries read others when they are imported, so those must be the
# server's
READ_LATE = {
    "OMP_NUM_THREADS", "PYTHONPATH", "TOKENIZERS_PARALLELISM", "PYTEST_CURRENT_TEST", "PYTEST_XDIST_TESTRUNUID", "TORCHINDUCTOR_CACHE_DIR", "WANDB_MODE", "COLUMNS", "TERM", "TEST_FOLDER",
    "RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "ROLE_NAME", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE",
    "MASTER_ADDR", "MASTER_PORT", "TORCH_NCCL_ASYNC_ERROR_HANDLING",
}  # fmt: skip
TORCHRUN = "torch.distributed.run"
ENVIRONMENT = dict(os.environ)


def fixed(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that a fork must share with its server."""
    return {name: value for name, value in environment.items() if name not in READ_LATE and not name.startswith(("TORCHELASTIC_", "_TORCHINDUCTOR_"))}


# ---- the server


def serve(path: str) -> None:
    """Fork a process for every connection to the socket `path`, and report its pid and how it ended
    over the connection. Returns in the forks, ready to `run`; the server itself ends with its
    standard input, and its forks with it."""
    sys_path = sys.path.copy()
    for module in PRELOADED:
        importlib.import_module(module)
    sys.path[:] = sys_path  # torch 2.9 appends a temporary folder
    gc.freeze()  # a collection in a fork would touch, and so copy, all of it
    Process.server = path  # for the ranks of torchrun
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(64)
    woken, wakeup = socket.socketpair()
    for end in (woken, wakeup):
        end.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wakeup.fileno())
    print("ready", flush=True)
    children: dict[int, socket.socket] = {}
    while True:
        ready, _, _ = select.select([listener, woken, sys.stdin], [], [])
        if sys.stdin in ready:  # its end
            for pid in children:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)
            os._exit(0)
        if woken in ready:
            woken.recv(4096)
            while children:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    break
                with children.pop(pid) as connection, contextlib.suppress(OSError):  # nobody may be waiting
                    connection.sendall(struct.pack("!I", status))
        if listener in ready:
            connection, _ = listener.accept()
            head, streams, _, _ = socket.recv_fds(connection, 4, 3)
            if not head:  # the client was killed
                connection.close()
                continue
            request = json.loads(connection.recv(struct.unpack("!I", head)[0], socket.MSG_WAITALL))
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                os.setsid()
                with contextlib.suppress(OSError):  # only now: the client may signal its group at once
                    connection.sendall(struct.pack("!I", os.getpid()))
                for opened in (listener, woken, wakeup, connection, *children.values()):
                    opened.close()
                become(request, streams)
                return
            children[pid] = connection
            for stream in streams:
                os.close(stream)


def become(request: dict, streams: Sequence[int]) -> None:
    """Give this fork the streams, folder, environment and arguments of `request`."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.argv = request["argv"]
    if "-u" in sys.argv[:1]:
        sys.argv = sys.argv[1:]
        unbuffered = True
    else:
        unbuffered = sys.stdout.write_through
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        old = getattr(sys, name)
        stream = open(number, "wb" if number else "rb", buffering=0 if unbuffered and number else -1, closefd=False)  # noqa: SIM115
        getattr(stream, "raw", stream).name = f"<{name}>"
        lines = not unbuffered and (number == 2 or stream.isatty())
        new = io.TextIOWrapper(stream, old.encoding, old.errors, line_buffering=lines, write_through=unbuffered)
        new.mode = "w" if number else "r"
        setattr(sys, name, new)
        setattr(sys, f"__{name}__", new)
    if (path := request["env"].get("PYTHONPATH", "")) != os.environ.get("PYTHONPATH", ""):
        sys.path[1:1] = path.split(os.pathsep)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    if (threads := int(os.environ.get("OMP_NUM_THREADS", 1))) > 1:
        import torch

        torch.set_num_threads(threads)  # the server has one


def run() -> None:
    """Run `sys.argv` as the command line of Python, without its name and flags."""
    first = sys.argv[0]
    if first == "-m":
        module = sys.argv[1]
        sys.path[0] = os.getcwd()
        sys.argv = sys.argv[1:]
        if module == TORCHRUN:
            from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler

            subprocess_handler.Popen = Process  # its ranks are forks too
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        return
    main = types.ModuleType("__main__")
    sys.modules["__main__"] = main
    if first == "-c":
        sys.path[0] = ""
        source, name = sys.argv[1], "<string>"
        sys.argv = ["-c", *sys.argv[2:]]
    else:
        sys.path[0] = str(Path(first).resolve().parent)
        source, name = Path(first).read_text(encoding="utf-8"), first
        main.__file__ = name
    exec(compile(source, name, "exec", dont_inherit=True), main.__dict__)


# ---- the client


def can_fork(args: Sequence[str], options: Mapping) -> bool:
    """Return whether a fork of the server does what a new interpreter would do."""
    return (
        sys.platform == "linux"  # frameworks of macOS do not survive a fork
        and not os.environ.get("TESTS_WITHOUT_FORKS")
        and args[0] == sys.executable
        and (args[1] in ("-c", "-m") or args[1].endswith(".py"))
        and options.keys() <= {"stdin", "stdout", "stderr", "cwd", "env", "encoding", "errors", "start_new_session"}
        and options["start_new_session"]
        and fixed(options.get("env") or os.environ) == fixed(ENVIRONMENT)
    )


class Process(subprocess.Popen):
    """A fork of the server that runs what `[sys.executable, "SCRIPT" or "-m" or "-c", ...]` would
    run, in a session of its own. The first one starts the server, which ends with this process."""

    server = ""  # the path of its socket

    @staticmethod
    def start_server(environment: Mapping[str, str], inside: Callable[..., list[str]] = lambda *argv: list(argv)) -> str:
        """Start a server with the command that `inside` makes of its own, and return the path of
        its socket."""
        folder = tempfile.mkdtemp()  # pytest's own folder may be too long for the path of a socket
        path = os.path.join(folder, "socket")
        server = subprocess.Popen(
            inside(sys.executable, __file__, path),
            env={**environment, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C in a terminal ends the tests, and they the server
        )
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        atexit.register(server.communicate)
        assert server.stdout.readline() == b"ready\n"
        return path

    def _execute_child(self, args, executable, preexec_fn, close_fds, pass_fds, cwd, env, startupinfo, creationflags, shell, *rest):
        if not self.server:
            Process.server = self.start_server(ENVIRONMENT)
        pipes = rest[:6]
        streams = [given if given != -1 else number for number, given in enumerate(pipes[i] for i in (0, 3, 5))]
        request = {"argv": args[1:], "cwd": os.fspath(cwd or os.getcwd()), "env": dict(os.environ if env is None else env)}
        body = json.dumps(request).encode()
        self.connection = socket.socket(socket.AF_UNIX)
        self.connection.connect(self.server)
        socket.send_fds(self.connection, [struct.pack("!I", len(body))], streams)
        self.connection.sendall(body)
        self.pid = self._receive()
        self._child_created = True
        self._close_pipe_fds(*pipes)

    def _receive(self) -> int:
        answer = self.connection.recv(4, socket.MSG_WAITALL)
        if len(answer) < 4:
            raise ChildProcessError("the fork server has ended")
        return struct.unpack("!I", answer)[0]

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        if wait_flags & os.WNOHANG and not select.select([self.connection], [], [], 0)[0]:
            return 0, 0
        with self.connection:
            return self.pid, self._receive()

    def _internal_poll(self, *_, **__) -> int | None:
        if self.returncode is None and self._waitpid_lock.acquire(False):
            try:
                if self.returncode is None and (answer := self._try_wait(os.WNOHANG))[0]:
                    self._handle_exitstatus(answer[1])
            finally:
                self._waitpid_lock.release()
        return self.returncode


def write_python(path: Path, server: str) -> None:
    """Write an executable that stands in for Python, for shell scripts: what it runs is a fork of
    `server`, also where run_training.sh wants a new interpreter that takes Ctrl-C."""
    path.write_text(f'#!/bin/sh\ncase "$2" in *os.execv*) shift 2 ;; esac\nexec {shlex.join([sys.executable, __file__, server])} "$@"\n')
    path.chmod(0o755)


def main() -> None:
    """Serve; in a fork, run what was asked for and end like the interpreter, except that it takes
    no module apart: for PyTorch that takes half a second."""
    if len(sys.argv) > 2:
        Process.server = sys.argv[1]
        code = Process([sys.executable, *sys.argv[2:]]).wait()
        sys.exit(code if code >= 0 else 128 - code)
    serve(sys.argv[1])
    code = 0
    try:
        run()
    except SystemExit as exit:
        code = exit.code or 0
        if not isinstance(code, int):  # the interpreter prints it
            raise
    threading._shutdown()
    atexit._run_exitfuncs()
    try:
        for stream in filter(None, (sys.stdout, sys.stderr)):  # None: the program has given it up
            stream.flush()
    except OSError:
        sys.exit(code)  # the interpreter tries again, and reports it
    os._exit(code & 255)


if __name__ == "__main__":
    main()
