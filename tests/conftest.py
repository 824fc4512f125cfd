"""Tests run from a checkout: the repo's root goes on the path, threads stay few, and one small
tokenized corpus serves all who train.

No test compares times: a clock belongs to the test, or an event says that something has come. What
would wait for ever is ended by the limit that pyproject.toml gives every test (pytest-timeout), and
the processes that a test starts end with it.
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
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # a thread that spins takes the core from the one that it waits for
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # so a shell starts what runs in the background; the tests of Ctrl-C would wait for ever
    signal.signal(signal.SIGINT, signal.default_int_handler)

PATIENCE = 500  # seconds that a test waits for what takes a few on a quiet machine; less than its own limit, so that it can say what did not come

# a model that trains in seconds; every flag a test might care about is small
SMALL = [
    "--config", "tiny", "--n_layer", "2", "--n_head", "2", "--n_kv_head", "1", "--n_embd", "32", "--sequence_len", "32", "--batch_size", "4",
    "--gradient_accumulation_steps", "2", "--total_tokens", str(32 * 8 * 12), "--eval_tokens", "640", "--log_interval", "4", "--eval_interval", "8",
    "--inference_interval", "0", "--checkpoint_interval", "10", "--warmup_steps", "4", "--device", "cpu", "--no_compile",
]  # fmt: skip


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """How many files of tests run at once with `--numprocesses auto`: one where there is a GPU,
    whose checks measure its memory."""
    return 1 if shutil.which("nvidia-smi") else min(4, os.cpu_count() or 1)


# begun first, so that no process is left alone with one of them at the end
SLOWEST = ("test_faults", "test_distributed", "test_readme", "test_train", "test_learning", "test_loop", "test_download", "test_gpu")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files of SLOWEST first."""
    items.sort(key=lambda item: SLOWEST.index(item.path.stem) if item.path.stem in SLOWEST else len(SLOWEST))


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory) -> Path:
    """A folder as data/preprocess.py leaves it: a few thousand tokens and a stand-in tokenizer."""
    import standin
    from data import preprocess
    from nano_hindi.corpus.documents import write_document

    folder = tmp_path_factory.mktemp("data")
    standin.make_tokenizer(folder / "standin", vocab_size=512)
    with open(folder / "corpus.txt", "wb") as file:
        for text in standin.documents(400):
            write_document(file, text)
    code = preprocess.main(
        ["--input", str(folder / "corpus.txt"), "--output_dir", str(folder), "--tokenizer", str(folder / "standin"), "--val_fraction", "0.1"]
    )
    assert code == 0
    return folder


@pytest.fixture(scope="session")
def straight(data_dir, tmp_path_factory) -> Path:
    """The folder of a small run that nothing disturbed."""
    import train

    folder = tmp_path_factory.mktemp("runs") / "straight"
    assert train.main([*SMALL, "--data_dir", str(data_dir), "--checkpoint_dir", str(folder)]) == 0
    return folder


# a conjunct with a matra, a keycap and a letter, most of it in single bytes
SPELLED = ["▁", "क", "्", "ष", "ि", "1", *(f"<0x{byte}>" for byte in ["EF", "B8", "8F", "E2", "83", "A3", "E0", "A5", "90"])]


def spelled(n: int) -> str:
    """The text of the first `n` tokens that the model of `spelling` writes: ` क्षि1️⃣ॐ` over and
    over."""
    pieces = [bytes([int(piece[3:5], 16)]) if piece.startswith("<0x") else piece.replace("▁", " ").encode() for piece in SPELLED]
    return b"".join(itertools.islice(itertools.cycle(pieces), n)).decode(errors="replace")


@pytest.fixture(scope="session")
def spelling(straight, tmp_path_factory) -> Path:
    """A folder with a model made by hand: behind any prompt it writes the tokens of SPELLED, over
    and over, and behind अ it writes eos."""
    import torch

    from nano_hindi.inference.loading import load_for_inference

    folder = tmp_path_factory.mktemp("spelling")
    shutil.copytree(straight / "tokenizer", folder / "tokenizer")
    tokenizer = load_for_inference(straight).tokenizer
    state = torch.load(straight / "model.pt", weights_only=True)
    weights, width = state["model_state_dict"], state["model_config"]["n_embd"]
    for name, weight in weights.items():
        if name.endswith("c_proj.weight"):
            weight.zero_()  # every block is the identity: the next token depends on the last one alone
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
def launched(argv, **options) -> Iterator[subprocess.Popen]:
    """Start a process in a session of its own, in the repo's root unless `options` (those of Popen)
    say otherwise; nothing of it outlives the block."""
    options = {"cwd": ROOT, "start_new_session": True, **options}
    if options.keys() & {"stdout", "stderr"}:
        options.setdefault("encoding", "utf-8")
    process = subprocess.Popen([str(word) for word in argv], **options)
    try:
        yield process
    finally:
        end(process)


def end(process: subprocess.Popen) -> None:
    """End a process that leads its session, and all of the session. torchrun gets the time to end
    its workers: each is a session of its own."""
    try:
        if process.poll() is None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(60)  # torchrun gives them 30
    finally:  # the limit of the test may end it here
        if os.name != "nt":
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.wait()


def run_command(argv, *, input: str | None = None, timeout: float = PATIENCE, **options) -> subprocess.CompletedProcess:
    """`subprocess.run` with text that is captured, in a `launched` process."""
    pipes = {"stdin": subprocess.PIPE if input else subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with launched(argv, **pipes, **options) as process:
        try:
            out, err = process.communicate(input, timeout)
        except subprocess.TimeoutExpired as error:
            print(f"{error}\n{error.output}\n{error.stderr}")
            raise
    return subprocess.CompletedProcess(argv, process.returncode, out, err)


def run_script(*argv, timeout: float = PATIENCE, **env) -> subprocess.CompletedProcess:
    """A real command: `python SCRIPT ARGUMENTS...` from the repo's root."""
    return run_command([sys.executable, *argv], timeout=timeout, env={**os.environ, "OMP_NUM_THREADS": "1", **env})


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Poll `condition`. Raises AssertionError with `what` if it stays false."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come in {PATIENCE} seconds"
        time.sleep(0.02)


def starts_inside(text: str) -> bool:
    """Whether a text begins with what only continues a character: a mark, a joiner, a skin tone, a
    tag."""
    return text[0] in "\u200c\u200d🏻🏼🏽🏾🏿" or unicodedata.category(text[0])[0] == "M" or "\U000e0020" <= text[0] <= "\U000e007f"


def assert_parted_between_characters(pieces) -> None:
    """No piece but the first begins inside of a character, unless it follows a control character,
    which nothing joins; and none begins with the second consonant of a conjunct."""
    for before, after in itertools.pairwise([piece for piece in pieces if piece]):
        assert not starts_inside(after) or unicodedata.category(before[-1]) in ("Cc", "Zl", "Zp") or before[-1] == "\u200b", pieces
        assert not ("क" <= after[0] <= "ह" and re.search("[क-ह]़?्\u200d?$", before)), pieces
