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
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from nano_hindi.console import counted
from nano_hindi.errors import quoted, require
from nano_hindi.ranges import Choice, Range, whole

LR_SCHEDULES = ("cosine", "plateau")
DTYPES = ("auto", "float32", "bfloat16")
VOCAB_MULTIPLE = 64  # rows of the embedding and of lm_head are padded to a multiple of this, for the matmul's tiles
INIT_LR_FRACTION = 0.1  # default of --init_lr_fraction in a run with --init_from
FINETUNE = {"epochs": 2, "batch_size": 16, "lr_scale": 0.6}  # defaults of finetune.py (docs/LOG.md compares others)

_INT64 = 2**63
_INDEX = 2**31  # limit of sequence counts, steps per update and context lengths: far beyond any memory
_COUNT = whole(1, _INT64)
_INTERVAL = whole(0, _INT64)
_LEARNING_RATE = Range(float, 0, 1e6)  # larger ones overflow float32 within a few updates
_DECAY = Range(float, 0, 1, high_open=True)
_FRACTION = Range(float, 0, 1)
_SWITCH = Choice((True, False))
# with a smaller epsilon, a gradient whose square is 0 in float32 would make a step of any size
_EPSILON = Range(float, 1e-20, 1)


def _opt(default: Any, text: str, valid: Range | Choice | None = None, shown: Any = None) -> Any:
    """Return a dataclass field with its help text and its valid values. `valid` is None for a text
    field. `shown` replaces the default in the help."""
    return field(default=default, metadata={"help": text, "valid": valid, "shown": str(default if shown is None else shown)})


def _require_valid(config: GPTConfig | TrainConfig) -> None:
    """Raise a UserError that names the field if one is outside its range."""
    for f in dataclasses.fields(config):
        value, valid = getattr(config, f.name), f.metadata["valid"]
        require(valid is None or value in valid, f"{f.name} must be {valid}, not {quoted(value)}")


@dataclass(frozen=True)
class GPTConfig:
    """The shape of the network. Raises UserError for shapes that cannot be built.

    The order of the fields is part of the API: callers may pass them by position. A new one goes
    last.
    """

    vocab_size: int = _opt(68096, "vocabulary size of the tokenizer; train.py takes it from the data", whole(1, 2**31))
    n_layer: int = _opt(8, "transformer blocks", whole(1, 2**10))
    n_head: int = _opt(6, "query heads", whole(1, 2**12))
    n_kv_head: int = _opt(2, "key/value heads; divides n_head", whole(1, 2**12))
    n_embd: int = _opt(384, "width of the residual stream; a multiple of 2 * n_head", whole(1, 2**24))
    sequence_len: int = _opt(1024, "tokens of context, also the length of a training sequence", whole(4, _INDEX))
    window_pattern: str = _opt("SSSL", "attention windows, tiled over the layers: S short, L = sequence_len keys; the last layer is L")
    short_window_divisor: int = _opt(8, "the window of S layers is sequence_len divided by this", whole(1, _INDEX))
    tie_embeddings: bool = _opt(False, "tied embeddings: wte is also lm_head", _SWITCH)
    value_embeddings: bool = _opt(True, "a table of value embeddings in every other layer", _SWITCH)
    smear: bool = _opt(False, "add the previous token's embedding to each token's embedding, times a learned gate", _SWITCH)
    embedding_conv: int = _opt(
        0, "add the embeddings of this many previous tokens to each token's embedding, each channel times a learned weight", whole(0, 2**10)
    )

    def __post_init__(self) -> None:
        _require_valid(self)
        require(
            self.n_embd % self.n_head == 0 and self.n_embd // self.n_head % 2 == 0,
            f"n_embd {self.n_embd} does not split into {self.n_head} heads of even width; {2 * self.n_head * max(1, self.n_embd // (2 * self.n_head))} would",
        )
        divisors = ", ".join(str(d) for d in range(1, min(self.n_head, 64) + 1) if self.n_head % d == 0)
        require(self.n_head % self.n_kv_head == 0, f"n_kv_head {self.n_kv_head} does not divide n_head {self.n_head}; these do: {divisors}")
        require(self.embedding_conv < self.sequence_len, f"embedding_conv {self.embedding_conv} must be less than sequence_len {self.sequence_len}")
        require(
            isinstance(self.window_pattern, str) and bool(self.window_pattern) and set(self.window_pattern) <= {"S", "L"},
            f"window_pattern {quoted(self.window_pattern)} must be made of the letters S and L, for example SSSL",
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
    def reach(self) -> int:
        """Return the receptive field of the last token through all layers: tokens before it have no
        effect."""
        return 1 + sum(window - 1 for window in self.windows) + self.tokens_before

    @property
    def tokens_before(self) -> int:
        """Return how many previous tokens add their embeddings to that of a token."""
        return max(int(self.smear), self.embedding_conv)

    @property
    def value_embedding_layers(self) -> tuple[int, ...]:
        """Return the layers with a value embedding: every other one, always including the last; or
        none."""
        return tuple(i for i in range(self.n_layer) if self.value_embeddings and i % 2 == (self.n_layer - 1) % 2)


@dataclass(frozen=True)
class TrainConfig:
    """The training recipe. Raises UserError for invalid values."""

    # the budget
    total_tokens: int = _opt(500_000_000, "tokens to train on", _COUNT)
    batch_size: int = _opt(64, "sequences per step, over all GPUs", whole(1, _INDEX))
    sequence_len: int = _opt(1024, "tokens per sequence; one flag sets it for training and for the model", whole(4, _INDEX))
    gradient_accumulation_steps: int = _opt(4, "steps (micro-steps) per update (optimizer step)", whole(1, _INDEX))
    device_batch_size: int | str = _opt(
        "auto", "sequences per forward pass on a device, or auto: on a GPU measured before the first update", whole(1, _INDEX, auto="auto")
    )
    dtype: str = _opt(
        "auto",
        "dtype of the matmuls: auto (the GPU's, float32 on a CPU), float32 or bfloat16 (faster on some CPUs: docs/hardware.md)",
        Choice(DTYPES),
    )
    fp8_head: bool = _opt(False, "both gradients of the head from fp8 matmuls, for a GPU of compute capability 8.9 or later", _SWITCH)
    seed: int = _opt(42, "seed of the initial weights and of the data order", whole(0, _INT64))
    # peak learning rates, and the schedule
    muon_lr: float = _opt(0.02, "learning rate of the matrices in the blocks and of the smear's gate (Muon)", _LEARNING_RATE)
    adamw_embedding_lr: float = _opt(0.2, "learning rate of wte (AdamW), times (n_embd/768)^-0.5", _LEARNING_RATE)
    adamw_value_embedding_lr: float = _opt(0.2, "learning rate of the value embeddings (AdamW), times (n_embd/768)^-0.5", _LEARNING_RATE)
    adamw_unembedding_lr: float = _opt(0.004, "learning rate of lm_head (AdamW), times (n_embd/768)^-1", _LEARNING_RATE)
    adamw_tied_lr: float = _opt(0.004, "learning rate of tied embeddings (AdamW), times (n_embd/768)^-1", _LEARNING_RATE)
    adamw_scalar_lr: float = _opt(
        0.5, "learning rate of x0_lambdas (AdamW); resid_lambdas use 0.01 times this, embedding_conv 0.04 times", _LEARNING_RATE
    )
    warmup_steps: int = _opt(1000, "steps of linear warm-up, at most a fifth of the run", _INTERVAL)
    init_lr_fraction: float = _opt(
        0.0,  # of a run without a parent: the warm-up begins at almost 0
        "--init_from only: where the warm-up begins, as a fraction of the peak learning rates",
        _FRACTION,
        shown=INIT_LR_FRACTION,
    )
    lr_schedule: str = _opt("cosine", "after the warm-up: cosine, or plateau (constant, then linear decay)", Choice(LR_SCHEDULES))
    constant_share: float = _opt(0.4, "plateau only: fraction of the run, warm-up included, before the learning rates begin to decay", _FRACTION)
    anneal_fraction: float = _opt(
        0.1, "fraction of the run, at its end, that reads --anneal_data_dir", Range(float, 0, 1, low_open=True, high_open=True)
    )
    min_lr_ratio: float = _opt(0.1, "learning rate of the last update, as a fraction of the peak", _FRACTION)
    # the optimizers
    muon_momentum: float = _opt(0.95, "Nesterov momentum of Muon", _DECAY)
    muon_beta2: float = _opt(0.95, "decay of Muon's factored second moment (NorMuon)", _DECAY)
    muon_ns_steps: int = _opt(5, "iterations of Polar Express", whole(1, 100))
    weight_decay: float = _opt(0.0, "cautious weight decay of the matrices, times their learning rate", _LEARNING_RATE)
    adamw_beta1: float = _opt(0.6, "AdamW's decay of the first moment (mean gradient), except for x0_lambdas", _DECAY)
    adamw_beta2: float = _opt(0.98, "AdamW's decay of the second moment (mean squared gradient)", _DECAY)
    adamw_eps: float = _opt(1e-10, "AdamW's epsilon, except for the lambdas, added to the root of the second moment", _EPSILON)
    ngram_buckets: int = _opt(
        0,
        "hash buckets of character n-grams, by which rare tokens share updates of wte and lm_head with tokens of similar spelling (try 4096); 0: off",
        whole(0, 2**20),
    )
    grad_clip: float = _opt(1.0, "maximum norm of the gradient over all parameters; 0 turns clipping off", Range(float, 0, 1e30))
    # intervals, in steps; 0 means only at the end
    checkpoint_interval: int = _opt(1000, "steps between checkpoints; 0: only at the end", _INTERVAL)
    eval_interval: int = _opt(500, "steps between evaluations; 0: only at the end", _INTERVAL)
    inference_interval: int = _opt(1000, "steps between Hindi samples; 0: only at the end", _INTERVAL)
    log_interval: int = _opt(10, "steps between lines of metrics.jsonl and of a log; 0: only at the end", _INTERVAL)
    eval_tokens: int = _opt(2_097_152, "tokens of val.bin per evaluation, spread evenly over it; a smaller file is used whole", _COUNT)
    keep_checkpoints: int = _opt(3, "number of newest checkpoints to keep", _COUNT)

    def __post_init__(self) -> None:
        _require_valid(self)

    @functools.cached_property
    def sequences_per_update(self) -> int:
        return self.batch_size * self.gradient_accumulation_steps

    @functools.cached_property
    def tokens_per_update(self) -> int:
        return self.sequences_per_update * self.sequence_len

    @functools.cached_property
    def updates(self) -> int:
        return max(1, self.total_tokens // self.tokens_per_update)

    def steps_of(self, updates: int) -> int:
        """Return the number of steps of so many updates."""
        return updates * self.gradient_accumulation_steps

    @property
    def steps(self) -> int:
        return self.steps_of(self.updates)

    @functools.cached_property
    def warmup_updates(self) -> int:
        """Return the number of warm-up updates: `warmup_steps`, but at most a fifth of the run."""
        return min(-(-self.warmup_steps // self.gradient_accumulation_steps), self.updates // 5)

    @property
    def anneal_start(self) -> int:
        """Return the number of updates before the anneal, if there is one; it has at least one."""
        return self.updates - max(1, round(self.anneal_fraction * self.updates))

    @property
    def schedule_text(self) -> str:
        """Return the learning-rate schedule as one line of text."""
        steps = self.steps_of(self.warmup_updates)
        first = f" from {self.init_lr_fraction:g} of each learning rate" if self.init_lr_fraction else ""
        warmup = f"warm-up over {counted(steps, 'step')}{first}" if steps else "no warm-up"
        if steps < self.warmup_steps:
            warmup += f" ({counted(self.warmup_steps, 'step')} would be more than a fifth of the run)"
        fall = f"constant up to {self.constant_share:.0%} of the run, then linearly" if self.lr_schedule == "plateau" else "then"
        return f"{self.lr_schedule}: {warmup}, {fall} down to {self.min_lr_ratio:g} of each learning rate"

    def is_due(self, interval: int, update: int) -> bool:
        """Return whether update number `update` (from 1) is the last one, or the number of one of
        its steps is a multiple of `interval`."""
        last, now = self.steps_of(update - 1), self.steps_of(update)
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


def _tied_preset(total_tokens: int, **shape: Any) -> tuple[GPTConfig, TrainConfig]:
    """Return a preset with tied embeddings and no value embeddings. Its name is its total parameter
    count, and it has 20 tokens per parameter."""
    return GPTConfig(tie_embeddings=True, value_embeddings=False, **shape), TrainConfig(total_tokens=total_tokens)


PRESETS: dict[str, tuple[GPTConfig, TrainConfig]] = {
    "25m": (GPTConfig(), TrainConfig()),
    "40m": (GPTConfig(n_layer=10, n_head=8, n_embd=512), TrainConfig(total_tokens=800_000_000)),
    "50m": (GPTConfig(n_layer=12, n_head=8, n_embd=576), TrainConfig(total_tokens=1_000_000_000)),
    "22m": _tied_preset(435_000_000, n_layer=6, n_head=4, n_embd=256),
    "36m": _tied_preset(712_000_000, n_layer=6, n_head=6, n_embd=384),
    "39m": _tied_preset(775_000_000, n_layer=8, n_head=6, n_embd=384),
    "250m": _tied_preset(5_073_000_000, n_layer=32, n_head=12, n_kv_head=4, n_embd=768),
    "tiny": (
        GPTConfig(n_layer=4, n_head=2, n_embd=128, sequence_len=512, window_pattern="L"),
        TrainConfig(
            sequence_len=512,
            total_tokens=4_000_000,
            batch_size=8,
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


# for fields whose default is not what earlier versions did: the value for a checkpoint without the
# field, computed from its other fields
BEFORE: dict[type, dict[str, Callable[[dict], Any]]] = {
    GPTConfig: {"short_window_divisor": lambda saved: 4},
    TrainConfig: {"lr_schedule": lambda saved: "plateau" if "constant_share" in saved else "cosine"},
}


Config = TypeVar("Config", GPTConfig, TrainConfig)


def from_dict(cls: type[Config], values: dict) -> Config:
    """Return the config that a checkpoint stores as a dict. Raises UserError for fields that this
    version does not know, and for invalid values."""
    unknown = sorted(str(name)[:60] for name in values.keys() - {f.name for f in dataclasses.fields(cls)})
    require(not unknown, f"{cls.__name__} has no field {', '.join(unknown[:3])}: the file is from another version")
    return cls(**{**{name: value(values) for name, value in BEFORE[cls].items()}, **values})
