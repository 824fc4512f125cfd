"""Fine-tune a trained model on conversations, so that it answers: parse the flags, build the run,
loop over its updates.

python finetune.py --checkpoint checkpoints --data_dir data/chat
torchrun --nproc_per_node=4 finetune.py --checkpoint checkpoints --data_dir data/chat
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

from nano_hindi.cli import Parser, command_line
from nano_hindi.common import ROOT
from nano_hindi.config import FINETUNE, TrainConfig
from nano_hindi.console import dispensable_output
from nano_hindi.distributed import joined_world
from nano_hindi.flags import WeightedFolder, add_run_flags
from nano_hindi.ranges import Range

FIELDS = {field.name: field for field in dataclasses.fields(TrainConfig)}


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Return the flags. Raises UserError for a wrong value."""
    parser = Parser(prog="finetune.py", description="Fine-tune a model of train.py on conversations. The data comes from data/chat.py.")
    parser.add_argument(
        "--checkpoint",
        dest="init_from",
        type=Path,
        metavar="MODEL",
        help="the model to fine-tune: a checkpoint, a model.pt, or a folder, whose newest file is used",
    )
    parser.add_argument("--data_dir", type=Path, default=ROOT / "data" / "chat", metavar="DIR", help="folder written by data/chat.py")
    add_run_flags(parser, ROOT / "checkpoints_chat")
    for name, valid, text in (
        ("epochs", Range(float, 0, 10_000, low_open=True), "times that each conversation is read"),
        ("batch_size", FIELDS["batch_size"].metadata["valid"], "conversations per update, over all GPUs"),
        ("lr_scale", Range(float, 0, 1000, low_open=True), "learning rates, as a fraction of train.py's defaults"),
    ):
        parser.add_argument(f"--{name}", type=valid, default=argparse.SUPPRESS, metavar=str(FINETUNE[name]), help=text)
    texts = {  # other than train.py's
        "seed": "seed of the data order",
        "device_batch_size": "conversations per forward pass on a device, if they fill the context; auto: on a GPU measured before the first update",
    }
    eighths = ("eval_interval", "inference_interval", "checkpoint_interval")
    for name in ("seed", "dtype", "device_batch_size", *eighths, "log_interval", "eval_tokens", "keep_checkpoints"):
        metadata, shown = FIELDS[name].metadata, "an eighth of the run" if name in eighths else FIELDS[name].default
        parser.add_argument(
            f"--{name}",
            type=metadata["valid"],
            default=argparse.SUPPRESS,
            metavar="N" if isinstance(metadata["valid"], Range) else "NAME",
            help=f"{texts.get(name, metadata['help'])} (default: {shown})",
        )
    args = parser.parse_args(argv)
    args.data_dir = [WeightedFolder(args.data_dir)]
    args.config, args.anneal_data_dir, args.dry_run = None, [], False  # what a run of train.py has besides
    return args


@command_line
def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    with dispensable_output(), joined_world(args.device) as world:
        from nano_hindi.training.loop import start_or_resume

        return start_or_resume(args, world, chat=True)


if __name__ == "__main__":
    sys.exit(main())
