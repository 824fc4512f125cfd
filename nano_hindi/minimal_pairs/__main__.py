"""`python -m nano_hindi.minimal_pairs`: show some pairs of each kind, or write all of them for other tools."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

from nano_hindi.command import Parser, command_line
from nano_hindi.common import replacing
from nano_hindi.minimal_pairs import KINDS, pairs

SHOWN = 4  # pairs of each kind, two contrasts


@command_line
def main(argv: list[str] | None = None) -> None:
    parser = Parser(
        prog="python -m nano_hindi.minimal_pairs", description="Pairs of Hindi sentences, one right and one wrong: shown, or written to a file."
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE.jsonl", help='write all pairs here, a JSON object a line: {"kind", "good", "bad", "contrast"}'
    )
    args = parser.parse_args(argv)
    everything = pairs()
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        with replacing(args.output) as temporary:
            lines = [json.dumps(dataclasses.asdict(pair), ensure_ascii=False) + "\n" for pair in everything]
            temporary.write_text("".join(lines), encoding="utf-8", newline="\n")
        print(f"{len(everything)} pairs written to {args.output}")
        return
    for kind in KINDS:
        of_kind = [pair for pair in everything if pair.kind == kind]
        print(f"{kind} ({len(of_kind)} pairs)")
        middle = len(of_kind) // 4 * 2
        for pair in [*of_kind[:2], *of_kind[middle : middle + SHOWN - 2]]:
            print(f"    {pair.good}  *{pair.bad}")


if __name__ == "__main__":
    sys.exit(main())
