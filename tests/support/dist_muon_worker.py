"""Make the same updates on any number of ranks, for test_optim.py. torchrun runs this file, the
tests import it.

Every update has SHARES gradients, and each rank takes the mean of an equal number of them. So the
mean over the ranks is the same for 1, 2, 3 or 6 ranks, up to rounding, but no two ranks have the
same gradient.
"""

import functools
import os
import sys
import tempfile
import zlib
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from nano_hindi.config import TrainConfig
from nano_hindi.distributed import World
from nano_hindi.optim import TrainOptimizer
from optimizer_step import take_step

SHARES, UPDATES, SAVED_AFTER, BAD_UPDATE = 6, 4, 2, 1
CONFIG = TrainConfig(grad_clip=0.5, weight_decay=0.1)


class StandIn(nn.Module):
    """A module with parameters named and shaped like those of a GPT of width 16, and nothing else:
    6, 3 and 2 matrices of a shape, so no multiple of 2 or of 3 ranks, or fewer than ranks."""

    def __init__(self):
        super().__init__()
        layers, width, vocab_size = 3, 16, 20

        def linear(rows, cols):
            return nn.Linear(cols, rows, bias=False)

        def block(i):
            attn = {name: linear(width, width) for name in ("c_q", "c_proj")} | {name: linear(width // 2, width) for name in ("c_k", "c_v")}
            mlp = {"c_fc": linear(4 * width, width), "c_proj": linear(width, 4 * width)}
            gate = {} if i % 2 else {"ve_gate": linear(2, 4)}
            return nn.ModuleDict({"attn": nn.ModuleDict(attn | gate), "mlp": nn.ModuleDict(mlp)})

        self.transformer = nn.Module()
        self.transformer.wte = nn.Embedding(vocab_size, width)
        self.transformer.h = nn.ModuleList(block(i) for i in range(layers))
        self.lm_head = linear(vocab_size, width)
        self.value_embeds = nn.ModuleDict({str(i): nn.Embedding(vocab_size, width // 2) for i in (0, 2)})
        self.resid_lambdas = nn.Parameter(torch.ones(layers))
        self.x0_lambdas = nn.Parameter(torch.zeros(layers))
        for name, p in self.named_parameters():
            p.data = randn(f"weight of {name}", p.shape)


def randn(what: str, shape) -> torch.Tensor:
    """Return normally distributed numbers that depend only on `what`."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(what.encode())))


def set_gradients(parameters: dict[str, nn.Parameter], update: int, rank: int = 0, world_size: int = 1, nan: bool = False) -> None:
    """Set every parameter's gradient to this rank's gradient of `update`. With `nan`, one element
    on the last rank is nan."""
    part = SHARES // world_size
    for name, p in parameters.items():
        p.grad = torch.stack([randn(f"gradient {update} {i} {name}", p.shape) for i in range(rank * part, (rank + 1) * part)]).mean(0)
    if nan and rank == world_size - 1:
        next(iter(parameters.values())).grad.view(-1)[0] = torch.nan


def trained(rank: int, world_size: int, saved: dict | None = None) -> dict:
    """Make UPDATES updates of a StandIn, or those left after `saved`. On one rank, the gradient of
    BAD_UPDATE is not finite. Returns weights, norms, and the state at the end and after SAVED_AFTER
    updates."""
    model = StandIn()
    parameters = dict(model.named_parameters())
    optimizer = TrainOptimizer(model, CONFIG, World(rank, world_size, torch.device("cpu")))
    out = {"norms": []}
    if saved:
        load_weights(parameters, saved["weights"])
        optimizer.load_state_dict(saved["state"])
    for update in range(SAVED_AFTER if saved else 0, UPDATES):
        set_gradients(parameters, update, rank, world_size, nan=update == BAD_UPDATE)
        out["norms"].append(take_step(optimizer, 1 / (1 + update)))
        if update + 1 == SAVED_AFTER:
            out["saved"] = {"weights": weights(parameters), "state": copied(optimizer.state_dict())}
    return out | {"weights": weights(parameters), "state": copied(optimizer.state_dict())}


def weights(parameters: dict) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in parameters.items()}


def load_weights(parameters: dict, saved: dict) -> None:
    for name, p in parameters.items():
        p.data = saved[name].clone()


def copied(state):
    return {key: copied(value) for key, value in state.items()} if isinstance(state, dict) else state.clone()


class numbers_sent:  # noqa: N801 - reads like contextlib's
    """Count the elements passed to each kind of collective inside the block: {"all_reduce": [...],
    "reduce_scatter": [...], "all_gather": [...]}."""

    def __enter__(self) -> dict[str, list[int]]:
        self.original, self.sent = {}, {"all_reduce": [], "reduce_scatter": [], "all_gather": []}
        others = {"all_reduce": (), "reduce_scatter": ("reduce_scatter_tensor",), "all_gather": ("all_gather_into_tensor",)}  # before torch 2.13
        for kind, which in (("all_reduce", 0), ("reduce_scatter", 1), ("all_gather", 1)):  # the position of the input
            for name in (kind, f"{kind}_single", *others[kind]):
                if hasattr(dist, name) and name not in self.original:
                    self.original[name] = getattr(dist, name)
                    setattr(dist, name, self._counting(self.original[name], kind, which))
        return self.sent

    def _counting(self, collective, kind, which):
        def call(*args, **kwargs):
            self.sent[kind].append(args[which].numel())
            return collective(*args, **kwargs)

        return call

    def __exit__(self, *exc_info) -> None:
        for name, collective in self.original.items():
            setattr(dist, name, collective)


@functools.cache
def alone() -> dict:
    """Return the result of a single rank, this process."""
    return trained(0, 1)


@functools.cache
def launched(processes: int) -> list[dict]:
    """Return the result of each of `processes` ranks under torchrun. Those of 2 ranks have
    "resumed" too: from the state that 3 ranks have saved."""
    from conftest import run_command

    with tempfile.TemporaryDirectory() as folder:
        if processes == 2:
            torch.save(launched(3)[0]["saved"], Path(folder) / "saved.pt")
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", __file__, folder]
        environment = os.environ | {"OMP_NUM_THREADS": "1"} | ({"USE_LIBUV": "0"} if os.name == "nt" else {})
        job = run_command(command, env=environment)
        assert job.returncode == 0, job.stdout + job.stderr
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=True) for rank in range(processes)]


def main(folder: Path) -> None:
    dist.init_process_group("gloo")
    rank, world_size = dist.get_rank(), dist.get_world_size()
    result = trained(rank, world_size)
    if (folder / "saved.pt").exists():
        result["resumed"] = trained(rank, world_size, torch.load(folder / "saved.pt", weights_only=True))
    torch.save(result, folder / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
