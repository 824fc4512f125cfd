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
smear                    nanochat (github.com/karpathy/nanochat), with another gate
embedding convolution    after Canon layers, Allen-Zhu 2025, arXiv 2512.17351

There are no biases, no weights in the norms and no buffers: angles and masks are computed from
positions, so text length is not limited.
"""

# B batch, T new tokens, N keys (those of the cache and the new ones), C width, H query heads, G
# key/value heads, D head width, V vocabulary

from __future__ import annotations

import copy
import inspect

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Cache, DynamicCache, GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask, sliding_window_overlay
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import can_return_tuple

# the name in transformers since 5.24, and the name before
CACHE_NAME = "cache" if "cache" in CausalLMOutputWithPast.__dataclass_fields__ else "past_key_values"
MASK_ARGUMENTS = inspect.signature(create_causal_mask).parameters  # their names depend on the version too
ROPE_BASE = 100_000.0
RMS_EPS = torch.finfo(torch.float32).eps  # in every dtype
GATE_CHANNELS = 32  # channels of the normed input that the gate of a value embedding reads, and that of the smear


class NanoHindiConfig(PretrainedConfig):
    """The shape of the network.

    A query of a layer of type "sliding_attention" sees `sliding_window` keys, one of a layer of
    type "full_attention" `full_window` keys, its own included. The layers of
    `value_embedding_layers` add an embedding of the token to their values. With `smear`, the
    previous token's embedding is added to each embedding, times a gate; with `embedding_conv`, the
    embeddings of this many previous tokens, times weights.
    """

    model_type = "nano_hindi"
    keys_to_ignore_at_inference = ["past_key_values", "cache"]  # noqa: RUF012 - transformers adds lists to it

    def __init__(
        self,
        vocab_size: int = 68096,
        max_position_embeddings: int = 1024,
        num_hidden_layers: int = 8,
        num_attention_heads: int = 6,
        num_key_value_heads: int = 2,
        hidden_size: int = 384,
        head_dim: int = 64,
        intermediate_size: int = 1536,
        layer_types: list[str] | None = None,
        sliding_window: int | None = None,
        full_window: int = 1024,
        value_embedding_layers: list[int] | None = None,
        smear: bool = False,
        embedding_conv: int = 0,
        final_logit_softcapping: float | None = 15.0,
        use_cache: bool = True,
        tie_word_embeddings: bool = False,
        **kwargs,
    ):
        self.vocab_size, self.max_position_embeddings = vocab_size, max_position_embeddings
        self.num_hidden_layers, self.hidden_size, self.intermediate_size = num_hidden_layers, hidden_size, intermediate_size
        self.num_attention_heads, self.num_key_value_heads, self.head_dim = num_attention_heads, num_key_value_heads, head_dim
        self.layer_types = layer_types or ["full_attention"] * num_hidden_layers
        self.sliding_window, self.full_window = sliding_window, full_window
        self.value_embedding_layers, self.smear, self.embedding_conv = value_embedding_layers or [], smear, embedding_conv
        self.final_logit_softcapping, self.use_cache = final_logit_softcapping, use_cache
        super().__init__(tie_word_embeddings=tie_word_embeddings, **kwargs)

    @property
    def tokens_before(self) -> int:
        """Return how many previous tokens add their embeddings to that of a token."""
        return max(int(self.smear), self.embedding_conv)

    def window(self, layer: int) -> int:
        """Return the number of keys that a query sees in a layer, its own included."""
        return self.sliding_window if self.layer_types[layer] == "sliding_attention" else self.full_window


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


# ---- masks


def layer_masks(
    config: NanoHindiConfig, embeddings: Tensor, attention_mask: Tensor | None, cache: Cache | None, position_ids: Tensor, cache_position: Tensor
) -> dict:
    """Return the mask of each layer type in the form that the attention implementation takes, for
    embeddings (B, T, any) of tokens that follow those in the cache.

    position_ids (B, T): positions in the text. Without an attention mask, they tell packed
    documents apart. cache_position (T,): positions in the cache.
    """
    if attention_mask is not None and attention_mask.ndim == 4:
        return {kind: windowed(config, attention_mask, cache, kind, cache_position) for kind in set(config.layer_types)}
    if cache is not None and not cache.is_compileable and cache.get_seq_length() == 0:
        cache = None  # all keys are new, and transformers looks for packed documents only without a cache
    names = {"inputs_embeds": embeddings, "input_embeds": embeddings, "cache": cache, "past_key_values": cache, "cache_position": cache_position}
    arguments = {name: value for name, value in names.items() if name in MASK_ARGUMENTS}
    arguments |= {"config": config, "attention_mask": attention_mask, "position_ids": position_ids}
    masks = {}
    for kind in set(config.layer_types):
        if kind == "sliding_attention":
            masks[kind] = create_sliding_window_causal_mask(**arguments)
        else:
            # the window costs the fast path without a mask: omit it where no query reaches so far
            n_keys, _ = keys_of(config, cache, kind, cache_position)
            always = torch.compiler.is_exporting() or torch.jit.is_tracing()
            window = sliding_window_overlay(config.full_window) if always or n_keys > config.full_window else None
            masks[kind] = create_causal_mask(**arguments, and_mask_function=window)
    return masks


def keys_of(config: NanoHindiConfig, cache: Cache | None, kind: str, cache_position: Tensor) -> tuple[int, int]:
    """Return the number of keys N that a layer of a type sees with T new tokens, and the position
    of the first."""
    if cache is None:
        return cache_position.size(0), 0
    new = cache_position if "cache_position" in MASK_ARGUMENTS else cache_position.size(0)
    return cache.get_mask_sizes(new, config.layer_types.index(kind))


def windowed(config: NanoHindiConfig, mask: Tensor, cache: Cache | None, kind: str, cache_position: Tensor) -> Tensor:
    """Return a mask (B, 1 or H, T, all keys), bool or added to the scores, limited to the window
    and to the keys of a layer type."""
    n_keys, first = keys_of(config, cache, kind, cache_position)
    keys = torch.arange(n_keys, device=mask.device) + first
    outside = (cache_position[:, None] - keys >= config.window(config.layer_types.index(kind))) | (keys >= mask.size(-1))
    mask = mask[..., keys.clamp(max=mask.size(-1) - 1)]
    return mask & ~outside if mask.dtype == torch.bool else mask.masked_fill(outside, torch.finfo(mask.dtype).min)


def tokens_of_text(n: int, attention_mask: Tensor | dict | None, position_ids: Tensor, cache_position: Tensor) -> list[Tensor]:
    """Return for back = 1 to n whether the token `back` before each of T new ones is of the same
    text (B or 1, T).

    It is if all positions from it on follow each other, and the new token sees all tokens between:
    not across padding.
    """
    seen = None
    if isinstance(attention_mask, Tensor):
        seen = attention_mask
        if seen.ndim == 4 and seen.dtype != torch.bool:
            seen = seen > torch.finfo(seen.dtype).min / 2
        seen = F.pad(seen.bool(), (n, 0))
    rows = torch.arange(cache_position.size(0), device=position_ids.device)
    earlier = position_ids[:, :1] - torch.arange(n, 0, -1, device=position_ids.device)  # those of the cache, if they are of the same text
    positions = torch.cat((earlier, position_ids), dim=1)
    of_text, is_same = [], True
    for back in range(1, n + 1):
        is_same = is_same & (position_ids >= back) & (positions[:, n - back : n - back + rows.size(0)] == position_ids - back)
        if seen is not None:
            columns = cache_position + n - back
            is_same = is_same & (seen[:, columns] if seen.ndim == 2 else seen[:, :, rows, columns].any(dim=1))
        of_text.append(is_same)
    return of_text


# ---- the network


def eager_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, scaling: float, **kwargs
) -> tuple[Tensor, Tensor]:
    """Return the output (B, T, H, D) and the weights (B, H, T, N) of attention for query
    (B, H, T, D), key and value (B, G, N, D), and a mask that is bool or added to the scores.

    Without a mask, query t sees keys 0 to t, as with `is_causal` of PyTorch; a single query sees
    all keys.
    """
    key, value = (heads.repeat_interleave(module.num_key_value_groups, dim=1) for heads in (key, value))
    scores = query @ key.transpose(2, 3) * scaling
    if attention_mask is None and query.size(2) > 1:
        attention_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attention_mask is not None and attention_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    elif attention_mask is not None:
        scores = scores + attention_mask
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    return (weights @ value).transpose(1, 2), weights


class ZeroLinear(nn.Linear):
    """A linear layer initialised to zero. The layers that write to the residual stream are, so
    every block starts as the identity."""


class ValueEmbedding(nn.Embedding):
    """A table of values (G*D) by token."""


class NanoHindiAttention(nn.Module):
    is_causal = True

    def __init__(self, config: NanoHindiConfig, layer: int):
        super().__init__()
        self.config, self.layer_idx, self.head_dim = config, layer, config.head_dim
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
        self.scaling, self.sliding_window = config.head_dim**-0.5, config.window(layer)
        self.gate_channels = min(GATE_CHANNELS, config.hidden_size)
        self.c_q = nn.Linear(config.hidden_size, config.num_attention_heads * config.head_dim, bias=False)
        self.c_k = nn.Linear(config.hidden_size, config.num_key_value_heads * config.head_dim, bias=False)
        self.c_v = nn.Linear(config.hidden_size, config.num_key_value_heads * config.head_dim, bias=False)
        self.c_proj = ZeroLinear(config.num_attention_heads * config.head_dim, config.hidden_size, bias=False)
        self.value_embed = self.ve_gate = None
        if layer in config.value_embedding_layers:
            self.value_embed = ValueEmbedding(config.vocab_size, config.num_key_value_heads * config.head_dim)
            self.ve_gate = ZeroLinear(self.gate_channels, config.num_key_value_heads, bias=False)

    def forward(
        self,
        x: Tensor,
        input_ids: Tensor | None,
        angles: tuple[Tensor, Tensor],
        attention_mask: Tensor | None,
        cache_position: Tensor,
        output_attentions: bool,
        **kwargs,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the attention output (B, T, C) and, if the implementation has them, the weights
        (B, H, T, N), for x (B, T, C), input_ids (B, T), and angles (cos, sin), each
        (B, 1, T, D/2)."""
        q, k, v = (linear(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for linear in (self.c_q, self.c_k, self.c_v))  # (B, heads, T, D)
        if self.value_embed is not None:
            gate = 2 * torch.sigmoid(self.ve_gate(x[..., : self.gate_channels]))  # (B, T, G), from 0 to 2
            ve = self.value_embed(input_ids).unflatten(-1, (-1, self.head_dim))  # (B, T, G, D)
            v = v + (gate[..., None] * ve).transpose(1, 2)
        q, k = (rms_norm(apply_rope(heads, *angles)) for heads in (q, k))
        if (cache := kwargs.pop(CACHE_NAME)) is not None:
            k, v = cache.update(k, v, self.layer_idx, {"cache_position": cache_position})  # (B, G, N, D)
        attend = eager_attention
        if self.config._attn_implementation != "eager" and not output_attentions:
            attend = ALL_ATTENTION_FUNCTIONS[self.config._attn_implementation]
        y, weights = attend(self, q, k, v, attention_mask, scaling=self.scaling, sliding_window=self.sliding_window, **kwargs)
        return self.c_proj(y.reshape(*x.shape[:-1], -1)), weights


class NanoHindiMLP(nn.Module):
    def __init__(self, config: NanoHindiConfig):
        super().__init__()
        self.c_fc = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.c_proj = ZeroLinear(config.intermediate_size, config.hidden_size, bias=False)

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


class NanoHindiSmear(nn.Module):
    """Adds the previous token's embedding to each embedding, times a gate from -1 to 1."""

    def __init__(self, config: NanoHindiConfig):
        super().__init__()
        self.gate = ZeroLinear(min(GATE_CHANNELS, config.hidden_size), 1, bias=False)

    def forward(self, x: Tensor, before: Tensor) -> Tensor:
        """Return the smeared embeddings (B, T, C) of embeddings x (B, T, C), and those of the
        tokens before (B, T, C), 0 if there is none."""
        return x + torch.tanh(self.gate(x[..., : self.gate.in_features])) * before


class NanoHindiEmbeddingConv(nn.Module):
    """A causal depthwise convolution that adds the embeddings of the previous tokens to each
    embedding, with one weight per channel and distance."""

    def __init__(self, config: NanoHindiConfig):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.embedding_conv, config.hidden_size))

    def forward(self, x: Tensor, before: list[Tensor]) -> Tensor:
        """Return x (B, T, C) plus the weighted embeddings of the token before, of the one before
        that and so on, each (B, T, C)."""
        for weight, shifted in zip(self.weight, before, strict=True):
            x = torch.addcmul(x, weight, shifted)
        return x


class NanoHindiBlock(GradientCheckpointingLayer):
    def __init__(self, config: NanoHindiConfig, layer: int):
        super().__init__()
        self.mix = NanoHindiMix()
        self.attn = NanoHindiAttention(config, layer)
        self.mlp = NanoHindiMLP(config)

    def forward(self, x: Tensor, x0: Tensor, **kwargs) -> tuple[Tensor, Tensor | None]:
        x = self.mix(x, x0)
        y, weights = self.attn(rms_norm(x), **kwargs)
        x = x + y
        return x + self.mlp(rms_norm(x)), weights


class NanoHindiPreTrainedModel(PreTrainedModel):
    config_class = NanoHindiConfig
    base_model_prefix = "model"
    _input_embed_layer = "wte"
    supports_gradient_checkpointing = True
    _no_split_modules = ["NanoHindiBlock"]  # noqa: RUF012 - a list, as in transformers
    _skip_keys_device_placement = [CACHE_NAME]  # noqa: RUF012
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        """Return True, so that `set_attn_implementation` works: transformers would search this file
        for the names that its own models use."""
        return True

    def _init_weights(self, module: nn.Module) -> None:
        """Initialise a module of a new model. Only leaf modules are filled, and only by `nn.init`,
        so that transformers does not overwrite loaded weights."""
        bound = (3 / self.config.hidden_size) ** 0.5  # a uniform distribution with standard deviation hidden_size^-0.5
        if module is getattr(self, "lm_head", None):
            nn.init.normal_(module.weight, std=0.001)  # initial logits near zero: the initial loss is ln V
        elif isinstance(module, ZeroLinear):
            nn.init.zeros_(module.weight)
        elif isinstance(module, nn.Linear | ValueEmbedding):
            nn.init.uniform_(module.weight, -bound, bound)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02 if self.config.tie_word_embeddings else 1.0)
        elif isinstance(module, NanoHindiMix):
            nn.init.constant_(module.resid_lambda, 1.0)
            nn.init.constant_(module.x0_lambda, 0.1)
        elif isinstance(module, NanoHindiEmbeddingConv):
            nn.init.zeros_(module.weight)

    def _resize_token_embeddings(self, new_num_tokens, pad_to_multiple_of=None, mean_resizing=True) -> nn.Embedding:
        """Resize the value embeddings as the token embedding and the head."""
        wte = super()._resize_token_embeddings(new_num_tokens, pad_to_multiple_of, mean_resizing)
        for block in self.base_model.h:
            if (table := block.attn.value_embed) is not None:
                resized = self._get_resized_embeddings(table, wte.num_embeddings, mean_resizing=mean_resizing)
                block.attn.value_embed = resized.requires_grad_(table.weight.requires_grad)
        return wte


class NanoHindiModel(NanoHindiPreTrainedModel):
    """The network up to the normed hidden states."""

    def __init__(self, config: NanoHindiConfig):
        super().__init__(config)
        self.wte = nn.Embedding(config.vocab_size, config.hidden_size)
        self.smear = NanoHindiSmear(config) if config.smear else None
        self.conv = NanoHindiEmbeddingConv(config) if config.embedding_conv else None
        self.h = nn.ModuleList(NanoHindiBlock(config, layer) for layer in range(config.num_hidden_layers))
        self.gradient_checkpointing = False
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | dict | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        cache: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        last_ids: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        cache_position: Tensor | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPast:
        """Return hidden states (B, T, C) for token ids (B, T), and the cache if one is given or
        `use_cache` is set; see `NanoHindiForCausalLM.forward`.

        hidden_states: the inputs of all blocks, and `last_hidden_state`. attentions: the weights
        (B, H, T, N) of each layer, which only eager attention computes, whatever the model's
        implementation is.
        """
        config = self.config
        if inputs_embeds is None:
            if input_ids is None:
                raise ValueError("neither input_ids nor inputs_embeds is given; give input_ids")
            inputs_embeds = self.wte(input_ids)
        elif input_ids is None and config.value_embedding_layers:
            raise ValueError("this model looks up value embeddings by token id; give input_ids in addition to inputs_embeds")
        use_cache = config.use_cache if use_cache is None else use_cache
        output_attentions = config.output_attentions if output_attentions is None else output_attentions
        output_hidden_states = config.output_hidden_states if output_hidden_states is None else output_hidden_states
        if cache is None or (past_key_values is not None and not cache.get_seq_length()):
            cache = past_key_values  # PEFT gives the filled one under this name, beside an empty one of `generate`
        if self.gradient_checkpointing and self.training:
            cache = None  # the backward pass would fill it again
        elif use_cache and cache is None:
            cache = DynamicCache(config=config)
        if cache_position is None:
            past = cache.get_seq_length() if cache is not None else 0
            cache_position = torch.arange(inputs_embeds.size(1), device=inputs_embeds.device) + past
        if position_ids is None:
            position_ids = cache_position[None]
        angles = rope_angles(position_ids, config.head_dim)
        masks = attention_mask
        if not isinstance(masks, dict):
            of_implementation = config
            if output_attentions:
                of_implementation = copy.copy(config)
                of_implementation._attn_implementation = "eager"
            masks = layer_masks(of_implementation, inputs_embeds, attention_mask, cache, position_ids, cache_position)

        x0 = rms_norm(inputs_embeds)
        if config.tokens_before:
            of_text = tokens_of_text(config.tokens_before, attention_mask, position_ids, cache_position)
            x0 = self.add_tokens_before(x0, input_ids, last_ids, cache, of_text)
        x = x0
        hidden_states, attentions = [], []
        n_layers = config.num_hidden_layers  # generate with `assistant_early_exit` lowers it for its drafts
        for kind, block in zip(config.layer_types[:n_layers], self.h[:n_layers], strict=True):
            hidden_states.append(x)
            x, weights = block(
                x, x0, input_ids=input_ids, angles=angles, attention_mask=masks[kind], cache_position=cache_position,
                output_attentions=output_attentions, position_ids=position_ids, **{CACHE_NAME: cache}, **kwargs,
            )  # fmt: skip
            attentions.append(weights)
        x = rms_norm(x)
        return BaseModelOutputWithPast(
            last_hidden_state=x,
            hidden_states=(*hidden_states, x) if output_hidden_states else None,
            attentions=tuple(attentions) if output_attentions else None,
            **{CACHE_NAME: cache},
        )

    def add_tokens_before(self, x: Tensor, input_ids: Tensor | None, last_ids: Tensor | None, cache: Cache | None, of_text: list[Tensor]) -> Tensor:
        """Return embeddings x (B, T, C) plus what the smear and the convolution add from those of
        the n tokens before. The cache gets the ids of its last n tokens as `last`.

        last_ids (B, at most n): those before x, by default of the cache. of_text: for the tokens 1
        to n before, whether they are of the same text (B or 1, T).
        """
        n, n_new = len(of_text), x.size(1)
        if last_ids is None and (last := getattr(cache, "last", None)) is not None and cache.get_seq_length():
            last_ids, length = last
            if length != cache.get_seq_length() or last_ids.size(0) != x.size(0):
                raise ValueError(f"the cache has changed since it was filled: give last_ids, the last {n} tokens of each text in it (all, if fewer)")
        if cache is not None:
            known = input_ids if last_ids is None or input_ids is None else torch.cat((last_ids, input_ids), dim=1)
            cache.last = None if known is None else (known[:, -n:], cache.get_seq_length() + n_new)
        first = x[:, :0] if last_ids is None else rms_norm(self.wte(last_ids[:, -n:]))
        text = torch.cat((F.pad(first, (0, 0, n - first.size(1), 0)), x), dim=1)
        before = [text[:, n - back : n - back + n_new] * is_same[..., None] for back, is_same in enumerate(of_text, start=1)]
        y = x if self.smear is None else self.smear(x, before[0])
        return y if self.conv is None else self.conv(y, before)


class NanoHindiForCausalLM(NanoHindiPreTrainedModel, GenerationMixin):
    """The language model."""

    _tied_weights_keys = {"lm_head.weight": "model.wte.weight"}  # noqa: RUF012 - if config.tie_word_embeddings

    def __init__(self, config: NanoHindiConfig):
        super().__init__(config)
        self.model = NanoHindiModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def tie_weights(self, **kwargs):
        """Tie `lm_head` as transformers does, whose version 5.3 takes it for a weight of the file
        while it loads a model."""
        if self.config.tie_word_embeddings and kwargs.get("missing_keys") is not None:
            kwargs["missing_keys"].add("lm_head.weight")
        return super().tie_weights(**kwargs)

    def generate(self, *args, **kwargs):
        """Generate as transformers does, but with a given `max_length` as the limit of all tokens:
        by itself, it would yield to the `max_new_tokens` of generation_config.json."""
        if kwargs.get("max_length") is not None:
            kwargs.setdefault("max_new_tokens", None)
        return super().generate(*args, **kwargs)

    def init_continuous_batching(self, *args, **kwargs):
        raise NotImplementedError("nano_hindi does not support continuous batching (generate_batch); call generate, with padding on the left")

    @staticmethod
    def create_masks_for_generate(config: NanoHindiConfig, attention_mask: Tensor | None, position_ids: Tensor | None = None, **kwargs) -> dict:
        """Return the masks that `generate` makes before each step with a static cache."""
        embeddings = kwargs["inputs_embeds" if "inputs_embeds" in kwargs else "input_embeds"]
        cache, cache_position = kwargs[CACHE_NAME], kwargs.get("cache_position")
        if cache_position is None:
            cache_position = torch.arange(embeddings.size(1), device=embeddings.device) + cache.get_seq_length()
        return layer_masks(config, embeddings, attention_mask, cache, position_ids, cache_position)

    def prepare_inputs_for_generation(self, input_ids: Tensor, *args, inputs_embeds: Tensor | None = None, **kwargs) -> dict:
        """Return the inputs of the next forward pass of `generate`, which may be fewer tokens than
        `input_ids`; smear and convolution read those before them.

        The cache knows them too, but not the order of the texts in a beam search.
        """
        inputs = super().prepare_inputs_for_generation(input_ids, *args, inputs_embeds=inputs_embeds, **kwargs)
        new = inputs.get("input_ids")
        n = self.config.tokens_before
        if n and new is not None and (read := input_ids.size(1) - new.size(1)):
            last_ids = input_ids[:, max(0, read - n) : read]
            known, length = getattr(cache := inputs.get(CACHE_NAME), "last", None) or (None, 0)
            if read < n and known is not None and length == cache.get_seq_length():  # the caller may have filled the cache
                last_ids = torch.cat((known[:, :-read], last_ids), dim=1)
            inputs["last_ids"] = last_ids.clone()
        return inputs

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | dict | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        cache: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs,
    ) -> CausalLMOutputWithPast:
        """Return float32 soft-capped logits (B, T, V) for token ids (B, T), and the cache if one is
        given or `use_cache` is set.

        attention_mask (B, N): 0 for padding. No token sees padding, and its own logits are
        meaningless. (B, 1 or H, T, N), bool or added to the scores: the keys that each query sees,
        in addition limited to the window of each layer. cache: keys and values of the tokens so
        far; transformers before 5.24 calls it `past_key_values`. position_ids (B, T): positions of
        the tokens in their text, which may start at any number: attention depends only on
        distances. Default: the position in the row. Without an attention mask, a position that
        does not follow the one before it begins another document, which does not see the tokens
        before. inputs_embeds (B, T, C): replaces the token embedding of `input_ids`; a model with
        value embeddings needs both. last_ids (B, n): the last n = config.tokens_before tokens in
        the cache, or all if there are fewer, which a model with smear or convolution needs only
        where the cache was cropped or reordered by hand. labels (B, T): the same tokens as
        `input_ids`, each predicted from those before it; -100 is ignored. The loss is the mean in
        nats, or the sum divided by `num_items_in_batch` if transformers' Trainer passes it.
        logits_to_keep: an int n keeps the logits of the last n tokens only (0: of all), a tensor
        those of the tokens with these indices.
        """
        output = self.model(
            input_ids, attention_mask, position_ids, past_key_values, cache, inputs_embeds=inputs_embeds, use_cache=use_cache, **kwargs
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(output.last_hidden_state[:, kept]).float()
        if (softcap := self.config.final_logit_softcapping) is not None:
            logits = softcap * torch.tanh(logits / softcap)
        loss = None if labels is None else self.loss_function(logits, labels, self.config.vocab_size, **kwargs)
        return CausalLMOutputWithPast(
            loss=loss, logits=logits, hidden_states=output.hidden_states, attentions=output.attentions, **{CACHE_NAME: getattr(output, CACHE_NAME)}
        )
