"""Load a trained model from its file, ready for inference."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

import torch

from nano_hindi.checkpoint import MODEL_KEYS, checkpoint_path, list_checkpoints, load_checkpoint, newest_checkpoint, print_skipped
from nano_hindi.common import compute_dtype
from nano_hindi.config import GPTConfig, from_dict
from nano_hindi.console import python_command, shell_quoted
from nano_hindi.errors import UserError, require
from nano_hindi.flash_attention import select_backend
from nano_hindi.model import GPT
from nano_hindi.tokenizer import Tokenizer, load_tokenizer


@dataclass(frozen=True)
class TrainedModel:
    """The parts of a checkpoint that inference needs, and the tokenizer."""

    config: GPTConfig
    state_dict: dict[str, torch.Tensor]
    step: int
    tokenizer: Tokenizer
    path: Path
    is_chat: bool  # fine-tuned on conversations of chat/template.py


def load_for_inference(path: Path | str) -> TrainedModel:
    """Load a checkpoint, a `model.pt`, or the later of both in a folder, with the tokenizer in the
    same folder.

    Raises UserError if there is none, if it is damaged or does not fit its own configuration, or if
    the model was trained with another tokenizer.
    """
    path = Path(path)
    file, state = _latest_model(path) if path.is_dir() else (path, load_checkpoint(path, MODEL_KEYS))
    config = from_dict(GPTConfig, state["model_config"])
    folder = file.parent / "tokenizer"
    if not folder.is_dir():
        raise UserError(f"the tokenizer of {file} is missing: it should be in {folder}; put it there")
    tokenizer = load_tokenizer(str(folder))
    if tokenizer.fingerprint != state["tokenizer"].get("fingerprint"):
        raise UserError(f"{folder} is not the tokenizer that {file} was trained with (their fingerprints differ); put the right one there")
    tokenizer.name = str(state["tokenizer"].get("name", tokenizer.name))  # its origin, not the folder of the copy; older versions recorded none
    require(tokenizer.vocab_size == config.vocab_size, f"{file} has a vocabulary of {config.vocab_size} tokens, its tokenizer {tokenizer.vocab_size}")
    return TrainedModel(config, state["model_state_dict"], state["step"], tokenizer, file, "chat" in state)


def training_record(trained: TrainedModel, keys: tuple[str, ...]) -> dict:
    """Return the checkpoint that a model is from, with `keys`: its own file or, for a model.pt, the
    checkpoint of the same step beside it. Empty if neither loads."""
    for path in (trained.path, checkpoint_path(trained.path.parent, trained.step)):
        with contextlib.suppress(UserError):  # a model.pt has no record; a checkpoint may be deleted
            return load_checkpoint(path, keys)
    return {}


def build_model(trained: TrainedModel, device: torch.device) -> GPT:
    """Return the model on its device, in evaluation mode, with its weights in the compute dtype:
    cast once here, not again for every token."""
    config, dtype = trained.config, compute_dtype(device)
    with torch.device("meta"):
        model = GPT(config)
    weights = {name: w.to(device, dtype, copy=True, memory_format=torch.contiguous_format) for name, w in trained.state_dict.items()}
    model.load_state_dict(weights, assign=True)  # `to_empty` would import sympy: one more second at every start
    model.eval()
    model.compute_dtype = dtype
    select_backend(device, dtype, head_dim=config.head_dim, n_head=config.n_head, n_kv_head=config.n_kv_head, training=False)
    return model


def _latest_model(folder: Path) -> tuple[Path, dict]:
    """Return the latest of model.pt and the checkpoints in `folder` that loads, with its
    content."""
    checkpoints, model, trained = list_checkpoints(folder), folder / "model.pt", None
    if model.is_file():
        try:
            trained = load_checkpoint(model, MODEL_KEYS)
        except UserError as error:
            if not checkpoints:
                raise
            print_skipped(error)
    if trained is None or (checkpoints and checkpoints[-1][0] > trained["step"]):
        newest = newest_checkpoint(folder, keys=MODEL_KEYS)
        if newest is not None and (trained is None or newest[1]["step"] > trained["step"]):
            return newest
    if trained is None:
        if checkpoints:
            raise UserError(f"no checkpoint in {folder} loads; copy the files again, or move the folder away and train again")
        if (folder / "config.json").is_file():
            raise UserError(f"{folder} is an export, for other programs; name the folder of the checkpoints that it was made from")
        if models := sorted(file.parent for name in ("model.pt", "checkpoint_step*.pt") for file in folder.glob(f"*/{name}")):
            raise UserError(f"there is no checkpoint in {folder}, but folders in it have one; name the model's folder: {shell_quoted(models[0])}")
        raise UserError(f"there is no checkpoint in {folder}; check the path, or train a model first: {python_command('train.py')}")
    return model, trained
