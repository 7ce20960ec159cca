"""Value losses: hand-computed numbers, the scale of returns, missing values."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from policykd import losses
from policykd.distributions import Categorical, Deterministic, DiagGaussian, Distribution
from policykd.errors import DistributionError, SpaceError, UsageError
from policykd.losses import value
from policykd.prediction import Prediction


def say(values: Tensor | None, dist: Distribution | None = None) -> Prediction:
    shape = () if values is None else values.shape
    return Prediction(dist or Categorical(torch.zeros(*shape, 2)), value=values)


def row(*values: float) -> Prediction:
    return say(torch.tensor(values))


def test_by_hand() -> None:
    # Teacher: mean 20, standard deviation sqrt(200 / 3) = 8.165; in units of 10 the errors are 1, 0 and -2.
    student, teacher = row(20.0, 20.0, 10.0), row(10.0, 20.0, 30.0)
    assert value.mse(student, teacher, scale=10.0).tolist() == pytest.approx([1.0, 0.0, 4.0])
    assert value.huber(student, teacher, scale=10.0).tolist() == pytest.approx([0.5, 0.0, 1.5])
    assert value.value_scale(teacher) == pytest.approx(math.sqrt(200 / 3))
    assert value.mse(student, teacher).tolist() == pytest.approx([1.5, 0.0, 6.0])
    assert value.mse(student, teacher, scale=1.0).tolist() == pytest.approx([100.0, 0.0, 400.0])


@pytest.mark.parametrize("unit", [1e-3, 1.0, 1e4])
@pytest.mark.parametrize("loss", [losses.value_mse, losses.value_huber])
def test_the_reward_unit_does_not_matter(loss: losses.PairLoss, unit: float) -> None:
    g = torch.Generator().manual_seed(0)
    a, b = (torch.randn(64, generator=g, dtype=torch.float64) + 3 for _ in range(2))
    torch.testing.assert_close(loss(say(unit * a), say(unit * b)), loss(say(a), say(b)))


def test_the_students_values_never_set_the_scale() -> None:
    """Else a student could shrink its loss by spreading its values."""
    teacher = row(0.0, 1.0, 2.0)
    near, wild = (value.mse(row(*v), teacher) for v in ((0.5, 1.0, 2.0), (0.5, 100.0, -300.0)))
    assert float(near[0]) == pytest.approx(float(wild[0]))


@pytest.mark.parametrize("values", [(5.0,), (5.0, 5.0, 5.0), (0.0, 0.0), (-1e-8,)])
def test_teachers_values_without_spread(values: tuple[float, ...]) -> None:
    """One row, or equal values: 1 % of their size is the unit (1 if all are 0), never nothing."""
    size = abs(values[0]) or 100.0
    student = row(*(v + 0.01 * size for v in values))
    assert value.mse(student, row(*values)).tolist() == pytest.approx([1.0] * len(values), rel=1e-3)
    assert value.value_scale(row(*values)) == pytest.approx(0.01 * size)


def test_huber_is_torchs_and_its_ends() -> None:
    g = torch.Generator().manual_seed(0)
    a, b = (3 * torch.randn(50, generator=g, dtype=torch.float64) for _ in range(2))
    for delta in (0.1, 1.0, 7.0):
        theirs = F.huber_loss(a, b, delta=delta, reduction="none")
        torch.testing.assert_close(value.huber(say(a), say(b), delta=delta, scale=1.0), theirs)
    torch.testing.assert_close(value.huber(say(a), say(b), delta=1e9), 0.5 * value.mse(say(a), say(b)))
    tiny = value.huber(say(a), say(b), delta=1e-9, scale=1.0) / 1e-9
    torch.testing.assert_close(tiny, (a - b).abs())
    with pytest.raises(UsageError, match=r"\[loss.delta\]"):
        value.huber(say(a), say(b), delta=0.0)


@pytest.mark.parametrize("loss", [losses.value_mse, losses.value_huber])
@pytest.mark.parametrize("b", [(), (3,), (2, 3)])
def test_one_number_a_row_and_a_teacher_without_gradient(loss: losses.PairLoss, b: tuple[int, ...]) -> None:
    student, teacher = torch.full(b, 2.0, requires_grad=True), torch.full(b, 1.0, requires_grad=True)
    rows = loss(say(student), say(teacher))
    assert rows.shape == b and rows.isfinite().all()
    rows.sum().backward()
    assert student.grad is not None and (student.grad > 0).all()
    assert teacher.grad is None


def test_the_action_distribution_does_not_matter() -> None:
    teacher = say(torch.ones(3), DiagGaussian(torch.zeros(3, 2), torch.zeros(3, 2)))
    student = say(torch.zeros(3), Deterministic(torch.zeros(3, 5)))
    assert value.mse(student, teacher, scale=1.0).tolist() == [1.0] * 3


def test_stacked_students_share_a_teacher() -> None:
    rows = value.mse(say(torch.zeros(5, 3)), row(1.0, 2.0, 3.0), scale=1.0)
    assert rows.shape == (5, 3) and rows[4].tolist() == [1.0, 4.0, 9.0]


@pytest.mark.parametrize("loss", [losses.value_mse, losses.value_huber])
def test_a_missing_value_is_named(loss: losses.PairLoss) -> None:
    with pytest.raises(DistributionError, match=r"student without values.*value=True.*\[loss.no-value\]"):
        loss(say(None), row(1.0))
    with pytest.raises(DistributionError, match=r"target without values.*no critic \[loss.no-value\]"):
        loss(row(1.0), say(None))
    with pytest.raises(DistributionError, match=r"\[loss.no-value\]"):
        value.value_scale(say(None))


@pytest.mark.parametrize("shapes", [((3, 1), (3,)), ((3,), (3, 1)), ((3,), (2,)), ((3,), (1,))])
def test_values_that_would_broadcast_are_refused(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    student, teacher = (say(torch.zeros(s)) for s in shapes)
    with pytest.raises(SpaceError, match=r"\[loss.value-shape\]"):
        value.mse(student, teacher)


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf])
def test_bad_scales(scale: float) -> None:
    with pytest.raises(UsageError, match=r"\[loss.scale\]"):
        value.mse(row(1.0), row(2.0), scale=scale)
