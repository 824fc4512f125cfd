"""Runs on several ranks: the same updates, one transfer of each gradient, ranks that die or differ,
several machines. All jobs run under torchrun itself."""

import contextlib
import functools
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

import additions
import forked
import train
from conftest import PATIENCE, ROOT, SMALL, launched, wait_until
from nano_hindi.checkpoint import list_checkpoints, load_checkpoint
from nano_hindi.distributed import weight_sums
from test_faults import curve

pytestmark = pytest.mark.slow
UPDATES = 50
FIFTY = [
    *SMALL, "--total_tokens", str(32 * 8 * UPDATES), "--log_interval", "2", "--eval_interval", "40", "--checkpoint_interval", "20", "--grad_clip", "0.35",
    "--adamw_eps", "1e-5",  # else AdamW makes a full step where a gradient is only rounding error, whose sign depends on the order of summation
]  # fmt: skip


class Job:
    """A command and all the processes it starts; all end with the `with` block."""

    def __init__(self, argv: list, records: Path, fork: bool | None = None, **env: str):
        self.argv, self.records, self.fork = [str(x) for x in argv], records, fork
        self.env = {**os.environ, "OMP_NUM_THREADS": "1", **({"USE_LIBUV": "0"} if os.name == "nt" else {}), **env}

    def __enter__(self):
        self.records.mkdir(parents=True, exist_ok=True)
        self.log = self.records / "log"
        with open(self.log, "wb") as log:
            self.launched = launched(self.argv, fork=self.fork, env=self.env, stdout=log, stderr=subprocess.STDOUT)
            self.process = self.launched.__enter__()
        return self

    def __exit__(self, *exc_info):
        self.launched.__exit__(*exc_info)
        for path in (self.records / "pids").glob("*"):  # torchrun gives each of its processes a session of its own
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(path.name), signal.SIGTERM if os.name == "nt" else signal.SIGKILL)
        print(self.said())  # shown if the test fails

    def wait(self) -> str:
        """Wait until torchrun ends. Returns the job's output."""
        self.process.wait(PATIENCE)
        return self.said()

    def wait_for(self, words: str) -> None:
        wait_until(lambda: words in self.said() or self.process.poll() is not None, words)
        assert words in self.said()

    def said(self) -> str:
        return self.log.read_text(encoding="utf-8")


def torchrun(processes: int, records: Path, data_dir, folder: Path, *flags, events: tuple = (), options: tuple = ("--standalone",), **env) -> Job:
    launcher = [sys.executable, "-m", "torch.distributed.run", *options, f"--nproc_per_node={processes}"]
    worker = [ROOT / "tests" / "support" / "train_worker.py", records, *events, "--"]
    return Job([*launcher, *worker, *FIFTY, "--data_dir", data_dir, "--checkpoint_dir", folder, *flags], records, **env)


def last(folder: Path) -> dict:
    return load_checkpoint(list_checkpoints(folder)[-1][1])


def distance(a: dict, b: dict) -> float:
    """Return the distance between the weights of two checkpoints, relative to the norm of the
    first."""
    first, second = (torch.cat([w.double().flatten() for w in state["model_state_dict"].values()]) for state in (a, b))
    return float((first - second).norm() / first.norm())


def assert_equal_weights(a: dict, b: dict) -> None:
    torch.testing.assert_close(a["model_state_dict"], b["model_state_dict"], rtol=0, atol=0)


@pytest.fixture(scope="module")
def alone(data_dir, tmp_path_factory) -> Path:
    """Return the folder of the run on one rank."""
    folder = tmp_path_factory.mktemp("alone")
    assert train.main([*FIFTY, "--data_dir", str(data_dir), "--checkpoint_dir", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def reordered(data_dir, tmp_path_factory) -> Path:
    """Return the folder of the run on one rank that sums the same gradients in another order."""
    folder = tmp_path_factory.mktemp("reordered")
    assert train.main([*FIFTY, "--data_dir", str(data_dir), "--checkpoint_dir", str(folder), "--device_batch_size", "1"]) == 0
    return folder


@pytest.fixture(scope="module")
def together(data_dir, tmp_path_factory):
    """Return a function that makes the same run on `processes` ranks, one sequence at a time: its
    folder, and the record of each rank."""
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
def test_fifty_updates_agree_within_float32_rounding(alone, reordered, together, processes):
    folder, _ = together(processes)
    rounding, found = distance(last(alone), last(reordered)), distance(last(alone), last(folder))
    print(
        f"\nweights after {UPDATES} updates: {processes} ranks differ from one by {found:.1e} of their length, another order of summation by {rounding:.1e}"
    )
    assert found < 4 * rounding
    assert [step for step, _ in list_checkpoints(folder)] == [step for step, _ in list_checkpoints(alone)]
    for ours, expected in zip(curve(folder), curve(alone), strict=True):
        assert ours == pytest.approx(expected, rel=1e-4)


def test_ranks_started_by_hand_without_torchrun_make_the_same_run(data_dir, tmp_path):
    """The way for Windows, where torchrun's store does not start."""
    few = [*FIFTY, "--total_tokens", str(32 * 8 * 6), "--eval_interval", "3", "--data_dir", str(data_dir), "--checkpoint_dir"]
    argv = [sys.executable, ROOT / "train.py", *few, tmp_path / "two"]
    with contextlib.ExitStack() as stack:
        # it does not listen, so rank 0 can; but no other process gets its port, nor rank 1 for its
        # own end of the connection
        port = stack.enter_context(socket.socket())
        port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        port.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port.getsockname()[1]), "WORLD_SIZE": "2"}
        ranks = [
            stack.enter_context(launched(argv, env={**os.environ, **address, "RANK": rank, "LOCAL_RANK": rank}, stdout=subprocess.PIPE))
            for rank in "01"
        ]
        said = [rank.communicate(timeout=PATIENCE)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], said
    assert said[0].count("done:") == 1
    assert not [line for line in said[1].splitlines() if not line.startswith("[Gloo]")], "only rank 0 prints"  # torch 2.9 does too
    assert train.main([*few, str(tmp_path / "one")]) == 0
    for ours, expected in zip(curve(tmp_path / "two"), curve(tmp_path / "one"), strict=True):
        assert ours == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("processes", [2, 4])
def test_each_gradient_is_reduced_once_and_none_before_the_last_backward(together, processes):
    folder, ranks = together(processes)
    weights = last(folder)["model_state_dict"]
    shapes = Counter(w.shape for name, w in weights.items() if name.startswith("transformer.h."))
    matrices = sum(-(-n // processes) * processes * shape.numel() for shape, n in shapes.items())  # padded to equal shards
    others = sum(w.numel() for name, w in weights.items() if not name.startswith("transformer.h."))
    norm_and_figures = 1 + 3
    for record in ranks:
        assert len(record["sent"]) == UPDATES
        for sent, after_backward in zip(record["sent"], record["sent_after_each_backward"], strict=True):
            assert sum(sent["all_reduce"]) == others + norm_and_figures
            assert sum(sent["reduce_scatter"]) == sum(sent["all_gather"]) * processes == matrices
            assert len(after_backward) == 8 // processes
            assert not any(sum(numbers.values()) for numbers in after_backward[:-1])
            assert after_backward[-1] == {"all_reduce": others, "reduce_scatter": 0, "all_gather": 0}  # launched during the backward


def test_tied_embeddings_with_every_addition_train_as_on_one_rank_and_are_reduced_once(data_dir, tmp_path):
    flags = ["--tie_embeddings", "true", "--value_embeddings", "false", *additions.FLAGS, "--ngram_buckets", "512"]
    flags += ["--total_tokens", str(32 * 8 * 20)]
    ways = {"alone": [], "another order": ["--device_batch_size", "1"]}
    for name, size in ways.items():
        assert train.main([*FIFTY, *flags, *size, "--data_dir", str(data_dir), "--checkpoint_dir", str(tmp_path / name)]) == 0
    with torchrun(2, tmp_path / "records", data_dir, tmp_path / "together", *flags, *ways["another order"]) as job:
        said = job.wait()
    assert job.process.returncode == 0, said
    alone, other, together = (last(tmp_path / name) for name in (*ways, "together"))
    assert distance(alone, together) < 4 * distance(alone, other)
    others = sum(w.numel() for name, w in together["model_state_dict"].items() if not name.startswith(("transformer.h.", "transformer.smear.")))
    for record in (torch.load(tmp_path / "records" / f"{rank}.pt") for rank in range(2)):
        assert [after[-1]["all_reduce"] for after in record["sent_after_each_backward"]] == [others] * 20


@pytest.mark.parametrize("processes", [1, 2])
def test_run_on_four_ranks_resumes_on_fewer(alone, together, data_dir, tmp_path, processes):
    """With two ranks, one runs out of memory after a backward that has launched its all-reduces:
    the gradients count once."""
    folder = tmp_path / "run"
    shutil.copytree(together(4)[0], folder)
    for name in ("checkpoint_step80.pt", "checkpoint_step100.pt", "model.pt"):
        (folder / name).unlink()
    flags = ("--resume", "auto", "--device_batch_size", "4")
    if processes == 1:
        assert train.main([*FIFTY, "--data_dir", str(data_dir), "--checkpoint_dir", str(folder), *flags]) == 0
    else:
        with torchrun(2, tmp_path / "records", data_dir, folder, *flags, events=("exhaust:1:40:0",)) as job:
            said = job.wait()
        assert job.process.returncode == 0, said
        assert said.count("notice: out of memory") == 1
        assert "checkpoint_step60.pt" in said
    assert distance(last(alone), last(folder)) < 1e-3
    assert [record["step"] for record in curve(folder)] == [record["step"] for record in curve(alone)]
    assert [record["loss"] for record in curve(folder) if "loss" in record] == pytest.approx(
        [record["loss"] for record in curve(alone) if "loss" in record], rel=1e-3
    )


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_killed_rank_ends_the_run_at_once_and_is_named(data_dir, tmp_path):
    """The other rank stops waiting for its gradients; gloo alone would wait for half an hour.

    One time in a hundred gloo does not see that a connection is closed, and torchrun kills that
    rank after 30 seconds: then try again.
    """
    for attempt in "123":
        records = tmp_path / f"records{attempt}"
        with torchrun(2, records, data_dir, tmp_path / f"run{attempt}", "--total_tokens", str(10**10)) as job:
            job.wait_for("| loss")
            victim = next(int(path.name) for path in (records / "pids").iterdir() if path.read_text() == "1")
            os.kill(victim, signal.SIGKILL)
            said = job.wait()
        assert f"failed (exitcode: -9) local_rank: 1 (pid: {victim})" in said  # torchrun's message
        assert re.search(r"Root Cause.*\n.*\n.*\n.*\n +rank +: 1 ", said)
        assert "[rank0]: Traceback" not in said
        if "error: another rank" in said:
            break
    assert said.count("error: another rank of this run has exited") == 1
    assert not re.search(r"has exited \(.*\d\d\d\d", said)  # with a port, each of several ranks would have a line of its own


@pytest.mark.skipif(os.name == "nt", reason="torchrun does not work on Windows")
def test_ranks_of_a_killed_torchrun_save_and_stop(data_dir, tmp_path):
    # a fork would be the child of the tests' server, not of torchrun
    with torchrun(2, tmp_path / "records", data_dir, tmp_path / "run", "--total_tokens", str(10**10), fork=False) as job:
        job.wait_for("| loss")
        job.process.kill()
        wait_until(lambda: "stopped after step" in job.said(), "the end of the ranks")
    step = int(re.search(r"stopped after step (\d+)", job.said())[1])
    assert [last for last, _ in list_checkpoints(tmp_path / "run")][-1] == step


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_torchrun_restarts_after_any_killed_rank_to_the_same_weights(together, data_dir, tmp_path):
    """Rank 1 is killed at update 25, and rank 0, which writes, at update 33 of the second start."""
    folder, events = tmp_path / "run", ("kill:1:25:0", "kill:0:33:1")
    flags = ("--resume", "auto", "--device_batch_size", "1")
    with torchrun(2, tmp_path / "records", data_dir, folder, *flags, events=events, options=("--standalone", "--max_restarts=3")) as job:
        said = job.wait()
    assert job.process.returncode == 0, said
    assert "nothing to resume" in said
    assert said.count(f"resuming from {folder}") == 2
    assert_equal_weights(last(folder), last(together(2)[0]))
    assert curve(folder) == curve(together(2)[0])


def test_rank_with_other_weights_is_named_before_a_save(data_dir, tmp_path):
    with torchrun(2, tmp_path / "records", data_dir, tmp_path / "run", events=("spoil:1:13:0",)) as job:
        said = job.wait()
    assert job.process.returncode != 0
    assert re.search(r"error: not the same weights as rank 0 on \S+: rank 1 on \S+ \(lm_head.weight", said)
    assert [step for step, _ in list_checkpoints(tmp_path / "run")] == [20]
    assert "Traceback" not in said.split("torch/distributed/elastic")[0]


# ---- several machines


class Hosts:
    """Two hosts, a and b, with names and a network of their own (Linux network namespaces) that
    reach only each other."""

    def __init__(self, folder: Path):
        self.names = {host: f"nano_hindi_{os.getpid()}_{host}" for host in "ab"}
        self.pythons = {host: folder / f"python_{host}" for host in "ab"}
        self.hosts_file = folder / "hosts"
        self.hosts_file.write_text("127.0.0.1 localhost\n10.77.0.1 hosta\n10.77.0.2 hostb\n")

    def __enter__(self):
        try:
            for name in self.names.values():
                self._ip("netns", "add", name)
                self._ip("-n", name, "link", "set", "lo", "up")
            self._ip("link", "add", "eth0", "netns", self.names["a"], "type", "veth", "peer", "name", "eth0", "netns", self.names["b"])
            for number, name in enumerate(self.names.values(), 1):
                self._ip("-n", name, "addr", "add", f"10.77.0.{number}/24", "dev", "eth0")
                self._ip("-n", name, "link", "set", "eth0", "up")
            subprocess.run(self.command("a", "true"), check=True, capture_output=True)
            for host, python in self.pythons.items():  # a launcher and its ranks are forks of a server on their host
                server = forked.Process.start_server(os.environ, functools.partial(self.command, host))
                forked.write_python(python, server)
        except (OSError, subprocess.CalledProcessError) as error:
            self.__exit__()
            pytest.skip(f"needs Linux, root, and the commands ip, unshare and mount to make network namespaces ({error})")
        return self

    def __exit__(self, *exc_info):
        for name in self.names.values():
            with contextlib.suppress(OSError, subprocess.CalledProcessError):
                self._ip("netns", "del", name)

    @staticmethod
    def _ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)

    def command(self, host: str, *argv) -> list[str]:
        there = f"hostname host{host}; mount --bind {shlex.quote(str(self.hosts_file))} /etc/hosts; exec {shlex.join(map(str, argv))}"
        return ["ip", "netns", "exec", self.names[host], "unshare", "--uts", "sh", "-ec", there]

    def run(self, folder: Path, data_dirs: dict[str, Path], restarts: int = 0, events: tuple = ()) -> tuple[dict[str, int], dict[str, str]]:
        """Run one job on both hosts, each with its own checkpoint folder, `folder`/a and /b.
        Returns exit codes and output of each."""
        options = ("--nnodes=2", f"--max_restarts={restarts}", "--rdzv_backend=c10d", "--rdzv_endpoint=hosta:29400")
        flags = ("--resume", "auto", "--device_batch_size", "1")
        with contextlib.ExitStack() as stack:
            jobs = {}
            for host, data_dir in data_dirs.items():
                job = torchrun(1, folder / f"records_{host}", data_dir, folder / host, *flags, events=events, options=options)
                job.argv[0] = str(self.pythons[host])
                jobs[host] = stack.enter_context(job)
            said = {host: job.wait() for host, job in jobs.items()}
            return {host: job.process.returncode for host, job in jobs.items()}, said


@pytest.fixture(scope="module")
def hosts(tmp_path_factory):
    with Hosts(tmp_path_factory.mktemp("hosts")) as hosts:
        yield hosts


def test_two_machines_train_like_one_and_restart_when_a_rank_is_killed(hosts, together, data_dir, tmp_path):
    """The machine that does not write has no checkpoint to restart from: it receives that of rank
    0."""
    codes, said = hosts.run(tmp_path, {"a": data_dir, "b": data_dir}, restarts=3, events=("kill:1:25:0",))
    assert codes == {"a": 0, "b": 0}, said
    assert "(exitcode: -9)" in said["b"]
    assert f"resuming from {tmp_path / 'a'}" in said["a"]
    assert_equal_weights(last(tmp_path / "a"), last(together(2)[0]))
    assert curve(tmp_path / "a") == curve(together(2)[0])
    assert not (tmp_path / "b").exists()


def test_machine_with_other_data_is_refused(hosts, data_dir, tmp_path):
    """Both machines say so, also one that is held up when the other's rank exits."""
    shutil.copytree(data_dir, tmp_path / "data")
    tokens = np.fromfile(data_dir / "train.bin", dtype="<u4")
    np.roll(tokens, 1).tofile(tmp_path / "data" / "train.bin")
    metadata = tmp_path / "data" / "preprocess_meta.txt"  # of an older version, without the digests that would show it alone
    lines = metadata.read_text(encoding="utf-8").splitlines(keepends=True)
    metadata.write_text("".join(line for line in lines if "_digest:" not in line), encoding="utf-8")
    codes, said = hosts.run(tmp_path, {"a": data_dir, "b": tmp_path / "data"}, events=("late:1",))
    for host in "ab":
        assert codes[host] == 1
        assert "error: not the same data as rank 0 on hosta: rank 1 on hostb (train.bin); copy" in said[host]
    assert not list_checkpoints(tmp_path / "a")


# ---- what the ranks compare, and what they receive from rank 0


def test_what_the_ranks_compare_and_receive(tmp_path):
    """tests/support/distributed_worker.py makes the assertions."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=3"]
    with Job([*launcher, ROOT / "tests" / "support" / "distributed_worker.py", tmp_path], tmp_path) as job:
        said = job.wait()
    assert job.process.returncode == 0, said


def test_any_changed_bit_changes_the_checksum_of_its_weight():
    model = torch.nn.Linear(5, 3)
    before = weight_sums(model)
    for value in (float("nan"), -0.0, 1e-45):
        model.bias.data[1] = 0.0
        zero = weight_sums(model)
        model.bias.data[1] = value
        assert weight_sums(model)["bias"] != zero["bias"]
        assert weight_sums(model)["weight"] == before["weight"]


def test_mixed_sources_and_their_anneal_are_read_as_on_one_rank(data_dir, tmp_path):
    """Each rank takes its slice of the same sequences: other ones would change a loss by far more
    than rounding."""
    other = shutil.copytree(data_dir, tmp_path / "other")
    flags = ["--data_dir", f"{data_dir}=0.7", f"{other}=0.3", "--anneal_data_dir", str(other), "--anneal_fraction", "0.5"]
    flags += ["--total_tokens", str(32 * 8 * 12), "--eval_interval", "12"]
    assert train.main([*FIFTY, *flags, "--checkpoint_dir", str(tmp_path / "alone")]) == 0
    with torchrun(2, tmp_path / "records", data_dir, tmp_path / "together", *flags) as job:
        said = job.wait()
    assert job.process.returncode == 0, said
    for ours, expected in zip(curve(tmp_path / "together"), curve(tmp_path / "alone"), strict=True):
        assert ours == pytest.approx(expected, rel=1e-4)
