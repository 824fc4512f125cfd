"""The output of a run: the screen, the times, the startup summary and the final one."""

import dataclasses
import io
import math
import os
import re
import sys
import types
import unicodedata

import pytest
import torch

from conftest import SMALL, on_terminal, run_script
from nano_hindi import console
from nano_hindi.config import GPTConfig, TrainConfig
from nano_hindi.console import Console, bar, shell_quoted
from nano_hindi.distributed import World
from nano_hindi.eval import Evaluation
from nano_hindi.model import GPT
from nano_hindi.training import loop, report
from nano_hindi.training.meter import Meter, Pace
from nano_hindi.training.metrics import read_metrics, training_seconds

posix = pytest.mark.skipif(os.name == "nt", reason="needs a pseudo-terminal")
TRAIN = TrainConfig(sequence_len=256, total_tokens=4096 * 488, batch_size=16, gradient_accumulation_steps=1)


class Screen(io.StringIO):
    """A terminal that handles carriage returns and line feeds only."""

    def isatty(self) -> bool:
        return True

    def lines(self) -> list[str]:
        shown, line, column = [], [], 0
        for character in self.getvalue():
            assert character in "\r\n" or unicodedata.category(character) != "Cc", f"{character!r} is not plain text"
            if character == "\n":
                shown.append("".join(line).rstrip())
                line, column = [], 0
            elif character == "\r":
                column = 0
            else:
                line[column : column + 1] = character
                column += 1
        return [*shown, "".join(line).rstrip()]


def new_screen(monkeypatch) -> Screen:
    """Replace stdout until the test ends. (Not a fixture: pytest would set its own stdout in
    between.)"""
    for name in console.NOTEBOOKS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "70")
    monkeypatch.setattr(sys, "stdout", Screen())
    return sys.stdout


# ---- the screen


def test_status_line_never_mixes_with_permanent_lines(monkeypatch):
    screen = new_screen(monkeypatch)
    with Console(is_main=True) as shown:
        shown.status("a long status line of many words")
        shown.status("short")
        assert screen.lines() == ["short"]
        shown.print("this stays")
        shown.status("status")
        print("warning!")  # not by Console
        assert screen.lines() == ["this stays", "warning!", ""]
        shown.status("x" * 500)
        assert len(screen.lines()[-1]) == 69
        shown.print_text("एक समय की बात है।\x1b[2J\x07 " * 10)
    assert screen.lines()[-1] == ""
    assert screen.lines()[2].startswith("  > एक समय")
    assert all(line.startswith("    ") for line in screen.lines()[3:-1])
    assert all(len(line) < 70 for line in screen.lines())


def test_error_ends_the_status_line(monkeypatch):
    screen = new_screen(monkeypatch)
    with pytest.raises(ZeroDivisionError), Console(is_main=True) as shown:
        shown.status("working")
        raise ZeroDivisionError
    assert screen.lines() == [""]


def test_pipe_notebook_and_other_ranks_have_no_status_line(monkeypatch):
    screen = new_screen(monkeypatch)
    Console(is_main=False).status("status")
    Console(is_main=False).print("line")
    monkeypatch.setenv("COLAB_RELEASE_TAG", "release")
    notebook = Console(is_main=True)
    notebook.status("status")
    notebook.print("line")
    assert screen.getvalue() == "line\n"
    monkeypatch.setattr(sys, "stdout", pipe := io.StringIO())
    Console(is_main=True).status("status")
    Console(is_main=True).print_text("one line, however long " * 20)
    assert pipe.getvalue().count("\n") == 1
    assert "\r" not in pipe.getvalue()


@pytest.mark.parametrize("columns", [20, 60, 80, 120, 300])
def test_status_line_fits_the_width_and_the_bar_grows(columns):
    lines = [report.status_line(TRAIN, update, 5.4321, 1_234_567.0, 7890.0, columns) for update in (1, 122, 244, 488)]
    filled = [line.count("#") for line in lines]
    assert filled == sorted(filled)
    assert all(len(line) <= columns or "#" not in line for line in lines)
    assert [line.split()[0] for line in lines] == ["0%", "25%", "50%", "100%"]
    if columns >= 80:
        assert "." not in lines[-1].split("]")[0]
        assert lines[1].split("]")[0].count("#") * 4 == pytest.approx(len(lines[1].split("[")[1].split("]")[0]), abs=4)
    assert bar(0.5, 4) == ""


def test_narrow_terminal_gets_fewer_figures_instead_of_a_part_of_one():
    lines = {columns: report.status_line(TRAIN, 122, 5.4321, 1_234_567.0, 7890.0, columns) for columns in range(33, 90)}
    assert all(len(line) <= columns for columns, line in lines.items())
    assert all(line.endswith((" | loss 5.4321", " | 2h 11m left")) for line in lines.values())


def test_log_lines_are_aligned():
    record = {"loss": 5.1, "lr": 0.02, "tokens_per_second": 12345.6}
    lines = [report.log_line(TRAIN, update, record | {"grad_norm": norm}, 0.31, 60.0) for update, norm in [(1, 0.799), (99, 0.0783), (488, 1.23)]]
    columns = [[match.start() for match in re.finditer(r"\|", line)] for line in lines]
    assert columns[0] == columns[1] == columns[2]


def test_evaluation_of_several_sources_has_their_means_and_each():
    news, stories = Evaluation(3.0, 1.5), Evaluation(1.0, 0.75)
    assert report.evaluation_record({"news": news}) == {"val_loss": 3.0, "val_bpb": 1.5}
    assert report.evaluation_lines({"news": news}) == ["validation: loss 3.0000, 1.5000 bits per byte"]
    both = {"news": news, "stories": stories}
    each = {"val_loss/news": 3.0, "val_bpb/news": 1.5, "val_loss/stories": 1.0, "val_bpb/stories": 0.75}
    assert report.evaluation_record(both) == {"val_loss": 2.0, "val_bpb": 1.125, **each}
    assert report.evaluation_lines(both) == [
        "validation: loss 2.0000, 1.1250 bits per byte, the means of 2 sources",
        "validation of news: loss 3.0000, 1.5000 bits per byte",
        "validation of stories: loss 1.0000, 0.7500 bits per byte",
    ]


# ---- times


def test_remaining_time_ignores_earlier_runs_and_the_first_update(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    pace = Pace()
    now[0] += 60.0  # compiles
    pace.mark(51)
    assert pace.left(51, 100) is None
    for update in range(52, 62):
        now[0] += 2.0
        pace.mark(update)
    assert pace.left(61, 100) == pytest.approx(39 * 2.0)


def test_skipped_updates_count_in_the_time_but_not_in_the_loss(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    meter = Meter()
    for loss in (3.0, None, 5.0):
        now[0] += 2.0
        meter.add(loss, 100)
    assert meter.read() == (4.0, 50.0)
    now[0] += 2.0
    meter.add(None, 100)
    loss, rate = meter.read()
    assert math.isnan(loss)
    assert rate == 50.0


@pytest.mark.slow
def test_resumed_run_counts_earlier_time_but_not_the_break_or_lost_updates(data_dir, tmp_path, monkeypatch, capsys):
    """With a simulated clock: updates of 2 seconds in the first start, which makes 8 and saves 5,
    and of 3 in the second; evaluations, saves and the break between the two take far longer."""
    import train

    now, seconds = [0.0], [2.0]
    monkeypatch.setattr("nano_hindi.training.meter.time", types.SimpleNamespace(perf_counter=lambda: now[0]))

    def taking(work, seconds, *, ends_before: int | None = None):
        def timed(run, *args):
            if run.update == ends_before:
                raise ZeroDivisionError
            now[0] += seconds[0]
            return work(run, *args)

        return timed

    update = loop.train_update
    for name, takes in (("evaluate", 100.0), ("sample", 200.0), ("save", 400.0)):
        monkeypatch.setattr(loop, name, taking(getattr(loop, name), [takes]))
    monkeypatch.setattr(loop, "train_update", taking(update, seconds, ends_before=8))
    argv = [*SMALL, "--data_dir", str(data_dir), "--checkpoint_dir", str(tmp_path), "--resume", "auto", "--inference_interval", "4"]
    with pytest.raises(ZeroDivisionError):
        train.main(argv)
    now[0] += 10_000  # no run
    seconds[0] = 3.0
    monkeypatch.setattr(loop, "train_update", taking(update, seconds))
    assert train.main(argv) == 0
    # updates 1 to 4 of the first start; update 5 was in no log line of it, and its time is taken to
    # be that of update 6, in the second start
    assert training_seconds(read_metrics(tmp_path / "metrics.jsonl")) == pytest.approx(4 * 2.0 + 8 * 3.0)
    capsys.readouterr()
    assert train.main(argv) == 0
    output = capsys.readouterr().out
    assert "this run is finished" in output
    assert re.search(r"done: {7}12 updates, 3\.07 k tokens in 32s of training: 96 tokens/s", output)


# ---- the summaries


def test_startup_summary_names_the_device_and_the_plan(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    assert report.device_line("25m", World(0, 2, torch.device("cpu")), torch.float32) == "nano_hindi  25m on cpu (4 threads) in float32, 2 ranks"
    plan = "plan        488 updates = 488 steps of 16 x 256 tokens{}, 4,096 tokens per update"
    for length, on_average in ((256, ""), (1024, " on average")):  # of conversations in a longer context
        config = GPTConfig(sequence_len=length, n_layer=3, window_pattern="SL", short_window_divisor=2)
        assert report.plan_lines(config, TRAIN) == [
            plan.format(on_average),
            f"schedule    {TRAIN.schedule_text}",
            f"windows     SL: {length // 2} {length} {length} keys per layer",
        ]


@pytest.mark.parametrize(
    ("tied", "total", "kinds"),
    [
        (False, "254 k (253,988)", "blocks 90.1 k, wte 65.5 k, lm_head 65.5 k, value embeddings 32.8 k, scalars 4"),
        (True, "156 k (155,652)", "blocks 90.1 k, wte, also lm_head, 65.5 k, scalars 4"),
    ],
)
def test_startup_summary_counts_the_parameters_and_the_tokens_of_whole_updates(tied, total, kinds):
    config = GPTConfig(vocab_size=1024, n_layer=2, n_head=2, n_kv_head=1, n_embd=64, sequence_len=256, tie_embeddings=tied, value_embeddings=not tied)
    ratios = f"{8192 / (155_652 if tied else 253_988):.3g} per parameter, 0.0909 per parameter of the blocks"
    assert report.parameter_lines(GPT(config), dataclasses.replace(TRAIN, total_tokens=3 * 4096 - 1)) == [
        f"parameters  {total}",
        f"            {kinds}",
        f"tokens      8.19 k: {ratios}",
    ]


@pytest.mark.parametrize(
    ("device", "gigabytes", "size", "expected"),
    [
        ("cpu", 0, "auto", "17 GB with 8 sequences at once, without compile"),
        ("cuda", 80, "auto", "17 GB with 8 sequences at once, without compile"),  # those of a rank
        ("cuda", 9.5, "auto", "7 GB with 3 sequences at once, without compile"),
        ("cuda", 9.5, 1, "3 GB with 1 sequence at once, without compile"),
        ("cuda", 1.5, "auto", "1.3 GB with 3 sequences at once, with each block computed again in the backward pass"),
        ("cuda", 0.9, "auto", "1 GB with 0 sequences at once, with each block computed again in the backward pass: not even one fits on this device"),
    ],
)
def test_startup_summary_estimates_memory_and_the_time_of_the_updates_to_come(monkeypatch, device, gigabytes, size, expected):
    """On two ranks: 1 GB of state, 2 GB for each sequence or 0.1 GB where blocks are computed
    again, 0.4 of 1 TFLOP/s at a billion FLOPs per token."""
    monkeypatch.setattr(report, "state_bytes", lambda model, buckets: buckets * 10**6)
    monkeypatch.setattr(report, "activation_bytes", lambda config, dtype, recompute=False: 10**8 if recompute else 2 * 10**9)
    monkeypatch.setattr(report, "matmul_flops", lambda device, dtype: 1e12)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: types.SimpleNamespace(total_memory=int(gigabytes * 10**9)))
    model = types.SimpleNamespace(config=GPTConfig(sequence_len=256), flops_per_token=lambda: 10**9)
    train = dataclasses.replace(TRAIN, device_batch_size=size, ngram_buckets=1000)
    memory, parts, time = report.estimate_lines(model, train, World(0, 2, torch.device(device)), 88)
    assert memory == f"memory      about {expected}"
    assert parts == f"            1 GB of weights, gradients and optimizer states + {'0.1' if 'again' in expected else '2'} GB for each sequence"
    assert time == "time        about 34m 08s at 800 tokens/s: an estimate, 40% of the 1 TFLOP/s measured here"  # 400 updates


def test_final_summary_says_what_was_done_and_the_next_command(tmp_path):
    latest = {"loss": 0.2134, "val_loss": 0.2057, "val_bpb": 0.0301}
    (tmp_path / "my run").mkdir()
    for name in ("checkpoint_step488.pt", "curves.png"):
        (tmp_path / "my run" / name).touch()
    logged = [{"step": 1952, "tokens": 231 * 8650, "tokens_per_second": 8650}]
    summary = "\n".join(report.summary_lines(TRAIN, 488, latest, logged, 1_210_000_000, tmp_path / "my run"))
    for words in (
        "488 updates",
        "2.00 M tokens in 3m 51s of training: 8.65 k tokens/s",
        "0.0301 bits per byte",
        "1.21 GB",
        "my run: checkpoint_step488.pt, curves.png\n",  # only files that are there
    ):
        assert words in summary
    assert summary.endswith(f" generate.py --checkpoint {shell_quoted(tmp_path / 'my run')} --interactive")
    without = report.summary_lines(TRAIN, 488, latest, [], None, tmp_path)  # on Windows, after the metrics were lost
    assert without[0] == "done:       488 updates, 2.00 M tokens"
    assert "memory" not in "\n".join(without)
    assert "notice" not in "\n".join(without)


@pytest.mark.parametrize(("last", "is_worse"), [(0.9, False), (0.959, False), (0.96, True)])
def test_final_summary_names_the_best_evaluation_if_the_last_is_worse(last, is_worse, tmp_path):
    records = [{"step": 100 * i, "tokens": 204_800 * i, "val_bpb": bpb} for i, bpb in enumerate((1.2, 0.95, None, 0.97, last), 1)]
    summary = report.summary_lines(TRAIN, 488, {"val_loss": 1.0, "val_bpb": last}, records, None, tmp_path)
    notice = "notice: validation was best at step 200, after 410 k tokens: 0.9500 bits per byte; a shorter run or more text would give a better model"
    assert (notice in summary) == is_worse
    assert len(summary) == 4 + is_worse


@pytest.mark.slow
def test_run_in_a_pipe_prints_plain_lines_and_no_output_of_libraries(data_dir, tmp_path):
    done = run_script("train.py", *SMALL, "--data_dir", data_dir, "--checkpoint_dir", tmp_path, "--inference_interval", "12")
    assert (done.returncode, done.stderr) == (0, "")
    log_line = r"(?m)^step 8/24 \(update 4/12\)   \| loss \d\.\d{4} \| lr \d\.\d\de-\d\d \| norm [\d.]+ \| [\d,]+ tokens/s \| .* left$"
    for line in (r"(?m)^attention   sdpa ", r"(?m)^compile     off \(--no_compile\)$", log_line):
        assert re.search(line, done.stdout)
    known = r"            blocks |            \d|nano_hindi  |attention  |compile  |parameters  |tokens  |data  |plan  |schedule  |windows  |memory  |time  |batch  |folder  |step |  > |saved |done:  |result  |files  |next  |$"
    for line in done.stdout.split("\n"):
        assert re.match(known, line), line
        assert all(unicodedata.category(character) != "Cc" for character in line), line
        assert all(character.isascii() for character in line) or line.startswith("  > "), line


@pytest.mark.slow
@posix
def test_run_in_a_terminal_keeps_evaluations_and_samples_and_overwrites_the_rest(data_dir, tmp_path):
    argv = [*SMALL, "--data_dir", data_dir, "--checkpoint_dir", tmp_path, "--inference_interval", "12", "--log_interval", "2"]
    screen = Screen()
    screen.write(on_terminal("train.py", *argv, COLUMNS="90"))
    lines = screen.lines()
    assert sum("#" in piece for piece in screen.getvalue().split("\r")) >= 8
    read = re.findall(r"\rstep (\d+)/24 [^\r]* validation: (\d+) of at most 640 tokens", screen.getvalue())
    assert read == [(step, str(tokens)) for step in ("8", "16", "24") for tokens in range(0, 640, 256)]
    assert not any("#" in line for line in lines)
    assert [re.match(r"step (\d+)/24", line)[1] for line in lines if "| loss" in line] == ["8", "16", "24"]
    assert sum("validation:" in line for line in lines) == 3
    for before, line, after in zip(lines, lines[1:], lines[2:], strict=False):
        if "samples:" in line:
            assert before == ""
            assert after.startswith("  > ")
    assert lines[-2].startswith("next  ")


def test_meter_excludes_pauses_and_continues_from_its_state(monkeypatch):
    clock = iter([0.0, 10.0, 70.0, 80.0, 80.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    meter = Meter({"loss_sum": 6.0, "updates": 2})
    meter.add(6.0, 1000)
    with meter.paused():
        pass
    assert meter.read() == (4.0, 1000 / 20)
