"""Turn the body of an API request into a text to generate, and say what is wrong with it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nano_hindi.chat import template
from nano_hindi.chat.records import joined_parts, joined_turns
from nano_hindi.errors import UserError, quoted
from nano_hindi.inference.settings import SAMPLING, SETTINGS, Settings
from nano_hindi.inference.text import AnswerStream
from nano_hindi.ranges import whole
from nano_hindi.tokenizer import Tokenizer

MODEL_NAME = "nano_hindi"  # one server has one model, and a client need not know which
SEEDS = dataclasses.replace(SETTINGS["seed"].metadata["valid"], words={})  # without `random`, which is to omit it
MAX_STOPS = 4  # as OpenAI's API has it
MAX_PROMPTS = 128  # of one request; two such requests of a client may wait
# what this server cannot do, and the value that asks for nothing
UNSUPPORTED: dict[str, object] = {
    "n": 1,
    "best_of": 1,
    "echo": False,
    "logprobs": False,
    "top_logprobs": 0,
    "suffix": "",
    "logit_bias": {},
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "tools": [],
    "functions": [],
    "response_format": {"type": "text"},
    "modalities": ["text"],
}


class ApiError(Exception):
    """An error with the fields of OpenAI's error object. `headers`: those that HTTP asks for with
    its status."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None, headers: Mapping[str, str] | None = None):
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.headers = status, message, param, code, headers

    def body(self) -> dict[str, Any]:
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


@dataclass(frozen=True)
class Prompt:
    """A text to continue or a conversation to answer, and the stream that decodes what follows."""

    tokens: list[int]
    first_ids: list[int] | None  # see `Tokenizer.encode_open`
    answer: AnswerStream


@dataclass(frozen=True)
class GenerationRequest:
    """What a request asks for."""

    prompts: list[Prompt]
    max_tokens: int  # of each text
    sampling: dict[str, Any]  # arguments of `Sampler`; without a seed, each text gets a new one
    streams: bool
    includes_usage: bool
    user: str


def parse_request(body: bytes, tokenizer: Tokenizer, is_chat: bool, context: int, limit: int) -> GenerationRequest:
    """Return what the body of a request asks for: /v1/chat/completions if `is_chat`, else
    /v1/completions.

    A chat must fit into `context` tokens; `limit`: most tokens to generate. Raises ApiError.
    """
    fields = _supported_fields(body)
    sampling: dict[str, Any] = {name: _checked(fields, name, SETTINGS[name].metadata["valid"], SETTINGS[name].default) for name in SAMPLING}
    if "seed" in fields:
        sampling["seed"] = _checked(fields, "seed", SEEDS, None)
    length = next((name for name in ("max_completion_tokens", "max_tokens") if name in fields), "max_tokens")
    max_tokens = _checked(fields, length, whole(1, limit + 1), limit if is_chat else min(limit, Settings.max_tokens))
    stops = [tokenizer.normalize(stop) for stop in _stops(fields.get("stop", []))]  # as the model writes it
    options = fields.get("stream_options", {})
    if not isinstance(options, dict):
        raise ApiError(400, "stream_options must be an object", "stream_options")
    try:
        if is_chat:
            prompts = [_to_answer(_messages(fields.get("messages")), tokenizer, stops, context)]
        else:
            prompts = [_to_continue(text, tokenizer, stops) for text in _texts(fields.get("prompt", ""))]
    except UserError as error:
        raise ApiError(400, str(error), "messages" if is_chat else "prompt") from None
    streams, includes_usage, user = _is_set(fields, "stream"), _is_set(options, "include_usage"), str(fields.get("user", ""))
    return GenerationRequest(prompts, max_tokens, sampling, streams, includes_usage, user)


def _supported_fields(body: bytes) -> dict[str, Any]:
    """Return the fields of a body that are not null. Raises ApiError if it asks for another model,
    or for what this server cannot do."""
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        raise ApiError(400, "the body is not JSON") from None
    if not isinstance(fields, dict):
        raise ApiError(400, "the body must be a JSON object")
    fields = {name: value for name, value in fields.items() if value is not None}
    if fields.get("model", MODEL_NAME) != MODEL_NAME:
        raise ApiError(404, f"there is no model {quoted(fields['model'])} here; it is {MODEL_NAME}", "model", "model_not_found")
    for name, harmless in UNSUPPORTED.items():
        if name in fields and (fields[name] != harmless or isinstance(fields[name], bool) != isinstance(harmless, bool)):  # 0 is no False
            raise ApiError(400, f"{name} is not supported here; omit it", name, "unsupported_parameter")
    return fields


def _checked(fields: dict[str, Any], name: str, valid: Any, default: Any) -> Any:
    value = fields.get(name, default)
    if value not in valid:
        raise ApiError(400, f"{name} must be {valid}, not {quoted(value)}", name)
    return float(value) if valid.kind is float else value  # a JSON integer may be beyond int64


def _is_set(fields: dict[str, Any], name: str) -> bool:
    value = fields.get(name)
    if not isinstance(value, bool | None):
        raise ApiError(400, f"{name} must be true or false, not {quoted(value)}", name)
    return bool(value)


def _stops(stops: Any) -> list[str]:
    stops = [stops] if isinstance(stops, str) else stops
    if not (isinstance(stops, list) and len(stops) <= MAX_STOPS and all(isinstance(stop, str) and stop for stop in stops)):
        raise ApiError(400, f"stop must be a text that is not empty, or a list of at most {MAX_STOPS}", "stop")
    return stops


def _messages(messages: Any) -> list[template.Message]:
    """Return the messages as the template takes them: `developer` is `system`, content in parts is
    joined, and so are messages of the same role one after another, as data/chat.py does it."""
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise UserError("messages must be a list of objects")
    roles = {"developer": "system"}
    turns = joined_turns([(roles.get(str(m.get("role")), m.get("role")), _text(m.get("content"))) for m in messages])
    return [{"role": role, "content": content} for role, content in turns]


def _text(content: Any) -> str:
    content = joined_parts(content)
    if not isinstance(content, str):
        raise UserError("the content of a message must be text; images, sound and files are not supported here")
    return content


def _texts(prompt: Any) -> list[str]:
    texts = [prompt] if isinstance(prompt, str) else prompt
    if not (isinstance(texts, list) and 1 <= len(texts) <= MAX_PROMPTS and all(isinstance(text, str) for text in texts)):
        raise UserError(f"prompt must be a text or a list of 1 to {MAX_PROMPTS} texts; send token ids as text")
    return texts


def _to_answer(messages: list[template.Message], tokenizer: Tokenizer, stops: list[str], context: int) -> Prompt:
    tokens = template.prompt(tokenizer, messages)
    if len(tokens) >= context:
        message = f"the conversation has {len(tokens):,} tokens, and the model's context has {context:,}; omit its oldest turns"
        raise ApiError(400, message, "messages", "context_length_exceeded")
    return Prompt(tokens, None, AnswerStream(tokenizer, stops, is_chat=True))


def _to_continue(text: str, tokenizer: Tokenizer, stops: list[str]) -> Prompt:
    tokens, first_ids = tokenizer.encode_open(text)
    return Prompt(tokens, first_ids, AnswerStream(tokenizer, stops, prompt=tokens, skipped=len(tokenizer.decode(tokenizer.encode_prompt(text)))))
