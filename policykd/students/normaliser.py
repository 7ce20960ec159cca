"""What a student knows of the scale of its observations; it refuses to follow them: statistics are set once."""

from __future__ import annotations

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from policykd.errors import SpaceError, UsageError
from policykd.networks import KeyedNormaliser, Normaliser, is_image
from policykd.policy import Policy
from policykd.prediction import Batch, Obs, Spec
from policykd.students.network import Student, observed

__all__ = [
    "adopt_scales",
    "copy_normaliser",
    "fit_normaliser",
    "fit_value_units",
    "install_normaliser",
    "normalised_parts",
    "statistics_of",
]

_CONSTANT = 1e-6  # below this share of its magnitude a column's spread is float32's rounding
_SHARE_OF_RANGE = 1e-2
_SHARE_OF_MEDIAN = 1e-3


def normalised_parts(spec: Spec) -> dict[str | None, spaces.Box]:
    """The parts of an observation that have a mean and a spread: boxes that are no images."""
    space = spec.observation_space
    return {key: part for key, part in observed(space) if isinstance(part, spaces.Box) and not is_image(part)}


def _statistics(rows: np.ndarray, space: spaces.Box) -> Normaliser:
    """Mean and variance of ``rows`` (``[n, *shape]``, float64), with a floor that keeps quiet columns quiet.

    A column that hardly moved in the sample must not be blown up when it moves later (a foot that had not touched the
    ground yet). Its standard deviation is at least 1 % of the half-range where the space bounds it, or 0.1 % of the
    median column's otherwise; one that did not move at all gets a quarter of its range, or 1.
    """
    mean, std = rows.mean(0), rows.std(0)
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    # Bounds like 3.4e38 are "no bound" written as a number.
    bounded = np.isfinite(low) & np.isfinite(high) & (np.maximum(np.abs(low), np.abs(high)) < 1e6)
    span = np.where(bounded, high, 0.0) - np.where(bounded, low, 0.0)
    constant = std <= _CONSTANT * np.maximum(np.abs(mean), 1e-30)
    median = float(np.median(std[~constant])) if np.any(~constant) else 0.0
    floor = np.where(bounded, _SHARE_OF_RANGE * span / 2, _SHARE_OF_MEDIAN * median)
    quiet = np.where(bounded & (span > 0), span / 4, 1.0)
    std = np.where(constant, quiet, np.maximum(std, floor))
    return Normaliser(mean, std * std)


def fit_normaliser(student: Student, obs: Obs) -> None:
    """Give the student a normaliser with the mean and spread of a sample of raw observations.

    Images, choices and bits are left as they are: preprocessing has already brought them into [0, 1].

    Args:
        student: its ``normaliser`` is replaced.
        obs: raw observations, ``[*b, ...]`` or a dict of such tensors; at least two rows.

    Raises:
        UsageError: ``student.sample`` for a sample with fewer than two rows or with NaN or infinite numbers.
    """
    parts = normalised_parts(student.spec)
    found: dict[str | None, Normaliser] = {}
    for key, space in parts.items():
        column = obs[key] if key is not None else obs  # type: ignore[index]
        if not isinstance(column, Tensor) or tuple(column.shape[column.dim() - len(space.shape) :]) != space.shape:
            raise SpaceError(
                "space.observation",
                f"a sample of {tuple(column.shape) if isinstance(column, Tensor) else type(column).__name__}",
                f"observations of shape (n, {', '.join(map(str, space.shape))})",
            )
        rows = column.reshape(-1, *space.shape).double().cpu().numpy()
        if len(rows) < 2 or not np.all(np.isfinite(rows)):
            raise UsageError(
                "student.sample",
                f"a sample of {len(rows)} observations" + (", some not finite" if len(rows) > 1 else ""),
                "two or more rows of finite numbers",
                "collect observations from the environment first",
            )
        found[key] = _statistics(rows, space)
    install_normaliser(student, found)


def copy_normaliser(student: Student, teacher: Policy) -> None:
    """Give the student a copy of its teacher's statistics; a teacher without any leaves the student without.

    Raises:
        SpaceError: ``student.normaliser`` when the statistics are of other observations than the student's.
    """
    shapes = {k: p.shape for k, p in normalised_parts(student.spec).items()}
    found: dict[str | None, Normaliser] = {}
    for key, part in statistics_of(teacher).items():
        shape = tuple(part.mean.shape)
        if shapes.get(key) != shape:
            raise SpaceError(
                "student.normaliser",
                f"statistics of {key or 'observations'} with shape {shape}",
                f"one of {shapes}",
                "build the student from this teacher's spec",
            )
        found[key] = Normaliser(part.mean.cpu().numpy(), part.var.cpu().numpy(), part.epsilon, part.clip)
    install_normaliser(student, found)


def adopt_scales(student: Student, teacher: Policy, batch: Batch) -> None:
    """Give a fresh student its teacher's normaliser, or one fitted to ``batch``, and the units of the teacher's values.

    A student that has a scale already (``student.scaled``) keeps it.

    Args:
        student: changed in place.
        teacher: whose statistics are taken where it has some and reads the same observations.
        batch: raw observations, ``[*b, ...]``, with the teacher's predictions for them.
    """
    if student.scaled:
        return
    if statistics_of(teacher) and teacher.spec.observation_space == student.spec.observation_space:
        copy_normaliser(student, teacher)
    else:
        fit_normaliser(student, batch.obs)
    if batch.target.value is not None:
        fit_value_units(student, batch.target.value)


def statistics_of(policy: Policy) -> dict[str | None, Normaliser]:
    """The policy's normalisers by the part of the observation they are for (None: the whole); empty without any."""
    found: dict[str | None, nn.Module] = {}
    if isinstance(policy.normaliser, KeyedNormaliser):
        found.update(policy.normaliser.items())
    elif policy.normaliser is not None:
        found[None] = policy.normaliser
    return {key: part for key, part in found.items() if isinstance(part, Normaliser)}


def install_normaliser(student: Student, found: dict[str | None, Normaliser]) -> None:
    """Put the statistics of the observation's parts (None: the whole) in place of those there were."""
    student.scaled = True
    if not found:
        student.normaliser = None
    elif isinstance(student.spec.observation_space, spaces.Dict):
        student.normaliser = KeyedNormaliser({str(key): part for key, part in found.items()})
    else:
        student.normaliser = found[None]


def fit_value_units(student: Student, values: Tensor) -> None:
    """Let the value head speak in units of a sample of values (mean 0, standard deviation 1), ``[*b]``.

    Returns of hundreds are then within reach of a fresh head, and their error does not drown the policy's.
    Nothing happens to a student without a value head.
    """
    if student.value_head is None:
        return
    values = values[torch.isfinite(values)].double()
    if len(values):
        scale = float(values.std(correction=0)) or 1.0
        student.value_units.copy_(torch.tensor([float(values.mean()), max(scale, 1e-6)]))
