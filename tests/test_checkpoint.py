"""Checkpoints are written atomically, load without running code, and the newest are kept."""

import contextlib
import dataclasses
import errno
import os
import pickle
import zipfile

import pytest
import torch

from nano_hindi import checkpoint as ckpt
from nano_hindi.config import GPTConfig, TrainConfig
from nano_hindi.distributed import World
from nano_hindi.errors import UserError
from nano_hindi.inference.loading import load_for_inference
from nano_hindi.model import GPT
from nano_hindi.optim import LossScale, TrainOptimizer
from nano_hindi.training.saving import Saver
from nano_hindi.training.setup import restore
from optimizer_step import take_step
from test_faults import steps

CONFIG = GPTConfig(sequence_len=16, vocab_size=32, n_layer=2, n_head=1, n_kv_head=1, n_embd=8)
RECIPE = TrainConfig(sequence_len=16, batch_size=2, total_tokens=64)


def state(step: int) -> dict:
    """Return a complete checkpoint of a very small model after its first update."""
    torch.manual_seed(0)
    model = GPT(CONFIG)
    model.init_weights()
    optimizer = TrainOptimizer(model, RECIPE, World(0, 1, torch.device("cpu")))
    model(torch.zeros(1, 16, dtype=torch.int64), torch.ones(1, 16, dtype=torch.int64)).backward()
    take_step(optimizer)
    return {
        "format": ckpt.FORMAT,
        "step": step,
        "tokens_seen": step * 2 * 16,
        "preset": "tiny",
        "model_config": dataclasses.asdict(CONFIG),
        "train_config": dataclasses.asdict(RECIPE),
        "model_state_dict": dict(model.state_dict()),
        "optimizers": {**optimizer.state_dict(), "loss_scale": LossScale(False).state_dict()},
        "rng": {"torch": torch.get_rng_state()},
        "metrics": {"latest": {"loss": 3.0}, "meter": {"loss_sum": 0.0, "updates": 0}, "skipped": 0},
        "tokenizer": {},
        "data": {},
    }


def test_restore_sets_the_random_state_of_the_checkpoint():
    saved, model = state(8), GPT(CONFIG)
    torch.manual_seed(5)
    saved["rng"]["torch"] = torch.get_rng_state()
    expected = torch.rand(3)
    restore(saved, model, TrainOptimizer(model, RECIPE, World(0, 1, torch.device("cpu"))), LossScale(False))
    assert torch.equal(torch.rand(3), expected)


def test_checkpoint_round_trips_to_the_bit_with_weights_only(tmp_path):
    path = ckpt.save_checkpoint(tmp_path, state(8), keep=3)
    assert path.name == "checkpoint_step8.pt"
    plain = torch.load(path, weights_only=True)
    assert set(plain) == set(ckpt.CHECKPOINT_KEYS)
    loaded, original = ckpt.load_checkpoint(path), state(8)
    for name, weight in original["model_state_dict"].items():
        assert torch.equal(loaded["model_state_dict"][name], weight)
    assert torch.equal(loaded["optimizers"]["adamw"]["lm_head.weight"]["exp_avg"], original["optimizers"]["adamw"]["lm_head.weight"]["exp_avg"])
    assert loaded["metrics"] == original["metrics"]


def test_newest_three_checkpoints_by_number_are_kept(tmp_path):
    for step in (8000, 9000, 10000, 11000):
        ckpt.save_checkpoint(tmp_path, state(step), keep=3)
    assert steps(tmp_path) == [9000, 10000, 11000]
    assert ckpt.newest_checkpoint(tmp_path)[1]["step"] == 11000


def test_nothing_else_is_deleted(tmp_path):
    foreign = ["checkpoint_step.pt", "checkpoint_step5.pt.bak", "my_checkpoint_step1.pt", "notes.txt", "checkpoint_step99999.pt"]
    for name in foreign:
        (tmp_path / name).write_bytes(b"mine")
    for step in (1, 2, 3):
        ckpt.save_checkpoint(tmp_path, state(step), keep=1)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*foreign, "checkpoint_step3.pt"])


def test_failed_save_keeps_the_old_checkpoints_and_no_partial_file(tmp_path, monkeypatch):
    ckpt.save_checkpoint(tmp_path, state(1), keep=1)

    def half(obj, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="No space"):
        ckpt.save_checkpoint(tmp_path, state(2), keep=1)
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint_step1.pt"]


def test_every_save_is_reported_and_one_that_succeeds_ends_a_failure(tmp_path):
    def full_disk():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    told = []
    with Saver(tmp_path, keep=9, tell=told.append) as saver:
        saver.save(state(1), full_disk)
        assert saver.failure.startswith("step 1 is not saved")
        for step in (2, 3):
            saver.save(state(step), lambda: None)
    assert saver.failure is None
    assert [line.split()[0] for line in told] == ["notice:", "saved", "saved"]
    assert steps(tmp_path) == [2, 3]


def test_metrics_are_flushed_to_disk_before_the_checkpoint(tmp_path, monkeypatch):
    """After a power cut the checkpoint may be there: the records that lead up to it must be too."""
    flushed, metrics = [], tmp_path / "metrics.jsonl"
    metrics.touch()
    monkeypatch.setattr(os, "fsync", lambda fd, fsync=os.fsync: (flushed.append(os.fstat(fd).st_ino), fsync(fd)))
    with Saver(tmp_path, keep=9, tell=str) as saver:
        saver.save(state(1), lambda: None)
    assert flushed[:2] == [path.stat().st_ino for path in (metrics, ckpt.checkpoint_path(tmp_path, 1))]


def test_damaged_checkpoint_is_skipped_and_refused_by_name(tmp_path, capsys):
    ckpt.save_checkpoint(tmp_path, state(5), keep=9)
    whole = ckpt.save_checkpoint(tmp_path, state(6), keep=9).read_bytes()
    (tmp_path / "checkpoint_step6.pt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "checkpoint_step7.pt").write_bytes(b"")
    directory = whole.rindex(b"PK\6\6") + 48  # where the file says that its directory is: a read at a negative position is an OSError
    (tmp_path / "checkpoint_step8.pt").write_bytes(whole[:directory] + bytes([whole[directory] ^ 1]) + whole[directory + 1 :])
    assert ckpt.newest_checkpoint(tmp_path)[1]["step"] == 5
    assert capsys.readouterr().err.count("notice: skipped") == 3
    for step in (6, 7, 8):
        with pytest.raises(UserError, match="damaged"):
            ckpt.load_checkpoint(tmp_path / f"checkpoint_step{step}.pt")


class Hostile:
    def __reduce__(self):
        return os.mkdir, ("hostile_was_here",)


@pytest.mark.parametrize("writer", [lambda o, p: torch.save(o, p), lambda o, p: p.write_bytes(pickle.dumps(o))])
def test_loading_runs_no_code_from_the_file(tmp_path, monkeypatch, writer):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "checkpoint_step1.pt"
    writer({**state(1), "metrics": Hostile()}, path)
    with pytest.raises(UserError, match="damaged or not a checkpoint"):
        ckpt.load_checkpoint(path)
    assert not (tmp_path / "hostile_was_here").exists()


def test_file_of_another_kind_or_version_is_refused(tmp_path):
    path = tmp_path / "checkpoint_step1.pt"
    for content, message in (
        ([1, 2], "lacks"),
        (torch.zeros(2), "lacks"),
        ({"format": 1}, "lacks"),
        ({**state(1), "format": 99}, "format 99"),
        ({**state(1), "rng": 0}, "rng cannot"),
    ):
        torch.save(content, path)
        with pytest.raises(UserError, match=message):
            ckpt.load_checkpoint(path)
    with pytest.raises(UserError, match="no checkpoint"):
        ckpt.load_checkpoint(tmp_path / "nowhere.pt")


def change(*path, to):
    """Return a function that sets `path` of a dict to `to`, or to what it returns for the old
    value; if `to` is None, it deletes the key."""

    def apply(content: dict) -> None:
        for key in path[:-1]:
            content = content[key]
        if to is None:
            del content[path[-1]]
        else:
            content[path[-1]] = to(content[path[-1]]) if callable(to) else to

    return apply


MISFITS = {
    "a weight of another shape": (change("model_state_dict", "lm_head.weight", to=lambda w: w[:-1]), "lm_head.weight"),
    "a weight of a huge shape that takes no memory": (
        change("model_state_dict", "lm_head.weight", to=torch.zeros(1).expand(2**40, 8)),
        "lm_head.weight",
    ),
    "a weight of another dtype": (change("model_state_dict", "lm_head.weight", to=lambda w: w.double()), "float64"),
    "a sparse weight": (change("model_state_dict", "lm_head.weight", to=lambda w: w.to_sparse()), "sparse"),
    "a word for a weight": (change("model_state_dict", "lm_head.weight", to="heavy"), "lm_head.weight is a str"),
    "a missing weight": (change("model_state_dict", "lm_head.weight", to=None), "lm_head.weight is missing"),
    "an extra weight": (lambda s: s["model_state_dict"].update(spy=torch.zeros(2)), "spy"),
    "a moment of another shape": (change("optimizers", "adamw", "lm_head.weight", "exp_avg_sq", to=lambda w: w.t()), "exp_avg_sq"),
    "a missing moment": (change("optimizers", "adamw", "lm_head.weight", "exp_avg", to=None), "exp_avg"),
    "a count of steps for each column": (change("optimizers", "adamw", "lm_head.weight", "step", to=torch.zeros(8)), "lm_head.weight step"),
    "a missing parameter in AdamW": (change("optimizers", "adamw", "lm_head.weight", to=None), "lm_head.weight"),
    "no Muon": (change("optimizers", "muon", to=None), "muon"),
    "momentum of another dtype": (change("optimizers", "muon", "momentum", "transformer.h.0.attn.c_q.weight", to=lambda w: w.half()), "float16"),
    "a word for the loss scale": (change("optimizers", "loss_scale", "value", to="large"), "loss_scale value"),
    "a random state of another dtype": (change("rng", "torch", to=lambda r: r.float()), "rng torch"),
    "an invalid random state": (change("rng", "torch", to=lambda r: torch.full_like(r, 255)), "state"),
    "a word for a count": (change("metrics", "skipped", to="few"), "metrics skipped"),
    "a word for a metric": (change("metrics", "latest", "loss", to="low"), "metrics latest loss"),
    "no metrics": (change("metrics", to={}), "metrics"),
    "more layers than tensors": (change("model_config", "n_layer", to=1000), "n_layer is 1000, but there are"),
    "a billion layers": (change("model_config", "n_layer", to=10**9), "n_layer must be a whole number"),
    "an impossible width": (change("model_config", "n_embd", to=2**62), "does not fit"),
    "an unknown setting": (lambda s: s["train_config"].update(seeed=1), "seeed"),
    "tokens that do not match the step": (change("tokens_seen", to=7), "step 6"),
    "a weight that holds one value for all": (
        change("model_state_dict", "lm_head.weight", to=torch.zeros(1).expand(64, 8)),
        "does not hold the values",
    ),
    "a weight without values": (change("model_state_dict", "lm_head.weight", to=torch.empty(64, 8, device="meta")), "does not hold the values"),
    "true in the recipe": (change("train_config", "seed", to=True), "seed must be a whole number"),
    "a vocabulary of another tokenizer": (change("tokenizer", to={"vocab_size": 33}), "vocab_size is 32, but its tokenizer has 33"),
    "a word for the tokens of the data": (change("data", to={"train_tokens": "many"}), "train_tokens is a str"),
    "a word for the start of the anneal": (change("data", to={"anneal_start": "late"}), "data anneal_start is a str"),
    "a source of the data without its weights": (change("data", to={"sources": [{"train_tokens": 9}]}), "data sources 0"),
    "a word for the version of the chat template": (lambda s: s.update(chat={"template": "new"}), "chat template is a str"),
    "a word for the step of the parent": (lambda s: s.update(parent={"file": "model.pt", "step": "last", "digest": ""}), "parent step is a str"),
    "a negative step": (lambda s: s.update(step=-6, tokens_seen=-6 * 32), "step -6"),
}


@pytest.mark.parametrize("claim", MISFITS)
def test_content_that_does_not_fit_its_configuration_is_refused_and_skipped(tmp_path, capsys, claim):
    damage, words = MISFITS[claim]
    ckpt.save_checkpoint(tmp_path, state(5), keep=9)
    damaged = state(6)
    damage(damaged)
    path = tmp_path / "checkpoint_step6.pt"
    torch.save(damaged, path)
    with pytest.raises(UserError, match="does not fit its own configuration") as refusal:
        ckpt.load_checkpoint(path)
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert ckpt.newest_checkpoint(tmp_path)[1]["step"] == 5
    assert "notice: skipped" in capsys.readouterr().err


def records(path) -> dict[str, tuple[int, int]]:
    """Return the name of each record of a checkpoint that is not empty, with the position of its
    first byte and its size."""
    found = {}
    with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
        for record in archive.infolist():
            file.seek(record.header_offset + 26)
            name, extra = (int.from_bytes(file.read(2), "little") for _ in range(2))
            if record.file_size:
                found[record.filename.partition("/")[2]] = record.header_offset + 30 + name + extra, record.file_size
    return found


@contextlib.contextmanager
def flipped_bit(path, record: str):
    """Flip the lowest bit of the byte in the middle of a record, until the block ends."""
    begin, size = records(path)[record]
    before = path.read_bytes()
    after = bytearray(before)
    after[begin + size // 2] ^= 1
    path.write_bytes(after)
    yield
    path.write_bytes(before)


def test_flipped_bit_anywhere_is_found_named_and_skipped(tmp_path, capsys):
    ckpt.save_checkpoint(tmp_path, state(5), keep=9)
    path = ckpt.save_checkpoint(tmp_path, state(6), keep=9)
    tensors = [name for name in records(path) if name.startswith("data/")]
    assert len(tensors) == len(list(ckpt.named_tensors(state(6))))
    for record in ("data.pkl", "byteorder", *tensors):
        with flipped_bit(path, record):
            with pytest.raises(UserError, match=r"damaged|does not fit") as refusal:
                ckpt.load_checkpoint(path)
            assert str(path) in str(refusal.value)
            del refusal  # its traceback has the mapped file, which Windows would not let be written
            assert ckpt.newest_checkpoint(tmp_path)[1]["step"] == 5
        assert "notice: skipped" in capsys.readouterr().err
    assert ckpt.newest_checkpoint(tmp_path)[1]["step"] == 6


def test_damaged_tensor_is_named_and_inference_reads_only_the_weights(tmp_path):
    path = ckpt.save_checkpoint(tmp_path, state(6), keep=9)
    names = [name for name, _ in ckpt.named_tensors(state(6))]
    numbers = {name: f"data/{i}" for i, name in enumerate(names)}
    with flipped_bit(path, numbers["model_state_dict lm_head.weight"]):
        for keys in (ckpt.MODEL_KEYS, ckpt.CHECKPOINT_KEYS):
            with pytest.raises(UserError, match=r"damaged: model_state_dict lm_head\.weight does not match its checksum"):
                ckpt.load_checkpoint(path, keys)
    with flipped_bit(path, numbers["optimizers adamw lm_head.weight exp_avg"]):
        assert ckpt.load_checkpoint(path, ckpt.MODEL_KEYS)["step"] == 6
        with pytest.raises(UserError, match=r"damaged: optimizers adamw lm_head\.weight exp_avg does"):
            ckpt.load_checkpoint(path)


def test_compressed_file_is_refused_before_it_fills_the_memory(tmp_path):
    path = ckpt.save_checkpoint(tmp_path, state(6), keep=9)
    with zipfile.ZipFile(path) as archive:
        content = {record.filename: archive.read(record) for record in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, raw in content.items():
            archive.writestr(name, raw)
    with pytest.raises(UserError, match="damaged or not a checkpoint"):
        ckpt.load_checkpoint(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_non_finite_weights_are_named(tmp_path, value):
    broken = state(6)
    broken["model_state_dict"]["lm_head.weight"][3, 2:5] = value
    torch.save(broken, tmp_path / "checkpoint_step6.pt")
    for keys in (ckpt.MODEL_KEYS, ckpt.CHECKPOINT_KEYS):
        with pytest.raises(UserError, match=r"lm_head\.weight has 3 non-finite values of 512"):
            ckpt.load_checkpoint(tmp_path / "checkpoint_step6.pt", keys)
    assert ckpt.require_finite(state(6)["model_state_dict"]) is None


def test_non_finite_weights_are_not_saved(tmp_path):
    ckpt.save_checkpoint(tmp_path, state(1), keep=1)
    broken = state(2)
    broken["model_state_dict"]["lm_head.weight"][3, 2] = float("nan")
    for save in (lambda: ckpt.save_checkpoint(tmp_path, broken, keep=1), lambda: ckpt.save_model(tmp_path, broken)):
        with pytest.raises(UserError, match=r"lm_head\.weight has 1 non-finite values of 512"):
            save()
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint_step1.pt"]


def test_partial_files_of_a_killed_process_are_removed_and_nothing_else(tmp_path):
    halves = ["checkpoint_step7.pt.tmp", "model.pt.tmp", "metrics.jsonl.tmp", "curves.png.tmp"]
    others = ["notes.tmp", "my_checkpoint_step7.pt.tmp", "checkpoint_step7.pt", "model.pt"]
    for name in [*halves, *others]:
        (tmp_path / name).write_bytes(b"x")
    ckpt.remove_leftovers(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(others)


def test_checkpoint_in_use_on_windows_is_deleted_at_the_next_save(tmp_path, monkeypatch):
    ckpt.save_checkpoint(tmp_path, state(1), keep=1)
    unlink = ckpt.Path.unlink

    def in_use(path, missing_ok=False):
        if path.name == "checkpoint_step1.pt":
            raise PermissionError(13, "in use", str(path))
        unlink(path, missing_ok)

    monkeypatch.setattr(ckpt.Path, "unlink", in_use)
    ckpt.save_checkpoint(tmp_path, state(2), keep=1)
    assert steps(tmp_path) == [1, 2]
    monkeypatch.undo()
    ckpt.save_checkpoint(tmp_path, state(3), keep=1)
    assert steps(tmp_path) == [3]


def test_file_that_a_run_replaces_between_checksums_and_content_is_read_again(tmp_path, monkeypatch):
    path, real, newer = ckpt.save_checkpoint(tmp_path, state(8), keep=3), ckpt.saved_checksums, state(9)
    newer["model_state_dict"]["transformer.wte.weight"].add_(1)

    def saved_checksums(path):
        found = real(path)
        if newer:
            torch.save(newer.copy(), tmp_path / "new")
            os.replace(tmp_path / "new", path)
            newer.clear()
        return found

    monkeypatch.setattr(ckpt, "saved_checksums", saved_checksums)
    assert ckpt.load_checkpoint(path)["step"] == 9


def test_checkpoint_that_a_run_deletes_meanwhile_makes_place_for_the_newer_one(tmp_path, monkeypatch):
    for error in (FileNotFoundError, UserError):
        ckpt.save_checkpoint(tmp_path, state(8), keep=1)

        def load_checkpoint(path, keys, real=ckpt.load_checkpoint, error=error):
            monkeypatch.setattr(ckpt, "load_checkpoint", real)
            ckpt.save_checkpoint(tmp_path, state(9), keep=1)
            raise error

        monkeypatch.setattr(ckpt, "load_checkpoint", load_checkpoint)
        skipped = []
        assert ckpt.newest_checkpoint(tmp_path, skipped.append)[1]["step"] == 9
        assert skipped == []
        (tmp_path / "checkpoint_step9.pt").unlink()


def test_empty_folder_has_no_newest_checkpoint(tmp_path):
    assert ckpt.newest_checkpoint(tmp_path) is None
    assert ckpt.newest_checkpoint(tmp_path / "nowhere") is None
    with pytest.raises(UserError, match=r"; check the path, or train a model first: \S+ \S*train\.py$"):  # not into this folder
        load_for_inference(tmp_path)


def test_advice_fits_a_folder_whose_checkpoints_are_all_damaged(tmp_path, capsys):
    for step in (6, 8):
        (tmp_path / f"checkpoint_step{step}.pt").write_bytes(b"x")
    with pytest.raises(UserError, match=r"no checkpoint in .* loads; copy the files again, or move the folder away and train again$"):
        load_for_inference(tmp_path)
    skipped = capsys.readouterr().err
    assert skipped.count("notice: skipped") == 2
    assert "use an older one" not in skipped
