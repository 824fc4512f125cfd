"""Open the text files that documents are read from: plain or compressed, in UTF-8."""

from __future__ import annotations

import codecs
import contextlib
import io
from collections.abc import Iterator
from pathlib import Path

from nano_hindi.errors import UserError, first_line, naming
from nano_hindi.files import close_read

TEXT_COLUMN = "text"
CHAT_COLUMNS = ("messages", "conversations", "conversation")  # of {"role", "content"} or {"from", "value"}
NAMED = 8  # fields or columns that an error names, at most
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
READ_BYTES = 2**16  # bytes read at once from a compressed file; its first block tells the encoding
_MARKS = (  # UTF-32 first: its little-endian mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_ENCODINGS = (  # bytes of a code unit; which of them are the upper ones, with the values they have in Hindi or English; the lowest
    ("utf-32", 4, (2, 3), b"\x00", 0),
    ("utf-32", 4, (0, 1), b"\x00", 3),
    ("utf-16-le", 2, (1,), b"\x00\x09", 0),
    ("utf-16-be", 2, (0,), b"\x00\x09", 1),
)


def compression(path: str | Path) -> str | None:
    """Return the compression that the name of a file says, for pyarrow; None for a plain file."""
    return COMPRESSIONS.get(Path(path).suffix.lower())


def kind(path: str | Path) -> str:
    """Return the extension that says what a file holds: `.jsonl` for `a.JSONL.gz`."""
    return Path(Path(path).stem if compression(path) else path).suffix.lower()


def require_file(path: str | Path) -> None:
    if Path(path).is_dir():
        raise UserError(f"there is no file {path}: it is a folder; name the files in it")
    if not Path(path).is_file():
        raise UserError(f"there is no file {path}; check the name")


@contextlib.contextmanager
def opened(path: str | Path) -> Iterator[io.BufferedReader]:
    """Open a file to read its bytes; those of a compressed one are decompressed on the way, and
    cannot be seeked.

    Raises UserError if it is missing or in another encoding than UTF-8, and while reading if it is
    damaged.
    """
    require_file(path)
    method = compression(path)
    with naming(path):
        file = open(path, "rb")  # noqa: SIM115 - closed below
        try:
            stream = _decompressed(file, method) if method else file
            if name := other_encoding(stream.peek(READ_BYTES)[:READ_BYTES]):
                raise UserError(f"{path} is not UTF-8: it looks like {name}; convert it first, for example with iconv -f {name} -t utf-8")
            yield stream
        except OSError as error:
            if method is None or error.errno is not None:  # of the system, not of the file's content
                raise
            raise UserError(f"{path} is not a complete {method} file ({first_line(error)}); download or copy it again") from error
        finally:
            close_read(file)  # a generator is closed where nobody catches an error


def _decompressed(file: io.BufferedReader, method: str) -> io.BufferedReader:
    import pyarrow

    return io.BufferedReader(pyarrow.CompressedInputStream(file, method), READ_BYTES)


def size(path: str | Path) -> int:
    """Return the bytes of a file after decompression, which takes a pass over a compressed one."""
    if not compression(path):
        return Path(path).stat().st_size
    with opened(path) as file:
        return sum(map(len, iter(lambda: file.read(READ_BYTES), b"")))


def line_number(path: str | Path, end: int) -> int:
    """Return the number, from 1, of the line whose last byte is `end` - 1."""
    newlines, left, block = 0, end, b""
    with opened(path) as file:
        while left and (block := file.read(min(left, 2**20))):
            newlines += block.count(b"\n")
            left -= len(block)
    return newlines + (not block.endswith(b"\n"))


def no_text(place: str | Path, what: str, names: list[str]) -> UserError:
    """Return the error for a line or a file whose fields or columns are `names`."""
    if set(CHAT_COLUMNS) & set(names):
        return UserError(f"{place} holds chat messages; only data/chat.py reads them, other commands read the {what} {TEXT_COLUMN}")
    return UserError(f"{place} has no {what} {TEXT_COLUMN!r}, only {columns_named(names) or 'an empty object'}; rename the {what} with the text")


def columns_named(names: list[str]) -> str:
    """Return the first names of fields or columns for an error."""
    some = ", ".join(name if len(name) <= 40 else name[:37] + "..." for name in names[:NAMED])
    return some + (f" and {len(names) - NAMED:,} more" if len(names) > NAMED else "")


def other_encoding(block: bytes) -> str | None:
    """Return the encoding of a file that begins with `block` if it looks like UTF-16 or UTF-32,
    else None.

    Without a byte order mark, these are valid UTF-8, with NULs. In Hindi and English nine of ten of
    their upper bytes are 0 or, in UTF-16, 9 for U+0900 to U+097F. In UTF-8 that would be a NUL or a
    tab after every character.
    """
    for mark, name in _MARKS:
        if block.startswith(mark):
            return name
    for name, width, upper, values, lowest in _ENCODINGS:
        units = block[: len(block) // width * width]
        high, low = b"".join(units[i::width] for i in upper), units[lowest::width]
        if len(low) >= 3 and _fraction(high, values) > 0.9 and _fraction(low, values) < 0.5:
            return name
    return None


def _fraction(block: bytes, values: bytes) -> float:
    return sum(block.count(value) for value in values) / len(block)
