"""`generate.py --interactive`: the user and the model write a text in turns.

The text so far is the whole context. A line is added to it and the model continues it, until the
model ends the text with eos, or the user with /reset.
"""

from __future__ import annotations

import re
import threading
import time
import unicodedata
from typing import TYPE_CHECKING

from nano_hindi.console import counted, stdout_filter
from nano_hindi.inference.session import LEAVE, Session, note, speed
from nano_hindi.inference.settings import Settings
from nano_hindi.inference.text import stream_texts

if TYPE_CHECKING:
    from nano_hindi.model import GPT
    from nano_hindi.tokenizer import Tokenizer


class TextSession(Session):
    """The text so far, the context of the model, and the settings to continue it with."""

    greeting = f"Type the beginning of a text. Ctrl-C stops the model, {LEAVE} leaves, /help shows more."
    intro = f"""What you type is added to the text so far, and the model continues it; Enter alone continues without new text.
Ctrl-C stops the model. {LEAVE} or /quit leaves. A setting without a value is shown, not changed."""
    usages = (("/reset", "forget the text so far and begin a new one"),)

    def __init__(self, model: GPT, tokenizer: Tokenizer, settings: Settings):
        super().__init__(settings)
        self.model, self.tokenizer, self.text = model, tokenizer, ""
        self.commands["/reset"] = self._reset

    def _reset(self, _: str) -> str:
        self.text = ""
        return "[a new text]"

    def respond(self, line: str, stop: threading.Event) -> None:
        """Add `line` to the text and print it with the model's continuation, until eos,
        `max_tokens`, or `stop` is set."""
        prompt, begin = _join(self.text, line)
        # The stream repeats the prompt as the tokenizer restores it, in NFC, which may be longer or
        # shorter. A space is before `begin`, and nothing composes with it: the text before `begin`
        # has the same length there whatever follows.
        printed = len(self.tokenizer.decode(self.tokenizer.encode_batch([prompt[:begin]])[0]))
        text, times = "", []  # after an error, `self.text` is as it was before the line
        for (new,) in stream_texts(self.model, self.tokenizer, prompt, self.settings, 1, stop):
            text += new
            times.append(time.perf_counter())
            if len(text) > printed:
                print(stdout_filter()(text[printed:]), end="", flush=True)
                printed = len(text)
        print(flush=True)
        self.text = text.rstrip("\ufffd")  # an incomplete character must not be part of the context
        made = len(times) - 2  # the first item is the prompt, the last the text that was held back
        tokens, rate = counted(made, "token"), speed(times[1:-1])
        if stop.is_set():
            note(f"[stopped after {tokens}{rate}]")
        elif made < self.settings.max_tokens:
            self.text = ""
            note(f"[the text ends here, {tokens}{rate}; a new one begins]")
        else:
            note(f"[{tokens}{rate}]")


# ASCII quotes that open a quotation, as they stand before a word or another opening sign; a hashtag
_OPENING = re.compile(r"[\"'][\w\u0900-\u0903…(\[{“‘*₹]|[#@]\w")


def _join(text: str, line: str) -> tuple[str, int]:
    """Return `text` with `line` appended, separated by a space if `line` begins a word or a
    quotation; and the index to print from: that of the line, or of the last word of the text if the
    line continues it.
    """
    touches = text and line and not text[-1].isspace() and not line[0].isspace()
    if touches and (_OPENING.match(line) or unicodedata.category(line[0]) not in ("Mn", "Mc", "Me", "Cf", "Pe", "Pf", "Po")):
        line = " " + line
    joined = text + line
    begun = joined[: len(text) + 1]
    return joined, len(begun) - len(re.split(r"\s", begun)[-1])
