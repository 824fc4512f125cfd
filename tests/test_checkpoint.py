"""Checkpoints appear whole, load without running code, and the newest stay."""

import os
import pickle

import pytest
import torch

from nano_hindi import checkpoint as ckpt
from nano_hindi.errors import UserError


def state(step: int) -> dict:
    full = {key: {} for key in ckpt.CHECKPOINT_KEYS}
    return {**full, "format": ckpt.FORMAT, "step": step, "tokens_seen": 0, "preset": "tiny", "model_state_dict": {"w": torch.arange(12.0).view(3, 4)}}


def steps(folder) -> list[int]:
    return [step for step, _ in ckpt.list_checkpoints(folder)]


def test_a_checkpoint_comes_back_to_the_bit_with_weights_only(tmp_path):
    path = ckpt.save_checkpoint(tmp_path, state(8), keep=3)
    assert path.name == "checkpoint_step8.pt"
    plain = torch.load(path, weights_only=True)
    assert set(plain) == set(ckpt.CHECKPOINT_KEYS)
    assert torch.equal(ckpt.load_checkpoint(path)["model_state_dict"]["w"], state(8)["model_state_dict"]["w"])


def test_the_newest_three_by_number_stay(tmp_path):
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


def test_a_save_that_fails_leaves_the_old_ones_and_no_partial_file(tmp_path, monkeypatch):
    ckpt.save_checkpoint(tmp_path, state(1), keep=1)

    def half(obj, file):
        with open(file, "wb") as f:
            f.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="No space"):
        ckpt.save_checkpoint(tmp_path, state(2), keep=1)
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint_step1.pt"]


def test_a_damaged_checkpoint_is_never_the_newest_and_refused_by_name(tmp_path, capsys):
    ckpt.save_checkpoint(tmp_path, state(5), keep=9)
    whole = ckpt.save_checkpoint(tmp_path, state(6), keep=9).read_bytes()
    (tmp_path / "checkpoint_step6.pt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "checkpoint_step7.pt").write_bytes(b"")
    assert ckpt.newest_checkpoint(tmp_path)[1]["step"] == 5
    assert capsys.readouterr().out.count("notice: skipped") == 2
    for step in (6, 7):
        with pytest.raises(UserError, match="damaged"):
            ckpt.load_checkpoint(tmp_path / f"checkpoint_step{step}.pt")


class Hostile:
    def __reduce__(self):
        return os.mkdir, ("hostile_was_here",)


@pytest.mark.parametrize("writer", [lambda o, p: torch.save(o, p), lambda o, p: p.write_bytes(pickle.dumps(o))])
def test_no_code_of_a_file_is_run(tmp_path, monkeypatch, writer):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "checkpoint_step1.pt"
    writer({**state(1), "metrics": Hostile()}, path)
    with pytest.raises(UserError, match="damaged or no checkpoint"):
        ckpt.load_checkpoint(path)
    assert not (tmp_path / "hostile_was_here").exists()


def test_a_file_of_another_kind_or_version_is_refused(tmp_path):
    path = tmp_path / "checkpoint_step1.pt"
    for content, message in (
        ([1, 2], "lacks"),
        ({"format": 1}, "lacks"),
        ({**state(1), "format": 99}, "format 99"),
        ({**state(1), "rng": 0}, "rng cannot"),
    ):
        torch.save(content, path)
        with pytest.raises(UserError, match=message):
            ckpt.load_checkpoint(path)
    with pytest.raises(UserError, match="no checkpoint"):
        ckpt.load_checkpoint(tmp_path / "nowhere.pt")


def test_an_empty_folder_has_no_newest_checkpoint(tmp_path):
    assert ckpt.newest_checkpoint(tmp_path) is None
    assert ckpt.newest_checkpoint(tmp_path / "nowhere") is None
    with pytest.raises(UserError, match="train one first"):
        ckpt.load_for_inference(tmp_path)
