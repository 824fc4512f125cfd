"""Text generation: a KV cache that keeps what the attention windows can see, sampling, and the loop
that yields tokens."""

# B batch, T new tokens, H query heads, G key/value heads, D head width, V vocabulary

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nano_hindi.config import GPTConfig
from nano_hindi.errors import UserError
from nano_hindi.flash_attention import flash_attn

if TYPE_CHECKING:
    from nano_hindi.model import GPT

PREFILL_TOKENS = 512  # prompt tokens per forward pass: bounds the slack of the caches
MIN_TEMPERATURE = 1e-6  # below it float32 overflows, and the most likely token is sampled anyway


class KVCache:
    """Keys and values of the tokens so far, in each layer as far back as its window reaches.

    `position` is the number of tokens so far, without limit; `last_ids` (B, config.tokens_before)
    are the last tokens, -1 where there is none.

    A layer has slots for its window plus slack: when they are full, the window is copied to the
    front. Keys are stored rotated by their absolute positions, and rotary attention depends only on
    distances, so they are valid in any slot. Raises UserError if there is not enough memory.
    """

    def __init__(self, config: GPTConfig, batch_size: int, device: torch.device | str, dtype: torch.dtype):
        self.position = 0
        self._windows, self._tokens_before = config.windows, config.tokens_before
        self._lengths = [0] * config.n_layer  # filled slots of each layer
        self._ids = torch.full((batch_size, config.tokens_before), -1, device=device)  # those of the last tokens, for as far back as `rewind` goes
        shapes = [(batch_size, window + max(window, PREFILL_TOKENS), config.n_kv_head, config.head_dim) for window in config.windows]
        try:
            self._keys, self._values = ([torch.empty(shape, device=device, dtype=dtype) for shape in shapes] for _ in range(2))
        except RuntimeError as error:  # out of memory, on CUDA too
            raise UserError(f"this device does not have enough memory for a context of {config.sequence_len:,} tokens; use another model") from error

    @property
    def last_ids(self) -> Tensor:
        return self._ids[:, self._ids.size(1) - self._tokens_before :]

    def advance(self, idx: Tensor) -> Tensor:
        """Add the next tokens (B, T), whose keys and values `attend` then adds in every layer.
        Returns their positions (T,)."""
        if self._tokens_before:
            kept = self._tokens_before + self._keys[-1].size(1)  # the last layer has the longest window
            self._ids = torch.cat((self._ids, idx), dim=1)[:, -kept:]
        self.position += idx.size(1)
        return torch.arange(self.position - idx.size(1), self.position, device=idx.device)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Append k, v (B, T, G, D) of the next T <= PREFILL_TOKENS tokens, and attend with q
        (B, T, H, D). Returns (B, T, H, D)."""
        keys, values, left = self._keys[layer], self._values[layer], self._windows[layer] - 1
        if self._lengths[layer] + k.size(1) > keys.size(1):  # so more slots than the window are filled
            for cache in (keys, values):
                cache[:, :left] = cache[:, self._lengths[layer] - left : self._lengths[layer]].clone()
            self._lengths[layer] = left
        y = flash_attn.flash_attn_with_kvcache(q, keys, values, k=k, v=v, cache_seqlens=self._lengths[layer], causal=True, window_size=(left, 0))
        self._lengths[layer] += k.size(1)
        return y

    def rewind(self, position: int) -> bool:
        """Forget the tokens from `position` on.

        Returns False, and forgets nothing, if a layer no longer has all that its window sees from
        there.
        """
        back = self.position - position
        if any(length - back < min(window - 1, position) for length, window in zip(self._lengths, self._windows, strict=True)):
            return False
        self._lengths = [length - back for length in self._lengths]
        self._ids = self._ids[:, : self._ids.size(1) - back]
        self.position = position
        return True

    def repeat(self, n: int) -> None:
        """Repeat the only row n times, so that n texts share the prefill of one prompt. Raises
        UserError if there is not enough memory."""
        if n == 1:
            return
        try:
            self._ids = self._ids.repeat(n, 1)
            self._keys, self._values = ([cache.repeat(n, 1, 1, 1) for cache in caches] for caches in (self._keys, self._values))
        except RuntimeError as error:  # out of memory, on CUDA too
            raise UserError(f"this device does not have enough memory for {n} texts at once; use a smaller --num_samples") from error


class JoinedCaches(KVCache):
    """The caches of B texts of different lengths, one row each, as one: a forward pass reads the
    weights once for all of them, and only attention is computed text by text.

    So a text can join or leave between two tokens without a copy. It has what a forward pass needs,
    not `rewind` and `repeat`.
    """

    def __init__(self, caches: Sequence[KVCache]):
        self._caches = caches

    @property
    def last_ids(self) -> Tensor:
        return torch.cat([cache.last_ids for cache in self._caches])

    def advance(self, idx: Tensor) -> Tensor:  # (B, T)
        return torch.stack([cache.advance(row) for cache, row in zip(self._caches, idx.split(1), strict=True)])

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        rows = zip(self._caches, *(x.split(1) for x in (q, k, v)), strict=True)
        return torch.cat([cache.attend(layer, *qkv) for cache, *qkv in rows])


def sample_token(logits: Tensor, temperature: float, top_k: int | None, generator: torch.Generator | None, top_p: float = 1.0) -> Tensor:
    """Return one token (B,) per row of logits (B, V): the most likely at temperature 0, else
    sampled from the `top_k` most likely (None or 0: all).

    Of these, only the smallest set whose total probability reaches `top_p` is used (nucleus
    sampling, Holtzman et al. 2020, arXiv 1904.09751).
    """
    if temperature == 0:
        return logits.argmax(dim=-1)
    ids = None
    if top_k and top_k < logits.size(-1):
        logits, ids = logits.topk(top_k)
    p = (logits / max(temperature, MIN_TEMPERATURE)).softmax(dim=-1)
    if top_p < 1:
        if ids is None:
            p, ids = _most_likely(p, top_p)
        p = p * (p.cumsum(dim=-1) - p < top_p)
    column = _draw(p, generator)
    return column if ids is None else ids.gather(1, column[:, None]).squeeze(1)


def _most_likely(p: Tensor, total: float) -> tuple[Tensor, Tensor]:
    """Return the largest of each row of p (B, V) in descending order, and their ids (B, n): enough
    of them to sum to `total`.

    Sorting all 68,096 on a CPU would take as long as the rest of the work for a token.
    """
    for n in (1024, 8192):
        if n < p.size(-1):
            largest, ids = p.topk(n)
            if (largest.sum(dim=-1) >= total).all():
                return largest, ids
    return p.sort(dim=-1, descending=True)


def _draw(p: Tensor, generator: torch.Generator | None) -> Tensor:
    """Sample a column (B,) of each row of p (B, n), unnormalized probabilities, by the exponential
    race, which is equivalent to Gumbel-max.

    torch.multinomial does the same, but may synchronize with a GPU to check the probabilities.
    """
    return (p / torch.empty_like(p).exponential_(generator=generator)).argmax(dim=-1)


def generate_tokens(model: GPT, tokens: Sequence[int], max_tokens: int, stop_ids: Collection[int] = (), **options: Any) -> Iterator[int]:
    """Yield up to `max_tokens` tokens that continue `tokens`, stopping before a token in
    `stop_ids`: `generate_batch` with a single text."""
    for (token,) in generate_batch(model, tokens, 1, max_tokens, stop_ids, **options):
        assert token is not None  # the generation ends with its only text
        yield token


def generate_batch(
    model: GPT,
    tokens: Sequence[int],
    n_texts: int,
    max_tokens: int,
    stop_ids: Collection[int] = (),
    cache: KVCache | None = None,
    **sampling: Any,
) -> Iterator[list[int | None]]:
    """Yield the next token of each of `n_texts` texts that begin with `tokens` (at least one), up
    to `max_tokens` times.

    A text ends before a token in `stop_ids` and yields None from then on; generation stops when all
    have ended. The same seed gives the same tokens. Neither prompt nor text has a length limit.

    `cache`: one with the first `cache.position` of `tokens`, but not all. In the end it has every
    token but the last one sampled. `sampling`: arguments of `Sampler`, whose errors it raises.
    """
    device = model.head_weight.device
    sampler = Sampler(model, tokens, n_texts=n_texts, **sampling)
    unread = tokens[-model.config.reach :] if cache is None else tokens[cache.position :]
    cache = cache or KVCache(model.config, 1, device, model.compute_dtype)
    new = torch.tensor([list(unread)], device=device)
    has_ended = [False] * n_texts
    for made in range(max_tokens):
        with torch.inference_mode():
            logits = next_logits(model, new, cache)
            if made == 0:
                cache.repeat(n_texts)
                logits = logits.expand(n_texts, -1)
            new = sampler.sample(logits)[:, None]
        step = new[:, 0].tolist()
        has_ended = [ended or token in stop_ids for ended, token in zip(has_ended, step, strict=True)]
        if all(has_ended):
            return
        yield [None if ended else token for ended, token in zip(has_ended, step, strict=True)]


@torch.inference_mode()
def generate_each(
    model: GPT, prompts: Sequence[tuple[Sequence[int], Sequence[int] | None]], max_tokens: int, stop_ids: Collection[int] = (), **sampling: Any
) -> list[list[int]]:
    """Return up to `max_tokens` tokens that continue each of `prompts`, the pairs of
    `Tokenizer.encode_open`, up to a token in `stop_ids`.

    They are those of `generate_tokens` except for rounding, but after the prompts, the texts share
    every forward pass.
    """
    rows = [Row(model, tokens, first_ids=first_ids, **sampling) for tokens, first_ids in prompts]
    going = rows
    for made in range(max_tokens):
        tokens = next_tokens(model, going) if made else [int(row.sampler.sample(next_logits(model, row.prompt, row.cache))) for row in rows]
        kept = [(row, token) for row, token in zip(going, tokens, strict=True) if token not in stop_ids]
        if not kept:
            break
        for row, token in kept:
            row.made.append(token)
        going = [row for row, _ in kept]
    return [row.made for row in rows]


class Sampler:
    """Sample the tokens of `n_texts` texts that begin with `tokens`. Raises ValueError if there are
    none.

    `temperature`, `top_k`, `top_p`: see `sample_token`. `repetition_penalty` divides positive and
    multiplies negative logits of tokens that are already in the text, prompt included (Keskar et
    al. 2019, arXiv 1909.05858, section 4.1). `first_ids`: allowed first tokens (None: all).
    """

    def __init__(
        self,
        model: GPT,
        tokens: Sequence[int],
        temperature: float = 1.0,
        top_k: int | None = None,
        seed: int = 42,
        top_p: float = 1.0,
        repetition_penalty: float = 1.0,
        first_ids: Sequence[int] | None = None,
        n_texts: int = 1,
    ):
        if not tokens:
            raise ValueError("generation needs at least one token to start from, such as bos")
        device = model.head_weight.device
        self._temperature, self._top_k, self._top_p, self._penalty = temperature, top_k, top_p, repetition_penalty
        self._generator = torch.Generator(device).manual_seed(seed)
        self._first_ids = None if first_ids is None else torch.tensor(first_ids, device=device).expand(n_texts, -1)
        self._used = None  # (B, V)
        if repetition_penalty != 1:
            self._used = torch.zeros(n_texts, model.config.vocab_size, dtype=torch.bool, device=device)
            self._used[:, list(tokens)] = True

    def sample(self, logits: Tensor) -> Tensor:
        """Return the next token (B,) of each text for logits (B, V)."""
        if self._first_ids is not None:
            logits = torch.full_like(logits, float("-inf")).scatter(1, self._first_ids, logits.gather(1, self._first_ids))
            self._first_ids = None
        if self._used is not None:
            logits = torch.where(self._used, torch.where(logits > 0, logits / self._penalty, logits * self._penalty), logits)
        token = sample_token(logits, self._temperature, self._top_k, self._generator, self._top_p)
        if self._used is not None:
            self._used.scatter_(1, token[:, None], True)
        return token


class Row:
    """One of several texts with a prompt each: its sampler, its cache, the part of its prompt
    (1, T) that the model can see, and the tokens made so far."""

    def __init__(self, model: GPT, tokens: Sequence[int], **sampling: Any):
        device = model.head_weight.device
        self.sampler = Sampler(model, tokens, **sampling)
        self.cache = KVCache(model.config, 1, device, model.compute_dtype)
        self.prompt = torch.tensor([list(tokens[-model.config.reach :])], device=device)
        self.made: list[int] = []


def next_tokens(model: GPT, rows: Sequence[Row]) -> list[int]:
    """Return the next token of each row, which has made at least one: one forward pass for all."""
    new = torch.tensor([row.made[-1:] for row in rows], device=model.head_weight.device)
    logits = next_logits(model, new, JoinedCaches([row.cache for row in rows]))
    return torch.cat([row.sampler.sample(own) for row, own in zip(rows, logits.split(1), strict=True)]).tolist()


def next_logits(model: GPT, new: Tensor, cache: KVCache) -> Tensor:
    """Return the logits (B, V) of the token after the new ones (B, T), which are added to the
    cache."""
    *earlier, last = new.split(PREFILL_TOKENS, dim=1)
    for chunk in earlier:
        model.trunk(chunk, cache)
    hidden = model.trunk(last, cache)[:, -1:]
    return model.logits(hidden)[:, 0]
