"""Checkpoints: saved atomically, loaded without running code, the newest few kept.

A checkpoint is a dict of plain tensors, numbers, strings, lists and dicts with the keys of
CHECKPOINT_KEYS; `model.pt` holds those of MODEL_KEYS. Both may have those of OPTIONAL_KEYS too.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import errno
import os
import re
import sys
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from nano_hindi.checkpoint_check import require_fitting_weights, require_sound
from nano_hindi.common import visible
from nano_hindi.console import shell_quoted
from nano_hindi.errors import UserError, naming, quoted
from nano_hindi.files import replacing, utf8_path

FORMAT = 1
MODEL_KEYS = ("format", "step", "model_state_dict", "model_config", "tokenizer")
# "parent", of a run that began with a model's weights: {"file", "step", "digest"} of that model;
# "chat", of a model that finetune.py made: {"template"}, the version of its chat template
OPTIONAL_KEYS = ("parent", "chat")
_TYPES = {"format": int, "step": int, "tokens_seen": int, "preset": str}  # all others are dicts
CHECKPOINT_KEYS = (*MODEL_KEYS, "tokens_seen", "preset", "optimizers", "train_config", "rng", "metrics", "data")
REASON_CHARACTERS = 300  # of an error about a file's content
_NAME = re.compile(r"checkpoint_step(\d+)\.pt")


def list_checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """Return (step, path) of every checkpoint file in `folder`, oldest first: sorted by number, so
    that 10000 is newer than 9000."""
    if not folder.is_dir():
        return []
    matches = ((_NAME.fullmatch(path.name), path) for path in folder.iterdir())
    return sorted((int(match[1]), path) for match, path in matches if match)


def checkpoint_path(folder: Path, step: int) -> Path:
    """Return the path of the checkpoint of `step` in `folder`."""
    return folder / f"checkpoint_step{step}.pt"


def save_checkpoint(folder: Path, checkpoint: dict, keep: int) -> Path:
    """Write `checkpoint_step{N}.pt`, then delete all but the newest `keep`. The file appears under
    its name complete, or not at all."""
    path = checkpoint_path(folder, checkpoint["step"])
    _save(path, checkpoint)
    remove_superseded(folder, checkpoint["step"], keep)
    return path


def remove_superseded(folder: Path, step: int, keep: int) -> None:
    """Delete the oldest checkpoints before that of `step`, which must be complete, so that `keep`
    remain including it."""
    older = [path for earlier, path in list_checkpoints(folder) if earlier < step]
    for superseded in older[: max(0, len(older) - (keep - 1))]:
        with contextlib.suppress(OSError):  # Windows: another program has it open; the next save tries again
            superseded.unlink()


def save_model(folder: Path, checkpoint: dict) -> Path:
    """Write `model.pt`, the weights and configuration of a checkpoint, for generate.py and
    others."""
    path = folder / "model.pt"
    _save(path, {key: checkpoint[key] for key in (*MODEL_KEYS, *OPTIONAL_KEYS) if key in checkpoint})
    return path


def _save(path: Path, state: dict) -> None:
    require_finite(state["model_state_dict"])
    state = {**state, "model_state_dict": dict(state["model_state_dict"])}  # `Module.state_dict` returns an OrderedDict with metadata
    with replacing(path) as temporary, open(temporary, "wb") as file:  # given a path, torch would hide the operating system's error
        torch.save(state, file)


def remove_leftovers(folder: Path) -> None:
    """Delete the partial files of a killed run. The caller must hold the folder's lock."""
    for path in folder.glob("*.tmp"):
        if _NAME.fullmatch(path.stem) or path.stem in ("model.pt", "metrics.jsonl", "curves.png"):
            with contextlib.suppress(OSError):
                path.unlink()


def require_finite(weights: dict[str, Tensor]) -> None:
    """Raise a UserError that names the weight if one is infinite or NaN."""
    for name, weight in weights.items():
        if not all(extreme.isfinite() for extreme in weight.aminmax()):  # needs no memory, and is ten times as fast as isfinite()
            raise UserError(f"{name} has {int((~weight.isfinite()).sum()):,} non-finite values of {weight.numel():,}")


def load_checkpoint(path: Path, keys: tuple[str, ...] = CHECKPOINT_KEYS) -> dict:
    """Return the dict of a checkpoint file, its tensors memory-mapped on the CPU. No code from the
    file is run.

    Raises UserError if the file is missing, damaged, not a checkpoint, or lacks one of `keys`, if
    its weights are not finite, or if its tensors do not fit its own configuration: a run can resume
    from a complete checkpoint, and a model can be built from MODEL_KEYS. Tensors are compared with
    the checksums in the file, but with MODEL_KEYS only the weights, and the others are not read.
    """
    state, checksums = _read(path, keys)
    _require_keys(path, state, keys)
    is_complete = keys == CHECKPOINT_KEYS
    try:
        model = require_fitting_weights(state)
        if is_complete:
            require_sound(state, model)
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{path} does not fit its own configuration ({reason[:REASON_CHARACTERS]}); use an older one, or the version that wrote it"
        ) from error
    parts = ("model_state_dict", "optimizers", "rng") if is_complete else ("model_state_dict",)
    _require_checksums(path, {part: state[part] for part in parts}, checksums)
    try:
        require_finite(state["model_state_dict"])
    except UserError as error:
        raise UserError(f"{path} has non-finite weights: {error}; use an older one") from error
    return state


def _read(path: Path, keys: tuple[str, ...]) -> tuple[dict, set[tuple[int, int]]]:
    """Return the content of a file and its checksums. Raises UserError if it cannot be read."""
    if path.is_dir():
        raise UserError(
            f"{path} is a folder; name a checkpoint in it, or resume from the newest: --checkpoint_dir {shell_quoted(path)} --resume auto"
        )
    if not path.is_file():
        finds = " (--resume auto finds the newest)" if keys == CHECKPOINT_KEYS else ""
        raise UserError(f"there is no checkpoint {path}; name one that train.py or finetune.py wrote{finds}")
    try:
        with naming(path), warnings.catch_warnings(), utf8_path(path) as readable:
            warnings.simplefilter("ignore")
            while True:
                before = os.stat(readable)
                checksums = saved_checksums(readable)
                state = torch.load(readable, map_location="cpu", weights_only=True, mmap=True)
                if os.path.samestat(before, os.stat(readable)):  # else a run has replaced the file in between
                    break
    except Exception as error:  # a damaged file raises any of them
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # EINVAL: the content asks for impossible positions
            raise  # the file may be whole
        raise UserError(f"{path} is damaged or not a checkpoint of this program ({type(error).__name__}); use an older one") from error
    return state if isinstance(state, dict) else {}, checksums


def _require_keys(path: Path, state: dict, keys: tuple[str, ...]) -> None:
    """Raise UserError unless `state` has `keys`, the format of this version, and values of the
    right types."""
    missing = [key for key in keys if key not in state]
    if missing and {*missing} == {*CHECKPOINT_KEYS} - {*MODEL_KEYS}:
        raise UserError(
            f"{path} holds only weights, from which training cannot resume; name a checkpoint, "
            "or start a new run from them (train.py --init_from, finetune.py --checkpoint)"
        )
    if missing:
        raise UserError(f"{path} is not a checkpoint of this program: it lacks {', '.join(missing)}; use another one")
    if type(state["format"]) is not int or state["format"] != FORMAT:
        raise UserError(f"{path} has format {quoted(state['format'])}, this program reads format {FORMAT}; use the version that wrote it")
    if wrong := [key for key in keys if not (type(state[key]) is _TYPES[key] if key in _TYPES else isinstance(state[key], dict))]:
        raise UserError(f"{path} is damaged: its {', '.join(wrong)} cannot be used; use an older one")


def _require_checksums(path: Path, parts: dict, checksums: set[tuple[int, int]]) -> None:
    """Raise UserError if a tensor of `parts` does not have one of the checksums of the file."""
    names, tensors = zip(*named_tensors(parts), strict=True)
    with concurrent.futures.ThreadPoolExecutor() as threads:
        for name, found in zip(names, threads.map(checksum, tensors), strict=True):
            if found not in checksums:
                raise UserError(f"{path} is damaged: {name} does not match its checksum; use an older one")


def saved_checksums(path: Path) -> set[tuple[int, int]]:
    """Return size and CRC-32 of each record of a file that torch.save wrote, a zip archive with a
    record for each tensor's storage. torch.load does not compare them.

    Raises zipfile.BadZipFile if a record that is not a tensor's does not match.
    """
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
        for record in records:
            if record.compress_type != zipfile.ZIP_STORED:
                raise zipfile.BadZipFile("compressed")  # torch.save does not; a small file could fill the memory
            if "/data/" not in record.filename:
                archive.read(record)  # compares
        return {(record.file_size, record.CRC) for record in records}


def checksum(tensor: Tensor) -> tuple[int, int]:
    """Return size and CRC-32 of a tensor's storage, as in `saved_checksums`."""
    content = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage()).numpy()
    return content.nbytes, zlib.crc32(content.data)


def named_tensors(tree: dict) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of nested dicts, each with its keys as its name."""
    for key, content in tree.items():
        if isinstance(content, Tensor):
            yield str(key), content
        elif isinstance(content, dict):
            yield from ((f"{key} {name}", tensor) for name, tensor in named_tensors(content))


def without_advice(error: UserError) -> str:
    """Return what is wrong with a checkpoint, without the advice to use an older one."""
    return str(error).rpartition("; ")[0]


def print_skipped(error: UserError) -> None:
    """Print that a checkpoint was skipped, and why, to stderr: a generated text goes to stdout."""
    print(visible(f"notice: skipped: {without_advice(error)}"), file=sys.stderr, flush=True)


def newest_checkpoint(
    folder: Path, skip: Callable[[UserError], None] = print_skipped, keys: tuple[str, ...] = CHECKPOINT_KEYS
) -> tuple[Path, dict] | None:
    """Return the newest checkpoint of `folder` that loads, with its content; None if none does.
    `skip` is called with the error of each newer one."""
    for _, path in reversed(list_checkpoints(folder)):
        try:
            return path, load_checkpoint(path, keys)
        except (UserError, FileNotFoundError) as error:
            if not os.path.lexists(path):  # a run has deleted it since, after it had written a newer one
                return newest_checkpoint(folder, skip, keys)
            if not isinstance(error, UserError):
                raise
            skip(error)
    return None
