"""Encode with kitoken, a Rust library that reads tokenizer.json: two to seven times as fast as
`tokenizers`.

It is optional. A corpus is encoded with it only if both libraries give the same ids for a sample of
that corpus and for `TRAPS`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from nano_hindi.tokenizer.definition_check import panics_as_errors
from nano_hindi.tokenizer.pieces import SPACE, components

# what ByteLevel splits at in `tokenizers`, as GPT-2 does; kitoken's own differs at line ends
_GPT2_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

# where the libraries may differ: characters outside the vocabulary, in a row and alone; bytes,
# controls, spaces of all kinds, joiners, runs that merge in steps
TRAPS = (
    "", " ", "  ", "\n", "क", " क", "क ", "\n\nक", "\ue000", "\ue000\ue001 \U0010ffff", "क\ue000ख", "\x00\x01\x7f\x85\u2028\ufeff\ufffd", "▁", "▁▁ ▁क",
    "क" * 99, "अ आ " * 33, " " * 99, "\n" * 33, "a" * 99, "ab" * 50, "ि" * 33, "ज़ ज़ ड़ ड़ ऩ ऩ", "e\u0301 é ﬁ Ⅸ ½ ＡＢ", "क्‍ष क्‌ष 👩‍🌾👨‍👩‍👧 🇮🇳",
    "\n's\t'the", "\u2028१\u2028ॐ", "१२३ 1,23,456.78 50%", "http://example.org/?q=क&r=1", "\t\r\n क\u00a0ख\u3000ग", "don't DON'T I'll", "</s><s> <0x41> [INST]",
)  # fmt: skip


class FastEncoder:
    """Encode texts with kitoken; special tokens in a text are plain characters."""

    def __init__(self, definition: bytes, refused: Sequence[str]):
        """Take a tokenizer in kitoken's own format, and the strings that it encodes wrong."""
        from kitoken import Kitoken

        self._encoder, self._refused = Kitoken(definition), refused

    def __reduce__(self) -> tuple:  # for worker processes
        return FastEncoder, (self._encoder.to_bytes(), self._refused)

    def can_take(self, texts: Sequence[str]) -> bool:
        """Return whether no text contains a string that kitoken encodes wrong."""
        return not any(string in text for string in self._refused for text in texts)

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        return self._encoder.encode_all(list(texts), False)


def _with_explicit_split(pre_tokenizer: dict | None) -> dict | None:
    """Return a pre-tokenizer in which a Split does what its ByteLevel would do by itself."""
    steps: list[dict] = []
    for step in components(pre_tokenizer, "pretokenizers"):
        if step["type"] == "ByteLevel" and step.get("use_regex", True) and not step["add_prefix_space"]:
            steps.append({"type": "Split", "pattern": {"Regex": _GPT2_WORDS}, "behavior": "Isolated", "invert": False})
            step = step | {"use_regex": False}
        steps.append(step)
    return {"type": "Sequence", "pretokenizers": steps} if len(steps) > 1 else pre_tokenizer


def fast_encoder(description: dict, unknown: str | None, encode: Callable[[list[str]], list[list[int]]], sample: Sequence[str]) -> FastEncoder | None:
    """Return the `FastEncoder` of a tokenizer.json, or None if it is not available or differs from
    `encode` for `TRAPS`, `sample`, or texts with the added tokens that are not special."""
    found = [token["content"] for token in description["added_tokens"] if not token["special"]]
    # kitoken ignores an unknown token not among them, and takes the first that matches, not the
    # longest
    kept = [token for token in description["added_tokens"] if not token["special"] or token["content"] == unknown]
    kept.sort(key=lambda token: -len(token["content"]))
    plain = description | {"added_tokens": kept, "pre_tokenizer": _with_explicit_split(description["pre_tokenizer"])}
    # the unknown token is that token for kitoken, not characters; and it looks for `▁▁` of Gemma
    # only after it has written spaces as `▁`
    refused = ([] if unknown is None else [unknown]) + [SPACE] * any(SPACE in token for token in found)
    try:
        from kitoken import Kitoken

        with panics_as_errors():
            encoder = FastEncoder(Kitoken.from_tokenizers(json.dumps(plain, ensure_ascii=False).encode()).to_bytes(), refused)
    except (ImportError, ValueError, RuntimeError):  # not installed, or this kind of tokenizer is not supported
        return None
    traps = (*TRAPS, *(f"क{token}क {token} {other}{token}" for token, other in zip(found, [*found[1:], ""], strict=False)))
    texts = [text for text in (*traps, *sample) if encoder.can_take([text])]
    return encoder if encoder(texts) == encode(texts) else None
