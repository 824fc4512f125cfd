r"""Documents in and out of files.

The corpus: UTF-8, each document followed by a line `<|endoftext|>`. A line of a document that is that marker, with any number of `\` before it, gets one
more `\` when it is written; readers take one away. Any document comes back as it was, to the byte. A text file without a marker is one document.
Lines end with `\n`; a marker line that a Windows editor ended with `\r\n` counts too, for readers and for the escaping.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from nano_hindi.errors import UserError

MARKER = b"<|endoftext|>"
_MARKER_LINE = re.compile(rb"(?m)^\\*" + re.escape(MARKER) + rb"\r?$")
_ESCAPED_LINE = re.compile(rb"(?m)^\\(\\*" + re.escape(MARKER) + rb"\r?)$")
_DOCUMENT_ENDS = (MARKER + b"\n", MARKER + b"\r\n", MARKER)  # the last one where a file stops without a newline
BOM = "\ufeff"  # Notepad begins a UTF-8 file with it; it is no part of the text
TEXT_COLUMN = "text"
PARQUET_ROWS = 200  # documents that are read at once
BATCH_CHARACTERS = 1_000_000  # of Hindi text: 2.6 MB, and some 250,000 tokens


# ---- the corpus


def write_document(file: BinaryIO, text: str) -> int:
    """Append a document to a corpus opened in binary mode. Returns the bytes written. Raises UserError for text that UTF-8 cannot hold."""
    try:
        raw = text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(f"a document is not valid Unicode ({error.reason}); save it as UTF-8") from error
    if MARKER in raw:  # rare, and the search is far faster than the substitution
        raw = _MARKER_LINE.sub(rb"\\\g<0>", raw)
    return file.write(raw + b"\n" + MARKER + b"\n")


def read_documents(path: str | Path) -> Iterator[str]:
    """The documents of a corpus, or of any text file, one by one: memory is that of the longest document.

    Text behind the last marker is a document too, unless it is blank. Raises UserError where the file is missing, or is not UTF-8.
    """
    with _open(path) as file:
        lines: list[bytes] = []
        number = 0
        for number, line in enumerate(file, 1):
            if line in _DOCUMENT_ENDS:
                # what write_document, or the Windows editor, put between the text and the marker
                yield _document(b"".join(lines).removesuffix(b"\r\n" if line.endswith(b"\r\n") else b"\n"), path, number)
                lines = []
            else:
                lines.append(line)
        rest = b"".join(lines)
        if rest.strip():
            yield _document(rest, path, number)


def _document(raw: bytes, path: str | Path, last_line: int) -> str:
    try:
        return (_ESCAPED_LINE.sub(rb"\g<1>", raw) if MARKER in raw else raw).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (in the document that ends at line {last_line:,}: {error.reason}); convert it first") from error


# ---- files of other people


def read_source(path: str | Path) -> Iterator[str]:
    """The documents of a `.txt` (see `read_documents`), `.jsonl` (field `text`) or `.parquet` (column `text`) file.

    Raises UserError at once for a missing file and for another ending, and on the way for content that is not what the ending says.
    """
    readers = {".txt": _read_text, ".jsonl": _read_jsonl, ".parquet": _read_parquet}
    _require_file(path)
    reader = readers.get(Path(path).suffix.lower())
    if reader is None:
        raise UserError(f"{path}: documents are read from {', '.join(readers)} files; rename or convert it")
    return reader(path)


def batches(documents: Iterable[str], characters: int = BATCH_CHARACTERS) -> Iterator[list[str]]:
    """`documents` in lists of about `characters` characters: enough to keep a tokenizer's threads busy, little enough for any memory."""
    batch, size = [], 0
    for text in documents:
        batch.append(text)
        size += len(text) + 1
        if size >= characters:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _require_file(path: str | Path) -> None:
    if Path(path).is_dir():
        raise UserError(f"there is no file {path}: it is a folder; name the files in it")
    if not Path(path).is_file():
        raise UserError(f"there is no file {path}; check the name")


def _open(path: str | Path) -> BinaryIO:
    _require_file(path)
    return open(path, "rb")


def _read_text(path: str | Path) -> Iterator[str]:
    for number, text in enumerate(read_documents(path)):
        yield text.removeprefix(BOM) if number == 0 else text


def _read_jsonl(path: str | Path) -> Iterator[str]:
    with _open(path) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                text = json.loads(line.decode("utf-8-sig"))[TEXT_COLUMN]
                text.encode()  # JSON can spell half a surrogate pair, UTF-8 cannot
            except UnicodeError as error:
                raise UserError(f"{path}, line {number:,}: not valid UTF-8 ({error.reason}); convert the file, or leave the line out") from error
            except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
                raise UserError(f"{path}, line {number:,}: expected a JSON object with a text in the field {TEXT_COLUMN!r}") from error
            yield text


def _read_parquet(path: str | Path) -> Iterator[str]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            if TEXT_COLUMN not in file.schema_arrow.names:
                raise UserError(f"{path} has no column {TEXT_COLUMN!r}, only {', '.join(file.schema_arrow.names)}")
            for group in range(file.num_row_groups):  # one by one: iter_batches over all of them fetches the whole file first
                for batch in file.iter_batches(PARQUET_ROWS, row_groups=[group], columns=[TEXT_COLUMN]):
                    for text in batch.column(0).to_pylist():
                        if isinstance(text, str):
                            yield text
                        elif text is not None:
                            raise UserError(f"{path}: the column {TEXT_COLUMN!r} holds {type(text).__name__}, not text")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: the column {TEXT_COLUMN!r} is not UTF-8 ({error.reason}); convert it first") from error
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path} is no parquet file that can be read ({str(error).splitlines()[0][:120]}); get it again") from error
