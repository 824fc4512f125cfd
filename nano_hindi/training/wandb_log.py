"""Send the metrics and samples of a run to Weights & Biases."""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nano_hindi.errors import UserError

if TYPE_CHECKING:
    import wandb

WANDB_TIMEOUT = 30  # seconds that wandb may take to connect to its server, and to send the rest at the end


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

    def _start(self) -> wandb.Run:
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
