"""Polar Express (Amsel et al. 2025, arXiv 2505.16932): approximate the polar factor X (X'X)^-1/2
of a matrix X by matrix products alone.

Shapes: K matrices of R rows and C columns
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

# Polynomials a x + b x^3 + c x^5 that, applied in order, bring singular values from [1e-3, 1] to
# within 0.134 of 1: each is minimax optimal on the interval left by those before it (theorem 4.1
# and algorithm 3), with the paper's two guards against rounding (section 4.4): a safety factor of
# 1.01 on every step but the last, and a cushion of 0.02407 (appendix G). tests/test_muon.py derives
# them again.
POLAR_EXPRESS = (
    (8.205160414005569, -22.90193498705604, 16.460724910180307),
    (4.066915619879591, -2.8612845345884783, 0.5183804464778612),
    (3.9134926112054647, -2.8242518767230895, 0.5248485625148539),
    (3.3060139701337676, -2.430227567449683, 0.4869515205509475),
    (2.3270569820839184, -1.692496733182747, 0.4213605389287794),
)
POLAR_LIMIT = (15 / 8, -10 / 8, 3 / 8)  # limit of the minimax polynomials as the interval shrinks to 1: used for every iteration after the fifth
NORM_SAFETY = 1.01  # keeps rounding from lifting a singular value above 1, where the first polynomial is steep (algorithm 1)
TINY = 1e-20  # keeps a division by the norm of an all-zero matrix finite


def polar_express(matrices: Tensor, steps: int = 5, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return the approximate orthogonal polar factor of each matrix (K, R, C), in `dtype`: the same
    singular vectors, singular values near 1.

    After 5 steps a singular value of at least 1.01e-3 times the matrix's Frobenius norm is within
    0.134 of 1; smaller ones grow less, zeros stay zero.
    """
    is_tall = matrices.size(-2) > matrices.size(-1)
    x = matrices.mT if is_tall else matrices  # so that X X' below is the smaller of the two Gram matrices
    norm = torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True)
    x = (x / (NORM_SAFETY * norm).clamp_min(TINY)).to(dtype)
    coefficients = list(itertools.islice(itertools.chain(POLAR_EXPRESS, itertools.repeat(POLAR_LIMIT)), steps))
    if dtype == torch.float32 and x.size(-1) >= 2 * x.size(-2):
        x = _product_of_polynomials(x @ x.mT, coefficients) @ x
    else:
        for a, b, c in coefficients:
            x = torch.baddbmm(x, _quadratic(x @ x.mT, b, c), x, beta=a)
    return x.mT if is_tall else x


def _quadratic(gram: Tensor, b: float, c: float) -> Tensor:
    """Return b G + c G^2 for each G (K, R, R)."""
    return torch.baddbmm(gram, gram, gram, beta=b, alpha=c)


def _product_of_polynomials(gram: Tensor, coefficients: list[tuple[float, float, float]]) -> Tensor:
    """Return the product of the polynomials of all iterations on X (K, R, C), computed from G = X
    X' (K, R, R): two products with C columns, not ten.

    An iteration X <- P X with P = a I + b G + c G^2 turns G into P G P, and P commutes with every
    G. In half precision the smallest singular values would be lost in the rounding of G, which
    holds their squares; in float32 the result differs from the iteration's by at most 1e-3, at a
    condition number of 1e7.
    """
    product = polynomial = _polynomial(gram, *coefficients[0])
    for iteration in coefficients[1:]:
        gram = polynomial @ gram @ polynomial
        polynomial = _polynomial(gram, *iteration)
        product = polynomial @ product
    return product


def _polynomial(gram: Tensor, a: float, b: float, c: float) -> Tensor:
    """Return a I + b G + c G^2 for each G (K, R, R)."""
    polynomial = _quadratic(gram, b, c)
    polynomial.diagonal(dim1=-2, dim2=-1).add_(a)
    return polynomial
