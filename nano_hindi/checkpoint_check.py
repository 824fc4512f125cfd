"""Check that a complete checkpoint fits its own configuration: names, shapes and types of
everything that a resumed run loads."""

from __future__ import annotations

import torch

from nano_hindi.config import GPTConfig, TrainConfig, from_dict
from nano_hindi.distributed import World
from nano_hindi.errors import UserError
from nano_hindi.model import GPT
from nano_hindi.optim import LossScale, TrainOptimizer


def require_sound(state: dict) -> None:
    """Raise UserError, or what building a model raises, if names, shapes or types differ from what
    the checkpoint's configuration requires."""
    config, recipe = from_dict(GPTConfig, state["model_config"]), from_dict(TrainConfig, state["train_config"])
    if config.n_layer > len(state["model_state_dict"]):  # checked before that many layers are built
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
        raise UserError(f"step {state['step']} does not match {state['tokens_seen']} tokens seen")


def _require_alike(found: object, expected: object, place: str) -> None:
    """Raise UserError, which names the place, if `found` differs from `expected` in type, or its
    tensors in shape or dtype."""
    if type(found) is not type(expected):
        raise UserError(f"{place} is a {type(found).__name__}, not a {type(expected).__name__}")
    if isinstance(expected, dict):
        if different := sorted(map(str, found.keys() ^ expected.keys())):
            raise UserError(f"{place}: {', '.join(different[:3])} {'is' if len(different) == 1 else 'are'} missing or unexpected")
        for key, content in expected.items():
            _require_alike(found[key], content, f"{place} {key}")
    elif isinstance(expected, torch.Tensor):
        form, expected_form = ((tuple(t.shape), t.dtype, t.layout) for t in (found, expected))
        if form != expected_form:
            raise UserError(f"{place} is {form[1]} {form[0]} ({form[2]}), not {expected_form[1]} {expected_form[0]}")
