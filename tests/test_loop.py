"""The loop around an update: batches that are read ahead, samples and data that fail, garbage that
is collected between updates."""

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

from conftest import ROOT, start, wait_until
from nano_hindi import engine
from nano_hindi.config import GPTConfig, TrainConfig
from nano_hindi.dataloader import READ_AHEAD, TrainBatches
from nano_hindi.distributed import World
from nano_hindi.errors import UserError
from nano_hindi.model import GPT
from nano_hindi.optim import LossScale, TrainOptimizer
from nano_hindi.token_file import DataError
from nano_hindi.training import loop
from test_train import losses

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
        next(batches.of(7))  # the one that was read ahead
        assert sequences(batches, 7) == list(range(56, 64))
        batches.device_batch_size = 4
        assert sequences(batches, 8) == list(range(64, 72))


def test_read_ahead_is_bounded_and_nothing_is_read_twice():
    loader = Positions()
    with TrainBatches(loader, per_update=10, device_batch_size=1) as batches:
        next(batches.of(0))
        wait_until(lambda: len(loader.read) > READ_AHEAD, "the batches that are read ahead")
        time.sleep(0.3)
        assert len(loader.read) == READ_AHEAD + 1  # with the one that was taken
        loader.read.clear()
        for update in (5, 6):
            list(batches.of(update))
            wait_until(lambda end=10 * (update - 4) + READ_AHEAD: len(loader.read) >= end, "those of the next update")
        assert loader.read == list(range(50, 70 + READ_AHEAD))
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


# ---- samples and data that fail


@pytest.mark.slow
def test_out_of_memory_for_samples_ends_no_run(data_dir, tmp_path, straight, monkeypatch, capsys):
    def full(*_, **__):
        raise UserError("this device does not have enough memory for a context of 32 tokens; use another model")

    monkeypatch.setattr(engine, "KVCache", full)
    assert start(data_dir, tmp_path) == 0
    assert "no samples: this device does not have enough memory for a context of 32 tokens\n" in capsys.readouterr().out
    assert losses(tmp_path) == losses(straight)


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
    """After the first update, and after each evaluation or save, such as those of updates 4 and
    5."""
    seen, real = [], loop.train_update
    monkeypatch.setattr(loop, "train_update", lambda run, stop: (seen.append((gc.isenabled(), gc.get_stats()[2]["collections"])), real(run, stop))[1])
    assert start(data_dir, tmp_path) == 0
    assert len(seen) == 12
    assert not any(is_enabled for is_enabled, _ in seen)
    assert [after - before for (_, before), (_, after) in itertools.pairwise(seen)] == [1, 0, 0, 1, 1, 0, 0, 1, 0, 1, 0]
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0
