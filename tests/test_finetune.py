"""finetune.py: batches of whole conversations, the loss on the assistant's tokens alone, and the
runs that they make."""

import argparse
import itertools
import json
import math
import os
import re
import shutil
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

import finetune
import standin
import train
from conftest import ROOT, SMALL, damaged_between_samples, run_command
from data import chat, preprocess
from nano_hindi.chat.batches import PAD_MULTIPLE, ChatBatches, Conversations
from nano_hindi.chat.template import MARKERS, until_stop
from nano_hindi.config import FINETUNE, GPTConfig, TrainConfig
from nano_hindi.corpus.prepared import CHAT, check_data
from nano_hindi.dataloader import IGNORED
from nano_hindi.distributed import World
from nano_hindi.errors import UserError
from nano_hindi.evaluation import command
from nano_hindi.export import command as export
from nano_hindi.files import read_metadata, write_metadata
from nano_hindi.inference.loading import load_for_inference
from nano_hindi.model import GPT
from nano_hindi.sample.questions import conversations
from nano_hindi.token_file import DataError
from nano_hindi.training.chat_data import ChatData, finetune_recipe
from nano_hindi.training.metrics import read_metrics
from nano_hindi.training.resume import plan_run

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


def test_evaluation_reads_all_parts_of_a_long_val_bin(chat_dir):
    data = ChatData(chat_dir, check_data(chat_dir, kind=CHAT), CONTEXT)
    tokens = int(data.val.lengths.sum())
    numbers = {tuple(data.val.batch(np.array([i]))[0][0, : data.val.lengths[i]].tolist()): i for i in range(len(data.val))}
    for fraction in (1, 2, 3, tokens):  # the last one is of less than a conversation: one is read
        config = TrainConfig(eval_tokens=tokens // fraction)
        (batches,) = data.val_batches(config, 4, World(0, 1, torch.device("cpu"))).values()
        rows = [row for x, _ in batches for row in x.tolist()]
        found = sorted(i for row in rows for ids, i in numbers.items() if tuple(row[: len(ids)]) == ids and not any(row[len(ids) :]))
        assert found
        assert found == [i * len(data.val) // len(found) for i in range(len(found))]
        assert abs(len(found) - len(data.val) / fraction) <= 1


def test_seed_of_a_run_sets_the_order_of_its_conversations(chat_dir):
    data, orders = ChatData(chat_dir, check_data(chat_dir, kind=CHAT), CONTEXT), []
    for seed in (1, 2):
        config = TrainConfig(batch_size=9, gradient_accumulation_steps=1, seed=seed)
        orders.append(rows(data.train_batches(data.loader(config, None), config, 9, World(0, 1, torch.device("cpu"))), 0))
        assert orders[-1] == rows(ChatBatches(data.train, 9, seed, 9), 0)
    assert orders[0] != orders[1]


def test_every_conversation_comes_once_an_epoch_on_any_number_of_ranks(chat_dir):
    every = opened(chat_dir)
    full = ChatBatches(every, len(every), 5, 4)
    assert all(is_last or (len(x) + 1) * x.size(1) > 4 * CONTEXT for x, _, is_last in full.of(0))
    whole = Counter(rows(full, 0))
    straight = ChatBatches(every, 12, 5, 1)
    for world_size, size in ((1, 7), (3, 2)):
        ranks = [ChatBatches(every, 12, 5, size, rank, world_size) for rank in range(world_size)]
        seen: Counter = Counter()
        for update in range(-(-2 * len(every) // 12)):
            dealt = [row for turn in zip(*(rows(rank, update) for rank in ranks), strict=True) for row in turn]
            assert sorted(dealt) == sorted(rows(straight, update))
            assert [len(ids) for ids, _ in dealt] == sorted((len(ids) for ids, _ in dealt), reverse=True)
            assert ranks[0].targets(update) == sum(target != IGNORED for _, targets in dealt for target in targets)
            seen.update(dealt)
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
    exact = min(n for n in every.lengths.tolist() if n % PAD_MULTIPLE)
    fitting = opened(chat_dir, exact)
    assert fitting.lengths.max() == exact
    assert len(rows(ChatBatches(fitting, len(fitting), 5, 1), 0)) == len(fitting)  # though the longest is padded to more than the context
    shortest = int(every.lengths.min())
    assert opened(chat_dir, shortest).lengths.max() == shortest
    with pytest.raises(UserError, match=rf"no conversation of .* fits into the {shortest - 1} tokens"):
        opened(chat_dir, shortest - 1)


def test_damage_is_found_at_the_start_or_when_it_is_read(chat_dir, tmp_path):
    every = opened(chat_dir)
    every.targets[0] += 1
    with pytest.raises(DataError, match="targets of a conversation"):
        every.batch(np.array([0]))
    every.file.vocab_size = 9
    with pytest.raises(DataError, match="but the vocabulary has 9 tokens"):
        every.batch(np.array([1]))
    folder = shutil.copytree(chat_dir, tmp_path / "chat")
    every, path = opened(folder), folder / "train.bin"
    path.write_bytes(path.read_bytes()[:-4] + bytes(4))
    os.utime(path, (1, 1))  # a clock may be too coarse for two writes
    with pytest.raises(DataError, match="changed while it was in use"):
        every.batch(np.array([0]))
    index = np.fromfile(chat_dir / "train_conversations.bin", dtype="<u4").reshape(-1, 2)
    for targets in (0, index[1, 0]):
        index[1, 1] = targets
        index.tofile(folder / "train_conversations.bin")
        with pytest.raises(UserError, match=r"train_conversations\.bin is damaged"):
            Conversations(folder, check_data(chat_dir, kind=CHAT), "train", CONTEXT)


def test_sample_is_a_question_without_its_story_and_the_most_likely_answer(chat_dir, monkeypatch):
    data, asked = ChatData(chat_dir, check_data(chat_dir, kind=CHAT), CONTEXT), []
    tokenizer = data.tokenizer
    (answer,) = tokenizer.encode_batch([f"ठीक\nहै\n{MARKERS['user']}\nकौन?"])

    def answered(
        model: None, prompts: list[tuple[list[int], None]], max_tokens: int, stop_ids: tuple[int, ...], temperature: float
    ) -> list[list[int]]:
        asked.extend(tokenizer.decode(ids) for ids, first_ids in prompts)
        assert (temperature, stop_ids) == (0, (tokenizer.eos_id,))
        return [answer] * len(prompts)

    monkeypatch.setattr("nano_hindi.training.chat_data.generate_each", answered)
    samples = data.samples(None, 0)
    assert len(samples) == 4
    for (question, text), before in zip(samples, asked, strict=True):
        assert before.endswith(f"\n\n{MARKERS['assistant']}\n")
        assert question in " ".join(before.split())
        assert text == f"{question} → ठीक है"
    assert max(len(question) for question, _ in samples) < 100 < max(map(len, asked))


@pytest.mark.parametrize(("epochs", "size"), [(3, 1), (0.5, 7), (1, 1000)])
def test_recipe_has_eight_evaluations_and_a_warmup_of_a_twentieth(chat_dir, epochs, size):
    data = ChatData(chat_dir, check_data(chat_dir, kind=CHAT), CONTEXT)
    config = finetune_recipe(argparse.Namespace(epochs=epochs, batch_size=size, lr_scale=0.3, inference_interval=7), data)
    updates = math.ceil(epochs * len(data.train) / size)
    assert (config.updates, config.tokens_per_update) == (updates, size * data.train.mean_length)
    assert (config.warmup_steps, config.init_lr_fraction) == (updates // 20, 0.1)
    assert (config.eval_interval, config.checkpoint_interval, config.inference_interval) == (updates // 8 or 1, updates // 8 or 1, 7)
    assert (config.muon_lr, config.adamw_scalar_lr) == (TrainConfig.muon_lr * 0.3, TrainConfig.adamw_scalar_lr * 0.3)


# ---- runs


@pytest.fixture(scope="module")
def base(data_dir, tmp_path_factory) -> Path:
    """Return a small model of train.py whose context holds short conversations."""
    folder = tmp_path_factory.mktemp("base")
    argv = [*SMALL, "--sequence_len", "128", "--total_tokens", "2048", "--data_dir", str(data_dir), "--checkpoint_dir", str(folder)]
    assert train.main(argv) == 0
    return folder


@pytest.fixture(scope="module")
def short(base, tmp_path_factory) -> Path:
    """Return chat data with 120 short conversations of one and two turns, and one that is too long
    for the context."""
    folder = tmp_path_factory.mktemp("short")
    with open(folder / "talk.jsonl", "w", encoding="utf-8") as file:
        for i in range(120):
            turns = [
                {"role": role, "content": f"{'कखगघच'[i % 5]} {i + turn}" + " ठीक है" * (i % 7)}
                for turn in range(1 + i % 2)
                for role in ("user", "assistant")
            ]
            print(json.dumps({"messages": turns}), file=file)
        print(json.dumps({"messages": [{"role": "user", "content": "क " * 200}, {"role": "assistant", "content": "ख"}]}), file=file)
    argv = ["--source", str(folder / "talk.jsonl"), "--tokenizer", str(base), "--output_dir", str(folder / "chat"), "--val_fraction", "0.1"]
    assert chat.main([*argv, "--max_length", "1024"]) == 0
    return folder / "chat"


def arguments(base: Path, data: Path, folder: Path, *flags) -> list[str]:
    return ["--checkpoint", str(base), "--data_dir", str(data), "--checkpoint_dir", str(folder), "--batch_size", "8", *map(str, flags)]


@pytest.fixture(scope="module")
def tuned(base, short, tmp_path_factory) -> Path:
    """Return the folder of a run that was never interrupted."""
    folder = tmp_path_factory.mktemp("tuned")
    assert finetune.main(arguments(base, short, folder, "--epochs", "1", "--checkpoint_interval", "5", "--keep_checkpoints", "9")) == 0
    return folder


def weights(folder: Path) -> dict:
    return torch.load(folder / "model.pt", weights_only=True)["model_state_dict"]


def test_fine_tuning_learns_and_makes_a_chat_model(base, tuned):
    model, parent = (torch.load(folder / "model.pt", weights_only=True) for folder in (tuned, base))
    assert model["chat"] == {"template": 1}
    assert model["parent"]["step"] == parent["step"]
    assert load_for_inference(tuned).is_chat
    assert not load_for_inference(base).is_chat
    losses = [record["val_loss"] for record in read_metrics(tuned / "metrics.jsonl") if "val_loss" in record]
    assert losses[-1] < losses[0] - 0.5


def test_text_tokenized_for_a_model_names_the_origin_of_its_tokenizer(base, data_dir, tmp_path):
    argv = ["--input", data_dir / "corpus.txt", "--tokenizer", base, "--output_dir", tmp_path, "--val_fraction", 0.1]
    assert preprocess.main([*map(str, argv)]) == 0
    assert (tmp_path / "train.bin").read_bytes() == (data_dir / "train.bin").read_bytes()
    assert read_metadata(tmp_path / "preprocess_meta.txt")["tokenizer"] == read_metadata(data_dir / "preprocess_meta.txt")["tokenizer"]


def card_of(model: Path, data: Path, folder: Path) -> str:
    assert export.main(["--checkpoint", str(model), "--data_dir", str(data), "--output_dir", str(folder)]) == 0
    return (folder / "README.md").read_text(encoding="utf-8")


def test_model_card_points_to_the_base_model_and_names_its_tokenizer(base, short, tuned, data_dir, tmp_path, capsys):
    given, of_chat = (read_metadata(folder / "preprocess_meta.txt")["tokenizer"] for folder in (data_dir, short))
    assert of_chat == given != str(base / "tokenizer")
    card, notice = card_of(tuned, short, tmp_path / "new"), "notice      the card does not name the text that the base model was trained on"
    of_base = "that the base model was trained on, and its licence, are not named here:\nsee the card of the base model."
    assert notice in capsys.readouterr().out
    assert of_base in card
    assert "Files of the model's maker: talk.jsonl." in card
    assert "\n`standin`. Its licence is not known here" in card
    assert f"| update | 8 conversations of {opened(short, 128).mean_length} tokens on average: " in card
    assert "preset" not in card  # of a recipe that is not finetune.py's
    assert of_base not in card_of(base, short, tmp_path / "base")
    assert notice not in capsys.readouterr().out

    card_of(tuned, data_dir, tmp_path / "without")  # data_dir is the text of the base model
    assert (
        "does not name the conversations; export again with --data_dir DIR, the data folder of the run, which data/chat.py" in capsys.readouterr().out
    )

    older = shutil.copytree(tuned, tmp_path / "older")  # neither the checkpoint nor the data have the name
    for path in (older / "model.pt", *older.glob("checkpoint_*.pt")):
        state = torch.load(path, weights_only=True)
        del state["tokenizer"]["name"]
        torch.save(state, path)
    data = shutil.copytree(short, tmp_path / "data")
    write_metadata(data / "preprocess_meta.txt", read_metadata(data / "preprocess_meta.txt") | {"tokenizer": base / "tokenizer"})
    assert "\nThe tokenizer of the base model. Its source and licence are not named here" in card_of(older, data, tmp_path / "exported")


def test_resumed_run_equals_the_uninterrupted_one_to_the_bit(tuned, base, short, tmp_path, capsys):
    shutil.copytree(tuned / "tokenizer", tmp_path / "tokenizer")
    shutil.copy(tuned / "checkpoint_step5.pt", tmp_path)
    argv = arguments(base, short, tmp_path, "--resume", "auto")
    assert finetune.main(argv) == 0
    for name, weight in weights(tuned).items():
        assert torch.equal(weights(tmp_path)[name], weight), name


def test_more_epochs_continue_a_finished_run(tuned, base, short, tmp_path, capsys):
    folder = shutil.copytree(tuned, tmp_path / "run")
    same = ("--resume", "auto", "--lr_scale", FINETUNE["lr_scale"])
    assert finetune.main(arguments(base, short, folder, *same)) == 0
    assert "a larger --epochs would continue it" in capsys.readouterr().out
    assert finetune.main(arguments(base, short, folder, *same, "--epochs", "2")) == 0
    n = len(opened(short, 128))
    assert torch.load(folder / "model.pt", weights_only=True)["step"] == -(-2 * n // 8)
    assert f"{n} conversations to train on, seen 2.0" in (out := capsys.readouterr().out)
    assert f"{opened(short, 128).left_out} left out, longer than 128 tokens" in out


@pytest.mark.skipif(os.name == "nt", reason="torchrun does not work on Windows")
def test_two_ranks_give_the_weights_of_one(tuned, base, short, tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(ROOT / "finetune.py")]
    done = run_command([*torchrun, *arguments(base, short, tmp_path, "--epochs", "1", "--device", "cpu")])
    assert done.returncode == 0, done.stderr
    together, change = weights(tmp_path), weights(base)
    for name, weight in weights(tuned).items():  # AdamW makes much of rounding where a gradient is nearly 0
        assert torch.norm(together[name] - weight) <= 0.002 * torch.norm(weight - change[name]), name


def test_verify_data_reads_all_of_the_chat_data(base, short, tmp_path, monkeypatch, capsys):
    data = damaged_between_samples(short, tmp_path / "data", monkeypatch)
    argv = arguments(base, data, tmp_path / "run")
    plan_run(finetune.parse(argv), World(0, 1, torch.device("cpu")), chat=True)
    assert finetune.main([*argv, "--verify_data"]) == 2
    assert "train.bin is damaged: from byte 4,400 on it is not what data/chat.py wrote" in capsys.readouterr().err


def test_smaller_number_of_epochs_than_were_made_ends_the_run_with_a_notice(tuned, short, capsys):
    argv = ["--data_dir", short, "--checkpoint_dir", tuned, "--resume", "auto", "--epochs", "0.5"]
    assert plan_run(finetune.parse(list(map(str, argv))), World(0, 1, torch.device("cpu")), chat=True).is_complete
    assert re.search(r"tokens are done, more than the [\d,]+ of --epochs: the run ends here", capsys.readouterr().out)


def test_dtype_is_that_of_the_flag_not_of_the_base_model(base, short, tmp_path):
    for flags, dtype in (([], "auto"), (["--dtype", "bfloat16"], "bfloat16")):
        plan = plan_run(finetune.parse(arguments(base, short, tmp_path, *flags)), World(0, 1, torch.device("cpu")), chat=True)
        assert plan.config.dtype == dtype


def test_help_says_what_seed_and_device_batch_size_are_here(capsys):
    with pytest.raises(SystemExit):
        finetune.parse(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "--seed N seed of the data order (default: 42)" in shown
    assert (
        "conversations per forward pass on a device, if they fill the context; auto: on a GPU measured before the first update (default: auto)"
        in shown
    )


def test_questions_that_do_not_fit_into_the_context_are_refused_before_texts_are_scored(tuned, tmp_path, capsys):
    (tmp_path / "text.txt").write_text("एक समय की बात है।", encoding="utf-8")
    assert command.main(["--checkpoint", str(tuned), "--questions", "1", "--text", str(tmp_path / "text.txt")]) == 2
    output, error = capsys.readouterr()
    assert "too long for this model, whose context has 128 tokens" in error
    assert "bits per byte" not in output


def test_what_does_not_belong_together_is_refused_in_one_line(tuned, base, short, data_dir, tmp_path, capsys):
    def refused(main, argv) -> str:
        assert main(list(map(str, argv))) == 2
        said = capsys.readouterr().err.strip()
        assert len(said.splitlines()) == 1
        return said

    new = ["--checkpoint_dir", tmp_path / "new"]
    assert "needs a model to fine-tune" in refused(finetune.main, ["--data_dir", short, *new])
    assert "data/chat.py makes chat data" in refused(finetune.main, ["--checkpoint", base, "--data_dir", data_dir, *new])
    assert "which finetune.py takes" in refused(train.main, ["--data_dir", short, *new])
    assert "made by train.py" in refused(finetune.main, ["--data_dir", short, "--checkpoint_dir", base, "--resume", "auto"])
    assert "made by finetune.py" in refused(train.main, ["--data_dir", data_dir, "--checkpoint_dir", tuned, "--resume", "auto"])
    assert "is not a chat model" in refused(command.main, ["--checkpoint", base, "--questions", "1"])
    other = standin.make_tokenizer(tmp_path / "other")
    talk = short.parent / "talk.jsonl"
    assert chat.main(["--source", str(talk), "--tokenizer", str(other), "--output_dir", str(tmp_path / "chat"), "--val_fraction", "0.1"]) == 0
    capsys.readouterr()
    said = refused(finetune.main, ["--checkpoint", base, "--data_dir", tmp_path / "chat", *new])
    assert "was trained with" in said
    assert f"run data/chat.py with --tokenizer {base / 'model.pt'}" in said
    assert "run data/chat.py first" in refused(finetune.main, ["--checkpoint", base, "--data_dir", tmp_path / "none", *new])
    resumed = ["--data_dir", short, "--checkpoint_dir", tuned, "--resume", "auto"]
    assert f"--lr_scale is 0.9 (checkpoint: {FINETUNE['lr_scale']})" in refused(finetune.main, [*resumed, "--lr_scale", "0.9"])
    assert "--checkpoint names other weights" in refused(finetune.main, ["--checkpoint", tuned, *resumed])
    changed = torch.load(tuned / "checkpoint_step5.pt", weights_only=True)
    changed["data"]["train_tokens"] += 1
    torch.save(changed, tmp_path / "changed.pt")
    said = refused(finetune.main, ["--data_dir", short, *new, "--resume", tmp_path / "changed.pt"])
    assert "data train_tokens differ" in said
    assert "(--checkpoint MODEL starts it from the weights of this one)" in said
    assert "finetune.py --checkpoint" in refused(finetune.main, ["--data_dir", short, *new, "--resume", tuned / "model.pt"])
    assert "train.py" not in refused(finetune.main, ["--data_dir", short, *new, "--resume", tuned])
    with open(shutil.copytree(short, tmp_path / "damaged") / "train.bin", "r+b") as file:
        file.write(b"damage")
    said = refused(finetune.main, ["--checkpoint", base, "--data_dir", tmp_path / "damaged", *new])
    assert "is not what data/chat.py wrote; restore it, or run data/chat.py again" in said
    assert not (tmp_path / "new").exists()
