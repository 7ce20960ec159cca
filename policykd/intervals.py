"""Intervals of means and their ratios, over episodes or training seeds; it claims no more than a sample shows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np

from policykd.errors import UsageError

__all__ = [
    "Interval",
    "check_level",
    "mean_interval",
    "ratio_interval",
    "share_interval",
    "student_t",
    "student_t_interval",
]

_RESAMPLES = 4000
_BLOCK = 2_000_000  # weights held at once


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval; ``low`` and ``high`` are None, with a ``reason``, where none can be given."""

    value: float | None
    low: float | None = None
    high: float | None = None
    reason: str | None = None

    @property
    def half_width(self) -> float:
        """Half the interval's width, infinite where there is none."""
        return float("inf") if self.low is None or self.high is None else (self.high - self.low) / 2

    def __str__(self) -> str:
        if self.value is None:
            return f"n/a ({self.reason})"
        if self.low is None or self.high is None:
            return f"{self.value:.3f} ({self.reason})"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@lru_cache(maxsize=256)
def student_t(level: float, freedom: int) -> float:
    """The t that a Student-t variable stays within, in absolute value, with probability ``level``.

    Source: Abramowitz & Stegun 1964, 26.7.3 and 26.7.4, a finite sum, inverted by bisection.
    """
    odd, terms = freedom % 2, np.arange(1, freedom // 2)
    # Factors of the sum's terms: 2/3, 4/5, ... of cos^3, cos^5, ... (odd), 1/2, 3/4, ... of cos^2, cos^4, ... (even).
    factors = 2 * terms / (2 * terms + 1) if odd else (2 * terms - 1) / (2 * terms)

    def within(angle: float) -> float:
        series = 1.0 + float(np.cumprod(factors * math.cos(angle) ** 2).sum())
        if not odd:
            return math.sin(angle) * series
        return 2 / math.pi * (angle + (math.sin(angle) * math.cos(angle) * series if freedom > 1 else 0.0))

    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if within(middle) < level else (low, middle)
    return math.tan(low) * math.sqrt(freedom)


def check_level(level: float) -> None:
    """Refuse a confidence level that is none, or too close to 1 for the resamples to tell."""
    if not 0 < level <= 0.999:
        raise UsageError("interval.level", f"a confidence level of {level}", "more than 0 and at most 0.999, as 0.95")


def _tail(level: float, n: int) -> float:
    """The share of draws beyond each bound, less than (1 - level) / 2: Hesterberg 2015's expanded percentiles.

    Draws of a mean spread by s sqrt((n - 1) / (n (n + 1))), the mean itself by s / sqrt(n), and s is an estimate.
    """
    return NormalDist().cdf(-student_t(level, n - 1) * math.sqrt((n + 1) / (n - 1)))


def _weights(n: int, stream: int) -> Iterator[np.ndarray]:
    """Rows from Dirichlet(1, ..., 1) over n episodes, in blocks that fit in memory; streams are independent."""
    rng, block = np.random.default_rng((stream, n)), max(1, _BLOCK // n)
    for first in range(0, _RESAMPLES, block):
        drawn = rng.standard_exponential((min(block, _RESAMPLES - first), n), dtype=np.float32)
        drawn /= drawn.sum(1, keepdims=True)
        yield drawn


@lru_cache(maxsize=8)
def _kept(n: int, stream: int) -> list[np.ndarray]:
    """The same, kept: drawing the weights takes longer than using them."""
    return list(_weights(n, stream))


def _draws(x: np.ndarray, stream: int) -> np.ndarray:
    """``[resamples, ...]``: draws of the mean of ``x`` ``[n, ...]`` by the Bayesian bootstrap over its rows."""
    centre = x.mean(0)
    away = (x - centre).astype(np.float32)  # centred, so that single precision is enough and equal rows stay equal
    blocks = _kept(len(x), stream) if len(x) <= 500 else _weights(len(x), stream)
    return centre + np.concatenate([weights @ away for weights in blocks]).astype(float)


def mean_interval(x: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Interval of a mean over episodes: Rubin's Bayesian bootstrap, percentiles expanded for small samples.

    Args:
        x: one number an episode, ``[n]``; a single one is its own interval.
        level: two-sided confidence, at most 0.999.
    """
    check_level(level)
    if len(x) < 2:
        return float(x.mean()), float(x.mean())
    tail = _tail(level, len(x))
    low, high = np.quantile(_draws(x, 0), [tail, 1 - tail])
    return float(low), float(high)


def ratio_interval(
    student: np.ndarray, teacher: np.ndarray, random: np.ndarray, *, paired: bool, level: float = 0.95
) -> tuple[float, float]:
    """Interval of (student - random) / (teacher - random) of means, over episodes: the wider of two at either end.

    One is the Bayesian bootstrap of the sample as it is, percentiles expanded (Rubin 1981, Hesterberg 2015): right for
    returns that vary. The other is for what the sample has not shown. One pseudo-episode joins it, a failure with the
    random policy's mean return for the lower bound, a success with the teacher's for the upper, and the plain
    percentile is taken. That is the bound of Learned-Miller & Thomas 2019 with random and teacher as the worst and
    best that can happen; where every episode is one or the other, it is Clopper and Pearson's exact one. It does not
    allow for failures that the *teacher's* sample has not shown.

    Args:
        student: returns ``[n]``; at least 2, as in the two others.
        teacher: returns ``[m]``; with ``paired``, m = n and row i was played on the student's seed i.
        random: returns ``[k]`` of the random policy.
        level: two-sided confidence, at most 0.999.
    """
    check_level(level)
    if paired:
        s, t = _draws(np.stack([student, teacher], 1), 0).T
    else:
        s, t = _draws(student, 0), _draws(teacher, 1)
    r = _draws(random, 2)
    tail = _tail(level, min(len(student), len(teacher), len(random)))
    low, high = np.quantile((s - r) / (t - r), [tail, 1 - tail])
    # The weight of one row more is Beta(1, n) and independent of how the others share the rest: its quantiles in turn.
    share = 1 - ((np.arange(_RESAMPLES) + 0.5) / _RESAMPLES) ** (1 / len(student))
    gap = t + share * (teacher.mean() - t) - r
    failed, passed = ((s + share * (mean - s) - r) / gap for mean in (random.mean(), teacher.mean()))
    tail = (1 - level) / 2
    return float(min(low, np.quantile(failed, tail))), float(max(high, np.quantile(passed, 1 - tail)))


def share_interval(hits: int, n: int, level: float = 0.95) -> Interval:
    """A share of n independent trials, with the score interval (Wilson 1927), which holds near 0 and 1 too.

    Raises:
        UsageError: ``interval.share`` unless 0 <= hits <= n and n > 0; ``interval.level``.
    """
    check_level(level)
    if not (0 <= hits <= n and n > 0):
        raise UsageError("interval.share", f"{hits} of {n}", "a share of one trial or more")
    z, share = NormalDist().inv_cdf(0.5 + level / 2), hits / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Interval(share, max(centre - half, 0.0), min(centre + half, 1.0))


def student_t_interval(means: Sequence[float]) -> Interval:
    """Mean over training seeds with a 95 % Student-t interval on the per-seed means."""
    x = np.asarray(means, float)
    if len(x) < 2:
        return Interval(float(x.mean()), reason="one seed")
    half = student_t(0.95, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x))
    return Interval(float(x.mean()), float(x.mean() - half), float(x.mean() + half))
