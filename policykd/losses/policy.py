"""Pair losses on action distributions, one number per row; it refuses to reduce, to weigh and to teach the teacher.

Every function is ``(student: Prediction, target: Prediction) -> Tensor[*b]``; knobs are keywords, bound with
``functools.partial``. Targets are detached here. Divergences are in nats, mse and huber in logits or action units.

===================  =====================  ===================================================================
loss                 discrete (one family   continuous
                     over the same actions)
===================  =====================  ===================================================================
forward_kl           any                    two DiagGaussians, two TanhGaussians
reverse_kl           any                    two DiagGaussians, two TanhGaussians
jensen_shannon       any                    two DiagGaussians, two TanhGaussians (geometric mean)
hard_nll             any                    the same; also a Deterministic teacher
soft_cross_entropy   any                    -
standardised_logits  Categorical, Multi-    -
                     Categorical, 3+ ways
centred_q            Categorical with q     -
mse, huber           any                    all pairs in the same units: not a DiagGaussian with a TanhGaussian
wasserstein2         -                      DiagGaussian and Deterministic in any pair; two TanhGaussians
===================  =====================  ===================================================================

Any other pair is a DistributionError, ``loss.pair`` (``dist.kl-pair`` from the KLs).

Masked actions (a teacher's logit of -inf). forward_kl, hard_nll and soft_cross_entropy give them probability 0, so they
also push the student's mass off them. reverse_kl and jensen_shannon would be infinite there: they compare over the
legal actions and add -log of the student's legal mass, as forward KL does by itself. The others see legal actions only.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from policykd.distributions import (
    Bernoulli,
    Deterministic,
    Distribution,
    TanhGaussian,
    kl,
    map_tensors,
    weighted_terms,
)
from policykd.errors import UsageError
from policykd.losses import choices, targets
from policykd.losses.pairs import actions, as_normal, choices_of, normals, refuse
from policykd.losses.skewed import to_geometric, to_mixture
from policykd.prediction import Prediction

__all__ = [
    "centred_q",
    "forward_kl",
    "hard_nll",
    "huber",
    "huber_of",
    "jensen_shannon",
    "mse",
    "reverse_kl",
    "soft_cross_entropy",
    "standardised_logits",
    "wasserstein2",
]

Space = Literal["action", "pre_tanh"]


def forward_kl(student: Prediction, target: Prediction) -> Tensor:
    """KL(teacher || student), ``[*b]``: the student must cover whatever the teacher does."""
    s, t = _pair(student, target)
    return kl(t, s)


def reverse_kl(student: Prediction, target: Prediction) -> Tensor:
    """KL(student || teacher), ``[*b]``: the student may leave out what the teacher does, never add to it."""
    s, t = _pair(student, target)
    pairs = choices_of(s, t)
    if pairs is None:
        return kl(s, t)

    def one(log_q: Tensor, log_p: Tensor, illegal: Tensor) -> Tensor:
        return weighted_terms(log_q.exp(), log_q - log_p).sum(-1) + illegal

    return choices.over_row(s, [one(*choices.on_legal(zs, zt)) for zs, zt in pairs])


def jensen_shannon(student: Prediction, target: Prediction, *, beta: float = 0.5) -> Tensor:
    """Skewed Jensen-Shannon divergence over beta (1 - beta), ``[*b]``; continuous from end to end.

    With teacher p, student q and m their mean, [beta KL(p || m) + (1 - beta) KL(q || m)] / (beta (1 - beta)). Undivided
    it vanishes at both ends; divided, beta = 0 is forward KL, beta = 1 reverse KL, and beta = 0.5 four times the
    symmetric Jensen-Shannon divergence (at most 4 log 2 over the legal actions of a choice).

    - Discrete: m = beta p + (1 - beta) q, the generalised divergence of Agarwal et al. 2023 (2306.13649, section 2).
    - Gaussian: that mixture has no closed form. m is the normalised geometric mean p^beta q^(1 - beta), again Gaussian:
      the geometric Jensen-Shannon divergence (Nielsen 2019, 1904.04017). Same ends, no upper bound. TanhGaussians are
      compared before tanh, which gives the same number.

    Raises:
        UsageError: ``loss.beta`` outside [0, 1].
    """
    if not 0 <= beta <= 1:
        raise UsageError("loss.beta", f"beta = {beta}", "a number from 0 (forward KL) to 1 (reverse KL)")
    s, t = _pair(student, target)
    pairs = choices_of(s, t)
    if pairs is not None:

        def one(log_q: Tensor, log_p: Tensor, illegal: Tensor) -> Tensor:
            return to_mixture(log_p, log_q, 1 - beta) + to_mixture(log_q, log_p, beta) + illegal

        return choices.over_row(s, [one(*choices.on_legal(zs, zt)) for zs, zt in pairs])
    normal = normals(s, t)
    if normal is None:
        raise refuse("jensen_shannon", s, t, "one family with a density on both sides", "use mse or huber")
    q, p = normal
    return to_geometric(p, q, 1 - beta) + to_geometric(q, p, beta)


def hard_nll(student: Prediction, target: Prediction) -> Tensor:
    """-log of the student's probability (or density) of the teacher's mode, ``[*b]``: hard labels.

    The mode is the first of the largest logits, a DiagGaussian's mean, a TanhGaussian's tanh(mean), a Deterministic's
    action (in the student's units). A density has no upper bound: once the means agree, a learnt standard deviation
    makes the loss fall without end.
    """
    s, t = _pair(student, target)
    if choices_of(s, t) is not None:
        return -s.log_prob(t.mode())
    normal = normals(s, t)
    if isinstance(s, TanhGaussian) and normal is not None:
        # tanh rounds to 1 for a mean beyond 9: the density is taken before that happens.
        return -s.log_prob_before_tanh(normal[1].mean)
    pointed = isinstance(t, Deterministic) and not isinstance(s, Deterministic) and actions(s, t) is not None
    if normal is None and not pointed:
        raise refuse("hard_nll", s, t, "a student with a density, and a mode over the same actions", "use mse or huber")
    return -s.log_prob(t.mode())


def soft_cross_entropy(student: Prediction, target: Prediction, *, temperature: float = 1.0) -> Tensor:
    """T^2 x cross-entropy of softmax(z_student / T) under softmax(z_teacher / T), ``[*b]``.

    Hinton et al. 2015 (1503.02531, section 2): the factor T^2 keeps the size of the gradient. The minimum is T^2 times
    the entropy of the softened teacher, not 0.

    - T -> inf: less that minimum, half the mean squared difference of centred logits (``mse`` / 2).
    - T -> 0: loss / T tends to max z_student - z_student[teacher's mode], a hard label that asks for no margin (the
      perceptron's loss); the loss itself vanishes with T. The usual hard label is ``hard_nll``.

    Raises:
        UsageError: ``loss.temperature`` unless T > 0.
    """
    s, t = _pair(student, target)
    pairs = choices_of(s, t)
    if pairs is None:
        raise refuse("soft_cross_entropy", s, t, "one discrete family over the same actions", "use forward_kl or mse")
    _check_temperature(temperature)

    def one(zs: Tensor, zt: Tensor) -> Tensor:
        p = F.softmax(zt / temperature, -1)
        return -weighted_terms(p, F.log_softmax(zs / temperature, -1)).sum(-1)

    return temperature**2 * choices.over_row(s, [one(zs, zt) for zs, zt in pairs])


def standardised_logits(student: Prediction, target: Prediction, *, temperature: float = 2.0) -> Tensor:
    """T^2 x KL(softmax(Z(z_teacher) / T) || softmax(Z(z_student) / T)), ``[*b]``; Z are z-scores within a row.

    Sun et al. 2024 (2403.01427, algorithm 1; T is the base temperature): the student learns order and relative distance
    of actions, not how sure the teacher is, so that its probabilities are not the teacher's. T -> inf: half the mean
    squared difference of z-scores, but to T^2 x 1e-7 in float32 (take T up to 100); T -> 0: vanishes, as
    ``soft_cross_entropy`` does.

    Two choices always score -1 and +1, without a gradient: such a pair is refused, and a row with two legal actions
    teaches nothing.

    Raises:
        UsageError: ``loss.temperature`` unless T > 0.
    """
    s, t = _pair(student, target)
    pairs = choices_of(s, t)
    if pairs is None or any(zt.shape[-1] < 3 for _, zt in pairs):
        raise refuse(
            "standardised_logits", s, t, "the same choices on both sides, three ways or more", "use forward_kl"
        )
    _check_temperature(temperature)

    def one(zs: Tensor, zt: Tensor) -> Tensor:
        inside = torch.where(choices.legal(zt), zs, -torch.inf)
        log_p = F.log_softmax(choices.z_scores(zt) / temperature, -1)
        log_q = F.log_softmax(choices.z_scores(inside) / temperature, -1)
        return weighted_terms(log_p.exp(), log_p - log_q).sum(-1)

    return temperature**2 * choices.over_row(s, [one(zs, zt) for zs, zt in pairs])


def mse(student: Prediction, target: Prediction, *, space: Space = "action") -> Tensor:
    """Mean squared error over the numbers of a row, ``[*b]``.

    - Categorical, MultiCategorical: of logits, each choice's centred over its legal actions, because softmax ignores a
      common shift (Ba & Caruana 2014, 1312.6184). Factors count alike.
    - Bernoulli: of log-odds; a coin that the teacher fixes (+-inf) counts 0.
    - DiagGaussian: of means; TanhGaussian: of tanh(mean), since an error in action units is what the environment feels;
      Deterministic: of actions. Standard deviations take no part and get no gradient.

    Args:
        space: ``pre_tanh`` compares two TanhGaussians before tanh: a saturated student keeps its gradient, and far-out
            means count for more than the environment can tell apart. Other pairs have one space only.
    """
    return _mean_error("mse", student, target, torch.square, space)


def huber(student: Prediction, target: Prediction, *, delta: float = 1.0, space: Space = "action") -> Tensor:
    """Mean Huber loss of the errors e that ``mse`` squares, ``[*b]``: e^2 / 2, delta (|e| - delta / 2) beyond delta.

    delta -> inf is mse / 2; huber / delta -> |e| as delta -> 0.

    Raises:
        UsageError: ``loss.delta`` unless delta > 0.
    """
    return _mean_error("huber", student, target, partial(huber_of, delta=delta), space)


def huber_of(error: Tensor, delta: float) -> Tensor:
    """Huber's function of each error, the shape of ``error``; UsageError ``loss.delta`` unless delta > 0."""
    if not delta > 0:
        raise UsageError("loss.delta", f"delta = {delta}", "more than 0")
    size = error.abs()
    # One formula for both branches: beside `where`, an infinite delta would send 0 x inf into the gradient.
    inside = size.clamp(max=delta)
    return inside * (size - 0.5 * inside)


def centred_q(student: Prediction, target: Prediction, *, scale: float | None = None) -> Tensor:
    """Mean squared error of the student's centred logits to (Q - mean Q) / scale, ``[*b]``.

    The student's logits become advantages in units of ``scale``: its mode is the teacher's greedy action, its law the
    teacher's Boltzmann law at a temperature of ``scale``. The same as ``mse`` on ``targets.from_q_scaled(tau=1)``.

    Args:
        student: a Categorical.
        target: with ``q`` over the same actions.
        scale: ``targets.q_scale`` of a frozen sample; None measures the batch (see targets).

    Raises:
        DistributionError: ``loss.no-q``.
    """
    return mse(student, targets.from_q_scaled(target, tau=1.0, scale=scale))


def wasserstein2(student: Prediction, target: Prediction) -> Tensor:
    """Squared 2-Wasserstein distance |m - m'|^2 + |std - std'|^2, summed over dimensions, ``[*b]``.

    Dowson & Landau 1982, for diagonal normal laws. A Deterministic is one with std 0: unlike KL, the loss stays finite.
    TanhGaussians are compared before tanh, which never stretches: an upper bound on the distance of the squashed laws.
    """
    s, t = _pair(student, target)
    pair = normals(s, t) or normals(as_normal(s), as_normal(t))
    if pair is None:
        raise refuse("wasserstein2", s, t, "DiagGaussian, Deterministic, or two TanhGaussians", "use mse or huber")
    q, p = pair
    return ((q.mean - p.mean).square() + (q.log_std.exp() - p.log_std.exp()).square()).sum(-1)


def _pair(student: Prediction, target: Prediction) -> tuple[Distribution, Distribution]:
    return student.dist, map_tensors(target.dist, Tensor.detach)


def _mean_error(
    name: str, student: Prediction, target: Prediction, f: Callable[[Tensor], Tensor], space: Space
) -> Tensor:
    s, t = _pair(student, target)
    pairs = choices_of(s, t)
    if isinstance(s, Bernoulli) and isinstance(t, Bernoulli) and pairs is not None:
        free = ~t.logits.isinf()
        return f(torch.where(free, s.logits - torch.where(free, t.logits, 0.0), 0.0)).mean(-1)
    if pairs is not None:
        return choices.over_row(s, [_centred_error(zs, zt, f) for zs, zt in pairs]) / len(pairs)
    numbers = actions(s, t)
    if numbers is None:
        raise refuse(
            name, s, t, "the same actions in the same units on both sides", "build the student from teacher.spec"
        )
    normal = normals(s, t)
    if space == "pre_tanh" and normal is not None:
        numbers = normal[0].mean, normal[1].mean
    return f(numbers[0] - numbers[1]).mean(-1)


def _centred_error(student: Tensor, teacher: Tensor, f: Callable[[Tensor], Tensor]) -> Tensor:
    where = choices.legal(teacher)
    error = choices.centred(student - teacher, where)
    return f(error).sum(-1) / where.sum(-1).clamp(min=1)


def _check_temperature(temperature: float) -> None:
    if not temperature > 0:
        raise UsageError("loss.temperature", f"a temperature of {temperature}", "more than 0", "use hard_nll")
