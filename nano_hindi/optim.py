"""The optimizers of a run behind one interface: Muon for the matrices of the blocks and the gate of
the smear, AdamW for everything else. Schedule, clipping, loss scale.

An update on several ranks: every gradient is averaged over them once (AdamW's by all-reduce,
overlapped with the last backward; Muon's by reduce-scatter), the squared norms are summed, one
factor clips all gradients, and both optimizers step. Nothing here reads a value back from the
device.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Collection, Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn

from nano_hindi.common import compute_dtype
from nano_hindi.config import TrainConfig
from nano_hindi.distributed import World
from nano_hindi.muon import DistMuon, Muon
from nano_hindi.ngrams import NGrams
from nano_hindi.saved_state import require_alike

REFERENCE_WIDTH = 768  # learning rates of embeddings and lm_head are given for this width, and scale with (n_embd / 768) to these powers
EMBEDDING_WIDTH_EXPONENT = -0.5
UNEMBEDDING_WIDTH_EXPONENT = -1.0  # lm_head adds up n_embd channels; at widths from 64 to 192 this was better than -0.5 (docs/LOG.md)
RESID_LAMBDA_LR_FRACTION = 0.01  # fraction of adamw_scalar_lr: these multiply the residual stream in every layer (nanochat's value)
X0_LAMBDA_BETA1 = 0.96  # averages over more updates than the rest: a few scalars with noisy gradients (nanochat's value)
# The blocks begin as the identity and the final norm cancels every scale, so in the first update
# the gradient of these scalars is nothing but rounding (measured: 1e-10, against 1e-3 from the
# second update on). With AdamW's tiny eps each would take a full step in a random direction.
SCALAR_EPS = 1e-5
NGRAM_LR_FRACTION = 0.4  # fraction of a table's learning rate for the rows of its n-grams (docs/LOG.md)
CONV_LR_FRACTION = 0.04  # fraction of adamw_scalar_lr for the weights of the embedding convolution (docs/LOG.md)

# kinds of parameters, in the order in which backward completes their gradients; adamw_recipes has
# each of them
ADAMW_KINDS = ("lm_head", "x0_lambdas", "resid_lambdas", "value_embeds", "conv", "wte", "tied")

# torch.amp.GradScaler's values, except for the interval: a default run has only 1,907 updates
FIRST_LOSS_SCALE = 2.0**16
LOSS_SCALE_INTERVAL = 200


def learning_rate_scale(config: TrainConfig, update: int) -> float:
    """Return the learning-rate multiplier for update number `update` (from 0): linear warm-up that
    is never 0, from `init_lr_fraction` if that is not 0, then `config.lr_schedule`.

    "cosine" is half a cosine. "plateau" stays at 1 up to `constant_share` of the run, then decays
    linearly. Both end at `min_lr_ratio` in the last update; a run of a single update has 1.
    """
    warmup, last, end = config.warmup_updates, config.updates - 1, config.min_lr_ratio
    if update < warmup:
        first = config.init_lr_fraction
        return first + (1 - first) * update / warmup if first else (update + 1) / (warmup + 1)
    if config.lr_schedule == "cosine":
        progress = (update - warmup) / max(1, last - warmup)
        return end + (1 - end) * (1 + math.cos(math.pi * progress)) / 2
    start = max(warmup, min(int(config.constant_share * config.updates), last - 1))
    return 1 - (1 - end) * max(0, update - start) / max(1, last - start)


def parameters_by_kind(model: nn.Module) -> dict[str, list[tuple[str, nn.Parameter]]]:
    """Return the named parameters of a GPT by kind: "blocks" for Muon, and ADAMW_KINDS for AdamW;
    "tied" is the wte of a model without lm_head. Raises ValueError for a parameter of no kind."""
    named: dict[str, list[tuple[str, nn.Parameter]]] = {kind: [] for kind in ("blocks", *ADAMW_KINDS)}
    for name, p in model.named_parameters():
        top = name.removeprefix("transformer.").split(".")[0]
        kind = "blocks" if top in ("h", "smear") else top
        if kind not in named:
            raise ValueError(f"no optimizer takes the parameter {name} of shape {tuple(p.shape)}")
        named[kind].append((name, p))
    if not named["lm_head"]:
        named["tied"], named["wte"] = named["wte"], []
    return named


def adamw_recipes(config: TrainConfig, n_embd: int) -> dict[str, tuple[float, tuple[float, float], float]]:
    """Return the peak learning rate, the betas and the epsilon of each of ADAMW_KINDS."""
    relative_width = n_embd / REFERENCE_WIDTH
    embedding_factor, unembedding_factor = relative_width**EMBEDDING_WIDTH_EXPONENT, relative_width**UNEMBEDDING_WIDTH_EXPONENT
    betas = (config.adamw_beta1, config.adamw_beta2)
    return {
        "wte": (config.adamw_embedding_lr * embedding_factor, betas, config.adamw_eps),
        "value_embeds": (config.adamw_value_embedding_lr * embedding_factor, betas, config.adamw_eps),
        "lm_head": (config.adamw_unembedding_lr * unembedding_factor, betas, config.adamw_eps),
        "tied": (config.adamw_tied_lr * unembedding_factor, betas, config.adamw_eps),
        "conv": (config.adamw_scalar_lr * CONV_LR_FRACTION, betas, config.adamw_eps),
        "resid_lambdas": (config.adamw_scalar_lr * RESID_LAMBDA_LR_FRACTION, betas, SCALAR_EPS),
        "x0_lambdas": (config.adamw_scalar_lr, (X0_LAMBDA_BETA1, config.adamw_beta2), SCALAR_EPS),
    }


class TrainOptimizer:
    """Muon (DistMuon if world.size > 1) and AdamW over all parameters of a GPT. Raises ValueError
    for a parameter that neither takes."""

    def __init__(self, model: nn.Module, config: TrainConfig, world: World, ngrams: NGrams | None = None):
        """`ngrams`: those of the tokens if `config.ngram_buckets` is not 0, else None."""
        self.grad_clip, self.world = config.grad_clip, world
        named = parameters_by_kind(model)
        [(_, wte)] = named["wte"] + named["tied"]  # a model has one of the two
        recipes = adamw_recipes(config, wte.size(1))
        groups: list[dict] = [
            {"params": named[kind], "kind": kind, "lr": lr, "betas": betas, "eps": eps} for kind, (lr, betas, eps) in recipes.items() if named[kind]
        ]
        # tables of tokens, each with a parameter (N, C) of AdamW for its n-grams. It is 0 before a
        # step, so that AdamW turns it into the update
        self._by_ngrams: list[tuple[NGrams, Tensor, Tensor]] = []
        if ngrams is not None:
            for group in [group for group in groups if group["kind"] in ("wte", "lm_head", "tied")]:
                [(name, table)] = group["params"]
                update = torch.zeros(ngrams.buckets, table.size(1), device=table.device)
                self._by_ngrams.append((ngrams, table, update))
                groups.append(group | {"params": [(f"{name}.ngrams", update)], "kind": "ngrams", "lr": group["lr"] * NGRAM_LR_FRACTION})
        self.adamw = torch.optim.AdamW(groups, weight_decay=0.0, fused=True)
        self.muon = (DistMuon if world.size > 1 else Muon)(
            named["blocks"],
            lr=config.muon_lr,
            momentum=config.muon_momentum,
            ns_steps=config.muon_ns_steps,
            beta2=config.muon_beta2,
            weight_decay=config.weight_decay,
            dtype=compute_dtype(wte.device, config.dtype),
        )
        for group in self._groups():
            group["initial_lr"] = group["lr"]
        self._all_reduces: list[tuple[Tensor, dist.Work]] = []  # those launched, a prefix of `_all_reduce_order`: gradient and its async all-reduce
        self._all_reduce_order = [p for kind in ADAMW_KINDS for _, p in reversed(named[kind])]
        self.is_stepping = False  # between `reduce_gradients` and the end of `step`
        self._complete: set[Tensor] | None = None  # parameters whose accumulated gradient is complete; None outside the last backward of an update
        if world.size > 1:
            for p in self._all_reduce_order:
                p.register_post_accumulate_grad_hook(self._on_gradient)

    def compile(self) -> None:
        """Compile Muon's kernel on a CPU, where that makes it faster (AdamW's is a fused one).

        On a GPU it is half a percent of an update, not worth a compilation for each shape of a
        matrix at the start.
        """
        if self.world.device.type == "cpu":
            self.muon.compile_kernel()

    # ---- one update

    @contextlib.contextmanager
    def last_backward(self) -> Iterator[None]:
        """Launch the all-reduce of each AdamW gradient as soon as it is complete. Use this block
        for the last backward of an update.

        Launched all-reduces stay valid even if memory runs out in the block and the caller computes
        all gradients again.
        """
        self._complete = set()
        try:
            yield
        finally:
            self._complete = None

    def _on_gradient(self, p: Tensor) -> None:
        if self._complete is not None:
            self._complete.add(p)
            self._launch_all_reduces(self._complete)

    def _launch_all_reduces(self, complete: Collection[Tensor]) -> None:
        """Launch async all-reduces of the gradients in `complete`, up to the first missing one, in
        an order fixed across ranks (that of backward)."""
        for p in self._all_reduce_order[len(self._all_reduces) :]:
            if p not in complete or p.grad is None:
                break
            self._all_reduces.append((p.grad, dist.all_reduce(p.grad, async_op=True)))

    @torch.no_grad()
    def reduce_gradients(self) -> None:
        """Average every gradient over the ranks: AdamW's in place, for Muon those of the matrices
        that this rank owns. Launches the all-reduces that are left, and waits for all.

        From here on the gradients cannot be computed again before `step`: the other ranks have
        received them. Raises RuntimeError for a parameter without a gradient.
        """
        for name, p in self._adamw_parameters(without="ngrams"):
            if p.grad is None:
                raise RuntimeError(f"{name} has no gradient: every parameter needs one before each step (was backward called?)")
        self.is_stepping = True
        if self.world.size > 1:
            self._launch_all_reduces({*self._all_reduce_order})
        self.muon.reduce_gradients()
        for p, (gradient, work) in zip(self._all_reduce_order, self._all_reduces, strict=False):
            work.wait()
            p.grad = gradient.div_(self.world.size)  # sum, then divide: gloo has no mean
        self._all_reduces = []

    @torch.no_grad()
    def grad_norm_and_scale(self, grad_divisor: float = 1.0) -> tuple[Tensor, Tensor]:
        """Return the norm of the reduced gradient over all parameters, divided by `grad_divisor`
        (the loss scale); and the `grad_scale` with which `step` divides and clips the gradient.

        Both are 0-d float32 and the same on every rank. The scale is nan if the norm is not finite.
        """
        norm = self._grad_norm() / grad_divisor
        clip = (self.grad_clip / norm).clamp_max(1.0) if self.grad_clip else torch.ones_like(norm)
        return norm, torch.where(torch.isfinite(norm), clip / grad_divisor, torch.nan)

    @torch.no_grad()
    def step(self, lr_scale: float | Tensor, grad_scale: Tensor) -> None:
        """Update the weights by the reduced gradients times `grad_scale` (0-d), and clear the
        gradients.

        `lr_scale` multiplies all learning rates; a 0-d tensor on the device lets a CUDA graph of
        this step be replayed with other learning rates. If `grad_scale` is nan, weights, moments
        and step counts do not change; this is decided on the device.
        """
        for group in self._groups():
            group["lr"] = group["initial_lr"] * lr_scale
        self.muon.step(grad_scale=grad_scale)
        # the fused kernel divides by grad_scale and skips the update if found_inf is 1: the
        # attributes that GradScaler sets
        self.adamw.grad_scale = grad_scale.reciprocal()  # type: ignore[attr-defined]
        self.adamw.found_inf = (~torch.isfinite(grad_scale)).float()  # type: ignore[attr-defined]
        for ngrams, table, update in self._by_ngrams:
            update.grad = ngrams.gradient(table.grad)  # type: ignore[arg-type] # `reduce_gradients` has required one
        self.adamw.step()
        for ngrams, table, update in self._by_ngrams:
            ngrams.update(table, update, self.adamw.state[update]["step"])
            update.zero_()
        self.adamw.zero_grad()
        self.muon.zero_grad()
        self.is_stepping = False

    def _grad_norm(self) -> Tensor:
        """Return the norm of the averaged gradient of all parameters: each of Muon's matrices
        counts on its owner, AdamW's parameters on rank 0."""
        square = self.muon.grad_sq_norm()
        if self.world.rank == 0:
            norms = [torch.linalg.vector_norm(p.grad, dtype=torch.float32) for _, p in self._adamw_parameters(without="ngrams")]
            square = square + torch.stack(norms).square().sum()
        if self.world.size > 1:
            dist.all_reduce(square)
        return square.sqrt()

    # ---- state

    def state_dict(self) -> dict:
        """Return {"muon": see Muon, "adamw": {name: {"step", "exp_avg", "exp_avg_sq"}}}.
        Collective; the same for any world size.

        AdamW's tensors are the live ones, as in torch.optim: save them before the next step. Before
        the first step AdamW has no state.
        """
        return {
            "muon": self.muon.state_dict(),
            "adamw": {name: dict(self.adamw.state[p]) for name, p in self._adamw_parameters() if p in self.adamw.state},
        }

    def load_state_dict(self, state_dict: dict) -> None:
        """Restore a `state_dict()` saved with any world size. Raises UserError, and changes
        nothing, if it is that of another model."""
        saved, parameters = state_dict.get("adamw"), self._adamw_parameters()
        moments = {name: {"step": torch.zeros(()), "exp_avg": p.detach(), "exp_avg_sq": p.detach()} for name, p in parameters}
        require_alike(saved, moments if saved else {}, "adamw")
        self.muon.load_state_dict(state_dict.get("muon", {}))
        self.adamw.state.clear()
        self.adamw.state.update({p: {key: t.to(p.device, copy=True) for key, t in saved[name].items()} for name, p in parameters if saved})

    def _adamw_parameters(self, *, without: str = "") -> list[tuple[str, Tensor]]:
        groups = [group for group in self.adamw.param_groups if group["kind"] != without]
        return [named for group in groups for named in zip(group["param_names"], group["params"], strict=True)]

    def _groups(self) -> list[dict]:
        return [*self.muon.param_groups, *self.adamw.param_groups]


class LossScale:
    """The factor on the loss that keeps fp16 gradients representable; 1 unless `enabled`.

    It halves at an overflow, and doubles after 200 updates in a row with a finite gradient norm.
    """

    def __init__(self, enabled: bool):
        self.enabled, self.good_updates = enabled, 0
        self.value = FIRST_LOSS_SCALE if enabled else 1.0

    def adjust(self, is_finite: bool) -> None:
        """Adjust the scale after an update, given whether its gradient norm was finite."""
        if not self.enabled:
            return
        self.good_updates = self.good_updates + 1 if is_finite else 0
        if not is_finite:
            self.value /= 2
        elif self.good_updates == LOSS_SCALE_INTERVAL:
            self.value, self.good_updates = self.value * 2, 0

    def state_dict(self) -> dict:
        return {"enabled": self.enabled, "value": self.value, "good_updates": self.good_updates}

    def load_state_dict(self, state_dict: dict) -> None:
        """Restore a `state_dict()`. If the saved run or this one has no loss scaling, the initial
        value stays. Raises UserError for a dict of another form."""
        require_alike(state_dict, self.state_dict(), "loss_scale")
        if self.enabled and state_dict["enabled"]:
            self.value, self.good_updates = state_dict["value"], state_dict["good_updates"]
