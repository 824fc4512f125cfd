"""Compare with nanochat and nanoGPT: train their models by their own code, and ours by recipes, on
the same tokens in the same order, one core per run.

python tests/benchmarks/peers.py --corpus DIR --work DIR --nanochat FOLDER --nanogpt FOLDER
python tests/benchmarks/peers.py default tied_only ... --vocab_size 68096 --equal_parameters

FOLDER is a checkout of karpathy/nanochat or karpathy/nanoGPT. Model, initialization, optimizer,
schedules and the flags' defaults are theirs; what a training script of theirs defines is taken from
its source. All models have the layers, heads and sequences per update of `small_runs`, compute in
float32 and are evaluated by `evaluate_bpb`. Nothing is compiled.

nanochat scales its learning rates by the square root of the batch size. `--nanochat_lr` multiplies
them once more, with 11.3 undoing it at 4,096 tokens per update; `11.3:0.1` also multiplies the
weight decay. Its decay depends on the number of weights, by its rule.

nanoGPT's warm-up is 2 % of the updates, as in its config/train_shakespeare_char.py; its learning
rate falls to a tenth.

`--work` may be that of learning.py with the same flags: runs that it has are not repeated. Another
tokenizer needs another `--work`.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import dataclasses
import functools
import importlib
import importlib.util
import itertools
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest import mock

import learning
import torch
from recipes import Recipe
from small_runs import ALL, BATCH, SHAPE, Run, configs, data_info, learn
from torch import Tensor, nn
from torch.nn import functional as F

from nano_hindi.config import GPTConfig, TrainConfig

LOGITS = 2**26  # that a peer holds at once in each of several tensors
WIDTH_STEP = 2 * SHAPE["n_head"]  # rotary embeddings need an even width of a head
NANOCHAT_SCRIPT = {  # what scripts/base_train.py defines for an optimizer, in its order
    *("get_scaling_params", "num_scaling_params", "target_tokens", "build_model_meta", "d12_ref", "D_REF", "B_REF"),
    *("batch_lr_scale", "batch_ratio", "weight_decay_scaled", "optimizer", "get_lr_multiplier", "get_muon_momentum", "get_weight_decay"),
}


def names_of(statement: ast.stmt) -> set[str]:
    """Return the names that a statement defines, or the object whose method it calls."""
    if isinstance(statement, ast.FunctionDef):
        return {statement.name}
    if isinstance(statement, ast.Expr):
        return {node.value.id for node in ast.walk(statement) if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)}
    return {node.id for node in ast.walk(statement) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}


def run_part(script: Path, names: set[str], **given: object) -> dict:
    """Run the top-level statements of a script that define `names`, and return its namespace.

    The script cannot be imported: it would train. `given` are names that it defines elsewhere.
    """
    body = [statement for statement in ast.parse(script.read_text(encoding="utf-8")).body if names_of(statement) & names]
    if missing := names - {name for statement in body for name in names_of(statement)}:
        raise SystemExit(f"{script} defines no {', '.join(sorted(missing))}; use a checkout of 2026")
    namespace = dict(given)
    exec(compile(ast.Module(body, []), str(script), "exec"), namespace)
    return namespace


class OneRank:
    """The interface of `TrainOptimizer` on one rank, without clipping."""

    def reduce_gradients(self) -> None:
        """Do nothing: there is one rank."""

    def grad_norm_and_scale(self, _: float) -> tuple[Tensor, Tensor]:
        """Leave the gradient as it is, and return no norm."""
        return torch.full((), math.nan), torch.ones(())


# ---- nanochat


def import_nanochat(folder: Path) -> ModuleType:
    os.environ["NANOCHAT_DTYPE"] = "float32"
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    return importlib.import_module("nanochat.gpt")


def nanochat_model(config: GPTConfig, *, folder: Path) -> nn.Module:
    gpt = import_nanochat(folder)

    class Model(gpt.GPT):
        def forward(self, idx: Tensor, targets: Tensor, loss_reduction: str = "mean") -> Tensor:
            loss = super().forward(idx, targets, loss_reduction=loss_reduction)
            return loss.view(targets.shape) if loss_reduction == "none" else loss

    return Model(gpt.GPTConfig(vocab_size=config.vocab_size, n_embd=config.n_embd, **SHAPE))


class NanochatOptimizer(OneRank):
    """nanochat's optimizer with its schedules. `lr` and `decay` multiply its learning rates and its
    weight decay."""

    def __init__(self, model: nn.Module, config: TrainConfig, *_: object, folder: Path, lr: float, decay: float):
        script, gpt = folder / "scripts" / "base_train.py", import_nanochat(folder)
        flags = run_part(script, {"parser"}, argparse=argparse)["parser"].parse_args([])
        for name, value in vars(flags).items():
            if name.endswith("_lr"):
                setattr(flags, name, value * lr)
        flags.weight_decay *= decay
        given = {"args": flags, "model": model, "vocab_size": model.config.vocab_size}
        given |= {"total_batch_size": config.tokens_per_update, "num_iterations": config.updates}
        given |= {"torch": torch, "math": math, "GPT": gpt.GPT, "GPTConfig": gpt.GPTConfig, "print0": lambda *_: None}
        with contextlib.redirect_stdout(None):
            self.script = SimpleNamespace(**run_part(script, NANOCHAT_SCRIPT, **given))
        self.model, self.updates = model, 0

    def step(self, *_: object) -> None:
        for group in self.script.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * self.script.get_lr_multiplier(self.updates)
            if group["kind"] == "muon":
                group["momentum"] = self.script.get_muon_momentum(self.updates)
                group["weight_decay"] = self.script.get_weight_decay(self.updates)
        with torch.compiler.set_stance("force_eager"):
            self.script.optimizer.step()
        self.model.zero_grad(set_to_none=True)
        self.updates += 1


# ---- nanoGPT


@functools.cache
def import_nanogpt(folder: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("nanogpt_model", folder / "model.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclass looks itself up
    spec.loader.exec_module(module)
    return module


def nanogpt_model(config: GPTConfig, *, folder: Path) -> nn.Module:
    gpt = import_nanogpt(folder)

    class Model(gpt.GPT):
        def init_weights(self) -> None:
            """Do nothing: the constructor has initialized them."""

        def forward(self, idx: Tensor, targets: Tensor, loss_reduction: str = "mean") -> Tensor:
            logits, loss = super().forward(idx, targets)
            if loss_reduction == "mean":
                return loss
            return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1, reduction="none").view(targets.shape)

    flags = run_part(folder / "train.py", {"dropout", "bias"})
    shape = {"block_size": config.sequence_len, "n_layer": config.n_layer, "n_head": config.n_head, "n_embd": config.n_embd}
    with contextlib.redirect_stdout(None):
        return Model(gpt.GPTConfig(vocab_size=config.vocab_size, dropout=flags["dropout"], bias=flags["bias"], **shape))


class NanogptOptimizer(OneRank):
    """nanoGPT's AdamW with its schedule."""

    def __init__(self, model: nn.Module, config: TrainConfig, *_: object, folder: Path, lr: float):
        names = {"weight_decay", "beta1", "beta2", "grad_clip", "get_lr"}
        own = {"learning_rate": lr, "min_lr": lr / 10, "warmup_iters": config.updates // 50, "lr_decay_iters": config.updates}
        self.script, self.model, self.updates = SimpleNamespace(**run_part(folder / "train.py", names, math=math, **own)), model, 0
        with contextlib.redirect_stdout(None):
            self.adamw = model.configure_optimizers(self.script.weight_decay, lr, (self.script.beta1, self.script.beta2), "cpu")

    def grad_norm_and_scale(self, _: float) -> tuple[Tensor, Tensor]:
        return nn.utils.clip_grad_norm_(self.model.parameters(), self.script.grad_clip), torch.ones(())

    def step(self, *_: object) -> None:
        for group in self.adamw.param_groups:
            group["lr"] = self.script.get_lr(self.updates)
        self.adamw.step()
        self.adamw.zero_grad(set_to_none=True)
        self.updates += 1


# ---- the comparison


def commit(folder: Path) -> str:
    """Return the short commit of a checkout, or nothing for a folder without .git."""
    if not (folder / ".git").exists():
        return ""
    return "-" + subprocess.run(["git", "-C", folder, "rev-parse", "--short=8", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()


@dataclasses.dataclass(frozen=True)
class Peers:
    """The peers and their settings. `nanochat_lr`: factors of the learning rates and the decay."""

    vocab_size: int
    nanochat: Path | None = None
    nanochat_lr: tuple[tuple[float, float], ...] = ()
    nanogpt: Path | None = None
    nanogpt_lr: tuple[float, ...] = ()

    def recipes(self) -> dict[str, Recipe]:
        """Return a recipe for each setting of each peer."""
        at_once = min(BATCH, 1 << max(0, int(math.log2(LOGITS / (SHAPE["sequence_len"] * self.vocab_size)))))
        found: dict[str, Recipe] = {}

        def add(name: str, folder: Path, differs: str, model: Callable, optimizer: Callable, **setting: float) -> None:
            parts = {"model": functools.partial(model, folder=folder), "optimizer": functools.partial(optimizer, folder=folder, **setting)}
            found[name] = Recipe(differs, at_once=at_once, **parts)

        if self.nanochat:
            for lr, decay in self.nanochat_lr:
                name = f"nanochat{commit(self.nanochat)}-lr{lr:g}" + (f"-decay{decay:g}" if decay != 1 else "")
                differs = f"nanochat, learning rates x {lr:g}, decay x {decay:g}"
                add(name, self.nanochat, differs, nanochat_model, NanochatOptimizer, lr=lr, decay=decay)
        if self.nanogpt:
            for lr in self.nanogpt_lr:
                name = f"nanogpt{commit(self.nanogpt)}-lr{lr:g}"
                add(name, self.nanogpt, f"nanoGPT, learning rate {lr:g}", nanogpt_model, NanogptOptimizer, lr=lr)
        return found

    def learn(self, run: Run, data_dir: str, eval_tokens: int) -> list[dict]:
        """Train as `small_runs.learn` does, which knows only our recipes."""
        with mock.patch.dict(ALL, self.recipes()):
            return learn(run, data_dir, eval_tokens)


def parameters(run: Run, vocab_size: int) -> tuple[int, int]:
    """Return the number of parameters, and of those outside embeddings and lm_head."""
    recipe = ALL[run.recipe]
    with torch.device("meta"), contextlib.redirect_stdout(None), recipe.patched():
        model = recipe.model(configs(run, recipe, vocab_size)[0])
    tables = {p for name, module in model.named_modules() if isinstance(module, nn.Embedding) or name == "lm_head" for p in module.parameters()}
    return sum(p.numel() for p in model.parameters()), sum(p.numel() for p in model.parameters() if p not in tables)


def of_equal_size(run: Run, total: int, vocab_size: int) -> Run:
    """Return the run at the width that brings its number of parameters closest to `total`."""
    candidates = [dataclasses.replace(run, width=width) for width in range(4 * WIDTH_STEP, 8 * run.width, WIDTH_STEP)]
    return min(candidates, key=lambda candidate: abs(parameters(candidate, vocab_size)[0] - total))


def reached(points: list[dict], bpb: float) -> str:
    """Return the tokens and the seconds after which a curve is at `bpb`, linear between its
    points."""
    for a, b in itertools.pairwise(points):
        if b["bpb"] <= bpb < a["bpb"]:
            fraction = (a["bpb"] - bpb) / (a["bpb"] - b["bpb"])
            return " | ".join(f"{a[key] + fraction * (b[key] - a[key]):,.0f}" for key in ("tokens", "seconds"))
    return f"{points[0]['tokens']:,} at most | {points[0]['seconds']:,.0f} at most" if points[0]["bpb"] <= bpb else "not reached | "


def factors(text: str) -> tuple[float, float]:
    lr, _, decay = text.partition(":")
    return float(lr), float(decay or 1)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", default=["default"], metavar="RECIPE", help=f"ours (default: default): {', '.join(ALL)}")
    parser.add_argument("--corpus", type=Path, required=True, help="a folder of .txt files")
    parser.add_argument("--work", type=Path, required=True, help="folder for token files and results")
    parser.add_argument("--nanochat", type=Path, metavar="FOLDER", help="a checkout of karpathy/nanochat")
    parser.add_argument("--nanogpt", type=Path, metavar="FOLDER", help="a checkout of karpathy/nanoGPT")
    best = [(5.6, 1.0), (5.6, 0.1), (11.3, 0.1), (11.3, 1.0), (22.6, 0.1)]
    parser.add_argument(
        "--nanochat_lr", type=factors, nargs="+", default=best, metavar="LR[:DECAY]", help="factors (default: the five of docs/LOG.md)"
    )
    parser.add_argument("--nanogpt_lr", type=float, nargs="+", default=[0.0012, 0.003, 0.006], help="learning rates")
    parser.add_argument("--vocab_size", type=int, default=8192, help="of the tokenizer that is trained on the corpus")
    parser.add_argument(
        "--tokenizer", metavar="DIR", help="a folder with tokenizer.json that is used instead, for a corpus that is too small to train one"
    )
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--equal_parameters", action="store_true", help="choose the other widths for the total parameters of the first recipe")
    parser.add_argument("--tokens", type=int, default=2_097_152)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--unseen", action="store_true", help="as in learning.py; needs its own --work")
    parser.add_argument("--eval_tokens", type=int, default=65_536)
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args(argv)
    if unknown := set(args.recipes) - set(ALL):
        raise SystemExit(f"there is no recipe {', '.join(sorted(unknown))}; these are: {', '.join(ALL)}")
    data_dir = learning.prepare(args.corpus, args.vocab_size, args.work / f"tokens{args.vocab_size}", args.unseen, args.tokenizer)
    vocab_size = data_info(str(data_dir))[0].vocab_size
    peers = Peers(vocab_size, args.nanochat, tuple(args.nanochat_lr), args.nanogpt, tuple(args.nanogpt_lr))
    with mock.patch.dict(ALL, peers.recipes()):
        compare(args, peers, str(data_dir))


def compare(args: argparse.Namespace, peers: Peers, data_dir: str) -> None:
    """Train what is missing, and print each run, the table, the curves and when each recipe reaches
    the end of the best peer."""
    theirs = list(peers.recipes())
    sizes: dict[str, str] = {}
    widths: dict[str, int] = {}
    for name in [*args.recipes, *theirs]:
        run = Run(name, 0, args.width, args.tokens)
        if args.equal_parameters and name != args.recipes[0]:
            run = of_equal_size(run, parameters(dataclasses.replace(run, recipe=args.recipes[0]), peers.vocab_size)[0], peers.vocab_size)
        total, inner = parameters(run, peers.vocab_size)
        widths[name], sizes[name] = run.width, f"width {run.width}, {total:,} parameters, {inner:,} without embeddings"
        ALL[name] = dataclasses.replace(ALL[name], differs=f"{ALL[name].differs}; {sizes[name]}")
        print(f"{name}: {sizes[name]}", flush=True)
    runs = [Run(name, seed, width, args.tokens) for seed in args.seeds for name, width in widths.items()]
    missing = [run for run in runs if learning.load(args.work, run) is None]
    with contextlib.suppress(KeyboardInterrupt):  # the table shows the finished runs
        for run, points in learning.outcomes(missing, data_dir, args.eval_tokens, args.jobs, peers.learn):
            learning.save(args.work, run, points)
            print(f"{run.name}: {' '.join(format(p['bpb'], '.4f') for p in points)}, {points[-1]['seconds']:.0f} s", flush=True)
    print("\n".join(["", *learning.table(args.work, runs), "", *learning.curves(args.work, runs)]))
    curves = {}
    for name in widths:
        if several := [points for run in runs if run.recipe == name and (points := learning.load(args.work, run))]:
            curves[name] = [{key: statistics.mean(point[key] for point in at) for key in at[0]} for at in zip(*several, strict=True)]
    if ends := {name: curves[name][-1]["bpb"] for name in theirs if name in curves}:
        best = min(ends, key=ends.__getitem__)
        print(f"\n| {ends[best]:.4f}, the end of {best}, is reached by | after tokens | after seconds |\n|---|---|---|")
        print("\n".join(f"| {name} | {reached(curve, ends[best])} |" for name, curve in curves.items()))


if __name__ == "__main__":
    main()
