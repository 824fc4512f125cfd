"""Count and write the documents of a corpus, up to a budget."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, BinaryIO

from nano_hindi.console import Progress, count, counted
from nano_hindi.corpus.documents import BATCH_CHARACTERS, batches, count_words, write_document

if TYPE_CHECKING:
    from nano_hindi.corpus.cleaning import Cleaner
    from nano_hindi.tokenizer import Tokenizer

# tokens are with bos and eos, as in the token files; bytes are of text, without markers
MOST_TOKENS = 12  # of a character: four bytes of UTF-8, or in NFC up to three characters, and a token for each byte
WITHOUT_TOKENIZER = "none: max_tokens bounded the words"  # in place of its name
COUNTED = ("documents", "tokens", "words", "characters", "bytes", "empty_documents_left_out")


class CorpusWriter:
    """A writer that appends documents to a corpus, up to and including the one that reaches
    `--max_tokens`, or the budget of the source that `start` has named.

    Without a tokenizer, that limits the words, each of which is at least one token. Documents of
    only whitespace are skipped, and those that the cleaner drops. `recorded` has the lines that
    `metadata` returned for the beginning of the corpus, none for a new one.
    """

    def __init__(self, max_tokens: int, tokenizer: Tokenizer | None, cleaner: Cleaner | None, recorded: Mapping[str, str]):
        self.max_tokens, self.tokenizer, self.cleaner = max_tokens, tokenizer, cleaner
        self.totals = Counter({key: int(recorded.get(key, 0)) for key in (*COUNTED, "written")})  # written: bytes of the file
        self.limited = "tokens" if tokenizer else "words"
        self.limit = self.max_tokens
        self._source_counts = {key: int(recorded[key]) for key in recorded if re.fullmatch(r"source_\d+_(documents|tokens|words)", key)}
        self._source_keys: dict[str, str] = {}  # key in `totals`: key in _source_counts, of the source that `start` named

    def start(self, number: int, budget: int) -> None:
        """Begin or continue one of several sources, to count it too and to stop at its budget."""
        self._source_keys = {key: f"source_{number}_{key}" for key in ("documents", self.limited)}
        for in_source in self._source_keys.values():
            self._source_counts.setdefault(in_source, 0)
        self.limit = min(self.max_tokens, self.totals[self.limited] - self._source_counts[self._source_keys[self.limited]] + budget)

    @property
    def is_full(self) -> bool:
        return self.totals[self.limited] >= self.limit

    def metadata(self) -> dict[str, int | str]:
        """Return the lines of metadata.txt."""
        name = self.tokenizer.name if self.tokenizer else WITHOUT_TOKENIZER
        counts = {key: self.totals[key] for key in COUNTED if self.tokenizer or key != "tokens"}
        lines: dict[str, int | str] = {"documents": counts["documents"], "tokenizer": name}
        return lines | counts | self._source_counts | (self.cleaner.metadata() if self.cleaner else {})

    def write(self, file: BinaryIO, documents: Iterable[str], progress: Progress) -> None:
        """Append `documents`; `progress` counts tokens, words, or bytes of the file."""
        totals, tokenizer, unit = self.totals, self.tokenizer, "written" if progress.unit == "bytes" else progress.unit
        kept = self._kept(documents)
        while batch := next(batches(kept, self._room()), None):
            encoded: list[list[int]] = tokenizer.encode_batch(batch) if tokenizer else [[]] * len(batch)
            before = totals.copy()
            for text, ids in zip(batch, encoded, strict=True):
                totals["written"] += write_document(file, text)
                totals["documents"] += 1
                totals["tokens"] += len(tokenizer.document(ids)) if tokenizer else 0
                totals["words"] += count_words(text)
                totals["characters"] += len(text)
                totals["bytes"] += len(text.encode())
                if self.is_full:
                    break
            for key, in_source in self._source_keys.items():
                self._source_counts[in_source] += totals[key] - before[key]
            others = {} if unit == self.limited else {self.limited: count(totals[self.limited])}
            progress.update(totals[unit] - before[unit], documents=count(totals["documents"]), **others, MB=f"{totals['bytes'] / 1e6:,.1f}")
            if self.is_full:
                return

    def _room(self) -> int:
        """Return the most characters of the next batch: so few that only its last document can
        reach the limit. The cleaner remembers every document of a batch; of one that is not
        written, it would drop later copies."""
        return max(1, min(BATCH_CHARACTERS, (self.limit - self.totals[self.limited]) // MOST_TOKENS))

    def _kept(self, documents: Iterable[str]) -> Iterator[str]:
        """Yield the documents to write, from any source, in the order of the corpus."""
        for text in documents:
            if not text or text.isspace():
                self.totals["empty_documents_left_out"] += 1
            elif self.cleaner is None:
                yield text
            elif (cleaned := self.cleaner(text)) is not None:
                yield cleaned


def lines_by_source(metadata: Mapping[str, str]) -> Iterator[str]:
    """Yield a line to print for each of several sources."""
    unit = "tokens" if "tokens" in metadata else "words"
    for number in itertools.count(1):
        if (label := metadata.get(f"source_{number}")) is None:
            return
        documents, amount = (int(metadata[f"source_{number}_{key}"]) for key in ("documents", unit))
        yield f"{label}: {counted(documents, 'document')}, {counted(amount, unit[:-1])}"
