"""`--train_tokenizer`: a tokenizer of Sarvam-1's kind, trained only on the corpus."""

import itertools
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest

import standin
from cuts import cuts, tokens_that_begin_with_a_mark
from data import preprocess
from nano_hindi.console import count
from nano_hindi.corpus.prepared import check_data
from nano_hindi.sample import stories
from nano_hindi.tokenizer import training
from nano_hindi.tokenizer.training import MIN_VOCABULARY, train_tokenizer

ROOT = Path(__file__).resolve().parents[1]
VOCABULARY = 700
HARD = [
    "क्‍या ज़रूरत है? पढ़ाई, ड़र और फ़सल।",  # ZWJ and nukta
    "  two spaces first\n\n\tand a tab  ",
    "१२३ 1,234.5 👩‍🌾 </s> <unk> <0x41> €",
    "श्रीमान् क्षत्रिय ज्ञान त्र्यंबक",
    "स्त्र्ङ्क्ष्म्यौँः ि्क क‌ा ़ािं ङ्\u200d",  # rare conjuncts, marks without a letter
    "कि\ue000ताब \uf8ff \U000f0000",  # private-use characters
    "café e\u0323\u0308 தமிழ் ক্ষ עִבְרִית 한국어 ﬁ",
    "",
]
PRIVATE = set(map(chr, range(0xE000, 0xF900)))


def nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(standin.documents(2000), VOCABULARY)


def tokens(tokenizer, text: str) -> list[str]:
    return [tokenizer.piece(i) for i in tokenizer.encode_batch([text])[0]]


@pytest.mark.parametrize("size", [MIN_VOCABULARY, 601, 1400])
def test_trained_tokenizer_has_exactly_the_given_size(size):
    trained = train_tokenizer(standin.documents(2000), size)
    assert trained.vocab_size == size
    assert all(trained.piece_bytes[3:])
    assert all(trained.decode(trained.encode_batch([text])[0]) == text for text in map(nfc, HARD))


def test_trained_tokenizer_has_the_special_tokens_of_its_kind(tokenizer):
    assert (tokenizer.bos_id, tokenizer.eos_id) == (1, 2)
    assert tokenizer.special_ids == {0, 1, 2}


@pytest.mark.parametrize("text", HARD)
def test_any_text_round_trips_and_its_bytes_add_up(tokenizer, text):
    ids = tokenizer.encode_batch([text])[0]
    assert tokenizer.decode(ids) == nfc(text)
    assert 0 not in ids
    dummy = 1 if text else 0
    assert tokenizer.token_bytes[ids].sum() == len(nfc(text).encode()) + dummy


def test_word_boundary_never_separates_a_letter_from_its_marks():
    """A corpus of one frequent word for each kind of mark: each becomes a single token, which a
    boundary inside it would make impossible."""
    words = ["क़लम", "हिन्दी", "क्षमा", "क्‍या", "चाँद", "दुःख", "ज़मीन", "न्‌ह"]
    trained = train_tokenizer([" ".join(words)] * 500, 600)
    for word in words:
        assert any(unicodedata.category(c) in ("Mn", "Mc", "Cf") for c in word)
        assert len(trained.encode_batch([word])[0]) == 1, word


def test_few_cuts_stand_before_a_mark_for_hardly_more_tokens():
    told = stories()
    train, unseen = ([nfc(text) for text in itertools.islice(told, n)] for n in (2000, 200))
    plain, ours = train_tokenizer(train, 1500, aksharas=0), train_tokenizer(train, 1500)
    expected, found = cuts(plain, unseen), cuts(ours, unseen)
    assert found.tokens < 1.02 * expected.tokens
    assert expected.before_mark > 0.2 * expected.inside
    assert found.before_mark < 0.12 * found.inside
    assert found.in_akshara < 0.7 * expected.in_akshara
    assert 2 * tokens_that_begin_with_a_mark(ours) < tokens_that_begin_with_a_mark(plain)


def test_rare_conjunct_is_cut_before_a_letter_not_before_its_matra():
    trained = train_tokenizer(["ब्र-" * 99 + "री-रैं-त्री-ब्-" * 9, "ब्रैं-ब्त्री"], MIN_VOCABULARY)
    assert tokens(trained, "-त्री") == ["▁", "-", "त्री"]
    assert tokens(trained, "-ब्रैं")[2:] == ["ब्", "रैं"]
    assert tokens(trained, "-ब्त्री")[2:] == ["ब्", "त्री"]


def test_words_are_encoded_as_they_were_learned(monkeypatch):
    """Compare the encoder of characters, whose first merges build aksharas, with the trainer's own,
    which reads an akshara as one character."""
    calls = {}

    def recorded(name):
        original = getattr(training, name)
        return lambda *args: calls.setdefault(name, (args, original(*args)))[1]

    for name in ("_in_symbols", "_spelled_out"):
        monkeypatch.setattr(training, name, recorded(name))
    texts = list(map(nfc, [*standin.documents(1000), *itertools.islice(stories(), 500), *HARD]))
    trained = train_tokenizer(texts, 1500)
    (learner, _, symbols), _ = calls["_spelled_out"]
    written = calls["_in_symbols"][1]
    assert sum(len(symbol) > 1 for symbol in written.values()) > 100  # aksharas of more than one token are among them
    spelling = {ord(symbol): token for token, symbol in symbols.items()}
    words = [word for word in {word for text in texts for word in text.split()} if not set(word) & (PRIVATE | {"<"})]
    learned = learner.encode_batch([training._AKSHARA.sub(lambda match: written[match[0]], word) for word in words])
    for word, encoding, ids in zip(words, learned, trained.encode_batch(words), strict=True):
        expected = [token.translate(spelling) for token in encoding.tokens]
        assert [token for token in map(trained.piece, ids) if not token.startswith("<0x")] == expected, word  # the trainer has no bytes


@pytest.mark.parametrize(
    "unit", ["क", "a", "क्", "क़्\u200dत्रीं", "ि", "த்", "가", "-", " ", "\n", "▁", "👩\u200d", "\ue000"], ids=lambda unit: ascii(unit)[1:-1]
)
def test_long_text_without_a_space_is_cut_into_short_words_between_aksharas(unit):
    """The work of BPE grows faster than a word: 200,000 letters without a space took minutes."""
    text = unit * (200_000 // len(unit))
    trained = train_tokenizer([*standin.documents(100), text], 700)
    assert trained.decode(trained.encode_batch([text])[0]) == text.replace("▁", " ")
    words = [word for word, _ in trained._backend.pre_tokenizer.pre_tokenize_str(text.replace(" ", "▁"))]
    assert "".join(words) == text.replace(" ", "▁")
    assert max(map(len, words)) <= 1 + 64 * 16
    assert not unit[0].isalpha() or all(word.startswith(unit[0]) for word in words)


def test_private_use_characters_of_a_corpus_are_not_taken_for_aksharas():
    texts = standin.documents(500)
    private = "".join(map(chr, range(0xE000, 0xF900)))
    trained = train_tokenizer([f"{text} {private} क{private}ख" for text in texts], 800)
    assert trained.fingerprint == train_tokenizer([f"{text}   क ख" for text in texts], 800).fingerprint
    assert not any(set(trained.piece(i)) & PRIVATE for i in range(trained.vocab_size))
    assert trained.decode(trained.encode_batch([private + texts[0]])[0]) == private + texts[0]


def test_punctuation_and_digits_are_words_of_their_own():
    trained = train_tokenizer(["घर। घर, 2024 घर? 2024"] * 500, 600)
    assert trained.decode(trained.encode_batch(["घर"])[0]) == "घर"
    assert len(trained.encode_batch(["घर।"])[0]) == 2
    assert len(trained.encode_batch(["2024"])[0]) == 4


def test_same_corpus_gives_the_same_tokenizer_in_every_process():
    """With more equally rare characters and aksharas than there is room for."""
    command = """
from nano_hindi.tokenizer.training import train_tokenizer
rare = "".join(letter + "ीं " for letter in "कखगघचछजझटठडढणतथदधनपफबभमयरलवशषसह") + "".join(map(chr, range(0x4E00, 0x5200)))
print(train_tokenizer([rare, rare], 600).fingerprint)
"""
    run = [
        subprocess.run([sys.executable, "-c", command], env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}, capture_output=True) for seed in "12"
    ]
    fingerprints = [done.stdout.splitlines()[-1] for done in run]
    assert fingerprints[0] == fingerprints[1]
    assert len(fingerprints[0]) == 32


def test_only_the_beginning_of_a_large_corpus_is_read(monkeypatch):
    """Memory holds what is read."""
    texts = standin.documents(300)
    monkeypatch.setattr(training, "TRAINING_CHARACTERS", sum(map(len, texts[:200])) + 9)
    documents = iter(texts)
    assert train_tokenizer(documents, 600).fingerprint == train_tokenizer([*texts[:200], texts[200][:9]], 600).fingerprint
    assert list(documents) == texts[201:]


def test_rare_characters_leave_half_of_the_vocabulary_to_longer_tokens():
    trained = train_tokenizer([*standin.documents(300), *["".join(map(chr, range(0x4E00, 0x5200)))] * 2], 700)
    lengths = [len(trained.piece(i)) for i in range(len(training.FIXED), 700)]
    assert 0 < lengths.count(1) <= len(lengths) // 2


def test_training_shows_its_progress(capsys):
    texts = standin.documents(100)
    train_tokenizer(texts, 600)
    read, learned = capsys.readouterr().out.splitlines()
    size = count(sum(map(len, texts)))
    assert read.startswith(f"reading text for the tokenizer: {size} characters (")
    assert learned.startswith(f"training the tokenizer: {size}/{size} characters (")


def test_hindi_takes_fewer_tokens_than_letters(tokenizer):
    text = " ".join(standin.documents(100, seed=9))
    assert len(tokenizer.encode_batch([text])[0]) < 0.6 * len(text)


def test_autotokenizer_loads_a_trained_tokenizer_and_adds_bos(tokenizer, tmp_path):
    from transformers import AutoTokenizer

    tokenizer.save(tmp_path)
    auto = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    text = "भारत एक देश है।"
    assert auto.encode(text) == [1, *tokenizer.encode_batch([text])[0]]
    assert auto.decode(auto.encode(text), skip_special_tokens=True) == text


def test_transformers_and_kitoken_give_the_ids_of_training(tokenizer, tmp_path):
    pytest.importorskip("kitoken", reason="needs kitoken, which has no wheel for this machine")
    from transformers import PreTrainedTokenizerFast

    texts = [*HARD, *standin.documents(300, seed=5), *itertools.islice(stories(), 50), "क" * 3000, "क्" * 3000, "की" * 500 + "x" * 500]
    expected = tokenizer.encode_batch(texts)
    tokenizer.save(tmp_path)
    fast = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    assert [fast.encode(text, add_special_tokens=False) for text in texts if "</s>" not in text] == [
        ids for text, ids in zip(texts, expected, strict=True) if "</s>" not in text
    ]
    assert tokenizer.encode_faster(texts)
    assert tokenizer.encode_batch(texts) == expected
    tokenizer._fast = None  # the fixture's own encoder again


def test_preprocess_trains_a_tokenizer_and_training_accepts_the_data(tmp_path):
    standin.write_corpus(tmp_path / "corpus.txt", standin.documents(500))
    argv = ["--input", str(tmp_path / "corpus.txt"), "--output_dir", str(tmp_path / "out"), "--val_fraction", "0.1", "--train_tokenizer"]
    assert preprocess.main([*argv, "600"]) == 0
    assert check_data(tmp_path / "out").vocab_size == 600
    assert preprocess.main([*argv, "650"]) == 0  # again, replacing the first
    assert check_data(tmp_path / "out").vocab_size == 650
