"""`python -m nano_hindi.minimal_pairs`: show some pairs of each kind, or write all of them for
other tools.

For lm-evaluation-harness every kind is a `multiple_choice` task: two texts after bos, the right one
first.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

from nano_hindi.cli import Parser, command_line
from nano_hindi.console import shown
from nano_hindi.files import write_text
from nano_hindi.minimal_pairs import KINDS, Pair, pairs

SHOWN = 4  # pairs of each kind: two contrasts

GROUP = "nano_hindi_pairs"
TASK = """\
task: {task}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {file}
output_type: multiple_choice
test_split: test
doc_to_text: ""
target_delimiter: ""
doc_to_choice: "{{{{[good, bad]}}}}"
doc_to_target: 0
num_fewshot: 0
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
metadata:
  version: 1.0
"""


@command_line
def main(argv: list[str] | None = None) -> int:
    parser = Parser(
        prog="python -m nano_hindi.minimal_pairs", description="Show pairs of Hindi sentences, one right and one wrong, or write them to files."
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE.jsonl", help='write all pairs here, one JSON object per line: {"kind", "good", "bad", "contrast"}'
    )
    parser.add_argument("--lm_eval", type=Path, metavar="DIR", help=f"write tasks for lm-evaluation-harness here: {GROUP}, and one for each kind")
    args = parser.parse_args(argv)
    everything = pairs()
    if args.output:
        write_pairs(args.output, everything)
        print(f"{len(everything)} pairs written to {shown(args.output)}")
    if args.lm_eval:
        write_tasks(args.lm_eval, everything)
        print(f"{len(KINDS)} tasks and the group {GROUP} written to {shown(args.lm_eval)}")
    if not (args.output or args.lm_eval):
        show(everything)
    return 0


def show(everything: list[Pair]) -> None:
    for kind in KINDS:
        of_kind = [pair for pair in everything if pair.kind == kind]
        print(f"{kind} ({len(of_kind)} pairs)")
        middle = len(of_kind) // 4 * 2
        for pair in [*of_kind[:2], *of_kind[middle : middle + SHOWN - 2]]:
            print(f"    {pair.good}  *{pair.bad}")


def write_pairs(path: Path, some: list[Pair]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "".join(json.dumps(dataclasses.asdict(pair), ensure_ascii=False) + "\n" for pair in some))


def write_tasks(folder: Path, everything: list[Pair]) -> None:
    """Write the pairs and the task of each kind. A task gives the full path of its file: the
    harness resolves relative paths against its working folder."""
    for kind in KINDS:
        file = folder.resolve() / f"{kind}.jsonl"
        write_pairs(file, [pair for pair in everything if pair.kind == kind])
        write_text(folder / f"{kind}.yaml", TASK.format(task=f"{GROUP}_{kind}", file=json.dumps(file.as_posix(), ensure_ascii=False)))
    tasks = "".join(f"  - {GROUP}_{kind}\n" for kind in KINDS)
    write_text(folder / f"{GROUP}.yaml", f"group: {GROUP}\ntask:\n{tasks}aggregate_metric_list:\n  - metric: acc\n    weight_by_size: true\n")


if __name__ == "__main__":
    sys.exit(main())
