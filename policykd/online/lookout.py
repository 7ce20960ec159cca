"""When to learn, by what a ``Watch`` makes of new labels, a look at a time; it keeps no rows and updates no student."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from policykd.evaluation import Kept
from policykd.online.drift import Watch
from policykd.policy import Policy
from policykd.prediction import Batch

__all__ = ["LOOK", "Lookout"]

LOOK = 25
"""Labelled rows averaged into one look: enough that a single wild row is no alarm, and few enough to come often."""


class Lookout:
    """Looks at labels before they are learnt from.

    Args:
        watch: what makes sense of the looks; None learns for ever.
        every: one labelled row in so many is looked at while learning. While the watch rests, only as many are asked
            about, and looked at all: looks span the same stretch of the stream, and compare.
        compare: agreement and divergence of a student on labels.
    """

    def __init__(self, watch: Watch | None, every: int, compare: Callable[[Batch, Policy], Kept]) -> None:
        self.watch, self._every, self._compare = watch, every, compare
        self._passed = self._rows = 0
        self._sum = 0.0

    @property
    def learning(self) -> bool:
        """Whether labels are to be learnt from."""
        return self.watch is None or self.watch.learning

    @property
    def alarms(self) -> int:
        """Rises of the divergence so far."""
        return 0 if self.watch is None else self.watch.alarms

    def see(self, batch: Batch, student: Policy) -> bool:
        """Take in new labels, ``[n]``; whether the divergence has risen, so that what was learnt from is of no use."""
        if self.watch is None:
            return False
        before, n = self.alarms, len(batch)
        if self.watch.learning and self._every > 1:
            which = torch.arange(n)[-self._passed % self._every :: self._every]
            self._passed = (self._passed + n) % self._every
            batch, n = batch[which], len(which)
        at = 0
        while at < n:
            rows = min(LOOK - self._rows, n - at)
            self._sum += rows * _apart(self._compare(batch[at : at + rows], student))
            self._rows, at = self._rows + rows, at + rows
            if self._rows == LOOK:
                self.watch = self.watch.see(self._sum / LOOK)
                self._rows, self._sum = 0, 0.0
        return self.alarms > before


def _apart(kept: Kept) -> float:
    """The divergence in nats, or where there is none the share of rows on which the student would act otherwise."""
    found = 1.0 - kept.agreement if kept.kl is None else kept.kl
    return math.inf if math.isnan(found) else found  # a student that says NaN is as far off as can be
