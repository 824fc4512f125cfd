"""Generate texts from a prompt, and stream them in grapheme clusters: what a reader takes for one
character, such as a conjunct with its matra (Unicode Standard Annex 29)."""

from __future__ import annotations

import codecs
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import regex

from nano_hindi.chat.template import MARKERS, STOP
from nano_hindi.cli import collected_interrupts
from nano_hindi.console import stdout_filter
from nano_hindi.inference.settings import Settings

if TYPE_CHECKING:
    from nano_hindi.model import GPT
    from nano_hindi.tokenizer import Tokenizer

MAX_HELD = 64  # characters of a grapheme cluster; those of real text are shorter (UAX 15 has 30 marks in a row at most)


class TextStream:
    """Decode a stream of tokens: `push` returns complete grapheme clusters only, `flush` the rest.

    Concatenated, they are `Tokenizer.decode` of all ids. No further text changes the glyphs of a
    complete cluster: `\\X` keeps all consonants that a virama joins together. It separates न + ZWJ
    from या, and त् from अ, which form no conjunct. Of a cluster of more than `MAX_HELD` characters,
    only that many are held back: a stream takes linear time, whatever its text.
    """

    def __init__(self, tokenizer: Tokenizer):
        self._piece_bytes, self._strip_space = tokenizer.piece_bytes, tokenizer.has_dummy_space
        self._decoder, self._clusters = codecs.getincrementaldecoder("utf-8")(errors="replace"), regex.compile(r"\X").findall
        self._last = ""  # the last cluster, which more text may extend

    def push(self, *tokens: int) -> str:
        """Return the grapheme clusters that `tokens` complete; the last one is held back."""
        data = b"".join([self._piece_bytes[token] for token in tokens])
        if self._strip_space and data:
            data, self._strip_space = data.removeprefix(b" "), False
        *complete, last = self._clusters(self._last + self._decoder.decode(data)) or [""]
        self._last = last[-MAX_HELD:]
        return "".join(complete) + last[:-MAX_HELD]

    def flush(self) -> str:
        """Return the last grapheme cluster, and U+FFFD for incomplete UTF-8."""
        rest, self._last = self._last + self._decoder.decode(b"", final=True), ""
        return rest


class AnswerStream:
    """Decode a stream of tokens like TextStream, up to the first of the texts in `stops`.

    `prompt`: ids whose text comes first; of it and the tokens, the first `skipped` characters are
    left out. `is_chat`: the text is an answer of a chat model, as `until_stop` of the template
    returns it. It also ends before a line that begins with a marker, even if one of `stops` ends
    within that marker, and has no whitespace at its ends.
    """

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str] = (), is_chat: bool = False, prompt: Sequence[int] = (), skipped: int = 0):
        self._stream, self._is_chat = TextStream(tokenizer), is_chat
        self._markers = STOP if is_chat else ()
        self._first_markers = tuple(MARKERS.values()) if is_chat else ()  # until text is returned: the line end before it is the prompt's
        self._stops = [*self._markers, *stops]
        self._held, self.has_stopped = "", False  # held back: it may begin a stop, or be whitespace at the end
        self._to_skip = skipped - len(self._stream.push(*prompt))

    def push(self, token: int) -> str:
        """Return the characters that `token` completes."""
        return self._add(self._stream.push(token))

    def flush(self) -> str:
        """Return the characters that were held back."""
        text = self._add(self._stream.flush()) + self._held
        return self._strip_start(text).rstrip() if self._is_chat else text

    def _add(self, new: str) -> str:
        """Add `new` to the text that is held back, and return what is certain of both."""
        new, self._to_skip = new[max(self._to_skip, 0) :], self._to_skip - len(new)
        if self.has_stopped:
            return ""
        text = self._held + new
        if (end := self._find_stop(text)) is not None:
            self.has_stopped, text = True, text[:end]
        elif (end := self._without_begun(text, self._stops)) < len(text):
            end = _character_start(text, end)
        if self._is_chat:
            end = len(text[:end].rstrip())
        self._held = text[end:]
        return self._strip_start(text[:end])

    def _find_stop(self, text: str) -> int | None:
        """Return where the first stop begins, or the marker that it ends in; None if there is no
        stop."""
        if text.lstrip().startswith(self._first_markers):
            return 0
        found = [(i, i + len(stop)) for stop in self._stops if (i := text.find(stop)) >= 0]
        if not found:
            return None
        start, end = min(found)
        return min(start, self._without_begun(text[:end], self._markers))

    def _without_begun(self, text: str, stops: Sequence[str]) -> int:
        """Return the length of `text` without what may be the beginning of one of `stops`."""
        if any(marker.startswith(text.lstrip()) for marker in self._first_markers):
            return 0
        return len(text) - max((n for stop in stops for n in range(1, min(len(stop), len(text) + 1)) if text.endswith(stop[:n])), default=0)

    def _strip_start(self, text: str) -> str:
        if self._first_markers:
            text = text.lstrip()
            self._first_markers = () if text else self._first_markers
        return text


def _character_start(text: str, i: int) -> int:
    """Return the index at which the character that holds `text[i]` begins."""
    return max(match.start() for match in regex.finditer(r"\X", text, pos=max(i - MAX_HELD, 0)) if match.start() <= i)


def stream_texts(model: GPT, tokenizer: Tokenizer, prompt: str, settings: Settings, n_texts: int, stop: threading.Event) -> Iterator[list[str]]:
    """Yield the new characters of `n_texts` texts: first those of the prompt, then those completed
    by each token, last those held back.

    Only whole characters are yielded; joined, they are the decoded tokens. Ends after `max_tokens`
    tokens, before eos, or when `stop` is set.
    """
    from nano_hindi.engine import generate_batch

    ids, first_ids = tokenizer.encode_open(prompt)
    streams = [TextStream(tokenizer) for _ in range(n_texts)]
    yield [stream.push(*ids) for stream in streams]
    for tokens in generate_batch(model, ids, n_texts, settings.max_tokens, (tokenizer.eos_id,), first_ids=first_ids, **settings.sampling()):
        yield ["" if token is None else stream.push(token) for stream, token in zip(streams, tokens, strict=True)]
        if stop.is_set():
            break
    yield [stream.flush() for stream in streams]


def print_texts(model: GPT, tokenizer: Tokenizer, prompt: str, settings: Settings, n_texts: int) -> None:
    """Print the prompt and stream its continuation; further texts of the batch are printed when all
    are done.

    After Ctrl-C, prints everything generated so far, then raises KeyboardInterrupt.
    """
    waiting, show = [""] * (n_texts - 1), stdout_filter()
    with collected_interrupts() as stop:
        for first, *others in stream_texts(model, tokenizer, prompt, settings, n_texts, stop):
            print(show(first), end="", flush=True)
            waiting = [text + new for text, new in zip(waiting, others, strict=True)]
        print("".join(f"\n---\n{show(text)}" for text in waiting), flush=True)
    if stop.is_set():
        raise KeyboardInterrupt
