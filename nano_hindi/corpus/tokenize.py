"""Tokenize documents on many cores, chunk by chunk, for data/preprocess.py.

A corpus is divided into chunks (see `documents.chunks`). A worker process reads, splits, encodes
and counts a chunk, and writes it to a file, its shard. So the tokens are the same for any number of
workers, no Python process is a bottleneck, and memory is that of one chunk for each worker.
"""

from __future__ import annotations

import array
import contextlib
import hashlib
import json
import os
import pickle
import signal
import sys
import tempfile
import threading
import types
from collections import Counter, deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nano_hindi.cli import collected_interrupts
from nano_hindi.common import IS_WINDOWS, common_prefix_length
from nano_hindi.corpus.documents import Chunk, SmallFiles, batches, count_words, with_text
from nano_hindi.errors import UserError, naming
from nano_hindi.files import replacing

if TYPE_CHECKING:
    from nano_hindi.tokenizer import Tokenizer

SPLITS = ("train", "val")
MOST_WORKERS = 61 if IS_WINDOWS else 2**10  # Windows waits for at most 64 handles at once
ENCODED_AT_ONCE = 200_000  # characters: the library needs about 50 MB for them
EXAMPLES = 20  # lost characters kept for the report
AROUND = 20  # characters of context on each side of a loss


@dataclass
class Summary:
    """Counts of what a chunk, or several, holds, what NFC changes and what decoding does not
    restore.

    `counts` has documents, tokens (with bos and eos) and bytes (of text) of each split; and of both
    characters, words, text_tokens (without bos and eos), lossy_documents (that do not decode to the
    text that was encoded) and lost_characters. A character is lost if the decoded text has fewer of
    it: it was dropped, or became another one. All these are of the normalized text.
    documents_with_cr have a carriage return, as in the line ends of Windows. normalized_documents
    are those that NFC changed, and normalized_characters are lost in it.
    """

    counts: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)  # the first EXAMPLES distinct lost characters
    place: str = ""  # the first difference in the first lossy document

    def count_normalization(self, text: str, normalized: str) -> None:
        """Count what normalization changed in a document."""
        if text != normalized:
            lost = Counter(text) - Counter(normalized)
            self.counts.update(normalized_documents=1, normalized_characters=lost.total())

    def count_losses(self, text: str, decoded: str) -> None:
        """Count the losses of a document that decodes to `decoded`."""
        if text != decoded:
            lost = Counter(text) - Counter(decoded)
            losses = Counter(lossy_documents=1, lost_characters=lost.total())
            self.add(Summary(losses, list(lost), self.place or _first_difference(text, decoded)))

    def add(self, other: Summary) -> None:
        self.counts.update(other.counts)
        self.examples = list(dict.fromkeys(self.examples + other.examples))[:EXAMPLES]
        self.place = self.place or other.place

    def losses(self) -> str:
        """Return one line on the losses."""
        lost, of = self.counts["lost_characters"], self.counts["characters"]
        documents = self.counts["train_documents"] + self.counts["val_documents"]
        named = ", ".join(f"{c} U+{ord(c):04X}" if c.isprintable() and not c.isspace() else f"U+{ord(c):04X}" for c in self.examples[:8])
        found = f"{lost:,} of {of:,} characters ({lost / max(of, 1):.3%}) in {self.counts['lossy_documents']:,} of {documents:,} documents"
        return f"{found}{f', such as {named}' if named else ''}; {self.place}"


def _first_difference(text: str, decoded: str) -> str:
    at = common_prefix_length(text, decoded)
    around = slice(max(0, at - AROUND), at + AROUND)
    return f"{text[around]!r} decodes to {decoded[around]!r}"


def is_for_validation(raw: bytes, val_fraction: float) -> bool:
    """Return whether a document, normalized and as UTF-8, belongs to the validation split.

    It does if the first 8 bytes of its BLAKE2b hash, as a big-endian integer divided by 2**64, are
    less than `val_fraction`. So the same text is always in the same split.
    """
    return int.from_bytes(hashlib.blake2b(raw).digest()[:8], "big") < val_fraction * 2**64


def encode(documents: Iterable[str], tokenizer: Tokenizer, val_fraction: float) -> tuple[dict[str, bytes], Summary]:
    """Encode the `documents` that are not blank, in order. Returns the ids of each split
    (little-endian uint32) and a summary.

    The bytes, the split and the losses are those of the normalized text. Every document is checked
    for losses. If the tokenizer does not change that text (not `rewrites`), tokens can only lack
    bytes, so a batch whose tokens have as many bytes as its texts is lossless: one sum, 1 % of the
    time. Other batches are decoded and compared.
    """
    tokens: dict[str, list[bytes]] = {name: [] for name in SPLITS}
    summary = Summary()
    counts = summary.counts
    for originals in batches(with_text(documents), ENCODED_AT_ONCE):
        batch = [tokenizer.normalize(text) for text in originals]
        for original, text in zip(originals, batch, strict=True):
            summary.count_normalization(original, text)
        encoded = tokenizer.encode_batch(batch)
        raws = [text.encode() for text in batch]
        splits = [SPLITS[is_for_validation(raw, val_fraction)] for raw in raws]
        encoded_bytes = 0
        for name in SPLITS:
            chosen = [i for i, split in enumerate(splits) if split == name]
            ids = array.array("I")
            for i in chosen:
                ids.fromlist(tokenizer.document(encoded[i]))
            of_batch = np.frombuffer(ids, dtype=np.uint32)
            tokens[name].append(of_batch.astype("<u4", copy=False).tobytes())
            encoded_bytes += int(tokenizer.token_bytes[of_batch].sum())
            counts[f"{name}_documents"] += len(chosen)
            counts[f"{name}_tokens"] += len(ids)
            counts[f"{name}_bytes"] += sum(len(raws[i]) for i in chosen)
        counts["text_tokens"] += sum(map(len, encoded))
        counts["characters"] += sum(map(len, batch))
        counts["words"] += sum(map(count_words, batch))
        counts["documents_with_cr"] += sum("\r" in text for text in batch)
        if tokenizer.rewrites or encoded_bytes != tokenizer.bytes_of_tokens(raws):
            for text, of_text in zip(batch, encoded, strict=True):
                summary.count_losses(tokenizer.as_decoded(text), tokenizer.decode(of_text))
    return {name: b"".join(tokens[name]) for name in SPLITS}, summary


def write_shard(chunk: Chunk | SmallFiles, path: Path, tokenizer: Tokenizer, val_fraction: float) -> None:
    """Encode a chunk into a shard, unless it is there: a line of JSON with its summary, the ids of
    train, those of val.

    The file appears under its name when it is complete and flushed to disk.
    """
    if path.exists():
        return
    tokens, summary = encode(chunk.read(), tokenizer, val_fraction)
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(json.dumps(vars(summary)).encode() + b"\n")
        file.writelines(tokens[name] for name in SPLITS)


# ---- on many cores


def write_shards(tasks: Sequence[tuple[Chunk | SmallFiles, Path]], tokenizer: Tokenizer, val_fraction: float, workers: int) -> Generator[None]:
    """Write the shard of each (chunk, path), and yield after each, in order. With one worker, or
    one shard, no process is started.

    Raises UserError if a worker dies, and what `write_shard` raises.
    """
    workers = min(workers, len(tasks), MOST_WORKERS)
    if workers <= 1:
        for task in tasks:
            write_shard(*task, tokenizer, val_fraction)
            yield
        return
    import multiprocessing  # spawn: a fork copies locks that threads of torch and of the tokenizer may hold

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        # more than a pipe holds: written to that of a process that dies early, it would block
        # forever
        settings = Path(folder) / "settings"
        waiting: deque[Future[None]] = deque()
        with naming(settings):  # the disk of the temporary files may be full
            settings.write_bytes(pickle.dumps((tokenizer, val_fraction)))
        pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start_worker, (settings,))
        try:
            for task in tasks:
                waiting.append(_submit(pool, task))
                if len(waiting) >= 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise UserError(
                "a worker process died or could not start, perhaps for lack of memory; run the same command again with fewer --workers to continue"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _submit(pool: ProcessPoolExecutor, task: tuple[Chunk | SmallFiles, Path]) -> Future[None]:
    """Give the pool a task; it may start a worker, in which Ctrl-C is ignored."""
    try:
        with _interrupt_later(), _without_main():
            return pool.submit(_write_in_worker, *task)
    except OSError as error:  # none can be started, or the pool has just closed its pipes because another one died
        raise BrokenProcessPool(str(error)) from error


@contextlib.contextmanager
def _interrupt_later() -> Iterator[None]:
    """Defer Ctrl-C to the end of the block; processes started in it never receive it (except on
    Windows)."""
    with collected_interrupts() as interrupted:
        if not hasattr(signal, "pthread_sigmask"):
            yield
        else:
            # for this thread and the processes it starts; other threads may still receive it
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                yield
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if interrupted.is_set():
        raise KeyboardInterrupt


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """Hide the main module within the block: processes started in it do not import it. They need
    nothing of it, and a script without `if __name__ == "__main__"` would run again in each."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


_worker: tuple[Tokenizer, float]  # of a worker process


def _start_worker(settings: Path) -> None:
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _worker = pickle.loads(settings.read_bytes())


def _end_with_parent() -> None:
    """Exit when the parent dies; a worker whose parent was killed would wait for work forever."""
    import multiprocessing

    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
    os._exit(1)


def _write_in_worker(chunk: Chunk | SmallFiles, path: Path) -> None:
    write_shard(chunk, path, *_worker)
