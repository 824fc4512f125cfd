"""The loop around an update: batches that are read ahead, memory that runs out, garbage that is
collected between updates."""

import gc
import itertools
import math
import sys
import threading
import time
import types
from pathlib import Path

import pytest
import torch
from test_train import bits_per_byte, last_state, losses

from conftest import ROOT, SMALL, run_script, start, wait_until
from nano_hindi import engine
from nano_hindi.common import is_out_of_memory
from nano_hindi.config import GPTConfig, TrainConfig
from nano_hindi.dataloader import READ_AHEAD, TrainBatches
from nano_hindi.distributed import World
from nano_hindi.errors import UserError
from nano_hindi.model import GPT
from nano_hindi.optim import LossScale, TrainOptimizer
from nano_hindi.token_file import DataError
from nano_hindi.training import loop

# ---- batches that are read ahead


class Positions:
    """A loader whose sequences are their own positions in the stream; it records what is read."""

    def __init__(self, broken_at: int | None = None):
        self.broken_at, self.read = broken_at, []

    def batch(self, start: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        self.read.append(start)
        if start == self.broken_at:
            raise ValueError("page 7 cannot be read")
        return torch.arange(start, start + count), torch.arange(start + 1, start + count + 1)


def sequences(batches: TrainBatches, update: int) -> list[int]:
    """Return the positions of an update's sequences, after a check of targets, sizes and end."""
    taken = list(batches.of(update))
    assert [is_last for *_, is_last in taken] == [False] * (len(taken) - 1) + [True]
    assert all(torch.equal(y, x + 1) and len(x) <= batches.device_batch_size for x, y, _ in taken)
    return torch.cat([x for x, *_ in taken]).tolist()


def prefetch_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 6])
def test_batches_of_any_update_are_this_ranks_sequences_in_order(size):
    for rank in (0, 1):
        with TrainBatches(Positions(), per_update=12, device_batch_size=size, rank=rank, world_size=2) as batches:
            for update in (4, 5, 6, 2, 3, 3, 8):  # forward, back, the same again, and ahead
                first = 12 * update + 6 * rank
                assert sequences(batches, update) == list(range(first, first + 6))
    assert not prefetch_threads()


def test_interrupted_update_begins_again_also_with_another_batch_size():
    with TrainBatches(Positions(), per_update=8, device_batch_size=4) as batches:
        assert next(batches.of(5))[0].tolist() == [40, 41, 42, 43]
        batches.device_batch_size = 2
        assert next(batches.of(5))[0].tolist() == [40, 41]
        assert sequences(batches, 5) == list(range(40, 48))
        assert sequences(batches, 6) == list(range(48, 56))


def test_read_ahead_is_bounded():
    loader = Positions()
    with TrainBatches(loader, per_update=10, device_batch_size=1) as batches:
        next(batches.of(0))
        wait_until(lambda: len(loader.read) > READ_AHEAD, "the batches that are read ahead")
        time.sleep(0.3)
        assert len(loader.read) == READ_AHEAD + 1  # with the one that was taken
    assert not prefetch_threads()


def test_loader_error_is_raised_after_the_batches_before_it():
    with TrainBatches(Positions(broken_at=1), per_update=4, device_batch_size=1) as batches:
        taken = batches.of(0)
        assert next(taken)[0].tolist() == [0]
        with pytest.raises(ValueError, match="page 7"):
            next(taken)
    assert not prefetch_threads()


@pytest.mark.slow
def test_run_ends_its_prefetch_thread(data_dir, tmp_path, monkeypatch):
    def dies(run, stop):
        raise ZeroDivisionError

    assert start(data_dir, tmp_path / "a") == 0
    real = loop.train_update
    monkeypatch.setattr(loop, "train_update", lambda run, stop: (real(run, stop), dies(run, None)))
    with pytest.raises(ZeroDivisionError):
        start(data_dir, tmp_path / "b")
    assert not prefetch_threads()


# ---- a gradient that overflows


def test_infinite_gradient_of_a_finite_loss_halves_the_loss_scale():
    config = GPTConfig(vocab_size=32, sequence_len=16, n_layer=1, n_head=1, n_kv_head=1, n_embd=8)
    recipe, world = TrainConfig(sequence_len=16, batch_size=2, total_tokens=64), World(0, 1, torch.device("cpu"))
    model, loss_scale, x = GPT(config), LossScale(enabled=True), torch.zeros(2, 16, dtype=torch.int64)
    model.init_weights()
    loss_scale.value = 2.0**127
    batches = types.SimpleNamespace(targets=lambda update: x.numel(), of=lambda update: [(x, x + 1, True)])
    run = types.SimpleNamespace(
        config=recipe, world=world, model=model, optimizer=TrainOptimizer(model, recipe, world), loss_scale=loss_scale, batches=batches, update=0
    )
    loss, norm, _ = loop.train_update(run, types.SimpleNamespace(signal=None))
    assert (math.isfinite(loss), math.isfinite(norm)) == (True, False)
    assert loss_scale.value == 2.0**126


# ---- memory that runs out


class Memory:
    """Makes the model raise what CUDA raises, where more than `limit` sequences are at once; in the
    backward pass with `in_backward`."""

    def __init__(self, monkeypatch, limit: int, *, in_backward: bool = False, evaluation_only: bool = False):
        self.failures, forward = 0, GPT.forward

        def fail(*_):
            self.failures += 1
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

        def limited(model, idx, targets=None, **kwargs):
            too_large = targets is not None and idx.size(0) > limit and not (evaluation_only and torch.is_grad_enabled())
            if too_large and not (in_backward and torch.is_grad_enabled()):
                fail()
            loss = forward(model, idx, targets, **kwargs)
            if too_large:
                loss.register_hook(fail)
            return loss

        monkeypatch.setattr(GPT, "forward", limited)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [{}, {"in_backward": True}, {"evaluation_only": True}], ids=["forward", "backward", "evaluation"])
def test_out_of_memory_halves_the_device_batch_and_loses_no_token(data_dir, tmp_path, straight, monkeypatch, capsys, kind):
    memory = Memory(monkeypatch, limit=2, **kind)
    assert start(data_dir, tmp_path) == 0
    assert memory.failures == 2  # at 8 and at 4
    output = capsys.readouterr().out
    assert "out of memory on cpu with 8 sequences at once; continuing with 4" in output
    assert "continuing with 2" in output
    assert losses(tmp_path) == pytest.approx(losses(straight), rel=1e-4)
    assert bits_per_byte(tmp_path) == pytest.approx(bits_per_byte(straight), rel=1e-4)
    assert last_state(tmp_path)["tokens_seen"] == last_state(straight)["tokens_seen"]


@pytest.mark.slow
def test_out_of_memory_within_an_update_repeats_no_sequence(data_dir, tmp_path, straight, monkeypatch):
    forward, calls = GPT.forward, itertools.count(1)

    def limited(model, idx, targets=None, **kwargs):
        if targets is not None and torch.is_grad_enabled() and next(calls) in (4, 11):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return forward(model, idx, targets, **kwargs)

    monkeypatch.setattr(GPT, "forward", limited)
    assert start(data_dir, tmp_path, "--device_batch_size", "4") == 0  # two device batches an update: the fourth is the second one of an update
    assert losses(tmp_path) == pytest.approx(losses(straight), rel=1e-4)


@pytest.mark.slow
def test_out_of_memory_with_one_sequence_computes_the_blocks_again(data_dir, tmp_path, straight, monkeypatch, capsys):
    forward = GPT.forward

    def limited(model, idx, targets=None, **kwargs):
        if targets is not None and torch.is_grad_enabled() and not model.recomputes_blocks:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return forward(model, idx, targets, **kwargs)

    monkeypatch.setattr(GPT, "forward", limited)
    assert start(data_dir, tmp_path) == 0
    output = capsys.readouterr().out
    assert output.count("out of memory on cpu with one sequence; continuing with each block computed again") == 1
    assert losses(tmp_path) == pytest.approx(losses(straight), rel=1e-4)


@pytest.mark.slow
def test_out_of_memory_for_samples_ends_no_run(data_dir, tmp_path, straight, monkeypatch, capsys):
    def full(*_, **__):
        raise UserError("this device does not have enough memory for a context of 32 tokens; use another model")

    monkeypatch.setattr(engine, "KVCache", full)
    assert start(data_dir, tmp_path) == 0
    assert "no samples: this device does not have enough memory for a context of 32 tokens\n" in capsys.readouterr().out
    assert losses(tmp_path) == losses(straight)


def test_memory_of_a_cpu_that_runs_out_is_known():
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**55)
    assert is_out_of_memory(error.value)
    assert not is_out_of_memory(RuntimeError("something else"))


def test_updates_after_a_damaged_checkpoint_was_skipped_are_saved_when_data_fails(tmp_path, monkeypatch):
    """The damaged file has a later step than the run."""
    run = types.SimpleNamespace(world=World(0, 1, torch.device("cpu")), update=7, step=14, folder=tmp_path, saver=types.SimpleNamespace(wait=int))
    saved = []
    monkeypatch.setattr(loop, "save", lambda run: saved.append(run.step))
    for existing, expected in ((20, [14]), (14, [14])):  # the second one is that of this step
        (tmp_path / f"checkpoint_step{existing}.pt").touch()
        with pytest.raises(DataError), loop.saved_if_data_fails(run):
            raise DataError("truncated")
        assert saved == expected


@pytest.mark.slow
def test_out_of_memory_with_one_sequence_is_an_error_that_says_what_to_do(data_dir, tmp_path, monkeypatch, capsys):
    Memory(monkeypatch, limit=0)
    assert start(data_dir, tmp_path) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    assert "no memory for a single sequence" in errors
    assert "--sequence_len" in errors


@pytest.mark.slow
def test_one_rank_of_two_may_run_out_of_memory(data_dir, tmp_path, straight):
    """It tries again on its own, while the other one waits for its gradients."""
    script = tmp_path / "limited.py"
    script.write_text(
        "import os, sys, torch, train\n"
        "from nano_hindi.model import GPT\n"
        "forward = GPT.forward\n"
        "def limited(model, idx, targets=None, **kwargs):\n"
        "    if os.environ['RANK'] == '1' and targets is not None and idx.size(0) > 1:\n"
        "        raise torch.cuda.OutOfMemoryError('CUDA out of memory')\n"
        "    return forward(model, idx, targets, **kwargs)\n"
        "GPT.forward = limited\n"
        "sys.exit(train.main(sys.argv[1:]))\n"
    )
    argv = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", script, *SMALL, "--data_dir", data_dir]
    done = run_script(*argv, "--checkpoint_dir", tmp_path / "run", PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("continuing with") == 2  # from 4 to 2 to 1, on one process
    assert losses(tmp_path / "run") == pytest.approx(losses(straight), rel=1e-4)
    assert bits_per_byte(tmp_path / "run") == pytest.approx(bits_per_byte(straight), rel=1e-4)


# ---- one update on one screen


@pytest.mark.slow
def test_an_update_is_made_by_eight_files(data_dir, tmp_path, monkeypatch):
    real, files = loop.train_update, set()

    def profile(frame, event, arg):
        if event == "call" and Path(frame.f_code.co_filename).is_relative_to(ROOT / "nano_hindi"):
            files.add(Path(frame.f_code.co_filename).relative_to(ROOT / "nano_hindi").as_posix())

    def train_update(run, stop):
        before = sys.getprofile()
        sys.setprofile(profile if run.update == 3 else before)
        try:
            return real(run, stop)
        finally:
            sys.setprofile(before)

    monkeypatch.setattr(loop, "train_update", train_update)
    assert start(data_dir, tmp_path) == 0
    attention = {"flash_attention.py", "sdpa_attention.py"}
    assert files == {"training/loop.py", "dataloader.py", "model.py", *attention, "loss.py", "optim.py", "muon.py"}


# ---- garbage


@pytest.mark.slow
@pytest.mark.whole_run
def test_garbage_is_collected_between_updates_only(data_dir, tmp_path, monkeypatch):
    seen, real = [], loop.train_update
    monkeypatch.setattr(loop, "train_update", lambda run, stop: (seen.append(gc.isenabled()), real(run, stop))[1])
    assert start(data_dir, tmp_path) == 0
    assert len(seen) == 12
    assert not any(seen)
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0
