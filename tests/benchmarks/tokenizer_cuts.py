"""Compare the tokenizers of --train_tokenizer with plain BPE: how many tokens a word has, and how
often one begins with a matra or another mark.

python tests/benchmarks/tokenizer_cuts.py --train CORPUS.txt --test OTHER.txt --sizes 2000 8192

Without --test, every twentieth document of the training files is held out.
"""

from __future__ import annotations

import argparse
import unicodedata
from pathlib import Path

import timing  # noqa: F401, puts the repo's root on the path

from cuts import cuts, tokens_that_begin_with_a_mark
from nano_hindi.corpus.documents import read_source
from nano_hindi.tokenizer.training import train_tokenizer


def read(paths: list[Path]) -> list[str]:
    return [unicodedata.normalize("NFC", text) for path in paths for text in read_source(path)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, nargs="+", required=True, metavar="FILE")
    parser.add_argument("--test", type=Path, nargs="+", metavar="FILE")
    parser.add_argument("--sizes", type=int, nargs="+", default=[2000, 8192, 16000], metavar="TOKENS")
    args = parser.parse_args()
    train, test = read(args.train), read(args.test or [])
    if not test:
        train, test = [text for i, text in enumerate(train) if i % 20], train[::20]
    print(f"trained on {sum(map(len, train)):,} characters, tested on {sum(map(len, test)):,}")
    print("| vocabulary | | tokens per word | bytes per token | cuts in words before a mark | cuts in aksharas | tokens beginning with a mark |")
    print("|---|---|---|---|---|---|---|")
    for size in args.sizes:
        for name, aksharas in (("plain BPE", 0), ("ours", None)):
            tokenizer = train_tokenizer(train, size, aksharas)
            n = cuts(tokenizer, test)
            print(
                f"| {tokenizer.vocab_size:,} | {name} | {n.tokens / n.words:.3f} | {n.size / n.tokens:.2f} "
                f"| {n.before_mark / n.inside:.1%} | {n.in_akshara / n.inside:.1%} | {tokens_that_begin_with_a_mark(tokenizer)} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
