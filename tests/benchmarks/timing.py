"""Time competitors interleaved in one run: on a shared machine only their ratios mean something."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]


def medians(rivals: dict[str, Callable[[], object]], rounds: int, clock: Callable[[], float] = time.perf_counter) -> dict[str, float]:
    """Return the median seconds of each competitor over `rounds` rounds, each of which times every
    one once; a warm-up round does not count."""
    seconds = {name: [] for name in rivals}
    for i in range(rounds + 1):
        for name, work in rivals.items():
            start = clock()
            work()
            if i:
                seconds[name].append(clock() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}
