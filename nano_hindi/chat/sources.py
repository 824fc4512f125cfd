"""Where conversations come from: files, data sets on the hub, and the sample.

The layouts of the data sets were read from code that uses them and from their file lists, not from
the hub itself.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from codecs import BOM_UTF8
from collections.abc import Iterator
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
    the columns to read (all if empty)."""

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
    """A source of conversations: `name` as given by the user, a name of HUB_SOURCES (with
    `:CONFIGURATION` for one of it), SAMPLE, or a path."""

    name: str
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise UserError for a name that is none, or a file that is missing or of another
        format."""
        if self.name == SAMPLE:
            return
        if hub := self._on_hub:
            if not hub.configurations:
                first = self.name.partition(":")[0]
                raise UserError(f"--source {self.name}: {first} has {', '.join(HUB_SOURCES[first].configurations)}")
            return
        others = ", ".join([SAMPLE, *HUB_SOURCES])
        if not Path(self.name).suffix and not Path(self.name).exists():
            raise UserError(f"there is no source {self.name}; give {others}, or a file")
        require_file(self.name)
        if kind(self.name) not in FORMATS or (kind(self.name) == ".parquet" and compression(self.name)):
            raise UserError(
                f"{self.name}: conversations are read from {', '.join(FORMATS)} files (all but .parquet may end with {' or '.join(COMPRESSIONS)}), or {others}"
            )

    @property
    def _on_hub(self) -> HubSource | None:
        """Return the data set that `name` means, with the configurations that it selects; None for
        the sample and files."""
        name, _, configuration = self.name.partition(":")
        if name not in HUB_SOURCES:
            return None
        hub = HUB_SOURCES[name]
        selected = {key: licence for key, licence in hub.configurations.items() if configuration in ("", key)}
        return dataclasses.replace(hub, configurations=selected)

    @property
    def title(self) -> str:
        """Return what the model card names."""
        if self.name == SAMPLE:
            return f"sample, seed {self.seed}"
        if hub := self._on_hub:
            return f"{hub.dataset} {' '.join(hub.configurations)}"
        return one_line(Path(self.name).name)

    @property
    def identity(self) -> str:
        """Return a text that is the same in a second run only if its source is the same."""
        if self.name == SAMPLE or self._on_hub:
            return self.title
        stat = Path(self.name).stat()
        return f"{self.title} {stat.st_size} {stat.st_mtime_ns}"

    @property
    def licence(self) -> str:
        if self.name == SAMPLE:
            return LICENCE
        if hub := self._on_hub:
            different = {*hub.configurations.values()}
            licences = [f"{key} {licence}" for key, licence in hub.configurations.items()] if len(different) > 1 else different
            return f"{', '.join(licences)}, {hub.dataset} ({page_of(hub.dataset)})"
        return f"not known: {one_line(Path(self.name).name)}"

    def records(self) -> Iterator[KeyedRecord]:
        """Yield the records. Raises UserError for a file that cannot be read, or a data set that is
        not available."""
        if self.name == SAMPLE:
            for conversation in conversations(self.seed):
                yield conversation.story, {"messages": conversation.messages}
        elif hub := self._on_hub:
            yield from ((None, record) for record in _of_hub(hub))
        else:
            yield from ((None, record) for record in _of_file(self.name))


# ---- files


def _of_file(path: str) -> Iterator[Any]:
    if kind(path) == ".parquet":
        with opened_parquet(path) as file:
            for batch in file.iter_batches(batch_size=100):
                yield from batch.to_pylist()
        return
    with opened(path) as file:
        if kind(path) == ".json":
            yield from _of_array(path, file.read())
            return
        for number, line in enumerate(file):
            begin = line.removeprefix(BOM_UTF8).strip()
            if begin == b"[" or (number == 0 and begin.startswith(b"[")):
                raise UserError(f"{path} is a JSON array; such a file is named .json")
            if line.strip():
                yield _parsed(line)


def _parsed(line: bytes) -> Any:
    """Return the value of a line of JSON; None, which is no record, if it is not JSON."""
    try:
        return json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return None


def _of_array(path: str, raw: bytes) -> list:
    value = _parsed(raw)
    if not isinstance(value, list):
        raise UserError(f"{path} is not a JSON array of conversations; a file with one object per line is named .jsonl")
    return value


# ---- the hub


def _of_hub(hub: HubSource) -> Iterator[Any]:
    """Yield the records of the configurations in turn, so that a limit takes some of each."""
    from datasets import load_dataset

    prepare_library()
    columns = {"columns": list(hub.columns)} if hub.columns else {}
    try:
        streams = [iter(load_dataset(hub.dataset, name, split=hub.split, streaming=True, **columns)) for name in hub.configurations]
        for turn in itertools.zip_longest(*streams):
            yield from (record for record in turn if record is not None)
    except Exception as error:
        raise UserError(
            f"{hub.dataset} is not available from the hub ({reason_of(error)}); {remedy(response_of(error), hub.dataset)}, "
            "or give its files: --source FILE.parquet"
        ) from error
