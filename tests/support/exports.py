"""Make a model.pt with its tokenizer, and load what the export writes, for the tests of exports."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

import standin
from additions import ADDITIONS
from nano_hindi.checkpoint import save_model
from nano_hindi.config import GPTConfig
from nano_hindi.model import GPT
from nano_hindi.tokenizer import load_tokenizer

CONFIG = GPTConfig(
    vocab_size=500, sequence_len=32, n_layer=4, n_head=4, n_kv_head=2, n_embd=128, window_pattern="SLS", **ADDITIONS
)  # c_fc has 512 rows, the same as wte
ATOL = 2e-5  # of logits in float32; larger activations round more: a new part of the network may need more, here and in docs/export.md


def make_checkpoint(folder: Path, kind: str, config: GPTConfig = CONFIG) -> Path:
    """Write a model.pt whose weights are all large enough to affect the logits, and its
    tokenizer."""
    standin.make_tokenizer(folder / "source", config.vocab_size, kind)
    tokenizer = load_tokenizer(folder / "source")
    tokenizer.save(folder / "tokenizer")
    torch.manual_seed(1)
    model = GPT(config)
    model.init_weights()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("c_proj.weight"):
                weight.normal_(std=0.1)
            elif name.endswith(("ve_gate.weight", "lambdas")):
                weight.normal_(mean=0.5, std=0.5)
            elif weight.min() == weight.max():  # zeros or ones
                weight.normal_(std=0.2)
        model.head_weight.normal_(std=0.5)
    state = {"format": 1, "step": 7, "model_state_dict": dict(model.state_dict()), "model_config": dataclasses.asdict(config)}
    return save_model(folder, state | {"tokenizer": {"fingerprint": tokenizer.fingerprint}})


def load(folder: Path, **options):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, **options)


def load_its_tokenizer(folder: Path):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, trust_remote_code=True)


def some_ids(*shape: int) -> torch.Tensor:
    return torch.randint(3, CONFIG.vocab_size, shape, generator=torch.Generator().manual_seed(0))


class LogitsOnly(torch.nn.Module):
    """An exported model for a tracer: from ids and a mask to logits, without a cache."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, ids, mask):
        return self.model(ids, attention_mask=mask, use_cache=False).logits
