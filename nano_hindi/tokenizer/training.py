"""Train a tokenizer on a corpus: SentencePiece-style BPE with byte fallback, of the kind that
Sarvam-1 and Llama are, whose first merges build the aksharas of Devanagari.

An akshara is what is written around one vowel: consonants joined by virama, a matra, and a sign
like the anusvara (मंत्री is मं त्री). Plain BPE merges whatever pair is frequent, and so begins
tokens with a matra: म ंत्र ी. Here the merges of the most common aksharas come first, and BPE
learns the others from the result: in the text that it learns from, each akshara built so far is one
private-use character. (Constrained BPE, arXiv 2504.10335, has the same aim and forbids single
merges instead.)
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator

from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Backend

from nano_hindi.console import Progress
from nano_hindi.errors import UserError
from nano_hindi.tokenizer import Tokenizer
from nano_hindi.tokenizer.pieces import SPACE

SPECIAL_PIECES = ("<unk>", "<s>", "</s>")
BYTE_PIECES = tuple(f"<0x{byte:02X}>" for byte in range(256))
FIXED = (*SPECIAL_PIECES, *BYTE_PIECES)
MIN_VOCABULARY = 512  # the tokens above, the letters of Hindi and English, and a few words
MAX_VOCABULARY = 1_000_000  # the trainer allocates its memory at once, and aborts the program if there is not enough
TRAINING_CHARACTERS = 100_000_000  # of the corpus that are used, and held in memory (2 to 4 bytes each): more changes the vocabulary little
AKSHARA_FRACTION = 8  # one token in so many may be reserved for aksharas: more make fewer cuts before a mark, but more tokens per word
SYMBOLS = range(0xE000, 0xF900)  # the private-use characters, for aksharas; those of the corpus itself are not learned, bytes encode them
_PRIVATE = re.compile("[\ue000-\uf8ff]+")
_NFC = normalizers.NFC()

# A Devanagari letter and all that follows it up to the next letter, which belongs to it too after a
# virama (with or without ZWNJ or ZWJ). The boundaries depend on the neighbouring characters alone.
_LETTER, _MARK = "[\u0904-\u0939\u0958-\u0961\u0971-\u097f]", "[\u0900-\u0903\u093a-\u093c\u093e-\u094f\u0951-\u0957\u0962\u0963\u200c\u200d]"
_AKSHARA = re.compile(f"{_LETTER}(?:{_MARK}|(?:(?<=\u094d)|(?<=\u094d[\u200c\u200d])){_LETTER}){{0,15}}")
_PART = re.compile(f"{_LETTER}{_MARK}*")
# Where words end: before a space (written as a mark on the next word), and between letters, digits
# and the rest. A letter keeps its matra, virama and nukta (\p{M}) and its joiners (ZWNJ, ZWJ), and
# after a virama the next letter; each digit is a word, so that numbers are tokenized alike whatever
# their length. A word has at most 64 aksharas: learning and encoding take longer than linear in it.
_FOLLOWING = "[\\p{M}\u200c\u200d]|(?<=\u094d)\\p{L}|(?<=\u094d[\u200c\u200d])\\p{L}"
WORDS = (
    f"▁?(?:[\\p{{L}}\\p{{M}}\u200c\u200d\ue000-\uf8ff](?:{_FOLLOWING}){{0,15}}){{1,64}}"
    "|▁?\\p{N}|▁?[^\\p{L}\\p{M}\\p{N}▁\u200c\u200d\ue000-\uf8ff]{1,64}|▁{1,64}"
)


def train_tokenizer(documents: Iterable[str], vocab_size: int, aksharas: int | None = None) -> Tokenizer:
    """Train a tokenizer with `vocab_size` tokens (fewer if the text does not yield as many);
    deterministic.

    At most `aksharas` tokens are reserved for aksharas, by default an eighth; 0 is plain BPE.
    Raises UserError if `vocab_size` is too small or too large.
    """
    if vocab_size < MIN_VOCABULARY:
        raise UserError(f"a vocabulary of {vocab_size} tokens is too small: {len(FIXED)} are reserved; give at least {MIN_VOCABULARY}")
    if vocab_size > MAX_VOCABULARY:
        raise UserError(f"a vocabulary of {vocab_size} tokens is too large; give at most {MAX_VOCABULARY}; 8192 is a good size")
    room = vocab_size - len(FIXED)
    read = _in_progress("reading text for the tokenizer", _first(documents, TRAINING_CHARACTERS))
    texts = [_PRIVATE.sub(" ", _NFC.normalize_str(text)) for text in read]
    characters: Counter[str] = Counter()
    found: Counter[str] = Counter()
    for text in texts:
        characters.update(text)
        found.update(_AKSHARA.findall(text))
    characters[SPACE] += characters.pop(" ", 0) + len(texts)
    letters = sorted(characters, key=lambda c: (-characters[c], c))[: room // 2]
    first = _akshara_merges(found, set(letters), min(room // AKSHARA_FRACTION if aksharas is None else aksharas, len(SYMBOLS)))
    symbols = {left + right: chr(code) for code, (left, right) in zip(SYMBOLS, first, strict=False)}

    written = _in_symbols(found, first, letters, symbols)
    texts_again = _in_progress("training the tokenizer", texts, sum(map(len, texts)))
    in_symbols = (_AKSHARA.sub(lambda match: written[match[0]], text) for text in texts_again)
    learner = _learned(in_symbols, [*letters, *symbols.values()], vocab_size)
    # the trainer treats byte tokens as special: build a new model from its vocabulary and merges
    backend = _complete(_spelled_out(learner, first, symbols), learner)
    return Tokenizer(backend, f"trained on the corpus, {backend.get_vocab_size():,} entries", backend.token_to_id("<s>"), backend.token_to_id("</s>"))


def _akshara_merges(aksharas: Counter[str], letters: set[str], limit: int) -> list[tuple[str, str]]:
    """Return the merges, at most `limit`, that build the commonest aksharas and their ends from
    characters, in the order in which they apply.

    A letter takes its marks from left to right. Then conjuncts grow from right to left: what is
    left of a rare one is cut before a letter (ब् रै), not before a matra (ब्र ै).
    """
    counts: Counter[tuple[str, str]] = Counter()
    for akshara, count in aksharas.items():
        parts = _PART.findall(akshara)
        pairs = {(part[:i], part[i]) for part in parts for i in range(1, len(part))}
        pairs |= {(part, "".join(parts[i:])) for i, part in enumerate(parts[:-1], start=1)}
        counts.update(dict.fromkeys(pairs, count))
    usable = (pair for pair, count in counts.items() if count > 1 and letters.issuperset("".join(pair)))
    # an operand is at least as frequent as the result, and shorter: it comes first
    best = sorted(usable, key=lambda pair: (-counts[pair], len("".join(pair)), pair))[:limit]
    return sorted(best, key=lambda pair: re.match(_LETTER, pair[1]) is not None)


def _in_symbols(aksharas: Iterable[str], first: list[tuple[str, str]], letters: list[str], symbols: dict[str, str]) -> dict[str, str]:
    """Return what is written for each akshara in the text to learn on: a symbol or a letter for
    each token that the merges `first` leave of it."""
    encoder = Backend(models.BPE({token: i for i, token in enumerate([*letters, *symbols])}, first))
    return {akshara: "".join(symbols.get(token, token) for token in encoder.encode(akshara).tokens) for akshara in aksharas}


def _learned(texts: Iterable[str], alphabet: list[str], vocab_size: int) -> Backend:
    """Return the tokenizer that BPE learns from `texts`. The alphabet is given, as the trainer's
    choice between equally rare characters is random."""
    learner = Backend(models.BPE())
    learner.normalizer = normalizers.Sequence([_NFC, normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    learner.pre_tokenizer = pre_tokenizers.Split(Regex(WORDS), behavior="isolated")
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[*FIXED], initial_alphabet=alphabet, limit_alphabet=len(alphabet), min_frequency=2, show_progress=False
    )
    learner.train_from_iterator(texts, trainer)
    return learner


def _spelled_out(learner: Backend, first: list[tuple[str, str]], symbols: dict[str, str]) -> models.BPE:
    """Return the model that encodes characters as `learner` encodes symbols: with the merges that
    build the symbols before the learned ones."""
    learned = json.loads(learner.to_str())["model"]
    spelling = {ord(symbol): token for token, symbol in symbols.items()}
    tokens = dict.fromkeys(token.translate(spelling) for token in sorted(learned["vocab"], key=learned["vocab"].__getitem__))
    merges = dict.fromkeys((left.translate(spelling), right.translate(spelling)) for left, right in learned["merges"])
    return models.BPE({token: i for i, token in enumerate(tokens)}, [*first, *merges], unk_token="<unk>", fuse_unk=True, byte_fallback=True)


def _complete(model: models.BPE, learner: Backend) -> Backend:
    """Return the tokenizer of `model`, with the normalizer and the words of `learner`."""
    backend = Backend(model)
    backend.normalizer, backend.pre_tokenizer = learner.normalizer, learner.pre_tokenizer
    backend.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", SPECIAL_PIECES.index("<s>"))]
    )
    backend.add_special_tokens(list(SPECIAL_PIECES))
    return backend


def _first(documents: Iterable[str], characters: int) -> Iterator[str]:
    for text in documents:
        yield text[:characters]
        characters -= len(text)
        if characters <= 0:
            return


def _in_progress(description: str, texts: Iterable[str], characters: int | None = None) -> Iterator[str]:
    with Progress(characters, "characters", description) as progress:
        for text in texts:
            yield text
            progress.update(len(text))
