"""The exported folder in transformers 4 or 5, whichever is installed, against our own model, engine
and tokenizer."""

import csv
import dataclasses
import errno
import functools
import importlib.util
import itertools
import json
import math
import os
import shutil
import sys
import types
import warnings
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import PreTrainedModel

import standin
from additions import ADDITIONS
from conftest import run_command
from exports import ATOL, CONFIG, LogitsOnly, load, load_its_tokenizer, make_checkpoint, some_ids
from nano_hindi.chat import template
from nano_hindi.checkpoint import load_checkpoint
from nano_hindi.config import GPTConfig, TrainConfig
from nano_hindi.engine import generate_tokens
from nano_hindi.errors import UserError
from nano_hindi.evaluation import command as evaluation
from nano_hindi.evaluation.command import scores_of_pairs
from nano_hindi.evaluation.pair_files import read_pair_files
from nano_hindi.evaluation.scoring import CheckpointScorer
from nano_hindi.export import command as export
from nano_hindi.export import conversion
from nano_hindi.export.model_card import Card, data_metadata
from nano_hindi.files import read_metadata, write_metadata, write_text
from nano_hindi.flags import CHANGEABLE_ON_RESUME
from nano_hindi.inference import settings
from nano_hindi.inference.loading import build_model, load_for_inference
from nano_hindi.minimal_pairs import pairs
from nano_hindi.minimal_pairs.__main__ import GROUP, write_tasks
from nano_hindi.model import GPT
from nano_hindi.tokenizer import load_tokenizer

pytestmark = pytest.mark.usefixtures("modules_cache")

PROMPTS = ("भारत", "राम और सीता नदी के किनारे गीत गाते हैं। किसान", "एक")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint"), "bpe")


@pytest.fixture(scope="module")
def ours(checkpoint) -> GPT:
    return build_model(load_for_inference(checkpoint), torch.device("cpu"))


@pytest.fixture(scope="module")
def exported(checkpoint, tmp_path_factory):
    """Return the folders of an export in each dtype."""
    folders = {dtype: tmp_path_factory.mktemp("exports") / dtype for dtype in ("float32", "bfloat16")}
    for dtype, folder in folders.items():
        assert export.main(["--checkpoint", str(checkpoint), "--output_dir", str(folder), "--dtype", dtype]) == 0
    return folders


@pytest.fixture(scope="module")
def theirs(exported):
    return load(exported["float32"], dtype=torch.float32)


# ---- the model


def test_model_of_these_tests_has_every_part_of_the_network():
    """What an export omits goes unnoticed in a model without it. Tied embeddings and no value
    embeddings have tests of their own."""
    unchanged = {f.name for f in dataclasses.fields(CONFIG) if getattr(CONFIG, f.name) == f.default}
    missing = sorted(unchanged - {"n_kv_head", "short_window_divisor", "tie_embeddings", "value_embeddings"})
    assert not missing, f"turn on {', '.join(missing)} in CONFIG of tests/support/exports.py; for what to change in the exports, see CONTRIBUTING.md"


@torch.no_grad()
def test_logits_equal_our_model_far_beyond_the_windows(ours, theirs):
    ids = some_ids(2, 5 * CONFIG.sequence_len + 3)
    expected, found = ours(ids), theirs(ids).logits
    print(f"float32: largest error {(found - expected).abs().max():.1e} of logits up to {expected.abs().max():.1f}")
    assert expected.abs().max() > 5  # so that the soft cap matters
    torch.testing.assert_close(found, expected, rtol=0, atol=ATOL)
    torch.testing.assert_close(theirs(ids, logits_to_keep=3).logits, found[:, -3:], rtol=0, atol=ATOL)
    torch.testing.assert_close(theirs(ids, logits_to_keep=torch.tensor([5, 9])).logits, found[:, [5, 9]], rtol=0, atol=ATOL)


@torch.no_grad()
def test_chunked_input_with_a_cache_gives_the_logits_of_the_whole_text(theirs):
    ids, mask = some_ids(2, 3 * CONFIG.sequence_len), torch.ones(2, 3 * CONFIG.sequence_len, dtype=torch.long)
    mask[1, :5] = 0
    cache, pieces = None, []
    for start, end in itertools.pairwise((0, 1, 2, 7, 8, 50, 61, 96)):
        output = theirs(ids[:, start:end], attention_mask=mask[:, :end], past_key_values=cache, use_cache=True)
        cache, pieces = output.past_key_values, [*pieces, output.logits]
    whole = theirs(ids, attention_mask=mask).logits
    torch.testing.assert_close(torch.cat(pieces, dim=1)[mask.bool()], whole[mask.bool()], rtol=0, atol=ATOL)
    torch.testing.assert_close(whole[1, 5:], theirs(ids[1:, 5:]).logits[0], rtol=0, atol=ATOL)
    cache = theirs(ids[:, :50], attention_mask=mask[:, :50], use_cache=True).past_key_values
    with pytest.raises(ValueError, match="give last_ids"):
        theirs(ids[:1, 50:], past_key_values=cache)
    cache.reorder_cache(torch.tensor([1, 0]))
    rows = ids.flip(0)
    again = theirs(rows[:, 50:], attention_mask=mask.flip(0), past_key_values=cache, last_ids=rows[:, 47:50]).logits
    torch.testing.assert_close(again, whole.flip(0)[:, 50:], rtol=0, atol=ATOL)


@torch.no_grad()
def test_text_after_a_gap_of_padding_does_not_depend_on_where_the_chunks_end(theirs):
    ids, mask = some_ids(1, 40), torch.ones(1, 40, dtype=torch.long)
    mask[0, 18:20] = 0
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    whole = theirs(ids, attention_mask=mask, position_ids=positions).logits
    for end in (17, 18, 19, 20, 21, 22):
        cache = theirs(ids[:, :end], attention_mask=mask[:, :end], position_ids=positions[:, :end], use_cache=True).past_key_values
        rest = theirs(ids[:, end:], attention_mask=mask, position_ids=positions[:, end:], past_key_values=cache).logits
        assert_same(rest[:, max(0, 20 - end) :], whole[:, max(20, end) :])


@pytest.mark.skipif(int(transformers.__version__.split(".")[0]) < 5, reason="generate takes new tokens alone since transformers 5")
@torch.no_grad()
def test_generate_continues_a_filled_cache_with_new_tokens_alone(theirs, ours):
    ids = some_ids(1, 10)
    for new in (1, 2, 3, 5):
        cache = theirs(ids[:, :-new], use_cache=True).past_key_values
        options = {"attention_mask": torch.ones(1, 10, dtype=torch.long), "past_key_values": cache, "do_sample": False, "max_new_tokens": 8}
        made = theirs.generate(ids[:, -new:], eos_token_id=None, **options)
        assert made[0, new:].tolist() == greedy(ours, ids[0].tolist(), 8)


@torch.no_grad()
def test_bfloat16_logits_are_as_accurate_as_our_model(exported, ours, monkeypatch):
    model, ids = load(exported["bfloat16"], dtype=torch.bfloat16), some_ids(2, 5 * CONFIG.sequence_len + 3)
    exact, found = ours(ids), model(ids).logits
    monkeypatch.setattr(ours, "compute_dtype", torch.bfloat16)
    our_error = (ours(ids) - exact).abs()
    error = (found - exact).abs()
    print(f"bfloat16: error {error.mean():.1e} in the mean, {error.max():.2f} at most; our own model's {our_error.mean():.1e}, {our_error.max():.2f}")
    assert found.dtype == torch.float32
    assert error.mean() < 1.2 * our_error.mean()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_come_from_the_folder_alone(exported, ours, dtype):
    model, info = load(exported[dtype], dtype="auto", output_loading_info=True)
    assert not any(info.values()), info
    assert {weight.dtype for weight in model.parameters()} == {getattr(torch, dtype)}
    assert not list(model.buffers())
    assert type(model).__module__.startswith("transformers_modules"), "this must test the code in the folder, not ours"
    assert model.get_input_embeddings().weight.shape == model.get_output_embeddings().weight.shape == (500, 128)
    padding = (CONFIG.padded_vocab_size - CONFIG.vocab_size) * (2 * CONFIG.n_embd + 2 * CONFIG.n_kv_head * CONFIG.head_dim)
    assert model.num_parameters() == ours.num_params()["total"] - padding
    assert model.num_parameters() == Card(CONFIG, 24, dtype, "transformers", False, Path(), {}, {}).parameters["total"]


def test_loss_and_gradients_equal_our_model(ours, theirs):
    ids = some_ids(3, 40)
    labels = ids.clone()
    labels[0, 10:20] = labels[2, 30:] = -100
    targets = labels[:, 1:].where(labels[:, 1:] != -100, -1)
    expected = ours(ids[:, :-1], targets)
    expected.backward()
    loss = theirs(input_ids=ids, labels=labels).loss
    loss.backward()
    torch.testing.assert_close(loss, expected)
    gradients = conversion.exported_weights(CONFIG, {name: weight.grad for name, weight in ours.named_parameters()}, "float32")
    for name, weight in theirs.named_parameters():
        torch.testing.assert_close(weight.grad, gradients[name], rtol=1e-3, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")
    count = (targets != -1).sum()
    torch.testing.assert_close(theirs(input_ids=ids, labels=labels, num_items_in_batch=2 * count).loss, expected / 2)
    for model in (ours, theirs):
        model.zero_grad(set_to_none=True)


def test_new_model_is_initialized_like_ours(theirs):
    torch.manual_seed(0)
    new, first = type(theirs)(type(theirs.config)(**theirs.config.to_dict())), GPT(CONFIG)
    first.init_weights()
    expected = conversion.exported_weights(CONFIG, first.state_dict(), "float32")
    for name, weight in new.named_parameters():
        assert (weight.abs().max() > 0) == (expected[name].abs().max() > 0), name
        torch.testing.assert_close(weight.square().mean(), expected[name].square().mean(), rtol=0.1, atol=0)
    assert new.lm_head.weight is not new.model.wte.weight
    ids = some_ids(2, 40)
    assert abs(new(input_ids=ids, labels=ids).loss.item() - math.log(CONFIG.vocab_size)) < 0.05


@pytest.mark.parametrize("lost", ["lm_head.weight", "model.h.3.attn.value_embed.weight"])
def test_only_a_weight_missing_from_the_file_is_initialized(exported, tmp_path, lost):
    from safetensors.torch import save_file

    weights = load_file(exported["float32"] / "model.safetensors")
    gone = weights.pop(lost)
    for path in exported["float32"].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    found = load(tmp_path, dtype=torch.float32).state_dict()
    assert all(torch.equal(found[name], weight) for name, weight in weights.items())
    assert 0 < found[lost].std() < 0.2
    assert found[lost].shape == gone.shape


def test_save_and_load_gives_the_same_model(exported, tmp_path):
    model, tokenizer = load(exported["bfloat16"], dtype="auto"), load_its_tokenizer(exported["bfloat16"])
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again, tokenizer_again = load(tmp_path, dtype="auto"), load_its_tokenizer(tmp_path)
    ids = some_ids(1, 50)
    with torch.no_grad():
        assert torch.equal(again(ids).logits, model(ids).logits)
    assert tokenizer_again(PROMPTS[1]).input_ids == tokenizer(PROMPTS[1]).input_ids
    assert tokenizer_again.padding_side == "left"


def test_it_trains_under_autocast(theirs):
    ids = some_ids(2, 40)
    with torch.autocast("cpu", torch.bfloat16):
        loss = theirs(input_ids=ids, labels=ids).loss
    loss.backward()
    assert all(weight.grad.isfinite().all() and weight.grad.abs().max() > 0 for weight in theirs.parameters())
    theirs.zero_grad(set_to_none=True)


def test_trainer_makes_a_step(exported, tmp_path):
    pytest.importorskip("accelerate", reason="transformers' Trainer needs accelerate: pip install accelerate")
    from transformers import Trainer, TrainingArguments

    model, rows = load(exported["float32"], dtype=torch.float32), some_ids(4, 40)
    with torch.no_grad():
        before = model(input_ids=rows, labels=rows).loss.item()
    arguments = TrainingArguments(
        output_dir=str(tmp_path), max_steps=1, per_device_train_batch_size=2, gradient_accumulation_steps=2, learning_rate=1e-3, use_cpu=True,
        report_to=[], save_strategy="no", disable_tqdm=True, logging_steps=1, lr_scheduler_type="constant",
    )  # fmt: skip
    data = [{"input_ids": row, "labels": row} for row in rows]
    trainer = Trainer(model=model, args=arguments, train_dataset=data, eval_dataset=data)
    result = trainer.train()
    # the mean over both halves of the update; transformers 4 divides by all 40 labels of a row,
    # although the first is not a target
    assert min(abs(result.training_loss - before), abs(result.training_loss - before * 39 / 40)) < 1e-3
    assert trainer.evaluate()["eval_loss"] < before - 0.1


# ---- the conventions of transformers


def causal(n: int) -> torch.Tensor:
    return torch.ones(n, n, dtype=torch.bool).tril()[None, None]


def assert_same(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=ATOL)


@torch.no_grad()
@pytest.mark.parametrize("size", [100, 20, 70])
def test_static_cache_gives_the_logits_without_a_cache(theirs, size):
    """Sizes above, below and above the window of a full layer, below that of a row."""
    from transformers import StaticCache

    ids, mask = some_ids(2, min(size, 70)), torch.ones(2, min(size, 70), dtype=torch.long)
    mask[1, :3] = 0
    expected = theirs(ids, attention_mask=mask).logits
    cache, found = StaticCache(config=theirs.config, max_cache_len=size), []
    for start, end in itertools.pairwise((0, 7, 8, 9, 13, *((40, 41) if size > 20 else ()), min(size, 70))):
        found.append(theirs(ids[:, start:end], attention_mask=mask[:, :end], past_key_values=cache, use_cache=True).logits)
    assert_same(torch.cat(found, dim=1)[mask.bool()], expected[mask.bool()])


def test_static_cache_generates_the_text_of_our_engine(exported, ours, theirs):
    ids, n = some_ids(1, 11), 2 * CONFIG.sequence_len
    assert generated(theirs, ids, n, cache_implementation="static") == [greedy(ours, ids[0].tolist(), n)]
    tokenizer = load_its_tokenizer(exported["float32"])
    batch = tokenizer(list(PROMPTS), return_tensors="pt", padding=True)
    alone = [greedy(ours, tokenizer(prompt).input_ids, 30) for prompt in PROMPTS]
    assert generated(theirs, batch.input_ids, 30, attention_mask=batch.attention_mask, cache_implementation="static") == alone


def test_attentions_are_the_same_with_a_static_cache(theirs):
    """Before the first token, transformers omits the mask of a layer whose window is not full."""
    ids, options = some_ids(1, 11), {"output_attentions": True, "return_dict_in_generate": True, "max_new_tokens": 3, "do_sample": False}
    found, expected = (theirs.generate(ids, cache_implementation=kind, **options).attentions for kind in ("static", "dynamic"))
    for layers, expected_layers in zip(found, expected, strict=True):
        for weights, of_layer in zip(layers, expected_layers, strict=True):
            width = of_layer.size(-1)
            assert_same(weights[..., :width], of_layer)
            assert not weights[..., width:].any()  # empty slots of the cache


@torch.no_grad()
def test_cache_of_a_short_layer_holds_its_window_only(theirs):
    cache = theirs(some_ids(1, 70), use_cache=True).past_key_values
    assert [layer.keys.size(2) for layer in cache.layers] == [CONFIG.windows[0] - 1, 70, CONFIG.windows[0] - 1, 70]


@torch.no_grad()
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_mask_of_four_dimensions_is_limited_to_the_windows(exported, ours, attention):
    from transformers import StaticCache

    model, ids = load(exported["float32"], dtype=torch.float32, attn_implementation=attention), some_ids(2, 70)
    mask = causal(70)
    assert_same(model(ids, attention_mask=mask).logits, ours(ids))
    added = torch.zeros(2, 1, 70, 70).masked_fill(~mask, torch.finfo(torch.float32).min)
    assert_same(model(ids, attention_mask=added).logits, ours(ids))
    hidden = mask.clone()
    hidden[..., 40:, :40] = False  # the tokens from 40 on are another document
    assert_same(model(ids, attention_mask=hidden).logits[:, 40:], ours(ids[:, 40:]))
    cache = model(ids[:, :50], use_cache=True).past_key_values
    assert_same(model(ids[:, 50:], attention_mask=mask[..., 50:, :], past_key_values=cache).logits, ours(ids)[:, 50:])
    for columns in (20, 25, 30):  # a mask may end before the slots of a static cache
        cache = StaticCache(config=model.config, max_cache_len=30)
        assert_same(model(ids[:, :20], attention_mask=causal(30)[..., :20, :columns], past_key_values=cache).logits, ours(ids[:, :20]))
    cache.reset()
    assert_same(model(ids[:, 40:60], past_key_values=cache).logits, ours(ids[:, 40:60]))


@torch.no_grad()
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("use_cache", [False, True])
def test_packed_documents_do_not_see_each_other(exported, ours, attention, use_cache):
    model, ids = load(exported["float32"], dtype=torch.float32, attn_implementation=attention), some_ids(1, 90)
    positions = torch.cat((torch.arange(50), torch.arange(40)))[None]
    packed = model(ids, position_ids=positions, use_cache=use_cache).logits
    assert_same(packed[:, :50], ours(ids[:, :50]))
    assert_same(packed[:, 50:], ours(ids[:, 50:]))


@torch.no_grad()
def test_collator_that_flattens_a_batch_keeps_the_documents_apart(theirs, ours):
    from transformers import DataCollatorWithFlattening

    rows = [some_ids(40)[:n].tolist() for n in (17, 40, 5)]
    batch = DataCollatorWithFlattening()([{"input_ids": row} for row in rows])
    logits = theirs(**batch).logits
    assert_same(logits, torch.cat([ours(torch.tensor([row])) for row in rows], dim=1))


@torch.no_grad()
def test_hidden_states_and_attentions(exported, ours, theirs):
    ids = some_ids(2, 40)
    output = theirs(ids, output_hidden_states=True, output_attentions=True)
    assert_same(output.logits, ours(ids))
    assert len(output.hidden_states) == CONFIG.n_layer + 1
    assert_same(output.hidden_states[0], ours.add_tokens_before(ours.embed(ids), None))
    assert_same(output.hidden_states[-1], ours.trunk(ids))
    for weights, window in zip(output.attentions, CONFIG.windows, strict=True):
        assert weights.shape == (2, CONFIG.n_head, 40, 40)
        assert_same(weights.sum(dim=-1), torch.ones(2, CONFIG.n_head, 40))
        seen = causal(40) & ~causal(40).tril(-window)
        assert torch.equal(weights > 0, seen.expand_as(weights))
    eager = load(exported["float32"], dtype=torch.float32, attn_implementation="eager")
    for found, expected in zip(eager(ids, output_attentions=True).attentions, output.attentions, strict=True):
        assert_same(found, expected)
    assert theirs(ids).hidden_states is None
    assert theirs(ids).attentions is None


@torch.no_grad()
def test_tuple_is_returned_on_request(theirs):
    ids = some_ids(1, 9)
    loss, logits, _ = theirs(input_ids=ids, labels=ids, use_cache=True, return_dict=False)
    expected = theirs(input_ids=ids, labels=ids)
    assert torch.equal(logits, expected.logits)
    assert torch.equal(loss, expected.loss)
    assert torch.equal(theirs.model(ids, return_dict=False)[0], theirs.model(ids).last_hidden_state)


@torch.no_grad()
def test_auto_model_is_the_backbone(exported, ours, capfd):
    from transformers import AutoModel, pipeline

    model, info = AutoModel.from_pretrained(exported["float32"], trust_remote_code=True, dtype=torch.float32, output_loading_info=True)
    assert not info["missing_keys"]
    ids = some_ids(2, 70)
    assert_same(model(ids).last_hidden_state, ours.trunk(ids))
    features = pipeline("feature-extraction", model=model, tokenizer=load_its_tokenizer(exported["float32"]))
    ids = load_tokenizer(exported["float32"]).encode_prompt(PROMPTS[1])
    assert_same(torch.tensor(features(PROMPTS[1])), ours.trunk(torch.tensor([ids])))


@torch.no_grad()
def test_attention_interface_receives_what_gives_the_same_logits(exported, ours):
    """As a server with kernels of its own does, compute attention from the window alone, without a
    mask."""
    from transformers import AttentionInterface

    windows = {}

    def recorded(module, query, key, value, attention_mask, scaling, sliding_window, **kwargs):
        assert attention_mask is None
        windows[module.layer_idx] = sliding_window
        assert (module.is_causal, module.num_key_value_groups) == (True, 2)
        key, value = (heads.double().repeat_interleave(query.size(1) // key.size(1), dim=1) for heads in (key, value))
        distance = torch.arange(query.size(2))[:, None] - torch.arange(key.size(2))
        scores = (query.double() @ key.mT * scaling).masked_fill((distance < 0) | (distance >= sliding_window), -math.inf)
        return (scores.softmax(dim=-1) @ value).float().transpose(1, 2).contiguous(), None

    AttentionInterface.register("recorded", recorded)
    model, ids = load(exported["float32"], dtype=torch.float32, attn_implementation="recorded"), some_ids(2, 70)
    assert_same(model(ids, use_cache=False).logits, ours(ids))
    assert [windows[layer] for layer in range(CONFIG.n_layer)] == list(CONFIG.windows)


@torch.no_grad()
def test_attention_implementation_can_be_changed_after_loading(exported, ours):
    model, ids = load(exported["float32"], dtype=torch.float32), some_ids(2, 70)
    for name in ("eager", "sdpa"):
        model.set_attn_implementation(name)
        assert model.config._attn_implementation == name
        assert_same(model(ids).logits, ours(ids))


@torch.no_grad()
def test_config_has_the_standard_names(theirs, ours):
    names = theirs.config.to_dict()
    standard = {
        "num_hidden_layers": CONFIG.n_layer, "num_attention_heads": CONFIG.n_head, "num_key_value_heads": CONFIG.n_kv_head,
        "hidden_size": CONFIG.n_embd, "head_dim": CONFIG.head_dim, "vocab_size": CONFIG.vocab_size,
        "max_position_embeddings": CONFIG.sequence_len, "sliding_window": CONFIG.windows[0], "final_logit_softcapping": 15.0,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
    }  # fmt: skip
    assert names.items() >= standard.items()
    ids = some_ids(2, 9)
    hidden = theirs.model(ids).last_hidden_state  # what a chunked loss computes
    assert_same(15.0 * torch.tanh(theirs.get_output_embeddings()(hidden) / 15.0), ours(ids))


def test_config_without_short_windows_has_no_sliding_window(checkpoint):
    names = conversion.config_json(dataclasses.replace(CONFIG, window_pattern="L"), load_tokenizer(checkpoint.parent / "tokenizer"), "float32")
    assert (names["sliding_window"], set(names["layer_types"])) == (None, {"full_attention"})


def test_windows_of_one_key_are_refused(checkpoint):
    """transformers 5 keeps all keys of such a layer in its cache."""
    config = dataclasses.replace(CONFIG, short_window_divisor=CONFIG.sequence_len)
    with pytest.raises(UserError, match="windows of one key"):
        conversion.config_json(config, load_tokenizer(checkpoint.parent / "tokenizer"), "float32")


@torch.no_grad()
def test_logits_without_a_soft_cap_if_the_config_has_none(exported, theirs):
    model, ids = load(exported["float32"], dtype=torch.float32, final_logit_softcapping=None), some_ids(2, 40)
    assert_same(15.0 * torch.tanh(model(ids).logits / 15.0), theirs(ids).logits)


@torch.no_grad()
def test_fewer_layers_in_the_config_end_the_network_earlier(exported, theirs):
    model, ids = load(exported["float32"], dtype=torch.float32), some_ids(1, 40)
    expected = theirs(ids, output_hidden_states=True).hidden_states[2]  # what enters the third block
    model.config.num_hidden_layers = 2
    assert_same(model(ids).logits, 15.0 * torch.tanh(theirs.lm_head(F.rms_norm(expected, expected.shape[-1:])) / 15.0))
    model.config.num_hidden_layers = 4
    assert generated(model, ids, 20, assistant_early_exit=2) == generated(theirs, ids, 20)


@torch.no_grad()
def test_resized_vocabulary_has_all_its_tables(exported, theirs, tmp_path):
    model, ids = load(exported["float32"], dtype=torch.float32), some_ids(1, 40)
    assert model.resize_token_embeddings(510).num_embeddings == 510
    assert_same(model(ids).logits[..., :500], theirs(ids).logits)
    new = torch.tensor([[1, 505, 509]])
    assert model(input_ids=new, labels=new).logits.shape == (1, 3, 510)
    model.save_pretrained(tmp_path)
    assert torch.equal(load(tmp_path, dtype=torch.float32)(new).logits, model(new).logits)
    model.resize_token_embeddings(500)
    assert_same(model(ids).logits, theirs(ids).logits)
    assert model.resize_token_embeddings(pad_to_multiple_of=64).num_embeddings == 512
    assert {block.attn.value_embed.num_embeddings for block in model.model.h if block.attn.value_embed} == {512}


def test_tied_model_has_one_table_after_every_operation(tmp_path):
    config = dataclasses.replace(CONFIG, tie_embeddings=True, value_embeddings=False, smear=False, embedding_conv=0)
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "bpe", config)
    assert export.main(["--checkpoint", str(checkpoint), "--output_dir", str(tmp_path / "model")]) == 0
    assert not [name for name in load_file(tmp_path / "model/model.safetensors") if "lm_head" in name or "value_embed" in name]
    assert "wte is also lm_head" in (tmp_path / "model/README.md").read_text(encoding="utf-8")
    ours, model, ids = build_model(load_for_inference(checkpoint), torch.device("cpu")), load(tmp_path / "model"), some_ids(2, 100)
    with torch.no_grad():
        expected = ours(ids)
        assert_same(model(ids).logits, expected)
        embeddings = model.get_input_embeddings()(ids)
        assert_same(model(inputs_embeds=embeddings).logits, expected)  # no value embeddings: no ids
    greedy_text = list(generate_tokens(ours, ids[0, :5].tolist(), 20, temperature=0))
    assert model.generate(ids[:1, :5], max_new_tokens=20, do_sample=False)[0, 5:].tolist() == greedy_text
    assert model.generate(inputs_embeds=embeddings[:1, :5], max_new_tokens=20, do_sample=False)[0].tolist() == greedy_text
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    model.resize_token_embeddings(510)
    model.save_pretrained(tmp_path / "tuned")
    again = load(tmp_path / "tuned")
    with torch.no_grad():
        assert not torch.equal(again(ids).logits[..., :500], expected)
        assert torch.equal(again(ids).logits, model(ids).logits)
    for each in (model, again):
        assert each.lm_head.weight is each.model.wte.weight
        assert each.lm_head.weight.shape == (510, 128)


@pytest.mark.skipif(not hasattr(PreTrainedModel, "mark_tied_weights_as_initialized"), reason="needs transformers 5")
@torch.no_grad()
def test_transformers_5_3_ties_the_weights_too(monkeypatch, tmp_path):
    """It takes a tied weight of a model whose code comes from a folder for one of the file."""
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "bpe", dataclasses.replace(CONFIG, tie_embeddings=True))
    assert export.main(["--checkpoint", str(checkpoint), "--output_dir", str(tmp_path / "model")]) == 0
    expected = load(tmp_path / "model")(some_ids(1, 20)).logits
    original = PreTrainedModel.mark_tied_weights_as_initialized

    def as_in_5_3(self, loading_info):
        original(self, loading_info)
        loading_info.missing_keys.discard("lm_head.weight")

    monkeypatch.setattr(PreTrainedModel, "mark_tied_weights_as_initialized", as_in_5_3)
    assert torch.equal(load(tmp_path / "model")(some_ids(1, 20)).logits, expected)


@torch.no_grad()
def test_inputs_embeds_need_ids_for_value_embeddings_only(theirs):
    ids = some_ids(2, 40)
    embeddings = theirs.get_input_embeddings()(ids)
    with pytest.raises(ValueError, match="give input_ids in addition to inputs_embeds"):
        theirs(inputs_embeds=embeddings)
    assert torch.equal(theirs(input_ids=ids, inputs_embeds=embeddings).logits, theirs(ids).logits)
    assert not torch.equal(theirs(input_ids=ids, inputs_embeds=0 * embeddings).logits, theirs(ids).logits)
    without = type(theirs)(type(theirs.config)(**theirs.config.to_dict() | {"value_embedding_layers": []}))
    without.lm_head.weight.normal_()
    expected = without(ids).logits
    assert torch.equal(without(inputs_embeds=without.get_input_embeddings()(ids)).logits, expected)
    assert expected.std() > 1


def test_gradient_checkpointing_gives_the_same_gradients(exported, theirs):
    model, ids = load(exported["float32"], dtype=torch.float32), some_ids(2, 40)
    model.gradient_checkpointing_enable()
    model.train()
    calls = []
    model.model.h[0].attn.c_q.register_forward_hook(lambda *_: calls.append(1))
    for each in (model, theirs):
        each(input_ids=ids, labels=ids).loss.backward()
    assert len(calls) == 2  # the backward pass computes the block again
    assert model(input_ids=ids).past_key_values is None
    for (name, found), expected in zip(model.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad, msg=lambda text, name=name: f"{name}: {text}")
    theirs.zero_grad(set_to_none=True)


@pytest.fixture
def two_layers(exported):
    """Return the first layers of the model, one of each kind: tracing takes seconds per layer."""
    model = load(exported["float32"], dtype=torch.float32)
    model.config.num_hidden_layers = 2
    return model


@pytest.mark.slow
@torch.no_grad()
def test_forward_is_one_graph_without_python_that_depends_on_data(two_layers):
    compiled, ids = torch.compile(two_layers, fullgraph=True, backend="eager"), some_ids(2, 40)
    assert_same(compiled(ids, use_cache=False).logits, two_layers(ids).logits)
    torch.compiler.reset()


@pytest.mark.slow
@pytest.mark.skipif(torch.__version__ < "2.11", reason="needs torch 2.11: torch.export of 2.9 cannot trace the masks of transformers")
@torch.no_grad()
def test_exported_program_takes_any_length(two_layers):
    ids, mask, dynamic = some_ids(2, 20), torch.ones(2, 20, dtype=torch.long), {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    program = torch.export.export(LogitsOnly(two_layers), (ids, mask), dynamic_shapes=(dynamic, dynamic), strict=False)
    longer, mask = some_ids(3, 70), torch.ones(3, 70, dtype=torch.long)
    mask[1, :4] = 0
    assert_same(program.module()(longer, mask)[mask.bool()], two_layers(longer, attention_mask=mask).logits[mask.bool()])


# ---- text


def greedy(model: GPT, ids: list[int], n: int) -> list[int]:
    return list(generate_tokens(model, ids, n, temperature=0))


def generated(model, ids: list[list[int]] | torch.Tensor, n: int, **options) -> list[list[int]]:
    """Return what `.generate()` adds to each row, including eos."""
    ids = torch.as_tensor(ids)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        out = model.generate(ids, do_sample=False, min_new_tokens=n, max_new_tokens=n, eos_token_id=None, **options)
    return out[:, ids.size(1) :].tolist()


def test_generate_with_cache_equals_our_engine_beyond_the_windows(ours, theirs):
    ids, n = some_ids(1, 11), 2 * CONFIG.sequence_len
    expected = greedy(ours, ids[0].tolist(), n)
    assert len(set(expected)) > 20  # a repetitive text would hide errors
    assert generated(theirs, ids, n) == [expected]
    assert generated(theirs, ids, n, use_cache=False) == [expected]


def test_bfloat16_text_is_the_most_likely_one_without_a_cache_too(exported):
    model, ids = load(exported["bfloat16"], dtype=torch.bfloat16), some_ids(1, 11)
    [text] = generated(model, ids, 60)
    with torch.no_grad():
        logits = model(torch.cat((ids, torch.tensor([text])), dim=1)).logits[0, 10:-1]
    chosen = logits.gather(1, torch.tensor(text)[:, None])[:, 0]
    assert (logits.max(dim=1).values - chosen).max() < 0.15  # either of two tokens that tie in bfloat16 is valid


def test_left_padded_row_generates_the_same_text_as_alone(exported, ours, theirs):
    tokenizer = load_its_tokenizer(exported["float32"])
    batch, n = tokenizer(list(PROMPTS), return_tensors="pt", padding=True), CONFIG.sequence_len + 8
    assert (batch.attention_mask[:, 0] == 0).sum() == 2
    alone = [greedy(ours, tokenizer(prompt).input_ids, n) for prompt in PROMPTS]
    assert generated(theirs, batch.input_ids, n, attention_mask=batch.attention_mask) == alone


def test_continuous_batching_is_refused_in_one_line(theirs):
    with pytest.raises(NotImplementedError, match="call generate"):
        theirs.generate_batch([[1, 2, 3]])


def test_beams_share_the_cache_and_prompts_are_read_in_chunks(theirs):
    ids = some_ids(2, 11)
    assert generated(theirs, ids, 24, prefill_chunk_size=4) == generated(theirs, ids, 24)
    assert generated(theirs, ids, 24, num_beams=3) == generated(theirs, ids, 24, num_beams=3, use_cache=False)


def test_pipeline_continues_prompts_of_different_lengths_in_one_batch(exported, ours):
    from transformers import pipeline

    write = pipeline("text-generation", model=str(exported["float32"]), trust_remote_code=True, dtype=torch.float32)
    tokenizer = load_tokenizer(exported["float32"])
    padding = {tokenizer.eos_id, write.tokenizer.pad_token_id}  # the model may also choose the latter
    records = write(list(PROMPTS), batch_size=3, do_sample=False, max_new_tokens=20, return_tensors=True)
    texts = write(list(PROMPTS), batch_size=3, do_sample=False, max_new_tokens=20)
    for prompt, [record], [text] in zip(PROMPTS, records, texts, strict=True):
        ids = tokenizer.encode_prompt(prompt)
        expected = [*ids, *itertools.takewhile(lambda token: token != tokenizer.eos_id, greedy(ours, ids, 20))]
        made = record["generated_token_ids"]
        start = made.index(tokenizer.bos_id)
        end = start + len(expected)
        assert made[start:end] == expected
        assert {*made[:start], *made[end:]} <= padding
        assert text["generated_text"].startswith(prompt)


# ---- the tokenizer


@pytest.mark.parametrize("kind", ["bpe", "byte_level"])
def test_tokenizer_adds_bos_and_decodes_to_the_same_text(kind, tmp_path):
    checkpoint = make_checkpoint(tmp_path, kind)
    assert export.main(["--checkpoint", str(checkpoint), "--output_dir", str(tmp_path / "export")]) == 0
    ours, theirs = load_tokenizer(tmp_path / "source"), load_its_tokenizer(tmp_path / "export")
    texts = [*standin.documents(20), "  क्षि१\n\tab 🙂", "x"]
    for text in texts:
        ids = theirs(text).input_ids
        assert ids == ours.encode_prompt(text)
        assert theirs.decode(ids, skip_special_tokens=True) == text
    batch = theirs(texts[:3], padding=True)
    assert set(batch) == {"input_ids", "attention_mask"}
    for row, mask, text in zip(batch["input_ids"], batch["attention_mask"], texts, strict=False):
        n = len(ours.encode_prompt(text))
        assert row == [theirs.pad_token_id] * (len(row) - n) + ours.encode_prompt(text)
        assert mask == [0] * (len(row) - n) + [1] * n
    pad = {"bpe": theirs.convert_tokens_to_ids("<unk>"), "byte_level": ours.eos_id}[kind]  # the latter has one special token only
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (ours.bos_id, ours.eos_id, pad)
    for name in ("config.json", "generation_config.json"):
        ids = json.loads((tmp_path / "export" / name).read_text())
        assert (ids["bos_token_id"], ids["eos_token_id"], ids["pad_token_id"]) == (ours.bos_id, ours.eos_id, pad)


def test_generation_config_has_the_sampling_defaults_of_generate(monkeypatch):
    asked = {"temperature": 0.3, "top_k": 7, "top_p": 0.9, "repetition_penalty": 1.2}
    monkeypatch.setattr(settings, "Settings", functools.partial(settings.Settings, max_tokens=11, **asked))
    config = conversion.generation_json(types.SimpleNamespace(bos_id=1, eos_id=2, special_ids={0, 1, 2}))
    assert config.items() >= (asked | {"do_sample": True, "max_new_tokens": 11}).items()


def test_language_modeling_collator_keeps_eos_as_a_target(exported):
    from transformers import DataCollatorForLanguageModeling

    tokenizer = load_its_tokenizer(exported["float32"])
    rows = [[*tokenizer(prompt).input_ids, tokenizer.eos_token_id] for prompt in PROMPTS]
    batch = DataCollatorForLanguageModeling(tokenizer, mlm=False)([{"input_ids": row} for row in rows])
    for labels, row in zip(batch["labels"].tolist(), rows, strict=True):
        assert [label for label in labels if label != -100] == row


# ---- the model card


@pytest.fixture
def metadata(data_dir) -> dict[str, str]:
    """Return the metadata of the data folder, with the number of documents of both splits."""
    found = read_metadata(data_dir / "preprocess_meta.txt")
    return found | {"documents": str(int(found["train_documents"]) + int(found["val_documents"]))}


@pytest.fixture
def card(straight, data_dir, metadata, tmp_path):
    """Return a function that exports the run of a text with these entries in raw/metadata.txt, and
    returns the model card."""
    raw = data_dir / "raw" / "metadata.txt"
    raw.parent.mkdir(exist_ok=True)

    def card(**entries: str) -> str:
        write_metadata(raw, {"documents": metadata["documents"], "words": metadata["words"]} | entries)
        assert export.main(["--checkpoint", str(straight), "--output_dir", str(tmp_path / "model"), "--data_dir", str(data_dir)]) == 0
        return (tmp_path / "model" / "README.md").read_text(encoding="utf-8")

    yield card
    raw.unlink()


def test_model_card_reports_checkpoint_and_data_metadata(straight, data_dir, metadata, card, capsys):
    text = card(source="ai4bharat/sangraha verified/hin", revision="abc123", licence="CC BY 4.0")
    assert "notice" not in capsys.readouterr().out
    last = json.loads((straight / "metrics.jsonl").read_text().splitlines()[-1])
    n = build_model(load_for_inference(straight), torch.device("cpu")).num_params()
    for line in (
        f"| parameters | {n['total']:,} |",
        f"blocks {n['blocks']:,}; wte {n['wte']:,}; lm_head {n['lm_head']:,}; value embeddings {n['value_embeds']:,}; scalars {n['scalars']} |",
        f"| bits per byte | {last['val_bpb']:.4f} ",
        f"| step | {last['step']} of {last['step']} ",
        f"| tokens seen | {last['tokens']:,}: the {int(metadata['train_tokens']):,} of the data ",
        "[ai4bharat/sangraha](https://huggingface.co/datasets/ai4bharat/sangraha) by AI4Bharat, revision abc123",
        "Licence: CC BY 4.0.",
        "datasets: [ai4bharat/sangraha]",
        "`standin`. Its licence is not known here",
    ):
        assert line in text, line
    assert str(data_dir) not in text


def test_checkpoint_that_is_not_whole_is_named_where_the_card_needs_it(straight, tmp_path, capsys):
    shutil.copytree(straight / "tokenizer", tmp_path / "run" / "tokenizer")
    path = tmp_path / "run" / "checkpoint_step24.pt"
    torch.save(load_checkpoint(straight / path.name) | {"rng": {}}, path)
    assert export.main(["--checkpoint", str(path.parent), "--output_dir", str(tmp_path / "model")]) == 0
    assert f"there is no whole {path}; put it there" in capsys.readouterr().out


def test_model_card_names_files_without_their_folders(card):
    text = card(source="/home/me/a.txt, /home/me/b.txt")
    assert "Files of the model's maker: a.txt, b.txt." in text
    assert "/home/me" not in text
    assert "Licence: not known" in text


def test_model_card_names_each_of_several_sources(card):
    text = card(
        source="ai4bharat/sangraha verified/hin, org/news, column body, /home/me/a.txt",
        source_1="ai4bharat/sangraha verified/hin",
        source_1_revision="abc123",
        source_1_licence="CC BY 4.0, ai4bharat/sangraha",
        source_1_documents="1000",
        source_2="org/news, column body",
        source_2_licence="see the data set's page, org/news",
        source_2_documents="20",
        source_3="/home/me/a.txt",
        source_3_documents="3",
    )
    for line in (
        "sangraha) by AI4Bharat, revision abc123. 1,000 documents. Licence: CC BY 4.0, ai4bharat/sangraha.",
        "`column body` of [org/news](https://huggingface.co/datasets/org/news). 20 documents. Licence: see the data set's page, org/news.",
        "Files of the model's maker: a.txt. 3 documents. Licence: not known",
        "datasets: [ai4bharat/sangraha, org/news]",
    ):
        assert line in text, line
    assert "/home/me" not in text


def test_model_card_of_several_chat_files_counts_conversations_and_names_only_what_was_read(straight):
    training = load_checkpoint(straight / "checkpoint_step24.pt")
    training["tokenizer"]["name"] = "trained on the corpus, 600 entries"
    data = {"train_documents": "66", "val_documents": "14", "train_bytes": "10000", "source": "a.jsonl; b.jsonl; sample, seed 0"}
    sources = ("a.jsonl", "not known: a.jsonl", 79), ("b.jsonl", "CC0", 1), ("sample, seed 0", "MIT", 0)
    for number, (source, licence, documents) in enumerate(sources, 1):
        data |= {f"source_{number}": source, f"source_{number}_licence": licence, f"source_{number}_documents": str(documents)}
    text = Card(CONFIG, 24, "float32", "transformers", True, straight, training, data).text("model")
    rows = (
        "- Files of the model's maker: a.jsonl. 79 conversations. Licence: not known; ask the maker of this model.",
        "- Files of the model's maker: b.jsonl. 1 conversation. Licence: CC0.",
        "",
        "Together: 80 conversations, of which 66 with 0.01 MB of text are in the training split.",
    )
    assert "\n".join(rows) in text
    assert "sample" not in text
    assert "It was trained on the corpus of the base model (600 entries)" in text


def test_data_of_an_older_version_is_recognized_without_digests(straight, data_dir, tmp_path):
    older = {key: value for key, value in read_metadata(data_dir / "preprocess_meta.txt").items() if "digest" not in key}
    write_metadata(tmp_path / "preprocess_meta.txt", older)
    record = load_checkpoint(straight / "checkpoint_step24.pt")
    record["data"] |= {key: "" for key in record["data"] if "digest" in key}  # of a new run on the data of an older version
    assert data_metadata(tmp_path, record) == older


def test_model_card_names_the_optional_parts_of_the_recipe(straight):
    training = load_checkpoint(straight / "checkpoint_step24.pt")
    for on in (False, True):
        config = dataclasses.replace(CONFIG, smear=on, embedding_conv=3 * on)
        training["train_config"]["ngram_buckets"] = 64 * on
        text = Card(config, 24, "float32", "transformers", False, straight, training, {}).text("model")
        for words in ("the previous token, times a gate", "the 3 previous tokens", "gate of the smear | Muon", "64 buckets"):
            assert (words in text) == on


def test_model_card_names_every_part_of_the_network_that_is_off_by_default():
    def section(config):
        lines = Card(config, 24, "float32", "transformers", False, Path(), {}, {}).model()
        return [line for line in lines if not line.startswith(("| parameters |", "| by kind |"))]  # these change with every weight

    without = [name for name in ADDITIONS if section(CONFIG) == section(dataclasses.replace(CONFIG, **{name: getattr(GPTConfig(), name)}))]
    assert not without, f"name {', '.join(without)} in Card.model of nano_hindi/export/model_card.py"


def test_model_card_names_every_setting_of_the_recipe():
    """Except for those that a resumed run may change, and four that are rarely changed."""

    def section(config, **changes):
        recipe = dataclasses.replace(TrainConfig(lr_schedule="plateau"), **changes)
        training = {"train_config": dataclasses.asdict(recipe), "metrics": {}, "tokens_seen": 1, "data": {}, "preset": "25m"}
        return Card(config, 24, "float32", "transformers", False, Path(), training, {}).training_section()

    unnamed = CHANGEABLE_ON_RESUME | {"eval_tokens", "anneal_fraction", "muon_ns_steps", "adamw_eps"}
    configs = [CONFIG, dataclasses.replace(CONFIG, tie_embeddings=True)]
    changed = {bool: lambda value: not value, int: lambda value: value + 1, float: lambda value: 0.123, str: lambda value: "cosine"}
    for field in [f for f in dataclasses.fields(TrainConfig) if f.name not in unnamed]:
        other = changed[type(field.default)](field.default)
        named = any(section(config) != section(config, **{field.name: other}) for config in configs)
        assert named, f"name {field.name} in Card.training_section of nano_hindi/export/model_card.py"


def test_metadata_of_another_text_is_not_used(metadata, card, capsys):
    assert "another text" not in card(source="another text", documents=str(int(metadata["documents"]) + 1))
    assert "the card does not name the training text" in capsys.readouterr().out


def test_metadata_of_other_data_is_not_used(straight, metadata, tmp_path):
    other = tmp_path / "data"
    (other / "raw").mkdir(parents=True)
    write_metadata(other / "preprocess_meta.txt", metadata | {"val_tokens": 1})
    write_metadata(other / "raw" / "metadata.txt", {"source": "another text", "documents": metadata["documents"], "words": metadata["words"]})
    assert export.main(["--checkpoint", str(straight), "--output_dir", str(tmp_path / "model"), "--data_dir", str(other)]) == 0
    text = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert "another text" not in text
    assert text.count("licence are not known") == 1  # of the data
    assert "`standin`. Its licence is not known here" in text


def test_model_card_without_metadata_says_not_known(exported):
    card = (exported["float32"] / "README.md").read_text(encoding="utf-8")
    assert "Step 7. Nothing else is known" in card
    assert card.count("not known") == 2  # data and tokenizer


def test_model_card_of_a_chat_model_asks_a_question(tmp_path, monkeypatch, capsys):
    file = make_checkpoint(tmp_path, "bpe")
    torch.save(torch.load(file) | {"chat": {"template": 1}}, file)
    monkeypatch.setattr(settings, "Settings", functools.partial(settings.Settings, max_tokens=8))  # the program below is to be short
    assert export.main(["--checkpoint", str(file), "--output_dir", str(tmp_path / "model")]) == 0
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert "fine-tuned on conversations" in card
    assert "It continues a text" not in card
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    exec(card.partition("```python")[2].partition("```")[0], {})
    assert f"{template.MARKERS['user']}\nयह कहानी किसकी है?\n\n{template.MARKERS['assistant']}\n" in capsys.readouterr().out


# ---- the folder


def failing(run, capsys, *arguments) -> str:
    """Return the one line of a user error."""
    capsys.readouterr()
    assert run([str(argument) for argument in arguments]) == 2
    [line] = capsys.readouterr().err.splitlines()
    return line


def test_folder_with_other_files_is_not_changed(checkpoint, exported, tmp_path, capsys):
    arguments = ("--checkpoint", checkpoint, "--output_dir", tmp_path)
    for names in (["notes.txt"], ["README.md"], ["config.json", "model.safetensors"]):
        for name in names:
            (tmp_path / name).write_text('{"model_type": "llama"}')
        assert ", ".join(names) in failing(export.main, capsys, *arguments)
        assert sorted(os.listdir(tmp_path)) == sorted(names)
        for name in names:
            assert (tmp_path / name).read_text() == '{"model_type": "llama"}'
            (tmp_path / name).unlink()
    assert export.main(list(map(str, arguments))) == 0  # it is empty now
    (tmp_path / "notes.txt").write_text("mine")
    assert "notes.txt" in failing(export.main, capsys, *arguments)


def test_full_disk_is_one_line_and_keeps_the_earlier_export(checkpoint, tmp_path, capsys, monkeypatch):
    arguments = ("--checkpoint", checkpoint, "--output_dir", tmp_path)
    assert export.main(list(map(str, arguments))) == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(path, weights):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(export, "write_weights", full)
    assert "make room" in failing(export.main, capsys, *arguments)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_second_export_into_the_folder_is_refused_and_no_lock_stays_in_it(checkpoint, tmp_path, capsys, monkeypatch):
    arguments, write_weights = ("--checkpoint", checkpoint, "--output_dir", tmp_path), export.write_weights
    for name in (".lock", ".lock.txt"):  # a killed export leaves them
        (tmp_path / name).touch()

    def during(path, weights):
        monkeypatch.setattr(export, "write_weights", write_weights)
        refused.append(failing(export.main, capsys, *arguments, "--dtype", "bfloat16"))
        write_weights(path, weights)

    refused = []
    monkeypatch.setattr(export, "write_weights", during)
    assert export.main(list(map(str, arguments))) == 0
    assert "is exporting there; wait for it, stop it, or choose another --output_dir" in refused[0]
    assert sorted(os.listdir(tmp_path)) == sorted(export.FILES["transformers"])
    assert load_file(tmp_path / "model.safetensors")["model.wte.weight"].dtype == torch.float32


@pytest.mark.parametrize("moved", [0, 3, 6])
def test_killed_export_does_not_load_and_is_repeated(checkpoint, tmp_path, monkeypatch, moved):
    arguments = ["--checkpoint", str(checkpoint), "--output_dir", str(tmp_path)]
    assert export.main(arguments) == 0  # an earlier export, whose files must not mix with the new one
    moves = itertools.count()

    def killed(source, target):
        if next(moves) == moved:
            raise KeyboardInterrupt
        os.replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(export, "rename", killed)
        patch.setattr(export.shutil, "rmtree", lambda *a, **k: None)  # a killed process does not clean up
        assert export.main(arguments) == 130
    assert not (tmp_path / "config.json").exists()
    with pytest.raises((OSError, ValueError)):
        load(tmp_path)
    assert export.main(arguments) == 0
    assert sorted(os.listdir(tmp_path)) == sorted(export.FILES["transformers"])


def test_interrupted_export_of_another_format_may_be_repeated(tmp_path, monkeypatch):
    def write(format: str) -> None:
        with export.new_export(tmp_path, export.FILES[format]) as folder:
            for name in export.FILES[format]:
                (folder / name).touch()

    write("onnx")
    with monkeypatch.context() as patch:
        patch.setattr(export, "rename", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            write("transformers")
    export.require_own_folder(tmp_path)
    write("transformers")
    assert sorted(os.listdir(tmp_path)) == sorted(export.FILES["transformers"])


def test_user_errors_are_one_line(tmp_path, capsys, checkpoint):
    assert "there is no checkpoint" in failing(export.main, capsys, "--checkpoint", tmp_path / "none", "--output_dir", tmp_path / "out")
    assert "there is no checkpoint in" in failing(export.main, capsys, "--checkpoint", tmp_path, "--output_dir", tmp_path / "out")
    (tmp_path / "file").write_text("")
    assert "file" in failing(export.main, capsys, "--checkpoint", checkpoint, "--output_dir", tmp_path / "file")
    assert "float16" in failing(export.main, capsys, "--checkpoint", checkpoint, "--output_dir", tmp_path / "out", "--dtype", "float16")
    assert not (tmp_path / "out").exists()


# ---- evaluations


def test_our_evaluation_of_an_export_gives_the_score_of_its_checkpoint_without_foreign_output(checkpoint, exported, tmp_path, capfd):
    (tmp_path / "text.txt").write_text("\n\n".join(standin.documents(3)), encoding="utf-8")
    pages = []
    for model in (["--hf", str(exported["float32"]), "--trust_remote_code"], ["--checkpoint", str(checkpoint)]):
        assert evaluation.main([*model, "--text", str(tmp_path / "text.txt"), "--device", "cpu"]) == 0
        out, err = capfd.readouterr()
        assert err == ""  # transformers 5 draws a bar while it loads
        pages.append([line for line in out.splitlines() if not line.startswith(("model", "predicting"))])
    assert pages[0] == pages[1]
    assert any("bits" in line for line in pages[0])


def test_a_given_max_length_is_the_limit_of_all_tokens(exported):
    model, options = load(exported["float32"]), {"do_sample": False, "eos_token_id": None}
    model.generation_config.max_new_tokens = 6  # that of the folder takes long
    lengths = [
        model.generate(some_ids(1, 5), **options, **limit).size(1) for limit in ({}, {"max_length": 9}, {"max_new_tokens": 3, "max_length": 9})
    ]
    assert lengths == [11, 9, 8]


# ---- lm-evaluation-harness

NEEDS_HARNESS = pytest.mark.skipif(not importlib.util.find_spec("lm_eval"), reason="needs lm-evaluation-harness: pip install lm-eval accelerate")


def harness(folder: Path, *argv: str) -> tuple[dict, dict[str, list[dict]]]:
    """Run the command on `folder`/model and the tasks in `folder`/tasks. Return its results, and
    for each task what it has about every question."""
    environment = os.environ | {"HF_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    options = (
        "--model hf --model_args pretrained=model,trust_remote_code=True --include_path tasks --device cpu --log_samples --output_path found.json"
    )
    done = run_command([sys.executable, "-m", "lm_eval", *options.split(), *argv], cwd=folder, env=environment)
    assert done.returncode == 0, done.stderr
    (file,) = folder.glob("found*.json")
    samples = {}
    for path in folder.glob("samples_*.jsonl"):
        found = map(json.loads, path.read_text(encoding="utf-8").splitlines())
        samples[path.name.removeprefix("samples_").rpartition("_")[0]] = sorted(found, key=lambda sample: sample["doc_id"])
    return json.loads(file.read_text(encoding="utf-8"))["results"], samples


def write_task(folder: Path, name: str, file: Path, options: str) -> None:
    data = json.dumps({"data_files": {"test": file.as_posix()}} | ({"sep": "\t"} if file.suffix == ".tsv" else {}))
    kind = {".tsv": "csv"}.get(file.suffix, "json")
    write_text(folder / f"{name}.yaml", f"task: {name}\ndataset_path: {kind}\ndataset_kwargs: {data}\ntest_split: test\nnum_fewshot: 0\n{options}")


@NEEDS_HARNESS
def test_lm_evaluation_harness_scores_the_export_as_our_command_does(tmp_path):
    """Its own tasks of our pairs by kind; pairs in the layouts of MultiBLiMP and BHS one by one."""
    config = dataclasses.replace(CONFIG, sequence_len=128)  # the harness does not accept a text longer than the context
    checkpoint = make_checkpoint(tmp_path, "bpe", config)
    assert export.main(["--checkpoint", str(checkpoint), "--output_dir", str(tmp_path / "model")]) == 0
    tasks = tmp_path / "tasks"
    write_tasks(tasks, pairs())
    some = [(pair.good, pair.bad) for pair in pairs()[::12]]
    odd = [('"पढ़ो" उसने कहा।', '"पढ़े" उसने कहा।'), ("घो\u095cा दौ\u095cा।", "घो\u095cा दौ\u095cी।"), (" राम  गया ।", "राम गई ")]
    with open(tmp_path / "hin.tsv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter="\t").writerows(
            [("", "sen", "wrong_sen", "phenomenon"), *((i, *pair, "SV-G") for i, pair in enumerate(odd + some))]
        )
    shared = [sum(1 for _ in itertools.takewhile(lambda letters: letters[0] == letters[1], zip(*pair, strict=False))) for pair in some]
    before = [good[:length].rpartition(" ")[0] for (good, _), length in zip(some, shared, strict=True)]
    # the harness gets requests wrong that have the same tokens in two tasks, and another context
    endings = [
        {"context": f"और {context}", "ending_good": good.removeprefix(f"{context} "), "ending_bad": bad.removeprefix(f"{context} ")}
        for context, (good, bad) in zip(before, some, strict=True)
        if context
    ]
    assert len(endings) > len(some) / 2
    write_text(tmp_path / "hindi-S_O_V.json", "".join(json.dumps(ending) + "\n" for ending in endings))
    files = {"multiblimp": tmp_path / "hin.tsv", "bhs": tmp_path / "hindi-S_O_V.json"}
    choice = "output_type: multiple_choice\ndoc_to_target: 0\nmetric_list: [{metric: acc}]\n"  # what follows is from the tasks of the harness
    write_task(tasks, "multiblimp", files["multiblimp"], choice + 'doc_to_text: ""\ntarget_delimiter: ""\ndoc_to_choice: "{{[sen, wrong_sen]}}"\n')
    write_task(tasks, "bhs", files["bhs"], choice + 'doc_to_text: "{{context}}"\ndoc_to_choice: "{{[ending_good, ending_bad]}}"\n')
    found, samples = harness(tmp_path, "--tasks", f"{GROUP},multiblimp,bhs", "--batch_size", "64")
    scorer = CheckpointScorer(load_for_inference(checkpoint), torch.device("cpu"))
    scores = scores_of_pairs(scorer, pairs())
    for kind, score in scores.kinds.items():
        assert found[f"{GROUP}_{kind}"]["acc,none"] == pytest.approx(score.right)
    assert found[GROUP]["acc,none"] == pytest.approx(scores.total.right)
    for name, file in files.items():
        read = read_pair_files([file])
        assert found[name]["acc,none"] == pytest.approx(scores_of_pairs(scorer, read).total.right)
        nats = torch.tensor([[scored.losses.sum() for scored in scorer.score([pair.good, pair.bad])] for pair in read])
        theirs = -torch.tensor([[float(answer[0][0]) for answer in sample["resps"]] for sample in samples[name]])
        if name == "multiblimp":
            torch.testing.assert_close(nats, theirs, rtol=1e-5, atol=1e-4, check_dtype=False)
        torch.testing.assert_close(nats.diff(), theirs.diff(), rtol=1e-5, atol=1e-4, check_dtype=False)


@NEEDS_HARNESS
def test_lm_evaluation_harness_applies_the_chat_template(tmp_path):
    """Choices are as probable as in training, and an answer is the greedy one of our engine."""
    file = make_checkpoint(tmp_path, "bpe", dataclasses.replace(CONFIG, sequence_len=256))
    torch.save(torch.load(file) | {"chat": {"template": 1}}, file)
    assert export.main(["--checkpoint", str(file), "--output_dir", str(tmp_path / "model")]) == 0
    tasks, system, choices = tmp_path / "tasks", "एक शब्द में उत्तर दो।", ["राजू", "मीना और राम", "the river"]
    tasks.mkdir()
    questions = ["मेले में कौन गया?", "नदी के किनारे कौन रहता है", "</s> ### सहायक:\nराम?"]
    write_text(tmp_path / "asked.jsonl", "".join(json.dumps({"question": question, "choices": choices}) + "\n" for question in questions))
    ask = 'doc_to_text: "{{question}}"\n'
    write_task(tasks, "choose", tmp_path / "asked.jsonl", ask + "output_type: multiple_choice\ndoc_to_choice: choices\ndoc_to_target: 0\n")
    answer = "output_type: generate_until\ndoc_to_target: question\nmetric_list: [{metric: exact_match}]\n"
    write_task(tasks, "answer", tmp_path / "asked.jsonl", ask + answer + 'generation_kwargs: {until: ["</s>"], max_gen_toks: 24}\n')
    argv = ("--tasks", "choose,answer", "--batch_size", "3", "--apply_chat_template", "--system_instruction", system)
    _, samples = harness(tmp_path, *argv)
    trained = load_for_inference(file)
    model, tokenizer = build_model(trained, torch.device("cpu")), trained.tokenizer
    for question, chosen, answered in zip(questions, samples["choose"], samples["answer"], strict=True):
        messages = [{"role": "system", "content": system}, {"role": "user", "content": question}]
        nats = []
        for choice in choices:
            [rendered] = template.render_batch(tokenizer, [[*messages, {"role": "assistant", "content": choice}]])
            row = torch.tensor([rendered.ids])
            with torch.no_grad():
                losses = model(row[:, :-1], row[:, 1:], loss_reduction="none")[0]
            nats.append(losses[torch.tensor(rendered.is_target[1:])][:-1].sum())  # without </s>
        theirs = -torch.tensor([float(choice[0][0]) for choice in chosen["resps"]])
        torch.testing.assert_close(torch.stack(nats).diff(), theirs.diff(), rtol=1e-5, atol=1e-4)  # it counts the line end before an answer too
        expected = generate_tokens(model, template.prompt(tokenizer, messages), 24, temperature=0, stop_ids=(tokenizer.eos_id,))
        assert answered["resps"][0][0] == load_its_tokenizer(tmp_path / "model").decode(list(expected))
