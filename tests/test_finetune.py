"""finetune.py: batches of whole conversations, the loss on the assistant's tokens alone, and the
runs that they make."""

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

import standin
from data import chat
from nano_hindi.chat.batches import PAD_MULTIPLE, ChatBatches, Conversations
from nano_hindi.chat.template import until_stop
from nano_hindi.config import GPTConfig
from nano_hindi.corpus.prepared import CHAT, check_data
from nano_hindi.dataloader import IGNORED, DataError
from nano_hindi.errors import UserError
from nano_hindi.model import GPT
from nano_hindi.sample.questions import conversations

CONTEXT = 1024


@pytest.fixture(scope="module")
def chat_dir(tmp_path_factory) -> Path:
    """Return a chat data folder of the sample's conversations."""
    folder = tmp_path_factory.mktemp("chat")
    tokenizer = standin.make_tokenizer(tmp_path_factory.mktemp("tokenizer"))
    argv = ["--tokenizer", str(tokenizer), "--output_dir", str(folder), "--max_conversations", "100", "--val_fraction", "0.2"]
    assert chat.main([*argv, "--max_length", "2000"]) == 0
    return folder


def opened(folder: Path, context: int = CONTEXT, split: str = "train") -> Conversations:
    return Conversations(folder, check_data(folder, kind=CHAT), split, context)


def rows(batches: ChatBatches, update: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Return inputs and targets of each conversation of an update, without padding."""
    found = []
    for x, y, _ in batches.of(update):
        for ids, targets in zip(x.tolist(), y.tolist(), strict=True):
            end = max(i for i, target in enumerate(targets) if target != IGNORED) + 1  # the last target is the closing eos
            assert not any(ids[end:])
            found.append((tuple(ids[:end]), tuple(targets[:end])))
    return found


def test_targets_are_what_the_assistant_says_and_its_eos(chat_dir):
    val = opened(chat_dir, split="val")
    tokenizer = check_data(chat_dir, kind=CHAT).tokenizer
    said = {tuple(m["content"] for m in c.messages if m["role"] == "assistant") for c in itertools.islice(conversations(0), 200)}
    for i in range(len(val)):
        y = val.batch(np.array([i]))[1][0].tolist()
        spans = [list(span) for is_target, span in itertools.groupby(y, lambda target: target != IGNORED) if is_target]
        assert all(span.count(tokenizer.eos_id) == 1 and span[-1] == tokenizer.eos_id for span in spans)
        answers = tuple(until_stop(tokenizer.decode(span)) for span in spans)
        assert answers in {tuple(tokenizer.decode(tokenizer.encode_batch([text])[0]).strip() for text in texts) for texts in said}


def test_every_conversation_comes_once_an_epoch_on_any_number_of_ranks(chat_dir):
    every = opened(chat_dir)
    whole = Counter(rows(ChatBatches(every, len(every), 5, 4), 0))
    straight = ChatBatches(every, 12, 5, 1)
    for world_size, size in ((1, 7), (3, 2)):
        ranks = [ChatBatches(every, 12, 5, size, rank, world_size) for rank in range(world_size)]
        seen: Counter = Counter()
        for update in range(-(-2 * len(every) // 12)):
            made = [row for rank in ranks for row in rows(rank, update)]
            assert sorted(made) == sorted(rows(straight, update))
            assert ranks[0].targets(update) == sum(target != IGNORED for _, targets in made for target in targets)
            seen.update(made)
        assert set(seen) == set(whole)
        assert all(0 <= seen[row] - 2 * times <= times for row, times in whole.items())  # the last update goes on with a third epoch
        batches = [(len(x), x.size(1), is_last) for rank in ranks for x, _, is_last in rank.of(0)]
        assert sum(is_last for *_, is_last in batches) == world_size
        assert all((rows == 1 or rows * length <= size * CONTEXT) and length % PAD_MULTIPLE == 0 for rows, length, _ in batches)


def test_loss_and_gradient_are_the_same_batched_and_one_by_one(chat_dir):
    every = opened(chat_dir)
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=check_data(chat_dir, kind=CHAT).vocab_size, n_layer=2, n_head=2, n_kv_head=1, n_embd=32, sequence_len=CONTEXT))
    model.init_weights()
    for name, p in model.named_parameters():
        if name.endswith("c_proj.weight"):  # zero at the start: attention and MLP would have no effect
            torch.nn.init.normal_(p, std=0.1)
    results = []
    for size, ranks in ((1, 1), (3, 1), (3, 2)):
        loss, targets = 0.0, ChatBatches(every, 6, 0, size).targets(0)
        for rank in range(ranks):
            for x, y, _ in ChatBatches(every, 6, 0, size, rank, ranks).of(0):
                one = model(x, y, loss_reduction="sum") / targets
                one.backward()
                loss += one.item()
        results.append((loss, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}))
        model.zero_grad()
    for loss, gradient in results[1:]:
        assert loss == pytest.approx(results[0][0], rel=1e-6)
        for name, value in gradient.items():
            torch.testing.assert_close(value, results[0][1][name], rtol=1e-4, atol=1e-7)


def test_conversations_that_do_not_fit_are_left_out_whole(chat_dir):
    every, some = opened(chat_dir, 2000), opened(chat_dir, 550)
    assert every.left_out == 0
    assert 0 < some.left_out == len(every) - len(some)
    assert some.lengths.max() <= 550
    with pytest.raises(UserError, match=r"no conversation of .* fits into the 8 tokens"):
        opened(chat_dir, 8)


def test_damaged_marks_are_found(chat_dir, tmp_path):
    every = opened(chat_dir)
    every.targets[0] += 1
    with pytest.raises(DataError, match="targets of a conversation"):
        every.batch(np.array([0]))
