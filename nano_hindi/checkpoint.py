"""Checkpoints: saved whole or not at all, loaded without running code, the newest few kept.

A checkpoint is a dict of plain tensors, numbers, strings, lists and dicts with the keys of CHECKPOINT_KEYS; `model.pt` holds those of MODEL_KEYS.
"""

from __future__ import annotations

import contextlib
import errno
import pickle
import re
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from nano_hindi.common import World, compute_dtype, replacing
from nano_hindi.config import GPTConfig, TrainConfig, from_dict
from nano_hindi.errors import UserError

if TYPE_CHECKING:
    from nano_hindi.model import GPT
    from nano_hindi.tokenizer import Tokenizer

FORMAT = 1
MODEL_KEYS = ("format", "step", "model_state_dict", "model_config", "tokenizer")
_TYPES = {"format": int, "step": int, "tokens_seen": int, "preset": str}  # all others are dicts
CHECKPOINT_KEYS = (*MODEL_KEYS, "tokens_seen", "preset", "optimizers", "train_config", "rng", "metrics", "data")
_NAME = re.compile(r"checkpoint_step(\d+)\.pt")


def list_checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """(step, path) of every checkpoint file of `folder`, oldest first: by number, so that 10000 is newer than 9000."""
    if not folder.is_dir():
        return []
    matches = ((_NAME.fullmatch(path.name), path) for path in folder.iterdir())
    return sorted((int(match[1]), path) for match, path in matches if match)


def save_checkpoint(folder: Path, checkpoint: dict, keep: int) -> Path:
    """Write `checkpoint_step{N}.pt`, then delete all but the newest `keep`. The file appears under its name complete or not at all."""
    path = folder / f"checkpoint_step{checkpoint['step']}.pt"
    _save(path, checkpoint, CHECKPOINT_KEYS)
    remove_superseded(folder, checkpoint["step"], keep)
    return path


def remove_superseded(folder: Path, step: int, keep: int) -> None:
    """Delete the oldest checkpoints before that of `step`, which is whole, so that `keep` stay with it."""
    older = [path for earlier, path in list_checkpoints(folder) if earlier < step]
    for superseded in older[: max(0, len(older) - (keep - 1))]:
        with contextlib.suppress(OSError):  # Windows: somebody reads it; the next save tries again
            superseded.unlink()


def save_model(folder: Path, checkpoint: dict) -> Path:
    """Write `model.pt`, the weights and configuration of a checkpoint, for generate.py and others."""
    path = folder / "model.pt"
    _save(path, {key: checkpoint[key] for key in MODEL_KEYS}, MODEL_KEYS)
    return path


def _save(path: Path, state: dict, keys: tuple[str, ...]) -> None:
    if missing := set(keys) - set(state):
        raise KeyError(f"a checkpoint needs {sorted(missing)}")
    with replacing(path) as temporary:
        open(temporary, "wb").close()  # a folder that is gone or read-only says so here
        try:
            torch.save(state, temporary)
        except RuntimeError as error:  # torch's own zip writer hides the operating system's reason
            free = shutil.disk_usage(path.parent).free
            raise OSError(errno.ENOSPC, f"could not be written whole ({free / 1e6:.0f} MB are free there)", str(path)) from error


def remove_leftovers(folder: Path) -> None:
    """Delete the half-written files that a killed process left behind. Only for the one that holds the folder's lock."""
    for path in folder.glob("*.tmp"):
        if _NAME.fullmatch(path.stem) or path.stem in ("model.pt", "metrics.jsonl", "curves.png"):
            with contextlib.suppress(OSError):
                path.unlink()


def load_checkpoint(path: Path, keys: tuple[str, ...] = CHECKPOINT_KEYS) -> dict:
    """The dict of a checkpoint file, its tensors mapped from the file on the CPU. No code of the file is run.

    Raises UserError where the file is missing, damaged, foreign, or lacks one of `keys`, and where the tensors of a whole checkpoint do not fit its own
    configuration: what this returns can be taken over.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder; name a checkpoint in it, or let train.py find the newest: --checkpoint_dir {path} --resume auto")
    if not path.is_file():
        raise UserError(f"there is no checkpoint {path}; name one that train.py wrote (its --resume auto finds the newest)")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except PermissionError:
        raise
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError, OSError) as error:
        raise UserError(f"{path} is damaged or no checkpoint of this program ({type(error).__name__}); use an older one") from error
    state = state if isinstance(state, dict) else {}
    if missing := [key for key in keys if key not in state]:
        raise UserError(f"{path} is no checkpoint of this program: it lacks {', '.join(missing)}; use another one")
    if state["format"] != FORMAT:
        raise UserError(f"{path} has format {state['format']!r}, this program reads format {FORMAT}; use the version that wrote it")
    if wrong := [key for key in keys if not isinstance(state[key], _TYPES.get(key, dict))]:
        raise UserError(f"{path} is damaged: its {', '.join(wrong)} cannot be used; use an older one")
    if keys == CHECKPOINT_KEYS:
        try:
            _require_sound(state)
        except Exception as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(f"{path} does not fit its own configuration ({reason}); use an older one") from error
    return state


def _require_sound(state: dict) -> None:
    """Raises UserError, or what building a model raises, where names, shapes or types are others than the checkpoint's configuration asks for."""
    from nano_hindi.model import GPT
    from nano_hindi.optim import LossScale, TrainOptimizer

    config, recipe = from_dict(GPTConfig, state["model_config"]), from_dict(TrainConfig, state["train_config"])
    if config.n_layer > len(state["model_state_dict"]):  # before so many are built
        raise UserError(f"n_layer is {config.n_layer}, but there are {len(state['model_state_dict'])} tensors")
    with torch.device("meta"):  # shapes without memory
        model = GPT(config)
    weights, muon = dict(model.state_dict()), TrainOptimizer(model, recipe, World(0, 1, torch.device("meta"))).muon.state_dict()
    moments = {
        name: {"step": torch.zeros(()), "exp_avg": weight, "exp_avg_sq": weight} for name, weight in weights.items() if name not in muon["momentum"]
    }
    expected = {
        "model_state_dict": weights,
        "optimizers": {
            "muon": muon,
            "adamw": moments if state["optimizers"].get("adamw") else {},
            "loss_scale": LossScale(enabled=False).state_dict(),
        },
        "rng": {"torch": torch.get_rng_state()},
        "metrics": {"latest": dict.fromkeys(state["metrics"].get("latest", ()), 0.0), "meter": {"loss_sum": 0.0, "updates": 0}, "skipped": 0},
    }
    for key, content in expected.items():
        _require_alike(state[key], content, key)
    torch.Generator().set_state(state["rng"]["torch"])
    if state["step"] < 0 or state["tokens_seen"] != state["step"] * recipe.batch_size * recipe.sequence_len:
        raise UserError(f"step {state['step']} is not where {state['tokens_seen']} tokens lead")


def _require_alike(found: object, expected: object, place: str) -> None:
    """Raises UserError where `found` is of another type, or its tensors have other shapes or dtypes, than `expected`; names the place."""
    if type(found) is not type(expected):
        raise UserError(f"{place} is a {type(found).__name__}, not a {type(expected).__name__}")
    if isinstance(expected, dict):
        if different := sorted(map(str, found.keys() ^ expected.keys())):
            raise UserError(f"{place}: {', '.join(different[:3])} {'is' if len(different) == 1 else 'are'} missing or too much")
        for key, content in expected.items():
            _require_alike(found[key], content, f"{place} {key}")
    elif isinstance(expected, torch.Tensor):
        form, expected_form = ((tuple(t.shape), t.dtype, t.layout) for t in (found, expected))
        if form != expected_form:
            raise UserError(f"{place} is {form[1]} {form[0]} ({form[2]}), not {expected_form[1]} {expected_form[0]}")


def print_skipped(error: UserError) -> None:
    """Tell the user of a checkpoint that does not load, and why."""
    print(f"notice: skipped: {error}", flush=True)


def newest_checkpoint(
    folder: Path, skip: Callable[[UserError], None] = print_skipped, keys: tuple[str, ...] = CHECKPOINT_KEYS
) -> tuple[Path, dict] | None:
    """Return the newest checkpoint of `folder` that loads, with its content; None where none does. `skip` is called with the error of each newer one."""
    for _, path in reversed(list_checkpoints(folder)):
        try:
            return path, load_checkpoint(path, keys)
        except UserError as error:
            skip(error)
    return None


@dataclass(frozen=True)
class TrainedModel:
    """What generation needs of a run."""

    config: GPTConfig
    state_dict: dict[str, torch.Tensor]
    step: int
    tokenizer: Tokenizer
    path: Path


def load_for_inference(path: Path | str) -> TrainedModel:
    """The model of a checkpoint, of a `model.pt`, or of the later of both in a folder, with the tokenizer that lies beside it.

    Raises UserError where there is none, where a file is damaged, or where the tokenizer is another than the model was trained with.
    """
    from nano_hindi.tokenizer import load_tokenizer

    path = Path(path)
    file = _latest_model(path) if path.is_dir() else path
    state = load_checkpoint(file, MODEL_KEYS)
    folder = file.parent / "tokenizer"
    if not folder.is_dir():
        raise UserError(f"the tokenizer of {file} is missing: the folder {folder} should hold it")
    tokenizer = load_tokenizer(str(folder))
    if tokenizer.fingerprint() != state["tokenizer"].get("fingerprint"):
        raise UserError(f"{folder} is not the tokenizer that {file} was trained with (their fingerprints differ); put the right one there")
    return TrainedModel(from_dict(GPTConfig, state["model_config"]), state["model_state_dict"], state["step"], tokenizer, file)


def build_model(trained: TrainedModel, device: torch.device) -> GPT:
    """The model of a checkpoint, on its device and ready to predict. Raises UserError where the weights do not fit the configuration."""
    from nano_hindi.flash_attention import select_backend
    from nano_hindi.model import GPT

    config = trained.config
    with torch.device("meta"):
        model = GPT(config)
    model.to_empty(device=device)
    try:
        model.load_state_dict(trained.state_dict)
    except RuntimeError as error:
        raise UserError(f"the weights of {trained.path} do not fit its own configuration; use another checkpoint") from error
    model.eval()
    model.compute_dtype = compute_dtype(device)
    select_backend(device, model.compute_dtype, head_dim=config.head_dim, n_head=config.n_head, n_kv_head=config.n_kv_head, training=False)
    return model


def _latest_model(folder: Path) -> Path:
    newest = newest_checkpoint(folder, keys=MODEL_KEYS)
    model = folder / "model.pt"
    if model.is_file() and (newest is None or load_checkpoint(model, MODEL_KEYS)["step"] >= newest[1]["step"]):
        return model
    if newest is None:
        which = "no checkpoint that loads" if list_checkpoints(folder) else "no checkpoint"
        raise UserError(f"there is {which} in {folder}; train one first: python train.py --config 25m --checkpoint_dir {folder}")
    return newest[0]
