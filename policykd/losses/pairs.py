"""What two distributions have in common for a formula: choices, normal laws or actions; None where they have not.

Every loss asks here first, so that a pair of families is allowed or refused in one place.
"""

from __future__ import annotations

import torch
from torch import Tensor

from policykd.distributions import Bernoulli, Deterministic, DiagGaussian, Distribution, TanhGaussian
from policykd.errors import DistributionError
from policykd.losses import choices

__all__ = ["actions", "as_normal", "choices_of", "normals", "refuse"]


def choices_of(student: Distribution, target: Distribution) -> list[tuple[Tensor, Tensor]] | None:
    """Student's and teacher's logits of each choice; None unless both are one discrete family over the same actions."""
    left, right = choices.split(student), choices.split(target)
    if left is None or right is None or type(student) is not type(target):
        return None
    own = 2 if isinstance(student, Bernoulli) else 1
    if [x.shape[-own:] for x in left] != [x.shape[-own:] for x in right]:
        return None
    return list(zip(left, right, strict=True))


def normals(s: Distribution, t: Distribution) -> tuple[DiagGaussian, DiagGaussian] | None:
    """The two normal laws (TanhGaussians: before tanh), None for any other pair."""
    match s, t:
        case DiagGaussian(), DiagGaussian():
            pair = s, t
        case TanhGaussian(), TanhGaussian():
            pair = s.base, t.base
        case _:
            return None
    return pair if s.mean.shape[-1] == t.mean.shape[-1] else None


def as_normal(dist: Distribution) -> Distribution:
    """A Deterministic as a normal law with standard deviation 0; any other distribution as it is."""
    if isinstance(dist, Deterministic):
        return DiagGaussian(dist.action, torch.full_like(dist.action, -torch.inf))
    return dist


def actions(s: Distribution, t: Distribution) -> tuple[Tensor, Tensor] | None:
    """Both modes, None unless they are continuous actions in the same units."""
    continuous = (DiagGaussian, TanhGaussian, Deterministic)
    if not (isinstance(s, continuous) and isinstance(t, continuous)) or {type(s), type(t)} >= set(continuous[:2]):
        return None
    modes = s.mode(), t.mode()
    return modes if modes[0].shape[-1] == modes[1].shape[-1] else None


def refuse(loss: str, student: Distribution, target: Distribution, takes: str, fix: str) -> DistributionError:
    """The error of a loss that does not take a pair of families: what it takes, and the way out."""
    found = f"{loss} of a student's {choices.describe(student)} and a teacher's {choices.describe(target)}"
    return DistributionError("loss.pair", found, takes, fix)
