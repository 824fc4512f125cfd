"""The recipes of tests/benchmarks/recipes.py: each trains and differs from the default; and the
tables that learning.py makes of their results."""

import dataclasses
import itertools
import json
import math
import sys

import numpy as np
import pytest
import torch

import standin
from conftest import ROOT
from data import preprocess

sys.path.insert(0, str(ROOT / "tests" / "benchmarks"))
import learning
import outcome
import recipes
import small_runs

from nano_hindi import loss, model
from nano_hindi.corpus.documents import read_documents, write_document
from nano_hindi.corpus.prepared import check_data
from nano_hindi.dataloader import TokenFile

WIDTH, UPDATES = 32, 4
TOKENS = UPDATES * small_runs.BATCH * small_runs.SHAPE["sequence_len"]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("learning")
    standin.make_tokenizer(folder / "source", 500)
    (folder / "text.txt").write_text("\n<|endoftext|>\n".join(standin.documents(400)), encoding="utf-8")
    assert not preprocess.main(
        ["--input", str(folder / "text.txt"), "--tokenizer", str(folder / "source"), "--output_dir", str(folder / "tokens"), "--val_fraction", "0.1"]
    )
    return str(folder / "tokens")


def learned(run, data_dir):
    return small_runs.learn(run, data_dir, 2048)


@pytest.fixture(scope="module")
def ends(data_dir):
    """Return the bits per byte of each recipe after a few updates."""
    return {name: learned(small_runs.Run(name, 0, WIDTH, TOKENS), data_dir)[-1]["bpb"] for name in small_runs.ALL}


@pytest.mark.slow
def test_every_recipe_trains_and_gives_a_different_result(ends):
    assert all(math.isfinite(end) for end in ends.values())
    assert len(set(ends.values())) == len(small_runs.ALL), ends  # equal results: what a recipe patches may have moved


@pytest.mark.slow
def test_every_recipe_restores_the_default(ends, data_dir):
    again = learned(small_runs.Run("default", 0, WIDTH, TOKENS), data_dir)
    assert again[-1]["bpb"] == ends["default"]
    assert [point["tokens"] for point in again][-1] == TOKENS


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("recipe", ["default", "adamw", "within_documents", "document_windows"])
def test_captured_training_on_a_gpu_equals_uncaptured(data_dir, recipe):
    runs = [small_runs.Run(recipe, seed, WIDTH, TOKENS, device="cuda") for seed in (0, 1)]
    recorded = small_runs.learn_together(runs, data_dir, 2048, 2)
    for run, points in recorded:
        plain = small_runs.Training(run, data_dir, 2048)
        while not plain.is_done:
            plain.advance()
        assert points[-1]["bpb"] == pytest.approx(plain.points[-1]["bpb"], rel=1e-3)


@pytest.mark.slow
def test_changed_field_takes_effect(ends, data_dir):
    changed = learned(small_runs.Run("default", 0, WIDTH, TOKENS, (("muon_lr", "0.1"), ("muon_ns_steps", "3"))), data_dir)
    assert changed[-1]["bpb"] != ends["default"]


@pytest.mark.slow
@pytest.mark.parametrize("change", [("model.X0_LAMBDA", "0.3"), ("optim.UNEMBEDDING_WIDTH_EXPONENT", "-0.5")])
def test_changed_constant_takes_effect_and_is_restored(ends, data_dir, change):
    before = model.X0_LAMBDA, dict(loss.CHUNK_BYTES)
    assert learned(small_runs.Run("default", 0, WIDTH, TOKENS, (change,)), data_dir)[-1]["bpb"] != ends["default"]
    assert (model.X0_LAMBDA, dict(loss.CHUNK_BYTES)) == before


def test_unknown_constant_is_an_error(data_dir):
    with pytest.raises(AttributeError, match="X1_LAMBDA"):
        learned(small_runs.Run("default", 0, WIDTH, TOKENS, (("model.X1_LAMBDA", "0.3"),)), data_dir)


@pytest.mark.slow
def test_bfloat16_run_learns_nearly_the_same_and_has_its_own_name(ends, data_dir):
    run = small_runs.Run("default", 0, WIDTH, TOKENS, dtype="bfloat16")
    assert learned(run, data_dir)[-1]["bpb"] == pytest.approx(ends["default"], rel=0.005)
    assert run.name != dataclasses.replace(run, dtype="float32").name


def test_document_windows_start_at_documents_and_omit_nothing(data_dir):
    T = 64
    loader = recipes.DocumentWindows(TokenFile(f"{data_dir}/train.bin", 500), T, 0)
    tokens = TokenFile(f"{data_dir}/train.bin", 500)[:]
    borders = [*np.flatnonzero(tokens == recipes.BOS), len(tokens)]
    covered = np.zeros(len(tokens) + T, dtype=bool)
    for start in loader.starts:
        covered[start : start + T + 1] = True
    longer = [(begin, end) for begin, end in itertools.pairwise(borders) if end - begin > T]
    assert longer
    assert {begin for begin, _ in longer} <= set(loader.starts.tolist())
    assert all(covered[begin:end].all() for begin, end in longer)
    x, y = loader.batch(0, loader.num_sequences + 3)
    assert torch.equal(x[:, 1:], y[:, :-1])
    assert (x[:, 0] == recipes.BOS).sum() >= len(longer)


def test_attention_within_documents_does_not_cross_their_boundaries(data_dir):
    """A different first document does not change the logits of the second; positions are relative,
    so the second need not move."""
    run = small_runs.Run("within_documents", 0, WIDTH, TOKENS)
    config, _ = small_runs.configs(run, small_runs.ALL[run.recipe], 500)
    torch.manual_seed(0)
    with small_runs.ALL[run.recipe].patched(), torch.no_grad():
        net = recipes.Within(config)
        net.init_weights()
        for block in net.transformer.h:
            block.attn.c_proj.weight.normal_()  # zero at initialization: attention would have no effect
        second = torch.tensor([recipes.BOS, *range(10, 30)])
        first, other = torch.tensor([recipes.BOS, *range(40, 50)]), torch.tensor([recipes.BOS, *range(60, 70)])
        a, b = (net.logits(net.trunk(torch.cat([begin, second])[None]))[0, 11:] for begin in (first, other))
    assert torch.allclose(a, b, atol=1e-5)


def test_unseen_validates_on_documents_never_used_for_validation(tmp_path):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    with open(corpus / "a.txt", "wb") as file:
        for text in standin.documents(400):
            write_document(file, text)
    learning.prepare(corpus, 512, tmp_path / "usual")
    learning.prepare(corpus, 512, tmp_path / "unseen", unseen=True)
    validating = []
    for part in ("usual", "unseen"):
        tokenizer = check_data(tmp_path / part).tokenizer
        tokens = TokenFile(tmp_path / part / "val.bin", 10_000)[:].tolist()
        validating.append({text for text in tokenizer.decode(tokens).split("</s>") if text.strip()})
    assert all(validating)
    assert not validating[0] & validating[1]
    rest = set(read_documents(tmp_path / "unseen" / "rest.txt"))
    assert not any(text.strip() in rest for text in validating[0])


def test_fit_recovers_the_parameters_of_synthetic_results():
    truth = (0.3, 20.0, 15.0)
    found = [
        outcome.Outcome(None, tokens, parameters, truth[0] + truth[1] * parameters**-0.34 + truth[2] * tokens**-0.28)
        for parameters in (10**5, 10**6, 10**7)
        for tokens in (10**6, 10**7)
    ]
    weights, error = outcome.fit(found, *outcome.EXPONENTS)
    assert weights == pytest.approx(truth, rel=1e-6)
    assert error < 1e-9


def test_table_compares_seed_by_seed(tmp_path):
    bpb = {("default", 0): 1.0, ("default", 1): 2.0, ("adamw", 0): 1.1, ("adamw", 1): 2.4}  # 10 and 20 % worse
    runs = [small_runs.Run(recipe, seed, WIDTH, TOKENS) for recipe, seed in bpb]
    for run in runs:
        (tmp_path / f"{run.name}.json").write_text(json.dumps([{"tokens": TOKENS, "seconds": 2.0, "bpb": bpb[run.recipe, run.seed]}]))
    default, adamw = learning.table(tmp_path, runs)[2:]
    assert default.startswith("| default |")
    assert "1.7500 (1.1000-2.4000)" in adamw
    assert "+15.00% +- 5.00%" in adamw
    assert adamw.endswith("| 2 | 1.00 x |")
