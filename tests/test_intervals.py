"""Intervals hold the truth: simulated returns whose truth is known, exact binomial bounds, tables of Student's t."""

from __future__ import annotations

import math

import numpy as np
import pytest
from benchmarks.coverage import LAWS, METHODS, Coverage, coverage

from policykd.evaluation import Score, retention
from policykd.intervals import mean_interval, ratio_interval, student_t

# What the issue of the frontier asks for at 2,000 draws; a reduced study has a standard error of 1 % at 96 %.
WANTED = {
    "crash 1 %",
    "crash 5 %",
    "crash 3 %, else equal",
    "normal, std 60, correlation 0.5",
    "normal, std 400, correlation 0",
    "exponential below, std 60, correlation 0",
    "exponential below, std 400, correlation 0.5",
    "lognormal above, std 60, correlation 0.9",
    "lognormal below, std 60, correlation 0",
}


def covered(law: str, episodes: int, *, draws: int = 300, method: str = "retention") -> Coverage:
    return coverage(LAWS[law], episodes, draws, method=METHODS[method])


@pytest.mark.parametrize("law", sorted(WANTED))
def test_the_lower_bound_is_at_or_below_the_truth(law: str) -> None:
    assert covered(law, 100).low >= 0.96


def test_the_check_can_fail() -> None:
    """The plain percentile interval takes a sample without a failure for a student without one."""
    assert covered("crash 1 %", 100, method="percentile").low < 0.9
    assert covered("crash 5 %, else equal", 16, method="percentile").low < 0.7
    assert covered("normal, std 60, correlation 0", 8, method="percentile + pseudo-episode").high < 0.95


@pytest.mark.parametrize("episodes", [8, 16, 32])
@pytest.mark.parametrize("law", ["crash 1 %", "crash 5 %", "normal, std 60, correlation 0", "luck 5 %, else nothing"])
def test_a_few_episodes_bound_the_truth_on_both_sides(law: str, episodes: int) -> None:
    found = covered(law, episodes)
    assert found.low >= 0.96 and found.high >= 0.96


@pytest.mark.parametrize("law", ["exponential above", "exponential below", "lognormal above", "lognormal below"])
def test_a_few_skewed_episodes_too(law: str) -> None:
    found = covered(f"{law}, std 60, correlation 0.5", 8)
    assert found.low >= 0.96 and found.high >= 0.96


@pytest.mark.slow
@pytest.mark.parametrize("episodes", [100, 200, 400])
@pytest.mark.parametrize("law", sorted(LAWS))
def test_the_lower_bound_of_every_law(law: str, episodes: int) -> None:
    assert covered(law, episodes, draws=2000).low >= 0.96


def score(returns: np.ndarray, seed: int = 0) -> Score:
    return Score(returns, np.ones(len(returns), int), seed)


def binomial_tail(n: int, least: int, p: float) -> float:
    """P(at least ``least`` of ``n``)."""
    return sum(math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(least, n + 1))


@pytest.mark.parametrize("n", [10, 100])
@pytest.mark.parametrize("failures", [0, 1, 2, 5])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_two_valued_returns_have_clopper_and_pearsons_bounds(n: int, failures: int, level: float) -> None:
    """At the lower bound p, so many successes or more have the probability (1 - level) / 2; the upper by symmetry.

    The other interval, of the sample as it is, may be the wider one, so the bounds are at least as far out.
    """
    s, t, r = np.repeat([0.0, 1.0], [failures, n - failures]), np.ones(n), np.zeros(100)
    low, high = ratio_interval(s, t, r, paired=True, level=level)
    plain, near = (1 - level) / 2, 0.2  # 4,000 draws tell the probability of a tail to about a tenth
    assert binomial_tail(n, n - failures, low) <= plain * (1 + near)
    if failures == 0:
        assert high == 1.0
    else:
        assert 1 - binomial_tail(n, n - failures + 1, high) <= plain * (1 + near)
    if failures <= 1:
        assert binomial_tail(n, n - failures, low) >= plain * (1 - near), "and no further than they need be"


def test_a_ratio_of_one_number_and_its_double() -> None:
    """Paired rows in proportion, and a random policy of nothing: the ratio is the same in every resample."""
    t = np.random.default_rng(0).normal(100, 10, 100)
    r = np.zeros(100)
    low, high = ratio_interval(2 * t, t, r, paired=True)
    assert high == pytest.approx(2.0, rel=1e-6)
    assert low == pytest.approx(2.0 * 0.025**0.01, rel=2e-3), "but for the failure it has not shown"


def test_units_and_signs_do_not_matter() -> None:
    rng = np.random.default_rng(3)
    s, t, r = rng.normal(90, 20, 60), rng.normal(100, 20, 60), rng.normal(0, 20, 100)
    low, high = ratio_interval(s, t, r, paired=True)
    for scale, shift in ((1e-3, 0.0), (50.0, -7000.0), (-1.0, 3.0)):
        moved = ratio_interval(scale * s + shift, scale * t + shift, scale * r + shift, paired=True)
        assert moved == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


def test_same_returns_same_interval_and_nothing_global_is_touched() -> None:
    rng = np.random.default_rng(1)
    s, t, r = (score(rng.normal(mean, 20, n), k) for k, (mean, n) in enumerate(((90, 700), (100, 150), (0, 100))))
    before = np.random.get_state()[1].copy()
    first = retention(s, t, r)
    assert retention(score(s.returns.copy(), 0), t, r) == first
    assert (np.random.get_state()[1] == before).all()
    turned = retention(score(s.returns[::-1], 0), t, r)
    assert turned.low == pytest.approx(first.low, abs=5e-3), "the order of unpaired episodes says nothing"


@pytest.mark.parametrize("n", [100, 400, 3000])
def test_the_interval_of_a_normal_mean_is_students(n: int) -> None:
    x = np.random.default_rng(n).normal(0, 1, n)
    low, high = mean_interval(x)
    half = student_t(0.95, n - 1) * x.std(ddof=1) / math.sqrt(n)
    assert (high - low) / 2 == pytest.approx(half, rel=0.05)
    assert (high + low) / 2 == pytest.approx(x.mean(), abs=0.15 * half)


@pytest.mark.parametrize(
    ("level", "freedom", "t"),
    # Two-sided points in any book of tables.
    [
        *[(0.95, 1, 12.7062), (0.99, 2, 9.9248), (0.9, 3, 2.3534), (0.95, 7, 2.3646), (0.98, 10, 2.7638)],
        *[(0.5, 4, 0.7407), (0.99, 30, 2.7500), (0.95, 120, 1.9799), (0.999, 60, 3.4602), (0.95, 100_000, 1.95999)],
    ],
)
def test_student_t(level: float, freedom: int, t: float) -> None:
    assert student_t(level, freedom) == pytest.approx(t, abs=6e-5)
