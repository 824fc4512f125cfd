"""data/download.py: which documents, how many, and the metadata; and a hub that works, is slow,
broken or unreachable."""

import functools
import gc
import hashlib
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec.compression
import pyarrow.parquet
import pytest

import nano_hindi.corpus.documents
import nano_hindi.corpus.hub
import nano_hindi.corpus.sources
import nano_hindi.corpus.writer
import standin
from conftest import PATIENCE, ROOT, run_command, run_script, wait_until
from data import download
from hub import Fault, Hub, make_dataset, make_sangraha
from nano_hindi.console import shell_quoted
from nano_hindi.corpus.documents import read_documents
from nano_hindi.corpus.hub import BACKOFF, JSON_READ, RESTARTS, HubFolder, HubTexts
from nano_hindi.corpus.prepared import check_data
from nano_hindi.corpus.unfinished_corpus import UnfinishedCorpus
from nano_hindi.errors import UserError
from nano_hindi.files import read_metadata, write_metadata
from nano_hindi.sample import stories
from nano_hindi.tokenizer import load_tokenizer
from standin import write_corpus

NO_TOKENIZER = ["--tokenizer", "no/such/folder"]  # not a valid name on the hub, so there is no network access


def stops_at(document: int, error: BaseException | None = None) -> Callable:
    """Return `write_document`, which raises `error`, by default Ctrl-C, in the place of a
    document."""
    real, calls = nano_hindi.corpus.writer.write_document, itertools.count(1)

    def write(file, text):
        if next(calls) == document:
            raise error or KeyboardInterrupt
        return real(file, text)

    return write


def run(out: Path, *argv) -> int:
    code = download.main([*map(str, argv), "--output_dir", str(out)])
    # what prefetches ends with the process of a real run; here it must not query the hub later
    for thread in threading.enumerate():
        if thread.name.startswith("hub"):
            thread.join()
    if left := [thread for thread in threading.enumerate() if thread.name.startswith("ThreadPoolExecutor")]:  # of `datasets`, after an error
        gc.collect()  # they end when their executor is deleted
        for thread in left:
            thread.join()
    return code


# ---- files of one's own


def test_local_files_become_a_corpus_in_the_given_order(tmp_path, tokenizer_dir, capsys):
    texts = standin.documents(60)
    a, b = write_corpus(tmp_path / "a.txt", texts[:20]), write_corpus(tmp_path / "b.txt", texts[20:])
    assert run(tmp_path / "raw", "--source", a, b, "--tokenizer", tokenizer_dir) == 0
    corpus = tmp_path / "raw" / "hindi_corpus.txt"
    assert list(read_documents(corpus)) == texts
    assert sorted(p.name for p in corpus.parent.iterdir()) == ["hindi_corpus.txt", "metadata.txt"]
    tokenizer, metadata = load_tokenizer(tokenizer_dir), read_metadata(tmp_path / "raw" / "metadata.txt")
    tokens = sum(len(tokenizer.encode_batch([text])[0]) + 2 for text in texts)
    assert metadata["documents"] == "60"
    assert metadata["tokens"] == str(tokens)
    assert metadata["words"] == str(sum(len(re.findall(r"\S+", text)) for text in texts))
    assert metadata["bytes"] == str(sum(len(text.encode()) for text in texts))
    assert metadata["characters"] == str(sum(map(len, texts)))
    assert metadata["source"] == f"{a}, {b}"
    output = capsys.readouterr().out
    assert f"60 documents, {tokens:,} tokens of {tokenizer_dir}" in output
    flags = output.partition("data/preprocess.py ")[2]
    assert flags == f"--input {shell_quoted(corpus)} --output_dir {shell_quoted(tmp_path)} --tokenizer {shell_quoted(tokenizer_dir)}\n"


def test_download_stops_with_the_document_that_reaches_the_budget(tmp_path, tokenizer_dir, monkeypatch):
    texts = standin.documents(300)
    source, tokenizer = write_corpus(tmp_path / "a.txt", texts), load_tokenizer(tokenizer_dir)
    sizes = [len(ids) + 2 for ids in tokenizer.encode_batch(texts)]
    for n, batch_characters in ((1, 10**6), (57, 10**6), (57, 700), (57, 1)):  # whatever the batches
        monkeypatch.setattr(nano_hindi.corpus.writer, "BATCH_CHARACTERS", batch_characters)
        for budget, taken in ((sum(sizes[:n]), n), (sum(sizes[:n]) + 1, n + 1), (sum(sizes[:n]) - 1, n)):
            assert run(tmp_path / "raw", "--source", source, "--tokenizer", tokenizer_dir, "--max_tokens", budget, "--overwrite") == 0
            assert list(read_documents(tmp_path / "raw" / "hindi_corpus.txt")) == texts[:taken]


def test_without_a_tokenizer_words_are_counted_with_a_notice(tmp_path, capsys):
    texts = standin.documents(50)
    source = write_corpus(tmp_path / "a.txt", texts)
    assert run(tmp_path / "raw", "--source", source, *NO_TOKENIZER) == 0
    assert list(read_documents(tmp_path / "raw" / "hindi_corpus.txt")) == texts
    words = [len(text.split()) for text in texts]
    output = capsys.readouterr().out
    assert "no/such/folder" in output
    assert "words and bytes are counted" in output
    assert f"50 documents, {sum(words):,} words" in output
    assert output.endswith(" --train_tokenizer 8192\n")  # the next command needs no hub either
    assert "tokens" not in read_metadata(tmp_path / "raw" / "metadata.txt")
    assert run(tmp_path / "few", "--source", source, *NO_TOKENIZER, "--max_tokens", sum(words[:7])) == 0
    assert list(read_documents(tmp_path / "few" / "hindi_corpus.txt")) == texts[:7]
    # local files are read one after another; a budget of a file holds below a larger one of all
    other, small = write_corpus(tmp_path / "b.txt", texts[:9]), sum(words[:7])
    for name, given in (("both", [source, other, "--max_tokens", small]), ("own", [f"{source}={small}", "--max_tokens", 10 * small])):
        assert run(tmp_path / name, *NO_TOKENIZER, "--source", *given) == 0
        assert list(read_documents(tmp_path / name / "hindi_corpus.txt")) == texts[:7]


def test_empty_documents_are_omitted_and_counted(tmp_path, capsys):
    source = write_corpus(tmp_path / "a.txt", ["एक", "", " \n\t", "\u3000", "दो"])
    assert run(tmp_path / "raw", "--source", source, *NO_TOKENIZER) == 0
    assert list(read_documents(tmp_path / "raw" / "hindi_corpus.txt")) == ["एक", "दो"]
    assert "2 documents (3 empty ones skipped)" in capsys.readouterr().out
    assert read_metadata(tmp_path / "raw" / "metadata.txt")["empty_documents_left_out"] == "3"


def test_existing_corpus_is_not_changed(tmp_path, capsys):
    a, b = write_corpus(tmp_path / "a.txt", ["एक"]), write_corpus(tmp_path / "b.txt", ["दो"])
    assert run(tmp_path / "raw", "--source", a, *NO_TOKENIZER) == 0
    corpus, metadata = tmp_path / "raw" / "hindi_corpus.txt", tmp_path / "raw" / "metadata.txt"
    before = corpus.stat().st_mtime_ns, metadata.read_bytes()
    assert run(tmp_path / "raw", "--source", a, *NO_TOKENIZER) == 0  # the same command again
    assert "is already there" in capsys.readouterr().out
    for other in (["--source", b], ["--source", a, "--max_tokens", "5"]):
        assert run(tmp_path / "raw", *other, *NO_TOKENIZER) == 2
        assert "--overwrite replaces it" in capsys.readouterr().err
    assert run(tmp_path / "raw", "--source", write_corpus(a, ["एक दो"]), *NO_TOKENIZER) == 2  # edited
    assert "from another source, text, budget" in capsys.readouterr().err
    assert (corpus.stat().st_mtime_ns, metadata.read_bytes()) == before
    assert run(tmp_path / "raw", "--source", b, *NO_TOKENIZER, "--overwrite") == 0
    assert list(read_documents(corpus)) == ["दो"]
    metadata.unlink()  # a corpus of the user's own making
    assert run(tmp_path / "raw", "--source", b, *NO_TOKENIZER) == 2


@pytest.mark.parametrize("source", ["stories.txt", "sample"])
def test_other_tokenizer_for_an_existing_corpus_is_noticed(tmp_path, tokenizer_dir, source, capsys):
    write_corpus(tmp_path / "stories.txt", ["एक"])
    argv = ["--source", source if source == "sample" else tmp_path / source, "--max_tokens", 500]
    for _ in range(2):
        assert run(tmp_path / "raw", *argv, "--tokenizer", tokenizer_dir) == 0
    for other in ([], ["--tokenizer", "other"]):
        assert run(tmp_path / "raw", *argv, *other) == 2
        assert "from another source, text, budget, seed, tokenizer" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["model", "./model/tokenizer/", "model/model.pt"])
def test_corpus_of_the_same_command_is_known_however_the_tokenizer_is_named(tmp_path, tokenizer_dir, monkeypatch, name, capsys):
    shutil.copytree(tokenizer_dir, tmp_path / "model" / "tokenizer")
    (tmp_path / "model" / "model.pt").touch()
    monkeypatch.chdir(tmp_path)
    argv = ["--source", write_corpus(tmp_path / "a.txt", ["एक"]), "--tokenizer", name]
    assert run(tmp_path / "raw", *argv) == 0
    capsys.readouterr()
    assert run(tmp_path / "raw", *argv) == 0
    assert "is already there, from the same command" in capsys.readouterr().out


@pytest.mark.parametrize("end", ["a bad line", "Ctrl-C", "a full disk"])
def test_interrupted_run_keeps_the_old_corpus_and_no_partial_file(tmp_path, monkeypatch, capsys, end):
    good = write_corpus(tmp_path / "good.txt", ["एक"])
    assert run(tmp_path / "raw", "--source", good, *NO_TOKENIZER) == 0
    before = {p.name: p.read_bytes() for p in (tmp_path / "raw").iterdir()}
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"text": "दो"}\n' * 3 + ("{" if end == "a bad line" else ""), encoding="utf-8")
    if end != "a bad line":
        error = KeyboardInterrupt() if end == "Ctrl-C" else OSError(28, "No space left on device")
        monkeypatch.setattr(nano_hindi.corpus.writer, "write_document", stops_at(3, error))
    assert run(tmp_path / "raw", "--source", bad, *NO_TOKENIZER, "--overwrite") == (130 if end == "Ctrl-C" else 2)
    assert {p.name: p.read_bytes() for p in (tmp_path / "raw").iterdir()} == before
    assert capsys.readouterr().err.strip().count("\n") == 0


def test_script_runs_from_any_folder_and_paths_are_relative_to_it(tmp_path):
    write_corpus(tmp_path / "a.txt", ["एक"])
    argv = [ROOT / "data" / "download.py", "--source", "a.txt", "--output_dir", "out", *NO_TOKENIZER]
    result = run_command([sys.executable, *argv], cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert list(read_documents(tmp_path / "out" / "hindi_corpus.txt")) == ["एक"]
    assert download.parse([]).output_dir == ROOT / "data" / "raw"
    assert result.stderr == ""


# ---- the hub: real clients, in separate processes, against a server on the loopback interface


HINDI = [standin.documents(11, seed=100 + i) for i in range(18)]  # with so many files the libraries would draw progress bars of their own
ALL_HINDI = sorted(text for texts in HINDI for text in texts)


@pytest.fixture(scope="module")
def repos(tmp_path_factory, tokenizer_dir) -> dict[str, Path]:
    return {"datasets/ai4bharat/sangraha": make_sangraha(tmp_path_factory.mktemp("sangraha"), HINDI), "sarvamai/sarvam-1": tokenizer_dir}


def from_hub(hub: Hub, tmp_path: Path, *argv, **env) -> subprocess.CompletedProcess:
    return run_script("data/download.py", "--output_dir", tmp_path / "raw", *argv, **hub.environment(tmp_path / "home") | env)


@pytest.mark.slow
def test_hub_source_is_the_verified_hindi_documents_and_nothing_else(tmp_path, repos):
    """From a mirror below a path, whose large files are on another host: that one gets no token."""
    with Hub(repos, strip="/mirror", redirects=True) as hub:
        result = from_hub(hub, tmp_path, HF_TOKEN="hf_secret")
        assert result.returncode == 0, result.stderr
        assert sorted(read_documents(tmp_path / "raw" / "hindi_corpus.txt")) == ALL_HINDI
        assert result.stderr == ""  # no messages of the libraries
        parquet = {re.sub(" bytes.*", "", r).split("/", 6)[-1] for r in hub.requests if ".parquet" in r}
        assert parquet == {f"verified/hin/data-{i}.parquet" for i in range(len(HINDI))}
        sent = {(headers["host"].split(":")[0], headers.get("authorization")) for headers in hub.headers}
        assert sent == {("127.0.0.1", "Bearer hf_secret"), ("localhost", None)}
        metadata = read_metadata(tmp_path / "raw" / "metadata.txt")
        assert metadata["source"] == "ai4bharat/sangraha verified/hin"
        assert metadata["licence"].startswith("CC BY 4.0")
        assert metadata["revision"] == hub.commit
        assert metadata["tokenizer"] == "sarvamai/sarvam-1"
        assert sorted(path.name for path in (tmp_path / "raw").iterdir()) == ["hindi_corpus.txt", "metadata.txt"]

        # and preprocess, which needs only its defaults with the tokenizer of the hub
        argv = ["--input", tmp_path / "raw" / "hindi_corpus.txt", "--output_dir", tmp_path / "data", "--val_fraction", "0.2"]
        result = run_script("data/preprocess.py", *argv, **hub.environment(tmp_path / "home2"))
        assert result.returncode == 0, result.stderr
        assert result.stderr == ""
    data = check_data(tmp_path / "data")
    assert data.tokenizer.name == "sarvamai/sarvam-1"
    assert data.train_tokens + data.val_tokens == int(metadata["tokens"])


@pytest.mark.slow
def test_busy_responses_and_dropped_connections_behind_a_proxy_do_not_change_the_corpus(tmp_path, repos):
    faults = [
        Fault("GET .*data-0.parquet", times=1, cut=100, spare=2),
        Fault("GET .*data-1.parquet", times=1, status=503),
        Fault("GET .*tokenizer.json", times=1, cut=3000),
        Fault("GET /api/datasets", times=1, status=429),
    ]
    with Hub(repos, faults, strip="http://hub.invalid") as hub:  # a proxy receives absolute URLs
        proxy = dict.fromkeys(("HTTP_PROXY", "http_proxy"), hub.environment(tmp_path)["HF_ENDPOINT"])
        result = from_hub(hub, tmp_path, HF_ENDPOINT=hub.strip, NO_PROXY="", no_proxy="", **proxy)
        assert result.returncode == 0, result.stderr
        assert result.stderr == ""
        assert [fault.times for fault in faults] == [0, 0, 0, 0]  # each fault occurred
        notices = [line.removeprefix("notice: a request to the hub failed (") for line in result.stdout.splitlines() if line.startswith("notice")]
        assert sorted(line.split(")")[0] for line in notices) == [
            "HTTP 429",
            "HTTP 503, for data-1.parquet",
            "peer closed connection without sending complete message body (received 100 bytes, expected 3649",
        ]
        assert sorted(read_documents(tmp_path / "raw" / "hindi_corpus.txt")) == ALL_HINDI


# ---- --clean


LONG = "एक गाँव में मोहन नाम का एक लड़का रहता था और रोज़ नदी के किनारे जाता था। "
OTHER = "अत: सीता ने बाज़ार से ताज़े फल खरीदे और शाम को सबके साथ मिलकर खाए।"
DIRTY = [
    LONG + "पहला।",
    "होम | संपर्क",
    OTHER + "\x00 &amp;",
    LONG + "पहला।",
    "The river is long. " * 9,
    LONG.encode().decode("latin-1"),
    LONG + "दूसरा।",
]
CLEANED = [LONG + "पहला।", OTHER.replace("अत:", "अतः") + " &"]


def test_clean_repairs_and_drops_and_reports_counts_by_rule(tmp_path, capsys):
    source = write_corpus(tmp_path / "a.txt", DIRTY)
    assert run(tmp_path / "raw", "--source", source, *NO_TOKENIZER, "--clean") == 0
    assert list(read_documents(tmp_path / "raw" / "hindi_corpus.txt")) == CLEANED
    rows = {row.split("  ")[-1]: row.split()[:4] for row in capsys.readouterr().out.splitlines() if row.startswith("    ")}
    kept = sum(len(text.encode()) for text in CLEANED)
    assert rows.pop("before") == ["0", "0", "7", f"{sum(len(text.encode()) for text in DIRTY):,}"]
    assert rows["near duplicate (dropped)"][2:] == ["2", str(kept)]
    table = {rule: counts[:2] for rule, counts in rows.items() if counts[0] != "0"}
    controls = 2 * sum("\x7f" < character < "\xa0" for character in DIRTY[5])  # UTF-8 read as Latin-1 has many of them
    assert table == {
        "HTML entities (repaired)": ["1", "4"],
        "control characters (repaired)": ["2", str(1 + controls)],
        "colon for visarga (repaired)": ["1", "-2"],
        "broken encoding (dropped)": ["1", str(len(DIRTY[5].encode()) - controls)],
        "not Devanagari (dropped)": ["1", str(9 * 19)],
        "too short (dropped)": ["1", str(len(DIRTY[1].encode()))],
        "duplicate (dropped)": ["1", str(len(DIRTY[0].encode()))],
        "near duplicate (dropped)": ["1", str(len(DIRTY[6].encode()))],
    }
    metadata = read_metadata(tmp_path / "raw" / "metadata.txt")
    assert metadata | {"cleaned": "yes", "documents": "2", "cleaned_duplicate_documents": "1", "cleaned_not_devanagari_bytes": "171"} == metadata
    assert run(tmp_path / "raw", "--source", source, *NO_TOKENIZER) == 2  # what is there is another corpus
    assert "tokenizer, version or --clean" in capsys.readouterr().err
    assert run(tmp_path / "raw", "--source", source, *NO_TOKENIZER, "--clean", "--report") == 2
    assert "without a report" in capsys.readouterr().err
    source = write_corpus(tmp_path / "b.txt", DIRTY[4:6])
    assert run(tmp_path / "none", "--source", source, *NO_TOKENIZER, "--clean") == 2
    assert "omit --clean" in capsys.readouterr().err
    other = write_corpus(tmp_path / "c.txt", DIRTY[4:6])
    assert run(tmp_path / "none", "--source", f"{source}=99", other, *NO_TOKENIZER, "--clean") == 2  # with a budget, it can be resumed
    assert "nothing is left of the text" in capsys.readouterr().err


def test_resumed_cleaned_download_finds_duplicates_from_before_the_stop(tmp_path, tokenizer_dir, little_by_little, monkeypatch, capsys):
    different = [story[:200] for story in itertools.islice(stories(3), 25)]
    texts = [different[i % 25] + " अंत।" * (i % 3) for i in range(40)]
    repos = {"datasets/ai4bharat/sangraha": make_sangraha(tmp_path / "hub", [[*texts, *DIRTY], texts[::-1], [*DIRTY, *texts]], rows_per_group=5)}
    argv = ["--tokenizer", tokenizer_dir, "--max_tokens", ALL, "--report", "--clean"]
    with Hub(repos) as hub:
        hub.take_over(monkeypatch)
        assert run(tmp_path / "straight", *argv) == 0
        straight = read_metadata(tmp_path / "straight" / "metadata.txt")
        assert straight["documents"] == "27"
        straight_page = (tmp_path / "straight" / "cleaning_report.html").read_bytes()
        (tmp_path / "straight" / "cleaning_report.html").unlink()
        for spare in (3, 5, 7):
            hub.faults[:] = [Fault("data-1.parquet bytes", times=1, status=403, spare=spare)]
            assert run(tmp_path / "raw", *argv) == 2
            assert run(tmp_path / "raw", *argv[:-2]) == 2
            assert "cleaned was yes" in capsys.readouterr().err
            kept = read_metadata(tmp_path / "raw" / "hindi_corpus.progress.txt")["documents"]
            assert run(tmp_path / "raw", *argv) == 0
            assert f"to find duplicates: {kept}/{kept} documents" in capsys.readouterr().out
            page = (tmp_path / "raw" / "cleaning_report.html").read_bytes()
            assert page == straight_page
            assert "<mark>अत:</mark> सीता".encode() in page
            (tmp_path / "raw" / "cleaning_report.html").unlink()
            assert corpus_in(tmp_path / "raw") == corpus_in(tmp_path / "straight")
            metadata = read_metadata(tmp_path / "raw" / "metadata.txt")
            assert {**metadata, "created": ""} == {**straight, "created": ""}
            assert int(metadata["cleaned_near_duplicate_documents"]) > 5
            assert "cleaned_examples" not in metadata  # they are on the page
            (tmp_path / "raw" / "hindi_corpus.txt").unlink()


def test_cleaned_download_of_other_rules_is_refused(tmp_path, tokenizer_dir, little_by_little, monkeypatch, capsys):
    repos = {"datasets/ai4bharat/sangraha": make_sangraha(tmp_path / "hub", [ALL_HINDI, ALL_HINDI], rows_per_group=5)}
    argv = ["--tokenizer", tokenizer_dir, "--max_tokens", ALL, "--clean"]
    with Hub(repos) as hub:
        hub.take_over(monkeypatch)
        hub.faults[:] = [Fault("data-1.parquet bytes", times=1, status=403, spare=3)]
        assert run(tmp_path / "raw", *argv) == 2
        progress = tmp_path / "raw" / "hindi_corpus.progress.txt"
        lines = progress.read_text(encoding="utf-8").splitlines(keepends=True)
        progress.write_text("".join(line for line in lines if not line.startswith("cleaning_rules")), encoding="utf-8")  # of an older version
        before = (tmp_path / "raw" / "hindi_corpus.txt.part").read_bytes()
        capsys.readouterr()
        assert run(tmp_path / "raw", *argv) == 2
        assert "this program or a library has changed since" in capsys.readouterr().err
        assert (tmp_path / "raw" / "hindi_corpus.txt.part").read_bytes() == before


# ---- a larger data set, and a faulty hub: the program runs in this process, or in a fork of it,
# without waiting between retries

GROUPED = [standin.documents(40, seed=500 + i) for i in range(6)]  # eight row groups of five documents in each of six files


@pytest.fixture(scope="module")
def grouped(tmp_path_factory) -> dict[str, Path]:
    return {"datasets/ai4bharat/sangraha": make_sangraha(tmp_path_factory.mktemp("grouped"), GROUPED, rows_per_group=5)}


@pytest.fixture
def hub(grouped, monkeypatch) -> Iterator[Hub]:
    with Hub(grouped) as hub:
        hub.take_over(monkeypatch)
        yield hub


@pytest.fixture
def waits(monkeypatch) -> list[float]:
    """Record the seconds that the program, or the library for it, would wait, without waiting."""
    waited = []
    monkeypatch.setattr(time, "sleep", waited.append)
    return waited


@pytest.fixture
def little_by_little(monkeypatch) -> None:
    """Make documents arrive and be recorded a few at a time."""
    monkeypatch.setattr(nano_hindi.corpus.hub, "BATCH_CHARACTERS", 400)
    monkeypatch.setattr(nano_hindi.corpus.sources, "batches", functools.partial(nano_hindi.corpus.documents.batches, characters=400))
    monkeypatch.setattr(nano_hindi.corpus.hub, "TURN", 2)
    monkeypatch.setattr(nano_hindi.corpus.parquet, "PARQUET_ROWS", 4)
    monkeypatch.setattr(download, "RECORD_BYTES", 1000)


@pytest.fixture(scope="module")
def undisturbed(grouped, tokenizer_dir, tmp_path_factory) -> dict[int, bytes]:
    """Return the corpus of each budget used below, from a hub without faults."""
    found = {}
    with pytest.MonkeyPatch.context() as monkeypatch, Hub(grouped) as hub:
        hub.take_over(monkeypatch)
        for budget in (SMALL_BUDGET, ALL):
            folder = tmp_path_factory.mktemp("undisturbed")
            monkeypatch.setattr(nano_hindi.corpus.hub, "TURN", 2)
            assert run(folder, "--tokenizer", tokenizer_dir, "--max_tokens", budget) == 0
            found[budget] = (folder / "hindi_corpus.txt").read_bytes()
    return found


ALL, SMALL_BUDGET = 10**6, 250
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forks of this process")


def fetched(hub: Hub) -> int:
    """Return the requested bytes of parquet files, without the last 64 KiB of each, which pyarrow
    reads for the footer: these files are hardly longer."""
    sizes = [int(last) - int(first) + 1 for first, last in re.findall(r"parquet bytes=(\d+)-(\d+)", "\n".join(hub.requests))]
    return sum(size for size in sizes if size != 65536)


FORKS: list[int] = []  # running forks


@pytest.fixture(autouse=True)
def no_fork_stays() -> Iterator[None]:
    yield
    while FORKS:
        os.kill(FORKS[-1], signal.SIGKILL)
        os.waitpid(FORKS.pop(), 0)


class Fork:
    """`data/download.py ARGV` in a fork of this process, after `prepare()` there."""

    def __init__(self, folder: Path, *argv, prepare: Callable[[], None] = lambda: None):
        self.outputs = folder.with_suffix(".out"), folder.with_suffix(".err")
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # otherwise it warns about the fork
        self.pid = os.fork()
        if self.pid == 0:
            code = 99
            try:
                sys.stdout, sys.stderr = (path.open("w", encoding="utf-8") for path in self.outputs)
                prepare()
                code = download.main([*map(str, argv), "--output_dir", str(folder)])
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        FORKS.append(self.pid)

    def wait(self) -> int:
        """Return the exit code; negative for the signal that ended it."""
        status = os.waitpid(self.pid, 0)[1]
        FORKS.remove(self.pid)
        return os.waitstatus_to_exitcode(status)

    def kill(self, number: int) -> int:
        os.kill(self.pid, number)
        return self.wait()

    @property
    def out(self) -> str:
        return self.outputs[0].read_text(encoding="utf-8")

    @property
    def err(self) -> str:
        return self.outputs[1].read_text(encoding="utf-8")


def recorded(folder: Path) -> int:
    """Return the number of documents in the progress file of a download."""
    progress = folder / "hindi_corpus.progress.txt"
    return int(read_metadata(progress)["documents"]) if progress.exists() else 0


def corpus_in(folder: Path) -> bytes:
    """Return the corpus, after checking that the folder holds only it and metadata.txt."""
    assert sorted(path.name for path in folder.iterdir()) == ["hindi_corpus.txt", "metadata.txt"]
    return (folder / "hindi_corpus.txt").read_bytes()


# which documents of the data set


@pytest.mark.parametrize("rows_per_group", [5, 100], ids=["in small row groups", "in one large row group each"])
def test_tenth_comes_evenly_from_all_files_and_another_seed_takes_another(tmp_path, tokenizer_dir, monkeypatch, rows_per_group):
    files = [[f"{text} {i}.{n}" for n, text in enumerate(standin.documents(100, seed=900 + i))] for i in range(6)]
    tokenizer = load_tokenizer(tokenizer_dir)
    tokens = sum(len(ids) + 2 for texts in files for ids in tokenizer.encode_batch(texts))
    file_of = {text: i for i, texts in enumerate(files) for text in texts}
    folder = make_sangraha(tmp_path / "hub", files, rows_per_group=rows_per_group)
    with Hub({"datasets/ai4bharat/sangraha": folder}) as hub:
        hub.take_over(monkeypatch)
        taken = {}
        for seed, again in ((0, ""), (0, "again"), (1, "")):
            raw = tmp_path / f"raw{seed}{again}"
            assert run(raw, "--tokenizer", tokenizer_dir, "--max_tokens", tokens // 10, "--seed", seed) == 0
            taken[raw.name] = list(read_documents(raw / "hindi_corpus.txt"))
    assert taken["raw0"] == taken["raw0again"]
    if rows_per_group == 5:  # a row group can only be read from its beginning
        assert len(set(taken["raw0"]) & set(taken["raw1"])) < 0.4 * len(taken["raw0"])
    for texts in taken.values():
        assert len(set(texts)) == len(texts)
        assert 0.08 < len(texts) / 600 < 0.12
        for n in range(len(texts)):  # every prefix of the corpus is even
            counts = [sum(file_of[text] == i for text in texts[:n]) for i in range(6)]
            assert max(counts) - min(counts) <= nano_hindi.corpus.hub.TURN


def test_order_of_documents_never_changes(undisturbed):
    """A download started with an older version must resume: this order changes only together with
    `HubTexts.reader`."""
    number = {text: i for i, text in enumerate(text for texts in GROUPED for text in texts)}
    order = [number[text] for text in undisturbed[ALL].decode().removesuffix("\n<|endoftext|>\n").split("\n<|endoftext|>\n")]
    assert order[:14] == [35, 36, 70, 71, 95, 96, 125, 126, 175, 176, 235, 236, 37, 38]
    assert hashlib.blake2b(repr(order).encode(), digest_size=8).hexdigest() == "feaabc67c59fcd78"


@pytest.mark.parametrize("rows_per_group", [50, 400], ids=["in row groups", "in one large row group each"])
def test_a_twentieth_fetches_little_more_than_it_keeps(tmp_path, tokenizer_dir, little_by_little, monkeypatch, rows_per_group):
    """At most 1.5 times the compressed bytes of what it keeps, plus one row group of each file;
    with large row groups a few requests instead."""
    words = [word for text in standin.documents(300) for word in text.split()]
    rng = random.Random(0)
    files = [[" ".join(rng.choices(words, k=rng.randint(20, 200))) for _ in range(400)] for _ in range(6)]
    folder = make_sangraha(tmp_path / "hub", files, rows_per_group=rows_per_group, data_page_size=4096, write_batch_size=10, use_dictionary=False)
    columns = [
        pyarrow.parquet.read_metadata(file).row_group(i).column(1)
        for file in folder.glob("verified/hin/*.parquet")
        for i in range(400 // rows_per_group)
    ]
    compressed = sum(column.total_compressed_size for column in columns) / sum(len(text.encode()) for texts in files for text in texts)
    row_group = max(column.total_compressed_size for column in columns)
    for name in ("PAGE_BUFFER", "READ_AHEAD"):  # scaled down like the files
        monkeypatch.setattr(nano_hindi.corpus.hub, name, getattr(nano_hindi.corpus.hub, name) // 256)
    with Hub({"datasets/ai4bharat/sangraha": folder}) as hub:
        hub.take_over(monkeypatch)
        words = sum(len(text.split()) for texts in files for text in texts)
        assert run(tmp_path / "raw", "--tokenizer", tokenizer_dir, "--max_tokens", int(words * 1.4 / 20)) == 0
        kept = int(read_metadata(tmp_path / "raw" / "metadata.txt")["bytes"])
        assert fetched(hub) < 1.5 * kept * compressed + 6 * min(row_group, 3 * nano_hindi.corpus.hub.PAGE_BUFFER)


# stopped and started again


@pytest.mark.slow
@forks
def test_download_killed_at_any_moment_loses_and_repeats_nothing_on_resume(tmp_path, hub, tokenizer_dir, undisturbed, little_by_little):
    argv = ["--tokenizer", tokenizer_dir, "--max_tokens", SMALL_BUDGET]
    moments = 0

    def killed_at(moment: int) -> Callable[[], None]:
        """Kill the process before its `moment`th call that touches the disk."""

        def prepare():
            calls = 0

            def wrap(real):
                def wrapped(*args, **kwargs):
                    nonlocal calls
                    calls += 1
                    if calls == moment:
                        os.kill(os.getpid(), signal.SIGKILL)
                    return real(*args, **kwargs)

                return wrapped

            os.fsync, os.replace, os.unlink, nano_hindi.corpus.writer.write_document = map(
                wrap, (os.fsync, os.replace, os.unlink, nano_hindi.corpus.writer.write_document)
            )
            Path.unlink = wrap(Path.unlink)

        return prepare

    continued = 0
    while True:
        folder = tmp_path / f"raw{moments}"
        code = Fork(folder, *argv, prepare=killed_at(moments)).wait() if moments else Fork(folder, *argv).wait()
        if moments and code == 0:
            break
        if moments:
            assert code == -signal.SIGKILL
            continued += recorded(folder) > 0
            progress = folder / "hindi_corpus.progress.txt"
            complete = progress.exists() and read_metadata(progress)["complete"] == "yes"
            whole = (folder / "hindi_corpus.txt").exists() and (folder / "metadata.txt").exists()
            # then the hub is not needed; a count of requests could have one of the killed process
            hub.faults[:] = [Fault("", times=99, status=404)] if complete or whole else []
            hub.requests.clear()
            assert run(folder, *argv) == 0
            assert hub.requests or complete or whole
            hub.faults.clear()
        assert corpus_in(folder) == undisturbed[SMALL_BUDGET], moments
        metadata = read_metadata(folder / "metadata.txt")
        assert int(metadata["documents"]) == len(list(read_documents(folder / "hindi_corpus.txt")))
        assert metadata.keys() == read_metadata(tmp_path / "raw0" / "metadata.txt").keys()
        moments += 1
    assert moments > 25
    assert continued > 10


@forks
@pytest.mark.parametrize("name", ["SIGKILL", "SIGINT"])
@pytest.mark.parametrize("trouble", ["stall", "back-off"])
def test_download_stopped_while_waiting_for_the_hub_resumes(tmp_path, hub, tokenizer_dir, undisturbed, little_by_little, name, trouble):
    number = getattr(signal, name)  # Windows has no SIGKILL
    code = 130 if number == signal.SIGINT else -number
    folder, argv = tmp_path / "raw", ["--tokenizer", tokenizer_dir, "--max_tokens", ALL]
    how = {"stall": 100} if trouble == "stall" else {"status": 503, "headers": {"Retry-After": "9999"}}
    fault = Fault(r"data-3.parquet bytes", times=99, spare=7, **how)
    hub.faults.append(fault)
    fork = Fork(folder, *argv)
    wait_until(lambda: fault.times < 99 and recorded(folder) > 20, "the fault")
    assert fork.kill(number) == code  # without this it would wait for hours, until the test times out
    if number == signal.SIGINT:
        assert fork.err.strip() == "stopped"
        assert "hindi_corpus.txt.part is kept; run the same command to resume" in fork.out
    before = read_metadata(folder / "hindi_corpus.progress.txt")
    hub.faults.clear()
    hub.closing.set()  # what is still stalled
    fork = Fork(folder, *argv)
    assert fork.wait() == 0
    assert f"resuming {folder / 'hindi_corpus.txt.part'}: {before['documents']} documents, {int(before['tokens']):,} tokens so far" in fork.out
    assert corpus_in(folder) == undisturbed[ALL]


def interrupted(folder: Path, hub: Hub, tokenizer_dir: Path) -> None:
    """Start a download of everything that is interrupted halfway."""
    hub.faults.append(Fault("data-2.parquet bytes", times=1, status=403, spare=8))
    assert run(folder, "--tokenizer", tokenizer_dir, "--max_tokens", ALL) == 2
    assert recorded(folder) > 20


def test_unfinished_download_of_another_command_is_kept_with_a_one_line_error(tmp_path, hub, tokenizer_dir, undisturbed, little_by_little, capsys):
    folder, same = tmp_path / "raw", ["--tokenizer", tokenizer_dir, "--max_tokens", ALL]
    interrupted(folder, hub, tokenizer_dir)
    other_tokenizer = standin.make_tokenizer(tmp_path / "other", vocab_size=512)
    story = write_corpus(tmp_path / "a.txt", ["एक"])
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    hub.requests.clear()
    others = {
        "max_tokens was 1000000": [*same[:3], 5000],
        "seed was 0": [*same, "--seed", 1],
        f"tokenizer was {tokenizer_dir}": ["--tokenizer", other_tokenizer, "--max_tokens", ALL],
        "source was ai4bharat/sangraha": ["--source", story, *NO_TOKENIZER],
    }
    for words, argv in others.items():
        capsys.readouterr()
        assert run(folder, *argv) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert words in error
        assert "resume it with the command and the version that started it; --overwrite starts over" in error
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert hub.requests == []
    capsys.readouterr()
    assert run(folder, *same, "--overwrite") == 0  # the same command resumes even with --overwrite
    assert "resuming" in capsys.readouterr().out
    assert corpus_in(folder) == undisturbed[ALL]

    (folder / "hindi_corpus.txt").unlink()
    interrupted(folder, hub, tokenizer_dir)
    assert run(folder, *others["source was ai4bharat/sangraha"], "--overwrite") == 0
    assert list(read_documents(folder / "hindi_corpus.txt")) == ["एक"]
    corpus_in(folder)


def complete_part(folder: Path) -> UnfinishedCorpus:
    unfinished = UnfinishedCorpus(folder / "hindi_corpus.txt")
    with unfinished.open(0) as file:
        file.write("राम\n".encode())
        unfinished.record(file, {"written": 10, "documents": 1, "complete": "yes"})
    return unfinished


def test_part_shorter_than_recorded_is_not_continued(tmp_path):
    unfinished = complete_part(tmp_path)
    assert unfinished.is_complete
    unfinished.claim({}, overwrite=False)
    os.truncate(unfinished.part, 9)
    assert not unfinished.is_complete
    with pytest.raises(UserError, match="too short or missing"):
        unfinished.claim({}, overwrite=False)


def test_metadata_of_the_old_corpus_goes_before_the_new_corpus_comes(tmp_path, monkeypatch):
    unfinished, metadata = complete_part(tmp_path), tmp_path / "metadata.txt"
    metadata.write_text("documents: 2\n")
    monkeypatch.setattr("nano_hindi.corpus.unfinished_corpus.rename", lambda *_: 1 / metadata.exists())  # as if killed there
    with pytest.raises(ZeroDivisionError):
        unfinished.finish()


@pytest.mark.parametrize("changed", ["tokenizer", "reader"])
def test_changed_tokenizer_or_reader_requires_overwrite_to_start_over(tmp_path, hub, tokenizer_dir, undisturbed, little_by_little, capsys, changed):
    tokenizer, folder = standin.make_tokenizer(tmp_path / "tokenizer"), tmp_path / "raw"
    interrupted(folder, hub, tokenizer)
    if changed == "tokenizer":
        standin.make_tokenizer(tmp_path / "tokenizer", vocab_size=512)
    else:  # an unfinished download of the version before `datasets`
        progress = read_metadata(folder / "hindi_corpus.progress.txt")
        write_metadata(folder / "hindi_corpus.progress.txt", {key: progress[key] for key in progress if key not in ("position", "reader")})
    argv = ["--tokenizer", tokenizer, "--max_tokens", ALL]
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert run(folder, *argv) == 2
    assert "its tokenizer, this program or a library has changed since" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert run(folder, *argv, "--overwrite") == 0
    assert corpus_in(folder) == undisturbed[ALL]


def test_resume_uses_the_revision_it_started_with_after_the_hub_and_the_library_changed(
    tmp_path, hub, tokenizer_dir, undisturbed, little_by_little, monkeypatch
):
    import datasets

    interrupted(tmp_path / "raw", hub, tokenizer_dir)
    monkeypatch.setattr(datasets, "__version__", f"{datasets.__version__.split('.')[0]}.999.0")
    hub.earlier[hub.commit] = dict(hub.repos)
    hub.repos = {"datasets/ai4bharat/sangraha": make_sangraha(tmp_path / "new", [standin.documents(9, seed=77)])}
    began, hub.commit = hub.commit, "feed" * 10
    assert run(tmp_path / "raw", "--tokenizer", tokenizer_dir, "--max_tokens", ALL) == 0
    assert corpus_in(tmp_path / "raw") == undisturbed[ALL]
    assert read_metadata(tmp_path / "raw" / "metadata.txt")["revision"] == began
    assert run(tmp_path / "raw", "--tokenizer", tokenizer_dir, "--max_tokens", ALL, "--overwrite") == 0  # a new download uses the new revision
    assert sorted(read_documents(tmp_path / "raw" / "hindi_corpus.txt")) == sorted(standin.documents(9, seed=77))


# several sources


ARTICLES = [[f"{text} लेख {i}.{n}" for n, text in enumerate(standin.documents(30, seed=700 + i))] for i in range(2)]


@pytest.fixture
def wikipedia(hub, tmp_path) -> None:
    """Add Hindi Wikipedia, and other languages of it, to the hub."""
    folder = make_dataset(tmp_path / "wikipedia", ARTICLES, "20231101.hi", rows_per_group=5)
    hub.repos = hub.repos | {"datasets/wikimedia/wikipedia": make_dataset(folder, [["not Hindi"]], "20231101.en")}


def test_several_sources_follow_each_other_up_to_their_budgets(tmp_path, hub, wikipedia, tokenizer_dir, undisturbed, little_by_little, capsys):
    file = write_corpus(tmp_path / "a.txt", standin.documents(50, seed=3))
    tokenizer, alone = ["--tokenizer", tokenizer_dir], {}
    for source, budget in (("sangraha", 900), ("wikipedia", 500), (str(file), 400)):
        assert run(tmp_path / "alone", "--source", source, "--max_tokens", budget, *tokenizer, "--overwrite") == 0
        alone[source] = corpus_in(tmp_path / "alone"), read_metadata(tmp_path / "alone" / "metadata.txt")
    capsys.readouterr()
    assert run(tmp_path / "raw", "--source", "sangraha=900", "wikipedia=500", f"{file}=400", *tokenizer) == 0
    assert corpus_in(tmp_path / "raw") == b"".join(corpus for corpus, _ in alone.values())
    metadata, output = read_metadata(tmp_path / "raw" / "metadata.txt"), capsys.readouterr().out
    assert metadata["source"] == f"ai4bharat/sangraha verified/hin, wikimedia/wikipedia 20231101.hi, {file}"
    for number, (_, of_one) in enumerate(alone.values(), 1):
        for key in ("source", "max_tokens", "documents", "tokens", "revision", "licence"):
            assert metadata.get(f"source_{number}_{key}" if key != "source" else f"source_{number}") == of_one.get(key), (number, key)
        assert f"{of_one['source']}: {of_one['documents']} documents, {int(of_one['tokens']):,} tokens" in output
    assert metadata["source_2_licence"] == "CC BY-SA 4.0 and GFDL, wikimedia/wikipedia (https://huggingface.co/datasets/wikimedia/wikipedia)"
    assert metadata["max_tokens"] == "1800"

    # sources without a budget divide evenly what is left of --max_tokens, which bounds the whole
    assert run(tmp_path / "rest", "--source", file, "sangraha=900", "wikipedia", *tokenizer, "--max_tokens", 900 + 2 * 500) == 0
    metadata = read_metadata(tmp_path / "rest" / "metadata.txt")
    assert [metadata[f"source_{n}_max_tokens"] for n in (1, 2, 3)] == ["500", "900", "500"]
    corpus = corpus_in(tmp_path / "rest")
    assert alone["sangraha"][0] in corpus
    assert alone[str(file)][0] == corpus[: len(alone[str(file)][0])]
    assert run(tmp_path / "bounded", "--source", "sangraha=900", "wikipedia=500", f"{file}=400", *tokenizer, "--max_tokens", 950) == 0
    metadata = read_metadata(tmp_path / "bounded" / "metadata.txt")
    assert corpus_in(tmp_path / "bounded").startswith(alone["sangraha"][0])
    assert 950 <= int(metadata["tokens"]) < 1100
    assert metadata["source_3_documents"] == "0"


def test_names_of_sangraha_are_its_hindi_folders(tmp_path, hub, tokenizer_dir):
    assert run(tmp_path / "raw", "--source", "sangraha-unverified", "sangraha-synthetic", "--tokenizer", tokenizer_dir) == 0
    assert len(list(read_documents(tmp_path / "raw" / "hindi_corpus.txt"))) == 80
    assert {re.search(r"[^/]+/[^/]+/[^/]+\.parquet", r)[0].rpartition("/")[0] for r in hub.requests if ".parquet" in r} == {
        "unverified/hin",
        "synthetic/hin_Deva",
    }


@pytest.mark.slow
@forks
def test_download_of_several_sources_resumes_after_kills_and_full_disks(tmp_path, hub, wikipedia, tokenizer_dir, little_by_little):
    import resource

    texts = [*(text for texts in ARTICLES for text in texts[:15]), *(story[:300] for story in itertools.islice(stories(3), 20))]
    file = write_corpus(tmp_path / "a.txt", texts)
    argv = ["--source", "sangraha=600", "wikipedia=700", f"{file}=900", "sample=2500", "--clean", "--tokenizer", tokenizer_dir]
    straight = tmp_path / "straight"
    assert run(straight, *argv) == 0
    expected, metadata = corpus_in(straight), read_metadata(straight / "metadata.txt")
    assert int(metadata["cleaned_duplicate_documents"]) > 2  # between the articles and the file

    def killed_at(documents: int) -> Callable[[], None]:
        def prepare():
            real, calls = nano_hindi.corpus.writer.write_document, itertools.count()

            def write(file, text):
                if next(calls) == documents:
                    file.flush()  # what is not recorded must not stay
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(file, text)

            nano_hindi.corpus.writer.write_document = write

        return prepare

    def limited_to(size: int) -> Callable[[], None]:
        return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    stops = {f"kill{n}": (killed_at(n), -signal.SIGKILL) for n in range(3, int(metadata["documents"]), 11)}
    stops |= {f"full{n}": (limited_to(len(expected) * n // 10), 2) for n in (3, 6, 9)}
    reached = set()
    for name, (prepare, code) in stops.items():
        folder = tmp_path / name
        fork = Fork(folder, *argv, prepare=prepare)
        assert fork.wait() == code
        full = r"error: .*File too large; make room, or choose another folder, then run the same command again\n"
        assert re.fullmatch(full if code == 2 else "", fork.err)
        progress = folder / "hindi_corpus.progress.txt"
        reached.add(read_metadata(progress)["source_in_progress"] if progress.exists() else "none")
        hub.requests.clear()
        assert run(folder, *argv) == 0
        assert corpus_in(folder) == expected, name
        assert {**read_metadata(folder / "metadata.txt"), "created": ""} == {**metadata, "created": ""}
    assert reached >= {"1", "2", "3", "4"}


def test_near_duplicates_are_found_between_the_sources(tmp_path, capsys):
    first, second = write_corpus(tmp_path / "a.txt", DIRTY[:3]), write_corpus(tmp_path / "b.txt", DIRTY[3:])
    assert run(tmp_path / "raw", "--source", f"{first}=100", second, *NO_TOKENIZER, "--clean") == 0
    assert list(read_documents(tmp_path / "raw" / "hindi_corpus.txt")) == CLEANED
    metadata = read_metadata(tmp_path / "raw" / "metadata.txt")
    found = {f"cleaned_{rule}_documents": metadata[f"cleaned_{rule}_documents"] for rule in ("duplicate", "near_duplicate")}
    assert found == {"cleaned_duplicate_documents": "1", "cleaned_near_duplicate_documents": "1"}
    assert (metadata["source_1_documents"], metadata["source_2_documents"]) == ("2", "0")


def test_copy_of_a_document_that_the_budget_left_out_is_kept(tmp_path, tokenizer_dir):
    texts = list(itertools.islice(stories(3), 30))
    first, second = write_corpus(tmp_path / "a.txt", texts[:20]), write_corpus(tmp_path / "b.txt", texts[5:])
    sizes = [len(ids) + 2 for ids in load_tokenizer(tokenizer_dir).encode_batch(texts)]
    argv = ["--source", f"{first}={sum(sizes[:8])}", f"{second}=1000000", "--tokenizer", tokenizer_dir, "--clean"]
    assert run(tmp_path / "raw", *argv) == 0
    assert list(read_documents(tmp_path / "raw" / "hindi_corpus.txt")) == texts  # each of them once, and only three are dropped
    assert read_metadata(tmp_path / "raw" / "metadata.txt")["cleaned_duplicate_documents"] == "3"


def test_report_on_the_old_text_goes_when_the_text_is_replaced(tmp_path, capsys):
    source, out = write_corpus(tmp_path / "a.txt", CLEANED), tmp_path / "raw"
    argv = ["--source", source, *NO_TOKENIZER, "--clean"]
    assert run(out, *argv, "--report") == 0
    write_corpus(source, [*CLEANED, LONG + "तीसरा। " + OTHER])
    assert run(out, *argv, "--overwrite") == 0
    assert run(out, *argv, "--report") == 2
    assert "without a report" in capsys.readouterr().err


# other data sets


@pytest.fixture
def news(hub, tmp_path) -> Path:
    """Add a data set with two folders, of parquet and of jsonl files, to the hub."""
    folder = make_dataset(tmp_path / "news", ARTICLES, "old", column="body", rows_per_group=5)
    for i, texts in enumerate(ARTICLES):
        for split, part in (("train", texts[:20]), ("test", texts[20:])):
            path = folder / "new" / f"{split}-{i:05}-of-00002.jsonl"
            path.parent.mkdir(exist_ok=True)
            lines = [json.dumps({"id": n, "body": text}, ensure_ascii=False) for n, text in enumerate(part)]
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    configs = "configs:\n- config_name: old\n  data_files: old/*\n- config_name: new\n  data_files: new/*\n"
    (folder / "README.md").write_text(f"---\nlicense: [cc0-1.0, odc-by]\n{configs}---\n# News\n", encoding="utf-8")
    hub.repos = hub.repos | {"datasets/org/news": folder}
    return folder


def test_any_data_set_is_downloaded_with_the_licence_of_its_card(tmp_path, hub, news, tokenizer_dir, little_by_little, monkeypatch, capsys):
    argv = ["--dataset", "org/news", "--column", "body", "--tokenizer", tokenizer_dir]
    hub.strip = "/mirror"
    hub.take_over(monkeypatch)
    assert run(tmp_path / "old", *argv, "--data_dir", "old") == 0
    assert sorted(read_documents(tmp_path / "old" / "hindi_corpus.txt")) == sorted(text for texts in ARTICLES for text in texts)
    metadata = read_metadata(tmp_path / "old" / "metadata.txt")
    assert metadata["source"] == "org/news old, column body"
    assert metadata["licence"] == "cc0-1.0 and odc-by, org/news (https://huggingface.co/datasets/org/news)"

    # jsonl, which is resumed too; a split; and no card
    (news / "README.md").unlink()
    hub.commit = "feed" * 10
    hub.take_over(monkeypatch)
    for split, part in (("train", slice(20)), ("test", slice(20, 30))):
        folder, wanted = tmp_path / split, [*argv, "--data_dir", "new", "--split", split]
        with monkeypatch.context() as stopped:
            stopped.setattr(nano_hindi.corpus.writer, "write_document", stops_at(13))
            assert run(folder, *wanted) == 130
        assert 5 < recorded(folder) < 13
        assert run(folder, *wanted) == 0
        assert sorted(read_documents(folder / "hindi_corpus.txt")) == sorted(text for texts in ARTICLES for text in texts[part])
    assert (
        read_metadata(tmp_path / "test" / "metadata.txt")["licence"] == "see the data set's page, org/news (https://huggingface.co/datasets/org/news)"
    )


def test_json_lines_with_other_fields_than_the_first_are_read(tmp_path, hub, news, tokenizer_dir):
    """Only the field of the text must have the same type everywhere."""
    more = [{"body": "तीन चार", "id": "पाँच"}, {"body": "छह", "url": "x"}, {"body": "सात", "meta": {"a": 1}}, {"body": "आठ", "meta": {"b": "c"}}]
    more.append({"body": None})  # no text: it is left out
    (news / "new" / "train-00002.jsonl").write_text("".join(json.dumps(record) + "\n" for record in more))
    card = (news / "README.md").read_text(encoding="utf-8")
    (news / "README.md").write_text(card.replace("[cc0-1.0, odc-by]", "other\nlicense_name: news-licence"), encoding="utf-8")
    assert run(tmp_path / "raw", "--dataset", "org/news", "--data_dir", "new", "--column", "body", "--tokenizer", tokenizer_dir) == 0
    assert read_metadata(tmp_path / "raw" / "metadata.txt")["licence"].startswith("news-licence, org/news")
    texts = [*(text for texts in ARTICLES for text in texts[:20]), *(record["body"] for record in more[:-1])]
    assert sorted(read_documents(tmp_path / "raw" / "hindi_corpus.txt")) == sorted(texts)


def test_files_that_cannot_be_read_are_one_line_that_does_not_blame_the_connection(tmp_path, hub, news, tokenizer_dir, waits, monkeypatch, capsys):
    monkeypatch.delitem(fsspec.compression.compr, "zstd", raising=False)  # as without zstandard
    contents = {
        "zst/train.jsonl.zst": b"",
        "gz/train.jsonl.gz": b"damaged",
        "bytes/train.jsonl": b'{"text": "a"}\n{"text": "\xff"}\n',
        "parquet/train.parquet": b"damaged",
        "line/train.jsonl": b'{"text": "a"}' + b" " * JSON_READ + b'\n{"text": "b\n',
    }
    for name, content in contents.items():  # all first: huggingface_hub 1 keeps the list of a repo's files
        (news / name).parent.mkdir()
        (news / name).write_bytes(content)
    for folder in (name.partition("/")[0] for name in contents):
        assert run(tmp_path / "raw", "--dataset", "org/news", "--data_dir", folder, "--tokenizer", tokenizer_dir) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: org/news {folder} cannot be read (")
        assert "give them as --source PATH" in error
        assert error.count("\n") == 1
        if folder != "line":
            assert waits == ([*BACKOFF] if folder == "parquet" else [])  # what pyarrow cannot read may be a fault of the transfer
    assert waits == [*BACKOFF, *RESTARTS]


def test_wrong_names_in_a_data_set_are_one_line_with_the_right_ones(tmp_path, hub, news, tokenizer_dir, waits, capsys):
    for column in ("body", "text"):  # one file of two has the column
        make_dataset(news, ARTICLES[: 2 if column == "body" else 1], "mixed", column=column)
    (news / "array").mkdir()
    (news / "array" / "train.json").write_text('[{"text": "a"}]')
    for argv, words in {
        ("--dataset", "org/nothing"): ("org/nothing is not available from the hub (HTTP 404)", "check the name"),
        ("--dataset", "org/news"): ("name the folder of its files with --data_dir", "'old', 'new'"),
        ("--dataset", "org/news", "--data_dir", "older"): ("org/news older has no parquet or jsonl files; check --data_dir",),
        ("--dataset", "org/news", "--data_dir", "old"): (
            "org/news old has no column 'text' of text, only doc_id, body, type; name one with --column",
        ),
        ("--dataset", "org/news", "--data_dir", "new", "--column", "id"): ("no column 'id' of text, only id, body",),
        ("--dataset", "org/news", "--data_dir", "new", "--split", "dev"): ("has no split 'dev'", "'train', 'test'", "--split"),
        ("--dataset", "org/news", "--data_dir", "mixed"): ("mixed/data-1.parquet has no column 'text', only doc_id, body, type",),
        ("--dataset", "org/news", "--data_dir", "array"): ("org/news array has json files that are not JSON lines", "--data_dir"),
    }.items():
        assert run(tmp_path / "raw", *argv, "--tokenizer", tokenizer_dir) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert all(word in error for word in words), error
        assert not list(tmp_path.glob("raw/*"))
    assert waits == []


def test_gated_source_among_several_is_one_line_before_the_download_begins(tmp_path, hub, news, tokenizer_dir, waits, monkeypatch, capsys):
    hub.gated = frozenset({"datasets/org/news"})
    monkeypatch.setenv("HF_TOKEN", "")
    argv = ["--source", "sangraha=500", "--dataset", "org/news=500", "--data_dir", "old", "--column", "body", "--tokenizer", tokenizer_dir]
    for token, status in (("", 401), ("hf_mine", 403)):
        monkeypatch.setenv("HF_TOKEN", token)
        assert run(tmp_path / "raw", *argv) == 2
        error = capsys.readouterr().err
        assert f"org/news is not available from the hub (HTTP {status}: Access to dataset org/news is restricted" in error
        assert (
            "accept the terms on its page (https://huggingface.co/datasets/org/news), and log in as that user (HF_TOKEN, or `hf auth login`)" in error
        )
        assert error.count("\n") == 1
        assert not list(tmp_path.glob("raw/*"))
    assert waits == []
    hub.gated = frozenset()
    assert run(tmp_path / "raw", *argv) == 0
    assert read_metadata(tmp_path / "raw" / "metadata.txt")["source_2_documents"] > "0"


# a faulty hub


@pytest.mark.parametrize(
    "fault",
    [
        Fault("parquet bytes", times=12, every=3, cut=5),
        Fault("parquet bytes", times=12, every=3, hang_up=True),
        Fault("parquet bytes", times=12, every=3, status=429),
        Fault("parquet bytes", times=12, every=3, status=503),
        Fault("parquet bytes", times=1, spare=20, status=416),
        Fault("parquet bytes", times=1, spare=20, short=True),
        Fault("parquet bytes", times=1, every=3, stall=10),
        Fault("parquet bytes", times=1, every=3, delay=60),
        Fault("/api/datasets", times=5, status=503),
        Fault("/api/datasets", times=2, hang_up=True),
        Fault("/api/datasets", times=1, stall=20),
    ],
    ids=lambda fault: ", ".join(f"{key}={value}" for key, value in vars(fault).items() if value),
)
def test_temporary_faults_do_not_change_the_corpus(tmp_path, hub, tokenizer_dir, undisturbed, little_by_little, waits, monkeypatch, capsys, fault):
    # 1 only where it is awaited: a busy machine can hold up any answer for a second
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 1 if fault.stall or fault.delay else PATIENCE)
    times = fault.times
    hub.faults.append(fault)
    assert run(tmp_path / "raw", "--tokenizer", tokenizer_dir, "--max_tokens", ALL) == 0
    assert fault.times == 0
    assert corpus_in(tmp_path / "raw") == undisturbed[ALL]
    output = capsys.readouterr()
    assert output.err == ""
    assert output.out.count("notice: a request to the hub failed") >= times


def assert_refused(argv: list, folder: Path, capfd, *messages: str) -> None:
    """Check that a download is one error line, also of the libraries, and writes nothing."""
    assert run(folder, *argv) == 2
    error = capfd.readouterr().err
    for message in (*messages, "--source PATH"):
        assert message in error
    assert error.count("\n") == 1
    assert not list(folder.glob("*"))


def test_refused_token_and_unaccepted_terms_show_the_message_of_the_hub(tmp_path, hub, tokenizer_dir, monkeypatch, capfd):
    argv, folder, hub.token = ["--tokenizer", tokenizer_dir], tmp_path / "raw", "hf_good"
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    assert_refused(argv, folder, capfd, "HTTP 401: Invalid credentials", "HF_TOKEN (or what `hf auth login` stored) is wrong or has expired")
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    hub.gated = frozenset(hub.repos)
    assert_refused(argv, folder, capfd, "HTTP 403: Access to dataset ai4bharat/sangraha is restricted", "accept the terms")
    hub.gated = frozenset()
    assert run(folder, *argv) == 0


def test_unreachable_hub_is_one_line_after_a_few_seconds_and_local_files_need_none(tmp_path, hub, tokenizer_dir, waits, capfd):
    hub.server.shutdown()
    hub.server.socket.close()
    assert run(tmp_path / "raw", "--tokenizer", tokenizer_dir) == 2
    output = capfd.readouterr()
    assert re.fullmatch(r"error: ai4bharat/sangraha is not available from the hub .*--source PATH\n", output.err)
    assert output.out.count("retrying") == len(waits) == nano_hindi.corpus.hub.FIRST_CONTACT
    assert not list(tmp_path.glob("raw/*"))
    source = write_corpus(tmp_path / "a.txt", ["एक दो"])  # the tokenizer is requested once, then words are counted
    assert run(tmp_path / "raw", "--source", source, "--tokenizer", "someone/something") == 0
    assert "1 document, 2 words" in capfd.readouterr().out


def test_restarts_are_counted_from_the_last_documents_that_arrived(monkeypatch, waits):
    """A download of days may meet more faults than are retried in a row."""
    import datasets

    class Stream:
        """Return one document, and fail before the next."""

        def __init__(self, *_, **__):
            self.state = 0

        def load_state_dict(self, state: int) -> None:
            self.state = state

        def state_dict(self) -> int:
            return self.state

        def __iter__(self) -> Iterator[dict[str, list[str]]]:
            if self.state < 9:
                self.state += 1
                yield {"text": [f"document {self.state}"]}
                raise ConnectionError("reset by peer")

    monkeypatch.setattr(datasets, "interleave_datasets", Stream)
    monkeypatch.setattr(nano_hindi.corpus.hub, "BATCH_CHARACTERS", 1)
    texts = object.__new__(HubTexts)
    texts.source, texts._files = HubFolder("org/news"), []
    assert list(texts._batches(None)) == [([f"document {i}"], i) for i in range(1, 10)]
    assert waits == [RESTARTS[0]] * 9


def test_persistent_faults_end_in_one_line_after_minutes_and_resume_works(tmp_path, hub, tokenizer_dir, undisturbed, little_by_little, waits, capsys):
    argv = ["--tokenizer", tokenizer_dir, "--max_tokens", ALL]
    storm = Fault(r"data-1.parquet bytes", times=10**6, status=503, spare=8)
    hub.faults.append(storm)
    assert run(tmp_path / "raw", *argv) == 2
    output = capsys.readouterr()
    assert re.fullmatch(r"error: .*HTTP 503.*run the same command again: it continues where it stopped.*\n", output.err)
    assert 120 < sum(waits) < 900
    assert 10**6 - storm.times < 100  # and the number of retries is bounded
    assert "notice: a request to the hub failed (HTTP 503); retrying in 10 s (1 of 3)" in output.out
    hub.faults.clear()
    assert recorded(tmp_path / "raw") > 20
    assert run(tmp_path / "raw", *argv) == 0
    assert corpus_in(tmp_path / "raw") == undisturbed[ALL]


@pytest.mark.parametrize(
    ("headers", "wanted"),
    [
        ({}, 1),
        ({"Retry-After": "77"}, 77),
        ({"Retry-After": "99999"}, 300),
        ({"Retry-After": "Fri, 31 Dec 2399 23:59:59 GMT"}, 300),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 1),
        ({"RateLimit": '"api";r=0;t=55'}, 55),
        ({"Retry-After": "soon"}, 1),
    ],
)
def test_retry_after_is_respected_up_to_a_limit(tmp_path, hub, tokenizer_dir, waits, headers, wanted):
    hub.faults.append(Fault("/api/datasets", times=1, status=429, headers=headers))
    assert run(tmp_path / "raw", "--tokenizer", tokenizer_dir, "--max_tokens", 50) == 0
    assert waits[0] == wanted


# mirrors


@pytest.mark.parametrize(
    "mirror",
    [{"siblings"}, {"size"}, {"sha", "siblings"}],
    ids=["no siblings", "no size", "neither sha nor siblings"],  # the repr of a set differs between the processes of pytest-xdist
)
def test_mirror_with_less_metadata_gives_the_same_corpus(tmp_path, hub, tokenizer_dir, undisturbed, little_by_little, mirror):
    hub.unlisted = mirror
    assert run(tmp_path / "raw", "--tokenizer", tokenizer_dir, "--max_tokens", ALL) == 0
    assert corpus_in(tmp_path / "raw") == undisturbed[ALL]


def test_mirror_without_range_requests_is_a_one_line_error(tmp_path, tokenizer_dir, monkeypatch, waits, capsys):
    with Hub({"datasets/ai4bharat/sangraha": make_sangraha(tmp_path / "hub", [standin.documents(1500)])}, knows_ranges=False) as hub:
        hub.take_over(monkeypatch)
        assert run(tmp_path / "raw", "--tokenizer", tokenizer_dir) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ai4bharat/sangraha verified/hin cannot be read (ArrowInvalid: ")
    assert "use another mirror if HF_ENDPOINT names one" in error
    assert error.count("\n") == 1
