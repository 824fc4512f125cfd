"""Turn `main(argv)` of a script into a command: flags, one-line errors, exit codes, a UTF-8
console."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import errno
import functools
import io
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from nano_hindi.common import IS_WINDOWS, ROOT, visible
from nano_hindi.errors import UserError, system_error


class _HelpWithDefaults(argparse.ArgumentDefaultsHelpFormatter):
    """A formatter that shows the default of a flag, except None and False."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None or action.default is False else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """A parser of flags with one-line errors (UserError) and without abbreviations.

    Only the flags in `may_be_empty` accept an empty value: it mostly comes from an unset shell
    variable, and as a path it would be the current folder.
    """

    def __init__(self, may_be_empty: tuple[str, ...] = (), **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=_HelpWithDefaults, **kwargs)
        self.may_be_empty = may_be_empty
        self._negative_number_matcher = re.compile(r"-(\.?\d|inf|nan)")  # argparse takes -1e-3 and -inf for flags

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> tuple[Any, list[str]]:  # type: ignore[override] # overloaded there
        words = sys.argv[1:] if args is None else list(args)
        for before, word in zip(["", *words], words, strict=False):
            flag = word[:-1] if word.startswith("--") and word.endswith("=") else before if word == "" else None
            if flag is not None and flag not in self.may_be_empty:
                self.error(f"there is an empty value after {flag or 'the name of the program'}; fill it in, or omit the flag")
        return super().parse_known_args(words, namespace)

    def error(self, message: str) -> NoReturn:
        message = re.sub(r"^argument (\S+): must be", r"\1 must be", message)  # argparse's words before those of a `Range`
        raise UserError(f"{message} (--help lists all flags)")


STORE_TIMEOUT = datetime.timedelta(seconds=30)  # for torchrun's store, and for another rank to print

_PLACE = "choose another folder, then run the same command again"
_REMEDIES = {  # an error of the operating system about a file: what the user can do
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), f"make room, or {_PLACE}"),
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM, errno.EROFS),
        f"{'close the program that has it open, ' if IS_WINDOWS else ''}get permission to read or write it, or {_PLACE}",
    ),
    **dict.fromkeys((errno.EISDIR, errno.ENOTDIR, errno.EEXIST), f"something else has that name: move it, or {_PLACE}"),
    errno.ENOENT: f"it does not exist: check the path, or {_PLACE}",
    **dict.fromkeys((errno.ENAMETOOLONG, errno.ELOOP), f"give another name, or {_PLACE}"),
    **({errno.EINVAL: f"give another name, or {_PLACE}"} if IS_WINDOWS else {}),  # the name a?b
}
_OTHER_REMEDY = "check the disk or the network drive, then run the same command again"  # a dying disk, a lost connection, ...


_PACKAGES = ("torch", "numpy", "transformers", "datasets", "huggingface_hub", "pyarrow", "regex", "tqdm", "matplotlib")  # every environment has them


def _environment() -> str:
    """Return how to start a script in the environment of setup_env."""
    scripts, python, activate = ("Scripts", "python.exe", "") if IS_WINDOWS else ("bin", "python", "source ")
    folder = ROOT / "venv" / scripts
    if not (folder / python).exists():
        return f"run setup_env.{'bat' if IS_WINDOWS else 'sh'} first"
    if Path.cwd() == ROOT:
        folder = folder.relative_to(ROOT)
    return f"start the script with {folder / python}, or activate the environment first: {activate}{folder / 'activate'}"


def command_line(main: Callable[..., int | None]) -> Callable[..., int]:
    """Make `main(argv=None)` a command with a UTF-8 console.

    A user error, one of the operating system, such as a full disk, or a missing package (usually
    the environment is not activated) exits with one line on stderr and code 2, Ctrl-C with code
    130, and a closed pipe with code 141.
    """

    @functools.wraps(main)
    def run(argv: list[str] | None = None) -> int:
        use_utf8_console()
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", category=FutureWarning, module="torch")  # torch.compile warns about PyTorch's own code
                try:
                    code = main(argv) or 0
                except SystemExit:  # --help
                    _flush_stdout()
                    raise
            _flush_stdout()
            return code
        except UserError as error:
            return _fail(str(error))
        except ModuleNotFoundError as error:
            package = (error.name or "").partition(".")[0]
            if package not in _PACKAGES:
                raise
            return _fail(f"{package} is not installed in {sys.executable}; {_environment()}")
        except KeyboardInterrupt as stop:
            print(f"\n{visible(str(stop)) or 'stopped'}", file=sys.stderr)
            return 130
        except OSError as error:
            if _is_broken_pipe(error):  # `python generate.py | head`: the reader closed the pipe
                sys.stdout = None
                return 141  # as of a program that SIGPIPE ends: its work may be unfinished
            return _fail(f"{system_error(error)}; {_REMEDIES.get(error.errno or 0, _OTHER_REMEDY)}")

    return run


def use_utf8_console() -> None:
    """Set stdin, stdout and stderr to UTF-8: the default encoding of a Windows console or pipe
    cannot print Devanagari. File names that are not UTF-8 are printed with escapes.

    Invalid UTF-8 on stdin becomes surrogates, as on the command line; the tokenizer raises a
    UserError for them. A stdin that is closed becomes an empty one.
    """
    for stream in (sys.stdout, sys.stderr):
        is_utf8 = (getattr(stream, "encoding", None) or "").lower().replace("-", "") == "utf8"
        if hasattr(stream, "reconfigure") and not (is_utf8 and stream.errors != "strict"):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    if sys.stdin is None:
        sys.stdin = io.StringIO()
    elif hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape")


def _flush_stdout() -> None:
    """Flush stdout.

    If that fails, drop it before raising OSError: the interpreter would try again at its end, with
    a traceback and another exit code.
    """
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        sys.stdout = None
        raise


def _is_broken_pipe(error: OSError) -> bool:
    """Return whether the reader of the output has closed it: on Windows that is EINVAL, as is an
    invalid file name."""
    return isinstance(error, BrokenPipeError) or (IS_WINDOWS and error.errno == errno.EINVAL and error.filename in (None, "the output"))


def _fail(message: str) -> int:
    with contextlib.suppress(OSError):
        _flush_stdout()
    line = "error: " + visible(" ".join(message.split()))
    with _once_per_machine(line) as is_first:
        if is_first:
            print(line, file=sys.stderr, flush=True)
    return 2


@contextlib.contextmanager
def _once_per_machine(line: str) -> Iterator[bool]:
    """Yield whether this rank is the first on its machine, of those that torchrun started, to have
    this line to print; always true without torchrun.

    torchrun ends all ranks as soon as one ends: the block ends when the first rank has printed.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True" or os.environ.get("LOCAL_WORLD_SIZE") == "1":
        yield True
        return
    import torch.distributed as dist

    start = [os.environ.get(name) for name in ("GROUP_RANK", "TORCHELASTIC_RESTART_COUNT")]  # the machine, and its restarts: torchrun keeps the store
    key = f"printed {start} {line}"
    try:
        store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), timeout=STORE_TIMEOUT)
        is_first = store.add(key, 1) == 1
    except Exception:  # noqa: BLE001 - torchrun has ended, or its variables are not its own: the line must be seen
        yield True
        return
    yield is_first
    with contextlib.suppress(dist.DistError):
        if is_first:
            store.set(f"{key}: done", "")
        else:
            store.wait([f"{key}: done"])


@contextlib.contextmanager
def collected_interrupts() -> Iterator[threading.Event]:
    """Yield an event that Ctrl-C sets within the block, instead of raising KeyboardInterrupt.

    Only for the main thread.
    """
    stop = threading.Event()
    before = signal.signal(signal.SIGINT, lambda *_: stop.set())
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


def exit_at_once(code: int) -> NoReturn:
    """Exit the process with `code`, without joining threads that still wait for the network."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or a full disk
            stream.flush()
    os._exit(code)
