"""Pair losses on value estimates, in units of the teacher's own spread; it refuses to guess a value that is missing.

Values are discounted returns in environment reward units: an error of 10 is nothing on HalfCheetah and everything on
CartPole. So errors are divided by a scale before anything else, and a weight or a delta means the same everywhere.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from policykd.errors import DistributionError, SpaceError, UsageError
from policykd.losses.policy import huber_of
from policykd.prediction import Prediction

__all__ = ["huber", "mse", "value_scale"]


def value_scale(target: Prediction) -> float:
    """The unit of a frozen sample's values: their standard deviation, at least 1 % of the mean's size; 1 if all are 0.

    Raises:
        DistributionError: ``loss.no-value``.
    """
    return float(_scale(_values(target, "target")))


def mse(student: Prediction, target: Prediction, *, scale: float | None = None) -> Tensor:
    """((V_student - V_teacher) / scale)^2, ``[*b]``.

    Args:
        student, target: with ``value``, ``[*b]``, in environment reward units; any action distribution.
        scale: the unit of error: ``value_scale`` of a frozen sample, or 1.0 for raw reward units. None measures the
            teacher's values in this batch (never the student's), which is noisy in small batches.

    Raises:
        DistributionError: ``loss.no-value`` when either side says nothing of value.
        SpaceError: ``loss.value-shape`` when the target's values do not fit the student's (``[*b, 1]``, say).
        UsageError: ``loss.scale`` for a scale that is not positive.
    """
    return _error(student, target, scale).square()


def huber(student: Prediction, target: Prediction, *, delta: float = 1.0, scale: float | None = None) -> Tensor:
    """Huber loss of (V_student - V_teacher) / scale, ``[*b]``: e^2 / 2 up to delta, delta (|e| - delta / 2) beyond.

    delta -> inf is mse / 2; huber / delta -> |e| as delta -> 0. ``scale`` and errors as in ``mse``.

    Raises:
        UsageError: ``loss.delta`` unless delta > 0.
    """
    return huber_of(_error(student, target, scale), delta)


def _error(student: Prediction, target: Prediction, scale: float | None) -> Tensor:
    said, wanted = _values(student, "student"), _values(target, "target").detach()
    if said.shape[said.ndim - wanted.ndim :] != wanted.shape:
        raise SpaceError(
            "loss.value-shape",
            f"values of shape {tuple(said.shape)} (student) and {tuple(wanted.shape)} (target)",
            "one value a row on both sides",
            "squeeze a last axis of 1",
        )
    if scale is None:
        return (said - wanted) / _scale(wanted)
    if not 0 < scale < math.inf:
        raise UsageError("loss.scale", f"a scale of {scale}", "a positive number")
    return (said - wanted) / scale


def _values(side: Prediction, name: str) -> Tensor:
    if side.value is None:
        fix = (
            "build the student with a value head (students.mlp(spec, value=True))"
            if name == "student"
            else "leave the value term out: this teacher has no critic"
        )
        raise DistributionError("loss.no-value", f"a value loss on a {name} without values", "value on both sides", fix)
    return side.value


def _scale(values: Tensor) -> Tensor:
    values = values.detach()
    mean = values.mean()
    # The floor keeps a batch of (nearly) equal values, or of one row, from dividing by (nearly) nothing.
    unit = torch.maximum((values - mean).square().mean().sqrt(), 0.01 * mean.abs())
    return torch.where(unit > 0, unit, 1.0)
