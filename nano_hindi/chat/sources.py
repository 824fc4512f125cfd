"""Where conversations come from: files, data sets on the hub, and the sample.

The layouts of the data sets were read from code that uses them and from their file lists, not from
the hub itself.
"""

from __future__ import annotations

import itertools
import json
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nano_hindi.corpus.hub import prepare_library
from nano_hindi.corpus.hub_errors import page_of, reason_of, remedy, response_of
from nano_hindi.corpus.parquet import opened_parquet
from nano_hindi.corpus.source_files import COMPRESSIONS, compression, kind, opened, require_file
from nano_hindi.corpus.sources import SAMPLE
from nano_hindi.errors import UserError
from nano_hindi.files import one_line
from nano_hindi.sample import LICENCE
from nano_hindi.sample.questions import conversations

VAL_FRACTION = 0.02  # of the first questions, or stories
FORMATS = (".jsonl", ".json", ".parquet")

KeyedRecord = tuple[str | None, Any]  # the text that decides the split (None: the first question), and the record


@dataclass(frozen=True)
class HubSource:
    """The Hindi conversations of a data set: some of its configurations, with their licences, and
    the columns to read (all if empty). Only Parquet files take `columns`."""

    dataset: str
    configurations: dict[str, str]
    split: str = "train"
    columns: tuple[str, ...] = ()


HUB_SOURCES = {
    # a column for each language; IndoWordNet paraphrases a dictionary, Anudesh is mostly not Hindi
    "indic-align": HubSource(
        "ai4bharat/indic-align",
        dict.fromkeys(("Dolly_T", "OpenAssistant_T", "WikiHow", "Indic_ShareLlama", "Wiki_Conv", "Wiki_Chat"), "CC BY 4.0"),
        columns=("hin_Deva",),
    ),
    "indic-instruct": HubSource(
        "ai4bharat/indic-instruct-data-v0.1",
        {"anudesh": "CC BY 4.0", "wikihow": "CC0", "dolly": "CC BY-SA 3.0", "oasst1": "Apache 2.0"},
        split="hi",
    ),
    "samvaad": HubSource("sarvamai/samvaad-hi-v1", {"default": "Apache 2.0"}),
    "aya": HubSource("CohereLabs/aya_dataset", {"default": "Apache 2.0"}),
}


@dataclass(frozen=True)
class ChatSource:
    """A source of conversations. `title` is what the model card names; `identity` is the same in a
    second run only if the source is the same.

    `records` returns an iterator, which raises UserError for a file that cannot be read, or a data
    set that is not available.
    """

    name: str  # as given by the user
    title: str
    identity: str
    licence: str
    records: Callable[[], Iterator[KeyedRecord]]


def chat_source(name: str, seed: int) -> ChatSource:
    """Return the source that `name` means: a name of HUB_SOURCES (with `:CONFIGURATION` for one of
    it), SAMPLE with this seed, or a path.

    Raises UserError for a name that is none, or a file that is missing or of another format.
    """
    if name == SAMPLE:
        title = f"sample, seed {seed}"
        return ChatSource(name, title, title, LICENCE, lambda: ((c.story, {"messages": c.messages}) for c in conversations(seed)))
    first, _, wanted = name.partition(":")
    if first in HUB_SOURCES:
        hub = HUB_SOURCES[first]
        selected = {key: licence for key, licence in hub.configurations.items() if wanted in ("", key)}
        if not selected:
            raise UserError(f"--source {name}: {first} has {', '.join(hub.configurations)}")
        title, different = f"{hub.dataset} {' '.join(selected)}", {*selected.values()}
        licences = [f"{key} {licence}" for key, licence in selected.items()] if len(different) > 1 else different
        licence = f"{', '.join(licences)}, {hub.dataset} ({page_of(hub.dataset)})"
        return ChatSource(name, title, title, licence, lambda: ((None, record) for record in _of_hub(hub, list(selected))))
    others = ", ".join([SAMPLE, *HUB_SOURCES])
    if not Path(name).suffix and not Path(name).exists():
        raise UserError(f"there is no source {name}; give {others}, or a file")
    require_file(name)
    if kind(name) not in FORMATS or (kind(name) == ".parquet" and compression(name)):
        raise UserError(
            f"{name}: conversations are read from {', '.join(FORMATS)} files (all but .parquet may end with {' or '.join(COMPRESSIONS)}), or {others}"
        )
    title, stat = one_line(Path(name).name), Path(name).stat()
    identity = f"{title} {stat.st_size} {stat.st_mtime_ns}"
    return ChatSource(name, title, identity, f"not known: {title}", lambda: ((None, record) for record in _of_file(name)))


# ---- files


def _of_file(path: str) -> Iterator[Any]:
    if kind(path) == ".parquet":
        with opened_parquet(path) as file:
            for group in range(file.num_row_groups):  # one by one: iter_batches over all of them keeps the whole file in memory
                for batch in file.iter_batches(batch_size=100, row_groups=[group]):
                    yield from batch.to_pylist()
        return
    with opened(path) as file:
        if kind(path) == ".json":
            records = _parsed(file.read())
            if not isinstance(records, list):
                raise UserError(f"{path} is not a JSON array of conversations; a file with one object per line is named .jsonl")
            yield from records
            return
        for number, line in enumerate(file):
            begin = line.removeprefix(BOM_UTF8).strip()
            if begin == b"[" or (number == 0 and begin.startswith(b"[")):
                raise UserError(f"{path} is a JSON array; such a file is named .json")
            if line.strip():
                yield _parsed(line)


def _parsed(raw: bytes) -> Any:
    """Return the value of JSON; None, which is no record, if it is not JSON."""
    try:
        return json.loads(raw.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return None


# ---- the hub


def _of_hub(hub: HubSource, configurations: list[str]) -> Iterator[Any]:
    """Yield the records of the configurations in turn, so that a limit takes some of each."""
    from datasets import load_dataset

    prepare_library()
    columns = {"columns": list(hub.columns)} if hub.columns else {}
    try:
        streams = [iter(load_dataset(hub.dataset, name, split=hub.split, streaming=True, **columns)) for name in configurations]
        for turn in itertools.zip_longest(*streams):
            yield from (record for record in turn if record is not None)
    except Exception as error:
        raise UserError(
            f"{hub.dataset} is not available from the hub ({reason_of(error)}); {remedy(response_of(error), hub.dataset)}, "
            "or give its files: --source FILE.parquet"
        ) from error
