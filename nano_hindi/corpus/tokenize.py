"""Tokenize documents on many cores, chunk by chunk, for data/preprocess.py.

A corpus is divided into chunks (see `documents.chunks`). A worker process reads, splits, encodes
and counts a chunk; the results are returned in the order of the corpus. So the tokens are the same
for any number of workers, no Python process is a bottleneck, and memory is that of a few chunks.
"""

from __future__ import annotations

import array
import contextlib
import hashlib
import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from nano_hindi.cli import collected_interrupts
from nano_hindi.corpus.documents import Chunk, batches
from nano_hindi.errors import UserError

if TYPE_CHECKING:
    from nano_hindi.tokenizer import Tokenizer

SPLITS = ("train", "val")
BATCH_CHARACTERS = 200_000  # encoded at once: the library needs about 50 MB for them
EXAMPLES = 20  # lost characters kept for the report
AROUND = 20  # characters of context on each side of a loss


@dataclass
class Encoded:
    """Hold the tokens and counts of a chunk."""

    tokens: dict[str, bytes]  # by split: little-endian uint32
    counts: Counter[str]  # see `encode`
    losses: Losses


@dataclass
class Losses:
    """Count what decoding does not restore.

    A character is lost if the decoded text has fewer of it than the original: it was dropped, or
    became another one.
    """

    documents: int = 0  # that do not decode to the original
    characters: int = 0
    examples: list[str] = field(default_factory=list)  # the first EXAMPLES distinct lost characters
    place: str = ""  # the first difference in the first lossy document

    def look(self, text: str, decoded: str) -> None:
        """Add the losses of a document that decodes to `decoded`."""
        if text == decoded:
            return
        lost = Counter(text) - Counter(decoded)
        self.place = self.place or _first_difference(text, decoded)
        self.add(Losses(1, lost.total(), list(lost)))

    def add(self, other: Losses) -> None:
        self.documents += other.documents
        self.characters += other.characters
        self.examples = list(dict.fromkeys(self.examples + other.examples))[:EXAMPLES]
        self.place = self.place or other.place

    def report(self, counts: Counter[str]) -> str:
        """Return one line on the losses, relative to the totals in `counts`."""
        characters = f"{self.characters:,} of {counts['characters']:,} characters ({self.characters / max(counts['characters'], 1):.3%})"
        documents = f"in {self.documents:,} of {counts['train_documents'] + counts['val_documents']:,} documents"
        named = ", ".join(f"{c} U+{ord(c):04X}" if c.isprintable() and not c.isspace() else f"U+{ord(c):04X}" for c in self.examples[:8])
        return f"{characters} {documents}{f', such as {named}' if named else ''}; {self.place}"


def _first_difference(text: str, decoded: str) -> str:
    at = next((i for i, (a, b) in enumerate(zip(text, decoded, strict=False)) if a != b), min(len(text), len(decoded)))
    around = slice(max(0, at - AROUND), at + AROUND)
    return f"{text[around]!r} decodes to {decoded[around]!r}"


def is_for_validation(raw: bytes, val_fraction: float) -> bool:
    """Return whether a document, as UTF-8, belongs to the validation split.

    It does if the first 8 bytes of its BLAKE2b hash, as a big-endian integer divided by 2**64, are
    less than `val_fraction`. So the same text is always in the same split.
    """
    return int.from_bytes(hashlib.blake2b(raw).digest()[:8], "big") < val_fraction * 2**64


def encode(documents: Iterable[str], tokenizer: Tokenizer, val_fraction: float) -> Encoded:
    """Encode `documents`, in order, into two splits. Returns their tokens, counts and losses.

    The counts are documents, tokens (with bos and eos) and bytes (of text) of each split, and
    characters, words and tokens without bos and eos (text_tokens) of both.

    Every document is checked for losses. If the tokenizer does not change the text (not
    `rewrites`), tokens can only lack bytes, so a batch whose tokens have as many bytes as its texts
    is lossless: one sum, 1 % of the time. Other batches are decoded and compared.
    """
    token_bytes = tokenizer.token_bytes()
    tokens = {name: [] for name in SPLITS}
    counts, losses = Counter(), Losses()
    for batch in batches(documents, BATCH_CHARACTERS):
        encoded = tokenizer.encode_batch(batch)
        raws = [text.encode() for text in batch]
        sides = [SPLITS[is_for_validation(raw, val_fraction)] for raw in raws]
        found = 0  # bytes of the tokens
        for name in SPLITS:
            chosen = [i for i, side in enumerate(sides) if side == name]
            ids = array.array("I")
            for i in chosen:
                ids.fromlist(tokenizer.document(encoded[i]))
            of_batch = np.frombuffer(ids, dtype=np.uint32)
            tokens[name].append(of_batch.astype("<u4", copy=False))
            found += int(token_bytes[of_batch].sum())
            counts[f"{name}_documents"] += len(chosen)
            counts[f"{name}_tokens"] += len(ids)
            counts[f"{name}_bytes"] += sum(len(raws[i]) for i in chosen)
        counts["text_tokens"] += sum(map(len, encoded))
        counts["characters"] += sum(map(len, batch))
        counts["words"] += sum(len(text.split()) for text in batch)
        if tokenizer.rewrites or found != tokenizer.bytes_of_tokens(raws):
            for text, ids in zip(batch, encoded, strict=True):
                losses.look(tokenizer.as_decoded(text), tokenizer.decode(ids))
    return Encoded({name: b"".join(tokens[name]) for name in SPLITS}, counts, losses)


# ---- on many cores


def encode_chunks(chunks: Sequence[Chunk], tokenizer: Tokenizer, val_fraction: float, workers: int) -> Iterator[Encoded]:
    """Yield `encode` of each chunk, in order. With one worker, or one chunk, no process is started.

    Raises UserError if a worker dies, and what `encode` raises.
    """
    workers = min(workers, len(chunks))
    if workers <= 1:
        with _one_thread():
            for chunk in chunks:
                yield encode(chunk.read(), tokenizer, val_fraction)
        return
    import multiprocessing  # spawn: a fork copies locks that threads of torch and of the tokenizer may hold

    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start_worker, (tokenizer, val_fraction))
    try:
        yield from _in_order(pool, _encode_in_worker, chunks, ahead=2 * workers)
    except BrokenProcessPool as error:
        raise UserError("a worker process died, perhaps for lack of memory; run the same command again with fewer --workers to continue") from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _in_order(pool: ProcessPoolExecutor, function: Callable, items: Iterable, ahead: int) -> Iterator[Any]:
    """Yield `function` of each item in order, with at most `ahead` results pending."""
    waiting = deque()
    for item in items:
        with _interrupt_later():  # workers start here; only this process handles Ctrl-C
            waiting.append(pool.submit(function, item))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


@contextlib.contextmanager
def _interrupt_later() -> Iterator[None]:
    """Defer Ctrl-C to the end of the block; processes started in it never receive it (except on
    Windows)."""
    with collected_interrupts() as interrupted:
        if not hasattr(signal, "pthread_sigmask"):
            yield
        else:
            before = signal.pthread_sigmask(
                signal.SIG_BLOCK, {signal.SIGINT}
            )  # for this thread and the processes it starts; other threads may still receive it
            try:
                yield
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if interrupted.is_set():
        raise KeyboardInterrupt


_worker: tuple[Tokenizer, float]  # of a worker process


def _start_worker(tokenizer: Tokenizer, val_fraction: float) -> None:
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _worker = tokenizer, val_fraction


def _end_with_parent() -> None:
    """Exit when the parent dies; a worker whose parent was killed would wait for work forever."""
    import multiprocessing

    multiprocessing.parent_process().join()
    os._exit(1)


def _encode_in_worker(chunk: Chunk) -> Encoded:
    return encode(chunk.read(), *_worker)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Turn off the threads of `tokenizers` within the block."""
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ["TOKENIZERS_PARALLELISM"]
        else:
            os.environ["TOKENIZERS_PARALLELISM"] = before
