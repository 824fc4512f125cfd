"""Configuration of a run: the model's shape, the training recipe, and the presets. The dataclass
fields are the command-line flags (flags.py).

Terms, in field names and in the rest of the repo:
    step    one gradient-accumulation micro-step: the gradients of one global batch of `batch_size`
            sequences of `sequence_len` tokens, whichever ranks compute them
    update  one optimizer step, from the gradients accumulated over `gradient_accumulation_steps`
            steps
All intervals count steps. What is due at a step happens at the end of the update that contains it.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from nano_hindi.errors import require

LR_SCHEDULES = ("cosine", "plateau")
VOCAB_MULTIPLE = 64  # rows of the embedding and of lm_head are padded to a multiple of this, for the matmul's tiles


def _opt(default: Any, text: str, parse: Callable[[str], Any] | None = None) -> Any:
    """Return a dataclass field with its help text; `parse` turns the flag's text into the value
    (default: the type of `default`)."""
    return field(default=default, metadata={"help": text, "parse": parse or type(default)})


def _auto_or_int(text: str) -> int | str:
    return "auto" if text == "auto" else int(text)


@dataclass(frozen=True)
class GPTConfig:
    """The shape of the network. Raises UserError for shapes that cannot be built.

    The order of the fields is part of the API: callers may pass them by position.
    """

    vocab_size: int = _opt(68096, "vocabulary size of the tokenizer; train.py takes it from the data")
    n_layer: int = _opt(8, "transformer blocks")
    n_head: int = _opt(6, "query heads")
    n_kv_head: int = _opt(2, "key/value heads; divides n_head")
    n_embd: int = _opt(384, "width of the residual stream; a multiple of n_head")
    sequence_len: int = _opt(1024, "tokens of context, also the length of a training sequence")
    window_pattern: str = _opt("SSSL", "attention windows, tiled over the layers: S short, L = sequence_len keys; the last layer is L")
    short_window_divisor: int = _opt(8, "the window of S layers is sequence_len divided by this")

    def __post_init__(self) -> None:
        for name in ("vocab_size", "sequence_len", "n_layer", "n_head", "n_kv_head", "n_embd", "short_window_divisor"):
            value = getattr(self, name)
            require(isinstance(value, int) and value > 0, f"{name} must be a positive whole number, not {value!r}")
        require(self.sequence_len >= 4, f"sequence_len must be at least 4, not {self.sequence_len}")
        require(
            self.n_embd % self.n_head == 0 and self.n_embd // self.n_head % 2 == 0,
            f"n_embd {self.n_embd} does not split into {self.n_head} heads of even width; {2 * self.n_head * max(1, self.n_embd // (2 * self.n_head))} would",
        )
        divisors = ", ".join(str(d) for d in range(1, self.n_head + 1) if self.n_head % d == 0)
        require(self.n_head % self.n_kv_head == 0, f"n_kv_head {self.n_kv_head} does not divide n_head {self.n_head}; these do: {divisors}")
        require(
            isinstance(self.window_pattern, str) and bool(self.window_pattern) and set(self.window_pattern) <= {"S", "L"},
            f"window_pattern {self.window_pattern!r} must be made of the letters S and L, for example SSSL",
        )

    @property
    def head_dim(self) -> int:
        return self.n_embd // self.n_head

    @property
    def padded_vocab_size(self) -> int:
        return -(-self.vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE

    @property
    def windows(self) -> tuple[int, ...]:
        """Return the number of keys that a query sees in each layer, its own included.
        FlashAttention's `left` is this minus 1."""
        sizes = {"S": max(1, self.sequence_len // self.short_window_divisor), "L": self.sequence_len}
        tiled = [sizes[self.window_pattern[i % len(self.window_pattern)]] for i in range(self.n_layer)]
        return (*tiled[:-1], self.sequence_len)

    @property
    def value_embedding_layers(self) -> tuple[int, ...]:
        """Return the layers with a value embedding: every other one, always including the last."""
        return tuple(i for i in range(self.n_layer) if i % 2 == (self.n_layer - 1) % 2)


@dataclass(frozen=True)
class TrainConfig:
    """The training recipe. Raises UserError for invalid values."""

    # the budget
    total_tokens: int = _opt(500_000_000, "tokens to train on")
    batch_size: int = _opt(64, "sequences per step, over all GPUs")
    sequence_len: int = _opt(1024, "tokens per sequence; one flag sets it for training and for the model")
    gradient_accumulation_steps: int = _opt(4, "steps (micro-steps) per update (optimizer step)")
    device_batch_size: int | str = _opt("auto", "sequences per forward pass on a device, or auto: measured before the first update", _auto_or_int)
    seed: int = _opt(42, "seed of the initial weights and of the data order")
    # peak learning rates, and the schedule
    muon_lr: float = _opt(0.02, "learning rate of the matrices in the blocks (Muon)")
    adamw_embedding_lr: float = _opt(0.2, "learning rate of wte (AdamW), times (n_embd/768)^-0.5")
    adamw_value_embedding_lr: float = _opt(0.2, "learning rate of the value embeddings (AdamW), times (n_embd/768)^-0.5")
    adamw_unembedding_lr: float = _opt(0.004, "learning rate of lm_head (AdamW), times (n_embd/768)^-1")
    adamw_scalar_lr: float = _opt(0.5, "learning rate of x0_lambdas (AdamW); that of resid_lambdas is a hundredth of it")
    warmup_steps: int = _opt(1000, "steps of linear warm-up, at most a fifth of the run")
    lr_schedule: str = _opt("cosine", "after the warm-up: cosine, or plateau (constant, then linear decay)")
    constant_share: float = _opt(0.4, "plateau only: fraction of the run, warm-up included, before the learning rates begin to decay")
    min_lr_ratio: float = _opt(0.1, "learning rate of the last update, as a fraction of the peak")
    # the optimizers
    muon_momentum: float = _opt(0.95, "Nesterov momentum of Muon")
    muon_beta2: float = _opt(0.95, "decay of Muon's factored second moment (NorMuon)")
    muon_ns_steps: int = _opt(5, "iterations of Polar Express")
    weight_decay: float = _opt(0.0, "cautious weight decay of the matrices, times their learning rate")
    adamw_beta1: float = _opt(0.6, "AdamW's decay of the first moment (mean gradient)")
    adamw_beta2: float = _opt(0.98, "AdamW's decay of the second moment (mean squared gradient)")
    adamw_eps: float = _opt(1e-10, "AdamW's epsilon for the embeddings and lm_head, added to the root of the second moment")
    grad_clip: float = _opt(1.0, "maximum norm of the gradient over all parameters; 0 turns clipping off")
    # intervals, in steps; 0 means only at the end
    checkpoint_interval: int = _opt(1000, "steps between checkpoints; 0: only at the end")
    eval_interval: int = _opt(500, "steps between evaluations; 0: only at the end")
    inference_interval: int = _opt(1000, "steps between Hindi samples; 0: only at the end")
    log_interval: int = _opt(10, "steps between log lines; 0: only at the end")
    eval_tokens: int = _opt(2_097_152, "tokens of val.bin per evaluation; a smaller file is used whole")
    keep_checkpoints: int = _opt(3, "number of newest checkpoints to keep")

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if f.name == "device_batch_size":
                require(
                    value == "auto" or (isinstance(value, int) and value > 0),
                    f"device_batch_size must be auto or a positive whole number, not {value!r}",
                )
            elif f.name == "lr_schedule":
                require(value in LR_SCHEDULES, f"there is no lr_schedule {value!r}; choose one of {', '.join(LR_SCHEDULES)}")
            elif isinstance(f.default, int):
                require(isinstance(value, int) and value >= 0, f"{f.name} must be a whole number, 0 or more, not {value!r}")
            else:
                require(isinstance(value, int | float) and math.isfinite(value) and value >= 0, f"{f.name} must be 0 or more, not {value!r}")
        for name in ("total_tokens", "batch_size", "sequence_len", "gradient_accumulation_steps", "muon_ns_steps", "eval_tokens", "keep_checkpoints"):
            require(getattr(self, name) > 0, f"{name} must be at least 1")
        for name in ("muon_momentum", "muon_beta2", "adamw_beta1", "adamw_beta2"):
            require(getattr(self, name) < 1, f"{name} must be below 1, not {getattr(self, name)}")
        require(self.seed < 2**63, f"seed must be below 2**63, not {self.seed}")
        for name in ("constant_share", "min_lr_ratio"):
            require(getattr(self, name) <= 1, f"{name} must be from 0 to 1, not {getattr(self, name)}")

    @functools.cached_property
    def sequences_per_update(self) -> int:
        return self.batch_size * self.gradient_accumulation_steps

    @functools.cached_property
    def tokens_per_update(self) -> int:
        return self.sequences_per_update * self.sequence_len

    @functools.cached_property
    def updates(self) -> int:
        return max(1, self.total_tokens // self.tokens_per_update)

    @property
    def steps(self) -> int:
        return self.updates * self.gradient_accumulation_steps

    @functools.cached_property
    def warmup_updates(self) -> int:
        """Return the number of warm-up updates: `warmup_steps`, but at most a fifth of the run."""
        return min(-(-self.warmup_steps // self.gradient_accumulation_steps), self.updates // 5)

    @property
    def schedule_text(self) -> str:
        """Return the learning-rate schedule as one line of text."""
        steps = self.warmup_updates * self.gradient_accumulation_steps
        warmup = f"warm-up over {steps:,} steps" if steps else "no warm-up"
        if steps < self.warmup_steps:
            warmup += f" ({self.warmup_steps:,} steps would be more than a fifth of the run)"
        fall = f"constant up to {self.constant_share:.0%} of the run, then linearly" if self.lr_schedule == "plateau" else "then"
        return f"{self.lr_schedule}: {warmup}, {fall} down to {self.min_lr_ratio:g} of each learning rate"

    def is_due(self, interval: int, update: int) -> bool:
        """Return whether a multiple of `interval` steps lies in update number `update` (1-based),
        or it is the last one."""
        last, now = (update - 1) * self.gradient_accumulation_steps, update * self.gradient_accumulation_steps
        return update == self.updates or (interval > 0 and now // interval > last // interval)

    def sequences_per_rank(self, world_size: int) -> int:
        """Return the number of sequences of an update per rank. Raises UserError if they do not
        split evenly over `world_size` ranks."""
        total = self.sequences_per_update
        works = ", ".join(str(n) for n in range(1, min(total, 64) + 1) if total % n == 0)
        require(
            total % world_size == 0,
            f"{world_size} ranks cannot split the {total} sequences of an update evenly; these numbers of ranks work: {works}",
        )
        return total // world_size


PRESETS: dict[str, tuple[GPTConfig, TrainConfig]] = {
    "25m": (GPTConfig(), TrainConfig()),
    "40m": (GPTConfig(n_layer=10, n_head=8, n_embd=512), TrainConfig(total_tokens=800_000_000)),
    "50m": (GPTConfig(n_layer=12, n_head=8, n_embd=576), TrainConfig(total_tokens=1_000_000_000)),
    "tiny": (
        GPTConfig(n_layer=4, n_head=4, n_embd=128, sequence_len=256),
        TrainConfig(
            sequence_len=256,
            total_tokens=2_000_000,
            batch_size=16,
            gradient_accumulation_steps=1,
            warmup_steps=40,
            checkpoint_interval=200,
            eval_interval=100,
            inference_interval=200,
            log_interval=20,
            eval_tokens=131_072,
        ),
    ),
}

DEFAULT_PRESET = "25m"


def _preset(name: str) -> tuple[GPTConfig, TrainConfig]:
    require(name in PRESETS, f"there is no preset {name!r}; choose one of {', '.join(PRESETS)}")
    return PRESETS[name]


def get_config(name: str) -> GPTConfig:
    """Return the model configuration of a preset. Raises UserError for an unknown name."""
    return _preset(name)[0]


def get_train_config(name: str) -> TrainConfig:
    """Return the training recipe of a preset. Raises UserError for an unknown name."""
    return _preset(name)[1]


# for a checkpoint older than a field: the value that its run used, from the fields that the
# checkpoint has
BEFORE: dict[type, dict[str, Callable[[dict], Any]]] = {
    GPTConfig: {"short_window_divisor": lambda saved: 4},
    TrainConfig: {"lr_schedule": lambda saved: "plateau" if "constant_share" in saved else "cosine"},
}


Config = TypeVar("Config", GPTConfig, TrainConfig)


def from_dict(cls: type[Config], values: dict) -> Config:
    """Return the config that a checkpoint stores as a dict. Raises UserError for fields that this
    version does not know."""
    names = {f.name for f in dataclasses.fields(cls)}
    require(set(values) <= names, f"{cls.__name__} has no field {', '.join(sorted(set(values) - names))}: the file is from another version")
    return cls(**{**{name: value(values) for name, value in BEFORE[cls].items()}, **values})
