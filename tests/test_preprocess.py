"""data/preprocess.py: decoding the token files gives exactly the documents, the split is a function
of the text, and no partial folder looks finished."""

import contextlib
import errno
import gzip
import hashlib
import json
import multiprocessing
import multiprocessing.resource_tracker
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unicodedata
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import standin
from conftest import ROOT, run_script, wait_until
from data import preprocess
from nano_hindi import locks, token_file
from nano_hindi.corpus import shards, tokenize
from nano_hindi.corpus.documents import chunks
from nano_hindi.corpus.prepared import check_data
from nano_hindi.corpus.report import report_files
from nano_hindi.errors import UserError
from nano_hindi.files import read_metadata, replacing
from nano_hindi.tokenizer import Tokenizer, load_tokenizer
from standin import write_corpus

HARD_TEXTS = [
    *("👍🏽 👩‍🌾 🇮🇳", "क्‍या शक्‌ति", "ख़ुशी ज़रूरत बड़ा पढ़ना", "१२३ 1,234.5", "\ta\tb", "  two  spaces  ", "एक\n\n\nदो\n", "\r\nwindows\r\n", "\ufeffBOM"),
    *("</s>", "<s>राम</s> <unk> <pad>", "<|endoftext|>", "a\n<|endoftext|>\nb", "\\<|endoftext|>", "<0x41> <0x0A>", "\x00\x01", "中文 عربى é e\u0301"),
]  # fmt: skip


def nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def run(out: Path, corpus: Path, tokenizer: Path, *argv) -> int:
    return preprocess.main(["--input", str(corpus), "--output_dir", str(out), "--tokenizer", str(tokenizer), *map(str, argv)])


def documents_of(path: Path, tokenizer: Tokenizer) -> list[str]:
    """Return the texts of a token file: split at each bos, and checked to end with eos where that
    is another token."""
    tokens = np.memmap(path, dtype="<u4", mode="r")
    begins = np.flatnonzero(tokens == tokenizer.bos_id)
    texts = []
    for begin, end in zip(begins, [*begins[1:], len(tokens)], strict=True):
        ids = tokens[begin:end].tolist()
        if tokenizer.eos_id != tokenizer.bos_id:
            assert ids[-1] == tokenizer.eos_id
            assert ids.count(tokenizer.eos_id) == 1
        texts.append(tokenizer.decode(ids))
    return texts


def belongs_to_validation(text: str, fraction: float) -> bool:
    """Return whether a text is for validation, by a second implementation of the rule."""
    return int(hashlib.blake2b(text.encode("utf-8")).hexdigest()[:16], 16) / 2**64 < fraction


@pytest.mark.parametrize("kind", ["bpe", "byte_level"])
def test_decoding_the_token_files_gives_exactly_the_documents(tmp_path, kind, monkeypatch):
    """Without blank ones; nothing counts as lost, also not the space mark, which becomes a
    space."""
    folder = standin.make_tokenizer(tmp_path / "standin", kind=kind)
    texts = HARD_TEXTS + standin.documents(300) + HARD_TEXTS  # the second time in other batches
    monkeypatch.setattr(tokenize, "ENCODED_AT_ONCE", 2000)
    corpus = write_corpus(tmp_path / "c.txt", [written for text in [*texts, "a▁b"] for written in (text, "", " \n ")])
    assert run(tmp_path / "data", corpus, folder, "--val_fraction", 0.3) == 0
    tokenizer, metadata = load_tokenizer(folder), read_metadata(tmp_path / "data" / "preprocess_meta.txt")
    assert (metadata["lost_characters"], metadata["lossy_documents"]) == ("0", "0")
    texts.append("a b" if kind == "bpe" else "a▁b")
    assert belongs_to_validation("a▁b", 0.3) == belongs_to_validation("a b", 0.3)
    assert documents_of(tmp_path / "data" / "train.bin", tokenizer) == [text for text in map(nfc, texts) if not belongs_to_validation(text, 0.3)]
    assert documents_of(tmp_path / "data" / "val.bin", tokenizer) == [text for text in map(nfc, texts) if belongs_to_validation(text, 0.3)]


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_documents_with_line_ends_of_windows_are_counted_in_a_notice(tmp_path, tokenizer_dir, capsys, line_end):
    texts = [*standin.documents(50), "एक\nदो", "तीन\nचार\nपाँच"]
    expected = [str(sum("\n" in text for text in texts))] if line_end == "\r\n" else []
    corpus = tmp_path / "c.txt"
    corpus.write_bytes("\n<|endoftext|>\n".join(texts).replace("\n", line_end).encode())
    assert run(tmp_path / "data", corpus, tokenizer_dir, "--val_fraction", 0.2) == 0
    notices = [line for line in capsys.readouterr().out.splitlines() if line.startswith("notice:") and "Windows" in line]
    assert [line.split()[1] for line in notices] == expected


def test_files_are_little_endian_uint32_and_the_metadata_matches_them(tmp_path, tokenizer_dir, capsys):
    texts = standin.documents(400)
    out = tmp_path / "data"
    assert run(out, write_corpus(tmp_path / "c.txt", texts), tokenizer_dir, "--val_fraction", 0.1) == 0
    assert sorted(p.name for p in out.iterdir()) == ["preprocess_digests.txt", "preprocess_meta.txt", "tokenizer", "train.bin", "val.bin"]
    tokenizer, metadata, info = load_tokenizer(tokenizer_dir), read_metadata(out / "preprocess_meta.txt"), check_data(out)
    val = [text for text in map(nfc, texts) if belongs_to_validation(text, 0.1)]
    train = [text for text in map(nfc, texts) if not belongs_to_validation(text, 0.1)]
    lengths = {text: len(ids) for text, ids in zip(texts, tokenizer.encode_batch(texts), strict=True)}
    for name, part in (("train", train), ("val", val)):
        assert metadata[f"{name}_documents"] == str(len(part))
        assert metadata[f"{name}_tokens"] == str(sum(lengths[text] + 2 for text in part))
        assert metadata[f"{name}_bytes"] == str(sum(len(text.encode()) for text in part))
        ids = np.concatenate([[tokenizer.bos_id, *tokenizer.encode_batch([text])[0], tokenizer.eos_id] for text in part])
        assert (out / f"{name}.bin").read_bytes() == b"".join(int(i).to_bytes(4, "little") for i in ids)
    text_tokens = sum(lengths[text] for text in texts)
    fertility = text_tokens / sum(len(text.split()) for text in texts)
    assert float(metadata["fertility"]) == pytest.approx(fertility, abs=1e-4)
    assert float(metadata["bytes_per_token"]) == pytest.approx(sum(len(text.encode()) for text in texts) / text_tokens, abs=1e-4)
    assert (info.vocab_size, info.bos_id, info.eos_id) == (tokenizer.vocab_size, tokenizer.bos_id, tokenizer.eos_id)
    assert info.fingerprint == tokenizer.fingerprint == load_tokenizer(out / "tokenizer").fingerprint
    output = capsys.readouterr().out
    assert f"{fertility:.3f} tokens per word" in output
    assert f"{len(train):,} documents, {info.train_tokens:,} tokens" in output
    assert f"{len(val):,} documents, {info.val_tokens:,} tokens" in output


def test_interrupted_run_keeps_the_old_data(tmp_path, tokenizer_dir, monkeypatch, capsys):
    out = tmp_path / "data"
    assert run(out, write_corpus(tmp_path / "c.txt", standin.documents(100)), tokenizer_dir, "--val_fraction", 0.1) == 0
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    capsys.readouterr()
    for error, code in ((KeyboardInterrupt(), 130), (OSError(28, "No space left on device"), 2), (UserError("no"), 2)):
        with monkeypatch.context() as patch:

            def fails(*args, error=error):
                raise error

            patch.setattr(tokenize, "is_for_validation", fails)
            assert run(out, write_corpus(tmp_path / "d.txt", standin.documents(50, seed=3)), tokenizer_dir, "--val_fraction", 0.1) == code
        assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before
    check_data(out)


def test_half_replaced_folder_does_not_count_as_finished(tmp_path, tokenizer_dir, monkeypatch):
    out = tmp_path / "data"
    assert run(out, write_corpus(tmp_path / "c.txt", standin.documents(100)), tokenizer_dir, "--val_fraction", 0.1) == 0

    def power_cut(self, folder):
        raise KeyboardInterrupt

    argv = (write_corpus(tmp_path / "d.txt", standin.documents(50, seed=3)), tokenizer_dir, "--val_fraction", 0.1)
    with monkeypatch.context() as patch:
        patch.setattr(Tokenizer, "save", power_cut)
        assert run(out, *argv) == 130
    with pytest.raises(UserError, match=r"preprocess_meta\.txt is missing"):
        check_data(out)
    assert run(out, *argv) == run(tmp_path / "straight", *argv) == 0
    assert contents(out) == contents(tmp_path / "straight")


def test_short_validation_split_gives_a_notice(tmp_path, tokenizer_dir, capsys):
    corpus = write_corpus(tmp_path / "c.txt", standin.documents(200))
    assert run(tmp_path / "data", corpus, tokenizer_dir, "--val_fraction", 0.02) == 0
    assert "give a larger --val_fraction" in capsys.readouterr().out
    assert run(tmp_path / "data", corpus, tokenizer_dir, "--val_fraction", 0.5) == 0
    assert "notice" not in capsys.readouterr().out


def test_tokenizer_in_the_output_folder_is_not_changed(tmp_path):
    folder = standin.make_tokenizer(tmp_path / "data" / "tokenizer")
    before = {p: p.read_bytes() for p in folder.iterdir()}
    assert run(tmp_path / "data", write_corpus(tmp_path / "c.txt", standin.documents(100)), folder, "--val_fraction", 0.1) == 0
    assert {p: p.read_bytes() for p in folder.iterdir()} == before
    check_data(tmp_path / "data")


# ---- stops, workers, several inputs


def small_chunks(monkeypatch, size: int = 3000) -> None:
    monkeypatch.setattr(preprocess, "chunks", lambda path: chunks(path, size))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_more_workers_than_windows_can_wait_for_are_not_started(tmp_path, tokenizer_dir, monkeypatch):
    """ProcessPoolExecutor raises ValueError for more than 61 there."""
    small_chunks(monkeypatch)
    started = []

    def pool(workers, *_):
        started.append(workers)
        raise KeyboardInterrupt

    monkeypatch.setattr(tokenize, "ProcessPoolExecutor", pool)
    monkeypatch.setattr(tokenize, "MOST_WORKERS", 2)
    corpus = write_corpus(tmp_path / "c.txt", standin.documents(300))
    assert run(tmp_path / "out", corpus, tokenizer_dir, "--val_fraction", 0.2, "--workers", 62) == 130
    assert started == [2]


def test_files_are_the_same_for_any_number_of_workers(tmp_path, tokenizer_dir, monkeypatch):
    small_chunks(monkeypatch)
    texts = [*HARD_TEXTS, *standin.documents(300), "राम " * 1500]  # the last one is longer than a chunk: no document begins in the next
    corpus = write_corpus(tmp_path / "c.txt", texts)
    for workers in (1, 3):
        assert run(tmp_path / str(workers), corpus, tokenizer_dir, "--val_fraction", 0.2, "--workers", workers) == 0
    assert contents(tmp_path / "1") == contents(tmp_path / "3")
    tokenizer = load_tokenizer(tokenizer_dir)
    assert documents_of(tmp_path / "3" / "train.bin", tokenizer) == [text for text in map(nfc, texts) if not belongs_to_validation(text, 0.2)]


def test_several_files_of_several_kinds_are_one_corpus(tmp_path, tokenizer_dir, monkeypatch):
    small_chunks(monkeypatch)
    texts = HARD_TEXTS + standin.documents(300)
    write_corpus(tmp_path / "a.txt", texts[:100])
    (tmp_path / "b.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts[100:200]), encoding="utf-8")
    pq.write_table(pa.table({"text": texts[200:]}), tmp_path / "c.parquet", row_group_size=70)
    argv = ["--input", *(tmp_path / name for name in ("a.txt", "b.jsonl", "c.parquet")), "--output_dir", tmp_path / "data"]
    assert preprocess.main([*map(str, argv), "--tokenizer", str(tokenizer_dir), "--val_fraction", "0.2", "--workers", "1"]) == 0
    tokenizer = load_tokenizer(tokenizer_dir)
    assert documents_of(tmp_path / "data" / "train.bin", tokenizer) == [text for text in map(nfc, texts) if not belongs_to_validation(text, 0.2)]
    assert documents_of(tmp_path / "data" / "val.bin", tokenizer) == [text for text in map(nfc, texts) if belongs_to_validation(text, 0.2)]


def test_small_files_share_a_shard_and_give_the_token_files_of_one_corpus(tmp_path, tokenizer_dir, monkeypatch):
    texts, written = standin.documents(300), []
    write_shard = tokenize.write_shard
    monkeypatch.setattr(tokenize, "write_shard", lambda chunk, path, *given: written.append(path.name) or write_shard(chunk, path, *given))
    paths = [write_corpus(tmp_path / f"{i:03}.txt", [text]) for i, text in enumerate(texts)]
    whole = write_corpus(tmp_path / "whole.txt", texts)
    for name, inputs in (("files", paths), ("one", [whole])):
        argv = ["--input", *inputs, "--output_dir", tmp_path / name, "--tokenizer", tokenizer_dir, "--val_fraction", 0.2, "--workers", 1]
        assert preprocess.main([*map(str, argv)]) == 0
    assert written == ["000000.shard"] * 2
    for name in ("train.bin", "val.bin"):
        assert (tmp_path / "files" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()


@pytest.mark.parametrize("end", [".gz", ".zst"])
def test_compressed_text_gives_the_same_files_for_any_number_of_workers_and_after_a_stop(tmp_path, tokenizer_dir, monkeypatch, capsys, end):
    small_chunks(monkeypatch)
    texts = HARD_TEXTS + standin.documents(300)
    plain = write_corpus(tmp_path / "c.txt", texts)
    compressed = tmp_path / f"c.txt{end}"
    compressed.write_bytes(gzip.compress(plain.read_bytes()) if end == ".gz" else pa.Codec("zstd").compress(plain.read_bytes(), asbytes=True))
    flags = [compressed, tokenizer_dir, "--val_fraction", 0.2]
    assert run(tmp_path / "plain", plain, *flags[1:], "--workers", 1) == 0
    assert run(tmp_path / "1", *flags, "--workers", 1) == 0
    stop_at_join_of(9, monkeypatch, (tmp_path / "stopped", *flags, "--workers", 1))
    assert run(tmp_path / "stopped", *flags, "--workers", 2) == 0
    assert "resuming: 10 of" in capsys.readouterr().out
    assert contents(tmp_path / "1") == contents(tmp_path / "stopped")
    for name in ("train.bin", "val.bin"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()
    metadata = [read_metadata(tmp_path / name / "preprocess_meta.txt") for name in ("1", "plain")]
    assert {key for key in metadata[0] if metadata[0][key] != metadata[1][key]} == {"input", "input_bytes", "input_fingerprint"}


KILLED = """
import os, signal, sys
sys.path[:0] = ["tests", "tests/support"]

if __name__ == "__main__":  # the workers need none of this
    from data import preprocess
    from nano_hindi.corpus import documents, shards

    preprocess.chunks = lambda path: documents.chunks(path, 3000)
    owner = shards.Shards if hasattr(shards.Shards, sys.argv[2]) else shards
    at, real = int(sys.argv[1]), getattr(owner, sys.argv[2])
    calls = 0

    def call(*args):
        global calls
        calls += 1
        if calls == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args)

    setattr(owner, sys.argv[2], call)
    sys.exit(preprocess.main(sys.argv[3:]))
"""


def killed(tmp_path, at: int, where: str, argv) -> subprocess.CompletedProcess:
    """Run data/preprocess.py in small chunks, and kill it in call number `at` of `<where>` in
    shards.py."""
    script = tmp_path / "killed.py"
    script.write_text(KILLED, encoding="utf-8")
    return run_script(script, at, where, *argv, PYTHONPATH=str(ROOT), TEST_FOLDER=str(tmp_path))


def processes_of(folder: Path) -> list[str]:
    """Return the processes that `killed` started for `folder` and that still run (Linux): their
    environment names it."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if f"TEST_FOLDER={folder}\0".encode() in path.read_bytes():
                found.append(path.parent.name)
    return found


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_killed_run_resumes_and_ends_with_the_same_bytes(tmp_path, tokenizer_dir, capsys, monkeypatch):
    corpus = write_corpus(tmp_path / "c.txt", HARD_TEXTS + standin.documents(300))
    argv = ["--input", corpus, "--tokenizer", tokenizer_dir, "--val_fraction", 0.2, "--workers", 2, "--output_dir"]
    small_chunks(monkeypatch)
    assert preprocess.main([*map(str, argv), str(tmp_path / "straight")]) == 0
    out = tmp_path / "out"
    # before a shard is joined, between its two splits, and between the last names
    places = ((3, "join", set()), (6, "_write", set()), (2, "rename", {"train.bin"}), (1, "write_metadata", {"train.bin", "val.bin"}))
    for at, where, names in places:
        assert killed(tmp_path, at, where, [*argv, out]).returncode == -signal.SIGKILL
        assert {path.name for path in out.iterdir() if path.suffix == ".bin"} == names
        assert list(out.glob("preprocess-*.part/*.shard"))
        with pytest.raises(UserError):
            check_data(out)
    capsys.readouterr()
    small_chunks(monkeypatch)
    assert preprocess.main([*map(str, argv), str(out)]) == 0
    assert "resuming" in capsys.readouterr().out
    assert contents(out) == contents(tmp_path / "straight")
    wait_until(lambda: not processes_of(tmp_path), "the end of the workers of the killed process")


def test_ctrl_c_says_in_one_line_how_to_continue(tmp_path, tokenizer_dir, monkeypatch, capfd):
    small_chunks(monkeypatch)
    corpus = write_corpus(tmp_path / "c.txt", standin.documents(300))
    stop_at_join_of(3, monkeypatch, (tmp_path / "out", corpus, tokenizer_dir, "--val_fraction", 0.2, "--workers", 2))
    [line] = capfd.readouterr().err.strip().splitlines()  # none of the workers'
    assert re.search("stopped with 3 of [0-9]+ chunks of the text done; run the same command to continue", line)
    assert len(list(tmp_path.glob("out/preprocess-*.part/*.shard"))) >= 3


UNGUARDED = """
import sys
from data import preprocess
from nano_hindi.corpus import documents

preprocess.chunks = lambda path: documents.chunks(path, 3000)
sys.exit(preprocess.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_workers_do_not_run_a_script_without_a_guard_again(tmp_path, tokenizer_dir):
    corpus, script = write_corpus(tmp_path / "c.txt", standin.documents(300)), tmp_path / "unguarded.py"
    script.write_text(UNGUARDED, encoding="utf-8")
    argv = ["--input", corpus, "--tokenizer", tokenizer_dir, "--val_fraction", 0.2, "--workers", 2, "--output_dir", tmp_path / "out"]
    done = run_script(script, *argv, PYTHONPATH=str(ROOT))
    assert (done.returncode, done.stderr) == (0, "")
    check_data(tmp_path / "out")


@pytest.mark.skipif(os.name == "nt", reason="needs a program that only fails")
def test_worker_that_dies_at_its_start_is_one_line(tmp_path):
    """Nobody reads what it is sent; a tokenizer is more than a pipe holds."""
    multiprocessing.resource_tracker.ensure_running()
    multiprocessing.set_executable(shutil.which("false"))
    try:
        with pytest.raises(UserError, match="a worker process died or could not start"):
            list(tokenize.write_shards([(chunk, tmp_path / "shard") for chunk in "ab"], bytes(2**20), 0.1, 2))
    finally:
        multiprocessing.set_executable(sys.executable)


def test_pool_that_can_start_no_worker_is_one_line(monkeypatch):
    """As if the first worker died while the second one starts: the pool closes its pipes."""
    submit, first = tokenize.ProcessPoolExecutor.submit, iter([True])

    def submit_one(self, *task):
        if next(first, False):
            return submit(self, *task)
        raise OSError("handle is closed")

    monkeypatch.setattr(tokenize.ProcessPoolExecutor, "submit", submit_one)
    monkeypatch.setattr(tokenize, "_write_in_worker", time.sleep)
    with pytest.raises(UserError, match="a worker process died or could not start"):
        list(tokenize.write_shards([(0.01,), (0.01,)], b"", 0.1, 2))


def test_full_disk_of_the_temporary_files_is_named(monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # as `write` does, without a name

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="No space left on device") as caught:
        list(tokenize.write_shards([(0.01,), (0.01,)], b"", 0.1, 2))
    assert Path(caught.value.filename).parent.parent == Path(tempfile.gettempdir())


@contextlib.contextmanager
def full_at_shard_5(path: Path):
    """`replacing` on a disk that is full in the middle of shard 5."""
    with replacing(path) as temporary:
        yield temporary
        if path.name == "000005.shard":
            os.truncate(temporary, 100)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(temporary))


def full_at(call: int):
    """`Shards._write` on a disk that is full in the middle of write number `call`."""
    real, left = shards.Shards._write, iter(range(call, -1, -1))

    def write(self, name, ids):
        full = next(left) == 0
        real(self, name, ids[: len(ids) // 2] if full else ids)
        if full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return write


def test_full_disk_keeps_the_finished_shards(tmp_path, tokenizer_dir, monkeypatch, capsys):
    small_chunks(monkeypatch, 10_000)
    corpus = write_corpus(tmp_path / "c.txt", standin.documents(200))
    argv = (corpus, tokenizer_dir, "--val_fraction", 0.2, "--workers", 1)
    writes, real = [], shards.Shards._write
    with monkeypatch.context() as patch:
        patch.setattr(shards.Shards, "_write", lambda *args: (writes.append(args), real(*args)))
        assert run(tmp_path / "straight", *argv) == 0
    assert len(writes) >= 12
    faults = [(tokenize, "replacing", full_at_shard_5, 5), *((shards.Shards, "_write", full_at(i), None) for i in (0, 7, len(writes) - 1))]
    for i, (owner, name, full, finished) in enumerate(faults):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, full)
            capsys.readouterr()
            assert run(tmp_path / str(i), *argv) == 2
        error = capsys.readouterr().err
        assert "No space left" in error
        assert error.count("\n") == 1
        assert run(tmp_path / str(i), *argv) == 0
        assert f"resuming: {finished or ''}" in capsys.readouterr().out
        assert contents(tmp_path / str(i)) == contents(tmp_path / "straight")


def test_finished_shard_is_kept_even_if_an_earlier_one_is_missing(tmp_path, tokenizer_dir, monkeypatch):
    small_chunks(monkeypatch)
    corpus = write_corpus(tmp_path / "c.txt", standin.documents(300))
    argv = (corpus, tokenizer_dir, "--val_fraction", 0.2, "--workers", 1)
    assert run(tmp_path / "straight", *argv) == 0
    real, made = tokenize.encode, []
    plan = chunks(corpus, 3000)

    def stop_after_shard_4(self, path):
        for i in (2, 4):
            tokenize.write_shard(plan[i], self.paths[i], load_tokenizer(tokenizer_dir), 0.2)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shards.Shards, "join", stop_after_shard_4)
        assert run(tmp_path / "out", *argv) == 130
    monkeypatch.setattr(tokenize, "encode", lambda *args: made.append(1) or real(*args))
    assert run(tmp_path / "out", *argv) == 0
    assert len(made) == len(plan) - 3  # without 0, 2 and 4
    assert contents(tmp_path / "out") == contents(tmp_path / "straight")


def test_disk_holds_each_token_once(tmp_path, tokenizer_dir, monkeypatch):
    small_chunks(monkeypatch)
    corpus = write_corpus(tmp_path / "c.txt", standin.documents(300))
    real, tokens = shards.Shards.join, []

    def join(self, path):
        real(self, path)
        first_lines = sum(len(p.open("rb").readline()) for p in self.paths if p.exists())
        tokens.append(sum(p.stat().st_size for p in self.folder.iterdir()) - first_lines)
        assert tokens[-1] == sum(self.summary.counts[f"{name}_tokens"] for name in ("train", "val")) * 4

    monkeypatch.setattr(shards.Shards, "join", join)
    assert run(tmp_path / "out", corpus, tokenizer_dir, "--val_fraction", 0.2, "--workers", 1) == 0
    assert tokens[-1] == sum((tmp_path / "out" / f"{name}.bin").stat().st_size for name in ("train", "val"))


def test_damaged_joined_file_is_refused_in_one_line(tmp_path, tokenizer_dir, monkeypatch, capsys):
    small_chunks(monkeypatch)
    argv = (tmp_path / "out", write_corpus(tmp_path / "c.txt", standin.documents(300)), tokenizer_dir, "--val_fraction", 0.2, "--workers", 1)
    stop_at_join_of(3, monkeypatch, argv)
    (file,) = tmp_path.glob("out/preprocess-*.part/train.bin")
    file.write_bytes(file.read_bytes()[:-4])
    capsys.readouterr()
    assert run(*argv) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(r"error: .*train\.bin is damaged; delete .*\.part to start over\n", error)


def test_unfinished_work_loses_its_name_before_any_of_it_is_deleted(tmp_path, monkeypatch):
    (tmp_path / "preprocess-0.part").mkdir()
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)  # as if killed there
    shards.discard(tmp_path / "preprocess-0.part")
    assert [path.name for path in tmp_path.iterdir()] == [shards.DELETED]


@pytest.mark.parametrize("flags", [("--val_fraction", 0.2), ("--val_fraction", 0.3)])
def test_leftovers_of_killed_runs_are_deleted_by_any_run(tmp_path, tokenizer_dir, flags):
    out, corpus = tmp_path / "out", write_corpus(tmp_path / "c.txt", standin.documents(100))
    assert run(out, corpus, tokenizer_dir, "--val_fraction", 0.2) == 0
    names = {path.name for path in out.iterdir()}
    standin.make_tokenizer(out / "preprocess.deleted")
    for name in (locks.LOCK, locks.HOLDER):
        (out / name).write_text("finished: 3\n", encoding="utf-8")
    assert run(out, corpus, tokenizer_dir, *flags) == 0
    assert {path.name for path in out.iterdir()} == names


@pytest.mark.parametrize("restored", [False, True])
def test_text_that_changes_while_it_is_read_is_one_line_and_starts_over(tmp_path, tokenizer_dir, monkeypatch, capsys, restored):
    small_chunks(monkeypatch)
    out, corpus = tmp_path / "out", write_corpus(tmp_path / "c.txt", standin.documents(300))
    argv = (corpus, tokenizer_dir, "--val_fraction", 0.2, "--workers", 1)
    original, stat = corpus.read_bytes(), corpus.stat()
    real, joined = shards.Shards.join, []

    def join(self, path):
        joined.append(path)
        if len(joined) == 3:
            write_corpus(corpus, standin.documents(300)[::-1])
        real(self, path)

    with monkeypatch.context() as patch:
        patch.setattr(shards.Shards, "join", join)
        assert run(out, *argv) == 2
    assert "c.txt changed while it was tokenized; run the same command again" in capsys.readouterr().err
    if restored:
        corpus.write_bytes(original)
        os.utime(corpus, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert run(out, *argv) == run(tmp_path / "straight", *argv) == 0
    assert contents(out) == contents(tmp_path / "straight")


def test_digests_are_of_the_token_files_and_are_all_checked_where_the_data_is_ready(tmp_path, tokenizer_dir, monkeypatch):
    monkeypatch.setattr(token_file, "DIGEST_CHUNK_BYTES", 200)
    out, corpus = tmp_path / "out", write_corpus(tmp_path / "c.txt", standin.documents(600))
    assert run(out, corpus, tokenizer_dir, "--val_fraction", 0.2) == 0
    metadata, listed = read_metadata(out / "preprocess_meta.txt"), read_metadata(out / "preprocess_digests.txt")
    before = contents(out)
    for name in ("train", "val"):
        raw = (out / f"{name}.bin").read_bytes()
        digests = [hashlib.blake2b(raw[i : i + 200], digest_size=8).hexdigest() for i in range(0, len(raw), 200)]
        assert listed[name].split() == digests
        assert len(digests) > token_file.SAMPLED_CHUNKS or name == "val"
        assert metadata[f"{name}_digest"] == hashlib.blake2b("".join(digests).encode(), digest_size=16).hexdigest()
    for i in range(5):  # a sample would miss one of them
        with open(out / "train.bin", "r+b") as file:
            file.seek(10_000 + 2_000 * i)
            file.write(bytes(4))
        assert run(out, corpus, tokenizer_dir, "--val_fraction", 0.2) == 0
        assert contents(out) == before


def test_report_on_older_data_is_deleted(tmp_path, tokenizer_dir):
    out, corpus = tmp_path / "out", write_corpus(tmp_path / "c.txt", standin.documents(20))
    out.mkdir()
    for path in (files := [*report_files(out), out / "report_mine.png"]):
        path.touch()
    assert run(out, corpus, tokenizer_dir, "--val_fraction", 0.2) == 0
    assert [path.exists() for path in files] == [False] * 5 + [True]
    files[0].touch()
    assert run(out, corpus, tokenizer_dir, "--val_fraction", 0.2) == 0  # the same data
    assert files[0].exists()


def test_tokenizer_learns_from_the_training_split_alone(tmp_path):
    from nano_hindi.tokenizer.training import train_tokenizer

    texts = standin.documents(60)
    seen = [text for text in texts if not tokenize.is_for_validation(text.encode(), 0.2)]
    argv = ["--input", write_corpus(tmp_path / "c.txt", texts), "--train_tokenizer", "700", "--val_fraction", "0.2", "--workers", "1"]
    assert preprocess.main([*map(str, argv), "--output_dir", str(tmp_path / "out")]) == 0
    assert load_tokenizer(tmp_path / "out/tokenizer").fingerprint == train_tokenizer(seen, 700).fingerprint


def test_trained_tokenizer_is_not_trained_again_after_a_stop(tmp_path, monkeypatch):
    from nano_hindi.tokenizer import training

    small_chunks(monkeypatch)
    corpus = write_corpus(tmp_path / "c.txt", standin.documents(400))
    argv = ["--input", str(corpus), "--train_tokenizer", "600", "--val_fraction", "0.2", "--workers", "1", "--output_dir"]
    assert preprocess.main([*argv, str(tmp_path / "straight")]) == 0
    for owner, name in ((shards, "write_text"), (tokenize, "encode")):  # the first one leaves a tokenizer without its name
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            assert preprocess.main([*argv, str(tmp_path / "out")]) == 130
    monkeypatch.setattr(training, "train_tokenizer", None)
    assert preprocess.main([*argv, str(tmp_path / "out")]) == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "straight")


def stop_at_join_of(i: int, monkeypatch, argv) -> None:
    """Run, and press Ctrl-C before shard `i` is joined."""
    real = shards.Shards.join

    def join(self, path):
        if path == self.paths[i]:
            raise KeyboardInterrupt
        real(self, path)

    with monkeypatch.context() as patch:
        patch.setattr(shards.Shards, "join", join)
        assert run(*argv) == 130


def test_unfinished_files_of_another_text_are_not_resumed(tmp_path, tokenizer_dir, monkeypatch, capsys):
    small_chunks(monkeypatch)
    corpus, out = write_corpus(tmp_path / "c.txt", standin.documents(300)), tmp_path / "out"
    stop_at_join_of(3, monkeypatch, (out, corpus, tokenizer_dir, "--val_fraction", 0.2, "--workers", 1))
    (unfinished,) = out.glob("preprocess-*.part")
    assert (unfinished / "train.bin").stat().st_size
    texts = standin.documents(300, seed=5)
    write_corpus(corpus, texts)
    capsys.readouterr()
    assert run(out, corpus, tokenizer_dir, "--val_fraction", 0.2, "--workers", 1) == 0
    assert "resuming" not in capsys.readouterr().out
    assert not unfinished.exists()
    assert documents_of(out / "train.bin", load_tokenizer(tokenizer_dir)) == [
        text for text in map(nfc, texts) if not belongs_to_validation(text, 0.2)
    ]


def test_finished_run_does_nothing_unless_its_files_are_damaged(tmp_path, tokenizer_dir, capsys):
    corpus, out = write_corpus(tmp_path / "c.txt", standin.documents(100)), tmp_path / "out"
    argv = (out, corpus, tokenizer_dir, "--val_fraction", 0.2)
    assert run(*argv) == 0
    before, times = contents(out), {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    capsys.readouterr()
    assert run(*argv) == 0
    assert "ready already" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*")} == times
    (out / "train.bin").write_bytes(b"1234")
    assert run(*argv) == 0
    assert contents(out) == before


# ---- tokenizers that lose text


def lossy(folder: Path, change) -> Path:
    """Return the stand-in tokenizer with its tokenizer.json changed."""
    path = standin.make_tokenizer(folder) / "tokenizer.json"
    description = json.loads(path.read_text(encoding="utf-8"))
    change(description)
    path.write_text(json.dumps(description), encoding="utf-8")
    return folder


def without_bytes(description: dict) -> None:
    description["model"]["byte_fallback"] = False


def normalized_by(kind: str):
    return lambda description: description["normalizer"]["normalizers"].insert(0, {"type": kind})


@pytest.mark.parametrize(
    ("change", "text", "lost", "words"),
    [
        (without_bytes, "राम ने 漢字漢 लिखा", 3, ("漢 U+6F22", "字 U+5B57", "'राम ने लिखा'")),
        (normalized_by("Lowercase"), "यह DELHI है", 5, ("D U+0044", "'यह delhi है'")),
        (normalized_by("NFKC"), "दूरी ५ ㎞ है", 1, ("U+339E", "km")),
    ],
)
def test_lossy_tokenizer_is_refused_with_error_rate_and_examples(tmp_path, capsys, change, text, lost, words):
    folder = lossy(tmp_path / "lossy", change)
    texts = [*[text.lower() for text in standin.documents(200)], text]
    argv = (tmp_path / "out", write_corpus(tmp_path / "c.txt", texts), folder, "--val_fraction", 0.2)
    assert run(*argv) == 2
    error = capsys.readouterr().err
    characters = sum(map(len, texts))
    for word in ("loses text", f"{lost} of {characters:,} characters ({lost / characters:.3%}) in 1 of 201 documents", "--allow_lossy", *words):
        assert word in error
    assert error.count("\n") == 1
    with pytest.raises(UserError):
        check_data(tmp_path / "out")
    assert run(*argv, "--allow_lossy") == 0
    assert "notice: the tokenizer loses text" in capsys.readouterr().out
    metadata = read_metadata(tmp_path / "out" / "preprocess_meta.txt")
    assert (metadata["lost_characters"], metadata["lossy_documents"]) == (str(lost), "1")


def test_lost_characters_are_counted_correctly_across_a_stop(tmp_path, monkeypatch):
    small_chunks(monkeypatch)
    folder = lossy(tmp_path / "lossy", without_bytes)
    corpus = write_corpus(tmp_path / "c.txt", [text + " 漢字"[: i % 4] for i, text in enumerate(standin.documents(300))])
    assert run(tmp_path / "straight", corpus, folder, "--workers", 1, "--allow_lossy", "--val_fraction", 0.2) == 0
    assert run(tmp_path / "out", corpus, folder, "--workers", 1, "--val_fraction", 0.2) == 2  # refused at the first chunk, which is kept
    assert run(tmp_path / "out", corpus, folder, "--workers", 1, "--allow_lossy", "--val_fraction", 0.2) == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "straight")


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot send itself a signal")
@pytest.mark.parametrize("in_another_thread", [False, True])
def test_ctrl_c_while_workers_start_is_deferred_and_not_lost(in_another_thread):
    """Also where another thread receives the signal, such as those of the tokenizers library."""
    end, finished = threading.Event(), []
    other = threading.Thread(target=end.wait)
    other.start()
    woken, wakeup = socket.socketpair()
    wakeup.setblocking(False)
    before = signal.set_wakeup_fd(wakeup.fileno())
    try:
        with pytest.raises(KeyboardInterrupt), tokenize._interrupt_later():
            signal.pthread_kill(other.ident if in_another_thread else threading.get_ident(), signal.SIGINT)
            if in_another_thread:
                woken.recv(1)  # that thread has received it
            finished.append(True)
    finally:
        signal.set_wakeup_fd(before)
        for each in (woken, wakeup):
            each.close()
        end.set()
    assert finished
