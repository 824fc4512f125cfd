"""Write a corpus that can be resumed after any stop: a part file, and a progress file that says how
many of its bytes are valid.

`hindi_corpus.txt.part` has all recorded documents, and perhaps unrecorded ones after them.
`hindi_corpus.progress.txt` has `key: value` lines: the command's settings, the valid length of the
part file, what it holds, and the position in the source after it. The progress file is replaced
atomically, after the part file is flushed to disk.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import BinaryIO

from nano_hindi.console import counted
from nano_hindi.errors import UserError, naming
from nano_hindi.files import has_lines, read_metadata, rename, require_not_folder, write_metadata

# lines of the progress file that only a resumed download needs; metadata.txt has all others
NOT_IN_METADATA = ("complete", "position", "reader", "source_in_progress", "tokenizer_fingerprint", "written", "cleaned_examples")


class UnfinishedCorpus:
    """The part file of `corpus`; `recorded` is its progress file, empty before a download
    begins."""

    def __init__(self, corpus: Path):
        self.corpus, self.part, self.progress = corpus, corpus.with_name(corpus.name + ".part"), corpus.with_name(corpus.stem + ".progress.txt")
        self.recorded: dict[str, str] = read_metadata(self.progress) if self.progress.is_file() else {}
        if self.recorded and not all(self.recorded.get(key, "").isdecimal() for key in ("written", "documents")):
            raise UserError(f"{self.progress} is damaged (its counts are missing); delete it to start over")

    def is_of(self, settings: dict) -> bool:
        return bool(self.recorded) and has_lines(self.recorded, settings)

    def number(self, key: str) -> int:
        return int(self.recorded.get(key, 0))

    @property
    def is_complete(self) -> bool:
        """Return whether all documents are written and only the final names are missing, perhaps
        that of metadata.txt alone."""
        places = (self.part, self.corpus) if self.recorded.get("complete") == "yes" else ()
        return any(path.is_file() and path.stat().st_size == self.number("written") for path in places)

    def claim(self, settings: dict, overwrite: bool) -> None:
        """Keep the recorded part if it is of the same command; discard it if it has no documents,
        or with `overwrite`.

        Raises UserError otherwise.
        """
        for path in (self.corpus, self.part):
            require_not_folder(path)
        if self.is_of(settings) and self.part.is_file() and self.part.stat().st_size >= self.number("written"):
            return
        if self.number("documents") and not overwrite:
            there = [f"{key} was {self.recorded.get(key)}" for key, value in settings.items() if self.recorded.get(key) != str(value)]
            raise self.foreign(", ".join(there) or "the part file is too short or missing")
        self.discard()

    def foreign(self, why: str) -> UserError:
        """Return the error for a part that this command cannot continue."""
        return UserError(
            f"{self.part} holds {counted(self.number('documents'), 'document')} of another download ({why}): resume it with the command "
            "and the version that started it; --overwrite starts over, another --output_dir keeps both"
        )

    @contextlib.contextmanager
    def open(self, size: int) -> Iterator[BinaryIO]:
        """Open the part file, truncated to its `size` valid bytes, to append to it."""
        self.part.parent.mkdir(parents=True, exist_ok=True)
        with naming(self.part), open(self.part, "r+b" if size else "wb") as file:
            file.truncate(size)
            file.seek(size)
            yield file

    def record(self, file: BinaryIO, state: dict) -> None:
        """Flush the part file to disk, then write `state` to the progress file."""
        file.flush()
        os.fsync(file.fileno())
        write_metadata(self.progress, state)
        self.recorded = {key: str(value) for key, value in state.items()}

    def finish(self) -> None:
        """Rename a complete part to the corpus and write metadata.txt.

        Safe to interrupt and repeat.
        """
        metadata_file = self.corpus.with_name("metadata.txt")
        if self.part.exists():
            metadata_file.unlink(missing_ok=True)  # so that it never describes another corpus
            rename(self.part, self.corpus)
        metadata = {key: value for key, value in self.recorded.items() if key not in NOT_IN_METADATA}
        write_metadata(metadata_file, metadata | {"created": datetime.now(timezone.utc).isoformat(timespec="seconds")})
        self.discard()

    def discard(self) -> None:
        """Delete the part. The progress file is first: without the part, it says that the corpus is
        complete."""
        self.progress.unlink(missing_ok=True)
        self.part.unlink(missing_ok=True)
        self.recorded = {}
