"""generate.py --interactive on a plain model: in a real terminal, in a pipe, and line by line."""

import dataclasses
import importlib.util
import os
import re
import signal
import sys
import threading
import time
import unicodedata

import pytest
import torch

import generate
from conftest import PATIENCE, launched, run_command, spelled
from nano_hindi import engine
from nano_hindi.errors import UserError
from nano_hindi.inference.loading import build_model, load_for_inference
from nano_hindi.inference.settings import Settings
from nano_hindi.inference.write_together import TextSession


class Terminal:
    """A program in a pseudo-terminal of its own, with Ctrl-C and Ctrl-D sent as keys."""

    def __init__(self, *argv):
        import fcntl
        import pty
        import termios

        self.end, program_end = pty.openpty()
        self.launched = launched(
            [sys.executable, *argv],
            stdin=program_end,
            stdout=program_end,
            stderr=program_end,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
            env={**os.environ, "OMP_NUM_THREADS": "1", "TERM": "dumb"},
        )
        self.program = self.launched.__enter__()
        os.close(program_end)
        self.shown, self.seen = b"", 0

    def type(self, keys: str) -> None:
        os.write(self.end, keys.encode())

    def wait_for(self, pattern: str, seconds: float = PATIENCE) -> re.Match:
        """Return the next match after the last one. Raises AssertionError with the end of the
        output if there is none."""
        import select

        deadline = time.monotonic() + seconds
        while True:
            text = self.shown.decode(errors="ignore").replace("\r\n", "\n")
            if match := re.compile(pattern, re.DOTALL).search(text, self.seen):
                self.seen = match.end()
                return match
            if time.monotonic() > deadline or not select.select([self.end], [], [], seconds)[0]:
                raise AssertionError(f"no {pattern!r} in {text[self.seen :][-300:]!r}")
            self.shown += os.read(self.end, 4096)

    def close(self) -> None:
        self.program.kill()
        self.launched.__exit__(None, None, None)
        os.close(self.end)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="needs a pseudo-terminal")
def test_chat_in_a_terminal(spelling):
    """Hindi input, Ctrl-C during generation and at the prompt, continuing with Enter, commands,
    history, the end of a text, Ctrl-D."""
    terminal = Terminal(
        "generate.py", "--checkpoint", spelling, "--interactive", "--max_tokens", 10**6, "--temperature", 0, "--device", "cpu"
    )  # fmt: skip
    try:
        terminal.wait_for(r"\n> ")
        terminal.type("राम\n")
        terminal.wait_for("राम\n")
        begun = terminal.wait_for(".*ॐ.*ॐ.*ॐ")[0]
        terminal.type("\x03")
        rest, made = terminal.wait_for(r"(.*?)\n\[stopped after (\d+) tokens, \d+ tokens/s\]\n").groups()
        assert (begun + rest).replace("^C", "") == "राम" + spelled(int(made))

        terminal.type("\n")  # Enter continues the last word
        terminal.wait_for(r"> \n[^\n]*ॐ[^\n]*ॐ")
        terminal.type("\x03")
        terminal.wait_for(r"\[stopped after \d+ tokens")

        terminal.wait_for(r"\n> ")
        terminal.type("सीता")
        terminal.wait_for("सीता")
        for attempt in range(20):  # readline loses one that comes while it handles a key; a user presses it again
            terminal.type("\x03")
            try:
                terminal.wait_for(r"\[Ctrl-D or /quit leaves\]\n\n> ", seconds=5)
                break
            except AssertionError:
                if attempt == 19:
                    raise
        for line, answer in (
            ("/max 5", r"\[max_tokens is 5\]"),
            ("/topp 2", r"\[/topp must be a number, above 0 and at most 1, not 2\]"),
            ("/reset", r"\[a new text\]"),
            ("राम", r"\nराम क्षि\n\[5 tokens, \d+ tokens/s\]"),
            ("अ", r"\nअ\n\[the text ends here, 0 tokens; a new one begins\]"),
            ("/help", r"/temp T .*/topk K .*/topp P .*/max N .*/seed S .*/reset .*/quit"),
        ):
            terminal.type(line + "\n")
            terminal.wait_for(answer)
            terminal.wait_for(r"\n> ")
        if importlib.util.find_spec("readline"):
            terminal.type("\x1b[A" * 6 + "\n")  # six entries up in the history
            terminal.wait_for(r"\[max_tokens is 5\]")
            terminal.wait_for(r"\n> ")
        terminal.type("\x04")
        assert terminal.program.wait(PATIENCE) == 0
    finally:
        terminal.close()


@pytest.mark.slow
def test_chat_in_a_pipe_prints_only_the_text(spelling):
    lines = ["राम", "", "/temp 0.5", "और", "/max 1", "।", "/reset", "सीता", "/quit", "not read"]
    argv = ["--checkpoint", spelling, "--interactive", "--max_tokens", "5", "--top_k", "1", "--device", "cpu"]
    talk = run_command([sys.executable, "generate.py", *argv], input="\n".join(lines))
    assert talk.returncode == 0, talk.stderr
    assert talk.stdout.splitlines() == ["राम क्षि", "क्षि1️\ufffd", "और क्षि", "क्षि। ", "सीता "]
    assert re.search(r"^\[5 tokens, \d+ tokens/s\]$", talk.stderr, re.MULTILINE)
    assert "Traceback" not in talk.stderr


def test_line_that_is_no_text_is_reported_and_the_next_continues_the_text(spelling, capsys, monkeypatch):
    lines = iter(["\ufeffराम", "क\udcff", "", "/quit"])  # as Python reads a byte that is not UTF-8
    monkeypatch.setattr("builtins.input", lambda question: next(lines))
    assert generate.main(["--checkpoint", str(spelling), "--interactive", "--max_tokens", "5", "--temperature", "0", "--device", "cpu"]) == 0
    shown = capsys.readouterr()
    assert shown.out == "राम क्षि\nक्षि1️\ufffd\n"  # as without the second line
    assert "[a text is not valid Unicode" in shown.err


@pytest.fixture
def speller(spelling):
    trained = load_for_inference(spelling)
    return TextSession(build_model(trained, torch.device("cpu")), trained.tokenizer, Settings(max_tokens=5, temperature=0))


def test_text_grows_until_it_ends_or_is_reset(speller, capsys):
    """The output of each turn begins with the line, or with the word that it continues."""
    never = threading.Event()
    cut = "क्षि1️\ufffd"  # in the middle of a character; the model does not see that sign
    turns = [("राम", "राम क्षि"), ("", cut), ("सीता ", "सीता क्षि"), (", लव", "क्षि, लव क्षि"), ("ा", "क्षिा क्षि"), (" कुश", "कुश क्षि"), ("(", "( क्षि")]
    for line, shown in turns:
        speller.respond(line, never)
        assert capsys.readouterr().out == shown + "\n", line
    assert speller.text == "राम क्षि1️ सीता क्षि, लव क्षिा क्षि कुश क्षि ( क्षि"
    speller.respond("अ", never)
    assert speller.text == ""
    speller.respond("क्", never)
    assert speller.text == "क्षि1"
    assert speller.command("/reset") == "[a new text]"
    assert speller.text == ""


@pytest.mark.parametrize(
    ("text", "line", "shown"),
    [
        ("cafe\u0301 cafe\u0301 राम", "सीता", "सीता"),  # NFC is shorter
        ("\u0958\u0959\u095a राम", "सीता", "सीता"),  # NFC is longer
        ("\u0958\u0959 cafe", "\u0301", "café"),  # the line composes with the last word
        ("cafe\u0301 q\u0307", "\u0323", "q\u0323\u0307"),  # and is put before a mark of it
        ("\u0958 राम ", "\u0301a", "\u0301a"),  # it composes with nothing
        ("\u0958 ", "", ""),
    ],
)
def test_nfc_of_the_text_so_far_neither_repeats_nor_swallows_what_is_printed(speller, capsys, text, line, shown):
    speller.text = text
    speller.respond(line, threading.Event())
    assert capsys.readouterr().out == f"{shown} क्षि\n".removeprefix("" if shown else " ")
    assert speller.text == unicodedata.normalize("NFC", f"{text.rstrip()} {line}" if line == "सीता" else text + line).rstrip() + " क्षि"


@pytest.mark.parametrize(
    ("text", "line", "joined"),
    [
        ("उसने कहा", '"चलो।"', 'उसने कहा "चलो।"'),
        ("उसने कहा।", "'चलो।'", "उसने कहा। 'चलो।'"),
        ("उसने लिखा", '"२४', 'उसने लिखा "२४'),
        ("उसने कहा", "“चलो।”", "उसने कहा “चलो।”"),
        ("उसने कहा", '"…चलो', 'उसने कहा "…चलो'),
        ("उसने कहा", '"(हँसकर) चलो', 'उसने कहा "(हँसकर) चलो'),
        ("यह देखो", "#हिन्दी", "यह देखो #हिन्दी"),
        ("उसने कहा ", '"चलो', 'उसने कहा "चलो'),
        ('उसने कहा "चलो', '"', 'उसने कहा "चलो"'),
        ('उसने कहा "चलो', '" और', 'उसने कहा "चलो" और'),
        ('उसने कहा "चलो', '",', 'उसने कहा "चलो",'),
        ("उसने कहा “चलो", "”", "उसने कहा “चलो”"),
        ("", '"चलो', '"चलो'),
    ],
)
def test_quote_that_opens_is_separated_and_one_that_closes_is_not(speller, text, line, joined):
    speller.text = text
    speller.respond(line, threading.Event())
    assert speller.text == joined + " क्षि"


def test_line_that_fails_leaves_the_text_as_it_was(speller, monkeypatch):
    speller.respond("राम", threading.Event())

    def full(*_):
        raise UserError("not enough memory")

    monkeypatch.setattr(engine, "KVCache", full)
    for line in ("सीता", "क\udcff"):
        with pytest.raises(UserError):
            speller.respond(line, threading.Event())
        assert speller.text == "राम क्षि"


def test_model_reads_the_whole_text_so_far(speller, monkeypatch):
    read, generate_batch = [], engine.generate_batch
    monkeypatch.setattr(
        engine, "generate_batch", lambda model, ids, *rest, **options: read.append(ids) or generate_batch(model, ids, *rest, **options)
    )
    for line in ("राम", "सीता"):
        speller.respond(line, threading.Event())
    assert read == [speller.tokenizer.encode_prompt(text) for text in ("राम", "राम क्षि सीता")]


def test_commands_change_and_show_one_setting_and_refuse_invalid_values(speller):
    for command, name, value, wrong in (
        ("/temp", "temperature", 0.5, "-1"),
        ("/topk", "top_k", 7, "1.5"),
        ("/topp", "top_p", 0.9, "0"),
        ("/max", "max_tokens", 12, "many"),
        ("/seed", "seed", 3, "2e9"),
    ):
        before = speller.settings
        assert speller.command(f"{command} {value}") == speller.command(command) == f"[{name} is {value}]"
        assert speller.settings == dataclasses.replace(before, **{name: value})
        answer = speller.command(f"{command} {wrong}")
        assert answer.startswith(f"[{command} must be ")
        assert "\n" not in answer
        assert speller.settings == dataclasses.replace(before, **{name: value})
        assert command in speller.command("/help")
    assert speller.command("/seed random") == "[seed is random]"
    assert "/help" in speller.command("/tmep 3")


def test_seed_repeats_a_text_and_without_a_seed_texts_differ(straight, capsys):
    trained = load_for_inference(straight)
    writer = TextSession(build_model(trained, torch.device("cpu")), trained.tokenizer, Settings(max_tokens=12))

    def text():
        writer.command("/reset")
        writer.respond("राम", threading.Event())
        return capsys.readouterr().out

    assert text() != text()
    writer.command("/seed 4")
    assert text() == text()


def test_ctrl_c_stops_the_text_but_not_the_chat(spelling, capsys, monkeypatch):
    """Also in the middle of a character, whose bytes so far are printed, and twice."""
    asked, lines, sample = [], iter(["राम", "सीता", "/quit"]), engine.sample_token

    def interrupted(*arguments):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        return sample(*arguments)

    monkeypatch.setattr(engine, "sample_token", interrupted)
    monkeypatch.setattr("builtins.input", lambda question: asked.append(question) or next(lines))
    assert generate.main(["--checkpoint", str(spelling), "--interactive", "--temperature", "0", "--device", "cpu"]) == 0
    shown = capsys.readouterr()
    assert len(asked) == 3
    assert shown.out == "राम \nसीता \n"
    assert shown.err.count("[stopped after 1 token]") == 2


@pytest.mark.parametrize("leave", ["/quit", " /quit ", "\x04"])
def test_line_that_quits(spelling, capsys, monkeypatch, leave):
    monkeypatch.setattr("builtins.input", lambda question: leave)
    assert generate.main(["--checkpoint", str(spelling), "--interactive", "--device", "cpu"]) == 0
    assert capsys.readouterr().out == ""
