"""Measure where the time of an update goes on a GPU, and compare this checkout with another:

    python tests/gpu/profile.py --only versions head blocks updates --against OTHER  each call takes
    python tests/gpu/profile.py --only kernels start nan peer --peer NANOCHAT        under 8 minutes
    python tests/gpu/profile.py --device cpu --small                                 test the script

OTHER is a worktree of an older commit. Each checkout is measured in a process of its own, one at a
time and in turn; the ratio is the other's time divided by this one's. NANOCHAT is a checkout of
karpathy/nanochat. It needs no data, no hub, no wandb. Each row is printed when it is measured, so a
call that is cut keeps its rows. Copy them into docs/RESULTS.md. Exit code 1 if a measure fails.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
LOSS_TOLERANCE = 1e-3  # of the losses of two checkouts, relative


class MeasureError(Exception):
    """Raised for a measure that failed; the message is the error, or why there is no result."""


class Worker:
    """A process that measures one section in one checkout, see measures.py. It is killed when the
    section's time is up."""

    def __init__(self, args: argparse.Namespace, checkout: Path, section: str, deadline: float, **env: str):
        size = "small" if args.small else "full"
        argv = [sys.executable, HERE / "measures.py", checkout, section, args.device, size, *([args.peer] if args.peer else [])]
        self.process = subprocess.Popen(
            list(map(str, argv)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8", env={**os.environ, **env}, cwd=checkout
        )
        self.timer = threading.Timer(max(0.0, deadline - time.monotonic()), self.process.kill)
        self.timer.start()
        self.names: list[str] = []

    def __enter__(self) -> Worker:
        try:
            self.names = self._receive()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.timer.cancel()
        self.process.kill()
        self.process.communicate()

    def measure(self, name: str) -> Any:
        """Return the result of a measure. Raises MeasureError if it failed."""
        if name not in self.names:
            raise MeasureError("not in this checkout")
        with contextlib.suppress(BrokenPipeError):
            print(name, file=self.process.stdin, flush=True)
        reply = self._receive()
        if "error" in reply:
            raise MeasureError(reply["error"])
        return reply["result"]

    def _receive(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise MeasureError(f"the process ended with exit code {self.process.wait()}: its messages are above, or its time was up")
        return json.loads(line)


class Sections:
    """The sections of a call, and what they have in common."""

    def __init__(self, args: argparse.Namespace):
        self.args, self.has_failed, self.section, self.deadline = args, False, "", 0.0
        self.checkouts = [HERE.parents[1], *([args.against.resolve()] if args.against else [])]
        # a method, and the most seconds that it may take
        self.all: dict[str, tuple[Callable[[], None], int]] = {
            "versions": (self.texts, 40),
            "head": (self.times, 100),
            "blocks": (self.times, 90),
            "updates": (self.updates, 240),
            "kernels": (self.texts, 110),
            "start": (self.start, 180),
            "nan": (self.texts, 80),
            "peer": (self.peer, 100),
        }

    def run(self, sections: list[str]) -> None:
        self.row("section", "measure", "this checkout", "the other", "ratio")
        self.row("---", "---", "---", "---", "---")
        for self.section in sections:
            measure, budget = self.all[self.section]
            start = time.monotonic()
            self.deadline = start + budget
            with self.guarded("all of it"):
                measure()
            self.row(self.section, "time", f"{time.monotonic() - start:.0f} s, of {budget} s at most")

    def row(self, *cells: str) -> None:
        print(f"| {' | '.join([*cells, '', ''][:5])} |", flush=True)

    @contextlib.contextmanager
    def guarded(self, name: str) -> Iterator[None]:
        """Print an error in the block as the row of `name`, so that the other measures go on."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - one broken measure must not hide the others
            is_missing = str(error).startswith("UserError")  # as an attention backend that is not installed
            self.has_failed |= not is_missing
            if not isinstance(error, MeasureError):
                traceback.print_exc()
            self.row(self.section, name, f"{'not here' if is_missing else 'FAILED'}: {error}")

    @contextlib.contextmanager
    def workers(self, *jobs: tuple[Path, str]) -> Iterator[list[Worker]]:
        """Yield a worker for each checkout and section, started one after the other: each chooses
        its device batch size by the free memory."""
        with contextlib.ExitStack() as stack:
            yield [stack.enter_context(Worker(self.args, checkout, section, self.deadline)) for checkout, section in jobs]

    def in_turn(self, workers: list[Worker], name: str, rounds: int) -> Iterator[list[Any]]:
        """Yield the results of each round: the checkouts in order, then in reverse order, and so on."""
        for i in range(rounds):
            order = workers[:: -1 if i % 2 else 1]
            results = [worker.measure(name) for worker in order]
            yield results[:: -1 if i % 2 else 1]

    def compare(self, name: str, by_worker: list[list[float]], unit: str = "ms") -> None:
        """Print median and quartiles in milliseconds of each worker's seconds, and their ratio."""
        medians = [statistics.median(values) for values in by_worker]
        cells = []
        for median, values in zip(medians, by_worker, strict=True):
            low, _, high = statistics.quantiles(values, n=4) if len(values) > 1 else (median,) * 3
            cells.append(f"{median * 1e3:.3f} {unit} ({low * 1e3:.3f} to {high * 1e3:.3f})")
        self.row(self.section, name, *cells, *([f"{medians[1] / medians[0]:.3f}"] if len(medians) > 1 else []))

    def texts(self) -> None:
        """Print the texts that this checkout's measures return."""
        with self.workers((self.checkouts[0], self.section)) as (worker,):
            for name in worker.names:
                with self.guarded(name):
                    result = worker.measure(name)
                    for label, text in [(name, result)] if isinstance(result, str) else result:
                        self.row(self.section, label, text)

    def times(self) -> None:
        """Compare the seconds that the measures of the checkouts return."""
        with self.workers(*((checkout, self.section) for checkout in self.checkouts)) as workers:
            for name in workers[0].names:
                with self.guarded(name):
                    rounds = list(self.in_turn(workers, name, 2 if self.args.small else 3))
                    self.compare(name, list(map(list, zip(*rounds, strict=True))))

    def updates(self) -> None:
        losses = self.whole_updates(*((checkout, "updates") for checkout in self.checkouts))
        if len(losses) > 1:
            difference = max(abs(a - b) / abs(a) for a, b in zip(*losses, strict=True))
            with self.guarded(f"losses of {len(losses[0])} updates"):
                if not difference <= LOSS_TOLERANCE:
                    raise MeasureError(f"they differ by {difference:.1e}, more than {LOSS_TOLERANCE:.0e}")
                self.row(self.section, f"losses of {len(losses[0])} updates", f"differ by {difference:.1e} at most, relative")

    def peer(self) -> None:
        if not self.args.peer:
            self.row(self.section, "all of it", "omitted: it needs --peer")
            return
        self.whole_updates((self.checkouts[0], "updates"), (self.checkouts[0], "peer"))

    def whole_updates(self, *jobs: tuple[Path, str]) -> list[list[float]]:
        """Measure whole updates of each worker in turn, five at a time, 30 in all. Returns their
        losses."""
        with self.workers(*jobs) as workers:
            times: list[list[float]] = [[] for _ in jobs]
            losses: list[list[float]] = [[] for _ in jobs]
            for i, results in enumerate(self.in_turn(workers, "updates", 2 if self.args.small else 6), 1):
                for result, all_times, all_losses in zip(results, times, losses, strict=True):
                    all_times += result["seconds"]
                    all_losses += result["losses"]
                self.compare(f"updates, round {i}", [result["seconds"] for result in results])
            self.compare("updates, all rounds", times)
            cells = []
            for result, of_worker in zip(results, times, strict=True):
                median = statistics.median(of_worker)
                mfu = f", MFU {result['utilisation'] / median:.1%}" if result["utilisation"] else ""
                cells.append(f"{result['tokens'] / median:,.0f} tokens/s{mfu}, peak {result['peak']:.2f} GB at {result['sequences']} sequences")
            self.row(self.section, "speed and memory", *cells)
        return losses

    def start(self) -> None:
        """Measure the seconds to the first update: with an empty cache of compiled kernels, then
        with that of the first start."""
        for label, checkout in zip(("this checkout", "the other"), self.checkouts, strict=False):
            with tempfile.TemporaryDirectory() as cache:
                for name in ("cold", "warm"):
                    with self.guarded(f"first update, {name}, {label}"):
                        begin = time.monotonic()
                        env = {"TORCHINDUCTOR_CACHE_DIR": cache, "TRITON_CACHE_DIR": str(Path(cache) / "triton")}
                        with Worker(self.args, checkout, "start", self.deadline, **env):
                            self.row(self.section, f"first update, {name}, {label}", f"{time.monotonic() - begin:.1f} s")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="a tiny model and few repeats")
    parser.add_argument("--only", nargs="+", default=[""], help="the sections whose names begin with one of these")
    parser.add_argument("--against", type=Path, metavar="FOLDER", help="another checkout of this repo, to compare with")
    parser.add_argument("--peer", type=Path, metavar="FOLDER", help="a checkout of nanochat, to compare with")
    sections = Sections(parser.parse_args())
    names = [name for name in sections.all if name.startswith(tuple(sections.args.only))]
    print(f"{time.strftime('%Y-%m-%d')}, {sum(sections.all[name][1] for name in names)} s at most for: {', '.join(names)}\n", flush=True)
    sections.run(names)
    return 1 if sections.has_failed else 0


if __name__ == "__main__":
    sys.exit(main())
