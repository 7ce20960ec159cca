"""Objectives on how rows and classes of a batch stand to each other, one number per row; it refuses to see a network.

``(student, batch) -> {"": rows}``; knobs are keywords, bound with ``functools.partial``. Targets are detached here.

=====================  ================================================  ==============================================
objective              takes                                             a row's number depends on
=====================  ================================================  ==============================================
relational_distance    logits of one discrete family, or any feature     all counted rows (n^2 numbers in memory)
relational_angle       logits of one discrete family, or any feature     all counted rows (n^3, and n^2 x width)
dist_relations         two Categoricals over the same classes            itself; columns on all counted rows
decoupled              two Categoricals over the same classes            itself
=====================  ================================================  ==============================================

A row that ``batch.mask`` leaves out is nobody's partner and may hold anything. ``batch.weight`` weighs a row's own
number, not what others make of it. Leading dimensions of the batch are flattened: a token is a row. The student may
have more of them in front (several students): its rows are related student by student.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from policykd.distributions import Bernoulli, Categorical, MultiCategorical, leading, weighted_terms
from policykd.errors import UsageError
from policykd.losses.features import Feature, feature_of, unit
from policykd.losses.pairs import choices_of, refuse
from policykd.losses.policy import huber_of
from policykd.prediction import Batch, Prediction

__all__ = ["decoupled", "dist_relations", "relational_angle", "relational_distance"]


def relational_distance(
    student: Prediction, batch: Batch, *, feature: Feature | None = None, delta: float = 1.0
) -> dict[str, Tensor]:
    """Huber of a row's distances to the others in units of their mean, student's minus teacher's, ``[*b]``.

    Park et al. 2019 (RKD, 1904.05068, section 3.2.1). A row's number is the mean over its partners, all counted rows
    but itself; the mean over rows is the paper's mean over pairs. The unit is each side's own mean distance over those
    pairs, and the student's has a gradient. A batch of one counted row is 0, with gradient 0.

    Args:
        student, batch: with the feature, ``[*b, ...]``, flattened; widths may differ.
        feature: its name; None compares logits, an action that the teacher masks counting 0.
        delta: where Huber's function becomes linear (the paper's 1).

    Raises:
        UsageError: ``loss.feature``, ``loss.feature-shape``, ``loss.delta`` unless delta > 0.
        DistributionError: ``loss.pair`` for logits of two families, or none.
    """
    s, t, counted = _embedded("relational_distance", student, batch, feature)
    partner = _partners(counted)
    error = huber_of(_distances(s, partner) - _distances(t, partner), delta)
    rows = torch.where(partner, error, 0.0).sum(-1) / partner.sum(-1).clamp(min=1)
    return {"": rows.reshape(leading(student.dist))}


def relational_angle(
    student: Prediction, batch: Batch, *, feature: Feature | None = None, delta: float = 1.0
) -> dict[str, Tensor]:
    """Huber of the cosines of the angles that pairs of other rows make at a row, student's minus teacher's, ``[*b]``.

    Park et al. 2019 (RKD, 1904.05068, section 3.2.2). A row's number is the mean over all ordered pairs of two counted
    rows other than itself, it being the corner; the mean over rows is the paper's mean over triplets. Two rows in one
    place make no angle: their cosine is 0, without a gradient. Fewer than three counted rows are 0, with gradient 0.

    Args:
        student, batch: with the feature, ``[*b, ...]``, flattened; widths may differ.
        feature: its name; None compares logits, an action that the teacher masks counting 0.
        delta: where Huber's function becomes linear (the paper's 1; beyond 2 it never does).

    Raises:
        UsageError: ``loss.feature``, ``loss.feature-shape``, ``loss.delta`` unless delta > 0.
        DistributionError: ``loss.pair`` for logits of two families, or none.
    """
    s, t, counted = _embedded("relational_angle", student, batch, feature)
    partner = _partners(counted)
    pairs = partner.unsqueeze(-1) & partner.unsqueeze(-2) & partner.new_ones(partner.shape).triu(1).unsqueeze(0)
    # An angle is that of (i, k) and of (k, i): one of both is enough.
    error = torch.where(pairs, huber_of(_angles(s) - _angles(t), delta), 0.0)
    rows = error.sum((-2, -1)) / pairs.sum((-2, -1)).clamp(min=1)
    return {"": rows.reshape(leading(student.dist))}


def _distances(e: Tensor, partner: Tensor) -> Tensor:
    """``[..., n, d]`` to distances ``[..., n, n]`` over their mean."""
    # |a|^2 + |b|^2 - 2ab is a tenth of the time of differences. About the mean its rounding is smallest; what rounding
    # decides is no distance, and has no slope.
    e = e - e.mean(-2, keepdim=True)
    square = e.square().sum(-1)
    whole = square.unsqueeze(-1) + square.unsqueeze(-2)
    apart = whole - 2.0 * e @ e.transpose(-2, -1)
    far = ~(apart <= 1e-5 * whole)  # a NaN must stay one
    apart = torch.where(far, torch.where(far, apart, 1.0).sqrt(), 0.0)
    mean = torch.where(partner, apart, 0.0).sum((-2, -1), keepdim=True) / partner.sum().clamp(min=1)
    return apart / torch.where(mean == 0, 1.0, mean)


def _angles(e: Tensor) -> Tensor:
    """``[..., n, d]`` to cosines ``[..., corner, n, n]``."""
    towards = unit(e.unsqueeze(-3) - e.unsqueeze(-2))
    return towards @ towards.transpose(-2, -1)


def _partners(counted: Tensor) -> Tensor:
    """``[n]`` to ``[n, n]`` bool: who counts for whom, nobody for himself."""
    others = ~torch.eye(len(counted), dtype=torch.bool, device=counted.device)
    return counted.unsqueeze(0) & counted.unsqueeze(1) & others


def _embedded(name: str, student: Prediction, batch: Batch, feature: Feature | None) -> tuple[Tensor, Tensor, Tensor]:
    """The student's rows ``[..., n, d]``, the teacher's ``[n, d']``, and which count, ``[n]``."""
    target, lead, own = batch.target, leading(batch.target.dist), leading(student.dist)
    members = own[: max(len(own) - len(lead), 0)]
    if own != members + lead:
        found = f"rows {tuple(own)} of a student and {tuple(lead)} of a teacher"
        raise UsageError("loss.feature-shape", found, "the same rows on both sides")
    if feature is None:
        s, t = _logits(name, student, target)
    else:
        own_name, other = (feature, feature) if isinstance(feature, str) else feature
        s, t = feature_of(student, own_name, "student"), feature_of(target, other, "teacher").detach()
    n = lead.numel()
    counted = _counted(batch, n, s.device)
    s, t = s.flatten(len(own)), t.flatten(len(lead))
    s, t = s.reshape(*members, n, s.shape[-1]), t.reshape(n, t.shape[-1])
    # A row that does not count may hold anything, and 0 x NaN is NaN.
    keep = counted.unsqueeze(-1)
    return torch.where(keep, s, 0.0), torch.where(keep, t, 0.0), counted


def _counted(batch: Batch, n: int, device: torch.device) -> Tensor:
    if batch.mask is None:
        return torch.ones(n, dtype=torch.bool, device=device)
    return batch.mask.bool().reshape(n)


def _logits(name: str, student: Prediction, target: Prediction) -> tuple[Tensor, Tensor]:
    s, t = student.dist, target.dist
    discrete = Categorical | MultiCategorical | Bernoulli
    if isinstance(s, discrete) and isinstance(t, discrete) and choices_of(s, t) is not None:
        own, other = s.logits, t.logits.detach()
        return torch.where(own.isinf() | other.isinf(), 0.0, own), torch.where(other.isinf(), 0.0, other)
    raise refuse(name, s, t, "one discrete family over the same actions", "compare features: feature='torso'")


def dist_relations(
    student: Prediction, batch: Batch, *, beta: float = 1.0, gamma: float = 1.0, temperature: float = 1.0
) -> dict[str, Tensor]:
    """T^2 x (beta x (1 - r of the row) + gamma x (1 - r of a column, averaged over columns)), ``[*b]``.

    Huang et al. 2022 (DIST, 2205.10536): r is Pearson's correlation of the student's softmax(z / T) with the teacher's,
    in a row over its classes, in a column over the batch. T^2 on both parts is the convention of the authors' code. The
    columns' part is one number for the batch, which each row is given; it counts only over counted rows, and is 0 for
    fewer than two of them. A constant row or column correlates with nothing: r = 0, without a gradient.

    Of two classes a row's r is -1 or 1, without a gradient: only gamma teaches there. T -> 0 makes laws of 0 and 1
    (vanishing with T^2); T -> inf correlates logits, but the loss grows with T^2.

    Args:
        student, batch: two Categoricals over the same classes.
        beta, gamma: weights of the two parts, 0 or more; one at 0 is not computed.
        temperature: T.

    Raises:
        UsageError: ``loss.weight``, ``loss.temperature``.
        DistributionError: ``loss.pair`` for another pair.
    """
    _check_knobs(temperature, beta=beta, gamma=gamma)
    lead, own = leading(batch.target.dist), leading(student.dist)
    z_s, z_t = _classes("dist_relations", student, batch.target)
    counted = _counted(batch, lead.numel(), z_s.device).reshape(lead)
    law_s, law_t = (F.softmax(torch.where(counted.unsqueeze(-1), z, 0.0) / temperature, -1) for z in (z_s, z_t))
    rows = law_s.new_zeros(own)
    if beta:
        rows = rows + beta * (1.0 - (unit(_centred(law_s)) * unit(_centred(law_t))).sum(-1))
    if gamma and int(counted.sum()) > 1:
        # [*members, classes, counted rows]
        columns_s, columns_t = (law[..., counted, :].transpose(-2, -1) for law in (law_s, law_t))
        r = (unit(_centred(columns_s)) * unit(_centred(columns_t))).sum(-1).mean(-1)
        rows = rows + gamma * (1.0 - r).reshape(*r.shape, *[1] * len(lead))
    return {"": temperature**2 * rows}


def _centred(x: Tensor) -> Tensor:
    away = x - x.mean(-1, keepdim=True)
    # What rounding leaves of a constant has no direction, but would be given one of length 1.
    rounding = 16 * torch.finfo(x.dtype).eps * x.abs().amax(-1, keepdim=True)
    return torch.where(away.abs().amax(-1, keepdim=True) <= rounding, 0.0, away)


def decoupled(
    student: Prediction, batch: Batch, *, alpha: float = 1.0, beta: float = 8.0, temperature: float = 4.0
) -> dict[str, Tensor]:
    """T^2 x (alpha x KL of "this class or not" + beta x KL of the other classes among themselves), ``[*b]``.

    Zhao et al. 2022 (DKD, 2203.08679, section 3): with the class c of a row, p = softmax(z / T) of the teacher and q of
    the student, TCKD = KL([p_c, 1 - p_c] || [q_c, 1 - q_c]) and NCKD = KL(p / (1 - p_c) || q / (1 - q_c)) without c.
    KL(p || q) is TCKD + (1 - p_c) NCKD: alpha = 1 and beta = 1 - p_c would be T^2 x ``forward_kl`` of softened laws.

    c is ``batch.extra["label"]``; where that is -1, or missing from the batch, the teacher's mode. Two classes have no
    others: NCKD = 0. A teacher who is certain (p_c = 1 exactly) says nothing of the others: 0. T -> 0 vanishes.

    Args:
        student, batch: two Categoricals over the same classes, two or more; labels ``[*b]``, integers.
        alpha, beta: weights of the two parts, 0 or more; one at 0 is not computed.
        temperature: T.

    Raises:
        UsageError: ``loss.weight``, ``loss.temperature``; ``loss.label`` for labels of another shape or type, or no
            class.
        DistributionError: ``loss.pair`` for another pair.
    """
    _check_knobs(temperature, alpha=alpha, beta=beta)
    z_s, z_t = _classes("decoupled", student, batch.target)
    chosen = _label(batch, z_t).unsqueeze(-1) == torch.arange(z_t.shape[-1], device=z_t.device)
    own_s, rest_s, others_s, _ = _decoupled(z_s / temperature, chosen)
    own_t, rest_t, others_t, any_t = _decoupled(z_t / temperature, chosen)
    rows = z_s.new_zeros(leading(student.dist))
    if alpha:
        this_or_not = weighted_terms(own_t.exp(), own_t - own_s) + weighted_terms(rest_t.exp(), rest_t - rest_s)
        rows = rows + alpha * this_or_not
    if beta:
        among = weighted_terms(others_t.exp(), others_t - others_s).sum(-1)
        rows = rows + beta * torch.where(any_t, among, 0.0)
    return {"": temperature**2 * rows}


def _decoupled(z: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log-probability of the chosen class, of all others together, of each among those, and whether there are any."""
    log_p = F.log_softmax(z, -1)
    own = torch.where(chosen, log_p, 0.0).sum(-1)
    others = torch.where(chosen, -torch.inf, log_p)
    # A softmax of nothing but -inf is NaN, its gradient too.
    some = (others != -torch.inf).any(-1)
    safe = torch.where(some.unsqueeze(-1), others, 0.0)
    return own, torch.where(some, safe.logsumexp(-1), -torch.inf), F.log_softmax(safe, -1), some


def _label(batch: Batch, logits: Tensor) -> Tensor:
    mode, label = logits.argmax(-1), batch.extra.get("label")
    if label is None:
        return mode
    classes = logits.shape[-1]
    found = f"labels of shape {tuple(label.shape)} and type {label.dtype}"
    if label.shape != mode.shape or label.is_floating_point() or label.is_complex() or label.dtype == torch.bool:
        raise UsageError("loss.label", found, f"one integer for each of {tuple(mode.shape)} rows", "-1 for no label")
    if label.numel() and int(label.max()) >= classes:
        raise UsageError("loss.label", f"the label {int(label.max())}", f"0 to {classes - 1}, or -1 for none")
    return torch.where(label < 0, mode, label.long())


def _classes(name: str, student: Prediction, target: Prediction) -> tuple[Tensor, Tensor]:
    s, t = student.dist, target.dist
    if isinstance(s, Categorical) and isinstance(t, Categorical) and choices_of(s, t) and s.logits.shape[-1] > 1:
        return s.logits, t.logits.detach()
    raise refuse(name, s, t, "two Categoricals over the same two or more classes", "use forward_kl")


def _check_knobs(temperature: float, **weights: float) -> None:
    if not 0 < temperature < math.inf:
        raise UsageError("loss.temperature", f"a temperature of {temperature}", "a finite number above 0")
    for name, weight in weights.items():
        if not 0 <= weight < math.inf:
            raise UsageError("loss.weight", f"{name} = {weight}", "a finite number of 0 or more")
