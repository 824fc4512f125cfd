"""`python -m nano_hindi.export`: export a trained model as a folder that Hugging Face transformers
loads (weights, configuration, tokenizer, model code, and a model card), or as one for ONNX Runtime.

python -m nano_hindi.export --checkpoint checkpoints --output_dir my_model
python -m nano_hindi.export --checkpoint checkpoints --output_dir my_onnx --format onnx --dtype int8
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import itertools
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nano_hindi.cli import Parser, command_line
from nano_hindi.common import ROOT, visible
from nano_hindi.console import count, python_command, shown
from nano_hindi.errors import UserError, naming, require
from nano_hindi.files import rename, write_text
from nano_hindi.locks import HOLDER, LOCK, locked

if TYPE_CHECKING:
    from torch import Tensor

    from nano_hindi.config import GPTConfig
    from nano_hindi.export.model_card import Card
    from nano_hindi.inference.loading import TrainedModel
    from nano_hindi.tokenizer import Tokenizer

CODE = Path(__file__).resolve().with_name("modeling_nano_hindi.py")
# Of each format, in the order in which they get their names. The model is first: by its file, a
# folder is known as that of an export. config.json is last: without it, no tool loads the folder
FILES = {
    "transformers": (CODE.name, "model.safetensors", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "README.md", "config.json"),
    "onnx": ("model.onnx", "tokenizer.json", "tokenizer_config.json", "README.md", "config.json"),
}
ALL_FILES = {*itertools.chain(*FILES.values())}
DTYPES = {"transformers": ("float32", "bfloat16"), "onnx": ("float32", "int8", "int4")}
UNFINISHED = "unfinished_export"  # a folder in --output_dir
ONNX_BYTES = 2**31 - 2**20  # a protobuf message is smaller than 2 GiB; the graph itself needs far less than 1 MiB


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(prog="python -m nano_hindi.export", description="Write a model as a folder for Hugging Face transformers or ONNX Runtime.")
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="FILE|DIR", help="a checkpoint, a model.pt, or a folder that holds them")
    parser.add_argument("--output_dir", type=Path, required=True, metavar="DIR", help="new or empty, or an earlier export, which is replaced")
    parser.add_argument("--format", choices=tuple(FILES), default="transformers", help="the tool that reads it; onnx needs the package onnx")
    parser.add_argument(
        "--dtype",
        choices=sorted({*DTYPES["transformers"], *DTYPES["onnx"]}),
        default="float32",
        help="of the weights: float32, for transformers bfloat16, for onnx int8 and int4",
    )
    parser.add_argument(
        "--data_dir", type=Path, default=ROOT / "data", metavar="DIR", help="the data of the run, whose sources and licences the model card names"
    )
    args = parser.parse_args(argv)
    allowed = DTYPES[args.format]
    require(args.dtype in allowed, f"--format {args.format} has no --dtype {args.dtype}; choose one of {', '.join(allowed)}")
    return args


@command_line
def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    require_own_folder(args.output_dir)
    from nano_hindi.export.model_card import Card
    from nano_hindi.inference.loading import load_for_inference

    if args.format == "onnx" and importlib.util.find_spec("onnx") is None:
        raise UserError("--format onnx needs the package onnx: pip install -r requirements-onnx.txt")
    trained = load_for_inference(args.checkpoint)
    weights = exported_weights(trained.config, trained.state_dict, "float32" if args.format == "onnx" else args.dtype)
    card = Card.of(trained, args.data_dir, parameter_counts(weights), args.dtype, args.format)
    with locked(args.output_dir, "is exporting there", "--output_dir"), new_export(args.output_dir, FILES[args.format]) as folder:
        write_tokenizer(folder, trained.tokenizer, trained.is_chat)
        if args.format == "onnx":
            write_onnx(folder / "model.onnx", trained, weights, args.dtype)
            write_json(folder / "config.json", onnx_config_json(trained, args.dtype))
        else:
            write_weights(folder / "model.safetensors", weights)
            write_json(folder / "config.json", config_json(trained.config, trained.tokenizer, args.dtype))
            write_json(folder / "generation_config.json", generation_json(trained.tokenizer))
            shutil.copyfile(CODE, folder / CODE.name)
        write_text(folder / "README.md", card.text(args.output_dir.resolve().name))
    for line in end_page(args.output_dir, card, FILES[args.format]):
        print(visible(line))
    return 0


# ---- the folder


def require_own_folder(folder: Path) -> None:
    """Raise UserError if `folder` holds anything that is not from an export."""
    names = {path.name for path in folder.iterdir()} - {LOCK, HOLDER} if folder.exists() else set()
    config = folder / "config.json"
    is_export = names & {UNFINISHED, *(files[0] for files in FILES.values())} or (
        config.is_file() and b'"model_type": "nano_hindi"' in config.read_bytes()
    )
    if foreign := sorted(names - {*ALL_FILES, UNFINISHED} if is_export else names):
        raise UserError(f"{folder} holds other files ({', '.join(foreign[:3])}), which an export does not touch; choose another --output_dir")


@contextlib.contextmanager
def new_export(folder: Path, files: Sequence[str]) -> Iterator[Path]:
    """Yield a folder for `files`, which are moved into `folder` if the block succeeds, in place of
    an earlier export. After an interruption `folder` does not load, and another export replaces
    what is there."""
    part = folder / UNFINISHED
    if part.exists():
        shutil.rmtree(part)
    part.mkdir(parents=True)
    try:
        with naming(part):
            yield part
            for name in files:
                with open(part / name, "rb+") as file:
                    os.fsync(file.fileno())
        (folder / "config.json").unlink(missing_ok=True)
        for name in ALL_FILES - {*files}:
            (folder / name).unlink(missing_ok=True)
        for name in files:
            rename(part / name, folder / name)
    finally:
        with contextlib.suppress(OSError):
            shutil.rmtree(part)


def write_json(path: Path, content: dict) -> None:
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


# ---- weights


def exported_weights(config: GPTConfig, state_dict: dict[str, Tensor], dtype: str) -> dict[str, Tensor]:
    """Return the weights under the names of `modeling_nano_hindi.py`: the parameters of a layer are
    grouped under it, and there are no padding rows."""
    import torch

    weights = {}
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


def parameter_counts(weights: dict[str, Tensor]) -> dict[str, int]:
    """Return the parameter counts by the kinds of `GPT.num_params`, for exported weights, which
    have no padding rows."""
    counts = dict.fromkeys(("wte", "lm_head", "value_embeds", "blocks", "scalars"), 0)
    for name, weight in weights.items():
        kind = name.removeprefix("model.").split(".")[0]
        if kind == "h":
            kind = "value_embeds" if ".value_embed." in name else "scalars" if ".mix." in name else "blocks"
        elif kind in ("smear", "conv"):
            kind = "blocks"
        counts[kind] += weight.numel()
    return counts | {"total": sum(counts.values())}


def write_weights(path: Path, weights: dict[str, Tensor]) -> None:
    from safetensors.torch import save

    path.write_bytes(save(weights, metadata={"format": "pt"}))  # `save_file` would hide the operating system's error


def write_onnx(path: Path, trained: TrainedModel, weights: dict[str, Tensor], dtype: str) -> None:
    """Write the graph of onnx_graph.py. Raises UserError if it is too large for one file."""
    import nano_hindi
    from nano_hindi.export.onnx_graph import build

    metadata = {"nano_hindi": nano_hindi.__version__, "step": str(trained.step), "tokenizer": trained.tokenizer.fingerprint()}
    model = build(trained.config, {name: weight.numpy() for name, weight in weights.items()}, dtype, metadata)
    size = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    require(size < ONNX_BYTES, f"{size / 1e9:.1f} GB of weights do not fit into an ONNX file, which holds 2 GB; use --dtype int8")
    path.write_bytes(model.SerializeToString())


# ---- configuration and tokenizer


def config_json(config: GPTConfig, tokenizer: Tokenizer, dtype: str) -> dict:
    """Return the configuration under the names that transformers uses."""
    from nano_hindi.model import MLP_FACTOR, SOFTCAP

    module = CODE.stem
    short = min(config.windows)
    return {
        "architectures": ["NanoHindiForCausalLM"],
        "auto_map": {
            "AutoConfig": f"{module}.NanoHindiConfig",
            "AutoModel": f"{module}.NanoHindiModel",
            "AutoModelForCausalLM": f"{module}.NanoHindiForCausalLM",
        },
        "model_type": "nano_hindi",
        "dtype": dtype,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.sequence_len,
        "num_hidden_layers": config.n_layer,
        "num_attention_heads": config.n_head,
        "num_key_value_heads": config.n_kv_head,
        "hidden_size": config.n_embd,
        "head_dim": config.head_dim,
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
        **special_ids(tokenizer),
    }


def onnx_config_json(trained: TrainedModel, dtype: str) -> dict:
    """Return what a program needs to know to generate text with the graph.

    `prompt` is what to put a text or a question into, after the replacements in `replace`. A chat
    model's begins with bos. `stop` are the texts that end an answer as eos does: the
    line end at their beginning may be that of the prompt.
    """
    from nano_hindi.chat import template

    config, tokenizer = trained.config, trained.tokenizer
    chat = {
        "prompt": f"{tokenizer.piece(tokenizer.bos_id)}{template.MARKERS['user']}\n{{}}\n\n{template.MARKERS['assistant']}\n",
        "replace": template.replacements(tokenizer),
        "stop": template.STOP,
    }
    return {
        "model_type": "nano_hindi",
        "dtype": dtype,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.sequence_len,
        "num_hidden_layers": config.n_layer,
        "num_key_value_heads": config.n_kv_head,
        "head_dim": config.head_dim,
        "hidden_size": config.n_embd,
        "tokens_before": config.tokens_before,
        **special_ids(tokenizer),
        **(chat if trained.is_chat else {"prompt": "{}", "replace": template.special_token_replacements(tokenizer), "stop": []}),
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


# ---- output


def end_page(folder: Path, card: Card, files: Sequence[str]) -> list[str]:
    """Return lines that say what was written and how to use it."""
    from nano_hindi.export.model_card import usage

    size, program = sum((folder / name).stat().st_size for name in files), python_command("examples/onnx_generate.py")
    return [
        f"exported    {shown(folder)}: step {card.step:,}, {count(card.parameters['total'])} parameters in {card.dtype}, {size / 1e6:,.1f} MB",
        f"files       {', '.join(files)}",
        *card.notices(),
        f"use         {'in a terminal' if card.format == 'onnx' else 'in Python'}:",
        *(f"            {line}" for line in usage(folder.resolve().as_posix(), card.format, card.is_chat, program)),
    ]
