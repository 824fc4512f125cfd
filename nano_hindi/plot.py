"""The curves of a run as a picture: loss, validation BPB and learning rate over tokens."""

from __future__ import annotations

from pathlib import Path

from nano_hindi.common import replacing
from nano_hindi.metrics import read_metrics

# each panel: what it shows, its label
PANELS = (("loss", "training loss (nats per token)"), ("val_bpb", "validation bits per byte"), ("lr", "learning rate (Muon)"))


def draw_curves(metrics_path: Path, picture: Path) -> None:
    """Draw `picture` (PNG) from a metrics file. A panel without numbers yet stays empty."""
    from matplotlib.figure import Figure  # not pyplot: no window system, no global state

    records = read_metrics(metrics_path)
    figure = Figure(figsize=(8, 9), layout="constrained")
    for axes, (key, label) in zip(figure.subplots(len(PANELS), 1, sharex=True), PANELS, strict=True):
        points = [(record["tokens"] / 1e6, record[key]) for record in records if record.get(key) is not None]
        axes.plot(*zip(*points, strict=True) if points else ([], []), marker="." if len(points) < 60 else "", linewidth=1.4)
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
    axes.set_xlabel("tokens seen (millions)")
    with replacing(picture) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
