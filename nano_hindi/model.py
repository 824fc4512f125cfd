"""The GPT network. Built from a GPTConfig, it maps token ids to hidden states, logits or a loss.

rotary positions         Su et al. 2021, arXiv 2104.09864
grouped-query attention  Ainslie et al. 2023, arXiv 2305.13245
QK-norm                  Henry et al. 2020, arXiv 2010.04245
ReLU^2                   So et al. 2021, arXiv 2109.08668
value embeddings         after ResFormer, Zhou et al. 2024, arXiv 2410.17897, gated by the input
soft-cap                 Gemma 2, arXiv 2408.00118
smear                    nanochat (github.com/karpathy/nanochat), with another gate
embedding convolution    after Canon layers, Allen-Zhu 2025, arXiv 2512.17351
"""

# B batch, T time, C width, H query heads, G key/value heads, D head width, V vocabulary

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from nano_hindi.common import is_intel_cpu
from nano_hindi.config import GPTConfig
from nano_hindi.flash_attention import flash_attn
from nano_hindi.loss import softcapped_cross_entropy

if TYPE_CHECKING:
    from nano_hindi.engine import KVCache

ROPE_BASE = 100_000.0
SOFTCAP = 15.0
RMS_EPS = torch.finfo(torch.float32).eps  # for every dtype; PyTorch's default depends on its version, and was 0.008 in bf16
MLP_FACTOR = 4
ROW_BLOCKS = 64  # blocks of rows into which a weight is split to multiply a single row on a CPU
SPLIT_FROM = 2**16  # entries of a weight from which that is worth it
GATE_CHANNELS = 32  # channels of the normed input that the gate of a value embedding reads, and that of the smear
RECOMPILE_LIMIT = 64  # graphs of a part: two or three for each batch size, with and without gradients; after 8, torch would run it eagerly
# initial values; the projections back into the residual stream begin at zero, so every block begins
# as the identity
WTE_STD = 1.0
LM_HEAD_STD = 0.001  # first logits near zero: the first loss is ln V
TIED_STD = 0.02  # of tied embeddings: trunk norms what it reads, so only the logits see the scale
RESID_LAMBDA, X0_LAMBDA = 1.0, 0.1


class Linear(nn.Linear):
    """A linear layer without bias; its weight is cast to the dtype of the input."""

    def __init__(self, n_in: int, n_out: int):
        super().__init__(n_in, n_out, bias=False)

    def reset_parameters(self) -> None:
        """Do nothing: `GPT.init_weights` initializes all weights."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight)


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """Return x (..., n_in) times the transpose of a weight (n_out, n_in), which is cast to the
    dtype of x."""
    weight = weight.to(x.dtype)
    if x.device.type == "cpu" and x.numel() == weight.size(1) and not torch.is_grad_enabled() and _is_split(weight):
        return _one_row(x, weight)
    return F.linear(x, weight)


class Gate(Linear):
    """A linear layer that reads the first GATE_CHANNELS channels of its input."""

    def __init__(self, config: GPTConfig, n_out: int):
        super().__init__(min(GATE_CHANNELS, config.n_embd), n_out)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x[..., : self.in_features])


class Embedding(nn.Embedding):
    def reset_parameters(self) -> None:
        """Do nothing, as in Linear. On the meta device, the default initialization would import
        torch's compiler: one more second at every start."""


def rms_norm(x: Tensor) -> Tensor:
    """Return x divided by its root mean square along the last dimension, without a learned
    scale."""
    return F.rms_norm(x, (x.size(-1),), eps=RMS_EPS)


def rope_factors(positions: Tensor, head_dim: int) -> tuple[Tensor, Tensor]:
    """Return the factors (T, D), float32, with which `apply_rope` rotates by the rotary angles at
    integer positions (T,) below 2^24: the cosines twice, and the sines with a minus and without;
    (B, T, D) for (B, T)."""
    frequencies = ROPE_BASE ** (-torch.arange(0, head_dim, 2, dtype=torch.float32, device=positions.device) / head_dim)
    angles = positions.float()[..., None] * frequencies
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate each pair (x[d], x[d + D/2]) of x (B, T, H, D) by the angle of its position; cos and
    sin from `rope_factors`, the same for all heads."""
    halves_swapped = x.float().roll(x.size(-1) // 2, dims=-1)
    return (x.float() * cos[..., None, :] + halves_swapped * sin[..., None, :]).to(x.dtype)


class Attention(nn.Module):
    def __init__(self, config: GPTConfig, layer: int):
        super().__init__()
        self.layer, self.head_dim = layer, config.head_dim
        self.left = config.windows[layer] - 1  # keys that a query sees before its own
        self.c_q = Linear(config.n_embd, config.n_head * config.head_dim)
        self.c_k = Linear(config.n_embd, config.n_kv_head * config.head_dim)
        self.c_v = Linear(config.n_embd, config.n_kv_head * config.head_dim)
        self.c_proj = Linear(config.n_head * config.head_dim, config.n_embd)
        self.ve_gate = Gate(config, config.n_kv_head) if layer in config.value_embedding_layers else None

    def qkv(self, x: Tensor, ve: Tensor | None, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return q (B, T, H, D) and k, v (B, T, G, D) for x (B, T, C) and a value embedding
        (B, T, G*D) or None."""
        heads = self.c_q.out_features // self.head_dim, self.c_k.out_features // self.head_dim
        if torch.compiler.is_compiling():  # one matmul; elsewhere, the joined weights would be a copy for every token of a generation
            qkv = linear(x, torch.cat((self.c_q.weight, self.c_k.weight, self.c_v.weight))).unflatten(-1, (-1, self.head_dim))
            qk, v = qkv.split((sum(heads), heads[1]), dim=2)
        else:
            q, k, v = (projection(x).unflatten(-1, (-1, self.head_dim)) for projection in (self.c_q, self.c_k, self.c_v))
            qk = torch.cat((q, k), dim=2)
        if ve is not None and self.ve_gate is not None:
            gate = 2 * torch.sigmoid(self.ve_gate(x))  # (B, T, G), from 0 to 2; 1 at the start
            v = v + gate[..., None] * ve.view_as(v)
        q, k = rms_norm(apply_rope(qk, cos, sin)).split(heads, dim=2)
        return q, k, v

    def forward(self, q: Tensor, k: Tensor, v: Tensor, kv_cache: KVCache | None) -> Tensor:
        """Return the output of the attention (B, T, H, D), before c_proj."""
        if kv_cache is not None:
            return kv_cache.attend(self.layer, q, k, v)
        return flash_attn.flash_attn_func(q, k, v, causal=True, window_size=(self.left, 0))


class MLP(nn.Module):
    def __init__(self, config: GPTConfig):
        super().__init__()
        self.c_fc = Linear(config.n_embd, MLP_FACTOR * config.n_embd)
        self.c_proj = Linear(MLP_FACTOR * config.n_embd, config.n_embd)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(F.relu(self.c_fc(x)).square())


class Block(nn.Module):
    def __init__(self, config: GPTConfig, layer: int):
        super().__init__()
        self.attn = Attention(config, layer)
        self.mlp = MLP(config)

    def before_attention(
        self, x: Tensor, x0: Tensor, resid_lambda: Tensor, x0_lambda: Tensor, ve: Tensor | None, cos: Tensor, sin: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the block's input (B, T, C), a weighted sum of the residual stream x and its
        beginning x0, and q, k and v of it."""
        x = resid_lambda * x + x0_lambda * x0
        return x, *self.attn.qkv(rms_norm(x), ve, cos, sin)

    def after_attention(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the block's output (B, T, C) for its input (B, T, C) and that of the attention
        (B, T, H, D)."""
        x = x + self.attn.c_proj(y.flatten(-2))
        return x + self.mlp(rms_norm(x))

    def forward(self, *inputs: Tensor | None, parts: Parts, kv_cache: KVCache | None) -> Tensor:
        """Return the residual stream (B, T, C) after the block, for the inputs of
        `before_attention`. `parts`: the methods before and after attention, eager or compiled."""
        before_attention, after_attention = parts
        x, q, k, v = before_attention(self, *inputs)
        return after_attention(self, x, self.attn(q, k, v, kv_cache))


Parts = tuple[Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]], Callable[..., Tensor]]
EAGER: Parts = (Block.before_attention, Block.after_attention)


class Smear(nn.Module):
    """A layer that adds the previous token's embedding to each embedding, times a gate from -1 to
    1. So the first block sees pairs of tokens without a head that attends to the previous one."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.gate = Gate(config, 1)

    def forward(self, x: Tensor, before: Tensor) -> Tensor:
        """Return the smeared embeddings (B, T, C) of embeddings x (B, T, C), and those of the
        tokens before (B, T, C), 0 if there is none."""
        return x + torch.tanh(self.gate(x)) * before  # (B, T, 1) times (B, T, C); 0 at the start


class EmbeddingConv(nn.Module):
    """A causal depthwise convolution that adds the embeddings of the previous tokens to each
    embedding, with one weight per channel and distance."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.embedding_conv, config.n_embd))

    def forward(self, x: Tensor, before: Sequence[Tensor]) -> Tensor:
        """Return x (B, T, C) plus the weighted embeddings of the token before, of the one before
        that and so on, each (B, T, C)."""
        for weight, shifted in zip(self.weight.to(x.dtype), before, strict=True):
            x = torch.addcmul(x, weight, shifted)
        return x


class Transformer(nn.Module):
    """The token embedding `wte`, the blocks `h`, and between them `smear` and `conv`, if the model
    has them."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.wte = Embedding(config.padded_vocab_size, config.n_embd)
        self.smear = Smear(config) if config.smear else None
        self.conv = EmbeddingConv(config) if config.embedding_conv else None
        self.h = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))


class GPT(nn.Module):
    """The language model. Its matmuls run in `compute_dtype`, which the scripts set to suit the
    device. Weights are float32 in training, and in that dtype if `build_model` loads them.

    The constructor leaves the weights uninitialized: call `init_weights()`, or load a state dict.
    """

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.config, self.compute_dtype = config, torch.float32
        self.head_dim, self.tokens_before = config.head_dim, config.tokens_before
        rows = config.padded_vocab_size
        self.transformer = Transformer(config)
        self.value_embeds = nn.ModuleDict(
            {str(layer): Embedding(rows, config.n_kv_head * config.head_dim) for layer in config.value_embedding_layers}
        )
        self.lm_head = None if config.tie_embeddings else Linear(config.n_embd, rows)
        self.resid_lambdas = nn.Parameter(torch.empty(config.n_layer))
        self.x0_lambdas = nn.Parameter(torch.empty(config.n_layer))
        self.recomputes_blocks = False  # activation checkpointing: backward runs each block's forward again, so only its input is kept
        self.fp8_head = False  # the gradients of the head come from fp8 matmuls
        self._parts = EAGER

    @torch.no_grad()
    def init_weights(self) -> None:
        """Initialize all weights from torch's default random generator."""
        bound = (3 / self.config.n_embd) ** 0.5  # a uniform distribution with standard deviation n_embd^-0.5
        nn.init.normal_(self.transformer.wte.weight, std=WTE_STD if self.lm_head else TIED_STD)
        if self.lm_head:
            nn.init.normal_(self.lm_head.weight, std=LM_HEAD_STD)
        if self.transformer.smear:
            nn.init.zeros_(self.transformer.smear.gate.weight)
        if self.transformer.conv:
            nn.init.zeros_(self.transformer.conv.weight)
        for name, weight in self.transformer.h.named_parameters():
            if name.endswith(("c_proj.weight", "ve_gate.weight")):
                nn.init.zeros_(weight)
            else:
                nn.init.uniform_(weight, -bound, bound)
        for weight in self.value_embeds.parameters():
            nn.init.uniform_(weight, -bound, bound)
        self.resid_lambdas.fill_(RESID_LAMBDA)
        self.x0_lambdas.fill_(X0_LAMBDA)

    def trunk(self, idx: Tensor, kv_cache: KVCache | None = None) -> Tensor:
        """Return normed hidden states (B, T, C) in the compute dtype for token ids (B, T), which
        follow the tokens in the cache if there is one."""
        parts = self._parts if kv_cache is None else EAGER
        x0 = self.add_tokens_before(self.embed(idx), kv_cache)
        value_embeddings = {layer: table(idx).to(self.compute_dtype) for layer, table in self.value_embeds.items()}
        positions = torch.arange(idx.size(1), device=idx.device) if kv_cache is None else kv_cache.advance(idx)
        cos, sin = rope_factors(positions, self.head_dim)
        x = x0.view_as(x0)  # with the same object as both inputs, the first layer would need a graph of its own
        resid_lambdas, x0_lambdas = self.resid_lambdas.to(x.dtype), self.x0_lambdas.to(x.dtype)
        for layer, block in enumerate(self.transformer.h):
            inputs = x, x0, resid_lambdas[layer], x0_lambdas[layer], value_embeddings.get(str(layer)), cos, sin
            if self.recomputes_blocks and torch.is_grad_enabled():
                x = checkpoint(block, *inputs, parts=parts, kv_cache=kv_cache, use_reentrant=False, preserve_rng_state=False)
            else:
                x = block(*inputs, parts=parts, kv_cache=kv_cache)
        return rms_norm(x)

    def embed(self, idx: Tensor) -> Tensor:
        """Return normed token embeddings (B, T, C) in the compute dtype for token ids (B, T)."""
        return rms_norm(self.transformer.wte(idx).to(self.compute_dtype))

    def add_tokens_before(self, x: Tensor, kv_cache: KVCache | None) -> Tensor:
        """Return embeddings x (B, T, C) plus what the smear and the convolution add from those of
        the tokens before."""
        n, new = self.tokens_before, x.size(1)
        if n == 0:
            return x
        if kv_cache is None:
            text = F.pad(x, (0, 0, n, 0))
        else:
            ids = kv_cache.last_ids
            text = torch.cat((self.embed(ids.clamp_min(0)) * (ids >= 0)[..., None], x), dim=1)
        before = [text[:, n - back : n - back + new] for back in range(1, n + 1)]
        smear, conv = self.transformer.smear, self.transformer.conv
        y = smear(x, before[0]) if smear else x
        return conv(y, before) if conv else y

    @property
    def head_weight(self) -> Tensor:
        """Return the weight (V rounded up, C) that turns hidden states into logits: that of
        lm_head, or of wte if they are tied."""
        return self.lm_head.weight if self.lm_head else self.transformer.wte.weight

    def compile_blocks(self) -> None:
        """Run the parts of the blocks before and after attention through torch.compile from now on,
        except with a KV cache. Names in the state dict do not change.

        All layers share one graph of each part, because a graph takes the weights as inputs.
        Attention is not in it: the window would make a graph for each kind of layer. Nor are the
        embedding lookups: their compiled backward sums the gradients of a row in a nondeterministic
        order, so runs would not be reproducible.
        """
        import torch._dynamo

        torch._dynamo.config.recompile_limit = RECOMPILE_LIMIT
        before_attention, after_attention = EAGER
        self._parts = torch.compile(before_attention, dynamic=False), torch.compile(after_attention, dynamic=False)

    @property
    def is_compiled(self) -> bool:
        """Return whether the blocks run through torch.compile."""
        return self._parts is not EAGER

    def run_eagerly(self) -> None:
        """Undo `compile_blocks`."""
        self._parts = EAGER

    def forward(self, idx: Tensor, targets: Tensor | None = None, kv_cache: KVCache | None = None, loss_reduction: str = "mean") -> Tensor:
        """Return float32 soft-capped logits (B, T, V) for token ids (B, T), or, with targets
        (B, T), -1 ignored, the loss in nats.

        loss_reduction "mean" or "sum" gives a float32 scalar, "none" gives (B, T) without
        gradients.
        """
        x = self.trunk(idx, kv_cache)
        if targets is None:
            return self.logits(x)
        loss = softcapped_cross_entropy(
            x.flatten(0, 1),
            self.head_weight,
            targets.flatten(),
            softcap=SOFTCAP,
            reduction=loss_reduction,
            vocab_size=self.config.vocab_size,
            fp8=self.fp8_head,
        )
        return loss.view(targets.shape) if loss_reduction == "none" else loss

    def logits(self, x: Tensor) -> Tensor:
        """Return float32 soft-capped logits (B, T, V) for hidden states (B, T, C)."""
        return SOFTCAP * torch.tanh(linear(x, self.head_weight)[..., : self.config.vocab_size].float() / SOFTCAP)

    def generate(self, tokens: Sequence[int], max_tokens: int, temperature: float = 1.0, top_k: int | None = None, seed: int = 42) -> Iterator[int]:
        """Yield `max_tokens` tokens that continue `tokens`, one by one; see
        `engine.generate_tokens`."""
        from nano_hindi.engine import generate_tokens

        return generate_tokens(self, tokens, max_tokens, temperature=temperature, top_k=top_k, seed=seed)

    def num_params(self) -> dict[str, int]:
        """Return the number of parameters by kind, and the total. Tied embeddings count as wte."""
        parameters: dict[str, Iterable[Tensor]] = {
            "wte": [self.transformer.wte.weight],
            "lm_head": self.lm_head.parameters() if self.lm_head else [],
            "value_embeds": self.value_embeds.parameters(),
            "blocks": [p for name, p in self.transformer.named_parameters() if name != "wte.weight"],  # and smear and convolution
            "scalars": self.parameters(recurse=False),
        }
        counts = {kind: sum(p.numel() for p in of_kind) for kind, of_kind in parameters.items()}
        return counts | {"total": sum(counts.values())}

    def flops_per_token(self) -> int:
        """Return the FLOPs of forward and backward per token: 6 per weight of a matmul, 12 H D per
        key of a layer's window.

        Counted as in Chowdhery et al. 2022, arXiv 2204.02311, appendix B; a window counts in full,
        as if every position saw all of it.
        """
        counts, width = self.num_params(), self.config.n_head * self.config.head_dim
        return 6 * (counts["blocks"] + self.head_weight.numel()) + 12 * width * sum(self.config.windows)


# ---- a single row on a CPU


def _is_split(weight: Tensor) -> bool:
    """Return whether `_one_row` multiplies a single row by this weight (n_out, n_in).

    In F.linear, MKL reads the weight with all threads only if the CPU is Intel's. The choice may
    change the last bit of a result, so it is not timed: a machine always computes the same with the
    same number of threads.
    """
    if torch.compiler.is_compiling() or weight.numel() < SPLIT_FROM or weight.size(0) % ROW_BLOCKS:
        return False
    return torch.get_num_threads() > 1 and torch.backends.mkl.is_available() and not is_intel_cpu()


def _one_row(x: Tensor, weight: Tensor) -> Tensor:
    """Multiply a single row x (..., n_in) by a weight (n_out, n_in), split into a batch of row
    blocks, which MKL reads with all threads.

    On two cores of an AMD CPU, F.linear takes 2.5 times as long at the size of lm_head; on Intel's,
    the blocks take 2.2 times as long as F.linear (tests/benchmarks/decode.py). `column` keeps the
    strides of a transposed row; another layout of the same numbers takes a code path that is slower
    than both.
    """
    column = x.reshape(1, -1).T.expand(ROW_BLOCKS, -1, 1)
    return torch.bmm(weight.view(ROW_BLOCKS, -1, weight.size(1)), column).view(*x.shape[:-1], -1)
