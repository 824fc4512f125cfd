"""How good a model is: the mean loss, and bits per byte, which compares models across tokenizers.

bits per byte = (sum of the losses in nats) / (ln 2 * UTF-8 bytes of the targets), over the targets that are text. Special tokens have no bytes and are
left out of both sums; the mean loss counts every target but padding.

As a command it reads texts whole, one document at a time, and tells more of them (see `scoring` and `evaluation_report`), or sets the test of
`minimal_pairs`:

python -m nano_hindi.eval --checkpoint checkpoints
python -m nano_hindi.eval --checkpoint checkpoints --pairs
python -m nano_hindi.eval --hf FOLDER --text stories.txt
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import math
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nano_hindi.command import Parser, command_line
from nano_hindi.common import Progress, pick_device, write_text
from nano_hindi.corpus import read_source
from nano_hindi.errors import UserError

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer as HuggingFaceTokenizer
    from transformers import PreTrainedTokenizerFast

    from nano_hindi.evaluation_report import Figures
    from nano_hindi.minimal_pairs import PairScores
    from nano_hindi.scoring import Scorer
    from nano_hindi.tokenizer import Tokenizer

DATA_DIR = Path(__file__).resolve().parent.parent / "data"
MAX_BYTES = 1_000_000  # some 90,000 words of Hindi: minutes for `25m` on a CPU


@dataclass(frozen=True)
class Evaluation:
    """Mean loss in nats per target, and bits per byte; nan where there was nothing to count."""

    loss: float
    bpb: float


def compute_token_bytes(tokenizer: Tokenizer | PreTrainedTokenizerFast | HuggingFaceTokenizer, device: torch.device | str = "cpu") -> torch.Tensor:
    """Return the UTF-8 bytes that each token adds to a text, int32 (V,) with V the largest id + 1; special tokens 0.

    Takes a tokenizer of this package, a fast one of transformers, or a `tokenizers.Tokenizer`. Raises UserError for one whose tokens have no fixed bytes.
    """
    import torch

    from nano_hindi.tokenizer import Tokenizer
    from nano_hindi.tokenizer_json import hugging_face_token_bytes

    table = tokenizer.token_bytes() if isinstance(tokenizer, Tokenizer) else hugging_face_token_bytes(tokenizer)
    return torch.from_numpy(table).to(device)


def evaluate(model: torch.nn.Module, batches: Iterable[tuple[torch.Tensor, torch.Tensor]], token_bytes: torch.Tensor | None = None) -> Evaluation:
    """Loss and bits per byte over batches of inputs and targets (B, T), target -1 ignored, in one pass.

    `model(x, y, loss_reduction="none")` gives the losses (B, T). Sums are float64 on the model's device and read back once. With torch.distributed
    joined every process brings its own part and all get the result of the whole. The model is left in the mode it was in.
    Without `token_bytes` (see `compute_token_bytes`) there are no bits per byte.
    """
    import torch
    import torch.distributed as dist

    from nano_hindi.dataloader import IGNORED

    device = next(model.parameters()).device
    token_bytes = None if token_bytes is None else token_bytes.to(device)
    sums = torch.zeros(4, dtype=torch.float64, device=device)  # nats and number of all targets; nats and bytes of those that are text
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            for x, y in batches:
                x, y = x.to(device, non_blocking=True), y.to(device, non_blocking=True)
                is_target = y != IGNORED
                losses = torch.where(is_target, model(x, y, loss_reduction="none"), 0)
                target_bytes = torch.zeros_like(y) if token_bytes is None else torch.where(is_target, token_bytes[y.clamp(min=0)], 0)
                text_losses = torch.where(target_bytes > 0, losses, 0)
                sums += torch.stack([part.sum(dtype=torch.float64) for part in (losses, is_target, text_losses, target_bytes)])
    finally:
        model.train(was_training)
    if dist.is_initialized():
        dist.all_reduce(sums)
    nats, targets, text_nats, text_bytes = sums.tolist()
    return Evaluation(
        loss=nats / targets if targets else math.nan,
        bpb=text_nats / (math.log(2) * text_bytes) if text_bytes else math.nan,
    )


def evaluate_bpb(model: torch.nn.Module, batches: Iterable[tuple[torch.Tensor, torch.Tensor]], token_bytes: torch.Tensor) -> float:
    """Bits per byte alone; see `evaluate`."""
    return evaluate(model, batches, token_bytes).bpb


def evaluate_loss(model: torch.nn.Module, batches: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> float:
    """The mean loss in nats alone, without a tokenizer; see `evaluate`."""
    return evaluate(model, batches).loss


# ---- the command


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="python -m nano_hindi.eval", description="How well a model predicts texts: bits per byte, perplexity, where it is good and bad."
    )
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--checkpoint", type=Path, metavar="FILE|DIR", help="a checkpoint, a model.pt, or a folder that holds them")
    model.add_argument("--hf", type=Path, metavar="DIR", help="a folder with any Hugging Face causal language model")
    parser.add_argument("--trust_remote_code", action="store_true", help="let a model of --hf run the Python code in its folder")
    parser.add_argument(
        "--text", type=Path, nargs="+", metavar="FILE", help=".txt, .jsonl or .parquet files to predict; without it: the documents of val.bin"
    )
    parser.add_argument("--pairs", action="store_true", help="let it choose between right and wrong Hindi sentences instead; beside --text, do both")
    parser.add_argument("--data_dir", type=Path, default=DATA_DIR, metavar="DIR", help="folder with val.bin and tokenizer/")
    parser.add_argument("--max_bytes", type=int, default=MAX_BYTES, metavar="N", help="bytes of text that are read at most")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="without it: cuda where there is one")
    args = parser.parse_args(argv)
    if args.max_bytes < 1:
        raise UserError(f"--max_bytes must be at least 1, not {args.max_bytes}")
    if args.trust_remote_code and not args.hf:
        raise UserError("--trust_remote_code is for a model of --hf; leave it away")
    return args


@command_line
def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    texts = [] if args.pairs and not args.text else read_texts(args)
    scorer = load_scorer(args)
    facts = {"model": scorer.name, "context": scorer.context}
    print(f"model       {scorer.name}, context {scorer.context:,} tokens")
    if texts:
        from nano_hindi.evaluation_report import as_json, report_lines

        figures = figures_of(scorer, texts)
        print(f"text        {source(args)} (at most {args.max_bytes:,} bytes)")
        print("\n".join(report_lines(figures)))
        facts |= as_json(figures)
    if args.pairs:
        scores = scores_of_pairs(scorer)
        print(
            f"\nPairs of sentences, one right and one wrong; chance is 50 %:\n{scores.report()}\n\nthe worst mistakes, right / *wrong:\n{scores.mistakes()}"
        )
        facts["pairs"] = {name: dataclasses.asdict(score) for name, score in {**scores.kinds, "all": scores.total}.items()}
    if args.json:
        facts = json.loads(json.dumps(facts), parse_constant=lambda _: None)  # JSON knows neither nan nor inf
        write_text(args.json, json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
        print(f"\nwritten: {args.json}")
    return 0


def figures_of(scorer: Scorer, texts: list[str]) -> Figures:
    """What predicting each of `texts` tells."""
    from nano_hindi.evaluation_report import Figures

    figures = Figures()
    with Progress(sum(len(text.encode()) for text in texts), "bytes", "predicting") as progress:
        for scored in scorer.score(texts):
            figures.add(scored)
            progress.update(len(scored.text.encode()))
    return figures


def scores_of_pairs(scorer: Scorer) -> PairScores:
    """How often the right sentence of the minimal pairs is the more probable one."""
    from nano_hindi.minimal_pairs import pairs, score_pairs

    def total_nats(sentences: list[str]) -> list[float]:
        nats, lossy = [], 0
        with Progress(len(sentences), "sentences", "choosing") as progress:
            for scored in scorer.score(sentences):
                nats.append(scored.losses.sum())
                lossy += scored.lost > 0
                progress.update(1)
        if lossy:
            print(f"warning     the tokenizer loses characters in {lossy:,} of {len(sentences):,} sentences; the model has judged others")
        return nats

    return score_pairs(total_nats, pairs())


def source(args: argparse.Namespace) -> str:
    """Where the texts come from, for people."""
    return ", ".join(map(str, args.text or [args.data_dir / "val.bin"]))


def read_texts(args: argparse.Namespace) -> list[str]:
    """The documents to predict, without blank ones; where `max_bytes` end, the last is cut. Raises UserError where there are none."""
    documents = itertools.chain.from_iterable(map(read_source, args.text)) if args.text else val_documents(args.data_dir)
    texts, left = [], args.max_bytes
    for document in documents:
        raw = document.encode()
        if (text := raw[:left].decode(errors="ignore")).strip():
            texts.append(text)
        left -= len(raw)
        if left <= 0:
            break
    if not texts:
        raise UserError(f"there is no text in {source(args)}; name another file (--text)")
    return texts


def val_documents(data_dir: Path) -> Iterator[str]:
    """The documents of val.bin, in file order. Raises UserError as `check_data` does."""
    import numpy as np

    from nano_hindi.dataloader import TokenFile, check_data

    info = check_data(data_dir)
    tokens = TokenFile(data_dir / "val.bin", info.vocab_size).tokens
    starts = np.flatnonzero(tokens == info.bos_id).tolist()
    for begin, end in itertools.pairwise([*starts, len(tokens)]):
        yield info.tokenizer.decode(tokens[begin:end])  # leaves bos and eos out


def load_scorer(args: argparse.Namespace) -> Scorer:
    """The model that was asked for."""
    from nano_hindi.checkpoint import load_for_inference
    from nano_hindi.scoring import CheckpointScorer, HuggingFaceScorer

    device = pick_device(args.device)
    if args.hf:
        return HuggingFaceScorer(args.hf, device, args.trust_remote_code)
    return CheckpointScorer(load_for_inference(args.checkpoint), device)


if __name__ == "__main__":
    sys.exit(main())
