"""Make small tokenizers of five families, as their tokenizer.json files are, with their added
tokens: `make_family(folder, name)`; all load with `AutoTokenizer.from_pretrained(folder)`.

llama     SentencePiece-style BPE with a dummy space
gemma     the same without one; runs of spaces, tabs and newlines are in the vocabulary and added
neox      byte-level BPE with NFC; runs of spaces are added tokens behind the vocabulary
qwen      byte-level BPE with NFC and a regex; special and other added tokens alternate
unigram   SentencePiece-style Unigram with NFKC, as in T5 and ALBERT
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import standin

FAMILIES = ("llama", "gemma", "neox", "qwen", "unigram")
RUNS = range(2, 32)  # lengths of the runs of spaces, tabs and newlines
QWEN_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"  # as published


def added_token(i: int, content: str, special: bool = False, **flags: bool) -> dict:
    """Return an added token of tokenizer.json."""
    return {"id": i, "content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": special, **flags}


def definition(family: str) -> tuple[dict, Sequence[str]]:
    """Return a tokenizer.json, and the names of bos, eos and the unknown token in it."""
    if family == "unigram":
        return _unigram(), ("<s>", "</s>", "<unk>")
    if family in ("llama", "gemma"):
        description = json.loads(standin._tokenizer_json(640, "bpe"))
        if family == "gemma":
            _to_gemma(description)
        return description, ("<s>", "</s>", "<unk>")
    description = json.loads(standin._tokenizer_json(640, "byte_level"))
    added = description["added_tokens"]
    description["normalizer"] = {"type": "NFC"}
    if family == "neox":
        added += [added_token(640 + i, " " * n, normalized=True) for i, n in enumerate(reversed(RUNS))]
        return description, ["<|endoftext|>"] * 3
    names = ("<|im_start|>", "<tool_call>", "<|im_end|>", "</tool_call>", "<|fim_pad|>", "<think>")
    added += [added_token(640 + i, name, special="|" in name) for i, name in enumerate(names)]
    split = {"type": "Split", "pattern": {"Regex": QWEN_WORDS}, "behavior": "Isolated", "invert": False}
    description["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, description["pre_tokenizer"]]}
    return description, ["<|endoftext|>"] * 3


def _to_gemma(description: dict) -> None:
    vocab, merges = description["model"]["vocab"], description["model"]["merges"]
    for letter in "▁\t\n":
        vocab.setdefault(letter, len(vocab))
        for n in RUNS:
            vocab[letter * n] = len(vocab)
            merges += [[letter * i, letter * (n - i)] for i in range(1, n)] if letter == "▁" else []
            description["added_tokens"].append(added_token(vocab[letter * n], letter * n))
    space = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    back = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    split = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
    decoder = {"type": "Sequence", "decoders": [back, {"type": "ByteFallback"}, {"type": "Fuse"}]}
    description |= {"normalizer": space, "pre_tokenizer": split, "decoder": decoder}


def _unigram() -> dict:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer, tokenizer.pre_tokenizer, tokenizer.decoder = normalizers.NFKC(), pre_tokenizers.Metaspace(), decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=640, special_tokens=["<unk>", "<s>", "</s>"], unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(standin.documents(800, seed=1), trainer)
    return json.loads(tokenizer.to_str())


def write_folder(folder: Path, description: dict, names: Sequence[str]) -> Path:
    """Write a tokenizer.json and the tokenizer_config.json with `names` for bos, eos and the
    unknown token to `folder` (created if missing) and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(description), encoding="utf-8")
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **dict(zip(("bos_token", "eos_token", "unk_token"), names, strict=True))}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def make_family(folder: Path, family: str) -> Path:
    """Write the tokenizer of a family to `folder` and return it."""
    return write_folder(folder, *definition(family))
