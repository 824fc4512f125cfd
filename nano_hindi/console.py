"""The screen of a run: lines that stay, and on a terminal a last one that is rewritten in place."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
import unicodedata

NOTEBOOKS = ("JPY_PARENT_PID", "COLAB_RELEASE_TAG", "KAGGLE_KERNEL_RUN_TYPE")  # their cells look like a terminal, but keep every line


def is_terminal() -> bool:
    """Whether somebody looks at stdout, in something that can rewrite a line."""
    return sys.stdout is not None and sys.stdout.isatty() and not any(name in os.environ for name in NOTEBOOKS)


class Console:
    """What the main process shows; the others are silent. A `with` block ends without a status line on the screen.

    The status line is plain text between two carriage returns, which every console knows, and leaves the cursor at its beginning: what somebody else
    prints, a warning or a ^C, lies over it and not behind it.
    """

    def __init__(self, is_main: bool):
        self.is_main, self.is_live = is_main, is_main and is_terminal()
        self._status = ""

    def __enter__(self) -> Console:
        return self

    def __exit__(self, *exc_info) -> None:
        self.clear()

    @property
    def columns(self) -> int:
        """How long a line may be; in the last column some consoles begin a new one."""
        return max(20, shutil.get_terminal_size().columns - 1)

    def print(self, *values) -> None:
        """A line that stays."""
        if self.is_main:
            self.clear()
            print(*values, flush=True)

    def print_text(self, text: str) -> None:
        """A text of a model, set off by a mark; on a terminal wrapped between words. Control characters, which it may write too, are left out."""
        text = "".join(character for character in text if unicodedata.category(character) != "Cc")
        lines = textwrap.wrap(text, self.columns - 4, break_long_words=False, break_on_hyphens=False) if self.is_live else [text]
        self.print("  > " + "\n    ".join(lines))

    def status(self, text: str) -> None:
        """Rewrite the status line, in one write, so that it does not flicker. Does nothing but on a terminal."""
        if self.is_live:
            text = text[: self.columns]
            print("\r" + text.ljust(len(self._status)), end="\r", flush=True)
            self._status = text

    def clear(self) -> None:
        """Take the status line away."""
        if self._status:
            self.status("")


def bar(fraction: float, width: int) -> str:
    """`[#####.....]` of `width` characters in all; nothing where that is too few."""
    inside = width - 2
    return f"[{'#' * int(fraction * inside):.<{inside}}]" if inside >= 5 else ""
