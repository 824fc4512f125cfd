"""What is inside a tokenizer.json, as far as tokens have fixed bytes: its kind, its components, the bytes of its pieces."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from nano_hindi.errors import UserError

SPACE = "▁"  # U+2581, how SentencePiece writes a space
_SPACE_TO_MARK = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def unknown_piece(model: dict) -> str | None:
    """The piece that stands for characters the tokenizer does not know. It has no bytes of its own."""
    if model.get("type") == "Unigram":
        return model["vocab"][model["unk_id"]][0] if model.get("unk_id") is not None else None
    return model.get("unk_token")


def rewrites(normalizer: dict | None) -> bool:
    """Whether a text may be changed (composed, put in lower case, ...) before it is cut into pieces. Where it is not, the pieces stand in it as they are,
    so that tokens with as many bytes as the text are the text."""
    return not all(part in ({"type": "Prepend", "prepend": SPACE}, _SPACE_TO_MARK) for part in _parts(normalizer, "normalizers"))


def _parts(part: dict | None, nested: str) -> list[dict]:
    """The components of a normalizer, in a row."""
    if part is None:
        return []
    return [inner for child in part[nested] for inner in _parts(child, nested)] if nested in part else [part]


def _types(part: dict | None) -> set[str]:
    """The names of all components in a normalizer, pre-tokenizer or decoder, nested ones too."""
    if part is None:
        return set()
    nested = [child for key in ("normalizers", "pretokenizers", "decoders") for child in part.get(key, [])]
    return {part["type"]}.union(*map(_types, nested))


def piece_reader(description: dict, name: str) -> Callable[[str], bytes]:
    """The function from a piece to its bytes. Raises UserError for a kind of tokenizer that is not read here."""
    decoders = _types(description["decoder"])
    if "ByteLevel" in decoders:
        byte_of = {letter: byte for byte, letter in enumerate(_byte_level_letters())}
        return lambda piece: bytes(byte_of[c] for c in piece) if all(c in byte_of for c in piece) else piece.encode()
    if "Metaspace" not in decoders and f'"{SPACE}"' not in json.dumps(description["decoder"], ensure_ascii=False):
        raise UserError(f"the tokenizer {name} is neither SentencePiece-style nor byte-level, and its tokens have no fixed bytes; use another")
    has_bytes = "ByteFallback" in decoders

    def read(piece: str) -> bytes:
        byte = BYTE_PIECE.fullmatch(piece) if has_bytes else None
        return bytes([int(byte[1], 16)]) if byte else piece.replace(SPACE, " ").encode()

    return read


def _byte_level_letters() -> list[str]:
    """The letter of each byte in byte-level BPE: printable Latin-1 stands for itself, the other bytes take the letters from U+0100 on, in order."""
    itself = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in itself else next(others)) for byte in range(256)]
