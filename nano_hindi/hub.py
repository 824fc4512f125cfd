"""Parquet files of a data set on the Hugging Face hub, at one commit: which part of them comes when, and how it comes through a flaky connection.

Every byte is asked for by a range request through the hub's own client, so HF_ENDPOINT, HF_TOKEN, HF_HOME and proxies count as everywhere. The network
is waited for in plain Python, never below pyarrow: a thread that ends there takes the process along.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import os
import re
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from nano_hindi.corpus import PARQUET_ROWS, TEXT_COLUMN
from nano_hindi.errors import UserError

if TYPE_CHECKING:
    import pyarrow.parquet

T = TypeVar("T")

BACKOFF = (1, 2, 5, 10, 20, 30, 60, 60)  # seconds between the tries of one request: three minutes, besides what the tries themselves take
FIRST_CONTACT = 2  # of them, while the hub has not answered once: nobody waits minutes to hear that there is no network
LONGEST_WAIT = 300  # seconds that a hub may ask for; its limits count per five minutes
STALL = 30.0  # seconds without a byte; HF_HUB_DOWNLOAD_TIMEOUT is another number
ASKED_AGAIN = {408, 416, 425, 429}  # and 5xx; 416 because a range of ours does exist: the hub's CDN denies it now and then

FOOTERS_AT_ONCE = 8
BLOCK = 1 << 23  # bytes that one request asks for
AHEAD = 1 << 26  # bytes of a part that come while the one before it is tokenized; what a part has beyond them comes when its turn is there


@dataclass(frozen=True)
class Part:
    """Rows `first` to `end - 1` of a row group: what is fetched, written and recorded as one."""

    file: str
    group: int
    first: int
    end: int


# ---- the order


def plan(groups: dict[str, list[tuple[int, int]]], seed: int) -> list[Part]:
    """All rows of all files, each once, in parts. `groups` has, for each row group of a file, its rows and how many of them make a part.

    The row groups of a file come in an order drawn by `seed`, and in rounds over all files, so that whatever begins the list comes evenly from them.
    Of a row group that is more than a part, the first lap through all row groups takes one, the second lap another one, and the third the rest.
    """
    keyed = []
    for file, sizes in groups.items():
        shuffled = sorted(range(len(sizes)), key=lambda group, file=file: _draw(seed, file, group))
        for turn, group in enumerate(shuffled):
            rows, step = sizes[group]
            cuts = sorted({0, min(step, rows), min(2 * step, rows), rows})
            for lap, (first, end) in enumerate(itertools.pairwise(cuts)):
                keyed.append(((lap, turn, _draw(seed, file, turn)), Part(file, group, first, end)))
    return [part for _, part in sorted(keyed, key=lambda pair: pair[0])]


def _draw(*words) -> bytes:
    """A number drawn for `words`: the same one on every machine and by every version of Python."""
    return hashlib.blake2b(repr(words).encode(), digest_size=8).digest()


def fingerprint(parts: list[Part]) -> str:
    """What tells two orders apart."""
    return _draw(*parts).hex()


def share_of_each(groups: int, files: int, total_bytes: int, wanted_bytes: float) -> float:
    """How much of each row group to take, so that `wanted_bytes` come from every file: all of it, unless the row groups are few and large.

    Eight turns per file are even enough. Where the files have fewer row groups it is one turn for each of them, but two at least: a second part of a
    row group fetches the bytes of the first one once more.
    """
    turns = max(2, min(8, groups // files))
    return min(1.0, wanted_bytes / (turns * files) / max(1.0, total_bytes / groups)) if wanted_bytes < total_bytes else 1.0


# ---- the files


@dataclass
class Snapshot:
    """The parquet files in a folder of a data set at one commit: of `revision`, or of the newest. Raises UserError where the hub cannot be had."""

    dataset: str
    folder: str
    revision: str | None = None
    tell: Callable[[str], None] = print  # a line for people, when something has to be tried again
    sizes: dict[str, int] = field(default_factory=dict)  # bytes of each file
    footers: dict[str, pyarrow.parquet.FileMetaData] = field(default_factory=dict)
    answered: bool = False  # the hub is there: it has said something sensible once

    def __post_init__(self):
        from huggingface_hub import HfApi
        from huggingface_hub.utils import logging

        logging.set_verbosity_error()
        info = self.patiently(lambda: HfApi().dataset_info(self.dataset, revision=self.revision, files_metadata=True, timeout=stall_seconds()))
        self.revision = info.sha
        self.sizes = {
            file.rfilename: file.size
            for file in sorted(info.siblings, key=lambda file: file.rfilename)
            if file.rfilename.startswith(self.folder + "/") and file.rfilename.endswith(".parquet")
        }
        if not self.sizes:
            raise UserError(f"{self.dataset} has no parquet file in {self.folder} at its commit {self.revision}; is HF_ENDPOINT a full mirror?")
        footers = ahead((partial(self._footer, file) for file in self.sizes), FOOTERS_AT_ONCE)
        self.footers = dict(zip(self.sizes, map(self._parsed, self.sizes, footers), strict=True))

    def plan(self, seed: int, wanted_bytes: float) -> list[Part]:
        """The order of all rows for a budget of about `wanted_bytes` of text."""
        everything = [(file, group) for file, footer in self.footers.items() for group in range(footer.num_row_groups)]
        total = sum(self._column(*place).total_uncompressed_size for place in everything)
        share = share_of_each(max(1, len(everything)), len(self.footers), total, wanted_bytes)
        groups: dict[str, list[tuple[int, int]]] = {file: [] for file in self.footers}
        for file, group in everything:
            rows = self.footers[file].row_group(group).num_rows
            worth_a_request = BLOCK / max(1, self._column(file, group).total_compressed_size)
            groups[file].append((rows, math.ceil(rows * min(1.0, max(share, worth_a_request)))))
        return plan(groups, seed)

    def read(self, parts: list[Part]) -> Iterator[Iterator[str]]:
        """The texts of each part, one after the other; the bytes of the next one come in the background. A missing text is empty."""
        for part, raw in zip(parts, ahead((partial(self._beginning, part) for part in parts), 1), strict=True):
            yield self._texts(part, raw)

    # ---- parquet

    def _footer(self, file: str) -> bytes:
        """The end of a file: its footer, the length of that in four bytes, and "PAR1"."""
        size = self.sizes[file]
        length = int.from_bytes(self.fetch(file, max(0, size - 8), size)[:4], "little") + 8
        return self.fetch(file, max(0, size - length), size)

    def _parsed(self, file: str, raw: bytes) -> pyarrow.parquet.FileMetaData:
        import pyarrow
        import pyarrow.parquet

        try:
            footer = pyarrow.parquet.read_metadata(pyarrow.BufferReader(raw))
        except (pyarrow.ArrowException, OSError) as error:
            raise self._damaged(file, error) from error
        if TEXT_COLUMN not in footer.schema.names:
            raise UserError(f"{file} of {self.dataset} has no column {TEXT_COLUMN!r}; run the next version of this program")
        return footer

    def _column(self, file: str, group: int) -> pyarrow.parquet.ColumnChunkMetaData:
        footer = self.footers[file]
        return footer.row_group(group).column(footer.schema.names.index(TEXT_COLUMN))

    def _place(self, part: Part) -> tuple[int, int]:
        """Where the column of texts of the part's row group begins and ends in the file."""
        column = self._column(part.file, part.group)
        start = min(offset for offset in (column.dictionary_page_offset, column.data_page_offset) if offset)
        return start, start + column.total_compressed_size

    def _beginning(self, part: Part) -> bytes:
        """As much of the column as is likely to be needed for the part, within reason."""
        start, end = self._place(part)
        rows = self.footers[part.file].row_group(part.group).num_rows
        return self.fetch(part.file, start, min(end, start + AHEAD, start + math.ceil((end - start) * part.end / rows)))

    def _texts(self, part: Part, raw: bytes) -> Iterator[str]:
        import pyarrow
        import pyarrow.parquet

        start, end = self._place(part)
        window = Window(start, end, raw, partial(self.fetch, part.file))
        try:
            with pyarrow.parquet.ParquetFile(window, metadata=self.footers[part.file], buffer_size=BLOCK, pre_buffer=False) as file:
                row = 0
                for batch in file.iter_batches(PARQUET_ROWS, row_groups=[part.group], columns=[TEXT_COLUMN], use_threads=False):
                    column = batch.column(0)[max(0, part.first - row) : max(0, part.end - row)]
                    for text in column.cast(pyarrow.large_binary()).to_pylist():
                        yield (text or b"").decode("utf-8", "replace")  # --clean counts what is broken; one document does not end a download
                    row += batch.num_rows
                    if row >= part.end:
                        return
        except (pyarrow.ArrowException, OSError) as error:
            raise self._damaged(part.file, error) from error

    def _damaged(self, file: str, error: Exception) -> UserError:
        return UserError(
            f"{file} of {self.dataset} came damaged ({str(error).splitlines()[0][:120]}); run the same command again: it goes on where it stopped"
        )

    # ---- the network

    def fetch(self, file: str, start: int, end: int) -> bytes:
        """The bytes of a file from `start` to `end - 1`."""
        return b"".join(self.patiently(partial(self._fetch, file, at, min(at + BLOCK, end))) for at in range(start, end, BLOCK))

    def _fetch(self, file: str, start: int, end: int) -> bytes:
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

        url = hf_hub_url(self.dataset, file, repo_type="dataset", revision=self.revision)
        headers = {**build_hf_headers(), "Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
        response = get_session().get(url, headers=headers, timeout=stall_seconds())
        hf_raise_for_status(response)
        if response.status_code == 200 and len(response.content) != end - start:
            raise UserError(f"{url} comes as a whole file only; take a hub, mirror or proxy that knows ranges")
        if len(response.content) != end - start:
            raise OSError(f"it sent {len(response.content):,} of {end - start:,} bytes")
        return response.content

    def patiently(self, ask: Callable[[], T]) -> T:
        """`ask()`, again after each fault that may pass. Raises UserError for the others, and when BACKOFF is used up."""
        for tried in range(len(BACKOFF) + 1):
            try:
                answer = ask()
                self.answered = True
                return answer
            except UserError:
                raise
            except Exception as error:  # the clients of the hub's versions differ, and so do their exceptions
                status = status_of(error)
                self.answered = self.answered or status is not None
                tries = len(BACKOFF) if self.answered else FIRST_CONTACT
                passing = status is None or status in ASKED_AGAIN or status >= 500
                if not passing or tried >= tries:
                    raise self._refused(error) from error
                wait = max(BACKOFF[tried], min(LONGEST_WAIT, asked_to_wait(error)))
                self.tell(f"notice: the hub falters ({reason(error)}); trying again in {wait:.0f} s ({tried + 1} of {tries})")
            time.sleep(wait)
        raise AssertionError("the last try returns or raises")

    def _refused(self, error: Exception) -> UserError:
        return UserError(
            f"{self.dataset} cannot be had from the hub ({reason(error)}); check the connection (HF_ENDPOINT names a mirror, HF_TOKEN logs in) and run "
            "the same command again: it goes on where it stopped; or do without the hub: --source sample, --source PATH"
        )


class Window:
    """The bytes `start` to `end - 1` of a file, for pyarrow: the first ones are there in `raw`, `fetch(start, end)` gets more when they are read."""

    closed = False

    def __init__(self, start: int, end: int, raw: bytes, fetch: Callable[[int, int], bytes]):
        self.start, self.end, self.raw, self.fetch, self.at = start, end, raw, fetch, start

    def read(self, n: int) -> bytes:
        first, last = self.at, min(self.at + n, self.end)
        have = self.start + len(self.raw)
        self.at = last
        raw = self.raw[first - self.start : last - self.start]
        return raw + self.fetch(max(first, have), last) if last > have else raw

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self.at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self.at, os.SEEK_END: self.end}[whence]
        return self.at

    def tell(self) -> int:
        return self.at

    def close(self) -> None:
        self.closed = True


def stall_seconds() -> float:
    """How long a connection may be silent."""
    from huggingface_hub import constants

    return float(constants.HF_HUB_DOWNLOAD_TIMEOUT) if os.environ.get("HF_HUB_DOWNLOAD_TIMEOUT") else STALL


def status_of(error: Exception) -> int | None:
    """The HTTP status that an exception of the hub's client is about."""
    return getattr(getattr(error, "response", None), "status_code", None)


def asked_to_wait(error: Exception) -> float:
    """The seconds that an answer asks its client to wait, 0 where it does not say: `Retry-After: 7`, or the hub's `RateLimit: "api";r=0;t=7`."""
    headers = getattr(getattr(error, "response", None), "headers", {})
    found = re.fullmatch(r"\s*(\d+)\s*", headers.get("Retry-After", "")) or re.search(r"\br=0;\s*t=(\d+)", headers.get("RateLimit", ""))
    return float(found[1]) if found else 0.0


def reason(error: Exception) -> str:
    """An exception of the hub's client in a few words."""
    status = status_of(error)
    return f"it answers {status}" if status else (str(error).strip() or type(error).__name__).splitlines()[0][:200].rstrip(".:")


# ---- in the background


class Later(threading.Thread):
    """`call()` in the background. A daemon: Ctrl-C waits for no connection."""

    def __init__(self, call: Callable[[], Any]):
        super().__init__(daemon=True)
        self.call, self.value, self.error = call, None, None
        self.start()

    def run(self) -> None:
        try:
            self.value = self.call()
        except BaseException as error:  # noqa: BLE001 - raised where the result is asked for
            self.error = error

    def result(self) -> Any:
        while self.is_alive():
            self.join(0.5)  # with an end, or Windows lets no Ctrl-C through
        if self.error is not None:
            raise self.error
        return self.value


def ahead(calls: Iterable[Callable[[], T]], n: int) -> Iterator[T]:
    """The results of `calls` in their order, while up to `n` of the following ones run in the background."""
    running: deque[Later] = deque()
    for call in calls:
        running.append(Later(call))
        if len(running) > n:
            yield running.popleft().result()
    while running:
        yield running.popleft().result()


def say(line: str) -> None:
    """Print a line, above a progress bar where there is one."""
    from tqdm import tqdm

    tqdm.write(line)
    sys.stdout.flush()
