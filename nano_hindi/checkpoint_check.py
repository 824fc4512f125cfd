"""Check that a run can resume from a checkpoint: everything that it loads fits the checkpoint's own
configuration."""

from __future__ import annotations

import torch

from nano_hindi.config import GPTConfig, TrainConfig, from_dict
from nano_hindi.distributed import World
from nano_hindi.errors import UserError
from nano_hindi.model import GPT
from nano_hindi.optim import LossScale, TrainOptimizer
from nano_hindi.saved_state import require_alike


def require_sound(state: dict) -> None:
    """Load a checkpoint into a model and optimizers without memory.

    Raises UserError, or what building a model raises, if names, shapes or types differ from what
    the checkpoint's configuration requires.
    """
    config, recipe = from_dict(GPTConfig, state["model_config"]), from_dict(TrainConfig, state["train_config"])
    if config.n_layer > len(state["model_state_dict"]):  # checked before that many layers are built
        raise UserError(f"n_layer is {config.n_layer}, but there are {len(state['model_state_dict'])} tensors")
    with torch.device("meta"):
        model = GPT(config)
    require_alike(state["model_state_dict"], dict(model.state_dict()), "model_state_dict")
    TrainOptimizer(model, recipe, World(0, 1, torch.device("meta"))).load_state_dict(state["optimizers"])
    LossScale(enabled=False).load_state_dict(state["optimizers"].get("loss_scale"))
    require_alike(state["rng"], {"torch": torch.get_rng_state()}, "rng")
    torch.Generator().set_state(state["rng"]["torch"])
    latest = dict.fromkeys(state["metrics"].get("latest", ()), 0.0)
    require_alike(state["metrics"], {"latest": latest, "meter": {"loss_sum": 0.0, "updates": 0}, "skipped": 0}, "metrics")
    if state["step"] < 0 or state["tokens_seen"] != state["step"] * recipe.batch_size * recipe.sequence_len:
        raise UserError(f"step {state['step']} does not match {state['tokens_seen']} tokens seen")
