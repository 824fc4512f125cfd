"""Convert the weights, the configuration and the tokenizer of a model to the files of an export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from nano_hindi.errors import require
from nano_hindi.files import write_text

if TYPE_CHECKING:
    from torch import Tensor

    from nano_hindi.config import GPTConfig
    from nano_hindi.inference.loading import TrainedModel
    from nano_hindi.tokenizer import Tokenizer

CODE = Path(__file__).resolve().with_name("modeling_nano_hindi.py")
ONNX_BYTES = 2**31 - 2**20  # a protobuf message is smaller than 2 GiB; the graph itself needs far less than 1 MiB


# ---- weights


def exported_weights(config: GPTConfig, state_dict: dict[str, Tensor], dtype: str) -> dict[str, Tensor]:
    """Return the weights under the names of `modeling_nano_hindi.py`: the parameters of a layer are
    grouped under it, and there are no padding rows."""
    import torch

    weights: dict[str, Tensor] = {}
    for name, weight in state_dict.items():
        kind, *rest = name.split(".")
        if kind in ("resid_lambdas", "x0_lambdas"):
            weights |= {f"model.h.{layer}.mix.{kind.removesuffix('s')}": value for layer, value in enumerate(weight.split(1))}
        elif kind == "value_embeds":
            weights[f"model.h.{rest[0]}.attn.value_embed.weight"] = weight[: config.vocab_size]
        else:
            is_table = name in ("transformer.wte.weight", "lm_head.weight")
            weights[name.replace("transformer.", "model.")] = weight[: config.vocab_size] if is_table else weight
    return {name: weight.to(getattr(torch, dtype)).clone() for name, weight in weights.items()}


def write_weights(path: Path, weights: dict[str, Tensor]) -> None:
    from safetensors.torch import save

    path.write_bytes(save(weights, metadata={"format": "pt"}))  # `save_file` would hide the operating system's error


def write_onnx(path: Path, trained: TrainedModel, weights: dict[str, Tensor], dtype: str) -> None:
    """Write the graph of onnx_graph.py. Raises UserError if it is too large for one file."""
    import nano_hindi
    from nano_hindi.export.onnx_graph import build

    metadata = {"nano_hindi": nano_hindi.__version__, "step": str(trained.step), "tokenizer": trained.tokenizer.fingerprint}
    model = build(trained.config, {name: weight.numpy() for name, weight in weights.items()}, dtype, metadata)
    size = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    require(size < ONNX_BYTES, f"{size / 1e9:.1f} GB of weights do not fit into an ONNX file, which holds 2 GB; use --dtype int8")
    path.write_bytes(model.SerializeToString())


# ---- configuration and tokenizer


def config_json(config: GPTConfig, tokenizer: Tokenizer, dtype: str) -> dict:
    """Return the configuration under the names that transformers uses. Raises UserError for windows
    of one key."""
    from nano_hindi.model import MLP_FACTOR, SOFTCAP

    module = CODE.stem
    short = min(config.windows)
    require(short > 1, "the cache of transformers cannot have windows of one key, which this model's short layers have; use --format onnx")
    return {
        "architectures": ["NanoHindiForCausalLM"],
        "auto_map": {
            "AutoConfig": f"{module}.NanoHindiConfig",
            "AutoModel": f"{module}.NanoHindiModel",
            "AutoModelForCausalLM": f"{module}.NanoHindiForCausalLM",
        },
        **common_config(config, tokenizer, dtype),
        "num_attention_heads": config.n_head,
        "intermediate_size": MLP_FACTOR * config.n_embd,
        "layer_types": ["sliding_attention" if window < config.sequence_len else "full_attention" for window in config.windows],
        "sliding_window": short if short < config.sequence_len else None,
        "full_window": config.sequence_len,
        "value_embedding_layers": list(config.value_embedding_layers),
        "smear": config.smear,
        "embedding_conv": config.embedding_conv,
        "final_logit_softcapping": SOFTCAP,
        "use_cache": True,
        "tie_word_embeddings": config.tie_embeddings,
    }


def onnx_config_json(trained: TrainedModel, dtype: str) -> dict:
    """Return what a program needs to know to generate text with the graph.

    `prompt` is what to put a text or a question into, after the replacements in `replace`. A chat
    model's begins with bos. `stop` are the texts that end an answer as eos does: the line end at
    their beginning may be that of the prompt.
    """
    from nano_hindi.chat import template

    config, tokenizer = trained.config, trained.tokenizer
    chat = {
        "prompt": f"{tokenizer.piece(tokenizer.bos_id)}{template.MARKERS['user']}\n{{}}\n\n{template.MARKERS['assistant']}\n",
        "replace": template.replacements(tokenizer),
        "stop": template.STOP,
    }
    return {
        **common_config(config, tokenizer, dtype),
        "tokens_before": config.tokens_before,
        **(chat if trained.is_chat else {"prompt": "{}", "replace": template.special_token_replacements(tokenizer), "stop": []}),
    }


def common_config(config: GPTConfig, tokenizer: Tokenizer, dtype: str) -> dict:
    """Return what the configurations of both formats have."""
    return {
        "model_type": "nano_hindi",
        "dtype": dtype,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.sequence_len,
        "num_hidden_layers": config.n_layer,
        "num_key_value_heads": config.n_kv_head,
        "hidden_size": config.n_embd,
        "head_dim": config.head_dim,
        **special_ids(tokenizer),
    }


def generation_json(tokenizer: Tokenizer) -> dict:
    """Return a generation config with the default settings of generate.py."""
    from nano_hindi.inference.settings import SAMPLING, Settings

    settings = Settings()
    sampling = {name: getattr(settings, name) for name in SAMPLING}
    return {**special_ids(tokenizer), "do_sample": True, **sampling, "max_new_tokens": settings.max_tokens}


def special_ids(tokenizer: Tokenizer) -> dict[str, int]:
    return {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id, "pad_token_id": pad_id(tokenizer)}


def pad_id(tokenizer: Tokenizer) -> int:
    """Return the special token that pads batches: the first that no text has, such as <unk>, or eos
    if there is none.

    Collators ignore the padding token in the loss: a model fine-tuned with eos as padding would not
    learn to end a text.
    """
    return min(tokenizer.special_ids - {tokenizer.bos_id, tokenizer.eos_id}, default=tokenizer.eos_id)


def write_tokenizer(folder: Path, tokenizer: Tokenizer, is_chat: bool = False) -> None:
    """Write the tokenizer so that it puts bos before every text, as in training, and pads batches
    on the left. That of a chat model has the chat template."""
    from tokenizers import Tokenizer as Backend
    from tokenizers.processors import TemplateProcessing

    from nano_hindi.chat import template

    tokenizer.save(folder)
    backend = Backend.from_str(json.dumps(template.definition(tokenizer) if is_chat else tokenizer.definition()))
    bos = tokenizer.piece(tokenizer.bos_id)
    backend.post_processor = TemplateProcessing(single=[bos, "$A"], pair=[bos, "$A", bos, "$B"], special_tokens=[(bos, tokenizer.bos_id)])
    backend.no_truncation()
    backend.no_padding()
    write_text(folder / "tokenizer.json", backend.to_str())
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    config |= {
        "pad_token": tokenizer.piece(pad_id(tokenizer)),
        "padding_side": "left",
        "model_input_names": ["input_ids", "attention_mask"],
        **({"chat_template": template.chat_template(tokenizer)} if is_chat else {}),
    }
    write_json(folder / "tokenizer_config.json", config)


def write_json(path: Path, content: dict) -> None:
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
