"""Read and write the metrics of a run: `metrics.jsonl`, one JSON object per line."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nano_hindi.errors import naming
from nano_hindi.files import replacing, when_released

LONGEST_LINE = 2**16  # bytes; a record has a few hundred
FLOAT32_MIN, FLOAT32_MAX = 2.0**-149, (2 - 2.0**-23) * 2.0**127  # the smallest number above 0, and the largest


def parse_record(line: bytes) -> dict[str, Any] | None:
    """Return the record on a line of `metrics.jsonl`; None if the line is incomplete, or has no
    step and tokens. Every other value that is not a plausible number becomes None."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):  # not JSON or not UTF-8; nested too deeply
        return None
    if not isinstance(record, dict) or not all(type(record.get(key)) is int and 0 <= record[key] < 2**63 for key in ("step", "tokens")):
        return None
    return {key: value if key in ("step", "tokens") or _may_be_metric(value) else None for key, value in record.items()}


def _may_be_metric(value: object) -> bool:
    """Return whether `value` may be a metric: none is negative, and they come from float32."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and (value == 0 or FLOAT32_MIN <= value <= FLOAT32_MAX)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the records of a metrics file, without invalid lines (see `parse_record`)."""
    return [record for line in _bounded_lines(path) if (record := parse_record(line)) is not None]


def _bounded_lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file, none if there is no file. One that is too long for a record is
    replaced by another invalid line, so that memory is bounded."""
    if not path.is_file():
        return
    with naming(path), open(path, "rb") as file:
        while line := file.readline(LONGEST_LINE):
            rest = line
            while len(rest) == LONGEST_LINE and not rest.endswith(b"\n"):
                rest = file.readline(LONGEST_LINE)
            yield line if rest is line else b"too long"


def training_seconds(records: list[dict[str, Any]]) -> float:
    """Return the seconds spent on updates over all resumes, without evaluations, samples and saves.
    As in the curves, updates lost to a kill do not count."""
    logged = [(record["tokens"], record["tokens_per_second"]) for record in records if record.get("tokens_per_second")]
    before = [0, *(tokens for tokens, _ in logged)]
    return sum((tokens - earlier) / rate for (tokens, rate), earlier in zip(logged, before, strict=False))


class Metrics:
    """A writer of `metrics.jsonl`. A resumed run first cuts the file back to the checkpoint's step,
    without its evaluation if the run `evaluates_again`, so that nothing is recorded twice. One that
    is resumed from another folder begins with the lines of the metrics file there, `history`. The
    lines that it keeps do not change; a notice says how many are not records."""

    def __init__(self, path: Path, resumed_step: int = 0, history: Path | None = None, evaluates_again: bool = False):
        self.path, self._unwritten = path, b""
        lines = [(line, parse_record(line)) for line in _bounded_lines(history or path)]
        if invalid := [number for number, (line, record) in enumerate(lines, 1) if record is None and line.strip()]:
            print(
                f"notice: removed what is not a record from {(history or path).name}: {len(invalid)} of {len(lines)} lines, the first is line {invalid[0]}"
            )

        def is_kept(record: dict[str, Any]) -> bool:
            is_made_again = evaluates_again and record["step"] == resumed_step and "val_bpb" in record
            return record["step"] <= resumed_step and not is_made_again

        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_bytes(b"".join(line.strip() + b"\n" for line, record in lines if record is not None and is_kept(record)))

    def write(self, record: dict[str, Any]) -> None:
        """Append a record. If that fails, it is kept for the next write, and `flush` raises the
        reason."""
        numbers = {key: value if math.isfinite(value) else None for key, value in record.items()}  # JSON knows neither nan nor inf
        self._unwritten += (json.dumps(numbers) + "\n").encode()
        with contextlib.suppress(OSError):
            self._append()

    def flush(self) -> None:
        """Write all pending lines, see `when_released`. Raises OSError if that fails: a checkpoint
        must not be saved before the records that lead up to it."""
        when_released(self.path, self._append)

    def _append(self) -> None:
        while self._unwritten:
            # on a full disk half a line may be written: the other half follows when there is room
            with naming(self.path), open(self.path, "ab", buffering=0) as file:
                self._unwritten = self._unwritten[file.write(self._unwritten) :]
