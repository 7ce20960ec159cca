"""Pair losses on the boxes of detection heads, one number a box; it matches no boxes and suppresses none.

A head says ``Prediction(Categorical(logits [*b, k, c]), features={"boxes": [*b, k, 4]})``: k boxes with a class each.
Box i of the student answers box i of the teacher (the same anchor, or the same query). Boxes are corners
(x1, y1, x2, y2) with x1 <= x2 and y1 <= y2, in any unit; one turned inside out has no area. Losses of class logits are
those of ``losses.policy``.

A box counts where the teacher's probability that there is an object, 1 - p(background), is at least ``confidence``
(0 counts all, 1 those without any doubt); elsewhere the row is 0. ``background`` is that class's index; with None every
box is an object.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from policykd.distributions import Categorical
from policykd.errors import DistributionError, SpaceError, UnknownNameError, UsageError
from policykd.losses import choices
from policykd.losses.features import feature_of
from policykd.losses.policy import huber_of
from policykd.prediction import Prediction

__all__ = ["box_huber", "box_iou", "overlap"]


def box_huber(
    student: Prediction,
    target: Prediction,
    *,
    delta: float = 1.0,
    confidence: float = 0.0,
    background: int | None = 0,
) -> Tensor:
    """Mean Huber loss of the four coordinates of a box, ``[*b, k]`` (Girshick 2015, 1504.08083, eq. 3).

    Args:
        delta: where the square becomes a line, in the boxes' unit.
        confidence, background: which boxes count (see the module).

    Raises:
        UsageError: ``loss.delta`` unless delta > 0, ``loss.confidence`` outside [0, 1], ``loss.background`` for a class
            that is not there, ``loss.feature``, ``loss.feature-shape`` for a side without boxes of its own.
        DistributionError: ``loss.pair`` for a teacher that is no Categorical.
        SpaceError: ``loss.box-shape``.
    """
    said, wanted = _pair(student, target, confidence, background)
    return huber_of(said - wanted, delta).mean(-1)


def box_iou(
    student: Prediction,
    target: Prediction,
    *,
    kind: Literal["iou", "giou"] = "giou",
    confidence: float = 0.0,
    background: int | None = 0,
) -> Tensor:
    """1 - IoU (0 to 1) or 1 - GIoU (0 to 2) of a box, ``[*b, k]``: the same in any unit.

    Rezatofighi et al. 2019 (1902.09630, algorithm 2). IoU alone has no gradient between boxes that do not touch; GIoU
    pulls them together. A teacher's box without area cannot be met: its row is 0.

    Args:
        confidence, background: which boxes count (see the module).

    Raises:
        UnknownNameError: ``name.kind``.
        UsageError, DistributionError, SpaceError: as ``box_huber``.
    """
    if kind not in ("iou", "giou"):
        raise UnknownNameError.of("kind", str(kind), ("iou", "giou"))
    said, wanted = _pair(student, target, confidence, background)
    rows = 1.0 - overlap(said, wanted, generalised=kind == "giou")
    return torch.where(_area(wanted) > 0, rows, 0.0)


def overlap(a: Tensor, b: Tensor, *, generalised: bool = False) -> Tensor:
    """IoU of boxes ``[..., 4]``, ``[...]``, 0 to 1; generalised (1902.09630) -1 to 1. Two boxes without area: 0."""
    low, high = torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])
    inside = _product(high - low)
    union = _area(a) + _area(b) - inside
    iou = _ratio(inside, union)
    if not generalised:
        return iou
    low, high = torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:])
    hull = _product(high - low)
    return iou - _ratio(hull - union, hull)


def _area(boxes: Tensor) -> Tensor:
    return _product(boxes[..., 2:] - boxes[..., :2])


def _product(sides: Tensor) -> Tensor:
    width, height = sides.clamp(min=0).unbind(-1)
    return width * height


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    some = whole > 0
    return torch.where(some, part / torch.where(some, whole, 1.0), 0.0)


def _pair(student: Prediction, target: Prediction, confidence: float, background: int | None) -> tuple[Tensor, Tensor]:
    """Both boxes, ``[*b, k, 4]``; all zeros, without a gradient, where they do not count."""
    if not 0 <= confidence <= 1:
        raise UsageError("loss.confidence", f"a confidence of {confidence}", "a probability, 0 to 1")
    said, wanted = feature_of(student, "boxes", "student"), feature_of(target, "boxes", "teacher").detach()
    if wanted.shape[-1] != 4 or said.shape[said.dim() - wanted.dim() :] != wanted.shape:
        raise SpaceError(
            "loss.box-shape",
            f"boxes of shape {tuple(said.shape)} (student) and {tuple(wanted.shape)} (teacher)",
            "x1, y1, x2, y2 of as many boxes on both sides",
        )
    counted = (_object(target, background) >= confidence).unsqueeze(-1)
    return torch.where(counted, said, 0.0), torch.where(counted, wanted, 0.0)


def _object(target: Prediction, background: int | None) -> Tensor:
    if not isinstance(target.dist, Categorical):
        found = f"boxes beside a teacher's {choices.describe(target.dist)}"
        raise DistributionError("loss.pair", found, "a Categorical over classes")
    probs = target.dist.probs.detach()
    if background is None:
        return torch.ones_like(probs[..., 0])
    if not -probs.shape[-1] <= background < probs.shape[-1]:
        raise UsageError(
            "loss.background", f"the background class {background} of {probs.shape[-1]}", "an index of a class, or None"
        )
    return 1.0 - probs[..., background]
