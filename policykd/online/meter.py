"""Processor time of the calling thread, and what a unit of work has cost so far; it never splits one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Meter"]

_NEW = 0.1  # share of the newest cost in an estimate
_DOUBT = 0.98  # of an estimate is left each time it kept work from being done: it may be too high, and is then the last


class Meter:
    """Whether another unit of work still fits.

    A latency guard, asked for by name: which steps are done depends on it, and on nothing else does it have a say.

    Args:
        budget: seconds that one round may take; None for any time.

    Attributes:
        cost: estimated seconds of a unit by kind.
    """

    def __init__(self, budget: float | None) -> None:
        self.budget = budget
        self.cost: dict[str, float] = {}
        self._begun = 0.0

    def begin(self) -> None:
        """Begin a round."""
        self._begun = time.thread_time()

    def fits(self, kind: str) -> bool:
        """Whether a unit would end within the budget, if it costs what it usually does."""
        if self.budget is None:
            return True
        if time.thread_time() - self._begun + self.cost.get(kind, 0.0) <= self.budget:
            return True
        if kind in self.cost:
            self.cost[kind] *= _DOUBT
        return False

    @contextmanager
    def unit(self, kind: str) -> Iterator[None]:
        """Measure one unit."""
        begun = time.thread_time()
        yield
        spent = time.thread_time() - begun
        self.cost[kind] = (1.0 - _NEW) * self.cost.get(kind, spent) + _NEW * spent
