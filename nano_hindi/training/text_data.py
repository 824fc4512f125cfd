"""The data folders of a run, with their weights: what train.py reads, evaluates and records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import torch

from nano_hindi.config import TrainConfig
from nano_hindi.console import count, counted, unique_names
from nano_hindi.corpus.prepared import DataInfo, check_data
from nano_hindi.dataloader import SequenceLoader, Sequences, TrainBatches, val_batches
from nano_hindi.distributed import World, require_same
from nano_hindi.engine import generate_each
from nano_hindi.errors import UserError, require
from nano_hindi.files import file_digest
from nano_hindi.flags import WeightedFolder
from nano_hindi.inference.settings import SAMPLE_PROMPTS, Settings
from nano_hindi.mixture import MixedLoader, Mixture, normalized
from nano_hindi.model import GPT

MANY_EPOCHS = 4  # up to here, text read again is worth almost as much as new text: Muennighoff et al. 2023, arXiv 2305.16264
SAMPLE_TOKENS = 48  # most tokens that continue a prompt
Batches = Iterator[tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class MixtureSource:
    """A data folder of a run."""

    name: str
    folder: Path
    data: DataInfo
    weight: Fraction  # 0 if only the anneal reads it
    anneal_weight: Fraction  # 0 if the anneal does not read it


class TextData:
    """The data folders of a run, all with the same `tokenizer`: those of --data_dir, then those
    that only the anneal reads."""

    maker, budget_flag = "data/preprocess.py", "--total_tokens"

    def __init__(self, sources: Sequence[MixtureSource]):
        self.sources, self.tokenizer = tuple(sources), sources[0].data.tokenizer
        self.has_anneal = any(source.anneal_weight for source in sources)

    def __str__(self) -> str:
        return ", ".join(str(source.folder) for source in self.sources)

    @property
    def tokenizer_dir(self) -> Path:
        return self.sources[0].folder / "tokenizer"

    def loader(self, config: TrainConfig, anneal_start: int | None) -> MixedLoader:
        """Return the training sequences. Raises UserError if a train.bin holds no full sequence."""
        loaders = [SequenceLoader(source.data.train, config.sequence_len, config.seed) for source in self.sources]
        return MixedLoader(loaders, self.mixture(config, anneal_start))

    def mixture(self, config: TrainConfig, anneal_start: int | None) -> Mixture:
        """Return the source of each sequence; the anneal begins after `anneal_start` updates."""
        weights, anneal = [source.weight for source in self.sources], [source.anneal_weight for source in self.sources]
        return Mixture(weights) if anneal_start is None else Mixture(weights, anneal, anneal_start * config.sequences_per_update)

    def train_batches(self, loader: Sequences, config: TrainConfig, batch_size: int, world: World) -> TrainBatches:
        """Return this rank's device batches of the stream of `loader`."""
        return TrainBatches(loader, config.sequences_per_update, batch_size, world.rank, world.size, world.device.type == "cuda")

    def samples(self, model: GPT, seed: int) -> list[tuple[str, str]]:
        """Return (prompt, text) for each sample prompt. The text begins with the prompt and is on
        one line."""
        tokenizer = self.tokenizer
        prompts = [tokenizer.encode_open(prompt) for prompt in SAMPLE_PROMPTS]
        texts = generate_each(model, prompts, SAMPLE_TOKENS, (tokenizer.eos_id,), **Settings(seed=seed).sampling())
        samples = [tokenizer.decode([*tokens, *text]) for (tokens, _), text in zip(prompts, texts, strict=True)]
        return [(prompt, " ".join(sample.split())) for prompt, sample in zip(SAMPLE_PROMPTS, samples, strict=True)]

    def val_batches(self, config: TrainConfig, batch_size: int, world: World) -> dict[str, Batches]:
        """Return this rank's batches for an evaluation, by the name of the source. Raises UserError
        if a val.bin holds no full sequence."""
        return {
            source.name: val_batches(source.data.val, config.sequence_len, batch_size, config.eval_tokens, world.rank, world.size)
            for source in self.sources
        }

    def record(self, anneal_start: int | None) -> dict:
        """Return the data metadata that a checkpoint keeps. That of a single folder has no
        weights."""
        records = [source.data.record() for source in self.sources]
        if len(records) == 1 and not self.has_anneal:
            return records[0]
        weights = [{"weight": str(source.weight), "anneal_weight": str(source.anneal_weight)} for source in self.sources]
        return {
            **{key: sum(record[key] for record in records) for key in ("train_tokens", "val_tokens")},
            "sources": [record | weight for record, weight in zip(records, weights, strict=True)],
            **({} if anneal_start is None else {"anneal_start": anneal_start}),
        }

    def lines(self, config: TrainConfig, anneal_start: int | None) -> list[str]:
        """Return the lines of the startup summary about the data."""
        lines: list[str] = []
        is_mixture = len(self.sources) > 1 or self.has_anneal
        sequences = self.mixture(config, anneal_start).counts(config.updates * config.sequences_per_update)
        for source, number in zip(self.sources, sequences.tolist(), strict=True):
            tokens, named = source.data.train_tokens, f"{source.name}: weight {float(source.weight):.4g}, " if is_mixture else ""
            epochs = number * config.sequence_len / tokens
            lines.append(f"{'' if lines else 'data':12}{named}{count(tokens)} tokens to train on, seen {epochs:.2f} times")
        epochs = config.updates * config.tokens_per_update / sum(source.data.train_tokens for source in self.sources)
        if epochs > MANY_EPOCHS:
            lines.append(
                f"notice: text read more than {MANY_EPOCHS} times teaches little; use more text or a smaller --total_tokens (docs/training.md#small-texts)"
            )
        if anneal_start is not None and anneal_start < config.updates:
            step = config.steps_of(anneal_start)
            lines.append(f"anneal      after step {step:,}, for {counted(config.updates - anneal_start, 'update')}: {self.anneal_text}")
        return lines

    @property
    def anneal_text(self) -> str:
        """Return the mixture of the anneal: `stories 0.7, news 0.3`."""
        return ", ".join(f"{source.name} {float(source.anneal_weight):.4g}" for source in self.sources if source.anneal_weight)


def open_text(folders: Sequence[WeightedFolder], anneal_folders: Sequence[WeightedFolder], world: World, every_chunk: bool) -> TextData:
    """Return the checked data folders of a run. Collective.

    Raises UserError as `check_data` does, if weights are missing for some folders only, if a folder
    is given twice or has another tokenizer, or if the ranks differ.
    """
    opened: dict[Path, tuple[Path, DataInfo]] = {}  # by resolved path: the folder as given, and its data
    for flag, group in (("--data_dir", folders), ("--anneal_data_dir", anneal_folders)):
        places = [given.folder.resolve() for given in group]
        for i, (place, given) in enumerate(zip(places, group, strict=True)):
            require(place not in places[:i], f"{flag} names the folder {given.folder} twice; give it once, with the sum of its weights")
            require(
                (given.weight is None) == (group[0].weight is None), f"{flag} has weights for some of its folders only; give all a weight, or none"
            )
            if place not in opened:
                opened[place] = given.folder, check_data(given.folder, every_chunk)
    weights, anneal_weights = (_weights_of(group, opened) for group in (folders, anneal_folders))
    text = TextData(
        [
            MixtureSource(name, folder, data, weights.get(place, Fraction(0)), anneal_weights.get(place, Fraction(0)))
            for (place, (folder, data)), name in zip(opened.items(), unique_names(list(opened)), strict=True)
        ]
    )
    values: dict[str, object] = {"tokenizer": text.tokenizer.fingerprint}
    for number, source in enumerate(text.sources, 1):
        folder, data = source.folder, source.data
        if data.fingerprint != text.tokenizer.fingerprint:
            first = text.sources[0].folder
            raise UserError(f"{folder} has another tokenizer than {first}; run data/preprocess.py for both with --tokenizer {first / 'tokenizer'}")
        if not data.train_digest:
            require(
                not every_chunk,
                f"{folder} has no digests to verify: an older version made it; delete preprocess_meta.txt and run data/preprocess.py again",
            )
            world.print(f"notice: {folder} has no digests, because an older version made it: damage, or another order, is not noticed")
        of = f" of source {number}" if len(text.sources) > 1 else ""
        values |= {f"{name}{of}": file_digest(folder / name) for name in ("train.bin", "val.bin")}
        values |= {f"weights{of}": (str(source.weight), str(source.anneal_weight))}
    require_same(world, "data", values, "copy that machine's --data_dir to the others")
    return text


def _weights_of(group: Sequence[WeightedFolder], opened: dict[Path, tuple[Path, DataInfo]]) -> dict[Path, Fraction]:
    """Return the weights of the folders of a flag, by their resolved paths. Without given weights
    they are proportional to the training tokens."""
    places = [given.folder.resolve() for given in group]
    tokens = [Fraction(opened[place][1].train_tokens) for place in places]
    return dict(zip(places, normalized([given.weight or n for given, n in zip(group, tokens, strict=True)]), strict=True))


def different_keys(saved: dict, now: dict) -> list[str]:
    """Return the keys of the records of data `saved` and `now` that differ. A digest is missing, or
    empty, in those of older versions."""
    before, after = _flat(saved), _flat(now)
    if ("sources" in saved) != ("sources" in now):
        return ["sources"]
    return [key for key in after if before.get(key) != after[key] and not ("digest" in key and "" in (before.get(key, ""), after[key]))]


def _flat(record: dict) -> dict:
    sources = {f"source {number} {key}": value for number, source in enumerate(record.get("sources", ()), 1) for key, value in source.items()}
    return {**{key: value for key, value in record.items() if key != "sources"}, **sources}
