"""Tokenize a corpus: write train.bin, val.bin, a copy of the tokenizer, and their metadata.

python data/preprocess.py
python data/preprocess.py --input data/raw/hindi_corpus.txt --output_dir data --tokenizer DIR
python data/preprocess.py --input pages.parquet more.jsonl stories.txt --workers 4 --report
python data/preprocess.py --train_tokenizer 8192

Run the same command again to resume a stopped run; the files are the same as without the stop.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import itertools
import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parent.parent
DEFAULT_DIR, DEFAULT_CORPUS = ROOT / "data", ROOT / "data" / "raw" / "hindi_corpus.txt"
sys.path.insert(0, str(ROOT))

from nano_hindi.cli import Parser, command_line
from nano_hindi.common import visible
from nano_hindi.console import Progress, count, counted, python_command, shell_quoted, shown
from nano_hindi.corpus.documents import FILES, MARKER, Chunk, SmallFiles, batches, chunks, joined, read_source, with_text
from nano_hindi.errors import UserError
from nano_hindi.files import one_line
from nano_hindi.locks import locked
from nano_hindi.ranges import Range, whole

if TYPE_CHECKING:
    from nano_hindi.corpus.shards import Shards
    from nano_hindi.tokenizer import Tokenizer

SAMPLES, SAMPLE_CHARACTERS = 8, 100_000  # chunks, and characters of each, to compare two encoders on
USUAL_SEQUENCE = 1024  # tokens, the default --sequence_len; evaluation needs at least one sequence and its last target


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(prog="data/preprocess.py", description="Tokenize a corpus. Before: data/download.py. Next: train.py.")
    parser.add_argument(
        "--input",
        type=Path,
        nargs="+",
        metavar="FILE",
        help=f"the corpus, or any {FILES} (default: that of data/download.py)",
    )
    parser.add_argument("--output_dir", type=Path, default=DEFAULT_DIR, metavar="DIR", help="folder for train.bin, val.bin and tokenizer/")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--tokenizer", default="sarvamai/sarvam-1", metavar="NAME|DIR|MODEL", help="a name on the hub, a folder with tokenizer.json, or a model"
    )
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
    args = parser.parse_args(argv)
    args.input = args.input or [DEFAULT_CORPUS]
    return args


def cores() -> int:
    """Return the number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@command_line
def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    for path in args.input:
        if not path.exists():
            raise UserError(f"there is no corpus {path}; run data/download.py first, or name the file with --input")
    plan = joined(chunks(path) for path in args.input)
    require_two_documents(args.input)

    with locked(args.output_dir, "is tokenizing there", "--output_dir"):
        make(args, plan)
    data_dir = "" if args.output_dir == DEFAULT_DIR else f" --data_dir {shell_quoted(args.output_dir)}"
    print(f"{shown(args.output_dir)} is ready; next: {python_command('train.py')}{data_dir}")
    return 0


def make(args: argparse.Namespace, plan: list[Chunk | SmallFiles]) -> None:
    """Write the token files unless they exist, and the report.

    The caller holds the lock of the folder.
    """
    from nano_hindi.corpus.prepared import is_ready
    from nano_hindi.corpus.shards import Shards, discard

    settings = metadata_of_input(args.input, plan) | {"val_fraction": args.val_fraction, "train_tokenizer": args.train_tokenizer or "no"}
    tokenizer = tokenizer_named(args.tokenizer) if args.train_tokenizer is None else None
    settings |= {"normalization": tokenizer.normalization, "fingerprint": tokenizer.fingerprint} if tokenizer else {"normalization": "NFC"}
    shards = Shards(args.output_dir, settings, len(plan))
    if is_ready(args.output_dir, settings):
        discard(shards.folder)  # a run that was killed at its very end leaves it
        print(
            f"{shown(args.output_dir)} is ready already, from the same command and the same text; delete {shown(shards.metadata_file)} to start over"
        )
    else:
        tokenizer = tokenize(args, plan, shards, tokenizer)
        if metadata_of_input(args.input, plan).items() - settings.items():
            discard(shards.folder)
            raise UserError(f"{settings['input']} changed while it was tokenized; run the same command again")
        describe(finish(args, settings, shards, tokenizer))
    if args.report:
        from nano_hindi.corpus.report import write_report

        for path in write_report(args.output_dir):
            print(f"report      {shown(path)}")


def metadata_of_input(paths: list[Path], plan: list[Chunk | SmallFiles]) -> dict:
    """Return metadata that identifies the input: names, sizes, modification times and chunks."""
    stats = [path.stat() for path in paths]
    identity = [[path.name, stat.st_size, stat.st_mtime_ns] for path, stat in zip(paths, stats, strict=True)]
    cuts = [chunk.bounds for chunk in plan]
    return {
        "input": ", ".join(one_line(path.name) for path in paths),
        "input_bytes": sum(stat.st_size for stat in stats),
        "input_fingerprint": hashlib.blake2b(json.dumps([identity, cuts]).encode(), digest_size=16).hexdigest(),
    }


def tokenizer_named(name: str) -> Tokenizer:
    """Return the tokenizer that --tokenizer names; that of a model has the name of its origin."""
    from nano_hindi.tokenizer import load_tokenizer
    from nano_hindi.tokenizer.hub import model_of

    if model := model_of(name):
        from nano_hindi.inference.loading import load_for_inference

        return load_for_inference(model).tokenizer
    return load_tokenizer(name)


def require_two_documents(paths: list[Path]) -> None:
    """Raise UserError if there are fewer than two documents: a split consists of whole
    documents."""
    first = list(itertools.islice(all_documents(paths), 2))
    names = ", ".join(map(str, paths))
    if not first:
        raise UserError(f"{names} holds no text; run data/download.py again, or give another --input")
    if len(first) == 1:
        raise UserError(
            f"{names} is a single document, and validation needs documents too; separate documents with lines {MARKER.decode()}, or give more files"
        )


def all_documents(paths: list[Path]) -> Iterable[str]:
    return with_text(itertools.chain.from_iterable(map(read_source, paths)))


def training_documents(paths: list[Path], val_fraction: float) -> Iterator[str]:
    """Yield the documents of the training split, from which a tokenizer may learn. If it knew the
    rare words of val.bin, bits per byte would be too low: by 3.6 % in docs/LOG.md."""
    from nano_hindi.corpus.tokenize import is_for_validation
    from nano_hindi.tokenizer.nfc import to_nfc

    texts = map(to_nfc, all_documents(paths))
    return (text for text in texts if not is_for_validation(text.encode(), val_fraction))


def tokenize(args: argparse.Namespace, plan: list[Chunk | SmallFiles], shards: Shards, tokenizer: Tokenizer | None) -> Tokenizer:
    """Write the shards that are missing, and join all. Returns the tokenizer, training it first if
    it is None."""
    from nano_hindi.corpus.tokenize import write_shards
    from nano_hindi.tokenizer.training import train_tokenizer

    if finished := shards.begin():
        print(f"resuming: {finished:,} of {len(plan):,} chunks of the text are tokenized", flush=True)
    try:
        tokenizer = tokenizer or shards.trained(lambda: train_tokenizer(training_documents(args.input, args.val_fraction), args.train_tokenizer))
        rest = list(zip(plan, shards.paths, strict=True))[finished:]
        if rest:
            tokenizer.encode_faster(sample_of(plan))
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # --workers is the number of cores to use
        with (
            contextlib.closing(write_shards(rest, tokenizer, args.val_fraction, args.workers)) as written,
            Progress(sum(chunk.size for chunk, _ in rest), "bytes", "tokenizing") as progress,
        ):
            for (chunk, path), _ in zip(rest, written, strict=True):
                shards.join(path)
                finished += 1
                progress.update(chunk.size, tokens=count(shards.summary.counts["train_tokens"] + shards.summary.counts["val_tokens"]))
                refuse_losses(shards, tokenizer, args.allow_lossy)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"stopped with {finished:,} of {len(plan):,} chunks of the text done; run the same command to continue") from None
    finally:
        with contextlib.suppress(OSError):
            shards.folder.rmdir()  # only if it is empty
    return tokenizer


def sample_of(plan: list[Chunk | SmallFiles]) -> list[str]:
    """Return documents from evenly spaced chunks of the corpus, about 2 MB."""
    some = plan[:: -(-len(plan) // SAMPLES)]
    return [text[:SAMPLE_CHARACTERS] for chunk in some for text in next(batches(chunk.read(), SAMPLE_CHARACTERS), [])]


def refuse_losses(shards: Shards, tokenizer: Tokenizer, allow: bool) -> None:
    if shards.summary.counts["lossy_documents"] and not allow:
        raise UserError(f"the tokenizer {tokenizer.name} loses text: {shards.summary.losses()}; use another, or --allow_lossy to accept it")


def finish(args: argparse.Namespace, settings: dict, shards: Shards, tokenizer: Tokenizer) -> dict:
    """Move the files to their final names, and print notices about the text. Returns the metadata.

    Raises UserError for a loss of text that is not allowed, or if a split has no documents.
    """
    from nano_hindi.corpus.prepared import require_both_splits, tokenizer_record
    from nano_hindi.corpus.shards import discard

    refuse_losses(shards, tokenizer, args.allow_lossy)
    counts = shards.summary.counts
    try:
        require_both_splits(counts, "document", args.val_fraction)
    except UserError:
        discard(shards.folder)
        raise
    metadata = {
        "tokenizer": tokenizer.name,
        **tokenizer_record(tokenizer),
        **{f"{name}_{key}": counts[f"{name}_{key}"] for name in ("train", "val") for key in ("documents", "tokens", "bytes")},
        **{
            key: counts[key] for key in ("words", "characters", "normalized_characters", "normalized_documents", "lost_characters", "lossy_documents")
        },
        "fertility": f"{counts['text_tokens'] / max(counts['words'], 1):.4f}",
        "bytes_per_token": f"{(counts['train_bytes'] + counts['val_bytes']) / max(counts['text_tokens'], 1):.4f}",
    }
    if counts["lossy_documents"]:
        print(visible(f"notice: the tokenizer loses text: {shards.summary.losses()}"))
    if with_cr := counts["documents_with_cr"]:
        print(
            f"notice: {counted(with_cr, 'document')} with line ends of Windows, which the model would write too; data/download.py --clean --source FILE replaces them"
        )
    shards.finish(tokenizer, metadata | settings)
    return metadata


def describe(metadata: dict) -> None:
    """Print a summary of the token files."""
    print(
        f"fertility   {float(metadata['fertility']):.3f} tokens per word, {float(metadata['bytes_per_token']):.2f} bytes per token, with the tokenizer {visible(metadata['tokenizer'])}"
    )
    if changed := metadata["normalized_documents"]:
        of = metadata["train_documents"] + metadata["val_documents"]
        print(f"NFC         changed {counted(metadata['normalized_characters'], 'character')} in {changed:,} of {of:,} documents")
    for name in ("train", "val"):
        documents, tokens, size = (metadata[f"{name}_{key}"] for key in ("documents", "tokens", "bytes"))
        print(f"{name + '.bin':<11} {counted(documents, 'document')}, {tokens:,} tokens, {size / 1e6:,.2f} MB of text")
    if metadata["val_tokens"] <= USUAL_SEQUENCE:
        print(
            f"notice: val.bin is shorter than one sequence of {USUAL_SEQUENCE} tokens; give a larger --val_fraction, or train with a smaller --sequence_len"
        )


if __name__ == "__main__":
    sys.exit(main())
