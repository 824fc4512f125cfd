"""Clean documents for `data/download.py --clean`: repairs of the spelling, and rules that drop a
document. Each counts what it changed and keeps three examples.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from nano_hindi.common import common_prefix_length
from nano_hindi.corpus.cleaning.drops import why_not
from nano_hindi.corpus.cleaning.repairs import REPAIRS
from nano_hindi.corpus.cleaning.seen import NearlySeen, Seen, hash_key
from nano_hindi.errors import UserError

DROPS = ("broken encoding", "not Devanagari", "too short", "legacy font", "not Hindi", "duplicate", "near duplicate")
RULES_VERSION = 4  # a download that another version began is refused, so that a corpus follows the same rules throughout
LIBRARIES = ("rensa", "py3langid")
EXAMPLES = 3  # of each rule
CONTEXT, SHOWN = 40, 160  # characters of an example before the change, and in all


@dataclass
class Count:
    """The counts of what one rule changed."""

    documents: int = 0  # repaired or dropped
    bytes: int = 0  # of UTF-8 removed from the documents; negative where a repair adds more


class Cleaner:
    """The rules and what they have seen: `cleaner(text)` returns the repaired text, None if it is
    dropped.

    Cleaning a cleaned text changes nothing. `counts` has a Count for each rule, in the order in
    which they are applied. `examples` has for each rule the first places that it changed, before
    and after.
    """

    def __init__(self) -> None:
        self.counts = {rule: Count() for rule in (*REPAIRS, *DROPS)}
        self.examples: dict[str, list[list[str]]] = {}
        self._seen, self._nearly_seen = Seen(), NearlySeen()

    def __call__(self, text: str) -> str | None:
        repaired = self._repair(text)
        rule = why_not(repaired) or self._known(repaired)
        if rule is None:
            return repaired
        self._count(rule, repaired, "")
        return None

    def remember(self, text: str) -> None:
        """Mark a document as already kept, so that a resumed download also drops duplicates of what
        it wrote before."""
        self._seen.add(hash_key(text.encode()))
        self._nearly_seen.add(self._nearly_seen.keys(text))

    def _known(self, text: str) -> str | None:
        """Return the rule that drops a text as a copy of a kept one. If there is none, remember the
        text."""
        key = hash_key(text.encode())
        if key in self._seen:
            return "duplicate"
        bands = self._nearly_seen.keys(text)
        if self._nearly_seen.knows(bands):
            return "near duplicate"
        self._seen.add(key)
        self._nearly_seen.add(bands)
        return None

    def _repair(self, text: str) -> str:
        """Return `text` after all repairs, repeated until none finds anything: what one removes may
        have hidden the fault that another repairs."""
        repaired: set[str] = set()
        while True:
            start = text
            for rule, repair in REPAIRS.items():
                before, text = text, repair(text)
                if text != before:
                    self._count(rule, before, text, again=rule in repaired)
                    repaired.add(rule)
            if text == start:
                return text

    def _count(self, rule: str, before: str, after: str, again: bool = False) -> None:
        """Count that `rule` made `before` into `after`, "" if it dropped the document; `again`: it
        is counted already."""
        self.counts[rule].documents += not again
        self.counts[rule].bytes += len(before.encode()) - len(after.encode())
        examples = self.examples.setdefault(rule, [])
        if len(examples) < EXAMPLES and not again:
            examples.append(excerpt(before, after))

    def metadata(self) -> dict[str, int | str]:
        """Return the counts and the examples as lines of a progress file or metadata.txt."""
        counts = {_key(rule, kind): getattr(n, kind) for rule, n in self.counts.items() for kind in ("documents", "bytes")}
        return {**counts, "cleaned_examples": json.dumps(self.examples)}

    @classmethod
    def from_metadata(cls, metadata: dict[str, str]) -> Cleaner:
        """Restore a Cleaner from what `metadata()` returned, or from nothing.

        Call `remember` for each document kept so far.
        """
        cleaner = cls()
        cleaner.examples = json.loads(metadata.get("cleaned_examples", "{}"))
        for rule in cleaner.counts:
            cleaner.counts[rule] = Count(*(int(metadata.get(_key(rule, kind), 0)) for kind in ("documents", "bytes")))
        return cleaner

    def lines(self, kept: Count) -> list[str]:
        """Return the counts as lines of a table to print: what each rule changed, and what it left
        of the documents. `kept` is the corpus."""
        lines = [f"cleaned  {'documents':>11} {'bytes':>15} {'documents left':>15} {'bytes left':>17}"]
        for rule, n, left in self.steps(kept):
            lines.append(f"         {n.documents:>11,} {n.bytes:>15,} {left.documents:>15,} {left.bytes:>17,}  {rule}")
        return lines

    def steps(self, kept: Count) -> list[tuple[str, Count, Count]]:
        """Return a name, what was changed and what was left, for "before" and then for each rule.
        After the last one, `kept` was left."""
        documents = kept.documents + sum(self.counts[rule].documents for rule in DROPS)
        size = kept.bytes + sum(n.bytes for n in self.counts.values())
        steps = [("before", Count(), Count(documents, size))]
        for rule, n in self.counts.items():
            documents, size = documents - (n.documents if rule in DROPS else 0), size - n.bytes
            steps.append((f"{rule} ({'dropped' if rule in DROPS else 'repaired'})", n, Count(documents, size)))
        return steps


def rules_version() -> str:
    """Return the versions that decide how a text is cleaned: of the rules and of the libraries.

    Raises UserError if one is missing.
    """
    try:
        return ", ".join([f"rules {RULES_VERSION}", *(f"{name} {version(name)}" for name in LIBRARIES)])
    except PackageNotFoundError as error:
        raise UserError(f"--clean needs the package {error.name}; run: python -m pip install {error.name}") from error


def excerpt(before: str, after: str) -> list[str]:
    """Return the place of the first difference between two texts, in its context; the beginning of
    `before` if `after` is ""."""
    start = common_prefix_length(before, after)
    begin = max(0, start - CONTEXT) if after else 0
    return [text[begin : begin + SHOWN].encode("utf-8", "replace").decode() for text in (before, after)]


def _key(rule: str, kind: str) -> str:
    return f"cleaned_{rule.replace(' ', '_').lower()}_{kind}"
