"""Folders whose names are not UTF-8, or not what the system's encoding says: everything works there
as anywhere else."""

import gzip
import json
import os
import shutil
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import torch

import generate
import standin
import train
from conftest import SMALL, run_script
from data import download, preprocess
from nano_hindi.evaluation import command as evaluation
from nano_hindi.export import command as export
from nano_hindi.files import read_metadata
from nano_hindi.inference.loading import load_for_inference


@pytest.fixture
def odd(tmp_path) -> Path:
    """Return a folder whose name is the bytes ff e9."""
    try:
        folder = tmp_path / os.fsdecode(b"\xff\xe9")
        folder.mkdir()
    except (OSError, UnicodeError):
        pytest.skip("file names are always Unicode here")
    return folder


def everything(folder: Path) -> None:
    """Make a corpus, data, a model and an export in `folder`, with a resumed run."""
    texts = standin.documents(400)
    (folder / "a.txt").write_text("\n<|endoftext|>\n".join(texts[:200]), encoding="utf-8")
    with open(folder / "b.parquet", "wb") as file:
        pyarrow.parquet.write_table(pyarrow.table({"text": texts[200:]}), file)
    raw, data, run = folder / "raw", folder / "data", folder / "run"
    tokenizer = ["--tokenizer", standin.make_tokenizer(folder / "tokenizer", vocab_size=512)]
    downloading = ["--source", folder / "a.txt", folder / "b.parquet", "--output_dir", raw, *tokenizer]
    tokenizing = ["--input", raw / "hindi_corpus.txt", "--output_dir", data, "--val_fraction", "0.1", *tokenizer]
    training = [*SMALL, "--data_dir", data, "--checkpoint_dir", run]
    commands = [
        (download.main, downloading),
        (download.main, downloading),  # the same command again finds its own file names in the metadata
        (preprocess.main, tokenizing),
        (preprocess.main, tokenizing),
        (train.main, [*training, "--total_tokens", 1024]),
        (train.main, [*training, "--total_tokens", 2048, "--resume", "auto"]),
        (train.main, [*training, "--total_tokens", 2048, "--resume", run / "checkpoint_step16.pt"]),
        (generate.main, ["--checkpoint", run, "--prompt", "राम", "--max_tokens", 3, "--device", "cpu"]),
        (evaluation.main, ["--checkpoint", run, "--data_dir", data, "--json", folder / "figures.json", "--device", "cpu"]),
        (export.main, ["--checkpoint", run, "--data_dir", data, "--output_dir", folder / "model"]),
        (evaluation.main, ["--hf", folder / "model", "--trust_remote_code", "--text", folder / "a.txt", "--device", "cpu"]),
    ]
    for main, argv in commands:
        assert main(list(map(str, argv))) == 0, argv


@pytest.mark.slow
def test_folder_that_is_not_utf8_gives_the_same_model(odd, modules_cache, tmp_path, capsys):
    plain = tmp_path / "plain"
    plain.mkdir()
    for folder in (odd, plain):
        everything(folder)
    ours, theirs = (load_for_inference(folder / "run").state_dict for folder in (odd, plain))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    assert "\\xff\\xe9" in capsys.readouterr().out
    files = [sorted(path.relative_to(folder) for path in folder.rglob("*")) for folder in (odd, plain)]
    assert files[0] == files[1]


def test_errors_name_such_a_folder(odd, capsys):
    assert generate.main(["--checkpoint", str(odd / "none")]) == 2
    assert train.main([*SMALL, "--data_dir", str(odd), "--checkpoint_dir", str(odd / "run")]) == 2
    (odd / "model.pt").write_bytes(b"x")
    assert export.main(["--checkpoint", str(odd), "--output_dir", str(odd / "model")]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 3
    assert all("\\xff\\xe9" in line for line in errors)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="needs the locales of POSIX")
@pytest.mark.parametrize("utf8_mode", ["0", "1"])
def test_devanagari_names_work_in_the_c_locale(straight, tmp_path, utf8_mode):
    shutil.copytree(straight, tmp_path / "हिन्दी")
    environment = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": utf8_mode}
    done = run_script("generate.py", "--checkpoint", tmp_path / "हिन्दी", "--prompt", "", "--max_tokens", 3, "--device", "cpu", **environment)
    assert (done.returncode, done.stderr) == (0, "")


NAMES = [
    b"\xff.txt",
    b"a\nb.txt",
    b"a: b.txt",
    b" ",
    b" x .txt",
    b"-x.txt",
    b"--input.txt",
    "\u2028.txt".encode(),
    b"x\r\n.txt",
    b"a\nb.txt.gz",
    b"\xff.jsonl.gz",
]


@pytest.mark.parametrize("name", NAMES)
def test_file_of_any_name_is_read_or_refused_in_one_line(name, straight, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    raw = "\n<|endoftext|>\n".join(standin.documents(60)).encode()
    if b".jsonl" in name:
        raw = b"".join(json.dumps({"text": text}).encode() + b"\n" for text in standin.documents(60))
    try:
        file = os.fsdecode(name)
        Path(file).write_bytes(gzip.compress(raw) if name.endswith(b".gz") else raw)
    except (OSError, UnicodeError):
        pytest.skip("there are no such names here")
    tokenizer = str(standin.make_tokenizer("tokenizer"))
    for main, flag, *argv in (
        (preprocess.main, "--input", "--output_dir", "data", "--tokenizer", tokenizer, "--val_fraction", "0.2", "--workers", "1"),
        (download.main, "--source", "--output_dir", "raw", "--tokenizer", tokenizer),
        (evaluation.main, "--text", "--checkpoint", str(straight), "--max_bytes", "2000", "--device", "cpu"),
    ):
        codes = [main([f"{flag}={file}", *argv]) for _ in range(2)]
        shown = capsys.readouterr()
        if name == b" ":
            assert codes == [2, 2]
            assert shown.err.count("\n") == 2
            assert "documents are read from" in shown.err
        else:
            assert codes == [0, 0], shown.err
            assert main is evaluation.main or shown.out.count("already") == 1  # the same command finds its own file in the metadata
    if name != b" ":
        assert read_metadata("data/preprocess_meta.txt")["val_fraction"] == "0.2"
        assert read_metadata("raw/metadata.txt")["documents"] == "60"
