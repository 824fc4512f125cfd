"""Turn the records of chat data sets into conversations: recognise their layout, mend what can be
mended, drop the rest, and count both."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from nano_hindi.corpus.source_files import CHAT_COLUMNS as LISTS

ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "bot"), "assistant"),
}
PAIRS = ("hin_Deva", "interactions")  # of [question, answer], as in ai4bharat/indic-align
QUESTIONS, CONTEXTS = ("instruction", "inputs", "prompt", "question"), ("input", "context")
ANSWERS = ("output", "response", "targets", "completion", "answer")
HINDI = ("hin", "hi")  # in the field language_code
KNOWN_FIELDS = (
    f"{', '.join((*LISTS, *PAIRS))}, or one of {', '.join(QUESTIONS)}, and perhaps {' or '.join(CONTEXTS)}, with one of {', '.join(ANSWERS)}"
)
UNKNOWN_LAYOUT = "of an unknown layout"
# at least one character of Devanagari in UTF-8: E0 A4 or A5, and one more byte
_ESCAPED = re.compile(r"(?:%[0-9A-Fa-f]{2})*%[Ee]0%[Aa][45]%[89ABab][0-9A-Fa-f](?:%[0-9A-Fa-f]{2})*")

Turn = tuple[str, str]  # role and content


class Mender:
    """Make conversations of records, one by one.

    `counts` has what was read, kept, and mended or dropped for each reason. A conversation counts
    once for each thing that was mended in it, and has one reason to be dropped.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._seen: set[bytes] = set()

    def __call__(self, record: Any) -> list[dict[str, str]] | None:
        """Return messages that the chat template takes, ending with an answer; None if the record
        is dropped."""
        self.counts["read"] += 1
        try:
            turns = self._mended(turns_of(record))
        except _DroppedError as reason:
            self.counts[f"dropped: {reason}"] += 1
            return None
        mark = hashlib.blake2b(json.dumps(turns).encode(), digest_size=16).digest()
        if mark in self._seen:
            self.counts["dropped: a duplicate"] += 1
            return None
        self._seen.add(mark)
        self.counts["kept"] += 1
        return [{"role": role, "content": content} for role, content in turns]

    def _mended(self, turns: list[Turn]) -> list[Turn]:
        mended = []
        decoded = [(role, _unescaped(content).strip()) for role, content in turns]
        if any(after != before.strip() for (_, after), (_, before) in zip(decoded, turns, strict=True)):
            mended.append("percent-escapes decoded")
        found = [(role, re.sub("\r\n?", "\n", content)) for role, content in decoded]  # else the model would write \r too
        if found != decoded:
            mended.append("line ends of Windows replaced")
        system, turns = (found[:1], found[1:]) if found[0][0] == "system" else ([], found)
        if any(role == "system" for role, _ in turns):
            raise _DroppedError("a system message that is not first")
        if system and not system[0][1]:
            system = []
            mended.append("empty system message removed")
        turns, count = joined_turns(turns), len(turns)
        if len(turns) < count:
            mended.append("turns of the same role joined")
        if turns and turns[0][0] == "assistant":
            turns = turns[1:]
            mended.append("answer before the first question removed")
        # after an empty turn, what follows refers to what is not there
        end = next((i for i, (_, content) in enumerate(turns) if not content), len(turns))
        if end < len(turns):
            turns = turns[: end - end % 2]
            mended.append("cut at an empty turn")
        elif len(turns) % 2:
            turns = turns[:-1]
            mended.append("question without an answer removed")
        if not turns:
            raise _DroppedError("no question with an answer")
        self.counts.update(f"mended: {what}" for what in mended)
        return [*system, *turns]


class _DroppedError(Exception):
    """The reason why a record is dropped."""


def turns_of(record: Any) -> list[Turn]:
    """Return the roles and contents of a record of any layout with KNOWN_FIELDS; not empty.

    Raises _DroppedError for other layouts, other languages and content that is not text.
    """
    if not isinstance(record, Mapping):
        raise _DroppedError("not a JSON object")
    if record.get("language_code") not in (None, *HINDI):
        raise _DroppedError("in another language")
    turns = _turns(record)
    if not turns:
        raise _DroppedError("no messages")
    if record.get("system") and turns[0][0] != "system":
        turns = [("system", record["system"]), *turns]
    for _, content in turns:
        if not isinstance(content, str):
            raise _DroppedError("content that is not text")
        try:
            content.encode()
        except UnicodeEncodeError:
            raise _DroppedError("not valid Unicode") from None
    return turns


def _turns(record: Mapping[str, Any]) -> list[tuple[str, Any]]:
    if (messages := _first(record, LISTS)) is not None:
        return [_turn(message) for message in _list(messages)]
    if (pairs := _first(record, PAIRS)) is not None:
        return _paired(pairs)
    question, context, answer = (_first(record, names) for names in (QUESTIONS, CONTEXTS, ANSWERS))
    if question is None or answer is None:
        raise _DroppedError(UNKNOWN_LAYOUT)
    if isinstance(question, str) and context:
        if not isinstance(context, str):
            raise _DroppedError("content that is not text")
        question = f"{question.strip()}\n\n{context.strip()}"
    return [*_paired(record.get("history") or []), ("user", question), ("assistant", answer)]


def _first(record: Mapping[str, Any], names: Sequence[str]) -> Any:
    """Return the first field that there is; Parquet has null for those that only other records
    have."""
    return next((record[name] for name in names if record.get(name) is not None), None)


def _paired(value: Any) -> list[tuple[str, Any]]:
    pairs = _list(value)
    if any(isinstance(pair, str) or not isinstance(pair, Sequence) for pair in pairs):
        raise _DroppedError("content that is not text")
    return [(("user", "assistant")[i % 2], text) for pair in pairs for i, text in enumerate(pair)]


def _list(value: Any) -> Sequence:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise _DroppedError("messages that are not a list")
    return value


def _turn(message: Any) -> tuple[str, Any]:
    if not isinstance(message, Mapping):
        raise _DroppedError("a message that is not an object")
    role = _first(message, ("role", "from"))
    if not isinstance(role, str) or role.lower() not in ROLES:
        raise _DroppedError("an unknown role")
    return ROLES[role.lower()], joined_parts(_first(message, ("content", "value")))


def joined_parts(content: Any) -> Any:
    """Return the text of a list of text parts, as OpenAI's API has them; other content as it is."""
    if not isinstance(content, list) or not all(
        isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str) for part in content
    ):
        return content
    return "".join(part["text"] for part in content)


def joined_turns(turns: list[Turn]) -> list[Turn]:
    """Return the turns with those of the same role, one after another, as one."""
    joined: list[Turn] = []
    for role, content in turns:
        if joined and joined[-1][0] == role:
            joined[-1] = role, f"{joined[-1][1]}\n\n{content}".strip()
        else:
            joined.append((role, content))
    return joined


def _unescaped(text: str) -> str:
    """Return `text` with the Devanagari of web addresses readable: `%E0%A4%95` is क. An escape that
    is not UTF-8 stays."""

    def decoded(match: re.Match[str]) -> str:
        try:
            return unquote(match[0], errors="strict")
        except UnicodeDecodeError:
            return match[0]

    return _ESCAPED.sub(decoded, text) if "%" in text else text
