"""The recipes of learning.py: each trains and differs from the default; and the tables that
learning.py makes of their results."""

import dataclasses
import itertools
import json
import math
import sys
from unittest import mock

import numpy as np
import pytest
import torch

import standin
from conftest import ROOT

sys.path.insert(0, str(ROOT / "tests" / "benchmarks"))
import ideas
import learning
import peers
import small_runs

from nano_hindi import loss, model
from nano_hindi.corpus.documents import read_documents
from nano_hindi.corpus.prepared import check_data
from nano_hindi.dataloader import SequenceLoader, val_batches
from nano_hindi.eval import compute_token_bytes
from nano_hindi.token_file import TokenFile

WIDTH, UPDATES = 32, 4
TOKENS = UPDATES * small_runs.BATCH * small_runs.SHAPE["sequence_len"]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("learning")
    return str(standin.make_data(folder, standin.documents(400), standin.make_tokenizer(folder / "standin", 496)))


def learned(run, data_dir):
    """Train with an eighth of the batch, so that the tokens last for UPDATES updates, and evaluate
    once."""
    with mock.patch.multiple(small_runs, BATCH=small_runs.BATCH // 8, EVALUATIONS=1):
        return small_runs.learn(dataclasses.replace(run, tokens=run.tokens // 8), data_dir, 2048)


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
    assert [point["tokens"] for point in again] == [TOKENS // 8]


@pytest.mark.parametrize("text", ["True", "False"])
def test_change_of_a_switch_is_the_word_that_is_given(text):
    run = small_runs.Run("smear", 0, WIDTH, TOKENS, (("smear", text), ("batch_size", "8")))
    shape, train = small_runs.configs(run, small_runs.ALL["smear"], 496)
    assert (str(shape.smear), train.batch_size) == (text, 8)


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
    loader = ideas.DocumentWindows(TokenFile(f"{data_dir}/train.bin", 496), T, 0)
    tokens = TokenFile(f"{data_dir}/train.bin", 496)[:]
    borders = [*np.flatnonzero(tokens == ideas.BOS), len(tokens)]
    covered = np.zeros(len(tokens) + T, dtype=bool)
    for start in loader.starts:
        covered[start : start + T + 1] = True
    longer = [(begin, end) for begin, end in itertools.pairwise(borders) if end - begin > T]
    assert longer
    assert {begin for begin, _ in longer} <= set(loader.starts.tolist())
    assert all(covered[begin:end].all() for begin, end in longer)
    x, y = loader.batch(0, loader.num_sequences + 3)
    assert torch.equal(x[:, 1:], y[:, :-1])
    assert (x[:, 0] == ideas.BOS).sum() >= len(longer)


def test_attention_within_documents_does_not_cross_their_boundaries(data_dir):
    """A different first document does not change the logits of the second; positions are relative,
    so the second need not move."""
    run = small_runs.Run("within_documents", 0, WIDTH, TOKENS)
    config, _ = small_runs.configs(run, small_runs.ALL[run.recipe], 496)
    torch.manual_seed(0)
    with small_runs.ALL[run.recipe].patched(), torch.no_grad():
        net = ideas.Within(config)
        net.init_weights()
        for block in net.transformer.h:
            block.attn.c_proj.weight.normal_()  # zero at initialization: attention would have no effect
        second = torch.tensor([ideas.BOS, *range(10, 30)])
        first, other = torch.tensor([ideas.BOS, *range(40, 50)]), torch.tensor([ideas.BOS, *range(60, 70)])
        a, b = (net.logits(net.trunk(torch.cat([begin, second])[None]))[0, 11:] for begin in (first, other))
    assert torch.allclose(a, b, atol=1e-5)


def test_unseen_validates_on_documents_never_used_for_validation(tmp_path):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    standin.write_corpus(corpus / "a.txt", standin.documents(400))
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


# the interface of nanochat, with an easy model and optimizer
PEER_MODEL = """
import dataclasses, torch
from torch import nn
@dataclasses.dataclass
class GPTConfig:
    vocab_size: int; n_embd: int; n_layer: int; n_head: int; n_kv_head: int; sequence_len: int
class GPT(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config, self.wte = config, nn.Embedding(config.vocab_size, config.n_embd)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
    def init_weights(self):
        self.wte.weight.data = torch.arange(self.wte.weight.numel()).sin().view_as(self.wte.weight)
        nn.init.zeros_(self.lm_head.weight)
    def forward(self, idx, targets, loss_reduction):
        return nn.functional.cross_entropy(self.lm_head(self.wte(idx)).flatten(0, 1), targets.flatten(), ignore_index=-1, reduction=loss_reduction)
    def setup_optimizer(self, lr):
        return torch.optim.SGD([{"params": list(self.parameters()), "lr": lr, "initial_lr": lr, "kind": "muon"}])
"""
PEER_SCRIPT = """
raise_error()
parser = argparse.ArgumentParser()
parser.add_argument("--matrix_lr", type=float, default=2.0)
parser.add_argument("--weight_decay", type=float, default=0.5)
args = parser.parse_args()
def build_model_meta(depth): return depth
d12_ref = build_model_meta(12)
def get_scaling_params(m): return 12 if m == 12 else 24
num_scaling_params = get_scaling_params(model)
target_tokens = 10 * num_scaling_params
D_REF = 10 * get_scaling_params(d12_ref)
B_REF = 4 * 4096
batch_lr_scale = 1.0
batch_ratio = total_batch_size / B_REF
if batch_ratio != 1.0:
    batch_lr_scale = batch_ratio ** 0.5
weight_decay_scaled = args.weight_decay * D_REF / target_tokens
optimizer = model.setup_optimizer(lr=args.matrix_lr * batch_lr_scale)
def get_lr_multiplier(it): return 1 - it / num_iterations
def get_muon_momentum(it): return 0.1 * it
def get_weight_decay(it): return weight_decay_scaled / (it + 1)
raise_error()
"""


def test_peer_trains_on_our_batches_by_its_own_settings(data_dir, tmp_path, monkeypatch):
    """A loop without the runner, with whole updates instead of parts of 4 sequences, gives the same
    bits per byte."""
    for path, text in {"nanochat/gpt.py": PEER_MODEL, "scripts/base_train.py": PEER_SCRIPT}.items():
        (tmp_path / path).parent.mkdir()
        (tmp_path / path).write_text(text)
    monkeypatch.setattr(peers, "LOGITS", 4 * 256 * 496)
    monkeypatch.setenv("NANOCHAT_DTYPE", "float32")  # peers.py sets it: restored after the test
    setting = peers.Peers(496, nanochat=tmp_path, nanochat_lr=((3.0, 0.1),))
    (name,) = setting.recipes()
    monkeypatch.syspath_prepend(tmp_path)
    points = setting.learn(small_runs.Run(name, 7, WIDTH, TOKENS), data_dir, 1792)
    wte, head, info = torch.arange(496 * WIDTH).sin().view(496, WIDTH), torch.zeros(496, WIDTH), check_data(data_dir)
    weights, buffers = [w.requires_grad_() for w in (wte, head)], [0, 0]
    for i in range(UPDATES):
        x, y = SequenceLoader(info.train, 256, 7).batch(16 * i, 16)
        (wte[x] @ head.T).log_softmax(-1).gather(-1, y[..., None]).mean().neg().backward()
        for j, w in enumerate(weights):
            with torch.no_grad():
                buffers[j] = (0.1 * i * buffers[j] if i > 1 else 0) + w.grad + 0.5 * 0.1 / 2 / (i + 1) * w
                w -= 2.0 * 3.0 * 0.5 * (1 - i / UPDATES) * buffers[j]
            w.grad = None
    sizes, nats, length = compute_token_bytes(info.tokenizer), 0.0, 0
    for x, y in val_batches(info.val, 256, 1, 1792):
        text = sizes[y] > 0
        nats -= float((wte[x] @ head.T).log_softmax(-1).gather(-1, y[..., None])[..., 0][text].sum().detach())
        length += int(sizes[y].sum())
    assert points[-1]["bpb"] == pytest.approx(nats / math.log(2) / length, rel=1e-5)
    assert points[-1]["bpb"] < 0.99 * points[0]["bpb"]


def test_runs_of_equal_size_and_when_a_curve_reaches_a_value():
    total, _ = peers.parameters(small_runs.Run("default", 0, 64, TOKENS), 8192)
    run = peers.of_equal_size(small_runs.Run("tied_only", 0, 64, TOKENS), total, 8192)
    assert run.width > 64
    assert peers.parameters(run, 8192)[0] == pytest.approx(total, rel=0.05)
    curve = [{"tokens": 1000 * i, "seconds": 10 * i, "bpb": 2 - i / 10} for i in (1, 2, 3)]
    assert [peers.reached(curve, bpb) for bpb in (1.85, 1.7, 1.6)] == ["1,500 | 15", "3,000 | 30", "not reached | "]
