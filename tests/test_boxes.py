"""Losses of boxes: by hand, at the ends of their knobs, and with boxes that are no boxes."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from policykd.distributions import Categorical, DiagGaussian
from policykd.errors import DistributionError, SpaceError, UnknownNameError, UsageError
from policykd.losses import box_huber, box_iou
from policykd.losses.boxes import overlap
from policykd.prediction import Prediction


def head(boxes: Any, probs: Any = None) -> Prediction:
    """Boxes ``[b, k, 4]``; by default each is certainly an object of class 1 of 3."""
    boxes = torch.as_tensor(boxes, dtype=torch.float64)
    law = torch.tensor([0.0, 1.0, 0.0]).expand(*boxes.shape[:-1], 3) if probs is None else torch.as_tensor(probs)
    return Prediction(Categorical(law.double().log()), features={"boxes": boxes})


UNIT = [0.0, 0.0, 2.0, 2.0]


@pytest.mark.parametrize(
    ("box", "iou", "giou"),
    [
        (UNIT, 1.0, 1.0),
        ([1.0, 0.0, 3.0, 2.0], 1 / 3, 1 / 3),  # the hull is the union
        ([1.0, 1.0, 3.0, 3.0], 1 / 7, 1 / 7 - 2 / 9),
        ([3.0, 0.0, 5.0, 2.0], 0.0, -2 / 10),
        ([0.5, 0.5, 1.5, 1.5], 0.25, 0.25),
        ([1.0, 1.0, 1.0, 1.0], 0.0, 0.0),  # a point inside
        ([9.0, 9.0, 9.0, 9.0], 0.0, -77 / 81),
        ([2.0, 2.0, 0.0, 0.0], 0.0, 0.0),  # turned inside out
    ],
)
def test_overlap_by_hand(box: list[float], iou: float, giou: float) -> None:
    said, wanted = head([[box]]), head([[UNIT]])
    assert float(box_iou(said, wanted, kind="iou")) == pytest.approx(1 - iou)
    assert float(box_iou(said, wanted)) == pytest.approx(1 - giou)


def test_overlap_by_counting_points() -> None:
    g = torch.Generator().manual_seed(0)
    corners = torch.randint(0, 9, (200, 2, 2, 2), generator=g).sort(-2).values.double()  # [n, a or b, corner, x or y]
    a, b = corners.flatten(-2).unbind(1)
    cell = torch.arange(9) + 0.5

    def covered(box: Tensor) -> Tensor:
        x = (cell > box[:, None, 0]) & (cell < box[:, None, 2])
        y = (cell > box[:, None, 1]) & (cell < box[:, None, 3])
        return x[:, :, None] & y[:, None, :]

    both, either = (covered(a) & covered(b)).sum((1, 2)), (covered(a) | covered(b)).sum((1, 2))
    hull = torch.cat([torch.minimum(a, b)[:, :2], torch.maximum(a, b)[:, 2:]], -1)
    whole = covered(hull).sum((1, 2))
    iou = both / either.clamp(min=1)
    torch.testing.assert_close(overlap(a, b), iou.double())
    torch.testing.assert_close(overlap(a, b, generalised=True), (iou - (whole - either) / whole.clamp(min=1)).double())


def test_huber_is_torchs() -> None:
    g = torch.Generator().manual_seed(0)
    a, b = (3 * torch.randn(4, 5, 4, generator=g, dtype=torch.float64) for _ in range(2))
    for delta in (0.1, 1.0, 100.0):
        want = F.huber_loss(a, b, reduction="none", delta=delta).mean(-1)
        torch.testing.assert_close(box_huber(head(a), head(b), delta=delta), want)


@pytest.mark.parametrize(
    ("confidence", "background", "want"),
    [
        (0.0, 0, [1, 1, 1]),
        (0.3, 0, [1, 1, 0]),
        (0.5, 0, [1, 0, 0]),
        (1.0, 0, [0, 0, 0]),
        (1.0, None, [1, 1, 1]),
        (0.75, -1, [1, 0, 1]),
    ],
)
def test_only_boxes_that_the_teacher_sees_count(confidence: float, background: int | None, want: list[int]) -> None:
    probs = [[[0.1, 0.7, 0.2], [0.6, 0.1, 0.3], [0.8, 0.0, 0.2]]]
    said, wanted = head([[[0.0, 0.0, 1.0, 1.0]] * 3]), head([[UNIT] * 3], probs)
    for loss in (box_huber, box_iou, partial(box_iou, kind="iou")):
        rows = loss(said, wanted, confidence=confidence, background=background)
        assert rows.shape == (1, 3) and (rows[0] > 0).int().tolist() == want


def test_a_box_that_does_not_count_may_hold_nan() -> None:
    boxes = torch.tensor([[UNIT, [0.0, 0.0, 1.0, 1.0]]], dtype=torch.float64, requires_grad=True)
    wanted = head([[[math.nan] * 4, UNIT]], [[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]])
    for loss in (box_huber, box_iou):
        [grad] = torch.autograd.grad(loss(head(boxes), wanted, confidence=0.5).sum(), boxes)
        assert grad.isfinite().all() and grad[0, 0].abs().sum() == 0 and grad[0, 1].abs().sum() > 0


DEGENERATE = [[1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 2.0], [2.0, 2.0, 0.0, 0.0], [1e30, 0.0, 1e30, 0.0], UNIT]


@pytest.mark.parametrize("kind", ["iou", "giou"])
@pytest.mark.parametrize("wanted", DEGENERATE)
def test_degenerate_boxes_have_finite_losses_and_gradients(kind: Any, wanted: list[float]) -> None:
    boxes = torch.tensor([DEGENERATE], dtype=torch.float64, requires_grad=True)
    rows = box_iou(head(boxes), head([[wanted] * 5]), kind=kind)
    [grad] = torch.autograd.grad(rows.sum(), boxes)
    assert rows.isfinite().all() and grad.isfinite().all() and bool((rows >= 0).all()) and bool((rows <= 2).all())


def test_a_teachers_box_without_area_is_zero() -> None:
    assert float(box_iou(head([[UNIT]]), head([[[1.0, 1.0, 1.0, 1.0]]]))) == 0


def test_giou_pulls_boxes_together_where_iou_has_no_gradient() -> None:
    boxes = torch.tensor([[[5.0, 5.0, 6.0, 6.0]]], dtype=torch.float64, requires_grad=True)
    [flat] = torch.autograd.grad(box_iou(head(boxes), head([[UNIT]]), kind="iou").sum(), boxes)
    [pull] = torch.autograd.grad(box_iou(head(boxes), head([[UNIT]])).sum(), boxes)
    assert flat.abs().sum() == 0 and bool((pull[..., :2] > 0).all())  # the near corner reaches out for the target


def test_the_teacher_gets_no_gradient_and_students_may_be_several() -> None:
    target = torch.tensor([[UNIT]], dtype=torch.float64, requires_grad=True)
    many = head([[[[0.0, 0.0, 1.0, 1.0]]], [[UNIT]]])  # two students
    for loss in (box_huber, box_iou):
        rows = loss(many, head(target))
        assert rows.shape == (2, 1, 1) and float(rows[1].detach()) == 0 and not rows.requires_grad


@pytest.mark.parametrize(
    ("how", "error", "code"),
    [
        (partial(box_huber, delta=0.0), UsageError, "loss.delta"),
        (partial(box_huber, confidence=1.5), UsageError, "loss.confidence"),
        (partial(box_iou, confidence=-0.1), UsageError, "loss.confidence"),
        (partial(box_iou, background=3), UsageError, "loss.background"),
        (partial(box_iou, kind="diou"), UnknownNameError, "name.kind"),
    ],
)
def test_knobs_that_cannot_be_meant(how: Any, error: type[Exception], code: str) -> None:
    with pytest.raises(error, match=rf"\[{code}\]"):
        how(head([[UNIT]]), head([[UNIT]]))


def test_sides_that_do_not_fit() -> None:
    bare = Prediction(head([[UNIT]]).dist)
    for pair in ((bare, head([[UNIT]])), (head([[UNIT]]), bare)):
        with pytest.raises(UsageError, match=r"\[loss.feature\]"):
            box_iou(*pair)
    law = Prediction(DiagGaussian(torch.zeros(1, 1, 2), torch.zeros(1, 1, 2)), features=head([[UNIT]]).features)
    with pytest.raises(DistributionError, match=r"\[loss.pair\]"):
        box_iou(head([[UNIT]]), law)
    with pytest.raises(SpaceError, match=r"\[loss.box-shape\]"):
        box_huber(head([[UNIT, UNIT]]), head([[UNIT]]))
    with pytest.raises(SpaceError, match=r"\[loss.box-shape\]"):
        box_huber(head([[UNIT[:3]]]), head([[UNIT[:3]]]))
