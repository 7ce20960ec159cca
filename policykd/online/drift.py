"""Whether student and teacher have drifted apart, from one number a look; it keeps no rows and updates no student."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from policykd.errors import UsageError

__all__ = ["PageHinkley", "Watch"]


@dataclass(frozen=True)
class PageHinkley:
    """Page-Hinkley's test for a rise of a mean (Page 1954, Biometrika 41; Hinkley 1971, Biometrika 58).

    With z the newest number, in standard deviations from the mean of all before it::

        excess <- max(0, excess + min(z, most) - tolerance);  fired when excess > threshold

    which is Page's sum minus its least value so far. Standardising makes the knobs the same for every divergence.
    Numbers drawn independently from one Gaussian give a false alarm every
    (exp(2 t (h + 1.166)) - 2 t (h + 1.166) - 1) / (2 t^2) numbers on average, t the tolerance and h the threshold
    (Siegmund 1985, Sequential Analysis, 2.57); a rise by r deviations is found after about h / (r - t). Numbers of a
    heavier tail, or that depend on each other, fire more often: average a few dozen rows into each.

    Attributes:
        threshold: larger is later and surer.
        tolerance: a rise of as many deviations is let pass for ever; half the rise that matters is best.
        most: what one number counts at most; a single wild one cannot fire while ``most < threshold``.
        warm_up: numbers that only tell mean and deviation; nothing fires before.
        floor: least standard deviation believed, as a share of the mean: what hardly varies must not fire at a trifle.
        count, mean, squares: numbers seen, their mean, their summed squared distance from it (Welford 1962).
        excess: the test's sum, in standard deviations.
    """

    threshold: float = 12.0
    tolerance: float = 0.5
    most: float = 4.0
    warm_up: int = 30
    floor: float = 0.5
    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    excess: float = 0.0

    def __post_init__(self) -> None:
        """Refuse knobs that cannot be meant."""
        if not (self.threshold > 0 and self.tolerance >= 0 and self.most > 0 and self.floor >= 0):
            found = f"threshold {self.threshold}, tolerance {self.tolerance}, most {self.most}, floor {self.floor}"
            raise UsageError("drift.knobs", found, "threshold and most above 0, tolerance and floor at least 0")
        if self.warm_up < 2:
            raise UsageError("drift.warm-up", f"a warm-up of {self.warm_up}", "at least 2 numbers, to tell a deviation")

    @property
    def fired(self) -> bool:
        """Whether the mean has risen."""
        return self.excess > self.threshold

    @property
    def deviation(self) -> float:
        """Standard deviation of the numbers so far, no less than the floor."""
        spread = math.sqrt(self.squares / (self.count - 1)) if self.count > 1 else 0.0
        return max(spread, self.floor * abs(self.mean))

    def see(self, value: float) -> PageHinkley:
        """The test after one more number.

        Args:
            value: a divergence, not NaN; infinity counts ``most``, and is kept out of mean and deviation.

        Raises:
            UsageError: ``drift.nan``.
        """
        if math.isnan(value):
            raise UsageError("drift.nan", "a divergence that is not a number", "a number", "leave out rows without one")
        excess = self.excess
        if self.count >= self.warm_up:
            rise, unit = value - self.mean, self.deviation
            z = rise / unit if unit > 0 else math.copysign(math.inf, rise) if rise else 0.0
            # A fall counts no more than a rise: one lucky look must not hide what follows.
            excess = max(0.0, excess + max(-self.most, min(z, self.most)) - self.tolerance)
        if math.isinf(value):
            return replace(self, excess=excess)
        count, off = self.count + 1, value - self.mean
        mean = self.mean + off / count
        return replace(self, count=count, mean=mean, squares=self.squares + off * (value - mean), excess=excess)

    def anew(self) -> PageHinkley:
        """The same knobs, nothing seen."""
        return replace(self, count=0, mean=0.0, squares=0.0, excess=0.0)


@dataclass(frozen=True)
class Watch:
    """When to learn: until the divergence is low, and again from the moment that it rises.

    Learning ends after ``patience`` looks in a row at or below ``low``. Whether learning or not, a rise is an alarm:
    what was learnt from is of another world, and should be forgotten. A look below ``low`` counts as ``low``: what is
    good enough may rise and fall. Where ``low`` is never met the student learns for ever: that costs labels, no return.

    Attributes:
        low: divergence at which a student is as good as it need be.
        patience: looks in a row; as many as the detector's warm-up let it fire from the first look after them.
        detector: what finds a rise; it starts afresh after an alarm, and knows only ``low`` when learning ends.
        learning: whether updates are wanted.
        calm: looks in a row at or below ``low``.
        alarms: rises found.
    """

    low: float
    patience: int = 40
    detector: PageHinkley = PageHinkley()
    learning: bool = True
    calm: int = 0
    alarms: int = 0

    def __post_init__(self) -> None:
        """Refuse a patience that cannot be meant."""
        if self.patience < 1:
            raise UsageError("drift.patience", f"a patience of {self.patience} looks", "at least 1")

    def see(self, value: float) -> Watch:
        """The watch after one more look: compare ``alarms`` to learn that it has just fired.

        Raises:
            UsageError: ``drift.nan``.
        """
        detector = self.detector.see(max(value, self.low))
        if detector.fired:
            return replace(self, detector=detector.anew(), learning=True, calm=0, alarms=self.alarms + 1)
        if not self.learning:
            return replace(self, detector=detector)
        calm = self.calm + 1 if value <= self.low else 0
        if calm < self.patience:
            return replace(self, detector=detector, calm=calm)
        # A mean over the whole of learning would hide a rise for long.
        return replace(self, detector=replace(detector.anew(), count=calm, mean=self.low), learning=False, calm=0)
