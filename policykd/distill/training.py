"""One student's way from the first observation to the report, by imitation; it chooses neither teacher nor student."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import torch

from policykd import students
from policykd.clock import Clock
from policykd.config import REWARDED, DistillConfig, RewardConfig
from policykd.datasets import Ring
from policykd.datasets import read as read_dataset
from policykd.home import WARM_UP, first_steps, width
from policykd.learner import Learner
from policykd.losses import Objective, PairLoss, Weight, Weighted
from policykd.losses.defaults import default_objective
from policykd.news import Look, Tick
from policykd.policy import Policy
from policykd.prediction import Batch, Progress, Update
from policykd.recipe import Recipe
from policykd.reinforced import acting
from policykd.report import Measured, Report
from policykd.rollouts import Collector, make
from policykd.selection import AS_GOOD, SEEDS, Selection
from policykd.supervised import cosine, interact, mixture, replay

__all__ = ["Training"]

_FIRST_LOOK = 256
"""Environment steps learnt from before a student is first measured against ``until_retention``."""

_REWARD_STEPS = 300_000
"""Environment steps of a method that learns from reward too, where nobody says."""


class Training:
    """One student's way from the first observation to the report."""

    def __init__(
        self,
        teacher: Policy,
        student: Policy,
        recipe: Recipe,
        config: DistillConfig,
        reward: RewardConfig,
        clock: Clock,
        loss: Weighted | Objective | PairLoss | None,
        on_tick: Callable[[Tick], None] | None,
        on_look: Callable[[Look], None] | None,
        judge: Policy | None = None,
        weight: Weight | None = None,
    ) -> None:
        """``judge`` is whom the student is measured against, where that is not ``teacher``.

        ``weight`` is the teacher's beside reward, where it is not what ``reward`` says.
        """
        self.teacher, self.recipe, self.config, self.clock = teacher, recipe, config, clock
        self.reward, self.loss, self.on_tick, self.updates = reward, loss, on_tick, 0
        self.judge, self.weight = judge or teacher, weight
        self.selection = Selection(self.judge, recipe, config, clock, on_look)
        self.next_look: float = _FIRST_LOOK
        with_value = (
            config.value_weight > 0 and isinstance(student, students.Student) and student.value_head is not None
        )
        with clock.phase("collect"):
            self.steps = first_steps(config, teacher.spec)
            self.total = self.steps * (2**config.cycles - 1)
            if config.method in REWARDED:
                self.total = config.steps or _REWARD_STEPS
                self.steps = min(max(reward.imitate, WARM_UP), self.total)
            envs = make(recipe, width(config, recipe), config.vector)
            self.collector = Collector(
                envs, teacher, seed=SEEDS * config.seed, explore=config.explore, values=with_value
            )
            self.memory = Ring(config.memory, seed=config.seed)
            self.env_steps = 0
            first = self._first(student)
            with_value = with_value and first.target.value is not None
        self.sample = first.target
        with clock.phase("learn"):
            if isinstance(student, students.Student):
                students.adopt_scales(student, teacher, first)
            objective = loss or default_objective(
                student.spec, first.target, with_value=with_value, value_weight=config.value_weight
            )
            self.learner: Learner[Any] = Learner(
                student, objective, lr=cosine(config.learning_rate), average=config.average or None
            )

    def _first(self, student: Policy) -> Batch:
        """Rows that set the scales, once the memory holds them, or all of a dataset."""
        if self.config.dataset is not None:
            data = read_dataset(self.config.dataset)
            data.check_student(student.spec)
            for batch in data:
                self.memory.add(batch)
            spread = torch.linspace(0, len(self.memory) - 1, min(len(self.memory), WARM_UP)).long()
            return self.memory.take(spread)
        vector_steps = -(-min(WARM_UP, self.steps) // self.collector.envs.num_envs)
        who = (student, 0.0) if self.config.method == "student" else (None, 1.0)
        rollout = self.collector.collect(vector_steps, *who)
        self.memory.add(rollout.batch)
        self.env_steps = rollout.steps
        return rollout.batch

    def run(self) -> str:
        """Cycles until the student is as good as its teacher, the target is met, or the budget or time is spent."""
        target = self.config.until_retention
        for cycle in range(self.config.cycles):
            for _ in self.cycle(cycle):
                if self.late():
                    return "time"
                if (
                    target is not None
                    and self._time_to_look()
                    and self.selection.reached(self.learner, self.env_steps, target)
                ):
                    return "target"
            if target is not None and self.selection.reached(self.learner, self.env_steps, target):
                return "target"
            if target is None and self.selection.look(self.learner, self.env_steps) >= AS_GOOD:
                return "converged"
        seen = self.selection.history[-1]["updates"] if self.selection.history else None
        if seen != self.learner.updates:
            # Too far from its target to be looked at, and yet the newest student may be the best there is.
            self.selection.look(self.learner, self.env_steps)
        return "budget"

    def late(self) -> bool:
        """Whether the guard's time is over; the student is looked at then."""
        if self.config.max_seconds is None or self.clock.elapsed <= self.config.max_seconds:
            return False
        self.selection.look(self.learner, self.env_steps)
        return True

    def cycle(self, cycle: int) -> Iterator[Update]:
        """Imitation for as long as a cycle is."""
        seen = self.env_steps
        done, steps = (2**cycle - 1) * self.steps, 2**cycle * self.steps
        beta = mixture(self.config, cycle)
        learner, memory, config, clock = self.learner, self.memory, self.config, self.clock
        if config.method == "dataset":
            updates = replay(learner, memory, config, steps=steps, done=done, known=self.known, clock=clock)
        else:
            updates = interact(
                learner,
                self.collector,
                memory,
                config,
                steps=steps,
                beta=beta,
                done=done,
                taken=seen,
                known=self.known,
                clock=clock,
            )
        yield from self.told(updates)

    def told(self, updates: Iterator[Update]) -> Iterator[Update]:
        """The updates, counted, with news of them after each round."""
        for update in updates:
            if self.on_tick is not None and update.progress.env_steps != self.env_steps:
                self.on_tick(Tick(update, self.learner, self.collector, self.memory, self.total))
            self.env_steps, self.updates = update.progress.env_steps, update.step
            yield update

    def known(self, progress: Progress) -> Progress:
        """The progress with what only measuring tells."""
        return self.selection.known(progress, acting(self.learner.averaged), self.memory)

    def _time_to_look(self) -> bool:
        # Looks are a factor of sqrt(2) apart in steps learnt from: late ones cost no more, relative to what was before.
        if self.learner.updates * self.config.rows_per_update < self.next_look:
            return False
        self.next_look *= 2**0.5
        return True

    def report(self, stopped_by: str) -> Report:
        """The student with the best weights, measured beside its judge on episodes that chose nothing."""
        config, student = self.config, acting(self.learner.student)
        self.collector.envs.close()
        played = self.selection.played
        found = self.selection.finish(student)
        size = students.size_bytes(student) if isinstance(student, students.Student) else None
        return Report(
            kind="distill",
            env_id=self.recipe.env_id,
            method=config.method,
            seed=config.seed,
            stopped_by=stopped_by,
            teacher=Measured.of(found.teacher, self.judge),
            student=Measured.of(found.student, student, size),
            random=Measured.of(found.random),
            retention=found.retention,
            kept=found.kept,
            env_steps=self.env_steps if config.method != "dataset" else 0,
            updates=self.updates,
            evaluations=played,
            seconds={**self.clock.wall, "total": self.clock.elapsed},
            cpu_seconds=dict(self.clock.cpu),
            config=asdict(config) | self._reward(),
            history=tuple(self.selection.history),
            policy=student,
        )

    def _reward(self) -> dict[str, Any]:
        """How it learnt from reward, as plain data."""
        if self.config.method not in REWARDED:
            return {}
        followed = {} if self.weight is None else {"teacher_weight": "a function of progress", "teacher_until": None}
        return asdict(self.reward) | followed
