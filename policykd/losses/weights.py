"""How much a term counts: a number, or a function of how far the run has come; it refuses to look at gradients.

A schedule is a closure ``Progress -> float``, and a user's lambda is as good as ours. Those over time follow
``Progress.fraction``, the share of the budget that is spent (of a cycle, where there are cycles), or, given ``steps``,
``Progress.env_steps / steps``, which no restart moves. Weights that learn or remember are in ``losses.dynamic``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

from policykd.errors import UsageError
from policykd.prediction import Progress

__all__ = [
    "Schedule",
    "Weight",
    "by_agreement",
    "by_performance",
    "constant",
    "cosine",
    "exponential",
    "linear",
    "step",
    "weight_at",
]

Schedule: TypeAlias = Callable[[Progress], float]
Weight: TypeAlias = float | Schedule


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


def constant(value: float) -> Schedule:
    """``value`` at all times."""
    _finite("constant", value)
    return lambda progress: value


def linear(start: float, end: float, *, begin: float = 0.0, finish: float = 1.0, steps: int | None = None) -> Schedule:
    """From ``start`` to ``end`` along a line; before ``begin`` and after ``finish`` it stays what it is there.

    Args:
        start, end: weights.
        begin, finish: positions on the way, 0 to 1.
        steps: environment steps that are the whole way; None goes by the share of the budget that is spent.

    Raises:
        UsageError: ``weight.schedule`` for numbers that are not finite, ``finish`` before ``begin``, or no steps.
    """
    return _between(start, end, lambda t: t, begin, finish, steps)


def cosine(start: float, end: float, *, begin: float = 0.0, finish: float = 1.0, steps: int | None = None) -> Schedule:
    """From ``start`` to ``end`` along half a cosine: slow, fast, slow; arguments and errors as of ``linear``."""
    return _between(start, end, lambda t: 0.5 * (1.0 - math.cos(math.pi * t)), begin, finish, steps)


def exponential(
    start: float, end: float, *, begin: float = 0.0, finish: float = 1.0, steps: int | None = None
) -> Schedule:
    """``start x (end / start)^t``: the same factor for every stretch of the way; it never reaches 0.

    Arguments as of ``linear``.

    Raises:
        UsageError: ``weight.schedule``, also unless both weights are above 0 or both below.
    """
    if not start * end > 0:
        raise UsageError("weight.schedule", f"exponential({start}, {end})", "two weights of one sign", "use linear")
    ratio = math.log(end / start)
    at = _place(begin, finish, steps)
    _finite("exponential", start, end)

    def weight(progress: Progress) -> float:
        t = at(progress)
        return end if t == 1 else start * math.exp(ratio * t)

    return weight


def step(first: float, *changes: tuple[float, float], steps: int | None = None) -> Schedule:
    """``first`` until the first change, then each change's weight from its position on: ``step(1.0, (0.5, 0.1))``.

    Args:
        first: weight from the start.
        changes: (position, weight) in ascending order of positions.
        steps: as of ``linear``.

    Raises:
        UsageError: ``weight.schedule`` for positions out of order.
    """
    places = [place for place, _ in changes]
    _finite("step", first, *(number for change in changes for number in change))
    if places != sorted(places):
        raise UsageError("weight.schedule", f"changes at {places}", "positions in ascending order")
    at = _place(0.0, 1.0, steps, clamp=False)

    def weight(progress: Progress) -> float:
        now, found = at(progress), first
        for place, value in changes:
            if now >= place:
                found = value
        return found

    return weight


def by_performance(scale: float = 1.0) -> Schedule:
    """``scale x max(1 - G_student / G_teacher, 0)``: the teacher counts less, the closer its student comes.

    QDagger (Agarwal et al. 2022, 2206.01626, section 4.1) with normalised scores: the ratio is ``Progress.retention``,
    (student - random) / (teacher - random), so that negative returns do no harm. 0 from the teacher's return on,
    ``scale`` at the random policy's (more below it) and as long as nobody knows.
    """
    _finite("by_performance", scale)
    return lambda progress: scale * max(1.0 - (progress.retention or 0.0), 0.0)


def by_agreement(start: float = 1.0, end: float = 0.0, *, low: float = 0.5, high: float = 0.95) -> Schedule:
    """From ``start`` to ``end`` as the student comes to act as its teacher does (``Progress.agreement``).

    Args:
        start: weight up to an agreement of ``low``, and as long as nobody knows.
        end: weight from an agreement of ``high`` on.
        low, high: a line lies between them.

    Raises:
        UsageError: ``weight.schedule`` unless low < high.
    """
    _finite("by_agreement", start, end, low, high)
    if not low < high:
        raise UsageError("weight.schedule", f"low={low}, high={high}", "low < high")

    def weight(progress: Progress) -> float:
        if progress.agreement is None:
            return start
        return _mixed(start, end, (progress.agreement - low) / (high - low))

    return weight


def _between(
    start: float, end: float, bent: Callable[[float], float], begin: float, finish: float, steps: int | None
) -> Schedule:
    _finite("a schedule", start, end)
    at = _place(begin, finish, steps)
    return lambda progress: _mixed(start, end, bent(at(progress)))


def _mixed(start: float, end: float, t: float) -> float:
    # The ends are exact: a weight that has come to 0 is 0, and its term is no longer computed.
    return start if t <= 0 else end if t >= 1 else start + (end - start) * t


def _place(begin: float, finish: float, steps: int | None, *, clamp: bool = True) -> Schedule:
    """Where on the way a run is; clamped to 0 at ``begin`` and 1 at ``finish``."""
    _finite("a schedule", begin, finish)
    if not begin < finish:
        raise UsageError("weight.schedule", f"begin={begin}, finish={finish}", "begin < finish")
    if steps is not None and steps < 1:
        raise UsageError("weight.schedule", f"steps={steps}", "at least 1")

    def at(progress: Progress) -> float:
        share = progress.fraction if steps is None else progress.env_steps / steps
        return min(max((share - begin) / (finish - begin), 0.0), 1.0) if clamp else share

    return at


def _finite(name: str, *numbers: float) -> None:
    if not all(math.isfinite(x) for x in numbers):
        raise UsageError("weight.schedule", f"{name} of {numbers}", "finite numbers")
