"""What a student looks like before it exists: widths, activation, budget; it refuses to build anything."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from policykd.errors import UnknownNameError, UsageError

__all__ = ["ACTIVATIONS", "Shape", "parse_budget", "parse_hidden"]

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "celu": nn.CELU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "leaky_relu": nn.LeakyReLU,
    "mish": nn.Mish,
    "relu": nn.ReLU,
    "selu": nn.SELU,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
}


@dataclass(frozen=True)
class Shape:
    """All that decides which numbers a student has; with a Spec, enough to build it."""

    hidden: tuple[int, ...] = (64, 64)
    """Widths of the torso's layers; () is the linear policy."""
    activation: str = "tanh"
    """Name of the torso's activation (a key of ``ACTIVATIONS``)."""
    value: bool = False
    """Whether a value head sits on the torso."""
    channels: tuple[int, ...] = ()
    """Channels of the convolutions that images go through; () flattens images."""
    clip_mean: float | None = None
    """Bound of a tanh_gaussian's mean before tanh (teachers trained with gSDE have 2.0)."""

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise UnknownNameError.of("activation", self.activation, ACTIVATIONS)
        for name in ("hidden", "channels"):
            widths: tuple[Any, ...] = tuple({"hidden": self.hidden, "channels": self.channels}[name])
            if any(type(w) is not int or w < 1 for w in widths):
                raise UsageError(
                    f"student.{name}", f"{name}={widths}", "whole numbers of 1 or more", f"give {name}=(64, 64), say"
                )
            object.__setattr__(self, name, widths)


def parse_hidden(text: str | Sequence[str | int]) -> tuple[int, ...]:
    """Widths from what people type: ``"64,64"``, ``"64 64"``, ``("64", "64")``, ``(64, 64)`` or ``"linear"``.

    Raises:
        UsageError: ``student.hidden`` for anything else.
    """
    words = re.split(r"[\s,]+", text.strip().strip("()")) if isinstance(text, str) else [str(w) for w in text]
    words = [w for word in words for w in re.split(r"[\s,]+", word.strip()) if w]
    if words == ["linear"] or (not words and not isinstance(text, str)):
        return ()
    if not words or not all(w.isascii() and w.isdigit() and int(w) > 0 for w in words):
        raise UsageError(
            "student.hidden",
            f"hidden layers {text!r}",
            "widths of 1 or more, or 'linear'",
            "type --hidden 64,64 (two layers of 64), --hidden 8 (one of 8) or --hidden linear (none)",
        )
    return tuple(int(w) for w in words)


def parse_budget(text: str | int, teacher_parameters: int) -> int:
    """A number of parameters from what people type: ``"2000"``, or ``"4%"`` of the teacher's acting parameters.

    Raises:
        UsageError: ``student.budget`` for anything that is not at least 1 parameter.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(%?)", str(text).strip().replace("_", ""))
    number, percent = (float(match[1]), match[2]) if match else (0.0, "")
    budget = int(teacher_parameters * number / 100 + 1e-9) if percent else int(number)
    if budget < 1 or (not percent and number != budget):
        raise UsageError(
            "student.budget",
            f"a budget of {text!r} (the teacher acts with {teacher_parameters} parameters)",
            "a whole number of parameters, or a share of the teacher's that is at least one parameter",
            "type --max-params 2000 or --max-params 4%",
        )
    return budget
