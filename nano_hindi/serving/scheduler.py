"""Generate the texts of many clients with one model, in one thread.

The texts in progress share every forward pass. A text joins after its prompt has been read, one
chunk between two steps of the others, and leaves when it ends. Each has its own generator, so its
tokens do not depend on the others, except for rounding.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from nano_hindi.engine import PREFILL_TOKENS, Row, next_logits, next_tokens
from nano_hindi.errors import UserError

if TYPE_CHECKING:
    from nano_hindi.model import GPT

MAX_ACTIVE = 16  # texts in progress: each has a KV cache
MAX_WAITING = 512  # of all clients
MAX_WAITING_PER_CLIENT = 256


class BusyError(UserError):
    """Raised if too many texts wait already."""


@dataclass(eq=False)
class Text:
    """A text to generate.

    `receive` is called in the scheduler's thread with each token, then with None at the end, or
    with the exception that ended it.
    """

    client: str  # clients take turns
    tokens: Sequence[int]  # the prompt
    max_tokens: int
    stop_ids: Collection[int]
    sampling: dict[str, Any]  # arguments of `Sampler`
    receive: Callable[[int | Exception | None], None]
    is_cancelled: bool = False


class _Row(Row):
    """A text in progress, and the chunks (1, T) of its prompt that the model has not read."""

    def __init__(self, model: GPT, text: Text):
        super().__init__(model, text.tokens, **text.sampling)
        self.text, self.unread = text, list(self.prompt.split(PREFILL_TOKENS, dim=1))

    def take(self, token: int) -> bool:
        """Pass the text its next token. Return whether it continues."""
        ends = token in self.text.stop_ids
        if not ends:
            self.made.append(token)
            self.text.receive(token)
            ends = len(self.made) == self.text.max_tokens
        if ends:
            self.text.receive(None)
        return not ends


class Scheduler:
    """Use it as a context manager: the thread runs within the block."""

    def __init__(self, model: GPT):
        self._model = model
        self._waiting: dict[str, deque[Text]] = {}  # by client; the one that was served last is at the end
        self._joining: Text | None = None
        self._row: _Row | None = None  # of the joining text
        self._active: list[_Row] = []
        self._changed, self._is_closed = threading.Condition(), False
        self._thread = threading.Thread(target=self._run, daemon=True, name="scheduler")

    def __enter__(self) -> Scheduler:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join()

    def submit(self, text: Text) -> None:
        """Queue a text. Raises BusyError."""
        with self._changed:
            own = len(self._waiting.get(text.client, ()))
            if own >= MAX_WAITING_PER_CLIENT or sum(map(len, self._waiting.values())) >= MAX_WAITING:
                raise BusyError("too many requests are waiting; try again later")
            self._waiting.setdefault(text.client, deque()).append(text)
            self._changed.notify()

    def cancel(self, text: Text) -> None:
        """End a text, whether it waits or is in progress. It may receive one or two more tokens."""
        with self._changed:
            text.is_cancelled = True
            waiting = self._waiting.get(text.client)
            if waiting and text in waiting:
                waiting.remove(text)
                if not waiting:
                    del self._waiting[text.client]

    def _run(self) -> None:
        while self._choose():
            with torch.inference_mode():
                self._read_prompt()
                self._step()

    def _choose(self) -> bool:
        """Wait for work, and choose the next text to join. Return False when closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or self._waiting or self._joining or self._active)
            self._active = [row for row in self._active if not row.text.is_cancelled]
            if self._joining and self._joining.is_cancelled:
                self._joining = self._row = None
            if self._waiting and not self._joining and len(self._active) < MAX_ACTIVE:
                running = [row.text.client for row in self._active]
                client = min(self._waiting, key=running.count)
                texts = self._waiting.pop(client)
                self._joining = texts.popleft()
                if texts:
                    self._waiting[client] = texts  # at the end
            return not self._is_closed

    def _read_prompt(self) -> None:
        """Read a chunk of the joining text's prompt. After the last one, the text is active."""
        if self._joining is None:
            return
        try:
            self._row = self._row or _Row(self._model, self._joining)
            chunk = self._row.unread.pop(0)
            if self._row.unread:
                self._model.trunk(chunk, self._row.cache)
                return
            token = int(self._row.sampler.sample(next_logits(self._model, chunk, self._row.cache)))
        except Exception as error:  # noqa: BLE001 - out of memory, for instance: it must not end the texts of others
            self._joining.receive(error)
        else:
            if self._row.take(token):
                self._active.append(self._row)
        self._joining = self._row = None

    def _step(self) -> None:
        """Generate a token of each active text."""
        rows = self._active
        if not rows:
            return
        try:
            tokens = next_tokens(self._model, rows)
        except Exception as error:  # noqa: BLE001 - as above
            for row in rows:
                row.text.receive(error)
            self._active = []
        else:
            self._active = [row for row, token in zip(rows, tokens, strict=True) if row.take(token)]
