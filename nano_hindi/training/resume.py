"""Find the run that a command line asks for, new or from a checkpoint, and its configuration.
Nothing here writes a file."""

from __future__ import annotations

import argparse
import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path

from nano_hindi.checkpoint import checkpoint_path, list_checkpoints, load_checkpoint, newest_checkpoint, print_skipped, without_advice
from nano_hindi.common import compute_dtype, visible
from nano_hindi.config import DEFAULT_PRESET, GPTConfig, TrainConfig, from_dict
from nano_hindi.corpus.prepared import METADATA, tokenizer_record
from nano_hindi.distributed import World, from_main, require_same
from nano_hindi.errors import UserError, require
from nano_hindi.flags import configs_for_new_run, configs_for_resumed_run, configs_for_run_from_model
from nano_hindi.fp8 import require_fp8
from nano_hindi.inference.loading import load_for_inference
from nano_hindi.training.chat_data import ChatData, apply_finetune_flags, finetune_recipe, open_chat
from nano_hindi.training.parent import Parent, load_parent, require_same_parent, require_same_tokenizer
from nano_hindi.training.text_data import TextData, different_keys, open_text


@dataclass(frozen=True)
class Plan:
    """A run as the command line asks for it, before anything is built."""

    preset: str
    model_config: GPTConfig
    config: TrainConfig
    data: TextData | ChatData | None  # None only for --dry_run before there is any data
    saved: dict | None  # the checkpoint to resume from; None for a new run
    parent: Parent | None = None  # the model whose weights a new run starts from; None: new weights, or those of `saved`
    has_files: bool = False  # whether the folder holds the checkpoint of `step` and a model.pt of that step

    @property
    def update(self) -> int:
        """Return the number of updates made so far."""
        return self.saved["tokens_seen"] // self.config.tokens_per_update if self.saved else 0

    @property
    def step(self) -> int:
        return self.config.steps_of(self.update)

    @property
    def anneal_start(self) -> int | None:
        """Return the number of updates before the anneal; None if the run has none.

        Another budget moves it as long as it has not begun, but not to before `update`: a stream
        that has been read does not change.
        """
        if self.data is None or not self.data.has_anneal:
            return None
        saved_start = (self.saved["data"] if self.saved else {}).get("anneal_start", self.config.anneal_start)
        return saved_start if self.update > saved_start else max(self.update, self.config.anneal_start)

    @property
    def parent_record(self) -> dict | None:
        """Return what is known of the model that the run started from, None if it started from
        new weights."""
        return self.parent.record if self.parent else self.saved.get("parent") if self.saved else None

    @property
    def is_complete(self) -> bool:
        """Return whether all updates are made, and the evaluation and the files of the end."""
        latest = self.saved["metrics"]["latest"] if self.saved else {}
        return self.update >= self.config.updates and self.has_files and not evaluation_is_pending(self.config, self.update, latest)


def evaluation_is_pending(config: TrainConfig, update: int, latest: dict) -> bool:
    """Return whether the run was stopped in the evaluation that is due at `update`. `latest` is the
    run's; in a checkpoint of an older version it has no `val_step`, and its evaluation is made."""
    step = config.steps_of(update)
    is_made = "val_bpb" in latest and latest.get("val_step", step) == step
    return update > 0 and config.is_due(config.eval_interval, update) and not is_made


def plan_run(args: argparse.Namespace, world: World, chat: bool = False) -> Plan:
    """Return the plan of the run that the flags of train.py ask for, or with `chat` those of
    finetune.py. Collective.

    With --dry_run there may be no data yet, and without --resume the folder is not looked at.
    Raises UserError if flags, data and checkpoint contradict each other, if the folders of data and
    checkpoints are the same, if the data is too small, or if the ranks differ.
    """
    folders = [given.folder for given in (*args.data_dir, *args.anneal_data_dir)]
    if args.checkpoint_dir.resolve() in [folder.resolve() for folder in folders]:
        folder = args.checkpoint_dir / "checkpoints"
        raise UserError(f"--checkpoint_dir and --data_dir are the same folder; give the run another folder, for example --checkpoint_dir {folder}")
    has_data = not args.dry_run or all((folder / METADATA).exists() for folder in folders)
    data: TextData | ChatData | None = None
    if has_data and not chat:  # conversations are opened below: which of them fit depends on the model
        data = open_text(args.data_dir, args.anneal_data_dir, world, args.verify_data)
    saved = from_main(world, lambda: checkpoint_to_resume(args)) if args.resume or not args.dry_run else None
    if saved is not None:
        made_by = "finetune.py" if "chat" in saved else "train.py"
        require(("chat" in saved) == chat, f"the checkpoint was made by {made_by}; resume the run with it")
    parent = from_main(world, lambda: parent_to_load(args, saved))
    if chat:
        if parent is not None:
            shape = parent.shape
        elif saved is not None:
            shape = from_dict(GPTConfig, saved["model_config"])
        else:
            raise UserError("finetune.py needs a model to fine-tune; name it: --checkpoint MODEL")
        data = open_chat(folders[0], shape.sequence_len, world, args.verify_data)
    if parent is not None and data is not None:
        require_same_tokenizer(parent, data)
    model_config, config = configs_of(args, data, saved, world, parent)
    require_same(
        world,
        "configuration",
        {**dataclasses.asdict(model_config), **dataclasses.asdict(config), "compute_dtype": str(compute_dtype(world.device, config.dtype))},
        "give the same command on every machine, with GPUs of the same kind",
    )
    config.sequences_per_rank(world.size)  # raises UserError if they do not split evenly
    if config.fp8_head:
        require_fp8(model_config.n_embd, model_config.vocab_size, compute_dtype(world.device, config.dtype), world.device)
    preset = saved["preset"] if saved else args.config or (parent.preset if parent else DEFAULT_PRESET)
    plan = Plan(preset, model_config, config, data, saved, parent)
    if plan.update < config.updates and plan.anneal_start not in (None, config.anneal_start):
        asked, kept = map(config.steps_of, (config.anneal_start, plan.anneal_start))
        world.print(
            f"notice: the anneal begins after step {kept:,}, not {asked:,} as this budget implies, because the text that was read cannot change"
        )
    if data is not None:  # raise UserError now if a split is shorter than a sequence, not at the first evaluation
        data.val_batches(config, 1, world)
        data.loader(config, plan.anneal_start)
    if plan.update < config.updates or args.dry_run:
        return plan
    return dataclasses.replace(plan, has_files=from_main(world, lambda: holds_end(args.checkpoint_dir, plan.step)))


def parent_to_load(args: argparse.Namespace, saved: dict | None) -> Parent | None:
    """Return the model of `--init_from` for a new run; None without the flag, and for a resumed
    run, which must have begun with that model. Call it on rank 0 only.

    Raises UserError if the model does not load.
    """
    if args.init_from is None:
        return None
    try:
        parent = load_parent(args.init_from)
    except UserError as error:
        raise UserError(f"{error} (a resumed run does not need it)") if saved else error from None
    if saved is not None:
        require_same_parent(saved, parent)
        return None
    return parent


def checkpoint_to_resume(args: argparse.Namespace) -> dict | None:
    """Return the checkpoint that `--resume` asks for, None for a new run. Call it on rank 0 only.

    Raises UserError if the folder holds a run and no `--resume` is given, if it holds files of a
    run but no checkpoint that loads, and if a checkpoint given by path does not load, is of another
    folder while this one holds a run, or the folder has later ones.
    """
    folder = args.checkpoint_dir
    if args.resume == "auto":
        return _newest_of(folder)
    if args.resume is None:
        if list_checkpoints(folder) or _has_model(folder):
            raise UserError(f"{folder} already holds a run; resume it with --resume auto, or choose another --checkpoint_dir")
        return None
    print(visible(f"resuming from {args.resume}"), flush=True)
    saved = load_checkpoint(Path(args.resume))
    if Path(args.resume).parent.resolve() != folder.resolve() and (list_checkpoints(folder) or _has_model(folder)):
        raise UserError(
            f"{folder} already holds a run, which this one would replace; choose another --checkpoint_dir, or resume it with --resume auto"
        )
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
        raise UserError(
            f"no checkpoint in {folder} loads; the newest: {without_advice(errors[0])}; resume the run with the version that wrote it, {remedy}"
        )
    if newest is None and _has_model(folder):
        raise UserError(f"{folder} holds a model.pt but no checkpoint, and training cannot resume from weights alone; {remedy}")
    for error in errors:
        print_skipped(error)
    print(visible(f"resuming from {newest[0]}" if newest else f"nothing to resume in {folder}: starting a new run"), flush=True)
    return newest and newest[1]


def holds_end(folder: Path, step: int) -> bool:
    """Return whether `folder` holds the checkpoint of `step` and a model.pt of that step which
    loads."""
    try:
        trained = load_for_inference(folder / "model.pt")
    except UserError:
        return False
    return trained.step == step and checkpoint_path(folder, step).is_file()


def _has_model(folder: Path) -> bool:
    return os.path.lexists(folder / "model.pt")  # a dangling link counts too: training would replace it


def configs_of(
    args: argparse.Namespace, data: TextData | ChatData | None, saved: dict | None, world: World, parent: Parent | None
) -> tuple[GPTConfig, TrainConfig]:
    """Return the configuration of a new run (`saved` is None), with the weights of `parent` if
    there is one, or that of the checkpoint `saved` updated by the flags that may change.

    `data` is None if there is none yet. Prints notices about the budget and the data of
    a checkpoint. Raises UserError if flags, data and checkpoint contradict each other.
    """
    if parent is not None and isinstance(data, ChatData):
        return parent.shape, finetune_recipe(args, data)
    if parent is not None:
        return configs_for_run_from_model(args, parent.shape, parent.recipe)
    if saved is None:
        return configs_for_new_run(args, data.tokenizer.vocab_size if data else None)
    if isinstance(data, ChatData):
        apply_finetune_flags(args, data, from_dict(TrainConfig, saved["train_config"]))
    model_config, config = configs_for_resumed_run(args, saved)
    if data is not None:
        _require_same_data(saved, data)
        if data.record(None).get("train_digest") and not saved["data"].get("train_digest"):
            world.print("notice: the checkpoint has no digest of its data, so the order of the data cannot be checked")
    budget = data.budget_flag if data else "--total_tokens"
    if config.updates < (made := saved["tokens_seen"] // config.tokens_per_update):
        world.print(f"notice: {saved['tokens_seen']:,} tokens are done, more than the {config.total_tokens:,} of {budget}: the run ends here")
        return model_config, dataclasses.replace(config, total_tokens=made * config.tokens_per_update)
    if (before := saved["train_config"].get("total_tokens", config.total_tokens)) != config.total_tokens:
        world.print(f"notice: the budget changes from {before:,} to {config.total_tokens:,} tokens, and the learning-rate schedule with it")
    return model_config, config


def _require_same_data(saved: dict, data: TextData | ChatData) -> None:
    differences = [
        f"{kind} {key}"
        for kind, now in (("tokenizer", tokenizer_record(data.tokenizer)), ("data", data.record(None)))
        for key in different_keys(saved[kind], now)
    ]
    if differences:
        flag = "--checkpoint" if isinstance(data, ChatData) else "--init_from"
        remedy = f"start a new run in another --checkpoint_dir ({flag} MODEL starts it from the weights of this one)"
        if saved["tokenizer"].get("fingerprint") != data.tokenizer.fingerprint:  # a new run from its weights would be refused too
            remedy = f"make the data again with the tokenizer of this run: {data.maker} --tokenizer MODEL"
        folders = "--data_dir and --anneal_data_dir" if data.has_anneal or "anneal_start" in saved["data"] else "--data_dir"
        raise UserError(f"{data} is not the data of this checkpoint: {', '.join(differences)} differ; give the right {folders}, or {remedy}")
