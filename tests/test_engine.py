"""Generation: the KV cache against full recomputation, sampling against its probabilities."""

import copy
import itertools

import pytest
import torch

from additions import ADDITIONS
from nano_hindi import engine
from nano_hindi.config import GPTConfig
from nano_hindi.engine import KVCache, generate_tokens, sample_token
from nano_hindi.errors import UserError
from nano_hindi.model import GPT
from test_model import random_model

# windows 4, 4, 4, 16, 4, 16: both kinds, and an incomplete last period of the pattern
CONFIG = GPTConfig(vocab_size=101, sequence_len=16, n_layer=6, n_head=6, n_kv_head=2, n_embd=48, short_window_divisor=4, **ADDITIONS)


@pytest.fixture(scope="module")
def model() -> GPT:
    return random_model(CONFIG)


def random_ids(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(0, CONFIG.vocab_size, shape, generator=torch.Generator().manual_seed(seed))


# ---- the cache


@pytest.mark.parametrize("prefill", [8, 512])
@pytest.mark.parametrize("prompt", [1, 3, 15, 16, 17, 70])
def test_greedy_text_with_the_cache_equals_full_recomputation(model, monkeypatch, prompt, prefill):
    """From prompts shorter than, as long as and longer than sequence_len, far beyond it. With
    little slack the cache moves its window many times."""
    monkeypatch.setattr(engine, "PREFILL_TOKENS", prefill)
    ids = random_ids(prompt).tolist()
    made = list(generate_tokens(model, ids, 60, temperature=0))
    assert len(made) == 60
    assert len(set(made)) > 3, "the text repeats a token: give random_model another seed in `model`"
    with torch.no_grad():
        logits = model(torch.tensor([ids + made]))[0]  # causal: one pass over the finished text gives the logits of every step
        for n in (0, 1, 30, 59):  # and it equals recomputing the text so far
            torch.testing.assert_close(model(torch.tensor([ids + made[:n]]))[0, -1], logits[prompt + n - 1], atol=1e-4, rtol=0)
    assert logits[prompt - 1 : -1].argmax(-1).tolist() == made


@pytest.mark.parametrize("prefill", [5, 64])
def test_hidden_states_with_the_cache_equal_those_without_for_any_chunks(model, monkeypatch, prefill):
    """Three rows at once, 400 tokens in chunks of all sizes."""
    monkeypatch.setattr(engine, "PREFILL_TOKENS", prefill)
    idx, cache = random_ids(3, 400), KVCache(CONFIG, 3, "cpu", torch.float32)
    sizes = itertools.cycle([prefill, 1, 2, 1, 1, prefill - 1, 1, 3])
    pieces = []
    with torch.no_grad():
        while cache.position < 400:
            piece = idx[:, cache.position : cache.position + next(sizes)]
            pieces.append(model.trunk(piece, cache))
        torch.testing.assert_close(torch.cat(pieces, dim=1), model.trunk(idx), atol=2e-4, rtol=0)
    assert cache.position == 400


def test_long_prompt_is_read_in_chunks_and_only_as_far_back_as_the_windows_reach(model, monkeypatch):
    """1 + 4 x 3 + 2 x 15 tokens, and three for the convolution; the logits after them equal those
    of the whole prompt, and with one token less they differ."""
    monkeypatch.setattr(engine, "PREFILL_TOKENS", 16)
    lengths, trunk = [], model.trunk
    monkeypatch.setattr(model, "trunk", lambda idx, cache: lengths.append(idx.size(1)) or trunk(idx, cache))
    ids = random_ids(1300).tolist()
    first, second = generate_tokens(model, ids, 2, temperature=0)
    monkeypatch.undo()
    assert lengths == [16, 16, 14, 1]
    with torch.no_grad():
        whole = model(torch.tensor([ids]))[0, -1]
        assert whole.argmax() == first
        assert model(torch.tensor([[*ids, first]]))[0, -1].argmax() == second
        torch.testing.assert_close(model(torch.tensor([ids[-46:]]))[0, -1], whole, atol=1e-4, rtol=0)
        changed = torch.tensor([ids]).repeat(3, 1)
        for row, back in ((1, 46), (2, 47)):
            changed[row, -back] = (changed[row, -back] + 1) % CONFIG.vocab_size
        same, nearer, farther = (model(row[None])[0, -1] for row in changed)  # one by one: the place in a batch may change the rounding
    assert torch.equal(same, farther)
    assert not torch.equal(same, nearer)


def test_cache_keeps_only_the_windows(model, monkeypatch):
    """Its memory does not grow with the text, and layers with a window of a quarter keep only that
    and their slack."""
    monkeypatch.setattr(engine, "PREFILL_TOKENS", 2)
    cache = KVCache(CONFIG, 2, "cpu", torch.bfloat16)
    slots = [keys.size(1) for keys in cache._keys]
    assert slots == [2 * window for window in CONFIG.windows]
    assert {keys.dtype for keys in cache._keys + cache._values} == {torch.bfloat16}
    pointers = [keys.data_ptr() for keys in cache._keys]
    q, kv = torch.randn(2, 1, 6, 8, dtype=torch.bfloat16), torch.randn(2, 1, 2, 8, dtype=torch.bfloat16)
    with torch.inference_mode():
        for _ in range(200):
            assert cache.attend(0, q, kv, kv).shape == q.shape
    assert [keys.data_ptr() for keys in cache._keys] == pointers


def test_texts_that_join_and_leave_a_batch_get_the_logits_they_get_alone(model, monkeypatch):
    """Prompts of 1 to 40 tokens, one more text at every step, the first leaves after five; with
    little slack the caches move their windows many times, each at its own time."""
    monkeypatch.setattr(engine, "PREFILL_TOKENS", 4)
    texts, prompts, active = random_ids(5, 80), (1, 40, 17, 8, 25), []
    with torch.inference_mode():
        whole = model(texts)
        for step in range(30):
            if step < 5:
                cache = KVCache(CONFIG, 1, "cpu", torch.float32)
                engine.next_logits(model, texts[step : step + 1, : prompts[step]], cache)
                active.append((step, cache))
            if step == 5:
                active.pop(0)
            expected = torch.stack([whole[row, cache.position] for row, cache in active])
            new = torch.stack([texts[row, cache.position :][:1] for row, cache in active])
            logits = engine.next_logits(model, new, engine.JoinedCaches([cache for _, cache in active]))
            torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)


def test_cache_is_rewound_to_exactly_the_positions_whose_windows_it_holds(model, monkeypatch):
    """After each of 60 tokens. From the earliest of these positions, the logits are those of the
    whole text."""
    monkeypatch.setattr(engine, "PREFILL_TOKENS", 1)
    ids, cache = random_ids(1, 60), KVCache(CONFIG, 1, "cpu", torch.float32)
    with torch.inference_mode():
        whole = model(ids)[0]
        for end in range(1, 60):
            engine.next_logits(model, ids[:, end - 1 : end], cache)
            layers = [(window, end - length) for window, length in zip(CONFIG.windows, cache._lengths, strict=True)]  # and its oldest token
            held = [position for position in range(end + 1) if all(max(0, position - window + 1) >= oldest for window, oldest in layers)]
            assert [position for position in range(end + 1) if copy.copy(cache).rewind(position)] == held
            rewound, first = copy.deepcopy(cache), held[0]
            rewound.rewind(first)
            logits = engine.next_logits(model, ids[:, first : first + 1], rewound)
            torch.testing.assert_close(logits[0], whole[first], atol=1e-4, rtol=0)


def test_rewound_and_repeated_cache_continues_as_the_whole_texts(model):
    """Three texts with the same first 17 tokens, of which the cache had read three others more."""
    texts, cache = random_ids(3, 30), KVCache(CONFIG, 1, "cpu", torch.float32)
    texts[:, :17] = texts[0, :17]
    with torch.no_grad():
        for token in random_ids(1, 3).split(1, dim=1):
            model.trunk(token, cache)
        assert cache.rewind(0)
        model.trunk(torch.cat((texts[:1, :17], random_ids(1, 3)), dim=1), cache)
        assert cache.rewind(17)
        cache.repeat(3)
        found = torch.cat([model.trunk(token, cache) for token in texts[:, 17:].split(1, dim=1)], dim=1)
        torch.testing.assert_close(found, model.trunk(texts)[:, 17:], atol=2e-4, rtol=0)


def test_bf16_hidden_states_with_the_cache_are_close_to_recomputation(model, monkeypatch):
    """bf16 keys against bf16 recomputation: close, but not bit for bit."""
    monkeypatch.setattr(model, "compute_dtype", torch.bfloat16)
    idx, cache = random_ids(1, 90), KVCache(CONFIG, 1, "cpu", torch.bfloat16)
    with torch.no_grad():
        cached = torch.cat([model.trunk(piece, cache) for piece in idx.split(1, dim=1)], dim=1).float()
        whole = model.trunk(idx).float()
    assert (cached - whole).norm() / whole.norm() < 3e-2


# ---- sampling


@pytest.mark.parametrize(("temperature", "top_k"), [(1.0, None), (0.5, 0), (2.0, 100), (0.8, 3), (1.0, 6)])
def test_tokens_are_sampled_with_the_probabilities_of_the_softmax(temperature, top_k):
    logits, draws = torch.tensor([0.3, -1.0, 2.0, 1.4, -3.0, 0.9]), 40_000
    p = (logits.double() / temperature).exp()
    if top_k == 3:
        p[[0, 1, 4]] = 0
    p /= p.sum()
    drawn = sample_token(logits.expand(draws, 6), temperature, top_k, torch.Generator().manual_seed(0))
    assert drawn.shape == (draws,)
    counts = torch.bincount(drawn, minlength=6).double()
    assert (counts[p == 0] == 0).all()
    possible = p > 0
    chi_square = ((counts - draws * p)[possible].square() / (draws * p)[possible]).sum()
    assert chi_square < 25  # five degrees of freedom: one seed in 7,000 would exceed it by chance


@pytest.mark.parametrize(("top_k", "top_p", "kept"), [(None, 0.75, 2), (0, 0.5, 1), (4, 0.93, 3), (3, 0.85, 2), (None, 0.99999, 5), (2, 1.0, 2)])
def test_top_p_samples_from_the_smallest_set_that_reaches_it(top_k, top_p, kept):
    """Of these probabilities .55, .25, .12, .06, .02, or of those that top_k leaves."""
    order, draws = [3, 0, 4, 2, 1], 20_000
    p = torch.tensor([0.25, 0.02, 0.06, 0.55, 0.12])
    drawn = sample_token(p.log().expand(draws, 5), 1.0, top_k, torch.Generator().manual_seed(0), top_p)
    counts = torch.bincount(drawn, minlength=5).double()
    assert set(order[:kept]) == set(counts.nonzero().flatten().tolist())
    share = p.double()[order[:kept]]
    assert (counts[order[:kept]] / draws - share / share.sum()).abs().max() < 0.015


def test_nucleus_of_a_large_vocabulary_equals_that_of_a_full_sort():
    """A nucleus of a few, a thousand or tens of thousands of tokens, also in rows of one batch."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 68_096, generator=generator) * torch.tensor([[6.0], [2.0], [0.5]])
    for rows in (logits, logits[:1], logits[1:2]):
        for top_p in (0.3, 0.9, 0.99):
            p, ids = engine._most_likely(rows.softmax(-1), top_p)
            kept = torch.zeros_like(rows, dtype=torch.bool).scatter(1, ids, p.cumsum(-1) - p < top_p)
            ordered, order = rows.double().softmax(-1).sort(-1, descending=True)
            expected = torch.zeros_like(kept).scatter(1, order, ordered.cumsum(-1) - ordered < top_p)
            assert ((kept ^ expected).sum(-1) <= 1e-3 * expected.sum(-1) + 1).all()  # float32 sums end a token earlier or later


def test_repetition_penalty_equals_its_formula(model):
    """Against the formula on the logits of the whole text, including the tokens of a prompt beyond
    the windows; and 1 changes nothing."""
    prompt = random_ids(60).tolist()
    made = list(generate_tokens(model, prompt, 25, temperature=0, repetition_penalty=1.3))
    ids = list(prompt)
    for token in made:
        with torch.no_grad():
            logits = model(torch.tensor([ids]))[0, -1].double()
        for used in set(ids):
            logits[used] = logits[used] / 1.3 if logits[used] > 0 else logits[used] * 1.3
        assert int(logits.argmax()) == token
        ids.append(token)
    plain = list(generate_tokens(model, prompt, 25, temperature=0))
    assert list(generate_tokens(model, prompt, 25, temperature=0, repetition_penalty=1.0)) == plain != made


def test_first_token_can_be_restricted(model):
    for temperature in (0, 1.0):
        for seed in range(5):
            first, *_ = generate_tokens(model, [1, 2, 3], 4, temperature=temperature, top_k=50, seed=seed, first_ids=[7, 9])
            assert first in (7, 9)
    with torch.no_grad():
        logits = model(torch.tensor([[1, 2, 3]]))[0, -1]
    assert next(generate_tokens(model, [1, 2, 3], 1, temperature=0, first_ids=[7, 9])) == max((7, 9), key=lambda i: logits[i])


# ---- several texts at once


def test_texts_of_several_prompts_equal_those_of_each_alone(model, monkeypatch):
    """One is longer than the context, one has allowed first tokens; some texts end early."""
    monkeypatch.setattr(engine, "PREFILL_TOKENS", 8)
    prompts = [([5], None), (random_ids(30).tolist(), None), (random_ids(2 * model.config.sequence_len).tolist(), None), ([1, 2, 3], [7, 9])]
    stops = range(0, model.config.vocab_size, 20)
    for options in ({"temperature": 0}, {"top_k": 50, "seed": 3, "repetition_penalty": 1.2}):
        alone = [list(generate_tokens(model, ids, 60, stops, first_ids=first, **options)) for ids, first in prompts]
        assert engine.generate_each(model, prompts, 60, stops, **options) == alone
        assert len({len(text) for text in alone}) > 2, "too few texts end early: give random_model another seed in `model`"
        assert engine.generate_each(model, prompts, 3, **options) == [
            list(generate_tokens(model, ids, 3, first_ids=first, **options)) for ids, first in prompts
        ]


def test_texts_of_a_batch_are_sampled_like_single_ones(model, monkeypatch):
    """Pairs of tokens: 4,000 in one batch against the probabilities of the model."""
    monkeypatch.setattr(engine, "PREFILL_TOKENS", 4)
    prompt, n = [5, 6, 7], 4000
    with torch.no_grad():
        first = model(torch.tensor([prompt]))[0, -1].topk(2)
        second = model(torch.tensor([[*prompt, int(i)] for i in first.indices]))[:, -1].topk(2)
    steps = list(engine.generate_batch(model, prompt, n, 2, top_k=2, seed=3))
    drawn = torch.tensor(steps).T  # (n, 2)
    for a in range(2):
        for b in range(2):
            expected = n * first.values.softmax(-1)[a] * second.values.softmax(-1)[a, b]
            count = (drawn == torch.stack((first.indices[a], second.indices[a, b]))).all(dim=1).sum()
            assert abs(count - expected) < 4.5 * expected.sqrt() + 1


def test_each_text_of_a_batch_continues_from_its_own_tokens_to_its_own_end(model):
    prompt, stop = [5, 6, 7], 3
    steps = list(engine.generate_batch(model, prompt, 6, 80, temperature=1.2, seed=1, stop_ids=(stop, *range(10, 14))))
    lengths = []
    for row in zip(*steps, strict=True):
        length = row.index(None) if None in row else len(row)
        assert all(token is None for token in row[length:])
        assert not {stop, *range(10, 14)} & set(row)
        lengths.append(length)
    assert max(lengths) == len(steps)
    assert len(set(lengths)) > 2
    greedy_steps = engine.generate_batch(model, prompt, 2, 30, temperature=0)
    assert len(list(greedy_steps)) == 30


def test_sampler_of_several_texts_treats_each_as_a_sampler_of_its_own_does(model):
    """Each text soon meets the tokens of the others, which are penalized only where they were
    used."""
    logits = torch.randn(3, CONFIG.vocab_size, generator=torch.Generator().manual_seed(0))
    options = {"tokens": [5, 6], "temperature": 0, "repetition_penalty": 100.0, "first_ids": [7, 8, 9, 10]}
    together, alone = engine.Sampler(model, n_texts=3, **options), [engine.Sampler(model, **options) for _ in range(3)]
    for step in range(4):
        rows = logits.roll(step, dims=0)
        assert together.sample(rows).tolist() == [int(sampler.sample(row[None])) for sampler, row in zip(alone, rows, strict=True)]


def test_batch_reads_its_prompt_once(model, monkeypatch):
    shapes, trunk = [], model.trunk
    monkeypatch.setattr(model, "trunk", lambda idx, cache: shapes.append(tuple(idx.shape)) or trunk(idx, cache))
    list(engine.generate_batch(model, [1, 2, 3], 5, 3))
    assert shapes == [(1, 3), (5, 1), (5, 1)]


def test_batch_too_large_for_memory_is_a_user_error():
    with pytest.raises(UserError, match="--num_samples"):
        KVCache(CONFIG, 1, "cpu", torch.float32).repeat(10**10)


def test_temperature_0_and_top_k_1_take_the_most_probable_token():
    logits = torch.randn(500, 101, generator=torch.Generator().manual_seed(0))
    best = logits.argmax(-1)
    for temperature, top_k in ((0, None), (0, 50), (1.0, 1), (5.0, 1), (1e-9, None), (1e-40, None), (1e-42, 50)):
        assert (sample_token(logits * 15, temperature, top_k, torch.Generator().manual_seed(1)) == best).all()


def test_same_seed_gives_the_same_text_without_the_global_generator(model):
    def text(seed):
        return list(generate_tokens(model, [1, 2, 3], 30, temperature=1.5, top_k=50, seed=seed))

    torch.manual_seed(0)
    first, state = text(5), torch.get_rng_state()
    torch.manual_seed(1)
    assert text(5) == first
    torch.manual_seed(0)
    assert torch.equal(torch.get_rng_state(), state)  # nothing was drawn from it
    assert text(6) != first
    assert list(model.generate([1, 2, 3], 30, temperature=1.5, top_k=50, seed=5)) == first
    assert list(model.generate([1, 2, 3], 30)) == list(generate_tokens(model, [1, 2, 3], 30, temperature=1.0, top_k=None, seed=42))


def test_tokens_are_streamed_and_end_before_a_stop_token_or_at_max_tokens(model, monkeypatch):
    calls, trunk = [], model.trunk
    monkeypatch.setattr(model, "trunk", lambda *arguments: calls.append(1) or trunk(*arguments))
    tokens = generate_tokens(model, [1, 2, 3], 20, temperature=0)
    assert not calls
    first = next(tokens)
    assert len(calls) == 1  # the first token does not wait for the second
    text = [first, *tokens]
    assert len(text) == len(calls) == 20  # the last one is not fed to the model
    stop = text[10]
    assert list(generate_tokens(model, [1, 2, 3], 20, temperature=0, stop_ids=(stop,))) == text[: text.index(stop)]
    assert list(generate_tokens(model, [1, 2, 3], 0)) == []


def test_empty_token_list_is_refused(model):
    with pytest.raises(ValueError, match="at least one token"):
        next(generate_tokens(model, [], 5))


def test_generation_restores_mode_gradients_and_weights(model):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.train()
    for _ in generate_tokens(model, [1, 2], 3):
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()  # the caller is not in inference mode
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    model(torch.tensor([[1, 2]]), torch.tensor([[2, 3]])).backward()
    model.zero_grad(set_to_none=True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_only_reading_the_token_synchronizes(model):
    logits, generator = torch.randn(1, 101, device="cuda"), torch.Generator("cuda").manual_seed(0)
    for top_k in (None, 5):
        sample_token(logits, 0.8, top_k, generator)
        torch.cuda.set_sync_debug_mode("error")
        try:
            sample_token(logits, 0.8, top_k, generator)
        finally:
            torch.cuda.set_sync_debug_mode("default")
