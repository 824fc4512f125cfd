"""Check a checkpoint before it is used: everything in it that a model or a run loads fits the
checkpoint's own configuration."""

from __future__ import annotations

import torch

from nano_hindi.config import GPTConfig, TrainConfig, from_dict
from nano_hindi.distributed import World
from nano_hindi.errors import UserError, quoted, require
from nano_hindi.model import GPT
from nano_hindi.ngrams import NGrams
from nano_hindi.optim import LossScale, TrainOptimizer
from nano_hindi.saved_state import require_alike


def require_fitting_weights(state: dict) -> GPT:
    """Return the model of a checkpoint's configuration, without memory for its weights.

    Raises UserError, or what building a model raises, if the saved weights differ from it in name,
    shape or type, or if the tokenizer has another vocabulary.
    """
    config, weights = from_dict(GPTConfig, state["model_config"]), state["model_state_dict"]
    require(config.n_layer <= len(weights), f"n_layer is {config.n_layer}, but there are {len(weights)} tensors")  # before it builds that many
    with torch.device("meta"):
        model = GPT(config)
    require_alike(weights, dict(model.state_dict()), "model_state_dict")
    tokens = state["tokenizer"].get("vocab_size", config.vocab_size)  # absent in the first versions
    require(tokens == config.vocab_size, f"vocab_size is {config.vocab_size}, but its tokenizer has {quoted(tokens)} tokens")
    require(0 <= state["step"] < 2**63, f"step {quoted(state['step'])} is impossible")
    return model


def require_sound(state: dict, model: GPT) -> None:
    """Check the rest of a complete checkpoint whose weights fit `model`: load it into optimizers
    without memory.

    Raises UserError, or what loading raises, if names, shapes or types differ from what the
    checkpoint's configuration requires.
    """
    recipe = from_dict(TrainConfig, state["train_config"])
    meta = torch.device("meta")
    ngrams = NGrams((), recipe.ngram_buckets, torch.zeros(0), meta) if recipe.ngram_buckets else None
    TrainOptimizer(model, recipe, World(0, 1, meta), ngrams).load_state_dict(state["optimizers"])
    LossScale(enabled=False).load_state_dict(state["optimizers"].get("loss_scale"))
    require_alike(state["rng"], {"torch": torch.get_rng_state()}, "rng")
    torch.Generator().set_state(state["rng"]["torch"])
    latest = dict.fromkeys(state["metrics"].get("latest", ()), 0.0)
    require_alike(state["metrics"], {"latest": latest, "meter": {"loss_sum": 0.0, "updates": 0}, "skipped": 0}, "metrics")
    require_alike(state["data"].get("train_tokens", 0), 0, "data train_tokens")
    record = {"weight": "", "anneal_weight": "", "train_tokens": 0, "val_tokens": 0, "train_digest": "", "val_digest": ""}
    for number, source in enumerate(state["data"].get("sources", [])):
        require_alike(source, record, f"data sources {number}")
    require_alike(state["data"].get("anneal_start", 0), 0, "data anneal_start")
    if "chat" in state:
        require_alike(state["chat"], {"template": 0}, "chat")
    if "parent" in state:
        require_alike(state["parent"], {"file": "", "step": 0, "digest": ""}, "parent")
    if state["tokens_seen"] != state["step"] * recipe.batch_size * recipe.sequence_len:
        raise UserError(f"step {state['step']} does not match {quoted(state['tokens_seen'])} tokens seen")
