"""The record of a run: `metrics.jsonl`, one JSON object a line, and Weights & Biases where it is wanted."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from nano_hindi.common import replacing


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


class Metrics:
    """Appends to `metrics.jsonl`. A resumed run first cuts the file back to the checkpoint's step, so that the curve has no doubles."""

    def __init__(self, path: Path, resumed_step: int = 0):
        self.path, self._unwritten = path, b""
        kept = [record for record in read_metrics(path) if record["step"] <= resumed_step]
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8", newline="\n")

    def write(self, record: dict[str, Any]) -> None:
        """Append a line. Where that fails it is kept for the next time, and `flush` says why."""
        self._unwritten += (json.dumps(record) + "\n").encode()
        with contextlib.suppress(OSError):
            self.flush()

    def flush(self) -> None:
        """Bring all lines to the file. Raises OSError where that fails: a checkpoint may only be saved after the lines that lead up to it."""
        while self._unwritten:
            with open(self.path, "ab", buffering=0) as file:  # a full disk may take half a line: the other half follows when there is room
                self._unwritten = self._unwritten[file.write(self._unwritten) :]


class WandbLog:
    """Weights & Biases, which may be missing, offline or broken: the first failure is one line, and training goes on without it."""

    def __init__(self, enabled: bool, config: dict, folder: Path):
        self.run = None
        if enabled:
            self._try(lambda: self._start(config, folder))

    def _start(self, config: dict, folder: Path) -> None:
        import wandb

        project = os.environ.get("WANDB_PROJECT", "nano_hindi")
        self.run = wandb.init(project=project, name=os.environ.get("WANDB_NAME", folder.resolve().name), config=config, dir=str(folder))

    def log(self, record: dict[str, Any]) -> None:
        if self.run is not None:
            self._try(lambda: self.run.log({key: value for key, value in record.items() if key != "step"}, step=record["step"]))

    def finish(self) -> None:
        if self.run is not None:
            self._try(lambda: self.run.finish())

    def _try(self, call) -> None:
        try:
            call()
        except Exception as error:  # noqa: BLE001 - whatever goes wrong in there, the run matters more
            self.run = None
            print(
                f"wandb: off ({type(error).__name__}: {' '.join(str(error).split())[:120]}); training goes on, metrics.jsonl has everything",
                flush=True,
            )
