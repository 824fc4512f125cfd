"""Kill and resume runs and compare the result; measure what saving costs.

python tests/benchmarks/kill_resume.py --kills 100  # resume after kill -9, compare the result
python tests/benchmarks/kill_resume.py --stalls     # how long training waits for its checkpoints
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "support")]
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

import standin
from nano_hindi.checkpoint import CHECKPOINT_KEYS, MODEL_KEYS, list_checkpoints, load_checkpoint

# four epochs in 40 updates of two micro-batches each; every second update logs, evaluates or saves
TINY = [
    "--config", "tiny", "--n_layer", "2", "--n_head", "2", "--n_kv_head", "1", "--n_embd", "32", "--window_pattern", "SSSL", "--sequence_len", "32",
    "--batch_size", "4",
    "--device_batch_size", "4", "--gradient_accumulation_steps", "2", "--total_tokens", str(32 * 8 * 40), "--eval_tokens", "320",
    "--log_interval", "6", "--eval_interval", "40", "--inference_interval", "64", "--checkpoint_interval", "4", "--warmup_steps", "4",
    "--device", "cpu", "--no_compile",
]  # fmt: skip


# ---- processes that start at once: forked from a server that has imported everything


def context() -> multiprocessing.context.BaseContext:
    if sys.platform == "win32":
        return multiprocessing.get_context("spawn")
    forking = multiprocessing.get_context("forkserver")
    on_its_way = ["torch._dynamo", "transformers.utils.logging", "matplotlib.figure", "matplotlib.backends.backend_agg"]
    forking.set_forkserver_preload(["train", "nano_hindi.training.setup", "nano_hindi.training.loop", *on_its_way])
    return forking


def _train(argv: list[str], log: Path) -> None:
    with open(log, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    import train
    from short_ends import shorten_ends

    shorten_ends(draws=True)  # the picture is one of the files that are compared
    code = train.main(argv)
    sys.stdout.flush()
    os._exit(code)  # skips multiprocessing's own exit


def start(folder: Path, data_dir: Path, *flags: str) -> multiprocessing.process.BaseProcess:
    """Start a process that trains or resumes in `folder` and writes its output to `folder`.log."""
    argv = [*TINY, "--data_dir", str(data_dir), "--checkpoint_dir", str(folder), "--resume", "auto", *flags]
    process = context().Process(target=_train, args=(argv, folder.with_suffix(".log")))
    process.start()
    return process


def wait_until_it_trains(process: multiprocessing.process.BaseProcess, folder: Path, said: int) -> None:
    """Wait until `process` ends or makes its first update; `said`: size of the log in bytes before
    it started."""
    log = folder.with_suffix(".log")
    while process.is_alive() and not (log.exists() and b"\nbatch " in log.read_bytes()[said:]):
        time.sleep(0.005)


# ---- the result of a run


def outcome(folder: Path) -> dict:
    """Return everything that two equal runs share to the bit: all but times, speeds and paths."""
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    said = folder.with_suffix(".log").read_text(encoding="utf-8")
    checkpoints = list_checkpoints(folder)
    return {
        "metrics": [{key: value for key, value in record.items() if key != "tokens_per_second"} for record in records],
        "checkpoints": [step for step, _ in checkpoints],
        "last": {key: load_checkpoint(checkpoints[-1][1])[key] for key in CHECKPOINT_KEYS},
        "model": load_checkpoint(folder / "model.pt", MODEL_KEYS),
        "samples": said[said.rindex("| samples:") :].splitlines()[1:5],
        "files": sorted(path.name for path in folder.iterdir()),
    }


def differences(a: object, b: object, place: str = "") -> Iterator[str]:
    """Yield where two outcomes differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in a.keys() | b.keys():
            yield from differences(a.get(key), b.get(key), f"{place}/{key}")
    elif isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        if a.shape != b.shape or a.dtype != b.dtype or not torch.equal(a.view(-1).view(torch.uint8), b.view(-1).view(torch.uint8)):
            yield place
    elif a != b:
        yield place


@dataclass
class Tally:
    """Count what happened to the runs."""

    kills: int = 0
    inside_a_save: int = 0  # kills that left a partial checkpoint
    before_the_first_checkpoint: int = 0
    runs: int = 0


def kill_and_resume(folder: Path, data_dir: Path, kills: int, seed: int) -> tuple[Tally, list[str]]:
    """Kill runs at random moments, `kills` times in all, and resume each until it ends. Returns the
    tally and the differences from the uninterrupted run."""
    rng, tally, found = random.Random(seed), Tally(), []
    start(folder / "warm", data_dir, "--total_tokens", "256").join()  # starts the fork server
    straight = start(folder / "straight", data_dir)
    wait_until_it_trains(straight, folder / "straight", 0)
    begin = time.monotonic()
    straight.join()
    length = time.monotonic() - begin
    assert straight.exitcode == 0, (folder / "straight.log").read_text(encoding="utf-8")
    expected = outcome(folder / "straight")
    while tally.kills < kills:
        run = folder / f"run{tally.runs}"
        tally.runs += 1
        while True:
            said = run.with_suffix(".log").stat().st_size if run.exists() else 0
            process = start(run, data_dir)
            if rng.random() < 0.9:  # the others may be killed before the first update
                wait_until_it_trains(process, run, said)
            process.join(rng.uniform(0, 0.6) * length if tally.kills < kills else None)
            if tally.kills < kills and rng.random() < 0.3:  # a save takes a few milliseconds: some kills wait for the next save
                while process.is_alive() and not any(run.glob("*.pt.tmp")):
                    pass
            if process.exitcode is not None:
                break
            process.kill()
            process.join()
            tally.kills += 1
            tally.inside_a_save += any(run.glob("*.pt.tmp"))
            tally.before_the_first_checkpoint += not list_checkpoints(run)
        if process.exitcode != 0:
            found.append(f"{run.name} ended with {process.exitcode}: {run.with_suffix('.log').read_text(encoding='utf-8')[-300:]}")
        else:
            found += [f"{run.name}{place}" for place in differences(expected, outcome(run))]
    return tally, found


# ---- what saving costs


def stalls(folder: Path, preset: str, updates: int | None) -> None:
    """Train a preset at its own intervals and print how long training waited for saving."""
    import train
    from nano_hindi.config import get_train_config
    from nano_hindi.training import saving

    waited, real = [], {name: getattr(saving.Saver, name) for name in ("save", "__exit__")}

    def timed(name):
        def call(*args, **kwargs):
            start = time.perf_counter()
            real[name](*args, **kwargs)
            waited.append(time.perf_counter() - start)

        return call

    for name in real:
        setattr(saving.Saver, name, timed(name))
    data_dir = standin.make_data(folder / "data", standin.documents(4000))
    argv = ["--config", preset, "--data_dir", str(data_dir), "--checkpoint_dir", str(folder / "run"), "--no_compile"]
    if updates:
        argv += ["--total_tokens", str(updates * get_train_config(preset).tokens_per_update)]
    begin = time.perf_counter()
    assert train.main(argv) == 0
    seconds, stalled = time.perf_counter() - begin, sum(waited)
    print(f"{preset}: training waited {stalled:.2f} s of {seconds:.0f} s for saving: {stalled / seconds:.2%}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stalls", action="store_true")
    parser.add_argument("--config", default="tiny", help="preset for --stalls")
    parser.add_argument("--updates", type=int, help="for --stalls; default: the preset's number")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.stalls:
            stalls(folder, args.config, args.updates)
            return 0
        begin = time.monotonic()
        tally, found = kill_and_resume(folder, standin.make_data(folder / "data", standin.documents(60)), args.kills, args.seed)
        print(
            f"{tally.kills} kills of {tally.runs} runs in {time.monotonic() - begin:.0f} s: {tally.inside_a_save} inside a save, "
            f"{tally.before_the_first_checkpoint} before the first checkpoint; {len(found)} differences from the uninterrupted run"
        )
        print("\n".join(found[:20]))
        return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
