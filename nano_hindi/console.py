"""Print lines, a status line and a progress bar; format numbers and paths."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from nano_hindi.common import IS_WINDOWS, ROOT, visible
from nano_hindi.errors import naming

NOTEBOOKS = ("JPY_PARENT_PID", "COLAB_RELEASE_TAG", "KAGGLE_KERNEL_RUN_TYPE")  # notebook cells look like a terminal, but cannot rewrite a line
QUIET_SECONDS = 10.0  # between two lines of progress that is not shown as a bar


def is_terminal(stream: TextIO | None) -> bool:
    """Return whether a stream is a terminal that can rewrite a line."""
    return stream is not None and stream.isatty() and not any(name in os.environ for name in NOTEBOOKS)


@contextlib.contextmanager
def dispensable_output() -> Iterator[None]:
    """Drop output that cannot be written, instead of raising an error: the log may be on a full
    disk, or a pipe whose reader has ended, and neither may end a training run."""
    before = sys.stdout, sys.stderr
    streams: list[Any] = [stream and _Dispensable(stream) for stream in before]
    sys.stdout, sys.stderr = streams
    try:
        yield
    finally:  # what sys has now may be others: transformers puts its own in the place of a closed stderr
        sys.stdout, sys.stderr = (
            None if stream is None or stream.is_broken() else original for stream, original in zip(streams, before, strict=True)
        )


class _Dispensable:
    def __init__(self, stream: TextIO):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()

    def is_broken(self) -> bool:
        """Return whether the stream still holds text that it cannot write; the interpreter would
        end with an error about it."""
        try:
            self._stream.flush()
        except OSError:
            return True
        return False


class Console:
    """The output of rank 0; other ranks are silent.

    A `with` block clears the status line at its end. The status line is plain text between two
    carriage returns, which every console supports. The cursor stays at its beginning, so other
    output, such as a warning or ^C, overwrites it and is not appended to it.
    """

    def __init__(self, is_main: bool):
        self.is_main, self.is_live = is_main, is_main and is_terminal(sys.stdout)
        self._status = ""

    def __enter__(self) -> Console:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.clear()

    @property
    def columns(self) -> int:
        """Return the maximum line length; some consoles wrap after the last column."""
        return max(20, shutil.get_terminal_size().columns - 1)

    def print(self, *values: object) -> None:
        """Print a permanent line."""
        if self.is_main:
            self.clear()
            print(*(visible(str(value)) for value in values), flush=True)

    def print_text(self, text: str) -> None:
        """Print a generated text after a `>`, wrapped between words on a terminal."""
        text = visible(text)
        lines = textwrap.wrap(text, self.columns - 4, break_long_words=False, break_on_hyphens=False) if self.is_live else [text]
        self.print("  > " + "\n    ".join(lines))

    def status(self, text: str) -> None:
        """Rewrite the status line, in one write to avoid flicker.

        Does nothing if stdout is not a terminal.
        """
        if self.is_live:
            text = text[: self.columns]
            print("\r" + text.ljust(len(self._status)), end="\r", flush=True)
            self._status = text

    def clear(self) -> None:
        """Clear the status line."""
        if self._status:
            self.status("")


def bar(fraction: float, width: int) -> str:
    """Return a bar `[#####.....]` of `width` characters; "" if that is too narrow."""
    inside = width - 2
    return f"[{'#' * int(fraction * inside):.<{inside}}]" if inside >= 5 else ""


# ---- formatting


def shown(path: Path) -> str:
    """Return a path for display: relative to the current folder if it is inside it, else as
    given."""
    return visible(_relative(path))


def shell_quoted(path: Path) -> str:
    """Return a path as one word of a shell command; relative as in `shown`."""
    return _quoted(_relative(path))


def python_command(script: str) -> str:
    """Return the beginning of a command that runs a script of this repository with this Python.

    `python train.py` starts another Python unless the environment is activated: then it is
    `venv/bin/python train.py`.
    """
    python, found = Path(os.path.abspath(sys.executable)), shutil.which("python")  # a venv's python is a link, which resolve() would follow
    if found is not None and Path(os.path.abspath(found)).parent == python.parent and os.path.samefile(found, python):
        word = "python"
    else:
        word = _quoted(str(python.relative_to(_current_folder()) if python.is_relative_to(_current_folder()) else python))
    return f"{word} {script if _current_folder() == ROOT else shell_quoted(ROOT / script)}"


def _quoted(word: str) -> str:
    if word.startswith("-"):  # else it would be a flag
        word = os.path.join(os.curdir, word)
    if IS_WINDOWS:
        return word if re.fullmatch(r"[\w@+=:,./\\-]+", word, re.ASCII) else f'"{word}"'
    if visible(word) == word and not {"\n", "\t"} & set(word):
        return shlex.quote(word)
    for character, escape in (("\\", r"\\"), ("'", r"\'"), ("\n", r"\n"), ("\t", r"\t")):
        word = word.replace(character, escape)
    return f"$'{visible(word)}'"  # bash and zsh understand these escapes


def _relative(path: Path) -> str:
    try:
        return str(path.resolve().relative_to(_current_folder()))
    except ValueError:
        return str(path)


def _current_folder() -> Path:
    """Return the current folder; if it has been deleted, a path that no other one is inside."""
    try:
        return Path.cwd()
    except FileNotFoundError:
        return Path(os.devnull)


def unique_names(folders: Sequence[Path]) -> list[str]:
    """Return the names of resolved folders. Equal names are preceded by as much of their paths as
    tells them apart."""
    every = [folder.parts for folder in folders]

    def shortest_end(parts: tuple[str, ...]) -> tuple[str, ...]:
        ends = (parts[-k:] for k in range(1, len(parts) + 1))
        return next(end for end in ends if [other[-len(end) :] for other in every].count(end) == 1)

    return [Path(*shortest_end(parts)).as_posix() for parts in every]


def stdout_filter() -> Callable[[str], str]:
    """Return the function for a generated text before it is printed: `visible` if stdout is a
    terminal, `str` (no change) if it is a file or pipe."""
    return visible if sys.stdout is not None and sys.stdout.isatty() else str


def count(n: float) -> str:
    """Format a count with three digits: 999, 1.20 k, 12.6 M, 500 M, 1.26 B."""
    for limit, unit in ((1e9, " B"), (1e6, " M"), (1e3, " k")):
        if abs(n) >= limit * 0.9995:
            value = n / limit
            return f"{value:.{2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0}f}{unit}"
    return f"{n:.0f}"


def counted(n: int, noun: str) -> str:
    """Format a number of things: 1 update, 1,907 updates."""
    return f"{n:,} {noun}{'s' * (n != 1)}"


def duration(seconds: float) -> str:
    """Format a time span in its two largest units: 45s, 3m 05s, 2h 10m, 3d 4h."""
    s = int(max(0, seconds) + 0.5)
    if s < 60:
        return f"{s}s"
    if s < 3600:
        return f"{s // 60}m {s % 60:02d}s"
    if s < 86400:
        return f"{s // 3600}h {s % 3600 // 60:02d}m"
    return f"{s // 86400}d {s % 86400 // 3600}h"


# ---- a progress bar


def say(line: str) -> None:
    """Print a line, above the progress bar if there is one."""
    from tqdm import tqdm

    with naming("the output"):
        tqdm.write(visible(line))
        sys.stdout.flush()


class Progress:
    """A progress bar by tqdm on a terminal, otherwise a line at most every QUIET_SECONDS.

    Use it as a context manager. `total` may be None. The postfix of `update` is shown after the
    speed and the time left.
    """

    def __init__(self, total: float | None, unit: str, description: str):
        from tqdm import tqdm

        self.total, self.unit, self.description = total, unit, visible(description)
        self.done: float = 0
        self.printed: float | None = None  # how much was done at the last line
        self.postfix: dict[str, object] = {}
        self.start = self.last_line = time.monotonic()
        # a bar that is disabled would still start tqdm's thread
        self.bar = tqdm(total=total, unit=f" {unit}", desc=self.description, unit_scale=True, dynamic_ncols=True) if is_terminal(sys.stderr) else None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self.bar is not None:
            self.bar.close()
        elif exc_info[0] is None and self.done != self.printed:
            self._print_line()

    def update(self, n: float, **postfix: object) -> None:
        """Add n, and show it if it is time."""
        self.done += n
        self.postfix.update(postfix)
        if self.bar is not None:
            self.bar.set_postfix(self.postfix, refresh=False)
            self.bar.update(n)
        elif time.monotonic() - self.last_line >= QUIET_SECONDS:
            self._print_line()

    def _print_line(self) -> None:
        self.last_line, self.printed = time.monotonic(), self.done
        elapsed = max(self.last_line - self.start, 1e-9)
        rate = self.done / elapsed
        of_total = f"/{count(self.total)}" if self.total else ""
        left = f", {duration((self.total - self.done) / rate)} left" if self.total and rate > 0 and self.done < self.total else ""
        extra = "".join(f", {key} {value}" for key, value in self.postfix.items())
        with naming("the output"):  # not the file whose progress this is
            print(f"{self.description}: {count(self.done)}{of_total} {self.unit} ({count(rate)}/s{left}){extra}", flush=True)
