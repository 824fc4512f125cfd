"""The web application: OpenAI's API and the page, over Starlette.

Only the page itself is public. A request to the API needs the token, if there is one. A page of
another site cannot use the API: its Origin is not ours, and if it had our name (DNS rebinding), it
would have no token, or its Host would not be a name of this machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
import secrets
import time
import traceback
from collections.abc import AsyncIterator, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from nano_hindi.errors import UserError
from nano_hindi.serving.bodies import MODEL_NAME, ApiError, GenerationRequest, parse_request
from nano_hindi.serving.scheduler import BusyError, Scheduler, Text
from nano_hindi.tokenizer import Tokenizer

T = TypeVar("T")

MAX_BODY = 2**20  # bytes; the context of a model is some 10,000
MAX_CONNECTIONS = 1000
BODY_PATIENCE = 30.0  # seconds for a client to send it
STOPPED = ApiError(503, "the server has been stopped; send the request again when it runs", code="server_stopped")
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True)
class Served:
    """The model as the API sees it."""

    scheduler: Scheduler
    tokenizer: Tokenizer
    is_chat: bool
    context: int  # tokens
    max_tokens: int  # most tokens of one answer


def make_server(served: Served, token: str | None, hosts: Iterable[str] | None) -> uvicorn.Server:
    """Return a server, which `run(sockets=[...])` runs until Ctrl-C. `token`: None if none is
    needed. `hosts`: names under which it may be addressed, None for any."""
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # `_answer_error` prints what failed; the rest is a client's
    config = uvicorn.Config(
        _make_app(served, token, hosts),
        http="h11",  # in pure Python: the same on every machine
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_graceful_shutdown=0,  # Ctrl-C cuts streams
    )
    return uvicorn.Server(config)


def _make_app(served: Served, token: str | None, hosts: Iterable[str] | None) -> Starlette:
    api = _Api(served)
    page = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    return Starlette(
        routes=[
            Route("/", lambda request: HTMLResponse(page, headers=PAGE_HEADERS)),
            Route("/v1/models", api.models),
            Route("/v1/models/{name}", api.model),
            Route("/v1/completions", api.completions, methods=["POST"]),
            Route("/v1/chat/completions", api.chat_completions, methods=["POST"]),
        ],
        middleware=[Middleware(_Gate, token=token, hosts=None if hosts is None else frozenset(hosts))],
        exception_handlers={ApiError: _answer_error, HTTPException: _answer_error, ClientDisconnect: _answer_error, Exception: _answer_error},
    )


def _answer_error(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        error = ApiError(error.status_code, f"{error.detail}: {request.method} {request.url.path}", headers=error.headers)
    error = _as_api_error(error)
    return JSONResponse(error.body(), error.status, error.headers)


def _as_api_error(error: Exception) -> ApiError:
    if isinstance(error, ApiError):
        return error
    if isinstance(error, UserError):  # of the engine: not enough memory
        return ApiError(503, str(error))
    if not isinstance(error, ClientDisconnect):
        traceback.print_exception(error)
    return ApiError(500, "the server failed; its console says why")


class _Gate:
    """Refuse what other sites' pages send, and API requests without the token."""

    def __init__(self, app: ASGIApp, token: str | None, hosts: frozenset[str] | None):
        self._app, self._token, self._hosts = app, token, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (error := self._refusal(Request(scope))):
            await JSONResponse(error.body(), error.status, error.headers)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _refusal(self, request: Request) -> ApiError | None:
        host, origin = request.headers.get("host", ""), request.headers.get("origin")
        try:
            if self._hosts is not None and urlsplit(f"//{host}").hostname not in self._hosts:
                return ApiError(403, "this name is not served here; use the address that serve.py printed, or give it a --token", code="wrong_host")
            if origin is not None and urlsplit(origin).netloc != host:
                return ApiError(403, "pages of other sites may not use this server; a proxy must pass on the Host header", code="wrong_origin")
        except ValueError:
            return ApiError(403, "Host or Origin is not an address", code="wrong_host")
        if self._token is not None and request.url.path.startswith("/v1/"):
            scheme, _, given = request.headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not secrets.compare_digest(given.strip().encode(), self._token.encode()):
                message, headers = "the token is missing or wrong; serve.py printed it at its start", {"WWW-Authenticate": "Bearer"}
                return ApiError(401, message, code="invalid_api_key", headers=headers)
        return None


class _Api:
    """The endpoints."""

    def __init__(self, served: Served):
        self._served, self._started = served, int(time.time())
        self._tokenizing = ThreadPoolExecutor(1)  # a long prompt takes a second: not on the event loop

    async def models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._description()]})

    async def model(self, request: Request) -> Response:
        if request.path_params["name"] != MODEL_NAME:
            raise ApiError(404, f"there is no such model here; the only one is {MODEL_NAME}", "model", "model_not_found")
        return JSONResponse(self._description())

    def _description(self) -> dict[str, Any]:
        """Return OpenAI's fields, and what the page needs to know."""
        served = self._served
        ours = {"chat": served.is_chat, "context": served.context, "max_tokens": served.max_tokens}
        return {"id": MODEL_NAME, "object": "model", "created": self._started, "owned_by": MODEL_NAME, **ours}

    async def completions(self, request: Request) -> Response:
        return await self._generate(request, is_chat=False)

    async def chat_completions(self, request: Request) -> Response:
        if not self._served.is_chat:
            message = "this model continues text and was not fine-tuned to chat; use /v1/completions, or serve a model of finetune.py"
            raise ApiError(400, message, code="not_a_chat_model")
        return await self._generate(request, is_chat=True)

    async def _generate(self, request: Request, is_chat: bool) -> Response:
        served = self._served
        body = await _read_body(request)
        loop = asyncio.get_running_loop()
        wanted = await loop.run_in_executor(self._tokenizing, parse_request, body, served.tokenizer, is_chat, served.context, served.max_tokens)
        address = request.client.host if request.client else ""
        generation = _Generation(served, wanted, f"{address} {wanted.user or request.headers.get('user-agent')}")
        kind = f"chat.completion{'.chunk' * wanted.streams}" if is_chat else "text_completion"
        name = f"{'chatcmpl' if is_chat else 'cmpl'}-{secrets.token_hex(12)}"
        head = {"id": name, "object": kind, "created": int(time.time()), "model": MODEL_NAME}

        def choice(index: int, text: str, reason: str | None, **more: str | None) -> dict[str, Any]:
            message = "delta" if wanted.streams else "message"
            content = {message: {**more, "content": text}} if is_chat else {"text": text}
            return {"index": index, **content, "logprobs": None, "finish_reason": reason}

        async def events() -> AsyncIterator[str]:
            try:
                for index in range(len(wanted.prompts)):
                    yield _event({**head, "choices": [choice(index, "", None, role="assistant")]})
                async for index, text, reason in generation.texts():
                    yield _event({**head, "choices": [choice(index, text, reason)]})
                if wanted.includes_usage:
                    yield _event({**head, "choices": [], "usage": generation.usage()})
                yield "data: [DONE]\n\n"
            except Exception as error:  # noqa: BLE001 - the status has been sent: the client learns of any error here
                yield _event(_as_api_error(error).body())

        if wanted.streams:
            return _EventStream(events(), generation)
        with contextlib.closing(generation):
            try:
                texts = await _unless_disconnected(request.receive, generation.whole())
            except asyncio.CancelledError:  # by Ctrl-C: there is no time for a thread, in which Starlette would call `_answer_error`
                return JSONResponse(STOPPED.body(), STOPPED.status)
        choices = [choice(index, text, reason, role="assistant", refusal=None) for index, (text, reason) in enumerate(texts)]
        return JSONResponse({**head, "choices": choices, "usage": generation.usage()})


def _event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"


class _Generation:
    """The texts of a request in the scheduler, and their reader in the event loop. Queues the texts
    at once; raises ApiError.

    What a slow reader has not taken yet are numbers, at most `max_tokens` of each text.
    """

    def __init__(self, served: Served, wanted: GenerationRequest, client: str):
        self._served, self._request, self._n_tokens = served, wanted, [0] * len(wanted.prompts)
        self._received: asyncio.Queue[tuple[int, int | Exception | None]] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def receive(index: int, item: int | Exception | None) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has been closed by Ctrl-C
                loop.call_soon_threadsafe(self._received.put_nowait, (index, item))

        self._texts = []
        for index, prompt in enumerate(wanted.prompts):
            sampling = {"seed": secrets.randbits(32), **wanted.sampling, "first_ids": prompt.first_ids}
            text = Text(client, prompt.tokens, wanted.max_tokens, (served.tokenizer.eos_id,), sampling, functools.partial(receive, index))
            self._texts.append(text)
        try:
            for text in self._texts:
                served.scheduler.submit(text)
        except BusyError as error:
            self.close()
            raise ApiError(429, str(error), code="rate_limit_exceeded") from None

    def close(self) -> None:
        """Cancel the texts."""
        for text in self._texts:
            self._served.scheduler.cancel(text)

    async def texts(self) -> AsyncIterator[tuple[int, str, str | None]]:
        """Yield the index of a text and its next whole characters, and at its end the reason."""
        unfinished = set(range(len(self._texts)))
        while unfinished:
            index, item = await self._received.get()
            if isinstance(item, Exception):
                raise item
            if index not in unfinished:  # a token after a stop text
                continue
            answer = self._request.prompts[index].answer
            if item is not None:
                self._n_tokens[index] += 1
                if text := answer.push(item):
                    yield index, text, None
            if item is None or answer.has_stopped:
                unfinished.remove(index)
                self._served.scheduler.cancel(self._texts[index])
                if rest := answer.flush():  # a stop text may end in it
                    yield index, rest, None
                is_full = self._n_tokens[index] == self._request.max_tokens and not answer.has_stopped
                yield index, "", "length" if is_full else "stop"

    async def whole(self) -> list[tuple[str, str]]:
        """Return each text and the reason of its end."""
        texts, reasons = [""] * len(self._texts), [""] * len(self._texts)
        async for index, text, reason in self.texts():
            texts[index] += text
            reasons[index] = reason or ""
        return list(zip(texts, reasons, strict=True))

    def usage(self) -> dict[str, int]:
        prompt, completion = sum(len(prompt.tokens) for prompt in self._request.prompts), sum(self._n_tokens)
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


class _EventStream(StreamingResponse):
    """Server-sent events. When the client leaves, even before the first, the generation ends."""

    def __init__(self, events: AsyncIterator[str], generation: _Generation):
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # the latter: nginx would collect events
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self._generation = generation

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with contextlib.closing(self._generation), contextlib.suppress(ClientDisconnect, OSError):
            try:
                await _unless_disconnected(receive, self.stream_response(send))  # not every version of Starlette and uvicorn would notice
            except asyncio.CancelledError:  # by Ctrl-C
                await send({"type": "http.response.body", "body": _event(STOPPED.body()).encode()})


async def _read_body(request: Request) -> bytes:
    """Return the body of a request. Raises ApiError if it is too large, takes too long, or says
    that it is not JSON."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise ApiError(415, "the Content-Type must be application/json")

    async def read() -> bytes:
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY:
                raise ApiError(413, f"the body is larger than {MAX_BODY:,} bytes; shorten it")
        return body

    try:
        return await asyncio.wait_for(read(), BODY_PATIENCE)
    except asyncio.TimeoutError:
        raise ApiError(408, f"the body did not arrive within {BODY_PATIENCE:.0f} seconds") from None


async def _unless_disconnected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Return the result of the coroutine `work`. Raises ClientDisconnect, and ends it, if the
    client leaves."""

    async def leaves() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(leaves())
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()
