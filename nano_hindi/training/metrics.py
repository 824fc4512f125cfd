"""The metrics of a run: `metrics.jsonl`, one JSON object per line, and optionally Weights &
Biases."""

from __future__ import annotations

import contextlib
import json
import math
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from nano_hindi.errors import UserError, naming
from nano_hindi.files import replacing, when_released

WANDB_TIMEOUT = 30  # seconds that wandb may take to connect to its server, and to send the rest at the end
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
    return {key: value if key in ("step", "tokens") or _is_plausible(value) else None for key, value in record.items()}


def _is_plausible(value: object) -> bool:
    """Return whether `value` may be a metric: none is negative, and they come from float32."""
    return type(value) in (int, float) and (value == 0 or FLOAT32_MIN <= value <= FLOAT32_MAX)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the records of a metrics file, without the lines that are none (see
    `parse_record`)."""
    return [record for line in _lines(path) if (record := parse_record(line)) is not None]


def _lines(path: Path) -> Iterator[bytes]:
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
    so that no step is recorded twice; one that is resumed from another folder begins with the lines
    of the metrics file there, `history`. The lines that it keeps do not change; a notice says how
    many are no records."""

    def __init__(self, path: Path, resumed_step: int = 0, history: Path | None = None):
        self.path, self._unwritten = path, b""
        lines = [(line, parse_record(line)) for line in _lines(history or path)]
        if invalid := [number for number, (line, record) in enumerate(lines, 1) if record is None and line.strip()]:
            print(f"notice: {len(invalid)} of {len(lines)} lines in {(history or path).name} are no records and are removed, first line {invalid[0]}")
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_bytes(b"".join(line.strip() + b"\n" for line, record in lines if record is not None and record["step"] <= resumed_step))

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


class WandbLog:
    """A logger to Weights & Biases, which may be missing, slow, offline or broken.

    A separate thread calls wandb, and training never waits for it. The first failure is reported in
    one line, and training continues without wandb. `tell` is called with lines for the user, on the
    caller's thread.
    """

    def __init__(self, enabled: bool, config: dict, folder: Path, tell: Callable[[str], None]):
        self.folder, self.config, self.tell = folder, config, tell
        self._calls: queue.SimpleQueue[Callable | None] = queue.SimpleQueue()
        self._messages: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="wandb", daemon=True)
        if enabled:
            self._thread.start()

    def log(self, record: dict[str, Any]) -> None:
        self._call(lambda run: run.log(record))

    def log_samples(self, step: int, samples: list[tuple[str, str]]) -> None:
        """Log a table of prompts and the texts generated from them."""
        rows = [[step, prompt, text] for prompt, text in samples]
        self._call(lambda run: run.log({"step": step, "samples": sys.modules["wandb"].Table(columns=["step", "prompt", "text"], data=rows)}))

    def finish(self) -> None:
        """Wait until everything is sent: at most WANDB_TIMEOUT seconds for a connection, if there
        is none yet, and as long again to send the rest."""
        self._call(None)
        end = time.monotonic() + 2 * WANDB_TIMEOUT + 10  # wandb has limits of its own, which it reports better
        while self._thread.is_alive() and time.monotonic() < end:
            self._thread.join(0.1)  # with a timeout: on Windows, Ctrl-C does not interrupt a join without one
        self._report()
        if self._thread.is_alive():  # it ends with the process
            self.tell("wandb: it does not answer, so not everything was sent; metrics.jsonl has everything")

    def _call(self, call: Callable | None) -> None:
        if self._thread.is_alive():
            self._calls.put(call)
        self._report()

    def _report(self) -> None:
        while not self._messages.empty():
            self.tell(self._messages.get())

    def _work(self) -> None:
        try:
            run = self._start()
            while (call := self._calls.get()) is not None:
                call(run)
            run.finish()
        except Exception as error:  # noqa: BLE001 - no failure of wandb may end the run
            kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
            self._messages.put(f"wandb: off ({kind}{' '.join(str(error).split())[:120]}); training continues, metrics.jsonl has everything")

    def _start(self):
        """Return wandb's run: that of the same folder, whose id is kept there in a file, or a new
        one."""
        import wandb

        settings = wandb.Settings(silent=True, console="off", init_timeout=WANDB_TIMEOUT, finish_timeout=WANDB_TIMEOUT)
        if wandb.setup(settings).settings.mode == "online" and not wandb.login(prompt=False, verify=False):
            raise UserError("not logged in; run `wandb login`, or set WANDB_MODE=offline")
        id_file = self.folder / "wandb_id.txt"
        run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "nano_hindi"),
            name=os.environ.get("WANDB_NAME", self.folder.resolve().name),
            id=(id_file.read_text().strip() or None) if id_file.is_file() else None,
            resume="allow",
            config=self.config,
            dir=str(self.folder),
            settings=settings,
        )
        id_file.write_text(run.id)
        run.define_metric("*", step_metric="step")  # wandb's own step count only grows, but a resumed run repeats some steps
        self._messages.put(f"wandb       {run.url or run.dir}")
        return run
