"""Turn the corpus into tokens: train.bin, val.bin, a copy of the tokenizer, and the facts about them.

python data/preprocess.py
python data/preprocess.py --input data/raw/hindi_corpus.txt --output_dir data --tokenizer path/to/tokenizer
python data/preprocess.py --train_tokenizer 8192
"""

from __future__ import annotations

import hashlib
import itertools
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

ROOT = Path(__file__).resolve().parent.parent
DEFAULT_DIR = ROOT / "data"
sys.path.insert(0, str(ROOT))

from nano_hindi.command import Parser, command_line
from nano_hindi.common import Progress, count, replacing, shown
from nano_hindi.corpus import MARKER, batches, read_documents
from nano_hindi.errors import UserError

if TYPE_CHECKING:
    from nano_hindi.tokenizer import Tokenizer

USUAL_WINDOW = 1024  # tokens; with less than one and its target, training with the default --sequence_len has nothing to evaluate on


def parse(argv: list[str] | None):
    parser = Parser(prog="data/preprocess.py", description="Tokenize a corpus. Before: data/download.py. Next: train.py.")
    parser.add_argument("--input", type=Path, default=ROOT / "data" / "raw" / "hindi_corpus.txt", metavar="FILE", help="the corpus")
    parser.add_argument("--output_dir", type=Path, default=DEFAULT_DIR, metavar="DIR", help="where train.bin, val.bin and tokenizer/ go")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--tokenizer", default="sarvamai/sarvam-1", metavar="NAME|DIR", help="a name on the hub, or a folder with tokenizer.json")
    which.add_argument("--train_tokenizer", type=int, metavar="VOCAB_SIZE", help="train one on the corpus itself, of so many pieces; needs no hub")
    parser.add_argument("--val_fraction", type=float, default=0.01, metavar="SHARE", help="share of the documents that is kept for validation")
    args = parser.parse_args(argv)
    if not 0 < args.val_fraction < 1:
        raise UserError(f"--val_fraction {args.val_fraction} leaves no text to train or to validate on; give a share between 0 and 1, such as 0.01")
    return args


@command_line
def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    if not args.input.is_file():
        raise UserError(f"there is no corpus {args.input}; run data/download.py first, or name the file with --input")
    documents = at_least_two(read_documents(args.input), args.input)
    from nano_hindi.dataloader import write_metadata
    from nano_hindi.tokenizer import load_tokenizer
    from nano_hindi.tokenizer_training import train_tokenizer

    if args.train_tokenizer is None:
        tokenizer = load_tokenizer(args.tokenizer)
    else:
        tokenizer = train_tokenizer(read_documents(args.input), args.train_tokenizer)
    folder = args.output_dir
    if (folder / "tokenizer").is_file():  # known before the long work
        raise UserError(f"{folder / 'tokenizer'} is a file, where the copy of the tokenizer goes; move it, or choose another --output_dir")
    folder.mkdir(parents=True, exist_ok=True)
    facts_file = folder / "preprocess_meta.txt"
    with replacing(folder / "train.bin") as train_file, replacing(folder / "val.bin") as val_file:
        with open(train_file, "wb") as a, open(val_file, "wb") as b, Progress(args.input.stat().st_size, "bytes", "tokenizing") as progress:
            train, val = Part(a), Part(b)
            words = tokenize(documents, tokenizer, args.val_fraction, train, val, progress)
        check_split(train, val, args.val_fraction)
        facts_file.unlink(missing_ok=True)  # written last: a folder without it is not ready, whatever else lies there
    if args.train_tokenizer is not None or not same_folder(args.tokenizer, folder / "tokenizer"):
        tokenizer.save(folder / "tokenizer")
    facts = {
        "tokenizer": tokenizer.name,
        "fingerprint": tokenizer.fingerprint(),
        "vocab_size": tokenizer.vocab_size,
        "bos_id": tokenizer.bos_id,
        "eos_id": tokenizer.eos_id,
        **{f"{name}_{key}": getattr(part, key) for name, part in (("train", train), ("val", val)) for key in ("documents", "tokens", "bytes")},
        "words": words,
        "fertility": f"{(train.text_tokens + val.text_tokens) / max(words, 1):.4f}",
        "bytes_per_token": f"{(train.bytes + val.bytes) / max(train.text_tokens + val.text_tokens, 1):.4f}",
        "val_fraction": args.val_fraction,
    }
    write_metadata(facts_file, facts)
    print(
        f"fertility   {float(facts['fertility']):.3f} tokens per word, {float(facts['bytes_per_token']):.2f} bytes per token, with {tokenizer.name}"
    )
    for name, part in (("train", train), ("val", val)):
        print(f"{name + '.bin':<11} {part.documents:,} documents, {part.tokens:,} tokens, {part.bytes / 1e6:,.2f} MB of text")
    if val.tokens <= USUAL_WINDOW:
        print(
            f"notice: val.bin is shorter than one window of {USUAL_WINDOW} tokens; give a larger --val_fraction, or train with a smaller --sequence_len"
        )
    data_dir = "" if folder == DEFAULT_DIR else f" --data_dir {shown(folder)}"
    print(f"{shown(folder)} is ready; next: python train.py{data_dir}")
    return 0


@dataclass
class Part:
    """One of the two token files, and what went into it."""

    file: BinaryIO
    documents: int = 0
    tokens: int = 0  # with bos and eos
    text_tokens: int = 0  # without
    bytes: int = 0  # of text

    def write(self, ids: list[int], document: list[int], size: int) -> None:
        import numpy as np

        self.file.write(np.array(document, dtype="<u4").tobytes())
        self.documents += 1
        self.tokens += len(document)
        self.text_tokens += len(ids)
        self.bytes += size


def tokenize(documents: Iterable[str], tokenizer: Tokenizer, val_fraction: float, train: Part, val: Part, progress: Progress) -> int:
    """Write the tokens of each document to one of the two parts, in the order of the corpus. Returns the number of words."""
    words = 0
    for batch in batches(documents):
        read = 0
        for text, ids in zip(batch, tokenizer.encode_batch(batch), strict=True):
            raw = text.encode()
            part = val if is_for_validation(raw, val_fraction) else train
            part.write(ids, tokenizer.document(ids), len(raw))
            words += len(text.split())
            read += len(raw) + len(MARKER) + 2
        progress.update(read, tokens=count(train.tokens + val.tokens))
    return words


def is_for_validation(raw: bytes, val_fraction: float) -> bool:
    """Whether a document, as UTF-8, belongs to the validation share: the first 8 bytes of its BLAKE2b hash, read as a big-endian number, over 2**64 are less
    than `val_fraction`. The same text always falls on the same side."""
    return int.from_bytes(hashlib.blake2b(raw).digest()[:8], "big") < val_fraction * 2**64


def at_least_two(documents: Iterator[str], path: Path) -> Iterator[str]:
    """`documents`, after a look at the first two. Raises UserError where there are fewer: the split needs whole documents."""
    first = list(itertools.islice(documents, 2))
    if not first:
        raise UserError(f"{path} holds no text; run data/download.py again, or give another --input")
    if len(first) == 1:
        raise UserError(
            f"{path} is one single document, and validation needs documents of its own; part the text with lines {MARKER.decode()}, or give more"
        )
    return itertools.chain(first, documents)


def check_split(train: Part, val: Part, val_fraction: float) -> None:
    """Raises UserError where all documents fell on one side."""
    for part, name, change in ((val, "validation", "larger"), (train, "training", "smaller")):
        if part.documents == 0:
            raise UserError(
                f"none of the {train.documents + val.documents:,} documents fell to {name}; give a {change} --val_fraction than {val_fraction:g}, or more documents"
            )


def same_folder(name: str, folder: Path) -> bool:
    """Whether the tokenizer came from `folder` itself, which then stays as its owner made it."""
    return Path(name).is_dir() and folder.is_dir() and Path(name).samefile(folder)


if __name__ == "__main__":
    sys.exit(main())
