"""What a student looks like before it exists: widths, activation, budget; it refuses to build anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from policykd.errors import UnknownNameError, UsageError
from policykd.sizes import parse_budget, parse_hidden

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
    activation: str = "silu"
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
