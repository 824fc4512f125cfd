"""The rules of --clean: what each removes, what none may remove, and the counts."""

import random
import unicodedata

import pytest

from nano_hindi.corpus.cleaning import Cleaner, Seen

GOOD = "एक गाँव में मोहन नाम का एक लड़का रहता था। वह रोज़ नदी के किनारे जाता था और मछलियों को दाना डालता था।"
MOJIBAKE = GOOD.encode().decode("latin-1")


def clean(text: str) -> tuple[str | None, dict[str, int]]:
    cleaner = Cleaner()
    result = cleaner(text)
    return result, {rule: count.documents for rule, count in cleaner.counts.items() if count.documents}


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        GOOD + "\n\n\tक्‍या और न्‌ह, 2024 में १२३ रुपये 👩‍🌾 €!",  # joiners, an emoji of three code points, both kinds of digits, tab and empty line
        GOOD + " The river is long.",
        GOOD + " \ufffd" if len(GOOD) > 1000 else GOOD,
        GOOD.replace("।", "॥"),
        "ॐ " * 40 + GOOD,
    ],
)
def test_good_hindi_is_unchanged(text):
    assert clean(text) == (text, {})


@pytest.mark.parametrize(
    ("text", "mended", "rule"),
    [
        ("\ufeff" + GOOD, GOOD, "control characters"),
        (GOOD + "\r\nदो\rतीन", GOOD + "\nदो\nतीन", "control characters"),
        (GOOD[:20] + "\x00\x1b\u200b\u200e\u00ad" + GOOD[20:], GOOD, "control characters"),
        (GOOD.replace("ड़", "\u095c"), GOOD, "not NFC"),  # a letter that NFC decomposes
        (unicodedata.normalize("NFD", GOOD + " café"), GOOD + " café", "not NFC"),
    ],
)
def test_text_is_repaired(text, mended, rule):
    assert clean(text) == (mended, {rule: 1})


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (MOJIBAKE, "broken encoding"),
        (GOOD[:30] + "\ufffd" + GOOD[30:], "broken encoding"),
        (GOOD + "\ud800", "broken encoding"),
        ("The river is long, and the farmer sells mangoes at the market. " * 3 + GOOD[:40], "not Devanagari"),
        ("12345 67890 !!! " * 10, "not Devanagari"),
        ("আমার সোনার বাংলা, আমি তোমায় ভালোবাসি। চিরদিন তোমার আকাশ, তোমার বাতাস", "not Devanagari"),
        ("", "not Devanagari"),
        ("होम | संपर्क", "too short"),
    ],
)
def test_text_is_dropped(text, rule):
    result, counts = clean(text)
    assert result is None
    assert counts[rule] == 1


def test_digits_and_punctuation_do_not_count_as_another_script():
    assert clean(GOOD + " 1234567890" * 30)[0] is not None


def test_duplicates_are_found_after_cleaning_and_across_a_resume():
    cleaner = Cleaner()
    assert [cleaner(text) is None for text in (GOOD, GOOD + "\r", GOOD + " ", GOOD)] == [False, False, False, True]
    assert cleaner("\ufeff" + GOOD) is None
    assert cleaner.counts["duplicate"].documents == 2
    again = Cleaner()
    again.remember(GOOD)
    assert again(GOOD) is None


def test_byte_counts_of_all_rules_add_up_to_the_bytes_removed():
    rng = random.Random(0)
    texts = [GOOD[rng.randrange(40) :] + rng.choice(["", "\x00", "\u095c", MOJIBAKE, "\r\n", " hello" * 60]) for _ in range(300)]
    cleaner = Cleaner()
    kept = [cleaned for text in texts if (cleaned := cleaner(text)) is not None]
    size = sum(len(text.encode()) for text in texts) - sum(len(text.encode()) for text in kept)
    assert sum(count.bytes for count in cleaner.counts.values()) == size
    dropped = sum(cleaner.counts[rule].documents for rule in ("broken encoding", "not Devanagari", "too short", "duplicate"))
    assert dropped == len(texts) - len(kept)
    assert len(kept) == len(set(kept))
    assert len(cleaner.lines()) == len(cleaner.counts) + 1
    assert Cleaner.recorded({key: str(value) for key, value in cleaner.metadata().items()}).counts == cleaner.counts
    assert sum(value for key, value in cleaner.metadata().items() if key.endswith("bytes")) == size


def test_text_set_behaves_like_a_set():
    rng, seen, known = random.Random(1), Seen(), set()
    for _ in range(20_000):
        text = str(rng.randrange(9_000))
        assert seen.add(text) == (text not in known)
        known.add(text)
