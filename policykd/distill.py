"""One call from a teacher and an environment to a measured student; written only with public rooms below it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch

from policykd import students
from policykd.clock import Clock
from policykd.config import DistillConfig
from policykd.datasets import Ring
from policykd.datasets import read as read_dataset
from policykd.errors import SpaceError
from policykd.home import WARM_UP, first_steps, recipe_for, width
from policykd.learner import Learner
from policykd.load import load_teacher
from policykd.losses import Objective, PairLoss, Weighted
from policykd.losses.defaults import default_objective
from policykd.news import Look, Tick
from policykd.policy import Policy
from policykd.prediction import Batch, Spec, Update
from policykd.recipe import Recipe
from policykd.report import Measured, Report
from policykd.rollouts import Collector, make
from policykd.selection import AS_GOOD, SEEDS, Selection
from policykd.supervised import cosine, interact, mixture, replay

__all__ = ["Look", "Tick", "distill", "recipe_for"]

_FIRST_LOOK = 256
"""Environment steps learnt from before a student is first measured against ``until_retention``."""


def distill(
    teacher: Policy | str | Path,
    student: Policy | None = None,
    env: str | Path | Recipe | Callable[..., gym.Env] | None = None,
    *,
    config: DistillConfig | None = None,
    loss: Weighted | Objective | PairLoss | None = None,
    hidden: str | tuple[int, ...] = (64, 64),
    on_tick: Callable[[Tick], None] | None = None,
    on_look: Callable[[Look], None] | None = None,
    **changes: Any,
) -> Report:
    """Teach ``student`` what ``teacher`` does in ``env``, and measure what it kept.

    Args:
        teacher: a Policy, or a path that ``load_teacher`` reads.
        student: the student to teach, in place; None builds ``students.suited(teacher, hidden)``.
        env: Gymnasium id, path of a recipe, Recipe, or a function that makes an environment; None takes the teacher's.
        config: how; ``changes`` are fields of it, ``distill(..., steps=50_000, seed=1)``.
        loss: objective or pair loss; None takes the family's default (``losses.defaults``).
        hidden: widths of the student that is built.
        on_tick, on_look: called after each round, and after each selection.

    Returns:
        The Report; its ``policy`` is the student with the best weights by selection.

    Raises:
        SpaceError: ``space.*`` when teacher, student and environment do not fit together.
        UsageError: ``config.*`` for budgets that cannot be meant.
    """
    clock = Clock()
    with clock.phase("load"):
        config = replace(config or DistillConfig(), **changes)
        teacher = teacher if isinstance(teacher, Policy) else load_teacher(teacher)
        recipe = recipe_for(teacher, env)
        if student is None:
            student = students.suited(teacher, hidden, seed=config.seed)
        _check_student(student.spec, teacher.spec)
        student.origin = replace(
            student.origin,
            env_id=recipe.env_id,
            env_kwargs=recipe.env_kwargs,
            wrappers=recipe.wrappers,
            gamma=teacher.origin.gamma,
        )
    training = _Training(teacher, student, recipe, config, clock, loss, on_tick, on_look)
    stopped_by = training.run()
    return training.report(stopped_by)


def _check_student(student: Spec, teacher: Spec) -> None:
    for name, (found, wanted) in student.differences(teacher).items():
        raise SpaceError(
            f"space.{name}",
            f"a student for the {name} {found}",
            f"the teacher's, {wanted}",
            "build it with students.mlp(teacher.spec)",
        )


class _Training:
    """One student's way from the first observation to the report."""

    def __init__(
        self,
        teacher: Policy,
        student: Policy,
        recipe: Recipe,
        config: DistillConfig,
        clock: Clock,
        loss: Weighted | Objective | PairLoss | None,
        on_tick: Callable[[Tick], None] | None,
        on_look: Callable[[Look], None] | None,
    ) -> None:
        self.teacher, self.recipe, self.config, self.clock = teacher, recipe, config, clock
        self.on_tick = on_tick
        self.selection = Selection(teacher, recipe, config, clock, on_look)
        self.next_look: float = _FIRST_LOOK
        with_value = (
            config.value_weight > 0 and isinstance(student, students.Student) and student.value_head is not None
        )
        with clock.phase("collect"):
            self.steps = first_steps(config, teacher.spec)
            envs = make(recipe, width(config, recipe), config.vector)
            self.collector = Collector(
                envs, teacher, seed=SEEDS * config.seed, explore=config.explore, values=with_value
            )
            self.memory = Ring(config.memory, seed=config.seed)
            self.env_steps = 0
            first = self._first(student)
            with_value = with_value and first.target.value is not None
        with clock.phase("learn"):
            if isinstance(student, students.Student):
                students.adopt_scales(student, teacher, first)
            objective = loss or default_objective(
                student.spec, first.target, with_value=with_value, value_weight=config.value_weight
            )
            self.learner = Learner(student, objective, lr=cosine(config.learning_rate), average=config.average or None)

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
        acting = (student, 0.0) if self.config.method == "student" else (None, 1.0)
        rollout = self.collector.collect(vector_steps, *acting)
        self.memory.add(rollout.batch)
        self.env_steps = rollout.steps
        return rollout.batch

    def run(self) -> str:
        """Cycles until the student is as good as its teacher, the target is met, or the budget or time is spent."""
        target = self.config.until_retention
        for cycle in range(self.config.cycles):
            for _ in self._cycle(cycle):
                if self.config.max_seconds is not None and self.clock.elapsed > self.config.max_seconds:
                    self.selection.look(self.learner, self.env_steps)
                    return "time"
                if target is not None and self._time_to_look() and self._reached(target):
                    return "target"
            if target is not None and self._reached(target):
                return "target"
            if target is None and self.selection.look(self.learner, self.env_steps) >= AS_GOOD:
                return "converged"
        seen = self.selection.history[-1]["updates"] if self.selection.history else None
        if seen != self.learner.updates:
            # Too far from its target to be looked at, and yet the newest student may be the best there is.
            self.selection.look(self.learner, self.env_steps)
        return "budget"

    def _cycle(self, cycle: int) -> Iterator[Update]:
        seen = self.env_steps
        done, steps = (2**cycle - 1) * self.steps, 2**cycle * self.steps
        beta = mixture(self.config, cycle)
        learner, memory, config, clock = self.learner, self.memory, self.config, self.clock
        if config.method == "dataset":
            updates = replay(learner, memory, config, steps=steps, done=done, clock=clock)
        else:
            updates = interact(
                learner, self.collector, memory, config, steps=steps, beta=beta, done=done, taken=seen, clock=clock
            )
        for update in updates:
            if self.on_tick is not None and update.progress.env_steps != self.env_steps:
                total = self.steps * (2**self.config.cycles - 1)
                self.on_tick(Tick(update, self.learner, self.collector, self.memory, total))
            self.env_steps = update.progress.env_steps
            yield update

    def _time_to_look(self) -> bool:
        # Looks are a factor of sqrt(2) apart in steps learnt from: late ones cost no more, relative to what was before.
        if self.learner.updates * self.config.rows_per_update < self.next_look:
            return False
        self.next_look *= 2**0.5
        return True

    def _reached(self, target: float) -> bool:
        return self.selection.reached(self.learner, self.env_steps, target)

    def report(self, stopped_by: str) -> Report:
        """The student with the best weights, measured beside its teacher on episodes that chose nothing."""
        config, student = self.config, self.learner.student
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
            teacher=Measured.of(found.teacher, self.teacher),
            student=Measured.of(found.student, student, size),
            random=Measured.of(found.random),
            retention=found.retention,
            kept=found.kept,
            env_steps=self.env_steps if config.method != "dataset" else 0,
            updates=self.learner.updates,
            evaluations=played,
            seconds={**self.clock.wall, "total": self.clock.elapsed},
            cpu_seconds=dict(self.clock.cpu),
            config=asdict(config),
            history=tuple(self.selection.history),
            policy=student,
        )
