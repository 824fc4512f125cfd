"""Updates through character n-grams: the matrix against its definition, and the updates against a
table that is written as the sum of two."""

import zlib

import pytest
import torch

import dist_muon_worker as worker
from nano_hindi.config import GPTConfig, TrainConfig
from nano_hindi.distributed import World
from nano_hindi.flags import WeightedFolder
from nano_hindi.model import GPT
from nano_hindi.ngrams import HALF_READS, NGrams, ngrams
from nano_hindi.optim import NGRAM_LR_FRACTION, TrainOptimizer
from nano_hindi.training.setup import new_ngrams
from nano_hindi.training.text_data import open_text
from optimizer_step import take_step

CPU, BUCKETS = torch.device("cpu"), 4096
ALONE = World(0, 1, CPU)
WORDS = [" भारत", "भारत", " भारतीय", "य", "।", " का", " के", " की", "ा", "ab", " abc", "abcd", " "]
PIECES = [b"", b"", "क".encode()[:2], *(word.encode() for word in WORDS)]
ROWS = 20  # of the stand-in: some have no token
READS = torch.arange(ROWS) * 0.75  # of each token by an update
SHARED = NGrams(PIECES, BUCKETS, READS, CPU)


def dense(rows: int = ROWS) -> torch.Tensor:
    S = torch.zeros(rows, BUCKETS, dtype=torch.float64)
    for i, piece in enumerate(PIECES):
        found = ngrams(piece)
        for ngram in found:
            S[i, zlib.crc32(ngram.encode()) % BUCKETS] += len(found) ** -0.5
    return S


def test_ngrams_of_a_token():
    assert ngrams(" का".encode()) == {" क", "का", "ा>", " का", "का>", " का>"}
    assert ngrams("का".encode()) == {"<क", "का", "ा>", "<का", "का>", "<का>"}
    assert ngrams(b" ") == {" >", ""}
    assert {len(ngram) for ngram in ngrams(b"abcdefgh")} == {2, 3, 4, 5, 8}
    assert ngrams(b"") == ngrams(b"\xe0\xa4") == set()  # a special token, a part of a character


def test_products_equal_those_of_the_dense_matrix():
    S, of_table, of_buckets = dense(), worker.randn("table", (ROWS, 16)), worker.randn("buckets", (BUCKETS, 16))
    torch.testing.assert_close(SHARED.gradient(of_table).double(), S.T @ of_table.double(), rtol=1e-5, atol=1e-5)
    table = of_table.clone()
    SHARED.update(table, of_buckets, 40)
    expected = of_table.double() + HALF_READS / (HALF_READS + 40 * READS.double()[:, None]) * (S @ of_buckets.double())
    torch.testing.assert_close(table.double(), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(table[len(PIECES) :], of_table[len(PIECES) :])
    assert torch.equal(table[:3], of_table[:3])  # two special tokens, and a part of a character


def test_products_do_not_depend_on_the_order_of_a_set(monkeypatch):
    """It differs between the processes of a run and those that resume it."""
    tables = []
    for reverse in (False, True):
        monkeypatch.setattr("nano_hindi.ngrams.ngrams", lambda piece, reverse=reverse: sorted(ngrams(piece), reverse=reverse))
        tables.append(torch.zeros(ROWS, 16))
        NGrams(PIECES, BUCKETS, READS, CPU).update(tables[-1], worker.randn("buckets", (BUCKETS, 16)), 1)
    assert torch.equal(*tables)


@pytest.mark.parametrize("tied", [False, True])
def test_updates_equal_adamw_on_rows_of_tokens_plus_rows_of_ngrams(tied):
    model = worker.StandIn()
    if tied:
        model.lm_head = None
    optimizer = TrainOptimizer(model, TrainConfig(grad_clip=0.5), ALONE, SHARED)
    S, expected = dense(), {}
    for group in list(optimizer.adamw.param_groups):
        for name, p in zip(group["param_names"], group["params"], strict=True):
            if group["kind"] in ("wte", "lm_head", "tied"):
                of_tokens, of_ngrams = p.detach().double().requires_grad_(), torch.zeros(BUCKETS, 16, dtype=torch.float64, requires_grad=True)
                groups = [{"params": [rows], "initial_lr": group["lr"]} for rows in (of_tokens, of_ngrams)]
                adamw = torch.optim.AdamW(groups, betas=group["betas"], eps=group["eps"], weight_decay=0)
                expected[name] = p, of_tokens, of_ngrams, torch.zeros(ROWS, 16, dtype=torch.float64), adamw
    assert set(expected) == ({"transformer.wte.weight"} if tied else {"transformer.wte.weight", "lm_head.weight"})
    for update in range(4):
        named = dict(model.named_parameters())
        worker.set_gradients(named, update)
        norm = torch.stack([p.grad.double().norm() for p in named.values()]).norm()
        scale = 1 / (1 + update)
        rarity = HALF_READS / (HALF_READS + (update + 1) * READS.double()[:, None])
        for p, of_tokens, of_ngrams, shared, adamw in expected.values():
            for group, fraction in zip(adamw.param_groups, (1, NGRAM_LR_FRACTION), strict=True):
                group["lr"] = group["initial_lr"] * fraction * scale
            of_tokens.grad = p.grad.double() * min(1.0, 0.5 / norm)
            of_ngrams.grad = S.T @ of_tokens.grad
            before = of_ngrams.detach().clone()
            adamw.step()
            shared += rarity * (S @ (of_ngrams.detach() - before))
        assert float(take_step(optimizer, scale)) == pytest.approx(float(norm), rel=1e-5)  # n-grams do not count twice
        for p, of_tokens, _, shared, _ in expected.values():
            torch.testing.assert_close(p.double(), of_tokens.detach() + shared, rtol=1e-4, atol=1e-5)
            assert shared.abs().max() > 1e-3


def test_reads_are_those_of_the_run(data_dir):
    """An epoch reads each token as often as train.bin has it."""
    data = open_text([WeightedFolder(data_dir)], [], ALONE, every_chunk=False)
    tokenizer, train = data.tokenizer, data.sources[0].data.train
    sequences = (len(train) - 1) // 16
    config = TrainConfig(total_tokens=16 * sequences, sequence_len=16, batch_size=1, gradient_accumulation_steps=1, ngram_buckets=64)
    shared = new_ngrams(tokenizer, data.loader(config, None), config, CPU)
    read = torch.from_numpy(train[: 16 * sequences].astype("i8"))
    torch.testing.assert_close(shared.reads[:, 0] * sequences, torch.bincount(read, minlength=tokenizer.vocab_size).float())
    assert new_ngrams(tokenizer, data.loader(config, None), TrainConfig(), CPU) is None


def test_update_with_a_gradient_that_is_not_finite_changes_nothing():
    model = worker.StandIn()
    optimizer = TrainOptimizer(model, TrainConfig(), ALONE, SHARED)
    for update, nan in enumerate((False, True)):
        before = worker.weights(dict(model.named_parameters())), worker.copied(optimizer.state_dict())
        worker.set_gradients(dict(model.named_parameters()), update, nan=nan)
        take_step(optimizer, 1.0)
    torch.testing.assert_close(before, (worker.weights(dict(model.named_parameters())), worker.copied(optimizer.state_dict())), rtol=0, atol=0)


def test_tokens_that_a_batch_lacks_learn_from_those_spelled_alike():
    """The gradient of one token moves another by its n-grams, and one without common n-grams not
    at all."""
    config = GPTConfig(vocab_size=len(PIECES), n_layer=2, n_head=2, n_kv_head=1, n_embd=32, sequence_len=8)
    model = GPT(config)
    model.init_weights()
    optimizer = TrainOptimizer(model, TrainConfig(), ALONE, SHARED)
    table, before = model.transformer.wte.weight, model.transformer.wte.weight.detach().clone()
    ids = torch.full((1, 8), PIECES.index(" भारत".encode()))
    model(ids, ids).backward()
    take_step(optimizer, 1.0)
    moved = {piece for piece, new, old in zip(PIECES, table, before, strict=False) if not torch.equal(new, old)}
    assert moved == {" भारत".encode(), "भारत".encode(), " भारतीय".encode()}
