"""Numbers, durations and progress as shown to people. test_report.py tests the status line."""

import pytest

from nano_hindi.console import Progress, count, duration


@pytest.mark.parametrize(
    ("n", "text"),
    [(0, "0"), (999, "999"), (1000, "1.00 k"), (9_999, "10.0 k"), (12_582_912, "12.6 M"), (500_000_000, "500 M"), (999_900_000, "1.00 B")],
)
def test_counts_have_three_significant_digits(n, text):
    assert count(n) == text


@pytest.mark.parametrize(("seconds", "text"), [(0, "0s"), (59.4, "59s"), (59.6, "1m 00s"), (3599.7, "1h 00m"), (7800, "2h 10m"), (273_600, "3d 4h")])
def test_durations_have_two_units(seconds, text):
    assert duration(seconds) == text


def test_progress_prints_plain_lines_without_a_terminal(capsys):
    with Progress(100, "tokens", "reading", quiet_seconds=0) as progress:
        progress.update(40)
        progress.update(60, documents=3)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("reading: 40/100 tokens (")
    assert "left" in lines[0]
    assert lines[-1].endswith("documents 3")
    assert "\r" not in "".join(lines)
