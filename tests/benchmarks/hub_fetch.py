"""Measure the bytes that a download fetches for the text it keeps, and its peak memory:
`data/download.py` for a twentieth of a data set of 54 files on a loopback hub, once with row groups
of a few megabytes, once with a single large row group in each file.

python tests/benchmarks/hub_fetch.py --work FOLDER
"""

from __future__ import annotations

import argparse
import os
import random
import re
import resource
import subprocess
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
from timing import ROOT  # puts the repo's root on the path

import standin
from hub import Hub
from nano_hindi.files import read_metadata
from nano_hindi.sample import stories

FILES, ROWS, KEPT = 54, 6000, 1 / 20


def make_file(path: Path, rows_per_group: int, seed: int = 0) -> None:
    """Write a file of ROWS documents of 100 to 2,000 words: about 50 MB of text."""
    rng, words = random.Random(seed), [word for text, _ in zip(stories(), range(2000), strict=False) for word in text.split()]
    texts = [" ".join(rng.choices(words, k=rng.randint(100, 2000))) for _ in range(ROWS)]
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {"doc_id": [str(i) for i in range(ROWS)], "text": texts, "type": ["web"] * ROWS}
    pyarrow.parquet.write_table(pyarrow.table(columns), path, row_group_size=rows_per_group)


def measure(work: Path, rows_per_group: int) -> None:
    """Download a twentieth and print the bytes, requests and memory."""
    repo = work / f"rows{rows_per_group}"
    first = repo / "verified/hin/data-0.parquet"
    if not first.exists():
        make_file(first, rows_per_group)
        for i in range(1, FILES):
            os.link(first, first.with_name(f"data-{i}.parquet"))
    metadata = pyarrow.parquet.read_metadata(first)
    groups = [metadata.row_group(i).column(1) for i in range(metadata.num_row_groups)]
    texts = pyarrow.parquet.read_table(first, columns=["text"])["text"]
    ratio = sum(group.total_compressed_size for group in groups) / sum(len(text.as_py().encode()) for text in texts)
    words = FILES * sum(len(text.as_py().split()) for text in texts)
    out = work / f"raw{rows_per_group}"
    with Hub({"datasets/ai4bharat/sangraha": repo}) as hub:
        argv = ["--output_dir", out, "--tokenizer", work / "tokenizer", "--max_tokens", int(words * KEPT), "--overwrite"]
        subprocess.run([sys.executable, ROOT / "data/download.py", *map(str, argv)], env={**os.environ, **hub.environment(work / "home")}, check=True)
        sizes = [int(last) - int(begin) + 1 for begin, last in re.findall(r"parquet bytes=(\d+)-(\d+)", "\n".join(hub.requests))]
    kept = int(read_metadata(out / "metadata.txt")["bytes"]) * ratio
    row_group = sum(group.total_compressed_size for group in groups) / len(groups)
    print(
        f"{len(groups)} row groups of {row_group / 1e6:.1f} MB in each of {FILES} files: kept {kept / 1e6:.1f} MB compressed, fetched {sum(sizes) / 1e6:.1f} MB in "
        f"{len(sizes)} requests: {sum(sizes) / kept:.2f} x; allowed {(1.5 * kept + FILES * row_group) / 1e6:.1f} MB; "
        f"peak memory {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e3:.0f} MB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, metavar="DIR", help="folder for the data set")
    work = parser.parse_args().work
    if not (work / "tokenizer").exists():
        standin.make_tokenizer(work / "tokenizer")
    for rows_per_group in (300, ROWS):
        measure(work, rows_per_group)


if __name__ == "__main__":
    main()
