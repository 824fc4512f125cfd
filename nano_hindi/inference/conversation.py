"""`generate.py --chat`: questions and answers in turn, with a chat model.

The KV cache is kept between the turns, so a turn reads only its new tokens. If the model generated
other tokens for its answer than the tokenizer would, the next turn reads again from the first
difference.
"""

from __future__ import annotations

import bisect
import errno
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from nano_hindi.chat import template
from nano_hindi.cli import collected_interrupts
from nano_hindi.common import common_prefix_length
from nano_hindi.console import counted, shown, stdout_filter
from nano_hindi.errors import UserError, require
from nano_hindi.files import expanded
from nano_hindi.inference.session import LEAVE, Session, note, speed
from nano_hindi.inference.settings import Settings
from nano_hindi.inference.text import AnswerStream

if TYPE_CHECKING:
    from nano_hindi.engine import KVCache
    from nano_hindi.model import GPT
    from nano_hindi.tokenizer import Tokenizer


class ChatSession(Session):
    """The messages so far, and the cache of those that the model sees."""

    greeting = f"Ask something. Ctrl-C stops an answer, {LEAVE} leaves, /help or /मदद shows more."
    intro = f"""The model answers what you type. Ctrl-C stops an answer; the text so far counts as the answer, and /undo removes it.
{LEAVE} or /quit leaves. A setting without a value is shown, not changed. A space before a slash asks a question that begins with it."""
    usages = (
        ("/system TEXT", "begin a new conversation with this system message; without TEXT, with none"),
        ("/new", "begin a new conversation; the system message stays"),
        ("/undo", "remove the last question and its answer"),
        ("/save FILE", "append the conversation to a .jsonl file, which data/chat.py reads"),
        ("/stats", "show the tokens of the last answer, and tokens/s"),
    )
    aliases: ClassVar[dict[str, str]] = {
        "/नया": "/new",
        "/वापस": "/undo",
        "/सहेजो": "/save",
        "/निर्देश": "/system",
        "/गति": "/stats",
        "/मदद": "/help",
        "/बंद": "/quit",
    }

    def __init__(self, model: GPT, tokenizer: Tokenizer, settings: Settings):
        super().__init__(settings)
        self.model, self.tokenizer = model, tokenizer
        self.system: list[template.Message] = []  # its message, if there is one
        self.turns: list[template.Message] = []
        self.unseen = 0  # the oldest messages of `turns`, which the model no longer sees
        self.is_cut = False  # whether the last answer ended at max_tokens
        self._has_told_unseen = False
        self._stats = "no answer yet"
        self._cache: KVCache | None = None
        self._cached: list[int] = []  # the ids in the cache
        self.commands |= {
            "/new": self._new,
            "/system": self._set_system,
            "/undo": self._undo,
            "/save": self._save,
            "/stats": lambda _: f"[{self._stats}]",
        }

    # ---- answers

    def respond(self, line: str, stop: threading.Event) -> None:
        if not line.strip():
            return
        n_turns, show, made = len(self.turns), stdout_filter(), False
        for text in self.answer(line, stop):
            print(show(text), end="", flush=True)
            made = made or bool(text)
        if made:
            print(flush=True)
        if len(self.turns) == n_turns:
            note("[stopped; the question is removed]" if stop.is_set() else "[no answer; the question is removed]")
        elif stop.is_set():
            note("[stopped]")
        elif self.is_cut:
            note(f"[cut after {self.settings.max_tokens} tokens; /max N allows more]")
        if self.unseen and not self._has_told_unseen:
            self._has_told_unseen = True
            note(f"[the conversation is longer than the model's {self.model.config.sequence_len:,} tokens: it no longer sees the oldest turns]")

    def answer(self, question: str, stop: threading.Event) -> Iterator[str]:
        """Yield the answer in whole characters, until the model ends it, `max_tokens`, or `stop` is
        set; then add both messages, unless the answer is empty.

        Raises UserError for a question that is longer than the sequences of the training.
        """
        from nano_hindi.engine import generate_tokens

        message = {"role": "user", "content": question}
        ids = self._prompt(message)
        cache = self._cache_of(ids)
        n_cached, settings = cache.position, self.settings
        stream, text = AnswerStream(self.tokenizer, is_chat=True), ""
        made, times = list[int](), list[float]()
        for token in generate_tokens(self.model, ids, settings.max_tokens, (self.tokenizer.eos_id,), cache=cache, **settings.sampling()):
            made.append(token)
            times.append(time.perf_counter())
            new = stream.push(token)
            text += new
            yield new
            if stop.is_set() or stream.has_stopped:
                break
        rest = stream.flush()
        self.is_cut = len(made) == settings.max_tokens and not stream.has_stopped
        self._cache, self._cached = cache, [*ids, *made][: cache.position]
        self._stats = f"{counted(len(made), 'token')}{speed(times)}; {len(ids) - n_cached:,} of {len(ids):,} tokens before it were read anew"
        content = (text + rest).rstrip("\ufffd").rstrip()  # an incomplete character must not be part of the context
        if content:
            self.turns += [message, {"role": "assistant", "content": content}]
        yield rest

    def _prompt(self, message: template.Message) -> list[int]:
        """Return the ids before the answer, without the oldest turns if all turns and a short
        answer exceed the training sequences. A longer answer moves the attention windows, which
        loses less than a whole turn."""
        length = self.model.config.sequence_len
        room = min(self.settings.max_tokens, length // 8)

        def ids_without(unseen: int) -> list[int]:
            return template.prompt(self.tokenizer, [*self.system, *self.turns[unseen:], message])

        choices = range(self.unseen, len(self.turns) + 1, 2)  # bisected: after /undo, hundreds of turns may be too many
        first = bisect.bisect_left(choices, True, hi=len(choices) - 1, key=lambda unseen: len(ids_without(unseen)) + room <= length)
        unseen = choices[first]
        ids = ids_without(unseen)
        require(len(ids) <= length, f"the question has {len(ids):,} tokens, more than the {length:,} that the model was trained on; shorten it")
        self.unseen = unseen  # not before: a refused question leaves the conversation as it was
        return ids

    def _cache_of(self, ids: list[int]) -> KVCache:
        """Return the cache with the tokens that it shares with `ids`, or a new one."""
        from nano_hindi.engine import KVCache

        cache, self._cache = self._cache, None  # after an error, the next turn begins with a new one
        shared = common_prefix_length(self._cached, ids[:-1])
        if cache is not None and cache.rewind(shared):
            return cache
        return KVCache(self.model.config, 1, self.model.head_weight.device, self.model.compute_dtype)

    # ---- commands

    def _new(self, _: str) -> str:
        self.turns, self.unseen, self._has_told_unseen = [], 0, False
        return "[a new conversation]"

    def _set_system(self, text: str) -> str:
        self.system = [{"role": "system", "content": text}] if text else []
        self._new("")
        return "[a new conversation with this system message]" if text else "[a new conversation without a system message]"

    def _undo(self, _: str) -> str:
        if not self.turns:
            return "[there is nothing to take back]"
        question = self.turns[-2]["content"]
        self.turns, self.unseen = self.turns[:-2], 0
        return f"[removed: {question.strip()}]"

    def _save(self, name: str) -> str:
        if not name or not self.turns:
            return "[/save needs the name of a file]" if self.turns else "[there is nothing to save]"
        path = expanded(name)
        append_conversation(path, json.dumps({"messages": [*self.system, *self.turns]}, ensure_ascii=False))
        return f"[saved in {shown(path)}]"


def append_conversation(path: Path, line: str) -> None:
    """Append a line to a file of conversations.

    Raises UserError if it is another file or cannot be written.
    """
    require(path.suffix == ".jsonl", f"{path} does not end in .jsonl; choose another name")
    try:
        with path.open("a+b", buffering=0) as file:
            file.seek(0)
            before = file.readall()
            try:
                is_ours = all("messages" in json.loads(earlier) for earlier in before.splitlines() if earlier.strip())
            except (ValueError, TypeError, RecursionError):  # the last: nested too deeply
                is_ours = False
            require(is_ours, f"{path} holds records of another layout; choose another name")
            new = b"\n" * (before[-1:] not in (b"", b"\n")) + line.encode() + b"\n"
            if file.write(new) < len(new):  # a full disk; half a line would spoil the file
                file.truncate(len(before))
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except UserError:  # a ValueError too
        raise
    except (OSError, ValueError) as error:  # ValueError: a name with a null character
        raise UserError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}; make room, or choose another name") from error


def print_answer(model: GPT, tokenizer: Tokenizer, question: str, settings: Settings) -> None:
    """Print the answer to a single question.

    After Ctrl-C, prints what was generated so far, then raises KeyboardInterrupt.
    """
    require(bool(question.strip()), "--chat needs a question in --prompt")
    show = stdout_filter()
    with collected_interrupts() as stop:
        for text in ChatSession(model, tokenizer, settings).answer(question, stop):
            print(show(text), end="", flush=True)
        print(flush=True)
    if stop.is_set():
        raise KeyboardInterrupt
