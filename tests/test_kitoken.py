"""kitoken encodes a corpus only where its ids equal those of `tokenizers`."""

import json
import pickle
import random
import sys

import pytest

import standin
from nano_hindi.tokenizer import load_tokenizer
from nano_hindi.tokenizer.kitoken import TRAPS

kitoken = pytest.importorskip("kitoken", reason="needs kitoken, which has no wheel for this machine")


@pytest.fixture(scope="module", params=["bpe", "byte_level"])
def folder(request, tmp_path_factory):
    return standin.make_tokenizer(tmp_path_factory.mktemp(request.param), kind=request.param)


def hard_texts(n: int) -> list[str]:
    """Return random strings of Devanagari, ASCII, joiners, spaces, controls and names of special
    tokens."""
    letters = [
        chr(c) for c in (*range(0x900, 0x980), *range(0x20, 0x7F), 0, 9, 10, 13, 0x200C, 0x200D, 0x2581, 0xFEFF, 0x1F33E, 0x301, 0xE000, 0x10FFFF)
    ]
    letters += [*" " * 60, "</s>", "<s>", "<unk>", "<0x41>", "  ", "\n\n", "▁▁", *("'s", "'the", "\xa0", "\u2028") * 3]
    draw = random.Random(1)
    return ["".join(draw.choices(letters, k=draw.randrange(80))) for _ in range(n)]


def test_kitoken_ids_equal_those_of_tokenizers_in_workers_too(folder):
    plain, fast = load_tokenizer(folder), load_tokenizer(folder)
    assert fast.encode_faster(standin.documents(50, seed=1))
    texts = [*standin.documents(200, seed=2), *hard_texts(3000), *TRAPS]
    expected = plain.encode_batch(texts)
    for tokenizer in (fast, pickle.loads(pickle.dumps(fast))):
        assert [tokenizer.encode_batch([text])[0] for text in texts] == expected
        assert tokenizer.encode_batch(texts) == expected
        assert tokenizer.fingerprint == plain.fingerprint


def test_kitoken_does_the_encoding(folder, monkeypatch):
    tokenizer = load_tokenizer(folder)
    assert tokenizer.encode_faster([])
    monkeypatch.setattr(tokenizer, "_encoder", None)  # the encoder of `tokenizers`
    assert tokenizer.decode(tokenizer.encode_batch(["भारत एक देश है।"])[0]) == "भारत एक देश है।"


class Wrong(kitoken.Kitoken):
    """Encode one string wrong."""

    string = "ॠ"

    def encode_all(self, texts, special):
        return [ids[::-1] if self.string in text else ids for text, ids in zip(texts, super().encode_all(texts, special), strict=True)]


def test_kitoken_is_not_used_if_an_id_in_the_sample_differs(folder, monkeypatch):
    monkeypatch.setattr(kitoken, "Kitoken", Wrong)
    tokenizer = load_tokenizer(folder)
    assert tokenizer.encode_faster(["ऋ"])  # the sample does not show the error
    assert not tokenizer.encode_faster(["ऋ", "पितॠण को"])
    assert tokenizer.encode_batch(["पितॠण को"]) == load_tokenizer(folder).encode_batch(["पितॠण को"])


@pytest.mark.parametrize("string", ["👨‍👩‍👧", "[जोड़ा]"], ids=["trap", "added token"])
def test_kitoken_is_not_used_if_an_id_differs_that_the_sample_does_not_show(tmp_path, monkeypatch, string):
    file = standin.make_tokenizer(tmp_path, kind="byte_level") / "tokenizer.json"
    description = json.loads(file.read_text(encoding="utf-8"))
    description["added_tokens"].append({**description["added_tokens"][-1], "id": 640, "content": "[जोड़ा]", "special": False})
    file.write_text(json.dumps(description), encoding="utf-8")
    monkeypatch.setattr(kitoken, "Kitoken", Wrong)
    assert load_tokenizer(tmp_path).encode_faster(["ऋ"])
    monkeypatch.setattr(Wrong, "string", string)
    assert not load_tokenizer(tmp_path).encode_faster(["ऋ"])


def test_without_kitoken_the_tokenizers_library_encodes(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "kitoken", None)
    tokenizer = load_tokenizer(folder)
    assert not tokenizer.encode_faster(["भारत"])
    assert tokenizer.decode(tokenizer.encode_batch(["भारत"])[0]) == "भारत"


@pytest.mark.parametrize("error", [ValueError, type("PanicException", (BaseException,), {})])
def test_tokenizer_that_kitoken_cannot_read_uses_the_tokenizers_library(folder, monkeypatch, error):
    def refuse(description):
        raise error("unsupported")

    monkeypatch.setattr(kitoken, "Kitoken", type("Kitoken", (), {"from_tokenizers": staticmethod(refuse)}))
    assert not load_tokenizer(folder).encode_faster(["भारत"])
