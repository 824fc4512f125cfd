"""What a terminal gets: control characters of foreign text are shown, Hindi is unchanged, and
printed commands can be pasted into a shell."""

import os
import re
import shlex
import sys
import unicodedata
from pathlib import Path

import pytest
import torch

import generate
import standin
import train
from conftest import ROOT, SMALL, on_terminal, run_command
from data import download, preprocess
from nano_hindi import plot
from nano_hindi.checkpoint import load_checkpoint
from nano_hindi.common import visible
from nano_hindi.console import Console, python_command, shell_quoted, shown
from nano_hindi.corpus.report import write_report
from nano_hindi.errors import UserError
from nano_hindi.evaluation import command as evaluation
from nano_hindi.export import command as export
from nano_hindi.inference.loading import build_model, load_for_inference
from nano_hindi.inference.settings import Settings
from nano_hindi.inference.write_together import TextSession
from nano_hindi.training import report

posix = pytest.mark.skipif(os.name == "nt", reason="needs bash, a pseudo-terminal, or file names that Windows forbids")
HOSTILE = "\x1b]0;title\x07\x1b[31m\x9b2J\u202eabc\u2066\r"
SEEN = r"\x1b]0;title\x07\x1b[31m\u009b2J\u202eabc\u2066\x0d"
HINDI = "क्‍ष क्‌ष श्री १२३ ₹ “ऐसा”\u00a0—\u200d \ufeffπ 😀🏽\n\tअ"


def assert_plain(text: str) -> None:
    """Check independently of `visible` that a terminal has nothing to obey."""
    for character in text:
        is_control = unicodedata.category(character) in ("Cc", "Cs") and character not in "\n\t"
        is_override = unicodedata.bidirectional(character) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
        assert not is_control, text
        assert not is_override, text


def test_every_control_character_is_shown_and_every_other_character_stays():
    for code in range(sys.maxunicode + 1):
        character = chr(code)
        found = visible(character)
        assert_plain(found)
        if found != character:
            assert found == (f"\\x{code:02x}" if code < 128 else f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}")
    assert visible(HINDI) == HINDI
    assert visible(HOSTILE) == SEEN
    assert visible(SEEN) == SEEN


# ---- commands to paste


NAMES = [
    "run", "my run", "it's", 'a "b"', "$HOME", "$(touch gone)", "`id`", "a;b", "a&b|c", "*", "~", "!", "#x", "-x", "--help", "\\", "a\\n", "मेरा रन", "क्‍ष",
    "a\nb", "tab\tb", "\x1b]0;x\x07'\\", "\u202egnp.", "\x9b", "\x7f", "{a,b}", "a=b", "(x)", "<x>", "%PATH%", "\udcff\udcfe",
]  # fmt: skip


@posix
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("absolute", [True, False])
def test_quoted_path_is_one_word_of_the_shell(tmp_path, monkeypatch, name, absolute):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / name if absolute else Path(name)
    word = shell_quoted(folder)
    assert_plain(word)
    assert not {"\n", "\t"} & set(word)
    folder.mkdir()
    done = run_command(["bash", "-c", f"cd -- {word} && pwd -P"], cwd=tmp_path, encoding="utf-8", errors="surrogateescape")
    assert done.stdout == f"{tmp_path.resolve() / name}\n", done.stderr
    assert done.stderr == ""
    flag = run_command(["bash", "-c", f"printf %s {word}"], cwd=tmp_path, encoding="utf-8", errors="surrogateescape")
    assert not flag.stdout.startswith("-"), "a flag of the printed command"
    assert sorted(os.listdir(tmp_path)) == [name]


def test_plain_path_is_not_quoted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert shell_quoted(tmp_path / "checkpoints" / "run-1.2") == str(Path("checkpoints/run-1.2"))


def test_windows_paths_are_in_double_quotes(monkeypatch):
    monkeypatch.setattr("nano_hindi.console.IS_WINDOWS", True)
    assert shell_quoted(Path("my run")) == '"my run"'
    assert shell_quoted(Path("मेरा")) == '"मेरा"'
    assert shell_quoted(Path("it's")) == '"it\'s"'
    assert shell_quoted(Path("run-1")) == "run-1"


def arguments_in_bash(line: str) -> list[str]:
    """Return the arguments of the `python` command in a printed line, as bash passes them on."""
    command = line[line.index("python ") :]
    done = run_command(["bash", "-c", f"python() {{ printf '%s\\0' \"$@\"; }}; {command}"])
    assert done.stderr == ""
    return done.stdout.split("\0")[:-1]


@posix
def test_every_printed_command_keeps_its_paths(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PATH", os.path.dirname(sys.executable), prepend=os.pathsep)  # as in an activated environment
    folder = tmp_path / 'it\'s $HOME `id` "दिन"\n\x1b[2J'
    folder.mkdir()
    line = report.summary_lines(train_config(), 3, {"loss": 1.0, "val_loss": 1.0, "val_bpb": 1.0}, [], None, folder)[-1]
    assert arguments_in_bash(line) == ["generate.py", "--checkpoint", str(folder), "--interactive"]
    with pytest.raises(UserError) as error:
        load_checkpoint(folder)
    assert arguments_in_bash("python " + re.search(r"--checkpoint_dir .*", str(error.value))[0]) == [
        "--checkpoint_dir",
        str(folder),
        "--resume",
        "auto",
    ]
    assert download.main(["--source", "sample", "--max_tokens", "2000", "--output_dir", str(folder / "raw")]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    corpus = str(folder / "raw" / "hindi_corpus.txt")
    assert arguments_in_bash(last) == ["data/preprocess.py", "--input", corpus, "--output_dir", str(folder), "--train_tokenizer", "4096"]
    assert download.main(["--source", "sample", "--max_tokens", "2000", "--output_dir", str(folder)]) == 0  # no folder named raw
    assert arguments_in_bash(capsys.readouterr().out.splitlines()[-1])[3:5] == ["--output_dir", str(folder)]


def train_config():
    from nano_hindi.config import TrainConfig

    return TrainConfig(total_tokens=262_144 * 3)


@pytest.mark.slow
@posix
def test_printed_commands_run_one_after_the_other_in_a_folder_with_any_name(tmp_path, monkeypatch):
    """From the sample to the dry run, each command pasted from the last line of the one before."""
    folder = tmp_path / 'it\'s $HOME; "मेरा" \\ `id`'
    monkeypatch.chdir(ROOT)
    line = f"next: {python_command('data/download.py')} --source sample --max_tokens 20000 --output_dir {shlex.quote(str(folder / 'raw'))}"
    for expected in ("data/preprocess.py", "train.py", None):
        command = line.split("next: ")[1].replace("--train_tokenizer 4096", "--train_tokenizer 600")
        if expected is None:
            command += " --config tiny --sequence_len 64 --dry_run --device cpu"
        done = run_command(["bash", "-c", command])
        assert done.returncode == 0, done.stderr
        line = done.stdout.splitlines()[-1]
        assert expected is None or f"next: {python_command(expected)}" in line
    assert line.startswith("time  ")


# ---- foreign text


@pytest.mark.slow
@posix
def test_generated_text_is_shown_on_a_terminal_and_unchanged_in_a_pipe(spelling):
    prompt = f"क्‍ष {HOSTILE[:-1]}\tराम"  # without the carriage return, which Python would read as a line end
    flags = ["--max_tokens", "5", "--temperature", "0", "--device", "cpu", "--num_samples", "2"]
    argv = ["generate.py", "--checkpoint", spelling, "--prompt", prompt, *flags]
    piped = run_command([sys.executable, *argv], env={**os.environ, "OMP_NUM_THREADS": "1"}).stdout
    text = f"{prompt} क्षि"
    assert piped == f"{text}\n---\n{text}\n"
    typed = on_terminal(*argv)
    assert re.sub(" +", " ", typed.expandtabs(1)) == re.sub(" +", " ", visible(f"{text}\n---\n{text}\n").expandtabs(1))


def test_chat_shows_control_characters_only_on_a_terminal_and_the_model_reads_the_text_itself(spelling, capsys, monkeypatch):
    import threading

    trained = load_for_inference(spelling)
    for is_terminal in (True, False):
        chat = TextSession(build_model(trained, torch.device("cpu")), trained.tokenizer, Settings(max_tokens=5, temperature=0))
        monkeypatch.setattr(sys.stdout, "isatty", lambda is_terminal=is_terminal: is_terminal)
        chat.respond(f"{HOSTILE} राम", threading.Event())
        text = f"{HOSTILE} राम क्षि"
        assert chat.text == text
        output, errors = capsys.readouterr()
        assert output == (visible(text) if is_terminal else text) + "\n"
        assert_plain(errors)


def test_samples_notices_and_errors_of_a_run_are_shown(capsys):
    Console(is_main=True).print_text(f"क्‍ष {HOSTILE}")
    Console(is_main=True).print(f"saved {HOSTILE}", 5)
    output = capsys.readouterr().out
    assert output == f"  > क्‍ष {SEEN}\nsaved {SEEN} 5\n"
    assert shown(Path(HOSTILE)) == SEEN


@posix
def test_error_line_shows_control_characters_of_a_file_name(tmp_path, capsys):
    hostile = HOSTILE.replace("\r", "")
    for main, flags in (
        (generate.main, ["--checkpoint", tmp_path / hostile]),
        (train.main, ["--data_dir", tmp_path / hostile]),
        (train.main, ["--device", hostile]),
        (plot.main, [tmp_path / hostile]),
        (download.main, ["--source", tmp_path / f"{hostile}.txt"]),
        (preprocess.main, ["--input", tmp_path / f"{hostile}.txt"]),
        (export.main, ["--checkpoint", tmp_path / hostile, "--output_dir", tmp_path / "out"]),
    ):
        assert main([str(flag) for flag in flags]) == 2
        errors = capsys.readouterr().err
        assert errors.count("\n") == 1
        assert r"\x1b" in errors
        assert_plain(errors)


@pytest.mark.slow
@posix
def test_no_command_prints_a_control_character_of_a_name_or_a_text(tmp_path, capfd, monkeypatch):
    """Every command, in folders with control characters in their names, with a corpus that has
    them in its text and a tokenizer named after such a folder."""
    monkeypatch.setattr("nano_hindi.training.text_data.SAMPLE_PROMPTS", (f"भारत {HOSTILE}",))
    folder = tmp_path / HOSTILE.replace("\r", "")
    standin.make_tokenizer(folder / "tokens\x1b[31m", vocab_size=512)
    standin.write_corpus(folder / "pages.txt", [f"{HOSTILE} {text}" for text in standin.documents(300)])
    corpus, data, run = folder / "raw" / "hindi_corpus.txt", folder / "data", folder / "run"
    commands = (
        (download.main, ["--source", folder / "pages.txt", "--output_dir", folder / "raw", "--tokenizer", folder / "tokens\x1b[31m"]),
        (download.main, ["--source", folder / "pages.txt", "--output_dir", folder / "raw", "--tokenizer", folder / "tokens\x1b[31m"]),
        (preprocess.main, ["--input", corpus, "--output_dir", data, "--tokenizer", folder / "tokens\x1b[31m", "--val_fraction", 0.1, "--report"]),
        (preprocess.main, ["--input", corpus, "--output_dir", data, "--tokenizer", folder / "tokens\x1b[31m", "--val_fraction", 0.1]),
        (train.main, [*SMALL, "--data_dir", data, "--checkpoint_dir", run, "--inference_interval", 12]),
        (train.main, [*SMALL, "--data_dir", data, "--checkpoint_dir", run, "--resume", "auto", "--total_tokens", 32 * 8 * 14]),
        (train.main, [*SMALL, "--data_dir", data, "--checkpoint_dir", run, "--resume", "auto", "--total_tokens", 32 * 8 * 14]),
        (train.main, [*SMALL, "--data_dir", folder / "none", "--checkpoint_dir", run, "--dry_run"]),
        (plot.main, [run, "--output", folder / "x.png"]),
        (evaluation.main, ["--checkpoint", run, "--data_dir", data, "--json", folder / "x.json", "--device", "cpu"]),
        (evaluation.main, ["--checkpoint", run, "--text", folder / "pages.txt", "--max_bytes", 3000, "--device", "cpu"]),
        (export.main, ["--checkpoint", run, "--output_dir", folder / "hf", "--data_dir", data]),
    )
    for main, flags in commands:
        assert main([str(flag) for flag in flags]) == 0, capfd.readouterr().err
        output, errors = capfd.readouterr()
        assert r"\x1b" in output, f"{main.__module__} named nothing"
        assert_plain(output + errors)
    write_report(data)
    page = (data / "report.html").read_text(encoding="utf-8")
    assert r"\x1b" in page
    assert_plain(page)


def test_python_code_of_an_export_names_any_folder():
    from nano_hindi.export.model_card import usage

    for path in ("/models/मेरा", '/a"b', "/a\\b", "/a\nb"):
        (line,) = [line for line in usage(path) if "from_pretrained" in line]
        assert eval(line[line.index("(", line.index("from_pretrained")) + 1 : line.index(", trust_remote_code")]) == path
