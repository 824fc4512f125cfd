"""data/preprocess.py: the token files give back exactly the documents, the split is a function of the text, and no half-made folder looks finished."""

import hashlib
import random
from pathlib import Path

import numpy as np
import pytest

import standin
from conftest import ROOT
from data import preprocess
from nano_hindi import tokenizing
from nano_hindi.corpus import write_document
from nano_hindi.dataloader import check_data, read_metadata
from nano_hindi.errors import UserError
from nano_hindi.tokenizer import Tokenizer, load_tokenizer

HARD_TEXTS = [
    *("👍🏽 👩‍🌾 🇮🇳", "क्‍या शक्‌ति", "ख़ुशी ज़रूरत बड़ा पढ़ना", "१२३ 1,234.5", "\ta\tb", "  two  spaces  ", "एक\n\n\nदो\n", "\r\nwindows\r\n", "\ufeffBOM"),
    *("</s>", "<s>राम</s> <unk> <pad>", "<|endoftext|>", "a\n<|endoftext|>\nb", "\\<|endoftext|>", "<0x41> <0x0A>", "\x00\x01", "中文 عربى é e\u0301", " ", "\n"),
]  # fmt: skip


def write_corpus(path: Path, texts: list[str]) -> Path:
    with open(path, "wb") as file:
        for text in texts:
            write_document(file, text)
    return path


def run(out: Path, corpus: Path, tokenizer: Path, *argv) -> int:
    return preprocess.main(["--input", str(corpus), "--output_dir", str(out), "--tokenizer", str(tokenizer), *map(str, argv)])


def documents_of(path: Path, tokenizer: Tokenizer) -> list[str]:
    """The texts of a token file: cut at each bos, and checked to end with eos where that is another token."""
    tokens = np.memmap(path, dtype="<u4", mode="r")
    begins = np.flatnonzero(tokens == tokenizer.bos_id)
    texts = []
    for begin, end in zip(begins, [*begins[1:], len(tokens)], strict=True):
        ids = tokens[begin:end].tolist()
        if tokenizer.eos_id != tokenizer.bos_id:
            assert ids[-1] == tokenizer.eos_id
            assert ids.count(tokenizer.eos_id) == 1
        texts.append(tokenizer.decode(ids))
    return texts


def belongs_to_validation(text: str, fraction: float) -> bool:
    """The rule of the contract, written a second time."""
    return int(hashlib.blake2b(text.encode("utf-8")).hexdigest()[:16], 16) / 2**64 < fraction


@pytest.fixture(scope="module")
def tokenizer_dir(tmp_path_factory) -> Path:
    return standin.make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.mark.parametrize("kind", ["bpe", "byte_level"])
def test_decoding_the_token_files_gives_back_exactly_the_documents(tmp_path, kind, monkeypatch):
    folder = standin.make_tokenizer(tmp_path / "standin", kind=kind)
    texts = HARD_TEXTS + standin.documents(300) + HARD_TEXTS  # the second time they meet other batches
    monkeypatch.setattr(tokenizing, "BATCH_CHARACTERS", 2000)
    assert run(tmp_path / "data", write_corpus(tmp_path / "c.txt", texts), folder, "--val_fraction", 0.3) == 0
    tokenizer = load_tokenizer(folder)
    assert documents_of(tmp_path / "data" / "train.bin", tokenizer) == [text for text in texts if not belongs_to_validation(text, 0.3)]
    assert documents_of(tmp_path / "data" / "val.bin", tokenizer) == [text for text in texts if belongs_to_validation(text, 0.3)]


def test_the_files_are_little_endian_uint32_and_the_facts_fit_them(tmp_path, tokenizer_dir, capsys):
    texts = standin.documents(400)
    out = tmp_path / "data"
    assert run(out, write_corpus(tmp_path / "c.txt", texts), tokenizer_dir, "--val_fraction", 0.1) == 0
    assert sorted(p.name for p in out.iterdir()) == ["preprocess_meta.txt", "tokenizer", "train.bin", "val.bin"]
    tokenizer, facts, info = load_tokenizer(tokenizer_dir), read_metadata(out / "preprocess_meta.txt"), check_data(out)
    val = [text for text in texts if belongs_to_validation(text, 0.1)]
    train = [text for text in texts if not belongs_to_validation(text, 0.1)]
    lengths = {text: len(ids) for text, ids in zip(texts, tokenizer.encode_batch(texts), strict=True)}
    for name, part in (("train", train), ("val", val)):
        assert facts[f"{name}_documents"] == str(len(part))
        assert facts[f"{name}_tokens"] == str(sum(lengths[text] + 2 for text in part))
        assert facts[f"{name}_bytes"] == str(sum(len(text.encode()) for text in part))
        ids = np.concatenate([[tokenizer.bos_id, *tokenizer.encode_batch([text])[0], tokenizer.eos_id] for text in part])
        assert (out / f"{name}.bin").read_bytes() == b"".join(int(i).to_bytes(4, "little") for i in ids)
    text_tokens = sum(lengths[text] for text in texts)
    fertility = text_tokens / sum(len(text.split()) for text in texts)
    assert float(facts["fertility"]) == pytest.approx(fertility, abs=1e-4)
    assert float(facts["bytes_per_token"]) == pytest.approx(sum(len(text.encode()) for text in texts) / text_tokens, abs=1e-4)
    assert (info.vocab_size, info.bos_id, info.eos_id) == (tokenizer.vocab_size, tokenizer.bos_id, tokenizer.eos_id)
    assert info.fingerprint == tokenizer.fingerprint() == load_tokenizer(out / "tokenizer").fingerprint()
    output = capsys.readouterr().out
    assert f"{fertility:.3f} tokens per word" in output
    assert f"{len(train):,} documents, {info.train_tokens:,} tokens" in output
    assert f"{len(val):,} documents, {info.val_tokens:,} tokens" in output


def test_the_split_does_not_depend_on_order_and_duplicates_never_straddle_it(tmp_path, tokenizer_dir):
    texts = standin.documents(300) * 2
    shuffled = random.Random(1).sample(texts, len(texts))
    tokenizer = load_tokenizer(tokenizer_dir)
    sides = []
    for i, order in enumerate((texts, shuffled)):
        assert run(tmp_path / str(i), write_corpus(tmp_path / "c.txt", order), tokenizer_dir, "--val_fraction", 0.2) == 0
        sides.append([sorted(documents_of(tmp_path / str(i) / f"{name}.bin", tokenizer)) for name in ("train", "val")])
    assert sides[0] == sides[1]
    assert not set(sides[0][0]) & set(sides[0][1])


def test_the_share_of_validation_is_the_one_asked_for():
    texts = [f"document {i}".encode() for i in range(20_000)]
    for fraction in (0.01, 0.1, 0.5):
        share = sum(tokenizing.is_for_validation(text, fraction) for text in texts) / len(texts)
        assert share == pytest.approx(fraction, abs=4 * (fraction * (1 - fraction) / len(texts)) ** 0.5)  # four standard deviations


def test_what_ends_early_leaves_the_old_data(tmp_path, tokenizer_dir, monkeypatch, capsys):
    out = tmp_path / "data"
    assert run(out, write_corpus(tmp_path / "c.txt", standin.documents(100)), tokenizer_dir, "--val_fraction", 0.1) == 0
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    capsys.readouterr()
    for error, code in ((KeyboardInterrupt(), 130), (OSError(28, "No space left on device"), 2), (UserError("no"), 2)):
        with monkeypatch.context() as patch:

            def fails(*args, error=error):
                raise error

            patch.setattr(tokenizing, "is_for_validation", fails)
            assert run(out, write_corpus(tmp_path / "d.txt", standin.documents(50, seed=3)), tokenizer_dir, "--val_fraction", 0.1) == code
        assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before
    check_data(out)


def test_a_folder_that_is_half_replaced_is_not_taken_as_finished(tmp_path, tokenizer_dir, monkeypatch):
    out = tmp_path / "data"
    assert run(out, write_corpus(tmp_path / "c.txt", standin.documents(100)), tokenizer_dir, "--val_fraction", 0.1) == 0

    def power_cut(self, folder):
        raise KeyboardInterrupt

    monkeypatch.setattr(Tokenizer, "save", power_cut)
    assert run(out, write_corpus(tmp_path / "d.txt", standin.documents(50, seed=3)), tokenizer_dir, "--val_fraction", 0.1) == 130
    with pytest.raises(UserError, match=r"preprocess_meta\.txt is missing"):
        check_data(out)


def test_a_corpus_whose_validation_is_short_says_so(tmp_path, tokenizer_dir, capsys):
    corpus = write_corpus(tmp_path / "c.txt", standin.documents(200))
    assert run(tmp_path / "data", corpus, tokenizer_dir, "--val_fraction", 0.02) == 0
    assert "give a larger --val_fraction" in capsys.readouterr().out
    assert run(tmp_path / "data", corpus, tokenizer_dir, "--val_fraction", 0.5) == 0
    assert "notice" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("texts", "argv", "message"),
    [
        (None, [], "run data/download.py first"),
        (["", "\n"][:0], [], "holds no text"),
        (["एक"], [], "one single document"),
        (["एक", "दो"], ["--val_fraction", "1e-9"], "fell to validation; give a larger --val_fraction"),
        (["एक", "दो"], ["--val_fraction", "0.999999999"], "fell to training; give a smaller --val_fraction"),
        (["एक", "दो"], ["--val_fraction", "0"], "--val_fraction 0.0"),
        (["एक", "दो"], ["--val_fraction", "1"], "--val_fraction 1.0"),
        (["एक", "दो"], ["--val_fraction", "nan"], "--val_fraction nan"),
        (["एक", "दो"], ["--tokenizer", "no/such/folder"], "there is no tokenizer folder no/such/folder"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(tmp_path, tokenizer_dir, capsys, texts, argv, message):
    corpus = tmp_path / "c.txt"
    if texts is not None:
        write_corpus(corpus, texts)
    assert run(tmp_path / "data", corpus, tokenizer_dir, *argv) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.glob("data/*"))


def test_a_corpus_that_is_not_utf8_is_one_line_and_nothing_is_written(tmp_path, tokenizer_dir, capsys):
    (tmp_path / "c.txt").write_bytes(b"a\n<|endoftext|>\nb\n<|endoftext|>\n\xff\n<|endoftext|>\n")
    assert run(tmp_path / "data", tmp_path / "c.txt", tokenizer_dir) == 2
    assert "line 6" in capsys.readouterr().err
    assert not list(tmp_path.glob("data/*"))


def test_a_tokenizer_that_lies_in_the_output_folder_stays_as_it_is(tmp_path):
    folder = standin.make_tokenizer(tmp_path / "data" / "tokenizer")
    before = {p: p.read_bytes() for p in folder.iterdir()}
    assert run(tmp_path / "data", write_corpus(tmp_path / "c.txt", standin.documents(100)), folder, "--val_fraction", 0.1) == 0
    assert {p: p.read_bytes() for p in folder.iterdir()} == before
    check_data(tmp_path / "data")


def test_the_defaults_are_those_of_the_contract():
    args = preprocess.parse([])
    assert args.input == [ROOT / "data" / "raw" / "hindi_corpus.txt"]
    assert (args.output_dir, args.tokenizer, args.val_fraction) == (ROOT / "data", "sarvamai/sarvam-1", 0.01)
