"""The scheduler of serve.py: many texts at once, fairness between clients, texts that leave."""

import queue

import pytest
import torch

from conftest import PATIENCE, wait_until
from nano_hindi import engine
from nano_hindi.config import GPTConfig
from nano_hindi.engine import KVCache, generate_tokens
from nano_hindi.model import GPT
from nano_hindi.serving import scheduler as module
from nano_hindi.serving.scheduler import BusyError, Scheduler, Text
from test_model import random_model

CONFIG = GPTConfig(vocab_size=101, sequence_len=16, n_layer=3, n_head=4, n_kv_head=2, n_embd=32, short_window_divisor=4)


@pytest.fixture(scope="module")
def model() -> GPT:
    return random_model(CONFIG)


def make_text(client="one", tokens=(1, 2, 3), max_tokens=5, stop_ids=(), **sampling) -> tuple[Text, queue.Queue]:
    received = queue.Queue()
    return Text(client, tokens, max_tokens, stop_ids, sampling, received.put), received


def all_of(received: queue.Queue) -> list[int]:
    return list(iter(lambda: received.get(timeout=PATIENCE), None))


@pytest.mark.slow
def test_texts_in_company_get_the_tokens_they_get_alone(model, monkeypatch):
    """Forty texts of all lengths and settings, more than are active at once; prompts longer than a
    chunk, texts that end by a stop token."""
    monkeypatch.setattr(module, "PREFILL_TOKENS", 16)
    random = torch.Generator().manual_seed(0)
    wishes = []
    for i in range(40):
        tokens = torch.randint(101, (1 + 7 * i % 90,), generator=random).tolist()
        sampling = {"temperature": (0, 0.7, 1.3)[i % 3], "top_k": (None, 20)[i % 2], "top_p": (1.0, 0.9)[i % 4 // 2], "seed": i}
        sampling |= {"repetition_penalty": 1.2} if i % 5 == 0 else {}
        sampling |= {"first_ids": [4, 5, 6]} if i % 7 == 0 else {}
        wishes.append({"tokens": tokens, "max_tokens": 3 + i, "stop_ids": (7, 8, 9), **sampling})
    alone = [list(generate_tokens(model, **wish)) for wish in wishes]
    assert len({len(text) for text in alone}) > 10
    assert any(len(text) < wish["max_tokens"] for text, wish in zip(alone, wishes, strict=True))
    with Scheduler(model) as scheduler:
        texts = [make_text(f"client {i % 3}", **wish) for i, wish in enumerate(wishes)]
        for text, _ in texts:
            scheduler.submit(text)
        assert [all_of(received) for _, received in texts] == alone


def test_active_texts_share_a_forward_pass(model, monkeypatch):
    rows, next_logits = [], engine.next_logits
    for caller in (module, engine):
        monkeypatch.setattr(caller, "next_logits", lambda model, new, cache: rows.append(len(new)) or next_logits(model, new, cache))
    scheduler = Scheduler(model)
    texts = [make_text(max_tokens=50) for _ in range(20)]
    for text, _ in texts:
        scheduler.submit(text)
    with scheduler:
        assert [len(all_of(received)) for _, received in texts] == [50] * 20
    assert max(rows) == module.MAX_ACTIVE == 16
    assert len(rows) < 20 + 3 * 50  # 20 prompts, and the tokens: 20 x 49 one by one


def test_long_prompt_is_read_between_the_tokens_of_others(model, monkeypatch):
    """In 22 chunks: as far back as the windows reach. Another text of ten tokens ends before."""
    monkeypatch.setattr(module, "PREFILL_TOKENS", 1)
    events, caches, trunk = [], [], model.trunk
    monkeypatch.setattr(model, "trunk", lambda ids, cache: caches.append(type(cache)) or trunk(ids, cache))
    long = Text("a", [5] * 1000, 1, (), {}, lambda item: events.append("read"))
    short = Text("b", [1], 10, (), {}, lambda item: (scheduler.submit(long) if not events else None, events.append("token")))
    scheduler = Scheduler(model)
    scheduler.submit(short)
    with scheduler:
        wait_until(lambda: len(events) == 13, "the end of both texts")
    assert events == ["token"] * 11 + ["read"] * 2  # with the end of each
    assert caches.count(KVCache) == 1 + 22  # the prompts of both


def test_clients_take_turns(model, monkeypatch):
    """One text at a time: the first client has queued three when the others come."""
    monkeypatch.setattr(module, "MAX_ACTIVE", 1)
    ended, scheduler = queue.Queue(), Scheduler(model)
    for client, n in (("a", 3), ("b", 2), ("c", 1)):
        for i in range(n):
            scheduler.submit(Text(client, [1], 2, (), {}, lambda item, name=f"{client}{i}": ended.put(name) if item is None else None))
    with scheduler:
        assert [ended.get(timeout=PATIENCE) for _ in range(6)] == ["a0", "b0", "c0", "a1", "b1", "a2"]


def test_client_that_holds_all_rows_waits_for_the_others(model, monkeypatch):
    """When one of its texts leaves, its next one begins after both of the other client."""
    monkeypatch.setattr(module, "MAX_ACTIVE", 2)
    ended = queue.Queue()

    def text(client, max_tokens):
        return Text(client, [1], max_tokens, (), {}, lambda item: ended.put(client) if item is None else None)

    first, second = make_text("greedy", max_tokens=2**60)[0], make_text("greedy", max_tokens=2**60)[0]
    with Scheduler(model) as scheduler:
        for each in (first, second, text("greedy", 5)):
            scheduler.submit(each)
        wait_until(lambda: len(scheduler._active) == 2, "two active texts")
        for _ in range(2):
            scheduler.submit(text("other", 5))
        scheduler.cancel(first)
        assert [ended.get(timeout=PATIENCE) for _ in range(3)] == ["other", "other", "greedy"]
        scheduler.cancel(second)


def test_cancelled_texts_leave_at_once(model, monkeypatch):
    """One that is active, one whose long prompt is being read, one that waits."""
    monkeypatch.setattr(module, "PREFILL_TOKENS", 1)
    monkeypatch.setattr(module, "MAX_ACTIVE", 2)
    (active, received), (joining, _), (waiting, nothing) = make_text(max_tokens=2**60), make_text(tokens=[5] * 10**5), make_text("two")
    with Scheduler(model) as scheduler:
        scheduler.submit(active)
        received.get(timeout=PATIENCE)
        scheduler.submit(joining)
        scheduler.submit(waiting)
        for text in (active, joining, waiting):
            scheduler.cancel(text)
        last, result = make_text()
        scheduler.submit(last)
        assert len(all_of(result)) == 5
        wait_until(lambda: not (scheduler._active or scheduler._joining or scheduler._row or scheduler._waiting), "an empty scheduler")
        assert nothing.empty()


def test_prompt_of_a_cancelled_text_is_read_no_further(model, monkeypatch):
    monkeypatch.setattr(module, "PREFILL_TOKENS", 1)
    (cancelled, nothing), (last, received), trunk = make_text(tokens=[5] * 20), make_text(), model.trunk
    with Scheduler(model) as scheduler:
        monkeypatch.setattr(model, "trunk", lambda ids, cache: scheduler.cancel(cancelled) or trunk(ids, cache))
        scheduler.submit(cancelled)
        scheduler.submit(last)
        assert len(all_of(received)) == 5
        assert nothing.empty()


def test_text_that_fails_ends_alone(model):
    (bad, error), (good, received) = make_text(tokens=[10**9]), make_text(max_tokens=200)
    with Scheduler(model) as scheduler:
        scheduler.submit(good)
        scheduler.submit(bad)
        assert isinstance(error.get(timeout=PATIENCE), IndexError)
        assert len(all_of(received)) == 200


def test_failed_step_ends_its_texts_and_not_the_scheduler(model, monkeypatch):
    (text, received), (next_text, after) = make_text(), make_text()
    with Scheduler(model) as scheduler:
        with monkeypatch.context() as patch:
            patch.setattr(engine, "JoinedCaches", lambda caches: 1 / 0)
            scheduler.submit(text)
            assert isinstance(received.get(timeout=PATIENCE), int)
            assert isinstance(received.get(timeout=PATIENCE), ZeroDivisionError)
        scheduler.submit(next_text)
        assert len(all_of(after)) == 5
        assert received.empty()


def test_a_client_cannot_fill_the_queue(model, monkeypatch):
    monkeypatch.setattr(module, "MAX_WAITING", 5)
    monkeypatch.setattr(module, "MAX_WAITING_PER_CLIENT", 3)
    scheduler = Scheduler(model)
    for client, n in (("a", 3), ("b", 2)):
        texts = [make_text(client)[0] for _ in range(n)]
        for text in texts:
            scheduler.submit(text)
        if client == "a":
            with pytest.raises(BusyError):
                scheduler.submit(make_text("a")[0])
    with pytest.raises(BusyError):
        scheduler.submit(make_text("c")[0])
    scheduler.cancel(texts[0])
    scheduler.submit(make_text("c")[0])
