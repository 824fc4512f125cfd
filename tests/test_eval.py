"""Bits per byte against its definition, computed by hand in float64."""

import json
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.distributed as dist
from tokenizers import Tokenizer as Backend
from tokenizers.decoders import WordPiece as WordPieceDecoder
from tokenizers.models import WordPiece
from transformers import AutoTokenizer, ByT5Tokenizer, PreTrainedTokenizerFast

import standin
from conftest import PATIENCE
from nano_hindi.dataloader import val_batches
from nano_hindi.errors import UserError
from nano_hindi.eval import compute_token_bytes, evaluate, evaluate_bpb, evaluate_loss
from nano_hindi.token_file import TokenFile
from nano_hindi.tokenizer import load_tokenizer

T = 16


class PairModel(torch.nn.Module):
    """A bigram table with its own loss for every pair of tokens. As in GPT, ignored targets cost
    nothing."""

    def __init__(self, vocab_size):
        super().__init__()
        self.table = torch.nn.Parameter(torch.randn(vocab_size, vocab_size, generator=torch.Generator().manual_seed(0)).abs() * 5)
        self.modes = []

    def forward(self, x, y, loss_reduction="mean"):
        assert loss_reduction == "none"
        assert not torch.is_grad_enabled()
        self.modes.append(self.training)
        return torch.where(y == -1, torch.nan, self.table[x, y.clamp(min=0)])  # nan where a real model may return any value: it must not be counted


@pytest.fixture(scope="module", params=["bpe", "byte_level"])
def world(request, tmp_path_factory):
    """Return a tokenizer, a val.bin of some documents, the model, and the expected figures."""
    folder = tmp_path_factory.mktemp(request.param)
    tokenizer = load_tokenizer(standin.make_tokenizer(folder / "tokenizer", kind=request.param))
    texts = [*standin.documents(20, seed=4), "👩‍🌾 </s>", ""]
    ids = [i for document in tokenizer.encode_batch(texts) for i in tokenizer.document(document)]
    (folder / "val.bin").write_bytes(np.array(ids, dtype="<u4").tobytes())
    return tokenizer, folder / "val.bin", PairModel(tokenizer.vocab_size), ids, texts


def batches(world, batch_size=4, rank=0, world_size=1, eval_tokens=10**9):
    return val_batches(TokenFile(world[1], world[0].vocab_size), T, batch_size, eval_tokens, rank, world_size)


def by_definition(world, eval_tokens=10**9):
    """Return loss and bits per byte computed token by token, with bytes counted on the text
    itself."""
    tokenizer, _, model, ids, _ = world
    nats, text_nats, text_bytes = [], [], 0
    targets = list(pairwise(ids))
    in_file, sequences = -(-len(targets) // T), -(-min(eval_tokens, len(targets)) // T)
    spread = [pair for i in range(sequences) for pair in targets[i * in_file // sequences * T :][:T]]
    for previous, target in spread[:eval_tokens]:
        nats.append(model.table[previous, target].double().item())
        if target not in tokenizer.special_ids:
            text_nats.append(nats[-1])
            text_bytes += len(tokenizer.piece_bytes[target])
    return math.fsum(nats) / len(nats), math.fsum(text_nats) / math.log(2) / text_bytes, text_bytes


@pytest.mark.parametrize("eval_tokens", [50, 10**9])
@pytest.mark.parametrize("batch_size", [1, 4, 1000])
def test_loss_and_bits_per_byte_equal_their_definition_at_any_batch_size(world, batch_size, eval_tokens):
    loss, bpb, _ = by_definition(world, eval_tokens)
    found = evaluate(world[2], batches(world, batch_size, eval_tokens=eval_tokens), compute_token_bytes(world[0]))
    assert found.loss == pytest.approx(loss, rel=1e-12)
    assert found.bpb == pytest.approx(bpb, rel=1e-12)


def test_counted_bytes_are_those_of_the_texts(world):
    """On all of val.bin, a loss of one bit per token gives text tokens over bytes of the texts."""
    tokenizer, _, _, ids, texts = world
    dummy_spaces = sum(1 for text in texts if text and tokenizer.has_dummy_space)
    expected_bytes = sum(len(text.encode()) for text in texts) + dummy_spaces
    assert by_definition(world)[2] == expected_bytes
    one_bit = PairModel(tokenizer.vocab_size)
    torch.nn.init.constant_(one_bit.table, math.log(2))
    text_tokens = sum(i not in tokenizer.special_ids for i in ids)
    assert evaluate_bpb(one_bit, batches(world), compute_token_bytes(tokenizer)) == pytest.approx(text_tokens / expected_bytes, rel=1e-6)


def test_special_tokens_count_in_the_loss_but_not_in_bits_per_byte(world):
    tokenizer, model = world[0], world[2]
    costly = PairModel(tokenizer.vocab_size)
    with torch.no_grad():
        costly.table.copy_(model.table)
        costly.table[:, sorted(tokenizer.special_ids)] += 1000
    token_bytes = compute_token_bytes(tokenizer)
    before, after = evaluate(model, batches(world), token_bytes), evaluate(costly, batches(world), token_bytes)
    assert after.bpb == before.bpb
    assert after.loss > before.loss + 1


def test_padding_is_not_counted_even_where_token_0_is_text():
    model = PairModel(3)
    x, y = torch.tensor([[0, 1, 0, 0]]), torch.tensor([[1, 0, -1, -1]])
    nats = model.table[0, 1].double().item() + model.table[1, 0].double().item()
    found = evaluate(model, [(x, y)], torch.tensor([3, 5, 7]))
    assert found.loss == pytest.approx(nats / 2, rel=1e-12)
    assert found.bpb == pytest.approx(nats / (8 * math.log(2)), rel=1e-12)


def test_evaluate_loss_and_evaluate_bpb_equal_evaluate(world):
    both = evaluate(world[2], batches(world), compute_token_bytes(world[0]))
    assert evaluate_loss(world[2], batches(world)) == both.loss
    assert evaluate_bpb(world[2], batches(world), compute_token_bytes(world[0])) == both.bpb


def test_loss_sums_keep_float64_precision(world):
    """A float32 sum of 2 million losses would be off in the fifth digit."""
    tokenizer = world[0]
    model = PairModel(tokenizer.vocab_size)
    torch.nn.init.constant_(model.table, 3.1)
    x = torch.full((1000, 2048), 600)
    one = torch.tensor(3.1).double().item()
    assert evaluate_loss(model, [(x, x)]) == pytest.approx(one, rel=1e-12)


def test_evaluation_restores_the_mode_of_the_model(world):
    for mode in (True, False):
        model = PairModel(world[0].vocab_size).train(mode)
        evaluate_loss(model, batches(world))
        assert model.training is mode
        assert set(model.modes) == {False}

    def broken():
        yield next(batches(world))
        raise RuntimeError("the disk is gone")

    model.train()
    with pytest.raises(RuntimeError):
        evaluate_loss(model, broken())
    assert model.training


def test_no_targets_gives_nan(world):
    found = evaluate(world[2], [], compute_token_bytes(world[0]))
    assert math.isnan(found.loss)
    assert math.isnan(found.bpb)
    padding = torch.full((2, T), -1)
    assert math.isnan(evaluate(world[2], [(padding.clamp(min=0), padding)], compute_token_bytes(world[0])).bpb)


# ---- the bytes of tokens, of any tokenizer

TEXTS = ["भारत की क्‍या ज़रूरत है?", "दो  स्पेस\n\tऔर १२३", "👩‍🌾 🎉", "𓀀 ꧁ ಠ_ಠ ñ", "the end\r\n", "क", ""]


@pytest.mark.parametrize("kind", ["bpe", "byte_level"])
def test_hugging_face_tokenizers_have_the_same_token_bytes_as_ours(tmp_path, kind):
    folder = standin.make_tokenizer(tmp_path, kind=kind)
    fast, backend = AutoTokenizer.from_pretrained(folder), Backend.from_file(str(folder / "tokenizer.json"))
    ours = compute_token_bytes(load_tokenizer(folder))
    assert ours.dtype == torch.int32
    for theirs in (fast, backend):
        token_bytes = compute_token_bytes(theirs)
        assert token_bytes.dtype == torch.int32
        assert token_bytes.tolist() == ours.tolist()
    for text in TEXTS:
        dummy_space = 1 if kind == "bpe" and text else 0
        expected = len(text.encode()) + dummy_space
        assert compute_token_bytes(fast)[fast(text, add_special_tokens=False)["input_ids"]].sum() == expected, text
        assert compute_token_bytes(backend)[backend.encode(text, add_special_tokens=False).ids].sum() == expected, text
        assert compute_token_bytes(fast)[fast(text + fast.eos_token, add_special_tokens=False)["input_ids"]].sum() == expected, "eos has no bytes"


def test_special_tokens_of_transformers_have_no_bytes_and_added_tokens_have_theirs(tmp_path):
    folder = standin.make_tokenizer(tmp_path)
    description = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    description["added_tokens"] = []  # now only transformers knows the special tokens
    fast = PreTrainedTokenizerFast(
        tokenizer_object=Backend.from_str(json.dumps(description)), bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>"
    )
    fast.add_tokens(["नमस्ते", "<end>"])
    fast.eos_token = "<end>"  # this does not change its tokenizer.json
    token_bytes = compute_token_bytes(fast)
    assert len(token_bytes) == 643
    assert token_bytes[fast.convert_tokens_to_ids(["<s>", "</s>", "<unk>", "<pad>", "<end>"])].tolist() == [0] * 5
    assert token_bytes[fast.convert_tokens_to_ids("नमस्ते")] == len("नमस्ते".encode())


@pytest.mark.parametrize("has_fallback", [True, False])
def test_unknown_token_has_no_bytes_and_the_name_of_a_byte_is_one_only_with_byte_fallback(tmp_path, has_fallback):
    folder = standin.make_tokenizer(tmp_path)
    description = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    description["added_tokens"] = [token for token in description["added_tokens"] if token["content"] != "<unk>"]  # only the model names it
    if not has_fallback:
        description["decoder"]["decoders"] = [step for step in description["decoder"]["decoders"] if step["type"] != "ByteFallback"]
    (folder / "tokenizer.json").write_text(json.dumps(description), encoding="utf-8")
    ours, backend = load_tokenizer(folder), Backend.from_file(str(folder / "tokenizer.json"))
    ids = [backend.token_to_id(name) for name in ("<unk>", "<0x41>")]
    for tokenizer in (ours, backend):
        assert compute_token_bytes(tokenizer)[ids].tolist() == [0, 1 if has_fallback else 6]
    assert ids[0] in ours.special_ids


def test_tokenizer_whose_tokens_have_no_fixed_bytes_is_refused_in_one_line():
    word_pieces = Backend(WordPiece({"[UNK]": 0, "क": 1, "##क": 2}, unk_token="[UNK]"))
    word_pieces.decoder = WordPieceDecoder()
    for wrong, why in (
        (word_pieces, "neither SentencePiece-style nor byte-level"),
        (PreTrainedTokenizerFast(tokenizer_object=word_pieces, unk_token="[UNK]"), "neither SentencePiece-style nor byte-level"),
        (ByT5Tokenizer(), "a ByT5Tokenizer has no tokenizer.json"),  # written in Python
        ("sarvamai/sarvam-1", "a str has no tokenizer.json"),
    ):
        with pytest.raises(UserError, match=why) as error:
            compute_token_bytes(wrong)
        assert "\n" not in str(error.value)


def _one_of_two(rank, store, world, queue):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    try:
        queue.put(evaluate(world[2], batches(world, 4, rank, 2), compute_token_bytes(world[0])))
    finally:
        dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("world", ["bpe"], indirect=True)
def test_two_ranks_return_the_same_result_as_one(world, tmp_path):
    alone = evaluate(world[2], batches(world), compute_token_bytes(world[0]))
    context = torch.multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    processes = [context.Process(target=_one_of_two, args=(rank, tmp_path / "store", world, queue)) for rank in range(2)]
    try:
        for process in processes:
            process.start()
        for process in processes:
            process.join(PATIENCE)
    finally:
        for process in processes:
            process.kill()
    assert [process.exitcode for process in processes] == [0, 0]
    found = [queue.get() for _ in range(2)]
    assert found[0] == found[1]
    assert found[0].loss == pytest.approx(alone.loss, rel=1e-12)
    assert found[0].bpb == pytest.approx(alone.bpb, rel=1e-12)
