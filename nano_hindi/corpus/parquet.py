"""Read the texts of a Parquet file, by ranges of its rows."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from nano_hindi.corpus.source_files import TEXT_COLUMN, no_text
from nano_hindi.errors import UserError, first_line, naming
from nano_hindi.files import utf8_path

if TYPE_CHECKING:
    from pyarrow import Scalar
    from pyarrow.parquet import ParquetFile, RowGroupMetaData

PARQUET_ROWS, PARQUET_BYTES = 200, 8_000_000  # of a column read at once, at most; but at least a row
CHUNKS_PER_GROUP = 16  # at most: each chunk skips the rows before it, which costs 1 % of tokenizing them


def read_parquet(path: str | Path) -> Iterator[str]:
    """Yield the texts of a file, one row group at a time. Raises UserError if it is damaged or has
    no text column."""
    with _opened(path) as file:
        for group in range(file.num_row_groups):  # one by one: iter_batches over all of them fetches the whole file first
            yield from _rows(file, path, group, 0, file.metadata.row_group(group).num_rows)


def read_rows(path: str | Path, group: int, begin: int, end: int) -> Iterator[str]:
    """Yield the texts of rows `begin` to `end` - 1 of a row group; raises as `read_parquet`."""
    with _opened(path) as file:
        yield from _rows(file, path, group, begin, end)


def row_ranges(path: str | Path, size: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield the row groups of a file in ranges of rows: number of the group, first row, row after
    the last, and bytes of text, about `size`."""
    with _opened(path) as file:
        for number in range(file.num_row_groups):
            group = file.metadata.row_group(number)
            length = _column_bytes(group, TEXT_COLUMN)
            n = max(1, min(-(-length // size), CHUNKS_PER_GROUP, group.num_rows))
            bounds = [group.num_rows * i // n for i in range(n + 1)]
            for begin, end in itertools.pairwise(bounds):
                yield number, begin, end, length // n


@contextlib.contextmanager
def opened_parquet(path: str | Path) -> Iterator[ParquetFile]:
    """Open a pyarrow ParquetFile that is read on demand.

    Raises UserError if it is not a Parquet file, and while reading if it is damaged.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        with naming(path), utf8_path(Path(path)) as readable, pyarrow.parquet.ParquetFile(readable, buffer_size=2**20) as file:
            yield file
    except (pyarrow.ArrowException, UnicodeDecodeError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the system, not of the file's content
            raise
        raise UserError(f"{path} is not a readable parquet file ({first_line(error)}); download or copy it again") from error


@contextlib.contextmanager
def _opened(path: str | Path) -> Iterator[ParquetFile]:
    """Open a ParquetFile. Raises UserError as `opened_parquet` does, or if there is no text
    column."""
    with opened_parquet(path) as file:
        if TEXT_COLUMN not in file.schema_arrow.names:
            raise no_text(path, "column", file.schema_arrow.names)
        yield file


def _rows(file: ParquetFile, path: str | Path, group: int, begin: int, end: int) -> Iterator[str]:
    """Yield the texts of rows `begin` to `end` - 1 of a row group; rows without text are
    skipped."""
    import pyarrow

    before, first = sum(file.metadata.row_group(number).num_rows for number in range(group)), 0
    try:
        for batch in file.iter_batches(rows_at_once(file.metadata.row_group(group)), row_groups=[group], columns=[TEXT_COLUMN]):
            wanted = batch.column(0)[max(begin - first, 0) : end - first]
            for row, value in enumerate(wanted, before + max(begin, first) + 1):
                text = _text_of_scalar(value, f"{path}, row {row:,}")
                if text is not None:
                    yield text
            first += len(batch)
            if first >= end:
                return
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path} cannot be read after row {before + first:,} ({first_line(error)}); download or copy it again") from error


def rows_at_once(group: RowGroupMetaData, name: str = TEXT_COLUMN) -> int:
    """Return the number of rows to read at once, by the size of the average row: a file of a few
    kilobytes may hold rows of many megabytes."""
    return max(1, min(PARQUET_ROWS, PARQUET_BYTES * group.num_rows // max(1, _column_bytes(group, name))))


def _column_bytes(group: RowGroupMetaData, name: str) -> int:
    """Return the uncompressed bytes of a column in a row group."""
    columns = (group.column(i) for i in range(group.num_columns))
    return sum(column.total_uncompressed_size for column in columns if column.path_in_schema == name)


def _text_of_scalar(value: Scalar, place: str) -> str | None:
    try:
        text = value.as_py()
    except UnicodeDecodeError as error:
        raise UserError(f"{place}: not UTF-8 ({error.reason}); convert the file, or delete the row") from error
    if text is not None and not isinstance(text, str):
        raise UserError(f"{place}: the column {TEXT_COLUMN!r} holds {type(text).__name__}, not text; convert it")
    return text
