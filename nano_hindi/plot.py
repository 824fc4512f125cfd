"""`python -m nano_hindi.plot`: plot the curves of one or several runs in one picture.

python -m nano_hindi.plot checkpoints/a checkpoints/b --output curves.png
"""

from __future__ import annotations

import sys
from pathlib import Path

from nano_hindi.cli import Parser, command_line
from nano_hindi.common import visible
from nano_hindi.console import unique_names
from nano_hindi.errors import UserError
from nano_hindi.files import require_place
from nano_hindi.training.curves import draw_curves, drawable_name, headline
from nano_hindi.training.metrics import read_metrics


@command_line
def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="python -m nano_hindi.plot", description="Plot the curves of one or several runs in one picture.")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="checkpoint folder of a run")
    parser.add_argument("--output", type=Path, default=Path("curves.png"), metavar="FILE", help="the picture to write: .png, .svg, .pdf")
    args = parser.parse_args(argv)
    require_place("--output", args.output)
    folders, runs = {folder.resolve(): folder for folder in args.runs}, {}
    for name, folder in zip(unique_names(list(folders)), folders.values(), strict=True):
        runs[name] = read_metrics(folder / "metrics.jsonl")
        if not runs[name]:
            raise UserError(f"{folder} holds no run (there are no metrics in {folder / 'metrics.jsonl'}); give the --checkpoint_dir of a run")
    draw_curves(runs, args.output)
    for number, name in enumerate(runs, 1):
        label = "" if drawable_name(name, number) == name else f" (in the picture: {drawable_name(name, number)})"
        print(visible(f"{headline(name, runs[name])}{label}"))
    print(visible(f"drawn: {args.output}"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
