"""The parent of a run: a trained model, from whose weights a new run starts (`--init_from`)."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch

from nano_hindi.checkpoint import MODEL_KEYS
from nano_hindi.common import visible
from nano_hindi.config import DEFAULT_PRESET, PRESETS, GPTConfig, TrainConfig, from_dict, get_train_config
from nano_hindi.errors import UserError, require
from nano_hindi.inference.loading import TrainedModel, load_for_inference, training_record
from nano_hindi.training.chat_data import ChatData
from nano_hindi.training.text_data import TextData


@dataclass(frozen=True)
class Parent:
    """A trained model, with what a new run takes from it."""

    path: Path  # of its file
    step: int
    digest: str  # of its weights
    shape: GPTConfig
    state_dict: dict[str, torch.Tensor]
    fingerprint: str  # of its tokenizer
    preset: str
    recipe: TrainConfig  # of a run without --config

    @property
    def record(self) -> dict[str, object]:
        """Return what the checkpoints and model.pt of the run keep about its parent."""
        return {"file": visible(str(self.path)), "step": self.step, "digest": self.digest}


def load_parent(path: Path) -> Parent:
    """Return the model of a checkpoint, a model.pt or a folder, which is resolved as generate.py
    does. Of its optimizers, counters and other keys nothing is kept.

    Raises UserError as `load_for_inference` does.
    """
    trained = load_for_inference(path)
    preset, recipe = _recipe(trained)
    return Parent(
        path=trained.path,
        step=trained.step,
        digest=weights_digest(trained.state_dict),
        shape=trained.config,
        state_dict=trained.state_dict,
        fingerprint=trained.tokenizer.fingerprint,
        preset=preset,
        recipe=dataclasses.replace(recipe, sequence_len=trained.config.sequence_len, device_batch_size="auto", dtype="auto"),
    )


def weights_digest(weights: dict[str, torch.Tensor]) -> str:
    """Return a hash of names and values: the same for a checkpoint and the model.pt of its step."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _recipe(trained: TrainedModel) -> tuple[str, TrainConfig]:
    """Return the preset of the model's shape and its recipe. Where there is none: those of the
    model's own run, from its checkpoint; or the default ones if the model.pt has no checkpoint
    beside it."""
    for name, (shape, recipe) in PRESETS.items():
        if dataclasses.replace(shape, vocab_size=trained.config.vocab_size) == trained.config:
            return name, recipe
    if saved := training_record(trained, (*MODEL_KEYS, "preset", "train_config")):
        with contextlib.suppress(UserError):  # a recipe of another version
            return saved["preset"], from_dict(TrainConfig, saved["train_config"])
    return DEFAULT_PRESET, get_train_config(DEFAULT_PRESET)


def require_same_tokenizer(parent: Parent, data: TextData | ChatData) -> None:
    """Raise UserError if the data was made with another tokenizer than the model's: the rows of its
    embedding would belong to other tokens."""
    own, right = data.tokenizer, parent.path.parent / "tokenizer"
    require(
        own.fingerprint == parent.fingerprint,
        f"{data.tokenizer_dir.parent} was made with the tokenizer {own.name} ({own.vocab_size:,} tokens, fingerprint {own.fingerprint[:12]}), and "
        f"{parent.path} was trained with {right} ({parent.shape.vocab_size:,} tokens, fingerprint {parent.fingerprint[:12]}); "
        f"run {data.maker} with --tokenizer {parent.path}",
    )


def require_same_parent(saved: dict, parent: Parent) -> None:
    """Raise UserError if the run of a checkpoint did not start from the weights of `parent`."""
    record, flag = saved.get("parent"), "--checkpoint" if "chat" in saved else "--init_from"
    remedy = f"a resumed run needs no {flag}: omit it, or start a new run in another --checkpoint_dir"
    if record is None:
        raise UserError(f"this run did not begin from a model, and {flag} names {parent.path}; {remedy}")
    require(
        record["digest"] == parent.digest,
        f"this run began from {record['file']} (step {record['step']}), and {flag} names other weights, {parent.path} (step {parent.step}); {remedy}",
    )
