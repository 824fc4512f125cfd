r"""Read and write documents.

The corpus is UTF-8, with a line `<|endoftext|>` after each document. If a line of a document is
that marker, with any number of `\` before it, one more `\` is added when it is written and removed
when it is read, so every document round-trips byte for byte. A text file without a marker is one
document. Lines end with `\n`; a marker line that a Windows editor ended with `\r\n` counts too, for
readers and for the escaping.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import sys
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from nano_hindi.corpus import source_files
from nano_hindi.corpus.parquet import read_parquet, read_rows, row_ranges
from nano_hindi.corpus.source_files import COMPRESSIONS, TEXT_COLUMN, compression, kind, line_number, no_text, opened, require_file
from nano_hindi.errors import UserError

MARKER = b"<|endoftext|>"
_MARKER_LINE = re.compile(rb"(?m)^\\*" + re.escape(MARKER) + rb"\r?$")
_ESCAPED_LINE = re.compile(rb"(?m)^\\(\\*" + re.escape(MARKER) + rb"\r?)$")
_MARKER_BETWEEN_LINES = re.compile(rb"(?<=\n)" + re.escape(MARKER) + rb"\r?\n")
_WORD = re.compile(r"\S+")
_DOCUMENT_ENDS = (MARKER + b"\n", MARKER + b"\r\n", MARKER)  # the last form: a file that ends without a newline
BOM = "\ufeff"  # Notepad begins a UTF-8 file with it; it is not part of the text
BATCH_CHARACTERS = 1_000_000  # of Hindi text: 2.6 MB, about 250,000 tokens
TEXT_CHUNK_BYTES = 2_000_000  # seconds of work for a slow tokenizer, so little is lost when a run stops


# ---- the corpus


def write_document(file: BinaryIO, text: str) -> int:
    """Append a document to a corpus opened in binary mode.

    Returns the bytes written. Raises UserError for text that UTF-8 cannot encode.
    """
    try:
        raw = text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(f"a document is not valid Unicode ({error.reason}); save it as UTF-8") from error
    if MARKER in raw:  # rare, and the search is far faster than the substitution
        raw = _MARKER_LINE.sub(rb"\\\g<0>", raw)
    return file.write(raw + b"\n" + MARKER + b"\n")


def read_documents(path: str | Path) -> Iterator[str]:
    """Yield the documents of a corpus, or of any text file, one by one: memory is that of the
    longest document.

    Text after the last marker is a document too, unless it is blank. Raises UserError if the file
    is missing or is not UTF-8.
    """
    with opened(path) as file:
        for document in _documents(file):
            yield _text_of_document(path, document)


class RawRecord(NamedTuple):
    """The bytes of a document or a line, and where they are in the file, with what ends them."""

    begin: int
    raw: bytes
    end: int


def _documents(file: BinaryIO, position: int = 0, end: int = sys.maxsize) -> Iterator[RawRecord]:
    """Yield the documents from the position of `file`, where one begins, to the last one that
    begins before byte `end`."""
    lines: list[bytes] = []
    begin = position
    for line in file:
        position += len(line)
        if line in _DOCUMENT_ENDS:
            # what write_document, or the Windows editor, put between the text and the marker
            yield RawRecord(begin, b"".join(lines).removesuffix(b"\r\n" if line.endswith(b"\r\n") else b"\n"), position)
            lines, begin = [], position
            if position >= end:
                return
        else:
            lines.append(line)
    rest = b"".join(lines)
    if rest.strip():
        yield RawRecord(begin, rest, position)


def _text_of_document(path: str | Path, document: RawRecord) -> str:
    raw = document.raw
    try:
        return (_ESCAPED_LINE.sub(rb"\g<1>", raw) if MARKER in raw else raw).decode("utf-8")
    except UnicodeDecodeError as error:
        line = line_number(path, document.end)
        raise UserError(f"{path} is not UTF-8 (in the document that ends at line {line:,}: {error.reason}); convert it first") from error


# ---- input files


def read_source(path: str | Path) -> Iterator[str]:
    """Return an iterator over the documents of a `.txt` (see `read_documents`), `.jsonl` (field
    `text`) or `.parquet` (column `text`) file; the first two may be compressed, as `.txt.gz` or
    `.jsonl.zst`.

    Raises UserError at once as `require_source` does, and while reading for content that does not
    match the extension.
    """
    require_source(path)
    return _read(path) if kind(path) in _FORMATS else read_parquet(path)


def require_source(path: str | Path) -> None:
    """Raise UserError for a missing file, or for an extension that `read_source` does not know."""
    require_file(path)
    if kind(path) not in _FORMATS and (kind(path) != ".parquet" or compression(path)):
        compressed = [f"{name}{end}" for end in COMPRESSIONS for name in _FORMATS]
        raise UserError(f"{path}: documents are read from {', '.join([*_FORMATS, '.parquet', *compressed])} files; rename or convert it")


def with_text(documents: Iterable[str]) -> Iterator[str]:
    """Yield the documents that are not blank: a model would learn from blank ones to end at
    once."""
    return (text for text in documents if text and not text.isspace())


def batches(documents: Iterable[str], characters: int = BATCH_CHARACTERS) -> Iterator[list[str]]:
    """Yield `documents` in lists of about `characters` characters: enough to keep a tokenizer's
    threads busy, little enough to fit in memory."""
    batch, size = [], 0
    for text in documents:
        batch.append(text)
        size += len(text) + 1
        if size >= characters:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def count_words(text: str) -> int:
    """Return `len(text.split())`; a long text is not split into a list, which takes 60 bytes for
    each word."""
    return len(text.split()) if len(text) < BATCH_CHARACTERS else sum(1 for _ in _WORD.finditer(text))


def _read(path: str | Path, begin: int = 0, end: int = sys.maxsize) -> Iterator[str]:
    """Yield the documents of a .txt or .jsonl that begin in bytes `begin` to `end` - 1, after
    decompression; those without text are skipped."""
    text_of = _FORMATS[kind(path)].text_of
    found = _chunk_of_compressed(path, begin, end) if compression(path) else _records(path, begin, end)
    with contextlib.closing(found):
        for record in found:
            if (text := text_of(path, record)) is not None:
                yield text


def _records(path: str | Path, begin: int = 0, end: int = sys.maxsize) -> Generator[RawRecord]:
    """Yield the records that begin in bytes `begin` to `end` - 1: all of them, or those of a chunk
    of a plain file."""
    form = _FORMATS[kind(path)]
    with opened(path) as file:
        first = form.seek(file, begin, end) if begin else 0
        if first < end:
            yield from form.split(file, first, end)


def _seek_document(file: BinaryIO, begin: int, end: int) -> int:
    """Seek `file` to the first document that begins in bytes `begin` (> 0) to `end` - 1.

    Returns its position, `end` if there is none.
    """
    start = max(0, begin - len(MARKER) - 3)  # a marker that ends at `begin` is seen with both its line ends
    file.seek(start)
    before = b"" if start else b"\n"  # a file begins with the start of a line
    for marker in _MARKER_BETWEEN_LINES.finditer(before + file.read(end - start)):
        position = start + marker.end() - len(before)
        if begin <= position < end:
            return file.seek(position)
    return end


def _seek_line(file: BinaryIO, begin: int, end: int) -> int:
    """Seek `file` to the first line that begins in bytes `begin` (> 0) to `end` - 1.

    Returns its position, `end` or more if there is none.
    """
    position = file.seek(begin - 1)
    while position < end and (rest := file.readline(2**16)):  # skip the rest of a line that began before; it may be long
        position += len(rest)
        if rest.endswith(b"\n"):
            break
    return position


def _lines(file: BinaryIO, position: int, end: int) -> Iterator[RawRecord]:
    """Yield the lines that are not blank from the position of `file`, where one begins, to the last
    one that begins before byte `end`."""
    while position < end and (line := file.readline()):
        begin, position = position, position + len(line)
        if line.strip():
            yield RawRecord(begin, line, position)


def _text_without_bom(path: str | Path, document: RawRecord) -> str:
    text = _text_of_document(path, document)
    return text if document.begin else text.removeprefix(BOM)


def _text_of_json(path: str | Path, line: RawRecord) -> str | None:
    value = None
    try:
        value = json.loads(line.raw.decode("utf-8-sig"))
        if (text := value[TEXT_COLUMN]) is not None:
            text.encode()  # JSON can contain half a surrogate pair, UTF-8 cannot
        return text
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        place = f"{path}, line {line_number(path, line.end):,}"
        if isinstance(error, UnicodeDecodeError | UnicodeEncodeError):
            raise UserError(f"{place}: not valid UTF-8 ({error.reason}); convert the file, or delete the line") from error
        if isinstance(value, dict) and TEXT_COLUMN not in value:
            raise no_text(place, "field", list(value)) from error
        raise UserError(f"{place}: expected a JSON object with a text in the field {TEXT_COLUMN!r}; fix or delete the line") from error


class _Format(NamedTuple):
    """How to split a file into records, to seek the first record of a chunk, and to decode one."""

    split: Callable[..., Iterator[RawRecord]]
    seek: Callable[[BinaryIO, int, int], int]
    text_of: Callable[[str | Path, RawRecord], str | None]


_FORMATS = {
    ".txt": _Format(_documents, _seek_document, _text_without_bom),
    ".jsonl": _Format(_lines, _seek_line, _text_of_json),
}
FILES = ".txt, .jsonl (field text) and .parquet (column text) files; .txt.gz, .jsonl.zst too"  # in the help of the commands that read them


# ---- compressed files, from their first byte to the last


class _Forward:
    """A reader of a compressed file: once, forward, for many chunks in the order of the file."""

    def __init__(self, path: str | Path):
        self.identity = _identity(path)
        self._records = _records(path)
        self._last = -1  # where the last record began that `take` has passed
        self._next: RawRecord | None = None  # read, but of a later chunk

    def is_before(self, path: str | Path, begin: int) -> bool:
        return self._last < begin and self.identity == _identity(path)

    def take(self, begin: int, end: int) -> Iterator[RawRecord]:
        """Yield the records that begin in bytes `begin` to `end` - 1."""
        while (record := self._next or next(self._records, None)) and record.begin < end:
            self._next, self._last = None, record.begin
            if record.begin >= begin:
                yield record
        self._next = record


_forward: _Forward | None = None  # of this process, at rest


def _identity(path: str | Path) -> tuple:
    stat = Path(path).stat()
    return str(path), stat.st_size, stat.st_mtime_ns


def _chunk_of_compressed(path: str | Path, begin: int, end: int) -> Generator[RawRecord]:
    """Yield the records of a chunk.

    A process continues where its chunk before this one ended, so it decompresses the file once,
    whatever the number of chunks.
    """
    global _forward
    reader, _forward = _forward, None  # nobody else reads from it meanwhile
    if reader is None or not reader.is_before(path, begin):
        reader = _Forward(path)
    try:
        yield from reader.take(begin, end)
    except GeneratorExit:  # the caller needs no more of this chunk
        _forward = reader
        raise
    _forward = reader  # but not after an error


# ---- chunks: ranges of a file that are read independently


@dataclass(frozen=True)
class Chunk:
    """A range of a file.

    It holds the documents that begin in bytes `begin` to `end` - 1 of a .txt or .jsonl, after
    decompression, or rows `begin` to `end` - 1 of row group `group` of a .parquet.
    """

    path: str
    begin: int
    end: int
    size: int  # approximate, in bytes
    group: int | None = None

    @property
    def bounds(self) -> list:
        return [self.group, self.begin, self.end]

    def read(self) -> Iterator[str]:
        """Yield its documents.

        The chunks of a file, in order, yield the documents of `read_source`.
        """
        if self.group is not None:
            return read_rows(self.path, self.group, self.begin, self.end)
        return _read(self.path, self.begin, self.end)


@dataclass(frozen=True)
class SmallFiles:
    """Consecutive files of one chunk each, which are read as one: to flush a shard for each to disk
    would take longer than to tokenize it."""

    chunks: tuple[Chunk, ...]

    @property
    def size(self) -> int:
        return sum(chunk.size for chunk in self.chunks)

    @property
    def bounds(self) -> list:
        return [chunk.bounds for chunk in self.chunks]

    def read(self) -> Iterator[str]:
        return itertools.chain.from_iterable(chunk.read() for chunk in self.chunks)


def chunks(path: str | Path, size: int = TEXT_CHUNK_BYTES) -> list[Chunk]:
    """Divide a file that `read_source` reads into chunks of about `size` bytes.

    The chunks depend only on the file and `size`. Each document lies in exactly one chunk, whatever
    its length. A compressed file is read once, to know its size. Raises UserError as `read_source`
    does.
    """
    require_source(path)
    path = str(path)
    if kind(path) == ".parquet":
        return [Chunk(path, begin, end, length, group) for group, begin, end, length in row_ranges(path, size)]
    length = source_files.size(path)
    return [Chunk(path, begin, min(begin + size, length), min(size, length - begin)) for begin in range(0, length, size)]


def joined(files: Iterable[list[Chunk]], size: int = TEXT_CHUNK_BYTES) -> list[Chunk | SmallFiles]:
    """Return the chunks of several files, in order, with small files joined up to `size` bytes."""
    groups: list[list[Chunk]] = []
    room = 0  # bytes that the last group may still take
    for of_file in files:
        is_small = len(of_file) == 1
        if is_small and of_file[0].size <= room:
            groups[-1] += of_file
            room -= of_file[0].size
        else:
            groups += [[chunk] for chunk in of_file]
            room = size - of_file[0].size if is_small else 0
    return [group[0] if len(group) == 1 else SmallFiles(tuple(group)) for group in groups]
