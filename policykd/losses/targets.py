"""What the teacher's word becomes at loss time, and how much each row counts; it refuses to see the student.

Two kinds of functions, both of frozen targets and without gradient:

- ``Prediction -> Prediction`` (soften, sharpen, from_q, from_q_scaled, smooth, standardise): bind knobs with
  ``functools.partial`` and hang them before a loss with ``compose.on_target``.
- ``Prediction -> Tensor[*b]`` row weights (confidence_weight, gap_weight, advantage_weight): give them to ``weigh``
  (a Batch's rows) or to ``compose.on_rows`` (the rows of one term).

Statistics over a batch make a row's target depend on its neighbours. They are the fallback (``scale=None``); measure a
frozen sample once with ``q_scale`` and pass the number for anything that is to be repeated or compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from policykd.distributions import Categorical, Distribution
from policykd.errors import DistributionError, UsageError
from policykd.losses import choices
from policykd.prediction import Batch, Prediction

__all__ = [
    "advantage_weight",
    "confidence_weight",
    "from_q",
    "from_q_scaled",
    "gap_weight",
    "q_scale",
    "sharpen",
    "smooth",
    "soften",
    "standardise",
    "weigh",
]


def _discrete(target: Prediction, f: Callable[[Tensor], Tensor], name: str) -> Prediction:
    dist: Distribution | None = choices.map_choices(target.dist, f)
    if dist is None:
        raise _continuous(target, name)
    return replace(target, dist=dist)


def _continuous(target: Prediction, name: str) -> DistributionError:
    return DistributionError(
        "target.discrete",
        f"{name} of a {choices.describe(target.dist)}",
        "Categorical, MultiCategorical or Bernoulli",
        "leave it out for continuous actions, or compare actions (losses.policy.mse, wasserstein2)",
    )


def _q(target: Prediction, name: str) -> Tensor:
    if target.q is None:
        raise DistributionError(
            "loss.no-q",
            f"{name} of a target without action values",
            "a teacher with discrete action values (DQN, QRDQN)",
            "soften the teacher's own distribution (losses.targets.soften)",
        )
    q = target.q.detach()
    if isinstance(target.dist, Categorical) and target.dist.logits.shape == q.shape:
        # What the teacher masks in its law it does not weigh in its values.
        return torch.where(choices.legal(target.dist.logits), q, -torch.inf)
    return q


def _divided(logits: Tensor, temperature: float) -> Tensor:
    """Logits at a temperature, their maximum moved to 0 so that no temperature overflows; 0 and inf are the limits."""
    logits = logits.detach()
    gap = torch.where(choices.legal(logits), logits - logits.amax(-1, keepdim=True), -torch.inf)
    divided = torch.where(gap == 0, gap, gap / temperature)  # the mode stays at 0, whatever it is divided by
    return torch.where(choices.legal(gap), divided, -torch.inf)


def _temperature(value: float) -> float:
    if not value >= 0:
        raise UsageError("loss.temperature", f"a temperature of {value}", "0 or more")
    return value


def soften(target: Prediction, *, temperature: float) -> Prediction:
    """The target at softmax(z / T) (Hinton et al. 2015, 1503.02531, eq. 1), for discrete families.

    Args:
        target: with logits z ``[*b, a]``.
        temperature: T. Above 1 softens, below 1 sharpens, 1 leaves the law as it is. T = 0 is the limit: all mass on
            the mode, shared evenly between equal modes. T = inf is uniform over the legal actions.

    Raises:
        UsageError: ``loss.temperature`` for a negative T.
        DistributionError: ``target.discrete`` for a continuous family.
    """
    t = _temperature(temperature)
    return _discrete(target, lambda logits: _divided(logits, t), "soften")


def sharpen(target: Prediction, *, temperature: float = 0.01) -> Prediction:
    """``soften`` with the temperature that Rusu et al. 2015 (1511.06295, section 3) sharpen a teacher by."""
    return soften(target, temperature=temperature)


def from_q(target: Prediction, *, tau: float = 0.01) -> Prediction:
    """The law softmax(Q / tau) of a target's action values (Rusu et al. 2015, 1511.06295, eq. 3).

    Args:
        target: with ``q``, ``[*b, a]``, in environment reward units.
        tau: temperature in the same units; 0 is greedy. The paper's 0.01 is meant for clipped rewards: an environment
            whose returns are a hundred times larger needs a tau as much larger (``from_q_scaled``).

    Raises:
        UsageError: ``loss.temperature`` for a negative tau.
        DistributionError: ``loss.no-q`` for a target without action values.
    """
    return replace(target, dist=Categorical(_divided(_q(target, "from_q"), _temperature(tau))))


def q_scale(target: Prediction) -> float:
    """One number for how far apart actions are: the median over rows of the standard deviation of Q over legal actions.

    The median, because the few rows where all is won or lost would otherwise set the scale of the many. Reward
    units; multiply all rewards by c and the scale follows. 1.0 where all Q are equal.

    Args:
        target: a frozen sample of the teacher's predictions with ``q``, ``[*b, a]``; a thousand rows are plenty.

    Raises:
        DistributionError: ``loss.no-q``.
    """
    scale = float(_spread(_q(target, "q_scale")).median())
    return scale if scale > 0 else 1.0


def _spread(q: Tensor) -> Tensor:
    where = choices.legal(q)
    return (choices.centred(q, where).square().sum(-1) / where.sum(-1).clamp(min=1)).sqrt()


def from_q_scaled(target: Prediction, *, tau: float = 0.3, scale: float | None = None) -> Prediction:
    """The law softmax(Q / (tau x scale)): the same for rewards in any unit.

    Args:
        target: with ``q``, ``[*b, a]``.
        tau: temperature in units of ``scale``; 0 is greedy.
        scale: ``q_scale`` of a frozen sample. None measures this batch: then a row's target depends a little on the
            batch it is in.

    Raises:
        UsageError: ``loss.temperature`` for a negative tau, ``loss.scale`` for a scale that is not positive.
        DistributionError: ``loss.no-q``.
    """
    unit = q_scale(target) if scale is None else _positive(scale)
    return from_q(target, tau=_temperature(tau) * unit)


def _positive(scale: float) -> float:
    if not 0 < scale < math.inf:
        raise UsageError("loss.scale", f"a scale of {scale}", "a positive number")
    return scale


def smooth(target: Prediction, *, eps: float) -> Prediction:
    """Label smoothing: (1 - eps) p + eps / K over a choice's K legal actions.

    Szegedy et al. 2016 (1512.00567, section 7), with the teacher's law in the place of the true label.

    Args:
        target: a discrete family.
        eps: 0 leaves the law as it is, 1 makes it uniform over the legal actions.

    Raises:
        UsageError: ``loss.eps`` outside [0, 1].
        DistributionError: ``target.discrete`` for a continuous family.
    """
    if not 0 <= eps <= 1:
        raise UsageError("loss.eps", f"label smoothing of {eps}", "a number from 0 to 1")

    def mixed(logits: Tensor) -> Tensor:
        where = choices.legal(logits)
        share = torch.where(where, eps / where.sum(-1, keepdim=True).clamp(min=1), 0.0)
        return torch.log((1 - eps) * torch.softmax(logits.detach(), -1) + share)

    return target if eps == 0 else _discrete(target, mixed, "smooth")


def standardise(target: Prediction) -> Prediction:
    """The logits' z-scores over the legal actions (Sun et al. 2024, 2403.01427, algorithm 1).

    The paper's standard deviation is the population's (1/K); 1e-7 is added to it, so that equal logits become 0.
    Two actions always score -1 and +1: nothing of the law but its mode is left (see ``policy.standardised_logits``).

    Raises:
        DistributionError: ``target.discrete`` for a continuous family.
    """
    return _discrete(target, lambda logits: choices.z_scores(logits.detach()), "standardise")


def confidence_weight(target: Prediction, *, threshold: float = 0.95) -> Tensor:
    """1 where the teacher gives its mode at least ``threshold``, else 0, ``[*b]``.

    FixMatch's filter (Sohn et al. 2020, 2001.07685, eq. 4), on a teacher's probabilities.
    A threshold of 0 keeps every row, one above 1 none. Rows at 0 still count in the Learner's denominator, so a strict
    filter also makes steps shorter.

    Raises:
        DistributionError: ``target.discrete`` for a continuous family (a density has no such scale).
    """
    if choices.split(target.dist) is None:
        raise _continuous(target, "confidence_weight")
    sure = target.dist.log_prob(target.dist.mode()).detach()
    return (sure.exp() >= threshold).to(sure.dtype)


def gap_weight(target: Prediction, *, scale: float | None = None) -> Tensor:
    """Rows weighted by the probability gap between the best two actions, ``[*b]``, mean 1.

    Args:
        target: a Categorical.
        scale: the mean gap of a frozen sample (``gap_weight(sample, scale=1.0).mean()``). None makes the mean over
            these rows 1; if no row has a gap, all keep 1.

    Raises:
        DistributionError: ``target.discrete`` for another family.
    """
    if not isinstance(target.dist, Categorical):
        raise DistributionError(
            "target.discrete",
            f"gap_weight of a {choices.describe(target.dist)}",
            "a Categorical",
            "leave the weight out",
        )
    best = target.dist.probs.detach().topk(min(2, target.dist.logits.shape[-1]), -1).values
    return _mean_one(best[..., 0] - best[..., 1:].sum(-1), scale)


def advantage_weight(
    target: Prediction, *, against: Literal["mean", "min"] = "mean", scale: float | None = None
) -> Tensor:
    """Rows weighted by what the best action is worth there, ``[*b]``, mean 1.

    Args:
        target: with ``q``, ``[*b, a]``.
        against: max Q - mean Q, or max Q - min Q (VIPER: Bastani et al. 2018, 1805.08328, section 3).
        scale: the mean difference of a frozen sample (``advantage_weight(sample, scale=1.0).mean()``). None makes the
            mean over these rows 1; if no action matters anywhere, all rows keep 1.

    Raises:
        DistributionError: ``loss.no-q``.
    """
    q = _q(target, "advantage_weight")
    where = choices.legal(q)
    if against == "min":
        return _mean_one(q.amax(-1) - torch.where(where, q, torch.inf).amin(-1), scale)
    return _mean_one(choices.centred(q, where).amax(-1), scale)


def _mean_one(weight: Tensor, scale: float | None) -> Tensor:
    if scale is not None:
        return weight / _positive(scale)
    mean = weight.mean()
    return torch.where(mean > 0, weight / torch.where(mean > 0, mean, 1.0), 1.0)


def weigh(batch: Batch, row_weight: Callable[[Prediction], Tensor]) -> Batch:
    """The batch with its rows weighted by ``row_weight(batch.target)`` (``[*b]``), times the weight it had."""
    weight = row_weight(batch.target)
    return replace(batch, weight=weight if batch.weight is None else batch.weight * weight)
