"""The report of data/preprocess.py: its figures equal those of the token files, counted another
way, and its page shows every token of a document."""

import html
import re

import numpy as np
import pytest

import standin
from data import preprocess
from nano_hindi.corpus import report as data_report
from nano_hindi.corpus.prepared import check_data

HARD = ["👩‍🌾 क्‍या ख़ुशी\tटैब\n\n<b>&amp; </s> १२३ 漢字", "एक"]


@pytest.fixture(scope="module", params=["bpe", "byte_level"])
def prepared(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    standin.make_tokenizer(folder / "standin", kind=request.param)
    standin.write_corpus(folder / "c.txt", HARD * 20 + standin.documents(300))
    argv = ["--input", folder / "c.txt", "--output_dir", folder / "data", "--tokenizer", folder / "standin", "--val_fraction", 0.2]
    assert preprocess.main([*map(str, argv), "--report"]) == 0
    return folder / "data"


@pytest.mark.parametrize("block", [7, 64, 1000, 2**22])
def test_scan_in_blocks_finds_every_document_whole(prepared, monkeypatch, block):
    monkeypatch.setattr(data_report, "READ_IDS", block)
    info = check_data(prepared)
    tokens = info.train[:]
    begins = [i for i, token in enumerate(tokens.tolist()) if token == info.bos_id]
    documents = [tokens[a:b].tolist() for a, b in zip(begins, [*begins[1:], len(tokens)], strict=True)]
    scan = data_report.scan_tokens(info, seed=0)
    assert sorted(scan.sample) == sorted(documents)  # fewer than SAMPLED_DOCUMENTS: all of them
    assert scan.lengths.tolist() == np.histogram([len(d) for d in documents], data_report.LENGTHS)[0].tolist()
    assert scan.longest == max(map(len, documents))
    assert scan.uses.tolist() == [tokens.tolist().count(i) for i in range(info.vocab_size)]
    monkeypatch.setattr(data_report, "SAMPLED_DOCUMENTS", 50)
    assert all(ids in documents for ids in data_report.scan_tokens(info, seed=1).sample)


def test_page_shows_all_tokens_of_a_document_and_no_broken_character(prepared):
    tokenizer = check_data(prepared).tokenizer
    for text in [*HARD, *standin.documents(20)]:
        ids = tokenizer.document(tokenizer.encode_batch([text])[0])
        shown = data_report.marked(tokenizer, ids)
        assert [int(i) for title in re.findall(r"title='([\d ]+)'", shown) for i in title.split()] == ids
        plain = re.sub(r"<span class='mark'[^>]*>[^<]*</span>", "", shown.replace("<span class='mark'>\\t</span>", "\t").replace("<br>", "\n"))
        assert html.unescape(re.sub(r"<[^>]*>", "", plain)).removeprefix(" ") == text


def test_character_split_between_tokens_is_marked_as_broken(prepared):
    tokenizer = check_data(prepared).tokenizer
    ids = tokenizer.encode_batch(["漢"])[0]
    assert "\ufffd" in data_report.marked(tokenizer, [*ids[:-1], tokenizer.eos_id])


def test_same_data_give_the_same_report(prepared):
    names = ["report.html", "report_document_lengths.png", "report_scripts.png", "report_token_lengths.png", "report_tokens_per_word.png"]
    assert sorted(path.name for path in prepared.glob("report*")) == names
    before = (prepared / "report.html").read_bytes()
    assert all((prepared / name).read_bytes().startswith(b"\x89PNG") for name in names[1:])
    data_report.write_report(prepared)
    assert (prepared / "report.html").read_bytes() == before
    assert before.count(b"<p class='document'>") == 10


@pytest.mark.parametrize(
    ("characters", "script"),
    [("क़ी", "Devanagari"), ("Aé", "Latin"), ("७7", "digits"), ("漢", "other letters"), ("।,👍", "punctuation and signs"), (" \n\u200d", None)],
)
def test_characters_are_assigned_to_their_script(characters, script):
    assert {data_report.script_of(character) for character in characters} == {script}
