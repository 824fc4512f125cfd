"""serve.py as its clients see it: the openai package, a browser, and those that misbehave."""

import concurrent.futures
import contextlib
import http.client
import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock
from urllib.parse import urlsplit

import openai
import pytest
import torch

import nano_hindi.serving
import serve
from conftest import PATIENCE, assert_parted_between_characters, launched, spelled, wait_until
from nano_hindi.inference.loading import build_model, load_for_inference
from nano_hindi.inference.settings import Settings
from nano_hindi.serving import api
from nano_hindi.serving.bodies import ApiError, GenerationRequest, parse_request
from nano_hindi.serving.scheduler import Scheduler

CHAT = "/v1/chat/completions"
ASKED = [{"role": "user", "content": "नमस्ते"}]
ENDLESS = 10**6  # tokens of an answer that is stopped: more than are generated before it, however late that is


class Running:
    """A server in a thread of this process."""

    def __init__(self, folder: Path, token: str | None = None):
        trained = load_for_inference(folder)
        self.scheduler = Scheduler(build_model(trained, torch.device("cpu")))
        self.served = api.Served(self.scheduler, trained.tokenizer, trained.is_chat, trained.config.sequence_len, max_tokens=ENDLESS)
        self.listener = serve.listen("127.0.0.1", 0)
        self.port = self.listener.getsockname()[1]
        self.server = api.make_server(self.served, token, serve.local_names("127.0.0.1"))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.listener]})
        self.openai = self.client("none" if token is None else token)  # to make one takes longer than a request

    def __enter__(self) -> "Running":
        self.scheduler.__enter__()
        self.thread.start()
        wait_until(lambda: self.server.started, "the start of the server")
        return self

    def __exit__(self, *exc_info) -> None:
        self.server.should_exit = True
        self.thread.join()
        self.scheduler.__exit__()

    def client(self, token: str) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"http://127.0.0.1:{self.port}/v1", api_key=token, max_retries=0, timeout=PATIENCE)

    def request(self, method: str, path: str, body: object = None, **headers: str) -> http.client.HTTPResponse:
        """Send a request as it is: `body` is bytes, or becomes JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        if body is not None:
            headers = {"Content-Type": "application/json", **headers}
            body = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        return connection.getresponse()

    @contextlib.contextmanager
    def sent(self, **fields) -> Iterator[socket.socket]:
        """Send a request for a chat, and leave the answer to the block."""
        body = json.dumps({"messages": ASKED, "max_tokens": ENDLESS, **fields}).encode()
        head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.settimeout(PATIENCE)
            client.connect(("127.0.0.1", self.port))
            client.sendall(head.encode() + body)
            yield client

    def is_idle(self) -> bool:
        return not (self.scheduler._active or self.scheduler._joining or self.scheduler._waiting)


@pytest.fixture(scope="module")
def chat_model(spelling, tmp_path_factory) -> Path:
    """Return the folder of `spelling` as a chat model with a longer context."""
    folder = tmp_path_factory.mktemp("chat") / "model"
    shutil.copytree(spelling, folder)
    state = torch.load(folder / "model.pt", weights_only=True)
    state["model_config"]["sequence_len"] = 512
    torch.save({**state, "chat": {"template": 1}}, folder / "model.pt")
    return folder


@pytest.fixture(scope="module")
def chat(chat_model) -> Iterator[Running]:
    with Running(chat_model) as running:
        yield running


@pytest.fixture(scope="module")
def base(straight) -> Iterator[Running]:
    with Running(straight) as running:
        yield running


def complete(running: Running, **options):
    return running.openai.completions.create(**{"model": "nano_hindi", "prompt": "राम", "max_tokens": 40, "temperature": 0, **options})


def ask(running: Running, **options):
    return running.openai.chat.completions.create(**{"model": "nano_hindi", "messages": ASKED, "max_tokens": 40, "temperature": 0, **options})


# ---- the openai package


def test_completion_is_what_generate_py_writes(base, straight, capsys):
    """The same seed gives the same text, streamed or not."""
    import generate

    for prompt in ("भारत एक", "भारत एक ", "क्", ""):
        argv = ["--checkpoint", str(straight), "--prompt", prompt, "--max_tokens", "30", "--seed", "7", "--device", "cpu"]
        assert generate.main(argv) == 0
        written = capsys.readouterr().out.removesuffix("\n")
        options = {"prompt": prompt, "max_tokens": 30, "seed": 7, "temperature": 0.8}
        whole = complete(base, **options)
        assert prompt + whole.choices[0].text == written
        assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
        assert "".join(chunk.choices[0].text for chunk in complete(base, **options, stream=True)) == whole.choices[0].text


def test_stream_has_whole_characters_and_ends_with_reason_and_usage(chat):
    *chunks, last, usage = ask(chat, stream=True, stream_options={"include_usage": True})
    pieces = [chunk.choices[0].delta.content for chunk in chunks]
    assert "".join(pieces) == spelled(40).strip()
    assert_parted_between_characters(pieces)
    assert len(pieces) > 7
    assert chunks[0].choices[0].delta.role == "assistant"
    assert {chunk.choices[0].finish_reason for chunk in chunks} == {None}
    assert last.choices[0].finish_reason == "length"
    assert usage.usage.completion_tokens == 40
    assert usage.choices == []


def test_answer_as_a_whole_is_the_stream(chat):
    answer = ask(chat)
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content == spelled(40).strip()
    assert answer.choices[0].finish_reason == "length"
    parts = [{"type": "text", "text": "नम"}, {"type": "text", "text": "स्ते"}]
    messages = [{"role": "developer", "content": "छोटा उत्तर"}, {"role": "user", "content": parts}]
    assert ask(chat, messages=messages).choices[0].message.content == answer.choices[0].message.content


def test_list_of_prompts_gives_a_choice_each(chat):
    """The same texts as in requests of their own; they end at eos, at a stop text, or when full."""
    prompts, options = ["राम", "अ", "", "राम "], {"stop": "ॐ", "max_tokens": 16}
    alone = [complete(chat, prompt=prompt, **options) for prompt in prompts]
    together = complete(chat, prompt=prompts, **options)
    assert [choice.index for choice in together.choices] == [0, 1, 2, 3]
    expected = [(one.choices[0].text, one.choices[0].finish_reason) for one in alone]
    assert len(set(expected)) > 2
    assert [(choice.text, choice.finish_reason) for choice in together.choices] == expected
    for field in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert getattr(together.usage, field) == sum(getattr(one.usage, field) for one in alone)
    *chunks, usage = complete(chat, prompt=prompts, **options, stream=True, stream_options={"include_usage": True})
    own = [[chunk.choices[0] for chunk in chunks if chunk.choices[0].index == i] for i in range(4)]
    assert [("".join(choice.text for choice in choices), choices[-1].finish_reason) for choices in own] == expected
    assert usage.usage == together.usage
    wait_until(chat.is_idle, "the end of the stopped text")


def test_equal_prompts_get_different_texts_unless_a_seed_is_given(base):
    texts = [{choice.text for choice in complete(base, prompt=["राम"] * 3, temperature=1.5, **seed).choices} for seed in ({}, {"seed": 1})]
    assert [len(different) for different in texts] == [3, 1]


@pytest.mark.parametrize("prompt", [[], [1, 2], [[1, 2], [3]], ["राम", 7], {"text": "राम"}, ["राम"] * 129])
def test_prompt_that_is_neither_a_text_nor_a_list_of_a_few_is_refused(chat, prompt):
    refused = chat.request("POST", "/v1/completions", {"prompt": prompt})
    error = json.loads(refused.read())["error"]
    assert (refused.status, error["param"]) == (400, "prompt")
    assert "a list of 1 to 128 texts" in error["message"]


def test_messages_of_one_role_are_joined(chat):
    """As programs send them that have a system message of their own beside the user's."""

    def prompt(*messages):
        body = json.dumps({"messages": [{"role": role, "content": content} for role, content in messages]}).encode()
        return api.parse_request(body, chat.served.tokenizer, True, 512, 100).prompts[0].tokens

    joined = prompt(("system", "छोटा\n\nसही"), ("user", "नमस्ते\n\nकौन?"))
    assert prompt(("system", "छोटा"), ("developer", "सही"), ("user", "नमस्ते"), ("user", "कौन?")) == joined
    for alone in [("assistant", "जी")], [("user", "क"), ("system", "ख"), ("user", "ग")]:
        with pytest.raises(ApiError, match="in turn"):
            prompt(*alone)


def test_eos_and_stop_texts_end_an_answer(chat):
    ended = complete(chat, prompt="अ").choices[0]
    assert (ended.text, ended.finish_reason) == ("", "stop")
    stopped = complete(chat, stop=["⃣", "ॐ"], max_tokens=3000).choices[0]
    assert (stopped.text, stopped.finish_reason) == (spelled(40).partition("⃣")[0], "stop")
    for n in (15, 16):  # the first n with a whole ॐ; the first at which no mark can follow it
        last = complete(chat, stop="ॐ", max_tokens=n).choices[0]
        assert (last.text, last.finish_reason) == (spelled(12), "stop")
    streamed = list(ask(chat, stop="ॐ", max_tokens=3000, stream=True))
    assert "".join(chunk.choices[0].delta.content for chunk in streamed) == spelled(40).partition("ॐ")[0].strip()
    wait_until(chat.is_idle, "the end of the stopped texts")


@pytest.mark.parametrize(("written", "text", "stops"), [("### उपयोगकर्ता:\nराम", "", True), ("राम", "राम", False)])
def test_line_end_before_an_answer_is_for_the_markers_not_for_stop_texts(chat, written, text, stops):
    tokenizer = chat.served.tokenizer
    body = json.dumps({"messages": ASKED, "stop": ["\n", "\nराम"]}).encode()
    answer = api.parse_request(body, tokenizer, True, 512, 100).prompts[0].answer
    shown = [answer.push(token) for token in tokenizer.encode_batch([written])[0]]
    assert "".join(shown) + answer.flush() == text
    assert answer.has_stopped == stops


def test_stop_text_in_another_spelling_than_the_model_s_ends_the_answer(chat):
    """Many keyboards write ड़ as one code point; the model was trained on NFC, which has two."""
    tokenizer = chat.served.tokenizer
    answer = api.parse_request(json.dumps({"prompt": "राम", "stop": "\u095c"}).encode(), tokenizer, False, 512, 100).prompts[0].answer
    shown = [answer.push(token) for token in tokenizer.encode_batch(["ल\u095cका"])[0]]
    assert ("".join(shown) + answer.flush()).strip() == "ल"
    assert answer.has_stopped


def test_models_are_listed_and_a_base_model_refuses_to_chat(chat, base):
    assert [(model.id, model.chat) for model in chat.openai.models.list()] == [("nano_hindi", True)]
    assert chat.openai.models.retrieve("nano_hindi").context == 512
    assert [model.chat for model in base.openai.models.list()] == [False]
    with pytest.raises(openai.BadRequestError, match="continues text") as refused:
        ask(base)
    assert refused.value.code == "not_a_chat_model"


def test_conversation_longer_than_the_context_is_refused(chat):
    with pytest.raises(openai.BadRequestError, match="omit its oldest turns") as refused:
        ask(chat, messages=[{"role": "user", "content": "राम " * 600}])
    assert refused.value.code == "context_length_exceeded"
    assert complete(chat, prompt="राम " * 600 + "अ").choices[0].text == ""  # a text may be longer


def test_request_without_settings_has_an_answer_that_may_fill_the_context(chat):
    def parsed(is_chat: bool = True, context: int = 512) -> GenerationRequest:
        return parse_request(json.dumps({"messages": ASKED}).encode(), chat.served.tokenizer, is_chat, context, 3000)

    assert (parsed().max_tokens, parsed(is_chat=False).max_tokens) == (3000, Settings.max_tokens)
    [prompt] = parsed().prompts
    assert parsed(context=len(prompt.tokens) + 1).prompts[0].tokens == prompt.tokens
    with pytest.raises(ApiError, match="omit its oldest turns"):  # not even one token of an answer fits
        parsed(context=len(prompt.tokens))


# ---- requests that are wrong


@pytest.mark.parametrize(
    ("fields", "status", "words"),
    [
        (b"{", 400, "not JSON"),
        (b"\xff\xfe", 400, "not JSON"),
        (b"[" * 100_000, 400, "not JSON"),
        (b'{"seed": ' + b"9" * 5000 + b"}", 400, "not JSON"),
        (b"[]", 400, "object"),
        ({"model": "gpt-\ud800"}, 404, "gpt-"),
        ({"messages": "x"}, 400, "messages"),
        ({"messages": []}, 400, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, 400, "user and assistant"),
        ({"messages": [{"role": "user", "content": 7}]}, 400, "content"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, 400, "Unicode"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "images"),
        ({"messages": [*ASKED, {"role": "assistant", "content": "x"}]}, 400, "end with user"),
        ({"max_tokens": ENDLESS + 1}, 400, f"below {ENDLESS + 1}"),
        ({"max_completion_tokens": 0}, 400, "max_completion_tokens"),
        ({"max_tokens": True}, 400, "max_tokens"),
        ({"temperature": -1}, 400, "temperature"),
        ({"temperature": "hot"}, 400, "temperature"),
        (b'{"temperature": NaN}', 400, "temperature"),
        ({"temperature": 10**400}, 400, "temperature"),
        (b'{"temperature": 1e999}', 400, "temperature"),
        ({"top_p": 0}, 400, "top_p"),
        ({"top_k": 1.5}, 400, "top_k"),
        ({"seed": 2**63}, 400, "seed"),
        ({"seed": "random"}, 400, "seed must be a whole number"),
        ({"stream": "true"}, 400, "stream must be true or false"),
        ({"stream_options": {"include_usage": 1}}, 400, "include_usage"),
        ({"stream_options": []}, 400, "stream_options"),
        ({"stop": ["a"] * 5}, 400, "stop"),
        ({"stop": [""]}, 400, "stop"),
        ({"n": 2}, 400, "n is not supported"),
        ({"n": 0}, 400, "n is not supported"),
        ({"tools": [{"type": "function"}]}, 400, "tools"),
        ({"logprobs": True}, 400, "logprobs"),
        ({"logprobs": 0}, 400, "logprobs"),  # in /v1/completions a number of tokens
    ],
)
def test_wrong_request_is_an_error_in_the_shape_of_openai(chat, fields, status, words):
    body = fields if isinstance(fields, bytes) else {"messages": ASKED, **fields}
    response = chat.request("POST", CHAT, body)
    error = json.loads(response.read())["error"]
    assert response.status == status
    assert words in error["message"]
    assert error["type"] == "invalid_request_error"
    assert "\n" not in error["message"]


def test_null_harmless_values_and_integers_for_numbers_are_valid(chat):
    names = ["model", "temperature", "top_p", "seed", "stop", "n", "tools", "logprobs", "user", "stream", "stream_options"]
    harmless = {"n": 1, "tools": [], "logprobs": False, "presence_penalty": 0.0, "response_format": {"type": "text"}, "metadata": {}, "unknown": 5}
    integers = [{"temperature": 10**30}, {"temperature": 0}, {"top_p": 1}, {"repetition_penalty": 100}, {"top_k": 2**63 - 1}, {"seed": -(2**63)}]
    for fields in (dict.fromkeys(names), harmless, *integers):
        response = chat.request("POST", CHAT, {"messages": ASKED, "max_tokens": 3, **fields})
        assert response.status == 200
        assert json.loads(response.read())["usage"]["completion_tokens"] == 3


def test_paths_methods_types_and_sizes_are_checked(chat, monkeypatch):
    assert chat.request("GET", "/v1/nothing").status == 404
    refused = chat.request("GET", CHAT)
    assert (refused.status, refused.getheader("Allow")) == (405, "POST")
    assert chat.request("POST", CHAT, b"{}", Content_Type="text/plain").status == 415  # what a form of another site can send
    with pytest.raises(openai.APIStatusError, match="larger than") as refused:
        ask(chat, messages=[{"role": "user", "content": "क" * 400_000}])
    assert refused.value.status_code == 413
    monkeypatch.setattr(api, "BODY_PATIENCE", 0.1)
    with socket.create_connection(("127.0.0.1", chat.port), timeout=PATIENCE) as slow:
        slow.sendall(f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{{".encode())
        assert slow.recv(100).startswith(b"HTTP/1.1 408 ")


# ---- other sites and other people


def test_pages_of_other_sites_cannot_use_the_server(chat):
    own = f"127.0.0.1:{chat.port}"
    for headers, status in (
        ({}, 200),
        ({"Origin": f"http://{own}"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),  # another server of this machine
        ({"Origin": "null"}, 403),
        ({"Host": f"localhost:{chat.port}", "Origin": f"http://localhost:{chat.port}"}, 200),
        ({"Host": f"evil.example:{chat.port}", "Origin": f"http://evil.example:{chat.port}"}, 403),  # DNS rebinding
        ({"Host": "127.0.0.1@evil.example"}, 403),
        ({"Host": "["}, 403),
    ):
        for method, path, body in (("GET", "/", None), ("GET", "/v1/models", None), ("POST", CHAT, {"messages": ASKED, "max_tokens": 1})):
            response = chat.request(method, path, body, **headers)
            assert response.status == status, (headers, path)
            assert not any(name.lower().startswith("access-control") for name, _ in response.getheaders())
    assert chat.request("OPTIONS", CHAT, Origin=f"http://{own}").status == 405


@pytest.mark.parametrize(
    ("header", "value", "words"), [("Host", "host.docker.internal", "--token"), ("Origin", "https://public.example", "Host header")]
)
def test_refusal_says_what_a_proxy_or_a_container_needs(chat, header, value, words):
    response = chat.request("POST", CHAT, {"messages": ASKED}, **{header: value})
    assert words in json.loads(response.read())["error"]["message"]


def test_token_is_needed_for_all_but_the_page(chat_model):
    with Running(chat_model, token="गुप्त?".encode().hex()) as running:
        token = "गुप्त?".encode().hex()
        assert running.request("GET", "/").status == 200
        for wrong in ({}, {"Authorization": "Bearer no"}, {"Authorization": token}, {"Authorization": "Bearer \xff"}):
            for method, path, body in (("GET", "/v1/models", None), ("POST", CHAT, {"messages": ASKED})):
                refused = running.request(method, path, body, **wrong)
                assert (refused.status, refused.getheader("WWW-Authenticate")) == (401, "Bearer")
        with pytest.raises(openai.AuthenticationError):
            running.client("no").models.list()
        assert running.client(token).models.list().data
    assert serve.local_names("0.0.0.0") is None
    assert serve.local_names("192.168.1.5") is None
    assert "127.0.0.2" in serve.local_names("127.0.0.2")


# ---- clients that leave, stall, or are many


@pytest.mark.parametrize("streams", [True, False])
def test_text_ends_when_its_client_leaves(chat, streams):
    with chat.sent(stream=streams):
        wait_until(lambda: chat.scheduler._active, "an active text")
        row = chat.scheduler._active[0]
    wait_until(chat.is_idle, "the end of the text")
    assert len(row.made) < ENDLESS


@pytest.mark.slow
def test_client_that_stops_reading_holds_up_nobody(chat, monkeypatch):
    """Its text is generated to the end and leaves the model, however little of it is read."""
    sent = []
    monkeypatch.setattr(api, "_event", lambda content, event=api._event: sent.append(1) or event(content) + ":" + "x" * 10_000 + "\n\n")
    with chat.sent(temperature=0, stream=True, max_tokens=3000):
        wait_until(lambda: len(sent) > 3, "the first events")
        assert ask(chat).choices[0].message.content == spelled(40).strip()
        wait_until(chat.is_idle, "the end of the stalled text")
        assert len(sent) < 1000  # the rest waits as tokens
        assert ask(chat).choices[0].message.content == spelled(40).strip()


@pytest.mark.slow
def test_a_hundred_clients_at_once_all_get_their_answers(chat):
    def both(i: int) -> None:
        if i % 2:
            assert ask(chat, user=str(i)).choices[0].message.content == spelled(40).strip()
        else:
            assert "".join(chunk.choices[0].delta.content for chunk in ask(chat, stream=True)) == spelled(40).strip()

    with concurrent.futures.ThreadPoolExecutor(100) as pool:
        assert len(list(pool.map(both, range(100)))) == 100


def test_one_client_is_one_user_field_or_without_it_one_user_agent(chat, monkeypatch):
    clients, submit = [], chat.scheduler.submit
    monkeypatch.setattr(chat.scheduler, "submit", lambda text: (clients.append(text.client), submit(text)))
    for user, agent in (("a", "x"), ("a", "y"), ("b", "x"), (None, "x"), (None, "x"), (None, "y")):
        chat.request("POST", CHAT, {"messages": ASKED, "max_tokens": 1, "user": user}, User_Agent=agent).read()
    assert [clients.index(client) for client in clients] == [0, 0, 2, 3, 3, 5]


def test_more_requests_than_may_wait_are_refused(chat, monkeypatch):
    monkeypatch.setattr("nano_hindi.serving.scheduler.MAX_WAITING", 0)
    with pytest.raises(openai.RateLimitError, match="try again"):
        ask(chat)
    monkeypatch.setattr("nano_hindi.serving.scheduler.MAX_WAITING", 2)
    with pytest.raises(openai.RateLimitError, match="try again"):
        complete(chat, prompt=["राम"] * 40, max_tokens=ENDLESS)  # 17 of them do not wait
    wait_until(chat.is_idle, "the end of those that were queued")


def test_error_of_the_model_reaches_the_client(chat, monkeypatch, capsys):
    monkeypatch.setattr("nano_hindi.engine.Sampler", lambda *_, **__: 1 / 0)
    with pytest.raises(openai.InternalServerError, match="console") as failed:
        ask(chat)
    assert failed.value.type == "server_error"
    with pytest.raises(openai.APIError, match="console"):
        list(ask(chat, stream=True))
    assert capsys.readouterr().err.count("ZeroDivisionError") == 2


def test_request_in_progress_learns_that_the_server_ends(chat_model):
    with Running(chat_model) as running, concurrent.futures.ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask, running, max_tokens=ENDLESS)
        wait_until(lambda: running.scheduler._active, "an active text")
        running.server.should_exit = True  # as Ctrl-C sets it
        with pytest.raises(openai.InternalServerError, match="stopped") as ended:
            asked.result(PATIENCE)
        assert (ended.value.status_code, ended.value.type) == (503, "server_error")


def test_stream_in_progress_learns_that_the_server_ends(chat_model):
    with Running(chat_model) as running:
        stream = ask(running, max_tokens=ENDLESS, stream=True)
        next(stream)
        running.server.should_exit = True
        with pytest.raises(openai.APIError, match="stopped") as ended:
            list(stream)
        assert (ended.value.type, ended.value.code) == ("server_error", "server_stopped")


# ---- the command


def test_user_error_is_one_line(straight, capsys, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for flags, words in (
            (["--port", str(port)], f"port {port}"),
            (["--port", "65536"], "--port"),
            (["--host", "no such host"], "no such host"),
            (["--token", "क"], "--token"),
            (["--checkpoint", "nowhere"], "nowhere"),
        ):
            assert serve.main(["--checkpoint", str(straight), "--device", "cpu", *flags]) == 2
            errors = capsys.readouterr().err
            assert words in errors
            assert errors.count("127.0.0.1") <= 1
            assert errors.count("\n") == 1
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "nano_hindi.serving.api")
    monkeypatch.delattr(nano_hindi.serving, "api")
    assert serve.main(["--checkpoint", str(straight)]) == 2
    assert capsys.readouterr().err.endswith("install it: pip install -r requirements-serve.txt\n")


@pytest.mark.parametrize("display", ["", ":0"])
def test_open_shows_the_printed_address_in_the_browser_if_there_is_a_screen(display, straight, monkeypatch, capsys):
    opened = []
    monkeypatch.setattr(serve.webbrowser, "open", opened.append)
    monkeypatch.setenv("DISPLAY", display)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr(api, "make_server", lambda *_: SimpleNamespace(run=lambda sockets: None))
    for flags in ([], ["--open"]):
        assert serve.main(["--checkpoint", str(straight), "--device", "cpu", "--port", "0", *flags]) == 0
    address = capsys.readouterr().out.splitlines()[-1].split()[0]
    assert opened == ([address] if display or sys.platform in ("win32", "darwin") else [])


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="needs IPv6")
def test_all_addresses_of_ipv6_include_those_of_ipv4():
    with serve.listen("::", 0) as listener, socket.create_connection(("127.0.0.1", listener.getsockname()[1]), timeout=PATIENCE):
        pass


def test_printed_address_is_that_of_this_machine_in_its_network(monkeypatch):
    with serve.listen("0.0.0.0", 0) as listener:
        port = listener.getsockname()[1]
        name = urlsplit(serve.page_address("0.0.0.0", listener, "a b"))
        assert (name.port, name.fragment) == (port, "token=a%20b")
        if name.hostname == socket.gethostname().lower():
            pytest.skip("needs a network")
        socket.create_connection((name.hostname, port), timeout=PATIENCE).close()
        monkeypatch.setattr(socket.socket, "connect", Mock(side_effect=OSError))
        assert serve.page_address("::", listener, None) == f"http://{socket.gethostname()}:{port}/"


def test_with_a_token_a_proxy_may_give_the_server_another_name(straight, monkeypatch):
    made = []
    monkeypatch.setattr(api, "make_server", lambda *arguments: made.append(arguments[1:]) or SimpleNamespace(run=lambda sockets: None))
    for flags in ([], ["--token", "secret"]):
        assert serve.main(["--checkpoint", str(straight), "--device", "cpu", "--port", "0", *flags]) == 0
    assert made == [(None, serve.local_names("127.0.0.1")), ("secret", None)]


@pytest.mark.slow
def test_command_serves_until_ctrl_c_which_cuts_its_streams(chat_model):
    words = [sys.executable, "serve.py", "--checkpoint", chat_model, "--port", 0, "--device", "cpu", "--host", "0.0.0.0", "--max_tokens", 2**20 - 1]
    with launched(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        address = urlsplit(process.stdout.readline().split()[0])
        token = address.fragment.removeprefix("token=")
        assert len(token) > 20
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{address.port}/v1", api_key=token, max_retries=0)
        stream = client.chat.completions.create(model="nano_hindi", messages=ASKED, stream=True)
        for _ in range(3):
            next(stream)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 130
        assert errors == "\nstopped\n"


# ---- the page


def test_page_loads_nothing_from_elsewhere(chat):
    response = chat.request("GET", "/")
    page = response.read().decode()
    assert "default-src 'none'" in response.getheader("Content-Security-Policy")
    assert not [word for word in ("src=", "@import", "https://", "url(") if word in page]
    assert page.count("http://") == page.count("http://www.w3.org/2000/svg") == 1


CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update"]
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=[*flags, "--disable-sync"])
        yield browser
        browser.close()


def open_page(browser, running: Running, fragment: str = ""):
    page = browser.new_context(locale="hi-IN", viewport={"width": 375, "height": 667}).new_page()
    page.set_default_timeout(PATIENCE * 1000)
    page.goto(f"http://127.0.0.1:{running.port}/{fragment}")
    return page


def set_length(page, tokens: int | str) -> None:
    page.click("#settings summary")
    page.fill("#length", str(tokens))
    page.press("#length", "Escape")


def ask_for_a_long_answer(page, question: str, then: str = "") -> None:
    """Ask, wait until the answer streams, and run `then` in the page at once: on a busy machine,
    this process could be too late."""
    set_length(page, ENDLESS)
    page.fill("#question", question)
    page.press("#question", "Enter")
    streams = "document.querySelector('.assistant')?.textContent.includes('ॐ')"
    page.evaluate(
        f"new Promise((done) => {{ const look = () => {streams} ? done() : requestAnimationFrame(look); look(); }}).then(() => {{ {then} }})"
    )


@pytest.mark.slow
def test_page_chats_stops_and_answers_again(chat, browser):
    page = open_page(browser, chat)
    ask_for_a_long_answer(page, "<b>नमस्ते</b>", "if ($('send').textContent === 'रोकें') $('send').click()")
    page.get_by_text("रोका गया।").wait_for()
    wait_until(chat.is_idle, "the end of the stopped text")
    assert page.locator(".user").inner_text() == "<b>नमस्ते</b>"
    assert spelled(ENDLESS).strip().startswith(page.locator(".assistant").inner_text())
    set_length(page, 40)
    page.get_by_text("फिर से जवाब दें").click()
    page.get_by_text("लंबाई की सीमा आ गई।").wait_for()
    assert page.get_by_role("article", name="मॉडल").all_inner_texts() == [spelled(40).strip()]  # the label is for screen readers
    set_length(page, "")
    assert page.evaluate("length()") == 256
    set_length(page, 40)
    page.get_by_text("English").click()
    page.get_by_text("Answer again").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for _ in range(12):  # more than the context holds
        page.fill("#question", "राम " * 30)
        page.press("#question", "Enter")
        page.get_by_text("Stop", exact=True).wait_for(state="detached")
    page.get_by_text("no longer sees its beginning").wait_for()
    assert page.locator(".assistant").count() == 13
    requests = []
    page.on("request", lambda request: requests.append(request.method))
    page.reload()
    page.get_by_text("no longer sees its beginning").wait_for()
    requests.clear()
    page.get_by_text("Answer again").click()
    page.get_by_text("Stop", exact=True).wait_for(state="detached")
    assert requests.count("POST") == 1  # what the model no longer sees is not sent again
    assert page.evaluate("messages.filter(message => message.unseen).length") in range(2, 26, 2)
    page.get_by_text("New chat").click()
    page.get_by_text("Ask something in Hindi").wait_for()
    text = "राम hello घर " * 7000  # one line: when it was wrapped, Chromium took a minute
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.evaluate("text => navigator.clipboard.writeText(text)", text)
    page.press("#question", "Control+v")
    page.press("#question", "End")  # with a time limit
    page.press("#question", "Enter")
    page.get_by_text("too long for the model").wait_for()
    assert page.input_value("#question") == text.strip()  # to be shortened
    assert page.locator(".message").count() == 0


@pytest.mark.slow
def test_page_adds_at_once_what_has_arrived_and_leaves_the_text_before_it(chat, browser):
    page = open_page(browser, chat)
    texts = ["".join(f"{number} " for number in numbers) for numbers in (range(500), range(500, 1000))]
    events = ["".join(f'data: {{"choices": [{{"delta": {{"content": "{word} "}}}}]}}\n\n' for word in text.split()) for text in texts]
    page.evaluate(
        """(chunks) => {
            const server = window.fetch;
            window.fetch = async (path, options) => path === 'v1/models' ? server(path, options) :
                new Response(new ReadableStream({ start(stream) { for (const chunk of chunks) stream.enqueue(new TextEncoder().encode(chunk)); } }));
        }""",
        [*events, "data: [DONE]\n\n"],
    )
    page.fill("#question", "नमस्ते")
    page.press("#question", "Enter")
    page.get_by_text("फिर से जवाब दें").wait_for()
    assert page.evaluate("Array.from($('talk').lastChild.childNodes, (node) => node.data)") == [*texts, ""]


@pytest.mark.slow
def test_page_leaves_alone_who_reads_or_changes_settings_while_it_writes(chat, browser):
    page = open_page(browser, chat)
    set_length(page, 400)
    page.fill("#question", "राम\n" * 40)
    page.press("#question", "Enter")
    page.evaluate("$('main').scrollTop = 0; $('settings').open = true; $('system').focus()")
    page.get_by_text("लंबाई की सीमा आ गई।").wait_for()
    assert page.evaluate("[$('main').scrollTop, document.activeElement.id]") == [0, "system"]


@pytest.mark.slow
def test_page_shows_the_end_of_what_it_writes_also_in_a_smaller_window(chat, base, browser):
    small, large = {"width": 667, "height": 375}, {"width": 375, "height": 667}
    page = open_page(browser, chat)
    set_length(page, 40)
    page.fill("#question", "राम\n" * 40)
    page.press("#question", "Enter")
    page.get_by_text("लंबाई की सीमा आ गई।").wait_for()
    page.set_viewport_size(small)
    wait_until(lambda: page.evaluate("innerWidth === 667 && showsEnd($('main'))"), "the end of the answer")
    page = open_page(browser, base)
    set_length(page, 40)
    page.fill("#text", "राम\n" * 200)
    page.get_by_text("आगे लिखें").click()
    page.get_by_text("यह हिस्सा फिर से लिखें").wait_for()  # which takes room
    assert page.evaluate("showsEnd($('text'))")
    page.evaluate("running = new AbortController()")
    page.set_viewport_size(small)
    wait_until(lambda: page.evaluate("innerWidth === 667 && showsEnd($('text'))"), "the end of the text")
    page.evaluate("$('text').scrollTop = 0")
    page.evaluate("new Promise(requestAnimationFrame)")
    page.set_viewport_size(large)
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    assert page.evaluate("[innerWidth, $('text').scrollTop]") == [375, 0]  # who reads the beginning stays there


@pytest.mark.slow
def test_phone_with_a_zoom_of_200_percent_has_room_for_words(chat, browser):
    page = open_page(browser, chat)
    page.set_viewport_size({"width": 180, "height": 320})
    assert page.evaluate("$('question').clientWidth > 120 && $('main').clientHeight > 120 && document.documentElement.scrollWidth === 180")


@pytest.mark.slow
def test_page_works_under_a_path_that_a_proxy_removes(chat, browser):
    page = open_page(browser, chat)
    page.route("**/hindi/**", lambda route: route.fulfill(response=route.fetch(url=route.request.url.replace("/hindi/", "/"))))
    page.goto(f"http://127.0.0.1:{chat.port}/hindi/")
    set_length(page, 40)
    with page.expect_request("**/hindi/v1/chat/completions"):
        page.fill("#question", "नमस्ते")
        page.press("#question", "Enter")
    page.get_by_text("लंबाई की सीमा आ गई।").wait_for()
    assert page.locator(".assistant").inner_text() == spelled(40).strip()


@pytest.mark.slow
def test_enter_that_ends_a_composition_sends_nothing(chat, browser):
    page = open_page(browser, chat)
    page.fill("#question", "राम")
    for event in ("isComposing: true", "keyCode: 229"):  # the second is Safari's, which has ended the composition before
        page.evaluate(f"$('question').dispatchEvent(new KeyboardEvent('keydown', {{ key: 'Enter', bubbles: true, {event} }}))")
    assert page.input_value("#question") == "राम"
    assert page.locator(".message").count() == 0


@pytest.mark.slow
def test_page_sends_its_system_message_before_the_talk(chat, browser):
    page = open_page(browser, chat)
    set_length(page, 40)
    for written, roles in [("", ["user"]), ("छोटा जवाब दें।", ["system", "user", "assistant", "user"])]:
        page.click("#settings summary")
        page.fill("#system", written)
        page.press("#system", "Escape")
        page.reload()  # it is kept
        page.fill("#question", "नमस्ते")
        with page.expect_request("**/v1/chat/completions") as request:
            page.press("#question", "Enter")
        page.get_by_text("फिर से जवाब दें").wait_for()
        messages = request.value.post_data_json["messages"]
        assert [message["role"] for message in messages] == roles
        assert messages[0]["content"] == (written or "नमस्ते")


@pytest.mark.slow
def test_page_keeps_its_talk_over_a_reload(chat, browser):
    page = open_page(browser, chat)
    ask_for_a_long_answer(page, "नमस्ते")
    streamed = page.locator(".assistant").inner_text()
    page.reload()  # while it streams
    page.get_by_text("रोका गया।").wait_for()
    assert page.locator(".user").all_inner_texts() == ["नमस्ते"]
    kept = page.locator(".assistant").inner_text()
    assert kept.startswith(streamed)
    assert len(kept) < len(spelled(ENDLESS))
    set_length(page, 40)
    page.get_by_text("फिर से जवाब दें").click()
    page.get_by_text("लंबाई की सीमा आ गई।").wait_for()
    page.reload()
    page.get_by_text("लंबाई की सीमा आ गई।").wait_for()
    assert page.locator(".message").all_inner_texts() == ["नमस्ते", spelled(40).strip()]
    # a long talk: its newest turns
    page.evaluate("messages = Array.from({ length: 1200 }, (_, i) => ({ role: i % 2 ? 'assistant' : 'user', content: i + ' '.repeat(1000) }))")
    page.reload()
    page.locator(".message").nth(300).wait_for()
    assert page.locator(".message").count() in range(400, 500, 2)
    assert page.locator(".message").last.inner_text().strip() == "1199"
    # a full store, and what is not a talk
    page.evaluate("sessionStorage.removeItem('nano_hindi talk')")
    page.evaluate("for (let n = 2 ** 22; n >= 1; n /= 2) try { for (;;) sessionStorage.setItem(Math.random(), 'x'.repeat(n)) } catch { }")
    for talk in (None, "{", "null", '{"messages": [{"role": "user"}], "text": ""}', '{"messages": [{"role": "system", "content": ""}], "text": ""}'):
        if talk is not None:
            page.evaluate(
                "talk => { removeEventListener('pagehide', keep); document.removeEventListener('visibilitychange', keep); sessionStorage.clear(); sessionStorage.setItem('nano_hindi talk', talk) }",
                talk,
            )
        page.reload()
        page.get_by_text("हिन्दी में कुछ पूछिए").wait_for()
        page.fill("#question", "नमस्ते")
        page.press("#question", "Enter")
        page.get_by_text("लंबाई की सीमा आ गई।").wait_for()
    page.get_by_text("नई बातचीत").click()
    page.reload()
    page.get_by_text("हिन्दी में कुछ पूछिए").wait_for()
    assert page.locator(".message").count() == 0


@pytest.mark.slow
def test_page_of_a_base_model_continues_a_text_and_keeps_the_token_out_of_the_address(spelling, browser):
    with Running(spelling, token="secret+%") as running:
        page = open_page(browser, running)
        for typed in ("सेक्रेट", " secret+%"):  # the first as a Hindi keyboard writes it
            page.get_by_text("टोकन चाहिए").wait_for()
            page.fill("#typed", typed)
            page.press("#typed", "Enter")
        page.get_by_text("टोकन चाहिए").wait_for(state="hidden")
        page.get_by_text("आगे लिखें").wait_for()
        page = open_page(browser, running, "#token=secret%2B%25")
        set_length(page, 40)
        page.fill("#text", "सीता")
        page.press("#text", "Enter")
        assert page.input_value("#text") == "सीता\n"
        page.fill("#text", "राम")
        for begin in (lambda: page.press("#text", "Control+Enter"), page.get_by_text("यह हिस्सा फिर से लिखें").click):
            begin()
            page.get_by_text("लंबाई की सीमा आ गई।").wait_for()
            assert page.input_value("#text") == "राम" + spelled(40)
        assert page.url == f"http://127.0.0.1:{running.port}/"
        page.reload()
        page.get_by_text("यह हिस्सा फिर से लिखें").wait_for()
        assert page.input_value("#text") == "राम" + spelled(40)
        assert page.get_by_text("टोकन चाहिए").count() == 0
        page.fill("#text", "राम\n" * 200)
        page.get_by_text("आगे लिखें").click()
        page.evaluate("$('text').scrollTop = 0")  # who reads the beginning stays there
        page.get_by_text("लंबाई की सीमा आ गई।").wait_for()
        assert page.evaluate("$('text').scrollTop") == 0
        page.route("**/v1/completions", lambda route: route.fulfill(body="data: [DONE]\n\n"))
        with page.expect_request("**/v1/completions") as request:  # more than the server accepts; hidden, as Chromium takes seconds to lay it out
            page.evaluate("$('text').style.display = 'none'; $('text').value = '😀\\nराम\\n'.repeat(70000) + 'रा'; $('write').requestSubmit()")
        prompt = request.value.post_data_json["prompt"]
        assert len(json.dumps({"prompt": prompt}, ensure_ascii=False).encode()) in range(api.MAX_BODY // 2, api.MAX_BODY)
        assert prompt.startswith("\nराम\n")  # the cut falls into 😀
        assert prompt.endswith("😀\nराम\nरा")
        page.get_by_text("मॉडल ने कुछ नहीं लिखा।").wait_for()
        page.unroute("**/v1/completions")
        page.evaluate("$('text').value = $('text').style.display = ''")
        object.__setattr__(running.served, "max_tokens", 20)  # as after a restart
        page.fill("#text", "राम")
        assert page.evaluate("[$('send').title, $('send').click(), $('send').textContent, $('send').title]") == ["Ctrl+Enter", None, "रोकें", ""]
        page.get_by_text("लंबाई की सीमा आ गई।").wait_for()
        assert page.input_value("#text") == "राम" + spelled(20)
