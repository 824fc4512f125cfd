r"""Write a conversation as the text and the ids that a chat model is trained on and prompted with.

A conversation is a list of messages `{"role": "system"|"user"|"assistant", "content": str}`: at
most one of the system, first, then user and assistant in turn. Its text, with `<s>` for bos and
`</s>` for eos:

    <s>SYSTEM

    ### उपयोगकर्ता:
    QUESTION

    ### सहायक:
    ANSWER</s>
    ### उपयोगकर्ता:
    QUESTION

and so on. Content cannot imitate that structure (`clean`):
    whitespace at its ends is removed, so only the template writes blank lines around it
    the text of a special token gets a space after its first character: `</s>` becomes `< /s>`
    a marker gets a space before its colon: `### सहायक:` becomes `### सहायक :`
    `▁`, which is a space to SentencePiece, becomes one
(A tokenizer with another normalizer, such as NFKC, may still turn similar characters into a
marker.)

The tokenizer splits text before and after a marker line, so no token crosses the beginning of an
answer: a prompt has the ids with which the training text begins, whatever the answer. `definition`
has that split, and `chat_template` is the same template in Jinja: with both, transformers gives the
same ids.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nano_hindi.errors import UserError, require

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

    from nano_hindi.tokenizer import Tokenizer

TEMPLATE_VERSION = 1  # in the checkpoints of chat models: `chat: {"template": 1}`
MARKERS = {"user": "### उपयोगकर्ता:", "assistant": "### सहायक:"}
STOP = tuple(f"\n{marker}" for marker in MARKERS.values())  # an answer ends with eos; a model that writes one of these has ended its answer too
# In normalized text, where a space may be `▁`. Some normalizers make a space of a line end.
_MARKER_LINE = "###[ ▁](?:" + "|".join(marker[4:] for marker in MARKERS.values()) + ")[\n ▁]"

Message = Mapping[str, str]


@dataclass(frozen=True)
class Rendered:
    """A conversation's ids, and which of them the model learns to predict: those of the answers,
    and the eos after each."""

    ids: list[int]
    is_target: list[bool]


def render_batch(tokenizer: Tokenizer, conversations: Sequence[Sequence[Message]]) -> list[Rendered]:
    """Return conversations to train on, rendered on all cores. Raises UserError unless each is
    well-formed and ends with an answer."""
    all_turns = [_turns(tokenizer, messages, "assistant") for messages in conversations]
    texts = [text for turns in all_turns for question, answer in turns for text in (question, question + answer)]
    encoded = iter(_encode(tokenizer, texts))
    rendered = []
    for turns in all_turns:
        ids, is_target = [tokenizer.bos_id], [False]
        for _ in turns:
            asked, whole = len(next(encoded)), next(encoded)
            ids += [*whole, tokenizer.eos_id]
            is_target += [False] * asked + [True] * (len(whole) - asked + 1)
        rendered.append(Rendered(ids, is_target))
    return rendered


def prompt(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
    """Return the ids after which the answer to the last message begins, bos first. Raises UserError
    unless the conversation is well-formed and ends with a question.

    They are the first ids of `render_batch` for the same messages and any answer.
    """
    turns = _turns(tokenizer, messages, "user")
    encoded = _encode(tokenizer, [question + answer for question, answer in turns])
    return [tokenizer.bos_id, *(i for ids in encoded[:-1] for i in (*ids, tokenizer.eos_id)), *encoded[-1]]


def until_stop(text: str) -> str:
    """Return the answer that a model wrote: `text` up to a stop string, stripped."""
    text = f"\n{text.strip()}"  # the first line of an answer may begin with a marker too; the line end before it is the prompt's
    for stop in STOP:
        text = text.partition(stop)[0]
    return text.strip()


# ---- the text


def check(messages: Sequence[Message], last: str) -> None:
    """Raise UserError unless the roles are in order, end with `last`, and contents are valid
    text."""
    require(isinstance(messages, Sequence) and all(isinstance(message, Mapping) for message in messages), "messages must be a list of objects")
    for message in messages:
        require(isinstance(message.get("content"), str), "the content of a message must be a text")
        try:
            message["content"].encode()
        except UnicodeEncodeError as error:
            raise UserError("a message is not valid Unicode (half a surrogate pair); send it as UTF-8") from error
    roles = [message.get("role") for message in messages]
    turns = roles[1:] if roles[:1] == ["system"] else roles
    alternate = [("user", "assistant")[i % 2] for i in range(len(turns))]
    require(
        turns == alternate and turns[-1:] == [last],
        f"messages must be of user and assistant in turn (a system message may precede them) and end with {last}",
    )


def clean(tokenizer: Tokenizer, content: str) -> str:
    """Return the content of a message as it is in the text, where it cannot imitate a marker or a
    special token."""
    for old, new in replacements(tokenizer):
        content = content.replace(old, new)
    return content.strip()


def replacements(tokenizer: Tokenizer) -> list[tuple[str, str]]:
    """Return the (old, new) replacements of `clean`, in the order in which it makes them."""
    markers = [(marker, f"{marker[:-1]} :") for marker in MARKERS.values()]
    return [("▁", " "), *special_token_replacements(tokenizer), *markers]


def special_token_replacements(tokenizer: Tokenizer) -> list[tuple[str, str]]:
    """Return the (old, new) replacements that leave no special token in a text, in this order."""
    return [(name, f"{name[0]} {name[1:]}") for name in _reserved(tokenizer)]


def _reserved(tokenizer: Tokenizer) -> list[str]:
    """Return the texts that transformers reads as special tokens, twice: after the first pass, a
    text that overlapped with itself is left."""
    names = sorted(name for name in tokenizer.parsed_names() if len(name) > 1 and name.strip())
    return [*names, *names]


def _turns(tokenizer: Tokenizer, messages: Sequence[Message], last: str) -> list[tuple[str, str]]:
    """Return for each turn the text before the answer, and the answer ("" if there is none yet)."""
    check(messages, last)
    contents = [clean(tokenizer, message["content"]) for message in messages]
    before = ""
    if messages[0]["role"] == "system":
        system = contents.pop(0)
        before = f"{system}\n\n" if system else ""
    turns = []
    for i in range(0, len(contents), 2):
        question = f"{before}{MARKERS['user']}\n{contents[i]}\n\n{MARKERS['assistant']}\n"
        turns.append((question, contents[i + 1] if i + 1 < len(contents) else ""))
        before = "\n"
    return turns


# The same for transformers, which removes the line ends of the template's own lines (trim_blocks)
# and the spaces before them (lstrip_blocks).
_JINJA = """\
{%- macro clean(content) -%}
{%- set text = namespace(value=content.replace('▁', ' ')) -%}
{%- for name in RESERVED -%}
{%- set text.value = text.value.replace(name, name[:1] ~ ' ' ~ name[1:]) -%}
{%- endfor -%}
{%- for marker in MARKERS -%}
{%- set text.value = text.value.replace(marker, marker[:-1] ~ ' :') -%}
{%- endfor -%}
{{- text.value.strip() -}}
{%- endmacro -%}
{%- set turns = messages -%}
{{- bos_token -}}
{%- if messages[0].role == 'system' -%}
{%- set turns = messages[1:] -%}
{%- set system = clean(messages[0].content) -%}
{%- if system -%}
{{- system ~ '\\n\\n' -}}
{%- endif -%}
{%- endif -%}
{%- for message in turns -%}
{%- if message.role != ['user', 'assistant'][loop.index0 % 2] -%}
{{- raise_exception('messages must be of user and assistant in turn; a system message may precede them') -}}
{%- elif message.role == 'user' -%}
{{- ('' if loop.first else '\\n') ~ MARKERS[0] ~ '\\n' ~ clean(message.content) ~ '\\n\\n' -}}
{%- else -%}
{{- MARKERS[1] ~ '\\n' -}}
{%- generation -%}{{- clean(message.content) ~ eos_token -}}{%- endgeneration -%}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- MARKERS[1] ~ '\\n' -}}
{%- endif -%}"""


def chat_template(tokenizer: Tokenizer) -> str:
    """Return the template in Jinja: the `chat_template` of transformers, for the tokenizer of
    `definition`."""
    lists = {"RESERVED": _reserved(tokenizer), "MARKERS": list(MARKERS.values())}
    sets = "".join(f"{{%- set {name} = {json.dumps(value, ensure_ascii=False)} -%}}\n" for name, value in lists.items())
    return sets + _JINJA


# ---- the ids


def definition(tokenizer: Tokenizer) -> dict:
    """Return the tokenizer.json of a chat model: that of `tokenizer`, but no token crosses the ends
    of a marker line."""
    description = tokenizer.definition()
    split = {"type": "Split", "pattern": {"Regex": _MARKER_LINE}, "behavior": "Isolated", "invert": False}
    steps = [split, *filter(None, [description["pre_tokenizer"]])]
    return description | {"pre_tokenizer": {"type": "Sequence", "pretokenizers": steps}}


@functools.lru_cache(maxsize=2)
def _backend(tokenizer: Tokenizer) -> Backend:
    from tokenizers import Tokenizer as Backend

    backend = Backend.from_str(json.dumps(definition(tokenizer)))
    backend.no_truncation()
    backend.no_padding()
    return backend


def _encode(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Return the ids of texts that follow a special token: a tokenizer may put a dummy space only
    at the beginning of a whole text."""
    backend, bos = _backend(tokenizer), tokenizer.piece(tokenizer.bos_id)
    with tokenizer.encoding_errors():
        return [encoding.ids[1:] for encoding in backend.encode_batch_fast([bos + text for text in texts], add_special_tokens=False)]
