"""The training loop. One update is `train_update`; everything else happens between updates."""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import itertools
import math
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist

from nano_hindi.checkpoint import list_checkpoints, remove_leftovers, remove_superseded
from nano_hindi.common import is_out_of_memory
from nano_hindi.config import TrainConfig
from nano_hindi.console import count
from nano_hindi.distributed import World, only_run_in, unchanged_data
from nano_hindi.errors import UserError
from nano_hindi.eval import Evaluation, compute_token_bytes
from nano_hindi.eval import evaluate as evaluate_model
from nano_hindi.optim import learning_rate_scale
from nano_hindi.token_file import DataError
from nano_hindi.training import estimates, memory, report
from nano_hindi.training.awake import kept_awake
from nano_hindi.training.compile_cache import keep_compiled_kernels
from nano_hindi.training.curves import LiveCurves
from nano_hindi.training.metrics import read_metrics
from nano_hindi.training.resume import Plan, evaluation_is_pending, plan_run
from nano_hindi.training.retry import retried
from nano_hindi.training.setup import Run, open_run
from nano_hindi.training.stop import StopSignal
from nano_hindi.training.text_data import Batches

MAX_NONFINITE_IN_A_ROW = 3  # then the run stops: more data will not fix it


def start_or_resume(args: argparse.Namespace, world: World, chat: bool = False) -> int:
    """Train as the flags of train.py ask, or with `chat` those of finetune.py. Returns the exit
    code, see `train`. Raises UserError as `plan_run` and `open_run` do."""
    if not (chat or args.no_compile):
        keep_compiled_kernels()  # now: whatever imports PyTorch's compiler, such as an optimizer, sets its default
    folders = dict.fromkeys(given.folder for given in (*args.data_dir, *args.anneal_data_dir))
    with only_run_in(args.checkpoint_dir, world), unchanged_data(folders, args.checkpoint_dir, world):
        plan = plan_run(args, world, chat)
        if plan.is_complete:
            return report_finished(plan, args.checkpoint_dir, world)
        run = open_run(plan, args, world)
        del plan  # it holds the loaded checkpoint: a mapped file, which Windows cannot delete, or a copy in memory
        return train(run)


def train(run: Run) -> int:
    """Train to the end of the token budget, or until the user stops it. Returns the exit code: 0,
    or 130 / 143 after Ctrl-C / SIGTERM."""
    world = run.world
    try:
        with kept_awake(), StopSignal() as stop, run.saver, run.batches, garbage_collected_by_hand(), run.console, saved_if_data_fails(run):
            make_updates(run, stop)
            stop.raise_if_repeated()
    except KeyboardInterrupt:  # here and not in Saver.__exit__: it may be raised between the exits of two contexts
        run.saver.wait_a_little()
        raise
    run.wandb.finish()
    if stop.everywhere:
        resumes = "resumes from there" if run.saver.failure is None else f"{after_failed_save(run.folder)}: {run.saver.failure}"
        world.print(f"stopped after step {run.step}; the same command with --resume auto {resumes}")
        return stop.exit_code
    draw(run.curves, world, now=True)
    if run.saver.failure is not None:
        raise UserError(f"the run has ended, but {run.saver.failure}; fix that, then --resume auto {after_failed_save(run.folder)}")
    print_summary(run.config, run.update, run.latest, memory.peak_memory(world.device), run.folder, world)
    return 0


def make_updates(run: Run, stop: StopSignal) -> None:
    """Run the loop. Between updates: log, evaluate, sample and save, each when its interval is
    due."""
    config, first = run.config, run.update + 1
    if evaluation_is_pending(config, run.update, run.latest):
        evaluate(run, stop)
    if run.is_finished:  # a resumed run in which only the work of its end is left
        if not stop.everywhere:
            sample(run)
        save(run)
    while not run.is_finished and not stop.everywhere:
        if run.update == run.anneal_start:
            run.console.print(f"{report.position(config, run.update)} | the anneal begins, with {run.data.anneal_text}")
        loss, norm, lr_scale = retried(run, stop, lambda: train_update(run, stop))
        run.pace.mark(run.update)
        is_finite = math.isfinite(loss) and math.isfinite(norm)
        run.meter.add(loss if is_finite else None, config.tokens_per_update)
        if is_finite:
            run.nonfinite_in_a_row = 0
        else:
            report_skipped_update(run, loss, norm, lr_scale)
        if config.is_due(config.log_interval, run.update):
            log(run, norm, lr_scale)
        show_status(run, loss)
        with run.meter.paused():
            if evaluates := config.is_due(config.eval_interval, run.update):
                evaluate(run, stop)
            if config.is_due(config.inference_interval, run.update) and not stop.everywhere:
                sample(run)
            if saves := config.is_due(config.checkpoint_interval, run.update) or stop.everywhere:
                save(run)
            if evaluates or saves or run.update == first:
                collect_garbage(freeze=run.update == first)


def train_update(run: Run, stop: StopSignal) -> tuple[float, float, float]:
    """Make the next update. Returns the mean loss over all ranks, the norm of the averaged
    gradient, and the learning-rate multiplier.

    Each rank computes the gradients of its own sequences, a device batch at a time. The sum of its
    losses is divided by targets / ranks, not by its own number of targets: averaged over the ranks,
    that is the gradient of the mean over all targets, also if one rank has more of them.
    """
    config, world, optimizer, loss_scale = run.config, run.world, run.optimizer, run.loss_scale
    targets = run.batches.targets(run.update)
    factor = loss_scale.value * world.size / targets
    loss_sum = torch.zeros((), device=world.device)

    for x, y, is_last in run.batches.of(run.update):
        x, y = x.to(world.device, non_blocking=True), y.to(world.device, non_blocking=True)
        loss = run.model(x, y, loss_reduction="sum")
        with optimizer.last_backward() if is_last else contextlib.nullcontext():
            (loss * factor).backward()
        loss_sum += loss.detach()

    optimizer.reduce_gradients()
    norm, grad_scale = optimizer.grad_norm_and_scale(loss_scale.value)
    lr_scale = learning_rate_scale(config, run.update)
    optimizer.step(lr_scale, grad_scale)

    # one readback for the loss, the norm, and whether a rank was asked to stop: each is a sum over
    # the ranks
    figures = torch.stack([loss_sum / targets, norm / world.size, torch.full_like(norm, float(stop.signal is not None))])
    if world.size > 1:
        dist.all_reduce(figures)
    loss_mean, norm_value, stops = figures.tolist()
    stop.everywhere = stops > 0
    loss_scale.adjust(math.isfinite(norm_value))
    run.update += 1
    return loss_mean, norm_value, lr_scale


def report_skipped_update(run: Run, loss: float, norm: float, lr_scale: float) -> None:
    """Count and report an update that the optimizer skipped because of a non-finite loss or
    gradient. Raises UserError after MAX_NONFINITE_IN_A_ROW of them."""
    run.skipped += 1
    if math.isfinite(loss) and run.loss_scale.enabled and run.loss_scale.value >= 1:  # fp16 finds its loss scale this way
        return
    run.nonfinite_in_a_row += 1
    run.console.print(f"{report.position(run.config, run.update)} | loss {loss:.4g}, norm {norm:.4g}: skipped")
    if run.nonfinite_in_a_row == MAX_NONFINITE_IN_A_ROW:
        run.saver.wait()
        saved = list_checkpoints(run.folder)
        raise UserError(
            f"non-finite loss or gradient in {MAX_NONFINITE_IN_A_ROW} updates in a row, up to step {run.step} (learning rate {run.config.muon_lr * lr_scale:.2e}); "
            f"start a new run with lower learning rates; {f'the newest checkpoint is {saved[-1][1]}' if saved else 'there is no checkpoint yet'}"
        )


def log(run: Run, norm: float, lr_scale: float) -> None:
    loss, tokens_per_second = run.meter.read()
    run.latest["loss"] = loss
    peak = estimates.peak_flops(run.world.device)
    mfu = tokens_per_second * run.model.flops_per_token() / (peak * run.world.size) if peak else None
    record = {
        **report.counters(run.config, run.update),
        "loss": loss,
        "lr": run.config.muon_lr * lr_scale,
        "grad_norm": norm,
        "tokens_per_second": tokens_per_second,
        "skipped": run.skipped,
    }
    if not run.console.is_live or run.config.is_due(run.config.eval_interval, run.update):  # a terminal has the status line in between
        run.console.print(report.log_line(run.config, run.update, record, mfu, run.pace.left(run.update, run.config.updates)))
    run.saver.report()
    write_record(run, record)


def show_status(run: Run, loss: float) -> None:
    if run.console.is_live:
        left = run.pace.left(run.update, run.config.updates)
        run.console.status(report.status_line(run.config, run.update, loss, run.meter.tokens_per_second, left, run.console.columns))


def evaluate(run: Run, stop: StopSignal) -> None:
    """Evaluate the model on the val.bin of each source and record the results. If a rank is asked
    to stop, the evaluation ends after a batch, without a result; the resumed run makes it again."""
    config, world = run.config, run.world
    token_bytes = compute_token_bytes(run.data.tokenizer, world.device)

    def evaluate_source(name: str) -> Evaluation:
        batches = with_status(run, run.data.val_batches(config, run.batches.device_batch_size, world)[name])
        return evaluate_model(run.model, itertools.takewhile(lambda _: stop.signal is None, batches), token_bytes)

    # a retry may repeat one source only: each ends with an all-reduce, which the other ranks do not
    # repeat
    names = list(run.data.val_batches(config, 1, world))
    results = {name: retried(run, stop, functools.partial(evaluate_source, name)) for name in names}
    if stop.agree(world):
        return
    figures = report.evaluation_record(results)
    run.latest.update(val_loss=figures["val_loss"], val_bpb=figures["val_bpb"], val_step=float(run.step))
    for line in report.evaluation_lines(results):
        run.console.print(f"{report.position(config, run.update)} | {line}")
    write_record(run, {**report.counters(config, run.update), **figures})
    if not run.is_finished:  # else it is drawn at the end, after the last save
        run.console.clear()
        draw(run.curves, world)


def with_status(run: Run, batches: Batches) -> Batches:
    """Yield the batches of an evaluation, and show in the status line how many tokens were read."""
    read, most = 0, run.config.eval_tokens
    for x, y in batches:
        run.console.status(f"{report.position(run.config, run.update)} | validation: {count(min(read, most))} of at most {count(most)} tokens")
        yield x, y
        read += x.numel() * run.world.size


def write_record(run: Run, record: dict) -> None:
    if run.metrics is not None:
        run.metrics.write(record)
        run.wandb.log(record)


def draw(curves: LiveCurves, world: World, *, now: bool = False) -> None:
    """Redraw curves.png. A failure is printed in one line and never ends the run."""
    if world.is_main:
        try:
            curves.draw(now=now)
        except Exception as error:  # noqa: BLE001 - fonts, back ends, a full disk
            world.print(f"curves.png was not drawn: {type(error).__name__}: {error}")


def sample(run: Run) -> None:
    """Print samples, on rank 0. Too little memory for them never ends the run."""
    if not run.world.is_main:
        return
    try:
        samples = run.data.samples(run.model, run.config.seed)
    except Exception as error:
        if not (isinstance(error, UserError) or is_out_of_memory(error)):
            raise
        run.console.print(f"no samples: {str(error).partition(';')[0]}")
        return
    run.console.print(f"\n{report.position(run.config, run.update)} | samples:")
    for _, text in samples:
        run.console.print_text(text)
    run.console.print()
    run.wandb.log_samples(run.step, samples)


def print_summary(config: TrainConfig, update: int, latest: dict, peak_bytes: int | None, folder: Path, world: World) -> None:
    if world.is_main:
        records = read_metrics(folder / "metrics.jsonl")
        for line in report.summary_lines(config, update, latest, records, peak_bytes, folder):
            world.print(line)


def report_finished(plan: Plan, folder: Path, world: World) -> int:
    """Print the summary of a run that has no update left. Returns the exit code, 0.

    It does what the run may have been killed before: removes superseded files, draws its curves.
    """
    draw(LiveCurves(folder), world, now=True)
    assert plan.data is not None  # a finished run has both
    assert plan.saved is not None
    if world.is_main:
        remove_leftovers(folder)
        remove_superseded(folder, plan.step, plan.config.keep_checkpoints)
    world.print(f"this run is finished; a larger {plan.data.budget_flag} would continue it")
    print_summary(plan.config, plan.update, plan.saved["metrics"]["latest"], None, folder, world)
    return 0


def save(run: Run) -> None:
    checkpoint = run.checkpoint()
    if run.metrics is not None:
        run.saver.save(checkpoint, run.metrics.flush, with_model=run.is_finished)


@contextlib.contextmanager
def saved_if_data_fails(run: Run) -> Iterator[None]:
    """If the block raises DataError, save the updates since the last checkpoint. On several ranks
    they are lost: the others wait for this one within an update, and a checkpoint needs all."""
    try:
        yield
    except DataError:
        run.saver.wait()
        if run.world.size == 1 and run.update and run.step not in (step for step, _ in list_checkpoints(run.folder)):
            save(run)
        raise


def after_failed_save(folder: Path) -> str:
    """Return what `--resume auto` does in `folder`."""
    return "resumes from the last checkpoint" if list_checkpoints(folder) else "begins a new run, as there is no checkpoint"


@contextlib.contextmanager
def garbage_collected_by_hand() -> Iterator[None]:
    """Turn Python's cyclic garbage collector off: it would pause the loop at arbitrary times.
    `make_updates` runs it between updates."""
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        gc.enable()


def collect_garbage(freeze: bool) -> None:
    """Collect garbage. With `freeze`, later calls do not scan the objects that are left, such as
    the model and the compiler's: that takes a second."""
    gc.collect()
    if freeze:
        gc.freeze()
