"""Evaluate a model: the mean loss, and bits per byte, which is comparable across tokenizers.

bits per byte = (sum of the losses in nats) / (ln 2 * UTF-8 bytes of the targets), over the targets
that are text. Special tokens have no bytes and are excluded from both sums; the mean loss counts
every target except padding.

`python -m nano_hindi.eval` is the command of `evaluation.command`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer as HuggingFaceTokenizer
    from transformers import PreTrainedTokenizerFast

    from nano_hindi.tokenizer import Tokenizer


@dataclass(frozen=True)
class Evaluation:
    """Mean loss in nats per target, and bits per byte; nan if there was nothing to count."""

    loss: float
    bpb: float


def compute_token_bytes(tokenizer: Tokenizer | PreTrainedTokenizerFast | HuggingFaceTokenizer, device: torch.device | str = "cpu") -> torch.Tensor:
    """Return the UTF-8 bytes that each token adds to a text, int32 (V,) with V the largest id + 1;
    special tokens have 0.

    Takes a tokenizer of this package, a fast one of transformers, or a `tokenizers.Tokenizer`.
    Raises UserError for one whose tokens have no fixed bytes.
    """
    import torch

    from nano_hindi.tokenizer import Tokenizer
    from nano_hindi.tokenizer.pieces import hugging_face_token_bytes

    table = tokenizer.token_bytes if isinstance(tokenizer, Tokenizer) else hugging_face_token_bytes(tokenizer)
    return torch.from_numpy(table).to(device)


def evaluate(model: torch.nn.Module, batches: Iterable[tuple[torch.Tensor, torch.Tensor]], token_bytes: torch.Tensor | None = None) -> Evaluation:
    """Return loss and bits per byte over batches of inputs and targets (B, T), target -1 ignored,
    in one pass.

    `model(x, y, loss_reduction="none")` returns the losses (B, T). Sums are float64 on the model's
    device and read back once. In a process group, every rank passes its own shard and gets the
    result over all shards. The model's train or eval mode is restored. Without `token_bytes` (see
    `compute_token_bytes`), bits per byte is nan.
    """
    import torch
    import torch.distributed as dist

    from nano_hindi.common import IGNORED

    device = next(model.parameters()).device
    token_bytes = None if token_bytes is None else token_bytes.to(device)
    sums = torch.zeros(4, dtype=torch.float64, device=device)  # nats and number of all targets; nats and bytes of text targets
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            for x, y in batches:
                x, y = x.to(device, non_blocking=True), y.to(device, non_blocking=True)
                is_target = y != IGNORED
                losses = torch.where(is_target, model(x, y, loss_reduction="none"), 0)
                target_bytes = torch.zeros_like(y) if token_bytes is None else torch.where(is_target, token_bytes[y.clamp(min=0)], 0)
                text_losses = torch.where(target_bytes > 0, losses, 0)
                sums += torch.stack([term.sum(dtype=torch.float64) for term in (losses, is_target, text_losses, target_bytes)])
    finally:
        model.train(was_training)
    if dist.is_initialized():
        dist.all_reduce(sums)
    nats, targets, text_nats, text_bytes = sums.tolist()
    return Evaluation(
        loss=nats / targets if targets else math.nan,
        bpb=text_nats / (math.log(2) * text_bytes) if text_bytes else math.nan,
    )


def evaluate_bpb(model: torch.nn.Module, batches: Iterable[tuple[torch.Tensor, torch.Tensor]], token_bytes: torch.Tensor) -> float:
    """Return only bits per byte; see `evaluate`."""
    return evaluate(model, batches, token_bytes).bpb


def evaluate_loss(model: torch.nn.Module, batches: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> float:
    """Return only the mean loss in nats, without a tokenizer; see `evaluate`."""
    return evaluate(model, batches).loss


if __name__ == "__main__":
    from nano_hindi.evaluation.command import main

    sys.exit(main())
