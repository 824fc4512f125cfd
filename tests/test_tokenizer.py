"""Tokens and text: bytes add up, text round-trips, special tokens stay out of the text, streaming
equals decoding at once."""

import base64
import json
import os
import random
import re
import socket
import unicodedata

import numpy as np
import pytest
from tokenizers import Tokenizer as Backend
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoTokenizer

import standin
from conftest import assert_parted_between_characters, run_script
from hub import Hub
from nano_hindi.console import shell_quoted
from nano_hindi.errors import UserError
from nano_hindi.inference.text import TextStream
from nano_hindi.tokenizer import hub, load_tokenizer

TEXTS = [
    *("", "a", " ", " a", "   three", "\n", "\n\na", "\ta\tb  c\r\n", "भारत", " भारत एक", "क्‍या ख़ुशी ज़रूरत बड़ा।॥", "क्\u200cष शक्\u200dति"),
    *("👍🏽 👩‍🌾 🇮🇳", "१२३ 1,234.5", "</s>", "<s>राम</s> <unk>", " </s>", "<|endoftext|>", "<0x41> <0x0A>", "\\<|endoftext|>"),
    *("एक अनोखा  पेड़ अनोखा", "अनोखा"),
    *("हिन्दी, English, 中文, عربى", "\x00\x01\x7f\x85\u2028", "\ufeffBOM", "é e\u0301", "\u00a0x\u3000y", "\U0010ffff", "ꣻऀ", "x" * 3000),
    *standin.documents(50, seed=7),
]


def nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def change(folder, edit):
    """Edit the tokenizer.json in `folder`."""
    path = folder / "tokenizer.json"
    description = json.loads(path.read_text(encoding="utf-8"))
    edit(description)
    path.write_text(json.dumps(description), encoding="utf-8")


def metaspace_folder(folder):
    """Change a tokenizer to what transformers 5 saves for Llama: no dummy space for a text that
    starts with a space."""
    standin.make_tokenizer(folder)
    space = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": False}
    change(folder, lambda d: d.update(normalizer=None, pre_tokenizer=space))
    return folder


def prefixed_byte_level_folder(folder):
    """Change a tokenizer to the kind of RoBERTa and BLOOM: byte-level with a dummy space."""
    standin.make_tokenizer(folder, kind="byte_level")
    change(folder, lambda d: d["pre_tokenizer"].update(add_prefix_space=True))
    return folder


def added_tokens_folder(folder):
    """Add tokens that are not special: the library would split a text at them, and strip spaces."""
    standin.make_tokenizer(folder)
    token = {"single_word": False, "lstrip": True, "rstrip": True, "normalized": False, "special": False}
    change(folder, lambda d: d["added_tokens"].append({"id": len(d["model"]["vocab"]), "content": "अनोखा", **token}))
    return folder


KINDS = {
    "bpe": lambda folder: standin.make_tokenizer(folder),
    "byte_level": lambda folder: standin.make_tokenizer(folder, kind="byte_level"),
    "metaspace": metaspace_folder,
    "prefixed_byte_level": prefixed_byte_level_folder,
    "added_tokens": added_tokens_folder,
}


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request, tmp_path_factory):
    return load_tokenizer(KINDS[request.param](tmp_path_factory.mktemp(request.param)))


@pytest.fixture(scope="module")
def bpe(tmp_path_factory):
    return load_tokenizer(standin.make_tokenizer(tmp_path_factory.mktemp("bpe")))


def has_dummy_space(tokenizer) -> bool:
    backend = Backend.from_str(tokenizer._backend.to_str())
    return backend.encode("a", add_special_tokens=False).tokens[0][0] in "▁Ġ"


def test_token_bytes_add_up_to_the_text(tokenizer):
    token_bytes = tokenizer.token_bytes
    assert token_bytes.dtype == np.int32
    assert token_bytes.shape == (tokenizer.vocab_size,)
    for text, ids in zip(TEXTS, tokenizer.encode_batch(TEXTS), strict=True):
        dummy = 1 if text and has_dummy_space(tokenizer) else 0
        assert token_bytes[ids].sum() == len(nfc(text).encode("utf-8")) + dummy, repr(text)


def test_only_special_tokens_have_no_bytes(tokenizer):
    without = set(np.flatnonzero(tokenizer.token_bytes == 0))
    assert without == tokenizer.special_ids


def test_decoding_a_document_gives_its_text(tokenizer):
    for text, ids in zip(TEXTS, tokenizer.encode_batch(TEXTS), strict=True):
        assert tokenizer.decode(tokenizer.document(ids)) == nfc(text) == tokenizer.normalize(text)


def test_library_decodes_the_same_text(tokenizer):
    backend = Backend.from_str(tokenizer._backend.to_str())
    keeps_dummy_space = has_dummy_space(tokenizer) and "ByteLevel" in str(backend.decoder)  # the library does not remove it there
    for text, ids in zip(TEXTS, tokenizer.encode_batch(TEXTS), strict=True):
        theirs = backend.decode(tokenizer.document(ids), skip_special_tokens=True)
        assert theirs == (" " + nfc(text) if keeps_dummy_space and text else nfc(text))


def test_names_of_special_tokens_in_a_text_are_encoded_as_text(tokenizer):
    names = [tokenizer._backend.id_to_token(i) for i in tokenizer.special_ids]
    for ids in tokenizer.encode_batch(["".join(names), *names, f"x {names[0]} y"]):
        assert not tokenizer.special_ids & set(ids)


def test_ids_equal_the_library_for_text_without_special_names(bpe):
    auto = AutoTokenizer.from_pretrained(bpe.name)
    texts = standin.documents(100, seed=3)
    assert bpe.encode_batch(texts) == [auto.encode(text, add_special_tokens=False) for text in texts]
    assert [bpe.encode_prompt(text) for text in texts] == [auto.encode(text) for text in texts]  # the library adds bos too: never twice


def test_document_has_bos_and_eos_or_one_token_that_is_both(tmp_path, bpe):
    assert bpe.document([7, 8]) == [1, 7, 8, 2]
    both = load_tokenizer(standin.make_tokenizer(tmp_path, kind="byte_level"))
    assert (both.bos_id, both.eos_id) == (0, 0)
    assert both.document([7, 8]) == [0, 7, 8]
    assert both.encode_prompt("") == [0]


def config_without(folder, *names):
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    kept = {key: value for key, value in config.items() if key not in names}
    path.write_text(json.dumps({**kept, "tokenizer_class": "PreTrainedTokenizerFast"}), encoding="utf-8")
    return folder


def test_tokenizer_with_only_bos_or_eos_uses_it_for_both(tmp_path):
    only_eos = load_tokenizer(config_without(standin.make_tokenizer(tmp_path / "eos"), "bos_token"))
    only_bos = load_tokenizer(config_without(standin.make_tokenizer(tmp_path / "bos"), "eos_token"))
    assert (only_eos.bos_id, only_eos.eos_id) == (2, 2)
    assert (only_bos.bos_id, only_bos.eos_id) == (1, 1)


def test_vocab_size_is_the_largest_id_plus_one(tmp_path):
    assert load_tokenizer(added_tokens_folder(tmp_path)).vocab_size == 641


# ---- streams


def streamed(tokenizer, ids) -> list[str]:
    """Return the text that each token adds, and the rest."""
    stream = TextStream(tokenizer)
    return [stream.push(i) for i in ids] + [stream.flush()]


def test_stream_returns_all_of_the_text_in_whole_characters(tokenizer):
    for text, ids in zip(TEXTS, tokenizer.encode_batch(TEXTS), strict=True):
        pieces = streamed(tokenizer, tokenizer.document(ids))
        assert "".join(pieces) == nfc(text)
        assert "\ufffd" not in text
        assert_parted_between_characters(pieces)


def test_streamed_random_tokens_equal_their_decoding(tokenizer):
    """Half of the tokens are single bytes, so that most characters are broken, and a third are
    fragments of Hindi letters, conjuncts and emoji."""
    rng = random.Random(1)
    raw = [i for i, n in enumerate(tokenizer.token_bytes) if n == 1]
    parts = tokenizer.encode_batch(["".join(rng.choices("कषर्य\u200d\u200cिंा़ \n👩🏽🌾🇮🇳️⃣", k=2000))])[0]
    for _ in range(300):
        ids = [rng.choice(rng.choice((raw, raw, raw, parts, parts, range(tokenizer.vocab_size)))) for _ in range(rng.randint(1, 40))]
        pieces = streamed(tokenizer, ids)
        whole = b"".join(tokenizer.piece_bytes[i] for i in ids).decode("utf-8", errors="replace")
        assert "".join(pieces) == tokenizer.decode(ids) == (whole.removeprefix(" ") if has_dummy_space(tokenizer) else whole)
        assert_parted_between_characters(pieces)


def test_stream_holds_back_the_last_character_and_flushes_broken_bytes(bpe):
    byte = {n: bpe._ids[f"<0x{n:02X}>"] for n in (0xE0, 0xA4, 0x95)}
    stream = TextStream(bpe)
    assert [stream.push(byte[n]) for n in (0xE0, 0xA4, 0x95, 0xE0, 0xA4)] == [""] * 5
    assert stream.flush() == "क\ufffd"
    assert stream.flush() == ""


def test_first_space_is_dropped_at_the_start_and_kept_after_a_prompt(bpe):
    ids = bpe.encode_batch(["भारत में"])[0]
    assert "".join(streamed(bpe, ids)) == "".join(streamed(bpe, [bpe.bos_id, *ids])) == "भारत में"
    assert "".join(streamed(bpe, [*bpe.encode_prompt("राम"), *ids])) == "राम भारत में"
    space = bpe._ids["▁"]
    assert "".join(streamed(bpe, [bpe.bos_id, space, space, *ids])) == "  भारत में"


def test_space_at_the_end_of_a_prompt_belongs_to_the_next_token(tokenizer):
    for text in ("भारत ", "भारत एक ", "राम, "):
        ids, first_ids = tokenizer.encode_open(text)
        assert tokenizer.decode(ids) == text.removesuffix(" ")
        assert set(first_ids) == {i for i in range(tokenizer.vocab_size) if tokenizer.decode([*ids, i]).startswith(text)}
    for text in ("", "भारत", "भारत एक।", "भार", "क्", "एक\n"):
        assert tokenizer.encode_open(text) == (tokenizer.encode_prompt(text), None)


# ---- identity and loading


def test_saved_copy_has_the_same_fingerprint_ids_and_bytes(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "copy")
    copy = load_tokenizer(tmp_path / "copy")
    assert copy.fingerprint == tokenizer.fingerprint
    assert copy.encode_batch(TEXTS) == tokenizer.encode_batch(TEXTS)
    assert (copy.token_bytes == tokenizer.token_bytes).all()
    assert (copy.bos_id, copy.eos_id, copy.special_ids) == (tokenizer.bos_id, tokenizer.eos_id, tokenizer.special_ids)


def test_saved_copy_is_read_as_transformers_reads_it(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    (backend, *ends), (expected, *expected_ends) = hub._read_copy(tmp_path), hub._read_with_transformers(tmp_path, str(tmp_path), True)
    assert backend.to_str() == expected.to_str()
    assert ends == expected_ends


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer_config.json", {"bos_token": "<|another|>"}),
        ("tokenizer_config.json", {"tokenizer_class": "LlamaTokenizer"}),
        ("tokenizer_config.json", {"extra_special_tokens": {"image_token": "<image>"}}),
        ("special_tokens_map.json", {"bos_token": "</s>"}),
    ],
)
def test_folder_that_is_no_saved_copy_is_read_by_transformers(bpe, tmp_path, name, content):
    bpe.save(tmp_path)
    path = tmp_path / name
    path.write_text(json.dumps((json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}) | content), encoding="utf-8")
    assert hub._read_copy(tmp_path) is None


def test_autotokenizer_encodes_a_saved_copy_to_the_same_ids(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    auto = AutoTokenizer.from_pretrained(tmp_path)
    assert (auto.bos_token_id, auto.eos_token_id) == (tokenizer.bos_id, tokenizer.eos_id)
    texts = standin.documents(40, seed=5)
    assert [auto.encode(text, add_special_tokens=False) for text in texts] == tokenizer.encode_batch(texts)


def test_fingerprint_depends_on_vocabulary_merges_and_special_ids_only(tmp_path, bpe):
    def fingerprint(name, edit):
        change(standin.make_tokenizer(tmp_path / name), edit)
        return load_tokenizer(tmp_path / name).fingerprint

    def rename_last_piece(d):
        d["model"]["merges"].pop()
        piece = max(d["model"]["vocab"], key=d["model"]["vocab"].get)
        d["model"]["vocab"]["नयापन"] = d["model"]["vocab"].pop(piece)

    swapped = config_without(standin.make_tokenizer(tmp_path / "swapped"), "eos_token")
    found = [
        bpe.fingerprint,
        fingerprint("pieces", rename_last_piece),
        fingerprint("merges", lambda d: d["model"].update(merges=d["model"]["merges"][:20])),
        load_tokenizer(swapped).fingerprint,
        load_tokenizer(standin.make_tokenizer(tmp_path / "other", vocab_size=600)).fingerprint,
    ]
    assert len(set(found)) == len(found)
    assert (
        fingerprint(
            "same", lambda d: d.update(padding=None, truncation={"direction": "Right", "max_length": 5, "strategy": "LongestFirst", "stride": 0})
        )
        == found[0]
    )
    assert len(found[0]) == 32
    int(found[0], 16)


def test_folder_is_loaded_without_network(tmp_path, monkeypatch):
    def no_network(*args, **kwargs):
        raise AssertionError("network access")

    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    monkeypatch.setattr(socket.socket, "connect", no_network)
    assert load_tokenizer(standin.make_tokenizer(tmp_path)).vocab_size == 640


def test_a_tokenizer_is_found_by_its_folder_its_file_or_the_model_beside_it(tmp_path):
    folder = standin.make_tokenizer(tmp_path / "model" / "tokenizer")
    (folder.parent / "model.pt").touch()
    (tmp_path / "code" / "tokenizer").mkdir(parents=True)  # as in the repository
    for name in (folder, folder / "tokenizer.json", folder.parent, folder.parent / "model.pt"):
        assert load_tokenizer(name).vocab_size == 640
    with pytest.raises(UserError, match=f"has no tokenizer, but folders in it have one; .* --tokenizer {re.escape(shell_quoted(folder.parent))}$"):
        load_tokenizer(tmp_path)


@pytest.mark.slow
def test_hub_tokenizer_without_tokenizer_json_is_built_from_its_vocabulary(tmp_path):
    """The cache of the hub then holds a marker that there is no such file."""
    folder = tmp_path / "repo"
    folder.mkdir()
    tokens = ["<|endoftext|>", *sorted(ByteLevel.alphabet())]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    (folder / "config.json").write_text('{"model_type": "gpt2"}', encoding="utf-8")
    special = {f"{kind}_token": tokens[0] for kind in ("bos", "eos", "unk")}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GPT2Tokenizer", **special}), encoding="utf-8")
    with Hub({"someone/bytes": folder}) as hub:
        code = "from nano_hindi.tokenizer import load_tokenizer; print(load_tokenizer('someone/bytes').vocab_size)"
        done = run_script("-c", code, **hub.environment(tmp_path / "home"))
    assert (done.returncode, done.stdout.strip()) == (0, str(len(tokens))), done.stderr


@pytest.mark.slow
def test_loading_prints_nothing_and_importing_has_no_side_effects(tmp_path):
    code = (
        "import os, sys; before = dict(os.environ)\n"
        "import nano_hindi.tokenizer\n"
        "assert dict(os.environ) == before and not {'transformers', 'tokenizers', 'torch', 'huggingface_hub'} & set(sys.modules)\n"
        "nano_hindi.tokenizer.load_tokenizer(sys.argv[1])"
    )
    done = run_script("-c", code, standin.make_tokenizer(tmp_path))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_half_a_surrogate_pair_and_other_tokenizer_types_are_refused(tmp_path, bpe):
    with pytest.raises(UserError, match="not valid Unicode"):
        bpe.encode_batch(["\ud83d"])
    change(standin.make_tokenizer(tmp_path), lambda d: d.update(decoder={"type": "WordPiece", "prefix": "##", "cleanup": True}))
    with pytest.raises(UserError, match="neither SentencePiece-style nor byte-level"):
        load_tokenizer(tmp_path)


def test_pre_tokenizer_of_tokenizer_json_is_kept(tmp_path):
    """tokenizer.json counts, even where a library version would rebuild the tokenizer."""
    folder = standin.make_tokenizer(tmp_path)
    change(folder, lambda d: d.update(pre_tokenizer={"type": "Digits", "individual_digits": True}))
    tokenizer = load_tokenizer(folder)
    tokenizer.save(tmp_path / "copy")
    ids = tokenizer.encode_batch(["1947"])[0]
    assert [tokenizer._backend.id_to_token(i) for i in ids][-3:] == ["9", "4", "7"]
    assert AutoTokenizer.from_pretrained(tmp_path / "copy").encode("1947", add_special_tokens=False) == ids


def test_added_token_of_a_byte_level_tokenizer_decodes_to_its_own_text(tmp_path):
    token = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    change(standin.make_tokenizer(tmp_path, kind="byte_level"), lambda d: d["added_tokens"].append({"id": 640, "content": "«é»", **token}))
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.decode([640]) == "«é»"
    assert tokenizer.token_bytes[640] == 6


# ---- files that the library cannot read: it would end the process, or panic


def set_last_id(i):
    return lambda d: d["model"]["vocab"].update({max(d["model"]["vocab"], key=d["model"]["vocab"].get): i})


def charsmap(units: list[int], replacements: bytes, size: int | None = None):
    """Return the change to a normalizer with a precompiled charsmap: the trie of `units`, the
    replacements, and the size of the trie if it is to be another."""
    raw = (4 * len(units) if size is None else size).to_bytes(4, "little") + np.array(units, dtype="<u4").tobytes() + replacements
    return normalizer(base64.b64encode(raw).decode())


def normalizer(text):
    precompiled = {"type": "Precompiled", "precompiled_charsmap": text}
    return lambda d: d.update(normalizer={"type": "Sequence", "normalizers": [d["normalizer"], precompiled]})


def trie(value: int) -> list[int]:
    """Return the double array that maps the byte `a` to `value`: the root at 0 has the target 256,
    the unit of `a` is at 256 ^ 97, its value at 0x300."""
    units = [0] * 1024
    units[0] = 256 << 10
    units[256 ^ 97] = 97 | 2**8 | (256 ^ 97 ^ 0x300) << 10
    units[0x300] = 2**31 | value
    return units


def unigram(d):
    vocab = d["model"]["vocab"]
    d["model"] = {"type": "Unigram", "vocab": [[token, -1.0] for token in sorted(vocab, key=vocab.get)], "unk_id": None, "byte_fallback": False}


UNREADABLE = {
    "an id of 2**31": (set_last_id(2**31), "is 2147483648, not a whole number from 0 to 16,777,215"),
    "an id of 400 million": (set_last_id(400_000_000), "is 400000000, not a whole number"),
    "a negative id": (set_last_id(-1), "is -1, not a whole number"),
    "true for an id": (set_last_id(True), "is True, not a whole number"),
    "an endless word for an id": (set_last_id("9" * 10**6), "9..."),
    "the same id twice": (set_last_id(400), "have the same id 400"),
    "a list for a file": (lambda d: d.clear(), "holds no readable tokenizer"),
    "Unigram without an unknown token": (unigram, "Encountered an unknown token"),
    "an unknown token outside the vocabulary": (lambda d: d["model"].update(unk_token="zzz", byte_fallback=False), "Unk token `zzz` not found"),
    "no charsmap": (normalizer(None), "precompiled_charsmap"),
    "an empty charsmap": (normalizer(""), "precompiled_charsmap"),
    "a charsmap that is not base64": (normalizer("!!!!"), "precompiled_charsmap"),
    "a charsmap cut in its trie": (charsmap(trie(1)[:9], b"\0b\0", size=4096), "precompiled_charsmap"),
    "a charsmap without a trie": (charsmap([], b"\0b\0"), "precompiled_charsmap"),
    "a trie whose root is outside": (charsmap([2**32 - 1, 0], b"\0b\0"), "precompiled_charsmap"),
    "a trie that leads outside": (charsmap([*trie(1)[:-1], 1023 << 12 | 2**9], b"\0b\0"), "precompiled_charsmap"),
    "a replacement outside": (charsmap(trie(7), b"\0b\0"), "precompiled_charsmap"),
    "a replacement inside a character": (charsmap(trie(2), "\0क\0".encode()), "precompiled_charsmap"),
    "replacements that are not UTF-8": (charsmap(trie(1), b"\0\xff\0"), "precompiled_charsmap"),
}


@pytest.mark.parametrize(("damage", "words"), UNREADABLE.values(), ids=UNREADABLE)
def test_tokenizer_that_the_library_cannot_read_is_one_line(tmp_path, capfd, damage, words):
    change(standin.make_tokenizer(tmp_path), damage)
    with pytest.raises(UserError, match=re.escape(words)) as refusal:
        load_tokenizer(tmp_path)
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 500 + len(str(tmp_path))
    assert capfd.readouterr() == ("", "")


def test_damaged_tokenizer_below_the_home_folder_is_not_called_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("USERPROFILE" if os.name == "nt" else "HOME", str(tmp_path))
    (tmp_path / "tokens").mkdir()
    (tmp_path / "tokens" / "tokenizer.json").write_text("[]")
    with pytest.raises(UserError, match=r"~/tokens holds no readable tokenizer \(tokenizer.json is not a JSON object\)"):
        load_tokenizer("~/tokens")


def test_vocabulary_in_a_file_of_its_own_is_checked_too(tmp_path):
    vocab = json.loads((standin.make_tokenizer(tmp_path, kind="byte_level") / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    (tmp_path / "vocab.json").write_text(json.dumps(vocab))
    assert load_tokenizer(tmp_path).vocab_size == 640
    (tmp_path / "vocab.json").write_text(json.dumps({**vocab, "a": 2**31}))
    with pytest.raises(UserError, match="the id of the token 'a' is 2147483648"):
        load_tokenizer(tmp_path)


def test_sound_charsmap_normalizes(tmp_path):
    change(standin.make_tokenizer(tmp_path), charsmap(trie(1), b"\0b\0"))
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.decode(tokenizer.encode_batch(["a cat"])[0]) == "b cbt"


def test_panic_of_the_library_is_a_user_error(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr("nano_hindi.tokenizer.definition_check._require_sound_charsmaps", lambda normalizer: None)
    change(standin.make_tokenizer(tmp_path), charsmap([2**32 - 1, 0], b""))
    with pytest.raises(UserError, match="cannot encode a text"):
        load_tokenizer(tmp_path)
    change(standin.make_tokenizer(tmp_path), normalizer("!!!!"))
    with pytest.raises(UserError, match="holds no readable tokenizer"):
        load_tokenizer(tmp_path)
