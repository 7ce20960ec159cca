"""What several teachers say as one word: pure functions of their predictions; it refuses to see the student.

Each takes ``said``, one Prediction a teacher for the same rows, all of one family, and returns one of that family:

- ``mean``: whoever is right more often wins; weights may be numbers, or a gate's, row by row.
- ``product``: only what nobody rules out; the sharpest law decides.
- ``confident``: the mean, weighted by how sure each is (CA-MKD).
- ``best_by_value``: in each state the teacher that expects most of it.

Families with several choices or dimensions are combined factor by factor: of the laws without correlations between
them the closest to the true mean, in forward KL. TanhGaussians are combined before tanh, Deterministic ones as actions.
Action values are no law yet: ``calibrated`` makes them one, with a scale frozen on a sample. A combined prediction has
a ``value`` where every teacher has one (their discounts must be equal: ``teachers.Ensemble`` sees to it), and no ``q``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from policykd.distributions import Deterministic, DiagGaussian, Distribution, TanhGaussian, leading, map_tensors
from policykd.errors import DistributionError, UsageError
from policykd.losses import choices
from policykd.losses.defaults import TAU
from policykd.losses.targets import from_q_scaled, q_scale
from policykd.policy import Policy
from policykd.prediction import Obs, Prediction

__all__ = ["Combine", "Weights", "best_by_value", "calibrated", "confident", "each", "mean", "product"]

Combine: TypeAlias = Callable[[Sequence[Prediction]], Prediction]
Weights: TypeAlias = Sequence[float] | Tensor | None
"""One number a teacher, ``[k]``, or one a teacher and row, ``[k, *b]``; None for equal ones."""


def mean(said: Sequence[Prediction], *, weights: Weights = None) -> Prediction:
    """The weighted mean of the laws: sum_k w_k p_k, the weights divided by their sum.

    - Discrete: the mean of each choice's probabilities (You et al. 2017). An action is masked where all who count
      mask it.
    - Normal laws: mean and variance of the mixture. Where teachers disagree the law gets wide, not two-humped.
    - Deterministic: the mean action; what it says of spread is lost.

    Args:
        said: one prediction a teacher, leading dimensions ``*b``.
        weights: 0 or more, ``[k]`` or ``[k, *b]``; a weight of 0 leaves a teacher out, a row of zeros counts all alike.
            They may carry a gradient (``Gate``); the teachers' words do not.

    Raises:
        DistributionError: ``combine.family``, ``combine.scale``.
        UsageError: ``combine.none``, ``combine.weights``.
    """
    dists = _laws(said)
    w = _shares(weights, dists)

    def one(log_probs: Tensor, shares: Tensor) -> Tensor:
        heard = torch.where(shares > 0, torch.where(shares > 0, shares, 1.0).log(), -math.inf)
        parts = log_probs + heard
        # An action that nobody takes has no gradient, where logsumexp of -inf alone has NaN.
        nobody = (parts == -math.inf).all(0)
        return torch.where(nobody, -math.inf, torch.logsumexp(torch.where(nobody, 0.0, parts), 0))

    def normal(means: Tensor, log_stds: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
        centre = (shares * means).sum(0)
        variance = (shares * ((2.0 * log_stds).exp() + (means - centre).square())).sum(0)
        return centre, 0.5 * variance.log()

    return Prediction(_merged(dists, w, one, normal), _value(said, w))


@torch.no_grad()
def product(said: Sequence[Prediction], *, weights: Weights = None) -> Prediction:
    """The product of experts: prod_k p_k^{w_k}, normalised (Hinton 2002).

    - Discrete: an action that one teacher masks is masked.
    - Normal laws: precisions add up, and the mean is weighted by them.
    - Deterministic: the mean action, as of equally narrow laws.

    Args:
        said: one prediction a teacher, leading dimensions ``*b``.
        weights: exponents of 0 or more, ``[k]`` or ``[k, *b]``. None is 1 for each: k teachers that agree are k times
            as sure. ``[1 / k] * k`` is the geometric mean, as sure as they are. 0 leaves a teacher out, its masks too.

    Raises:
        DistributionError: as ``mean``; ``combine.empty`` where the teachers together rule out every action.
        UsageError: as ``mean``.
    """
    dists = _laws(said)
    exponents = torch.ones(len(said)) if weights is None else _weights(weights, dists)

    def one(log_probs: Tensor, powers: Tensor) -> Tensor:
        logits = torch.where(powers > 0, powers * log_probs, 0.0).sum(0)
        if bool((logits == -math.inf).all(-1).any()):
            found = "teachers that together rule out every action"
            raise DistributionError("combine.empty", found, "one that all allow", "take the mean")
        return logits

    def normal(means: Tensor, log_stds: Tensor, powers: Tensor) -> tuple[Tensor, Tensor]:
        log_precision = powers.log() - 2.0 * log_stds
        return (torch.softmax(log_precision, 0) * means).sum(0), -0.5 * torch.logsumexp(log_precision, 0)

    return Prediction(_merged(dists, exponents, one, normal), _value(said, _normalised(exponents)))


@torch.no_grad()
def confident(said: Sequence[Prediction], *, action: Tensor | None = None) -> Prediction:
    """The mean with w_k = (1 - softmax_k(CE_k)) / (K - 1) (CA-MKD: Zhang et al. 2022, 2201.00007, eq. 3).

    The paper's CE_k is teacher k's cross-entropy on the true label; a policy has none. Two things can stand in for it:

    - None: each teacher's own entropy, which is the cross-entropy it expects itself. Sure and wrong passes for right,
      and so it needs teachers whose sureness means the same (a Q-law's depends on its temperature).
    - ``action``: what was done, -log p_k(action). A label as good as the actor's; use it on data of a good one.

    Nobody gets more than 1 / (K - 1): with many teachers it only leaves out the least sure ones.

    Args:
        said: one prediction a teacher, leading dimensions ``*b``.
        action: ``[*b]`` or ``[*b, d]``, as the distributions take it.

    Raises:
        DistributionError: as ``mean``; ``combine.confidence`` for Deterministic laws, which are all equally sure.
    """
    dists = _laws(said)
    if isinstance(dists[0], Deterministic):
        raise DistributionError("combine.confidence", "the confidence of Deterministic laws", "laws with a density")
    ce = torch.stack([d.entropy() if action is None else -d.log_prob(action) for d in dists])
    others = len(said) - 1
    w = torch.ones_like(ce) if others == 0 else (1.0 - torch.softmax(ce.clamp(max=1e6), 0)) / others
    return mean(said, weights=w)


@torch.no_grad()
def best_by_value(said: Sequence[Prediction], *, gammas: Sequence[float | None]) -> Prediction:
    """In each row the law of the teacher whose ``value`` is largest; of equal ones the first.

    If each value is what its own policy earns from there on, the result earns at least as much as the best of them
    from every state (policy improvement over several policies). A critic that flatters its policy spoils that.

    Args:
        said: one prediction a teacher, with ``value``, ``[*b]``.
        gammas: the teachers' discounts (``Origin.gamma``).

    Raises:
        DistributionError: as ``mean``; ``combine.gamma`` unless all discounts are known and equal: a value of 0.999
            counts rewards that one of 0.99 does not see. ``combine.no-value`` for a teacher without a critic.
    """
    if None in gammas or len(set(gammas)) != 1 or len(gammas) != len(said):
        found = f"values at the discounts {', '.join(map(str, gammas))} of {len(said)} teachers"
        raise DistributionError("combine.gamma", found, "one known discount for all", "combine them by mean")
    values = [p.value for p in said if p.value is not None]
    if len(values) < len(said):
        silent = [str(k) for k, p in enumerate(said) if p.value is None]
        raise DistributionError(
            "combine.no-value", f"teachers without a value: {', '.join(silent)}", "a critic in each", "take the mean"
        )
    best = torch.stack(values).argmax(0)
    return mean(said, weights=F.one_hot(best, len(said)).movedim(-1, 0).float())


def calibrated(how: Combine, teachers: Sequence[Policy], obs: Obs, *, tau: float = TAU) -> Combine:
    """``how`` for these teachers: where one has action values, its law is softmax(Q / (tau x scale)).

    ``Categorical(logits=q)``, what a DQN teacher says by itself, has the unit of the reward for a temperature: it is
    greedy where rewards are in hundreds, uniform where they are in hundredths. Each scale is ``targets.q_scale`` of
    that teacher alone, frozen here, so that a row's word does not depend on its batch.

    Args:
        how: a function of this module, or one like it.
        teachers: in the order in which ``how`` gets their predictions.
        obs: a sample of observations, ``[n, ...]``; a thousand are plenty (``evaluate(..., keep=1024).obs``).
        tau: temperature in units of a teacher's scale.
    """
    sample = [teacher.label(obs) for teacher in teachers]
    return partial(_calibrated, how=how, scales=tuple(None if s.q is None else q_scale(s) for s in sample), tau=tau)


def _calibrated(
    said: Sequence[Prediction], *, how: Combine, scales: Sequence[float | None], tau: float, **knobs: object
) -> Prediction:
    pairs = zip(said, scales, strict=True)
    laws = [p if scale is None else replace(from_q_scaled(p, tau=tau, scale=scale), q=None) for p, scale in pairs]
    return how(laws, **knobs)


def each(how: Combine, transform: Callable[[Prediction], Prediction]) -> Combine:
    """``how`` of transformed predictions: ``each(mean, sharpen)`` is a vote, with a gate's weights or all alike."""
    return partial(_each, how=how, transform=transform)


def _each(
    said: Sequence[Prediction], *, how: Combine, transform: Callable[[Prediction], Prediction], **knobs: object
) -> Prediction:
    return how([transform(p) for p in said], **knobs)


def _laws(said: Sequence[Prediction]) -> list[Distribution]:
    """The distributions, if they are of one family and width and none is made of raw action values."""
    if not said:
        raise UsageError("combine.none", "no predictions", "one a teacher")
    kinds = [choices.describe(p.dist) for p in said]
    if len(set(kinds)) > 1:
        raise DistributionError(
            "combine.family", " beside ".join(kinds), "one family over the same actions", "distil each into one first"
        )
    raw = [str(k) for k, p in enumerate(said) if p.q is not None]
    if raw and len(said) > 1:
        raise DistributionError(
            "combine.scale",
            f"action values without a temperature (teacher {', '.join(raw)})",
            "laws",
            "calibrated(how, teachers, obs) freezes a scale for them",
        )
    return [map_tensors(p.dist, Tensor.detach) for p in said]


def _weights(weights: Sequence[float] | Tensor, dists: list[Distribution]) -> Tensor:
    w = torch.as_tensor(weights)
    w = w if w.is_floating_point() else w.float()
    if len(w) != len(dists) or (w.dim() > 1 and w.shape[1:] != leading(dists[0])) or bool((w < 0).any()):
        found = f"weights of shape {tuple(w.shape)}, the least {float(w.detach().min()) if w.numel() else 'missing'}"
        raise UsageError("combine.weights", found, f"{len(dists)} numbers of 0 or more, or as many a row")
    return w


def _shares(weights: Weights, dists: list[Distribution]) -> Tensor:
    """Weights that sum to 1 over the first axis; equal ones where all are 0."""
    return _normalised(torch.ones(len(dists)) if weights is None else _weights(weights, dists))


def _normalised(w: Tensor) -> Tensor:
    total = w.sum(0, keepdim=True)
    return torch.where(total > 0, w / torch.where(total > 0, total, 1.0), 1.0 / len(w))


def _beside(w: Tensor, stacked: Tensor) -> Tensor:
    """Weights ``[k]`` or ``[k, *b]`` with axes of 1 for the others of ``[k, *b, ...]``."""
    return w.to(stacked.dtype).reshape(*w.shape, *[1] * (stacked.dim() - w.dim()))


def _merged(
    dists: list[Distribution],
    w: Tensor,
    one: Callable[[Tensor, Tensor], Tensor],
    normal: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]],
) -> Distribution:
    first = dists[0]
    match first:
        case DiagGaussian() | TanhGaussian():
            laws = [d for d in dists if isinstance(d, DiagGaussian | TanhGaussian)]
            means, log_stds = (torch.stack(x) for x in ([d.mean for d in laws], [d.log_std for d in laws]))
            return type(first)(*normal(means, log_stds, _beside(w, means)))
        case Deterministic():
            actions = torch.stack([d.action for d in dists if isinstance(d, Deterministic)])
            return Deterministic((_beside(_normalised(w), actions) * actions).sum(0))
    split = [choices.split(d) or [] for d in dists]
    stacked = [torch.log_softmax(torch.stack(parts), -1) for parts in zip(*split, strict=True)]
    merged = iter([one(part, _beside(w, part)) for part in stacked])
    found: Distribution | None = choices.map_choices(first, lambda _: next(merged))
    assert found is not None
    return found


def _value(said: Sequence[Prediction], w: Tensor) -> Tensor | None:
    values = [p.value.detach() for p in said if p.value is not None]
    if len(values) < len(said):
        return None
    stacked = torch.stack(values)
    return (_beside(w.detach(), stacked) * stacked).sum(0)
