"""A corpus that is still being written, and continues after any stop: a part file, and beside it a small file that says how much of it counts.

`hindi_corpus.txt.part` has all recorded documents, and perhaps some more; `hindi_corpus.progress.txt` has `key: value` lines: what was asked for, how
long the part file was when it was recorded, what it held, and the position in the source behind it. The second is replaced whole, after the first is on disk.
"""

from __future__ import annotations

import errno
import os
from datetime import datetime, timezone
from pathlib import Path
from typing import BinaryIO

from nano_hindi.errors import UserError
from nano_hindi.files import read_metadata, rename, write_metadata

OF_NO_LATER_USE = ("complete", "position", "reader", "tokenizer_fingerprint", "written")  # all other lines go into metadata.txt


class UnfinishedCorpus:
    """The part of `corpus`, with what its progress file says in `recorded`: nothing, while no download has begun."""

    def __init__(self, corpus: Path):
        self.corpus, self.part, self.progress = corpus, corpus.with_name(corpus.name + ".part"), corpus.with_name(corpus.stem + ".progress.txt")
        self.recorded: dict[str, str] = read_metadata(self.progress) if self.progress.is_file() else {}
        if self.recorded and not all(self.recorded.get(key, "").isdecimal() for key in ("written", "documents")):
            raise UserError(f"{self.progress} has lost its numbers; delete it to start over")

    def is_of(self, asked: dict) -> bool:
        return bool(self.recorded) and all(self.recorded.get(key) == str(value) for key, value in asked.items())

    def number(self, key: str) -> int:
        return int(self.recorded.get(key, 0))

    @property
    def is_complete(self) -> bool:
        """Nothing is missing but the names: the process ended between the last document and the end."""
        return self.recorded.get("complete") == "yes"

    def claim(self, asked: dict, overwrite: bool) -> None:
        """Keep what is recorded when the same was asked for, forget it when nothing is lost by that, or it may be. Raises UserError otherwise."""
        for path in (self.corpus, self.part):
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if self.is_of(asked) and self.part.is_file() and self.part.stat().st_size >= self.number("written"):
            return
        if self.number("documents") and not overwrite:
            there = [f"{key} was {self.recorded.get(key)}" for key, value in asked.items() if self.recorded.get(key) != str(value)]
            raise self.foreign(", ".join(there) or "a piece of it is missing")
        self.discard()

    def foreign(self, why: str) -> UserError:
        """What to say of a part that cannot be continued."""
        return UserError(
            f"{self.part} holds {self.number('documents'):,} documents of another download ({why}): run the command that began it, to continue; "
            "--overwrite starts over, another --output_dir keeps both"
        )

    def open(self, size: int) -> BinaryIO:
        """The part file, cut to the `size` bytes that count, to write behind them."""
        self.part.parent.mkdir(parents=True, exist_ok=True)
        file = open(self.part, "r+b" if size else "wb")  # noqa: SIM115 - the caller closes it
        file.truncate(size)
        file.seek(size)
        return file

    def record(self, file: BinaryIO, state: dict) -> None:
        """Bring the part file to disk, then the progress file with `state`."""
        file.flush()
        os.fsync(file.fileno())
        write_metadata(self.progress, state)
        self.recorded = {key: str(value) for key, value in state.items()}

    def finish(self) -> dict[str, str]:
        """Give a complete part the name of the corpus and write metadata.txt. May be stopped and done again. Returns the facts."""
        facts_file = self.corpus.with_name("metadata.txt")
        if self.part.exists():
            facts_file.unlink(missing_ok=True)  # so that it never speaks of another corpus
            rename(self.part, self.corpus)
        facts = {key: value for key, value in self.recorded.items() if key not in OF_NO_LATER_USE}
        write_facts(facts_file, facts)
        self.discard()
        return facts

    def discard(self) -> None:
        self.part.unlink(missing_ok=True)
        self.progress.unlink(missing_ok=True)
        self.recorded = {}


def write_facts(path: Path, facts: dict) -> None:
    """metadata.txt, with the time."""
    write_metadata(path, facts | {"created": datetime.now(timezone.utc).isoformat(timespec="seconds")})
