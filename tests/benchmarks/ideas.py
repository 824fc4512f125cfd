"""What was tried to make the default better: more recipes for learning.py. docs/LOG.md has the
results."""

from __future__ import annotations

import itertools
from unittest import mock

import numpy as np
import torch
from recipes import OtherAttention, Recipe, Unbounded
from torch import Tensor, nn
from torch.nn import functional as F

from nano_hindi import model as model_module
from nano_hindi import muon as muon_module
from nano_hindi.config import GPTConfig
from nano_hindi.dataloader import EpochStream, SequenceLoader
from nano_hindi.model import GPT, MLP, Attention, Block, rms_norm
from nano_hindi.optim import TrainOptimizer
from nano_hindi.token_file import TokenFile

BOS = 1  # id in tokenizers that data/preprocess.py trains


class SharperAttention(OtherAttention):
    """Make normed queries and keys each 1.2 times as long: the softmax can then favour one key 1.44
    times as much."""

    def finish(self, x: Tensor) -> Tensor:
        return 1.2 * rms_norm(x)


class SmallerMatrices(GPT):
    """Initialise the matrices that read the residual stream half as large."""

    def init_weights(self) -> None:
        super().init_weights()
        with torch.no_grad():
            for block in self.transformer.h:
                for linear in (block.attn.c_q, block.attn.c_k, block.attn.c_v, block.mlp.c_fc):
                    linear.weight.mul_(0.5)


class ZeroValueEmbeddings(GPT):
    """Initialise value embeddings at zero."""

    def init_weights(self) -> None:
        super().init_weights()
        for embedding in self.value_embeds.values():
            nn.init.zeros_(embedding.weight)


class MomentumRamp(TrainOptimizer):
    """Raise Muon's momentum from 0.85 to its value over the first 300 updates."""

    updates = 0

    def step(self, lr_scale: float, grad_scale: Tensor) -> None:
        if isinstance(lr_scale, Tensor):
            raise ValueError("the ramp counts updates, and one that is recorded for a GPU would be the first for ever; try it on a CPU")
        fraction = min(1.0, self.updates / 300)
        for group in self.muon.param_groups:
            full = group.setdefault("full_momentum", group["momentum"])
            group["momentum"] = 0.85 + fraction * (full - 0.85)
        self.updates += 1
        super().step(lr_scale, grad_scale)


def adamw_beta2(**by_kind: float) -> type[TrainOptimizer]:
    """Return an optimizer whose AdamW has a beta2 of its own for each kind of parameter."""

    class OwnBeta2(TrainOptimizer):
        def __init__(self, *args):
            super().__init__(*args)
            for group in self.adamw.param_groups:
                group["betas"] = (group["betas"][0], by_kind.get(group["kind"], group["betas"][1]))

    return OwnBeta2


class DecayedEmbeddings(TrainOptimizer):
    """Decay in AdamW too, each kind by a few thousandths of its learning rate and update
    (nanochat's values)."""

    def __init__(self, *args):
        super().__init__(*args)
        strengths = {"wte": 0.001, "value_embeds": 0.01, "lm_head": 0.01}
        for group in self.adamw.param_groups:
            group["weight_decay"] = strengths.get(group["kind"], 0.0)


class DocumentWindows(SequenceLoader):
    """Start a sequence at every document that is longer than one, and end its last sequence with
    it; short documents stay as they are."""

    def __init__(self, file: TokenFile, sequence_len: int, seed: int):
        super().__init__(file, sequence_len, seed)
        tokens, T = file[:], sequence_len
        borders = [*np.flatnonzero(tokens == BOS), len(tokens)]
        starts, covered = [], 0
        for begin, end in itertools.pairwise(borders):
            if end - begin > T:
                starts += [*range(begin, end - T, T), end - T - 1]
                covered = end
            elif begin >= covered and end + T < len(tokens):
                starts.append(begin)
                covered = begin + T
        self.tokens, self.starts, self.num_sequences = tokens, np.array(starts), len(starts)
        self._stream = EpochStream(len(starts), seed)

    def batch(self, start: int, count: int) -> tuple[Tensor, Tensor]:
        rows = self.tokens[self.starts[self._stream.at(start, count)][:, None] + np.arange(self.sequence_len + 1)]
        rows = torch.from_numpy(rows.astype(np.int64))
        return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()


class AttentionWithin:
    """Replaces `flash_attn`: no token attends to another document. Masks are dense, so its time
    means nothing."""

    documents: Tensor  # (B, T): index of the token's document within its window

    def flash_attn_func(self, q: Tensor, k: Tensor, v: Tensor, causal: bool, window_size: tuple[int, int]) -> Tensor:
        position = torch.arange(q.size(1), device=q.device)
        distance = position[:, None] - position
        mask = (distance >= 0) & (distance <= window_size[0]) & (self.documents[:, :, None] == self.documents[:, None])
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None], enable_gqa=True).transpose(1, 2)


attention_within = AttentionWithin()


class Within(GPT):
    def trunk(self, idx: Tensor, kv_cache=None) -> Tensor:
        attention_within.documents = (idx == BOS).cumsum(1)
        return super().trunk(idx, kv_cache)


class HeadGates(Attention):
    """Multiply the output of each head by a gate from 0 to 2 that reads the normed input; 1 at the
    start (Qiu et al. 2025, arXiv 2505.06708, with the gate of our value embeddings)."""

    def __init__(self, config: GPTConfig, layer: int):
        super().__init__(config, layer)
        self.head_gate = model_module.Gate(config, config.n_head)

    def qkv(self, x: Tensor, *rest) -> tuple[Tensor, Tensor, Tensor]:
        self.gates = 2 * torch.sigmoid(self.head_gate(x))
        return super().qkv(x, *rest)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, kv_cache) -> Tensor:
        return super().forward(q, k, v, kv_cache) * self.gates[..., None]


class GatedHeads(GPT):
    def init_weights(self) -> None:
        super().init_weights()
        for block in self.transformer.h:
            nn.init.zeros_(block.attn.head_gate.weight)


class ShiftedKeys(Attention):
    """Take the upper half of each key's channels from the token before (modded-nanogpt's partial
    key offset): one layer can then continue what followed an earlier occurrence of a token."""

    def qkv(self, *inputs) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = super().qkv(*inputs)
        half = k.size(-1) // 2
        before = F.pad(k[:, :-1, :, half:], (0, 0, 0, 0, 1, 0))
        return q, torch.cat((k[..., :half], before), -1), v


class FirstValues(Attention):
    """Add the first layer's values to those of all others, with the gate of the value embeddings
    (ResFormer, Zhou et al. 2024, arXiv 2410.17897)."""

    first: Tensor

    def __init__(self, config: GPTConfig, layer: int):
        super().__init__(config, layer)
        self.ve_gate = model_module.Gate(config, config.n_kv_head) if layer else None

    def qkv(self, x: Tensor, ve: Tensor | None, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = super().qkv(x, FirstValues.first if self.layer else None, cos, sin)
        if self.layer == 0:
            FirstValues.first = v
        return q, k, v


class ConvolvedMLP(MLP):
    """Add to the input of the MLP a weighted sum of it and that of the three tokens before, with
    weights of each channel (the third place of the Canon layers, Allen-Zhu 2025)."""

    def __init__(self, config: GPTConfig):
        super().__init__(config)
        self.taps = nn.Parameter(torch.empty(4, config.n_embd))

    def forward(self, x: Tensor) -> Tensor:
        before = [F.pad(x, (0, 0, back, 0))[:, : x.size(1)] for back in range(len(self.taps))]
        return super().forward(x + sum(tap * shifted for tap, shifted in zip(self.taps, before, strict=True)))


class Convolved(GPT):
    def init_weights(self) -> None:
        super().init_weights()
        for block in self.transformer.h:
            nn.init.zeros_(block.mlp.taps)


class WithTaps(TrainOptimizer):
    """AdamW at a learning rate of 0.02 for the weights of the convolutions."""

    def __init__(self, model, config, *args):
        named = list(model.named_parameters())
        taps, others = ([(name, p) for name, p in named if name.endswith("taps") is wanted] for wanted in (True, False))
        with mock.patch.object(model, "named_parameters", return_value=others):
            super().__init__(model, config, *args)
        betas = (config.adamw_beta1, config.adamw_beta2)
        self.adamw.add_param_group({"params": taps, "kind": "taps", "lr": 0.02, "initial_lr": 0.02, "betas": betas})


exact_polar = muon_module.polar_express


def equilibrated_polar(matrices: Tensor, *args) -> Tensor:
    """Scale the rows of a matrix to the same norm before the polar factor (MuonEq, arXiv
    2603.28254)."""
    norms = torch.linalg.vector_norm(matrices, dim=-1, keepdim=True)
    return exact_polar(matrices / norms.clamp_min(muon_module.TINY), *args)


def renormalized_polar(matrices: Tensor, *args) -> Tensor:
    """Give the polar factor the norm of an exact one (Muon+, arXiv 2602.21545)."""
    factor = exact_polar(matrices, *args)
    return factor * (min(factor.shape[-2:]) ** 0.5 / torch.linalg.vector_norm(factor, dim=(-2, -1), keepdim=True).clamp_min(muon_module.TINY))


class ZLoss(Unbounded):
    """Add 1e-4 times the squared log of the softmax's denominator to the loss, in place of the soft
    cap (PaLM, arXiv 2204.02311)."""

    def forward(self, idx: Tensor, targets: Tensor, loss_reduction: str = "mean") -> Tensor:
        loss = super().forward(idx, targets, loss_reduction)
        if loss_reduction == "none":
            return loss
        logits = self.lm_head(self.trunk(idx))[..., : self.config.vocab_size].float()
        return loss + 1e-4 * logits.logsumexp(-1).square().mean()


def averaged(fraction: float) -> type[TrainOptimizer]:
    """Return an optimizer whose last update leaves the mean of the weights after the last updates,
    a fraction of all (LAWA, Kaddour 2022, arXiv 2209.14981)."""

    class Averaged(TrainOptimizer):
        def __init__(self, model, config, *args):
            super().__init__(model, config, *args)
            self.weights, self.left, self.count = list(model.parameters()), config.updates, max(2, round(fraction * config.updates))
            self.sums = [torch.zeros_like(p) for p in self.weights]

        @torch.no_grad()
        def step(self, lr_scale, grad_scale):
            if isinstance(lr_scale, Tensor):
                raise ValueError("it counts updates, see MomentumRamp")
            super().step(lr_scale, grad_scale)
            self.left -= 1
            if self.left < self.count:
                torch._foreach_add_(self.sums, self.weights)
            if self.left == 0:
                for p, total in zip(self.weights, self.sums, strict=True):
                    p.copy_(total / self.count)

    return Averaged


class Dropout(GPT):
    """Drop a fifth of the channels of the embeddings and of what each layer adds to them, while it
    trains."""

    def embed(self, idx: Tensor) -> Tensor:
        return dropped(super().embed(idx))


def dropped(x: Tensor) -> Tensor:
    return F.dropout(x, 0.2, training=torch.is_grad_enabled())


def after_attention_with_dropout(self: Block, x: Tensor, y: Tensor) -> Tensor:
    x = x + dropped(self.attn.c_proj(y.flatten(-2)))
    return x + dropped(self.mlp(rms_norm(x)))


DROPOUT = {"model": Dropout, "patches": ((model_module, "EAGER", (Block.before_attention, after_attention_with_dropout)),)}
TIED_SMEAR = {"smear": True, "tie_embeddings": True, "value_embeddings": False}
CANDIDATES = {
    "plateau": Recipe("full learning rates for two fifths of the run, then a straight line", {"lr_schedule": "plateau"}),
    "sharper_attention": Recipe("normed queries and keys times 1.2", patches=((model_module, "Attention", SharperAttention),)),
    "smaller_matrices": Recipe("c_q, c_k, c_v and c_fc begin half as large", model=SmallerMatrices),
    "zero_value_embeddings": Recipe("value embeddings begin at zero", model=ZeroValueEmbeddings),
    "momentum_ramp": Recipe("Muon's momentum begins at 0.85", optimizer=MomentumRamp),
    "embedding_squares": Recipe("mean squares of embeddings decay by 0.995", optimizer=adamw_beta2(wte=0.995, value_embeds=0.995)),
    "lm_head_squares": Recipe("mean squares of lm_head decay by 0.95", optimizer=adamw_beta2(lm_head=0.95)),
    "decayed_embeddings": Recipe("AdamW decays wte, value embeddings and lm_head", optimizer=DecayedEmbeddings),
    "document_windows": Recipe("windows begin with documents", loader=DocumentWindows),
    "within_documents": Recipe(
        "attention stops at the borders of documents", model=Within, patches=((model_module, "flash_attn", attention_within),)
    ),
    "head_gates": Recipe("a gate on the output of each head", model=GatedHeads, patches=((model_module, "Attention", HeadGates),)),
    "shifted_keys": Recipe("half of each key is of the token before", patches=((model_module, "Attention", ShiftedKeys),)),
    "smear": Recipe("each embedding plus a gated one of the token before", {"smear": True}),
    "tied_smear": Recipe("each embedding plus a gated one of the token before; wte is lm_head, no value embeddings", TIED_SMEAR),
    "tied_conv": Recipe("tied_smear, and a convolution over the embeddings of the three tokens before", TIED_SMEAR | {"embedding_conv": 3}),
    "ngrams": Recipe("updates shared by character n-grams", {"ngram_buckets": 16384}),
    "additions": Recipe("smear, the convolution and shared updates", {"smear": True, "embedding_conv": 3, "ngram_buckets": 16384}),
    "tied_additions": Recipe("tied_conv, and shared updates", TIED_SMEAR | {"embedding_conv": 3, "ngram_buckets": 4096}),
    "first_values": Recipe("tied_smear, and the first layer's values in all others", TIED_SMEAR, patches=((model_module, "Attention", FirstValues),)),
    "convolved_mlp": Recipe(
        "tied_smear, and a convolution over four tokens before each MLP",
        TIED_SMEAR,
        model=Convolved,
        optimizer=WithTaps,
        patches=((model_module, "MLP", ConvolvedMLP),),
    ),
    "muon_eq": Recipe("rows of equal norm before the polar factor", patches=((muon_module, "polar_express", equilibrated_polar),)),
    "muon_plus": Recipe("the polar factor with its exact norm", patches=((muon_module, "polar_express", renormalized_polar),)),
    "fp8_head": Recipe("both gradients of the head from fp8 matmuls", {"fp8_head": True}),
    "dropout": Recipe("dropout of 0.2", **DROPOUT),
    "tied_dropout": Recipe("dropout of 0.2; wte is lm_head, no value embeddings", {"tie_embeddings": True, "value_embeddings": False}, **DROPOUT),
    "z_loss": Recipe("z-loss instead of the soft-cap", model=ZLoss),
    "averaged": Recipe("the mean of the weights over the last 5 % of the updates", optimizer=averaged(0.05)),
}
