"""generate.py as a user sees it: text streamed in whole characters, reproducible by seed, ending at
eos, and one-line user errors."""

import io
import itertools
import re
import signal
import sys
import threading
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

import generate
from conftest import ROOT, assert_parted_between_characters, run_command, run_script, spelled
from nano_hindi import engine
from nano_hindi.inference import text as inference_text
from nano_hindi.inference.loading import build_model, load_for_inference
from nano_hindi.inference.settings import SAMPLE_PROMPTS
from nano_hindi.training.metrics import read_metrics


def text_of(capsys, *argv) -> str:
    assert generate.main([*map(str, argv), "--device", "cpu"]) == 0
    return capsys.readouterr().out


def test_prompt_is_continued_and_the_same_seed_repeats_the_text(straight, capsys):
    argv = ("--checkpoint", straight, "--prompt", "भारत एक", "--max_tokens", 30)
    first, again, other = (text_of(capsys, *argv, "--seed", seed) for seed in (1, 1, 2))
    assert first == again != other
    assert first.startswith("भारत एक")
    assert len(first) > len("भारत एक") + 5


def test_python_of_the_guide_evaluates_as_training_did_and_trains(straight, data_dir, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    guide = (ROOT / "docs" / "generation.md").read_text(encoding="utf-8")
    code, training = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    for given, value in (('"checkpoints"', str(straight)), ('"data"', str(data_dir)), ("100_000", 640)):  # 640: as in the run
        assert given in code
        code = code.replace(given, repr(value))
    names: dict = {}
    exec(code, names)
    text, loss, bpb = re.fullmatch(r"(.+)\nEvaluation\(loss=(.+), bpb=(.+)\)\n", capsys.readouterr().out, re.DOTALL).groups()
    assert text.startswith("एक समय की बात है")
    last = [record for record in read_metrics(straight / "metrics.jsonl") if "val_bpb" in record][-1]
    assert (float(loss), float(bpb)) == pytest.approx((last["val_loss"], last["val_bpb"]))
    exec(training, names)
    expected = cross_entropy(names["logits"][0, :-1], names["x"][0, 1:], reduction="none")
    torch.testing.assert_close(names["losses"][0], expected)
    assert names["losses"].mean() < names["loss"]
    tuned = load_for_inference(tmp_path / "tuned").state_dict
    assert all(torch.equal(weight, tuned[name]) for name, weight in names["model"].state_dict().items())


def test_greedy_text_is_the_most_probable_continuation(straight, capsys):
    """Against the logits of the whole text so far, without a cache."""
    trained = load_for_inference(straight)
    model = build_model(trained, torch.device("cpu"))
    ids = trained.tokenizer.encode_prompt("राम")
    assert ids[0] == trained.tokenizer.bos_id
    for _ in range(12):
        token = int(model(torch.tensor([ids]))[0, -1].argmax())
        if token == trained.tokenizer.eos_id:
            break
        ids.append(token)
    printed = text_of(capsys, "--checkpoint", straight, "--prompt", "राम", "--max_tokens", 12, "--temperature", 0)
    assert printed == trained.tokenizer.decode(ids) + "\n"


def test_every_kind_of_checkpoint_is_accepted(straight, capsys):
    argv = ("--prompt", "राम", "--max_tokens", 5, "--seed", 3)
    texts = {text_of(capsys, "--checkpoint", straight / name, *argv) for name in ("model.pt", "checkpoint_step24.pt", "")}
    assert len(texts) == 1


def test_output_is_the_whole_text_in_whole_characters(spelling, capsys, monkeypatch):
    writes = []
    monkeypatch.setattr(inference_text, "print", lambda *values, **_: writes.append("".join(values)), raising=False)
    for n in (*range(1, 16), 40):
        writes.clear()
        argv = ["--checkpoint", str(spelling), "--prompt", "राम", "--max_tokens", str(n), "--temperature", "0", "--device", "cpu"]
        assert generate.main(argv) == 0
        assert "".join(writes) == "राम" + spelled(n)
        assert_parted_between_characters(writes)
        assert len([piece for piece in writes if piece]) > n / 4


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("राम", "राम क्षि"),
        ("राम ", "राम क्षि"),  # its space belongs to the next word
        ("राम।", "राम। क्षि"),
        ("राम\n", "राम\n क्षि"),
        ("", "क्षि"),
        ("राम1", "राम1️⃣ॐ"),  # in the middle of a character
        ("क्", "क्षि"),
        ("\u0958", "\u0915\u093c क्षि"),  # NFC
    ],
)
def test_spacing_after_a_prompt_is_correct(spelling, capsys, prompt, text):
    shown = text_of(capsys, "--checkpoint", spelling, "--prompt", prompt, "--max_tokens", 12, "--temperature", 0)
    assert shown.startswith(text)


def test_space_at_the_end_of_a_prompt_is_followed_by_a_word_without_another_space(straight, capsys):
    """Even with a model that would continue with a matra or a second space."""
    for seed in range(5):
        argv = ("--checkpoint", straight, "--prompt", "भारत एक ", "--max_tokens", 3, "--top_k", 0, "--temperature", 3, "--seed", seed)
        assert text_of(capsys, *argv).startswith("भारत एक ")
    trained = load_for_inference(straight)
    ids, first_ids = trained.tokenizer.encode_open("भारत एक ")
    logits = build_model(trained, torch.device("cpu"))(torch.tensor([ids]))[0, -1].detach()
    best = max(first_ids, key=lambda i: logits[i])
    greedy = text_of(capsys, "--checkpoint", straight, "--prompt", "भारत एक ", "--max_tokens", 1, "--temperature", 0)
    assert greedy == trained.tokenizer.decode([*ids, best]) + "\n"


def test_samples_are_one_batch_and_greedy_samples_equal_a_single_one(spelling, straight, capsys, monkeypatch):
    rows, sample = [], engine.sample_token
    monkeypatch.setattr(engine, "sample_token", lambda logits, *rest: rows.append(len(logits)) or sample(logits, *rest))
    argv = ("--checkpoint", straight, "--prompt", "भारत", "--max_tokens", 8)
    single = text_of(capsys, *argv, "--temperature", 0)
    assert text_of(capsys, *argv, "--temperature", 0, "--num_samples", 3) == "---\n".join([single] * 3)
    assert set(rows) == {1, 3}
    assert rows.count(3) == rows.count(1)
    drawn = text_of(capsys, *argv, "--seed", 5, "--num_samples", 3).split("\n---\n")
    assert len(set(drawn)) == 3
    assert all(text.startswith("भारत") for text in drawn)
    assert text_of(capsys, "--checkpoint", spelling, "--prompt", "अ", "--num_samples", 2) == "अ\n---\nअ\n"  # it ends at eos


def test_ctrl_c_prints_what_every_sample_has_so_far_and_stops_the_command(straight, capsys, monkeypatch):
    argv = ("--checkpoint", straight, "--prompt", "भारत", "--temperature", 0, "--num_samples", 2, "--max_tokens")
    expected = text_of(capsys, *argv, 3)
    tokens, sample = itertools.count(1), engine.sample_token
    monkeypatch.setattr(engine, "sample_token", lambda *args: (sample(*args), next(tokens) == 3 and signal.raise_signal(signal.SIGINT))[0])
    assert generate.main([*map(str, argv), "9", "--device", "cpu"]) == 130
    assert capsys.readouterr().out == expected


def test_prompt_can_come_from_stdin_and_without_one_demo_prompts_are_used(straight, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("\ufeffभारत एक\r\n"))  # as PowerShell sends it
    argv = ["--checkpoint", straight, "--max_tokens", 3, "--seed", 1, "--prompt"]
    text = text_of(capsys, *argv, "-")
    assert text.startswith("भारत एक")
    assert text == text_of(capsys, *argv, "भारत एक")
    demos = text_of(capsys, "--checkpoint", straight, "--max_tokens", 3)
    assert all(prompt in demos for prompt in SAMPLE_PROMPTS)


def test_closed_stdin_is_an_empty_one(straight, capsys, monkeypatch):
    for source in (["--prompt", "-"], ["--interactive"]):
        monkeypatch.setattr(sys, "stdin", None)
        text_of(capsys, "--checkpoint", straight, "--max_tokens", 3, *source)


class Profiled(io.StringIO):
    """Stands in for stdout. Records the files of the package that run from the third print to the
    fourth: the first is the prompt, so that is the third token."""

    prints, files = 0, frozenset()

    def flush(self) -> None:
        self.prints += 1
        profile = self.record if self.prints == 3 else None
        sys.setprofile(profile)
        threading.setprofile(profile)

    def record(self, frame, event, argument) -> None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(ROOT / "nano_hindi"):
            self.files |= {path.relative_to(ROOT / "nano_hindi").as_posix()}


def test_a_token_is_made_and_printed_by_five_files(straight, monkeypatch):
    monkeypatch.setattr(sys, "stdout", Profiled())
    argv = ["--checkpoint", str(straight), "--prompt", "राम", "--max_tokens", "6", "--temperature", "0", "--device", "cpu"]
    assert generate.main(argv) == 0
    assert sys.stdout.prints > 4
    assert sys.stdout.files == {"inference/text.py", "engine.py", "model.py", "flash_attention.py", "sdpa_attention.py"}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_checkpoint_file_is_closed_after_loading(straight, capsys, monkeypatch):
    """Windows cannot delete or replace a memory-mapped file, and training deletes its older
    checkpoints."""
    mapped, sample = [], engine.sample_token
    monkeypatch.setattr(engine, "sample_token", lambda *a: mapped.append("model.pt" in Path("/proc/self/maps").read_text()) or sample(*a))
    text_of(capsys, "--checkpoint", straight / "model.pt", "--prompt", "राम", "--max_tokens", 2)
    assert mapped
    assert not any(mapped)


def test_sampling_at_either_end_of_a_range_has_finite_logits_and_is_greedy_where_the_most_likely_token_remains(straight, capsys, monkeypatch):
    sample = engine.sample_token

    def sample_token(logits, *rest):
        assert logits.isfinite().all()
        return sample(logits, *rest)

    monkeypatch.setattr(engine, "sample_token", sample_token)
    argv = ("--checkpoint", straight, "--max_tokens", 6, "--seed", 1, "--prompt", "राम")
    greedy = text_of(capsys, *argv, "--temperature", 0)
    for flags in (["--temperature", 1e-42], ["--temperature", 5e-324], ["--top_p", 1e-40], ["--top_p", 5e-324], ["--top_k", 1]):
        assert text_of(capsys, *argv, *flags) == greedy, flags
    unlimited = text_of(capsys, *argv, "--top_k", 0)
    assert text_of(capsys, *argv, "--top_k", 2**63 - 1) == unlimited != greedy
    for flags in (["--temperature", 1e30], ["--repetition_penalty", 0.01, "--temperature", 5e-324], ["--repetition_penalty", 100]):
        assert text_of(capsys, *argv, *flags).startswith("राम"), flags
    for seed in (-(2**63), 2**63 - 1):
        assert text_of(capsys, *argv, "--seed", seed).startswith("राम")


@pytest.mark.slow
def test_pipe_that_closes_early_is_not_an_error(straight):
    command = f"{sys.executable} generate.py --checkpoint {straight} --device cpu --prompt 'भारत' --max_tokens 60 | head -c 6"
    done = run_command(["bash", "-c", command])
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.slow
def test_generate_works_as_a_real_command(straight):
    done = run_script("generate.py", "--checkpoint", straight, "--prompt", "भारत", "--max_tokens", 5, "--seed", 1, "--device", "cpu")
    assert done.returncode == 0
    assert done.stdout.startswith("भारत")
    assert done.stderr == ""


@pytest.mark.slow
def test_generation_does_not_import_what_it_does_not_need(straight):
    """Each takes a second to import, a fifth of the time to the first word."""
    code = f"import sys, generate; generate.main(['--checkpoint', {str(straight)!r}, '--prompt', 'एक', '--max_tokens', '2'])\n"
    code += "print({'torch._dynamo', 'sympy', 'transformers'} & set(sys.modules))"
    done = run_script("-c", code)
    assert done.stdout.splitlines()[-1] == "set()", done.stderr
