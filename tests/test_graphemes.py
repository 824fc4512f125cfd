"""Whole characters: against the grapheme clusters of another library, and against a list of what
readers take for one."""

import itertools
import random

from conftest import assert_parted_between_characters
from nano_hindi.tokenizer.graphemes import Clusters

ONE = [  # each is one character to its reader
    *("क", "कि", "की", "कं", "क़", "क़ि", "ज़्यादा"[:3], "क्ष", "क्षि", "त्र", "ज्ञ", "श्री", "र्क", "द्ध्व", "स्त्र्य", "र्त्स्न्य", "ट्रां"),
    *("क्\u200d", "क्\u200dष", "क्\u200cष", "र्\u200dय", "ক্ষ", "க்", "é", "e\u0301", "e\u0301\u0323"),
    *("👩", "👍🏽", "👩\u200d🌾", "👩🏽\u200d🌾", "👨\u200d👩\u200d👧\u200d👦", "❤️\u200d🔥", "🏳️\u200d🌈", "🇮🇳", "🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f", "1️⃣", "#⃣", "☎︎"),
    *(" ", "\n", "\r\n", "।", "\ufffd", "a", "中"),
]  # fmt: skip
PARTS = sorted(set("".join(ONE)) | set("अषणय०ॐऽ,-\t\u00a0\x00\u200b\U0001f1eb"))


def pieces_of(chunks) -> list[str]:
    clusters = Clusters()
    return [clusters.push(chunk) for chunk in chunks] + [clusters.flush()]


def test_characters_are_never_split():
    for character in ONE:
        for follower in ("अ", " ", "x", "👩", "🇮🇳", "\n"):
            is_open = character.endswith(("\u200d", "्", "்"))  # for the letter or emoji that may follow
            if follower.isspace() or not is_open:
                assert [p for p in pieces_of(character + follower) if p] == [character, follower], (character, follower)
        assert pieces_of(character) == [""] * len(character) + [character]


def test_flags_pair_from_the_left():
    assert [p for p in pieces_of("🇮🇳🇫🇷🇮") if p] == ["🇮🇳", "🇫🇷", "🇮"]


def test_random_chunks_are_split_between_characters_and_join_to_the_whole():
    rng = random.Random(0)
    for _ in range(3000):
        text = "".join(rng.choice(PARTS) if rng.random() < 0.7 else rng.choice(ONE) for _ in range(rng.randint(1, 30)))
        cuts = sorted(rng.choices(range(len(text) + 1), k=rng.randint(0, 30)))
        pieces = pieces_of(text[a:b] for a, b in itertools.pairwise([0, *cuts, len(text)]))
        assert "".join(pieces) == text
        assert_parted_between_characters(pieces)
        assert [p for p in pieces_of(text) if p] == characters_of(text)


def characters_of(text: str) -> list[str]:
    """The finest pieces, which do not depend on where the text was cut."""
    clusters = Clusters()
    return [piece for char in text if (piece := clusters.push(char))] + [clusters.flush()]


def test_only_the_last_character_is_held_back():
    clusters, shown = Clusters(), ""
    for char in "भारत एक विशाल देश है।":
        shown += clusters.push(char)
    assert shown == "भारत एक विशाल देश है"
    assert clusters.flush() == "।"
    assert clusters.push("") == clusters.flush() == ""
