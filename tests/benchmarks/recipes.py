"""The recipes that learning.py compares: the default, and the default without one of its
components. ideas.py has what was tried to improve it.

They live here, never as flags of the product.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from unittest import mock

import timing  # noqa: F401 - puts the repo's root on the path
import torch
from torch import Tensor
from torch.nn import functional as F

from nano_hindi import model as model_module
from nano_hindi import muon as muon_module
from nano_hindi.config import GPTConfig
from nano_hindi.dataloader import SequenceLoader
from nano_hindi.model import GPT, Attention, apply_rope
from nano_hindi.optim import TrainOptimizer

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
        def __init__(self, model, config, *args):
            super().__init__(model, config, *args)
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
