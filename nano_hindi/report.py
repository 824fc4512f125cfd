"""What train.py tells its user: the page at the start, the log line, the samples."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from nano_hindi.budget import EXPECTED_UTILISATION, MEMORY_SHARE, activation_bytes, choose_device_batch_size, matmul_flops, state_bytes
from nano_hindi.common import World, compute_dtype, count, duration
from nano_hindi.config import GPTConfig, TrainConfig, configs_for_new_run
from nano_hindi.dataloader import check_data
from nano_hindi.model import GPT

SAMPLE_PROMPTS = ("भारत एक", "एक समय की बात है", "आज सुबह", "विज्ञान और तकनीक")


def parameter_lines(model: GPT, train: TrainConfig) -> list[str]:
    """The true parameter count by kind, and the true ratios of tokens to parameters."""
    n = model.num_params()
    kinds = ", ".join(
        f"{label} {count(n[key])}"
        for key, label in (("blocks", "blocks"), ("wte", "wte"), ("lm_head", "lm_head"), ("value_embeds", "value embeddings"))
    )
    return [
        f"parameters  {count(n['total'])} ({n['total']:,}): {kinds}, scalars {n['scalars']}",
        f"tokens      {count(train.updates * train.tokens_per_update)}: {train.updates * train.tokens_per_update / n['total']:.3g} per parameter, "
        f"{train.updates * train.tokens_per_update / n['blocks']:.3g} per parameter of the blocks",
    ]


def plan_lines(model_config: GPTConfig, train: TrainConfig, train_tokens: int | None) -> list[str]:
    """The run in steps and updates."""
    lines = [
        f"plan        {train.updates:,} updates = {train.steps:,} steps of {train.batch_size} x {train.sequence_len} tokens, {train.tokens_per_update:,} tokens per update",
        f"windows     {model_config.window_pattern}: {' '.join(str(w) for w in model_config.windows)} keys per layer",
    ]
    if train_tokens is not None:
        epochs = train.updates * train.tokens_per_update / max(1, train_tokens)
        lines.insert(0, f"data        {count(train_tokens)} tokens to train on, seen {epochs:.2f} times")
    if train.warmup_is_shortened:
        lines.append(
            f"warm-up     shortened from {train.warmup_steps:,} to {train.warmup_updates * train.gradient_accumulation_steps:,} steps, a fifth of the run"
        )
    return lines


def estimate_lines(model: GPT, config: GPTConfig, train: TrainConfig, world: World, dtype: torch.dtype) -> list[str]:
    """Rough memory and time of the run on this device, from counted bytes and a measured matmul rate."""
    state, activations = state_bytes(model.num_params()), activation_bytes(config, dtype)
    sequences = _expected_at_once(train, world, state, activations)
    rate = matmul_flops(world.device, dtype)
    tokens_per_second = EXPECTED_UTILISATION * rate / model.flops_per_token() * world.size
    seconds = train.updates * train.tokens_per_update / tokens_per_second
    return [
        f"memory      {state / 1e9:.2f} GB of weights, gradients and optimizer states + {activations / 1e9:.3f} GB for each sequence "
        f"(counted without compile): {(state + sequences * activations) / 1e9:.1f} GB with {sequences} at once",
        f"time        about {duration(seconds)} at {count(tokens_per_second)} tokens/s: an estimate from {EXPECTED_UTILISATION:.0%} of this device's measured "
        f"{rate / 1e12:.3g} TFLOP/s, {model.flops_per_token() / 1e6:.0f} MFLOP per token",
    ]


def _expected_at_once(train: TrainConfig, world: World, state: int, activations: int) -> int:
    """Sequences that the device is likely to take at once; on a GPU "auto" measures them when the run starts, here its memory is only divided."""
    share = train.sequences_per_rank(world.size)
    if train.device_batch_size != "auto" or world.device.type != "cuda":
        return choose_device_batch_size(train.device_batch_size, share, train.sequence_len, lambda sequences: None, 0, World(0, 1, world.device))
    memory = torch.cuda.get_device_properties(world.device).total_memory
    return max(1, min(share, int((MEMORY_SHARE * memory - state) // activations)))


class Meter:
    """Means since the last log line, and the speed over that time; pauses (evaluations, samples, checkpoints) do not count."""

    def __init__(self, state: dict | None = None):
        self.loss_sum, self.updates = (state["loss_sum"], state["updates"]) if state else (0.0, 0)
        self._start_interval()

    def state_dict(self) -> dict:
        """The means so far: a resumed run goes on with them."""
        return {"loss_sum": self.loss_sum, "updates": self.updates}

    def _start_interval(self) -> None:
        self.tokens, self.start = 0, time.perf_counter()

    def add(self, loss: float, tokens: int) -> None:
        self.loss_sum += loss
        self.updates += 1
        self.tokens += tokens

    @contextmanager
    def paused(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.start += time.perf_counter() - start

    def read(self) -> tuple[float, float]:
        """(mean loss, tokens per second) since the last call."""
        loss, rate = self.loss_sum / max(1, self.updates), self.tokens / max(1e-9, time.perf_counter() - self.start)
        self.loss_sum, self.updates = 0.0, 0
        self._start_interval()
        return loss, rate


def log_line(train: TrainConfig, update: int, record: dict, mfu: float | None) -> str:
    """One line of progress, from the record that also goes to metrics.jsonl."""
    left = (train.updates - update) * train.tokens_per_update / max(1e-9, record["tokens_per_second"])
    parts = [
        f"{position(train, update)}",
        f"loss {record['loss']:.4f}",
        f"lr {record['lr']:.2e}",
        f"norm {record['grad_norm']:.3g}",
        f"{record['tokens_per_second']:,.0f} tokens/s",
        *([f"MFU {mfu:.1%}"] if mfu is not None else []),
        f"{duration(left)} left",
    ]
    return " | ".join(parts)


def where(train: TrainConfig, update: int) -> dict:
    """The first keys of every record of metrics.jsonl."""
    return {"step": update * train.gradient_accumulation_steps, "update": update, "tokens": update * train.tokens_per_update}


def position(train: TrainConfig, update: int) -> str:
    """Where the run is: `step 1000/7628 (update 250/1907)`."""
    return f"step {update * train.gradient_accumulation_steps}/{train.steps} (update {update}/{train.updates})"


def print_samples(model: GPT, tokenizer, world: World, max_tokens: int = 48, seed: int = 0) -> list[tuple[str, str]]:
    """Print, and return, a continuation of each sample prompt."""
    samples = []
    for prompt in SAMPLE_PROMPTS:
        tokens = model.generate(tokenizer.encode_prompt(prompt), max_tokens, temperature=0.8, top_k=50, seed=seed)
        ids = []
        for token in tokens:
            if token == tokenizer.eos_id:
                break
            ids.append(token)
        text = " ".join(tokenizer.decode(tokenizer.encode_prompt(prompt) + ids).split())
        world.print(f"  {text}")
        samples.append((prompt, text))
    return samples


def print_dry_run(args: argparse.Namespace, world: World) -> int:
    """`train.py --dry_run`: what the run would be and cost. Works before there is any data, with the preset's vocabulary."""
    data = check_data(args.data_dir) if (args.data_dir / "preprocess_meta.txt").exists() else None
    model_config, config = configs_for_new_run(args, data and data.vocab_size)
    config.sequences_per_rank(world.size)
    with torch.device("meta"):
        model = GPT(model_config)
    if data is None:
        world.print(f"data        none in {args.data_dir} yet; the vocabulary is the preset's, {model_config.vocab_size:,} pieces")
    for line in (
        *parameter_lines(model, config),
        *plan_lines(model_config, config, data and data.train_tokens),
        *estimate_lines(model, model_config, config, world, compute_dtype(world.device)),
    ):
        world.print(line)
    return 0
