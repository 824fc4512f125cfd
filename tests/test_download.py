"""data/download.py: which documents, how many, what is said about them; and a hub that is there, slow, broken, or not there."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import standin
from conftest import ROOT, run_script
from data import download
from hub import Fault, Hub, make_sangraha
from nano_hindi.corpus import read_documents, write_document
from nano_hindi.dataloader import check_data, read_metadata
from nano_hindi.tokenizer import load_tokenizer

NO_TOKENIZER = ["--tokenizer", "no/such/folder"]  # three parts: no name on the hub, so the network is left alone


def write_texts(path: Path, texts: list[str]) -> Path:
    with open(path, "wb") as file:
        for text in texts:
            write_document(file, text)
    return path


@pytest.fixture(scope="module")
def tokenizer_dir(tmp_path_factory) -> Path:
    return standin.make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def run(out: Path, *argv) -> int:
    return download.main([*map(str, argv), "--output_dir", str(out)])


# ---- files of one's own


def test_local_files_become_a_corpus_in_their_order(tmp_path, tokenizer_dir, capsys):
    texts = standin.documents(60)
    a, b = write_texts(tmp_path / "a.txt", texts[:20]), write_texts(tmp_path / "b.txt", texts[20:])
    assert run(tmp_path / "raw", "--source", a, b, "--tokenizer", tokenizer_dir) == 0
    corpus = tmp_path / "raw" / "hindi_corpus.txt"
    assert list(read_documents(corpus)) == texts
    assert sorted(p.name for p in corpus.parent.iterdir()) == ["hindi_corpus.txt", "metadata.txt"]
    tokenizer, facts = load_tokenizer(tokenizer_dir), read_metadata(tmp_path / "raw" / "metadata.txt")
    tokens = sum(len(tokenizer.encode_batch([text])[0]) + 2 for text in texts)
    assert facts["documents"] == "60"
    assert facts["tokens"] == str(tokens)
    assert facts["words"] == str(sum(len(re.findall(r"\S+", text)) for text in texts))
    assert facts["bytes"] == str(sum(len(text.encode()) for text in texts))
    assert facts["characters"] == str(sum(map(len, texts)))
    assert facts["source"] == f"{a}, {b}"
    output = capsys.readouterr().out
    assert f"60 documents, {tokens:,} tokens of {tokenizer_dir}" in output
    assert "next: python data/preprocess.py" in output


def test_it_stops_with_the_document_that_reaches_the_budget(tmp_path, tokenizer_dir, monkeypatch):
    texts = standin.documents(300)
    source, tokenizer = write_texts(tmp_path / "a.txt", texts), load_tokenizer(tokenizer_dir)
    sizes = [len(ids) + 2 for ids in tokenizer.encode_batch(texts)]
    for n, batch_characters in ((1, 10**6), (57, 10**6), (57, 700), (57, 1)):  # whatever the batches
        monkeypatch.setattr(download, "batches", lambda documents, size=batch_characters: original_batches(documents, size))
        for budget, taken in ((sum(sizes[:n]), n), (sum(sizes[:n]) + 1, n + 1), (sum(sizes[:n]) - 1, n)):
            assert run(tmp_path / "raw", "--source", source, "--tokenizer", tokenizer_dir, "--max_tokens", budget, "--overwrite") == 0
            assert list(read_documents(tmp_path / "raw" / "hindi_corpus.txt")) == texts[:taken]


original_batches = download.batches


def test_without_a_tokenizer_it_counts_words_and_says_so(tmp_path, capsys):
    texts = standin.documents(50)
    source = write_texts(tmp_path / "a.txt", texts)
    assert run(tmp_path / "raw", "--source", source, *NO_TOKENIZER) == 0
    assert list(read_documents(tmp_path / "raw" / "hindi_corpus.txt")) == texts
    words = [len(text.split()) for text in texts]
    output = capsys.readouterr().out
    assert "no/such/folder" in output
    assert "words and bytes are counted" in output
    assert f"50 documents, {sum(words):,} words" in output
    assert "tokens" not in read_metadata(tmp_path / "raw" / "metadata.txt")
    assert run(tmp_path / "few", "--source", source, *NO_TOKENIZER, "--max_tokens", sum(words[:7])) == 0
    assert list(read_documents(tmp_path / "few" / "hindi_corpus.txt")) == texts[:7]


def test_empty_documents_are_left_out_and_counted(tmp_path, capsys):
    source = write_texts(tmp_path / "a.txt", ["एक", "", " \n\t", "\u3000", "दो"])
    assert run(tmp_path / "raw", "--source", source, *NO_TOKENIZER) == 0
    assert list(read_documents(tmp_path / "raw" / "hindi_corpus.txt")) == ["एक", "दो"]
    assert "2 documents (3 empty ones left out)" in capsys.readouterr().out
    assert read_metadata(tmp_path / "raw" / "metadata.txt")["empty_documents_left_out"] == "3"


def test_a_corpus_that_is_there_is_left_alone(tmp_path, capsys):
    a, b = write_texts(tmp_path / "a.txt", ["एक"]), write_texts(tmp_path / "b.txt", ["दो"])
    assert run(tmp_path / "raw", "--source", a, *NO_TOKENIZER) == 0
    corpus, facts = tmp_path / "raw" / "hindi_corpus.txt", tmp_path / "raw" / "metadata.txt"
    before = corpus.stat().st_mtime_ns, facts.read_bytes()
    assert run(tmp_path / "raw", "--source", a, *NO_TOKENIZER) == 0  # the same command again
    assert "is already there" in capsys.readouterr().out
    for other in (["--source", b], ["--source", a, "--max_tokens", "5"]):
        assert run(tmp_path / "raw", *other, *NO_TOKENIZER) == 2
        assert "--overwrite replaces it" in capsys.readouterr().err
    assert (corpus.stat().st_mtime_ns, facts.read_bytes()) == before
    assert run(tmp_path / "raw", "--source", b, *NO_TOKENIZER, "--overwrite") == 0
    assert list(read_documents(corpus)) == ["दो"]
    facts.unlink()  # a corpus of the user's own making
    assert run(tmp_path / "raw", "--source", b, *NO_TOKENIZER) == 2


@pytest.mark.parametrize("end", ["a bad line", "Ctrl-C", "a full disk"])
def test_what_ends_early_leaves_the_old_corpus_and_nothing_half_written(tmp_path, monkeypatch, capsys, end):
    good = write_texts(tmp_path / "good.txt", ["एक"])
    assert run(tmp_path / "raw", "--source", good, *NO_TOKENIZER) == 0
    before = {p.name: p.read_bytes() for p in (tmp_path / "raw").iterdir()}
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"text": "दो"}\n' * 3 + ("{" if end == "a bad line" else ""), encoding="utf-8")
    if end != "a bad line":
        real = download.write_document

        def fails_at_the_third(file, text, calls=[]):  # noqa: B006 - a counter
            calls.append(text)
            if len(calls) == 3:
                raise KeyboardInterrupt if end == "Ctrl-C" else OSError(28, "No space left on device")
            return real(file, text)

        monkeypatch.setattr(download, "write_document", fails_at_the_third)
    assert run(tmp_path / "raw", "--source", bad, *NO_TOKENIZER, "--overwrite") == (130 if end == "Ctrl-C" else 2)
    assert {p.name: p.read_bytes() for p in (tmp_path / "raw").iterdir()} == before
    assert capsys.readouterr().err.strip().count("\n") == 0


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--source", "missing.txt"], "there is no file missing.txt"),
        (["--source", "samples"], "there is no file samples"),
        (["--source", "sangraha", "a.txt"], "sangraha alone, or files"),
        (["--max_tokens", "0"], "--max_tokens 0"),
        (["--max_tokens", "many"], "invalid int value"),
        (["--source"], "expected at least one argument"),
        (["--sauce", "x"], "--sauce"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(tmp_path, capsys, argv, message):
    assert run(tmp_path / "raw", *argv, *NO_TOKENIZER) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert not (tmp_path / "raw").exists()


def test_a_source_without_text_is_a_user_error(tmp_path, capsys):
    (tmp_path / "a.txt").write_bytes(b"\n \n")
    assert run(tmp_path / "raw", "--source", tmp_path / "a.txt", *NO_TOKENIZER) == 2
    assert "there is no text in" in capsys.readouterr().err
    assert list((tmp_path / "raw").iterdir()) == []


def test_it_runs_from_any_folder_and_paths_are_those_of_that_folder(tmp_path):
    write_texts(tmp_path / "a.txt", ["एक"])
    argv = [ROOT / "data" / "download.py", "--source", "a.txt", "--output_dir", "out", *NO_TOKENIZER]
    result = subprocess.run([sys.executable, *map(str, argv)], cwd=tmp_path, capture_output=True, text=True, encoding="utf-8", timeout=60)
    assert result.returncode == 0, result.stderr
    assert list(read_documents(tmp_path / "out" / "hindi_corpus.txt")) == ["एक"]
    assert download.parse([]).output_dir == ROOT / "data" / "raw"
    assert result.stderr == ""


def test_importing_the_scripts_brings_no_heavy_library_along():
    code = "import sys, data.download, data.preprocess; assert not {'torch', 'numpy', 'transformers', 'datasets', 'pyarrow'} & set(sys.modules)"
    assert run_script("-c", code).returncode == 0


# ---- the hub: real clients, as processes of their own, against a server on the loopback interface


HINDI = [standin.documents(11, seed=100 + i) for i in range(18)]  # with so many files the libraries would draw progress bars of their own
ALL_HINDI = [text for name in sorted(f"data-{i}" for i in range(len(HINDI))) for text in HINDI[int(name[5:])]]  # data-1, data-10, data-11 ...


@pytest.fixture(scope="module")
def repos(tmp_path_factory, tokenizer_dir) -> dict[str, Path]:
    return {"datasets/ai4bharat/sangraha": make_sangraha(tmp_path_factory.mktemp("sangraha"), HINDI), "sarvamai/sarvam-1": tokenizer_dir}


def from_hub(hub: Hub, tmp_path: Path, *argv, script: str = "data/download.py", timeout: float = 60) -> subprocess.CompletedProcess:
    return run_script(script, "--output_dir", tmp_path / "raw", *argv, timeout=timeout, **hub.environment(tmp_path / "home"))


def test_the_hub_gives_the_verified_hindi_documents_and_nothing_else(tmp_path, repos):
    with Hub(repos) as hub:
        result = from_hub(hub, tmp_path)
        assert result.returncode == 0, result.stderr
        assert list(read_documents(tmp_path / "raw" / "hindi_corpus.txt")) == ALL_HINDI
        assert result.stderr == ""  # the libraries' advice stays off the screen
        parquet = {re.sub(" bytes.*", "", r).split("/", 6)[-1] for r in hub.requests if ".parquet" in r}
        assert parquet == {f"verified/hin/data-{i}.parquet" for i in range(len(HINDI))}
        facts = read_metadata(tmp_path / "raw" / "metadata.txt")
        assert facts["source"] == "ai4bharat/sangraha verified/hin"
        assert facts["licence"].startswith("CC BY 4.0")
        assert re.fullmatch("[0-9a-f]{40}", facts["revision"])
        assert facts["tokenizer"] == "sarvamai/sarvam-1"

        # and on, with the tokenizer of the hub: its defaults are all that is needed
        argv = ["--input", tmp_path / "raw" / "hindi_corpus.txt", "--output_dir", tmp_path / "data", "--val_fraction", "0.2"]
        result = run_script("data/preprocess.py", *argv, timeout=60, **hub.environment(tmp_path / "home2"))
        assert result.returncode == 0, result.stderr
        assert result.stderr == ""
    data = check_data(tmp_path / "data")
    assert data.tokenizer_name == "sarvamai/sarvam-1"
    assert data.train_tokens + data.val_tokens == int(facts["tokens"])


def test_a_budget_ends_the_stream_cleanly(tmp_path, repos, tokenizer_dir):
    sizes = [len(ids) + 2 for ids in load_tokenizer(tokenizer_dir).encode_batch(ALL_HINDI)]
    with Hub(repos) as hub:
        result = from_hub(hub, tmp_path, "--max_tokens", sum(sizes[:33]))
        assert result.returncode == 0, result.stderr
        assert result.stderr == ""
        assert list(read_documents(tmp_path / "raw" / "hindi_corpus.txt")) == ALL_HINDI[:33]


def test_busy_answers_and_dropped_connections_do_not_change_the_corpus(tmp_path, repos):
    faults = [
        Fault("GET .*data-0.parquet", times=1, cut=1000),
        Fault("GET .*data-1.parquet", times=1, status=503),
        Fault("GET .*tokenizer.json", times=1, cut=3000),
        Fault("GET .*/tree/", times=1, status=429),
    ]
    with Hub(repos, faults) as hub:
        result = from_hub(hub, tmp_path, timeout=100)
        assert result.returncode == 0, result.stderr
        assert [fault.times for fault in faults] == [0, 0, 0, 0]  # each of them did happen
        assert list(read_documents(tmp_path / "raw" / "hindi_corpus.txt")) == ALL_HINDI


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fault("/api/datasets", times=99, status=404), "it answers 404"),
        (Fault("/api/datasets", times=99, status=401), "it answers 401"),
        (Fault("data-1.parquet", times=99, status=403), "it answers 403"),  # in the middle of the work
    ],
)
def test_a_hub_that_refuses_is_one_line_and_nothing_stays(tmp_path, repos, fault, message):
    with Hub(repos, [fault]) as hub:
        result = from_hub(hub, tmp_path)
    assert result.returncode == 2
    assert message in result.stderr
    assert "--source PATH" in result.stderr
    assert result.stderr.count("\n") == 1
    assert not list(tmp_path.glob("raw/*"))


def test_a_hub_that_is_not_there_is_one_line_at_once(tmp_path, repos):
    with Hub(repos) as hub:
        nowhere = hub.environment(tmp_path / "home")
    begin = time.monotonic()
    result = run_script("data/download.py", "--output_dir", tmp_path / "raw", **nowhere)
    assert time.monotonic() - begin < 20
    assert result.returncode == 2
    assert re.fullmatch(r"error: ai4bharat/sangraha cannot be had from the hub .*--source PATH\n", result.stderr)
    assert not list(tmp_path.glob("raw/*"))

    # files of one's own need no hub: the tokenizer is asked for once, then words are counted
    write_texts(tmp_path / "a.txt", ["एक दो"])
    begin = time.monotonic()
    result = run_script("data/download.py", "--source", tmp_path / "a.txt", "--output_dir", tmp_path / "raw", **nowhere)
    assert time.monotonic() - begin < 20
    assert result.returncode == 0
    assert "1 documents, 2 words" in result.stdout


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT")
def test_ctrl_c_during_a_download_leaves_nothing_half_written(tmp_path, repos):
    with Hub(repos, [Fault("GET .*data-1.parquet", times=1, delay=30)]) as hub:
        command = [sys.executable, "data/download.py", "--output_dir", str(tmp_path / "raw")]
        env = {**os.environ, **hub.environment(tmp_path / "home")}
        process = subprocess.Popen(command, cwd=ROOT, env=env, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        until = time.monotonic() + 30
        while not any("data-1.parquet" in request for request in hub.requests) and time.monotonic() < until:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        error = process.communicate(timeout=20)[1]
    assert process.returncode == 130, error
    assert error.strip() == "stopped"
    assert not list(tmp_path.glob("raw/*"))
