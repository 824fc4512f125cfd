r"""Documents in and out of files.

The corpus: UTF-8, each document followed by a line `<|endoftext|>`. A line of a document that is that marker, with any number of `\` before it, gets one
more `\` when it is written; readers take one away. Any document comes back as it was, to the byte. A text file without a marker is one document.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from nano_hindi.errors import UserError

MARKER = b"<|endoftext|>"
_MARKER_LINE = re.compile(rb"(?m)^(\\*)" + re.escape(MARKER) + rb"$")
_ESCAPED_LINE = re.compile(rb"(?m)^\\(\\*)" + re.escape(MARKER) + rb"$")
TEXT_COLUMN = "text"
PARQUET_ROWS = 1000  # documents that are read at once


def write_document(file: BinaryIO, text: str) -> int:
    """Append a document to a corpus opened in binary mode. Returns the bytes written. Raises UserError for text that UTF-8 cannot hold."""
    try:
        raw = text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(f"a document is not valid Unicode ({error.reason}); save it as UTF-8") from error
    return file.write(_MARKER_LINE.sub(rb"\\\g<0>", raw) + b"\n" + MARKER + b"\n")


def read_documents(path: str | Path) -> Iterator[str]:
    """The documents of a corpus, or of any text file, one by one: memory is that of the longest document.

    Raises UserError where the file is missing, or is not UTF-8.
    """
    with _open(path) as file:
        lines: list[bytes] = []
        number = 0
        for number, line in enumerate(file, 1):
            if line in (MARKER + b"\n", MARKER + b"\r\n", MARKER):
                yield _document(lines, path, number)
                lines = []
            else:
                lines.append(line)
        if lines:  # the last marker is missing: a plain text file, or somebody's own corpus
            yield _document(lines, path, number, ends_with_marker=False)


def _document(lines: list[bytes], path: str | Path, number: int, ends_with_marker: bool = True) -> str:
    raw = b"".join(lines)
    if ends_with_marker:
        raw = raw.removesuffix(b"\n")  # the one that write_document put before the marker
    try:
        return _ESCAPED_LINE.sub(rb"\g<1>" + MARKER, raw).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (in the document that ends at line {number:,}: {error.reason}); convert it first") from error


def read_source(path: str | Path) -> Iterator[str]:
    """The documents of a `.txt` (see `read_documents`), `.jsonl` (field `text`) or `.parquet` (column `text`) file.

    Raises UserError for another ending, a missing file, and content that is not what the ending says.
    """
    readers = {".txt": read_documents, ".jsonl": _read_jsonl, ".parquet": _read_parquet}
    reader = readers.get(Path(path).suffix.lower())
    if reader is None:
        raise UserError(f"{path}: documents are read from {', '.join(readers)} files; rename or convert it")
    return reader(path)


def _open(path: str | Path) -> BinaryIO:
    if not Path(path).is_file():
        raise UserError(f"there is no file {path}")
    return open(path, "rb")


def _read_jsonl(path: str | Path) -> Iterator[str]:
    with _open(path) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                text = json.loads(line)[TEXT_COLUMN]
            except (ValueError, KeyError, TypeError, IndexError) as error:
                raise UserError(f"{path}, line {number:,}: expected a JSON object with the field {TEXT_COLUMN!r} ({type(error).__name__})") from error
            if not isinstance(text, str):
                raise UserError(f"{path}, line {number:,}: the field {TEXT_COLUMN!r} is not a text")
            yield text


def _read_parquet(path: str | Path) -> Iterator[str]:
    import pyarrow
    import pyarrow.parquet

    with _open(path) as file:
        try:
            table = pyarrow.parquet.ParquetFile(file)
            if TEXT_COLUMN not in table.schema_arrow.names:
                raise UserError(f"{path} has no column {TEXT_COLUMN!r}, only {', '.join(table.schema_arrow.names)}")
            for batch in table.iter_batches(PARQUET_ROWS, columns=[TEXT_COLUMN]):
                for text in batch.column(0).to_pylist():
                    if text is not None:
                        yield text
        except (pyarrow.ArrowException, OSError) as error:
            raise UserError(f"{path} is no parquet file that can be read ({str(error).splitlines()[0][:120]})") from error
