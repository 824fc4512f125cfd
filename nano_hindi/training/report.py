"""The output of a run: startup summary, log and status lines, final summary, and `--dry_run`."""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import fmean

import torch

from nano_hindi.checkpoint import checkpoint_path
from nano_hindi.common import compute_dtype
from nano_hindi.config import GPTConfig, TrainConfig
from nano_hindi.console import bar, count, counted, duration, python_command, shell_quoted, shown
from nano_hindi.corpus.prepared import METADATA
from nano_hindi.distributed import World
from nano_hindi.eval import Evaluation
from nano_hindi.model import GPT
from nano_hindi.training.estimates import EXPECTED_UTILIZATION, matmul_flops
from nano_hindi.training.memory import MEMORY_FRACTION, activation_bytes, choose_device_batch_size, state_bytes
from nano_hindi.training.metrics import training_seconds
from nano_hindi.training.resume import Plan

OVERFITTED = 1.01  # times the best bits per byte of the run


def device_line(preset: str, world: World, dtype: torch.dtype) -> str:
    """Return the line of the startup summary that names the preset, the device, the dtype and the
    number of ranks."""
    kind = torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else counted(torch.get_num_threads(), "thread")
    return f"nano_hindi  {preset} on {world.device} ({kind}) in {str(dtype).removeprefix('torch.')}, {counted(world.size, 'rank')}"


def parent_lines(plan: Plan) -> list[str]:
    """Return the line of the startup summary about the model that the run started from, if there
    is one."""
    record = plan.parent_record
    return [f"init from   {record['file']}, step {record['step']:,}"] if record else []


def run_lines(plan: Plan, model: GPT, world: World) -> list[str]:
    """Return the lines about the parameters, the data, the plan, and the estimates for the rest of
    the run."""
    return [
        *parameter_lines(model, plan.config),
        *(plan.data.lines(plan.config, plan.anneal_start) if plan.data else []),
        *plan_lines(plan.model_config, plan.config),
        *estimate_lines(model, plan.config, world, plan.update),
    ]


def parameter_lines(model: GPT, train: TrainConfig) -> list[str]:
    """Return the exact parameter counts by kind, and the ratios of tokens to parameters."""
    n = model.num_params()
    labels = {"blocks": "blocks", "wte": "wte" if n["lm_head"] else "wte, also lm_head,", "lm_head": "lm_head", "value_embeds": "value embeddings"}
    kinds = ", ".join(f"{label} {count(n[kind])}" for kind, label in labels.items() if n[kind])
    tokens = train.updates * train.tokens_per_update
    return [
        f"parameters  {count(n['total'])} ({n['total']:,})",
        f"            {kinds}, scalars {n['scalars']}",
        f"tokens      {count(tokens)}: {tokens / n['total']:.3g} per parameter, {tokens / n['blocks']:.3g} per parameter of the blocks",
    ]


def plan_lines(model_config: GPTConfig, train: TrainConfig) -> list[str]:
    """Return the lines about updates, schedule, attention windows and n-grams."""
    on_average = " on average" if train.sequence_len != model_config.sequence_len else ""  # conversations
    lines = [
        f"plan        {counted(train.updates, 'update')} = {counted(train.steps, 'step')} of {train.batch_size} x {train.sequence_len} tokens{on_average}, {train.tokens_per_update:,} tokens per update",
        f"schedule    {train.schedule_text}",
        f"windows     {model_config.window_pattern}: {' '.join(str(w) for w in model_config.windows)} keys per layer",
    ]
    if train.ngram_buckets:
        lines.append(f"n-grams     {train.ngram_buckets:,} buckets, through which tokens that are spelled alike learn together")
    return lines


def estimate_lines(model: GPT, train: TrainConfig, world: World, updates_made: int) -> list[str]:
    """Return estimates of the memory and of the time of the remaining updates on this device, from
    counted bytes and the measured speed of a matmul."""
    config, dtype = model.config, compute_dtype(world.device, train.dtype)
    state, activations = state_bytes(model, train.ngram_buckets), activation_bytes(config, dtype)
    sequences, how = _expected_at_once(train, config.sequence_len, world, state, activations), "without compile"
    if sequences == 0:
        activations, how = activation_bytes(config, dtype, recompute=True), "with each block computed again in the backward pass"
        sequences = _expected_at_once(train, config.sequence_len, world, state, activations)
        how += "" if sequences else ": not even one fits on this device"
    flops_per_second = matmul_flops(world.device, dtype)
    tokens_per_second = EXPECTED_UTILIZATION * flops_per_second / model.flops_per_token() * world.size
    seconds = (train.updates - updates_made) * train.tokens_per_update / tokens_per_second
    is_slow = train.dtype == "bfloat16" and flops_per_second < matmul_flops(world.device, torch.float32)
    return [
        f"memory      about {(state + sequences * activations) / 1e9:.3g} GB with {counted(sequences, 'sequence')} at once, {how}",
        f"            {state / 1e9:.3g} GB of weights, gradients and optimizer states + {activations / 1e9:.3g} GB for each sequence",
        f"time        about {duration(seconds)} at {count(tokens_per_second)} tokens/s: an estimate, {EXPECTED_UTILIZATION:.0%} of the {flops_per_second / 1e12:.2g} TFLOP/s measured here",
        *["notice: bfloat16 is slower than float32 here; --dtype auto is faster"] * is_slow,
    ]


def _expected_at_once(train: TrainConfig, sequence_len: int, world: World, state: int, activations: int) -> int:
    """Return the expected device batch size. On a GPU, "auto" measures it when the run starts; this
    estimate only divides the GPU's memory, and is 0 if not even one sequence fits."""
    per_rank = train.sequences_per_rank(world.size)
    if train.device_batch_size != "auto" or world.device.type != "cuda":
        return choose_device_batch_size(train.device_batch_size, per_rank, sequence_len, lambda sequences: None, 0, World(0, 1, world.device))
    memory = torch.cuda.get_device_properties(world.device).total_memory
    return max(0, min(per_rank, int((MEMORY_FRACTION * memory - state) // activations)))


def log_line(train: TrainConfig, update: int, record: dict, mfu: float | None, left: float | None) -> str:
    """Return a line of progress from a record of metrics.jsonl. The columns of successive lines are
    aligned."""
    parts = [
        position(train, update).ljust(len(position(train, train.updates))),
        f"loss {record['loss']:.4f}",
        f"lr {record['lr']:.2e}",
        f"norm {record['grad_norm']:.4f}",
        f"{record['tokens_per_second']:,.0f} tokens/s",
        *([f"MFU {mfu:.1%}"] if mfu is not None else []),
        *([f"{duration(left)} left"] if left is not None else []),
    ]
    return " | ".join(parts)


def evaluation_record(results: dict[str, Evaluation]) -> dict[str, float]:
    """Return the keys of a record of metrics.jsonl for an evaluation: the means over the sources,
    and the figures of each source if there are several."""
    mean = {"val_loss": fmean(result.loss for result in results.values()), "val_bpb": fmean(result.bpb for result in results.values())}
    if len(results) == 1:
        return mean
    return mean | {f"{key}/{name}": value for name, r in results.items() for key, value in (("val_loss", r.loss), ("val_bpb", r.bpb))}


def evaluation_lines(results: dict[str, Evaluation]) -> list[str]:
    """Return the log lines of an evaluation: the means over the sources, then each source if there
    are several."""
    mean = evaluation_record(results)
    lines = [f"validation: loss {mean['val_loss']:.4f}, {mean['val_bpb']:.4f} bits per byte"]
    if len(results) > 1:
        lines[0] += f", the means of {len(results)} sources"
        lines += [f"validation of {name}: loss {result.loss:.4f}, {result.bpb:.4f} bits per byte" for name, result in results.items()]
    return lines


def status_line(train: TrainConfig, update: int, loss: float, tokens_per_second: float | None, left: float | None, columns: int) -> str:
    """Return the status line, which is rewritten after every update."""
    parts = [
        f"step {train.steps_of(update)}/{train.steps}",
        f"loss {loss:.4f}",
        *([f"{tokens_per_second:,.0f} tokens/s"] if tokens_per_second is not None else []),
        *([f"{duration(left)} left"] if left is not None else []),
    ]
    while len(figures := " | ".join(parts)) + 6 > columns and len(parts) > 2:
        del parts[2]  # a terminal would cut the line within a number
    made = update / train.updates
    return f"{made:4.0%} {bar(made, min(32, columns - len(figures) - 6))} {figures}"


def summary_lines(train: TrainConfig, update: int, latest: dict, records: list[dict], peak_bytes: int | None, folder: Path) -> list[str]:
    """Return the final summary: updates, result, peak memory, files, and the next command.
    `records` are those of metrics.jsonl, none if it is lost."""
    tokens, seconds = update * train.tokens_per_update, training_seconds(records)
    loss = f", training loss {latest['loss']:.4f}" if "loss" in latest else ""  # absent if the run ended before its first log line
    evaluated = ((record["val_bpb"], record["step"], record["tokens"]) for record in records if record.get("val_bpb"))
    best, step, read = min(evaluated, default=(latest["val_bpb"], 0, 0))
    best_of_run = f"validation was best at step {step:,}, after {count(read)} tokens: {best:.4f} bits per byte"
    names = ("model.pt", checkpoint_path(folder, train.steps_of(update)).name, "metrics.jsonl", "curves.png")
    speed = f" in {duration(seconds)} of training: {count(tokens / seconds)} tokens/s" if seconds > 0 else ""
    return [
        f"done:       {counted(update, 'update')}, {count(tokens)} tokens{speed}",
        f"result      {latest['val_bpb']:.4f} bits per byte, validation loss {latest['val_loss']:.4f}{loss}",
        *([f"notice: {best_of_run}; a shorter run or more text would give a better model"] if latest["val_bpb"] > OVERFITTED * best else []),
        *([f"memory      {peak_bytes / 1e9:.3g} GB at the most"] if peak_bytes is not None else []),
        f"files       {shown(folder)}: {', '.join(name for name in names if (folder / name).is_file())}",
        f"next        {python_command('generate.py')} --checkpoint {shell_quoted(folder)} --interactive",
    ]


def counters(train: TrainConfig, update: int) -> dict:
    """Return step, update and tokens, the first keys of every record in metrics.jsonl."""
    return {"step": train.steps_of(update), "update": update, "tokens": update * train.tokens_per_update}


def position(train: TrainConfig, update: int) -> str:
    """Return the position in the run: `step 1000/7628 (update 250/1907)`."""
    return f"step {train.steps_of(update)}/{train.steps} (update {update}/{train.updates})"


def print_dry_run(plan: Plan, args: argparse.Namespace, world: World) -> int:
    """Print the plan and the estimates of a run, or with --resume of the rest of the run in the
    folder (`train.py --dry_run`). Writes nothing. Returns the exit code.

    Works before there is any data, with the vocabulary size of the preset.
    """
    with torch.device("meta"):
        model = GPT(plan.model_config)
    if plan.data is None:
        owner = "checkpoint" if plan.saved else "model" if plan.parent else "preset"
        given = (source.folder for source in (*args.data_dir, *args.anneal_data_dir))
        folders = ", ".join(str(folder) for folder in given if not (folder / METADATA).is_file())
        world.print(f"data        none in {folders} yet; the vocabulary is the {owner}'s, {plan.model_config.vocab_size:,} tokens")
    if plan.saved:
        world.print(f"progress    {position(plan.config, plan.update)}, {counted(plan.config.updates - plan.update, 'update')} left")
    for line in (*parent_lines(plan), *run_lines(plan, model, world)):
        world.print(line)
    return 0
