"""The distance of continuous actions as an environment feels it: what it would clip counts only up to the bound."""

from __future__ import annotations

import torch
from torch import Tensor

from policykd.fused import squared_errors
from policykd.losses import pairs
from policykd.prediction import Prediction

__all__ = ["bounded_wasserstein2", "shortfall"]


def shortfall(student: Tensor, teacher: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """student - teacher, but 0 where both lie beyond one bound, and the way to the bound where only the teacher does.

    Args:
        student, teacher: numbers of a row, ``[*b, d]``.
        low, high: ``[d]``, infinite where there is no bound.
    """
    error = student - teacher
    error = torch.where(teacher >= high, (student - high).clamp(max=0.0), error)
    return torch.where(teacher <= low, (student - low).clamp(min=0.0), error)


def bounded_wasserstein2(
    student: Prediction, target: Prediction, *, low: Tensor, high: Tensor, scale: Tensor | float = 1.0
) -> Tensor:
    """Squared 2-Wasserstein distance in units of ``scale``; means beyond a bound are as far off as clipping tells.

    PPO's means often lie far outside the action space: a third to a half of them on the walkers of the zoo. There the
    environment clips, so how far outside says nothing; a student that spends itself on it has less for the rest. The
    gradient is right on both sides of a bound, which that of clipped actions is not. Standard deviations as in
    ``wasserstein2``.

    Args:
        student, target: DiagGaussian or Deterministic, in any pair, or two TanhGaussians (compared before tanh).
        low, high: bounds, ``[d]``, in the units that are compared.
        scale: unit of the error: the half-range of the actions, say.

    Returns:
        ``[*b]``, summed over dimensions.
    """
    s, t = pairs.as_normal(student.dist), pairs.as_normal(target.dist)
    both = pairs.normals(s, t)
    if both is None:
        takes = "DiagGaussian or Deterministic on both sides, or two TanhGaussians"
        raise pairs.refuse("bounded_wasserstein2", student.dist, target.dist, takes, "use mse or huber")
    s, t = both
    if torch.is_grad_enabled() and s.mean.requires_grad and not t.mean.requires_grad:
        with torch.no_grad():
            error = shortfall(s.mean, t.mean, low, high).div_(scale)
        return squared_errors(s.mean, s.log_std, error, t.log_std.exp(), scale)
    mean = shortfall(s.mean, t.mean, low, high) / scale
    std = (s.log_std.exp() - t.log_std.exp()) / scale
    return (mean.square() + std.square()).sum(-1)
