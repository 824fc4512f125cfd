"""Tokenize a corpus into train.bin and val.bin, the memmaps that train.py reads.

    python data/preprocess.py
    python data/preprocess.py --input my_corpus.txt --output_dir my_data --tokenizer path/to/tokenizer

Both files are little-endian uint32 without a header, each document bos + tokens + eos. Memory does not grow with the corpus.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from nano_hindi.common import Parser, Progress, command_line, count, replacing
from nano_hindi.errors import UserError

BATCH_BYTES = 4_000_000  # of text that are tokenized at once


@dataclass
class Part:
    """What went into one of the two files."""

    documents: int = 0
    tokens: int = 0
    bytes: int = 0
    words: int = 0


def parse(argv: list[str] | None):
    parser = Parser(prog="preprocess.py", description="Tokenize a corpus into train.bin and val.bin.")
    parser.add_argument("--input", type=Path, default=ROOT / "data/raw/hindi_corpus.txt", metavar="FILE", help="corpus of data/download.py")
    parser.add_argument("--output_dir", type=Path, default=ROOT / "data", metavar="DIR", help="where train.bin, val.bin and tokenizer/ go")
    parser.add_argument("--tokenizer", default="sarvamai/sarvam-1", metavar="NAME|DIR", help="name on the Hugging Face hub, or a local folder")
    parser.add_argument("--val_fraction", type=float, default=0.01, metavar="SHARE", help="share of the documents for validation")
    args = parser.parse_args(argv)
    if not 0 < args.val_fraction < 1:
        raise UserError(f"--val_fraction must lie between 0 and 1, not {args.val_fraction}")
    return args


@command_line
def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    from nano_hindi.corpus import read_documents
    from nano_hindi.tokenizer import load_tokenizer

    if not args.input.is_file():
        raise UserError(f"there is no corpus {args.input}; make one with data/download.py, or name yours with --input")
    tokenizer = load_tokenizer(args.tokenizer)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    parts = write_bins(read_documents(args.input), args.input.stat().st_size, tokenizer, args.output_dir, args.val_fraction)
    report(parts, tokenizer, args.output_dir)
    return 0


def is_validation(text: str, val_fraction: float) -> bool:
    """Whether a document is held out: by a BLAKE2b hash of its text, read as a number from 0 to 1. The same text always falls on the same side."""
    digest = hashlib.blake2b(text.encode("utf-8"), digest_size=8, person=b"nano_hindi").digest()
    return int.from_bytes(digest, "big") < val_fraction * 2**64


def write_bins(documents: Iterable[str], total_bytes: int, tokenizer, folder: Path, val_fraction: float) -> dict[str, Part]:
    """Tokenize `documents` into the files of `folder`, which take their names when everything is there; the metadata last, so that nobody takes a half for all.

    Raises UserError where nothing is left for training or for validation.
    """
    import numpy as np

    from nano_hindi.dataloader import write_metadata

    parts = {"train": Part(), "val": Part()}
    metadata = folder / "preprocess_meta.txt"
    with replacing(folder / "train.bin") as train_bin, replacing(folder / "val.bin") as val_bin:
        with (
            open(train_bin, "wb") as train_file,
            open(val_bin, "wb") as val_file,
            Progress(total_bytes / 1e6, "MB", "tokenizing") as progress,
        ):
            files = {"train": train_file, "val": val_file}
            for batch in batches(documents):
                for text, ids in zip(batch, tokenizer.encode_batch(batch), strict=True):
                    name = "val" if is_validation(text, val_fraction) else "train"
                    tokens = np.array(tokenizer.document(ids), dtype="<u4")
                    tokens.tofile(files[name])
                    part = parts[name]
                    part.documents += 1
                    part.tokens += len(tokens)
                    part.bytes += len(text.encode("utf-8"))
                    part.words += len(text.split())
                progress.update(sum(len(text.encode("utf-8")) for text in batch) / 1e6, tokens=count(parts["train"].tokens + parts["val"].tokens))
        for name, part in parts.items():
            if part.documents == 0:
                raise UserError(
                    f"no document falls into the {name} part ({parts['train'].documents + parts['val'].documents} documents in all, --val_fraction {val_fraction}); "
                    "documents are separated by lines <|endoftext|>: give more of them, or another --val_fraction"
                )
        metadata.unlink(missing_ok=True)
    tokenizer.save(folder / "tokenizer")
    words, tokens = (sum(getattr(part, key) for part in parts.values()) for key in ("words", "tokens"))
    facts = {
        "tokenizer": tokenizer.name,
        "fingerprint": tokenizer.fingerprint(),
        "vocab_size": tokenizer.vocab_size,
        "bos_id": tokenizer.bos_id,
        "eos_id": tokenizer.eos_id,
        **{f"{name}_{key}": getattr(part, key) for name, part in parts.items() for key in ("documents", "tokens", "bytes")},
        "val_fraction": val_fraction,
        "fertility": f"{tokens / max(1, words):.4f}",
    }
    write_metadata(metadata, facts)
    return parts


def batches(documents: Iterable[str]) -> Iterator[list[str]]:
    """Documents in lists of about BATCH_BYTES; empty ones are left out."""
    batch, size = [], 0
    for text in documents:
        if not text.strip():
            continue
        batch.append(text)
        size += len(text.encode("utf-8"))
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def report(parts: dict[str, Part], tokenizer, folder: Path) -> None:
    for name, part in parts.items():
        print(f"{folder / f'{name}.bin'}: {part.documents:,} documents, {part.tokens:,} tokens, {part.bytes / 1e6:.1f} MB of text")
    tokens, words, size = (sum(getattr(part, key) for part in parts.values()) for key in ("tokens", "words", "bytes"))
    print(
        f"fertility {tokens / max(1, words):.2f} tokens per word, {size / tokens:.2f} bytes per token, {tokenizer.vocab_size:,} pieces ({tokenizer.name})"
    )
    if parts["val"].tokens <= 1024:
        print(f"notice: val.bin has only {parts['val'].tokens:,} tokens, less than a window of 1,025; use a larger --val_fraction or more text")


if __name__ == "__main__":
    sys.exit(main())
