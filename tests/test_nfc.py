"""The fast NFC of Hindi is that of Unicode."""

import random
import unicodedata

import standin
from nano_hindi.tokenizer.nfc import to_nfc


def test_random_strings_are_put_in_nfc():
    """Of letters with a nukta, all marks around it, and characters that compose in other ways."""
    draw = random.Random(0)
    letters = [chr(c) for c in range(0x900, 0x980)] + [*"\u093c\u094d\u0928\u0915" * 9]
    letters += [*"\u0301\u0323\u0334\u1cd4\u1ce2\u20d8 eé\u1100\u1161\u11a8가\u212b\u09c7\u09be\u3099か"]
    texts = ["".join(draw.choices(letters, k=draw.randint(0, 5))) for _ in range(100_000)]
    expected = [unicodedata.normalize("NFC", text) for text in texts]
    assert [to_nfc(text) for text in texts] == expected
    assert 10_000 < sum(text == normalized for text, normalized in zip(texts, expected, strict=True)) < 90_000


def test_text_in_nfc_is_not_rebuilt():
    texts = [unicodedata.normalize("NFC", text) for text in standin.documents(200)]
    assert any("\u093c" in text for text in texts)
    assert all(to_nfc(text) is text for text in texts)
