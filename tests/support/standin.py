"""Make a small tokenizer, a small Hindi corpus and data of it, so that tests need no network and no
file from outside the repo.

`make_tokenizer(folder, kind="bpe")` is like Sarvam-1 and Llama: SentencePiece-style BPE with a
dummy prefix, byte fallback and bos added by `encode`. `kind="byte_level"` is like GPT-2: bytes as
characters, no unknown token, one special token that is bos and eos. Both load with
`AutoTokenizer.from_pretrained(folder)`, transformers 4 and 5. Same arguments, same files.
"""

from __future__ import annotations

import contextlib
import functools
import json
import random
from collections.abc import Iterable
from pathlib import Path

SUBJECTS = [
    "राम", "सीता", "किसान", "बच्चा", "लड़की", "शिक्षक", "भारत", "हमारा गाँव", "एक", "पुराना पेड़", "नदी का पानी", "मेरी माँ", "बूढ़ा राजा",
]  # fmt: skip
PLACES = ["घर में", "खेत के पास", "नदी के किनारे", "शहर की सड़क पर", "विद्यालय में", "बाज़ार में", "पहाड़ के ऊपर", "जंगल के बीच"]
VERBS = ["रहता है", "काम करती है", "गीत गाते हैं", "कहानी सुनता था", "पढ़ने जाती थी", "खाना बनाएगा", "धीरे धीरे चलता है", "फूल लगाते हैं"]
ENGLISH = [
    "the river flows slowly",
    "a farmer sells 12 mangoes",
    "children read stories at school",
    "Ram wrote a letter in 1947",
    "it rains, and we sing",
]
CONSONANTS, MATRAS = "कखगघचछजझटठडढणतथदधनपफबभमयरलवशषसह", ["", "ा", "ि", "ी", "ु", "ू", "े", "ै", "ो", "ौ", "ं", "्र"]


def sentence(rng: random.Random) -> str:
    """Return a sentence, sometimes with an invented name and a number, so that a tokenizer always
    finds more vocabulary entries to learn."""
    if rng.random() < 0.15:
        return rng.choice(ENGLISH) + "."
    name = "".join(rng.choice(CONSONANTS) + rng.choice(MATRAS) for _ in range(rng.randint(2, 4)))
    number = str(rng.randint(1, 2000)) if rng.random() < 0.8 else "".join(rng.choice("०१२३४५६७८९") for _ in range(3))
    words = [rng.choice([*SUBJECTS, name]), rng.choice(["", f"{number} दिन", "आज", "और " + name]), rng.choice(PLACES), rng.choice(VERBS)]
    return " ".join(word for word in words if word) + rng.choice(["।", "।", "।", "?", "!"])


def documents(count: int, seed: int = 0) -> list[str]:
    """Return `count` documents of one to six sentences, the same for the same seed."""
    rng = random.Random(seed)
    return [rng.choice([" ", "\n"]).join(sentence(rng) for _ in range(rng.randint(1, 6))) for _ in range(count)]


@functools.lru_cache(maxsize=8)
def _tokenizer_json(vocab_size: int, kind: str) -> str:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    byte_pieces = [f"<0x{byte:02X}>" for byte in range(256)]
    specials = ["<unk>", "<s>", "</s>"] if kind == "bpe" else ["<|endoftext|>"]
    if kind == "bpe":
        learner = Tokenizer(models.BPE(unk_token="<unk>"))
        learner.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size, special_tokens=[*specials, *byte_pieces], limit_alphabet=min(150, vocab_size - 280), show_progress=False
        )
    elif kind == "byte_level":
        learner = Tokenizer(models.BPE())
        learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=specials, initial_alphabet=sorted(alphabet), show_progress=False)
    else:
        raise ValueError(f"kind {kind!r} is neither bpe nor byte_level")
    learner.train_from_iterator(documents(max(800, 3 * vocab_size), seed=1), trainer)
    learned = json.loads(learner.to_str())["model"]
    assert len(learned["vocab"]) == vocab_size, f"the stand-in corpus gives {len(learned['vocab'])} vocabulary entries, not {vocab_size}"

    # the byte tokens are special only while learning: the final tokenizer is built from the
    # vocabulary and merges alone
    merges = [tuple(merge) for merge in learned["merges"]]
    if kind == "bpe":
        tokenizer = Tokenizer(models.BPE(learned["vocab"], merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
    else:
        tokenizer = Tokenizer(models.BPE(learned["vocab"], merges))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(specials)
    return tokenizer.to_str()


def make_tokenizer(folder: str | Path, vocab_size: int = 640, kind: str = "bpe") -> Path:
    """Write tokenizer.json and tokenizer_config.json with exactly `vocab_size` vocabulary entries
    to `folder` (created if missing) and return it."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(_tokenizer_json(vocab_size, kind), encoding="utf-8")
    names = ["<s>", "</s>", "<unk>"] if kind == "bpe" else ["<|endoftext|>"] * 3
    config = {
        "tokenizer_class": "LlamaTokenizer" if kind == "bpe" else "GPT2Tokenizer",
        **dict(zip(("bos_token", "eos_token", "unk_token"), names, strict=True)),
        "clean_up_tokenization_spaces": False,
        "model_max_length": 4096,
    }
    if kind == "bpe":
        config |= {"add_bos_token": True, "add_eos_token": False, "legacy": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    return folder


def write_corpus(path: Path, texts: Iterable[str]) -> Path:
    """Write `texts` as the documents of a corpus and return its path."""
    from nano_hindi.corpus.documents import write_document

    with open(path, "wb") as file:
        for text in texts:
            write_document(file, text)
    return path


def make_data(folder: Path, texts: Iterable[str], tokenizer: Path | None = None, val_fraction: float = 0.1) -> Path:
    """Write the data folder that data/preprocess.py makes of `texts` with `tokenizer`, or with a
    new one of 512 vocabulary entries in `folder`/standin. Returns the folder."""
    from data import preprocess

    folder.mkdir(parents=True, exist_ok=True)
    corpus = write_corpus(folder / "corpus.txt", texts)
    tokenizer = tokenizer or make_tokenizer(folder / "standin", vocab_size=512)
    argv = ["--input", corpus, "--output_dir", folder, "--tokenizer", tokenizer, "--val_fraction", val_fraction]
    with contextlib.redirect_stdout(None):
        assert preprocess.main([*map(str, argv)]) == 0
    return folder
