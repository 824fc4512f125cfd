"""The record of a run: `metrics.jsonl`, one JSON object a line, and Weights & Biases where it is wanted."""

from __future__ import annotations

import contextlib
import json
import math
import os
import queue
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nano_hindi.errors import UserError
from nano_hindi.files import write_text

PATIENCE = 30  # seconds that wandb may take to find its server, and to send the rest at the end


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file; a half-written one, left by a power cut, is passed over."""
    if not path.is_file():
        return []
    lines = []
    for line in path.read_bytes().splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            lines.append(record)
    return lines


def training_seconds(records: list[dict[str, Any]]) -> float:
    """The time that updates took, without evaluations, samples and saves, over all resumes; what a killed process lost does not count, as in the curve."""
    logged = [(record["tokens"], record["tokens_per_second"]) for record in records if record.get("tokens_per_second")]
    before = [0, *(tokens for tokens, _ in logged)]
    return sum((tokens - earlier) / rate for (tokens, rate), earlier in zip(logged, before, strict=False))


class Metrics:
    """Appends to `metrics.jsonl`. A resumed run first cuts the file back to the checkpoint's step, so that the curve has no doubles."""

    def __init__(self, path: Path, resumed_step: int = 0):
        self.path, self._unwritten = path, b""
        kept = [record for record in read_metrics(path) if record["step"] <= resumed_step]
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, "".join(json.dumps(record) + "\n" for record in kept))

    def write(self, record: dict[str, Any]) -> None:
        """Append a line. Where that fails it is kept for the next time, and `flush` says why."""
        numbers = {key: value if math.isfinite(value) else None for key, value in record.items()}  # JSON knows neither nan nor inf
        self._unwritten += (json.dumps(numbers) + "\n").encode()
        with contextlib.suppress(OSError):
            self.flush()

    def flush(self) -> None:
        """Bring all lines to the file. Raises OSError where that fails: a checkpoint may only be saved after the lines that lead up to it."""
        while self._unwritten:
            with open(self.path, "ab", buffering=0) as file:  # a full disk may take half a line: the other half follows when there is room
                self._unwritten = self._unwritten[file.write(self._unwritten) :]


class WandbLog:
    """Weights & Biases, which may be missing, slow, offline or broken. A thread of its own speaks with it, and training never waits; the first failure is
    one line, and training goes on without it. `tell` takes a line for the user, on the caller's thread."""

    def __init__(self, enabled: bool, config: dict, folder: Path, tell: Callable[[str], None]):
        self.folder, self.config, self.tell = folder, config, tell
        self._orders: queue.SimpleQueue[Callable | None] = queue.SimpleQueue()
        self._news: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="wandb", daemon=True)
        if enabled:
            self._thread.start()

    def log(self, record: dict[str, Any]) -> None:
        self._order(lambda run: run.log(record))

    def log_samples(self, step: int, samples: list[tuple[str, str]]) -> None:
        """A table of prompts and the texts made of them."""
        rows = [[step, prompt, text] for prompt, text in samples]
        self._order(lambda run: run.log({"step": step, "samples": sys.modules["wandb"].Table(columns=["step", "prompt", "text"], data=rows)}))

    def finish(self) -> None:
        """Wait until all is sent: PATIENCE seconds at most for the connection, where there is none yet, and again for what is not sent yet."""
        self._order(None)
        while self._thread.is_alive():
            self._thread.join(0.1)  # in slices: on Windows nothing else lets Ctrl-C through
        self._report()

    def _order(self, order: Callable | None) -> None:
        if self._thread.is_alive():
            self._orders.put(order)
        self._report()

    def _report(self) -> None:
        while not self._news.empty():
            self.tell(self._news.get())

    def _work(self) -> None:
        try:
            run = self._start()
            while (order := self._orders.get()) is not None:
                order(run)
            run.finish()
        except Exception as error:  # noqa: BLE001 - whatever goes wrong in there, the run matters more
            kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
            self._news.put(f"wandb: off ({kind}{' '.join(str(error).split())[:120]}); training goes on, metrics.jsonl has everything")

    def _start(self):
        """The run of wandb, a new one, or that of the same folder; its id is kept there in a file."""
        import wandb

        settings = wandb.Settings(silent=True, console="off", init_timeout=PATIENCE, finish_timeout=PATIENCE)
        if wandb.setup(settings).settings.mode == "online" and not wandb.login(prompt=False, verify=False):
            raise UserError("nobody is logged in; `wandb login` does that, WANDB_MODE=offline does without")
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
        run.define_metric("*", step_metric="step")  # wandb's own count of steps only grows, but a resumed run makes some a second time
        self._news.put(f"wandb       {run.url or run.dir}")
        return run
