"""Action distributions as frozen values, and what can be said of a pair of them; it refuses to know about policies.

Shapes: ``*b`` are any leading dimensions, ``a`` a number of choices, ``d`` a number of action dimensions.
Every quantity (log-probability, entropy, KL) has shape ``[*b]``: action dimensions are always summed.
A masked action is a logit of -inf; its terms count as 0 (the limit of x log x), in the value and in the gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from policykd.distributions.continuous import Deterministic, DiagGaussian, TanhGaussian
from policykd.distributions.discrete import Bernoulli, Categorical, MultiCategorical, weighted_terms
from policykd.errors import DistributionError
from policykd.fused import categorical_kl

__all__ = [
    "Bernoulli",
    "Categorical",
    "Deterministic",
    "DiagGaussian",
    "Distribution",
    "MultiCategorical",
    "TanhGaussian",
    "can_choose",
    "is_law",
    "kl",
    "leading",
    "map_tensors",
    "masked",
    "weighted_terms",
]

Distribution = Categorical | MultiCategorical | Bernoulli | DiagGaussian | TanhGaussian | Deterministic
D = TypeVar("D", bound=Distribution)


def _taught(p: Tensor, q: Tensor) -> bool:
    """Whether q learns from rows of p: the case that is worth a gradient of its own."""
    learns = q.requires_grad and not p.requires_grad and torch.is_grad_enabled()
    return learns and q.dim() >= p.dim() >= 2 and q.shape[q.dim() - p.dim() :] == p.shape


def _kl_log_probs(p: Tensor, q: Tensor) -> Tensor:
    return weighted_terms(p.exp(), p - q)


def _kl_gaussian(p: DiagGaussian, q: DiagGaussian) -> Tensor:
    ratio = torch.exp(2.0 * (p.log_std - q.log_std))
    z = (p.mean - q.mean) * torch.exp(-q.log_std)
    return 0.5 * (ratio + z * z - 1.0) - (p.log_std - q.log_std)


def kl(p: Distribution, q: Distribution) -> Tensor:
    """KL(p || q) in nats, ``[*b]``.

    The KL of two TanhGaussians is that of their normal laws, because tanh is one to one.

    Raises:
        DistributionError: ``dist.kl-pair`` for two families (or two action sets) that have no common KL.
    """
    match p, q:
        case Categorical(), Categorical() if p.logits.shape[-1] == q.logits.shape[-1]:
            if _taught(p.logits, q.logits):
                return categorical_kl(p.logits, q.logits)
            return _kl_log_probs(p.log_probs, q.log_probs).sum(-1)
        case MultiCategorical(), MultiCategorical() if p.nvec == q.nvec:
            pairs = zip(p.factors, q.factors, strict=True)
            return torch.stack([_kl_log_probs(a.log_probs, b.log_probs).sum(-1) for a, b in pairs], -1).sum(-1)
        case Bernoulli(), Bernoulli() if p.logits.shape[-1] == q.logits.shape[-1]:
            ones = _kl_log_probs(F.logsigmoid(p.logits), F.logsigmoid(q.logits))
            zeros = _kl_log_probs(F.logsigmoid(-p.logits), F.logsigmoid(-q.logits))
            return (ones + zeros).sum(-1)
        case DiagGaussian(), DiagGaussian() if p.mean.shape[-1] == q.mean.shape[-1]:
            return _kl_gaussian(p, q).sum(-1)
        case TanhGaussian(), TanhGaussian() if p.mean.shape[-1] == q.mean.shape[-1]:
            return _kl_gaussian(p.base, q.base).sum(-1)
    raise DistributionError(
        "dist.kl-pair",
        f"KL of {type(p).__name__} against {type(q).__name__}",
        "two distributions of one family over the same actions, with a density",
        "give the student the teacher's family (students.mlp(teacher.spec)), or use a loss on actions (mse, huber)",
    )


def leading(dist: Distribution) -> torch.Size:
    """The leading dimensions ``*b`` of a distribution."""
    match dist:
        case Categorical() | MultiCategorical() | Bernoulli():
            return dist.logits.shape[:-1]
        case DiagGaussian() | TanhGaussian():
            return dist.mean.shape[:-1]
    return dist.action.shape[:-1]


def map_tensors(dist: D, f: Callable[[Tensor], Tensor]) -> D:
    """A distribution of the same family with ``f`` applied to each of its tensors (indexing, detaching, moving)."""
    mapped: dict[str, Any] = {k: f(v) for k, v in vars(dist).items() if isinstance(v, Tensor)}
    return replace(dist, **mapped)


def can_choose(t: Tensor) -> Tensor:
    """Rows ``[*b]`` of numbers ``[*b, a]`` with an action to take: -inf is one that cannot be; no NaN, no inf.

    Args:
        t: logits or action values.
    """
    return (t < math.inf).all(-1) & (t > -math.inf).any(-1)  # the first is false for NaN


def is_law(dist: Distribution) -> Tensor:
    """Rows ``[*b]`` that are a law, and no NaN or infinity; a normal law may be without spread (log_std = -inf)."""
    match dist:
        case Categorical(logits=logits):
            return can_choose(logits)
        case MultiCategorical(logits=logits, nvec=nvec):
            return torch.stack([can_choose(part) for part in logits.split(nvec, -1)]).all(0)
        case Bernoulli(logits=logits):
            return ~logits.isnan().any(-1)
        case DiagGaussian(mean=mean, log_std=log_std) | TanhGaussian(mean=mean, log_std=log_std):
            return mean.isfinite().all(-1) & (log_std < math.inf).all(-1)
    return dist.action.isfinite().all(-1)


def masked(dist: D, mask: Tensor) -> D:
    """The distribution with forbidden actions ruled out.

    Args:
        dist: Categorical or MultiCategorical.
        mask: True where an action is allowed, ``[*b, a]`` (MultiCategorical: the factors side by side).

    Raises:
        DistributionError: ``dist.mask`` for a family whose actions cannot be masked, or a mask of another width;
            ``dist.mask-empty`` for a mask that leaves nothing to choose.
    """
    if isinstance(dist, Categorical | MultiCategorical) and mask.shape[-1] == dist.logits.shape[-1]:
        mask = mask.bool()
        choices = mask.split(dist.nvec, -1) if isinstance(dist, MultiCategorical) else [mask]
        if not all(bool(choice.any(-1).all()) for choice in choices):
            raise DistributionError("dist.mask-empty", "an action mask that forbids every action", "one allowed action")
        return map_tensors(dist, lambda logits: logits.masked_fill(~mask, -math.inf))
    raise DistributionError(
        "dist.mask",
        f"an action mask of shape {tuple(mask.shape)} for {type(dist).__name__}",
        "a mask as wide as the logits of a Categorical or MultiCategorical",
        "leave action_masks out, or use a teacher with discrete actions",
    )
