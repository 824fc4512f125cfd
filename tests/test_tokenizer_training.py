"""`--train_tokenizer`: a tokenizer of Sarvam-1's kind, trained only on the corpus."""

import unicodedata

import pytest

import standin
from data import preprocess
from nano_hindi.corpus.documents import write_document
from nano_hindi.corpus.prepared import check_data
from nano_hindi.errors import UserError
from nano_hindi.tokenizer.training import train_tokenizer

VOCABULARY = 700
HARD = [
    "क्‍या ज़रूरत है? पढ़ाई, ड़र और फ़सल।",  # ZWJ and nukta
    "  two spaces first\n\n\tand a tab  ",
    "१२३ 1,234.5 👩‍🌾 </s> <unk> <0x41> €",
    "श्रीमान् क्षत्रिय ज्ञान त्र्यंबक",
    "",
]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(standin.documents(2000), VOCABULARY)


def pieces(tokenizer, text: str) -> list[str]:
    return [tokenizer.decode([i]) for i in tokenizer.encode_batch([text])[0]]


def test_trained_tokenizer_has_the_given_size_and_the_special_tokens_of_its_kind(tokenizer):
    assert tokenizer.vocab_size == VOCABULARY
    assert (tokenizer.bos_id, tokenizer.eos_id) == (1, 2)
    assert tokenizer.special_ids == {0, 1, 2}


@pytest.mark.parametrize("text", HARD)
def test_any_text_round_trips_and_its_bytes_add_up(tokenizer, text):
    ids = tokenizer.encode_batch([text])[0]
    assert tokenizer.decode(ids) == text
    assert 0 not in ids
    dummy = 1 if text else 0
    assert tokenizer.token_bytes()[ids].sum() == len(text.encode()) + dummy


def test_word_boundary_never_separates_a_letter_from_its_marks():
    """A corpus of one frequent word for each kind of mark: each becomes a single token, which a
    boundary inside it would make impossible."""
    words = ["क़लम", "हिन्दी", "क्षमा", "क्‍या", "चाँद", "दुःख", "ज़मीन", "न्‌ह"]
    trained = train_tokenizer([" ".join(words)] * 500, 600)
    for word in words:
        assert any(unicodedata.category(c) in ("Mn", "Mc", "Cf") for c in word)
        assert len(trained.encode_batch([word])[0]) == 1, word


def test_punctuation_and_digits_are_words_of_their_own():
    trained = train_tokenizer(["घर। घर, 2024 घर? 2024"] * 500, 600)
    assert trained.decode(trained.encode_batch(["घर"])[0]) == "घर"
    assert len(trained.encode_batch(["घर।"])[0]) == 2
    assert len(trained.encode_batch(["2024"])[0]) == 4


def test_same_corpus_gives_the_same_tokenizer(tokenizer):
    assert train_tokenizer(standin.documents(2000), VOCABULARY).fingerprint() == tokenizer.fingerprint()


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


def test_preprocess_trains_a_tokenizer_and_training_accepts_the_data(tmp_path):
    with open(tmp_path / "corpus.txt", "wb") as file:
        for text in standin.documents(500):
            write_document(file, text)
    argv = ["--input", str(tmp_path / "corpus.txt"), "--output_dir", str(tmp_path / "out"), "--val_fraction", "0.1", "--train_tokenizer"]
    assert preprocess.main([*argv, "600"]) == 0
    assert check_data(tmp_path / "out").vocab_size == 600
    assert preprocess.main([*argv, "650"]) == 0  # again, replacing the first
    assert check_data(tmp_path / "out").vocab_size == 650


@pytest.mark.parametrize(
    ("flags", "words"), [(["--train_tokenizer", "300"], "too small"), (["--train_tokenizer", "600", "--tokenizer", "x"], "not allowed with")]
)
def test_user_error_is_one_line(tmp_path, capsys, flags, words):
    (tmp_path / "corpus.txt").write_text("एक\n<|endoftext|>\nदो\n", encoding="utf-8")
    assert preprocess.main(["--input", str(tmp_path / "corpus.txt"), "--output_dir", str(tmp_path / "out"), *flags]) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    assert words in errors
    assert not (tmp_path / "out").exists()


def test_training_a_tokenizer_on_empty_documents_is_refused():
    with pytest.raises(UserError, match="no text"):
        train_tokenizer([], 600)
