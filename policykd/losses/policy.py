"""Pair losses on action distributions, one number per row; it refuses to reduce, to weigh and to teach the teacher.

Every function is ``(student: Prediction, target: Prediction) -> Tensor[*b]``; knobs are keywords, bound with
``functools.partial``. Targets are detached here. Units: nats for the divergences, squares of logits or of action units
for mse, huber and wasserstein2.

========================  =========================  ==========================================================
loss                      discrete families          continuous families
========================  =========================  ==========================================================
forward_kl, reverse_kl    same family                DiagGaussian, TanhGaussian: same family
jensen_shannon            same family                DiagGaussian, TanhGaussian: same family (geometric mean)
hard_nll                  same family                student DiagGaussian or TanhGaussian; teacher the same or Deterministic
soft_cross_entropy        same family                -
standardised_logits       Categorical,               -
                          MultiCategorical
centred_q                 Categorical, teacher's q   -
mse, huber                same family                any two in the same action units (not DiagGaussian with TanhGaussian)
wasserstein2              -                          DiagGaussian and Deterministic in any pair; two TanhGaussians
========================  =========================  ==========================================================

Any other pair is a DistributionError, ``loss.pair`` (``dist.kl-pair`` from the KLs).

Masked actions (a teacher's logit of -inf). The forward losses give them probability 0, so they also push the student's
mass off them. The backward ones (reverse_kl, jensen_shannon) would be infinite there: they compare over the legal
actions and add -log of the student's legal mass, as forward KL does by itself. mse, huber, standardised_logits and
centred_q look at legal actions only.
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
    Categorical,
    Deterministic,
    DiagGaussian,
    Distribution,
    MultiCategorical,
    TanhGaussian,
    kl,
    map_tensors,
)
from policykd.errors import UsageError
from policykd.losses import choices, targets
from policykd.prediction import Prediction

__all__ = [
    "centred_q",
    "forward_kl",
    "hard_nll",
    "huber",
    "jensen_shannon",
    "mse",
    "reverse_kl",
    "soft_cross_entropy",
    "standardised_logits",
    "wasserstein2",
]

_SAME_DISCRETE = "two discrete distributions of one family over the same actions"
Space = Literal["action", "pre_tanh"]


def _pair(student: Prediction, target: Prediction) -> tuple[Distribution, Distribution]:
    return student.dist, map_tensors(target.dist, Tensor.detach)


def _weighted(weight: Tensor, value: Tensor) -> Tensor:
    # 0 * inf = 0, in the value and in the gradient.
    return torch.where(weight > 0, weight * torch.where(weight > 0, value, 0.0), 0.0)


def forward_kl(student: Prediction, target: Prediction) -> Tensor:
    """KL(teacher || student), nats, ``[*b]``: the student must cover whatever the teacher does.

    Takes: the same family on both sides, not Deterministic. TanhGaussians are compared before tanh (same number).
    """
    s, t = _pair(student, target)
    return kl(t, s)


def reverse_kl(student: Prediction, target: Prediction) -> Tensor:
    """KL(student || teacher), nats, ``[*b]``: the student may leave out what the teacher does, never add to it.

    Takes: the same family on both sides, not Deterministic. Masked actions: see the module.
    """
    s, t = _pair(student, target)
    pairs = choices.paired(s, t)
    if pairs is None:
        return kl(s, t)
    return choices.over_row(s, [_backward(*_on_legal(zs, zt)) for zs, zt in pairs])


def _backward(log_q: Tensor, log_p: Tensor, illegal: Tensor) -> Tensor:
    return _weighted(log_q.exp(), log_q - log_p).sum(-1) + illegal


def _on_legal(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities of both over the teacher's legal actions, and -log of the mass the student gives them."""
    inside = torch.where(choices.legal(teacher), student, -torch.inf)
    illegal = torch.logsumexp(student, -1) - torch.logsumexp(inside, -1)
    return F.log_softmax(inside, -1), F.log_softmax(teacher, -1), illegal


def jensen_shannon(student: Prediction, target: Prediction, *, beta: float = 0.5) -> Tensor:
    """Skewed Jensen-Shannon divergence divided by beta (1 - beta), nats, ``[*b]``; continuous from end to end.

    [beta KL(p || m) + (1 - beta) KL(q || m)] / (beta (1 - beta)) with teacher p, student q and their mean m. The
    division is what keeps the ends alive (the bare divergence vanishes there): beta = 0 is forward KL, beta = 1
    reverse KL, and beta = 0.5 four times the symmetric Jensen-Shannon divergence (at most 4 log 2 on legal actions).

    - Discrete: m = beta p + (1 - beta) q (generalised JSD of Agarwal et al. 2023, 2306.13649, eq. 1).
    - Gaussian: a mixture has no closed form; m is the normalised geometric mean p^beta q^(1 - beta), again Gaussian
      (geometric Jensen-Shannon divergence, Nielsen 2019, 1904.04017, section 3). It has the same ends, but no upper
      bound. TanhGaussians are compared before tanh (same number).

    Takes: the same family on both sides, not Deterministic. Masked actions: see the module.

    Raises:
        UsageError: ``loss.beta`` outside [0, 1].
    """
    if not 0 <= beta <= 1:
        raise UsageError("loss.beta", f"beta = {beta}", "a number from 0 (forward KL) to 1 (reverse KL)")
    s, t = _pair(student, target)
    pairs = choices.paired(s, t)
    if pairs is not None:
        return choices.over_row(s, [_js_choice(*_on_legal(zs, zt), beta) for zs, zt in pairs])
    match s, t:
        case (DiagGaussian(), DiagGaussian()) | (TanhGaussian(), TanhGaussian()) if (
            s.mean.shape[-1] == t.mean.shape[-1]
        ):
            return (_to_geometric(t, s, 1 - beta) + _to_geometric(s, t, beta)).sum(-1)
    raise choices.refuse("jensen_shannon", s, t, "one family with a density on both sides", "use mse or huber")


def _js_choice(log_q: Tensor, log_p: Tensor, illegal: Tensor, beta: float) -> Tensor:
    return _to_mixture(log_p, log_q, 1 - beta) + _to_mixture(log_q, log_p, beta) + illegal


def _to_mixture(log_a: Tensor, log_b: Tensor, alpha: float) -> Tensor:
    """KL(a || (1 - alpha) a + alpha b) / alpha, ``[*b]``: 0 at alpha = 0, KL(a || b) at 1.

    The naive form loses all its digits for a small alpha, because its first order cancels only in the sum over a row.
    Adding b - a, which sums to 0, cancels it term by term: a / alpha (x - log(1 + x)) with x = alpha (b / a - 1).
    """
    if alpha == 0:
        return torch.zeros_like(log_a[..., 0] + log_b[..., 0])
    a, b = log_a.exp(), log_b.exp()
    if alpha == 1:
        return _weighted(a, log_a - log_b).sum(-1)
    there = choices.legal(log_a)
    # A ratio above e^80 is cut: it belongs to an a below e^-80, whose share is nothing.
    log_ratio = torch.where(there, log_b - torch.where(there, log_a, 0.0), 0.0).clamp(max=80.0)
    x = alpha * torch.expm1(log_ratio)
    exact = b - a - a / alpha * torch.log1p(x)
    return torch.where(x.abs() < _SMALL, a / alpha * _x_minus_log1p(x), exact).sum(-1)


_SMALL = 1e-2


def _x_minus_log1p(x: Tensor) -> Tensor:
    """x - log(1 + x) without cancellation: its series where x is small (relative error 1e-9)."""
    near = torch.where(x.abs() < _SMALL, x, 0.0)
    series = near.square() * (1 / 2 - near * (1 / 3 - near * (1 / 4 - near / 5)))
    return torch.where(x.abs() < _SMALL, series, x - torch.log1p(x))


def _to_geometric(a: DiagGaussian | TanhGaussian, b: DiagGaussian | TanhGaussian, alpha: float) -> Tensor:
    """KL(a || g) / alpha, ``[*b, d]``, with g the normal law proportional to a^(1 - alpha) b^alpha; 0 at alpha = 0."""
    if alpha == 0:
        return torch.zeros_like(a.mean + b.mean)
    precision = torch.exp(-2.0 * b.log_std)
    # g's precision over a's is 1 + alpha excess; its mean is alpha precision_b (b - a) / precision_g away from a's.
    excess = torch.expm1(2.0 * (a.log_std - b.log_std))
    of_g = (1 - alpha) * torch.exp(-2.0 * a.log_std) + alpha * precision
    spread = _x_minus_log1p(alpha * excess) / alpha if alpha < 1 else excess - 2.0 * (a.log_std - b.log_std)
    return 0.5 * (spread + alpha * (precision * (b.mean - a.mean)).square() / of_g)


def hard_nll(student: Prediction, target: Prediction) -> Tensor:
    """-log of the student's probability (or density) of the teacher's mode, nats, ``[*b]``: hard labels.

    The mode of a DiagGaussian is its mean, that of a TanhGaussian tanh of its mean (SB3's deterministic action), that
    of a Deterministic its action. A density has no upper bound: with a learnt standard deviation the loss falls without
    end once the means agree. Ties: the first of equal logits.

    Takes: one discrete family on both sides; student DiagGaussian or TanhGaussian with a teacher of the same family or
    Deterministic (in the student's action units).
    """
    s, t = _pair(student, target)
    match s, t:
        case TanhGaussian(), TanhGaussian() if s.mean.shape[-1] == t.mean.shape[-1]:
            # tanh(mean) rounds to 1 for a mean beyond 9: the density is taken before that happens.
            return -s.log_prob_before_tanh(t.mean)
        case (DiagGaussian(), DiagGaussian()) | (DiagGaussian() | TanhGaussian(), Deterministic()) if (
            s.mean.shape[-1] == t.mode().shape[-1]
        ):
            return -s.log_prob(t.mode())
    if choices.paired(s, t) is None:
        raise choices.refuse(
            "hard_nll", s, t, "a student with a density and a teacher's mode over the same actions", "use mse or huber"
        )
    return -s.log_prob(t.mode())


def soft_cross_entropy(student: Prediction, target: Prediction, *, temperature: float = 1.0) -> Tensor:
    """T^2 x H(softmax(z_teacher / T), softmax(z_student / T)), nats, ``[*b]`` (Hinton et al. 2015, 1503.02531, section 2).

    T^2 keeps gradients in step with those at T = 1. The minimum is T^2 times the softened teacher's entropy, not 0.

    - T -> inf: less that minimum, half the mean square of the difference of centred logits (``mse`` / 2).
    - T -> 0: loss / T tends to max z_student - z_student[teacher's mode], a hard label with a margin of 0 (the
      perceptron's loss); the loss itself vanishes with T. For the usual hard label use ``hard_nll``.

    Takes: one discrete family on both sides (coins and factors are summed).

    Raises:
        UsageError: ``loss.temperature`` unless T > 0.
    """
    s, t = _pair(student, target)
    pairs = choices.paired(s, t)
    if pairs is None:
        raise choices.refuse("soft_cross_entropy", s, t, _SAME_DISCRETE, "use forward_kl or mse")
    _check_temperature(temperature)
    return temperature**2 * choices.over_row(s, [_cross_entropy(zs, zt, temperature) for zs, zt in pairs])


def _cross_entropy(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    p = F.softmax(teacher / temperature, -1)
    return -_weighted(p, F.log_softmax(student / temperature, -1)).sum(-1)


def _check_temperature(temperature: float) -> None:
    if not temperature > 0:
        raise UsageError(
            "loss.temperature", f"a temperature of {temperature}", "more than 0", "use hard_nll for hard labels"
        )


def standardised_logits(student: Prediction, target: Prediction, *, temperature: float = 2.0) -> Tensor:
    """T^2 x KL(softmax(Z(z_teacher) / T) || softmax(Z(z_student) / T)), nats, ``[*b]``; Z is the z-score of a row's logits.

    Sun et al. 2024 (2403.01427, algorithm 1; T is their base temperature): the student learns the order and relative
    distance of actions, never how sure the teacher is, so its probabilities are not the teacher's. T -> inf: half the
    mean squared difference of z-scores; T -> 0: vanishes, as ``soft_cross_entropy`` does.

    Takes: Categorical or MultiCategorical on both sides, three choices or more: two always score -1 and +1, without
    gradient. For the same reason a row with only two legal actions teaches nothing.

    Raises:
        UsageError: ``loss.temperature`` unless T > 0.
    """
    s, t = _pair(student, target)
    pairs = choices.paired(s, t)
    if pairs is None or isinstance(s, Bernoulli) or any(zt.shape[-1] < 3 for _, zt in pairs):
        raise choices.refuse(
            "standardised_logits", s, t, "two Categoricals or MultiCategoricals of at least 3 choices", "use forward_kl"
        )
    _check_temperature(temperature)
    return temperature**2 * choices.over_row(s, [_standardised(zs, zt, temperature) for zs, zt in pairs])


def _standardised(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    inside = torch.where(choices.legal(teacher), student, -torch.inf)
    log_p = F.log_softmax(choices.z_scores(teacher) / temperature, -1)
    log_q = F.log_softmax(choices.z_scores(inside) / temperature, -1)
    return _weighted(log_p.exp(), log_p - log_q).sum(-1)


def mse(student: Prediction, target: Prediction, *, space: Space = "action") -> Tensor:
    """Mean squared error of what the two would do, over the numbers of a row, ``[*b]``.

    - Categorical, MultiCategorical: of logits, each choice's centred over its legal actions (a softmax ignores a common
      shift, so the student need not learn it). Ba & Caruana 2014 (1312.6184, eq. 1).
    - Bernoulli: of log-odds; a coin that the teacher fixes (+-inf) counts 0.
    - DiagGaussian: of means; TanhGaussian: of tanh(mean), because an error in action units is what the environment feels
      (Deterministic: of actions). Standard deviations take no part and get no gradient.

    Args:
        space: "pre_tanh" compares two TanhGaussians before tanh, where a saturated student still gets a gradient and
            where far-out means count for more than the environment can tell apart. No effect on other families.

    Takes: the same family, or a Deterministic with either Gaussian in the same action units.
    """
    return _mean_error("mse", student, target, torch.square, space)


def huber(student: Prediction, target: Prediction, *, delta: float = 1.0, space: Space = "action") -> Tensor:
    """Mean Huber loss over the numbers that ``mse`` compares, ``[*b]``: e^2 / 2 up to delta, delta (|e| - delta / 2) beyond.

    delta -> inf is mse / 2; huber / delta -> |e| as delta -> 0.

    Raises:
        UsageError: ``loss.delta`` unless delta > 0.
    """
    return _mean_error("huber", student, target, partial(huber_of, delta=delta), space)


def huber_of(error: Tensor, delta: float) -> Tensor:
    """Huber's function of each error; ``loss.delta`` unless delta > 0."""
    if not delta > 0:
        raise UsageError(
            "loss.delta", f"delta = {delta}", "more than 0", "a small delta is the absolute error times delta"
        )
    size = error.abs()
    return torch.where(size <= delta, 0.5 * size.clamp(max=delta).square(), delta * (size - 0.5 * delta))


def _mean_error(
    name: str, student: Prediction, target: Prediction, f: Callable[[Tensor], Tensor], space: Space
) -> Tensor:
    s, t = _pair(student, target)
    match s, t:
        case Bernoulli(), Bernoulli() if s.logits.shape[-1] == t.logits.shape[-1]:
            free = t.logits.isfinite()
            return f(torch.where(free, s.logits - torch.where(free, t.logits, 0.0), 0.0)).mean(-1)
        case (Categorical(), Categorical()) | (MultiCategorical(), MultiCategorical()):
            pairs = choices.paired(s, t)
            if pairs is not None:
                return choices.over_row(s, [_centred_error(zs, zt, f) for zs, zt in pairs]) / len(pairs)
        case TanhGaussian(), TanhGaussian() if space == "pre_tanh" and s.mean.shape[-1] == t.mean.shape[-1]:
            return f(s.mean - t.mean).mean(-1)
        case (DiagGaussian() | Deterministic(), DiagGaussian() | Deterministic()) | (
            TanhGaussian() | Deterministic(),
            TanhGaussian() | Deterministic(),
        ) if s.mode().shape[-1] == t.mode().shape[-1]:
            return f(s.mode() - t.mode()).mean(-1)
    raise choices.refuse(
        name, s, t, "the same actions in the same units on both sides", "build the student from teacher.spec"
    )


def _centred_error(student: Tensor, teacher: Tensor, f: Callable[[Tensor], Tensor]) -> Tensor:
    where = choices.legal(teacher)
    error = choices.centred(student, where) - choices.centred(teacher, where)
    return f(error).sum(-1) / where.sum(-1).clamp(min=1)


def centred_q(student: Prediction, target: Prediction, *, scale: float | None = None) -> Tensor:
    """Mean squared error of the student's centred logits to (Q - mean Q) / scale, ``[*b]``.

    The student's logits become an advantage estimate in units of ``scale``: its greedy action is the teacher's, and its
    law the teacher's Boltzmann policy at a temperature of ``scale``. Equal to ``mse`` on ``from_q_scaled(tau=1)``.

    Args:
        scale: ``targets.q_scale`` of a frozen sample; None measures the batch (see targets).

    Takes: a Categorical student and a teacher with ``q`` over the same actions.

    Raises:
        DistributionError: ``loss.no-q``.
    """
    return mse(student, targets.from_q_scaled(target, tau=1.0, scale=scale))


def wasserstein2(student: Prediction, target: Prediction) -> Tensor:
    """Squared 2-Wasserstein distance |m - m'|^2 + |std - std'|^2, summed over dimensions, ``[*b]``, in squared action units.

    Closed form for diagonal normal laws (Dowson & Landau 1982); a Deterministic is a normal law with std 0, so unlike KL
    the loss stays finite as std -> 0. TanhGaussians are compared before tanh: since tanh never stretches, that is an
    upper bound on the distance of the squashed laws.

    Takes: DiagGaussian and Deterministic in any pair; two TanhGaussians.
    """
    s, t = _pair(student, target)
    match s, t:
        case (DiagGaussian() | Deterministic(), DiagGaussian() | Deterministic()) | (
            TanhGaussian(),
            TanhGaussian(),
        ) if s.mode().shape[-1] == t.mode().shape[-1]:
            (mean_s, std_s), (mean_t, std_t) = _moments(s), _moments(t)
            return ((mean_s - mean_t).square() + (std_s - std_t).square()).sum(-1)
    raise choices.refuse(
        "wasserstein2", s, t, "DiagGaussian or Deterministic on both sides, or two TanhGaussians", "use mse or huber"
    )


def _moments(dist: Distribution) -> tuple[Tensor, Tensor]:
    if isinstance(dist, DiagGaussian | TanhGaussian):
        return dist.mean, dist.log_std.exp()
    action = dist.mode()
    return action, torch.zeros_like(action)
