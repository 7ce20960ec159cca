"""Page-Hinkley's test and the watch: hand-computed steps, false alarms and delays against theory, the ends of knobs."""

from __future__ import annotations

import math
from itertools import accumulate, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policykd.errors import UsageError
from policykd.online.drift import PageHinkley, Watch

NEVER = 1e9
numbers = st.floats(-100, 100, allow_nan=False)


def first_alarm(test: PageHinkley, values: np.ndarray) -> float:
    """How many numbers it took; infinite where it never fired."""
    for i, value in enumerate(values.tolist()):
        test = test.see(value)
        if test.fired:
            return i + 1
    return math.inf


def told(**knobs: float) -> PageHinkley:
    """A test that knows mean 0 and deviation 1 as if from a very long past."""
    return PageHinkley(count=10**12, squares=10.0**12, **knobs)  # type: ignore[arg-type]


def siegmund(threshold: float, drift: float) -> float:
    """Mean numbers until a sum with steps N(drift, 1), held at 0 from below, passes the threshold (1985, 2.57)."""
    a = 2 * drift * (threshold + 1.166)
    return (math.exp(-a) + a - 1) / (2 * drift**2)


def test_by_hand() -> None:
    # Mean 1, deviation 1 after the first two; then each number's z, less the tolerance, is added up.
    test = PageHinkley(threshold=3.0, tolerance=0.5, most=100.0, warm_up=3, floor=0.0)
    for value in (0.0, 1.0, 2.0):
        test = test.see(value)
    assert (test.mean, test.deviation, test.excess) == (1.0, 1.0, 0.0)
    test = test.see(3.0)  # z = 2
    assert test.excess == pytest.approx(1.5)
    assert (test.mean, test.deviation) == (pytest.approx(1.5), pytest.approx(math.sqrt(5 / 3)))
    test = test.see(5.0)  # z = 3.5 / 1.2910 = 2.7111
    assert test.excess == pytest.approx(1.5 + 2.7111 - 0.5, abs=1e-4)
    assert test.fired


@given(st.lists(numbers, min_size=2, max_size=60))
def test_it_is_pages_sum_minus_its_least_value(values: list[float]) -> None:
    steps = [min(max(v, -4.0), 4.0) - 0.5 for v in values]
    sums = [0.0, *accumulate(steps)]
    tests = list(accumulate(values, PageHinkley.see, initial=told(threshold=NEVER)))
    for i, test in enumerate(tests):
        assert test.excess == pytest.approx(sums[i] - min(sums[: i + 1]), rel=1e-4, abs=1e-4)


@given(st.lists(numbers, min_size=2, max_size=60))
def test_mean_and_deviation_are_numpys(values: list[float]) -> None:
    test = list(accumulate(values, PageHinkley.see, initial=PageHinkley(floor=0.0)))[-1]
    assert test.mean == pytest.approx(np.mean(values), abs=1e-9)
    assert test.deviation == pytest.approx(np.std(values, ddof=1), abs=1e-9)


@given(st.lists(numbers, min_size=31, max_size=60), st.floats(0.01, 100), st.floats(-50, 50))
def test_knobs_mean_the_same_in_any_unit(values: list[float], scale: float, shift: float) -> None:
    values = [v + i for i, v in enumerate(values)]  # never all equal
    plain = list(accumulate(values, PageHinkley.see, initial=PageHinkley(floor=0.0)))[-1]
    other = list(accumulate((scale * v + shift for v in values), PageHinkley.see, initial=PageHinkley(floor=0.0)))[-1]
    assert other.excess == pytest.approx(plain.excess, abs=1e-6)


@pytest.mark.parametrize(("threshold", "tolerance"), [(3.0, 0.5), (4.0, 0.25), (2.0, 1.0)])
def test_false_alarms_are_as_rare_as_siegmund_says(threshold: float, tolerance: float) -> None:
    draw = np.random.default_rng(0).standard_normal
    test = told(threshold=threshold, tolerance=tolerance, most=100.0)
    runs = [first_alarm(test, draw(5_000)) for _ in range(400)]
    assert max(runs) < math.inf
    # A run's length is nearly exponential: its mean has a standard error of a twentieth; the formula is good to 5 %.
    assert np.mean(runs) == pytest.approx(siegmund(threshold, -tolerance), rel=0.2)


@pytest.mark.parametrize("rise", [1.0, 2.0])
def test_a_rise_is_found_as_soon_as_siegmund_says(rise: float) -> None:
    draw = np.random.default_rng(1).standard_normal
    delays = [first_alarm(told(threshold=12.0, most=100.0), rise + draw(500)) for _ in range(400)]
    assert np.mean(delays) == pytest.approx(siegmund(12.0, rise - 0.5), rel=0.05)


def test_defaults_on_a_stream_of_divergences() -> None:
    """Means of 25 rows with a tail (exponential), as it starts in life: nothing known.

    1,000 streams of 400 looks at rest, then three times the mean: the figures that the docstring and docs quote.
    """
    rng = np.random.default_rng(2)
    false, delays = 0, []
    for _ in range(1_000):
        at_rest = 0.02 * rng.gamma(25, 1 / 25, 400)
        test = PageHinkley()
        for value in at_rest.tolist():
            test = test.see(value)
            if test.fired:
                break
        if test.fired:
            false += 1
            continue
        delays.append(first_alarm(test, 0.06 * rng.gamma(25, 1 / 25, 50)))
    assert false <= 20  # 2 % of streams of 400 looks
    assert max(delays) <= 6  # 12 / 3.5 at best: 4 deviations a look, less the tolerance
    assert np.mean(delays) == pytest.approx(4.5, abs=0.3)


def test_a_slow_rise_is_found_too() -> None:
    rng = np.random.default_rng(3)
    alarms = []
    for _ in range(100):
        rising = 0.02 * (1 + np.clip((np.arange(600) - 200) / 400, 0, 1) * 2) * rng.gamma(25, 1 / 25, 600)
        alarms.append(first_alarm(PageHinkley(), rising))
    assert 200 < np.median(alarms) < 330
    assert max(alarms) < 420


@given(st.lists(st.floats(-100, 0, allow_nan=False), max_size=60))
def test_a_fall_never_fires(values: list[float]) -> None:
    assert not list(accumulate(values, PageHinkley.see, initial=told()))[-1].excess


def test_one_wild_number_cannot_fire_and_cannot_hide() -> None:
    test = told()
    for wild in (1e9, math.inf):
        assert test.see(wild).excess == 3.5
    low = list(accumulate([-math.inf, 4.0, 4.0, 4.0, 4.0], PageHinkley.see, initial=told()))
    assert low[-1].fired


def test_infinity_stays_out_of_mean_and_deviation() -> None:
    test = told().see(math.inf)
    assert (test.count, test.mean) == (10**12, 0.0)


def test_ends_of_the_knobs() -> None:
    rise = [0.0] * 40 + [1.0] * 3
    never_varied = PageHinkley(floor=0.0)
    assert first_alarm(never_varied, np.zeros(100)) == math.inf
    # With no spread at all every rise is infinite: `most` counts, less the tolerance.
    assert [t.excess for t in accumulate(rise, PageHinkley.see, initial=never_varied)][-3] == 3.5
    steady = [2.0] * 40 + [2.01] * 40
    assert first_alarm(PageHinkley(floor=0.05), np.array(steady)) == math.inf
    assert first_alarm(PageHinkley(floor=0.0), np.array(steady)) < 60
    # warm_up: nothing fires before, whatever comes.
    assert first_alarm(PageHinkley(warm_up=50), np.r_[np.zeros(20), np.full(30, 1e6)]) == math.inf
    # tolerance 0: the sum wanders up by itself, sooner or later; very large: nothing is ever seen.
    noise = np.random.default_rng(4).standard_normal(3_000)
    assert first_alarm(told(tolerance=0.0), noise) < math.inf
    assert first_alarm(told(tolerance=5.0), noise + 100) == math.inf


@pytest.mark.parametrize(
    ("knobs", "code"),
    [
        ({"threshold": 0.0}, "drift.knobs"),
        ({"threshold": math.nan}, "drift.knobs"),
        ({"tolerance": -1.0}, "drift.knobs"),
        ({"most": 0.0}, "drift.knobs"),
        ({"floor": -0.1}, "drift.knobs"),
        ({"warm_up": 1}, "drift.warm-up"),
    ],
)
def test_knobs_that_cannot_be_meant(knobs: dict[str, float], code: str) -> None:
    with pytest.raises(UsageError) as caught:
        PageHinkley(**knobs)  # type: ignore[arg-type]
    assert caught.value.code == code


def test_nan_is_refused() -> None:
    with pytest.raises(UsageError, match=r"drift\.nan"):
        PageHinkley().see(math.nan)


def test_a_test_is_a_value() -> None:
    test = told(threshold=3.0)
    again = [list(accumulate([1.0, 2.0, 3.0], PageHinkley.see, initial=test)) for _ in range(2)]
    assert again[0] == again[1]
    assert test == told(threshold=3.0)
    assert test.see(2.0).anew() == PageHinkley(threshold=3.0)


def test_the_watch_closes_and_opens_again() -> None:
    watch = Watch(low=0.1, patience=3, detector=PageHinkley(threshold=3.0, warm_up=5))
    looks = [0.5, 0.1, 0.1, 0.2, 0.1, 0.0, 0.1]  # three in a row only at the end
    seen = list(accumulate(looks, Watch.see, initial=watch))
    assert [w.learning for w in seen] == [True] * 7 + [False]
    watch = seen[-1]
    # The detector knows as many looks as the row had, and nothing that came before.
    assert watch.detector == PageHinkley(threshold=3.0, warm_up=5, count=3, mean=0.1)
    rng = np.random.default_rng(5)
    quiet = list(accumulate((0.05 + 0.005 * rng.standard_normal(200)).clip(0, None).tolist(), Watch.see, initial=watch))
    assert not quiet[50].learning
    assert quiet[50].detector.count == 53
    risen = list(accumulate([1.0] * 5, Watch.see, initial=quiet[50]))
    opened = [b.alarms > a.alarms for a, b in pairwise(risen)]
    assert sum(opened) == 1
    assert risen[-1].learning
    closed = list(accumulate([0.05] * 3, Watch.see, initial=risen[-1]))[-1]
    assert (closed.learning, closed.alarms, closed.detector.count) == (False, 1, 3)


def test_a_rise_right_after_the_watch_closed_is_found() -> None:
    quiet = (0.01 * (1 + 0.1 * np.random.default_rng(6).standard_normal(40))).tolist()
    watch = list(accumulate(quiet, Watch.see, initial=Watch(low=0.1)))[-1]
    assert not watch.learning
    risen = list(accumulate([2.0] * 4, Watch.see, initial=watch))
    assert [w.alarms for w in risen] == [0, 0, 0, 0, 1]
    assert risen[-1].detector == PageHinkley()


def test_what_is_low_may_rise_and_what_is_above_may_not() -> None:
    quiet = Watch(low=0.1, learning=False, detector=PageHinkley(count=40, mean=0.1))
    tiny = [1e-9] * 50 + [0.1] * 50  # a rise by eight orders of magnitude, within what is good enough
    assert not list(accumulate(tiny, Watch.see, initial=quiet))[-1].alarms
    above = list(accumulate([0.2] * 11, Watch.see, initial=quiet))  # 2 deviations of half the mean, at first
    assert above[-1].alarms == 1


@pytest.mark.parametrize("learning", [True, False])
def test_a_look_that_is_no_number_is_refused(learning: bool) -> None:
    with pytest.raises(UsageError, match=r"drift\.nan"):
        Watch(low=0.1, learning=learning).see(math.nan)


def test_a_rise_while_learning_is_an_alarm_and_a_fall_is_none() -> None:
    rng = np.random.default_rng(7)
    falling = (np.linspace(1.0, 0.2, 60) * rng.gamma(25, 1 / 25, 60)).tolist()
    watch = list(accumulate(falling, Watch.see, initial=Watch(low=0.1)))[-1]
    assert (watch.learning, watch.alarms) == (True, 0)
    risen = list(accumulate([3.0] * 6, Watch.see, initial=watch))
    assert (risen[-1].learning, risen[-1].alarms) == (True, 1)


def test_a_patience_that_cannot_be_meant() -> None:
    with pytest.raises(UsageError, match=r"drift\.patience"):
        Watch(low=0.1, patience=0)


def test_a_divergence_that_stays_high_is_learnt_from_for_ever() -> None:
    watch = list(accumulate([1.0] * 1_000, Watch.see, initial=Watch(low=0.1)))[-1]
    assert watch.learning
    assert watch.alarms == 0
