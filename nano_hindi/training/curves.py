"""Plot the curves of runs: training loss, validation bits per byte and learning rate over
tokens."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nano_hindi.console import count
from nano_hindi.errors import require
from nano_hindi.files import replacing
from nano_hindi.training.metrics import read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import Locator


class Panel(NamedTuple):
    key: str  # of the records in metrics.jsonl
    title: str
    scale: str
    height: float  # relative to the other panels
    form: str  # format of a value


PANELS = (
    Panel("loss", "training loss (nats per token)", "log", 3, "{:.3f}"),
    Panel("val_bpb", "validation (bits per byte)", "log", 2, "{:.4f}"),
    Panel("lr", "learning rate (Muon)", "linear", 1.2, "{:.2g}"),
)
COLOURS = ("#1f5fa8", "#c8501e", "#2e8540", "#8a3ea0", "#a87900", "#444444", "#c2185b", "#00838f")  # dark enough for text on white
INK = "#333333"
REST = 100  # after a drawing that took t seconds, the next is at least REST t seconds later
SMOOTHED_FRACTION = 0.02  # of the records: the window of the running median that is drawn as the dark loss curve
SPIKE = 1.5  # values above this multiple of the first value or of the 99th percentile, whichever is larger, are cut off


class LiveCurves:
    """The plot of a run in progress. `draw` takes less than a hundredth of the run's time, however
    long the run: it skips a drawing that would take more."""

    def __init__(self, folder: Path):
        self.folder, self.rests_until = folder, 0.0

    def draw(self, *, now: bool = False) -> None:
        """Redraw `curves.png`; unless `now`, only if REST times the duration of the last drawing
        has passed since."""
        start = time.monotonic()
        if now or start >= self.rests_until:
            try:
                draw_curves({self.folder.resolve().name: read_metrics(self.folder / "metrics.jsonl")}, self.folder / "curves.png")
            finally:  # a drawing that fails takes time too: on Windows a minute, if another program has the picture open
                end = time.monotonic()
                self.rests_until = end + REST * (end - start)


def draw_curves(runs: dict[str, list[dict]], picture: Path) -> None:
    """Draw `picture` from the records of one or several runs. The keys of `runs` are their names.

    Raises UserError for a suffix that is not of a format of matplotlib: .png, .svg, .pdf, ...
    """
    figure = make_figure(runs)
    formats = figure.canvas.get_supported_filetypes()
    suffix = picture.suffix.removeprefix(".").lower()
    require(suffix in formats, f"{picture} is not the name of a picture; choose one that ends in .{', .'.join(sorted(formats))}")
    with replacing(picture) as temporary:
        figure.savefig(temporary, format=suffix, dpi=100)


def make_figure(runs: dict[str, list[dict]]) -> Figure:
    """Return a figure with one panel for each of PANELS, and a legend if there are several runs. A
    panel without values says so. For a single run, that of the validation also shows each
    source."""
    from matplotlib.figure import Figure  # not pyplot: no window system, no global state

    figure = Figure(figsize=(8.4, 7))
    # fixed positions: a layout engine would draw everything twice
    grid = figure.add_gridspec(len(PANELS), height_ratios=[p.height for p in PANELS], left=0.075, right=0.915, top=0.905, bottom=0.07, hspace=0.26)
    lines = [(records, COLOURS[i % len(COLOURS)]) for i, records in enumerate(runs.values())]
    for row, panel in enumerate(PANELS):
        axes = figure.add_subplot(grid[row], sharex=figure.axes[0] if row else None)
        sources = by_source(lines[0][0]) if panel.key == "val_bpb" and len(runs) == 1 else {}
        coloured = [(records, COLOURS[1 + i % (len(COLOURS) - 1)]) for i, records in enumerate(sources.values())]
        draw_panel(axes, panel, lines + coloured)
        if sources:
            add_legend(axes, ["mean", *sources], [lines[0][1], *(colour for _, colour in coloured)], "source")
        axes.tick_params(labelbottom=row == len(PANELS) - 1)
    axes.set_xlabel("tokens seen (millions)", color=INK)
    axes.set_xlim(left=0)
    names = [drawable_name(name, number) for number, name in enumerate(runs, 1)]
    title = headline(names[0], lines[0][0]) if len(runs) == 1 else f"{len(runs)} runs"
    figure.text(0.075, 0.96, title, fontsize=12, weight="bold", color=INK)
    if len(runs) > 1:
        add_legend(figure.axes[0], list(runs), [colour for _, colour in lines], "run")
    return figure


def by_source(records: list[dict]) -> dict[str, list[dict]]:
    """Return the records of each source's bits per byte, with the keys of those of the mean."""
    keys = dict.fromkeys(key for record in records for key in record if key.startswith("val_bpb/"))
    return {
        key.removeprefix("val_bpb/"): [{"tokens": record["tokens"], "val_bpb": record[key]} for record in records if key in record] for key in keys
    }


def add_legend(axes: Axes, names: list[str], colours: list[str], kind: str) -> None:
    """Add a legend in the corner that a falling curve leaves free."""
    handles = [axes.plot([], [], color=colour, linewidth=2)[0] for colour in colours]
    shown = [drawable_name(name, number, kind) for number, name in enumerate(names, 0 if kind == "source" else 1)]  # the mean has number 0
    axes.legend(handles, shown, loc="upper right", fontsize=9, framealpha=0.85)


def draw_panel(axes: Axes, panel: Panel, lines: list[tuple[list[dict], str]]) -> None:
    """Draw one metric of all runs. `lines` are their records and colours."""
    from matplotlib.ticker import FuncFormatter, NullLocator

    axes.set_title(panel.title, loc="left", fontsize=10, color=INK)
    axes.grid(alpha=0.3, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9, colors=INK)
    axes.margins(x=0.01)
    everything, last = [], []
    for records, colour in lines:
        tokens, values = series(records, panel)
        if not np.isfinite(values).any():
            continue
        everything.append(values)
        if panel.key == "loss" and SMOOTHED_FRACTION * len(values) >= 2:
            axes.plot(tokens, values, color=colour, alpha=0.3, linewidth=0.7)
            at, values = smoothed(values)
            tokens = tokens[at]
        axes.plot(tokens, values, color=colour, linewidth=1.7, marker="." if len(values) < 40 else "", markersize=6)
        last.append((values[np.isfinite(values)][-1], colour))
    if not everything:
        axes.text(0.5, 0.5, "no figures yet", transform=axes.transAxes, ha="center", va="center", color=INK)
        axes.set_yticks([])
        return
    if panel.scale == "log":
        low, high = limits(everything)
        axes.set(yscale="log", ylim=(low, high))
        axes.yaxis.set_major_locator(log_ticks(high / low))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.set_ylim(bottom=0)
    label_last_values(axes, panel, last)


def series(records: list[dict], panel: Panel) -> tuple[np.ndarray, np.ndarray]:
    """Return millions of tokens and the values at them. A value that cannot be drawn becomes nan, a
    gap in the line."""
    found = [(record["tokens"] / 1e6, record[panel.key]) for record in records if panel.key in record]
    tokens, values = np.array(found, dtype=float).reshape(-1, 2).T  # None becomes nan
    return tokens, np.where(np.isfinite(values) & ((values > 0) | (panel.scale == "linear")), values, np.nan)


def smoothed(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return at most 500 indices, and the median of the finite values around each, nan if there are
    none. A spike does not move a median."""
    reach = int(SMOOTHED_FRACTION * len(values)) // 2
    at = np.unique(np.linspace(0, len(values) - 1, 500).astype(int))
    windows = [values[i - min(i, reach) : i + min(i, reach) + 1] for i in at]  # symmetric also at the steep beginning
    windows = [window[np.isfinite(window)] for window in windows]
    return at, np.array([np.median(window) if len(window) else np.nan for window in windows])


def limits(everything: list[np.ndarray]) -> tuple[float, float]:
    """Return the limits of a logarithmic axis, with a small margin. A spike may be cut off, so that
    the rest stays readable."""
    finite = [values[np.isfinite(values)] for values in everything]
    low, high = min(v.min() for v in finite), max(min(v.max(), SPIKE * max(v[0], np.quantile(v, 0.99))) for v in finite)
    room = max(1.02, (high / low) ** 0.05)
    return low / room, high * room


def log_ticks(ratio: float) -> Locator:
    """Return a locator for a few round numbers on a logarithmic axis that spans `ratio`."""
    from matplotlib.ticker import LogLocator, MaxNLocator

    if ratio < 3:
        return MaxNLocator(5, steps=[1, 2, 2.5, 5, 10])
    return LogLocator(subs=(1, 1.5, 2, 3, 5, 7) if ratio < 30 else (1, 2, 5) if ratio < 1000 else (1,))


def label_last_values(axes: Axes, panel: Panel, last: list[tuple[float, str]]) -> None:
    """Label the end of each run's line with its last value, in its colour. Labels that would
    overlap are moved apart; if there is no room for all, there are none."""
    gap = 11 / 72 * axes.figure.dpi / axes.bbox.height  # a line of 9 points, in heights of the panel
    if len(last) * gap > 1:
        return
    heights = axes.transAxes.inverted().transform(axes.transData.transform([(0, value) for value, _ in last]))[:, 1]
    for (value, colour), height in zip(last, spread(heights, gap), strict=True):
        text = panel.form.format(value)
        axes.text(1.012, height, text, transform=axes.transAxes, va="center", fontsize=9, weight="bold", color=colour)


def spread(heights: np.ndarray, gap: float) -> np.ndarray:
    """Return the heights moved within 0 to 1 so that neighbours are at least `gap` apart, in the
    same order."""
    order = np.argsort(heights, kind="stable")
    moved = np.clip(heights[order], 0, 1)
    for i in range(1, len(moved)):
        moved[i] = max(moved[i], moved[i - 1] + gap)
    for i in reversed(range(len(moved))):
        moved[i] = min(moved[i], 1 - gap * (len(moved) - 1 - i))
    result = np.empty_like(moved)
    result[order] = moved
    return result


def headline(name: str, records: list[dict]) -> str:
    """Return one line of text about a run: its name, tokens, and last bits per byte."""
    tokens = f"{count(records[-1]['tokens'])} tokens" if records else "nothing logged yet"
    bpb = [record["val_bpb"] for record in records if record.get("val_bpb") is not None]
    return ", ".join([f"{name}: {tokens}", *([f"{bpb[-1]:.4f} bits per byte"] if bpb else [])])


def drawable_name(name: str, number: int, kind: str = "run") -> str:
    """Return the name of a run or a source as matplotlib can draw it: its font has no Devanagari,
    and text between two $ is a formula to it."""
    if not name.isascii() or not name.isprintable():
        return f"{kind} {number}"
    return (name if len(name) <= 48 else "..." + name[-45:]).replace("$", r"\$")
