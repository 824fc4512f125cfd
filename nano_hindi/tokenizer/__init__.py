"""Load, save and fingerprint a tokenizer; encode and decode text.

Two kinds are supported, both through the `tokenizers` library:
    SentencePiece style  Llama, Sarvam-1: `▁` stands for a space, a document starts with a dummy
                         space, `<0x41>` is one byte of a rare character
    byte level           GPT-2: a token is written in 256 printable letters, one for each byte
In both, a token is a fixed byte string, and a text is the concatenated bytes of its tokens, without
the dummy space. Decoding, streaming and bits per byte all use that one table. (A `▁` in a text
decodes to a space: SentencePiece reserves that character.)

Text is put in NFC before it is encoded, so that a letter such as ड़ has one spelling in the corpus,
in prompts and in evaluation. Saved definitions say so too. A tokenizer whose own normalizer
rewrites text (NFKC, lower case) keeps that one instead.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nano_hindi.errors import QUOTED_CHARACTERS, UserError
from nano_hindi.files import write_text
from nano_hindi.tokenizer.definition_check import panics_as_errors
from nano_hindi.tokenizer.hub import read_definition, tokenizer_of
from nano_hindi.tokenizer.kitoken import FastEncoder, fast_encoder
from nano_hindi.tokenizer.long_texts import encode_in_parts
from nano_hindi.tokenizer.nfc import to_nfc
from nano_hindi.tokenizer.pieces import SPACE, bytes_of_ids, rewrites, unknown_piece, with_nfc, without_nfc

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

# contains matras, conjuncts, nukta, ZWJ, danda, two kinds of digits, spaces of all kinds, an emoji,
# the names of special tokens
PROBE = "  भारत की क्‍या ज़रूरत है?\n\tहाँ। १२३ 1,234.5  the end 👩‍🌾 </s><s> <|endoftext|> <0x41>\r\nक"
_NONCHARACTER = "\U0010ffff"  # never assigned, so that no text contains it


class Tokenizer:
    """Wrap a `tokenizers.Tokenizer` with what training and generation need; see `load_tokenizer`.

    `vocab_size` is the largest id + 1. `bos_id` begins a document and `eos_id` ends it; a tokenizer
    with only one of them uses it for both. `piece_bytes`: the bytes that each token adds to a text,
    by id; b"" for a special or unknown token. `has_dummy_space`: a document starts with a dummy
    space. `rewrites`: its own normalizer changes text, instead of NFC.
    """

    def __init__(self, backend: Backend, name: str, bos_id: int | None, eos_id: int | None):
        """Copy `backend`.

        Raises UserError if it has neither bos nor eos, or is of an unsupported kind.
        """
        ends = [i for i in (bos_id, eos_id) if i is not None]
        if not ends:
            raise UserError(f"the tokenizer {name} has neither a bos nor an eos token to separate documents; use another")
        self.name, description = name, json.loads(backend.to_str())
        self.rewrites = rewrites(without_nfc(description["normalizer"]))
        if not self.rewrites:
            description["normalizer"] = with_nfc(without_nfc(description["normalizer"]))
        self._json = json.dumps(description, ensure_ascii=False)
        self.bos_id, self.eos_id = ends[0], ends[-1]
        self._ids = backend.get_vocab(with_added_tokens=True)
        self.vocab_size = max(self._ids.values()) + 1
        added = backend.get_added_tokens_decoder()
        self._unknown_piece = unknown_piece(description["model"])
        unknown = {self._ids[self._unknown_piece]} if self._unknown_piece in self._ids else set()
        self._fast: FastEncoder | None = None  # see `encode_faster`
        self.special_ids = frozenset({i for i, token in added.items() if token.special} | {self.bos_id, self.eos_id} | unknown)
        self.piece_bytes = bytes_of_ids(description, self._ids, self.special_ids, name)
        self._plain_ids = frozenset(added)  # of the added tokens that are plain characters in a text
        self._doubles_space = False  # set below, from what the unmodified encoder returns
        self.has_dummy_space = self._bytes_of("क").startswith(b" ")
        self._doubles_space = self.has_dummy_space and self._bytes_of(" क") == b" " + "क".encode()
        self._keep_added_tokens({i: added[i].content for i in added.keys() - self.special_ids})
        if (self.special_ids - unknown) & set(self.encode_batch([" ".join(added[i].content for i in added)])[0]):
            raise UserError(f"the tokenizer {name} cannot distinguish its special tokens from the same characters in a text; use another")

    def __getstate__(self) -> dict:  # for worker processes: they start sooner if the lazy attributes are built on first use
        return {key: value for key, value in vars(self).items() if key not in ("_backend", "_encoder")}

    @functools.cached_property
    def _backend(self) -> Backend:
        from tokenizers import Tokenizer as Backend

        return Backend.from_str(self._json)

    def _keep_added_tokens(self, contents: dict[int, str]) -> None:
        """Encode the added tokens in `contents`, by id, as the library does (runs of spaces of
        GPT-NeoX and Gemma), but only those around which no text is lost.

        The library may strip the spaces around a token, or put a dummy space after it.
        """
        if contents:
            self._plain_ids -= contents.keys()
            del self._encoder
            texts = {i: self.normalize(f"{content}क{content}क {content} क{content}") for i, content in contents.items()}
            encoded = dict(zip(texts, self.encode_batch(list(texts.values())), strict=True))
            lossy = {i for i, text in texts.items() if self.decode(encoded[i]) != self.as_decoded(text)}
            if lossy:
                self._plain_ids |= lossy
                del self._encoder

    def _definition_for_text(self) -> dict:
        """Return the definition that encodes text which is already normalized; the special tokens
        of it are plain characters."""
        description = self.definition()
        for token in description["added_tokens"]:
            token["special"] = token["id"] in self._plain_ids
        if description["model"].get("type") == "Unigram":  # it finds special tokens in its vocabulary too, unless they are renamed
            for i in self.special_ids & set(range(len(description["model"]["vocab"]))):
                description["model"]["vocab"][i][0] = f"{_NONCHARACTER}{i}"
        if not self.rewrites:
            description["normalizer"] = without_nfc(description["normalizer"])
        return description | {"post_processor": None, "truncation": None, "padding": None}

    @functools.cached_property
    def _encoder(self) -> Backend:
        """Return a copy of the backend for normalized text, in which `</s>` stays plain text.

        Use it only to encode: decoding needs the special tokens.
        """
        from tokenizers import Tokenizer as Backend

        encoder = Backend.from_str(json.dumps(self._definition_for_text()))
        encoder.encode_special_tokens = True
        return encoder

    # ---- text to tokens

    @property
    def normalization(self) -> str:
        """Return the name of what `normalize` or the tokenizer does to a text."""
        return "the tokenizer's own" if self.rewrites else "NFC"

    def normalize(self, text: str) -> str:
        """Return the text that is encoded: `text` in NFC, or `text` if the tokenizer has a
        normalizer of its own."""
        return text if self.rewrites else to_nfc(text)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text, normalized, without bos and eos; `</s>` in a text is four
        characters.

        Raises UserError for text that UTF-8 cannot encode, or that the tokenizer cannot.
        """
        return encode_in_parts(self, texts)

    def encode_whole(self, texts: Sequence[str]) -> list[list[int]]:
        """Return what `encode_batch` does, but do not divide long texts."""
        texts = [self.normalize(text) for text in texts]
        if self._doubles_space:  # transformers 5 adds no dummy space to a text that starts with a space, but decoding removes one
            texts = [" " + text if text.startswith((" ", SPACE)) else text for text in texts]
        return self._encode(texts)

    def _encode(self, texts: list[str]) -> list[list[int]]:
        with self.encoding_errors():
            if self._fast and self._fast.can_take(texts):
                return self._fast(texts)
            return [encoding.ids for encoding in self._encoder.encode_batch_fast(texts, add_special_tokens=False)]  # without offsets

    @contextlib.contextmanager
    def encoding_errors(self) -> Iterator[None]:
        """Raise the errors of an encoder in the block as UserErrors."""
        try:
            with panics_as_errors():
                yield
        except (TypeError, UnicodeEncodeError) as error:  # raised by `tokenizers` and kitoken
            raise UserError("a text is not valid Unicode (a byte that is not UTF-8, or half a surrogate pair); save it as UTF-8") from error
        except Exception as error:  # no unknown token, or one outside the vocabulary
            raise UserError(f"the tokenizer {self.name} cannot encode a text ({str(error)[:QUOTED_CHARACTERS]}); use another") from error

    def encode_faster(self, sample: Sequence[str]) -> bool:
        """Encode with kitoken from now on if it is installed, supports this tokenizer, and gives
        the same ids for `sample`.

        Returns whether it does.
        """
        self._fast = None  # so that `_encode` uses `tokenizers`
        self._fast = fast_encoder(self._definition_for_text(), self._unknown_piece, self._encode, [PROBE, *sample])
        return self._fast is not None

    def document(self, ids: Sequence[int]) -> list[int]:
        """Return bos + ids + eos; if bos and eos are the same token, only the first."""
        return [self.bos_id, *ids] if self.bos_id == self.eos_id else [self.bos_id, *ids, self.eos_id]

    def encode_prompt(self, text: str) -> list[int]:
        """Return the ids of a text at the beginning of a document: bos, then the text."""
        return [self.bos_id, *self.encode_batch([text])[0]]

    def encode_open(self, text: str) -> tuple[list[int], list[int] | None]:
        """Return the ids of a text to continue, bos first, and the ids allowed as the next token
        (None: all).

        The model learned words with the space before them as part of the token; a separate space
        before a word is rare. So a single space token at the end is removed, and the next token
        must begin with one.
        """
        ids = self.encode_prompt(text)
        if self.piece_bytes[ids[-1]] != b" ":
            return ids, None
        return ids[:-1], [i for i, piece in enumerate(self.piece_bytes) if piece.startswith(b" ")]

    # ---- tokens to text

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of `ids`, without special tokens and the dummy space; invalid UTF-8
        becomes U+FFFD."""
        raw = b"".join([self.piece_bytes[i] for i in ids])
        return (raw.removeprefix(b" ") if self.has_dummy_space else raw).decode("utf-8", errors="replace")

    def piece(self, i: int) -> str:
        """Return the string of token `i` in tokenizer.json."""
        return self._backend.id_to_token(i) or ""

    def parsed_names(self) -> set[str]:
        """Return the texts that are plain characters here, but that transformers reads as one token
        each: those of the special tokens, and of some other added tokens."""
        return {self.piece(i) for i in self.special_ids | self._plain_ids}

    def definition(self) -> dict:
        """Return the content of tokenizer.json."""
        return json.loads(self._json)

    @functools.cached_property
    def token_bytes(self) -> np.ndarray:
        """Return the number of UTF-8 bytes that each token adds to a text, int32 (vocab_size,).

        Special and unknown tokens have 0. The dummy space counts as one byte.
        """
        return np.array([len(piece) for piece in self.piece_bytes], dtype=np.int32)

    def _bytes_of(self, text: str) -> bytes:
        return b"".join(self.piece_bytes[i] for i in self.encode_batch([text])[0])

    # ---- lossless encoding

    def bytes_of_tokens(self, raws: Sequence[bytes]) -> int:
        """Return the bytes that the tokens of texts, given as UTF-8, have in total if encoding is
        lossless: the texts' own and the dummy spaces."""
        return sum(map(len, raws)) + self.has_dummy_space * len(raws)

    def as_decoded(self, text: str) -> str:
        """Return what a normalized text decodes to if its encoding is lossless: the text itself,
        but with `▁` as a space for SentencePiece."""
        return text if self._knows_mark else text.replace(SPACE, " ")

    @functools.cached_property
    def _knows_mark(self) -> bool:
        return SPACE.encode() in self._bytes_of(SPACE)

    # ---- identity

    @functools.cached_property
    def fingerprint(self) -> str:
        """Return a hash of the vocabulary, the special ids and the ids of a fixed text.

        Copies of a tokenizer have the same hash, however their files are named or formatted.
        """
        pieces = sorted(self._ids.items(), key=lambda item: (item[1], item[0]))
        content = [pieces, sorted(self.special_ids), self.bos_id, self.eos_id, self.encode_batch([PROBE])[0]]
        return hashlib.blake2b(json.dumps(content).encode(), digest_size=16).hexdigest()

    def save(self, folder: Path) -> None:
        """Write a copy into `folder` (created if missing); it gives the same ids in
        `load_tokenizer` and in AutoTokenizer of transformers 4 and 5."""
        folder.mkdir(parents=True, exist_ok=True)
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",  # reads tokenizer.json as it is; LlamaTokenizer of transformers 5 rebuilds it
            "bos_token": self.piece(self.bos_id),
            "eos_token": self.piece(self.eos_id),
            "add_prefix_space": self.has_dummy_space,  # otherwise transformers 4 turns it off in a byte-level tokenizer
            "clean_up_tokenization_spaces": False,
        }
        for name, text in (("tokenizer.json", self._json), ("tokenizer_config.json", json.dumps(config, indent=1, ensure_ascii=False))):
            write_text(folder / name, text)


def load_tokenizer(name: str | Path) -> Tokenizer:
    """Load the tokenizer of a local folder or a model (no network) or of a name on the Hugging Face
    hub, through AutoTokenizer unless the folder is a copy by `Tokenizer.save`.

    Raises UserError, with what to do, if it is not available.
    """
    name = tokenizer_of(str(name))
    backend, bos_id, eos_id = read_definition(name)
    return Tokenizer(backend, name, bos_id, eos_id)
