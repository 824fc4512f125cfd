"""Find the run that a command line asks for, new or from a checkpoint, and its configuration.
Nothing here writes a file."""

from __future__ import annotations

import argparse
import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path

from nano_hindi.checkpoint import list_checkpoints, load_checkpoint, newest_checkpoint, print_skipped
from nano_hindi.common import compute_dtype
from nano_hindi.config import DEFAULT_PRESET, GPTConfig, TrainConfig
from nano_hindi.corpus.prepared import DataInfo, check_data
from nano_hindi.distributed import World, from_main, require_same
from nano_hindi.errors import UserError, require
from nano_hindi.files import file_digest
from nano_hindi.flags import configs_for_new_run, configs_for_resumed_run


@dataclass(frozen=True)
class Plan:
    """A run as the flags of train.py ask for it, before anything is built."""

    preset: str
    model_config: GPTConfig
    config: TrainConfig
    data: DataInfo | None  # None only for --dry_run before there is any data
    saved: dict | None  # the checkpoint to resume from; None for a new run

    @property
    def update(self) -> int:
        """Return the number of updates made so far."""
        return self.saved["tokens_seen"] // self.config.tokens_per_update if self.saved else 0

    @property
    def step(self) -> int:
        return self.update * self.config.gradient_accumulation_steps

    @property
    def is_finished(self) -> bool:
        latest = self.saved["metrics"]["latest"] if self.saved else {}
        return self.update >= self.config.updates and not evaluation_is_pending(self.config, self.update, latest)


def evaluation_is_pending(config: TrainConfig, update: int, latest: dict) -> bool:
    """Return whether the run was stopped in the evaluation that is due at `update`. `latest` is the
    run's; in a checkpoint of an older version it has no `val_step`, and its evaluation is made."""
    step = update * config.gradient_accumulation_steps
    done = latest.get("val_step", step) if "val_bpb" in latest else None
    return update > 0 and config.is_due(config.eval_interval, update) and done != step


def plan_run(args: argparse.Namespace, world: World) -> Plan:
    """Return the plan of the run that the flags of train.py ask for. Collective.

    With --dry_run there may be no data yet, and without --resume the folder is not looked at.
    Raises UserError if flags, data and checkpoint contradict each other, or if the ranks differ.
    """
    has_data = not args.dry_run or (args.data_dir / "preprocess_meta.txt").exists()
    data = check_data(args.data_dir, args.verify_data) if has_data else None
    if data is not None:
        if not data.train_digest:
            require(
                not args.verify_data,
                f"{args.data_dir} has no digests to verify: an older version made it; delete preprocess_meta.txt and run data/preprocess.py again",
            )
            world.print(f"notice: {args.data_dir} has no digests, because an older version made it: damage, or another order, is not noticed")
        digests = {name: file_digest(args.data_dir / name) for name in ("train.bin", "val.bin")}
        require_same(world, "data", {"tokenizer": data.fingerprint, **digests}, "copy that machine's --data_dir to all of them")
    saved = from_main(world, lambda: checkpoint_to_resume(args)) if args.resume or not args.dry_run else None
    model_config, config = configs_of(args, data, saved, world)
    require_same(
        world,
        "configuration",
        {**dataclasses.asdict(model_config), **dataclasses.asdict(config), "compute_dtype": str(compute_dtype(world.device))},
        "give the same command on every machine, with GPUs of the same kind",
    )
    config.sequences_per_rank(world.size)  # raises UserError if they do not split evenly
    return Plan(saved["preset"] if saved else args.config or DEFAULT_PRESET, model_config, config, data, saved)


def tokenizer_record(data: DataInfo) -> dict:
    """Return the tokenizer metadata that a checkpoint keeps."""
    return {"fingerprint": data.fingerprint, "vocab_size": data.vocab_size, "bos_id": data.bos_id, "eos_id": data.eos_id}


def data_record(data: DataInfo) -> dict:
    """Return the data metadata that a checkpoint keeps."""
    return {"train_tokens": data.train_tokens, "val_tokens": data.val_tokens, "train_digest": data.train_digest, "val_digest": data.val_digest}


def checkpoint_to_resume(args: argparse.Namespace) -> dict | None:
    """Return the checkpoint that `--resume` asks for, None for a new run. Call it on rank 0 only.

    Raises UserError if the folder holds a run and no `--resume` is given, if it holds files of a
    run but no checkpoint that loads, and if a checkpoint given by path does not load or the folder
    has later ones.
    """
    folder = args.checkpoint_dir
    if args.resume == "auto":
        return _newest_of(folder)
    if args.resume is None:
        if list_checkpoints(folder) or _has_model(folder):
            raise UserError(f"{folder} already holds a run; resume it with --resume auto, or choose another --checkpoint_dir")
        return None
    print(f"resuming from {args.resume}", flush=True)
    saved = load_checkpoint(Path(args.resume))
    if later := [path for step, path in list_checkpoints(folder) if step > saved["step"]]:
        raise UserError(f"{later[-1]} is later than {args.resume}, and the two runs would mix; move it away, or choose another --checkpoint_dir")
    return saved


def _newest_of(folder: Path) -> dict | None:
    """Return the newest checkpoint of `folder` that loads, None if the folder has no file of a run.
    Raises UserError if it has files, but none that loads."""
    errors: list[UserError] = []
    newest = newest_checkpoint(folder, errors.append)
    remedy = "move the folder away to start a new run, or choose another --checkpoint_dir"
    if newest is None and errors:
        reason = str(errors[0]).rpartition("; ")[0]  # without the advice to use an older checkpoint: none loads
        raise UserError(f"no checkpoint in {folder} loads; the newest: {reason}; resume the run with the version that wrote it, {remedy}")
    if newest is None and _has_model(folder):
        raise UserError(f"{folder} holds a model.pt but no checkpoint, and training cannot resume from weights alone; {remedy}")
    for error in errors:
        print_skipped(error)
    print(f"resuming from {newest[0]}" if newest else f"nothing to resume in {folder}: a new run begins", flush=True)
    return newest and newest[1]


def _has_model(folder: Path) -> bool:
    return os.path.lexists(folder / "model.pt")  # a dangling link counts too: training would replace it


def configs_of(args: argparse.Namespace, data: DataInfo | None, saved: dict | None, world: World) -> tuple[GPTConfig, TrainConfig]:
    """Return the configuration of a new run (`saved` is None), or that of the checkpoint `saved`
    updated by the flags that may change.

    `data` is None if there is none yet. Raises UserError if flags, data and checkpoint contradict
    each other.
    """
    if saved is None:
        return configs_for_new_run(args, data and data.vocab_size)
    model_config, config = configs_for_resumed_run(args, saved)
    if data is not None:
        _require_same_data(saved, data, args.data_dir)
        if data.train_digest and not saved["data"].get("train_digest"):
            world.print("notice: the checkpoint has no digest of its data: that it is in the same order cannot be checked")
    if (before := saved["train_config"].get("total_tokens", config.total_tokens)) != config.total_tokens:
        world.print(f"notice: the budget changes from {before:,} to {config.total_tokens:,} tokens, and the schedule of the learning rate with it")
    return model_config, config


def _require_same_data(saved: dict, data: DataInfo, data_dir: Path) -> None:
    differences = [
        f"{part} {key}"
        for part, now in (("tokenizer", tokenizer_record(data)), ("data", data_record(data)))
        for key in now
        if saved[part].get(key) != now[key] and not ("digest" in key and "" in (saved[part].get(key, ""), now[key]))  # "": of an older version
    ]
    if differences:
        raise UserError(
            f"{data_dir} is not the data of this checkpoint: {', '.join(differences)} differ; give the right --data_dir, or start a new run in another --checkpoint_dir"
        )
