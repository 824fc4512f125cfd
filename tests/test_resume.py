"""--resume: runs of older versions keep their schedule, a folder that cannot be resumed is not
changed, --dry_run describes the run in the folder."""

import contextlib
import dataclasses
import os
import re
import shutil
from pathlib import Path

import pytest
import torch

import standin
import train
from conftest import SMALL, arguments, as_nobody, damaged_between_samples, start
from nano_hindi import distributed
from nano_hindi.checkpoint import list_checkpoints
from nano_hindi.config import DEFAULT_PRESET, GPTConfig, TrainConfig
from nano_hindi.corpus.prepared import DIGESTS, check_data
from nano_hindi.distributed import World
from nano_hindi.errors import UserError
from nano_hindi.files import read_metadata, write_metadata
from nano_hindi.inference.loading import load_for_inference
from nano_hindi.training import loop
from nano_hindi.training.metrics import read_metrics
from nano_hindi.training.resume import Plan, evaluation_is_pending, plan_run
from nano_hindi.training.text_data import different_keys
from test_faults import cut

posix = pytest.mark.skipif(os.name == "nt", reason="needs the access rights and links of POSIX")


def edit(path: Path, change) -> None:
    """Save a checkpoint again, with its content changed by `change`."""
    state = torch.load(path, weights_only=True)
    change(state)
    torch.save(state, path)


def content(path: Path) -> bytes | None:
    with contextlib.suppress(OSError):  # a folder, a link to nothing, a file nobody may read
        return path.read_bytes()


def snapshot(folder: Path) -> dict[str, tuple]:
    """Return name, time of change and bytes of everything in a folder."""
    return {str(path.relative_to(folder)): (path.lstat().st_mtime_ns, content(path)) for path in folder.rglob("*")}


def weights(folder: Path) -> dict:
    return torch.load(folder / "model.pt", weights_only=True)["model_state_dict"]


def losses(folder: Path) -> list[str]:
    return re.findall(r'"loss": ([\d.]+), "lr": ([\d.e-]+)', (folder / "metrics.jsonl").read_text())


# ---- the plan


def plan_of(*flags):
    return plan_run(train.parse([*map(str, flags)]), World(0, 1, torch.device("cpu")))


def test_preset_is_that_of_the_checkpoint_the_flag_the_model_or_the_default(data_dir, straight, tmp_path):
    new = ["--data_dir", data_dir, "--sequence_len", 32, "--checkpoint_dir", tmp_path / "run"]
    assert plan_of("--data_dir", data_dir, "--checkpoint_dir", straight, "--resume", "auto").preset == "tiny"
    assert plan_of(*new, "--config", "22m").preset == "22m"
    assert plan_of(*new, "--init_from", straight).preset == "tiny"
    assert plan_of(*new).preset == DEFAULT_PRESET


def test_folder_of_the_data_is_refused_for_the_run_however_it_is_written(data_dir, tmp_path):
    for data, run in ((data_dir, data_dir / ".." / data_dir.name), (tmp_path, data_dir)):
        with pytest.raises(UserError, match="the same folder"):
            plan_of("--data_dir", data, "--anneal_data_dir", data_dir, "--checkpoint_dir", run)


# ---- checkpoints of older versions


def test_run_of_an_older_version_resumes_with_its_schedule_to_the_bit(data_dir, straight, tmp_path, monkeypatch):
    """The checkpoint is what that version wrote: without the fields that it did not have."""
    folder = tmp_path / "run"
    real = loop.train_update

    def train_update(run, stop):
        if run.update == 7:  # after the checkpoint of step 10, while the learning rates decay
            raise ZeroDivisionError
        return real(run, stop)

    monkeypatch.setattr(loop, "train_update", train_update)
    with pytest.raises(ZeroDivisionError):
        start(data_dir, folder)
    monkeypatch.undo()
    edit(list_checkpoints(folder)[-1][1], lambda state: [state["train_config"].pop(name) for name in ("lr_schedule", "constant_share")])
    assert start(data_dir, folder, "--resume", "auto") == 0
    assert losses(folder) == losses(straight)
    assert len(losses(folder)) == 6
    torch.testing.assert_close(weights(folder), weights(straight), rtol=0, atol=0)
    saved = torch.load(list_checkpoints(folder)[-1][1], weights_only=True)["train_config"]
    assert saved["lr_schedule"] == "cosine"


def test_evaluation_of_a_checkpoint_is_pending_unless_it_was_made_at_its_step():
    """An older version evaluated before it saved, and had no `val_step`. A run whose last
    evaluation is pending is not complete."""
    config = TrainConfig(gradient_accumulation_steps=2, eval_interval=8)
    config = dataclasses.replace(config, total_tokens=8 * config.tokens_per_update)
    made = {"val_bpb": 2.0, "val_step": 8.0}
    for latest, at_step_8, at_step_16 in (({}, True, True), ({"val_bpb": 2.0}, False, False), (made, False, True)):
        assert [evaluation_is_pending(config, update, latest) for update in (4, 8)] == [at_step_8, at_step_16]
        saved = {"tokens_seen": config.total_tokens, "metrics": {"latest": latest}}
        assert [Plan("tiny", GPTConfig(), config, None, saved, None, has_files).is_complete for has_files in (False, True)] == [False, not at_step_16]
    assert not any(evaluation_is_pending(config, update, {}) for update in (0, 3, 5))


# ---- folders that no run can be resumed from


def lose(path: Path) -> None:
    path.unlink()
    path.symlink_to("gone.pt")


DAMAGES = {  # a way to damage every checkpoint, and the words that report it; for more of them, see test_checkpoint.py
    "cut": (cut, "damaged"),
    "another version": (
        lambda path: edit(path, lambda state: state["train_config"].update(seeed=1)),
        "no field seeed: the file is from another version",
    ),
    "a folder": (lambda path: [path.unlink(), path.mkdir()], "is a folder"),
    "a link to nothing": pytest.param(lose, "there is no checkpoint", marks=posix),
}


@pytest.fixture
def broken(straight, tmp_path) -> Path:
    """Return a copy of a finished run with the leftovers of a killed process: a partial checkpoint,
    and metrics beyond the newest one."""
    folder = shutil.copytree(straight, tmp_path / "run")
    (folder / "checkpoint_step26.pt.tmp").write_bytes(b"half")
    with open(folder / "metrics.jsonl", "ab") as file:
        file.write(b'{"step": 26, "update": 13, "tokens": 3328, "loss": 3.0}\n')
    return folder


def assert_refused(data_dir, folder: Path, capsys, *words: str) -> None:
    """Check that neither a run nor a dry run changes the folder; both print the same one line and
    exit with 2."""
    before = snapshot(folder)
    for flags in ([], ["--dry_run"]):
        capsys.readouterr()
        assert start(data_dir, folder, "--resume", "auto", *flags) == 2
        output, errors = capsys.readouterr()
        assert output == ""
        assert errors.count("\n") == 1
        for word in (str(folder), *words):
            assert word in errors
        assert snapshot(folder) == before


@pytest.mark.parametrize(("damage", "words"), DAMAGES.values(), ids=DAMAGES)
def test_folder_whose_checkpoints_all_fail_to_load_is_an_error_and_unchanged(data_dir, broken, capsys, damage, words):
    """Its model.pt loads."""
    for _, path in list_checkpoints(broken):
        damage(path)
    assert_refused(data_dir, broken, capsys, words, "checkpoint_step24.pt", "move the folder away", "--checkpoint_dir")


def test_folder_with_weights_only_is_an_error_and_unchanged(data_dir, broken, capsys):
    for _, path in list_checkpoints(broken):
        path.unlink()
    assert_refused(data_dir, broken, capsys, "model.pt", "cannot resume from weights alone", "move the folder away", "--checkpoint_dir")


@posix
def test_unreadable_checkpoint_is_an_error_and_no_older_one_is_used(data_dir, broken, capsys):
    (broken / "checkpoint_step24.pt").chmod(0)
    broken.chmod(0o777)
    with as_nobody(data_dir, broken):
        assert_refused(data_dir, broken, capsys, "checkpoint_step24.pt: Permission denied; get permission to read")


@posix
@pytest.mark.parametrize("rights", [0, 0o444, 0o111])
def test_folder_that_cannot_be_read_is_an_error_and_unchanged(data_dir, broken, capsys, rights):
    before = snapshot(broken)
    broken.chmod(rights)
    try:
        with as_nobody(data_dir, broken.parent):
            assert start(data_dir, broken, "--resume", "auto") == 2
    finally:
        broken.chmod(0o755)
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    assert "Permission denied" in errors
    assert snapshot(broken) == before


def test_other_refusals_leave_the_folder_unchanged_too(data_dir, broken, capsys):
    """A partial checkpoint is deleted and the metrics are truncated only when the run actually
    resumes."""
    before = snapshot(broken)
    named = broken / "checkpoint_step24.pt"
    for *flags, words in (
        ("auto", "--muon_lr", 1, "--muon_lr 1.0 (checkpoint: 0.02)"),
        (named, "--muon_lr", 1, "--muon_lr 1.0 (checkpoint: 0.02)"),
        (broken / "checkpoint_step10.pt", "checkpoint_step24.pt is later than"),
        (broken / "model.pt", "holds only weights"),
        (broken / "no.pt", "there is no checkpoint"),
    ):
        assert start(data_dir, broken, "--resume", *flags) == 2
        assert words in capsys.readouterr().err
        assert snapshot(broken) == before
    assert start(data_dir, broken, "--resume", "auto") == 0
    assert not (broken / "checkpoint_step26.pt.tmp").exists()


def test_older_checkpoint_is_resumed_with_a_notice_for_each_that_fails(data_dir, straight, broken, capsys):
    for _, path in list_checkpoints(broken)[1:]:
        cut(path)
    assert start(data_dir, broken, "--resume", "auto") == 0
    printed = capsys.readouterr()
    assert printed.err.count("notice: skipped: ") == 2
    assert f"resuming from {broken / 'checkpoint_step10.pt'}" in printed.out
    torch.testing.assert_close(weights(broken), weights(straight), rtol=0, atol=0)


def test_run_killed_before_its_first_checkpoint_starts_from_the_beginning(data_dir, straight, tmp_path, capsys):
    folder = shutil.copytree(straight, tmp_path / "run")
    for path in folder.glob("*.pt"):
        path.unlink()
    (folder / "checkpoint_step10.pt.tmp").write_bytes(b"half")
    assert start(data_dir, folder, "--resume", "auto") == 0
    assert "starting a new run" in capsys.readouterr().out
    assert losses(folder) == losses(straight)
    assert not list(folder.glob("*.tmp"))


# ---- the dry run


def test_dry_run_describes_the_run_in_the_folder_and_writes_nothing(data_dir, broken, capsys):
    """Also while another run holds the lock of the folder: a dry run takes none."""
    for path in (broken / "checkpoint_step24.pt", broken / "checkpoint_step20.pt", broken / "model.pt"):
        path.unlink()
    with distributed.only_run_in(broken, World(0, 1, torch.device("cpu"))):
        before = snapshot(broken)
        for resume in ("auto", broken / "checkpoint_step10.pt"):
            argv = ["--data_dir", data_dir, "--checkpoint_dir", broken, "--device", "cpu", "--resume", resume, "--total_tokens", 32 * 8 * 20]
            assert train.main([*map(str, argv), "--dry_run"]) == 0
            output = capsys.readouterr().out
            assert f"resuming from {broken / 'checkpoint_step10.pt'}" in output
            assert "notice: the budget changes from 3,072 to 5,120 tokens" in output
            assert "progress    step 10/40 (update 5/20), 15 updates left" in output
            assert "plan        20 updates = 40 steps of 4 x 32 tokens" in output
            assert "schedule    cosine: warm-up over 4 steps, then down to 0.1" in output
            assert "windows     SSSL: 4 32 keys per layer" in output
        assert snapshot(broken) == before


def test_dry_run_estimates_the_time_of_the_remaining_updates(data_dir, broken, monkeypatch, capsys):
    monkeypatch.setattr("nano_hindi.training.report.matmul_flops", lambda *_: 1e6)  # so slow that seconds differ
    times = []
    for newest in ("checkpoint_step24.pt", "checkpoint_step20.pt", "checkpoint_step10.pt"):
        assert start(data_dir, broken, "--resume", "auto", "--dry_run") == 0
        output = capsys.readouterr().out
        assert f"step {newest[15:17]}/24" in output
        times.append(re.search(r"time        about (.*) at ", output)[1])
        (broken / newest).unlink()
    (broken / "model.pt").unlink()
    assert start(data_dir, broken, "--resume", "auto", "--dry_run") == 0
    output = capsys.readouterr().out
    assert "starting a new run" in output
    assert "progress" not in output
    assert times[0] == "0s"
    assert len({*times, re.search(r"time        about (.*) at ", output)[1]}) == 4


def test_dry_run_refuses_what_the_run_would_refuse(data_dir, straight, capsys):
    errors = set()
    for mode in ([], ["--dry_run"]):
        assert start(data_dir, straight, "--resume", "auto", *mode, "--muon_lr", 0.5) == 2
        errors.add(capsys.readouterr().err)
    assert len(errors) == 1
    assert "--muon_lr 0.5 (checkpoint: 0.02)" in errors.pop()


def test_dry_run_refuses_a_sequence_longer_than_a_split(data_dir, tmp_path, capsys):
    for flags in (["--sequence_len", 10**6], ["--sequence_len", 4000]):  # longer than train.bin, than val.bin
        errors = set()
        for mode in ([], ["--dry_run"]):
            assert start(data_dir, tmp_path / "run", *mode, *flags) == 2
            errors.add(capsys.readouterr().err)
        assert len(errors) == 1
        assert "but one sequence needs" in errors.pop()


def test_dry_run_names_the_folders_without_data_and_whose_vocabulary_it_has(data_dir, straight, tmp_path, capsys):
    data = ["--data_dir", data_dir, tmp_path / "news", "--anneal_data_dir", tmp_path / "stories"]
    assert train.main([*SMALL, *map(str, [*data, "--checkpoint_dir", tmp_path / "run", "--init_from", straight, "--dry_run"])]) == 0
    output = capsys.readouterr().out
    assert f"data        none in {tmp_path / 'news'}, {tmp_path / 'stories'} yet; the vocabulary is the model's, 512 tokens" in output
    assert f"init from   {straight / 'model.pt'}, step 24" in output


def test_dry_run_of_a_new_run_does_not_look_at_the_folder(data_dir, broken, capsys):
    assert start(data_dir, broken, "--dry_run") == 0
    assert "progress" not in capsys.readouterr().out


def test_dry_run_works_without_the_data_and_refuses_other_data(data_dir, straight, tmp_path, capsys):
    assert start(tmp_path / "none", straight, "--resume", "auto", "--dry_run") == 0
    assert re.search(r"data        none in .*; the vocabulary is the checkpoint's, \d+ tokens", capsys.readouterr().out)
    edit(shutil.copytree(straight, tmp_path / "run") / "checkpoint_step24.pt", lambda state: state["data"].update(train_tokens=5))
    assert start(data_dir, tmp_path / "run", "--resume", "auto", "--dry_run") == 2
    assert "data train_tokens differ" in capsys.readouterr().err


# ---- the data of the run


@pytest.fixture
def reordered(data_dir, tmp_path) -> Path:
    """Return data with the same documents as `data_dir` in another order: all counts are equal."""
    return standin.make_data(tmp_path / "reordered", standin.documents(400)[::-1], data_dir / "standin")


def without_digests(data_dir: Path, folder: Path) -> Path:
    """Copy data as an older version wrote it."""
    shutil.copytree(data_dir, folder)
    (folder / DIGESTS).unlink()
    metadata = {key: value for key, value in read_metadata(folder / "preprocess_meta.txt").items() if not key.endswith("_digest")}
    write_metadata(folder / "preprocess_meta.txt", metadata)
    return folder


def notices(output: str) -> list[str]:
    return [line for line in output.splitlines() if line.startswith("notice")]


def test_data_in_another_order_is_not_resumed(data_dir, straight, reordered, capsys):
    before, same = snapshot(straight), ("fingerprint", "train_tokens", "val_tokens")
    assert [getattr(check_data(reordered), name) for name in same] == [getattr(check_data(data_dir), name) for name in same]
    capsys.readouterr()
    assert start(reordered, straight, "--resume", "auto", "--total_tokens", 32 * 8 * 20) == 2
    error = capsys.readouterr().err
    assert "is not the data of this checkpoint: data train_digest, data val_digest differ" in error
    assert "(--init_from MODEL starts it from the weights of this one)" in error
    assert snapshot(straight) == before


def test_token_file_in_another_order_or_with_a_zeroed_tail_is_refused_at_the_start(data_dir, reordered, tmp_path, capsys):
    data = shutil.copytree(data_dir, tmp_path / "data")
    zeroed = (data / "train.bin").read_bytes()
    for name, content in (("train.bin", zeroed[:-400] + bytes(400)), ("val.bin", (reordered / "val.bin").read_bytes())):
        (data / name).write_bytes(content)
        capsys.readouterr()
        assert start(data, tmp_path / "run") == 2
        [error] = capsys.readouterr().err.splitlines()
        assert f"{name} is damaged: from byte 0 on it is not what data/preprocess.py wrote; restore it, or run data/preprocess.py again" in error
        assert not (tmp_path / "run").exists()
        shutil.copy(data_dir / name, data / name)


def test_digest_that_only_one_record_of_the_data_has_is_no_difference():
    now = {"train_tokens": 9, "train_digest": "ab"}
    for saved, found in (({}, []), ({"train_digest": ""}, []), ({"train_digest": "cd"}, ["train_digest"])):
        assert different_keys({"train_tokens": 9, **saved}, now) == found
    assert different_keys(now, now | {"train_digest": ""}) == []


def test_data_and_checkpoints_of_an_older_version_resume_with_one_notice(data_dir, straight, tmp_path, capsys):
    old = without_digests(data_dir, tmp_path / "old")
    assert start(old, tmp_path / "run") == 0
    assert [line for line in notices(capsys.readouterr().out) if "digest" in line] == [
        f"notice: {old} has no digests, because an older version made it: damage, or another order, is not noticed"
    ]
    for name, weight in weights(straight).items():
        assert torch.equal(weight, weights(tmp_path / "run")[name])
    for data, says in ((data_dir, ["the checkpoint has no digest of its data"]), (old, ["has no digests"])):
        assert start(data, tmp_path / "run", "--resume", "auto") == 0
        found = notices(capsys.readouterr().out)
        assert len(found) == len(says)
        assert says[0] in found[0]
    assert start(old, tmp_path / "run", "--resume", "auto", "--verify_data") == 2
    assert "has no digests to verify" in capsys.readouterr().err
    folder = shutil.copytree(straight, tmp_path / "new run")  # a checkpoint with digests
    assert start(old, folder, "--resume", "auto") == 0
    assert len(notices(capsys.readouterr().out)) == 1


def test_verify_data_reads_everything_and_a_start_a_sample(data_dir, tmp_path, monkeypatch, capsys):
    data = damaged_between_samples(data_dir, tmp_path / "data", monkeypatch)
    argv = arguments(data, tmp_path / "run", "--dry_run")
    assert train.main(argv) == 0
    assert train.main([*argv, "--verify_data"]) == 2
    assert "train.bin is damaged: from byte 4,400 on it is not what data/preprocess.py wrote" in capsys.readouterr().err
    (data / DIGESTS).unlink()  # then all of it is compared with the digest in preprocess_meta.txt
    assert train.main(argv) == 2
    assert "train.bin is damaged: it is not what data/preprocess.py wrote" in capsys.readouterr().err
    shutil.copy(data_dir / "train.bin", data / "train.bin")
    assert train.main(argv) == 0


# ---- another budget, another folder


@pytest.mark.parametrize("kept", ["model.pt", "checkpoint_step20.pt", pytest.param("a link to nothing", marks=posix)])
def test_run_of_another_folder_does_not_replace_the_one_of_this(data_dir, straight, tmp_path, capsys, kept):
    """No step is later than that of the checkpoint."""
    other = tmp_path / "other"
    other.mkdir()
    if kept == "a link to nothing":
        (other / "model.pt").symlink_to("gone.pt")
    else:
        shutil.copy(straight / kept, other)
    before = snapshot(other)
    for resume, words in (
        ([], "already holds a run; resume it with --resume auto"),
        (["--resume", straight / "checkpoint_step24.pt"], "already holds a run, which this one would replace; choose another --checkpoint_dir"),
    ):
        assert start(data_dir, other, *resume) == 2
        assert words in capsys.readouterr().err
        assert snapshot(other) == before


@pytest.mark.parametrize("change", [lambda path: edit(path, lambda state: state.update(step=20)), cut], ids=["another step", "cut"])
def test_model_pt_of_another_step_or_a_damaged_one_is_written_again(data_dir, straight, tmp_path, capsys, change):
    """As the run was killed, or the disk was full, after the last checkpoint. The checkpoint is
    named in another way than the folder."""
    folder = shutil.copytree(straight, tmp_path / "run")
    for finished in (False, True):
        if not finished:
            change(folder / "model.pt")
        capsys.readouterr()
        assert start(data_dir, folder, "--resume", folder / ".." / "run" / "checkpoint_step24.pt") == 0
        assert ("this run is finished" in capsys.readouterr().out) == finished
        assert load_for_inference(folder).step == 24


def promised(folder: Path, output: str) -> dict:
    """Return model.pt of a run that has ended, after checking it against the last lines of the
    output: the files are there, and the figures are those of the checkpoint."""
    summary = output[output.index("done:") :]
    assert re.search(r"^next {8}\S*python\S* generate\.py", summary, re.MULTILINE)
    names = re.search(r"^files .*?: (.*)$", summary, re.MULTILINE)[1].split(", ")
    model = load_for_inference(folder)
    assert sorted(names) == sorted(["model.pt", f"checkpoint_step{model.step}.pt", "metrics.jsonl", "curves.png"])
    assert all((folder / name).is_file() for name in names)
    records = read_metrics(folder / "metrics.jsonl")
    assert [record["step"] for record in records if "loss" in record] == list(range(4, model.step + 1, 4))
    [bpb] = [record["val_bpb"] for record in records if record["step"] == model.step and "val_bpb" in record]
    latest = torch.load(folder / f"checkpoint_step{model.step}.pt", weights_only=True)["metrics"]["latest"]
    assert (latest["val_step"], latest["val_bpb"]) == (model.step, bpb)
    assert f"result      {bpb:.4f} bits per byte" in summary
    return model.state_dict


@pytest.mark.slow
@pytest.mark.parametrize("place", ["same folder", "another folder"])
def test_run_that_is_resumed_with_any_budget_ends_with_all_that_it_promises(data_dir, straight, tmp_path, capsys, place):
    """`straight` is finished at step 24; its checkpoint of step 20 has no evaluation of its own."""
    tokens = 32 * 4  # per step
    for step, budget, end in ((24, 24, 24), (24, 32, 32), (24, 8, 24), (20, 8, 20)):
        old = shutil.copytree(straight, tmp_path / f"{step} {budget}")
        if step == 20:
            (old / "checkpoint_step24.pt").unlink()
        folder = old if place == "same folder" else tmp_path / f"{step} {budget} new"
        capsys.readouterr()
        for resume in (old / f"checkpoint_step{step}.pt", "auto"):  # the second time there is nothing left to do
            assert start(data_dir, folder, "--total_tokens", budget * tokens, "--resume", resume) == 0
            output = capsys.readouterr().out
            found = promised(folder, output)
            assert list_checkpoints(folder)[-1][0] == end
            assert ("samples:" in output) != ("this run is finished" in output)
        assert "this run is finished" in output
        assert ("the run ends here" in output) == (budget < end)
        made = torch.load(folder / f"checkpoint_step{end}.pt", weights_only=True)["model_state_dict"]
        torch.testing.assert_close(found, made, rtol=0, atol=0)
        if (step, end) == (20, 20):
            torch.testing.assert_close(made, torch.load(straight / "checkpoint_step20.pt", weights_only=True)["model_state_dict"], rtol=0, atol=0)


def test_run_that_ends_before_its_first_log_line_has_a_summary(data_dir, straight, tmp_path, capsys):
    """A run stopped in its first update has logged nothing."""
    folder = tmp_path / "run"
    old = shutil.copytree(straight, tmp_path / "old")
    edit(old / "checkpoint_step20.pt", lambda state: state["metrics"].update(latest={}))
    assert start(data_dir, folder, "--total_tokens", "256", "--resume", old / "checkpoint_step20.pt") == 0
    assert re.search(r"^result +[\d.]+ bits per byte, validation loss [\d.]+$", capsys.readouterr().out, re.MULTILINE)
