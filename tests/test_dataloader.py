"""Batches: every sequence once per epoch, a pure function of (seed, position); prepared data is
checked against its metadata."""

import json
from itertools import pairwise

import numpy as np
import pytest
import torch

import standin
from nano_hindi.corpus.prepared import check_data
from nano_hindi.dataloader import IGNORED, SequenceLoader, TrainBatches, epoch_order, val_batches
from nano_hindi.errors import UserError
from nano_hindi.files import read_metadata, write_metadata
from nano_hindi.token_file import TokenFile
from nano_hindi.tokenizer import load_tokenizer

T, VOCAB = 8, 1000


@pytest.fixture(scope="module")
def token_file(tmp_path_factory):
    """Return a file of 37 sequences of 8 and 5 tokens more; every token differs from its
    neighbours."""
    return write_tokens(tmp_path_factory.mktemp("tokens") / "train.bin", np.arange(37 * T + 6) * 7 % VOCAB)


def write_tokens(path, tokens):
    path.write_bytes(np.asarray(tokens).astype("<u4").tobytes())
    return path


def raw(path):
    return np.frombuffer(path.read_bytes(), dtype="<u4").astype(np.int64)


def loader(path, seed=1):
    return SequenceLoader(TokenFile(path, VOCAB), T, seed)


# ---- training sequences


def test_epoch_has_every_sequence_exactly_once_and_targets_are_the_next_tokens(token_file):
    tokens, sequences = raw(token_file), loader(token_file)
    assert sequences.num_sequences == 37
    for epoch in range(3):
        x, y = sequences.batch(epoch * 37, 37)
        assert x.dtype == y.dtype == torch.int64
        assert x.is_contiguous()
        assert y.is_contiguous()
        expected = {tuple(tokens[i * T : i * T + T + 1]) for i in range(37)}
        assert {(*a, b[-1]) for a, b in zip(x.tolist(), y.tolist(), strict=True)} == expected
        assert torch.equal(x[:, 1:], y[:, :-1])


def test_last_sequence_uses_the_last_token_of_the_file(tmp_path):
    x, y = loader(write_tokens(tmp_path / "t.bin", range(2 * T + 1))).batch(0, 2)
    assert sorted(y[:, -1].tolist()) == [T, 2 * T]
    assert sorted(x[:, 0].tolist()) == [0, T]
    assert loader(write_tokens(tmp_path / "t.bin", range(2 * T))).num_sequences == 1  # no token is left to be the second one's last target


def test_orders_differ_by_seed_and_by_epoch_and_are_shuffled(token_file):
    orders = [tuple(epoch_order(1000, seed, epoch).tolist()) for seed in range(4) for epoch in range(4)]
    assert len(set(orders)) == 16
    assert all(sorted(order) == list(range(1000)) for order in orders)
    assert all(sum(a + 1 == b for a, b in pairwise(order)) < 10 for order in orders)
    assert not torch.equal(loader(token_file).batch(0, 37)[0], loader(token_file).batch(37, 37)[0])
    assert not torch.equal(loader(token_file, seed=1).batch(0, 37)[0], loader(token_file, seed=2).batch(0, 37)[0])


def test_order_never_changes():
    """A resumed run must continue in the order of the interrupted run, whatever NumPy is
    installed."""
    words = np.random.PCG64(np.random.SeedSequence([42, 3])).random_raw(9)
    assert epoch_order(9, 42, 3).tolist() == sorted(range(9), key=lambda i: int(words[i]))
    assert epoch_order(9, 42, 3).tolist() == [0, 8, 6, 5, 1, 3, 7, 4, 2]


def test_batch_equals_its_sequences_one_by_one_also_across_epochs_and_after_later_ones(token_file):
    sequences = loader(token_file)
    for start, count in ((3700, 40), (0, 5), (35, 100), (30, 20), (74, 3), (36, 1)):
        x, y = sequences.batch(start, count)
        assert x.shape == y.shape == (count, T)
        singles = [loader(token_file).batch(position, 1) for position in range(start, start + count)]
        assert torch.equal(x, torch.cat([a for a, _ in singles]))
        assert torch.equal(y, torch.cat([b for _, b in singles]))


def test_batches_are_read_where_memory_cannot_be_pinned(token_file):
    """As on a CPU, and on WSL once its little pinned memory is used."""
    with TrainBatches(loader(token_file), 4, 4, pin_memory=True) as batches:
        [(x, _, is_last)] = batches.of(0)
    assert is_last
    assert torch.equal(x, loader(token_file).batch(0, 4)[0])


def test_id_outside_the_vocabulary_never_reaches_the_model(tmp_path):
    tokens = np.arange(5 * T + 1)
    tokens[3 * T + 2] = VOCAB
    path = write_tokens(tmp_path / "train.bin", tokens)
    with pytest.raises(UserError, match=rf"train\.bin holds token id {VOCAB}, but the vocabulary has {VOCAB} tokens"):
        loader(path).batch(0, 5)
    with pytest.raises(UserError, match=f"id {VOCAB}"):
        list(val_batches(TokenFile(path, VOCAB), T, 2, 10**6))
    tokens[3 * T + 2] = 2**32 - 1  # -1 if read as a signed integer
    with pytest.raises(UserError, match="id 4294967295"):
        loader(write_tokens(path, tokens)).batch(0, 5)
    tokens[3 * T + 2] = VOCAB - 1
    loader(write_tokens(path, tokens)).batch(0, 5)


def test_damaged_or_short_file_is_an_error_that_says_what_to_do(tmp_path):
    path = tmp_path / "train.bin"
    with pytest.raises(UserError, match=r"missing; run data/download\.py and data/preprocess\.py first, .* --data_dir$"):
        loader(path)
    for size in (0, 101):
        path.write_bytes(bytes(size))
        with pytest.raises(UserError, match="damaged"):
            loader(path)
    write_tokens(path, range(T))
    with pytest.raises(UserError, match="holds 8 tokens, but one sequence needs 9; get more data, or use a smaller --sequence_len"):
        loader(path)
    with pytest.raises(UserError, match="--val_fraction"):  # at once, not at the first batch
        val_batches(TokenFile(path, VOCAB), T, 4, 100)


# ---- validation


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
@pytest.mark.parametrize("batch_size", [1, 3, 4, 64])
@pytest.mark.parametrize("eval_tokens", [5, 4 * T, 4 * T + 3, 10**9])
@pytest.mark.parametrize("length", [T + 1, 9 * T, 9 * T + 1, 9 * T + 5])
def test_validation_reads_targets_once_from_all_of_the_file(tmp_path, length, eval_tokens, batch_size, world_size):
    path = write_tokens(tmp_path / "val.bin", np.arange(1, length + 1))
    batches = [batch for rank in range(world_size) for batch in val_batches(TokenFile(path, VOCAB), T, batch_size, eval_tokens, rank, world_size)]
    x, y = torch.cat([a for a, _ in batches]), torch.cat([b for _, b in batches])
    seen = y[y != IGNORED].tolist()
    everything = np.arange(2, length + 1)
    chunks, sequences = -(-len(everything) // T), -(-min(eval_tokens, len(everything)) // T)
    spread = np.concatenate([everything[i * chunks // sequences * T :][:T] for i in range(sequences)])
    assert seen == spread[:eval_tokens].tolist()
    assert torch.equal(x[y != IGNORED], y[y != IGNORED] - 1)
    assert set(x[y == IGNORED].tolist()) <= {0}
    assert all(len(a) <= batch_size for a, _ in batches)


def test_target_has_the_same_context_for_any_batch_and_world_size(tmp_path):
    path = write_tokens(tmp_path / "val.bin", np.arange(1, 7 * T))
    rows = set()
    for batch_size, world_size in ((1, 1), (4, 1), (3, 2), (64, 5)):
        batches = [batch for rank in range(world_size) for batch in val_batches(TokenFile(path, VOCAB), T, batch_size, 10**6, rank, world_size)]
        real = [row for a, b in batches for row in torch.cat([a, b], 1).tolist() if row[T] != IGNORED]
        rows.add(tuple(map(tuple, real)))
    assert len(rows) == 1


def test_batches_of_a_rank_have_the_same_shape(tmp_path):
    path = write_tokens(tmp_path / "val.bin", np.arange(10 * T + 3))
    assert {tuple(x.shape) for x, _ in val_batches(TokenFile(path, VOCAB), T, 4, 10**6)} == {(4, T)}
    assert {tuple(x.shape) for x, _ in val_batches(TokenFile(path, VOCAB), T, 4, 10**6, 4, 5)} == {(3, T)}


# ---- metadata


def test_metadata_round_trip(tmp_path):
    facts = {"tokenizer": "C:\\a: b\\टोकन", "fingerprint": "ab12", "train_tokens": 12_000_000_000, "fertility": 1.3125}
    write_metadata(tmp_path / "m.txt", facts)
    assert read_metadata(tmp_path / "m.txt") == {key: str(value) for key, value in facts.items()}
    assert (tmp_path / "m.txt").read_bytes() == "".join(f"{key}: {value}\n" for key, value in facts.items()).encode()
    assert [path.name for path in tmp_path.iterdir()] == ["m.txt"]


def test_file_that_is_not_metadata_is_refused(tmp_path):
    with pytest.raises(UserError, match="missing"):
        read_metadata(tmp_path / "none.txt")
    (tmp_path / "m.txt").write_bytes(b"no colon here\n")
    with pytest.raises(UserError, match="does not consist of"):
        read_metadata(tmp_path / "m.txt")


@pytest.fixture
def folder(tmp_path):
    """Return a folder like the output of data/preprocess.py, made here by other means."""
    folder = tmp_path / "data"
    tokenizer = load_tokenizer(standin.make_tokenizer(tmp_path / "standin"))
    tokenizer.save(folder / "tokenizer")
    write_tokens(folder / "train.bin", range(100))
    write_tokens(folder / "val.bin", range(50))
    facts = {"tokenizer": "standin", "fingerprint": tokenizer.fingerprint, "vocab_size": 640, "bos_id": 1, "eos_id": 2}
    facts |= {"train_documents": 9, "train_tokens": 100, "train_bytes": 400, "val_documents": 3, "val_tokens": 50, "val_bytes": 200, "fertility": 1.5}
    write_metadata(folder / "preprocess_meta.txt", facts)
    return folder


def test_valid_data_is_described(folder):
    data = check_data(folder)
    assert (data.vocab_size, data.bos_id, data.eos_id, data.train_tokens, data.val_tokens) == (640, 1, 2, 100, 50)
    assert (data.train_documents, data.train_bytes, data.val_documents, data.val_bytes, data.fertility) == (9, 400, 3, 200, 1.5)
    assert data.tokenizer.name == "standin"
    assert data.tokenizer.fingerprint == data.fingerprint


@pytest.mark.parametrize("name", ["train.bin", "val.bin", "preprocess_meta.txt"])
def test_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(UserError, match=rf"{name} is missing; run data/download\.py and data/preprocess\.py first, .* --data_dir$"):
        check_data(folder)


def test_truncated_file_is_named(folder):
    write_tokens(folder / "train.bin", range(99))
    with pytest.raises(UserError, match=r"train\.bin has 99 tokens, but preprocess_meta\.txt says 100; run data/preprocess\.py again"):
        check_data(folder)


@pytest.mark.parametrize("split", ["train", "val"])
def test_id_outside_the_vocabulary_is_refused_before_a_run_on_data_without_digests(folder, split):
    tokens = raw(folder / f"{split}.bin").copy()
    tokens[40] = 640
    write_tokens(folder / f"{split}.bin", tokens)
    with pytest.raises(UserError, match=rf"{split}\.bin holds token id 640, but the vocabulary has 640 tokens"):
        check_data(folder)


def test_other_or_missing_tokenizer_is_refused(folder, tmp_path):
    standin.make_tokenizer(folder / "tokenizer", vocab_size=639)
    with pytest.raises(UserError, match=r"tokenizer is not the tokenizer that the data was made with \(standin\)"):
        check_data(folder)
    standin.make_tokenizer(folder / "tokenizer")
    check_data(folder)
    path = folder / "tokenizer" / "tokenizer.json"  # the same vocabulary, another order of merges: only the ids of a text differ
    description = json.loads(path.read_text(encoding="utf-8"))
    description["model"]["merges"] = description["model"]["merges"][:50]
    path.write_text(json.dumps(description), encoding="utf-8")
    with pytest.raises(UserError, match="not the tokenizer"):
        check_data(folder)
    (folder / "tokenizer").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"tokenizer is missing.*run data/preprocess\.py again"):
        check_data(folder)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("vocab_size: 640", "", "no line vocab_size"),
        ("val_tokens: 50", "val_tokens: many", "damaged"),
        ("bos_id: 1", "bos_id: 5", "not the tokenizer"),
    ],
)
def test_damaged_metadata_is_refused(folder, old, new, says):
    path = folder / "preprocess_meta.txt"
    path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    with pytest.raises(UserError, match=says):
        check_data(folder)
