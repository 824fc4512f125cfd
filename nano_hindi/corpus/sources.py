"""The sources of a corpus: their names, their budgets, and readers that can be resumed."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from nano_hindi.corpus.documents import batches
from nano_hindi.corpus.hub import HubFolder, HubTexts
from nano_hindi.corpus.source_files import TEXT_COLUMN
from nano_hindi.errors import UserError
from nano_hindi.files import one_line
from nano_hindi.ranges import whole

SAMPLE = "sample"
SANGRAHA, WIKIPEDIA = "ai4bharat/sangraha", "wikimedia/wikipedia"
MAKERS = {SANGRAHA: "AI4Bharat", WIKIPEDIA: "the authors of Wikipedia"}  # whom a model card names
HUB_FOLDERS = {
    "sangraha": HubFolder(SANGRAHA, "verified/hin", "CC BY 4.0"),
    "sangraha-unverified": HubFolder(SANGRAHA, "unverified/hin", "CC BY 4.0"),
    "sangraha-synthetic": HubFolder(SANGRAHA, "synthetic/hin_Deva", "CC BY 4.0"),
    "wikipedia": HubFolder(WIKIPEDIA, "20231101.hi", "CC BY-SA 4.0 and GFDL"),
}
BUDGET = whole(1, 2**63)


@dataclass(frozen=True)
class CorpusSource:
    """A source as the command line names it, with its budget of tokens if it has one: a name of
    HUB_FOLDERS, OWNER/NAME of another data set, `sample`, or a file. `hub` is set for those on the
    hub, `number` for each of several, from 1."""

    name: str
    budget: int | None = None
    hub: HubFolder | None = None
    number: int | None = None

    @property
    def prefix(self) -> str:
        """Return what its keys in metadata.txt begin with: nothing if it is the only source."""
        return f"source_{self.number}_" if self.number else ""

    def label(self, seed: int) -> str:
        """Return the source in metadata.txt."""
        if self.hub:
            return str(self.hub)
        return f"{SAMPLE}, seed {seed}" if self.is_sample else one_line(os.path.realpath(self.name))

    @property
    def is_sample(self) -> bool:
        return self.name == SAMPLE

    @property
    def is_file(self) -> bool:
        return self.hub is None and not self.is_sample


def split_budget(text: str, flag: str) -> tuple[str, int | None]:
    """Return the name and the budget of `NAME=TOKENS` or `NAME`.

    A name with an extension after its last `=` is that of a file. Raises UserError for another
    budget than a whole number.
    """
    name, equals, budget = text.rpartition("=")
    if not equals or Path(budget).suffix:
        return text, None
    try:
        return name, BUDGET(budget)
    except argparse.ArgumentTypeError as error:
        raise UserError(f"{flag}: the budget of {name} {error}") from error


def sources(names: list[str] | None, dataset: str | None, folder: str | None, column: str | None, split: str | None) -> list[CorpusSource]:
    """Return the sources of a command in the order of the corpus: those that `--source` names, then
    that of `--dataset`, to which the other arguments belong. Raises UserError for wrong ones, and
    for one that is named twice."""
    found = []
    for text in names or ([] if dataset else ["sangraha"]):
        name, budget = split_budget(text, "--source")
        if name not in (*HUB_FOLDERS, SAMPLE) and not Path(name).suffix and not os.path.exists(name):
            raise UserError(f"there is no source {name}; give {', '.join([*HUB_FOLDERS, SAMPLE])}, or a file")
        found.append(CorpusSource(name, budget, HUB_FOLDERS.get(name)))
    if dataset:
        name, budget = split_budget(dataset, "--dataset")
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
            raise UserError(f"--dataset takes the name of a data set on the hub, OWNER/NAME, not {name[:100]}")
        folder = (folder or "").strip("/") or None
        found.append(CorpusSource(name, budget, HubFolder(name, folder, None, column or TEXT_COLUMN, split or "train")))
    else:
        for flag, value in (("--data_dir", folder), ("--column", column), ("--split", split)):
            if value is not None:
                raise UserError(f"{flag} belongs to --dataset; give both")
    times = Counter((source.name, source.hub) for source in found)
    if twice := next((name for (name, _), number in times.items() if number > 1), None):
        raise UserError(f"{twice} is named twice; name each source once")
    return found


def with_budgets(sources: list[CorpusSource], max_tokens: int) -> list[CorpusSource]:
    """Return several sources with their numbers and budgets: those without one get an equal
    fraction of what the others leave of `max_tokens`.

    Raises UserError if they leave nothing.
    """
    without = [source.name for source in sources if source.budget is None]
    left = max_tokens - sum(source.budget or 0 for source in sources)
    if without and left < len(without):
        raise UserError(
            f"the budgets of the other sources leave nothing of --max_tokens {max_tokens} for {', '.join(without)}; give it a budget, or raise --max_tokens"
        )
    return [dataclasses.replace(source, number=i, budget=source.budget or left // len(without)) for i, source in enumerate(sources, 1)]


def reader_of(source: CorpusSource) -> str:
    """Return what the position in a source depends on, without asking the hub."""
    if source.hub:
        return HubTexts.reader()
    if source.is_sample:
        return SAMPLE
    stat = os.stat(source.name)
    return f"{stat.st_size} bytes of {stat.st_mtime_ns}"


class LocalTexts:
    """The texts of a file, or stories, in batches that can be resumed; `metadata` has the licence
    if it is known."""

    def __init__(self, documents: Callable[[], Iterator[str]], licence: str | None = None):
        self._documents = documents
        self.metadata = {"licence": licence} if licence else {}

    def batches(self, position: int | None = None) -> Iterator[tuple[list[str], int]]:
        """Yield (texts, the position after them: a number of documents), from the beginning or
        from a position."""
        done = position or 0
        for texts in batches(itertools.islice(self._documents(), done, None)):
            done += len(texts)
            yield texts, done
