"""The scripts of tests/benchmarks start, and run with a model whose wte is also lm_head."""

import runpy
import sys

import pytest

from conftest import ROOT
from nano_hindi.config import PRESETS, GPTConfig, TrainConfig

FOLDER = ROOT / "tests" / "benchmarks"
LIBRARIES = {"ideas", "recipes", "small_runs", "timing"}


def start(monkeypatch, name: str, *flags: str) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *flags])
    runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")


@pytest.mark.parametrize("name", sorted({path.stem for path in FOLDER.glob("*.py")} - LIBRARIES))
def test_help_describes_a_benchmark_instead_of_starting_it(monkeypatch, capsys, name):
    if name == "hub_fetch":
        pytest.importorskip("resource", reason="needs POSIX, for the peak memory of a child process")
    with pytest.raises(SystemExit) as ended:
        start(monkeypatch, name, "--help")
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("usage: ")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "printed"), [("muon", "ms"), ("train_step", "ms"), ("decode", "read for a token: 5 MB")])  # 4.2 of them in wte
def test_benchmark_runs_with_one_table(monkeypatch, capsys, name, printed):
    shape = GPTConfig(n_layer=2, n_head=2, n_kv_head=1, n_embd=64, vocab_size=16384, sequence_len=1024, tie_embeddings=True, value_embeddings=False)
    monkeypatch.setitem(PRESETS, "tiny", (shape, TrainConfig()))
    start(monkeypatch, name, "--config", "tiny", "--rounds", "1", *(["--no_compile"] if name == "muon" else []))
    assert printed in capsys.readouterr().out
