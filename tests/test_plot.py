"""The training curves: what the figure shows, what drawing costs, and the command that compares
runs."""

import contextlib
import itertools
import json
import math
import random
import warnings

import numpy as np
import pytest

from conftest import run_script
from nano_hindi.plot import main
from nano_hindi.training import curves as training_curves
from nano_hindi.training.curves import LiveCurves, make_figure, smoothed, spread
from nano_hindi.training.metrics import read_metrics


def records(count: int, *, evaluations: int = 10, floor: float = 3.2, seed: int = 0) -> list[dict]:
    """Return a synthetic run of `count` log lines."""
    rng, lines = random.Random(seed), []
    for i in range(1, count + 1):
        loss = floor + 8 * math.exp(-8 * (i / count) ** 0.5) + rng.gauss(0, 0.05)
        lines.append({"step": i, "tokens": i * 262_144, "loss": loss, "lr": 0.02 * (1.1 - i / count)})
        if i % max(1, count // evaluations) == 0:
            lines.append({"step": i, "tokens": i * 262_144, "val_loss": loss, "val_bpb": loss / 4})
    return lines


def with_faults(lines: list[dict]) -> list[dict]:
    """Add a spike, missing values, and values without a logarithm."""
    for i, value in [(500, 1e6), *((i, None) for i in range(600, 640)), (700, math.nan), (710, math.inf), (720, 0.0)]:
        lines[i]["loss"] = value
    return lines


def write(folder, lines: list[dict]):
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def texts(figure, monkeypatch) -> list:
    """Return every text that is drawn, with its bounding box."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg

    drawn, real = [], RendererAgg.draw_text

    def draw_text(self, gc, x, y, s, prop, angle, ismath=False, mtext=None):
        drawn.append((s, mtext.get_window_extent()))
        real(self, gc, x, y, s, prop, angle, ismath, mtext)

    monkeypatch.setattr(RendererAgg, "draw_text", draw_text)
    FigureCanvasAgg(figure).draw()
    return drawn


RUNS = {
    "nothing": {"empty": []},
    "one line": {"short": records(1, evaluations=1)},
    "one evaluation": {"one": records(50, evaluations=1)},
    "no evaluation": {"early": records(50, evaluations=1)[:5]},
    "long": {"long": records(20_000)},
    "spike and nan": {"bad": with_faults(records(1900))},
    "sample": {"sample": [{**r, "loss": r["loss"] - 3.0} if "loss" in r else r for r in records(30)]},
    "several": {f"run {i}": records(400, floor=3.2 + 0.001 * i, seed=i) for i in range(8)},
    "far apart": {"a": records(400, floor=0.02), "b": records(40, floor=8), "c": []},
}


@pytest.mark.parametrize("name", RUNS)
def test_labels_neither_overlap_nor_leave_the_figure(name, monkeypatch):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = make_figure(RUNS[name])
        found = texts(figure, monkeypatch)
    assert {panel.title for panel in training_curves.PANELS} <= {text for text, _ in found}
    for text, box in found:
        assert box.x0 >= 0, text
        assert box.x1 <= figure.bbox.width, text
        assert box.y0 >= 0, text
        assert box.y1 <= figure.bbox.height, text
    for (a, one), (b, other) in itertools.combinations(found, 2):
        across = min(one.x1, other.x1) - max(one.x0, other.x0)
        along = min(one.y1, other.y1) - max(one.y0, other.y0)
        assert across <= 0 or along <= 2, f"{a!r} overlaps {b!r} by {across:.0f} x {along:.0f} pixels"


def test_last_values_are_shown_in_the_figure(monkeypatch):
    lines = records(30)
    shown = {text for text, _ in texts(make_figure({"r": lines}), monkeypatch)}
    assert f"{[r['val_bpb'] for r in lines if 'val_bpb' in r][-1]:.4f}" in shown
    assert f"{[r['loss'] for r in lines if 'loss' in r][-1]:.3f}" in shown


def test_learning_rate_panel_shows_the_logged_values():
    lr = [0.001, 0.02, 0.02, 0.002]
    line = make_figure({"r": [{"step": i, "tokens": i * 262_144, "lr": value} for i, value in enumerate(lr, 1)]}).axes[2].lines[0]
    assert line.get_ydata().tolist() == lr
    assert line.get_xdata().tolist() == pytest.approx([i * 0.262_144 for i in range(1, len(lr) + 1)])


def test_spike_changes_neither_the_smoothed_line_nor_the_axis_limits():
    calm, wild = records(1900, evaluations=1), records(1900, evaluations=1)
    wild[900]["loss"] = 1e9
    (at, before), (_, after) = (smoothed(np.array([r["loss"] for r in run if "loss" in r])) for run in (calm, wild))
    assert len(at) == 500
    assert np.abs(before - after).max() < 0.05
    panel = make_figure({"r": wild}).axes[0]
    assert panel.get_ylim()[1] < 30
    assert panel.lines[-1].get_ydata().tolist() == after.tolist()


def test_smoothed_line_follows_a_straight_line_and_does_not_bridge_wide_gaps():
    values = np.linspace(9, 3, 4001)
    values[2000:2200] = np.nan
    at, line = smoothed(values)
    known = np.isfinite(values[at])
    assert np.abs(line - values[at])[known & ((at < 1900) | (at > 2300)) & (at < 3900)].max() < 1e-9
    assert np.isnan(line[(at > 2050) & (at < 2150)]).all()


def test_spread_keeps_order_and_distance_and_moves_only_labels_that_overlap():
    rng = np.random.default_rng(0)
    for _ in range(300):
        heights, gap = rng.random(rng.integers(1, 9)), 0.1
        moved = spread(heights, gap)
        order = np.argsort(heights, kind="stable")
        assert (np.argsort(moved, kind="stable") == order).all()
        assert (np.diff(moved[order]) > gap - 1e-9).all()
        assert moved.min() >= -1e-9
        assert moved.max() <= 1 + 1e-9
    assert spread(np.array([0.9, 0.1, 0.5]), 0.1).tolist() == [0.9, 0.1, 0.5]


@pytest.mark.parametrize("fails", [False, True])
def test_drawing_takes_below_1_percent_of_the_time_and_the_end_is_always_drawn(fails, tmp_path, monkeypatch):
    """With a simulated clock: an evaluation every 20 seconds, a drawing takes 0.7 seconds."""
    clock, drawn = [0.0], []

    def draw_curves(runs, picture):
        drawn.append(clock[0])
        clock[0] += 0.7
        if fails:
            raise PermissionError(13, "used by another process")

    monkeypatch.setattr(training_curves, "draw_curves", draw_curves)
    monkeypatch.setattr(training_curves.time, "monotonic", lambda: clock[0])
    curves = LiveCurves(write(tmp_path / "run", records(3)))
    for _ in range(100):
        clock[0] += 20
        with contextlib.suppress(PermissionError):
            curves.draw()
    assert 20 < len(drawn) <= clock[0] * 0.01 / 0.7 + 1
    for _ in range(2):
        with contextlib.suppress(PermissionError):
            curves.draw(now=True)
    assert len(drawn) >= 22


@pytest.mark.whole_run
def test_failed_drawing_keeps_the_old_figure(tmp_path, monkeypatch):
    folder = write(tmp_path / "run", records(3))
    LiveCurves(folder).draw()
    before = (folder / "curves.png").read_bytes()
    assert before.startswith(b"\x89PNG")
    from matplotlib.figure import Figure

    def savefig(self, file, **kwargs):
        file.write_bytes(b"half a pic")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", savefig)
    with pytest.raises(OSError, match="No space"):
        LiveCurves(folder).draw()
    assert (folder / "curves.png").read_bytes() == before
    assert sorted(p.name for p in folder.iterdir()) == ["curves.png", "metrics.jsonl"]


def test_command_compares_runs_with_any_names(tmp_path):
    """Two runs of the same name, one with a name that matplotlib would read as a formula, and one
    in a script without glyphs in its font."""
    folders = [write(tmp_path / name, records(50, seed=i)) for i, name in enumerate(["a/run", "b/run", "cost$1 $2_{", "नैनो"])]
    done = run_script("-W", "error", "-m", "nano_hindi.plot", *folders, "--output", tmp_path / "all.png")
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "all.png").read_bytes().startswith(b"\x89PNG")
    for folder in folders:
        assert folder.name in done.stdout


def test_format_of_the_picture_is_that_of_its_name(tmp_path, capsys):
    folder = write(tmp_path / "run", records(5))
    for name, begin in (("x.svg", b"<?xml"), ("x.PDF", b"%PDF")):
        assert main([str(folder), "--output", str(tmp_path / name)]) == 0
        assert (tmp_path / name).read_bytes().startswith(begin)
    for name, message in (("x.xyz", "not the name of a picture"), ("x", "not the name of a picture"), ("none/x.png", "its folder does not exist")):
        assert main([str(folder), "--output", str(tmp_path / name)]) == 2
        assert message in capsys.readouterr().err


def test_damaged_metrics_are_drawn_without_a_warning_from_what_is_valid(tmp_path, capsys):
    """Each panel has values at the ends of what is plausible, and values that are missing or
    invalid."""
    wild = [0, 2e-45, 3.4e38, 1e308, -1, 1e400, math.nan, "fast", None, [1], {"a": 1}, True, 10**400, 2.5]
    folder = write(tmp_path / "run", [{"step": 0, "tokens": 2**63 - 1, "loss": 1, "lr": 3.4e38, "val_bpb": 2e-45}])
    with open(folder / "metrics.jsonl", "ab") as file:
        for i, value in enumerate(wild):
            file.write(json.dumps({"step": i, "tokens": i, **{panel.key: value for panel in training_curves.PANELS}}).encode() + b"\n")
            file.write(json.dumps({"step": i, "tokens": value if value != 0 else -1, "loss": 9.0}).encode() + b"\n\xff\n" + b"[" * 60_000 + b"\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert main([str(folder), "--output", str(tmp_path / "x.png")]) == 0
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    assert "run: 13 tokens, 2.5000 bits per byte\n" in capsys.readouterr().out
    lines = make_figure({"run": read_metrics(folder / "metrics.jsonl")}).axes[0].lines
    assert np.nanmin(lines[0].get_ydata()) == 2e-45
    assert lines[0].get_ydata()[-1] == 2.5


def test_folder_without_a_run_is_a_one_line_error(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "nowhere"):
        assert main([str(folder), "--output", str(tmp_path / "x.png")]) == 2
        errors = capsys.readouterr().err
        assert errors.count("\n") == 1
        assert str(folder) in errors
        assert "--checkpoint_dir" in errors
    assert not (tmp_path / "x.png").exists()
