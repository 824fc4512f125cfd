"""Memory estimates against measured memory, and the number of sequences that the device processes
at once."""

import dataclasses

import pytest
import torch

from nano_hindi.config import GPTConfig, TrainConfig
from nano_hindi.distributed import World
from nano_hindi.errors import UserError
from nano_hindi.model import GPT
from nano_hindi.ngrams import NGrams
from nano_hindi.optim import TrainOptimizer
from nano_hindi.training import memory
from nano_hindi.training.setup import fitting_batch_size
from optimizer_step import take_step

SMALL = GPTConfig(vocab_size=256, n_layer=3, n_head=4, n_kv_head=2, n_embd=32, sequence_len=64)
CPU = World(0, 1, torch.device("cpu"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_estimated_activations_equal_those_that_a_forward_pass_keeps(dtype):
    config = dataclasses.replace(SMALL, n_embd=128, sequence_len=512)
    model = GPT(config)
    model.init_weights()
    model.compute_dtype = dtype
    weights = {p.data_ptr() for p in model.parameters()}
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.trunk(torch.zeros(1, 512, dtype=torch.int64))
    real = sum(tensor.untyped_storage().nbytes() for pointer, tensor in kept.items() if pointer not in weights)
    assert memory.activation_bytes(config, dtype) == pytest.approx(real, rel=0.05)  # the difference: masks


@pytest.mark.parametrize(("tied", "buckets"), [(False, 0), (False, 128), (True, 256)])
def test_estimated_state_equals_weights_gradients_and_optimizer_state(tied, buckets):
    config = dataclasses.replace(SMALL, tie_embeddings=tied)
    model = GPT(config)
    model.init_weights()
    ngrams = NGrams([b" a", b"a"], buckets, torch.ones(2), CPU.device) if buckets else None
    optimizer = TrainOptimizer(model, TrainConfig(sequence_len=64), CPU, ngrams)
    idx = torch.zeros(1, 64, dtype=torch.int64)
    model(idx, idx).backward()
    real = sum(p.nbytes + p.grad.nbytes for p in model.parameters())
    in_step = []  # the bytes of the updates by n-grams and of their gradients, which live as long as the step

    def count(adamw, *_):
        updates = [p for group in adamw.param_groups if group["kind"] == "ngrams" for p in group["params"]]
        in_step.append(sum(p.nbytes + p.grad.nbytes for p in updates))

    optimizer.adamw.register_step_pre_hook(count)
    take_step(optimizer)
    state = optimizer.state_dict()
    real += sum(tensor.nbytes for kind in state["muon"].values() for tensor in kind.values())
    real += sum(tensor.nbytes for moments in state["adamw"].values() for tensor in moments.values())
    real += sum(in_step)
    assert memory.state_bytes(model, buckets) == pytest.approx(real, rel=0.02)  # the difference: factored second moments


@pytest.mark.parametrize(
    ("width", "buckets", "words"), [(2**22, 0, "--n_embd, --n_layer or vocabulary"), (64, 2**44, "--n_layer, --ngram_buckets or vocabulary")]
)
def test_what_does_not_fit_is_refused_before_it_is_allocated(width, buckets, words):
    with pytest.raises(UserError, match=f"too large for the memory of this device; .*{words}"):
        memory.require_memory(dataclasses.replace(SMALL, n_embd=width), buckets, CPU.device)
    memory.require_memory(SMALL, 4096, CPU.device)


@pytest.mark.parametrize(
    ("per_rank", "length", "expected"), [(256, 1024, 8), (12, 1024, 6), (7, 1024, 7), (256, 16_384, 1), (5, 2048, 1), (64, 64, 64)]
)
def test_auto_on_a_cpu_is_the_largest_divisor_within_the_token_limit(per_rank, length, expected):
    def never(sequences):
        raise AssertionError("nothing is measured on a CPU")

    assert memory.choose_device_batch_size("auto", per_rank, length, never, 0, CPU) == expected


@pytest.mark.parametrize(("free_gb", "fraction", "expected"), [(80, 1, 256), (8, 1, 32), (80, 0.1, 32), (3.5, 1, 8), (2.1, 1, 1), (1.5, 1, 0)])
def test_auto_on_a_gpu_follows_from_measured_steps_of_one_and_two_sequences(monkeypatch, free_gb, fraction, expected):
    """A simulated device: 1 GB for the weights, 0.15 GB for each sequence, 0.7 GB of optimizer
    state allocated later."""
    gigabyte, tried = 10**9, []
    peaks = [2 * gigabyte]  # of the probe of the attention backends
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: peaks.clear())
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: max(peaks))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: int(1.3 * gigabyte))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int((free_gb - 1.3) * gigabyte), int(80 * gigabyte)))
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda device: fraction, raising=False)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    gpu = dataclasses.replace(CPU, device=torch.device("cuda", 0))

    def step(sequences):
        tried.append(sequences)
        peaks.append(int((1 + 0.15 * sequences) * gigabyte))

    size = memory.choose_device_batch_size("auto", 256, 1024, step, int(0.7 * gigabyte), gpu)
    assert tried == [1, 2]
    assert size == expected
    assert 1 + 0.15 * size + 0.7 < free_gb or not size


@pytest.mark.parametrize(
    ("per_rank", "fails_at", "error", "expected"),
    [
        (8, 3, None, 8),
        (1, 2, None, 1),
        (8, 2, torch.cuda.OutOfMemoryError("CUDA out of memory"), 1),
        (8, 1, RuntimeError("an illegal address"), None),
    ],
)
def test_step_that_needs_too_much_memory_is_the_limit_and_any_other_error_is_raised(monkeypatch, per_rank, fails_at, error, expected):
    """A simulated device on which two sequences take no more memory than one, as in a tiny model;
    a rank with one sequence tries no two."""

    def step(sequences):
        if sequences >= fails_at:
            raise error

    for name in ("reset_peak_memory_stats", "empty_cache"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: None)
    for name, value in (("max_memory_allocated", 10**9), ("memory_reserved", 0), ("mem_get_info", (4 * 10**9, 8 * 10**9))):
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda device: 1.0, raising=False)
    gpu = dataclasses.replace(CPU, device=torch.device("cuda", 0))
    if expected is None:
        with pytest.raises(RuntimeError, match="an illegal address"):
            memory.choose_device_batch_size("auto", per_rank, 64, step, 0, gpu)
    else:
        assert memory.choose_device_batch_size("auto", per_rank, 64, step, 0, gpu) == expected


def test_ranks_use_the_number_of_sequences_that_fits_on_all(monkeypatch):
    """The other rank's device, which this one does not see, has room for 3."""

    def all_reduce(tensor, op):
        tensor.copy_({memory.dist.ReduceOp.MIN: min, memory.dist.ReduceOp.MAX: max}[op](tensor, torch.tensor(3)))

    monkeypatch.setattr(memory.dist, "all_reduce", all_reduce)
    assert memory.choose_device_batch_size("auto", 8, 1024, None, 0, World(0, 2, CPU.device)) == 2  # a divisor of 8


@pytest.mark.parametrize(("fits", "expected"), [([0, 5], 4), ([9], 8), ([0, 0], None)])
def test_blocks_are_computed_again_only_where_not_even_one_sequence_fits(monkeypatch, capsys, fits, expected):
    """`fits` has what a simulated device says at each try."""
    model, answers = GPT(SMALL), iter(fits)
    monkeypatch.setattr(memory, "_fits_on_gpu", lambda *args: next(answers))
    gpu = dataclasses.replace(CPU, device=torch.device("cuda", 0))
    config = TrainConfig(sequence_len=64, batch_size=8, gradient_accumulation_steps=2)
    if expected is None:
        with pytest.raises(UserError, match="not even one sequence"):
            fitting_batch_size(config, gpu, None, model, 0)
    else:
        assert fitting_batch_size(config, gpu, None, model, 0) == expected
    assert next(answers, None) is None
    assert model.recomputes_blocks == (len(fits) == 2)
    assert capsys.readouterr().out.count("computed again in the backward pass") == (len(fits) == 2)


@pytest.mark.parametrize(("n_layer", "dtype"), [(4, torch.float32), (32, torch.bfloat16)])
def test_estimated_activations_of_blocks_that_are_computed_again_equal_those_kept(n_layer, dtype):
    """Kept tensors and the inputs of the blocks, which torch keeps too; and one block's."""
    config, kept = dataclasses.replace(SMALL, n_layer=n_layer, value_embeddings=False), {}
    model = GPT(config)
    model.init_weights()
    model.compute_dtype, model.recomputes_blocks = dtype, True

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    for block in model.transformer.h:
        block.register_forward_pre_hook(lambda block, args: (keep(args[0]), None)[1])
    weights = {p.data_ptr() for p in model.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.trunk(torch.zeros(1, 64, dtype=torch.int64))
    real = sum(tensor.untyped_storage().nbytes() for pointer, tensor in kept.items() if pointer not in weights)
    real += memory.activation_bytes(dataclasses.replace(config, n_layer=1), dtype)
    assert memory.activation_bytes(config, dtype, recompute=True) == pytest.approx(real, rel=0.2)


def test_given_device_batch_size_is_used_unchanged():
    assert memory.choose_device_batch_size(3, 256, 1024, None, 0, CPU) == 3
    assert memory.choose_device_batch_size(512, 256, 1024, None, 0, CPU) == 256


def test_on_windows_memory_beyond_the_gpu_raises(monkeypatch):
    """The Windows driver would spill to system memory. 6 of 8 GB are free here, 1 GB is ours, and a
    little stays for the driver; then other programs take all of it."""
    fractions, free = [], 5e9
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(free), int(8e9)))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: int(1e9))
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda device: before, raising=False)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda fraction, device: fractions.append(fraction))
    before = 1.0
    monkeypatch.setattr(memory, "IS_WINDOWS", False)
    memory.forbid_spilling(torch.device("cuda", 0))  # elsewhere the driver refuses by itself
    monkeypatch.setattr(memory, "IS_WINDOWS", True)
    memory.forbid_spilling(torch.device("cpu"))
    assert fractions == []
    memory.forbid_spilling(torch.device("cuda", 0))
    before = 0.5
    memory.forbid_spilling(torch.device("cuda", 0))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 0)
    free = memory.SPILL_ROOM // 2
    memory.forbid_spilling(torch.device("cuda", 0))
    assert fractions == [(6e9 - memory.SPILL_ROOM) / 8e9, 0.5, 0]


@pytest.mark.skipif(memory.IS_WINDOWS, reason="not known there")
def test_peak_memory_of_this_process_is_in_bytes():
    assert 5e7 < memory.peak_memory(torch.device("cpu")) < 1e11  # importing torch alone takes more
