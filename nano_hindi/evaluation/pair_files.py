"""Read pairs of sentences, one right and one wrong, from files: public tests, or your own.

Three layouts are told apart by the names of the fields:

good, bad[, kind][, contrast]      your own; `python -m nano_hindi.minimal_pairs --output` writes it
sen, wrong_sen[, phenomenon]       MultiBLiMP (Jumelet et al. 2025, arXiv:2504.02768)
context, ending_good, ending_bad   BHS (Kryvosheieva & Levy 2025, arXiv:2411.07474) as on the hub

Other fields are ignored. A `.json` file of BHS as its authors publish it, a list of
`[[context, context], [good, bad]]`, is read too.

lm-evaluation-harness computes -ln p(sentence | bos) for the first two, as `scoring` does, and
-ln p(ending | bos, context) for the third. There the sentence is context, space and ending: both
sentences of a pair begin with the same tokens, so the margin between them is the same.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from nano_hindi.corpus.source_files import COMPRESSIONS, columns_named, compression, kind, opened
from nano_hindi.errors import UserError, first_line, quoted
from nano_hindi.minimal_pairs import Pair

DELIMITERS = {".csv": ",", ".tsv": "\t"}
JSON = (".jsonl", ".json")


class Layout(NamedTuple):
    """The names of the fields of a pair. With `context`, the other two are endings."""

    good: str
    bad: str
    kind: str = "kind"
    context: str | None = None

    def names(self) -> set[str]:
        """Return the names of the fields that a pair must have."""
        return {name for name in (self.context, self.good, self.bad) if name}


LAYOUTS = (Layout("good", "bad"), Layout("sen", "wrong_sen", "phenomenon"), Layout("ending_good", "ending_bad", context="context"))
PairRecord = tuple[str, Any]  # where a pair is, for errors: `pairs.csv, line 3`; and its fields


def read_pair_files(paths: Iterable[Path]) -> list[Pair]:
    """Return the pairs of all files, in order.

    A pair without a kind gets the name of its file as its kind, without the extension. Pairs of one
    file with the same `contrast` are one trial for the interval of `score_pairs`, others are one
    each. Raises UserError, with the line, for a file that is damaged or in no known layout.
    """
    return [pair for path in paths for pair in _read(path)]


def _read(path: Path) -> list[Pair]:
    extension = kind(path)
    if extension not in (*DELIMITERS, *JSON):
        raise UserError(f"{path}: pairs are read from {', '.join([*JSON, *DELIMITERS])} files, also with {' or '.join(COMPRESSIONS)}; convert it")
    records = _rows(path, DELIMITERS[extension]) if extension in DELIMITERS else _json_records(path)
    pairs = [_pair(path, place, fields) for place, fields in records]
    if not pairs:
        raise UserError(f"{path} holds no pairs; name another file")
    return pairs


def _decoded_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a file, with their ends."""
    with opened(path) as file:
        for number, raw in enumerate(file, 1):
            try:
                yield raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise UserError(f"{path}, line {number:,}: not valid UTF-8 ({error.reason}); convert the file, or delete the line") from error


def _rows(path: Path, delimiter: str) -> Iterator[PairRecord]:
    """Yield the rows of a table whose first line has the names of its columns."""
    table = csv.reader(_decoded_lines(path), delimiter=delimiter, strict=True)
    try:
        names = next(table, [])
        if twice := next((name for name in names if name and names.count(name) > 1), None):
            raise UserError(f"{path}, line 1: two columns {twice!r}; rename one")
        for row in filter(None, table):
            place = f"{path}, line {table.line_num:,}"
            if len(row) != len(names):
                raise UserError(f"{place}: {len(row)} columns instead of the {len(names)} of the first line; fix or delete the line")
            yield place, dict(zip(names, row, strict=True))
    except csv.Error as error:
        raise UserError(
            f"{path}, line {table.line_num:,}: not a table with columns separated by {delimiter!r} ({first_line(error)}); mend it"
        ) from error


def _json_records(path: Path) -> Iterator[PairRecord]:
    """Yield the values of a file with one JSON value per line, or of a `.json` file with one list
    of them."""
    lines = list(_decoded_lines(path))
    if kind(path) == ".json" and "".join(lines).lstrip().startswith("["):
        for number, fields in enumerate(_json(path, 1, "".join(lines)), 1):
            yield f"{path}, record {number:,}", fields
        return
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield f"{path}, line {number:,}", _json(path, number, line)


def _json(path: Path, number: int, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        line = number + (error.lineno - 1 if isinstance(error, json.JSONDecodeError) else 0)
        raise UserError(f"{path}, line {line:,}: not valid JSON ({first_line(error)}); fix or delete the line") from error


def _pair(path: Path, place: str, fields: Any) -> Pair:
    match fields:
        case [[context, same], [good, bad]] if context == same:
            fields = {"context": context, "ending_good": good, "ending_bad": bad}
    if not isinstance(fields, dict):
        raise UserError(f"{place}: {quoted(fields)} instead of a JSON object with a pair; fix or delete it")
    layout = next((layout for layout in LAYOUTS if layout.names() <= fields.keys()), None)
    if layout is None:
        known = ", or ".join(" and ".join(sorted(layout.names())) for layout in LAYOUTS)
        raise UserError(f"{place}: fields {columns_named(list(fields)) or '(none)'}; a pair has {known}; rename them")

    def text(name: str) -> str:
        value = fields[name]
        try:
            if isinstance(value, str) and value.encode() and (value.strip() or name == layout.context):
                return value
        except UnicodeEncodeError as error:  # half a surrogate pair
            raise UserError(f"{place}: {name!r} is not valid Unicode ({error.reason}); fix or delete it") from error
        raise UserError(f"{place}: {name!r} is {quoted(value)} instead of a text; fix or delete it")

    before = f"{text(layout.context)} " if layout.context else ""
    of_file = Path(path.stem if compression(path) else path).stem
    contrast = fields.get("contrast")
    return Pair(
        " ".join((text(layout.kind) if fields.get(layout.kind) else of_file).split()),
        before + text(layout.good),
        before + text(layout.bad),
        place if contrast in (None, "") else f"{path}: {contrast}",
    )
