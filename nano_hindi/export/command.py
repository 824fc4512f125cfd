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
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nano_hindi.cli import Parser, command_line
from nano_hindi.common import ROOT, visible
from nano_hindi.console import count, python_command, shown
from nano_hindi.errors import UserError, naming
from nano_hindi.export.conversion import (
    CODE,
    config_json,
    exported_weights,
    generation_json,
    onnx_config_json,
    write_json,
    write_onnx,
    write_tokenizer,
    write_weights,
)
from nano_hindi.files import rename, write_text
from nano_hindi.locks import HOLDER, LOCK, locked
from nano_hindi.ranges import Choice

if TYPE_CHECKING:
    from nano_hindi.export.model_card import Card

# Of each format, in the order in which they get their names. The first one marks a folder as an
# export's. config.json is last: without it, no tool loads the folder
FILES = {
    "transformers": (CODE.name, "model.safetensors", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "README.md", "config.json"),
    "onnx": ("model.onnx", "tokenizer.json", "tokenizer_config.json", "README.md", "config.json"),
}
ALL_FILES = {*itertools.chain(*FILES.values())}
DTYPES = {"transformers": ("float32", "bfloat16"), "onnx": ("float32", "int8", "int4")}
UNFINISHED = "unfinished_export"  # a folder in --output_dir


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(prog="python -m nano_hindi.export", description="Write a model as a folder for Hugging Face transformers or ONNX Runtime.")
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="FILE|DIR", help="a checkpoint, a model.pt, or a folder that holds them")
    parser.add_argument(
        "--output_dir", type=Path, required=True, metavar="DIR", help="a new or empty folder, or an earlier export, which is replaced"
    )
    parser.add_argument("--format", choices=tuple(FILES), default="transformers", help="the tool that reads it; onnx needs the package onnx")
    parser.add_argument(
        "--dtype",
        choices=sorted({*DTYPES["transformers"], *DTYPES["onnx"]}),
        default="float32",
        help="dtype of the weights: float32; bfloat16 for transformers only, int8 and int4 for onnx only",
    )
    parser.add_argument(
        "--data_dir", type=Path, default=ROOT / "data", metavar="DIR", help="the data of the run, whose sources and licences the model card names"
    )
    args = parser.parse_args(argv)
    if args.dtype not in (allowed := Choice(DTYPES[args.format])):
        other = next(name for name in FILES if args.dtype in DTYPES[name])
        raise UserError(f"--format {args.format} has no --dtype {args.dtype}; give --format {other}, or --dtype {allowed}")
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
    card = Card.of(trained, args.data_dir, args.dtype, args.format)
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
    an earlier export. Until all are there, `folder` does not load. After an interruption, another
    export replaces what is there."""
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
        for name in files:
            rename(part / name, folder / name)
        for name in ALL_FILES - {*files}:
            (folder / name).unlink(missing_ok=True)
    finally:
        with contextlib.suppress(OSError):
            shutil.rmtree(part)


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
