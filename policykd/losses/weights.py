"""How much a term counts: a number, or a function of how far the run has come; it refuses to look at gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

from policykd.errors import UsageError
from policykd.prediction import Progress

__all__ = ["Weight", "weight_at"]

Weight: TypeAlias = float | Callable[[Progress], float]


def weight_at(weight: Weight, progress: Progress, name: str = "") -> float:
    """The weight as a number.

    Args:
        weight: a number, or a function of ``Progress`` (a user's lambda is as good as ours).
        progress: how far the run has come.
        name: of the term, for the message.

    Raises:
        UsageError: ``loss.weight`` when it is not a finite number.
    """
    value: object = weight(progress) if callable(weight) else weight
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise UsageError("loss.weight", f"a weight of {value!r} for the term {name!r}", "a finite number")
    return float(value)
