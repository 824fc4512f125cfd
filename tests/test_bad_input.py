"""User errors, as a table over the four scripts: each row exits with code 2, prints one line that
names the error and says what to do, and changes nothing.

A row is a way through a script. What one reader refuses has its table beside the reader: numbers in
test_config.py, texts in test_documents.py, prepared data in test_dataloader.py, checkpoints in
test_checkpoint.py and test_resume.py."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import os
import shutil
import socket
import sys
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import pytest
import torch

import generate
import standin
import train
from conftest import SMALL, as_nobody, run_script
from data import download, preprocess
from nano_hindi.checkpoint import list_checkpoints

MAINS = {"data/download.py": download.main, "data/preprocess.py": preprocess.main, "train.py": train.main, "generate.py": generate.main}
LONG = "n" * 300  # longer than file systems allow for a name
HINDI = "नदी के किनारे एक पुराना पेड़ था।"


class Scene:
    """A folder for one user error, with everything the command may touch. The methods create what
    is wrong and return its path."""

    def __init__(self, folder: Path, data_dir: Path, run: Path, monkeypatch):
        self.folder, self._data_dir, self._run, self.monkeypatch = folder, data_dir, run, monkeypatch
        self.out, self.as_nobody = folder / "out", False
        self.texts = standin.documents(60)
        monkeypatch.chdir(folder)
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "NANO_HINDI_ATTENTION"):
            monkeypatch.delenv(name, raising=False)

    # ---- files

    def file(self, name: str | Path, content: str | bytes = HINDI) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def having(self, *names: str) -> Scene:
        """Create files that exist already, or folders where a name ends with a slash."""
        for name in names:
            self.subfolder(name) if name.endswith("/") else self.file(name)
        return self

    def subfolder(self, name: str) -> Path:
        (self.folder / name).mkdir(parents=True)
        return self.folder / name

    def link(self, name: str, target: str) -> Path:
        try:
            (self.folder / name).symlink_to(target)
        except OSError:
            pytest.skip("cannot make symbolic links")
        return self.folder / name

    def forbidden(self, path: Path, mode: int) -> Path:
        """Give `path` the permissions `mode`; root becomes another user until the test ends."""
        if os.name == "nt":
            pytest.skip("Windows has no POSIX permissions")
        self.as_nobody = os.geteuid() == 0
        path.chmod(mode)
        return path

    def rights(self) -> contextlib.AbstractContextManager[None]:
        """Return the context to run the command in: that of another user if the test forbids
        something, which root may do all the same."""
        if not self.as_nobody:
            return contextlib.nullcontext()
        self.folder.chmod(0o777)
        return as_nobody(self.folder.parent)

    def parquet(self, columns: dict) -> Path:
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.table(columns), self.folder / "pages.parquet")
        return self.folder / "pages.parquet"

    def corpus(self, texts: list[str] | None = None) -> Path:
        return standin.write_corpus(self.folder / "corpus.txt", self.texts if texts is None else texts)

    def tokenizer(self, change: Callable[[dict], object] | None = None, config: dict | None = None) -> Path:
        """Write a stand-in tokenizer whose tokenizer.json went through `change`; `config` replaces
        tokenizer_config.json."""
        folder = standin.make_tokenizer(self.folder / "tokenizer", vocab_size=512)
        if change:
            description = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
            change(description)
            (folder / "tokenizer.json").write_text(json.dumps(description), encoding="utf-8")
        if config is not None:
            (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
        return folder

    # ---- prepared data and runs

    def data(self, change: Callable[[Path], object] = lambda folder: None) -> Path:
        """Copy valid data, then apply `change`."""
        folder = self.folder / "data"
        if not folder.exists():
            folder.mkdir()
            for name in ("train.bin", "val.bin", "preprocess_meta.txt"):
                shutil.copyfile(self._data_dir / name, folder / name)
            shutil.copytree(self._data_dir / "tokenizer", folder / "tokenizer")
        change(folder)
        return folder

    def metadata(self, **changes) -> Path:
        """Copy valid data and change fields of its preprocess_meta.txt."""

        def change(folder: Path) -> None:
            lines = (folder / "preprocess_meta.txt").read_text(encoding="utf-8").splitlines()
            lines = [f"{key}: {changes[key]}" if (key := line.split(":")[0]) in changes else line for line in lines]
            (folder / "preprocess_meta.txt").write_text("\n".join(lines), encoding="utf-8")

        return self.data(change)

    def cut(self, name: str, size: int, **changes) -> Path:
        """Copy valid data and truncate its file `name` to `size` bytes; `changes` are fields
        of its metadata."""
        os.truncate(self.data() / name, size)
        return self.metadata(**changes) if changes else self.data()

    def other_tokenizer(self, folder: Path) -> Path:
        shutil.rmtree(folder / "tokenizer")
        standin.make_tokenizer(folder / "tokenizer", vocab_size=513)
        return folder

    def run(self) -> Path:
        """Return a folder that holds a run: the last checkpoint and its tokenizer."""
        folder = self.subfolder("run")
        shutil.copyfile(self.good_checkpoint, folder / self.good_checkpoint.name)
        shutil.copytree(self._run / "tokenizer", folder / "tokenizer")
        return folder

    @property
    def good_checkpoint(self) -> Path:
        return list_checkpoints(self._run)[0][1]

    def checkpoint(self, content: bytes | Callable[[dict], object]) -> Path:
        """Write a run whose checkpoint holds `content`, or was changed by it. Returns the path of
        the checkpoint."""
        path = self.run() / self.good_checkpoint.name
        if callable(content):
            state = torch.load(path, weights_only=True)
            content(state)
            torch.save(state, path)
        else:
            path.write_bytes(content)
        return path

    def bomb(self) -> bytes:
        """Return a pickle that makes a folder when it is loaded."""
        target = self.folder / "the pickle was run"

        class Bomb:
            def __reduce__(self):
                return os.mkdir, (str(target),)

        return saved({"format": Bomb()})

    # ---- surroundings

    def env(self, **values: str) -> Scene:
        for name, value in values.items():
            self.monkeypatch.setenv(name, value)
        return self

    def hub(self, endpoint: str | None = None) -> Scene:
        """Set an unreachable hub, and an empty cache instead of the user's, for this process (which
        has read its settings already) and for those it starts. Without `endpoint`, it refuses
        connections."""
        from huggingface_hub import constants

        if endpoint is None:
            self.bound = socket.socket()  # it keeps the port from other processes, and does not listen
            self.bound.bind(("127.0.0.1", 0))
            endpoint = f"http://127.0.0.1:{self.bound.getsockname()[1]}"
        self.monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        self.monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
        self.monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        self.monkeypatch.setattr(time, "sleep", lambda seconds: None)  # between retries
        cache = str(self.folder.parent / "hub")
        self.monkeypatch.setattr(constants, "HF_HUB_CACHE", cache)
        return self.env(HF_ENDPOINT=endpoint, HF_HOME=cache, HF_HUB_OFFLINE="0", NO_PROXY="127.0.0.1")

    def taken_port(self) -> Scene:
        """Set the variables of torchrun, with a port that another socket listens on."""
        self.listener = socket.create_server(("127.0.0.1", 0))
        return self.env(RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(self.listener.getsockname()[1]))

    def no_gpu(self) -> Scene:
        if torch.cuda.is_available():
            pytest.skip("this machine has a GPU")
        return self

    def stdin(self, raw: bytes) -> Scene:
        self.monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw), encoding="utf-8"))
        return self

    # ---- the command

    def flags(self, *flags) -> list:
        return list(flags)

    def command(self, script: str, flags: list | Callable[[Scene], list]) -> list[str]:
        """Return the arguments with the user error, after those that the script needs."""
        flags = flags(self) if callable(flags) else flags
        needed = {
            "data/download.py": {"--output_dir": self.out, "--tokenizer": "no/such/folder"},
            "data/preprocess.py": {"--output_dir": self.out, "--input": self.corpus, "--val_fraction": 0.2, "--tokenizer": self.tokenizer},
            "train.py": {"--data_dir": self.data, "--checkpoint_dir": self.out},
            "generate.py": {"--checkpoint": self.run, "--max_tokens": 5, "--prompt": "एक", "--device": "cpu"},
        }[script]
        instead = {"--tokenizer": "--train_tokenizer", "--prompt": "--interactive"}
        missing = {flag: value for flag, value in needed.items() if flag not in flags and instead.get(flag) not in flags}
        filled = [x for flag, value in missing.items() for x in (flag, value() if callable(value) else value)]
        return [str(x) for x in [*(SMALL if script == "train.py" else []), *filled, *flags]]

    def contents(self) -> dict[str, str]:
        """Return the name, kind, size and hash of everything in the folder."""
        found = {}
        for path in sorted(self.folder.rglob("*")):
            is_file = path.is_file() and not path.is_symlink() and os.access(path, os.R_OK)
            found[str(path.relative_to(self.folder))] = f"{path.stat().st_size} {hashlib.sha256(path.read_bytes()).hexdigest()}" if is_file else "-"
        return found


def saved(state: object) -> bytes:
    """Return what torch.save writes."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def read_only_parent(s: Scene) -> Path:
    return s.forbidden(s.subfolder("read-only"), 0o555) / "out"


def drop(*keys: str) -> Callable[[dict], object]:
    return lambda state: [state.pop(key) for key in keys]


# fmt: off
# claim: (the flags, or a function that makes them; words that name the error and what to do)
DOWNLOAD = {
    # flags
    "an unknown flag": (["--tokens", 5], "--tokens", "--help"),
    "a budget of zero": (["--max_tokens", 0], "--max_tokens must be", "at least 1", "not 0"),
    "a negative seed": (["--seed", -1], "--seed must be a whole number, at least 0", "not -1"),
    "a folder without a data set": (["--data_dir", "hin"], "--data_dir", "give both"),
    "an empty source": (["--source", ""], "empty value after --source", "fill it in"),
    "a source that does not exist": (["--source", "samples"], "there is no source samples; give sangraha, sangraha-unverified, "),
    "a budget of zero for a source": (["--source", "sangraha=0", "wikipedia"], "the budget of sangraha must be a whole number, at least 1"),
    "budgets that leave nothing": (["--source", "sangraha", "wikipedia=700000000", "--max_tokens", 600000000], "leave nothing of --max_tokens 600000000 for sangraha"),
    "a source named twice": (["--source", "sangraha", "wikipedia", "sangraha=5"], "sangraha is named twice"),
    "a data set without its owner": (["--dataset", "stories"], "OWNER/NAME, not stories"),
    "a report without cleaning": (lambda s: ["--source", s.file("a.txt"), "--report"], "--report", "--clean", "give both"),
    "a column without a data set": (["--column", "body"], "--column belongs to --dataset"),
    # files
    "a missing file": (["--source", "storys.txt"], "there is no file", "storys.txt", "check the name"),
    "a folder as the source": (lambda s: ["--source", s.subfolder("stories")], "stories: it is a folder", "the files in it"),
    "a link to itself": (lambda s: ["--source", s.link("a.txt", "a.txt")], "a.txt", "check the name"),
    "a name that no file system takes": (["--source", f"{LONG}.txt"], LONG, "name"),
    "an unreadable file": (lambda s: ["--source", s.forbidden(s.file("secret.txt"), 0)], "secret.txt", "ermission", "read"),
    "a file of blank lines": (lambda s: ["--source", s.file("a.txt", "\n \n")], "there is no text in", "a.txt", "give other files"),
    "a file of an unknown type": (lambda s: ["--source", s.file("a.docx")], "a.docx", ".jsonl", "convert"),
    "an output folder that is a file": (lambda s: ["--source", s.file("a.txt"), "--output_dir", s.file("out")], "out", "another folder"),
    "an output folder below a file": (lambda s: ["--source", s.file("a.txt"), "--output_dir", s.file("b") / "out"], f"{os.sep}b", "another folder"),
    "an output folder that cannot be created": (lambda s: ["--source", s.file("a.txt"), "--output_dir", read_only_parent(s)], "ermission", "another folder"),
    "an output folder that is read-only": (lambda s: ["--source", s.file("a.txt"), "--output_dir", s.forbidden(s.subfolder("out"), 0o555)], "ermission", "another folder"),
    "an output folder with too long a name": (lambda s: ["--source", s.file("a.txt"), "--output_dir", s.folder / LONG], LONG, "too long", "another"),
    "a folder in place of the corpus": (lambda s: s.having("out/hindi_corpus.txt/").flags("--source", s.file("a.txt"), "--overwrite"), "hindi_corpus.txt", "folder"),
    "a corpus of another source": (lambda s: s.having("out/hindi_corpus.txt").flags("--source", s.file("a.txt")), "hindi_corpus.txt", "--overwrite", "--output_dir"),
    "a corpus with invalid metadata": (lambda s: s.having("out/hindi_corpus.txt", "out/metadata.txt").flags("--source", s.file("a.txt")), "metadata.txt", "again"),
    # encodings
    "a text in cp1252": (lambda s: ["--source", s.file("a.txt", "caf\xe9".encode("cp1252"))], "a.txt is not UTF-8", "convert"),
    "a text in UTF-16": (lambda s: ["--source", s.file("a.txt", HINDI.encode("utf-16"))], "a.txt is not UTF-8", "convert"),
    # data
    "a truncated gzip file": (lambda s: ["--source", s.file("a.txt.gz", gzip.compress(HINDI.encode())[:-5])], "a.txt.gz", "not a complete gzip file", "copy"),
    "chats": (lambda s: ["--source", s.file("a.jsonl", '{"messages": []}')], "a.jsonl, line 1", "chat messages", "field text"),
    "a truncated line of jsonl": (lambda s: ["--source", s.file("a.jsonl", '{"text": "एक"}\n{"text": "द')], "a.jsonl, line 2", "JSON"),
    "a truncated parquet file": (lambda s: ["--source", s.file("b.parquet", s.parquet({"text": [HINDI] * 99}).read_bytes()[:-20])], "b.parquet", "download or copy it again"),
    "parquet without the column": (lambda s: ["--source", s.parquet({"body": ["एक"]})], "pages.parquet", "no column 'text'", "body"),
    # the hub
    "a hub that refuses": (lambda s: s.hub().flags("--source", "sangraha"), "ai4bharat/sangraha", "HF_ENDPOINT", "--source sample", "--source PATH"),
    "a hub with an invalid address": (lambda s: s.hub("the mirror").flags("--source", "sangraha"), "ai4bharat/sangraha", "HF_ENDPOINT", "--source sample", "--source PATH"),
    "a hub token in Devanagari": (lambda s: s.hub().env(HF_TOKEN="hf_\u0905").flags("--source", "sangraha"), "ai4bharat/sangraha", "HF_TOKEN", "--source sample"),
}

PREPROCESS = {
    # flags
    "an unknown flag": (["--corpus", "a.txt"], "--corpus", "--help"),
    "a fraction of 0": (["--val_fraction", 0], "--val_fraction must be a number, above 0 and below 1"),
    "a fraction of 1": (["--val_fraction", 1], "--val_fraction must be a number, above 0 and below 1"),
    "a fraction too small for any document": (["--val_fraction", 1e-12], "validation", "larger --val_fraction"),
    "a fraction too large for any document": (["--val_fraction", "0.999999999"], "the training split has none of ", "; give a smaller --val_fraction"),
    "no worker": (["--workers", 0], "--workers must be a whole number, at least 1"),
    "a vocabulary of zero": (["--train_tokenizer", 0], "vocabulary of 0", "at least 512"),
    "a huge vocabulary": (["--train_tokenizer", 10**30], "vocabulary of 1000", "at most"),
    "two tokenizers at once": (lambda s: ["--train_tokenizer", 600, "--tokenizer", s.tokenizer()], "--tokenizer", "not allowed with", "--train_tokenizer"),
    # files
    "a missing corpus": (["--input", "corpse.txt"], "there is no corpus corpse.txt", "data/download.py", "--input"),
    "a folder as the corpus": (lambda s: ["--input", s.subfolder("stories")], "stories: it is a folder", "the files in it"),
    "an empty corpus": (lambda s: ["--input", s.file("a.txt", "")], "holds no text", "data/download.py", "--input"),
    "an unreadable corpus": (lambda s: ["--input", s.forbidden(s.file("secret.txt"), 0)], "secret.txt", "ermission", "read"),
    "a name that no file system takes": (["--input", LONG], LONG, "name"),
    "an output folder that is a file": (lambda s: ["--output_dir", s.file("out")], "out", "another folder"),
    "an output folder that is read-only": (lambda s: ["--output_dir", s.forbidden(s.subfolder("out"), 0o555)], "ermission", "another folder"),
    "a folder in place of train.bin": (lambda s: ["--output_dir", s.data(lambda d: [(d / "train.bin").unlink(), (d / "train.bin").mkdir()])], "train.bin", "folder"),
    "a folder in place of preprocess_meta.txt": (lambda s: ["--output_dir", s.subfolder("out/preprocess_meta.txt").parent], "preprocess_meta.txt", "folder"),
    "a file in place of the tokenizer's copy": (lambda s: ["--output_dir", s.data(lambda d: [shutil.rmtree(d / "tokenizer"), (d / "tokenizer").touch()])], "tokenizer", "another"),
    # encodings
    "a bad byte after many good documents": (lambda s: ["--input", s.file("a.txt", s.corpus().read_bytes() * 30 + b"\xff")], "a.txt is not UTF-8", "line", "convert"),
    "a bad byte while a tokenizer is trained": (lambda s: ["--train_tokenizer", 600, "--input", s.file("a.txt", s.corpus().read_bytes() + b"\xff")], "not UTF-8", "convert"),
    # data
    "a corpus of one document and blank ones": (lambda s: ["--input", s.corpus([HINDI, "", " "])], "a single document", "<|endoftext|>"),
    "a corpus of blank documents": (lambda s: ["--input", s.corpus(["", "  \n", "\u3000"])], "holds no text"),
    # tokenizers
    "a missing tokenizer folder": (["--tokenizer", "./tokens"], "no tokenizer folder ./tokens", "tokenizer.json"),
    "a missing tokenizer folder below others": (["--tokenizer", "no/such/folder"], "there is no tokenizer folder no/such/folder"),
    "a broken tokenizer.json": (lambda s: ["--tokenizer", s.file("tokens/tokenizer.json", "{").parent], "tokens", "tokenizer.json"),
    "a tokenizer without bos and eos": (lambda s: ["--tokenizer", s.tokenizer(config={"tokenizer_class": "PreTrainedTokenizerFast"})], "bos", "eos", "use another"),
    "a tokenizer whose bos is a number": (lambda s: ["--tokenizer", s.tokenizer(config={"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": 5})], "bos_token", "needs tokenizer.json"),
    "a tokenizer whose tokens have no fixed bytes": (lambda s: ["--tokenizer", s.tokenizer(lambda d: d.update(decoder=None))], "no fixed bytes", "use another"),
    "a tokenizer with code of its own": (lambda s: ["--tokenizer", s.file("tokens/tokenizer_config.json", '{"auto_map": {"AutoTokenizer": ["x.Y", null]}, "tokenizer_class": "Y"}').parent], "tokens", "tokenizer.json"),
    "a URL for the tokenizer": (["--tokenizer", "https://huggingface.co/gpt2?x=1"], "no tokenizer folder", "--tokenizer FOLDER", "--train_tokenizer N"),
    "too long a name for the tokenizer": (lambda s: s.hub().flags("--tokenizer", LONG), LONG, "name"),
    "a name on a hub that refuses": (lambda s: s.hub().flags("--tokenizer", "sarvamai/sarvam-1"), "sarvamai/sarvam-1", "HF_ENDPOINT", "folder that holds its tokenizer.json", "--tokenizer FOLDER", "--train_tokenizer N"),
    "a name on a hub with an invalid address": (lambda s: s.hub("the mirror").flags("--tokenizer", "sarvamai/sarvam-1"), "HF_ENDPOINT", "--tokenizer FOLDER", "--train_tokenizer N"),
}

TRAIN = {
    # flags
    "an unknown flag": (["--learning_rate", 0.1], "--learning_rate", "--help"),
    "an unknown device": (["--device", "tpu"], "--device", "tpu", "cpu"),
    "a GPU where there is none": (lambda s: s.no_gpu().flags("--device", "cuda"), "no CUDA device", "use --device cpu"),
    "a budget in scientific notation": (["--total_tokens", "5e8"], "--total_tokens must be a whole number", "not 5e8"),
    "a window pattern of unknown letters": (["--window_pattern", "SXL"], "window_pattern", "SSSL"),
    "a model larger than any memory": (["--n_embd", 2**23], "memory", "smaller"),
    "fp8 without bfloat16": (["--fp8_head", "True"], "fp8", "--dtype bfloat16", "--fp8_head False"),
    "a vocabulary that is not the data's": (["--vocab_size", 7], "--vocab_size 7", "omit the flag"),
    "a sequence longer than the data": (["--sequence_len", 10**6], "tokens", "smaller --sequence_len"),
    # surroundings
    "an attention backend that does not exist": (lambda s: s.env(NANO_HINDI_ATTENTION="nonsense").flags(), "NANO_HINDI_ATTENTION=nonsense", "sdpa", "unset"),
    "FlashAttention 3 on a CPU": (lambda s: s.env(NANO_HINDI_ATTENTION="fa3").flags(), "NANO_HINDI_ATTENTION=fa3", "unset it"),
    "RANK without the other variables": (lambda s: s.env(RANK="0").flags(), "WORLD_SIZE", "torchrun"),
    "a RANK that is no number": (lambda s: s.env(RANK="first", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT="29555").flags(), "RANK", "first", "torchrun"),
    "a RANK beyond the world": (lambda s: s.env(RANK="2", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT="29555").flags(), "RANK", "torchrun"),
    "a port that is in use": (lambda s: s.taken_port().flags(), "cannot connect at 127.0.0.1:", "torchrun"),
    # files
    "a missing data folder": (["--data_dir", "nowhere"], "nowhere", "data/preprocess.py"),
    "a data folder that is a file": (lambda s: ["--data_dir", s.file("data.bin")], "data.bin", "data/preprocess.py"),
    "an inaccessible data folder": (lambda s: ["--data_dir", s.forbidden(s.data(), 0)], "data", "ermission"),
    "the data folder as the checkpoint folder": (lambda s: ["--checkpoint_dir", s.data()], "same folder", "--checkpoint_dir", "checkpoints"),
    "a checkpoint folder that is a file": (lambda s: ["--checkpoint_dir", s.file("run")], "run", "another"),
    "a checkpoint folder that cannot be created": (lambda s: ["--checkpoint_dir", read_only_parent(s)], "ermission", "another"),
    "a checkpoint folder with too long a name": (lambda s: ["--checkpoint_dir", s.folder / LONG], LONG, "too long", "another"),
    "a file in place of the run's tokenizer": (lambda s: ["--checkpoint_dir", s.file("run/tokenizer").parent], "tokenizer", "another"),
    # data
    "train.bin is missing": (lambda s: ["--data_dir", s.data(lambda d: (d / "train.bin").unlink())], "train.bin is missing", "data/preprocess.py"),
    "train.bin is truncated within a token": (lambda s: ["--data_dir", s.cut("train.bin", 4001)], "train.bin is damaged: 4,001 bytes", "data/preprocess.py"),
    "train.bin has no tokens and the metadata agree": (lambda s: ["--data_dir", s.cut("train.bin", 0, train_tokens=0)], "train.bin is damaged", "data/preprocess.py"),
    "preprocess_meta.txt is truncated": (lambda s: ["--data_dir", s.cut("preprocess_meta.txt", 90)], "preprocess_meta.txt", "again"),
    "preprocess_meta.txt is garbage": (lambda s: ["--data_dir", s.data(lambda d: (d / "preprocess_meta.txt").write_bytes(bytes(range(256))))], "preprocess_meta.txt", "again"),
    "preprocess_meta.txt has words for numbers": (lambda s: ["--data_dir", s.metadata(train_tokens="plenty")], "preprocess_meta.txt", "plenty", "data/preprocess.py"),
    "the data's tokenizer is missing": (lambda s: ["--data_dir", s.data(lambda d: shutil.rmtree(d / "tokenizer"))], "tokenizer is missing", "data/preprocess.py"),
    "the data's tokenizer is another": (lambda s: ["--data_dir", s.data(s.other_tokenizer)], "not the tokenizer", "data/preprocess.py"),
    "the data's tokenizer is broken": (lambda s: ["--data_dir", s.cut("tokenizer/tokenizer.json", 500)], "tokenizer", "tokenizer.json"),
    # checkpoints
    "a missing checkpoint": (["--resume", "checkpoint_step5.pt"], "no checkpoint checkpoint_step5.pt", "--resume auto"),
    "an empty name for the checkpoint": (["--resume="], "empty value after --resume", "omit the flag"),
    "a folder as the checkpoint": (lambda s: ["--resume", s.run()], "is a folder", "--resume auto", "--checkpoint_dir"),
    "a truncated checkpoint": (lambda s: ["--resume", s.checkpoint(s.good_checkpoint.read_bytes()[:5000])], "is damaged", "use an older one"),
    "a checkpoint that would run code": (lambda s: ["--resume", s.checkpoint(s.bomb())], "is damaged", "use an older one"),
    "a checkpoint without optimizers": (lambda s: ["--resume", s.checkpoint(drop("optimizers"))], "lacks optimizers", "use"),
    "a checkpoint of another format": (lambda s: ["--resume", s.checkpoint(lambda c: c.update(format=99))], "format 99", "use the version"),
    "a checkpoint with an unknown field": (lambda s: ["--resume", s.checkpoint(lambda c: c["train_config"].update(magic=1))], "magic", "another version", "use an older one, or the version that wrote it"),
    "a checkpoint with a word for its step": (lambda s: ["--resume", s.checkpoint(lambda c: c.update(step="ten", tokens_seen="some"))], "step, tokens_seen cannot be used", "use an older one"),
    "a checkpoint with half of AdamW's state": (lambda s: ["--resume", s.checkpoint(lambda c: c["optimizers"]["adamw"].popitem())], "adamw", "use an older one"),
    "weights only": (lambda s: ["--resume", s._run / "model.pt"], "model.pt holds only weights", "--init_from"),
    "a checkpoint of another preset": (lambda s: ["--resume", s.good_checkpoint, "--config", "25m"], "--config 25m (checkpoint: tiny)", "--checkpoint_dir"),
    "another learning rate than the checkpoint's": (lambda s: ["--resume", s.good_checkpoint, "--muon_lr", 0.5], "--muon_lr 0.5 (checkpoint: 0.02)", "--checkpoint_dir"),
    "a checkpoint of other data": (lambda s: ["--resume", s.checkpoint(lambda c: c["data"].update(train_tokens=5))], "train_tokens", "--data_dir"),
    "a checkpoint of another tokenizer": (lambda s: ["--resume", s.checkpoint(lambda c: c["tokenizer"].update(fingerprint="x"))], "tokenizer fingerprint", "data/preprocess.py --tokenizer MODEL"),
    "a folder that holds a run": (lambda s: ["--checkpoint_dir", s.run()], "already holds a run", "--resume auto", "--checkpoint_dir"),
}

GENERATE = {
    # flags
    "an unknown flag": (["--length", 5], "--length", "--help"),
    "no tokens": (["--max_tokens", 0], "--max_tokens", "at least 1"),
    "a negative temperature": (["--temperature", -1], "--temperature must be a number, at least 0"),
    "a negative top_k": (["--top_k", -1], "--top_k must be a whole number, at least 0"),
    "a top_k of thirty digits": (["--top_k", 10**30], "--top_k must be", "below 2**63"),
    "a repetition penalty that overflows": (["--repetition_penalty", "1e-40"], "--repetition_penalty must be a number, at least 0.01 and at most 100, not 1e-40"),
    "a top_p of zero": (["--top_p", 0], "--top_p must be"),
    "a top_p above one": (["--top_p", 1.1], "--top_p must be"),
    "a word for a seed": (["--seed", "one"], "--seed must be"),
    "no texts": (["--num_samples", 0], "--num_samples must be"),
    "several texts in a talk": (["--num_samples", 2, "--interactive"], "--interactive writes one text"),
    "several answers": (["--num_samples", 2, "--chat"], "--chat writes one text"),
    "a billion texts": (["--num_samples", 10**9], "--num_samples must be", "below 10000"),
    "a seed of a hundred digits": (["--seed", 10**100], "--seed", "below"),
    "a GPU where there is none": (lambda s: s.no_gpu().flags("--device", "cuda"), "no CUDA device", "use --device cpu"),
    "--prompt and --interactive at once": (["--prompt", "x", "--interactive"], "--interactive", "not allowed with"),
    "a prompt with bytes that are not UTF-8": (["--prompt", "\udcff"], "Unicode", "UTF-8"),
    "a prompt from stdin that is not UTF-8": (lambda s: s.stdin(b"\xe0\xa4\xff").flags("--prompt", "-"), "Unicode", "UTF-8"),
    # surroundings
    "an attention backend that does not exist": (lambda s: s.env(NANO_HINDI_ATTENTION="nonsense").flags(), "NANO_HINDI_ATTENTION=nonsense", "unset"),
    # checkpoints
    "a missing checkpoint": (["--checkpoint", "nowhere"], "no checkpoint nowhere", "train.py"),
    "a folder without checkpoints": (lambda s: ["--checkpoint", s.subfolder("empty")], "no checkpoint in", "train.py"),
    "an export": (lambda s: ["--checkpoint", s.file("config.json", "{}").parent], "is an export", "name the folder of the checkpoints"),
    "the folder above that of the checkpoints": (lambda s: ["--checkpoint", s.run().parent], "no checkpoint in", "name the model's folder: run"),
    "a folder whose only checkpoint is truncated": (lambda s: ["--checkpoint", s.checkpoint(s.good_checkpoint.read_bytes()[:5000]).parent], "no checkpoint in", "copy the files again"),
    "a name that no file system takes": (["--checkpoint", LONG], LONG, "name"),
    "an unreadable checkpoint": (lambda s: ["--checkpoint", s.forbidden(s.checkpoint(lambda c: None), 0)], "checkpoint_step10.pt", "ermission", "read"),
    "an inaccessible folder": (lambda s: ["--checkpoint", s.forbidden(s.run(), 0)], "run", "ermission"),
    "a truncated checkpoint": (lambda s: ["--checkpoint", s.checkpoint(s.good_checkpoint.read_bytes()[:5000])], "is damaged", "use"),
    "a checkpoint that would run code": (lambda s: ["--checkpoint", s.checkpoint(s.bomb())], "is damaged", "use"),
    "a checkpoint without weights": (lambda s: ["--checkpoint", s.checkpoint(drop("model_state_dict"))], "lacks model_state_dict", "use"),
    "a checkpoint with other shapes": (lambda s: ["--checkpoint", s.checkpoint(lambda c: c["model_state_dict"].update({"lm_head.weight": torch.zeros(2, 2)}))], "does not fit", "use an older one"),
    "a checkpoint with a word for its width": (lambda s: ["--checkpoint", s.checkpoint(lambda c: c["model_config"].update(n_embd="wide"))], "n_embd", "wide"),
    "a checkpoint without tokenizer metadata": (lambda s: ["--checkpoint", s.checkpoint(lambda c: c.update(tokenizer=None))], "tokenizer cannot be used", "use an older one"),
    # tokenizers
    "the tokenizer is missing": (lambda s: ["--checkpoint", s.checkpoint(lambda c: shutil.rmtree(s.folder / "run/tokenizer"))], "tokenizer", "missing", "should be in"),
    "the tokenizer is another": (lambda s: ["--checkpoint", s.other_tokenizer(s.run())], "fingerprints differ", "put the right one there"),
    "the tokenizer is broken": (lambda s: ["--checkpoint", s.file(s.run() / "tokenizer/tokenizer.json", "{}").parent.parent], "tokenizer", "tokenizer.json"),
}

# also run as real commands, where the output of libraries would show
AS_COMMANDS = {
    "data/download.py": ("an unknown flag", "a folder as the source", "a text in cp1252", "a truncated parquet file", "a hub that refuses"),
    "data/preprocess.py": ("an empty corpus", "a broken tokenizer.json", "a name on a hub that refuses", "a tokenizer with code of its own"),
    "train.py": ("a RANK beyond the world", "a checkpoint that would run code", "a checkpoint with half of AdamW's state"),
    "generate.py": ("a folder whose only checkpoint is truncated", "a checkpoint with other shapes", "a prompt with bytes that are not UTF-8"),
}
# fmt: on

TABLE = {"data/download.py": DOWNLOAD, "data/preprocess.py": PREPROCESS, "train.py": TRAIN, "generate.py": GENERATE}


def cases(chosen: dict[str, Collection[str]]) -> list:
    """Return the parameters of a test: script, flags, words."""
    return [
        pytest.param(script, flags, words, id=f"{script}: {claim}")
        for script in TABLE
        for claim in chosen[script]
        for flags, *words in [TABLE[script][claim]]
    ]


@pytest.fixture
def scene(tmp_path, data_dir, straight, monkeypatch) -> Iterator[Scene]:
    (tmp_path / "scene").mkdir(mode=0o755)
    yield Scene(tmp_path / "scene", data_dir, straight, monkeypatch)
    for path in (tmp_path / "scene").rglob("*"):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)


def assert_one_line(code: int, errors: str, words: list[str]) -> None:
    *notices, line, end = errors.split("\n")
    assert code == 2, errors
    assert line.startswith("error: "), errors
    assert all(notice.startswith(("notice: skipped: ", "[W", "[E")) for notice in notices), errors  # on Windows, torch reports a taken port itself
    assert end == ""
    assert "Traceback" not in errors
    for word in words:
        assert word in errors


@pytest.mark.parametrize(("script", "flags", "words"), cases(TABLE))
def test_user_error_is_one_line_that_says_what_to_do_and_changes_nothing(scene, capfd, script, flags, words):
    argv = scene.command(script, flags)
    before = scene.contents()
    capfd.readouterr()
    with scene.rights():
        code = MAINS[script](argv)
    assert_one_line(code, capfd.readouterr().err, words)
    assert scene.contents() == before


@pytest.mark.slow
@pytest.mark.parametrize(("script", "flags", "words"), cases(AS_COMMANDS))
def test_user_error_in_a_real_command_is_one_line_with_code_2(scene, script, flags, words):
    argv = scene.command(script, flags)
    before = scene.contents()
    done = run_script(script, *argv)
    assert_one_line(done.returncode, done.stderr, words)
    assert scene.contents() == before
