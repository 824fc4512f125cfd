"""The schedule against its formula, the combined step against PyTorch's own clipping and AdamW, and
several ranks against one."""

import copy
import itertools
import math

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

import dist_muon_worker as worker
from nano_hindi.config import LR_SCHEDULES, PRESETS, GPTConfig, TrainConfig, get_config, get_train_config
from nano_hindi.distributed import World
from nano_hindi.model import GPT
from nano_hindi.muon import Muon
from nano_hindi.ngrams import NGrams
from nano_hindi.optim import ADAMW_KINDS, LossScale, TrainOptimizer, adamw_recipes, learning_rate_scale
from optimizer_step import take_step

ALONE = World(0, 1, torch.device("cpu"))
WIDTH_FACTOR = (16 / 768) ** -0.5  # of the stand-in
UNEMBEDDING_FACTOR = 768 / 16


def make(**changes):
    model = worker.StandIn()
    return model, TrainOptimizer(model, TrainConfig(**changes), ALONE)


def give_gradients(model, update=0, factor=1.0):
    worker.set_gradients(dict(model.named_parameters()), update)
    for p in model.parameters():
        p.grad *= factor


def snapshot(model, optimizer):
    return worker.weights(dict(model.named_parameters())), worker.copied(optimizer.state_dict())


def assert_equal(a, b, **tolerance):
    torch.testing.assert_close(a, b, **({"rtol": 0, "atol": 0} | tolerance))


# ---- schedule


def scales(**changes) -> list[float]:
    config = TrainConfig(**changes)
    return [learning_rate_scale(config, update) for update in range(config.updates)]


@pytest.mark.parametrize("total_tokens", [1, 262_144 * 2, 262_144 * 10, 262_144 * 487, 500_000_000])
def test_cosine_equals_the_version_before_plateau_to_the_bit(total_tokens):
    """`before` is the function of commit e958c28^: runs of that version resume under it."""

    def before(update: int, updates: int, warmup_updates: int, min_lr_ratio: float) -> float:
        if update < warmup_updates:
            return (update + 1) / (warmup_updates + 1)
        progress = min(1.0, (update - warmup_updates) / max(1, updates - 1 - warmup_updates))
        return min_lr_ratio + (1 - min_lr_ratio) * (1 + math.cos(math.pi * progress)) / 2

    for changes in ({}, {"warmup_steps": 0, "min_lr_ratio": 0.07}):
        config = TrainConfig(total_tokens=total_tokens, **changes)
        expected = [before(update, config.updates, config.warmup_updates, config.min_lr_ratio) for update in range(config.updates)]
        assert scales(total_tokens=total_tokens, **changes) == expected


def test_plateau_is_warmup_constant_and_linear_decay():
    scale, start = scales(lr_schedule="plateau"), 762  # two fifths of the run
    assert scale[0] == 1 / 251
    assert scale[124] == pytest.approx(125 / 251)
    assert scale[250 : start + 1] == [1] * (start + 1 - 250)
    assert scale[-1] == pytest.approx(0.1, abs=1e-12)
    assert scale[start + (1906 - start) // 2] == pytest.approx(0.55)
    steps = [b - a for a, b in itertools.pairwise(scale)]
    assert steps[:250] == pytest.approx([1 / 251] * 250)
    assert steps[start:] == pytest.approx([-0.9 / (1906 - start)] * (1906 - start))


def test_every_schedule_has_a_formula_and_a_description_of_its_own():
    texts = {TrainConfig(lr_schedule=name).schedule_text.removeprefix(name) for name in LR_SCHEDULES}
    assert len({tuple(scales(lr_schedule=name)) for name in LR_SCHEDULES}) == len(LR_SCHEDULES), "add the formula to learning_rate_scale in optim.py"
    assert len(texts) == len(LR_SCHEDULES), "describe the schedule in schedule_text in config.py"


@pytest.mark.parametrize("schedule", [{"lr_schedule": name, "constant_share": share} for name in LR_SCHEDULES for share in (0.0, 0.4, 1.0)])
@pytest.mark.parametrize("updates", [1, 2, 5, 10])
def test_no_update_of_a_short_run_has_learning_rate_0(updates, schedule):
    scale = scales(total_tokens=262_144 * updates, **schedule)
    assert len(scale) == updates
    assert all(0 < s <= 1 for s in scale)
    assert max(scale) == 1
    assert updates == 1 or scale[-1] == pytest.approx(0.1)


# ---- groups and learning rates


def test_every_parameter_has_one_optimizer_and_the_documented_learning_rate():
    model, optimizer = make(adamw_value_embedding_lr=0.3, adamw_beta1=0.7, adamw_beta2=0.9)
    rates, betas, names = {}, {}, []
    for group in optimizer.adamw.param_groups + optimizer.muon.param_groups:
        names += group["param_names"]
        for name in group["param_names"]:
            rates[name], betas[name] = group["lr"], group.get("betas")
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())
    assert rates["transformer.wte.weight"] == pytest.approx(0.2 * WIDTH_FACTOR)
    assert rates["value_embeds.2.weight"] == pytest.approx(0.3 * WIDTH_FACTOR)
    assert rates["lm_head.weight"] == pytest.approx(0.004 * UNEMBEDDING_FACTOR)
    assert rates["resid_lambdas"] == pytest.approx(0.005)
    assert rates["x0_lambdas"] == 0.5
    assert betas["x0_lambdas"] == (0.96, 0.9)
    assert betas["lm_head.weight"] == betas["resid_lambdas"] == (0.7, 0.9)
    blocks = [name for name in names if name.startswith("transformer.h.")]
    assert len(blocks) == 3 * 6 + 2
    assert all(rates[name] == 0.02 and betas[name] is None for name in blocks)


def test_tied_embeddings_have_a_learning_rate_of_their_own():
    for width in (128, 256):
        model = GPT(GPTConfig(vocab_size=64, n_layer=2, n_head=2, n_kv_head=1, n_embd=width, tie_embeddings=True))
        optimizer = TrainOptimizer(model, TrainConfig(adamw_tied_lr=0.007), ALONE)
        [group] = [group for group in optimizer.adamw.param_groups if "transformer.wte.weight" in group["param_names"]]
        assert (group["kind"], group["lr"]) == ("tied", pytest.approx(0.007 * 768 / width))


def test_dtype_is_that_of_muons_matmuls_alone():
    weights = {}
    for dtype in ("auto", "float32", "bfloat16"):
        torch.manual_seed(0)
        model, optimizer = make(dtype=dtype)
        give_gradients(model)
        take_step(optimizer)
        weights[dtype] = dict(model.named_parameters())
    for name, weight in weights["float32"].items():
        assert torch.equal(weights["auto"][name], weight), name
        assert torch.equal(weights["bfloat16"][name], weight) == ("transformer.h" not in name), name
        torch.testing.assert_close(weights["bfloat16"][name], weight, rtol=0, atol=2e-3)  # an update changes weights by about 0.01


def test_muon_takes_the_smear_and_adamw_the_convolution():
    model = GPT(GPTConfig(vocab_size=64, n_layer=2, n_head=2, n_kv_head=1, n_embd=64, smear=True, embedding_conv=2))
    optimizer = TrainOptimizer(model, TrainConfig(adamw_scalar_lr=1.0), ALONE)
    rates = {name: group["lr"] for group in optimizer.muon.param_groups + optimizer.adamw.param_groups for name in group["param_names"]}
    assert (rates["transformer.smear.gate.weight"], rates["transformer.conv.weight"]) == (0.02, 0.04)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_parameter_of_the_presets_has_a_group(preset):
    with torch.device("meta"):
        model = GPT(get_config(preset))
    optimizer = TrainOptimizer(model, get_train_config(preset), ALONE)
    counts = {group["kind"]: sum(p.numel() for p in group["params"]) for group in optimizer.adamw.param_groups}
    counts["blocks"] = sum(p.numel() for group in optimizer.muon.param_groups for p in group["params"])
    expected = {kind: n for kind, n in model.num_params().items() if n}
    if model.config.tie_embeddings:
        expected["tied"] = expected.pop("wte")
    assert counts.pop("resid_lambdas") + counts.pop("x0_lambdas") == expected.pop("scalars")
    assert sum(counts.values()) + 2 * model.config.n_layer == expected.pop("total")
    assert counts == expected


def test_every_kind_of_parameter_has_a_recipe():
    """A kind without one would have no group, so its parameters would never change."""
    assert adamw_recipes(TrainConfig(), 768).keys() == {*ADAMW_KINDS}


def test_parameter_without_a_group_is_named():
    model = worker.StandIn()
    model.extra = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"extra\.weight"):
        TrainOptimizer(model, TrainConfig(), ALONE)


def test_tensor_lr_scale_gives_the_same_update_as_a_number():
    """A CUDA graph reads the learning rates from memory; a Python number would be captured."""
    (model, optimizer), (other, other_optimizer) = make(), make()
    scale = torch.empty(())
    for number in (0.5, 0.125):
        give_gradients(model)
        give_gradients(other)
        take_step(optimizer, scale.fill_(number))
        take_step(other_optimizer, number)
        for p, q in zip(model.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)


# ---- one update


@pytest.mark.parametrize("grad_clip", [0.0, 0.5, 1e6])
def test_step_equals_clip_grad_norm_and_the_two_optimizers_separately(grad_clip):
    model, optimizer = make(grad_clip=grad_clip, weight_decay=0.1, muon_momentum=0.9, muon_ns_steps=3, muon_beta2=0.8)
    other = copy.deepcopy(model)
    names = dict(other.named_parameters())
    blocks = {name: p for name, p in names.items() if name.startswith("transformer.h.")}
    rates = {name: 0.2 * WIDTH_FACTOR for name in ("transformer.wte.weight", "value_embeds.0.weight", "value_embeds.2.weight")}
    rates["lm_head.weight"] = 0.004 * UNEMBEDDING_FACTOR
    groups = [{"params": [names[name]], "lr": lr * 0.5} for name, lr in rates.items()]
    groups += [
        {"params": [names["resid_lambdas"]], "lr": 0.0025, "eps": 1e-5},
        {"params": [names["x0_lambdas"]], "lr": 0.25, "betas": (0.96, 0.98), "eps": 1e-5},
    ]
    adamw = torch.optim.AdamW(groups, betas=(0.6, 0.98), eps=1e-10, weight_decay=0.0, foreach=False, fused=False)
    muon = Muon(blocks.items(), lr=0.01, momentum=0.9, ns_steps=3, beta2=0.8, weight_decay=0.1)
    for update in range(3):
        give_gradients(model, update)
        give_gradients(other, update)
        norm = take_step(optimizer, 0.5)
        expected = torch.nn.utils.clip_grad_norm_(other.parameters(), grad_clip or math.inf)
        assert norm.shape == ()
        assert norm.dtype == torch.float32
        assert norm.item() == pytest.approx(expected.item(), rel=1e-5)
        assert all(p.grad is None for p in model.parameters())
        adamw.step()
        muon.step()
    for (name, p), q in zip(model.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=2e-5, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["transformer.h.1.mlp.c_fc.weight", "lm_head.weight", "x0_lambdas"])
@pytest.mark.parametrize("grad_clip", [0.0, 1.0])
def test_non_finite_gradient_changes_nothing(bad, where, grad_clip):
    model, optimizer = make(grad_clip=grad_clip, weight_decay=0.1)
    for update in (0, 1):
        give_gradients(model, update)
        assert take_step(optimizer, 1.0).isfinite()
    before = snapshot(model, optimizer)
    give_gradients(model, 2)
    dict(model.named_parameters())[where].grad.view(-1)[-1] = bad
    assert not take_step(optimizer, 1.0).isfinite()
    assert_equal(snapshot(model, optimizer), before)
    assert {state["step"].item() for state in before[1]["adamw"].values()} == {2.0}
    assert all(p.grad is None for p in model.parameters())


def test_non_finite_first_update_leaves_a_fresh_optimizer():
    (model, optimizer), (fresh_model, fresh) = make(), make()
    give_gradients(model, 0, factor=math.nan)
    take_step(optimizer, 1.0)
    for m, o in ((model, optimizer), (fresh_model, fresh)):
        give_gradients(m, 1)
        take_step(o, 1.0)
    assert_equal(snapshot(model, optimizer), snapshot(fresh_model, fresh))


def test_divisor_undoes_a_loss_scale():
    (model, optimizer), (scaled_model, scaled) = make(), make()
    for update in range(3):
        give_gradients(model, update)
        give_gradients(scaled_model, update, factor=2.0**10)
        assert_equal(take_step(scaled, 1.0, grad_divisor=2.0**10), take_step(optimizer, 1.0))
    assert_equal(snapshot(scaled_model, scaled), snapshot(model, optimizer), rtol=1e-6, atol=1e-7)


def test_missing_gradient_is_named():
    model, optimizer = make()
    give_gradients(model)
    model.lm_head.weight.grad = None
    with pytest.raises(RuntimeError, match=r"lm_head\.weight has no gradient"):
        take_step(optimizer, 1.0)


@pytest.mark.parametrize(("device", "is_compiled"), [("cpu", True), ("cuda", False)])
def test_muon_is_compiled_on_a_cpu_alone(device, is_compiled, monkeypatch):
    """The tensors are on the CPU in both cases."""
    used = []
    monkeypatch.setattr(torch, "compile", lambda kernel, **_: lambda *args, **kwargs: (used.append(kernel), kernel(*args, **kwargs)))
    model, _ = make()
    optimizer = TrainOptimizer(model, TrainConfig(), World(0, 1, torch.device(device)))
    optimizer.compile()
    give_gradients(model)
    take_step(optimizer)
    assert bool(used) == is_compiled


def test_an_update_reads_nothing_back_from_the_device():
    """Fake tensors have no values: asking for one raises."""
    with FakeTensorMode():
        model = worker.StandIn()
        optimizer = TrainOptimizer(model, TrainConfig(), ALONE, NGrams([b" a", b"b"], 64, torch.ones(2), ALONE.device))
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        norm = take_step(optimizer, 1.0)
        with pytest.raises(DataDependentOutputException):
            norm.item()


# ---- state


@pytest.mark.slow
def test_saved_state_continues_bit_for_bit(tmp_path):
    model, optimizer = make(weight_decay=0.1)
    for update in (0, 1):
        give_gradients(model, update)
        take_step(optimizer, 1.0)
    torch.save({"model": model.state_dict(), "optimizers": optimizer.state_dict()}, tmp_path / "state.pt")
    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    kept = worker.copied(saved["optimizers"])
    other_model, other = make(weight_decay=0.1)
    other_model.load_state_dict(saved["model"])
    other.load_state_dict(saved["optimizers"])
    assert_equal(snapshot(other_model, other), snapshot(model, optimizer))
    for update in (2, 3):
        for m, o in ((model, optimizer), (other_model, other)):
            give_gradients(m, update)
            take_step(o, 0.3)
    assert_equal(snapshot(other_model, other), snapshot(model, optimizer))
    assert_equal(saved["optimizers"], kept)  # loading copies


def test_state_before_the_first_update_equals_a_fresh_optimizer():
    (model, optimizer), (other_model, other) = make(), make()
    state = optimizer.state_dict()
    give_gradients(other_model)
    take_step(other, 1.0)
    other_model.load_state_dict(model.state_dict())
    other.load_state_dict(state)
    for m, o in ((model, optimizer), (other_model, other)):
        give_gradients(m)
        take_step(o, 1.0)
    assert_equal(snapshot(other_model, other), snapshot(model, optimizer))


# ---- several ranks


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_several_ranks_make_the_same_updates_as_one(processes):
    results, expected = worker.launched(processes), worker.alone()
    for result in results:
        assert_equal(result["weights"], results[0]["weights"])
        assert_equal(result["weights"], expected["weights"], atol=1e-4)
        assert_equal(result["state"], expected["state"], rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_norm_is_that_of_the_mean_gradient_on_every_rank(processes):
    expected = torch.stack(worker.alone()["norms"])
    for result in worker.launched(processes):
        norms = torch.stack(result["norms"])
        assert_equal(norms, torch.stack(worker.launched(processes)[0]["norms"]), equal_nan=True)
        assert_equal(norms, expected, rtol=1e-5, equal_nan=True)
    parameters = dict(worker.StandIn().named_parameters())
    worker.set_gradients(parameters, 0)
    assert expected[0].item() == pytest.approx(math.sqrt(sum(p.grad.double().square().sum().item() for p in parameters.values())), rel=1e-5)
    assert expected.isnan().tolist() == [update == worker.BAD_UPDATE for update in range(worker.UPDATES)]


@pytest.mark.slow
def test_state_saved_on_three_ranks_continues_on_two_and_on_one():
    expected = worker.launched(3)[0]
    for result in [worker.trained(0, 1, expected["saved"]), *(result["resumed"] for result in worker.launched(2))]:
        assert_equal(result["weights"], expected["weights"], atol=1e-4)
        assert_equal(result["state"], expected["state"], rtol=1e-3, atol=1e-5)


# ---- loss scale


def test_loss_scale_halves_at_an_overflow_and_doubles_after_finite_updates():
    scale = LossScale(enabled=True)
    start = scale.value
    for _ in range(100):
        scale.adjust(True)
    scale.adjust(False)
    assert scale.value == start / 2
    for _ in range(199):
        scale.adjust(True)
    assert scale.value == start / 2
    other = LossScale(enabled=True)
    other.load_state_dict(scale.state_dict())
    values = []
    for _ in range(201):
        other.adjust(True)
        values.append(other.value)
    assert values == [start] * 200 + [2 * start]


def test_disabled_loss_scale_stays_1():
    scale, on = LossScale(enabled=False), LossScale(enabled=True)
    scale.load_state_dict(on.state_dict())
    scale.adjust(False)
    assert scale.value == 1
    start = on.value
    on.load_state_dict(scale.state_dict())
    assert on.value == start


def test_rounding_error_in_the_gradient_of_a_scalar_does_not_move_it():
    """In the first update of a run the true gradient of the scalars is 0 and the computed one is
    rounding error, whose sign must not decide their direction."""
    moved = []
    for noise in (1e-10, -1e-10):
        model, optimizer = make()
        scalars = (model.x0_lambdas, model.resid_lambdas)
        before = torch.stack(scalars).detach()
        give_gradients(model)
        for scalar in scalars:
            scalar.grad.fill_(noise)
        take_step(optimizer, 1.0)
        moved.append((torch.stack(scalars).detach() - before).abs().max().item())
    assert max(moved) < 1e-5
