"""How good a classifier is on rows that taught it nothing: accuracy, agreement, calibration; it chooses nobody."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from policykd.distributions import Categorical, kl, leading
from policykd.errors import DistributionError, UsageError
from policykd.intervals import Interval, share_interval
from policykd.prediction import Prediction
from policykd.supervised.examples import MISSING

__all__ = ["ClassScore", "calibration_error", "score"]


@dataclass(frozen=True)
class ClassScore:
    """One classifier on one set of rows.

    Attributes:
        rows: that have a label.
        accuracy: share of them with the right mode, with Wilson's interval.
        nll: mean -log probability of the label, nats.
        ece: expected calibration error.
        agreement: share of all rows with the teacher's mode, None without a teacher.
        kd_loss: mean KL(teacher || student) over all rows, nats.
    """

    rows: int
    accuracy: Interval
    nll: float
    ece: float
    agreement: float | None = None
    kd_loss: float | None = None


def calibration_error(said: Tensor, label: Tensor, *, bins: int = 15) -> float:
    """Expected calibration error: the mean gap between confidence and accuracy (Guo et al. 2017, 1706.04599, eq. 3).

    Args:
        said: probabilities ``[n, k]``.
        label: long ``[n]``.
        bins: of equal width over confidences from 0 to 1; 1 compares the two means.

    Raises:
        UsageError: ``score.bins`` for less than one.
    """
    if bins < 1:
        raise UsageError("score.bins", f"{bins} bins", "1 or more")
    sure, mode = said.max(-1)
    right = (mode == label).to(torch.float64)
    # A confidence on a border belongs to the bin below it, and 0 to the first.
    which = (sure * bins).ceil().long().clamp(1, bins) - 1
    gaps = torch.zeros(bins, dtype=torch.float64).index_add_(0, which, right - sure.to(torch.float64))
    return float(gaps.abs().sum() / len(label))


@torch.no_grad()
def score(said: Prediction, label: Tensor, teacher: Prediction | None = None, *, bins: int = 15) -> ClassScore:
    """What was said against what is true, and against what the teacher said.

    Args:
        said: a Categorical, ``[*b, k]``.
        label: long ``[*b]``; rows with ``MISSING`` count only beside the teacher.
        teacher: on the same rows.

    Raises:
        UsageError: ``score.labels`` where no row has a label; ``score.rows`` for labels, or a teacher, of other rows;
            ``label.range``.
        DistributionError: ``score.law`` for a law that is no Categorical; ``score.classes``.
    """
    if not isinstance(said.dist, Categorical):
        raise DistributionError("score.law", f"a {type(said.dist).__name__}", "a law over classes")
    k = said.dist.logits.shape[-1]
    flat = Categorical(said.dist.logits.reshape(-1, k))
    true = label.reshape(-1)
    for who, rows in (("labels of", label.shape), ("a teacher on", None if teacher is None else leading(teacher.dist))):
        if rows is not None and rows != said.dist.logits.shape[:-1]:
            found = f"{who} rows {tuple(rows)} beside answers to {tuple(said.dist.logits.shape[:-1])}"
            raise UsageError("score.rows", found, "the same rows")
    known = true != MISSING
    if not bool(known.any()):
        raise UsageError("score.labels", f"{len(true)} rows without a label", "some that have one")
    worst = int(true[known].max()) if int(true[known].min()) >= 0 else int(true[known].min())
    if not 0 <= worst < k:
        raise UsageError("label.range", f"the label {worst}", f"0 to {k - 1}, or -1 where it is missing")
    of_known, truth = Categorical(flat.logits[known]), true[known]
    right = int((of_known.mode() == truth).sum())
    agreement = kd_loss = None
    if teacher is not None:
        if not isinstance(teacher.dist, Categorical):
            raise DistributionError("score.law", f"a teacher's {type(teacher.dist).__name__}", "a law over classes")
        theirs = Categorical(teacher.dist.logits.reshape(-1, teacher.dist.logits.shape[-1]))
        if theirs.logits.shape[-1] != k:
            found = f"a teacher of {theirs.logits.shape[-1]} classes beside answers over {k}"
            raise DistributionError("score.classes", found, "the same classes")
        kd_loss = float(kl(theirs, flat).mean())
        agreement = float((theirs.mode() == flat.mode()).float().mean())
    return ClassScore(
        len(truth),
        share_interval(right, len(truth)),
        float(-of_known.log_prob(truth).mean()),
        calibration_error(of_known.probs, truth, bins=bins),
        agreement,
        kd_loss,
    )
