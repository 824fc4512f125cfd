"""Compare SequenceLoader, which reads the file, with the same batches from a memory map; time the
digests that a start checks.

python tests/benchmarks/read_batches.py --gigabytes 2.4
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from timing import medians  # puts the repo's root on the path

from nano_hindi.dataloader import SequenceLoader
from nano_hindi.token_file import DIGEST_CHUNK_BYTES, TokenFile

SHAPES = ((1024, 64), (1024, 16), (512, 16), (32, 4))  # T, sequences of a device batch
BATCHES, VOCAB = 200, 65536


class Mapped(SequenceLoader):
    """Read from a memory map, as this program did before: a truncated file kills the process."""

    def batch(self, start: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        T, sequences = self.sequence_len, self._stream.at(start, count)
        rows = np.empty((count, T + 1), dtype="<u4")
        rows[:, :T] = self.tokens[: self.num_sequences * T].reshape(self.num_sequences, T)[sequences]
        rows[:, T] = self.tokens[(sequences + 1) * T]
        self._file.require_in_vocabulary(rows)
        checked = torch.from_numpy(rows.astype(np.int64))
        return checked[:, :-1].contiguous(), checked[:, 1:].contiguous()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=0.5)
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path, rng = Path(folder) / "train.bin", np.random.default_rng(0)
        with open(path, "wb") as out:
            for _ in range(max(1, round(args.gigabytes * 1e9 / 4e7))):
                rng.integers(VOCAB, size=10_000_000, dtype=np.uint32).tofile(out)
        file = TokenFile(path, VOCAB)
        for T, size in SHAPES:
            ours, mapped = SequenceLoader(file, T, 0), Mapped(file, T, 0)

            def read(loader: SequenceLoader, size: int = size) -> None:
                for i in range(BATCHES):
                    loader.batch(i * size, size)

            def read_new_map(loader: Mapped = mapped) -> None:
                loader.tokens = np.asarray(np.memmap(path, dtype="<u4", mode="r"))
                read(loader)

            # an epoch touches each page of a map for the first time
            rivals = {"read": lambda loader=ours: read(loader), "new map": read_new_map, "map": lambda loader=mapped: read(loader)}
            ours_speed, *others = (BATCHES / seconds for seconds in medians(rivals, args.rounds).values())
            new, known = (f"{speed:7,.0f} ({ours_speed / speed:.2f})" for speed in others)
            print(f"{size:3} x {T:4}: {ours_speed:7,.0f} batches/s; memory map {new}, of pages that it has touched before {known}")
        start = time.process_time()
        digests = list(file.chunk_digests())
        all_of_them = time.process_time() - start
        file.require_digests(digests, every=False)
        sample = time.process_time() - start - all_of_them
        print(f"digests of {len(digests):,} chunks of {DIGEST_CHUNK_BYTES:,} bytes: {all_of_them:.2f} s of CPU time; of a sample {sample:.3f} s")


if __name__ == "__main__":
    main()
