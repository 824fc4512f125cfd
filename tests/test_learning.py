"""The recipes of tests/benchmarks/learning.py: each trains, and each is what it says: something else than the default."""

import json
import math
import sys

import pytest

import standin
from conftest import ROOT
from data import preprocess

sys.path.insert(0, str(ROOT / "tests" / "benchmarks"))
import learning
from recipes import RECIPES

WIDTH, UPDATES = 32, 3
TOKENS = UPDATES * learning.BATCH * learning.SHAPE["sequence_len"]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("learning")
    standin.make_tokenizer(folder / "source", 500)
    (folder / "text.txt").write_text("\n<|endoftext|>\n".join(standin.documents(400)), encoding="utf-8")
    assert not preprocess.main(
        ["--input", str(folder / "text.txt"), "--tokenizer", str(folder / "source"), "--output_dir", str(folder / "tokens"), "--val_fraction", "0.1"]
    )
    return str(folder / "tokens")


@pytest.fixture(scope="module")
def ends(data_dir):
    """Bits per byte of each recipe after a few updates."""
    return {name: learning.learn(learning.Run(name, 0, WIDTH, TOKENS), data_dir, 2048)[-1]["bpb"] for name in RECIPES}


def test_every_recipe_trains_and_ends_elsewhere_than_every_other(ends):
    assert all(math.isfinite(end) for end in ends.values())
    assert len(set(ends.values())) == len(RECIPES), ends  # what it replaces may have moved away


def test_the_product_is_as_it_was_behind_every_recipe(ends, data_dir):
    again = learning.learn(learning.Run("default", 0, WIDTH, TOKENS), data_dir, 2048)
    assert again[-1]["bpb"] == ends["default"]
    assert [point["tokens"] for point in again][-1] == TOKENS


def test_a_changed_field_reaches_the_run(ends, data_dir):
    changed = learning.learn(learning.Run("default", 0, WIDTH, TOKENS, (("muon_lr", "0.1"), ("muon_ns_steps", "3"))), data_dir, 2048)
    assert changed[-1]["bpb"] != ends["default"]


def test_the_table_compares_seed_by_seed(tmp_path):
    bpb = {("default", 0): 1.0, ("default", 1): 2.0, ("adamw", 0): 1.1, ("adamw", 1): 2.4}  # 10 and 20 % worse
    runs = [learning.Run(recipe, seed, WIDTH, TOKENS) for recipe, seed in bpb]
    for run in runs:
        (tmp_path / f"{run.name}.json").write_text(json.dumps([{"tokens": TOKENS, "seconds": 2.0, "bpb": bpb[run.recipe, run.seed]}]))
    default, adamw = learning.table(tmp_path, runs)[2:]
    assert default.startswith("| default |")
    assert "1.7500 (1.1000-2.4000)" in adamw
    assert "+15.00% +- 5.00%" in adamw
    assert adamw.endswith("| 2 | 1.00 x |")
