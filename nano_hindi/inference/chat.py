"""`generate.py --interactive`: a text that a person and the model write in turns.

The text so far is the whole context. A line is added to it and the model goes on from there, until it ends the text with eos, or /reset does.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import sys
import threading
import time
import unicodedata

from nano_hindi.cli import collected_interrupts
from nano_hindi.common import IS_WINDOWS
from nano_hindi.errors import UserError
from nano_hindi.inference.settings import SETTINGS, Settings, parse_setting
from nano_hindi.inference.text import write

COMMANDS = {"/temp": "temperature", "/topk": "top_k", "/topp": "top_p", "/max": "max_tokens", "/seed": "seed"}
LEAVE = "Ctrl-Z and Enter" if IS_WINDOWS else "Ctrl-D"
HELP = f"""What you type is added to the text so far, and the model goes on from there; Enter alone lets it go on.
Ctrl-C stops it. {LEAVE} or /quit leaves. A command without a value shows the one in force.

""" + "\n".join(
    f"  {usage:8}  {text}"
    for usage, text in (
        *((f"{command} {SETTINGS[name].metadata['metavar']}", SETTINGS[name].metadata["help"]) for command, name in COMMANDS.items()),
        ("/reset", "forget the text so far and begin a new one"),
        ("/help", "this page"),
        ("/quit", "leave"),
    )
)


def talk(model, tokenizer, settings: Settings) -> None:
    """Read commands and lines of text until /quit or the end of input. The text goes to stdout, all other words to stderr."""
    with contextlib.suppress(ImportError):  # Windows has none; its console edits lines by itself
        import readline  # noqa: F401 - gives input() line editing and history
    chat = Chat(model, tokenizer, settings)
    is_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    if is_terminal:
        _note(f"Type the beginning of a text. Ctrl-C stops the model, {LEAVE} leaves, /help shows more.")
    while True:
        try:
            line = input("\n> " if is_terminal else "")
        except EOFError:
            if is_terminal:
                print()
            return
        except KeyboardInterrupt:
            _note(f"\n[{LEAVE} or /quit leaves]")
            continue
        if line.strip() in ("/quit", "\x04"):  # Ctrl-D is a letter like any other on Windows
            return
        with collected_interrupts() as stop:
            if line.startswith("/"):
                _note(chat.command(line))
            else:
                chat.write(line, stop)


class Chat:
    """The text so far, and how it goes on."""

    def __init__(self, model, tokenizer, settings: Settings):
        self.model, self.tokenizer, self.settings, self.text = model, tokenizer, settings, ""

    def command(self, line: str) -> str:
        """Do what a line that begins with a slash asks for. Returns what there is to say of it."""
        command, _, value = line.strip().partition(" ")
        if command == "/help":
            return HELP
        if command == "/reset":
            self.text = ""
            return "[a new text]"
        if command not in COMMANDS:
            return f"[there is no command {command}; /help lists them]"
        name = COMMANDS[command]
        if value:
            try:
                self.settings = dataclasses.replace(self.settings, **{name: parse_setting(name, command, value.strip())})
            except UserError as error:
                return f"[{error}]"
        value = getattr(self.settings, name)
        return f"[{name} is {'random' if value is None else value}]"

    def write(self, line: str, stop: threading.Event) -> None:
        """Add `line` to the text and print it with what the model makes of it, until eos, `max_tokens`, or `stop` is set."""
        prompt, printed = _join(self.text, line)
        self.text, times = "", []
        for (piece,) in write(self.model, self.tokenizer, prompt, self.settings, 1, stop):
            self.text += piece
            times.append(time.perf_counter())
            if len(self.text) > printed:
                print(self.text[printed:], end="", flush=True)
                printed = len(self.text)
        print(flush=True)
        self.text = self.text.rstrip("\ufffd")  # a character that was cut off is not what the model goes on from
        made = len(times) - 2  # the first piece is the prompt's, the last what was kept back
        tokens = "1 token" if made == 1 else f"{made} tokens"
        rate = f", {(made - 1) / (times[-2] - times[1]):.0f} tokens/s" if made > 1 else ""
        if stop.is_set():
            _note(f"[stopped after {tokens}{rate}]")
        elif made < self.settings.max_tokens:
            self.text = ""
            _note(f"[the text ends here, {tokens}{rate}; a new one begins]")
        else:
            _note(f"[{tokens}{rate}]")


def _join(text: str, line: str) -> tuple[str, int]:
    """The text with the line behind it, a space between them where `line` begins a word; and where to show it from: the line, or the last word of
    the text where that goes on.
    """
    goes_on = not text or not line or text[-1].isspace() or line[0].isspace()
    if not goes_on and unicodedata.category(line[0]) not in ("Mn", "Mc", "Me", "Cf", "Pe", "Pf", "Po"):
        line = " " + line
    joined = text + line
    return joined, re.search(r"\S*\Z", joined[: len(text) + 1]).start()


def _note(words: str) -> None:
    print(words, file=sys.stderr, flush=True)
