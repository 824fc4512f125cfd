"""One run on several processes: the same updates, one crossing of each gradient, processes that die or differ, several machines. All jobs are torchrun's own."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch

import train
from conftest import ROOT, SMALL
from nano_hindi.checkpoint import list_checkpoints, load_checkpoint

UPDATES = 50
FIFTY = [*SMALL, "--total_tokens", str(32 * 8 * UPDATES), "--log_interval", "2", "--eval_interval", "40", "--checkpoint_interval", "20"]
JOB_SECONDS = 150  # of which a quiet machine needs ten


class Job:
    """A command and all the processes it starts; none is left at the end of the `with` block."""

    def __init__(self, argv: list, records: Path, **env: str):
        self.argv, self.records = [str(x) for x in argv], records
        self.env = {**os.environ, "OMP_NUM_THREADS": "1", **({"USE_LIBUV": "0"} if os.name == "nt" else {}), **env}

    def __enter__(self):
        self.records.mkdir(parents=True, exist_ok=True)
        self.log = self.records / "log"
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(self.argv, cwd=ROOT, env=self.env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        return self

    def __exit__(self, *exc_info):
        self.process.kill()
        self.process.wait()
        for path in (self.records / "pids").glob("*"):  # torchrun makes each of its processes a session of its own
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(path.name), signal.SIGTERM if os.name == "nt" else signal.SIGKILL)

    def wait(self) -> str:
        """Wait until torchrun ends. Returns what the job has said."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(JOB_SECONDS)
        said = self.said()
        assert self.process.returncode is not None, said
        return said

    def wait_for(self, words: str) -> None:
        end = time.monotonic() + JOB_SECONDS
        while words not in self.said():
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < end, self.said()
            time.sleep(0.05)

    def said(self) -> str:
        return self.log.read_text(encoding="utf-8")


def torchrun(processes: int, records: Path, data_dir, folder: Path, *flags, events: tuple = (), options: tuple = ("--standalone",), **env) -> Job:
    launcher = [sys.executable, "-m", "torch.distributed.run", *options, f"--nproc_per_node={processes}"]
    worker = [ROOT / "tests" / "train_worker.py", records, *events, "--"]
    return Job([*launcher, *worker, *FIFTY, "--data_dir", data_dir, "--checkpoint_dir", folder, *flags], records, **env)


def curve(folder: Path) -> list[dict]:
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in record.items() if key != "tokens_per_second"} for record in records]


def last(folder: Path) -> dict:
    return load_checkpoint(list_checkpoints(folder)[-1][1])


def distance(a: dict, b: dict) -> float:
    """Of the weights of two checkpoints, against the length of the first's."""
    first, second = (torch.cat([w.double().flatten() for w in state["model_state_dict"].values()]) for state in (a, b))
    return float((first - second).norm() / first.norm())


def assert_equal_weights(a: dict, b: dict) -> None:
    torch.testing.assert_close(a["model_state_dict"], b["model_state_dict"], rtol=0, atol=0)


@pytest.fixture(scope="module")
def alone(data_dir, tmp_path_factory) -> Path:
    """The folder of the run on one process."""
    folder = tmp_path_factory.mktemp("alone")
    assert train.main([*FIFTY, "--data_dir", str(data_dir), "--checkpoint_dir", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def together(data_dir, tmp_path_factory):
    """The same run on so many processes, one sequence at a time: its folder, and what each rank wrote down."""
    done = {}

    def run(processes: int) -> tuple[Path, list[dict]]:
        if processes not in done:
            root = tmp_path_factory.mktemp(f"on{processes}")
            with torchrun(processes, root / "records", data_dir, root / "run", "--device_batch_size", "1") as job:
                said = job.wait()
            assert job.process.returncode == 0, said
            assert said.count("done:") == 1
            done[processes] = root / "run", [torch.load(root / "records" / f"{rank}.pt") for rank in range(processes)]
        return done[processes]

    return run


@pytest.mark.parametrize("processes", [2, 4])
def test_fifty_updates_agree_within_float32_rounding(alone, together, data_dir, tmp_path, processes):
    """The yardstick of rounding: one process that sums the same gradients in another order."""
    folder, _ = together(processes)
    assert train.main([*FIFTY, "--data_dir", str(data_dir), "--checkpoint_dir", str(tmp_path), "--device_batch_size", "1"]) == 0
    rounding, found = distance(last(alone), last(tmp_path)), distance(last(alone), last(folder))
    print(
        f"\nweights after {UPDATES} updates: {processes} processes differ from one by {found:.1e} of their length, another order of sums by {rounding:.1e}"
    )
    assert found < 4 * rounding
    assert [step for step, _ in list_checkpoints(folder)] == [step for step, _ in list_checkpoints(alone)]
    for ours, expected in zip(curve(folder), curve(alone), strict=True):
        assert ours == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("processes", [2, 4])
def test_each_gradient_crosses_once_and_none_before_the_last_backward(together, processes):
    folder, ranks = together(processes)
    weights = last(folder)["model_state_dict"]
    shapes = Counter(w.shape for name, w in weights.items() if name.startswith("transformer.h."))
    matrices = sum(-(-n // processes) * processes * shape.numel() for shape, n in shapes.items())  # padded to equal parts
    others = sum(w.numel() for name, w in weights.items() if not name.startswith("transformer.h."))
    norm_and_figures = 1 + 3
    for record in ranks:
        assert len(record["sent"]) == UPDATES
        for sent, after_backward in zip(record["sent"], record["sent_after_each_backward"], strict=True):
            assert sum(sent["all_reduce"]) == others + norm_and_figures
            assert sum(sent["reduce_scatter"]) == sum(sent["all_gather"]) * processes == matrices
            assert len(after_backward) == 8 // processes
            assert not any(sum(numbers.values()) for numbers in after_backward[:-1])
            assert after_backward[-1] == {"all_reduce": others, "reduce_scatter": 0, "all_gather": 0}  # under way while it goes on


@pytest.mark.parametrize("processes", [2, 4])
def test_every_rank_clips_by_the_norm_of_the_mean_gradient(alone, together, processes):
    expected = [record["grad_norm"] for record in curve(alone) if "grad_norm" in record]
    ranks = [record["norms"] for record in together(processes)[1]]
    assert ranks == [ranks[0]] * processes
    assert torch.stack(ranks[0]).tolist() == pytest.approx(expected, rel=1e-4)
