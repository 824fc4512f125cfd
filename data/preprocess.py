"""Tokenize a corpus: write train.bin, val.bin, a copy of the tokenizer, and their metadata.

python data/preprocess.py
python data/preprocess.py --input data/raw/hindi_corpus.txt --output_dir data --tokenizer DIR
python data/preprocess.py --input pages.parquet more.jsonl stories.txt --workers 4 --report
python data/preprocess.py --train_tokenizer 8192

Run the same command again to resume a stopped run; the files are the same as without the stop.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parent.parent
DEFAULT_DIR = ROOT / "data"
sys.path.insert(0, str(ROOT))

from nano_hindi.cli import Parser, command_line
from nano_hindi.common import visible
from nano_hindi.console import Progress, count, quoted, shown
from nano_hindi.corpus.documents import MARKER, Chunk, batches, chunks, read_source
from nano_hindi.errors import UserError
from nano_hindi.files import locked, read_metadata
from nano_hindi.ranges import Range, whole

if TYPE_CHECKING:
    from nano_hindi.corpus.unfinished_tokens import UnfinishedTokens
    from nano_hindi.tokenizer import Tokenizer

SAMPLES, SAMPLE_CHARACTERS = 8, 100_000  # chunks, and characters of each, to compare two encoders on
USUAL_WINDOW = 1024  # tokens, the default --sequence_len; evaluation needs at least one window and its target


def parse(argv: list[str] | None):
    parser = Parser(prog="data/preprocess.py", description="Tokenize a corpus. Before: data/download.py. Next: train.py.")
    parser.add_argument(
        "--input",
        type=Path,
        nargs="+",
        default=[ROOT / "data" / "raw" / "hindi_corpus.txt"],
        metavar="FILE",
        help="the corpus, or any .txt, .jsonl (field text) and .parquet (column text) files",
    )
    parser.add_argument("--output_dir", type=Path, default=DEFAULT_DIR, metavar="DIR", help="folder for train.bin, val.bin and tokenizer/")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--tokenizer", default="sarvamai/sarvam-1", metavar="NAME|DIR", help="a name on the hub, or a folder with tokenizer.json")
    which.add_argument("--train_tokenizer", type=Range(int), metavar="VOCAB_SIZE", help="train a tokenizer of this size on the corpus; needs no hub")
    parser.add_argument(
        "--val_fraction",
        type=Range(float, 0, 1, low_open=True, high_open=True),
        default=0.01,
        metavar="FRACTION",
        help="fraction of the documents held out for validation",
    )
    parser.add_argument(
        "--workers", type=whole(1, 2**10), default=cores(), metavar="N", help="worker processes; the files are the same for any number"
    )
    parser.add_argument("--allow_lossy", action="store_true", help="accept a tokenizer whose tokens do not decode to the original text")
    parser.add_argument("--report", action="store_true", help="write plots of the data, and a page with documents as the model sees them")
    return parser.parse_args(argv)


def cores() -> int:
    """Return the number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@command_line
def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    for path in args.input:
        if not path.is_file():
            raise UserError(f"there is no corpus {path}; run data/download.py first, or name the file with --input")
    plan = [chunk for path in args.input for chunk in chunks(path)]
    require_two_documents(args.input)

    with locked(args.output_dir, "is tokenizing there", "--output_dir"):
        make(args, plan)
    data_dir = "" if args.output_dir == DEFAULT_DIR else f" --data_dir {quoted(args.output_dir)}"
    print(f"{shown(args.output_dir)} is ready; next: python train.py{data_dir}")
    return 0


def make(args, plan: list[Chunk]) -> None:
    """Write the token files unless they exist, and the report.

    The caller holds the lock of the folder.
    """
    from nano_hindi.corpus.unfinished_tokens import UnfinishedTokens
    from nano_hindi.tokenizer import load_tokenizer

    files = UnfinishedTokens(args.output_dir)
    asked = facts_of_input(args.input, plan) | {"val_fraction": args.val_fraction, "train_tokenizer": args.train_tokenizer or "no"}
    tokenizer = None
    if args.train_tokenizer is None:
        tokenizer = load_tokenizer(args.tokenizer)
        asked["fingerprint"] = tokenizer.fingerprint()
    if is_ready(files, asked):
        print(f"{shown(args.output_dir)} is ready already, from the same command and the same text; delete {shown(files.facts)} to start over")
    else:
        tokenizer = tokenize(args, plan, asked, files, tokenizer)
        describe(finish(args, asked, files, tokenizer))
    if args.report:
        from nano_hindi.corpus.report import write_report

        for path in write_report(args.output_dir):
            print(f"report      {shown(path)}")


def facts_of_input(paths: list[Path], plan: list[Chunk]) -> dict:
    """Return metadata that identifies the input: names, sizes, modification times and chunks."""
    stats = [path.stat() for path in paths]
    identity = [[path.name, stat.st_size, stat.st_mtime_ns] for path, stat in zip(paths, stats, strict=True)]
    cuts = [(chunk.group, chunk.begin, chunk.end) for chunk in plan]
    return {
        "input": ", ".join(path.name for path in paths),
        "input_bytes": sum(stat.st_size for stat in stats),
        "input_fingerprint": hashlib.blake2b(json.dumps([identity, cuts]).encode(), digest_size=16).hexdigest(),
    }


def require_two_documents(paths: list[Path]) -> None:
    """Raise UserError if there are fewer than two documents: a split consists of whole
    documents."""
    first = list(itertools.islice(all_documents(paths), 2))
    names = ", ".join(map(str, paths))
    if not first:
        raise UserError(f"{names} holds no text; run data/download.py again, or give another --input")
    if len(first) == 1:
        raise UserError(
            f"{names} is one single document, and validation needs documents of its own; separate documents with lines {MARKER.decode()}, or give more files"
        )


def all_documents(paths: list[Path]) -> Iterable[str]:
    return itertools.chain.from_iterable(map(read_source, paths))


def is_ready(files: UnfinishedTokens, asked: dict) -> bool:
    """Return whether the folder holds the complete output of these settings."""
    from nano_hindi.corpus.prepared import check_data

    if not files.facts.is_file():
        return False
    try:
        facts = read_metadata(files.facts)
        if any(facts.get(key) != str(value) for key, value in asked.items()):
            return False
        check_data(files.folder)
    except UserError:  # damaged data is made again
        return False
    return True


def tokenize(args, plan: list[Chunk], asked: dict, files: UnfinishedTokens, tokenizer: Tokenizer | None) -> Tokenizer:
    """Complete the part files. Returns the tokenizer, training it first if it is None."""
    from nano_hindi.corpus.tokenize import encode_chunks
    from nano_hindi.tokenizer.training import train_tokenizer

    if files.begin(asked, len(plan)):
        print(f"resuming: {files.finished:,} of {len(plan):,} chunks of the text are tokenized", flush=True)
        tokenizer = tokenizer or files.load_trained()
    if tokenizer is None:
        tokenizer = train_tokenizer(all_documents(args.input), args.train_tokenizer)
        files.keep_trained(tokenizer)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    rest = plan[files.finished :]
    if not rest:
        return tokenizer
    tokenizer.encode_faster(sample_of(plan))
    try:
        with files.open(), Progress(sum(chunk.size for chunk in rest), "bytes", "tokenizing") as progress:
            for chunk, encoded in zip(rest, encode_chunks(rest, tokenizer, args.val_fraction, args.workers), strict=True):
                files.append(encoded)
                progress.update(chunk.size, tokens=count(files.counts["train_tokens"] + files.counts["val_tokens"]))
                refuse_losses(files, tokenizer, args.allow_lossy)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"stopped with {files.finished:,} of {len(plan):,} chunks of the text done; run the same command to continue"
        ) from None
    return tokenizer


def sample_of(plan: list[Chunk]) -> list[str]:
    """Return documents from evenly spaced chunks of the corpus, about 2 MB."""
    some = plan[:: -(-len(plan) // SAMPLES)]
    return [text for chunk in some for text in next(batches(chunk.read(), SAMPLE_CHARACTERS), [])]


def refuse_losses(files: UnfinishedTokens, tokenizer: Tokenizer, allow: bool) -> None:
    if files.losses.documents and not allow:
        raise UserError(f"the tokenizer {tokenizer.name} loses text: {files.losses.report(files.counts)}; use another, or --allow_lossy to accept it")


def finish(args, asked: dict, files: UnfinishedTokens, tokenizer: Tokenizer) -> dict:
    """Rename the files to their final names.

    Returns the metadata. Raises UserError if a split has no documents.
    """
    refuse_losses(files, tokenizer, args.allow_lossy)
    counts = files.counts
    for name, word, change in (("val", "validation", "larger"), ("train", "training", "smaller")):
        if not counts[f"{name}_documents"]:
            documents = counts["train_documents"] + counts["val_documents"]
            files.discard()
            raise UserError(
                f"none of the {documents:,} documents are in the {word} split; give a {change} --val_fraction than {args.val_fraction:g}, or more documents"
            )
    facts = {
        "tokenizer": tokenizer.name,
        "fingerprint": tokenizer.fingerprint(),
        "vocab_size": tokenizer.vocab_size,
        "bos_id": tokenizer.bos_id,
        "eos_id": tokenizer.eos_id,
        **{f"{name}_{key}": counts[f"{name}_{key}"] for name in ("train", "val") for key in ("documents", "tokens", "bytes")},
        "words": counts["words"],
        "characters": counts["characters"],
        "lost_characters": files.losses.characters,
        "lossy_documents": files.losses.documents,
        "fertility": f"{counts['text_tokens'] / max(counts['words'], 1):.4f}",
        "bytes_per_token": f"{(counts['train_bytes'] + counts['val_bytes']) / max(counts['text_tokens'], 1):.4f}",
    }
    if files.losses.documents:
        print(visible(f"notice: the tokenizer loses text: {files.losses.report(counts)}"))
    files.finish(tokenizer, facts | asked)
    return facts


def describe(facts: dict) -> None:
    """Print a summary of the token files."""
    print(
        f"fertility   {float(facts['fertility']):.3f} tokens per word, {float(facts['bytes_per_token']):.2f} bytes per token, with {visible(facts['tokenizer'])}"
    )
    for name in ("train", "val"):
        documents, tokens, size = (facts[f"{name}_{key}"] for key in ("documents", "tokens", "bytes"))
        print(f"{name + '.bin':<11} {documents:,} documents, {tokens:,} tokens, {size / 1e6:,.2f} MB of text")
    if facts["val_tokens"] <= USUAL_WINDOW:
        print(
            f"notice: val.bin is shorter than one window of {USUAL_WINDOW} tokens; give a larger --val_fraction, or train with a smaller --sequence_len"
        )


if __name__ == "__main__":
    sys.exit(main())
