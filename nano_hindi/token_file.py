"""Read the tokens of a .bin file, and notice if it is damaged or changes."""

from __future__ import annotations

import hashlib
import os
import random
import threading
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from nano_hindi.errors import UserError
from nano_hindi.files import TEXT_MAKERS, close_read, require_made

DIGEST_CHUNK_BYTES = 2**20  # with another size, all digests of the same tokens would differ
SAMPLED_CHUNKS = 64  # a tenth of a second from a fast disk
TOKEN_BYTES = 4  # little-endian uint32
TARGET = 2**31  # set in a token of chat data that the model learns to predict


class DataError(UserError):
    """A token file is not what it was when it was opened, cannot be read, or holds invalid ids."""


class TokenFile:
    """The tokens of a .bin file, which is open as long as this object exists; `file[begin:end]`
    reads them as uint32.

    Whoever holds it reads the same file to the end, even if another one takes its name. It is not
    memory-mapped: reading a mapped file that was truncated kills the process (SIGBUS). Threads may
    share it.
    """

    def __init__(self, path: str | Path, vocab_size: int, marks_targets: bool = False):
        """Open the file, whose tokens may have the bit TARGET if it `marks_targets`. Raises
        UserError if it is missing, empty or truncated within a token."""
        self.path, self.vocab_size, self.marks_targets = Path(path), vocab_size, marks_targets
        self.maker = "data/chat.py" if marks_targets else "data/preprocess.py"
        self.restore = f"restore it, or run {self.maker} again"
        self.digests: list[str] = []  # of its chunks, as its maker recorded them; set by `require_digests`
        require_made(self.path, self.maker if marks_targets else TEXT_MAKERS)
        self._file = open(self.path, "rb", buffering=0)  # noqa: SIM115 - closed with this object
        weakref.finalize(self, close_read, self._file)
        self._lock = threading.Lock()
        self._opened = self._state()
        self.size = self._opened[0]  # bytes
        if self.size == 0 or self.size % TOKEN_BYTES:
            raise UserError(f"{path} is damaged: {self.size:,} bytes are not a whole number of 4-byte tokens; run {self.maker} again")

    def __len__(self) -> int:
        return self.size // TOKEN_BYTES

    def __getitem__(self, span: slice) -> np.ndarray:
        begin, end, _ = span.indices(len(self))
        tokens = np.empty(max(0, end - begin), dtype="<u4")
        self.read(begin * TOKEN_BYTES, tokens.view(np.uint8).data)
        return tokens

    def read(self, position: int, place: memoryview) -> None:
        """Fill `place`, a view of bytes, with those of the file from `position` on. Raises
        DataError if the file cannot be read or is shorter now."""
        try:
            with self._lock:
                self._file.seek(position)
                while place and (count := self._file.readinto(place)):
                    place = place[count:]
        except OSError as error:
            raise DataError(f"{self.path} cannot be read ({error.strerror}); {self.restore}") from error
        if place:
            raise DataError(f"{self.path} was truncated or changed while it was in use; {self.restore}")

    def require_unchanged(self) -> None:
        """Raise DataError if the file has changed since it was opened: its size, or its time and,
        as far as they are known, its digests."""
        if (state := self._state()) == self._opened:
            return
        if state[0] != self.size or any(digest != now for digest, now in zip(self.digests, self.chunk_digests(), strict=False)):
            raise DataError(f"{self.path} was truncated or changed while it was in use; {self.restore}")
        self._opened = state

    def _state(self) -> tuple[int, int]:
        stat = os.fstat(self._file.fileno())
        return stat.st_size, stat.st_mtime_ns

    def num_sequences(self, sequence_len: int, remedy: str) -> int:
        """Return the number of sequences, S of dataloader.py. Raises UserError, with the remedy, if
        the file is shorter than one sequence."""
        if len(self) <= sequence_len:
            raise UserError(f"{self.path} holds {len(self):,} tokens, but one sequence needs {sequence_len + 1:,}; {remedy}")
        return (len(self) - 1) // sequence_len

    def require_in_vocabulary(self, tokens: np.ndarray) -> None:
        """Raise DataError for an id outside the vocabulary: on a GPU it would be an assertion far
        from its cause."""
        highest = int((tokens & (TARGET - 1) if self.marks_targets else tokens).max(initial=0))
        if highest >= self.vocab_size:
            raise DataError(
                f"{self.path} holds token id {highest}, but the vocabulary has {self.vocab_size} tokens; "
                f"it is damaged or was made with another tokenizer, so run {self.maker} again"
            )

    # ---- digests

    @property
    def num_chunks(self) -> int:
        return -(-self.size // DIGEST_CHUNK_BYTES)

    def chunk_digests(self) -> Iterator[str]:
        """Yield the digest of each chunk of DIGEST_CHUNK_BYTES; one to two seconds for 1 GB."""
        return map(self.chunk_digest, range(self.num_chunks))

    def chunk_digest(self, i: int) -> str:
        """Return the digest of chunk `i`."""
        chunk = bytearray(min(DIGEST_CHUNK_BYTES, self.size - i * DIGEST_CHUNK_BYTES))
        self.read(i * DIGEST_CHUNK_BYTES, memoryview(chunk))
        return hashlib.blake2b(chunk, digest_size=8).hexdigest()

    def require_digests(self, digests: list[str], every: bool) -> None:
        """Raise UserError if the digest of a chunk is not the one given. Checks `every` chunk, or
        SAMPLED_CHUNKS of them: the first, the last, and others drawn at random."""
        chunks: Sequence[int] = range(self.num_chunks)
        if not every and len(chunks) > SAMPLED_CHUNKS:
            inner = random.SystemRandom().sample(chunks[1:-1], SAMPLED_CHUNKS - 2)  # other ones at each start, whatever the seeds
            chunks = [0, *sorted(inner), self.num_chunks - 1]
        for i in chunks:
            if len(digests) != self.num_chunks or self.chunk_digest(i) != digests[i]:
                raise UserError(f"{self.path} is damaged: from byte {i * DIGEST_CHUNK_BYTES:,} on it is not what {self.maker} wrote; {self.restore}")
        self.digests = digests
