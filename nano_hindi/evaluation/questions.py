"""Ask a chat model the questions of sample/questions.py about stories that are in no training data,
and judge its answers: `python -m nano_hindi.eval --questions N`.

Answers are generated at temperature 0, from the conversation as it should have gone so far.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from nano_hindi.chat.dataset import unseen
from nano_hindi.chat.sources import VAL_FRACTION
from nano_hindi.chat.template import prompt, until_stop
from nano_hindi.engine import generate_each
from nano_hindi.errors import require
from nano_hindi.minimal_pairs import wilson
from nano_hindi.model import GPT
from nano_hindi.sample.questions import Conversation
from nano_hindi.tokenizer import Tokenizer

MAX_TOKENS = 400  # of an answer, in addition to as many as its story has
N_GRAM = 4  # words
ASKED_TOGETHER = 16
TRIED = 4  # conversations for each question, in a context that is too short for some
OPEN_KINDS = ("continue", "tell")  # many answers would be right


@dataclass(frozen=True)
class Answer:
    """A model's answer to the last question of a conversation; whether it ended by itself, with eos
    or with a marker."""

    conversation: Conversation
    text: str
    has_ended: bool

    @property
    def is_right(self) -> bool:
        return self.has_ended and self.conversation.accepts(self.text)


def ask(model: GPT, tokenizer: Tokenizer, conversations: Iterable[Conversation]) -> Iterator[Answer]:
    """Yield the model's answer to the last question of each conversation."""
    rest = iter(conversations)
    while group := list(itertools.islice(rest, ASKED_TOGETHER)):
        asked = [(prompt(tokenizer, conversation.messages[:-1]), None) for conversation in group]
        limits = [len(ids) + MAX_TOKENS for ids in tokenizer.encode_batch([conversation.story for conversation in group])]
        answers = generate_each(model, asked, max(limits), (tokenizer.eos_id,), temperature=0)
        for conversation, limit, answer in zip(group, limits, answers, strict=True):
            text = tokenizer.decode(answer[:limit])
            ended = until_stop(text)  # at a marker too, as in a chat
            yield Answer(conversation, ended, len(answer) < limit or ended != text.strip())


def unseen_conversations(tokenizer: Tokenizer, count: int, sequence_len: int) -> list[Conversation]:
    """Return `count` conversations that fit into a context of `sequence_len` tokens, about stories
    of no training split. Raises UserError if most do not fit."""
    tried = itertools.islice(unseen(VAL_FRACTION), TRIED * count)
    fitting = (c for c in tried if len(prompt(tokenizer, c.messages[:-1])) < sequence_len)
    found = list(itertools.islice(fitting, count))
    require(
        len(found) == count, f"the questions of --questions are too long for this model, whose context has {sequence_len} tokens; omit --questions"
    )
    return found


def repeated(text: str) -> tuple[int, int]:
    """Return how many of the 4-grams of words in a text occur earlier in it, and their number."""
    words = text.split()
    grams = [tuple(words[i : i + N_GRAM]) for i in range(len(words) - N_GRAM + 1)]
    return len(grams) - len(set(grams)), len(grams)


def report(answers: Sequence[Answer]) -> tuple[list[str], dict[str, dict]]:
    """Return a table with a line for each kind of question and one for all, and its figures: the
    fraction of right answers with its 95 % interval (Wilson 1927), and the number of answers that
    were judged: not those of OPEN_KINDS; and of all answers the fraction that ended by themselves,
    and of repeated 4-grams."""
    by_kind: dict[str, list[Answer]] = defaultdict(list)
    for answer in answers:
        by_kind[answer.conversation.kind].append(answer)
    lines, figures = [f"{'kind':<10} {'right':>7}  {'95 % interval':>15} {'judged':>7} {'ended':>7} {'repeated':>9} {'questions':>10}"], {}
    for kind, group in {**dict(sorted(by_kind.items())), "all": answers}.items():
        judged = [answer for answer in group if answer.conversation.kind not in OPEN_KINDS]
        right = sum(answer.is_right for answer in judged) / len(judged) if judged else None
        again, grams = map(sum, zip(*(repeated(answer.text) for answer in group), strict=True))
        figures[kind] = {
            "right": right,
            "judged": len(judged),
            "ended": sum(answer.has_ended for answer in group) / len(group),
            "repeated_4_grams": again / max(grams, 1),
            "questions": len(group),
        }
        low, high = wilson(right, len(judged)) if right is not None else (0, 0)
        shown = f"{'open':>7}  {'':>15}" if right is None else f"{right:>7.1%}  {f'{low:.1%} - {high:.1%}':>15}"
        lines.append(
            f"{kind:<10} {shown} {len(judged) or '':>7} {figures[kind]['ended']:>7.1%} {figures[kind]['repeated_4_grams']:>9.1%} {len(group):>10}"
        )
    return lines, figures


def mistakes(answers: Iterable[Answer], count: int = 5) -> list[str]:
    """Return the first `count` wrong answers, a line each: kind, question, answer, and what would
    have been right."""
    wrong = [a for a in answers if not a.is_right and a.conversation.kind not in (*OPEN_KINDS, "retell")]
    return [
        f"{a.conversation.kind}: {_question(a.conversation)} *{' '.join(a.text.split())[:80]} / {a.conversation.accepted[0]}" for a in wrong[:count]
    ]


def _question(conversation: Conversation) -> str:
    """Return the last question without the story, which may follow it."""
    return [text for text in conversation.messages[-2]["content"].split("\n\n") if text != conversation.story][-1]
