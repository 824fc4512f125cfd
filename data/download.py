"""Get a corpus: Hindi documents from the hub or from files of your own, counted in tokens, in one text file.

python data/download.py --max_tokens 600000000
python data/download.py --source stories.txt more.jsonl pages.parquet
python data/download.py --source sample --output_dir data/sample/raw
"""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

ROOT = Path(__file__).resolve().parent.parent
DEFAULT_DIR = ROOT / "data" / "raw"
sys.path.insert(0, str(ROOT))

from nano_hindi.cli import Parser, command_line, exit_at_once
from nano_hindi.console import Progress, count, shown
from nano_hindi.corpus.cleaning import Cleaner
from nano_hindi.corpus.documents import batches, read_documents, read_source, write_document
from nano_hindi.corpus.hub import HubTexts, say
from nano_hindi.corpus.unfinished_corpus import UnfinishedCorpus, write_facts
from nano_hindi.errors import UserError
from nano_hindi.files import locked, read_metadata, replacing
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
RECORD_BYTES = 16_000_000  # of text between two records of a download


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
    parser.add_argument("--seed", type=int, default=0, metavar="S", help=f"another one draws another part of {HUB_SOURCE}, or tells other stories")
    parser.add_argument(
        "--clean",
        action="store_true",
        help="mend control characters and spellings that are not NFC, drop what is broken, not Hindi, very short, or there already; says how much of each",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a corpus that is already there, or the part of another one")
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
    from_hub = args.source == [HUB_SOURCE]
    source = ", ".join(os.path.realpath(path) for path in args.source)
    if from_hub:
        source = f"{HUB_DATASET} {HUB_FOLDER}"
    elif args.source == [SAMPLE_SOURCE]:
        source = f"sample, seed {args.seed}"
    corpus = args.output_dir / "hindi_corpus.txt"
    asked = {"source": source, "max_tokens": args.max_tokens, "cleaned": "yes" if args.clean else "no"}
    if from_hub:
        asked |= {"seed": args.seed, "tokenizer": args.tokenizer or TOKENIZER}
    with locked(args.output_dir, "is downloading there", "--output_dir"):
        return make(args, asked, corpus)


def make(args, asked: dict, corpus: Path) -> int:
    """The corpus, in a folder that is this process's alone, unless it is there already; and what came of it, for people."""
    from_hub = args.source == [HUB_SOURCE]
    unfinished = UnfinishedCorpus(corpus)
    if not (unfinished.is_complete and unfinished.is_of(asked)):
        if corpus.exists() and not args.overwrite:
            return leave_alone(corpus, asked)
        unfinished.claim(asked, args.overwrite)
        if from_hub:
            download(args, asked, unfinished)
    facts = unfinished.finish() if from_hub else gather(args, asked, corpus)

    if args.clean:
        print("\n".join(Cleaner.recorded(facts).lines()))
    documents, words, size, empty = (int(facts[key]) for key in ("documents", "words", "bytes", "empty_documents_left_out"))
    left_out = f" ({empty:,} empty ones left out)" if empty else ""
    tokens = f"{int(facts['tokens']):,} tokens of {facts['tokenizer']}, " if "tokens" in facts else ""
    print(f"{corpus}: {documents:,} documents{left_out}, {tokens}{words:,} words, {size / 1e6:,.2f} MB")
    print(f"next: python data/preprocess.py{next_flags(args)}")
    return 0


def gather(args, asked: dict, corpus: Path) -> dict:
    """Make a corpus of local files, or of the sample, in one go. Returns the facts for metadata.txt."""
    facts = asked
    if args.source == [SAMPLE_SOURCE]:
        facts = asked | {"licence": "MIT, written by nano_hindi/sample"}
        documents, tokenizer = stories(args.seed), load_tokenizer(args.tokenizer) if args.tokenizer else None
        progress = Progress(args.max_tokens, "tokens" if tokenizer else "words", "writing stories")
    else:
        readers = [read_source(path) for path in args.source]  # a missing file is found before the work
        documents, tokenizer = itertools.chain.from_iterable(readers), tokenizer_or_none(args.tokenizer or TOKENIZER)
        progress = Progress(local_size(args.source), "bytes", "reading")
    args.output_dir.mkdir(parents=True, exist_ok=True)
    with replacing(corpus) as temporary:
        totals, cleaner = Totals(), Cleaner() if args.clean else None
        with progress, open(temporary, "wb") as file:
            write_corpus(file, documents, tokenizer, args.max_tokens, totals, cleaner, reporter(progress))
        if not totals.documents:
            why = "there is no text" if cleaner is None else "nothing is left of the text"
            raise UserError(f"{why} in {', '.join(args.source)}; give other files{'' if cleaner is None else ', or leave --clean out'}")
        facts_file = corpus.with_name("metadata.txt")
        facts_file.unlink(missing_ok=True)  # so that it never speaks of another corpus
    facts |= counted(totals, tokenizer, cleaner)
    write_facts(facts_file, facts)
    return facts


def download(args, asked: dict, unfinished: UnfinishedCorpus) -> None:
    """Complete the part file. It is recorded after every RECORD_BYTES of text, with the position of the stream, and a stop costs no more than those."""
    hub = HubTexts(HUB_DATASET, HUB_FOLDER, args.seed, unfinished.recorded.get("revision"), say)
    tokenizer = load_tokenizer(asked["tokenizer"])
    facts = asked | {"revision": hub.revision, "licence": HUB_LICENCE, "reader": hub.reader, "tokenizer_fingerprint": tokenizer.fingerprint()}
    if unfinished.recorded and not unfinished.is_of(facts):
        if not args.overwrite:
            raise unfinished.foreign("its tokenizer, this program or the library datasets has changed since")
        unfinished.discard()
    begun = unfinished.recorded
    totals, cleaner = Totals.recorded(begun), Cleaner.recorded(begun) if args.clean else None
    position = json.loads(begun["position"]) if begun else None
    if begun:
        say(f"continuing {unfinished.part}: {totals.documents:,} documents, {totals.tokens:,} tokens are there")

    def record(complete: bool = False) -> None:
        state = {"complete": "yes" if complete else "no", "position": json.dumps(position)}
        unfinished.record(file, state | facts | counted(totals, tokenizer, cleaner) | {"written": totals.written})

    with unfinished.open(totals.written) as file, Progress(args.max_tokens - totals.tokens, "tokens", "downloading") as progress:
        if cleaner is not None and begun:
            for text in read_documents(unfinished.part):
                cleaner.remember(text)
        report, recorded = reporter(progress, totals.tokens), totals.written
        try:
            for documents, behind in hub.batches(position):
                write_corpus(file, documents, tokenizer, args.max_tokens, totals, cleaner, report)
                position = behind
                if totals.tokens >= args.max_tokens:
                    break
                if totals.written - recorded >= RECORD_BYTES:
                    record()
                    recorded = totals.written
        except KeyboardInterrupt:
            say(f"{unfinished.part} stays; the same command continues it")
            raise
        if totals.documents:
            record(complete=True)
    if not totals.documents:
        unfinished.discard()
        raise UserError(f"there is no text in {HUB_FOLDER} of {HUB_DATASET}; is HF_ENDPOINT a full mirror?")


def next_flags(args) -> str:
    """What data/preprocess.py needs to be told about this corpus."""
    if args.source == [SAMPLE_SOURCE]:
        return f" --input {shown(args.output_dir / 'hindi_corpus.txt')} --output_dir {shown(args.output_dir.parent)} --train_tokenizer 4096"
    return "" if args.output_dir == DEFAULT_DIR else f" --input {shown(args.output_dir / 'hindi_corpus.txt')}"


def leave_alone(corpus: Path, asked: dict) -> int:
    """Say that the corpus is there already, when the same source and budget made it. Raises UserError when it is another one."""
    facts_file = corpus.with_name("metadata.txt")
    facts = read_metadata(facts_file) if facts_file.is_file() else {}
    if any(facts.get(key) != str(value) for key, value in asked.items()):
        raise UserError(
            f"{corpus} is already there, from another source, budget, seed or tokenizer, or cleaned otherwise; --overwrite replaces it, another --output_dir keeps both"
        )
    print(f"{corpus} is already there, from the same command: {facts.get('documents')} documents; --overwrite makes it again")
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
    empty_documents_left_out: int = 0  # nothing but space

    @classmethod
    def recorded(cls, facts: dict[str, str]) -> Totals:
        """Those of a progress file, or of none."""
        return cls(**{field.name: int(facts.get(field.name, 0)) for field in fields(cls)})

    def facts(self, tokenizer: Tokenizer | None) -> dict:
        """The lines of metadata.txt."""
        counted = {"tokenizer": tokenizer.name, "tokens": self.tokens} if tokenizer else {"tokenizer": "none: max_tokens bounded the words"}
        others = ("words", "characters", "bytes", "empty_documents_left_out")
        return {"documents": self.documents, **counted, **{name: getattr(self, name) for name in others}}


def counted(totals: Totals, tokenizer: Tokenizer | None, cleaner: Cleaner | None) -> dict:
    """What metadata.txt says of the corpus's content."""
    return totals.facts(tokenizer) | (cleaner.facts() if cleaner else {})


def write_corpus(
    file: BinaryIO,
    documents: Iterable[str],
    tokenizer: Tokenizer | None,
    max_tokens: int,
    totals: Totals,
    cleaner: Cleaner | None,
    report: Callable[[Totals], None],
) -> None:
    """Append `documents` to a corpus and to its `totals`, up to and including the one that reaches `max_tokens` (without a tokenizer: that many words,
    each of which is at least one token). Documents that are nothing but space are left out, and those that `cleaner` drops. `report` hears of the
    totals after each batch."""

    def taken() -> Iterator[str]:
        """All documents pass here, whatever their source, in the order of the corpus."""
        for text in documents:
            if not text or text.isspace():
                totals.empty_documents_left_out += 1
            elif cleaner is None:
                yield text
            elif (cleaned := cleaner(text)) is not None:
                yield cleaned

    for batch in batches(taken()):
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
                return
        report(totals)


def reporter(progress: Progress, before: int = 0) -> Callable[[Totals], None]:
    """A `report` for `write_corpus` that moves a bar of tokens (from those that were there `before`), of words, or of bytes of the file, with the other
    figures behind it."""

    def report(totals: Totals) -> None:
        done = {"tokens": totals.tokens - before, "words": totals.words, "bytes": totals.written}[progress.unit]
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


if __name__ == "__main__":
    exit_at_once(main())
