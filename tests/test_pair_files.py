"""Pairs of sentences read from files: the layouts of public tests, and damaged files."""

import csv
import gzip
import io
import json

import pytest

from nano_hindi.errors import UserError
from nano_hindi.evaluation.pair_files import read_pair_files
from nano_hindi.minimal_pairs import Pair, pairs, score_pairs
from nano_hindi.minimal_pairs.__main__ import write_pairs

GOOD, BAD = 'उसने कहा, "राम घर गया।"', 'उसने कहा, "राम घर गई।"'
CONTEXT = "किसान ने पत्र"
# as pandas writes the table of MultiBLiMP; the columns that the test needs are not the first
MULTIBLIMP = ["", "prefix", "sen", "wrong_sen", "phenomenon", "attractors"]


def table(delimiter: str, *rows: list[str]) -> str:
    file = io.StringIO()
    csv.writer(file, delimiter=delimiter).writerows(rows)
    return file.getvalue()


def lines(*values: object) -> str:
    return "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values)


BHS = {"context": CONTEXT, "ending_good": "लिखा था।", "ending_bad": "लिखता था।"}
SUITE = [[[CONTEXT, CONTEXT], ["लिखा था।", "लिखता था।"]]]
WRITTEN = (f"{CONTEXT} लिखा था।", f"{CONTEXT} लिखता था।")


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.jsonl", lines({"good": GOOD, "bad": BAD, "kind": "लिंग"}) + "\n", [("लिंग", GOOD, BAD)]),
        ("a.b.jsonl", "\ufeff" + lines({"good": GOOD, "bad": BAD}, {"good": " राम", "bad": "राम ", "kind": None}), [("a.b", GOOD, BAD), ("a.b", " राम", "राम ")]),
        ("a.csv", "\ufeff" + table(",", ["bad", "good"], [BAD, GOOD]), [("a", GOOD, BAD)]),
        ("data.tsv", table("\t", MULTIBLIMP, ["0", "उसने", GOOD, BAD, "SV-G", "[]"], ["7", "", "वे\nगए", "वे\nगया", "SV-#", ""]), [("SV-G", GOOD, BAD), ("SV-#", "वे\nगए", "वे\nगया")]),
        ("hindi-S_ne_O_V.json", lines(BHS), [("hindi-S_ne_O_V", *WRITTEN)]),
        ("hindi-S_ne_O_V.json", json.dumps([BHS, BHS], indent=1), [("hindi-S_ne_O_V", *WRITTEN)] * 2),
        ("hindi-S_ne_O_V.json", json.dumps(SUITE), [("hindi-S_ne_O_V", *WRITTEN)]),
    ],
    ids=["jsonl", "jsonl without kind", "csv", "MultiBLiMP", "BHS lines", "BHS list", "BHS of its authors"],
)  # fmt: skip
def test_every_layout_gives_kind_and_whole_sentences(name, content, expected, tmp_path):
    (tmp_path / name).write_text(content, encoding="utf-8", newline="")
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content.encode()))
    for file in (tmp_path / name, tmp_path / f"{name}.gz"):
        assert [(pair.kind, pair.good, pair.bad) for pair in read_pair_files([file])] == expected


def test_our_own_pairs_come_back_from_their_file_with_the_same_interval(tmp_path):
    write_pairs(tmp_path / "own.jsonl", pairs())
    (tmp_path / "more.csv").write_text(
        table(",", ["good", "bad", "contrast"], ["राम", "रामा", ""], ["राम", "रामा", ""]), encoding="utf-8", newline=""
    )
    read = read_pair_files([tmp_path / "own.jsonl", tmp_path / "more.csv"])
    assert [Pair(pair.kind, pair.good, pair.bad, "") for pair in read[:-2]] == [Pair(pair.kind, pair.good, pair.bad, "") for pair in pairs()]

    def nats(sentences):
        return [len(sentence) for sentence in sentences]

    assert score_pairs(nats, read[:-2]).kinds == score_pairs(nats, pairs()).kinds  # a pair and its mirror image are one trial
    assert read[-1].contrast != read[-2].contrast  # with an empty field, as with none, each pair is one


HEADER = ["good", "bad"]
MANY = [[f"राम {i} गया", f"राम {i} गई"] for i in range(5)]


DAMAGED = {
    "another extension": ("a.txt", "राम", [".jsonl, .json, .csv, .tsv"]),
    "blank jsonl": ("a.jsonl", "\n \n", ["no pairs"]),
    "header alone": ("a.csv", table(",", HEADER), ["no pairs"]),
    "half an object": ("a.jsonl", lines({"good": GOOD, "bad": BAD}) + '\n{"good": ', ["line 3", "JSON"]),
    "deep nesting": ("a.jsonl", "[" * 100_000, ["line 1", "JSON"]),
    "half a list": ("a.json", '[\n{"good": "राम", "bad": "रामा"},\n{"good"\n]', ["line 4", "JSON"]),
    "a list per line": ("a.jsonl", lines([GOOD, BAD]), ["line 1", "instead of a JSON object"]),
    "other fields": ("a.jsonl", lines({"sentence": GOOD}), ["line 1", "sentence", "sen and wrong_sen"]),
    "other columns": ("a.csv", table(",", ["right", "wrong"], [GOOD, BAD]), ["line 2", "right, wrong", "bad and good"]),
    "blank sentence": ("a.jsonl", lines({"good": GOOD, "bad": BAD}, {"good": GOOD, "bad": " "}), ["line 2", "'bad'", "' '"]),
    "a number": ("a.jsonl", lines({"good": GOOD, "bad": 3}), ["line 1", "'bad'", "3"]),
    "kind is a list": ("a.jsonl", lines({"good": GOOD, "bad": BAD, "kind": [1]}), ["line 1", "'kind'"]),
    "half a surrogate": ("a.jsonl", '{"good": "राम", "bad": "\\ud800"}', ["line 1", "'bad'", "Unicode"]),
    "a column twice": ("a.csv", table(",", ["good", "bad", "", "", "bad"], ["राम", "रामा", "", "", "रामी"]), ["line 1", "'bad'"]),
    "a short row": ("a.tsv", table("\t", HEADER, *MANY) + "राम\n", ["line 7", "1 columns instead of the 2"]),
    "an open quote": ("a.tsv", table("\t", HEADER, *MANY) + 'राम\t"गया\n', ["line 7", "columns separated by"]),
    "broken UTF-8": ("a.tsv", b"good\tbad\nx\ty\n\xe0\xa4\tz\n", ["line 3", "UTF-8"]),
    "UTF-16": ("a.csv", "good,bad\nराम,रामा\n".encode("utf-16"), ["utf-16"]),
    "a cut gzip file": ("a.jsonl.gz", gzip.compress(lines({"good": GOOD, "bad": BAD}).encode())[:-9], ["a.jsonl.gz", "gzip"]),
}  # fmt: skip


@pytest.mark.parametrize(("name", "content", "words"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_one_line_with_its_place(name, content, words, tmp_path):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as error:
        read_pair_files([tmp_path / name])
    message = str(error.value)
    assert "\n" not in message
    assert len(message) < 500 + len(str(tmp_path))
    for word in [name, *words]:
        assert word in message
