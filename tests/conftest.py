"""Tests run from a checkout: the repo's root goes on the path, threads stay few, and one small tokenized corpus serves all who train."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "tests"))
os.environ.setdefault("OMP_NUM_THREADS", "2")

# a model that trains in seconds; every flag a test might care about is small
SMALL = [
    "--config", "tiny", "--n_layer", "2", "--n_head", "2", "--n_kv_head", "1", "--n_embd", "32", "--sequence_len", "32", "--batch_size", "4",
    "--gradient_accumulation_steps", "2", "--total_tokens", str(32 * 8 * 12), "--eval_tokens", "640", "--log_interval", "4", "--eval_interval", "8",
    "--inference_interval", "0", "--checkpoint_interval", "10", "--warmup_steps", "4", "--device", "cpu", "--no_compile",
]  # fmt: skip


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory) -> Path:
    """A folder as data/preprocess.py leaves it: a few thousand tokens and a stand-in tokenizer."""
    import standin
    from data import preprocess
    from nano_hindi.corpus import write_document

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


def run_script(*argv, timeout: float = 300, **env) -> subprocess.CompletedProcess:
    """A real command: `python SCRIPT ARGUMENTS...` from the repo's root."""
    return subprocess.run(
        [sys.executable, *map(str, argv)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=timeout,
        env={**os.environ, "OMP_NUM_THREADS": "1", **env},
    )
