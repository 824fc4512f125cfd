"""Compare the optimizer step of a preset, as train.py makes it, with straightforward AdamW and
Muon: one compiled function for each parameter's formula.

OMP_NUM_THREADS=2 python tests/benchmarks/muon.py [--config 25m] [--device cuda]
"""

from __future__ import annotations

import argparse
import statistics
import time

import timing  # noqa: F401 - puts the repo's root on the path
import torch

from nano_hindi.common import compute_dtype, pick_device
from nano_hindi.config import get_config, get_train_config
from nano_hindi.distributed import World
from nano_hindi.model import GPT
from nano_hindi.muon import MIN_MEAN_SQUARE, NORM_SAFETY, POLAR_EXPRESS, second_moment_dim
from nano_hindi.optim import TrainOptimizer
from optimizer_step import take_step


def plain_adamw(p, g, mean, square, lr, beta1, beta2, eps, correction1, correction2):
    mean.lerp_(g, 1 - beta1)
    square.lerp_(g * g, 1 - beta2)
    p.sub_(lr * (mean / correction1) / ((square / correction2).sqrt() + eps))


def plain_muon(p, g, momentum, second, lr, mu, beta2, dtype):
    rows, cols = p.shape
    momentum.lerp_(g, 1 - mu)
    x = torch.lerp(g, momentum, mu)
    x = x.T if rows > cols else x
    x = (x / (NORM_SAFETY * x.norm())).to(dtype)
    for a, b, c in POLAR_EXPRESS:
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    update = (x.T if rows > cols else x).to(p.dtype)
    mean_square = update.square().mean(dim=second_moment_dim(rows, cols), keepdim=True)
    second.lerp_(mean_square, 1 - beta2)
    even = update * second.clamp_min(MIN_MEAN_SQUARE).rsqrt()
    p.sub_(lr * max(1, rows / cols) ** 0.5 * even * (update.norm() / even.norm()))


class Plain:
    """Apply the same recipe one parameter at a time."""

    def __init__(self, like: TrainOptimizer, model: GPT, compiled: bool):
        names = {id(p): name for name, p in model.named_parameters()}
        adamw, muon = (torch.compile(f, dynamic=False) if compiled else f for f in (plain_adamw, plain_muon))
        self.adamw, self.muon, self.steps, self.clip, self.state = adamw, muon, 0, like.grad_clip, {}
        groups = [(True, g) for g in like.muon.param_groups] + [(False, g) for g in like.adamw.param_groups]
        self.groups = [(is_muon, group, [names[id(p)] for p in group["params"]]) for is_muon, group in groups]

    @torch.no_grad()
    def step(self, parameters: dict[str, torch.Tensor]) -> None:
        self.steps += 1
        torch.nn.utils.clip_grad_norm_(list(parameters.values()), self.clip)
        for is_muon, group, names in self.groups:
            for name in names:
                p = parameters[name]
                if name not in self.state:
                    second = p.new_zeros(p.mean(second_moment_dim(*p.shape), keepdim=True).shape) if is_muon else torch.zeros_like(p)
                    self.state[name] = torch.zeros_like(p), second
                if is_muon:
                    self.muon(p, p.grad, *self.state[name], group["lr"], group["momentum"], group["beta2"], compute_dtype(p.device))
                else:
                    beta1, beta2 = group["betas"]
                    corrections = (torch.tensor(1 - beta**self.steps) for beta in (beta1, beta2))
                    self.adamw(p, p.grad, *self.state[name], group["lr"], beta1, beta2, group["eps"], *corrections)
                p.grad = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="25m")
    parser.add_argument("--device")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--no_compile", action="store_true")
    args = parser.parse_args()
    device = pick_device(args.device)
    torch.manual_seed(0)
    model = GPT(get_config(args.config)).to(device)
    model.init_weights()
    gradients = {name: torch.randn_like(p) for name, p in model.named_parameters()}
    ours = TrainOptimizer(model, get_train_config(args.config), World(0, 1, device))
    plain = Plain(ours, model, not args.no_compile)
    copy = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    if not args.no_compile:
        ours.compile()
    rivals = {"ours": (dict(model.named_parameters()), lambda: take_step(ours)), "straightforward": (copy, lambda: plain.step(copy))}

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    seconds = {name: [] for name in rivals}
    for i in range(args.rounds + 2):
        for name, (parameters, step) in rivals.items():
            for key, p in parameters.items():
                p.grad = gradients[key].clone()
            wait()
            start = time.perf_counter()
            step()
            wait()
            if i > 1:  # the first two compile and warm the caches
                seconds[name].append(time.perf_counter() - start)
        if i == 1:
            first = {key: (p - copy[key]).abs().max().item() for key, p in model.named_parameters()}
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, value in medians.items():
        print(f"{name:16} {value * 1e3:8.1f} ms  {value / medians['straightforward']:.2f} x straightforward")
    worst = max(first, key=first.get)
    print(f"greatest difference of a weight after two steps: {first[worst]:.1e} ({worst})")


if __name__ == "__main__":
    main()
