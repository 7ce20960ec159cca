"""One student of a frontier: where it stands, and how long it takes to decide; it teaches and drops nobody."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from policykd.policy import Policy
from policykd.prediction import Obs
from policykd.race import Standing

__all__ = ["Pupil", "latency"]

_DECISIONS = 300
"""Decisions that are timed."""


@dataclass(eq=False)
class Pupil:
    """One student's place in the school."""

    rung: int
    seed: int
    policy: Policy | None = None
    """As it is now; a network that still learns is in the cohort."""
    best: Policy | None = None
    """As it was when it stood best."""
    standing: Standing | None = None
    live: bool = True
    cycles: int = 0

    @property
    def value(self) -> float:
        """Retention on the selecting episodes, -inf without one."""
        return self._bound("value", float("-inf"))

    @property
    def low(self) -> float:
        """The lower bound of it."""
        return self._bound("low", float("-inf"))

    @property
    def high(self) -> float:
        """The upper bound of it."""
        return self._bound("high", float("inf"))

    def _bound(self, name: str, without: float) -> float:
        found = None if self.standing is None else vars(self.standing.kept)[name]
        return without if found is None else float(found)

    @property
    def at_best(self) -> Policy:
        """The student as it was when it stood best."""
        assert self.best is not None
        return self.best


def latency(policy: Policy, obs: Obs | None) -> float:
    """Median microseconds of ``predict`` on one observation."""
    if obs is None:
        return float("nan")
    one: Any = {k: v[0].numpy() for k, v in obs.items()} if isinstance(obs, dict) else obs[0].numpy()
    spent = []
    for _ in range(_DECISIONS):
        began = time.perf_counter()
        policy.predict(one, deterministic=True)
        spent.append(time.perf_counter() - began)
    return float(np.median(spent)) * 1e6
