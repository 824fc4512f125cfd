"""The chat data of a fine-tuning run: what finetune.py reads, evaluates and records. It has the
interface of `sources.Sources`."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from nano_hindi.chat.batches import ChatBatches, Conversations
from nano_hindi.chat.template import VERSION, until_stop
from nano_hindi.config import GPTConfig, TrainConfig
from nano_hindi.console import count
from nano_hindi.corpus.prepared import CHAT, DataInfo, check_data
from nano_hindi.distributed import World, require_same
from nano_hindi.engine import generate_tokens
from nano_hindi.files import file_digest
from nano_hindi.model import GPT
from nano_hindi.tokenizer import Tokenizer

SAMPLES, SAMPLE_TOKENS = 4, 64


@dataclass(frozen=True)
class FullRows:
    """Rows of the whole context, to measure the memory that a conversation may need."""

    sequence_len: int

    def batch(self, start: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return inputs and targets, int64 (count, T), of token 0."""
        rows = torch.zeros((count, self.sequence_len), dtype=torch.int64)
        return rows, rows


class ChatData:
    """A chat data folder, of which a model with a context of `sequence_len` tokens reads the
    conversations that fit."""

    has_anneal, anneal_text = False, ""

    def __init__(self, folder: Path, info: DataInfo, sequence_len: int):
        """Raise UserError if no conversation of a split fits."""
        self.folder, self.info, self.sequence_len = folder, info, sequence_len
        self.train, self.val = (Conversations(folder, info, split, sequence_len) for split in ("train", "val"))

    def __str__(self) -> str:
        return str(self.folder)

    @property
    def tokenizer(self) -> Tokenizer:
        return self.info.tokenizer

    @property
    def tokenizer_dir(self) -> Path:
        return self.folder / "tokenizer"

    def loader(self, config: TrainConfig, anneal_start: int | None) -> FullRows:
        return FullRows(self.sequence_len)

    def train_batches(self, loader: FullRows, config: TrainConfig, world: World) -> ChatBatches:
        """Return this rank's device batches."""
        return ChatBatches(self.train, config.sequences_per_update, config.seed, config.device_batch_size, world.rank, world.size)

    def val_batches(self, config: TrainConfig, batch_size: int, world: World) -> dict[str, Iterator[tuple[torch.Tensor, torch.Tensor]]]:
        """Return this rank's batches for an evaluation, of the first conversations of val.bin with
        `eval_tokens` tokens in all."""
        size = max(1, int(np.searchsorted(self.val.lengths.cumsum(), config.eval_tokens, side="right")))
        mine = np.arange(size)[world.rank :: world.size]
        return {"chat": (batch for batch, _ in self.val.batches(mine, batch_size))}

    def samples(self, model: GPT, seed: int) -> list[tuple[str, str]]:
        """Return (question, answer) for the first answers of some conversations of val.bin, at
        temperature 0. Each is on one line."""
        chosen = []
        for i in range(min(SAMPLES, len(self.val))):
            x, y = self.val.batch(np.array([i]))
            begin = int((y[0] >= 0).nonzero()[0])  # the first target is that of the last token of the question
            ids = x[0, : begin + 1].tolist()
            answer = list(generate_tokens(model, ids, SAMPLE_TOKENS, temperature=0, stop_ids=(self.tokenizer.eos_id,)))
            question = self.tokenizer.decode(ids[1:]).split("\n\n")[-2]
            chosen.append((" ".join(question.split()), "→ " + " ".join(until_stop(self.tokenizer.decode(answer)).split())))
        return chosen

    def tokenizer_record(self) -> dict:
        """Return the tokenizer metadata that a checkpoint keeps."""
        return {name: getattr(self.info, name) for name in ("fingerprint", "vocab_size", "bos_id", "eos_id")}

    def record(self, anneal_start: int | None) -> dict:
        """Return the data metadata that a checkpoint keeps."""
        return {name: getattr(self.info, name) for name in ("train_tokens", "val_tokens", "train_digest", "val_digest")}

    def marks(self) -> dict:
        """Return the keys by which a checkpoint says that its model is a chat model."""
        return {"chat": {"template": VERSION}}

    def lines(self, config: TrainConfig, anneal_start: int | None) -> list[str]:
        """Return the lines of the start page about the data."""
        epochs = config.updates * config.sequences_per_update / len(self.train)
        left_out = f"; {self.train.left_out:,} left out, longer than {self.sequence_len:,} tokens" if self.train.left_out else ""
        return [
            f"data        {len(self.train):,} conversations to train on, seen {epochs:.2f} times{left_out}",
            f"            {count(int(self.train.lengths.sum()))} tokens, {count(int(self.train.targets.sum()))} of them targets: the assistant's",
        ]


def open_chat(folder: Path, sequence_len: int, world: World, every_chunk: bool) -> ChatData:
    """Return the checked chat data. Collective. Raises UserError as `check_data` does, if no
    conversation fits into `sequence_len` tokens, or if the ranks differ."""
    data = ChatData(folder, check_data(folder, every_chunk, CHAT), sequence_len)
    names = ("train.bin", "val.bin", "train_conversations.bin", "val_conversations.bin")
    values = {"tokenizer": data.info.fingerprint, **{name: file_digest(folder / name) for name in names}}
    require_same(world, "data", values, "copy that machine's --data_dir to all of them")
    return data
