"""The Python API of the brief: each call exactly as a user types it, and what it returns.

The other test files cover each component; here names, order of arguments and types count.
`get_config("25m")` is the real preset; what computes runs on a small model.
"""

import dataclasses
import math

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoTokenizer

import standin
from nano_hindi.config import GPTConfig, get_config, get_train_config
from nano_hindi.eval import compute_token_bytes, evaluate_bpb
from nano_hindi.flash_attention import flash_attn
from nano_hindi.model import GPT
from nano_hindi.muon import DistMuon, Muon
from nano_hindi.tokenizer import load_tokenizer

VOCAB_SIZE = 512


@pytest.fixture(scope="module")
def config() -> GPTConfig:
    return GPTConfig(VOCAB_SIZE, 3, 4, 2, 48, 32, "SL")


@pytest.fixture
def model(config) -> GPT:
    """Return a model as `init_weights` makes it, with random output projections instead of zeros,
    so that it attends to more than the last token."""
    torch.manual_seed(0)
    model = GPT(config)
    model.init_weights()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("c_proj.weight"):
                p.normal_(std=0.2)
        model.lm_head.weight.normal_(std=0.3)
    return model


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    tokens = torch.randint(VOCAB_SIZE, (4, 33), generator=torch.Generator().manual_seed(1))
    return tokens[:, :-1], tokens[:, 1:]


# ---- the configuration


def test_gpt_config_takes_its_fields_in_this_order():
    config = GPTConfig(1000, 5, 6, 3, 48, 128, "SSL")
    expected = {
        "vocab_size": 1000, "n_layer": 5, "n_head": 6, "n_kv_head": 3, "n_embd": 48, "sequence_len": 128, "window_pattern": "SSL",
        "short_window_divisor": 8, "tie_embeddings": False, "value_embeddings": True, "smear": False, "embedding_conv": 0,
    }  # fmt: skip
    assert list(dataclasses.asdict(config).items())[: len(expected)] == list(expected.items()), "a new field comes after the others"
    assert config == GPTConfig(vocab_size=1000, n_layer=5, n_head=6, n_kv_head=3, n_embd=48, sequence_len=128, window_pattern="SSL")
    assert list(dataclasses.asdict(config)) == [field.name for field in dataclasses.fields(GPTConfig)]


def test_get_config_returns_the_25m_preset():
    config = get_config("25m")
    assert config == GPTConfig(68096, 8, 6, 2, 384, 1024, "SSSL")
    with torch.device("meta"):
        counts = GPT(config).num_params()
    # by hand: a block has q, k, v, projection, two MLP matrices of 4 x width; every other layer has
    # a value embedding
    q, kv, mlp, gate = 384 * 384, 384 * 128, 384 * 4 * 384, 32 * 2
    assert counts["blocks"] == 8 * (2 * q + 2 * kv + 2 * mlp) + 4 * gate
    assert counts["wte"] == counts["lm_head"] == 68096 * 384
    assert counts["value_embeds"] == 4 * 68096 * 128
    assert get_train_config("25m").total_tokens == 500_000_000


# ---- the model


def test_initial_loss_is_that_of_a_uniform_guess(config, batch):
    model = GPT(config)
    model.init_weights()
    idx, targets = batch
    loss = model(idx, targets)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(math.log(VOCAB_SIZE), abs=0.01)


def test_model_returns_logits_or_the_loss(model, batch):
    idx, targets = batch
    logits = model(idx)
    loss = model(idx, targets)
    assert logits.shape == (4, 32, VOCAB_SIZE)
    assert logits.dtype == torch.float32
    assert logits.abs().max() < 15
    assert loss.item() == pytest.approx(cross_entropy(logits.flatten(0, 1), targets.flatten()).item(), rel=1e-5)


def test_generate_yields_tokens_one_by_one(model):
    tokens = [1, 2, 3, 4, 5]
    generated = []
    for token in model.generate(tokens, max_tokens=100, temperature=0.8):
        generated.append(token)
    assert len(generated) == 100, "more than the context of 32"
    assert all(type(token) is int and 0 <= token < VOCAB_SIZE for token in generated)
    assert list(model.generate(tokens, max_tokens=100, temperature=0.8)) == generated, "the seed is 42 by default"
    assert list(model.generate(tokens, max_tokens=100, temperature=0.8, seed=43)) != generated


def test_generate_at_temperature_0_takes_the_most_likely_token(model):
    text = [1, 2, 3, 4, 5]
    generated = list(model.generate(text, max_tokens=20, temperature=0))
    for token in generated:
        assert token == model(torch.tensor([text]))[0, -1].argmax()
        text = [*text, token]
    assert len(set(generated)) > 3, "too repetitive to compare anything"


# ---- the optimizers


def steps_of(optimizer, model, batch, updates=3) -> list[float]:
    """Return the loss before each of some updates, and after the last."""
    losses = []
    for _ in range(updates):
        optimizer.zero_grad()
        loss = model(*batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return [*losses, model(*batch).item()]


def test_muon_updates_the_parameters_of_the_blocks(model, batch):
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = Muon(model.transformer.h.parameters(), lr=0.02, momentum=0.95)
    losses = steps_of(optimizer, model, batch, updates=1)
    assert losses[1] < losses[0]
    for name, p in model.named_parameters():
        step = (p.detach() - before[name]).norm().item()
        if name.startswith("transformer.h."):  # a matrix with orthogonal rows or columns: min(rows, columns) singular values near 1
            orthogonal = 0.02 * max(1, p.shape[0] / p.shape[1]) ** 0.5 * min(p.shape) ** 0.5
            assert 0.5 * orthogonal < step < 1.2 * orthogonal, name
        else:
            assert step == 0, name


def test_muon_keeps_its_state_by_name(model, batch):
    optimizer = Muon(model.transformer.h.named_parameters(), lr=0.02, momentum=0.95)
    steps_of(optimizer, model, batch)
    names = {name for name, _ in model.transformer.h.named_parameters()}
    assert optimizer.state_dict()["momentum"].keys() == names
    bare = Muon(model.transformer.h.parameters(), lr=0.02, momentum=0.95)
    assert bare.state_dict()["momentum"].keys() == {str(i) for i in range(len(names))}


@pytest.mark.parametrize("kind", [Muon, DistMuon])
def test_muon_takes_a_closure_as_every_optimizer_of_torch_does(kind, model, batch):
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    losses = steps_of(kind(model.transformer.h.parameters(), lr=0.02), model, batch)
    model.load_state_dict(start)
    optimizer = kind(model.transformer.h.parameters(), lr=0.02)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = model(*batch)
        loss.backward()
        return loss

    assert [optimizer.step(closure).item(), optimizer.step(closure=closure).item(), optimizer.step(closure).item(), closure().item()] == losses


def test_dist_muon_in_a_single_process_makes_the_same_steps_as_muon(model, batch):
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    losses = steps_of(Muon(model.transformer.h.parameters(), lr=0.02), model, batch)
    expected = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(start)
    params = model.transformer.h.parameters()
    assert steps_of(DistMuon(params, lr=0.02), model, batch) == losses
    assert losses == sorted(losses, reverse=True)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


# ---- attention


def explicit_attention(q, k, v, left):
    """Return softmax attention with an explicit mask, in float64, with K/V heads repeated for their
    query heads."""
    k, v = (x.repeat_interleave(q.shape[2] // k.shape[2], dim=2) for x in (k, v))
    scores = torch.einsum("bihd,bjhd->bhij", q.double(), k.double()) / q.shape[3] ** 0.5
    i, j = torch.arange(q.shape[1])[:, None], torch.arange(k.shape[1])[None]
    scores = scores.masked_fill((j > i) | (j < i - left), -math.inf)
    return torch.einsum("bhij,bjhd->bihd", scores.softmax(-1), v.double())


def test_flash_attention_has_the_signatures_of_flash_attention_3():
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 40, heads, 16, generator=generator) for heads in (4, 2, 2))
    left = 9
    y = flash_attn.flash_attn_func(q, k, v, causal=True, window_size=(left, 0))
    expected = explicit_attention(q, k, v, left)
    torch.testing.assert_close(y.double(), expected, rtol=0, atol=1e-5)

    k_cache, v_cache = torch.zeros(2, 64, 2, 16), torch.zeros(2, 64, 2, 16)
    k_cache[:, :30], v_cache[:, :30] = k[:, :30], v[:, :30]
    cache_seqlens = torch.full((2,), 30, dtype=torch.int32)
    y = flash_attn.flash_attn_with_kvcache(
        q[:, 30:], k_cache, v_cache, k=k[:, 30:], v=v[:, 30:], cache_seqlens=cache_seqlens, causal=True, window_size=(left, 0)
    )
    torch.testing.assert_close(y.double(), expected[:, 30:], rtol=0, atol=1e-5)
    assert torch.equal(k_cache[:, :40], k)
    assert torch.equal(v_cache[:, :40], v)


# ---- bits per byte


def test_bits_per_byte_with_a_hugging_face_tokenizer(config, model, tmp_path):
    folder = standin.make_tokenizer(tmp_path, vocab_size=VOCAB_SIZE)
    hf_tokenizer = AutoTokenizer.from_pretrained(folder)
    text = "भारत एक विशाल देश है। 👩‍🌾 ñ"
    ids = torch.tensor([[*hf_tokenizer(text)["input_ids"], hf_tokenizer.eos_token_id]])  # bos, the text, eos
    batches = [(ids[:, :-1], ids[:, 1:])]

    token_bytes = compute_token_bytes(hf_tokenizer)
    bpb = evaluate_bpb(model, batches, token_bytes)

    assert torch.equal(token_bytes, compute_token_bytes(load_tokenizer(folder)))
    text_bytes = len(text.encode()) + 1  # and the dummy space of SentencePiece
    assert token_bytes[ids].sum() == text_bytes
    nats = -model(ids)[0].double().log_softmax(-1)[:-1].gather(1, ids[0, 1:, None]).flatten()
    assert bpb == pytest.approx(nats[:-1].sum().item() / math.log(2) / text_bytes, rel=1e-5)
