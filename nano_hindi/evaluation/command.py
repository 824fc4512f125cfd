"""`python -m nano_hindi.eval`: evaluate how well a model predicts texts, or tells right from wrong
Hindi sentences, or how well a chat model answers.

It scores whole documents and reports more than bits per byte (see `scoring` and `report`), or runs
the test of `minimal_pairs`, of `pair_files` or of `questions`:

python -m nano_hindi.eval --checkpoint checkpoints
python -m nano_hindi.eval --checkpoint checkpoints --pairs
python -m nano_hindi.eval --checkpoint checkpoints --pairs multiblimp/hin/data.tsv
python -m nano_hindi.eval --checkpoint checkpoints_chat --questions 300
python -m nano_hindi.eval --hf FOLDER --text stories.txt
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from nano_hindi.cli import Parser, command_line
from nano_hindi.common import ROOT, pick_device, visible
from nano_hindi.console import Progress
from nano_hindi.corpus.documents import FILES, read_source
from nano_hindi.errors import UserError
from nano_hindi.files import require_place, write_text
from nano_hindi.ranges import whole

if TYPE_CHECKING:
    from nano_hindi.evaluation.scoring import Scorer
    from nano_hindi.minimal_pairs import Pair, PairScores
    from nano_hindi.sample.questions import Conversation

DATA_DIR = ROOT / "data"
MAX_BYTES = 1_000_000  # about 90,000 words of Hindi: minutes for `25m` on a CPU


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="python -m nano_hindi.eval",
        description="Evaluate how well a model predicts texts: bits per byte, perplexity, best and worst passages.",
    )
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--checkpoint", type=Path, metavar="FILE|DIR", help="a checkpoint, a model.pt, or a folder that holds them")
    model.add_argument("--hf", type=Path, metavar="DIR", help="a folder with any Hugging Face causal language model")
    parser.add_argument("--trust_remote_code", action="store_true", help="let a model of --hf run the Python code in its folder")
    parser.add_argument(
        "--text",
        type=Path,
        nargs="+",
        metavar="FILE",
        help=f"the texts to predict: {FILES} (default: the documents of val.bin)",
    )
    parser.add_argument(
        "--pairs",
        type=Path,
        nargs="*",
        metavar="FILE",
        help="test the model on pairs of right and wrong Hindi sentences instead: those of nano_hindi.minimal_pairs, or of .jsonl, .json, .csv or .tsv files "
        "(fields good and bad, or those of MultiBLiMP or BHS); with --text, do both",
    )
    parser.add_argument(
        "--questions",
        type=whole(1, 10**6),
        metavar="N",
        help="ask a chat model N questions about stories that it has not read, like those of data/chat.py --source sample; with --text, do both",
    )
    parser.add_argument("--data_dir", type=Path, default=DATA_DIR, metavar="DIR", help="folder with val.bin and tokenizer/")
    parser.add_argument(
        "--max_bytes",
        type=whole(1, 2**63),
        default=MAX_BYTES,
        metavar="N",
        help="maximum number of bytes of text to read: the first of --text, or of random documents of val.bin",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results to this file")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda if available")
    args = parser.parse_args(argv)
    if args.trust_remote_code and not args.hf:
        raise UserError("--trust_remote_code is for a model of --hf; omit it")
    if args.questions and args.hf:
        raise UserError("--questions is for a model of --checkpoint; omit one of --questions and --hf")
    if args.json:
        require_place("--json", args.json)
    return args


@command_line
def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    texts = [] if (args.pairs is not None or args.questions) and not args.text else read_texts(args)
    pairs = read_pairs(args.pairs) if args.pairs is not None else []
    scorer = load_scorer(args)
    conversations = conversations_to_ask(scorer, args.questions) if args.questions else []  # before the work: they may not fit into the context
    results = {"model": scorer.name, "context": scorer.context}
    print(f"model       {visible(scorer.name)}, context {scorer.context:,} tokens")
    if texts:
        results |= predict(scorer, texts, args)
    if pairs:
        results["pairs"] = judge_pairs(scorer, pairs, args.pairs)
    if conversations:
        results["questions"] = ask_questions(scorer, conversations)
    if args.json:
        results = json.loads(json.dumps(results), parse_constant=lambda _: None)  # JSON has neither nan nor inf
        write_text(args.json, json.dumps(results, indent=1, ensure_ascii=False) + "\n")
        print(visible(f"\nwritten: {args.json}"))
    return 0


def load_scorer(args: argparse.Namespace) -> Scorer:
    """Load the model that the flags ask for."""
    from nano_hindi.evaluation.scoring import CheckpointScorer, HuggingFaceScorer
    from nano_hindi.inference.loading import load_for_inference

    device = pick_device(args.device)
    if args.hf:
        return HuggingFaceScorer(args.hf, device, args.trust_remote_code)
    return CheckpointScorer(load_for_inference(args.checkpoint), device)


def read_texts(args: argparse.Namespace) -> list[str]:
    """Return the documents to predict, in NFC, without blank ones. The last one is cut at
    `max_bytes`. Raises UserError if there are none."""
    from nano_hindi.tokenizer.nfc import to_nfc

    documents = itertools.chain.from_iterable(map(read_source, args.text)) if args.text else val_documents(args.data_dir)
    texts, left = [], args.max_bytes
    for document in documents:
        raw = to_nfc(document).encode()  # its bytes are those that the scorers count
        if (text := raw[:left].decode(errors="ignore")).strip():
            texts.append(text)
        left -= len(raw)
        if left <= 0:
            break
    if not texts:
        raise UserError(f"there is no text in {source(args)}; name another file (--text)")
    return texts


def val_documents(data_dir: Path) -> Iterator[str]:
    """Yield the documents of val.bin in a random order, always the same, so that the first come
    from all sources. Raises UserError as `check_data` does."""
    import numpy as np

    from nano_hindi.corpus.prepared import check_data
    from nano_hindi.dataloader import epoch_order

    info = check_data(data_dir)
    tokens = info.val[:]
    starts = np.flatnonzero(tokens == info.bos_id)
    ends = [*starts[1:], len(tokens)]
    for i in epoch_order(len(starts), seed=0, epoch=0):
        yield info.tokenizer.decode(tokens[starts[i] : ends[i]])  # leaves bos and eos out


def source(args: argparse.Namespace) -> str:
    """Return the source of the texts, for display."""
    return ", ".join(map(str, args.text or [args.data_dir / "val.bin"]))


def predict(scorer: Scorer, texts: list[str], args: argparse.Namespace) -> dict:
    """Score each of `texts`, print a report, and return its figures."""
    from nano_hindi.evaluation.report import Figures, as_json, report_lines

    figures = Figures()
    with Progress(sum(len(text.encode()) for text in texts), "bytes", "predicting") as progress:
        for scored in scorer.score(texts):
            figures.add(scored)
            progress.update(len(scored.text.encode()))
    print(f"text        {visible(source(args))} (at most {args.max_bytes:,} bytes)")
    print(visible("\n".join(report_lines(figures))))
    return as_json(figures)


def read_pairs(files: list[Path]) -> list[Pair]:
    """Return the pairs of `files`, or those of `minimal_pairs` if there are none."""
    from nano_hindi.evaluation.pair_files import read_pair_files
    from nano_hindi.minimal_pairs import pairs

    return read_pair_files(files) if files else pairs()


def judge_pairs(scorer: Scorer, pairs: list[Pair], files: list[Path]) -> dict[str, dict]:
    """Let the model judge `pairs`, print a table and mistakes, and return the table's figures."""
    scores = scores_of_pairs(scorer, pairs)
    of_files = f" of {', '.join(map(str, files))}" if files else ""
    print(visible(f"\nPairs of sentences{of_files}, one right and one wrong; chance is 50 %:\n{scores.report()}"))
    if scores.wrong:
        print(visible(f"\nthe worst mistakes, right / *wrong:\n{scores.mistakes()}"))
    return {name: dataclasses.asdict(score) for name, score in {**scores.kinds, "all": scores.total}.items()}


def scores_of_pairs(scorer: Scorer, pairs: list[Pair]) -> PairScores:
    """Return how often the right sentence of a pair is the more probable one."""
    from nano_hindi.minimal_pairs import score_pairs

    def total_nats(sentences: list[str]) -> list[float]:
        nats, lossy = [], 0
        with Progress(len(sentences), "sentences", "scoring") as progress:
            for scored in scorer.score(sentences):
                nats.append(scored.losses.sum())
                lossy += scored.lost > 0
                progress.update(1)
        if lossy:
            print(f"warning     the tokenizer loses characters in {lossy:,} of {len(sentences):,} sentences; the model has scored altered sentences")
        return nats

    return score_pairs(total_nats, pairs)


def conversations_to_ask(scorer: Scorer, number: int) -> list[Conversation]:
    """Return the conversations for `ask_questions`. Raises UserError if the model is not a chat
    model, or if they do not fit into its context."""
    from nano_hindi.evaluation.questions import unseen_conversations

    if not scorer.is_chat:
        raise UserError(f"{scorer.name} is not a chat model, and --questions needs one; fine-tune it with finetune.py")
    return unseen_conversations(scorer.tokenizer, number, scorer.context)


def ask_questions(scorer: Scorer, conversations: list[Conversation]) -> dict[str, dict]:
    """Ask the last questions of `conversations`, print a table of the answers, and return their
    figures."""
    from nano_hindi.evaluation.questions import ask, mistakes, report

    answers = []
    with Progress(len(conversations), "questions", "asking") as progress:
        for answer in ask(scorer.model, scorer.tokenizer, conversations):
            answers.append(answer)
            progress.update(1)
    lines, figures = report(answers)
    print(visible("\n".join(["\nQuestions about stories that the model has not read; a right answer is one of those known, word for word:", *lines])))
    if wrong := mistakes(answers):
        print(visible("\n".join(["\nmistakes, question *answer / right answer:", *wrong])))
    return figures
