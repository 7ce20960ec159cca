"""Processor time of the calling thread, and what a unit of work has cost so far; it never splits one."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Meter"]

_KEPT, _SHARE = 15, 0.8  # of the newest costs, as many are at most the estimate: one cold cache must not stop all work
_TRUST = 0.95  # of an estimate is believed after each time that it kept work from being done: it may be too high


class Meter:
    """Whether another unit of work still fits.

    A latency guard, asked for by name: which steps are done depends on it, and on nothing else does it have a say.

    Args:
        budget: seconds that one round may take; None for any time.
    """

    def __init__(self, budget: float | None) -> None:
        self.budget = budget
        self._costs: dict[str, deque[float]] = {}
        self._trust: dict[str, float] = {}
        self._begun = 0.0

    def begin(self) -> None:
        """Begin a round."""
        self._begun = time.thread_time()

    def cost(self, kind: str) -> float | None:
        """Seconds that a unit is expected to take, None before the first."""
        if kind not in self._costs:
            return None
        costs = sorted(self._costs[kind])
        return costs[int(_SHARE * (len(costs) - 1))]

    def fits(self, kind: str) -> bool:
        """Whether a unit would end within the budget, if it costs what it usually does."""
        if self.budget is None:
            return True
        trust = self._trust.get(kind, 1.0)
        if time.thread_time() - self._begun + trust * (self.cost(kind) or 0.0) <= self.budget:
            return True
        self._trust[kind] = _TRUST * trust
        return False

    @contextmanager
    def unit(self, kind: str) -> Iterator[None]:
        """Measure one unit."""
        begun = time.thread_time()
        yield
        spent = time.thread_time() - begun
        self._trust[kind] = 1.0
        if kind not in self._costs:
            self._costs[kind] = deque([spent], maxlen=_KEPT)
        elif len(self._costs[kind]) == 1 and spent < self._costs[kind][0]:
            self._costs[kind] = deque([spent], maxlen=_KEPT)  # the first pays for what is made once
        else:
            self._costs[kind].append(spent)
