"""Get Hindi text: stream Sangraha from the Hugging Face hub, or read files of your own, into one corpus file.

python data/download.py --max_tokens 600000000
python data/download.py --source stories.txt news.jsonl wiki.parquet
"""

from __future__ import annotations

import contextlib
import datetime
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from nano_hindi.common import Parser, Progress, command_line, count, replacing
from nano_hindi.errors import UserError

DATASET, DATA_DIR, SPLIT = "ai4bharat/sangraha", "verified/hin", "train"
TOKENIZER = "sarvamai/sarvam-1"
BATCH_DOCUMENTS = 256  # that are counted at once


def parse(argv: list[str] | None):
    parser = Parser(prog="download.py", description="Write a corpus of Hindi text: data/raw/hindi_corpus.txt and metadata.txt.")
    parser.add_argument(
        "--source",
        nargs="+",
        default=["sangraha"],
        metavar="sangraha|PATH",
        help="sangraha, or .txt, .jsonl (field text) and .parquet (column text) files",
    )
    parser.add_argument("--output_dir", type=Path, default=ROOT / "data/raw", metavar="DIR", help="where the corpus goes")
    parser.add_argument("--max_tokens", type=int, default=600_000_000, metavar="N", help="stop with the document that reaches so many tokens")
    parser.add_argument(
        "--tokenizer", default=TOKENIZER, metavar="NAME|DIR", help="counts the tokens: name on the Hugging Face hub, or a local folder"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a corpus that is there already")
    args = parser.parse_args(argv)
    if args.max_tokens <= 0:
        raise UserError(f"--max_tokens must be at least 1, not {args.max_tokens}")
    return args


@command_line
def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    corpus = args.output_dir / "hindi_corpus.txt"
    if corpus.exists() and not args.overwrite:
        raise UserError(f"{corpus} is there already; go on with data/preprocess.py, or give --overwrite to replace it, or another --output_dir")
    is_local = args.source != ["sangraha"]
    documents = local_documents(args.source) if is_local else sangraha_documents()
    tokenizer = tokenizer_for_counting(args.tokenizer, is_local)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    totals = write_corpus(documents, corpus, tokenizer, args.max_tokens)
    if not totals["documents"]:
        raise UserError(f"there is no text in {', '.join(args.source)}")
    write_facts(args, corpus, totals, tokenizer, is_local)
    return 0


# ---- where documents come from


def local_documents(paths: list[str]) -> Iterator[str]:
    """The documents of the files, in the order of the command line. Raises UserError at once for a file that is missing or of another kind."""
    from nano_hindi.corpus import read_source

    for path in paths:
        if not Path(path).is_file():
            raise UserError(f"there is no file {path}; --source takes sangraha, or paths of .txt, .jsonl and .parquet files")
    sources = [read_source(path) for path in paths]
    return (text for source in sources for text in source)


def sangraha_documents() -> Iterator[str]:
    """The texts of Sangraha's verified Hindi part, streamed. Raises UserError where the hub cannot be reached."""
    import datasets

    datasets.utils.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    with hub_errors():
        stream = datasets.load_dataset(DATASET, data_dir=DATA_DIR, split=SPLIT, streaming=True)
    return stream_texts(stream)


def stream_texts(stream) -> Iterator[str]:
    with hub_errors():
        for row in stream:
            yield row["text"]


@contextlib.contextmanager
def hub_errors() -> Iterator[None]:
    """One line for the many ways in which a hub is out of reach."""
    import httpx
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except (DatasetsError, HfHubHTTPError, httpx.HTTPError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
            raise  # a full disk and the like: a file of ours
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise UserError(
            f"{DATASET} could not be had from the hub ({reason}); check the connection (HF_ENDPOINT names a mirror, HF_TOKEN logs you in), "
            "or use text of your own: --source PATH"
        ) from error


def tokenizer_for_counting(name: str, is_local: bool):
    """The tokenizer, or None for local sources where it cannot be had and none was asked for."""
    from nano_hindi.tokenizer import load_tokenizer

    try:
        return load_tokenizer(name)
    except UserError:
        if not is_local or name != TOKENIZER:
            raise
        print(f"the tokenizer {name} cannot be had here: counting words and bytes instead of tokens (--tokenizer names another)", flush=True)
        return None


# ---- the corpus


def write_corpus(documents: Iterator[str], corpus: Path, tokenizer, max_tokens: int) -> dict[str, int]:
    """Write documents until `max_tokens` tokens are there (words, without a tokenizer). Returns the totals of what was written."""
    from nano_hindi.corpus import write_document

    unit = "tokens" if tokenizer else "words"
    totals = {"documents": 0, "words": 0, "bytes": 0, "tokens": 0, "empty_documents": 0}
    with replacing(corpus) as temporary, open(temporary, "wb") as file, Progress(max_tokens if tokenizer else None, unit, "reading") as progress:
        for batch in batched(documents, BATCH_DOCUMENTS):
            texts = [text for text in batch if text.strip()]
            totals["empty_documents"] += len(batch) - len(texts)
            lengths = [len(tokenizer.document(ids)) for ids in tokenizer.encode_batch(texts)] if tokenizer else [0] * len(texts)
            before = totals[unit]
            for text, tokens in zip(texts, lengths, strict=True):
                write_document(file, text)
                totals["documents"] += 1
                totals["words"] += len(text.split())
                totals["bytes"] += len(text.encode("utf-8"))
                totals["tokens"] += tokens
                if totals[unit] >= max_tokens:
                    break
            progress.update(totals[unit] - before, documents=count(totals["documents"]), MB=f"{totals['bytes'] / 1e6:.1f}")
            if totals[unit] >= max_tokens:
                break
    return totals


def batched(documents: Iterator[str], size: int) -> Iterator[list[str]]:
    batch = []
    for text in documents:
        batch.append(text)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def write_facts(args, corpus: Path, totals: dict[str, int], tokenizer, is_local: bool) -> None:
    """metadata.txt beside the corpus, and the last lines on the screen."""
    from nano_hindi.dataloader import write_metadata

    if tokenizer is None:
        del totals["tokens"]
    facts = {
        "source": " ".join(args.source) if is_local else f"{DATASET} {DATA_DIR} (CC BY 4.0)",
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "tokenizer": tokenizer.name if tokenizer else "none",
        **totals,
    }
    write_metadata(args.output_dir / "metadata.txt", facts)
    tokens = f", {totals['tokens']:,} tokens" if tokenizer else ""
    print(f"{corpus}: {totals['documents']:,} documents, {totals['words']:,} words{tokens}, {totals['bytes'] / 1e6:.1f} MB")


if __name__ == "__main__":
    sys.exit(main())
