"""Whole characters: against a list of what readers take for one, and in texts that arrive in
chunks of any length."""

import itertools
import random
import sys
import threading
from types import SimpleNamespace

import pytest

from conftest import assert_parted_between_characters
from nano_hindi import engine
from nano_hindi.chat.template import STOP, until_stop
from nano_hindi.inference import text as inference_text
from nano_hindi.inference.settings import Settings
from nano_hindi.inference.text import AnswerStream, TextStream, stream_texts

ONE = [  # each is one character to its reader
    *("क", "कि", "की", "कं", "क़", "क़ि", "ज़्यादा"[:3], "क्ष", "क्षि", "त्र", "ज्ञ", "श्री", "र्क", "द्ध्व", "स्त्र्य", "र्त्स्न्य", "ट्रां"),
    *("क्\u200d", "क्\u200dष", "क्\u200c", "न\u200d", "र्\u200dय", "ক্ষ", "க்", "é", "e\u0301", "e\u0301\u0323"),
    *("👩", "👍🏽", "👩\u200d🌾", "👩🏽\u200d🌾", "👨\u200d👩\u200d👧\u200d👦", "❤️\u200d🔥", "🏳️\u200d🌈", "🇮🇳", "🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f", "1️⃣", "#⃣", "☎︎"),
    *(" ", "\n", "\r\n", "।", "\ufffd", "a", "中"),
]  # fmt: skip
PARTS = sorted(set("".join(ONE)) | set("अषणय०ॐऽ,-\t\u00a0\x00\u200b\U0001f1eb"))


def pieces_of(chunks) -> list[str]:
    """What a stream returns for tokens that are these texts, and for the end."""
    chunks = list(chunks)
    stream = TextStream(SimpleNamespace(piece_bytes=[chunk.encode() for chunk in chunks], has_dummy_space=False))
    return [stream.push(i) for i in range(len(chunks))] + [stream.flush()]


def test_characters_are_never_split():
    for character in ONE:
        for follower in ("अ", " ", "x", "👩", "🇮🇳", "\n"):
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
        assert ends(pieces) <= ends(pieces_of(text))  # wherever the text was cut


def ends(pieces) -> set[int]:
    return set(itertools.accumulate(map(len, pieces)))


def test_character_is_shown_as_soon_as_the_next_begins():
    rng = random.Random(1)
    closed = [character for character in ONE if not character.endswith(("्", "்", "\u200d", "🇮🇳", "\n"))]  # the next one never joins these
    for _ in range(1000):
        characters = rng.choices(closed, k=10)
        cuts = sorted(rng.choices(range(len("".join(characters)) + 1), k=8))
        shown = itertools.accumulate(pieces_of("".join(characters)[a:b] for a, b in itertools.pairwise([0, *cuts])))
        for end, text in zip(cuts, shown, strict=False):
            begun = sum(start < end for start in itertools.accumulate(map(len, characters[:-1]), initial=0))
            assert text == "".join(characters[: max(0, begun - 1)])


@pytest.mark.parametrize("cluster", ["क" + "\u0301" * 2000, "क्" * 1000, "👩\u200d" * 1000])
def test_endless_cluster_is_returned_whole_in_linear_time(cluster, monkeypatch):
    """As a prompt, and as what a model writes: the characters that the regex reads are counted."""
    findall, read = inference_text.regex.compile(r"\X").findall, []
    monkeypatch.setattr(
        inference_text, "regex", SimpleNamespace(compile=lambda _: SimpleNamespace(findall=lambda text: read.append(len(text)) or findall(text)))
    )
    ids, n = list(cluster.encode()), len(cluster)
    tokenizer = SimpleNamespace(
        piece_bytes=[bytes([byte]) for byte in range(256)], has_dummy_space=False, encode_open=lambda _: (ids, None), eos_id=0
    )
    stream = AnswerStream(tokenizer, prompt=ids, skipped=n)
    assert sum(read) == n
    read.clear()
    assert "".join(map(stream.push, ids)) + stream.flush() == cluster
    assert max(read) < 100
    read.clear()
    monkeypatch.setattr(engine, "generate_batch", lambda *_, **__: [])
    assert "".join(new for (new,) in stream_texts(None, tokenizer, cluster, Settings(), 1, threading.Event())) == cluster
    assert sum(read) == n


def test_answer_ends_before_a_stop_text_and_is_stripped_however_it_is_cut_into_tokens():
    """Against the whole text. Its prompt, which may end inside a character, is left out."""
    rng, stops = random.Random(0), ("\n### सहायक:", "\n### क", "क##")
    pieces = ["\n", "#", " ", "सहायक", ":", "क", "### ", "अ ", "ि", "\n\n", "क\n### क\n### सहायक: अ"]
    tokenizer = SimpleNamespace(piece_bytes=[piece.encode() for piece in pieces], has_dummy_space=False)
    stopped = 0
    for is_chat in (False, True):
        for _ in range(8000):
            prompt, ids = ([5, 8, 2][: rng.randrange(4)], rng.choices(range(len(pieces)), k=rng.randrange(14)))
            stream = AnswerStream(tokenizer, stops[is_chat:], is_chat, prompt, skipped=len(prompt))
            shown = [text for text in map(stream.push, ids) if text]
            stopped += stream.has_stopped
            whole = "".join(pieces[i] for i in ids)
            for stop in stops[is_chat:]:
                whole = whole.partition(stop)[0]
            assert "".join(shown) + stream.flush() == (until_stop(whole) if is_chat else whole)
    assert stopped > 100


@pytest.mark.parametrize("answer", ["अ", ""])
def test_stop_text_that_ends_within_a_marker_leaves_nothing_of_the_marker(answer):
    for marker in STOP:
        pieces = sorted({*marker, "अ"})
        tokenizer = SimpleNamespace(piece_bytes=[piece.encode() for piece in pieces], has_dummy_space=False)
        for begin, end in itertools.combinations(range(len(marker) + 1), 2):
            stream = AnswerStream(tokenizer, [marker[begin:end]], is_chat=True)
            assert "".join(stream.push(pieces.index(character)) for character in answer + marker) + stream.flush() == answer


def test_what_may_begin_a_stop_text_is_held_back_in_whole_characters():
    """Of प्रा, the stop text राम: holds back more than रा."""
    rng, stops = random.Random(0), ["राम:", "ीता", "ा ब"]
    pieces = ["प्", "रा", "म", ":", "स", "ीत", "ा", " ", "ब", "🇮🇳"]
    tokenizer = SimpleNamespace(piece_bytes=[piece.encode() for piece in pieces], has_dummy_space=False)
    for _ in range(3000):
        ids = rng.choices(range(len(pieces)), k=12)
        stream, whole = AnswerStream(tokenizer, stops), "".join(pieces[i] for i in ids)
        shown = [*map(stream.push, ids), stream.flush()]
        assert "".join(shown) == whole[: min(i for i in (*map(whole.find, stops), len(whole)) if i >= 0)]
        assert_parted_between_characters(shown)


def test_work_for_a_token_is_the_same_for_a_stop_text_of_any_length():
    tokenizer = SimpleNamespace(piece_bytes=["राम सीता ".encode()], has_dummy_space=False)

    def calls(stop: str) -> int:
        stream, made = AnswerStream(tokenizer, [stop]), []
        before = sys.getprofile()
        sys.setprofile(lambda *_: made.append(1))
        try:
            assert stream.push(0) == "राम सीता"
        finally:
            sys.setprofile(before)
        return len(made)

    assert calls("क" * 100) == calls("क" * 100_000)
