"""Join the shards of a corpus into train.bin and val.bin, so that a stopped run can be resumed.

All that is unfinished lies in a folder named after the settings, `preprocess-<hash>.part`: shards
(see `tokenize.write_shard`), the beginning of train.bin and val.bin, and a tokenizer trained by
this run. A joined shard is truncated to its first line. The counts in these lines give every shard
its place in the joined files, so one that was joined only in part is joined again, to the same
bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from nano_hindi.corpus.prepared import METADATA, require_places, save_tokenizer, write_digests
from nano_hindi.corpus.report import report_files
from nano_hindi.corpus.tokenize import SPLITS, Summary
from nano_hindi.errors import UserError, naming
from nano_hindi.files import rename, write_metadata, write_text
from nano_hindi.token_file import TOKEN_BYTES
from nano_hindi.tokenizer import Tokenizer, load_tokenizer

DELETED = "preprocess.deleted"


class Shards:
    """The shards of one corpus, tokenizer and settings: `paths` in the order of the corpus,
    `summary` of those joined so far by this process."""

    def __init__(self, output_dir: Path, settings: dict, chunks: int):
        """Set the paths.

        Raises UserError or IsADirectoryError if a file or folder is in the place of an output.
        """
        name = hashlib.blake2b(json.dumps(settings).encode(), digest_size=8).hexdigest()
        self.output_dir, self.folder = output_dir, output_dir / f"preprocess-{name}.part"
        self.paths = [self.folder / f"{i:06}.shard" for i in range(chunks)]
        self.metadata_file, self.summary = output_dir / METADATA, Summary()
        require_places(output_dir)

    def begin(self) -> int:
        """Make the folder unless it exists, and delete unfinished work of other settings.

        Returns the number of shards from the first one on that are finished; those are joined.
        """
        for other in self.output_dir.glob("preprocess-*.part"):
            if other != self.folder:
                discard(other)
        self.folder.mkdir(exist_ok=True)
        finished = list(itertools.takewhile(Path.exists, self.paths))
        for path in finished:
            self.join(path)
        return len(finished)

    def trained(self, train: Callable[[], Tokenizer]) -> Tokenizer:
        """Return the tokenizer that the stopped run trained; or `train` and keep one."""
        folder, name = self.folder / "tokenizer", self.folder / "tokenizer.txt"
        if name.is_file():  # it is written last
            tokenizer = load_tokenizer(folder)
            tokenizer.name = name.read_text(encoding="utf-8")
        else:
            tokenizer = train()
            tokenizer.save(folder)
            write_text(name, tokenizer.name)
        return tokenizer

    def join(self, path: Path) -> None:
        """Append a shard to the joined files unless it is there, and add it to the summary.

        Call it for each of `paths`, in order.
        """
        with naming(path), open(path, "r+b") as shard:
            summary = Summary(**json.loads(shard.readline()))
            end_of_line = shard.tell()
            for name in SPLITS:
                if ids := shard.read(summary.counts.get(f"{name}_tokens", 0) * TOKEN_BYTES):
                    self._write(name, ids)
            shard.truncate(end_of_line)
        self.summary.add(summary)

    def _write(self, name: str, ids: bytes) -> None:
        """Write `ids` after those of the summary, and flush them to disk.

        Raises UserError if the joined file is shorter than those.
        """
        path, position = self.folder / f"{name}.bin", self.summary.counts[f"{name}_tokens"] * TOKEN_BYTES
        path.touch()
        with naming(path), open(path, "r+b") as file:
            if file.seek(0, os.SEEK_END) < position:
                raise UserError(f"{path} is damaged; delete {self.folder} to start over")
            file.seek(position)
            file.write(ids)
            file.flush()
            os.fsync(file.fileno())

    def finish(self, tokenizer: Tokenizer, metadata: dict) -> None:
        """Move all outputs to their final names, in place of older ones and the report on them, and
        write preprocess_meta.txt last: an output folder without it is not ready.

        Safe to interrupt and repeat.
        """
        for path in (self.metadata_file, *report_files(self.output_dir)):
            path.unlink(missing_ok=True)
        for name in SPLITS:
            if (self.folder / f"{name}.bin").exists():
                rename(self.folder / f"{name}.bin", self.output_dir / f"{name}.bin")
        save_tokenizer(self.output_dir, tokenizer)
        write_metadata(self.metadata_file, metadata | write_digests(self.output_dir, tokenizer.vocab_size))
        discard(self.folder)


def discard(folder: Path) -> None:
    """Delete a folder under another name, so that half of it is never resumed."""
    deleted = folder.with_name(DELETED)
    shutil.rmtree(deleted, ignore_errors=True)  # what a killed run left
    if folder.exists():
        rename(folder, deleted)
        with contextlib.suppress(OSError):  # the next call deletes the rest
            shutil.rmtree(deleted)
