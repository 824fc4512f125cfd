"""Train a tokenizer on a corpus: SentencePiece-style BPE with byte fallback, of the kind that
Sarvam-1 and Llama are."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from nano_hindi.errors import UserError

if TYPE_CHECKING:
    from nano_hindi.tokenizer import Tokenizer

SPECIAL_PIECES = ("<unk>", "<s>", "</s>")
BYTE_PIECES = tuple(f"<0x{byte:02X}>" for byte in range(256))
MIN_VOCABULARY = 512  # the tokens above, the letters of Hindi and English, and a few words
MAX_VOCABULARY = 1_000_000  # the trainer allocates its memory at once, and aborts the program if there is not enough
TRAINING_CHARACTERS = 100_000_000  # of the corpus that are used: more changes the vocabulary little, but needs much more memory
# Where words end: before a space (written as a mark on the next word), and between letters, digits
# and the rest. A letter keeps its matra, virama and nukta (\p{M}) and its joiners (ZWNJ, ZWJ); each
# digit is a word, so that numbers are tokenized alike whatever their length.
WORDS = "▁?[\\p{L}\\p{M}\u200c\u200d]+|▁?\\p{N}|▁?[^\\p{L}\\p{M}\\p{N}▁\u200c\u200d]+|▁+"


def train_tokenizer(documents: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train a tokenizer with `vocab_size` tokens (fewer if the text does not yield as many);
    deterministic.

    Raises UserError if `vocab_size` is too small or too large, or the documents have no text.
    """
    from tokenizers import Regex, decoders, models, pre_tokenizers, processors, trainers
    from tokenizers import Tokenizer as Backend

    from nano_hindi.tokenizer import Tokenizer

    if vocab_size < MIN_VOCABULARY:
        raise UserError(
            f"a vocabulary of {vocab_size} tokens is too small: {len(SPECIAL_PIECES + BYTE_PIECES)} are reserved; give at least {MIN_VOCABULARY}"
        )
    if vocab_size > MAX_VOCABULARY:
        raise UserError(f"a vocabulary of {vocab_size} tokens is too large; give at most {MAX_VOCABULARY}; 8192 is a good size")
    learner = Backend(models.BPE())
    words = pre_tokenizers.Split(Regex(WORDS), behavior="isolated")
    learner.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(prepend_scheme="always", split=False), words])
    fixed = [*SPECIAL_PIECES, *BYTE_PIECES]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=fixed, limit_alphabet=(vocab_size - len(fixed)) // 2, min_frequency=2, show_progress=False
    )
    learner.train_from_iterator(_first(documents, TRAINING_CHARACTERS), trainer)
    learned = json.loads(learner.to_str())["model"]
    if len(learned["vocab"]) == len(fixed):
        raise UserError("the corpus has no text to train a tokenizer on; give another --input")

    # the trainer treats byte tokens as special tokens: build a new model from its vocabulary and
    # merges
    merges = [tuple(merge) for merge in learned["merges"]]
    backend = Backend(models.BPE(learned["vocab"], merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.pre_tokenizer = learner.pre_tokenizer
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", SPECIAL_PIECES.index("<s>"))]
    )
    backend.add_special_tokens(list(SPECIAL_PIECES))
    return Tokenizer(backend, f"trained on the corpus, {len(learned['vocab'])} pieces", backend.token_to_id("<s>"), backend.token_to_id("</s>"))


def _first(documents: Iterable[str], characters: int) -> Iterator[str]:
    for text in documents:
        yield text
        characters -= len(text)
        if characters <= 0:
            return
