"""Get a corpus: Hindi documents from the hub or from files of your own, counted in tokens, in one text file.

python data/download.py --max_tokens 600000000
python data/download.py --source stories.txt more.jsonl pages.parquet
python data/download.py --source sample --output_dir data/sample/raw
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

ROOT = Path(__file__).resolve().parent.parent
DEFAULT_DIR = ROOT / "data" / "raw"
sys.path.insert(0, str(ROOT))

from nano_hindi.command import Parser, command_line
from nano_hindi.common import Progress, count, replacing, shown
from nano_hindi.corpus import batches, read_source, write_document
from nano_hindi.errors import UserError
from nano_hindi.sample import stories

if TYPE_CHECKING:
    from nano_hindi.tokenizer import Tokenizer

HUB_SOURCE, SAMPLE_SOURCE = "sangraha", "sample"
SAMPLE_WORDS = 1_000_000  # of the sample, where --max_tokens is not given
HUB_DATASET, HUB_FOLDER, HUB_LICENCE = (
    "ai4bharat/sangraha",
    "verified/hin",
    "CC BY 4.0, ai4bharat/sangraha (https://huggingface.co/datasets/ai4bharat/sangraha)",
)
TOKENIZER = "sarvamai/sarvam-1"
HUB_ROWS = 500  # documents that are decoded at once
HUB_TIMEOUT = 20.0  # seconds for the question whether the hub is there; the libraries would try for most of a minute


def parse(argv: list[str] | None):
    parser = Parser(prog="data/download.py", description="Write hindi_corpus.txt and metadata.txt. Next: data/preprocess.py.")
    parser.add_argument(
        "--source",
        nargs="+",
        metavar="NAME|PATH",
        help=f"{HUB_SOURCE} (the default): {HUB_FOLDER} of {HUB_DATASET} on the hub; {SAMPLE_SOURCE}: stories that this program writes itself, offline; "
        "or .txt, .jsonl (field text), .parquet (column text) files",
    )
    parser.add_argument("--output_dir", type=Path, default=DEFAULT_DIR, metavar="DIR", help="where the corpus goes")
    parser.add_argument(
        "--max_tokens",
        type=int,
        metavar="N",
        help=f"stop with the document that reaches this many (default: 600000000; {SAMPLE_WORDS} words of the sample)",
    )
    parser.add_argument(
        "--tokenizer", metavar="NAME|DIR", help=f"counts the tokens (default: {TOKENIZER}, but none for the sample, whose words are counted)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the sample: another one tells other stories")
    parser.add_argument("--overwrite", action="store_true", help="replace a corpus that is already there")
    args = parser.parse_args(argv)
    args.source = args.source or [HUB_SOURCE]
    if args.max_tokens is None:
        args.max_tokens = SAMPLE_WORDS if args.source == [SAMPLE_SOURCE] else 600_000_000
    if args.max_tokens < 1:
        raise UserError(f"--max_tokens {args.max_tokens} would take nothing; give a positive number")
    for name in (HUB_SOURCE, SAMPLE_SOURCE):
        if name in args.source and len(args.source) > 1:
            raise UserError(f"--source takes {name} alone, or files, not both")
    return args


@command_line
def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    from nano_hindi.dataloader import write_metadata  # brings torch along: after parsing, and before the long work

    from_hub, from_sample = args.source == [HUB_SOURCE], args.source == [SAMPLE_SOURCE]
    source = ", ".join(os.path.realpath(path) for path in args.source)
    if from_hub:
        source = f"{HUB_DATASET} {HUB_FOLDER}"
    elif from_sample:
        source = f"sample, seed {args.seed}"
    corpus, facts_file = args.output_dir / "hindi_corpus.txt", args.output_dir / "metadata.txt"
    facts = {"source": source, "max_tokens": args.max_tokens}
    if corpus.exists() and not args.overwrite:
        return leave_alone(corpus, facts_file, facts)

    if from_hub:
        facts |= {"revision": hub_revision(), "licence": HUB_LICENCE}
        documents, tokenizer = hub_documents(), load_tokenizer(args.tokenizer or TOKENIZER)
        progress = Progress(args.max_tokens, "tokens", "downloading")
    elif from_sample:
        facts |= {"licence": "MIT, written by nano_hindi/sample"}
        documents, tokenizer = stories(args.seed), load_tokenizer(args.tokenizer) if args.tokenizer else None
        progress = Progress(args.max_tokens, "tokens" if tokenizer else "words", "writing stories")
    else:
        readers = [read_source(path) for path in args.source]  # a missing file is found before the work
        documents, tokenizer = itertools.chain.from_iterable(readers), tokenizer_or_none(args.tokenizer or TOKENIZER)
        progress = Progress(local_size(args.source), "bytes", "reading")
    args.output_dir.mkdir(parents=True, exist_ok=True)
    with replacing(corpus) as temporary:
        with progress, open(temporary, "wb") as file:
            totals = write_corpus(file, documents, tokenizer, args.max_tokens, report=reporter(progress))
        if not totals.documents:
            raise UserError(f"there is no text in {', '.join(args.source)}; give other files")
        facts_file.unlink(missing_ok=True)  # so that it never speaks of another corpus
    write_metadata(facts_file, facts | totals.facts(tokenizer) | {"created": datetime.now(timezone.utc).isoformat(timespec="seconds")})

    empty = f" ({totals.empty:,} empty ones left out)" if totals.empty else ""
    tokens = f"{totals.tokens:,} tokens of {tokenizer.name}, " if tokenizer else ""
    print(f"{corpus}: {totals.documents:,} documents{empty}, {tokens}{totals.words:,} words, {totals.bytes / 1e6:,.2f} MB")
    print(f"next: python data/preprocess.py{next_flags(args)}")
    return 0


def next_flags(args) -> str:
    """What data/preprocess.py needs to be told about this corpus."""
    if args.source == [SAMPLE_SOURCE]:
        return f" --input {shown(args.output_dir / 'hindi_corpus.txt')} --output_dir {shown(args.output_dir.parent)} --train_tokenizer 4096"
    return "" if args.output_dir == DEFAULT_DIR else f" --input {shown(args.output_dir / 'hindi_corpus.txt')}"


def leave_alone(corpus: Path, facts_file: Path, asked: dict) -> int:
    """Say that the corpus is there already, when the same source and budget made it. Raises UserError when it is another one."""
    from nano_hindi.dataloader import read_metadata

    facts = read_metadata(facts_file) if facts_file.is_file() else {}
    if any(facts.get(key) != str(value) for key, value in asked.items()):
        raise UserError(f"{corpus} is already there, from another source or budget; --overwrite replaces it, another --output_dir keeps both")
    print(f"{corpus} is already there, from the same source and budget: {facts.get('documents')} documents; --overwrite makes it again")
    return 0


# ---- counting and writing


@dataclass
class Totals:
    """What a corpus holds."""

    documents: int = 0
    tokens: int = 0  # with bos and eos, as they will stand in the token files; 0 without a tokenizer
    words: int = 0
    characters: int = 0
    bytes: int = 0  # of text
    written: int = 0  # bytes of the file, markers and all
    empty: int = 0  # documents that were nothing but space, and are not in the corpus

    def facts(self, tokenizer: Tokenizer | None) -> dict:
        """The lines of metadata.txt."""
        counted = {"tokenizer": tokenizer.name, "tokens": self.tokens} if tokenizer else {"tokenizer": "none: max_tokens bounded the words"}
        sizes = {"words": self.words, "characters": self.characters, "bytes": self.bytes, "empty_documents_left_out": self.empty}
        return {"documents": self.documents, **counted, **sizes}


def write_corpus(
    file: BinaryIO, documents: Iterable[str], tokenizer: Tokenizer | None, max_tokens: int, report: Callable[[Totals], None] = lambda totals: None
) -> Totals:
    """Append `documents` to a corpus, up to and including the one that reaches `max_tokens` (without a tokenizer: that many words, each of which is at
    least one token). Documents that are nothing but space are left out. `report` hears of the totals after each batch."""
    totals = Totals()

    def not_empty() -> Iterator[str]:
        for text in documents:
            if text and not text.isspace():
                yield text
            else:
                totals.empty += 1

    for batch in batches(not_empty()):
        encoded = tokenizer.encode_batch(batch) if tokenizer else [[]] * len(batch)
        for text, ids in zip(batch, encoded, strict=True):
            totals.written += write_document(file, text)
            totals.documents += 1
            totals.tokens += len(tokenizer.document(ids)) if tokenizer else 0
            totals.words += len(text.split())
            totals.characters += len(text)
            totals.bytes += len(text.encode())
            if (totals.tokens if tokenizer else totals.words) >= max_tokens:
                report(totals)
                return totals
        report(totals)
    return totals


def reporter(progress: Progress) -> Callable[[Totals], None]:
    """A `report` for `write_corpus` that moves a bar of tokens, of words, or of bytes of the file, with the other figures behind it."""

    def report(totals: Totals) -> None:
        done = {"tokens": totals.tokens, "words": totals.words, "bytes": totals.written}[progress.unit]
        counted = "tokens" if totals.tokens else "words"
        others = {} if progress.unit == counted else {counted: count(getattr(totals, counted))}
        progress.update(done - progress.done, documents=count(totals.documents), **others, MB=f"{totals.bytes / 1e6:,.1f}")

    return report


# ---- sources


def local_size(paths: list[str]) -> int | None:
    """The bytes of text in the files, where their size tells."""
    return sum(Path(path).stat().st_size for path in paths) if all(path.lower().endswith(".txt") for path in paths) else None


def load_tokenizer(name: str) -> Tokenizer:
    from nano_hindi.tokenizer import load_tokenizer

    return load_tokenizer(name)


def tokenizer_or_none(name: str) -> Tokenizer | None:
    """The tokenizer, or None with a notice: to take text from a file, nobody needs one."""
    try:
        return load_tokenizer(name)
    except UserError as error:
        print(
            f"notice: {error}\nnotice: without a tokenizer, words and bytes are counted, and --max_tokens bounds the words (each is at least one token)"
        )
        return None


def hub_revision() -> str:
    """The commit of the data set on the hub. Asks once, so that a hub that is not there is known at once. Raises UserError where it cannot be had."""
    try:
        from huggingface_hub import HfApi

        return HfApi().dataset_info(HUB_DATASET, timeout=HUB_TIMEOUT).sha or "unknown"
    except Exception as error:
        raise hub_error(error) from error


def hub_documents() -> Iterator[str]:
    """The documents of the data set, streamed. Lost connections are tried again by the libraries; raises UserError when they give up."""
    try:
        import datasets

        datasets.utils.logging.set_verbosity_error()
        datasets.disable_progress_bars()
        rows = datasets.load_dataset(HUB_DATASET, data_dir=HUB_FOLDER, split="train", streaming=True)
        for batch in rows.iter(batch_size=HUB_ROWS):
            yield from (text or "" for text in batch["text"])
    except Exception as error:
        raise hub_error(error) from error


def hub_error(error: Exception) -> UserError:
    status = getattr(getattr(error, "response", None), "status_code", None)
    reason = f"it answers {status}" if status else (str(error).strip() or type(error).__name__).splitlines()[0][:200].rstrip(".:")
    return UserError(
        f"{HUB_DATASET} cannot be had from the hub ({reason}); check the connection (HF_ENDPOINT names a mirror, HF_TOKEN logs in) and run the same "
        "command again, or do without the hub: --source sample, --source PATH"
    )


if __name__ == "__main__":
    sys.exit(main())
