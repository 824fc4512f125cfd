"""Load a trained model from its file, ready for inference."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from nano_hindi.checkpoint import MODEL_KEYS, list_checkpoints, load_checkpoint, newest_checkpoint
from nano_hindi.common import compute_dtype
from nano_hindi.config import GPTConfig, from_dict
from nano_hindi.console import quoted
from nano_hindi.errors import UserError
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


def load_for_inference(path: Path | str) -> TrainedModel:
    """Load a checkpoint, a `model.pt`, or the later of both in a folder, with the tokenizer in the
    same folder.

    Raises UserError if there is none, if a file is damaged, or if the model was trained with
    another tokenizer.
    """
    path = Path(path)
    file = _latest_model(path) if path.is_dir() else path
    state = load_checkpoint(file, MODEL_KEYS)
    folder = file.parent / "tokenizer"
    if not folder.is_dir():
        raise UserError(f"the tokenizer of {file} is missing: it should be in {folder}; put it there")
    tokenizer = load_tokenizer(str(folder))
    if tokenizer.fingerprint() != state["tokenizer"].get("fingerprint"):
        raise UserError(f"{folder} is not the tokenizer that {file} was trained with (their fingerprints differ); put the right one there")
    return TrainedModel(from_dict(GPTConfig, state["model_config"]), state["model_state_dict"], state["step"], tokenizer, file)


def build_model(trained: TrainedModel, device: torch.device) -> GPT:
    """Return the model on its device, in evaluation mode. Raises UserError if the weights do not
    fit the configuration."""
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
    """Return the newest checkpoint of a folder, or its `model.pt` if that is not of an earlier
    step. Raises UserError if there is neither."""
    newest = newest_checkpoint(folder, keys=MODEL_KEYS)
    model = folder / "model.pt"
    if model.is_file() and (newest is None or load_checkpoint(model, MODEL_KEYS)["step"] >= newest[1]["step"]):
        return model
    if newest is None:
        which = "no checkpoint that loads" if list_checkpoints(folder) else "no checkpoint"
        raise UserError(f"there is {which} in {folder}; train one first: python train.py --config 25m --checkpoint_dir {quoted(folder)}")
    return newest[0]
