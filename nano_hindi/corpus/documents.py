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
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from nano_hindi.errors import UserError, naming
from nano_hindi.files import close_read, utf8_path

MARKER = b"<|endoftext|>"
_MARKER_LINE = re.compile(rb"(?m)^\\*" + re.escape(MARKER) + rb"\r?$")
_ESCAPED_LINE = re.compile(rb"(?m)^\\(\\*" + re.escape(MARKER) + rb"\r?)$")
_MARKER_BETWEEN_LINES = re.compile(rb"(?<=\n)" + re.escape(MARKER) + rb"\r?\n")
_WORD = re.compile(r"\S+")
_DOCUMENT_ENDS = (MARKER + b"\n", MARKER + b"\r\n", MARKER)  # the last form: a file that ends without a newline
BOM = "\ufeff"  # Notepad begins a UTF-8 file with it; it is not part of the text
TEXT_COLUMN = "text"
PARQUET_ROWS, PARQUET_BYTES = 200, 8_000_000  # of a column read at once, at most; but at least a row
BATCH_CHARACTERS = 1_000_000  # of Hindi text: 2.6 MB, about 250,000 tokens
CHUNK_BYTES = 2_000_000  # seconds of work for a slow tokenizer, so little is lost when a run stops
CHUNKS_PER_GROUP = 16  # at most: each chunk skips the rows before it, which costs 1 % of tokenizing them


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
    with _open(path) as file:
        yield from _documents(file)


def _documents(file: BinaryIO, end: float = float("inf")) -> Iterator[str]:
    """Yield the documents from the position of `file`, where one begins, to the last one that
    begins before byte `end`."""
    lines: list[bytes] = []
    position = file.tell()
    for line in file:
        position += len(line)
        if line in _DOCUMENT_ENDS:
            # what write_document, or the Windows editor, put between the text and the marker
            yield _document(b"".join(lines).removesuffix(b"\r\n" if line.endswith(b"\r\n") else b"\n"), file, position)
            lines = []
            if position >= end:
                return
        else:
            lines.append(line)
    rest = b"".join(lines)
    if rest.strip():
        yield _document(rest, file, position)


def _document(raw: bytes, file: BinaryIO, end: int) -> str:
    try:
        return (_ESCAPED_LINE.sub(rb"\g<1>", raw) if MARKER in raw else raw).decode("utf-8")
    except UnicodeDecodeError as error:
        line = _line_number(file, end)
        raise UserError(f"{file.name} is not UTF-8 (in the document that ends at line {line:,}: {error.reason}); convert it first") from error


def _line_number(file: BinaryIO, end: int) -> int:
    """Return the number, from 1, of the line whose last byte is `end` - 1."""
    file.seek(0)
    newlines, left, block = 0, end, b""
    while left and (block := file.read(min(left, 2**20))):
        newlines += block.count(b"\n")
        left -= len(block)
    return newlines + (not block.endswith(b"\n"))


# ---- input files


def read_source(path: str | Path) -> Iterator[str]:
    """Return an iterator over the documents of a `.txt` (see `read_documents`), `.jsonl` (field
    `text`) or `.parquet` (column `text`) file.

    Raises UserError at once for a missing file or another extension, and while reading for content
    that does not match the extension.
    """
    readers = {".txt": _read_text, ".jsonl": _read_jsonl, ".parquet": _read_parquet}
    _require_file(path)
    reader = readers.get(Path(path).suffix.lower())
    if reader is None:
        raise UserError(f"{path}: documents are read from {', '.join(readers)} files; rename or convert it")
    return reader(path)


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


def _require_file(path: str | Path) -> None:
    if Path(path).is_dir():
        raise UserError(f"there is no file {path}: it is a folder; name the files in it")
    if not Path(path).is_file():
        raise UserError(f"there is no file {path}; check the name")


@contextlib.contextmanager
def _open(path: str | Path) -> Iterator[BinaryIO]:
    _require_file(path)
    with naming(path):
        file = open(path, "rb")  # noqa: SIM115 - closed below
        try:
            yield file
        finally:
            close_read(file)  # a generator is closed where nobody catches an error


def _read_text(path: str | Path, begin: int = 0, end: float = float("inf")) -> Iterator[str]:
    with _open(path) as file:
        if begin and not _seek_document(file, begin, end):
            return
        documents = _documents(file, end)
        if begin == 0:
            documents = itertools.chain((text.removeprefix(BOM) for text in itertools.islice(documents, 1)), documents)
        yield from documents


def _seek_document(file: BinaryIO, begin: int, end: int) -> bool:
    """Seek `file` to the first document that begins in bytes `begin` (> 0) to `end` - 1.

    Returns whether there is one.
    """
    start = max(0, begin - len(MARKER) - 3)  # a marker that ends at `begin` is seen with both its line ends
    file.seek(start)
    before = b"" if start else b"\n"  # a file begins with the start of a line
    for marker in _MARKER_BETWEEN_LINES.finditer(before + file.read(end - start)):
        position = start + marker.end() - len(before)
        if begin <= position < end:
            file.seek(position)
            return True
    return False


def _read_jsonl(path: str | Path, begin: int = 0, end: float = float("inf")) -> Iterator[str]:
    with _open(path) as file:
        position = begin
        if begin:
            file.seek(begin - 1)
            position -= 1
            while position < end and (rest := file.readline(2**16)):  # skip the rest of a line that began before; it may be long
                position += len(rest)
                if rest.endswith(b"\n"):
                    break
        while position < end and (line := file.readline()):
            position += len(line)
            if line.strip():
                yield _text_of_json(line, file, position)


def _text_of_json(line: bytes, file: BinaryIO, end: int) -> str:
    try:
        text = json.loads(line.decode("utf-8-sig"))[TEXT_COLUMN]
        text.encode()  # JSON can contain half a surrogate pair, UTF-8 cannot
        return text
    except UnicodeError as error:
        place = f"{file.name}, line {_line_number(file, end):,}"
        raise UserError(f"{place}: not valid UTF-8 ({error.reason}); convert the file, or delete the line") from error
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        place = f"{file.name}, line {_line_number(file, end):,}"
        raise UserError(f"{place}: expected a JSON object with a text in the field {TEXT_COLUMN!r}") from error


def _read_parquet(path: str | Path) -> Iterator[str]:
    with _parquet(path) as file:
        for group in range(file.num_row_groups):  # one by one: iter_batches over all of them fetches the whole file first
            yield from _rows(file, path, group)


def _read_parquet_rows(path: str | Path, group: int, begin: int, end: int) -> Iterator[str]:
    with _parquet(path) as file:
        yield from _rows(file, path, group, begin, end)


@contextlib.contextmanager
def _parquet(path: str | Path) -> Iterator:
    """Open a pyarrow ParquetFile that is read on demand.

    Raises UserError if it is not a Parquet file, or has no text column.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        with naming(path), utf8_path(Path(path)) as readable, pyarrow.parquet.ParquetFile(readable, buffer_size=2**20) as file:
            if TEXT_COLUMN not in file.schema_arrow.names:
                raise UserError(f"{path} has no column {TEXT_COLUMN!r}, only {', '.join(file.schema_arrow.names)}")
            yield file
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the system, not of the file's content
            raise
        raise UserError(f"{path} is not a readable parquet file ({_reason(error)}); download or copy it again") from error


def _rows(file, path: str | Path, group: int, begin: int = 0, end: float = float("inf")) -> Iterator[str]:
    """Yield the texts of rows `begin` to `end` - 1 of a row group; rows without text are
    skipped."""
    import pyarrow

    before, first = sum(file.metadata.row_group(number).num_rows for number in range(group)), 0
    try:
        for batch in file.iter_batches(rows_at_once(file.metadata.row_group(group)), row_groups=[group], columns=[TEXT_COLUMN]):
            wanted = batch.column(0)[max(begin - first, 0) : int(max(0, min(end - first, len(batch))))]
            for row, value in enumerate(wanted, before + max(begin, first) + 1):
                text = _text_of_scalar(value, f"{path}, row {row:,}")
                if text is not None:
                    yield text
            first += len(batch)
            if first >= end:
                return
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path} cannot be read after row {before + first:,} ({_reason(error)}); download or copy it again") from error


def rows_at_once(group) -> int:
    """Return the number of rows to read at once, by the size of the average row: the file of a few
    kilobytes may hold rows of many megabytes."""
    size = sum(column.total_uncompressed_size for column in _text_columns(group))
    return max(1, min(PARQUET_ROWS, PARQUET_BYTES * group.num_rows // max(1, size)))


def _text_columns(group) -> list:
    columns = [group.column(i) for i in range(group.num_columns)]
    return [column for column in columns if column.path_in_schema == TEXT_COLUMN]


def _text_of_scalar(value, place: str) -> str | None:
    try:
        text = value.as_py()
    except UnicodeDecodeError as error:
        raise UserError(f"{place}: not UTF-8 ({error.reason}); convert the file, or delete the row") from error
    if text is not None and not isinstance(text, str):
        raise UserError(f"{place}: the column {TEXT_COLUMN!r} holds {type(text).__name__}, not text")
    return text


def _reason(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:120]


# ---- chunks: ranges of a file that are read independently


@dataclass(frozen=True)
class Chunk:
    """Describe a range of a file.

    It holds the documents that begin in bytes `begin` to `end` - 1 of a .txt or .jsonl, or rows
    `begin` to `end` - 1 of row group `group` of a .parquet.
    """

    path: str
    begin: int
    end: int
    size: int  # approximate, in bytes
    group: int | None = None

    def read(self) -> Iterator[str]:
        """Yield its documents.

        The chunks of a file, in order, yield the documents of `read_source`.
        """
        if self.group is not None:
            return _read_parquet_rows(self.path, self.group, self.begin, self.end)
        reader = _read_jsonl if self.path.lower().endswith(".jsonl") else _read_text
        return reader(self.path, self.begin, self.end)


def chunks(path: str | Path, size: int = CHUNK_BYTES) -> list[Chunk]:
    """Divide a file that `read_source` reads into chunks of about `size` bytes.

    The chunks depend only on the file and `size`. Each document lies in exactly one chunk, whatever
    its length. Raises UserError as `read_source` does.
    """
    read_source(path)  # checks the name
    path = str(path)
    if path.lower().endswith(".parquet"):
        return list(_chunks_of_parquet(path, size))
    length = Path(path).stat().st_size
    return [Chunk(path, begin, min(begin + size, length), min(size, length - begin)) for begin in range(0, length, size)]


def _chunks_of_parquet(path: str, size: int) -> Iterator[Chunk]:
    with _parquet(path) as file:
        for number in range(file.num_row_groups):
            group = file.metadata.row_group(number)
            length = sum(column.total_uncompressed_size for column in _text_columns(group))
            parts = max(1, min(-(-length // size), CHUNKS_PER_GROUP, group.num_rows))
            bounds = [group.num_rows * i // parts for i in range(parts + 1)]
            for begin, end in itertools.pairwise(bounds):
                yield Chunk(path, begin, end, length // parts, number)
