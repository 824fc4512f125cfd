"""Documents to tokens, on many cores, in pieces that can be counted off: the work of data/preprocess.py between its files.

A corpus is cut into stretches (see `documents.stretches`). Each goes to a worker process, which reads, splits, encodes and counts it for itself; the results come
back in the order of the corpus. So the tokens are the same for any number of workers, nothing waits for one Python, and memory is that of a few stretches.
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
from nano_hindi.corpus.documents import Stretch, batches
from nano_hindi.errors import UserError

if TYPE_CHECKING:
    from nano_hindi.tokenizer import Tokenizer

SPLITS = ("train", "val")
BATCH_CHARACTERS = 200_000  # that are encoded at once: some 50 MB while the library holds them
EXAMPLES = 20  # of lost characters
AROUND = 20  # characters of text shown on each side of what was lost


@dataclass
class Encoded:
    """What came of a stretch."""

    tokens: dict[str, bytes]  # of each split: little-endian uint32
    counts: Counter[str]  # see `encode`
    losses: Losses


@dataclass
class Losses:
    """What tokens do not give back of the documents. Characters count as lost that the text read back has fewer of: dropped, or turned into others."""

    documents: int = 0  # that are not read back as they were
    characters: int = 0
    examples: list[str] = field(default_factory=list)  # the first few distinct lost characters
    place: str = ""  # where the first document changes

    def look(self, text: str, decoded: str) -> None:
        """Count a document that reads back as `decoded`."""
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
        """In one line, of all that `counts` speaks of."""
        characters = f"{self.characters:,} of {counts['characters']:,} characters ({self.characters / max(counts['characters'], 1):.3%})"
        documents = f"in {self.documents:,} of {counts['train_documents'] + counts['val_documents']:,} documents"
        named = ", ".join(f"{c} U+{ord(c):04X}" if c.isprintable() and not c.isspace() else f"U+{ord(c):04X}" for c in self.examples[:8])
        return f"{characters} {documents}{f', such as {named}' if named else ''}; {self.place}"


def _first_difference(text: str, decoded: str) -> str:
    at = next((i for i, (a, b) in enumerate(zip(text, decoded, strict=False)) if a != b), min(len(text), len(decoded)))
    around = slice(max(0, at - AROUND), at + AROUND)
    return f"{text[around]!r} is read back as {decoded[around]!r}"


def is_for_validation(raw: bytes, val_fraction: float) -> bool:
    """Whether a document, as UTF-8, belongs to the validation share: the first 8 bytes of its BLAKE2b hash, read as a big-endian number, over 2**64 are less
    than `val_fraction`. The same text always falls on the same side."""
    return int.from_bytes(hashlib.blake2b(raw).digest()[:8], "big") < val_fraction * 2**64


def encode(documents: Iterable[str], tokenizer: Tokenizer, val_fraction: float) -> Encoded:
    """The tokens of `documents`, in their order, in two splits, and what they count: documents, tokens (with bos and eos) and bytes (of text) of each split;
    characters, words and tokens without bos and eos (text_tokens) of both.

    No document is taken to be read back as it was. Where the tokenizer cuts the text as it is (not `rewrites`), tokens can only lack bytes, so a batch whose
    tokens have the bytes of its texts has lost nothing: one sum, 1 % of the time. All other batches are decoded and compared.
    """
    token_bytes = tokenizer.token_bytes()
    tokens = {name: [] for name in SPLITS}
    counts, losses = Counter(), Losses()
    for batch in batches(documents, BATCH_CHARACTERS):
        encoded = tokenizer.encode_batch(batch)
        raws = [text.encode() for text in batch]
        sides = [SPLITS[is_for_validation(raw, val_fraction)] for raw in raws]
        found = 0  # bytes that the tokens stand for
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


def encode_stretches(stretches: Sequence[Stretch], tokenizer: Tokenizer, val_fraction: float, workers: int) -> Iterator[Encoded]:
    """`encode` of each stretch, in order. Where there is one worker, or one stretch, in this process.

    Raises UserError where a worker dies, and what `encode` raises.
    """
    workers = min(workers, len(stretches))
    if workers <= 1:
        with _one_thread():
            for stretch in stretches:
                yield encode(stretch.read(), tokenizer, val_fraction)
        return
    import multiprocessing  # spawn: a fork would take over the threads of torch and of the tokenizer, and their locks

    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start_worker, (tokenizer, val_fraction))
    try:
        yield from _in_order(pool, _encode_in_worker, stretches, ahead=2 * workers)
    except BrokenProcessPool as error:
        raise UserError(
            "a worker process ended by itself, perhaps for lack of memory; run the same command again, to go on, with fewer --workers"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _in_order(pool: ProcessPoolExecutor, function: Callable, items: Iterable, ahead: int) -> Iterator[Any]:
    """The results of `function`, in the order of `items`, no more than `ahead` of them before they are taken."""
    waiting = deque()
    for item in items:
        with _interrupt_later():  # workers start here, and this process answers for them
            waiting.append(pool.submit(function, item))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


@contextlib.contextmanager
def _interrupt_later() -> Iterator[None]:
    """Hold Ctrl-C back to the end of the block; a process that is started in it never hears it (but on Windows)."""
    with collected_interrupts() as interrupted:
        if not hasattr(signal, "pthread_sigmask"):
            yield
        else:
            before = signal.pthread_sigmask(
                signal.SIG_BLOCK, {signal.SIGINT}
            )  # of this thread, whose processes inherit it; another may still hear it
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
    """A worker whose parent was killed would wait for work for ever."""
    import multiprocessing

    multiprocessing.parent_process().join()
    os._exit(1)


def _encode_in_worker(stretch: Stretch) -> Encoded:
    return encode(stretch.read(), *_worker)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Keep the library to this thread."""
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ["TOKENIZERS_PARALLELISM"]
        else:
            os.environ["TOKENIZERS_PARALLELISM"] = before
