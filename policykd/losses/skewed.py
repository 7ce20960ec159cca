"""KL to a mean of two laws, the two halves of a Jensen-Shannon divergence; it refuses to lose digits at its ends.

Both functions are KL(a || mean of a and b) / alpha, where alpha is b's share of the mean: 0 at alpha = 0, KL(a || b) at
alpha = 1, and continuous between. The textbook form has no digits left for a small alpha.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from policykd.distributions import DiagGaussian, weighted_terms

__all__ = ["to_geometric", "to_mixture"]

_TINY = torch.finfo(torch.float32).tiny
"""A smaller alpha is 0: float32 cannot divide by it."""


def to_mixture(log_a: Tensor, log_b: Tensor, alpha: float) -> Tensor:
    """KL(a || (1 - alpha) a + alpha b) / alpha, nats, ``[*b]``.

    The first order in alpha cancels only in the sum over a row. Adding b - a, which sums to 0, cancels it term by term:
    a / alpha (x - log(1 + x)) with x = alpha (b / a - 1), never negative, and small where the laws are close.

    Args:
        log_a, log_b: normalised log-probabilities, ``[*b, a]``; -inf on the same actions or nowhere for alpha = 1.
        alpha: from 0 to 1.
    """
    if alpha < _TINY:
        return torch.zeros_like(log_a[..., 0] + log_b[..., 0])
    a, b = log_a.exp(), log_b.exp()
    if alpha == 1:
        return weighted_terms(a, log_a - log_b).sum(-1)
    there = log_a != -torch.inf
    # A ratio above e^80 is cut: it belongs to an a below e^-80, whose share is nothing.
    log_ratio = torch.where(there, log_b - torch.where(there, log_a, 0.0), 0.0).clamp(max=80.0)
    x = alpha * torch.expm1(log_ratio)
    log_mean = torch.log1p(x)
    if alpha > 0.5:  # x may round to -1, whose logarithm is no number; the mean's two parts keep their digits there
        parts = torch.full_like(x, math.log1p(-alpha)), log_ratio + math.log(alpha)
        log_mean = torch.where(x < -0.5, torch.logaddexp(*parts), torch.log1p(x.clamp(min=-0.5)))
    return (b - a - a / alpha * log_mean).sum(-1)


def to_geometric(a: DiagGaussian, b: DiagGaussian, alpha: float) -> Tensor:
    """KL(a || g) / alpha, nats, ``[*b]``, with g the normal law proportional to a^(1 - alpha) b^alpha.

    Args:
        a, b: normal laws of one width.
        alpha: from 0 to 1.
    """
    if alpha < _TINY:
        return torch.zeros_like(a.mean + b.mean).sum(-1)
    precision = torch.exp(-2.0 * b.log_std)
    of_g = (1 - alpha) * torch.exp(-2.0 * a.log_std) + alpha * precision
    # g's precision is a's times 1 + alpha excess; its mean lies alpha precision (b - a) / of_g away from a's.
    log_ratio = 2.0 * (a.log_std - b.log_std)
    excess = torch.expm1(log_ratio)
    spread = excess - (log_ratio if alpha == 1 else torch.log1p(alpha * excess) / alpha)
    # Divided before it is multiplied: the square of a narrow law's precision overflows.
    shift = alpha * (precision / of_g) * precision * (b.mean - a.mean).square()
    return 0.5 * (spread + shift).sum(-1)
