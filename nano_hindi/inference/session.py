"""The loop of generate.py's interactive sessions: lines from the user, commands and their help,
Ctrl-C."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import shutil
import sys
import textwrap
import threading
from collections.abc import Callable, Sequence
from typing import ClassVar

from nano_hindi.cli import collected_interrupts
from nano_hindi.common import IS_WINDOWS, visible
from nano_hindi.errors import UserError
from nano_hindi.inference.settings import SETTINGS, Settings

SETTING_COMMANDS = {"/temp": "temperature", "/topk": "top_k", "/topp": "top_p", "/max": "max_tokens", "/seed": "seed"}
LEAVE = "Ctrl-Z and Enter" if IS_WINDOWS else "Ctrl-D"


class Session:
    """The settings, which commands show and change, and the commands of a kind of session."""

    greeting: str
    intro: str  # of /help
    usages: tuple[tuple[str, str], ...]  # its own commands with their help
    aliases: ClassVar[dict[str, str]] = {}  # other names of commands

    def __init__(self, settings: Settings):
        self.settings = settings
        self.commands: dict[str, Callable[[str], str]] = {"/help": lambda _: self.help()}  # they return the message to show

    def respond(self, line: str, stop: threading.Event) -> None:
        """Print what the model writes after `line`, until it ends or `stop` is set. Raises
        UserError for a line that it cannot read."""
        raise NotImplementedError

    def command(self, line: str) -> str:
        """Run the command of a line that begins with a slash. Returns the message to show. Raises
        UserError if it cannot be run."""
        word, *rest = line.split(None, 1)  # at a tab or a line break too
        command, value = self.aliases.get(word, word), "".join(rest).strip()
        if command in self.commands:
            return self.commands[command](value)
        if command not in SETTING_COMMANDS:
            return f"[there is no command {command}; /help lists them]"
        name = SETTING_COMMANDS[command]
        if value:
            try:
                self.settings = dataclasses.replace(self.settings, **{name: SETTINGS[name].metadata["valid"](value)})
            except argparse.ArgumentTypeError as error:
                return f"[{command} {error}]"
        value = getattr(self.settings, name)
        return f"[{name} is {'random' if value is None else value}]"

    def help(self) -> str:
        """Return the page of /help, wrapped to the terminal."""
        columns = max(40, shutil.get_terminal_size().columns) - 1
        settings = (
            (f"{command} {SETTINGS[name].metadata['metavar']}", SETTINGS[name].metadata["help"]) for command, name in SETTING_COMMANDS.items()
        )
        usages = [*settings, *self.usages, ("/help", "show this page"), ("/quit", "leave")]
        width = max(len(usage) for usage, _ in usages)
        intro = [textwrap.fill(line, columns) for line in self.intro.splitlines()]
        lines = [textwrap.fill(f"  {usage:{width}}  {text}", columns, subsequent_indent=" " * (width + 4)) for usage, text in usages]
        names = ", ".join(f"{alias} = {name}" for alias, name in self.aliases.items())
        return "\n".join([*intro, "", *lines, *(["", textwrap.fill(f"In Hindi: {names}", columns)] if names else [])])


def run(session: Session) -> None:
    """Read commands and lines of text until /quit or the end of input. The text goes to stdout,
    everything else to stderr."""
    _edit_lines()
    is_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    is_first = True
    if is_terminal:
        note(session.greeting)
    while True:
        try:
            line = input("\n> " if is_terminal else "")
            line, is_first = line.removeprefix("\ufeff" * is_first), False  # PowerShell begins a pipe with U+FEFF
            if session.aliases.get(line.strip(), line.strip()) in ("/quit", "\x04"):  # Ctrl-D is an ordinary character on Windows
                return
            with collected_interrupts() as stop:
                if line.startswith("/"):
                    note(session.command(line))
                else:
                    session.respond(line, stop)
        except UserError as error:
            note(f"[{error}]")
        except EOFError:
            if is_terminal:
                print()
            return
        except KeyboardInterrupt:  # while a line is read, or just before or after the block that collects Ctrl-C
            note(f"\n[{LEAVE} or /quit leaves]")


def _edit_lines() -> None:
    """Give input() line editing and a history, with readline. Windows has none; its console edits
    lines by itself."""
    with contextlib.suppress(ImportError):
        import locale
        import readline

        if sys.platform != "win32" and locale.nl_langinfo(locale.CODESET) != "UTF-8":
            os.environ["LC_ALL"] = "C.UTF-8"  # in another locale, such as that of LC_ALL=C, readline loses Devanagari letters
        if os.environ.get("TERM", "dumb") != "dumb":  # which would show the escape sequences
            readline.parse_and_bind("set enable-bracketed-paste on")  # a pasted text of several lines is one question


def note(message: str) -> None:
    """Print a message that is not part of the text, to stderr."""
    print(visible(message), file=sys.stderr, flush=True)


def speed(times: Sequence[float]) -> str:
    """Return `, 480 tokens/s` for the times at which tokens were made, "" for fewer than two."""
    return f", {(len(times) - 1) / (times[-1] - times[0]):.0f} tokens/s" if len(times) > 1 else ""
