"""Shared fixtures and helpers: put the repo's root on the path, limit the threads, prepare one
small tokenized corpus and one small run for all tests.

No test compares wall-clock times: a test patches the clock or waits for an event. pytest-timeout
(`timeout` in pyproject.toml) ends a test that would hang, and the processes that a test starts end
with it.
"""

import contextlib
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "support")]
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # a spinning thread takes the core from the one it waits for
# a shell ignores SIGINT in its background jobs, and nohup SIGHUP; the tests of these signals would
# hang
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

import forked
from short_ends import shorten_ends

PATIENCE = 500  # seconds to wait for what takes a few on an idle machine; below the test's timeout, so that the message says what was missing

# a model that trains in seconds, with short intervals
SMALL = [
    "--config", "tiny", "--n_layer", "2", "--n_head", "2", "--n_kv_head", "1", "--n_embd", "32", "--window_pattern", "SSSL", "--sequence_len", "32",
    "--batch_size", "4",
    "--gradient_accumulation_steps", "2", "--total_tokens", str(32 * 8 * 12), "--eval_tokens", "640", "--log_interval", "4", "--eval_interval", "8",
    "--inference_interval", "0", "--checkpoint_interval", "10", "--warmup_steps", "4", "--device", "cpu", "--no_compile",
]  # fmt: skip


def arguments(data_dir, folder, *flags) -> list[str]:
    """Return the flags of train.py for a run of the small model."""
    return [*SMALL, "--data_dir", str(data_dir), "--checkpoint_dir", str(folder), *map(str, flags)]


def start(data_dir, folder, *flags) -> int:
    """Run train.py with the small model in this process. Returns the exit code."""
    import train

    return train.main(arguments(data_dir, folder, *flags))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Return the number of workers for `--numprocesses auto`: 1 where there is a GPU, because the
    GPU tests measure its memory."""
    return 1 if shutil.which("nvidia-smi") else min(4, os.cpu_count() or 1)


# started first, so that no worker runs one of them alone at the end
SLOWEST = (
    "test_distributed",
    "test_stop",
    "test_faults",
    "test_io_faults",
    "test_download",
    "test_readme",
    "test_train",
    "test_loop",
    "test_retry",
    "test_gpu",
    "test_learning",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files of SLOWEST first."""
    items.sort(key=lambda item: SLOWEST.index(item.path.stem) if item.path.stem in SLOWEST else len(SLOWEST))


@pytest.fixture(autouse=True)
def short_ends(request) -> Iterator[None]:
    """Shorten the runs that a test makes in this process, unless it is marked `whole_run`. Runs in
    other processes and those of session and module fixtures stay whole."""
    with pytest.MonkeyPatch.context() as patch:
        if "nano_hindi.training.loop" in sys.modules and not request.node.get_closest_marker("whole_run"):
            shorten_ends(patch.setattr)
        yield


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory) -> Path:
    """Return a folder as data/preprocess.py writes it: a few thousand tokens and a stand-in
    tokenizer."""
    import standin

    return standin.make_data(tmp_path_factory.mktemp("data"), standin.documents(400))


@pytest.fixture(scope="session")
def tokenizer_dir(tmp_path_factory) -> Path:
    """Return the folder of a stand-in tokenizer."""
    import standin

    return standin.make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def damaged_between_samples(folder: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy a data folder to `target`, with digests and one wrong token in train.bin, where a start,
    which reads a sample, does not look."""
    from nano_hindi import token_file
    from nano_hindi.corpus.prepared import write_digests
    from nano_hindi.files import read_metadata, write_metadata

    monkeypatch.setattr(token_file, "DIGEST_CHUNK_BYTES", 400)
    monkeypatch.setattr(token_file, "SAMPLED_CHUNKS", 2)  # the first and the last
    shutil.copytree(folder, target)
    write_metadata(target / "preprocess_meta.txt", read_metadata(target / "preprocess_meta.txt") | write_digests(target, 512))
    with open(target / "train.bin", "r+b") as file:
        file.seek(4444)
        file.write(bytes(4))
    return target


@pytest.fixture(scope="module")
def modules_cache(tmp_path_factory) -> Iterator[None]:
    """Keep transformers' copies of trusted code out of the user's home, which all workers share."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path_factory.mktemp("modules")))
        yield


@pytest.fixture(scope="session")
def straight(data_dir, tmp_path_factory) -> Path:
    """Return the folder of a small run that was never interrupted."""
    folder = tmp_path_factory.mktemp("runs") / "straight"
    assert start(data_dir, folder) == 0
    return folder


# a conjunct with a matra, a keycap and a letter, mostly single-byte tokens
SPELLED = ["▁", "क", "्", "ष", "ि", "1", *(f"<0x{byte}>" for byte in ["EF", "B8", "8F", "E2", "83", "A3", "E0", "A5", "90"])]


def spelled(n: int) -> str:
    """Return the text of the first `n` tokens that the model of `spelling` writes: ` क्षि1️⃣ॐ`
    repeated."""
    pieces = [bytes([int(piece[3:5], 16)]) if piece.startswith("<0x") else piece.replace("▁", " ").encode() for piece in SPELLED]
    return b"".join(itertools.islice(itertools.cycle(pieces), n)).decode(errors="replace")


@pytest.fixture(scope="session")
def spelling(straight, tmp_path_factory) -> Path:
    """Return a folder with a hand-made model: after any prompt it repeats the tokens of SPELLED,
    and after अ it writes eos."""
    import torch

    from nano_hindi.inference.loading import load_for_inference

    folder = tmp_path_factory.mktemp("spelling")
    shutil.copytree(straight / "tokenizer", folder / "tokenizer")
    tokenizer = load_for_inference(straight).tokenizer
    state = torch.load(straight / "model.pt", weights_only=True)
    weights, width = state["model_state_dict"], state["model_config"]["n_embd"]
    for name, weight in weights.items():
        if name.endswith("c_proj.weight"):
            weight.zero_()  # every block is the identity: the next token depends only on the last one
    ids = [tokenizer._ids[piece] for piece in SPELLED]
    channel = torch.full((len(weights["lm_head.weight"]),), width - 1)
    channel[ids] = torch.arange(len(ids))
    channel[tokenizer.encode_prompt("अ")[-1]] = width - 2
    weights["transformer.wte.weight"].copy_(torch.nn.functional.one_hot(channel, width))
    head = weights["lm_head.weight"].zero_()
    head[ids[1:] + ids[:1], torch.arange(len(ids))] = 1000
    head[ids[0], width - 1] = head[tokenizer.eos_id, width - 2] = 1000
    torch.save(state, folder / "model.pt")
    return folder


@contextlib.contextmanager
def launched(argv, *, fork: bool | None = None, **options) -> Iterator[subprocess.Popen]:
    """Start a process in a session of its own, in the repo's root unless `options` (those of Popen)
    say otherwise. Everything in the session ends with the block.

    With `fork`, PyTorch is imported already (support/forked.py). The default: with a script or a
    module, but not with `python -c`, whose programs may test what is imported.
    """
    argv = [str(word) for word in argv]
    fork = argv[1] != "-c" if fork is None else fork
    options = {"cwd": ROOT, "start_new_session": True, **options}
    if options.keys() & {"stdout", "stderr"}:
        options.setdefault("encoding", "utf-8")
    process = (forked.Process if fork and forked.can_fork(argv, options) else subprocess.Popen)(argv, **options)
    try:
        yield process
    finally:
        end(process)


def end(process: subprocess.Popen) -> None:
    """End a process that leads a session, and the whole session. torchrun gets time to end its
    workers, each of which has a session of its own."""
    try:
        if process.poll() is None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(60)  # torchrun gives them 30
    finally:  # the test's timeout may interrupt the wait
        if os.name != "nt":
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.wait()


def run_command(argv, *, input: str | None = None, timeout: float = PATIENCE, **options) -> subprocess.CompletedProcess:
    """Run a `launched` process like `subprocess.run` with captured text."""
    pipes = {"stdin": subprocess.PIPE if input else subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with launched(argv, **pipes, **options) as process:
        try:
            out, err = process.communicate(input, timeout)
        except subprocess.TimeoutExpired as error:
            print(f"{error}\n{error.output}\n{error.stderr}")
            raise
    return subprocess.CompletedProcess(argv, process.returncode, out, err)


def run_script(*argv, timeout: float = PATIENCE, **env) -> subprocess.CompletedProcess:
    """Run `python SCRIPT ARGUMENTS...` from the repo's root in a process."""
    return run_command([sys.executable, *argv], timeout=timeout, env={**os.environ, "OMP_NUM_THREADS": "1", **env})


def on_terminal(*argv, **env: str) -> str:
    """Return what `python ARGV` writes to a pseudo-terminal that is its stdin, stdout and
    stderr."""
    import pty

    from nano_hindi.console import NOTEBOOKS

    ours, theirs = pty.openpty()
    chunks = []
    environment = {name: value for name, value in os.environ.items() if name not in NOTEBOOKS} | {"OMP_NUM_THREADS": "1", **env}
    with launched([sys.executable, *argv], stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        with contextlib.suppress(OSError):  # the other end is closed
            while chunk := os.read(ours, 65536):
                chunks.append(chunk)
        os.close(ours)
        assert process.wait(PATIENCE) == 0, b"".join(chunks)
    return b"".join(chunks).decode().replace("\r\n", "\n")


@contextlib.contextmanager
def as_nobody(*folders: Path) -> Iterator[None]:
    """Make root a user that permissions apply to. The folders above `folders`, which pytest makes
    accessible to their owner only, can be entered by all."""
    is_root = os.name != "nt" and os.geteuid() == 0
    for path in {path for folder in folders for path in (folder, *folder.parents) if is_root}:
        if path.stat().st_mode & 0o011 != 0o011:
            path.chmod(path.stat().st_mode | 0o011)
    if is_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Poll `condition`. Raises AssertionError with `what` if it stays false."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {PATIENCE} seconds"
        time.sleep(0.02)


def starts_inside(text: str) -> bool:
    """Return whether a text begins with a code point that only continues a character: a mark, a
    joiner, a skin tone, a tag."""
    return text[0] in "\u200c\u200d🏻🏼🏽🏾🏿" or unicodedata.category(text[0])[0] == "M" or "\U000e0020" <= text[0] <= "\U000e007f"


def assert_parted_between_characters(pieces) -> None:
    """Check that no piece but the first begins inside a character, unless it follows a control
    character, which nothing joins, and that none begins with the second consonant of a conjunct."""
    for before, after in itertools.pairwise([piece for piece in pieces if piece]):
        assert not starts_inside(after) or unicodedata.category(before[-1]) in ("Cc", "Zl", "Zp") or before[-1] == "\u200b", pieces
        assert not ("क" <= after[0] <= "ह" and re.search("[क-ह]़?्\u200d?$", before)), pieces
