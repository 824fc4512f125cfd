"""A disk that fails at one call, or for good: a command ends well or in one line with code 2, no
file is partial under its final name, and the same command run again ends as if nothing had been.

tests/support/failing_io.c fails the calls. The tests try a sample of them; IO_FAULTS=all tries
every one, once and for good, in about an hour.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import standin
from benchmarks.kill_resume import differences
from conftest import ROOT, SMALL, launched
from nano_hindi.checkpoint import CHECKPOINT_KEYS, MODEL_KEYS, list_checkpoints, load_checkpoint
from test_faults import curve

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]
ERRORS = (errno.EIO, errno.ENOSPC, errno.ESTALE, errno.EDQUOT, errno.ENODEV, errno.ETIMEDOUT)
STATE, STATE_BYTES = struct.Struct("=5q"), 16384  # of failing_io.c
CHANGES, READS = 0, 1

INPUTS = "--input DISK/in/text.txt DISK/in/more.jsonl --val_fraction 0.2 --output_dir DISK/out"
TRAIN = f"train.py {' '.join(SMALL)} --total_tokens {6 * 32 * 8} --checkpoint_interval 4 --eval_interval 12 --data_dir DISK/in/data --resume auto"
COMMANDS = {
    "download files": "data/download.py --source DISK/in/text.txt DISK/in/more.jsonl --tokenizer DISK/in/data/standin --output_dir DISK/out",
    "download the sample": "data/download.py --source sample --max_tokens 2000 --output_dir DISK/out",
    "preprocess": f"data/preprocess.py --tokenizer DISK/in/data/standin --workers 1 {INPUTS}",
    "preprocess with two workers": f"data/preprocess.py --tokenizer DISK/in/data/standin --workers 2 {INPUTS}",
    "preprocess and train a tokenizer": f"data/preprocess.py --train_tokenizer 600 --workers 1 {INPUTS}",
    "preprocess and report": f"data/preprocess.py --tokenizer DISK/in/data/standin --workers 1 --report {INPUTS}",
    "train": f"{TRAIN} --checkpoint_dir DISK/out",
    "resume": f"{TRAIN} --checkpoint_dir DISK/out",
    "export": "nano_hindi.export --checkpoint DISK/in/run --data_dir DISK/in/data --output_dir DISK/out",
}
BEFORE = {  # commands whose output another one replaces
    "download files": "data/download.py --source DISK/in/more.jsonl --tokenizer DISK/in/data/standin --output_dir DISK/out",
    "preprocess": "data/preprocess.py --train_tokenizer 512 --workers 1 --input DISK/in/text.txt --val_fraction 0.5 --output_dir DISK/out",
    "export": "nano_hindi.export --checkpoint DISK/in/run --data_dir DISK/in/data --dtype bfloat16 --output_dir DISK/out",
}
COMMANDS |= {f"{name}, over another": COMMANDS[name] + " --overwrite" * (name == "download files") for name in BEFORE}
SAMPLE = {CHANGES: 12, READS: 4}  # calls that fail in an ordinary run of the tests
SLOW = {"preprocess with two workers", "preprocess and report", "train", "resume"}  # half as many
OF_A_FAILED_COMMAND = re.compile(r".*(\.tmp|\.part|\.progress\.txt|\.deleted|\.lock|\.lock\.txt)|unfinished_export")


@dataclass
class Ended:
    """What a command did: its exit code and output, its calls, and the one that failed ("" for
    none)."""

    code: int
    out: str
    err: str
    calls: int
    failed: str


class Disk:
    """A folder whose calls can fail, and a process that runs commands there; see
    tests/support/fault_server.py."""

    def __init__(self, folder: Path, process: subprocess.Popen, state: Path):
        self.folder, self.out, self.process, self.state = folder, folder / "out", process, state
        assert process.stdout.readline() == "ready\n"

    def run(self, command: str, number: int = 0, error: int = 0, later: bool = False, kind: int = CHANGES) -> Ended:
        """Run a command. Its call `number` fails with `error`, and the `later` ones do."""
        with open(self.state, "r+b") as file:  # not cut before: the process has it mapped
            file.write(STATE.pack(kind, 0, number, later, error).ljust(STATE_BYTES, b"\0"))
        output = self.state.with_name("output")
        print(json.dumps([*command.replace("DISK", str(self.folder)).split(), str(output)]), file=self.process.stdin, flush=True)
        code = int(self.process.stdout.readline())
        raw = self.state.read_bytes()
        out, err = (Path(f"{output}.{end}").read_text(encoding="utf-8") for end in ("out", "err"))
        err = re.sub("(?m)^notice: skipped: .*\n", "", err)  # of a checkpoint that cannot be read
        failed = raw[STATE.size :].partition(b"\0")[0].decode().replace(str(self.folder), "")
        return Ended(code, out, err, STATE.unpack_from(raw)[1], failed)

    def prepare(self, name: str) -> None:
        """Make the output folder what it is before the command `name`."""
        shutil.rmtree(self.out, ignore_errors=True)
        if name.endswith(", over another"):
            earlier = self.folder.with_name(name)
            if not earlier.exists():
                assert self.run(BEFORE[name.removesuffix(", over another")]).code == 0
                self.out.rename(earlier)
            shutil.copytree(earlier, self.out)
        if name == "resume":
            shutil.copytree(self.folder / "in/run", self.out)
            for path in (self.out / "model.pt", *(path for step, path in list_checkpoints(self.out) if step > 4)):
                path.unlink()


@pytest.fixture(scope="module")
def disk(tmp_path_factory, data_dir) -> Iterator[Disk]:
    compiler = shutil.which("cc")
    if sys.platform != "linux" or compiler is None:
        pytest.skip("needs Linux and a C compiler, cc")
    folder = tmp_path_factory.mktemp("io_faults").resolve()
    library, state, inputs = folder / "failing_io.so", folder / "state", folder / "disk/in"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, ROOT / "tests/support/failing_io.c"], check=True)
    state.write_bytes(bytes(STATE_BYTES))
    shutil.copytree(data_dir, inputs / "data")
    texts = standin.documents(60)
    standin.write_corpus(inputs / "text.txt", texts[:30])
    (inputs / "more.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts[30:]), encoding="utf-8")
    of_library = {"LD_PRELOAD": str(library), "FAILING_IO_FOLDER": str(folder / "disk"), "FAILING_IO_STATE": str(state)}
    argv = [sys.executable, ROOT / "tests/support/fault_server.py"]
    with launched(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1", **of_library}) as process:
        disk = Disk(folder / "disk", process, state)
        assert disk.run(f"{TRAIN} --checkpoint_dir DISK/in/run").code == 0
        yield disk


def contents(out: Path) -> dict[str, object]:
    """Return what the files of a folder hold, by name, without time stamps and speeds."""
    return {str(path.relative_to(out)): content(path) for path in sorted(out.rglob("*")) if path.is_file() and not unfinished(path, out)}


def content(path: Path) -> object:
    if path.suffix == ".pt":
        return load_checkpoint(path, MODEL_KEYS if path.name == "model.pt" else CHECKPOINT_KEYS)
    if path.name == "metrics.jsonl":
        return curve(path.parent)
    raw = path.read_bytes()
    if path.name == "metadata.txt":
        return [line for line in raw.splitlines() if not line.startswith(b"created:")]
    return raw[-8:-4] if path.suffix == ".png" else raw  # its last chunk; a plot may show a speed


def unfinished(path: Path, out: Path) -> bool:
    return any(OF_A_FAILED_COMMAND.fullmatch(part) for part in path.relative_to(out).parts)


def problems(disk: Disk, ended: Ended, before: dict, whole: dict, error: int) -> Iterator[str]:
    """Yield what is wrong after a command that met a fault; `before` has the contents before it,
    `whole` those after one that met none."""
    unsaved = re.findall(r"step (\d+) is not saved \((.*)\)", ended.out)
    found = contents(disk.out)
    missing, log = whole.keys() - found.keys(), {"metrics.jsonl"}
    if ended.code == 2:
        if not re.fullmatch(r"error: .+; .+\n", ended.err):
            yield f"not one line: {ended.err}"
        elif os.strerror(error) not in ended.err or str(disk.folder) not in ended.err:
            yield f"neither the error nor a file is named: {ended.err}"
    elif ended.code or ended.err:
        yield f"code {ended.code}: {ended.err}"
    elif missing - {f"checkpoint_step{step}.pt" for step, _ in unsaved} - {"curves.png"}:
        yield f"code 0 without {sorted(missing)}"
    if nameless := [reason for _, reason in unsaved if os.strerror(error) not in reason or str(disk.folder) not in reason]:
        yield f"neither the error nor a file is named: {nameless}"
    if false := [path for path in re.findall(r"(?m)^saved (.*)", ended.out) if Path(path).name not in found]:
        yield f"not saved: {false}"
    if wrong := [name for name in found.keys() - log if all(list(differences(found[name], files.get(name))) for files in (before, whole))]:
        yield f"partial or wrong: {wrong}"


def points(calls: int, sample: int) -> Iterator[tuple[int, int, bool]]:
    """Yield which call fails, with which error, and whether all later ones do."""
    if os.environ.get("IO_FAULTS") == "all":
        every = [(number, later) for number in range(1, calls + 1) for later in (False, True)]
    else:
        every = [(1 + i * calls // sample, bool(i % 2)) for i in range(sample)]
    for i, (number, later) in enumerate(every):
        yield number, ERRORS[(i + i // len(ERRORS)) % len(ERRORS)], later


@pytest.mark.parametrize("kind", [CHANGES, READS], ids=["changes", "reads"])
@pytest.mark.parametrize("name", COMMANDS)
def test_command_survives_a_failing_disk(disk, name, kind):
    disk.prepare(name)
    before = contents(disk.out)
    undisturbed, found = disk.run(COMMANDS[name], kind=kind), []
    assert (undisturbed.code, undisturbed.err) == (0, "")
    whole = contents(disk.out)
    for number, error, later in points(undisturbed.calls, SAMPLE[kind] // (2 if name in SLOW else 1)):
        disk.prepare(name)
        ended = disk.run(COMMANDS[name], number, error, later, kind)
        wrong = list(problems(disk, ended, before, whole, error))
        again = disk.run(COMMANDS[name])
        if again.code or again.err:
            wrong.append(f"again: code {again.code}, {again.err}")
        repeated = contents(disk.out)
        lost = {f"checkpoint_step{step}.pt" for step in re.findall(r"step (\d+) is not saved", ended.out)} - repeated.keys()
        if changed := list(differences(repeated, {name: content for name, content in whole.items() if name not in lost})):
            wrong.append(f"again: other files: {changed}")
        if left := [path.name for path in disk.out.rglob("*") if unfinished(path, disk.out)]:
            wrong.append(f"again: left {left}")
        found += [f"call {number} of {undisturbed.calls} ({ended.failed}), {errno.errorcode[error]}{', for good' * later}: {line}" for line in wrong]
    assert not found, "\n".join(found)
