"""Generation: a KV cache that keeps what the windows can see, sampling, and the stream of tokens."""

# B batch, T new tokens, S slots of a cache, H query heads, G key/value heads, D head width, V vocabulary

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import torch
from torch import Tensor

from nano_hindi.config import GPTConfig
from nano_hindi.flash_attention import flash_attn
from nano_hindi.model import GPT

PREFILL_TOKENS = 512  # of a prompt that go through the model at once: bounds the slack of the caches
MIN_TEMPERATURE = 1e-6  # below it float32 overflows, and the likeliest token wins anyway


class KVCache:
    """Keys and values of the tokens so far, each layer's as far back as its window reaches. `position` is the number of tokens so far, without limit.

    A layer has slots for its window and for slack: when they are full, the window is copied to the front. Keys are stored rotated by their true
    positions, and rotary attention looks at distances only, so they stay right wherever they lie.
    """

    def __init__(self, config: GPTConfig, batch_size: int, device: torch.device | str, dtype: torch.dtype):
        self.position = 0
        self._windows = config.windows
        self._lengths = [0] * config.n_layer  # filled slots of each layer
        shapes = [(batch_size, window + max(window, PREFILL_TOKENS), config.n_kv_head, config.head_dim) for window in config.windows]
        self._keys, self._values = ([torch.empty(shape, device=device, dtype=dtype) for shape in shapes] for _ in range(2))

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Append k, v (B, T, G, D) of the next T <= PREFILL_TOKENS tokens, and attend with q (B, T, H, D). Returns (B, T, H, D)."""
        keys, values, left = self._keys[layer], self._values[layer], self._windows[layer] - 1
        if self._lengths[layer] + k.size(1) > keys.size(1):
            kept = min(left, self._lengths[layer])
            for cache in (keys, values):
                cache[:, :kept] = cache[:, self._lengths[layer] - kept : self._lengths[layer]].clone()
            self._lengths[layer] = kept
        y = flash_attn.flash_attn_with_kvcache(q, keys, values, k=k, v=v, cache_seqlens=self._lengths[layer], causal=True, window_size=(left, 0))
        self._lengths[layer] += k.size(1)
        return y


def sample_token(logits: Tensor, temperature: float, top_k: int | None, generator: torch.Generator | None) -> Tensor:
    """One token (B,) for each row of logits (B, V): the likeliest at temperature 0, else drawn from the `top_k` likeliest (None or 0: from all)."""
    if temperature == 0:
        return logits.argmax(dim=-1)
    logits = logits / max(temperature, MIN_TEMPERATURE)
    if not top_k or top_k >= logits.size(-1):
        return _draw(logits, generator)
    likeliest, ids = logits.topk(top_k, dim=-1)
    return ids.gather(1, _draw(likeliest, generator)[:, None]).squeeze(1)


def _draw(logits: Tensor, generator: torch.Generator | None) -> Tensor:
    """A column (B,) of each row of logits (B, n), with the probabilities of their softmax: column i rings first among alarms that ring at rate p[i].

    torch.multinomial does the same, and may stop a GPU to look for bad probabilities.
    """
    p = logits.softmax(dim=-1)
    return (p / torch.empty_like(p).exponential_(generator=generator)).argmax(dim=-1)


def generate_tokens(
    model: GPT,
    tokens: Sequence[int],
    max_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    seed: int = 42,
    stop_ids: Collection[int] = (),
) -> Iterator[int]:
    """Yield up to `max_tokens` tokens that continue `tokens` (at least one), and end before a token of `stop_ids`. The same seed gives the same tokens.

    Neither the prompt nor the text has a length limit. Raises ValueError for an empty prompt.
    """
    if not tokens:
        raise ValueError("generation needs at least one token to start from, such as bos")
    device = model.lm_head.weight.device
    generator = torch.Generator(device).manual_seed(seed)
    cache = KVCache(model.config, 1, device, model.compute_dtype)
    new = torch.tensor([list(tokens)], device=device)
    for made in range(max_tokens):
        with torch.inference_mode():
            token = sample_token(_next_logits(model, new, cache), temperature, top_k, generator)
        if (value := int(token)) in stop_ids:
            return
        yield value
        if made + 1 < max_tokens:
            new = token[:, None]


def _next_logits(model: GPT, new: Tensor, cache: KVCache) -> Tensor:
    """Logits (B, V) of the token after the new ones (B, T), which the cache then holds too."""
    *earlier, last = new.split(PREFILL_TOKENS, dim=1)
    for chunk in earlier:
        model.trunk(chunk, cache)
    hidden = model.trunk(last, cache)[:, -1:]
    return model.logits(hidden)[:, 0]
