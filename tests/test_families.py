"""Tokenizers of five families: one text in NFC for training, prompts, evaluation and transformers,
and added tokens as the library has them."""

import json
import random
import shutil
import unicodedata

import pytest
import torch
from transformers import AutoTokenizer

import standin
from data import preprocess
from families import FAMILIES, added_token, definition, make_family, write_folder
from nano_hindi.corpus.prepared import check_data
from nano_hindi.evaluation import command
from nano_hindi.evaluation.scoring import HuggingFaceScorer
from nano_hindi.export.conversion import write_tokenizer
from nano_hindi.files import read_metadata
from nano_hindi.tokenizer import load_tokenizer
from nano_hindi.tokenizer.pieces import hugging_face_token_bytes

COMPOSED = {chr(c): unicodedata.normalize("NFC", chr(c)) for c in range(0x958, 0x960)}  # क़ to य़, which NFC decomposes


def composed(text: str) -> str:
    """Return `text` with a precomposed letter for each letter and nukta."""
    for letter, pair in COMPOSED.items():
        text = text.replace(pair, letter)
    return text


def nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def texts_of(family: str) -> list[str]:
    """Return texts that a tokenizer of the family does not lose: Unigram knows few characters."""
    texts = [composed(text) for text in standin.documents(60, seed=4)]
    texts = (
        [text.replace("\n", " ") for text in texts]
        if family == "unigram"
        else [*texts, "अनोखी café cafe\u0301 中文 👩‍🌾", "<tool_call>\n<think> 1\n"]
    )
    runs = random.Random(0)
    if family in ("gemma", "neox", "qwen"):
        texts += ["".join(runs.choices([" " * runs.randint(1, 40), "\n" * runs.randint(1, 4), "\t\t", "क", "a", "घर"], k=30)) for _ in range(60)]
    return texts


@pytest.fixture(scope="module", params=FAMILIES)
def family(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def folder(family, tmp_path_factory):
    return make_family(tmp_path_factory.mktemp(family), family)


def test_text_is_restored_in_nfc_and_its_bytes_add_up(folder, family):
    tokenizer = load_tokenizer(folder)
    texts = texts_of(family)
    token_bytes = tokenizer.token_bytes
    for text, ids in zip(texts, tokenizer.encode_batch(texts), strict=True):
        assert tokenizer.decode(ids) == nfc(text)
        assert token_bytes[ids].sum() == len(nfc(text).encode()) + tokenizer.has_dummy_space
        assert tokenizer.normalize(text) == (text if family == "unigram" else nfc(text))


def test_text_with_a_space_mark_decodes_to_what_as_decoded_returns(folder):
    tokenizer = load_tokenizer(folder)
    for text in ("क▁क", "▁क ▁", "▁▁ क"):
        (ids,) = tokenizer.encode_batch([text])
        assert tokenizer.decode(ids) == tokenizer.as_decoded(text)


def test_transformers_gives_the_same_ids_with_the_original_a_copy_and_an_export(folder, family, tmp_path):
    tokenizer = load_tokenizer(folder)
    tokenizer.save(tmp_path / "copy")
    write_tokenizer(tmp_path / "export", tokenizer)
    original, copy, export = (AutoTokenizer.from_pretrained(path) for path in (folder, tmp_path / "copy", tmp_path / "export"))
    texts = texts_of(family)
    assert any(not unicodedata.is_normalized("NFC", text) for text in texts)
    for text, ids in zip(texts, tokenizer.encode_batch(texts), strict=True):
        assert ids == original.encode(nfc(text), add_special_tokens=False)
        assert ids == copy.encode(text, add_special_tokens=False) == copy.encode(nfc(text), add_special_tokens=False)
        assert [tokenizer.bos_id, *ids] == export.encode(text) == export.encode(nfc(text)) == tokenizer.encode_prompt(text)


def test_copy_of_a_copy_is_the_same(folder, tmp_path):
    names = ("tokenizer.json", "tokenizer_config.json")
    first, fingerprint = folder, load_tokenizer(folder).fingerprint
    for name in ("a", "b"):
        load_tokenizer(first).save(tmp_path / name)
        first = tmp_path / name
        assert load_tokenizer(first).fingerprint == fingerprint
    assert [(tmp_path / "a" / name).read_bytes() for name in names] == [(tmp_path / "b" / name).read_bytes() for name in names]


def test_tokenizer_with_a_normalizer_of_its_own_keeps_it(tmp_path):
    source = make_family(tmp_path / "source", "unigram")
    load_tokenizer(source).save(tmp_path / "copy")
    before, after = (json.loads((path / "tokenizer.json").read_text(encoding="utf-8")) for path in (source, tmp_path / "copy"))
    assert after["normalizer"] == before["normalizer"] == {"type": "NFKC"}


def test_names_of_special_tokens_are_text(folder, family):
    tokenizer = load_tokenizer(folder)
    names = [tokenizer.piece(i) for i in tokenizer.special_ids]
    assert len(names) == {"llama": 3, "gemma": 3, "neox": 1, "qwen": 4, "unigram": 3}[family]
    for name in names:
        (ids,) = tokenizer.encode_batch([f"घर {name} घर{name}"])
        if family == "unigram":
            assert set(ids) & tokenizer.special_ids <= {0}  # it does not know the brackets
        else:
            assert tokenizer.decode(ids) == f"घर {name} घर{name}"


def test_kitoken_gives_the_same_ids_or_is_not_used(folder, family):
    pytest.importorskip("kitoken", reason="needs kitoken, which has no wheel for this machine")
    plain, fast = load_tokenizer(folder), load_tokenizer(folder)
    assert fast.encode_faster([])
    texts = [*texts_of(family), "▁▁ ▁क ▁▁▁▁", "  ▁▁  ", "<unk> ▁▁▁\n"]
    for text in texts:
        assert fast.encode_batch([text]) == plain.encode_batch([text])
    assert fast.encode_batch(texts) == plain.encode_batch(texts)


@pytest.mark.parametrize("family", ["gemma", "neox", "qwen"])
def test_preprocess_accepts_runs_of_spaces_tabs_and_newlines(tmp_path, family):
    texts = texts_of(family)
    metadata = preprocess_of(tmp_path, texts, "--tokenizer", make_family(tmp_path / "source", family))
    assert metadata["lossy_documents"] == "0"


def preprocess_of(tmp_path, texts: list[str], *flags) -> dict[str, str]:
    """Run data/preprocess.py on `texts` into the folder `data`. Returns its metadata."""
    standin.write_corpus(tmp_path / "corpus.txt", texts)
    argv = ["--input", tmp_path / "corpus.txt", "--output_dir", tmp_path / "data", "--val_fraction", 0.2, "--workers", 1, *flags]
    assert preprocess.main([*map(str, argv)]) == 0
    return read_metadata(tmp_path / "data" / "preprocess_meta.txt")


# ---- NFC


def test_letter_with_a_nukta_is_one_token_in_both_spellings(tmp_path, capsys):
    """A corpus with the precomposed letters: prompts in NFC meet what training has seen."""
    originals = [text.replace("राम", "एक लड़का") for text in standin.documents(300)]
    texts = [composed(text) for text in originals]
    assert composed("लड़का") == "ल\u095cका" != "लड़का"
    metadata = preprocess_of(tmp_path, texts, "--train_tokenizer", 1000)
    tokenizer = load_tokenizer(tmp_path / "data" / "tokenizer")
    assert sum(int(metadata[f"{name}_bytes"]) for name in ("train", "val")) == sum(len(text.encode()) for text in originals)
    changed = sum(c in COMPOSED for text in texts for c in text)
    documents = sum(text != original for text, original in zip(texts, originals, strict=True))
    assert 0 < documents < 300
    assert metadata["normalization"] == "NFC"
    assert (metadata["normalized_characters"], metadata["normalized_documents"]) == (str(changed), str(documents))
    assert f"NFC         changed {changed:,} characters in {documents} of 300 documents\n" in capsys.readouterr().out

    prompts = ("एक लड़का", composed("एक लड़का"))
    ids = tokenizer.encode_prompt(prompts[0])
    assert [tokenizer.piece(i) for i in ids] == ["<s>", "▁एक", "▁लड़का"]
    write_tokenizer(tmp_path / "export", tokenizer)
    for prompt in prompts:
        assert tokenizer.encode_open(prompt) == (ids, None)
        for path in (tmp_path / "data" / "tokenizer", tmp_path / "export"):
            assert AutoTokenizer.from_pretrained(path).encode(prompt) == ids
            assert not COMPOSED.keys() & set((path / "tokenizer.json").read_text(encoding="utf-8"))


def test_nfc_line_is_omitted_where_nothing_changed_and_old_data_is_made_again(tmp_path, capsys):
    texts, source = standin.documents(50), standin.make_tokenizer(tmp_path / "source")
    preprocess_of(tmp_path, texts, "--tokenizer", source)
    assert "NFC" not in capsys.readouterr().out
    path = tmp_path / "data" / "preprocess_meta.txt"
    modified = (tmp_path / "corpus.txt").stat()

    def again() -> str:
        argv = ["--input", tmp_path / "corpus.txt", "--output_dir", tmp_path / "data", "--val_fraction", 0.2, "--tokenizer", source]
        assert preprocess.main([*map(str, argv)]) == 0
        assert (tmp_path / "corpus.txt").stat() == modified
        return capsys.readouterr().out

    assert "ready already" in again()
    path.write_text("".join(line for line in path.read_text().splitlines(keepends=True) if not line.startswith("normalization")))
    assert "ready already" not in again()
    assert read_metadata(path)["normalization"] == "NFC"


def test_data_of_an_older_version_is_read_as_it_is(tmp_path):
    preprocess_of(tmp_path, standin.documents(50), "--tokenizer", standin.make_tokenizer(tmp_path / "source"))
    before = check_data(tmp_path / "data")
    copy, original = tmp_path / "data" / "tokenizer" / "tokenizer.json", tmp_path / "source" / "tokenizer.json"
    assert copy.read_bytes() != original.read_bytes()
    shutil.copy(original, copy)  # it had no NFC
    path = tmp_path / "data" / "preprocess_meta.txt"
    path.write_text("".join(line for line in path.read_text().splitlines(keepends=True) if not line.startswith("normal")))
    after = check_data(tmp_path / "data")
    assert after.fingerprint == before.fingerprint
    texts = texts_of("llama")
    assert after.tokenizer.encode_batch(texts) == before.tokenizer.encode_batch(texts)


def test_bytes_of_texts_to_evaluate_are_limited_in_nfc(tmp_path):
    (tmp_path / "a.txt").write_text("\u0958" * 9, encoding="utf-8")  # 27 bytes, and 54 in NFC
    args = command.parse(["--checkpoint", "x", "--text", str(tmp_path / "a.txt"), "--max_bytes", "30"])
    assert command.read_texts(args) == ["\u0915\u093c" * 5]


@pytest.mark.parametrize("family", ["llama", "unigram"])
def test_every_model_is_scored_on_the_same_bytes(tmp_path, family):
    """Also one whose tokenizer has a normalizer of its own."""
    import transformers

    tokenizer = load_tokenizer(make_family(tmp_path, family))
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 64}
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=tokenizer.vocab_size, **shape)).save_pretrained(tmp_path)
    texts = standin.documents(5, seed=9)
    scorer = HuggingFaceScorer(tmp_path, torch.device("cpu"))
    other = [composed(text) for text in texts]
    assert other != texts
    for spelled, plain, text in zip(scorer.score(other), scorer.score(texts), texts, strict=True):
        assert spelled.text == plain.text == text
        assert spelled.sizes.sum() == len(text.encode())
        assert (spelled.losses == plain.losses).all()


# ---- added tokens


def test_run_of_spaces_of_a_sentencepiece_vocabulary_has_a_byte_for_each_space(tmp_path):
    description, names = definition("llama")
    vocab = description["model"]["vocab"]
    vocab["▁▁"] = len(vocab)
    description["model"]["merges"].insert(0, ["▁", "▁"])
    description["added_tokens"].append(added_token(vocab["▁▁"], "▁▁"))
    tokenizer = load_tokenizer(write_folder(tmp_path, description, names))
    assert tokenizer.decode([vocab["▁▁"], vocab["▁▁"]]) == "   "  # without the dummy space
    assert tokenizer.token_bytes[vocab["▁▁"]] == 2
    assert hugging_face_token_bytes(AutoTokenizer.from_pretrained(tmp_path))[vocab["▁▁"]] == 2
    for text, size in (("एक  दो", 15), ("एक   दो", 16), ("  एक", 9)):
        (ids,) = tokenizer.encode_batch([text])
        assert tokenizer.token_bytes[ids].sum() == size == tokenizer.bytes_of_tokens([text.encode()])
        assert tokenizer.decode(ids) == text
        assert ids == AutoTokenizer.from_pretrained(tmp_path).encode(text, add_special_tokens=False)
    assert vocab["▁▁"] in ids


@pytest.mark.parametrize(
    ("token", "text", "is_found"),
    [
        ({}, "घर अनोखा", True),
        ({"normalized": True}, "घर अनोखा", True),
        ({"single_word": True}, "घर अनोखा", True),
        ({"single_word": True}, "अनोखापन", False),
        ({"lstrip": True}, "घर अनोखा", False),  # the space before it would be lost
        ({"rstrip": True}, "अनोखा  घर", False),
        ({"special": True}, "घर अनोखा", False),
        ({"content": "</s>"}, "घर </s>", False),  # eos, although not special
        ({"content": "ल\u095cका"}, "एक लड़का", False),  # not in NFC, as no text is
    ],
)
def test_added_token_is_found_unless_it_is_special_or_text_would_be_lost(tmp_path, token, text, is_found):
    token = {"content": "अनोखा", **token}
    for family in ("neox", "gemma"):
        description, names = definition(family)
        content, i = token["content"], len(description["model"]["vocab"]) + len(description["added_tokens"])
        if content == "</s>":
            if family == "neox":
                continue
            description["added_tokens"][2] = added_token(2, content)
        else:
            description["added_tokens"].append(added_token(i, **token))
        folder = write_folder(tmp_path / family, description, names)
        tokenizer = load_tokenizer(folder)
        (ids,) = tokenizer.encode_batch([text])
        assert (content in [tokenizer.piece(i) for i in ids]) == is_found
        assert tokenizer.decode(ids) == text
        if is_found:
            assert ids == AutoTokenizer.from_pretrained(folder).encode(text, add_special_tokens=False)


def test_added_token_after_which_the_library_adds_a_dummy_space_stays_text(tmp_path):
    """The library decodes its own tokens to one space more."""
    description, names = definition("llama")
    description["added_tokens"].append(added_token(640, "अनोखा"))
    tokenizer = load_tokenizer(write_folder(tmp_path, description, names))
    auto = AutoTokenizer.from_pretrained(tmp_path)
    assert auto.decode(auto.encode("एक अनोखापन", add_special_tokens=False)) != "एक अनोखापन"
    (ids,) = tokenizer.encode_batch(["एक अनोखापन"])
    assert 640 not in ids
    assert tokenizer.decode(ids) == "एक अनोखापन"
