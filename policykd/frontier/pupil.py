"""One student of a frontier: where it stands, and who goes on, and how long it takes to decide; it teaches nobody."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from policykd.policy import Policy
from policykd.prediction import Obs
from policykd.race import Standing

__all__ = ["Pupil", "best", "cull", "latency"]

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
    """As it was when it stood best, or is, where it has not been measured since."""
    standing: Standing | None = None
    """When it was last measured; where its turn did not come since, ``best`` has learnt more."""
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


def best(pupils: Sequence[Pupil]) -> Pupil:
    """Who of one size speaks for it: of those who learnt longest, the one that stood best."""
    return max(pupils, key=lambda p: (p.cycles, p.value))


def cull(pupils: Sequence[Pupil], target: float, enough: Callable[[Standing], bool]) -> None:
    """Let those go who cannot win any more.

    Sizes beyond one that has enough need not win, and nor does that size learn more. Everybody else goes by intervals
    only, never on a point estimate: a student whose interval lies below that of a sibling of its size, and of the worse
    half of the sizes those whose best student's interval lies below the target and below those of the better half.

    Args:
        pupils: of all sizes; ``live`` is set.
        target: retention that is to be reached.
        enough: whether a student is so good that larger sizes need not be tried.
    """
    by_rung = {i: [p for p in pupils if p.rung == i] for i in sorted({p.rung for p in pupils})}
    top = {i: best(group) for i, group in by_rung.items()}
    done = [i for i, p in top.items() if p.standing is not None and enough(p.standing)]
    met = min(done, default=len(by_rung))
    for pupil in pupils:
        surest = max(p.low for p in by_rung[pupil.rung])
        pupil.live = pupil.live and pupil.rung < met and pupil.high >= surest
    racing = sorted({p.rung for p in pupils if p.live} | set(done), key=lambda i: -top[i].value)
    better, worse = racing[: -(-len(racing) // 2)], racing[-(-len(racing) // 2) :]
    bar = min((top[i].low for i in better), default=float("-inf"))
    for i in worse:
        if top[i].high < min(bar, target):
            for pupil in by_rung[i]:
                pupil.live = False


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
