"""Measure --clean on real text: its speed, the dandas it restores, and the memory of its sets.

python tests/benchmarks/cleaning.py FILE ... [--documents 100000]
"""

from __future__ import annotations

import argparse
import random
import time

import timing  # noqa: F401 - puts the repo's root on the path

from nano_hindi.corpus.cleaning import Cleaner, Count
from nano_hindi.corpus.cleaning.punctuation import restore_dandas
from nano_hindi.corpus.cleaning.seen import NearlySeen, Seen, hash_key
from nano_hindi.corpus.documents import read_source


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="FILE")
    parser.add_argument("--documents", type=int, default=100_000, help="for the memory")
    args = parser.parse_args()
    texts = [text for path in args.files for text in read_source(path)]
    size = sum(len(text.encode()) for text in texts)

    cleaner, start = Cleaner(), time.process_time()
    kept = [cleaned for text in texts if (cleaned := cleaner(text)) is not None]
    print(f"clean: {size / 1e6 / (time.process_time() - start):.1f} MB/s of {size / 1e6:.1f} MB, {len(texts):,} documents, one core")
    print("\n".join(cleaner.lines(Count(len(kept), sum(len(text.encode()) for text in kept)))))
    again = Cleaner()
    print(f"cleaned twice: {sum(again(text) != text for text in kept)} of {len(kept):,} documents change")

    for name, pipe in (("`है|`", "|"), ("`है |`", " |")):
        dandas = sum(text.count("।") for text in texts)
        restored = sum(restore_dandas(text.replace("|", "").replace("।", pipe)).count("।") for text in texts)
        print(f"{name} instead of danda: {restored / dandas:.1%} of {dandas:,} restored")

    rng, exact, nearly = random.Random(0), Seen(), NearlySeen()
    words = " ".join(texts[:2000]).split()
    start = time.process_time()
    for _ in range(args.documents):
        text = " ".join(rng.choices(words, k=30))
        exact.add(hash_key(text.encode()))
        nearly.add(nearly.keys(text))
    tables = [seen._table.nbytes / args.documents for seen in (exact, nearly._bands)]
    print(
        f"sets of {args.documents:,} documents: {tables[0]:.0f} and {tables[1]:.0f} bytes per document, {(time.process_time() - start) / args.documents * 1e6:.0f} us"
    )


if __name__ == "__main__":
    main()
