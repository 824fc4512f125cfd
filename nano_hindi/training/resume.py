"""Find the run that a command line asks for, new or from a checkpoint, and its configuration.
Nothing here writes a file."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from nano_hindi.checkpoint import list_checkpoints, load_checkpoint, newest_checkpoint, print_skipped
from nano_hindi.config import GPTConfig, TrainConfig
from nano_hindi.corpus.prepared import DataInfo
from nano_hindi.distributed import World
from nano_hindi.errors import UserError
from nano_hindi.flags import configs_for_new_run, configs_for_resumed_run


def tokenizer_record(data: DataInfo) -> dict:
    """Return the tokenizer metadata that a checkpoint keeps."""
    return {"fingerprint": data.fingerprint, "vocab_size": data.vocab_size, "bos_id": data.bos_id, "eos_id": data.eos_id}


def data_record(data: DataInfo) -> dict:
    """Return the data metadata that a checkpoint keeps."""
    return {"train_tokens": data.train_tokens, "val_tokens": data.val_tokens}


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
    if (before := saved["train_config"].get("total_tokens", config.total_tokens)) != config.total_tokens:
        world.print(f"notice: the budget changes from {before:,} to {config.total_tokens:,} tokens, and the schedule of the learning rate with it")
    return model_config, config


def updates_made(saved: dict, config: TrainConfig) -> int:
    """Return the number of updates that the run of a checkpoint has made."""
    return saved["tokens_seen"] // config.tokens_per_update


def _require_same_data(saved: dict, data: DataInfo, data_dir: Path) -> None:
    differences = [
        f"{part} {key}"
        for part, now in (("tokenizer", tokenizer_record(data)), ("data", data_record(data)))
        for key in now
        if saved[part].get(key) != now[key]
    ]
    if differences:
        raise UserError(
            f"{data_dir} is not the data of this checkpoint: {', '.join(differences)} differ; give the right --data_dir, or start a new run in another --checkpoint_dir"
        )
