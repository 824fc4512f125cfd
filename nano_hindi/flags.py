"""Turn command-line flags into a configuration: of a new run, and of one that is resumed."""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from nano_hindi.config import DEFAULT_PRESET, INIT_LR_FRACTION, GPTConfig, TrainConfig, from_dict, get_config, get_train_config
from nano_hindi.errors import QUOTED_CHARACTERS, require

# flags that may change when a run is resumed; any other would make it a different run
CHANGEABLE_ON_RESUME = frozenset(
    {
        "total_tokens",
        "device_batch_size",
        "dtype",
        "fp8_head",
        "checkpoint_interval",
        "eval_interval",
        "inference_interval",
        "log_interval",
        "keep_checkpoints",
    }
)


@dataclass(frozen=True)
class WeightedFolder:
    """A value of --data_dir or --anneal_data_dir: DIR, or DIR=W."""

    folder: Path
    weight: Fraction | None = None


def weighted_folder(text: str) -> WeightedFolder:
    """Return the folder and the weight of `DIR` or `DIR=W`, as a `type` for argparse. A path that
    exists has no weight, even if it contains "=".

    Raises ArgumentTypeError for a weight that is not a positive number.
    """
    folder, _, weight = text.rpartition("=")
    if not folder or os.path.lexists(text) or "/" in weight or os.sep in weight:
        return WeightedFolder(Path(text))
    if not re.fullmatch(r"[0-9]{1,12}(\.[0-9]{0,12})?|\.[0-9]{1,12}", weight) or Fraction(weight) == 0:
        quoted = text[:QUOTED_CHARACTERS]
        raise argparse.ArgumentTypeError(f"must be DIR, or DIR=W with a positive number W such as 0.3; {quoted} is neither, nor a folder that exists")
    return WeightedFolder(Path(folder), Fraction(weight))


def add_run_flags(parser: argparse.ArgumentParser, checkpoint_dir: Path) -> None:
    """Add the flags of train.py and finetune.py that are not part of the recipe."""
    parser.add_argument(
        "--checkpoint_dir", type=Path, default=checkpoint_dir, metavar="DIR", help="folder for checkpoints, metrics.jsonl and curves.png"
    )
    parser.add_argument(
        "--resume", metavar="PATH|auto", help="resume from a checkpoint; auto: the newest valid one in --checkpoint_dir, if there is one"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda if available")
    parser.add_argument("--verify_data", action="store_true", help="check all of the data against its digests, not only a sample")
    parser.add_argument("--wandb", action="store_true", help="log to Weights & Biases too")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add a flag for every field of GPTConfig and TrainConfig. An omitted flag sets no
    attribute."""
    seen = set()
    for cls in (GPTConfig, TrainConfig):
        group = parser.add_argument_group(f"{cls.__name__} (an omitted flag has the value of the preset)")
        for f in dataclasses.fields(cls):
            if f.name not in seen:
                group.add_argument(
                    f"--{f.name}", type=f.metadata["valid"] or str, default=argparse.SUPPRESS, metavar=f.metadata["shown"], help=f.metadata["help"]
                )
            seen.add(f.name)


def given_flags(args: argparse.Namespace, cls: type) -> dict:
    """Return the fields of `cls` that were given as flags, with their values."""
    return {f.name: getattr(args, f.name) for f in dataclasses.fields(cls) if hasattr(args, f.name)}


def configs_for_new_run(args: argparse.Namespace, vocab_size: int | None) -> tuple[GPTConfig, TrainConfig]:
    """Return the configuration of a new run: a flag overrides the preset, the preset overrides the
    default.

    `vocab_size` is the data's, None if there is no data yet. Raises UserError if a flag contradicts
    it.
    """
    preset = args.config or DEFAULT_PRESET
    model_flags = given_flags(args, GPTConfig)
    if vocab_size is not None:
        given = model_flags.setdefault("vocab_size", vocab_size)
        require(given == vocab_size, f"--vocab_size {given} differs from the data's {vocab_size}; omit the flag, or tokenize the data again")
    train = dataclasses.replace(get_train_config(preset), **given_flags(args, TrainConfig))
    model = dataclasses.replace(get_config(preset), **model_flags)
    _require_effect(args, model, train, has_parent=False)
    return model, train


def configs_for_run_from_model(args: argparse.Namespace, shape: GPTConfig, recipe: TrainConfig) -> tuple[GPTConfig, TrainConfig]:
    """Return the configuration of a new run that starts from the weights of a model of `shape`.
    The recipe is that of --config, or `recipe` without --config; flags override it. Raises a
    UserError that names every difference in shape."""
    wanted = {name: (f"--{name}", value) for name, value in given_flags(args, GPTConfig).items()}
    if args.config:
        preset = dataclasses.asdict(get_config(args.config))
        del preset["vocab_size"]  # it is the data's, also of a run without a parent
        wanted = {name: (f"{name} of --config {args.config}:", value) for name, value in preset.items()} | wanted
    differences = [f"{what} {value} (model: {getattr(shape, name)})" for name, (what, value) in wanted.items() if value != getattr(shape, name)]
    require(
        not differences,
        f"a run with --init_from has the shape of its model, but these differ: {', '.join(differences)}; give the model's values, or omit the flags",
    )
    recipe = get_train_config(args.config) if args.config else recipe
    defaults = {
        "init_lr_fraction": INIT_LR_FRACTION,
        "sequence_len": shape.sequence_len,
        "ngram_buckets": 0,  # n-grams help tokens that were rarely read, as in a new model
    }
    train = dataclasses.replace(recipe, **(defaults | given_flags(args, TrainConfig)))
    _require_effect(args, shape, train, has_parent=True)
    return shape, train


def _require_effect(args: argparse.Namespace, model: GPTConfig, train: TrainConfig, has_parent: bool) -> None:
    """Raise UserError for a flag that has no effect in this run."""
    require(
        has_parent or not hasattr(args, "init_lr_fraction"),
        "--init_lr_fraction belongs to --init_from, and this run has none; omit --init_lr_fraction, or give --init_from to a new run",
    )
    for name, other, has_effect in (
        ("init_lr_fraction", "warmup_steps N", train.warmup_steps > 0),
        ("constant_share", "lr_schedule plateau", train.lr_schedule == "plateau"),
        ("anneal_fraction", "anneal_data_dir DIR", bool(getattr(args, "anneal_data_dir", None))),
        ("short_window_divisor", "window_pattern SSSL", "S" in model.window_pattern),
        ("adamw_tied_lr", "tie_embeddings True", model.tie_embeddings),
        ("adamw_embedding_lr", "tie_embeddings False", not model.tie_embeddings),
        ("adamw_unembedding_lr", "tie_embeddings False", not model.tie_embeddings),
        ("adamw_value_embedding_lr", "value_embeddings True", model.value_embeddings),
    ):
        require(
            has_effect or not hasattr(args, name),
            f"--{name} belongs to --{other}, which this run does not have; omit --{name}, or give --{other} to a new run",
        )


def configs_for_resumed_run(args: argparse.Namespace, checkpoint: dict) -> tuple[GPTConfig, TrainConfig]:
    """Return the configuration of `checkpoint`, updated by the flags that may change. Raises a
    UserError that names every other difference."""
    model, train = from_dict(GPTConfig, checkpoint["model_config"]), from_dict(TrainConfig, checkpoint["train_config"])
    differences = []
    if args.config not in (None, checkpoint["preset"]):
        differences.append(f"--config {args.config} (checkpoint: {checkpoint['preset'][:QUOTED_CHARACTERS]})")
    before = dataclasses.asdict(model) | dataclasses.asdict(train)
    for name, value in (given_flags(args, GPTConfig) | given_flags(args, TrainConfig)).items():
        if name not in CHANGEABLE_ON_RESUME and value != before[name]:
            differences.append(f"--{name} {value} (checkpoint: {before[name]})")
    require(
        not differences,
        f"a resumed run keeps its configuration, but these differ: {', '.join(differences)}; omit them, or start a new run in another --checkpoint_dir",
    )
    _require_effect(args, model, train, has_parent="parent" in checkpoint)
    changes = {name: value for name, value in given_flags(args, TrainConfig).items() if name in CHANGEABLE_ON_RESUME}
    return model, dataclasses.replace(train, **changes)
