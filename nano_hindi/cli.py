"""What makes `main(argv)` of a script a command: its flags, its one-line errors and exit codes, a console that takes Devanagari."""

from __future__ import annotations

import argparse
import contextlib
import errno
import functools
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import NoReturn

from nano_hindi.errors import UserError


class _HelpWithDefaults(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the default of a flag where there is one to show."""

    def _get_help_string(self, action):
        return action.help if action.default in (None, False) else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose complaints are one line (a UserError), whose flags cannot be abbreviated, and take an empty value only if they
    `may_be_empty`: it is mostly a shell variable that is not set, and as a path it would be the current folder."""

    def __init__(self, may_be_empty: tuple[str, ...] = (), **kwargs):
        super().__init__(allow_abbrev=False, formatter_class=_HelpWithDefaults, **kwargs)
        self.may_be_empty = may_be_empty

    def parse_known_args(self, args=None, namespace=None):
        words = sys.argv[1:] if args is None else list(args)
        for before, word in zip(["", *words], words, strict=False):
            flag = word[:-1] if word.startswith("--") and word.endswith("=") else before if word == "" else None
            if flag is not None and flag not in self.may_be_empty:
                self.error(f"there is an empty value after {flag or 'the name of the program'}; fill it in, or leave the flag away")
        return super().parse_known_args(words, namespace)

    def error(self, message: str):
        raise UserError(f"{message} (--help lists all flags)")


_PLACE = "choose another folder, then run the same command again"
_REMEDIES = {  # what the operating system may say about a file, and what its user can do
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS), f"make room, or {_PLACE}"),
    **dict.fromkeys((errno.EACCES, errno.EPERM), f"give yourself the right to read or write it, or {_PLACE}"),
    **dict.fromkeys(
        (errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOENT), f"something else has that name, or it is not there: move it, or {_PLACE}"
    ),
    **dict.fromkeys((errno.ENAMETOOLONG, errno.ELOOP), f"give another name, or {_PLACE}"),
}


def command_line(main: Callable[..., int | None]) -> Callable[..., int]:
    """Make `main(argv=None)` a command: UTF-8 console; a user's mistake or a full disk ends in one line on stderr and code 2, Ctrl-C in code 130."""

    @functools.wraps(main)
    def run(argv: list[str] | None = None) -> int:
        use_utf8_console()
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", category=FutureWarning, module="torch")  # its compiler warns of PyTorch's own code
                return main(argv) or 0
        except UserError as error:
            return _fail(str(error))
        except KeyboardInterrupt as stop:
            print(f"\n{str(stop) or 'stopped'}", file=sys.stderr)
            return 130
        except BrokenPipeError:  # `python generate.py | head`: the reader has left
            sys.stdout = None
            return 0
        except OSError as error:
            if error.errno not in _REMEDIES:
                raise
            return _fail(f"{error.filename or 'the output'}: {error.strerror}; {_REMEDIES[error.errno]}")

    return run


@contextlib.contextmanager
def collected_interrupts() -> Iterator[threading.Event]:
    """An event that Ctrl-C sets within the block, instead of raising KeyboardInterrupt in the middle of something. For the main thread."""
    stop = threading.Event()
    before = signal.signal(signal.SIGINT, lambda *_: stop.set())
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


def exit_at_once(code: int) -> NoReturn:
    """End the process with `code`, without waiting for threads that still wait for the network."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or a full disk
            stream.flush()
    os._exit(code)


def _fail(message: str) -> int:
    print("error: " + " ".join(message.split()), file=sys.stderr)
    return 2


def use_utf8_console() -> None:
    """Let Devanagari through a Windows console or pipe, whose own encoding would raise at the first character.

    Bytes from stdin that are no UTF-8 come in as those of the command line do: as surrogates, which the tokenizer refuses by name.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure") and (stream.encoding or "").lower().replace("-", "") != "utf8":
            stream.reconfigure(encoding="utf-8", errors="replace")
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape")
