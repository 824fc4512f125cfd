"""Compare the chunked soft-capped loss, with both gradients, with its three bare matmuls and the
usual formula, on the CPU; also where a fifth of the tokens have targets, as in conversations.

python tests/benchmarks/loss.py
"""

from __future__ import annotations

import argparse

import torch
from timing import medians  # puts the repo's root on the path
from torch.nn import functional as F

from nano_hindi.loss import softcapped_cross_entropy

TOKENS, WIDTH, VOCABULARY, SOFTCAP = 1024, 384, 68096, 15.0


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.manual_seed(0)
    x = torch.randn(TOKENS, WIDTH, requires_grad=True)
    weight = torch.empty(VOCABULARY, WIDTH).normal_(0, 0.05).requires_grad_()
    targets = torch.randint(0, VOCABULARY, (TOKENS,))

    def bare_matmuls():
        z = x.detach() @ weight.detach().T
        return z @ weight.detach(), z.T @ x.detach()

    def chunked():
        return torch.autograd.grad(softcapped_cross_entropy(x, weight, targets), (x, weight))

    def of_conversations():
        some = targets.masked_fill(torch.arange(TOKENS) % 100 >= 20, -1)
        return torch.autograd.grad(softcapped_cross_entropy(x, weight, some), (x, weight))

    def usual():
        return torch.autograd.grad(F.cross_entropy(SOFTCAP * torch.tanh(x @ weight.T / SOFTCAP), targets), (x, weight))

    times = medians({"bare matmuls": bare_matmuls, "chunked": chunked, "a fifth": of_conversations, "usual": usual}, rounds=5)
    for name, seconds in times.items():
        print(f"{name:14} {seconds * 1e3:7.0f} ms  {seconds / times['bare matmuls']:.2f} x the bare matmuls")


if __name__ == "__main__":
    main()
