"""Train a Hindi GPT: parse the flags, build the run, loop over its updates.

python train.py --config 25m --total_tokens 500000000
torchrun --nproc_per_node=4 train.py --config 25m
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from nano_hindi.cli import Parser, command_line
from nano_hindi.common import ROOT
from nano_hindi.config import DEFAULT_PRESET, PRESETS, get_config
from nano_hindi.console import dispensable_output
from nano_hindi.distributed import joined_world
from nano_hindi.flags import WeightedFolder, add_flags, add_run_flags, weighted_folder


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Return the flags. Raises UserError for a wrong value."""
    parser = Parser(prog="train.py", description="Train a Hindi GPT from scratch. The data comes from data/download.py and data/preprocess.py.")
    parser.add_argument("--config", metavar="NAME", help=f"preset: {', '.join(PRESETS)} (default: {DEFAULT_PRESET})")
    parser.add_argument(
        "--data_dir",
        type=weighted_folder,
        nargs="+",
        metavar="DIR[=W]",
        help="folders with train.bin, val.bin and tokenizer/, mixed by their weights W; without weights, in proportion to their tokens "
        "(default: data beside train.py)",
    )
    parser.add_argument(
        "--anneal_data_dir",
        type=weighted_folder,
        nargs="+",
        metavar="DIR[=W]",
        help="folders that are read instead of --data_dir at the end of the run, see --anneal_fraction",
    )
    parser.add_argument(
        "--init_from", type=Path, metavar="MODEL", help="start a new run from the weights of a checkpoint, a model.pt, or the newest file in a folder"
    )
    add_run_flags(parser, ROOT / "checkpoints")
    parser.add_argument("--no_compile", action="store_true", help="do not use torch.compile")
    parser.add_argument("--dry_run", action="store_true", help="print parameters, steps, memory and time estimates, then exit")
    add_flags(parser)
    args = parser.parse_args(argv)
    get_config(args.config or DEFAULT_PRESET)  # raises UserError for an unknown name, before the data is checked
    args.data_dir = args.data_dir or [WeightedFolder(ROOT / "data")]
    args.anneal_data_dir = args.anneal_data_dir or []
    return args


@command_line
def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    with dispensable_output(), joined_world(args.device) as world:
        from nano_hindi.training.loop import start_or_resume
        from nano_hindi.training.report import print_dry_run
        from nano_hindi.training.resume import plan_run

        if args.dry_run:
            return print_dry_run(plan_run(args, world), args, world)
        return start_or_resume(args, world)


if __name__ == "__main__":
    sys.exit(main())
