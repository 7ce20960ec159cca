"""Students that start from their teacher's own layers; it refuses teachers that are not made of plain layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import nn

from policykd.errors import SpaceError, UsageError
from policykd.policy import ActingLayers, Policy
from policykd.students.network import Student
from policykd.students.normaliser import copy_normaliser
from policykd.students.shape import ACTIVATIONS, Shape, parse_hidden

__all__ = ["from_teacher"]


def from_teacher(
    teacher: Policy,
    layers: int | Literal["all"] = "all",
    hidden: str | Sequence[int] | None = None,
    *,
    value: bool = False,
    seed: int = 0,
) -> Student:
    """A student that starts from the first ``layers`` hidden layers of its teacher, with its normaliser and activation.

    With ``"all"`` the output layer and the standard deviation come along too: the student acts as its teacher does, and
    goes on from there. Convolutions count as part of the first layer.

    Args:
        teacher: a policy with ``acting_layers``: any teacher with an MLP (or NatureCNN) actor, or a student.
        layers: number of hidden layers to copy; 0 copies the normaliser only.
        hidden: widths of the fresh layers after the copied ones; None takes the teacher's remaining widths.
        value: whether a (fresh) value head sits on the torso.
        seed: of the fresh weights.

    Raises:
        UsageError: ``student.layers`` for more layers than there are, or ``hidden`` with ``"all"``;
            ``student.transfer`` for a teacher whose actor is not made of plain layers.
    """
    found = _layers(teacher)
    *inner, _ = found.linears
    whole = layers == "all"
    count = len(inner) if whole else int(layers)
    if not 0 <= count <= len(inner) or (whole and hidden is not None):
        raise UsageError(
            "student.layers",
            f"layers={layers!r}" + ("" if hidden is None else f" with hidden={hidden!r}"),
            f"'all' alone, or 0 to {len(inner)} (hidden layers of {tuple(x.out_features for x in inner)})",
            "leave hidden out, or name the number of layers to copy",
        )
    widths = tuple(layer.out_features for layer in inner)
    shape = Shape(
        widths[:count] + (widths[count:] if hidden is None else parse_hidden(hidden)),
        _activation_name(found),
        value,
        tuple(c.out_channels for c in found.convolutions),
        found.clip_mean if teacher.spec.family == "tanh_gaussian" else None,
    )
    origin = replace(teacher.origin, path=None, sha256=None, algo="cnn" if shape.channels else "mlp", reward_scale=1.0)
    student = Student(teacher.spec, shape, seed=seed, origin=origin)
    copy_normaliser(student, teacher)
    own = student.acting_layers
    if count or whole:
        for my_conv, their_conv in zip(own.convolutions, found.convolutions, strict=True):
            _copy(my_conv, their_conv)
    for mine, theirs in zip(own.linears, found.linears if whole else inner[:count], strict=False):
        _copy(mine, theirs)
    if whole:
        _copy_log_std(student, found)
    return student


def _layers(teacher: Policy) -> ActingLayers:
    found = teacher.acting_layers
    if found is None or not found.linears:
        raise UsageError(
            "student.transfer",
            f"{type(teacher).__name__} (algorithm {teacher.origin.algo}) has no plain layers to start from",
            "a teacher whose actor is an MLP",
            "start from scratch: students.mlp(teacher.spec)",
        )
    return found


def _activation_name(found: ActingLayers) -> str:
    for name, kind in ACTIVATIONS.items():
        if kind is found.activation:
            return name
    raise UsageError(
        "student.transfer",
        f"the teacher's activation {found.activation.__name__}",
        f"one of {', '.join(sorted(ACTIVATIONS))}",
        "start from scratch: students.mlp(teacher.spec)",
    )


@torch.no_grad()
def _copy(mine: nn.Linear | nn.Conv2d, theirs: nn.Linear | nn.Conv2d) -> None:
    if mine.weight.shape != theirs.weight.shape:
        raise SpaceError(
            "student.transfer",
            f"a layer of {tuple(theirs.weight.shape)}",
            f"{tuple(mine.weight.shape)}, as the observation and action spaces ask for",
            "start from scratch: students.mlp(teacher.spec)",
        )
    mine.weight.copy_(theirs.weight)
    if mine.bias is not None:
        mine.bias.zero_() if theirs.bias is None else mine.bias.copy_(theirs.bias)


@torch.no_grad()
def _copy_log_std(student: Student, found: ActingLayers) -> None:
    mine, theirs = student.log_std, found.log_std
    if isinstance(mine, nn.Linear) and isinstance(theirs, nn.Linear):
        _copy(mine, theirs)
    elif isinstance(mine, nn.Parameter) and isinstance(theirs, torch.Tensor):
        mine.copy_(theirs.reshape(mine.shape))
