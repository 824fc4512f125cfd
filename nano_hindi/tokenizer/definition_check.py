"""Check the files of a tokenizer before the `tokenizers` library reads them: on what this refuses,
the library would end the process or panic, and Rust prints a panic before Python can catch it."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from nano_hindi.errors import quoted

DEFINITIONS = ("tokenizer.json", "vocab.json")  # of the files that hold a vocabulary, those with ids
MAX_ID = 2**24 - 1  # a gap in the ids takes memory too; the largest vocabularies have a million tokens
_LEAF = 2**31  # the bit of a unit that holds a value


def require_sound_definition(file: Path) -> None:
    """Check a tokenizer.json or a vocab.json. Raises ValueError, which says what is wrong."""
    description = json.loads(file.read_bytes())
    if not isinstance(description, dict):
        raise ValueError(f"{file.name} is not a JSON object")
    model = description.get("model") if file.name == "tokenizer.json" else {"vocab": description}
    _require_sound_ids(model.get("vocab") if isinstance(model, dict) else None)
    _require_sound_charsmaps(description.get("normalizer"))


def _require_sound_ids(vocab: object) -> None:
    """Raise ValueError if two tokens of a vocabulary have the same id, or one an impossible id.

    The ids of a Unigram vocabulary, a list, are its positions; those of added tokens are not used.
    """
    owner: dict[int, str] = {}
    for token, i in vocab.items() if isinstance(vocab, dict) else ():
        if type(i) is not int or not 0 <= i <= MAX_ID:
            raise ValueError(f"the id of the token {quoted(token)} is {quoted(i)}, not a whole number from 0 to {MAX_ID:,}")
        if i in owner:
            raise ValueError(f"the tokens {quoted(owner[i])} and {quoted(token)} have the same id {i}")
        owner[i] = token


def _require_sound_charsmaps(normalizer: object) -> None:
    if isinstance(normalizer, dict):
        if normalizer.get("type") == "Precompiled" and not _is_sound_charsmap(normalizer.get("precompiled_charsmap")):
            raise ValueError("the precompiled_charsmap of its normalizer is damaged")
        for component in normalizer.get("normalizers") or ():
            _require_sound_charsmaps(component)


def _is_sound_charsmap(charsmap: object) -> bool:
    """Return whether no text can lead a reader of a SentencePiece charsmap out of its arrays.

    It holds the size of a trie in bytes, the trie, and zero-terminated replacements. The trie is a
    double array of 32-bit units (Aoe 1989, as in darts-clone): the unit after byte c is at
    target ^ c, or at the target itself for a value, which is a position in the replacements.
    """
    try:
        raw = base64.b64decode(str(charsmap), validate=True)
        size = int.from_bytes(raw[:4], "little")
        replacements = raw[4 + size :]
        replacements.decode()
    except ValueError:
        return False
    if not 0 < size <= len(raw) - 4 or size % 4:
        return False
    units = np.frombuffer(raw, "<u4", size // 4, offset=4).astype(np.int64)
    targets = np.arange(len(units)) ^ ((units >> 10) << ((units & 2**9) >> 6))
    inner = units < _LEAF
    inner[0] = True  # the root is read whatever it is
    if ((targets[inner] | 255) >= len(units)).any():
        return False
    values = units[targets[inner & ((units & 2**8) > 0)]] % _LEAF
    starts = (np.frombuffer(replacements + b"\0", np.uint8) & 0xC0) != 0x80  # where a character begins
    return bool((values < len(starts)).all() and starts[values].all())


@contextlib.contextmanager
def panics_as_errors() -> Iterator[None]:
    """Turn a panic of a Rust library, which is a BaseException, into a RuntimeError."""
    try:
        yield
    except BaseException as panic:
        if type(panic).__name__ != "PanicException":
            raise
        raise RuntimeError(f"the library panicked: {panic}") from panic
