"""Encoding by kitoken (a library in Rust that reads tokenizer.json), where it gives the ids that `tokenizers` gives: two to seven times as fast.

Nothing depends on it. It is used for a corpus after both libraries have given the same ids for a sample of that corpus and for `TRAPS`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

# where two libraries part: characters without a piece, in a row and alone; bytes, controls, spaces of all kinds, joiners, runs that merge in steps
TRAPS = (
    *(
        "",
        " ",
        "  ",
        "\n",
        "क",
        " क",
        "क ",
        "\n\nक",
        "\ue000",
        "\ue000\ue001 \U0010ffff",
        "क\ue000ख",
        "\x00\x01\x7f\x85\u2028\ufeff\ufffd",
        "▁",
        "▁▁ ▁क",
    ),
    *("क" * 99, "अ आ " * 33, " " * 99, "\n" * 33, "a" * 99, "ab" * 50, "ि" * 33, "ज़ ज़ ड़ ड़ ऩ ऩ", "e\u0301 é ﬁ Ⅸ ½ ＡＢ", "क्‍ष क्‌ष 👩‍🌾👨‍👩‍👧 🇮🇳"),
    *("१२३ 1,23,456.78 50%", "http://example.org/?q=क&r=1", "\t\r\n क\u00a0ख\u3000ग", "don't DON'T I'll", "</s><s> <0x41> [INST]"),
)


class FastEncoder:
    """Ids of texts, of which special tokens are letters like all others."""

    def __init__(self, definition: bytes, unknown: str | None):
        """kitoken's own form of a tokenizer, and its piece for characters that it has no piece for."""
        from kitoken import Kitoken

        self._encoder, self._unknown = Kitoken(definition), unknown

    def __reduce__(self):  # for worker processes
        return FastEncoder, (self._encoder.to_bytes(), self._unknown)

    def can_take(self, texts: Sequence[str]) -> bool:
        """Whether the unknown piece stands in none of them, as letters: kitoken would take it for the token."""
        return self._unknown is None or not any(self._unknown in text for text in texts)

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        return self._encoder.encode_all(list(texts), False)


def fast_encoder(description: dict, unknown: str | None, encode: Callable[[list[str]], list[list[int]]], sample: Sequence[str]) -> FastEncoder | None:
    """For a tokenizer.json, the `FastEncoder` that gives the ids of `encode` for `TRAPS` and `sample`. None where there is none."""
    special = [token for token in description["added_tokens"] if token["content"] == unknown]  # kitoken reads no unknown piece that is not among them
    plain = description | {"added_tokens": special, "post_processor": None, "truncation": None, "padding": None}
    try:
        from kitoken import Kitoken

        encoder = FastEncoder(Kitoken.from_tokenizers(json.dumps(plain, ensure_ascii=False).encode()).to_bytes(), unknown)
    except (ImportError, ValueError):  # it is not installed, or does not know this kind of tokenizer
        return None
    texts = [text for text in (*TRAPS, *sample) if encoder.can_take([text])]
    return encoder if encoder(texts) == encode(texts) else None
