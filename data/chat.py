"""Turn conversations into a data folder for finetune.py.

python data/chat.py --source sample --tokenizer checkpoints --output_dir data/chat
python data/chat.py --source indic-align samvaad my_chats.jsonl --output_dir data/more_chat

--tokenizer names the tokenizer of the model to fine-tune: the folder of its checkpoints has a copy.
A conversation may be as long as the model's context.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parent.parent
DEFAULT_DIR = ROOT / "data" / "chat"
sys.path.insert(0, str(ROOT))

from nano_hindi.chat.records import KNOWN_FIELDS
from nano_hindi.chat.sources import FORMATS, HUB_SOURCES, SAMPLE, VAL_FRACTION, ChatSource, chat_source
from nano_hindi.chat.template import TEMPLATE_VERSION
from nano_hindi.cli import Parser, command_line, exit_at_once
from nano_hindi.common import visible
from nano_hindi.console import Progress, count, counted, python_command, shell_quoted, shown
from nano_hindi.errors import require
from nano_hindi.locks import locked
from nano_hindi.ranges import Range, whole

if TYPE_CHECKING:
    from nano_hindi.tokenizer import Tokenizer

SAMPLE_CONVERSATIONS = 20_000
MAX_LENGTH = 1024  # tokens, the default of train.py's --sequence_len


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(prog="data/chat.py", description="Turn conversations into a data folder for finetune.py.")
    parser.add_argument(
        "--source",
        nargs="+",
        metavar="NAME|FILE",
        help=f"{SAMPLE}: questions about generated stories, offline; {', '.join(HUB_SOURCES)}: Hindi conversations of data sets on the hub "
        f"(NAME:CONFIGURATION for one configuration); or {', '.join(FORMATS)} files with the fields {KNOWN_FIELDS} (default: {SAMPLE})",
    )
    parser.add_argument(
        "--tokenizer",
        default=str(ROOT / "checkpoints"),
        metavar="NAME|DIR|MODEL",
        help="tokenizer of the model to fine-tune: the folder of its checkpoints, a model file there, a folder with tokenizer.json, or a name on the hub",
    )
    parser.add_argument("--output_dir", type=Path, default=DEFAULT_DIR, metavar="DIR", help="separate folder for the token files")
    parser.add_argument(
        "--max_length",
        type=whole(8, 2**20),
        metavar="N",
        help=f"tokens; longer conversations are left out (default: the context of the model that --tokenizer names; {MAX_LENGTH} if it names none)",
    )
    parser.add_argument(
        "--max_conversations",
        type=whole(1, 2**40),
        metavar="N",
        help=f"maximum number of conversations from each source (default: all; {SAMPLE_CONVERSATIONS} of {SAMPLE})",
    )
    parser.add_argument(
        "--val_fraction",
        type=Range(float, 0, 1, low_open=True, high_open=True),
        default=VAL_FRACTION,
        metavar="FRACTION",
        help="fraction of the first questions, or stories, held out for validation",
    )
    parser.add_argument("--seed", type=whole(0, 2**63), default=0, metavar="S", help=f"random seed of {SAMPLE}")
    args = parser.parse_args(argv)
    args.source = args.source or [SAMPLE]
    require(
        SAMPLE not in args.source or args.val_fraction >= VAL_FRACTION,
        f"--val_fraction of {SAMPLE} must be at least {VAL_FRACTION}: python -m nano_hindi.eval --questions asks about the stories that are held out",
    )
    return args


@command_line
def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    from nano_hindi.tokenizer.hub import model_of

    sources = [chat_source(name, args.seed) for name in dict.fromkeys(args.source)]
    folder = ROOT / "checkpoints"
    is_missing = Path(args.tokenizer).absolute() == folder and not folder.exists()
    require(not is_missing, f"there is no model in {folder}; train one first, or name its folder with --tokenizer")
    model = model_of(args.tokenizer)
    tokenizer, context = tokenizer_and_context(args.tokenizer, model)
    args.max_length = args.max_length or context
    if model is not None and args.max_length > context:
        print(f"notice: finetune.py will leave out conversations of more than {context:,} tokens, the context of {visible(str(model))}")
    with locked(args.output_dir, "is writing conversations there", "--output_dir"):
        make(args, sources, tokenizer)
    named = "MODEL" if model is None else shell_quoted(model)
    print(f"{shown(args.output_dir)} is ready; next: {python_command('finetune.py')} --checkpoint {named} --data_dir {shell_quoted(args.output_dir)}")
    return 0


def make(args: argparse.Namespace, sources: list[ChatSource], tokenizer: Tokenizer) -> None:
    """Write the data folder unless it is there.

    The caller holds the lock of the folder.
    """
    from nano_hindi.chat.dataset import ConversationWriter
    from nano_hindi.corpus.prepared import CHAT, METADATA, is_ready

    settings = {
        "kind": CHAT,
        "template": TEMPLATE_VERSION,
        "fingerprint": tokenizer.fingerprint,
        "source": "; ".join(source.title for source in sources),
        "inputs": "; ".join(source.identity for source in sources),
        "max_length": args.max_length,
        "max_conversations": args.max_conversations or "all",
        "val_fraction": args.val_fraction,
        "licence": "; ".join(source.licence for source in sources),
    }
    if is_ready(args.output_dir, settings, CHAT):
        print(f"{shown(args.output_dir)} is already there, from the same command; delete {METADATA} in it to make it again")
        return
    writer = ConversationWriter(args.output_dir, tokenizer, args.max_length, args.val_fraction)
    of_sources: dict[str, object] = {}  # as data/download.py writes it for several
    with writer.writing():
        for number, source in enumerate(sources, 1):
            limit = args.max_conversations or (SAMPLE_CONVERSATIONS if source.name == SAMPLE else None)
            records = source.records() if source.name != SAMPLE else itertools.islice(source.records(), limit)  # it has no end
            with Progress(limit, "conversations", f"reading {source.name}") as progress:
                for written in writer.write(records, limit):
                    progress.update(written - progress.done, tokens=count(writer.counts["train_tokens"] + writer.counts["val_tokens"]))
            of_sources |= {f"source_{number}": source.title, f"source_{number}_licence": source.licence, f"source_{number}_documents": written}
        print("\n".join(lines(writer.counts)))
    writer.finish(settings | (of_sources if len(sources) > 1 else {}))
    for name in ("train", "val"):
        documents, tokens, targets = (writer.counts[f"{name}_{key}"] for key in ("documents", "tokens", "targets"))
        print(f"{name + '.bin':<11} {counted(documents, 'conversation')}, {tokens:,} tokens, {targets:,} of them targets")


def tokenizer_and_context(name: str, model: Path | None) -> tuple[Tokenizer, int]:
    """Return the tokenizer, under the name of its origin if `model` knows it, and the model's
    context in tokens; MAX_LENGTH without a model. Raises UserError if it does not load."""
    if model is None:
        from nano_hindi.tokenizer import load_tokenizer

        return load_tokenizer(name), MAX_LENGTH
    from nano_hindi.inference.loading import load_for_inference

    trained = load_for_inference(model)
    return trained.tokenizer, trained.config.sequence_len


def lines(counts: Mapping[str, int]) -> list[str]:
    """Return what was read, kept, mended and dropped, a line each."""
    changed = sorted(key for key in counts if key.startswith(("mended: ", "dropped: ")))
    return [visible(f"{counts[key]:>11,} {key}") for key in ("read", "kept", *changed)]


if __name__ == "__main__":
    exit_at_once(main())
