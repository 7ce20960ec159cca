"""Who goes on learning and who speaks for a size: by intervals, with standings made by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
from toys import Balancer

from policykd.evaluation import Interval, Score
from policykd.frontier.pupil import Pupil, best, cull
from policykd.race import Standing

TARGET = 0.95
SCORE = Score(np.zeros(8), np.ones(8), 0)


def pupil(rung: int, seed: int, low: float, value: float, high: float, **more: Any) -> Pupil:
    policy = Balancer()
    return Pupil(rung, seed, policy, policy, Standing(SCORE, Interval(value, low, high)), **more)


def enough(standing: Standing) -> bool:
    return (standing.kept.value or 0.0) >= 0.975


def stay(*pupils: Pupil) -> list[tuple[int, int]]:
    cull(pupils, TARGET, enough)
    return [(p.rung, p.seed) for p in pupils if p.live]


def test_a_student_goes_where_a_siblings_interval_lies_wholly_above_its_own() -> None:
    assert stay(pupil(0, 0, 0.5, 0.6, 0.7), pupil(0, 1, 0.8, 0.85, 0.9)) == [(0, 1)]
    # Intervals that touch leave both: that one looks worse is no reason.
    assert stay(pupil(0, 0, 0.5, 0.6, 0.81), pupil(0, 1, 0.8, 0.85, 0.9)) == [(0, 0), (0, 1)]


def test_of_the_worse_half_those_go_that_are_surely_short_of_target_and_better_half() -> None:
    sizes = [pupil(0, 0, 0.1, 0.2, 0.3), pupil(1, 0, 0.5, 0.6, 0.7), pupil(2, 0, 0.8, 0.85, 0.9)]
    assert stay(*sizes) == [(1, 0), (2, 0)]  # three race, two are the better half
    assert stay(*(pupil(p.rung, 0, p.low, p.value, 0.96) for p in sizes)) == [(0, 0), (1, 0), (2, 0)]
    # Below the better half and yet perhaps at the target, or below the target and beside the better half: both stay.
    assert stay(pupil(0, 0, 0.7, 0.8, 0.9), pupil(1, 0, 0.85, 0.9, 0.94)) == [(0, 0), (1, 0)]


def test_sizes_from_one_that_has_enough_on_learn_no_more() -> None:
    assert stay(pupil(0, 0, 0.9, 0.94, 0.96), pupil(1, 0, 0.95, 0.98, 1.0), pupil(2, 0, 0.9, 0.94, 1.0)) == [(0, 0)]
    assert stay(pupil(0, 0, 0.95, 0.98, 1.0), pupil(1, 0, 0.95, 0.98, 1.0)) == []


def test_who_went_does_not_come_back() -> None:
    assert stay(pupil(0, 0, 0.5, 0.6, 0.96, live=False), pupil(0, 1, 0.5, 0.6, 0.96)) == [(0, 1)]


def test_a_size_is_spoken_for_by_the_best_of_those_who_learnt_longest() -> None:
    early, late, later = (
        pupil(0, i, 0, value, 1, cycles=c) for i, (value, c) in enumerate([(0.9, 1), (0.5, 2), (0.7, 2)])
    )
    assert best([early, late, later]) is later
    unmeasured = Pupil(0, 3, cycles=2)
    assert best([unmeasured, late]) is late and best([unmeasured]) is unmeasured
