"""A long text that is encoded in parts has the ids of the whole."""

import random

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

import standin
from nano_hindi.tokenizer import Tokenizer as Ours
from nano_hindi.tokenizer import load_tokenizer, long_texts
from nano_hindi.tokenizer.training import train_tokenizer

# as in Llama 3: words with one character before them, digits by three, newlines with spaces before
# them, spaces but the last before a word
LLAMA3 = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPACE_TO_MARK = normalizers.Replace(" ", "▁")
MARK_TO_SPACE = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])


def changed(kind="bpe", **parts):
    """Return a stand-in tokenizer with another normalizer or pre-tokenizer."""
    backend = Tokenizer.from_str(standin._tokenizer_json(640, kind))
    for name, part in parts.items():
        setattr(backend, name, part)
    return Ours(backend, kind, 1 if kind == "bpe" else 0, None)


def learned(model, trainer, pre_tokenizer, normalizer=None):
    """Return a tokenizer of the SentencePiece style trained on stand-in documents."""
    backend = Tokenizer(model)
    backend.normalizer, backend.pre_tokenizer, backend.decoder = normalizer, pre_tokenizer, MARK_TO_SPACE
    backend.train_from_iterator(standin.documents(500, seed=3), trainer)
    backend.add_special_tokens(["<s>"])
    return Ours(backend, "learned", backend.token_to_id("<s>"), None)


def unigram(split):
    trainer = trainers.UnigramTrainer(vocab_size=600, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False)
    return learned(models.Unigram(), trainer, pre_tokenizers.Metaspace(split=split), normalizers.NFKC())


def across_words():
    """Return a BPE tokenizer with tokens of more than one word."""
    trainer = trainers.BpeTrainer(vocab_size=600, show_progress=False)
    return learned(models.BPE(), trainer, pre_tokenizers.Metaspace(split=False))


def with_added_tokens():
    backend = Tokenizer.from_str(standin._tokenizer_json(640, "byte_level"))
    backend.add_tokens(["  ", "    ", "को दो", "लिए"])
    return Ours(backend, "added", 0, None)


def llama3():
    split = pre_tokenizers.Split(Regex(LLAMA3), behavior="isolated")
    return changed(
        "byte_level",
        normalizer=normalizers.NFC(),
        pre_tokenizer=pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]),
    )


KINDS = {
    "sentencepiece": changed,
    "metaspace": lambda: changed(normalizer=None, pre_tokenizer=pre_tokenizers.Metaspace(split=False)),
    "metaspace that splits": lambda: changed(normalizer=None, pre_tokenizer=pre_tokenizers.Metaspace()),
    "gemma": lambda: changed(normalizer=SPACE_TO_MARK, pre_tokenizer=pre_tokenizers.Split(" ", "merged_with_previous"), decoder=MARK_TO_SPACE),
    "byte level": lambda: changed("byte_level"),
    "byte level with a dummy space": lambda: changed("byte_level", pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=True)),
    "llama 3": llama3,
    "unigram": lambda: unigram(split=True),
    "ours": lambda: train_tokenizer(standin.documents(500, seed=3), 640),
    "added tokens": with_added_tokens,
}
RARELY_CUT = {"unigram that does not split": lambda: unigram(split=False), "across words": across_words}


def hard_text(characters, seed):
    """Return random words of stand-in documents and of hard characters, with all kinds of spaces
    between them."""
    draw = random.Random(seed)
    words = [word for text in standin.documents(50, seed=5) for word in text.split()]
    letters = [*"कखिी्ंज़\u200c\u200dabZ019.,।'’“-▁ꣻé\u0301\u0900ﬁ½👩🌾\ue000\U0010ffff\x00\ufeff", "</s>", "<s>", "<0x41>", "को दो"]
    spaces = [*[" "] * 40, "  ", "   ", " " * 7, "\n", "\n\n", " \n", "\n ", "\t", "\r\n", "\u00a0", "\u3000", "", " ि", " \u0301", " ▁", "▁ "]
    found, size = [], 0
    while size < characters:
        word = draw.choice(words) if draw.random() < 0.6 else "".join(draw.choices(letters, k=draw.randint(1, 9)))
        found += [word, draw.choice(spaces)]
        size += len(word) + 1
    return "".join(found)


@pytest.mark.parametrize("kind", [*KINDS, *RARELY_CUT])
def test_ids_of_the_parts_are_those_of_the_whole(kind, monkeypatch):
    tokenizer = (KINDS | RARELY_CUT)[kind]()
    monkeypatch.setattr(long_texts, "PART", 400)
    texts = [hard_text(15_000, seed=1), "x", " " + hard_text(5_000, seed=2), "", " ".join(standin.documents(30, seed=4))]
    assert tokenizer.encode_batch(texts) == tokenizer.encode_whole(texts)
    parts = [len(list(long_texts._parts(tokenizer, text))) for text in texts]
    assert parts[1] == parts[3] == 1
    assert min(parts[::2]) > 5 or kind not in KINDS
    assert max(parts) == 1 or kind != "unigram that does not split"


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_ids_of_a_text_of_megabytes_are_those_of_the_whole(kind):
    tokenizer = KINDS[kind]()
    text = hard_text(600_000, seed=8)
    text += "\n" * 150_000 + " " * 150_000 + "क" * 150_000 + " ".join(standin.documents(1000, seed=9))
    assert len(text.encode()) > 2_000_000
    assert tokenizer.encode_batch([text]) == tokenizer.encode_whole([text])
    assert max(map(len, long_texts._parts(tokenizer, text))) < 600_000


@pytest.mark.parametrize("text", ["क" * 5000, " " * 5000, "\n" * 5000, "क\n" * 2500, "क  " * 2000, "क ि" * 2000])
def test_text_without_a_space_between_words_is_not_cut(text, monkeypatch):
    tokenizer = changed()
    monkeypatch.setattr(long_texts, "PART", 400)
    assert list(long_texts._parts(tokenizer, text)) == [text]
    assert tokenizer.encode_batch([text]) == tokenizer.encode_whole([text])


def test_tokens_of_two_words_that_pair_up_from_the_first_word_on_are_not_parted(monkeypatch):
    """Around a cut, the ids are the same in two parts: what decides is far away, whether the number
    of words before it is even."""
    vocab = {token: i for i, token in enumerate(["<s>", "▁", "क", "ख", "▁क", "▁ख", "▁क▁क"])}
    backend = Tokenizer(models.BPE(vocab, [("▁", "क"), ("▁", "ख"), ("▁क", "▁क")]))
    backend.normalizer, backend.decoder = normalizers.Sequence([normalizers.Prepend("▁"), SPACE_TO_MARK]), MARK_TO_SPACE
    tokenizer = Ours(backend, "pairs", 0, None)
    text = "ख" + " क" * 5000
    monkeypatch.setattr(long_texts, "PART", 3000)
    monkeypatch.setattr(long_texts, "_before_spaces", lambda tokenizer: frozenset())
    assert tokenizer.encode_batch([text]) != tokenizer.encode_whole([text])
    monkeypatch.undo()
    monkeypatch.setattr(long_texts, "PART", 3000)
    assert tokenizer.encode_batch([text]) == tokenizer.encode_whole([text])


@pytest.mark.slow
def test_kitoken_encodes_long_texts_in_parts_too(monkeypatch, tmp_path):
    pytest.importorskip("kitoken", reason="needs kitoken, which has no wheel for this machine")
    tokenizer = load_tokenizer(standin.make_tokenizer(tmp_path))
    text = hard_text(6_000, seed=6)
    expected = tokenizer.encode_whole([text])
    assert tokenizer.encode_faster([text])
    monkeypatch.setattr(long_texts, "PART", 400)
    assert tokenizer.encode_batch([text]) == expected


def test_half_a_surrogate_pair_in_a_long_text_is_a_user_error(monkeypatch, tmp_path):
    monkeypatch.setattr(long_texts, "PART", 400)
    with pytest.raises(ValueError, match="half a surrogate pair"):
        changed().encode_batch(["क \ud800 क" * 200])
