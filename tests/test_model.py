"""The model: against a second implementation in float64, and what each position depends on."""

import dataclasses
import math
import shutil
import sys
import time

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from additions import ADDITIONS
from nano_hindi import model as network
from nano_hindi.config import PRESETS, GPTConfig, get_config, get_train_config
from nano_hindi.engine import KVCache
from nano_hindi.model import GATE_CHANNELS, GPT, Linear, apply_rope, rms_norm, rope_factors

# more layers than the pattern, three query heads for each K/V head, a vocabulary that needs
# padding, more channels than the gates read
CONFIG = GPTConfig(vocab_size=101, sequence_len=16, n_layer=5, n_head=6, n_kv_head=2, n_embd=48, window_pattern="SSL", short_window_divisor=4)
TIED = dataclasses.replace(CONFIG, tie_embeddings=True, value_embeddings=False)
CONFIGS = {  # those that are compared with the float64 implementation
    "SSL, 6 on 2 heads": CONFIG,
    "SSSL, 4 on 4": GPTConfig(vocab_size=64, sequence_len=8, n_layer=4, n_head=4, n_kv_head=4, n_embd=64),
    "one layer, 4 on 1": GPTConfig(vocab_size=70, sequence_len=12, n_layer=1, n_head=4, n_kv_head=1, n_embd=32, window_pattern="S"),
    "tied, no value embeddings": TIED,
    "tied": dataclasses.replace(CONFIG, tie_embeddings=True),
    "smear": dataclasses.replace(CONFIG, smear=True),
    "convolution": dataclasses.replace(CONFIG, embedding_conv=3),
    "tied, both": dataclasses.replace(TIED, smear=True, embedding_conv=2),
}


def random_model(config: GPTConfig = CONFIG, seed: int = 0) -> GPT:
    """Return a model in which no weight is zero or one, so that every component affects the
    result."""
    torch.manual_seed(seed)
    model = GPT(config)
    for parameter in model.parameters():
        nn.init.constant_(parameter, math.nan)  # init_weights has to set every parameter
    model.init_weights()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.min() == parameter.max():  # zeros or ones
                nn.init.normal_(parameter, std=0.25)
        nn.init.normal_(model.head_weight, std=1.0)
        nn.init.uniform_(model.resid_lambdas, 0.5, 1.5)
        nn.init.uniform_(model.x0_lambdas, -0.5, 0.5)
    return model


def random_ids(batch: int, time: int, config: GPTConfig = CONFIG, seed: int = 1) -> torch.Tensor:
    return torch.randint(0, config.vocab_size, (batch, time), generator=torch.Generator().manual_seed(seed))


def reference_logits(config: GPTConfig, state: dict, ids: list[int]) -> torch.Tensor:
    """Compute the forward pass of one text in float64 as the specification describes it: heads one
    by one, rotation by complex numbers, windows as a mask."""
    w = {name: tensor.double() for name, tensor in state.items()}
    D, H, G, T = config.n_embd // config.n_head, config.n_head, config.n_kv_head, len(ids)

    def norm(x):
        return x / (x.square().mean(-1, keepdim=True) + 2.0**-23).sqrt()

    def rotated(x):  # (T, D): channel d and channel d + D/2 are the two parts of one complex number
        positions = torch.arange(T, dtype=torch.float64)
        turns = torch.stack([positions / 100_000.0 ** (2 * d / D) for d in range(D // 2)], dim=1)
        z = torch.complex(x[:, : D // 2], x[:, D // 2 :]) * torch.exp(1j * turns)
        return torch.cat([z.real, z.imag], dim=1)

    short = config.sequence_len // config.short_window_divisor
    windows = [{"S": short, "L": config.sequence_len}[config.window_pattern[i % len(config.window_pattern)]] for i in range(config.n_layer)]
    windows[-1] = config.sequence_len
    embeddings = norm(w["transformer.wte.weight"][ids])
    x0 = embeddings.clone()
    for t in range(T):
        if config.smear and t:
            x0[t] += torch.tanh(embeddings[t, :32] @ w["transformer.smear.gate.weight"][0]) * embeddings[t - 1]
        for back in range(1, min(config.embedding_conv, t) + 1):
            x0[t] += w["transformer.conv.weight"][back - 1] * embeddings[t - back]
    x = x0
    for i in range(config.n_layer):
        name = f"transformer.h.{i}."
        x = w["resid_lambdas"][i] * x + w["x0_lambdas"][i] * x0
        n = norm(x)
        heads = []
        for h in range(H):
            g = h // (H // G)  # neighbouring query heads share a K/V head
            part, kv_part = slice(h * D, (h + 1) * D), slice(g * D, (g + 1) * D)
            q = norm(rotated(n @ w[name + "attn.c_q.weight"][part].T))
            k = norm(rotated(n @ w[name + "attn.c_k.weight"][kv_part].T))
            v = n @ w[name + "attn.c_v.weight"][kv_part].T
            if config.value_embeddings and (config.n_layer - 1 - i) % 2 == 0:
                gate = 2 / (1 + torch.exp(-n[:, :32] @ w[name + "attn.ve_gate.weight"][g]))
                v = v + gate[:, None] * w[f"value_embeds.{i}.weight"][ids][:, kv_part]
            out = torch.zeros(T, D, dtype=torch.float64)
            for t in range(T):
                seen = slice(max(0, t - windows[i] + 1), t + 1)
                out[t] = (k[seen] @ q[t] / math.sqrt(D)).softmax(0) @ v[seen]
            heads.append(out)
        x = x + torch.cat(heads, dim=1) @ w[name + "attn.c_proj.weight"].T
        x = x + (norm(x) @ w[name + "mlp.c_fc.weight"].T).clamp(min=0) ** 2 @ w[name + "mlp.c_proj.weight"].T
    head = w["transformer.wte.weight" if config.tie_embeddings else "lm_head.weight"]
    return 15 * torch.tanh((norm(x) @ head.T)[:, : config.vocab_size] / 15)


# ---- the whole forward pass


def test_configurations_of_these_tests_have_every_part_of_the_network():
    missing = [f.name for f in dataclasses.fields(GPTConfig) if all(getattr(config, f.name) == f.default for config in CONFIGS.values())]
    assert not missing, f"add {', '.join(missing)} to reference_logits and to CONFIGS"


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_logits_equal_a_float64_implementation(config):
    """Also for texts longer than sequence_len, which only the windows bound."""
    model, idx = random_model(config), random_ids(2, 40, config)
    assert model.num_params()["total"] == sum(p.numel() for p in model.parameters())
    logits = model(idx)
    assert logits.dtype == torch.float32
    for row, ids in zip(logits, idx, strict=True):
        expected = reference_logits(config, model.state_dict(), ids.tolist())
        assert expected.std() > 1  # the logits are not trivial
        torch.testing.assert_close(row.double(), expected, atol=1e-4, rtol=0)


def test_smear_and_convolution_begin_as_nothing_and_learn():
    """With the same seed, the first logits and all other weights are those without them."""
    config, models = dataclasses.replace(CONFIG, smear=True, embedding_conv=3), []
    for each in (CONFIG, config):
        torch.manual_seed(0)
        models.append(GPT(each))
        models[-1].init_weights()
    without, model = models
    idx = random_ids(2, 40)
    assert torch.equal(model(idx), without(idx))
    assert model.num_params()["blocks"] == without.num_params()["blocks"] + GATE_CHANNELS + 3 * CONFIG.n_embd
    model.load_state_dict(without.state_dict(), strict=False)
    model(idx, idx).backward()
    for weight in (model.transformer.smear.gate.weight, model.transformer.conv.weight):
        assert (weight.grad != 0).all()


def test_half_precision_compute_keeps_float32_weights_and_close_logits():
    model, idx = random_model(), random_ids(2, 32)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    exact = model.trunk(idx)
    model.compute_dtype = torch.bfloat16
    rounded = model.trunk(idx)
    assert rounded.dtype == torch.bfloat16
    assert model(idx).dtype == torch.float32
    assert 1e-4 < (rounded.float() - exact).norm() / exact.norm() < 5e-2
    model(idx, idx).backward()
    for name, parameter in model.named_parameters():
        assert parameter.dtype == parameter.grad.dtype == torch.float32
        torch.testing.assert_close(parameter.detach(), before[name], atol=0, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_norm_of_a_small_vector_is_one_in_every_dtype(dtype):
    """An eps of the compute dtype itself (0.008 in bf16) would give 0.5."""
    x = (0.05 * torch.randn(64, 384, generator=torch.Generator().manual_seed(0))).to(dtype)
    torch.testing.assert_close(rms_norm(x).double().square().mean(-1), torch.ones(64, dtype=torch.float64), atol=6e-3, rtol=0)


# ---- logits and loss


def test_losses_agree_with_the_logits_and_padding_rows_do_not_count():
    model, idx = random_model(), random_ids(3, 20)
    targets = random_ids(3, 20, seed=2)
    targets[0, :7] = -1
    targets[2, -1] = -1
    with torch.no_grad():
        model.lm_head.weight[CONFIG.vocab_size :] = 50.0  # a padding row that counts would dominate
        logits = model(idx).double()
        none = model(idx, targets, loss_reduction="none")
    expected = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1, reduction="none").view(3, 20)
    torch.testing.assert_close(none.double(), expected, atol=1e-4, rtol=1e-5)
    assert (none[targets == -1] == 0).all()
    mean, total = model(idx, targets), model(idx, targets, loss_reduction="sum")
    torch.testing.assert_close(total.double(), expected.sum(), atol=1e-2, rtol=1e-5)
    torch.testing.assert_close(mean.double(), expected.sum() / (targets != -1).sum(), atol=1e-4, rtol=1e-5)
    mean.backward()
    assert (model.lm_head.weight.grad[CONFIG.vocab_size :] == 0).all()
    assert (model.lm_head.weight.grad[: CONFIG.vocab_size] != 0).any()


@pytest.mark.parametrize("config", [CONFIG, TIED], ids=["default", "tied"])
def test_gradients_of_the_whole_model_equal_finite_differences(config):
    """Along a random direction of all parameters at once, against the float64 implementation."""
    model, idx = random_model(config), random_ids(1, 20)
    targets = random_ids(1, 20, seed=3)[0]
    model(idx, targets[None]).backward()
    parameters = dict(model.named_parameters())
    assert all(p.grad is not None for p in parameters.values())
    generator = torch.Generator().manual_seed(4)
    direction = {name: torch.randn(p.shape, generator=generator, dtype=torch.float64) * p.detach().std() for name, p in parameters.items()}
    step = 1e-5

    def loss(sign):
        moved = {name: p.detach().double() + sign * step * direction[name] for name, p in parameters.items()}
        return nn.functional.cross_entropy(reference_logits(config, moved, idx[0].tolist()), targets)

    expected = (loss(1) - loss(-1)) / (2 * step)
    slope = sum((p.grad.double() * direction[name]).sum() for name, p in parameters.items())
    assert abs(expected) > 0.1
    torch.testing.assert_close(slope, expected, rtol=1e-3, atol=1e-4)


def test_tied_table_is_saved_once():
    names = list(GPT(TIED).state_dict())
    assert "transformer.wte.weight" in names
    assert not [name for name in names if "lm_head" in name or "value_embeds" in name]


@pytest.mark.parametrize("config", [CONFIG, TIED], ids=["default", "tied"])
def test_blocks_that_are_computed_again_give_the_same_gradients_from_less_memory(config):
    def run(recompute):
        model, idx, kept = random_model(config), random_ids(2, 40, config), 0
        model.recomputes_blocks = recompute

        def keep(tensor):
            nonlocal kept
            kept += tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = model(idx, idx)
        loss.backward()
        return kept, loss, [p.grad for p in model.parameters()]

    (kept, *expected), (kept_now, *found) = run(False), run(True)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert kept_now < kept / 2


# ---- positions


def test_shifting_all_positions_changes_no_hidden_state():
    model, idx = random_model(), random_ids(2, 40)
    with torch.no_grad():
        cache = KVCache(CONFIG, 2, "cpu", torch.float32)
        cache.position = 700
        shifted = model.trunk(idx, cache)
        assert cache.position == 740
        torch.testing.assert_close(shifted, model.trunk(idx), atol=1e-3, rtol=0)


def test_half_precision_input_is_rotated_in_float32():
    cos, sin = rope_factors(torch.arange(50), 12)
    x = torch.randn(1, 50, 2, 12, dtype=torch.bfloat16)
    turned = torch.complex(*x.double().split(6, dim=-1)) * torch.complex(cos[:, :6], sin[:, 6:]).to(torch.complex128)[:, None]
    rotated = apply_rope(x, cos, sin)
    assert rotated.dtype == torch.bfloat16
    torch.testing.assert_close(rotated.double(), torch.cat((turned.real, turned.imag), dim=-1), rtol=2**-8, atol=1e-5)  # rounded once


# ---- what a position attends to


@pytest.mark.parametrize(("pattern", "layers", "reach"), [("S", 2, 1 + 15), ("SL", 3, 1 + 15 + 15), ("SSSL", 4, 3 * 1 + 15)])
def test_a_token_influences_as_far_as_the_windows_add_up_and_no_further(pattern, layers, reach):
    """A window of W keys, its own included, reaches W - 1 positions on; the last layer is long
    whatever the pattern says."""
    config = GPTConfig(vocab_size=101, sequence_len=16, n_layer=layers, n_head=4, n_kv_head=2, n_embd=32, window_pattern=pattern)
    model, idx = random_model(config), random_ids(1, 60, config)
    changed = idx.clone()
    changed[0, 10] = (changed[0, 10] + 1) % config.vocab_size
    with torch.no_grad():
        difference = (model.trunk(changed) - model.trunk(idx)).abs().amax(dim=(0, 2))
    reached = difference.nonzero().flatten()
    assert reached.min() == 10
    assert reached.max() == 10 + reach


# ---- construction


def test_gate_reads_the_first_channels_and_starts_at_one():
    model = GPT(CONFIG)
    model.init_weights()
    gate = model.transformer.h[0].attn.ve_gate
    assert gate.weight.shape == (CONFIG.n_kv_head, GATE_CHANNELS)
    assert not gate.weight.any()  # 2 * sigmoid(0) = 1
    assert GPT(GPTConfig(n_embd=16, n_head=2, n_kv_head=2)).transformer.h[-1].attn.ve_gate.in_features == 16


def test_same_seed_gives_the_same_weights_also_from_the_meta_device():
    torch.manual_seed(7)
    direct = GPT(CONFIG)
    torch.manual_seed(8)
    direct.init_weights()
    with torch.device("meta"):
        model = GPT(CONFIG)
    assert all(tensor.is_meta for tensor in model.state_dict().values())
    model.to_empty(device="cpu")
    torch.manual_seed(8)
    model.init_weights()
    for name, tensor in direct.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor, atol=0, rtol=0, msg=name)
    torch.manual_seed(9)
    model.init_weights()
    assert (model.lm_head.weight != direct.lm_head.weight).any()
    assert not list(model.buffers())  # no buffer that would limit the length of a text


def test_new_model_predicts_uniformly_and_its_blocks_are_the_identity():
    model, idx = GPT(CONFIG), random_ids(4, 16)
    for parameter in model.parameters():
        nn.init.constant_(parameter, math.nan)  # init_weights has to set every parameter
    model.init_weights()
    assert all(p.isfinite().all() for p in model.parameters())
    with torch.no_grad():
        assert abs(model(idx, idx).item() - math.log(CONFIG.vocab_size)) < 0.01
        torch.testing.assert_close(model.trunk(idx), rms_norm(model.transformer.wte(idx)), atol=1e-5, rtol=0)
    torch.testing.assert_close(model.transformer.wte.weight.std(), torch.tensor(1.0), atol=0.05, rtol=0)
    torch.testing.assert_close(model.transformer.h[1].attn.c_q.weight.std(), torch.tensor(48**-0.5), atol=0.01, rtol=0)
    assert set(model.resid_lambdas.tolist()) == {1.0}
    torch.testing.assert_close(model.x0_lambdas, torch.full_like(model.x0_lambdas, 0.1), atol=0, rtol=1e-6)
    tied = GPT(TIED)
    tied.init_weights()
    torch.testing.assert_close(tied.head_weight.std(), torch.tensor(0.02), atol=0.001, rtol=0)


@pytest.mark.slow
def test_many_batch_sizes_stay_compiled(monkeypatch):
    """As a run has that halves its batch until it fits, and evaluates several sources."""
    compile_function = torch.compile
    monkeypatch.setattr(torch, "compile", lambda part, **options: compile_function(part, backend="eager", fullgraph=True, **options))
    torch._dynamo.reset()
    model = random_model(dataclasses.replace(CONFIG, n_layer=2))
    model.compile_blocks()
    for size in range(1, 8):
        idx = random_ids(size, 8)
        model(idx, idx).backward()  # fullgraph: an error, not the eager function, if there are too many graphs
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "kinds"), [(dataclasses.replace(CONFIG, **ADDITIONS), 3), (TIED, 2)], ids=["every addition", "tied, without value embeddings"]
)
def test_all_layers_share_a_compiled_graph_of_each_kind_with_the_same_names_and_updates(config, kinds, monkeypatch):
    """A part before attention with a value embedding, one without, and a part after it; whatever
    the number of layers and their windows."""
    compile_function, graphs = torch.compile, []

    def backend(graph, inputs):  # without code generation, which takes a minute
        graphs.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    monkeypatch.setattr(torch, "compile", lambda part, **options: compile_function(part, backend=backend, fullgraph=True, **options))
    torch._dynamo.reset()
    eager, compiled, idx = random_model(config), random_model(config), random_ids(2, 24, config)
    names = list(eager.state_dict())
    compiled.compile_blocks()
    assert compiled.is_compiled
    for recomputes in (False, True):
        eager.zero_grad()
        compiled.zero_grad()
        compiled.recomputes_blocks = recomputes
        losses = [model(idx, idx) for model in (eager, compiled)]
        for loss in losses:
            loss.backward()
        torch.testing.assert_close(*losses)
        assert list(compiled.state_dict()) == names
        for name in names:
            torch.testing.assert_close(compiled.get_parameter(name).grad, eager.get_parameter(name).grad, atol=1e-5, rtol=1e-4, msg=name)
        assert len(graphs) == kinds
    with torch.no_grad():
        expected = eager(idx)
        torch.testing.assert_close(compiled(idx), expected, atol=1e-4, rtol=0)
        assert len(graphs) == 2 * kinds  # without gradients
        torch.testing.assert_close(compiled(idx, kv_cache=KVCache(config, 2, "cpu", torch.float32)), expected, atol=1e-4, rtol=0)
        assert len(list(compiled.generate([1, 2, 3], 4))) == 4
        assert len(graphs) == 2 * kinds, "generation must use the eager blocks: its shapes change with every call"
    compiled.run_eagerly()
    assert not compiled.is_compiled
    torch._dynamo.reset()  # those graphs are not for other tests
    compiled(idx, idx).backward()
    assert len(graphs) == 2 * kinds


@pytest.mark.slow
@pytest.mark.skipif(not any(shutil.which(name) for name in ("c++", "g++", "clang++", "cl")), reason="no C++ compiler for torch.compile")
def test_compiled_gradients_are_bit_identical_across_runs():
    """Also with several threads, and with many positions that share a row of the embeddings."""
    threads = torch.get_num_threads()
    torch.set_num_threads(max(2, threads))
    try:
        config = dataclasses.replace(CONFIG, n_layer=1, sequence_len=256)
        model, idx = random_model(config), random_ids(16, 256) % 3
        model.compile_blocks()
        parameters = list(model.parameters())
        first, *others = (torch.autograd.grad(model(idx, idx), parameters) for _ in range(8))
    finally:
        torch.set_num_threads(threads)
    for gradients in others:
        for (name, _), gradient, expected in zip(model.named_parameters(), gradients, first, strict=True):
            assert torch.equal(gradient, expected), name


# ---- counts

# wte, lm_head, value_embeds, blocks, scalars, total; the specification and findings.md give them
# rounded
PARAMETERS = {
    "25m": (26_148_864, 26_148_864, 34_865_152, 12_583_168, 16, 99_746_064),
    "40m": (34_865_152, 34_865_152, 43_581_440, 27_525_440, 20, 140_837_204),
    "50m": (39_223_296, 39_223_296, 58_834_944, 41_804_160, 24, 179_085_720),
    "22m": (17_432_576, 0, 0, 4_325_376, 12, 21_757_964),
    "36m": (26_148_864, 0, 0, 9_437_184, 12, 35_586_060),
    "39m": (26_148_864, 0, 0, 12_582_912, 16, 38_731_792),
    "250m": (52_297_728, 0, 0, 201_326_592, 64, 253_624_384),
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts_of_each_preset(name):
    with torch.device("meta"):
        model = GPT(get_config(name))
    kinds = ("wte", "lm_head", "value_embeds", "blocks", "scalars", "total")
    assert model.num_params() == dict(zip(kinds, PARAMETERS[name], strict=True))
    assert model.num_params()["total"] == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", [name for name, (config, _) in PRESETS.items() if config.tie_embeddings])
def test_tied_preset_has_the_parameter_count_of_its_name_and_20_tokens_for_each(name):
    with torch.device("meta"):
        total = GPT(get_config(name)).num_params()["total"]
    assert float(f"{total / 1e6:.2g}") == float(name.removesuffix("m"))
    assert get_train_config(name).total_tokens == pytest.approx(20 * total, rel=1e-3)


def test_flops_per_token_equal_the_count_of_pytorch():
    model, idx = random_model(GPTConfig(vocab_size=128, sequence_len=16, n_layer=3, n_head=4, n_kv_head=2, n_embd=48)), random_ids(2, 16)
    with FlopCounterMode(display=False) as counter:
        model.logits(model.trunk(idx)).sum().backward()
    counted = counter.get_flop_counts()["Global"]
    matmuls = sum(n for operation, n in counted.items() if str(operation) in ("aten.mm", "aten.addmm"))
    attention = 12 * 48 * (2 + 2 + 16)
    assert model.flops_per_token() == matmuls / idx.numel() + attention


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize(
    ("n_in", "n_out", "is_large"), [(384, 1536, True), (48, 128, False), (384, 1500, False)]
)  # 1500 does not divide into blocks of 64
def test_single_row_uses_another_kernel_with_the_same_result(n_in, n_out, is_large, monkeypatch):
    layer, x = Linear(n_in, n_out), torch.randn(1, 1, n_in)
    nn.init.normal_(layer.weight)
    exact = (x.double() @ layer.weight.double().T).detach()
    calls = []
    monkeypatch.setattr(network, "_one_row", lambda *args, original=network._one_row: calls.append(1) or original(*args))
    monkeypatch.setattr(network, "is_intel_cpu", lambda: False)
    with torch.no_grad():
        assert layer(x).shape == (1, 1, n_out)
        assert (layer(x) - exact).abs().max() < 1e-4
        layer(torch.randn(1, 2, n_in))
    layer(x).sum().backward()  # with gradients or several rows it is the usual product
    expected = 2 if is_large and torch.backends.mkl.is_available() else 0
    assert len(calls) == expected
    for is_intel, threads in ((True, 2), (False, 1)):  # nor where one is as fast
        monkeypatch.setattr(network, "is_intel_cpu", lambda is_intel=is_intel: is_intel)
        torch.set_num_threads(threads)
        with torch.no_grad():
            layer(x)
    assert len(calls) == expected


@pytest.mark.usefixtures("two_threads")
@pytest.mark.skipif(sys.platform != "linux" or not torch.backends.mkl.is_available(), reason="needs MKL, and GNU OpenMP with passive waiting")
def test_all_threads_read_the_weight_of_a_single_row():
    """On a CPU of any maker, by the CPU time of the other thread, which sleeps while it waits: half
    of the work, whatever else the machine does."""
    layer, x = Linear(384, 65536), torch.randn(1, 384)
    nn.init.normal_(layer.weight)
    with torch.no_grad():
        layer(x)
        begin, own = time.process_time(), time.thread_time()
        for _ in range(4):
            layer(x)
        own, total = time.thread_time() - own, time.process_time() - begin
    assert total > 1.2 * own
