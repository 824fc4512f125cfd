"""Stream the text of a data set on the Hugging Face hub with `datasets`: evenly from all its
files, Parquet or JSON lines, at one commit, resumable.

The library finds the files, retries requests, interleaves the documents of all files and tracks the
position. This module adds two things:

- Row groups of Parquet are read page by page. The library's reader decodes a whole row group before
  it returns a document (one of 600 MB: 1.1 GB of memory and 276 MB fetched, against 34 MB and 7 MB
  page by page), and one is open in each file.
- After a fault that the library does not retry, or not for long enough, the stream starts again
  from the last documents that it returned.
"""

from __future__ import annotations

import gzip
import hashlib
import itertools
import logging
import re
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from nano_hindi.console import say
from nano_hindi.corpus.documents import BATCH_CHARACTERS
from nano_hindi.corpus.hub_errors import asked_to_wait, is_transient, page_of, reason_of, remedy, response_of
from nano_hindi.corpus.parquet import rows_at_once
from nano_hindi.corpus.source_files import TEXT_COLUMN, columns_named
from nano_hindi.errors import UserError

if TYPE_CHECKING:
    import datasets
    import pyarrow.parquet
    from huggingface_hub import DatasetCardData

BACKOFF = (1, 2, 5, 10, 20, 30, 60)  # seconds before each retry of a request that finds the files; the library does not retry those
FIRST_CONTACT = 2  # retries before the first answer of the hub: without a network, the error comes after seconds, not minutes
RESTARTS = (10, 30, 60)  # seconds before the stream starts again; the library has retried the request for 20 seconds to minutes before
LIBRARY_RETRIES = 3  # rounds of retries that the library makes for a read, 5 to 60 seconds apart (its default is 20: a quarter of an hour)
LONGEST_WAIT = 300  # seconds that a hub may ask for; its limits count per five minutes

TURN = 8  # documents from a file before the next file: one by one takes twice the time
PAGE_BUFFER = 1 << 20  # bytes of a column per request
READ_AHEAD = 1 << 16  # bytes that the file layer fetches in addition; they may be unused
JSON_READ = 1 << 20  # bytes of a JSON lines file that are parsed at once


@dataclass(frozen=True)
class HubFolder:
    """The files of a data set that are a source, and the column of their text.

    Without a folder, the library chooses the files. `licence` is None if it is that of the data
    set's card.
    """

    dataset: str
    folder: str | None = None
    licence: str | None = None
    column: str = TEXT_COLUMN
    split: str = "train"

    def __str__(self) -> str:
        """Return the source in metadata.txt: what is not the default after the first comma."""
        name = f"{self.dataset} {self.folder}" if self.folder else self.dataset
        other = [f"{key} {value}" for key, value in (("column", self.column), ("split", self.split)) if value != getattr(HubFolder, key)]
        return ", ".join([name, *other])


class HubTexts:
    """The texts of `source` as a stream: at the newest revision, or at that of `recorded`, the
    `metadata` of a download that continues.

    Row groups are shuffled with `seed`; documents are interleaved from all files. `metadata` has
    the revision and the licence. Raises UserError if the data set is not available.
    """

    def __init__(self, source: HubFolder, seed: int, recorded: dict[str, str]):
        self.source, self.seed = source, seed
        self._has_answered = False
        prepare_library()
        self.metadata = recorded if "revision" in recorded else self._metadata()
        self._files = self._patiently(self._open_files)

    def _metadata(self) -> dict[str, str]:
        from huggingface_hub import HfApi, constants

        source = self.source
        info = self._patiently(lambda: HfApi().dataset_info(source.dataset, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT))
        licence = source.licence or _licence_of(info.card_data) or "see the data set's page"
        return {"revision": info.sha or "main", "licence": f"{licence}, {source.dataset} ({page_of(source.dataset)})"}

    @staticmethod
    def reader() -> str:
        """Return what a saved position depends on: the library may change its format with a major
        version."""
        import datasets

        return f"datasets {datasets.__version__.split('.')[0]}, {TURN} documents a turn"

    def batches(self, position: dict | None = None) -> Iterator[tuple[list[str], dict]]:
        """Yield (texts, the position after them), from the beginning or from a position.

        Missing texts are empty. The next batch is fetched in the background. A thread that waits
        for the network keeps the interpreter from exiting: use `exit_at_once`.
        """
        batches, worker = self._batches(position), ThreadPoolExecutor(1, "hub")
        ahead = worker.submit(next, batches, None)
        try:
            while True:
                while not ahead.done():
                    wait([ahead], timeout=0.5)  # without a timeout, Windows does not deliver Ctrl-C
                if (batch := ahead.result()) is None:
                    return
                ahead = worker.submit(next, batches, None)
                yield batch
        finally:
            worker.submit(batches.close)  # it may wait for the network, too
            worker.shutdown(wait=False)

    def _batches(self, position: dict | None) -> Generator[tuple[list[str], dict]]:
        from datasets import interleave_datasets

        restarts, column = 0, self.source.column
        while True:
            stream = interleave_datasets(self._files, stopping_strategy="all_exhausted_without_replacement")
            if position is not None:
                stream.load_state_dict(position)
            texts, size = [], 0
            try:
                for turn in stream:
                    texts += [text or "" for text in turn[column]]
                    size += sum(len(text or "") + 1 for text in turn[column])
                    if size >= BATCH_CHARACTERS:
                        position, restarts = stream.state_dict(), 0
                        yield texts, position
                        texts, size = [], 0
                if texts:
                    yield texts, stream.state_dict()
                return
            except Exception as error:  # noqa: BLE001 - from the library, the hub client or pyarrow
                self._wait(error, restarts, RESTARTS)
                restarts += 1

    # ---- the files

    def _open_files(self) -> list[datasets.IterableDataset]:
        """Return one stream per file; those of Parquet are divided into their row groups in the
        order of the seed."""
        from datasets import Value

        source, column, builder = self.source, self.source.column, self._builder()
        try:
            everything = builder.as_streaming_dataset(split=source.split)
        except ValueError as error:
            if type(error) is not ValueError or "split" not in str(error):
                raise
            raise UserError(f"{source} has no split {source.split!r} ({reason_of(error)}); name one with --split") from error
        features = everything.features
        if features is None:
            raise UserError(f"{source} has json files that are not JSON lines, with an object in each; name another folder with --data_dir")
        if features.get(column) not in (Value("string"), Value("large_string")):
            raise UserError(f"{source} has no column {column!r} of text, only {columns_named(list(features))}; name one with --column")
        if builder.name == "parquet":
            builder.config.columns = [column]
            everything = builder.as_streaming_dataset(split=source.split)  # again, to read only this column
        else:
            builder._cast_table = partial(_cast_column, column, builder._cast_table)
            everything = everything.select_columns([column])
        return [everything.shard(everything.num_shards, i).reshard().batch(TURN) for i in range(everything.num_shards)]

    def _builder(self) -> datasets.DatasetBuilder:
        """Return what load_dataset(..., streaming=True) makes first, with another reader."""
        from datasets import load_dataset_builder

        source = self.source
        try:
            builder = load_dataset_builder(source.dataset, data_dir=source.folder, revision=self.metadata["revision"])
        except ValueError as error:
            if type(error) is not ValueError:  # of pyarrow
                raise
            # several configurations, and none is the default
            words = " ".join(str(error).split("\n")[:2])[:300]
            raise UserError(f"{source.dataset}: name the folder of its files with --data_dir, see {page_of(source.dataset)} ({words})") from error
        if builder.name == "parquet":
            builder.storage_options = {"hf": {"block_size": READ_AHEAD}}
            builder._generate_tables = partial(_read_row_groups, source.column)
            builder._generate_more_gen_kwargs = partial(_shuffled_row_groups, source.column, self.seed)
        elif builder.name == "json":
            builder.config.chunksize = JSON_READ
        else:
            raise UserError(f"{source} has {builder.name} files; only parquet and jsonl files are read: name another folder with --data_dir")
        return builder

    # ---- faults

    def _patiently(self, ask: Callable[[], Any]) -> Any:
        """Return `ask()`, retrying after each transient error.

        Raises UserError for other errors, and when BACKOFF is used up.
        """
        for tried in itertools.count():
            try:
                answer = ask()
                self._has_answered = True
                return answer
            except Exception as error:  # noqa: BLE001 - the HTTP client and its exceptions depend on the version of huggingface_hub
                self._has_answered = self._has_answered or response_of(error) is not None
                self._wait(error, tried, BACKOFF if self._has_answered else BACKOFF[:FIRST_CONTACT])

    def _wait(self, error: Exception, tried: int, waits: tuple[float, ...]) -> None:
        """Wait before the next retry.

        Raises UserError if `error` is not transient, or after `len(waits)` retries.
        """
        if isinstance(error, UserError):
            raise error
        if tried >= len(waits) or not is_transient(error):
            raise self._refusal(error) from error
        seconds = max(waits[tried], min(LONGEST_WAIT, asked_to_wait(response_of(error))))
        say(f"notice: a request to the hub failed ({reason_of(error)}); retrying in {seconds:.0f} s ({tried + 1} of {len(waits)})")
        time.sleep(seconds)

    def _refusal(self, error: Exception) -> UserError:
        import pyarrow

        source, response = self.source, response_of(error)
        if isinstance(error, FileNotFoundError) and response is None:
            return UserError(f"{source} has no parquet or jsonl files; check --data_dir: see {page_of(source.dataset)}")
        if type(error) in (ValueError, UnicodeDecodeError, gzip.BadGzipFile, pyarrow.ArrowInvalid) and response is None:  # of what the files hold
            by_mirror = isinstance(error, pyarrow.ArrowInvalid)  # some do not know ranges
            other = "use another mirror if HF_ENDPOINT names one" if by_mirror else "name another folder with --data_dir"
            return UserError(
                f"{source} cannot be read ({reason_of(error)}); {other}, or download the files from {page_of(source.dataset)} and give them as --source PATH"
            )
        return UserError(
            f"{source.dataset} is not available from the hub ({reason_of(error)}); {remedy(response, source.dataset)}, then run the same command again: it "
            "continues where it stopped; or do without the hub: --source sample, --source PATH"
        )


# ---- parquet


def _shuffled_row_groups(column: str, seed: int, files: list[str], row_groups_list: list) -> Iterator[dict]:
    """Yield the arguments of `_read_row_groups` for each file, one row group each, in the order of
    the seed: what `reshard` expects of a builder.

    Raises UserError for a file without the column: its rows would count as empty texts.
    """
    for file in files:
        with _open_parquet(file) as parquet:
            if column not in (names := parquet.schema_arrow.names):
                raise UserError(f"{file} has no column {column!r}, only {columns_named(names)}; name a folder with other files with --data_dir")
            name = file.rsplit("/", 1)[-1]
            # the same on every machine and Python version
            draws = {group: hashlib.blake2b(repr((seed, name, group)).encode(), digest_size=8).digest() for group in range(parquet.num_row_groups)}
        yield {"files": [file] * len(draws), "row_groups_list": sorted(draws, key=draws.__getitem__)}


def _read_row_groups(column: str, files: list[str], row_groups_list: list[int]) -> Iterator[tuple[tuple[int, int], pyarrow.Table]]:
    """Yield (a key, a table of a few documents) for all rows of the row groups."""
    import pyarrow

    for file, group in zip(files, row_groups_list, strict=True):
        with _open_parquet(file) as parquet:
            size = rows_at_once(parquet.metadata.row_group(group), column)
            rows = parquet.iter_batches(size, row_groups=[group], columns=[column], use_threads=False)
            for number, batch in enumerate(rows):
                yield (group, number), pyarrow.Table.from_batches([batch])


def _open_parquet(file: str) -> pyarrow.parquet.ParquetFile:
    """Open a file on the hub so that pyarrow reads it page by page, on the calling thread."""
    import pyarrow.parquet
    from datasets import DownloadConfig
    from datasets.utils.file_utils import xopen

    source = xopen(file, "rb", download_config=DownloadConfig(storage_options={"hf": {"block_size": READ_AHEAD}}))
    return pyarrow.parquet.ParquetFile(source, buffer_size=PAGE_BUFFER, pre_buffer=False)


# ---- JSON lines


def _cast_column(column: str, cast: Callable[..., pyarrow.Table], table: pyarrow.Table, *args: Any, **options: Any) -> pyarrow.Table:
    """Return what the library's `cast` makes of the column alone: it refuses a table with other
    fields, or other types, than the first records of the data set have."""
    return cast(table.select([name for name in table.column_names if name == column]), *args, **options)


# ---- the card


def _licence_of(card: DatasetCardData | None) -> str:
    """Return the licence tag of a data set's card, "" if it has none."""
    licence = (card.get("license_name") or card.get("license") or "") if card else ""
    return " and ".join(map(str, licence)) if isinstance(licence, list) else str(licence)


# ---- the library


class _Notices(logging.Handler):
    """A handler that reports each retry of the library in one line and drops its other warnings."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.last: dict[int | None, str] = {}  # by thread

    def emit(self, record: logging.LogRecord) -> None:
        line = record.getMessage().split("\n")[0]
        if "thrown while requesting" in line:
            self.last[record.thread] = re.sub(r"'?(.*?)'? thrown while requesting \w+ .*/", r"\1, for ", line.replace("HTTP Error", "HTTP"))
        elif "etry" in line:
            say(f"notice: a request to the hub failed ({self.last.get(record.thread, 'no answer')}): {line}")


def prepare_library() -> None:
    """Silence `datasets` except for its retries, and let it give up after a few minutes."""
    import datasets
    import huggingface_hub.utils

    datasets.disable_progress_bars()
    huggingface_hub.utils.disable_progress_bars()
    datasets.config.STREAMING_READ_MAX_RETRIES = datasets.config.STREAMING_OPEN_MAX_RETRIES = LIBRARY_RETRIES
    datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN = 0  # it waits for pyarrow's threads, and none are used here
    for name in ("datasets", "huggingface_hub"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [_Notices()], False
