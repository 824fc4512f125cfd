"""Compare data/preprocess.py, from text to token files, with the library's own `encode_batch_fast`
on the same text and cores; measure memory over the size of the text.

python tests/benchmarks/tokenize_corpus.py --tokenizer DIR --corpus DIR
python tests/benchmarks/tokenize_corpus.py --memory 0.1 1 4
python tests/benchmarks/tokenize_corpus.py --memory 0.06 --document 27

The library starts one thread per core, with the texts and ids in memory; preprocess reads from a
file, splits by hash, counts, checks for losses and writes. Without --tokenizer, a tokenizer of
4,096 tokens is trained on the stories of nano_hindi/sample, which are also the text without
--corpus.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from timing import ROOT, medians  # puts the repo's root on the path

from nano_hindi.corpus.documents import batches, chunks, read_documents, write_document
from nano_hindi.sample import stories


def write_text(path: Path, size: float, corpus: Path | None, longest: float = 0) -> None:
    """Write a corpus of about `size` bytes: the files of a folder, or stories, repeated. The first
    document has about `longest` bytes."""
    texts = list(itertools.chain.from_iterable(map(read_documents, sorted(corpus.glob("*.txt")))) if corpus else itertools.islice(stories(), 20_000))
    with open(path, "wb") as file:
        if longest:
            write_document(
                file, " ".join(itertools.islice(itertools.cycle(texts), int(longest * len(texts)) // sum(len(text.encode()) for text in texts)))
            )
        for text in itertools.cycle(texts):
            write_document(file, text)
            if file.tell() >= size:
                return


def compare(corpus: Path, tokenizer_dir: Path, rounds: int, folder: Path) -> None:
    from data.preprocess import cores, sample_of
    from nano_hindi.corpus.shards import Shards, discard
    from nano_hindi.corpus.tokenize import write_shards
    from nano_hindi.tokenizer import load_tokenizer

    tokenizer, ours_encoder = load_tokenizer(tokenizer_dir), load_tokenizer(tokenizer_dir)
    plan, workers = chunks(corpus), cores()
    texts = list(batches(read_documents(corpus)))
    size = sum(len(text.encode()) for batch in texts for text in batch)

    def encode(read_ids: bool):
        for batch in texts:
            encodings = tokenizer._encoder.encode_batch_fast(batch, add_special_tokens=False)
            if read_ids:
                [encoding.ids for encoding in encodings]

    def ours():
        ours_encoder.encode_faster(sample_of(plan))
        shards = Shards(folder, {}, len(plan))
        shards.begin()
        for path, _ in zip(shards.paths, write_shards(list(zip(plan, shards.paths, strict=True)), ours_encoder, 0.01, workers), strict=True):
            shards.join(path)
        discard(shards.folder)

    alone, with_ids, whole = medians(
        {"encode_batch_fast": lambda: encode(False), "its ids besides": lambda: encode(True), "preprocess": ours}, rounds
    ).values()
    print(f"{tokenizer_dir.name}: {size / 1e6:.1f} MB of text, {workers} cores, {rounds} rounds; MB/s, and fraction of the library's speed")
    for name, seconds in (
        ("encode_batch_fast", alone),
        ("encode_batch_fast, and .ids read", with_ids),
        ("preprocess: file to files, processes and all", whole),
    ):
        print(f"  {name:<46} {size / seconds / 1e6:6.1f}  {alone / seconds:4.0%}")


def peak_memory(command: list[str]) -> int:
    """Return the peak memory in bytes of a command and its children together (proportional set
    size, so that shared pages count once), sampled five times a second. Linux only."""
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    most = 0

    def watch():
        nonlocal most
        while process.poll() is None:
            most = max(most, sum(map(held, family(process.pid))))
            time.sleep(0.2)

    watcher = threading.Thread(target=watch)
    watcher.start()
    code = process.wait()
    watcher.join()
    if code:
        raise SystemExit(f"{' '.join(command)} ended with {code}")
    return most


def family(pid: int) -> list[int]:
    """Return a process and all its descendants."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(p for child in children for p in family(int(child)))]


def held(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def memory(sizes: list[float], longest: float, corpus: Path | None, tokenizer_dir: Path, folder: Path) -> None:
    for size in sizes:
        write_text(folder / "corpus.txt", size * 1e9, corpus, longest)
        start = time.perf_counter()
        flags = ["--input", folder / "corpus.txt", "--output_dir", folder / "data", "--tokenizer", tokenizer_dir]
        most = peak_memory([sys.executable, "data/preprocess.py", *map(str, flags)])
        print(f"{size:5.2f} GB of text: peak {most / 1e6:,.0f} MB, {size * 1e3 / (time.perf_counter() - start):.1f} MB/s", flush=True)
        shutil.rmtree(folder / "data")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--corpus", type=Path, help="a folder of .txt files")
    parser.add_argument("--megabytes", type=float, default=50, help="megabytes of text to compare on")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", type=float, nargs="+", metavar="GB", help="measure memory at these sizes instead")
    parser.add_argument("--document", type=float, default=0, metavar="MB", help="with --memory: begin with one document of this size")
    args = parser.parse_args()
    os.chdir(ROOT)
    with tempfile.TemporaryDirectory(prefix="tokenize_corpus") as name:
        folder = Path(name)
        tokenizer = args.tokenizer
        if tokenizer is None:
            from nano_hindi.tokenizer.training import train_tokenizer

            tokenizer = folder / "trained"
            train_tokenizer(itertools.islice(stories(), 5000), 4096).save(tokenizer)
        if args.memory:
            memory(args.memory, args.document * 1e6, args.corpus, tokenizer, folder)
        else:
            write_text(folder / "corpus.txt", args.megabytes * 1e6, args.corpus)
            compare(folder / "corpus.txt", tokenizer, args.rounds, folder)


if __name__ == "__main__":
    main()
