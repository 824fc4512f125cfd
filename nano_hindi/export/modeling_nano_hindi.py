# SPDX-License-Identifier: MIT
# Copyright (c) 2026 the nano_hindi authors
"""nano_hindi for transformers: a small GPT trained on Hindi. This file holds the whole network and
needs only torch and transformers.

rotary positions         Su et al. 2021, arXiv 2104.09864
grouped-query attention  Ainslie et al. 2023, arXiv 2305.13245
QK-norm                  Henry et al. 2020, arXiv 2010.04245
ReLU^2                   So et al. 2021, arXiv 2109.08668
value embeddings         after ResFormer, Zhou et al. 2024, arXiv 2410.17897, gated by the input
soft-cap                 Gemma 2, arXiv 2408.00118

There are no biases, no weights in the norms, no tied weights and no buffers: angles and masks are
computed from positions, so text length is not limited.
"""

# B batch, T new tokens, N keys (those of the cache and the new ones), C width, H query heads, G
# key/value heads, D head width, V vocabulary

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Cache, DynamicCache, GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

# the name in transformers since 5.24, and the name before
CACHE_NAME = "cache" if "cache" in CausalLMOutputWithPast.__dataclass_fields__ else "past_key_values"
ROPE_BASE = 100_000.0
SOFTCAP = 15.0
RMS_EPS = torch.finfo(torch.float32).eps  # in every dtype
MLP_FACTOR = 4
GATE_CHANNELS = 32  # channels of the normed input that the gate of a value embedding reads


class NanoHindiConfig(PretrainedConfig):
    """The shape of the network.

    `window_pattern` is tiled over the layers: an S layer sees sequence_len / short_window_divisor
    keys, an L layer sequence_len, the query's own included. The last is L.
    """

    model_type = "nano_hindi"
    attribute_map = {  # noqa: RUF012 - transformers reads it from the class
        "hidden_size": "n_embd",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "num_key_value_heads": "n_kv_head",
        "max_position_embeddings": "sequence_len",
    }

    def __init__(
        self,
        vocab_size: int = 68096,
        sequence_len: int = 1024,
        n_layer: int = 8,
        n_head: int = 6,
        n_kv_head: int = 2,
        n_embd: int = 384,
        window_pattern: str = "SSSL",
        short_window_divisor: int = 4,
        tie_word_embeddings: bool = False,
        **kwargs,
    ):
        self.vocab_size, self.sequence_len = vocab_size, sequence_len
        self.window_pattern, self.short_window_divisor = window_pattern, short_window_divisor
        self.n_layer, self.n_head, self.n_kv_head, self.n_embd = n_layer, n_head, n_kv_head, n_embd
        super().__init__(tie_word_embeddings=tie_word_embeddings, **kwargs)

    @property
    def head_dim(self) -> int:
        return self.n_embd // self.n_head

    @property
    def windows(self) -> list[int]:
        """Return the number of keys that a query sees in each layer, its own included."""
        sizes = {"S": max(1, self.sequence_len // self.short_window_divisor), "L": self.sequence_len}
        tiled = [sizes[self.window_pattern[layer % len(self.window_pattern)]] for layer in range(self.n_layer)]
        return [*tiled[:-1], self.sequence_len]

    def has_value_embedding(self, layer: int) -> bool:
        """Return whether a layer has a value embedding: every other one, always including the
        last."""
        return layer % 2 == (self.n_layer - 1) % 2


def rms_norm(x: Tensor) -> Tensor:
    """Return x divided by its root mean square along the last dimension."""
    return F.rms_norm(x, (x.size(-1),), eps=RMS_EPS)


def rope_angles(positions: Tensor, head_dim: int) -> tuple[Tensor, Tensor]:
    """Return cos and sin (B, 1, T, D/2), float32, of integer positions (B, T)."""
    frequencies = ROPE_BASE ** (-torch.arange(0, head_dim, 2, dtype=torch.float32, device=positions.device) / head_dim)
    angles = positions.float()[:, None, :, None] * frequencies
    return angles.cos(), angles.sin()


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate each pair (x[d], x[d + D/2]) of x (B, heads, T, D) by the angle of its position."""
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1).to(x.dtype)


def visible_keys(n_queries: int, n_keys: int, window: int, attention_mask: Tensor | None, device: torch.device) -> Tensor:
    """Return which keys each query sees: bool (B or 1, 1, T, K), for the last K of the N keys,
    those that any of the T queries sees.

    A key is seen by its own token and the `window - 1` tokens after it, unless `attention_mask`
    (B, N) is 0 there. Padding sees itself: a softmax over no keys is nan.
    """
    first = max(0, n_keys - n_queries - window + 1)
    distance = torch.arange(n_keys - n_queries, n_keys, device=device)[:, None] - torch.arange(first, n_keys, device=device)
    mask = (distance >= 0) & (distance < window)
    if attention_mask is None:
        return mask[None, None]
    return mask & attention_mask[:, None, None, first:].bool() | (distance == 0)


class ZeroLinear(nn.Linear):
    """A linear layer initialised to zero. The layers that write to the residual stream are, so
    every block starts as the identity."""


class NanoHindiAttention(nn.Module):
    def __init__(self, config: NanoHindiConfig, layer: int):
        super().__init__()
        self.layer, self.head_dim = layer, config.head_dim
        self.c_q = nn.Linear(config.n_embd, config.n_head * config.head_dim, bias=False)
        self.c_k = nn.Linear(config.n_embd, config.n_kv_head * config.head_dim, bias=False)
        self.c_v = nn.Linear(config.n_embd, config.n_kv_head * config.head_dim, bias=False)
        self.c_proj = ZeroLinear(config.n_head * config.head_dim, config.n_embd, bias=False)
        self.value_embed = self.ve_gate = None
        if config.has_value_embedding(layer):
            self.value_embed = nn.Embedding(config.vocab_size, config.n_kv_head * config.head_dim)
            self.ve_gate = ZeroLinear(min(GATE_CHANNELS, config.n_embd), config.n_kv_head, bias=False)

    def forward(self, x: Tensor, input_ids: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, cache: Cache | None) -> Tensor:
        """Return the attention output (B, T, C) for x (B, T, C), input_ids (B, T), cos and sin
        (B, 1, T, D/2), and the mask of `visible_keys`."""
        q, k, v = (linear(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for linear in (self.c_q, self.c_k, self.c_v))  # (B, heads, T, D)
        if self.value_embed is not None:
            gate = 2 * torch.sigmoid(self.ve_gate(x[..., : self.ve_gate.in_features]))  # (B, T, G), from 0 to 2
            ve = self.value_embed(input_ids).unflatten(-1, (-1, self.head_dim))  # (B, T, G, D)
            v = v + (gate[..., None] * ve).transpose(1, 2)
        q, k = (rms_norm(apply_rope(heads, cos, sin)) for heads in (q, k))
        if cache is not None:
            k, v = cache.update(k, v, self.layer)  # (B, G, N, D)
        seen, n_shared = mask.size(-1), q.size(1) // k.size(1)
        k, v = (heads[:, :, -seen:].repeat_interleave(n_shared, dim=1) for heads in (k, v))  # one per query head
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.c_proj(y.transpose(1, 2).flatten(2))


class NanoHindiMLP(nn.Module):
    def __init__(self, config: NanoHindiConfig):
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, MLP_FACTOR * config.n_embd, bias=False)
        self.c_proj = ZeroLinear(MLP_FACTOR * config.n_embd, config.n_embd, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(F.relu(self.c_fc(x)).square())


class NanoHindiMix(nn.Module):
    """The input of a block: the residual stream x and the normed token embedding x0, each times a
    learned scalar."""

    def __init__(self):
        super().__init__()
        self.resid_lambda = nn.Parameter(torch.empty(1))
        self.x0_lambda = nn.Parameter(torch.empty(1))

    def forward(self, x: Tensor, x0: Tensor) -> Tensor:
        return self.resid_lambda * x + self.x0_lambda * x0


class NanoHindiBlock(nn.Module):
    def __init__(self, config: NanoHindiConfig, layer: int):
        super().__init__()
        self.mix = NanoHindiMix()
        self.attn = NanoHindiAttention(config, layer)
        self.mlp = NanoHindiMLP(config)

    def forward(self, x: Tensor, x0: Tensor, input_ids: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, cache: Cache | None) -> Tensor:
        x = self.mix(x, x0)
        x = x + self.attn(rms_norm(x), input_ids, cos, sin, mask, cache)
        return x + self.mlp(rms_norm(x))


class NanoHindiForCausalLM(PreTrainedModel, GenerationMixin):
    """The language model."""

    config_class = NanoHindiConfig
    _no_split_modules = ("NanoHindiBlock",)
    _supports_sdpa = True

    def __init__(self, config: NanoHindiConfig):
        super().__init__(config)
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.h = nn.ModuleList(NanoHindiBlock(config, layer) for layer in range(config.n_layer))
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Initialise a module of a new model. Only leaf modules are filled, and only by `nn.init`,
        so that transformers does not overwrite loaded weights."""
        bound = (3 / self.config.n_embd) ** 0.5  # a uniform distribution with standard deviation n_embd^-0.5
        if module is self.wte:
            nn.init.normal_(module.weight)
        elif module is self.lm_head:
            nn.init.normal_(module.weight, std=0.001)  # initial logits near zero: the initial loss is ln V
        elif isinstance(module, ZeroLinear):
            nn.init.zeros_(module.weight)
        elif isinstance(module, nn.Linear | nn.Embedding):
            nn.init.uniform_(module.weight, -bound, bound)
        elif isinstance(module, NanoHindiMix):
            nn.init.constant_(module.resid_lambda, 1.0)
            nn.init.constant_(module.x0_lambda, 0.1)

    def get_input_embeddings(self) -> nn.Embedding:
        return self.wte

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.wte = value

    def get_output_embeddings(self) -> nn.Linear:
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        self.lm_head = new_embeddings

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        cache: Cache | None = None,
        labels: Tensor | None = None,
        use_cache: bool = False,
        logits_to_keep: int | Tensor = 0,
        **kwargs,
    ) -> CausalLMOutputWithPast:
        """Return float32 soft-capped logits (B, T, V) for token ids (B, T), and the cache if one is
        given or `use_cache` is set.

        attention_mask (B, N): 0 for padding. No token sees padding, and its own logits are
        meaningless. cache: keys and values of the tokens so far; transformers before 5.24 calls it
        `past_key_values`. position_ids (B, T): positions of the tokens in their text, which may
        start at any number: attention depends only on distances. Default: the position in the row.
        labels (B, T): the same tokens as `input_ids`, each predicted from those before it; -100 is
        ignored. The loss is the mean in nats, or the sum divided by `num_items_in_batch` if
        transformers' Trainer passes it. logits_to_keep: an int n keeps the logits of the last n
        tokens only (0: of all), a tensor those of the tokens with these indices.
        """
        cache = past_key_values if cache is None else cache
        if use_cache and cache is None:
            cache = DynamicCache()
        n_queries, n_past = input_ids.size(1), cache.get_seq_length() if cache is not None else 0
        n_keys = n_past + n_queries
        if position_ids is None:
            position_ids = torch.arange(n_past, n_keys, device=input_ids.device)[None]
        cos, sin = rope_angles(position_ids, self.config.head_dim)
        windows = self.config.windows
        masks = {window: visible_keys(n_queries, n_keys, window, attention_mask, input_ids.device) for window in set(windows)}

        x = x0 = rms_norm(self.wte(input_ids))
        for window, block in zip(windows, self.h, strict=True):
            x = block(x, x0, input_ids, cos, sin, masks[window], cache)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = SOFTCAP * torch.tanh(self.lm_head(rms_norm(x)[:, kept]).float() / SOFTCAP)
        loss = None if labels is None else self.loss_function(logits, labels, self.config.vocab_size, **kwargs)
        return CausalLMOutputWithPast(loss=loss, logits=logits, **{CACHE_NAME: cache})
