"""Write train.bin and val.bin so that a stopped run can be resumed: `train.bin.part`,
`val.bin.part` and `preprocess.progress.txt`.

The progress file has `key: value` lines: the command's settings, the number of finished chunks of
the corpus, and their counts, which also give the valid lengths of the part files. It is replaced
atomically, after they are flushed to disk. A tokenizer trained by this run is kept in
`tokenizer.part` until the end.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import time
from collections import Counter
from pathlib import Path

from nano_hindi.corpus.tokenize import SPLITS, Encoded, Losses
from nano_hindi.dataloader import TOKEN_BYTES
from nano_hindi.errors import UserError
from nano_hindi.files import read_metadata, rename, write_metadata
from nano_hindi.tokenizer import Tokenizer, load_tokenizer

RECORD_SECONDS = 10.0  # between two records: each one waits for the disk


class UnfinishedTokens:
    """Manage the unfinished token files of `folder`, which hold `finished` chunks with `counts` and
    `losses` (see `tokenize`)."""

    def __init__(self, folder: Path):
        """Set the paths of the outputs.

        Raises UserError or IsADirectoryError if a file or folder is in the place of an output.
        """
        self.folder, self.facts, self.progress = folder, folder / "preprocess_meta.txt", folder / "preprocess.progress.txt"
        self.tokenizer, self.trained = folder / "tokenizer", folder / "tokenizer.part"
        self.parts = {name: folder / f"{name}.bin.part" for name in SPLITS}
        self.names = {name: folder / f"{name}.bin" for name in SPLITS}
        for path in (*self.names.values(), *self.parts.values(), self.facts, self.progress):
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if self.tokenizer.is_file():
            raise UserError(f"{self.tokenizer} is a file, but the copy of the tokenizer needs that name; move it, or choose another --output_dir")
        self.asked: dict[str, str] = {}
        self.finished, self.counts, self.losses = 0, Counter(), Losses()
        self._recorded_at, self._files = time.monotonic(), {}

    def begin(self, asked: dict, chunks: int) -> bool:
        """Resume the unfinished work if it has the same settings, otherwise discard it.

        Returns whether it resumes.
        """
        self.asked = {key: str(value) for key, value in {**asked, "stretches": chunks}.items()}
        there = read_metadata(self.progress) if self.progress.is_file() else {}
        if all(there.get(key) == value for key, value in self.asked.items()):
            try:
                self.finished = int(there["finished"])
                self.counts = Counter({key.removeprefix("count_"): int(value) for key, value in there.items() if key.startswith("count_")})
                examples = [chr(int(code, 16)) for code in there["lost_examples"].split()]
                self.losses = Losses(int(there["lost_documents"]), int(there["lost_characters"]), examples, there["lost_place"])
            except (KeyError, ValueError) as error:
                raise UserError(f"{self.progress} is damaged ({error}); delete it to start over") from error
            if all(self._is_there(name, self.finished == chunks) for name in SPLITS):
                return True
        self.discard()
        return False

    def _is_there(self, name: str, complete: bool) -> bool:
        """Return whether a part file has the bytes that the progress file records; a complete one
        may already have its final name."""
        size = self.size(name)
        if self.parts[name].is_file():
            return self.parts[name].stat().st_size >= size
        return size == 0 or (complete and self.names[name].is_file() and self.names[name].stat().st_size == size)

    def size(self, name: str) -> int:
        """Return the valid bytes of a part file."""
        return self.counts[f"{name}_tokens"] * TOKEN_BYTES

    def keep_trained(self, tokenizer: Tokenizer) -> None:
        """Save the tokenizer that this run trained."""
        tokenizer.save(self.trained)
        self.asked["tokenizer"] = tokenizer.name
        self.record()

    def load_trained(self) -> Tokenizer | None:
        """Return the tokenizer that the stopped run trained, or None."""
        name = read_metadata(self.progress).get("tokenizer") if self.trained.is_dir() and self.progress.is_file() else None
        if name is None:
            return None
        tokenizer = load_tokenizer(self.trained)
        tokenizer.name = self.asked["tokenizer"] = name
        return tokenizer

    @contextlib.contextmanager
    def open(self):
        """Open the part files to append after their valid bytes.

        If the block ends early, the finished chunks are recorded; if there are none, the files are
        deleted.
        """
        try:
            with contextlib.ExitStack() as opened:
                for name in SPLITS:
                    path = self.parts[name]
                    self._files[name] = opened.enter_context(open(path, "r+b" if path.exists() else "w+b", buffering=0))
                    self._files[name].seek(self.size(name))
                try:
                    yield
                finally:
                    with contextlib.suppress(OSError):  # on a full disk the previous record stays valid
                        self.record()
        except BaseException:
            self._files = {}
            if not self.finished and not self.trained.exists():
                self.discard()
            raise
        self._files = {}

    def append(self, encoded: Encoded) -> None:
        """Append a chunk; progress is recorded every RECORD_SECONDS."""
        for name in SPLITS:
            self._write(name, encoded.tokens[name])
        self.losses.add(encoded.losses)
        self.counts, self.finished = self.counts + encoded.counts, self.finished + 1
        if time.monotonic() - self._recorded_at >= RECORD_SECONDS:
            self.record()

    def _write(self, name: str, raw: bytes) -> None:
        left = memoryview(raw)
        while left:  # an unbuffered write may be partial
            left = left[self._files[name].write(left) :]

    def record(self) -> None:
        """Flush the part files to disk, then write the progress file."""
        for file in self._files.values():
            os.fsync(file.fileno())
        losses = self.losses
        state = {"finished": self.finished, **{f"count_{key}": value for key, value in self.counts.items()}}
        state |= {"lost_documents": losses.documents, "lost_characters": losses.characters, "lost_place": losses.place}
        write_metadata(self.progress, {**self.asked, **state, "lost_examples": " ".join(f"{ord(c):04X}" for c in losses.examples)})
        self._recorded_at = time.monotonic()

    def finish(self, tokenizer: Tokenizer, facts: dict) -> None:
        """Rename all outputs to their final names and write preprocess_meta.txt last: a folder
        without it is not ready.

        Safe to interrupt and repeat.
        """
        self.facts.unlink(missing_ok=True)
        for name in SPLITS:
            if self.parts[name].exists():
                os.truncate(self.parts[name], self.size(name))  # the rest was written after the last record
                rename(self.parts[name], self.names[name])
        if not (self.tokenizer.is_dir() and Path(tokenizer.name).is_dir() and self.tokenizer.samefile(tokenizer.name)):  # keep the original
            tokenizer.save(self.tokenizer)
        write_metadata(self.facts, facts)
        self.discard()

    def discard(self) -> None:
        """Delete unfinished work."""
        self.finished, self.counts, self.losses = 0, Counter(), Losses()
        for path in (self.progress, *self.parts.values()):
            path.unlink(missing_ok=True)
        if self.trained.is_dir():
            shutil.rmtree(self.trained)
