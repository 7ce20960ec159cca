"""Objectives on true labels, alone or beside the teacher's word; it never corrects a label.

Labels are ``batch.extra["label"]``, integers ``[*b]``, -1 where one is missing: such a row is 0 and teaches nothing.
``batch.extra["soft"]`` (``[*b, k]``) holds what several human raters said. Students are Categoricals over k classes.
Noisy labels are left out row by row: by the loss they cause (``small_loss``) or by the teacher (``agreeing``). Rows
left out are 0 and still count in the Learner's denominator, as those of ``targets.confidence_weight`` do.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from policykd.distributions import Categorical, is_law, kl, leading, map_tensors, weighted_terms
from policykd.errors import DistributionError, UsageError
from policykd.losses import choices
from policykd.losses.compose import Objective, PairLoss, Term, Weighted, as_objective
from policykd.losses.pairs import refuse
from policykd.losses.weights import Weight, weight_at
from policykd.prediction import Batch, Prediction, Progress

__all__ = ["agreeing", "hard_and_soft", "label_nll", "small_loss", "soft_kl", "soft_label_ce"]


def label_nll(student: Prediction, batch: Batch, *, eps: float = 0.0) -> dict[str, Tensor]:
    """-log of the student's probability of the true label, rows ``[*b]``; 0 where the label is -1.

    Args:
        batch: with ``extra["label"]``.
        eps: label smoothing (Szegedy et al. 2015, 1512.00567, section 7): the label is worth 1 - eps, and eps is
            shared by all classes (masked ones get none). 0 is the plain label, 1 the uniform law, whatever the label.

    Raises:
        UsageError: ``loss.eps`` outside [0, 1]; ``label.missing`` without ``extra["label"]``; ``label.shape``,
            ``label.range`` for labels that are no numbers of the student's classes.
        DistributionError: ``label.family`` for a student that is no Categorical.
    """
    if not 0 <= eps <= 1:
        raise UsageError("loss.eps", f"label smoothing of {eps}", "a number from 0 to 1")
    log_probs = _classes(student).log_probs
    label = _labels(student, batch)
    known = label >= 0
    index = torch.where(known, label, 0).long()
    rows = -log_probs.gather(-1, index.expand(log_probs.shape[:-1]).unsqueeze(-1)).squeeze(-1)
    if eps > 0:
        where = choices.legal(log_probs)
        share = where.to(log_probs.dtype) / where.sum(-1, keepdim=True)
        uniform = -weighted_terms(share, log_probs).sum(-1)
        rows = uniform if eps == 1 else (1 - eps) * rows + eps * uniform
    return {"": torch.where(known, rows, 0.0)}


def soft_label_ce(student: Prediction, batch: Batch) -> dict[str, Tensor]:
    """Cross-entropy of the student under the raters' law ``extra["soft"]`` (``[*b, k]``), rows ``[*b]``.

    A row of zeros is one that nobody rated: 0. Counts of raters weigh a row by how many they are. The minimum is the
    raters' own entropy, not 0 (Peterson et al. 2019, 1908.07086).

    Raises:
        UsageError: ``label.missing`` without ``extra["soft"]``, ``label.shape`` for another shape.
        DistributionError: ``label.family``.
    """
    log_probs = _classes(student).log_probs
    soft = _column(batch, "soft")
    if soft.shape != log_probs.shape[log_probs.dim() - soft.dim() :]:
        found = f"soft labels of shape {tuple(soft.shape)}"
        raise UsageError("label.shape", found, f"one probability a class, {tuple(log_probs.shape)}")
    return {"": -weighted_terms(soft.detach().to(log_probs.dtype), log_probs).sum(-1)}


def soft_kl(student: Prediction, target: Prediction, *, temperature: float = 4.0) -> Tensor:
    """T^2 x KL(softmax(z_teacher / T) || softmax(z_student / T)), ``[*b]``: 0 where they agree.

    Hinton et al. 2015 (1503.02531, section 2). It is ``soft_cross_entropy`` less its minimum, with the same gradient.
    T = 1 is forward KL; T -> inf half the mean squared difference of centred logits; it vanishes with T. In float32
    the sum is exact to T^2 x 1e-7: beyond T = 100 take ``mse``.

    Raises:
        UsageError: ``loss.temperature`` unless T > 0.
        DistributionError: ``loss.pair`` unless both are one discrete family, ``dist.kl-pair`` over the same actions.
    """
    if not temperature > 0:
        raise UsageError("loss.temperature", f"a temperature of {temperature}", "more than 0", "use hard_nll")
    s, t = (choices.map_choices(p.dist, lambda z: z / temperature) for p in (student, target))
    if s is None or t is None:
        raise refuse("soft_kl", student.dist, target.dist, "one discrete family on both sides", "use forward_kl or mse")
    return temperature**2 * kl(map_tensors(t, Tensor.detach), s)


def hard_and_soft(
    *,
    alpha: Weight = 0.9,
    temperature: float = 4.0,
    loss: Weighted | Objective | PairLoss | None = None,
    hard: Weighted | Objective | PairLoss = label_nll,
) -> Weighted:
    """(1 - alpha) CE(label) + alpha T^2 KL(teacher || student at T), as terms ``hard`` and ``soft``.

    Hinton et al. 2015 (1503.02531, section 2). A row without a label learns from the teacher only, with weight alpha.

    Args:
        alpha: share of the teacher, 0 to 1, or a function of Progress: ``weights.linear(1.0, 0.0)`` is teacher
            annealing (Clark et al. 2019, 1907.04829, section 3). At 0 the teacher is not asked, at 1 the label is not.
        temperature: T of the soft term.
        loss: what stands in the soft term's place (several terms: ``soft/name``); ``temperature`` is then not used.
        hard: what stands in the hard term's place: ``partial(label_nll, eps=0.1)``, ``agreeing(label_nll)``.

    Raises:
        UsageError: ``label.alpha`` for a number outside [0, 1] (a schedule's: at the step), ``loss.temperature``.
    """
    if not callable(alpha):
        _share(alpha, Progress())
    if loss is None and not temperature > 0:
        raise UsageError("loss.temperature", f"a temperature of {temperature}", "more than 0")
    soft = partial(soft_kl, temperature=temperature) if loss is None else loss
    return as_objective(partial(_mixed, alpha=alpha, hard=as_objective(hard), soft=as_objective(soft)))


def _mixed(
    student: Prediction, batch: Batch, progress: Progress, *, alpha: Weight, hard: Weighted, soft: Weighted
) -> dict[str, Term]:
    share = _share(alpha, progress)
    found: dict[str, Term] = {}
    for name, weight, part in (("hard", 1 - share, hard), ("soft", share, soft)):
        terms = part.terms(student, batch, progress) if weight else {}
        for inner, term in terms.items():
            whole = len(terms) == 1 or not inner
            found[name if whole else f"{name}/{inner}"] = Term(weight * term.weight, term.rows)
    return found


def _share(alpha: Weight, progress: Progress) -> float:
    share = weight_at(alpha, progress, "alpha")
    if not 0 <= share <= 1:
        raise UsageError("label.alpha", f"alpha = {share}", "the teacher's share, 0 to 1")
    return share


def small_loss(objective: Weighted | Objective | PairLoss, *, keep: Weight) -> Objective:
    """``objective`` on the share ``keep`` of labelled rows where it is smallest, 0 on the others.

    Networks learn clean labels first, so that a large loss marks a wrong label (Co-teaching: Han et al. 2018,
    1804.06872, section 3; theirs swaps the choice between two networks, ours is the student's own). Rows compete
    within a batch, those that count and have a label; of n of them round(keep x n) are kept. Terms are summed with
    their weights to one loss a row. keep = 1 is ``objective`` on labelled rows, keep = 0 nothing.

    Args:
        keep: 0 to 1, or a function of Progress: ``weights.linear(1.0, 0.8, finish=0.2)``.

    Raises:
        UsageError: ``label.keep`` outside [0, 1] (a schedule's: at the step), ``label.missing``, ``label.shape``.
    """
    if not callable(keep):
        _kept(keep, Progress())
    return partial(_small_loss, objective=as_objective(objective), keep=keep)


def _small_loss(
    student: Prediction, batch: Batch, progress: Progress, *, objective: Weighted, keep: Weight
) -> dict[str, Term]:
    share = _kept(keep, progress)
    label = _labels(student, batch)
    spoilt = ~is_law(student.dist)
    if _heard(batch):
        spoilt = spoilt | ~is_law(batch.target.dist)
    terms = objective.terms(*_without(spoilt, student, batch), progress) if share else {}
    if not terms:
        return {}
    counted = label >= 0 if batch.mask is None else (label >= 0) & batch.mask.bool()
    with torch.no_grad():
        loss = torch.stack([term.weight * term.rows for term in terms.values()]).sum(0)
        loss = torch.where(counted & ~spoilt, loss.nan_to_num(nan=torch.inf), torch.inf)
        # Members of Many, whose dimension lies before the label's, each choose their own rows.
        flat = loss.flatten(loss.dim() - label.dim()) if label.dim() else loss.unsqueeze(-1)
        place = flat.argsort(dim=-1, stable=True).argsort(-1)
        small = (place < torch.round(share * counted.sum())).reshape(loss.shape) & counted
    if bool((small & spoilt).any()):  # a NaN that counts is not hidden
        terms = objective.terms(*_without(spoilt & ~small, student, batch), progress)
    return {name: Term(term.weight, torch.where(small, term.rows, 0.0)) for name, term in terms.items()}


def _kept(keep: Weight, progress: Progress) -> float:
    share = weight_at(keep, progress, "keep")
    if not 0 <= share <= 1:
        raise UsageError("label.keep", f"keep = {share}", "the share of rows that is kept, 0 to 1")
    return share


def agreeing(objective: Weighted | Objective | PairLoss, *, p: float = 0.1) -> Objective:
    """``objective`` where the teacher gives the label at least a probability of ``p``, 0 elsewhere.

    The teacher, taught on clean data, takes out wrong labels. p = 0 keeps every labelled row, p > 1 none.

    Raises:
        UsageError: ``label.p`` for a p below 0, ``label.missing``, ``label.shape``, ``label.range``.
        DistributionError: ``label.family`` for a teacher that is no Categorical.
    """
    if not p >= 0:
        raise UsageError("label.p", f"p = {p}", "a probability")
    return partial(_agreeing, objective=as_objective(objective), p=p)


def _agreeing(
    student: Prediction, batch: Batch, progress: Progress, *, objective: Weighted, p: float
) -> dict[str, Term]:
    teacher = _classes(batch.target)
    if isinstance(student.dist, Categorical) and student.dist.logits.shape[-1] != teacher.logits.shape[-1]:
        raise refuse("agreeing", student.dist, teacher, "two Categoricals over the same classes", "pass teacher=")
    label = _labels(batch.target, batch)
    index = torch.where(label >= 0, label, 0).long().unsqueeze(-1)
    given = teacher.probs.detach().gather(-1, index).squeeze(-1)
    trusted = (label >= 0) & (given >= p)
    spoilt = ~(is_law(student.dist) & is_law(batch.target.dist)) & ~trusted
    terms = objective.terms(*_without(spoilt, student, batch), progress)
    return {name: Term(term.weight, torch.where(trusted, term.rows, 0.0)) for name, term in terms.items()}


def _heard(batch: Batch) -> bool:
    """Whether the target has a law for each label: where no teacher has spoken of tokens, it has one a sequence."""
    said, label = leading(batch.target.dist), batch.extra["label"].shape
    return said[max(len(said) - len(label), 0) :] == label


def _without(rows: Tensor, student: Prediction, batch: Batch) -> tuple[Prediction, Batch]:
    """Both sides with 0 in the place of ``rows``: 0 times their loss would still send NaN into the gradient."""
    if not bool(rows.any()):
        return student, batch
    if not _heard(batch):
        return _zeroed(student, rows), batch
    of_all = rows.reshape(-1, *leading(batch.target.dist)).all(0)  # what one of several students keeps stays
    return _zeroed(student, rows), replace(batch, target=_zeroed(batch.target, of_all))


def _zeroed(said: Prediction, rows: Tensor) -> Prediction:
    def zero(t: Tensor) -> Tensor:
        if t.shape[: rows.dim()] != rows.shape:
            return t  # no row each: a standard deviation that all share
        return torch.where(rows.reshape(*rows.shape, *[1] * (t.dim() - rows.dim())), torch.zeros_like(t), t)

    return said.map(zero)


def _classes(said: Prediction) -> Categorical:
    if isinstance(said.dist, Categorical):
        return said.dist
    found = f"a label for a {choices.describe(said.dist)}"
    raise DistributionError("label.family", found, "a Categorical over classes", "write an objective of your own")


def _column(batch: Batch, name: str) -> Tensor:
    if name in batch.extra:
        return batch.extra[name]
    raise UsageError("label.missing", f"a batch without extra[{name!r}]", "labels", f"batch.with_extra({name}=...)")


def _labels(said: Prediction, batch: Batch) -> Tensor:
    """The labels, if each is -1 or one of the classes."""
    logits, label = _classes(said).logits, _column(batch, "label")
    rows, classes = logits.shape[:-1], logits.shape[-1]
    if label.shape != rows[len(rows) - label.dim() :]:
        raise UsageError("label.shape", f"labels of shape {tuple(label.shape)}", f"one a row, {tuple(rows)}")
    whole = not label.is_floating_point()
    low, high = (int(x) for x in label.aminmax()) if label.numel() and whole else (0, 0)
    if not whole or low < -1 or high >= classes:
        found = f"labels from {low} to {high}" if whole else f"labels of dtype {label.dtype}"
        raise UsageError("label.range", found, f"whole numbers from 0 to {classes - 1}, -1 where one is missing")
    return label
