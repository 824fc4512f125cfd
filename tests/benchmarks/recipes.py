"""The recipes that learning.py compares: the default, the default without one of its components,
and candidates that were tried to improve it.

They live here, never as flags of the product.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from unittest import mock

import numpy as np
import timing  # noqa: F401 - puts the repo's root on the path
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nano_hindi import model as model_module
from nano_hindi import muon as muon_module
from nano_hindi.config import GPTConfig
from nano_hindi.dataloader import EpochStream, SequenceLoader, TokenFile
from nano_hindi.model import GPT, MLP, Attention, apply_rope, rms_norm
from nano_hindi.optim import TrainOptimizer

BOS = 1  # id in tokenizers that data/preprocess.py trains
# K. Jordan 2024, kellerjordan.github.io/posts/muon: the same quintic at every iteration
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


@dataclass(frozen=True)
class Recipe:
    """A way to train. `changes` are fields of the configurations, `patches` (module, name, value)
    are applied while it trains. `at_once`: sequences of a forward pass, if not all of an update."""

    differs: str
    changes: dict = field(default_factory=dict)
    model: Callable[[GPTConfig], GPT] = GPT
    optimizer: type[TrainOptimizer] = TrainOptimizer
    loader: type[SequenceLoader] = SequenceLoader
    patches: tuple[tuple[object, str, object], ...] = ()
    at_once: int | None = None

    @contextlib.contextmanager
    def patched(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for module, name, value in self.patches:
                stack.enter_context(mock.patch.object(module, name, value))
            yield


# ---- the network without a component


class NoScalars(GPT):
    """Let every block read the residual stream unchanged: no resid_lambdas, no x0_lambdas."""

    def __init__(self, config: GPTConfig):
        super().__init__(config)
        for name, value in (("resid_lambdas", 1.0), ("x0_lambdas", 0.0)):
            delattr(self, name)
            self.register_buffer(name, torch.full((config.n_layer,), value))

    def init_weights(self) -> None:
        super().init_weights()
        self.resid_lambdas.fill_(1.0)
        self.x0_lambdas.fill_(0.0)


class OtherAttention(Attention):
    """The product's attention with something else in place of QK-norm."""

    def finish(self, x: Tensor) -> Tensor:
        """Return queries or keys (B, T, H, D) after the rotation as attention uses them."""
        raise NotImplementedError

    def qkv(self, x: Tensor, ve: Tensor | None, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = (linear(x).unflatten(-1, (-1, self.head_dim)) for linear in (self.c_q, self.c_k, self.c_v))
        if ve is not None:
            gate = 2 * torch.sigmoid(self.ve_gate(x))
            v = v + gate[..., None] * ve.view_as(v)
        return self.finish(apply_rope(q, cos, sin)), self.finish(apply_rope(k, cos, sin)), v


class PlainAttention(OtherAttention):
    """Attention without QK-norm."""

    def finish(self, x: Tensor) -> Tensor:
        return x


class Unbounded(GPT):
    """Logits without the soft cap; the usual cross-entropy, since the product's relies on the
    cap."""

    def forward(self, idx: Tensor, targets: Tensor, loss_reduction: str = "mean") -> Tensor:
        logits = self.lm_head(self.trunk(idx))[..., : self.config.vocab_size].float()
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1, reduction=loss_reduction)
        return loss.view(targets.shape) if loss_reduction == "none" else loss


# ---- the optimizers without a component


class NoMuon:
    """Stands in for Muon and does nothing."""

    param_groups = ()

    def grad_sq_norm(self) -> Tensor:
        return torch.zeros(())

    def reduce_gradients(self, *_, **__) -> None:
        pass

    def state_dict(self) -> dict:
        return {}

    step = zero_grad = load_state_dict = reduce_gradients


def adamw_only(lr: float) -> type[TrainOptimizer]:
    """Return an optimizer with AdamW for all parameters; the matrices of the blocks have `lr`."""

    class AdamWOnly(TrainOptimizer):
        def __init__(self, model, config, world):
            super().__init__(model, config, world)
            names = {p: name for name, p in model.named_parameters()}
            matrices = [(names[p], p) for group in self.muon.param_groups for p in group["params"]]
            self.adamw.add_param_group({"params": matrices, "kind": "blocks", "lr": lr, "betas": (0.9, 0.95), "eps": 1e-8})
            self.adamw.param_groups[-1]["initial_lr"] = lr
            self.muon = NoMuon()

    return AdamWOnly


def newton_schulz(matrices: Tensor, steps: int = 5, dtype: torch.dtype = torch.float32) -> Tensor:
    is_tall = matrices.size(-2) > matrices.size(-1)
    x = (matrices.mT if is_tall else matrices).to(dtype)
    x = x / torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True).clamp_min(1e-7)
    a, b, c = NEWTON_SCHULZ
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if is_tall else x


cautious_update = muon_module.muon_update


def plainly_decayed_update(weights: Tensor, *args, weight_decay: float, **kwargs) -> None:
    """Apply Muon with decay of every weight, whatever the sign of the update."""
    lr = args[3]
    weights.mul_(1 - lr * weight_decay)
    cautious_update(weights, *args, weight_decay=0.0, **kwargs)


RECIPES = {
    "default": Recipe("the product as it is"),
    "adamw": Recipe("AdamW instead of Muon, learning rate 0.003", optimizer=adamw_only(0.003)),
    "adamw_high": Recipe("AdamW instead of Muon, learning rate 0.01", optimizer=adamw_only(0.01)),
    "full_attention": Recipe("every layer sees all of the context", {"window_pattern": "L"}),
    "no_value_embeddings": Recipe("no value embeddings", {"value_embeddings": False}),
    "no_scalars": Recipe("no resid_lambdas, no x0_lambdas", model=NoScalars),
    "no_qk_norm": Recipe("no norm of queries and keys", patches=((model_module, "Attention", PlainAttention),)),
    "no_softcap": Recipe("logits without a bound", model=Unbounded),
    "tied": Recipe("wte is lm_head", {"tie_embeddings": True}),
    "tied_only": Recipe("wte is lm_head, no value embeddings", {"tie_embeddings": True, "value_embeddings": False}),
    "newton_schulz": Recipe("Newton-Schulz instead of Polar Express", patches=((muon_module, "polar_express", newton_schulz),)),
    # a floor above every mean square (at most 1) scales all alike: no variance reduction
    "no_variance_reduction": Recipe("Muon without NorMuon's second moment", patches=((muon_module, "MIN_MEAN_SQUARE", 1e4),)),
    "cautious_decay": Recipe("with cautious decay 0.1 (off by default)", {"weight_decay": 0.1}),
    "plain_decay": Recipe("with plain decay 0.1", {"weight_decay": 0.1}, patches=((muon_module, "muon_update", plainly_decayed_update),)),
}


# ---- what was tried to make the default better (docs/LOG.md has the results)


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
        def __init__(self, model, config, world):
            super().__init__(model, config, world)
            for group in self.adamw.param_groups:
                group["betas"] = (group["betas"][0], by_kind.get(group["kind"], group["betas"][1]))

    return OwnBeta2


class DecayedEmbeddings(TrainOptimizer):
    """Decay in AdamW too, each kind by a few thousandths of its learning rate and update
    (nanochat's values)."""

    def __init__(self, model, config, world):
        super().__init__(model, config, world)
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
        self.taps = nn.Parameter(torch.zeros(4, config.n_embd))

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

    def __init__(self, model, config, world):
        named = list(model.named_parameters())
        taps, others = ([(name, p) for name, p in named if name.endswith("taps") is wanted] for wanted in (True, False))
        with mock.patch.object(model, "named_parameters", return_value=others):
            super().__init__(model, config, world)
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
        def __init__(self, model, config, world):
            super().__init__(model, config, world)
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
    "z_loss": Recipe("z-loss instead of the soft-cap", model=ZLoss),
    "averaged": Recipe("the mean of the weights over the last 5 % of the updates", optimizer=averaged(0.05)),
}
