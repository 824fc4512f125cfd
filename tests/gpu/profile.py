"""Measure where the time of an update goes on a GPU, and compare this checkout with another:

    python tests/gpu/profile.py --only versions head blocks updates --against OTHER  each call takes
    python tests/gpu/profile.py --only kernels start nan peer --peer NANOCHAT        under 8 minutes
    python tests/gpu/profile.py --only fp8                                           two minutes
    python tests/gpu/profile.py --device cpu --small                                 test the script

OTHER is a worktree of another commit. Each checkout is measured in a process of its own, in turn,
while the other waits. The two share the GPU's memory evenly. The ratio is the other's time divided
by this one's. NANOCHAT is a checkout of karpathy/nanochat, which is the other in the section peer;
in the section fp8, it is this checkout with --fp8_head. It needs no data, no hub, no wandb. Each
row is printed when it is measured, so a call that is cut keeps its rows: copy them into
docs/RESULTS.md. Exit code 1 if a measure fails.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
# each with the most seconds that it may take, and the rounds in which the checkouts take turns
SECTIONS = {
    "versions": (40, 1),
    "head": (110, 3),
    "blocks": (90, 3),
    "updates": (240, 6),
    "kernels": (100, 1),
    "start": (140, 1),
    "nan": (70, 1),
    "peer": (170, 6),
    "fp8": (120, 6),
}
ONLY_THIS = ("versions", "nan")  # sections that do not measure the other checkout
BESIDE_UPDATES = ("peer", "fp8")  # sections whose updates take turns with the default's
LOSS_TOLERANCE = 1e-3  # largest relative difference of the losses of two checkouts


class MeasureError(Exception):
    """Raised if a measure has no result; the message says why."""


class Worker:
    """A process that measures a section of a checkout, see measures.py."""

    def __init__(self, process: subprocess.Popen[str]):
        self.process = process
        self.names: list[str] = self._receive()

    def measure(self, name: str) -> dict[str, Any]:
        """Return the result of a measure. Raises MeasureError if it has none."""
        with contextlib.suppress(BrokenPipeError):
            print(name, file=self.process.stdin, flush=True)
        reply = self._receive()
        if "error" in reply:
            raise MeasureError(reply["error"])
        return reply

    def _receive(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise MeasureError(f"the process has ended, exit code {self.process.wait()}: its time was up, or its error is printed above")
        return json.loads(line)


@contextlib.contextmanager
def started(args: argparse.Namespace, checkout: Path, section: str, fraction: float, deadline: float) -> Iterator[Worker]:
    """Start a worker, which may use a fraction of the GPU's memory. It is killed at the deadline
    and when the block ends."""
    argv = [HERE / "measures.py", checkout, section, args.device, "small" if args.small else "full", fraction, args.peer]
    process = subprocess.Popen([sys.executable, *map(str, argv)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8", cwd=checkout)
    timer = threading.Timer(max(0.0, deadline - time.monotonic()), process.kill)
    timer.start()
    try:
        yield Worker(process)
    finally:
        timer.cancel()
        process.kill()
        process.communicate()


class Table:
    """The printed rows."""

    def __init__(self) -> None:
        self.has_failed = False

    def row(self, *cells: str) -> None:
        print(f"| {' | '.join([*cells, '', ''][:5])} |", flush=True)

    @contextlib.contextmanager
    def guarded(self, section: str, name: str) -> Iterator[None]:
        """Print a MeasureError in the block as a row, so that the other measures go on."""
        try:
            yield
        except MeasureError as error:
            is_missing = str(error).startswith("UserError")  # as of an attention backend that is not installed
            self.has_failed |= not is_missing
            self.row(section, name, f"{'not here' if is_missing else 'FAILED'}: {error}")

    def measured(self, section: str, workers: list[Worker], rounds: int) -> None:
        """Print the results of all measures of the first worker. The workers that have a measure
        take turns: in order, then in reverse order, and so on."""
        for name in workers[0].names:
            with self.guarded(section, name):
                able = [worker for worker in workers if name in worker.names]
                results: list[list[dict[str, Any]]] = [[] for _ in able]
                for i in range(rounds):
                    for worker, so_far in list(zip(able, results, strict=True))[:: -1 if i % 2 else 1]:
                        so_far.append(worker.measure(name))
                self.results(section, name, results)

    def results(self, section: str, name: str, results: list[list[dict[str, Any]]]) -> None:
        """Print the rows of a measure, from the results of each round of each worker."""
        for rows in zip(*(of_worker[-1].get("rows", []) for of_worker in results), strict=False):
            self.row(section, rows[0][0], *(text for _, text in rows))
        seconds = [[s for result in of_worker for s in result.get("seconds", [])] for of_worker in results]
        if seconds[0]:
            medians = [statistics.median(values) for values in seconds]
            cells = [f"{spread(values)}{of_worker[-1].get('text', '')}" for values, of_worker in zip(seconds, results, strict=True)]
            self.row(section, name, *cells, *(f"{other / medians[0]:.3f}" for other in medians[1:]))
        losses = [[loss for result in of_worker for loss in result.get("losses", [])] for of_worker in results]
        if losses[0] and len(losses) > 1 and section not in BESIDE_UPDATES:
            difference = max(abs(a - b) / abs(a) for a, b in zip(*losses, strict=True))
            self.row(section, f"losses of {len(losses[0])} updates", f"differ by {difference:.1e} at most")
            if not difference <= LOSS_TOLERANCE:
                raise MeasureError(f"the losses differ by more than {LOSS_TOLERANCE}")


def spread(seconds: list[float]) -> str:
    """Return the median in milliseconds, with the quartiles if there are several."""
    if len(seconds) == 1:
        return f"{seconds[0] * 1e3:.3f} ms"
    low, middle, high = (s * 1e3 for s in statistics.quantiles(seconds, n=4, method="inclusive"))
    return f"{middle:.3f} ms ({low:.3f} to {high:.3f})"


def folder(text: str) -> Path:
    path = Path(text).resolve()
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {path}")
    return path


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="a tiny model and few rounds")
    parser.add_argument("--only", nargs="+", default=[""], help="the sections whose names begin with one of these")
    parser.add_argument("--against", type=folder, metavar="FOLDER", help="another checkout of this repo, to compare with")
    parser.add_argument("--peer", type=folder, metavar="FOLDER", help="a checkout of nanochat, for the section peer")
    args = parser.parse_args(argv)
    sections = [name for name in SECTIONS if name.startswith(tuple(args.only)) and (name != "peer" or args.peer)]
    if not sections:
        parser.error(f"no section begins with {' or '.join(args.only)}; peer needs --peer")
    print(f"{time.strftime('%Y-%m-%d')}, at most {sum(SECTIONS[name][0] for name in sections)} s: {', '.join(sections)}\n", flush=True)
    table, this = Table(), HERE.parents[1]
    table.row("section", "measure", "this checkout", "the other", "ratio")
    table.row(*["---"] * 5)
    for section in sections:
        (budget, rounds), start = SECTIONS[section], time.monotonic()
        jobs = [(this, section)]
        if section in BESIDE_UPDATES:
            jobs.insert(0, (this, "updates"))
        elif args.against and section not in ONLY_THIS:
            jobs.append((args.against, section))
        deadline = start + (10 * budget if args.small else budget)  # the CPU of a test may be busy
        with table.guarded(section, "all"), contextlib.ExitStack() as stack:
            # with the same memory all choose the same device batch size
            workers = [stack.enter_context(started(args, *job, 1 / len(jobs), deadline)) for job in jobs]
            table.measured(section, workers, min(2, rounds) if args.small else rounds)
        table.row(section, "time", f"{time.monotonic() - start:.0f} s of at most {budget} s")
    return 1 if table.has_failed else 0


if __name__ == "__main__":
    sys.exit(main())
