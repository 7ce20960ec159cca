"""Measuring a student while it learns and when it has learnt: looks, confirmation, report; it never teaches."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from policykd.clock import Clock
from policykd.config import REWARDED, DistillConfig
from policykd.datasets import Ring
from policykd.evaluation import BLOCK, Interval, Kept, References, Score, compare_on, extend, retention
from policykd.learner import Learner
from policykd.news import Look
from policykd.policy import Policy
from policykd.prediction import Progress
from policykd.recipe import Recipe
from policykd.reinforced import acting

__all__ = ["AS_GOOD", "CONFIRM", "REPORT", "SEEDS", "SELECT", "Reported", "Selection"]

REPORT, SELECT, CONFIRM = 500_000_000, 1_000_000_000, 1_500_000_000
"""First seeds of the reported, selecting and confirming episodes: they never meet each other or training's."""

SEEDS = 10_000
"""Seeds that a run keeps to itself in each of these ranges."""

AS_GOOD = 0.99
"""Retention on the selection episodes at which a student counts as as good as its teacher."""

_FEW = 20
"""Episodes that spare a hopeless student a whole selection."""

_BOUNDS = 8
"""Episodes from which an interval may ask for more of them; a stated one takes 100."""

_COMPARED = 128
"""Newest rows on which ``Progress.agreement`` is measured: to a few per cent, at little cost."""

_KEEP = 5_000
"""Visited observations on which agreement, KL and value error are measured."""


@dataclass(frozen=True)
class Reported:
    """What is said of a student in the end, on episodes that chose nothing."""

    student: Score
    teacher: Score
    random: Score
    retention: Interval
    kept: Kept


class Selection:
    """Plays a student, its teacher and the random policy on seeds of one run, and remembers the student to report.

    Args:
        teacher, recipe: who is to be matched, and where.
        config: episodes, precision and seed.
        clock: gets the phase ``evaluate``.
        on_look: called after each selection.

    Attributes:
        history: one entry a selection, as in report.json.
        played: episodes played so far.
    """

    def __init__(
        self,
        teacher: Policy,
        recipe: Recipe,
        config: DistillConfig,
        clock: Clock,
        on_look: Callable[[Look], None] | None = None,
    ) -> None:
        self.teacher, self.recipe, self.config, self.clock, self.on_look = teacher, recipe, config, clock, on_look
        self.history: list[dict[str, float]] = []
        self.played = 0
        self._known: dict[tuple[str, int], Score] = {}
        self._best: dict[str, Any] | None = None
        self._top = -math.inf  # the highest merit seen
        select, report = self._first(SELECT), self._first(REPORT)
        wanted = {
            (True, select): config.select_episodes,
            (False, select): BLOCK,
            (True, report): config.episodes,
            (False, report): max(BLOCK, config.episodes),
        }
        self._references = References(teacher, recipe, wanted, config.workers)

    def look(self, learner: Learner[Any], env_steps: int, student: Policy | None = None) -> float:
        """Measure the student on the selection episodes; it is kept unless one before was surely better. Its retention.

        Args:
            student: who is measured: a view of one of the learner's tasks, say; None for who acts for it.
        """
        student, seed = student or acting(learner.averaged), self._first(SELECT)
        episodes = self.config.select_episodes
        score = self._fresh(student, episodes, seed)
        while True:
            teacher = self._of("teacher", self.teacher, episodes, seed)
            kept = retention(score, teacher, self._random(BLOCK), min_episodes=_BOUNDS)
            # More episodes only where they decide something: not surely below the mark, or at it, but perhaps by luck.
            if not self._unsure(kept) or episodes >= 3 * self.config.select_episodes:
                break
            episodes += self.config.select_episodes
            score = self._fresh(student, episodes, seed, score)
        # Retention, not the mean return: two looks may differ in the number of episodes.
        merit = score.mean if kept.value is None else kept.value
        self.history.append(
            {
                "env_steps": env_steps,
                "updates": learner.updates,
                "return_mean": score.mean,
                "length_mean": score.mean_length,
                "retention": kept.value if kept.value is not None else float("nan"),
            }
        )
        if merit > self._top or self._newest_stays(kept):
            self._best = copy.deepcopy(student.state_dict())
        self._top = max(self._top, merit)
        if self.on_look is not None:
            self.on_look(Look(env_steps, learner.updates, learner, score, teacher, self._random(BLOCK), kept))
        # Without a gap between teacher and random policy there is no retention: nothing is reached, the budget spent.
        return float("-inf") if kept.value is None else kept.value

    def _newest_stays(self, kept: Interval) -> bool:
        """Whether the newest student, though not the best by its number, is kept: it is not surely worse.

        Who imitates has seen more of its own mistakes each time, and the highest of several noisy numbers is luck.
        Reward may spoil a policy at any time: there the best one counts.
        """
        return self.config.method not in REWARDED and kept.high is not None and kept.high >= self._top

    def _unsure(self, kept: Interval) -> bool:
        if kept.value is None or kept.high is None:
            return False
        return kept.half_width > self.config.precision if kept.value >= AS_GOOD else kept.high > AS_GOOD

    def reached(self, learner: Learner[Any], env_steps: int, target: float, student: Policy | None = None) -> bool:
        """Whether the student has the retention ``target``: on the selection episodes, and at once on fresh ones."""
        student = student or acting(learner.averaged)
        if self._hopeless(student, target) or self.look(learner, env_steps, student) < target:
            return False
        seed = self._first(CONFIRM) + len(self.history) * BLOCK
        confirmed = retention(
            self._fresh(student, BLOCK, seed), self._of("teacher", self.teacher, BLOCK, seed), self._random(BLOCK)
        )
        if confirmed.value is None or confirmed.value < target:
            return False
        self._best, self._top = copy.deepcopy(student.state_dict()), math.inf
        return True

    def meets(self, learner: Learner[Any], env_steps: int, target: float | None, student: Policy | None = None) -> bool:
        """Whether the student has the retention ``target``; without a target it is looked at all the same."""
        if target is not None:
            return self.reached(learner, env_steps, target, student)
        self.look(learner, env_steps, student)
        return False

    def known(self, progress: Progress, student: Policy, memory: Ring) -> Progress:
        """The progress with the retention of the last look, and agreement on the newest rows of the memory."""
        seen = self.history[-1]["retention"] if self.history else math.nan
        agreement = None
        if len(memory):
            agreement = compare_on(memory.newest(_COMPARED).obs, student, self.teacher).agreement
        return replace(progress, retention=None if math.isnan(seen) else seen, agreement=agreement)

    def _hopeless(self, student: Policy, target: float) -> bool:
        """Whether a few episodes already say, by three standard errors, that the target is not met."""
        few, seed = min(_FEW, self.config.select_episodes), self._first(SELECT)
        s = self._fresh(student, few, seed).returns
        t = self._of("few of the teacher", self.teacher, few, seed).returns
        gap = t.mean() - self._random(BLOCK).mean
        short = s - t - (target - 1.0) * gap
        return bool(np.sign(gap) * short.mean() + 3.0 * short.std() / len(short) ** 0.5 < 0)

    def finish(self, student: Policy, *, as_it_is: bool = False) -> Reported:
        """Give ``student`` the best weights seen, and measure it until the interval is as narrow as asked for.

        Args:
            as_it_is: leave it the weights it has, because others have chosen them.
        """
        if self._best is not None and not as_it_is:
            student.load_state_dict(self._best)
        seed, episodes = self._first(REPORT), self.config.episodes
        random = self._random(max(BLOCK, episodes), REPORT)
        while True:
            mine = self._of("student", student, episodes, seed, keep=_KEEP)
            theirs = self._of("teacher", self.teacher, episodes, seed)
            found = retention(mine, theirs, random)
            if found.half_width <= self.config.precision or found.low is None or episodes >= self.config.max_episodes:
                break
            episodes = min(episodes + BLOCK, self.config.max_episodes)
        kept = Kept(float("nan"), None, None)
        if mine.obs is not None:
            with self.clock.phase("evaluate"):
                kept = compare_on(mine.obs, student, self.teacher, mine.masks)
        return Reported(mine, theirs, random, found, kept)

    def _first(self, purpose: int) -> int:
        return purpose + SEEDS * self.config.seed

    def _random(self, episodes: int, purpose: int = SELECT) -> Score:
        return self._of("random", None, episodes, self._first(purpose))

    def _of(self, name: str, policy: Policy | None, episodes: int, seed: int, keep: int = 0) -> Score:
        """The score of a policy that stays as it is: grown on demand, never measured twice."""
        known = self._known.get((name, seed))
        if known is None and name in ("teacher", "random"):
            with self.clock.phase("evaluate"):
                known = self._references.get(name == "teacher", seed)
            if known is not None:
                self._known[name, seed] = known
                self.played += known.episodes
        if known is None or known.episodes < episodes:
            known = self._known[name, seed] = self._fresh(policy, episodes, seed, known, keep)
        return known

    def _fresh(
        self, policy: Policy | None, episodes: int, seed: int, known: Score | None = None, keep: int = 0
    ) -> Score:
        """A score of a policy that will have changed by the next time, or ``known`` grown to more episodes."""
        self.played += episodes - (known.episodes if known else 0)
        with self.clock.phase("evaluate"):
            return extend(known, policy, self.recipe, episodes, seed=seed, keep=keep, workers=self.config.workers)
