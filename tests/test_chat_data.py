"""data/chat.py: which conversations are taken, mended and dropped, what is in the folder, and where
it comes from."""

import gzip
import itertools
import json
import random
import re
import shutil
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch

import nano_hindi.chat.dataset
import train
from conftest import SMALL
from data import chat, preprocess
from hub import Hub
from nano_hindi.chat.dataset import unseen
from nano_hindi.chat.records import ANSWERS, CONTEXTS, LISTS, PAIRS, QUESTIONS, Mender
from nano_hindi.chat.sources import HUB_SOURCES, chat_source
from nano_hindi.chat.template import check, prompt
from nano_hindi.console import shell_quoted
from nano_hindi.corpus.prepared import CHAT, check_data, read_conversations
from nano_hindi.errors import UserError
from nano_hindi.files import read_metadata
from nano_hindi.sample.questions import conversations
from nano_hindi.token_file import TARGET

PAIR = [{"role": "user", "content": "क"}, {"role": "assistant", "content": "ख"}]


def run(out: Path, tokenizer_dir: Path, *argv) -> int:
    return chat.main(["--output_dir", str(out), "--tokenizer", str(tokenizer_dir), *map(str, argv)])


def mended(record) -> tuple[list[tuple[str, str]] | None, dict[str, int]]:
    """Return the turns of one record, and what was mended or why it was dropped."""
    mender = Mender()
    messages = mender(record)
    turns = messages and [(message["role"][0], message["content"]) for message in messages]
    return turns, {key.partition(": ")[2] for key in mender.counts if ": " in key}


def messages(*turns: str) -> dict:
    """Return a record from texts like "u क", "a ख", "s ग"."""
    roles = {"u": "user", "a": "assistant", "s": "system"}
    return {"messages": [{"role": roles[turn[0]], "content": turn[2:]} for turn in turns]}


TAKEN = [("u", "क"), ("a", "ख")]


@pytest.mark.parametrize(
    "record",
    [
        messages("u क", "a ख"),
        {"conversations": [{"from": "human", "value": "क"}, {"from": "GPT", "value": "ख "}]},
        {"instruction": "क", "input": "", "output": "ख"},
        {"instruction": "क", "context": None, "response": "ख"},
        {"inputs": "क", "targets": "ख", "language_code": "hin"},
        {"hin_Deva": [["क", "ख"]], "language_code": "hi"},
        {"inputs": "क", "targets": "ख", "language_code": None},
        {"prompt": "क", "completion": "ख", "system": "", "history": []},
        {"question": "क", "answer": "ख"},
        {"messages": [{"role": None, "content": None, "from": "human", "value": "क"}, PAIR[1] | {"from": None, "value": None}]},
        {"messages": [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in (("user", "क"), ("assistant", "ख"))]},
    ],
)
def test_every_layout_is_read(record):
    assert mended(record) == (TAKEN, set())
    assert mended({"instruction": "क", "input": "ग", "output": "ख"}) == ([("u", "क\n\nग"), ("a", "ख")], set())


def test_each_name_of_a_question_goes_with_each_of_an_answer_and_the_help_has_them(capsys):
    for question, answer in itertools.product(QUESTIONS, ANSWERS):
        assert Mender()({question: "क", answer: "ख"}) == [{"role": "user", "content": "क"}, {"role": "assistant", "content": "ख"}]
    with pytest.raises(SystemExit):
        chat.main(["--help"])
    assert set(re.findall(r"\w+", capsys.readouterr().out)) >= {*QUESTIONS, *CONTEXTS, *ANSWERS, *LISTS, *PAIRS}


def test_system_and_history_of_a_record_are_kept():
    system, earlier = [("s", "ग")], [("u", "घ"), ("a", "ङ")]
    assert mended({"instruction": "क", "output": "ख", "system": "ग", "history": [["घ", "ङ"]]}) == ([*system, *earlier, *TAKEN], set())
    assert mended(messages("u क", "a ख") | {"system": "ग"}) == ([*system, *TAKEN], set())
    assert mended(messages("s ग", "u क", "a ख") | {"system": "च"}) == ([*system, *TAKEN], set())
    assert mended({"messages": [{"role": "developer", "content": "ग"}, *PAIR]}) == ([*system, *TAKEN], set())


@pytest.mark.parametrize(
    ("record", "turns", "what"),
    [
        (messages("a ग", "u क", "a ख"), TAKEN, "answer before the first question removed"),
        (messages("u क", "a ख", "u ग"), TAKEN, "question without an answer removed"),
        (messages("u क", "a ख", "u ग", "a  ", "u घ", "a ङ"), TAKEN, "cut at an empty turn"),
        (messages("u क", "a ख", "u \n", "a ग"), TAKEN, "cut at an empty turn"),
        (messages("u क", "u ग", "a ख"), [("u", "क\n\nग"), ("a", "ख")], "turns of the same role joined"),
        (messages("u क", "u  ", "a ख"), TAKEN, "turns of the same role joined"),
        (messages("s  ", "u क", "a ख"), TAKEN, "empty system message removed"),
        (
            messages("u " + quote("क़लम") + " 100% %E0%A4 %E0%A4%95%FF", "a ख"),
            [("u", "क़लम 100% %E0%A4 %E0%A4%95%FF"), ("a", "ख")],
            "percent-escapes decoded",
        ),
        (messages("u %41%e0%a5%a4%3F", "a ख"), [("u", "A।?"), ("a", "ख")], "percent-escapes decoded"),
        (messages("u क\r\nख\rग", "a घ\r\n\r\nङ\r\n"), [("u", "क\nख\nग"), ("a", "घ\n\nङ")], "line ends of Windows replaced"),
        (messages("u  ", "a ख"), None, "no question with an answer"),
        (messages("u क"), None, "no question with an answer"),
        (messages("a क"), None, "no question with an answer"),
        (messages("u क", "s ग", "a ख"), None, "a system message that is not first"),
        ({"messages": [*PAIR, {"role": "tool", "content": "क"}]}, None, "an unknown role"),
        ({"messages": [*PAIR, {"role": "user", "content": [{"type": "image"}]}]}, None, "content that is not text"),
        ({"messages": [*PAIR, {"role": "user", "content": [{"type": "image", "text": "क"}]}]}, None, "content that is not text"),
        ({"messages": [*PAIR, {"role": "user", "content": [{"type": "text", "text": None}]}]}, None, "content that is not text"),
        ({"messages": [*PAIR, {"role": "user", "content": "\ud800"}]}, None, "not valid Unicode"),
        ({"messages": "क"}, None, "messages that are not a list"),
        ({"messages": [["क"]]}, None, "a message that is not an object"),
        ({"messages": []}, None, "no messages"),
        ({"hin_Deva": ["कख"]}, None, "content that is not text"),
        ({"text": "क"}, None, "of an unknown layout"),
        ({"instruction": "क", "input": ["ग"], "output": "ख"}, None, "content that is not text"),
        ({"instruction": ["क"], "input": "ग", "output": "ख"}, None, "content that is not text"),
        ({"instruction": "क", "output": "ख", "history": "ग"}, None, "messages that are not a list"),
        ({"instruction": "क", "output": "ख", "system": ["ग"]}, None, "content that is not text"),
        ({"inputs": "क", "targets": "ख", "language_code": "zsm"}, None, "in another language"),
        ([1], None, "not a JSON object"),
    ],
)
def test_a_record_is_mended_or_dropped_for_a_reason(record, turns, what):
    assert mended(record) == (turns, {what})


def test_no_record_is_a_traceback_and_the_counts_add_up():
    rng = random.Random(0)
    values = [
        None,
        True,
        0,
        -1.5,
        "",
        " ",
        "क",
        "%E0%A4%95",
        "</s>",
        "\ud83d",
        [],
        {},
        ["क"],
        [["क", "ख"]],
        [["क"]],
        {"role": "user"},
        PAIR,
        PAIR[0],
        PAIR[::-1],
    ]
    names = [
        "messages",
        "system",
        "history",
        "conversations",
        "hin_Deva",
        "instruction",
        "inputs",
        "input",
        "output",
        "targets",
        "language_code",
        "from",
        "role",
        "content",
    ]

    def odd(depth: int):
        if depth == 0 or rng.random() < 0.3:
            return rng.choice(values)
        if rng.random() < 0.5:
            return [odd(depth - 1) for _ in range(rng.randint(0, 4))]
        return {name: odd(depth - 1) for name in rng.sample(names, rng.randint(0, 4))}

    mender = Mender()
    for _ in range(3000):
        two = {"messages": [odd(1) for _ in range(rng.randint(0, 5))]}
        three = {"messages": rng.choices([*PAIR, {"role": "system", "content": "ग"}], k=3)}
        for record in (odd(4), two, three):
            if (taken := mender(record)) is not None:
                check(taken, "assistant")
    counts = mender.counts
    assert counts["read"] == counts["kept"] + sum(count for key, count in counts.items() if key.startswith("dropped: "))
    assert counts["kept"] > 3
    assert counts["dropped: a duplicate"] > 3


def test_the_folder_holds_what_the_template_makes_and_a_second_run_leaves_it(tmp_path, tokenizer_dir, capsys):
    arguments = ["--max_conversations", 300, "--val_fraction", 0.1, "--max_length", 900]
    assert run(tmp_path / "chat", tokenizer_dir, *arguments) == 0
    info = check_data(tmp_path / "chat", every_chunk=True, kind=CHAT)
    metadata = read_metadata(tmp_path / "chat" / "preprocess_meta.txt")
    expected = {(tuple(prompt(info.tokenizer, c.messages[:-1])), c.messages[-1]["content"]): c.story for c in itertools.islice(conversations(0), 300)}
    stories: dict[str, set[str]] = {"train": set(), "val": set()}
    for split, file in (("train", info.train), ("val", info.val)):
        begin = 0
        for tokens, targets in read_conversations(tmp_path / "chat", info, split):
            ids = file[begin : begin + tokens]
            is_target, ids = ids >= TARGET, ids & (TARGET - 1)
            begin += tokens
            assert is_target.sum() == targets
            assert len(ids) <= 900
            last = len(ids) - int(np.argmin(is_target[::-1]))  # where the last answer begins
            assert ids[-1] == info.tokenizer.eos_id
            stories[split].add(expected[tuple(ids[:last].tolist()), info.tokenizer.decode(ids[last:-1]).strip()])
        assert begin == len(file)
        assert metadata[f"{split}_documents"] == str(len(read_conversations(tmp_path / "chat", info, split)))
    assert 200 < sum(map(len, stories.values())) < 300
    assert not stories["train"] & stories["val"]
    assert not stories["train"] & {c.story for c in itertools.islice(unseen(0.1), 50)}
    assert stories["val"] <= {c.story for c in itertools.islice(unseen(0.1), 50)}
    assert metadata["licence"].startswith("MIT")
    output = capsys.readouterr().out
    assert "notice" not in output
    assert "dropped: longer than 900 tokens (--max_length)" in output
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "chat").iterdir()}
    assert run(tmp_path / "chat", tokenizer_dir, *arguments) == 0
    assert "already there" in capsys.readouterr().out
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "chat").iterdir()} == before
    (tmp_path / "chat" / "val_conversations.bin").write_bytes(b"12345678")
    with pytest.raises(UserError, match=r"does not fit val\.bin"):
        read_conversations(tmp_path / "chat", info, "val")


def test_train_and_finetune_data_refuse_each_other_by_name(tmp_path, tokenizer_dir, data_dir, capsys):
    assert run(tmp_path / "chat", tokenizer_dir, "--max_conversations", 40, "--val_fraction", 0.2) == 0
    assert train.main([*SMALL, "--data_dir", str(tmp_path / "chat"), "--checkpoint_dir", str(tmp_path / "run")]) == 2
    assert "chat data, which finetune.py takes" in capsys.readouterr().err
    assert run(data_dir, tokenizer_dir, "--max_conversations", 40) == 2
    assert "data of data/preprocess.py" in capsys.readouterr().err
    corpus = ["--input", str(data_dir / "corpus.txt"), "--tokenizer", str(tokenizer_dir)]
    assert preprocess.main([*corpus, "--output_dir", str(tmp_path / "chat")]) == 2
    assert "data of data/chat.py" in capsys.readouterr().err
    check_data(tmp_path / "chat", kind=CHAT)
    with pytest.raises(UserError, match=r"train\.py takes"):
        check_data(data_dir, kind=CHAT)


def test_folder_of_models_is_refused_with_the_name_of_one(tmp_path, tokenizer_dir, capsys):
    shutil.copytree(tokenizer_dir, tmp_path / "models" / "sample" / "tokenizer")
    assert run(tmp_path / "chat", tmp_path / "models") == 2
    assert f"--tokenizer {tmp_path / 'models' / 'sample'}" in capsys.readouterr().err
    assert run(tmp_path / "chat", tokenizer_dir, "--val_fraction", 0.01) == 2
    assert "--val_fraction of sample must be at least 0.02" in capsys.readouterr().err
    assert run(tmp_path / "chat", tokenizer_dir, "--seed", -1) == 2
    assert "--seed must be a whole number, at least 0" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert run(tmp_path / "chat", tmp_path / "empty") == 2
    assert "no readable tokenizer (it has no tokenizer.json); it needs tokenizer.json" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [[], ["--tokenizer", "checkpoints"]])
def test_without_a_model_the_error_asks_for_one_not_for_a_tokenizer(flags, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(chat, "ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    assert chat.main(["--output_dir", str(tmp_path / "chat"), *flags]) == 2
    error = capsys.readouterr().err
    assert f"there is no model in {tmp_path / 'checkpoints'}; train one first" in error
    assert "name its folder with --tokenizer" in error


def test_a_failed_run_leaves_the_earlier_data_and_a_failed_end_is_made_again(tmp_path, tokenizer_dir, monkeypatch):
    few = ["--max_conversations", 40, "--val_fraction", 0.2]
    assert run(tmp_path, tokenizer_dir, *few) == 0
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}

    def fail(*_):
        raise OSError(28, "No space left on device", "disk")

    with monkeypatch.context() as patch:
        patch.setattr(nano_hindi.chat.dataset, "render_batch", fail)
        assert run(tmp_path, tokenizer_dir, *few, "--seed", 1) == 2
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == files
    with monkeypatch.context() as patch:
        patch.setattr(nano_hindi.chat.dataset, "write_metadata", fail)
        assert run(tmp_path, tokenizer_dir, *few, "--seed", 1) == 2
    assert not (tmp_path / "preprocess_meta.txt").exists()
    assert run(tmp_path, tokenizer_dir, *few, "--seed", 1) == 0
    check_data(tmp_path, every_chunk=True, kind=CHAT)
    whole = (tmp_path / "val_conversations.bin").read_bytes()
    (tmp_path / "val_conversations.bin").write_bytes(whole[:-8])
    assert run(tmp_path, tokenizer_dir, *few, "--seed", 1) == 0
    assert (tmp_path / "val_conversations.bin").read_bytes() == whole


def test_unreadable_record_is_refused_until_it_is_deleted(tmp_path, tokenizer_dir, data_dir, capsys):
    """It may be that of the other command's data, so it is not made again without asking."""
    few, record = ["--max_conversations", 40, "--val_fraction", 0.2], tmp_path / "preprocess_meta.txt"
    assert run(tmp_path, tokenizer_dir, *few) == 0
    record.write_text("garbage\n")
    corpus = ["--input", str(data_dir / "corpus.txt"), "--tokenizer", str(tokenizer_dir)]
    assert run(tmp_path, tokenizer_dir, *few) == preprocess.main([*corpus, "--output_dir", str(tmp_path)]) == 2
    refusal = f"{record} does not consist of `key: value` lines; delete it, and run the command that wrote it again"
    assert capsys.readouterr().err.count(refusal) == 2
    record.unlink()
    assert run(tmp_path, tokenizer_dir, *few) == 0
    check_data(tmp_path, every_chunk=True, kind=CHAT)


def test_folder_with_the_name_of_a_data_set_does_not_hide_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "aya").mkdir()
    assert chat_source("aya", 0).title == "CohereLabs/aya_dataset default"


def test_help_shows_the_default_source_as_it_is_typed(capsys):
    with pytest.raises(SystemExit):
        chat.parse(["--help"])
    assert "(default: sample)" in " ".join(capsys.readouterr().out.split())
    assert chat.parse([]).source == ["sample"]


def test_memory_for_a_parquet_file_is_that_of_a_row_group(tmp_path):
    questions = ["x" * 10_000 + str(i) for i in range(3000)]
    table = pyarrow.table({"instruction": questions, "output": ["y"] * len(questions)})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet", row_group_size=100, compression="none", use_dictionary=False)
    found, most, before = [], 0, pyarrow.total_allocated_bytes()
    for _, record in chat_source(str(tmp_path / "a.parquet"), 0).records():
        found.append(record["instruction"])
        most = max(most, pyarrow.total_allocated_bytes() - before)
    assert found == questions
    assert most < 15_000_000  # of 30 MB


def test_files_of_every_format_are_read_and_bad_ones_are_one_line(tmp_path, tokenizer_dir, capsys):
    records = [{"instruction": f"सवाल {i}", "output": f"जवाब {i}"} for i in range(60)]
    lines = "".join(json.dumps(record) + "\n" for record in [*records[:20], {"instruction": "क" * 10**7, "output": "ख"}])
    (tmp_path / "a.jsonl").write_text(f"\ufeff{lines}not JSON\n\n", encoding="utf-8")
    (tmp_path / "b.json.gz").write_bytes(gzip.compress(json.dumps(records[20:40]).encode()))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records[40:]), tmp_path / "c.parquet")
    sources = [tmp_path / name for name in ("a.jsonl", "b.json.gz", "c.parquet")]
    assert run(tmp_path / "chat", tokenizer_dir, "--source", *sources, "--val_fraction", 0.1) == 0
    info = check_data(tmp_path / "chat", kind=CHAT)
    assert info.train_documents + info.val_documents == 60
    output = capsys.readouterr().out
    assert "1 dropped: not a JSON object" in output
    assert "1 dropped: longer than 1,024 tokens (--max_length)" in output
    assert "60 kept" in output
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    (tmp_path / "object.json").write_text("{}")
    (tmp_path / "array.jsonl").write_text(json.dumps(records, indent=1))
    (tmp_path / "amid.jsonl").write_text("\n".join(json.dumps(record) for record in [*records[:30], [1], *records[30:]]))
    assert run(tmp_path / "amid", tokenizer_dir, "--source", tmp_path / "amid.jsonl", "--val_fraction", 0.1) == 0
    assert "1 dropped: not a JSON object" in capsys.readouterr().out  # a line that is an array does not make the file one
    (tmp_path / "line.jsonl").write_text("\ufeff" + json.dumps(records), encoding="utf-8")
    (tmp_path / "empty.jsonl").write_text("{}\n")
    for name, message in (
        ("none.jsonl", "there is no file"),
        ("a.txt", "there is no file"),
        ("broken.parquet", "not a readable parquet"),
        ("object.json", "not a JSON array"),
        ("array.jsonl", "is a JSON array; such a file is named .json"),
        ("line.jsonl", "is a JSON array; such a file is named .json"),
        ("empty.jsonl", "no conversation is left; the counts above say why; known are records with the fields messages, "),
        ("aya:nothing", "aya has default"),
        ("sampel", "give sample, indic-align"),
        ("sample", "no conversation is left"),
    ):
        few = ["--max_conversations", 9]
        assert (
            run(
                tmp_path / "new",
                tokenizer_dir,
                *few,
                "--source",
                tmp_path / name if "." in name else name,
                "--max_length",
                8 if name == "sample" else 99,
            )
            == 2
        )
        output, error = capsys.readouterr()
        assert message in error
        assert output.count(" read") == ("no conversation" in message)
        assert error.count("\n") == 1
        assert not (tmp_path / "new").exists()


def test_conversations_fit_into_the_model_whose_tokenizer_is_taken(straight, tmp_path, capsys):
    state = torch.load(straight / "model.pt", weights_only=True)
    state["model_config"]["sequence_len"] = 900
    model = tmp_path / "my model"
    shutil.copytree(straight / "tokenizer", model / "tokenizer")
    torch.save(state, model / "model.pt")
    for name, flags, length, checkpoint in (
        (model, [], 900, shell_quoted(model)),
        (model / "model.pt", ["--max_length", 800], 800, shell_quoted(model / "model.pt")),
        (model / "tokenizer", [], 1024, "MODEL"),
    ):
        chat = tmp_path / f"chat{length}"
        assert run(chat, name, "--max_conversations", 60, "--val_fraction", 0.2, *flags) == 0
        assert f" --checkpoint {checkpoint} --data_dir {chat}\n" in capsys.readouterr().out
        longest = max(tokens for tokens, _ in read_conversations(chat, check_data(chat, kind=CHAT), "train"))
        assert length * 0.9 < longest <= length
    (model / "model.pt").write_bytes(b"PK")
    assert run(tmp_path / "new", model) == 2
    assert "damaged" in capsys.readouterr().err


def write_rows(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def card(*configurations: tuple[str, str, str]) -> str:
    """Return a README.md with (name, split, path) of each configuration."""
    parts = [f"- config_name: {name}\n  data_files:\n  - split: {split}\n    path: {path}\n" for name, split, path in configurations]
    return "---\nconfigs:\n" + "".join(parts) + "---\n"


def test_data_sets_of_the_hub_are_read_in_their_layouts(tmp_path, tokenizer_dir, monkeypatch, capfd):
    def pair(i: int) -> list[dict]:
        return [{"role": "user", "content": f"सवाल {i}"}, {"role": "assistant", "content": f"जवाब {i}"}]

    align, instruct, samvaad, aya = (tmp_path / name for name in ("align", "instruct", "samvaad", "aya"))
    write_rows(align / "dolly/a.parquet", [{"eng_Latn": [["a", "b"]], "hin_Deva": [[f"क {i}", "ख"], ["ग", "घ"]]} for i in range(10)])
    (align / "README.md").write_text(card(("Dolly_T", "train", "dolly/*.parquet")))
    write_rows(
        instruct / "wikihow/hi-0.parquet", [{"id": str(i), "messages": [{**pair(i)[0], "content": quote(f"कैसे {i}")}, pair(i)[1]]} for i in range(10)]
    )
    write_rows(instruct / "wikihow/en-0.parquet", [{"id": "x", "messages": pair(99)}])
    (instruct / "README.md").write_text(card(("wikihow", "hi", "wikihow/hi-*"), ("dolly", "hi", "wikihow/hi-*")))
    write_rows(aya / "data/train-0.parquet", [{"inputs": f"इ {i}", "targets": "त", "language_code": ("hin", "eng")[i % 2]} for i in range(10)])
    (aya / "README.md").write_text(card(("default", "train", "data/train-*")))
    write_rows(samvaad / "data/train-0.parquet", [{"messages": pair(100 + i)} for i in range(10)])
    (samvaad / "README.md").write_text(card(("default", "train", "data/train-*")))
    folders = {"indic-align": align, "indic-instruct": instruct, "samvaad": samvaad, "aya": aya}
    assert folders.keys() == HUB_SOURCES.keys(), "write some rows of the other data sets too"
    repos = {HUB_SOURCES[name].dataset: folder for name, folder in folders.items()}
    with Hub({f"datasets/{name}": folder for name, folder in repos.items()}) as hub:
        hub.take_over(monkeypatch)
        argv = ["--source", "indic-align:Dolly_T", "indic-instruct:wikihow", "samvaad", "aya", "--val_fraction", "0.2"]
        assert run(tmp_path / "chat", tokenizer_dir, *argv) == 0
        output = capfd.readouterr().out
        assert "35 kept" in output
        assert "5 dropped: in another language" in output
        assert "10 mended: percent-escapes decoded" in output
        hub.gated = frozenset({"datasets/CohereLabs/aya_dataset"})
        hub.take_over(monkeypatch)
        assert run(tmp_path / "new", tokenizer_dir, "--source", "aya") == 2
        error = capfd.readouterr().err
        assert "CohereLabs/aya_dataset is not available from the hub" in error
        assert "accept the terms on its page (https://huggingface.co/datasets/CohereLabs/aya_dataset), and log in" in error
        assert error.count("\n") == 1
    metadata = read_metadata(tmp_path / "chat" / "preprocess_meta.txt")
    titles = [
        "ai4bharat/indic-align Dolly_T",
        "ai4bharat/indic-instruct-data-v0.1 wikihow",
        "sarvamai/samvaad-hi-v1 default",
        "CohereLabs/aya_dataset default",
    ]
    assert [metadata[f"source_{number}"] for number in range(1, 5)] == titles  # which the model card reads
    assert sum(int(metadata[f"source_{number}_documents"]) for number in range(1, 5)) == 35
    licence = metadata["licence"]
    assert "CC BY 4.0, ai4bharat/indic-align" in licence
    assert "CC0, ai4bharat/indic-instruct-data-v0.1" in licence
