"""Which rows to learn from when teachers are noisy: where they agree, and where they are worth it; it changes no label.

Temperature, smoothing and the confidence filter are in ``losses.targets``. A teacher that follows its own student
(Mean Teacher: Tarvainen & Valpola 2017, 1703.01780) needs no machinery: ``Learner.averaged`` is one, a Policy whose
weights are the moving average of the student's; label batches with it, or hand it to a Collector.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from policykd.distributions import kl
from policykd.errors import DistributionError
from policykd.losses.combine import Combine, mean
from policykd.losses.compose import PairLoss
from policykd.prediction import Prediction

__all__ = ["above", "disagreement", "disagreement_weight", "value_gate", "with_disagreement"]

_FEATURE = "disagreement"


@torch.no_grad()
def disagreement(said: Sequence[Prediction]) -> Tensor:
    """The generalised Jensen-Shannon divergence among teachers, 1/K sum_k KL(p_k || mean), nats, ``[*b]`` (Lin 1991).

    0 where all say the same, at most log K for each choice. Of normal laws the mean is the mixture's moments: an upper
    bound, without one of its own.

    Args:
        said: one prediction a teacher, laws of one family (``combine.calibrated`` makes laws of action values).

    Raises:
        DistributionError: as ``combine.mean``; ``dist.kl-pair`` for Deterministic laws, which have no divergence.
    """
    centre = mean(said).dist
    return torch.stack([kl(p.dist, centre) for p in said]).mean(0).clamp(min=0.0)


def with_disagreement(how: Combine) -> Combine:
    """``how``, with ``features["disagreement"]`` (``[*b, 1]``) on its word, for ``disagreement_weight``."""
    return partial(_with_disagreement, how=how)


def _with_disagreement(said: Sequence[Prediction], *, how: Combine, **knobs: object) -> Prediction:
    word = how(said, **knobs)
    return replace(word, features={**word.features, _FEATURE: disagreement(said).unsqueeze(-1)})


def disagreement_weight(target: Prediction, *, threshold: float) -> Tensor:
    """1 where the teachers' disagreement is at most ``threshold`` nats, else 0, ``[*b]``: for ``weigh``, ``on_rows``.

    inf keeps every row, 0 those of perfect agreement, a negative one none.

    Raises:
        DistributionError: ``target.no-disagreement`` for a target that does not carry it.
    """
    found = target.features.get(_FEATURE)
    if found is None:
        raise DistributionError(
            "target.no-disagreement",
            "disagreement_weight of a target that does not say how far its teachers agree",
            f"features[{_FEATURE!r}]",
            "label with an Ensemble whose how is noise.with_disagreement(how)",
        )
    far = found.detach().squeeze(-1)
    return (far <= threshold).to(far.dtype)


def above(student: Prediction, target: Prediction, *, margin: float = 0.0) -> Tensor:
    """Where V_teacher > V_student + margin, ``[*b]`` bool; no gradient goes through it.

    Raises:
        DistributionError: ``loss.no-value`` where either side says nothing of value.
    """
    if student.value is None or target.value is None:
        side = "student" if student.value is None else "teacher"
        raise DistributionError(
            "loss.no-value", f"a value gate on a {side} without values", "value on both sides", "leave the gate out"
        )
    return target.value.detach() > student.value.detach() + margin


def value_gate(loss: PairLoss, *, margin: float = 0.0) -> PairLoss:
    """The pair loss where V_teacher > V_student + margin, 0 elsewhere (Czarnecki et al. 2019, 1902.02186, section 5).

    What a teacher is not worth is not copied: the student's own critic decides, and no gradient goes through the
    choice. The critic must be trained on reward; one that copies the teacher's values gates nothing.

    Args:
        loss: any pair loss.
        margin: in environment reward units; -inf lets every row pass, inf none.

    Raises:
        DistributionError: ``loss.no-value`` (at the call) where either side says nothing of value.
    """
    return partial(_value_gated, loss=loss, margin=margin)


def _value_gated(student: Prediction, target: Prediction, *, loss: PairLoss, margin: float) -> Tensor:
    passes = above(student, target, margin=margin)
    # Not a product: a row that does not count must not spoil the sum, however wrong the student is there.
    return torch.where(passes, loss(student, target), 0.0)
