"""The memmaps hold exactly the documents, split by their text, and appear whole or not at all."""

import itertools
import random

import numpy as np
import pytest

import standin
from data import preprocess
from nano_hindi.corpus import write_document
from nano_hindi.dataloader import check_data, read_metadata
from nano_hindi.tokenizer import load_tokenizer

NASTY = [
    "क्‍या ज़रूरत है? 👩‍🌾 १२३",
    "tabs\tand\n\n\nempty lines \n",
    "</s> <s> <unk> <0x41> are letters",
    "<|endoftext|>\nthe marker itself\n\\<|endoftext|>",
    " a leading space",
    "windows\r\nlines",
    "x",
]  # fmt: skip


def corpus(path, documents) -> None:
    with open(path, "wb") as file:
        for text in documents:
            write_document(file, text)


def run(folder, *flags) -> int:
    return preprocess.main(
        ["--input", str(folder / "corpus.txt"), "--output_dir", str(folder / "out"), "--tokenizer", str(folder / "tokenizer"), *flags]
    )


@pytest.fixture(params=["bpe", "byte_level"])
def folder(tmp_path, request):
    standin.make_tokenizer(tmp_path / "tokenizer", vocab_size=512, kind=request.param)
    return tmp_path


def decoded_documents(folder) -> list[str]:
    """Every document of both files, found by its special tokens alone."""
    tokenizer = load_tokenizer(folder / "out" / "tokenizer")
    documents = []
    for name in ("train", "val"):
        ids = np.fromfile(folder / "out" / f"{name}.bin", dtype="<u4").tolist()
        assert ids[0] == tokenizer.bos_id
        starts = [i for i, token in enumerate(ids) if token == tokenizer.bos_id] + [len(ids)]
        for begin, end in itertools.pairwise(starts):
            document = ids[begin + 1 : end]
            if tokenizer.eos_id != tokenizer.bos_id:
                assert document.pop() == tokenizer.eos_id
            assert not set(document) & {tokenizer.bos_id, tokenizer.eos_id}
            documents.append(tokenizer.decode(document))
    return documents


def test_decoding_the_memmaps_gives_back_exactly_the_documents(folder):
    documents = NASTY + standin.documents(60)
    corpus(folder / "corpus.txt", documents)
    assert run(folder, "--val_fraction", "0.3") == 0
    assert sorted(decoded_documents(folder)) == sorted(documents)


def test_the_metadata_is_true_and_training_accepts_it(folder):
    documents = standin.documents(80)
    corpus(folder / "corpus.txt", documents)
    assert run(folder, "--val_fraction", "0.2") == 0
    facts = read_metadata(folder / "out" / "preprocess_meta.txt")
    info = check_data(folder / "out")
    assert info.train_documents + info.val_documents == 80
    assert info.train_bytes + info.val_bytes == sum(len(text.encode()) for text in documents)
    for name in ("train", "val"):
        assert int(facts[f"{name}_tokens"]) == len(np.fromfile(folder / "out" / f"{name}.bin", dtype="<u4"))
    words = sum(len(text.split()) for text in documents)
    assert float(facts["fertility"]) == pytest.approx((info.train_tokens + info.val_tokens) / words, rel=1e-3)


def test_the_split_depends_on_the_text_alone(folder):
    documents = standin.documents(200)
    shuffled = documents + documents[:50]
    random.Random(0).shuffle(shuffled)
    validation = []
    for order in (documents, shuffled):
        corpus(folder / "corpus.txt", order)
        assert run(folder, "--val_fraction", "0.2") == 0
        tokenizer = load_tokenizer(folder / "tokenizer")
        text = tokenizer.decode(np.fromfile(folder / "out" / "val.bin", dtype="<u4").tolist())
        validation.append({document for document in documents if document in text and preprocess.is_validation(document, 0.2)})
        in_train = tokenizer.decode(np.fromfile(folder / "out" / "train.bin", dtype="<u4").tolist())
        assert not any(document in in_train for document in validation[-1] if len(document) > 100)
    assert validation[0] == validation[1]


def test_the_share_of_validation_is_the_one_asked_for():
    documents = [f"दस्तावेज़ {i}" for i in range(20_000)]
    for share in (0.01, 0.3):
        held_out = sum(preprocess.is_validation(text, share) for text in documents)
        assert held_out == pytest.approx(share * 20_000, abs=4 * (share * 20_000) ** 0.5)


def test_memory_is_bounded_by_the_batch(monkeypatch):
    monkeypatch.setattr(preprocess, "BATCH_BYTES", 100)
    sizes = [sum(len(text.encode()) for text in batch) for batch in preprocess.batches("क" * 10 for _ in range(100))]
    assert max(sizes) <= 130
    assert sum(sizes) == 3000


def test_a_run_that_fails_leaves_the_old_files_and_no_temporary_ones(folder, monkeypatch):
    corpus(folder / "corpus.txt", standin.documents(60))
    assert run(folder, "--val_fraction", "0.3") == 0
    before = {p.name: p.read_bytes() for p in (folder / "out").iterdir() if p.is_file()}

    def fails(text, fraction):
        raise OSError(28, "No space left on device", "train.bin.tmp")

    monkeypatch.setattr(preprocess, "is_validation", fails)
    assert run(folder) == 2
    assert {p.name: p.read_bytes() for p in (folder / "out").iterdir() if p.is_file()} == before


@pytest.mark.parametrize(
    ("content", "flags", "words"),
    [
        (b"", (), "no document falls into the train part"),
        (b"one document\n", ("--val_fraction", "0.5"), "--val_fraction"),
        (b"\xff\xfe not utf-8", (), "not UTF-8"),
        (b"x", ("--val_fraction", "1.5"), "between 0 and 1"),
        (b"x", ("--tokenizer", "nowhere/at/all"), "nowhere/at/all"),
        (b"x", ("--input", "nowhere.txt"), "nowhere.txt"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing_behind(folder, capsys, content, flags, words):
    (folder / "corpus.txt").write_bytes(content)
    assert run(folder, *flags) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    assert words in errors
    assert not list((folder / "out").glob("*")) if (folder / "out").exists() else True
