"""Presets, derived figures, flags, and what a resumed run may change."""

import argparse
import dataclasses
import math
import re

import pytest
import torch

import train
from conftest import SMALL
from nano_hindi.cli import Parser
from nano_hindi.config import LR_SCHEDULES, PRESETS, GPTConfig, TrainConfig, from_dict, get_config, get_train_config
from nano_hindi.errors import UserError
from nano_hindi.flags import add_flags, configs_for_new_run, configs_for_resumed_run
from nano_hindi.model import GPT
from nano_hindi.optim import adamw_recipes, learning_rate_scale, parameters_by_kind
from nano_hindi.ranges import Choice, Range
from nano_hindi.training.metrics import read_metrics


def parse(*argv: str) -> argparse.Namespace:
    parser = Parser()
    parser.add_argument("--config")
    add_flags(parser)
    return parser.parse_args(argv)


def saved(preset="25m", **train):
    model = get_config(preset)
    return {
        "preset": preset,
        "model_config": dataclasses.asdict(model),
        "train_config": dataclasses.asdict(dataclasses.replace(get_train_config(preset), **train)),
    }


def test_default_run_has_1907_updates_and_7628_steps():
    train = get_train_config("25m")
    assert (train.batch_size * train.sequence_len, train.tokens_per_update, train.sequences_per_update) == (65_536, 262_144, 256)
    assert (train.updates, train.steps) == (1907, 7628)


def test_defaults_are_those_of_the_brief():
    train = TrainConfig()
    assert GPTConfig() == GPTConfig(68096, 8, 6, 2, 384, 1024, "SSSL", 8, False, True, False, 0)
    expected = dict(
        total_tokens=500_000_000, batch_size=64, gradient_accumulation_steps=4, muon_lr=0.02, adamw_embedding_lr=0.2, adamw_unembedding_lr=0.004,
        warmup_steps=1000, checkpoint_interval=1000, eval_interval=500, inference_interval=1000, log_interval=10, grad_clip=1.0, keep_checkpoints=3,
        eval_tokens=2_097_152, lr_schedule="cosine", min_lr_ratio=0.1, device_batch_size="auto",
    )  # fmt: skip
    assert {name: getattr(train, name) for name in expected} == expected


def test_a_budget_below_one_update_is_one_update():
    assert TrainConfig(total_tokens=1).updates == 1


@pytest.mark.parametrize("accumulation", [1, 3, 4])
def test_interval_is_due_once_per_multiple_at_the_first_update_at_or_after_it(accumulation):
    train = TrainConfig(gradient_accumulation_steps=accumulation, total_tokens=65_536 * accumulation * 50)
    due = [update * accumulation for update in range(1, train.updates) if train.is_due(10, update)]
    marks = range(10, due[-1] + 1, 10)
    assert due == sorted({-(-mark // accumulation) * accumulation for mark in marks})


def test_interval_is_due_at_the_end_of_a_run_and_interval_0_only_there():
    train = TrainConfig(total_tokens=262_144 * 7)
    assert [update for update in range(1, 8) if train.is_due(0, update)] == [7]
    assert train.is_due(1_000_000, 7)


def test_warmup_longer_than_a_fifth_of_the_run_is_shortened():
    short, long = TrainConfig(total_tokens=262_144 * 100), TrainConfig()
    assert short.warmup_updates == 20
    assert long.warmup_updates == 250
    assert "over 80 steps (1,000 steps would be more than a fifth of the run), then" in short.schedule_text
    assert "over 1,000 steps," in long.schedule_text
    assert "over 1 step," in TrainConfig(warmup_steps=1, gradient_accumulation_steps=1).schedule_text


@pytest.mark.parametrize(
    ("flag", "wrong", "names"), [("lr_schedule", "cosines", str(Choice(LR_SCHEDULES))), ("dtype", "float16", "auto, float32 or bfloat16")]
)
def test_unknown_name_is_refused_with_the_valid_ones(flag, wrong, names):
    with pytest.raises(UserError, match=f"--{flag} must be {names}, not {wrong} "):
        parse(f"--{flag}", wrong)
    for value in (wrong, None, [wrong]):
        with pytest.raises(UserError, match=f"^{flag} must be {names}, not "):
            TrainConfig(**{flag: value})


@pytest.mark.parametrize("wrong", [0, 1, None, "True", [True], 1.0])
@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(GPTConfig) if isinstance(field.default, bool)])
def test_switch_is_true_or_false(name, wrong):
    with pytest.raises(UserError, match=f"^{name} must be True or False, not "):
        GPTConfig(**{name: wrong})
    for text, value in (("true", True), ("False", False)):
        assert getattr(parse(f"--{name}", text), name) is value
    with pytest.raises(UserError, match=f"--{name} must be True or False, not yes"):
        parse(f"--{name}", "yes")


def is_refused(configs, args: argparse.Namespace, other, name: str) -> bool:
    """Return whether `_require_effect` refuses the flag `name`."""
    try:
        configs(args, other)
    except UserError as error:
        return str(error).startswith(f"--{name} belongs to --")
    return False


@pytest.mark.parametrize("shape", [{}, {"tie_embeddings": True}, {"value_embeddings": False}], ids=str)
def test_flag_of_adamw_is_refused_if_no_parameter_of_the_model_uses_it(shape):
    with torch.device("meta"):
        used = {kind for kind, named in parameters_by_kind(GPT(GPTConfig(**shape))).items() if named}
    default, refused = adamw_recipes(TrainConfig(), 384), []
    for name in [field.name for field in dataclasses.fields(TrainConfig) if isinstance(field.default, float)]:
        recipes = adamw_recipes(TrainConfig(**{name: 0.123}), 384)
        if changed := {kind for kind in recipes if recipes[kind] != default[kind]}:
            args = parse(*(word for flag, value in {**shape, name: 0.123}.items() for word in (f"--{flag}", str(value))))
            refused += [name] * is_refused(configs_for_new_run, args, None, name)
            assert (name in refused) == (not changed & used), f"mend `_require_effect` in flags.py for {name}"
    assert refused


@pytest.mark.parametrize("schedule", LR_SCHEDULES)
def test_constant_share_is_refused_if_the_schedule_does_not_use_it(schedule):
    recipes = [TrainConfig(lr_schedule=schedule, constant_share=share) for share in (0.3, 0.6)]
    earlier, later = (learning_rate_scale(recipe, recipe.updates // 2) for recipe in recipes)
    new, resumed = parse("--lr_schedule", schedule, "--constant_share", "0.6"), parse("--constant_share", "0.6")
    for configs, args, other in ((configs_for_new_run, new, None), (configs_for_resumed_run, resumed, saved(**dataclasses.asdict(recipes[1])))):
        refused = is_refused(configs, args, other, "constant_share")
        assert refused == (earlier == later), f"mend `_require_effect` in flags.py for {schedule}"


@pytest.mark.parametrize("pattern", ["L", "SSSL"])
def test_short_window_divisor_is_refused_without_short_windows(pattern):
    windows = [GPTConfig(window_pattern=pattern, short_window_divisor=divisor).windows for divisor in (4, 8)]
    args = parse("--window_pattern", pattern, "--short_window_divisor", "4")
    assert is_refused(configs_for_new_run, args, None, "short_window_divisor") == (windows[0] == windows[1])


def test_world_size_that_does_not_divide_the_batch_is_refused_with_valid_ones():
    train = TrainConfig(batch_size=3, gradient_accumulation_steps=2)
    assert [train.sequences_per_rank(n) for n in (1, 2, 3, 6)] == [6, 3, 2, 1]
    with pytest.raises(UserError, match="1, 2, 3, 6"):
        train.sequences_per_rank(4)


def test_window_pattern_is_tiled_and_the_last_layer_has_the_full_window():
    assert GPTConfig().windows == (128, 128, 128, 1024, 128, 128, 128, 1024)
    assert GPTConfig(n_layer=2, window_pattern="S", short_window_divisor=4).windows == (256, 1024)
    assert GPTConfig(n_layer=5, window_pattern="LS").windows == (1024, 128, 1024, 128, 1024)
    assert GPTConfig(sequence_len=4).windows == (1, 1, 1, 4, 1, 1, 1, 4), "a query attends at least to itself"


@pytest.mark.parametrize("name", PRESETS)
def test_model_and_train_config_of_a_preset_agree_on_the_sequence_length(name):
    assert get_config(name).sequence_len == get_train_config(name).sequence_len


def test_unknown_preset_is_refused_with_the_valid_names():
    for get in (get_config, get_train_config):
        with pytest.raises(UserError, match=", ".join(PRESETS)):
            get("26m")


@pytest.mark.parametrize(
    "wrong", [{"n_embd": 100}, {"n_kv_head": 4}, {"window_pattern": "SX"}, {"window_pattern": ""}, {"window_pattern": 5}, {"embedding_conv": 1024}]
)
def test_shape_that_cannot_be_built_is_refused(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        GPTConfig(**wrong)
    with pytest.raises(UserError, match="even"):  # heads of odd width cannot be rotated
        GPTConfig(n_embd=18, n_head=6, n_kv_head=6)


NUMBERS = [(cls, f) for cls in (GPTConfig, TrainConfig) for f in dataclasses.fields(cls) if isinstance(f.metadata["valid"], Range)]
MAY_BE_ZERO = {
    "seed", "muon_lr", "adamw_embedding_lr", "adamw_value_embedding_lr", "adamw_unembedding_lr", "adamw_tied_lr", "adamw_scalar_lr", "warmup_steps", "constant_share",
    "min_lr_ratio", "init_lr_fraction", "muon_momentum", "muon_beta2", "weight_decay", "adamw_beta1", "adamw_beta2", "grad_clip", "checkpoint_interval", "eval_interval",
    "inference_interval", "log_interval", "embedding_conv", "ngram_buckets",
}  # fmt: skip
BELOW_ONE = {"muon_momentum", "muon_beta2", "adamw_beta1", "adamw_beta2"}
AT_MOST_ONE = {"constant_share", "min_lr_ratio", "init_lr_fraction", "adamw_eps"}


@pytest.mark.parametrize(("cls", "field"), NUMBERS, ids=lambda x: getattr(x, "name", ""))
def test_value_that_makes_no_sense_is_refused_by_name(cls, field):
    """As a field, such as from a checkpoint, and as a flag, whose error has no name of Python's."""
    nested = []
    nested.append(nested)
    wrong = [math.nan, math.inf, -math.inf, -1, -1e-30, 1e31, True, False, None, "7", [7], {}, nested, 10**400, -(10**400), 10**5000]
    texts = ["nan", "inf", "-1", "1e400", "-1e-300", "-.5", "-inf", "x", "0x10", "1,000", "None", "True", "9" * 5000]
    if field.name not in MAY_BE_ZERO:
        wrong, texts = [*wrong, 0, 0.0], [*texts, "0", "1e-400", "0.0"]
    if field.name in BELOW_ONE:
        wrong, texts = [*wrong, 1, 1.0], [*texts, "1", "0.99999999999999999"]
    if field.name in AT_MOST_ONE:
        wrong, texts = [*wrong, 1.01, 2], [*texts, "1.01", "2"]
    if isinstance(field.default, int) or field.default == "auto":
        wrong, texts = [*wrong, 7.0, 2**63], [*texts, "7.0", "1e3", str(2**63)]
    for value in wrong:
        with pytest.raises(UserError, match=f"^{field.name} must be (auto or )?a (whole )?number, .*, not ") as error:
            cls(**{field.name: value})
        assert len(str(error.value)) < 400
    for text in texts:
        with pytest.raises(UserError, match=rf"^--{field.name} must be (auto or )?a (whole )?number, .*, not {re.escape(text[:200])} \(--help"):
            parse(f"--{field.name}", text)


@pytest.mark.parametrize(("cls", "field"), NUMBERS, ids=lambda x: getattr(x, "name", ""))
def test_flag_and_field_accept_the_same_numbers(cls, field):
    valid, type_of = field.metadata["valid"], float if isinstance(field.default, float) else int
    low, high = type_of(valid.low), type_of(valid.high)
    steps = (math.nextafter(low, -1), low, math.nextafter(low, 1), math.nextafter(high, 0), high, math.nextafter(high, math.inf))
    if type_of is int:
        steps = (low - 1, low, high - 1, high)
        assert [value in valid for value in steps] == [False, True, True, False]
    for value in (*steps, field.default):
        if value in valid:
            assert getattr(parse(f"--{field.name}", str(value)), field.name) == value
        else:
            with pytest.raises(UserError):
                parse(f"--{field.name}", str(value))
    assert field.default in valid


@pytest.mark.slow
@pytest.mark.parametrize("end", ["low", "high"])
@pytest.mark.parametrize("field", [f for _, f in NUMBERS if isinstance(f.default, float)], ids=lambda f: f.name)
def test_run_at_either_end_of_a_range_is_finite(data_dir, straight, tmp_path, field, end):
    valid = field.metadata["valid"]
    low, high = (math.nextafter(x, 0.5) if is_open else x for x, is_open in ((valid.low, valid.low_open), (valid.high, valid.high_open)))
    value = low if end == "low" else high
    argv = [*SMALL, "--data_dir", str(data_dir), "--checkpoint_dir", str(tmp_path), "--total_tokens", str(32 * 8 * 4), f"--{field.name}", str(value)]
    if field.name == "anneal_fraction":
        argv += ["--anneal_data_dir", str(data_dir)]
    if field.name == "init_lr_fraction":  # a longer run, which has a warm-up
        argv += ["--init_from", str(straight), "--total_tokens", str(32 * 8 * 5)]
    assert train.main([*argv, "--lr_schedule", "plateau", "--tie_embeddings", str(field.name == "adamw_tied_lr")]) == 0
    assert all(value is not None for record in read_metrics(tmp_path / "metrics.jsonl") for value in record.values())


@pytest.mark.parametrize("flag", ["total_tokens", "batch_size", "gradient_accumulation_steps", "warmup_steps", "eval_tokens", "device_batch_size"])
def test_dry_run_with_the_largest_counts_is_finite(data_dir, tmp_path, capsys, flag):
    largest = {f.name: int(f.metadata["valid"].high) - 1 for _, f in NUMBERS}[flag]
    argv = [*SMALL, "--data_dir", str(data_dir), "--checkpoint_dir", str(tmp_path), f"--{flag}", str(largest), "--dry_run"]
    assert train.main(argv) == 0
    assert not re.search("nan|inf", capsys.readouterr().out)


def test_every_field_is_a_flag_with_help_and_the_type_of_its_default():
    for cls in (GPTConfig, TrainConfig):
        for f in dataclasses.fields(cls):
            text = str(f.default)
            value = getattr(parse(f"--{f.name}", text), f.name)
            assert (value, type(value)) == (f.default, type(f.default))
            assert f.metadata["help"]
    assert parse("--device_batch_size", "7").device_batch_size == 7


def test_flags_override_presets_and_presets_override_defaults():
    model, train = configs_for_new_run(parse("--config", "40m", "--n_layer", "3", "--muon_lr", "0.5", "--device_batch_size", "2"), None)
    assert (model.n_layer, model.n_embd, model.n_kv_head) == (3, 512, 2)
    assert (train.muon_lr, train.total_tokens, train.batch_size, train.device_batch_size) == (0.5, 800_000_000, 64, 2)


def test_one_flag_sets_the_sequence_length_of_model_and_data():
    model, train = configs_for_new_run(parse("--sequence_len", "128"), None)
    assert model.sequence_len == train.sequence_len == 128


def test_vocab_size_is_taken_from_the_data():
    assert configs_for_new_run(parse(), 1000)[0].vocab_size == 1000
    assert configs_for_new_run(parse("--vocab_size", "1000"), 1000)[0].vocab_size == 1000
    with pytest.raises(UserError, match="1000"):
        configs_for_new_run(parse("--vocab_size", "999"), 1000)


def test_resume_keeps_the_configuration_and_takes_new_intervals_and_budget():
    model, train = configs_for_resumed_run(parse("--eval_interval", "7", "--total_tokens", "9999999"), saved(muon_lr=0.3))
    assert (train.muon_lr, train.eval_interval, train.total_tokens) == (0.3, 7, 9_999_999)
    assert model == get_config("25m")
    assert configs_for_resumed_run(parse("--config", "25m", "--muon_lr", "0.3"), saved(muon_lr=0.3))[1].muon_lr == 0.3


def test_resume_refuses_every_other_changed_flag_by_name():
    with pytest.raises(UserError, match=r"--config 40m.*--n_layer 9 .*checkpoint: 8.*--seed 1 "):
        configs_for_resumed_run(parse("--config", "40m", "--n_layer", "9", "--seed", "1", "--log_interval", "1"), saved())


def test_checkpoint_older_than_a_field_keeps_the_value_of_its_run():
    old = saved()
    del old["model_config"]["short_window_divisor"], old["model_config"]["smear"], old["model_config"]["embedding_conv"]
    del old["train_config"]["lr_schedule"]  # the version whose only schedule was plateau
    model, train = configs_for_resumed_run(parse(), old)
    assert model.windows == (256, 256, 256, 1024, 256, 256, 256, 1024)
    assert (model.smear, model.embedding_conv) == (False, 0)
    assert train.lr_schedule == "plateau"
    del old["train_config"]["constant_share"]  # earlier versions, whose only schedule was a cosine
    assert configs_for_resumed_run(parse(), old)[1].lr_schedule == "cosine"
    with pytest.raises(UserError, match=r"--lr_schedule plateau \(checkpoint: cosine\)"):
        configs_for_resumed_run(parse("--lr_schedule", "plateau"), old)


def test_config_from_another_version_is_refused_by_name():
    with pytest.raises(UserError, match="n_experts"):
        from_dict(GPTConfig, {**dataclasses.asdict(GPTConfig()), "n_experts": 8})
