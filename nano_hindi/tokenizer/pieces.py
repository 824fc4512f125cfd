"""Read a tokenizer.json whose tokens have fixed bytes: its kind, its components, the bytes of each
token."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from typing import Any

import numpy as np

from nano_hindi.errors import UserError

SPACE = "▁"  # U+2581, how SentencePiece writes a space
NFC = {"type": "NFC"}
_SPACE_TO_MARK = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def unknown_piece(model: dict) -> str | None:
    """Return the token for characters outside the vocabulary, or None.

    It has no bytes of its own.
    """
    if model.get("type") == "Unigram":
        return model["vocab"][model["unk_id"]][0] if model.get("unk_id") is not None else None
    return model.get("unk_token")


def without_nfc(normalizer: dict | None) -> dict | None:
    """Return the normalizer that is left after NFC."""
    return _sequence([component for component in components(normalizer, "normalizers") if component != NFC])


def with_nfc(normalizer: dict | None) -> dict | None:
    """Return the normalizer with NFC in front."""
    return _sequence([NFC, *components(normalizer, "normalizers")])


def rewrites(normalizer: dict | None) -> bool:
    """Return whether the normalizer may change a text (compose, lower-case, ...) before it is split
    into tokens.

    If it does not, tokens are substrings of the text: tokens with as many bytes as the text are
    lossless.
    """
    return not all(component in ({"type": "Prepend", "prepend": SPACE}, _SPACE_TO_MARK) for component in components(normalizer, "normalizers"))


def components(component: dict | None, nested: str) -> list[dict]:
    """Return the components of a normalizer, pre-tokenizer or decoder as a flat list."""
    if component is None:
        return []
    return [inner for child in component[nested] for inner in components(child, nested)] if nested in component else [component]


def _sequence(components: list[dict]) -> dict | None:
    """Return the normalizer that consists of `components`."""
    if len(components) < 2:
        return components[0] if components else None
    return {"type": "Sequence", "normalizers": components}


def bytes_of_ids(description: dict, ids: dict[str, int], special_ids: Collection[int], name: str) -> list[bytes]:
    """Return the bytes that each id adds to a text, b"" for a special or unused one. `ids` maps
    every token to its id, added ones included: the decoder of SentencePiece reads them like any
    other token (`▁▁` of Gemma is two spaces), and those of a byte-level tokenizer are plain text.

    Raises UserError for an unsupported kind of tokenizer.
    """
    decoders = {component["type"] for component in components(description["decoder"], "decoders")}
    is_byte_level, has_bytes = "ByteLevel" in decoders, "ByteFallback" in decoders
    if not (is_byte_level or "Metaspace" in decoders or f'"{SPACE}"' in json.dumps(description["decoder"], ensure_ascii=False)):
        raise UserError(f"the tokenizer {name} is neither SentencePiece-style nor byte-level, so its tokens have no fixed bytes; use another")
    byte_of = {letter: byte for byte, letter in enumerate(_byte_level_letters())}
    added = {token["id"] for token in description["added_tokens"]}
    found = [b""] * (max(ids.values()) + 1)
    for piece, i in ids.items():
        if i in special_ids:
            continue
        if is_byte_level:
            is_plain = i in added or any(c not in byte_of for c in piece)
            found[i] = piece.encode() if is_plain else bytes(byte_of[c] for c in piece)
        else:
            byte = BYTE_PIECE.fullmatch(piece) if has_bytes else None
            found[i] = bytes([int(byte[1], 16)]) if byte else piece.replace(SPACE, " ").encode()
    return found


def hugging_face_token_bytes(tokenizer: Any) -> np.ndarray:
    """Return the UTF-8 bytes of each token of a fast tokenizer of transformers or a
    `tokenizers.Tokenizer`, int32 (largest id + 1,).

    Special and unknown tokens have 0. The tokenizer defines which tokens are special: a bare
    `tokenizers.Tokenizer` has no bos or eos except those added as special tokens. Raises UserError
    for another object, or for a tokenizer whose tokens have no fixed bytes.
    """
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if not hasattr(backend, "to_str"):
        raise UserError(
            f"a {type(tokenizer).__name__} has no tokenizer.json, which gives the bytes of each token; pass a fast tokenizer of transformers, "
            "a tokenizers.Tokenizer, or what nano_hindi.tokenizer.load_tokenizer returns"
        )
    description, ids = json.loads(backend.to_str()), backend.get_vocab(with_added_tokens=True)
    special = {token["id"] for token in description["added_tokens"] if token["special"]}
    special |= {ids.get(unknown_piece(description["model"])), *getattr(tokenizer, "all_special_ids", ())}
    name = getattr(tokenizer, "name_or_path", None) or "given"
    return np.array([len(raw) for raw in bytes_of_ids(description, ids, special, name)], dtype=np.int32)


def _byte_level_letters() -> list[str]:
    """Return the letter of each byte in byte-level BPE: printable Latin-1 is itself, the other
    bytes map to U+0100 and up, in order."""
    itself = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in itself else next(others)) for byte in range(256)]
