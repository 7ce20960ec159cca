"""Seconds by phase, on the wall and on the processor; it decides nothing (budgets never run on the clock)."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Clock"]


def _processor() -> float:
    spent = os.times()
    return time.process_time() + spent.children_user + spent.children_system


class Clock:
    """Adds up the time spent in named phases.

    Attributes:
        wall, cpu: seconds by phase; ``cpu`` is this process's, all threads together, and that of the processes it
            started and saw end.
    """

    def __init__(self) -> None:
        self.wall: defaultdict[str, float] = defaultdict(float)
        self.cpu: defaultdict[str, float] = defaultdict(float)
        self._began = time.perf_counter()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time inside the block as ``name``; phases do not nest."""
        wall, cpu = time.perf_counter(), _processor()
        try:
            yield
        finally:
            self.wall[name] += time.perf_counter() - wall
            self.cpu[name] += _processor() - cpu

    @property
    def elapsed(self) -> float:
        """Wall seconds since the clock was made."""
        return time.perf_counter() - self._began
