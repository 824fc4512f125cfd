"""An update or an evaluation is repeated with less memory, with the same result."""

import itertools
import types

import pytest
import torch
import torch.distributed as dist

from conftest import ROOT, SMALL, run_script, start
from nano_hindi import loss as loss_module
from nano_hindi.common import is_out_of_memory
from nano_hindi.distributed import World
from nano_hindi.errors import UserError
from nano_hindi.model import GPT
from nano_hindi.training.retry import retried, use_less_memory
from test_faults import last_state
from test_train import bits_per_byte, losses

CUDA_FULL = torch.cuda.OutOfMemoryError("CUDA out of memory")


def run_of(size: int = 8, per_rank: int = 8, **fields) -> types.SimpleNamespace:
    """Return what `retried` needs of a run."""
    return types.SimpleNamespace(
        world=World(0, 1, torch.device("cpu")),
        config=types.SimpleNamespace(sequences_per_rank=lambda world_size: per_rank),
        batches=types.SimpleNamespace(device_batch_size=size),
        model=types.SimpleNamespace(recomputes_blocks=False, zero_grad=lambda set_to_none: None, **fields),
        optimizer=types.SimpleNamespace(is_stepping=False),
        console=types.SimpleNamespace(clear=lambda: None),
    )


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


def test_compiled_loss_that_fails_is_eager_from_then_on(monkeypatch):
    """As after a compiler that fails during a run."""

    def fails(*args):
        raise ZeroDivisionError

    x, weight, targets = torch.randn(6, 4), torch.randn(10, 4), torch.arange(6)
    expected = loss_module.softcapped_cross_entropy(x, weight, targets)
    monkeypatch.setattr(torch, "compile", lambda function: fails)
    monkeypatch.setattr(loss_module, "_compiled_pass", None)  # also when the test ends
    loss_module.compile_kernels()
    run = run_of(is_compiled=True)
    run.model.run_eagerly = lambda: setattr(run.model, "is_compiled", False)
    result = retried(run, types.SimpleNamespace(signal=None), lambda: loss_module.softcapped_cross_entropy(x, weight, targets))
    assert torch.equal(result, expected)


def test_less_memory_is_a_divisor_of_at_most_half_then_one_sequence_then_recomputed_blocks():
    run = run_of(size=10, per_rank=18)
    for size, recomputes in ((3, False), (1, False), (1, True)):
        use_less_memory(run)
        assert (run.batches.device_batch_size, run.model.recomputes_blocks) == (size, recomputes)
    with pytest.raises(UserError, match="no memory for a single sequence; use a smaller --config or a shorter --sequence_len"):
        use_less_memory(run)


@pytest.mark.parametrize(
    ("error", "is_compiled", "is_stepping"),
    [
        (CUDA_FULL, True, True),  # a part of the weights may be updated
        (UserError("damaged"), True, False),
        (dist.DistError("a rank is gone"), True, False),
        (RuntimeError("a bug"), False, False),
    ],
)
def test_error_that_a_retry_cannot_mend_is_raised_at_once(error, is_compiled, is_stepping):
    run, results = run_of(is_compiled=is_compiled, run_eagerly=lambda: None), iter([error, "made"])
    run.optimizer.is_stepping = is_stepping

    def work() -> object:
        if isinstance(result := next(results), Exception):
            raise result
        return result

    with pytest.raises(type(error), match=str(error)):
        retried(run, types.SimpleNamespace(signal=None), work)


def test_memory_of_a_cpu_that_runs_out_is_known():
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**55)
    assert is_out_of_memory(error.value)
    assert not is_out_of_memory(RuntimeError("something else"))


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
