"""Discrete distributions seen as independent choices, so that each formula is written once; it refuses continuous ones.

A choice is a tensor of logits over its last axis: a Categorical is one choice, a MultiCategorical one a factor, a
Bernoulli one choice of two for each coin (``[*b, d, 2]``). A logit of -inf is an action that cannot be taken.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from policykd.distributions import Bernoulli, Categorical, Distribution, MultiCategorical

__all__ = ["centred", "describe", "legal", "map_choices", "on_legal", "over_row", "split", "z_scores"]


def describe(dist: Distribution) -> str:
    """The family and its width, for messages: ``Categorical over 4 actions``."""
    match dist:
        case Categorical(logits=logits):
            return f"Categorical over {logits.shape[-1]} actions"
        case MultiCategorical(nvec=nvec):
            return f"MultiCategorical over {list(nvec)} actions"
        case Bernoulli(logits=logits):
            return f"Bernoulli with {logits.shape[-1]} coins"
    return f"{type(dist).__name__} with {dist.mode().shape[-1]} dimensions"


def split(dist: Distribution) -> list[Tensor] | None:
    """The logits of each choice, ``[*b, a]`` (Bernoulli: ``[*b, d, 2]``, tails first); None for a continuous family."""
    match dist:
        case Categorical(logits=logits):
            return [logits]
        case MultiCategorical(logits=logits, nvec=nvec):
            return list(logits.split(nvec, -1))
        case Bernoulli(logits=logits):
            # Log-probabilities rather than (0, logit): a fixed coin becomes (-inf, 0), never (0, inf).
            return [torch.stack([F.logsigmoid(-logits), F.logsigmoid(logits)], -1)]
    return None


def over_row(dist: Distribution, per_choice: list[Tensor]) -> Tensor:
    """The sum over a row's choices, ``[*b]``, of one number a choice (Bernoulli: ``[*b, d]``)."""
    if isinstance(dist, Bernoulli):
        return per_choice[0].sum(-1)
    return torch.stack(per_choice, -1).sum(-1) if len(per_choice) > 1 else per_choice[0]


def map_choices(dist: Distribution, f: Callable[[Tensor], Tensor]) -> Distribution | None:
    """The distribution with ``f`` applied to the logits of each choice; None for a continuous family."""
    parts = split(dist)
    if parts is None:
        return None
    parts = [f(part) for part in parts]
    match dist:
        case Bernoulli():
            return Bernoulli(parts[0][..., 1] - parts[0][..., 0])
        case MultiCategorical(nvec=nvec):
            return MultiCategorical(torch.cat(parts, -1), nvec)
    return Categorical(parts[0])


def legal(logits: Tensor) -> Tensor:
    """Where an action can be taken at all, bool, the shape of ``logits``; a NaN counts, so that it is never hidden."""
    return logits != -torch.inf


def on_legal(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities of both over the teacher's legal actions, and -log of the mass that the student gives them."""
    where = legal(teacher)
    inside = torch.where(where, F.log_softmax(student, -1), -torch.inf)
    # Exactly 0 where nothing is masked: rounding would be all there is to a small divergence.
    mass = torch.where(where.all(-1), 0.0, torch.logsumexp(inside, -1))
    return inside - mass.unsqueeze(-1), F.log_softmax(teacher, -1), -mass


def centred(values: Tensor, where: Tensor) -> Tensor:
    """Values minus their mean over the last axis, counted and kept only ``where``; 0 elsewhere."""
    kept = torch.where(where, values, 0.0)
    mean = kept.sum(-1, keepdim=True) / where.sum(-1, keepdim=True).clamp(min=1)
    return torch.where(where, kept - mean, 0.0)


def z_scores(logits: Tensor) -> Tensor:
    """(z - mean z) / (std z + 1e-7) over the legal actions of the last axis; illegal ones stay -inf."""
    where = legal(logits)
    z = centred(logits, where)
    variance = z.square().sum(-1, keepdim=True) / where.sum(-1, keepdim=True).clamp(min=1)
    # The root of 0 has no finite slope: equal logits take the other branch, whose gradient is 0.
    std = torch.where(variance > 0, variance, 1.0).sqrt() * (variance > 0)
    return torch.where(where, z / (std + 1e-7), -torch.inf)
