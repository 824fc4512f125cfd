"""The chat data of a fine-tuning run: what finetune.py reads, evaluates and records. It has the
interface of `text_data.TextData`."""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from nano_hindi.chat.batches import ChatBatches, Conversations
from nano_hindi.chat.template import MARKERS, until_stop
from nano_hindi.config import FINETUNE, INIT_LR_FRACTION, TrainConfig
from nano_hindi.console import count, counted
from nano_hindi.corpus.prepared import CHAT, DataInfo, check_data
from nano_hindi.dataloader import Sequences
from nano_hindi.distributed import World, require_same
from nano_hindi.engine import generate_each
from nano_hindi.errors import require
from nano_hindi.files import file_digest
from nano_hindi.flags import given_flags
from nano_hindi.model import GPT

EVALUATIONS = 8  # of a run
SAMPLES, SAMPLE_TOKENS = 4, 64  # conversations that a sample answers, and most tokens of an answer


@dataclass(frozen=True)
class FullRows:
    """Rows of the whole context, to measure the memory that a conversation may need."""

    sequence_len: int

    def batch(self, start: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return inputs and targets, int64 (count, T), of token 0."""
        rows = torch.zeros((count, self.sequence_len), dtype=torch.int64)
        return rows, rows


class ChatData:
    """A chat data folder, of which a run reads the conversations that fit into the model's
    context."""

    has_anneal, anneal_text, maker, budget_flag = False, "", "data/chat.py", "--epochs"

    def __init__(self, folder: Path, info: DataInfo, sequence_len: int):
        """Raise UserError if no conversation of a split fits into a context of `sequence_len`
        tokens."""
        self.folder, self.info, self.tokenizer = folder, info, info.tokenizer
        self.train, self.val = (Conversations(folder, info, split, sequence_len) for split in ("train", "val"))

    def __str__(self) -> str:
        return str(self.folder)

    @property
    def tokenizer_dir(self) -> Path:
        return self.folder / "tokenizer"

    def loader(self, config: TrainConfig, anneal_start: int | None) -> FullRows:
        return FullRows(self.train.sequence_len)

    def train_batches(self, loader: Sequences, config: TrainConfig, batch_size: int, world: World) -> ChatBatches:
        """Return this rank's device batches."""
        return ChatBatches(self.train, config.sequences_per_update, config.seed, batch_size, world.rank, world.size)

    def val_batches(self, config: TrainConfig, batch_size: int, world: World) -> dict[str, Iterator[tuple[torch.Tensor, torch.Tensor]]]:
        """Return this rank's batches for an evaluation, of conversations with about `eval_tokens`
        tokens in all."""
        size = max(1, len(self.val) * config.eval_tokens // int(self.val.lengths.sum()))
        return {"chat": ((x, y) for x, y, _ in self.val.batches(self._spread(size), batch_size, world.rank, world.size))}

    def _spread(self, size: int) -> np.ndarray:
        """Return the numbers of `size` conversations of val.bin, or of all if there are fewer. They
        are spread evenly over it: it has one source after another."""
        size = min(size, len(self.val))
        return np.arange(size) * len(self.val) // size

    def samples(self, model: GPT, seed: int) -> list[tuple[str, str]]:
        """Return (question, question and answer) for the first answers of some conversations of
        val.bin, at temperature 0. Each is on one line."""
        tokenizer, asked = self.tokenizer, []
        for i in self._spread(SAMPLES):
            x, y = self.val.batch(np.array([i]))
            begin = int((y[0] >= 0).nonzero()[0])  # the first target is that of the last token of the question
            asked.append(x[0, : begin + 1].tolist())
        answers = generate_each(model, [(ids, None) for ids in asked], SAMPLE_TOKENS, (tokenizer.eos_id,), temperature=0)
        samples = []
        for ids, answer in zip(asked, answers, strict=True):
            turn = tokenizer.decode(ids).rpartition(MARKERS["user"])[2].rpartition(MARKERS["assistant"])[0]
            question = min(turn.strip().split("\n\n"), key=len)  # not the story that it is about
            texts = [" ".join(text.split()) for text in (question, until_stop(tokenizer.decode(answer)))]
            samples.append((texts[0], " → ".join(texts)))
        return samples

    def record(self, anneal_start: int | None) -> dict:
        """Return the data metadata that a checkpoint keeps."""
        return self.info.record()

    def lines(self, config: TrainConfig, anneal_start: int | None) -> list[str]:
        """Return the lines of the startup summary about the data."""
        epochs = config.updates * config.sequences_per_update / len(self.train)
        left_out = f"; {self.train.left_out:,} left out, longer than {self.train.sequence_len:,} tokens" if self.train.left_out else ""
        return [
            f"data        {counted(len(self.train), 'conversation')} to train on, seen {epochs:.2f} times{left_out}",
            f"            {count(int(self.train.lengths.sum()))} tokens, {count(int(self.train.targets.sum()))} of them targets: the assistant's",
        ]


def open_chat(folder: Path, sequence_len: int, world: World, every_chunk: bool) -> ChatData:
    """Return the checked chat data. Collective. Raises UserError as `check_data` and `ChatData` do,
    or if the ranks differ."""
    data = ChatData(folder, check_data(folder, every_chunk, CHAT), sequence_len)
    names = ("train.bin", "val.bin", "train_conversations.bin", "val_conversations.bin")
    values: dict[str, object] = {"tokenizer": data.info.fingerprint, **{name: file_digest(folder / name) for name in names}}
    require_same(world, "data", values, "copy that machine's --data_dir to the others")
    return data


# ---- the recipe


def finetune_recipe(args: argparse.Namespace, data: ChatData) -> TrainConfig:
    """Return the recipe of a new run. Its `sequence_len` is the mean length of a conversation, so
    that `tokens_per_update` is the mean number of tokens of an update."""
    flags = given_flags(args, TrainConfig)
    batch_size = flags.setdefault("batch_size", FINETUNE["batch_size"])
    updates = _updates(data, getattr(args, "epochs", FINETUNE["epochs"]), batch_size)
    lr_scale = getattr(args, "lr_scale", FINETUNE["lr_scale"])
    chosen = {
        "gradient_accumulation_steps": 1,
        "warmup_steps": updates // 20,
        "init_lr_fraction": INIT_LR_FRACTION,
        **dict.fromkeys(("eval_interval", "inference_interval", "checkpoint_interval"), max(1, updates // EVALUATIONS)),
        **{field.name: getattr(TrainConfig, field.name) * lr_scale for field in dataclasses.fields(TrainConfig) if field.name.endswith("_lr")},
    }
    mean_length = data.train.mean_length
    return TrainConfig(**{**chosen, **flags, "total_tokens": updates * batch_size * mean_length, "sequence_len": mean_length})


def apply_finetune_flags(args: argparse.Namespace, data: ChatData, resumed: TrainConfig) -> None:
    """Turn the --epochs of a resumed run into its --total_tokens. Raises UserError for another
    --lr_scale than that of the run."""
    if hasattr(args, "epochs"):
        args.total_tokens = _updates(data, args.epochs, resumed.batch_size) * resumed.batch_size * data.train.mean_length
    if hasattr(args, "lr_scale"):
        before = resumed.muon_lr / TrainConfig.muon_lr
        require(
            math.isclose(args.lr_scale, before),
            f"a resumed run keeps its configuration, but --lr_scale is {args.lr_scale:g} (checkpoint: {before:g}); "
            "omit it, or start a new run in another --checkpoint_dir",
        )


def _updates(data: ChatData, epochs: float, batch_size: int) -> int:
    """Return the number of updates that read each conversation `epochs` times."""
    return max(1, math.ceil(epochs * len(data.train) / batch_size))
