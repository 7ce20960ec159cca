"""Rounds of collecting and updates over several tasks, looks at all of them, and the report; it chooses no teacher."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

from policykd.clock import Clock
from policykd.config import DistillConfig
from policykd.datasets import Ring
from policykd.home import WARM_UP, first_steps, width
from policykd.learner import Learner
from policykd.losses import Weighted
from policykd.losses.defaults import default_objective
from policykd.losses.tasks import by_task
from policykd.multitask.lesson import Lesson, Loss, Own
from policykd.news import Look, Tick
from policykd.policy import Policy
from policykd.prediction import Progress, Update
from policykd.recipe import Recipe
from policykd.report import Measured, MultiReport, Report
from policykd.rollouts import Collector, make
from policykd.selection import AS_GOOD, SEEDS, Reported, Selection
from policykd.students import MultiTask, Student, adopt_scales, size_bytes
from policykd.supervised import ROUND, cosine, mixture

__all__ = ["Training"]

_FIRST_LOOK = 256
"""Rows of each task learnt from before the student is first measured against ``until_retention``."""

_LEAST = 1e-3
"""A task of which less is kept counts as this much in the mean that selects, so that it still tells others apart."""


class Training:
    """The way of one student from the first observations to the report."""

    def __init__(
        self,
        teachers: Mapping[str, Policy],
        student: MultiTask,
        recipes: Mapping[str, Recipe],
        config: DistillConfig,
        clock: Clock,
        on_tick: Callable[[str, Tick], None] | None,
        on_look: Callable[[str, Look], None] | None,
        losses: Mapping[str, Loss] | None = None,
    ) -> None:
        """``losses`` are those that somebody chose, by the task's name."""
        self.losses = losses or {}
        self.config, self.clock, self.on_tick, self.on_look = config, clock, on_tick, on_look
        self.next_look: float = _FIRST_LOOK
        self.history: list[dict[str, Any]] = []
        self.best: tuple[float, dict[str, Any]] | None = None
        self.lessons: list[Lesson] = []
        objectives: dict[str, Weighted] = {}
        for name in student.names:
            lesson, objectives[name] = self._begin(name, teachers[name], student.task(name), recipes[name])
            self.lessons.append(lesson)
        self.learner: Learner[MultiTask] = Learner(
            student, by_task(objectives), lr=cosine(config.learning_rate), average=config.average or None
        )

    def _begin(self, name: str, teacher: Policy, view: Student, recipe: Recipe) -> tuple[Lesson, Weighted]:
        config, clock = self.config, Own(self.clock)
        with_value = config.value_weight > 0 and view.value_head is not None
        exam = Selection(teacher, recipe, config, clock, lambda look: self._looked(lesson, look))
        with clock.phase("collect"):
            envs = make(recipe, width(config, recipe), config.vector)
            collector = Collector(envs, teacher, seed=SEEDS * config.seed, explore=config.explore, values=with_value)
        memory = Ring(config.memory, seed=config.seed, extra=False)
        lesson = Lesson(name, teacher, recipe, collector, memory, exam, clock, first_steps(config, teacher.spec))
        acting = (view, 0.0) if config.method == "student" else (None, 1.0)
        lesson.collect(min(WARM_UP, lesson.steps), *acting)
        first = memory.newest(len(memory))
        with self.clock.phase("learn"):
            adopt_scales(view, teacher, first)
            with_value = with_value and first.target.value is not None
            if name in self.losses:
                return lesson, lesson.following(self.losses[name])
            objective = default_objective(
                view.spec, first.target, with_value=with_value, value_weight=config.value_weight
            )
        return lesson, objective

    @property
    def env_steps(self) -> int:
        """Of all tasks."""
        return sum(lesson.taken for lesson in self.lessons)

    def run(self) -> str:
        """Cycles until the student is as good as all teachers, the target is met, or the budget or time is spent."""
        target = self.config.until_retention
        for cycle in range(self.config.cycles):
            for _ in self._cycle(cycle):
                if self.config.max_seconds is not None and self.clock.elapsed > self.config.max_seconds:
                    self._look()
                    return "time"
                if target is not None and self._time_to_look() and self._reached(target):
                    return "target"
            if target is not None and self._reached(target):
                return "target"
            if target is None:
                self._look()
                if not any(lesson.short for lesson in self.lessons):
                    return "converged"
        if not self.history or self.history[-1]["updates"] != self.learner.updates:
            self._look()
        return "budget"

    def _cycle(self, cycle: int) -> Iterator[Update]:
        """Rounds of collecting in every task that is short of its teacher, and of updates on a batch of each task."""
        config, learner, clock = self.config, self.learner, self.clock
        short = [lesson for lesson in self.lessons if lesson.short] or self.lessons
        began = {lesson.name: lesson.taken if cycle else 0 for lesson in short}
        longest = 2**cycle * max(lesson.steps for lesson in short)
        beta, made, updates, rounds = mixture(config, cycle), 0, longest // config.rows_per_update, -(-longest // ROUND)
        for turn in range(rounds):
            share = (turn + 1) / rounds
            told = Progress(self.env_steps, learner.updates, turn / rounds)
            for lesson in short:
                until = began[lesson.name] + math.ceil(share * 2**cycle * lesson.steps)
                lesson.collect(until, learner.averaged.task(lesson.name), beta(told))
            for lesson in self.lessons:
                if lesson.name in self.losses:
                    lesson.known = lesson.exam.known(told, learner.averaged.task(lesson.name), lesson.memory)
            update = None
            while made < share * updates:
                progress = Progress(self.env_steps, learner.updates, made / updates)
                made += 1
                with clock.phase("learn"):
                    batches = [
                        learner.student.tag(lesson.name, lesson.memory.sample(config.batch_size))
                        for lesson in self.lessons
                    ]
                    update = learner.step(batches, progress)
                if not math.isfinite(update.loss):
                    for lesson in self.lessons:
                        lesson.refuse(update.terms)
                yield update
            if self.on_tick is not None and update is not None:
                whole: Any = learner
                total = (2**config.cycles - 1) * sum(lesson.steps for lesson in self.lessons)
                for lesson in self.lessons:
                    self.on_tick(lesson.name, Tick(update, whole, lesson.collector, lesson.memory, total))

    def _time_to_look(self) -> bool:
        if self.learner.updates * self.config.rows_per_update < self.next_look:
            return False
        self.next_look *= 2**0.5
        return True

    def _examine(self, lesson: Lesson, target: float | None = None) -> bool:
        view = self.learner.averaged.task(lesson.name)
        return lesson.exam.meets(self.learner, self.env_steps, target, view)

    def _looked(self, lesson: Lesson, look: Look) -> None:
        lesson.kept = look.retention.value
        # Without a gap between teacher and random policy there is no retention, and nothing to be reached.
        lesson.short = lesson.kept is None or lesson.kept < (self.config.until_retention or AS_GOOD)
        if self.on_look is not None:
            self.on_look(lesson.name, look)

    def _look(self) -> None:
        """Measure the student in every task, and keep its weights if they are the best so far."""
        for lesson in self.lessons:
            self._examine(lesson)
        kept = [lesson.kept for lesson in self.lessons if lesson.kept is not None]
        merit = math.exp(sum(math.log(max(k, _LEAST)) for k in kept) / len(kept)) if kept else float("nan")
        self._keep(merit)

    def _keep(self, merit: float) -> None:
        entry = {"env_steps": self.env_steps, "updates": self.learner.updates, "retention": merit}
        self.history.append(entry)
        if self.best is None or not merit <= self.best[0]:
            self.best = (merit, copy.deepcopy(self.learner.averaged.state_dict()))

    def _reached(self, target: float) -> bool:
        """Whether every task has that retention: on the selecting episodes, and at once on fresh ones."""
        if not all(self._examine(lesson, target) for lesson in self.lessons):
            return False
        self._keep(float("inf"))
        return True

    def report(self, stopped_by: str) -> MultiReport:
        """The student with the best weights, measured beside all teachers on episodes that chose nothing."""
        student, config, clock = self.learner.student, self.config, self.clock
        if self.best is not None:
            student.load_state_dict(self.best[1])
        found = {}
        for lesson in self.lessons:
            lesson.collector.envs.close()
            played = lesson.exam.played
            found[lesson.name] = (lesson, played, lesson.exam.finish(student.task(lesson.name), as_it_is=True))
        seconds, cpu = {**clock.wall, "total": clock.elapsed}, dict(clock.cpu)
        tasks = {name: self._task(lesson, it, played, stopped_by) for name, (lesson, played, it) in found.items()}
        return MultiReport(
            tasks,
            config.method,
            config.seed,
            stopped_by,
            student.acting_parameters,
            student.size_bytes,
            self.env_steps,
            self.learner.updates,
            seconds,
            cpu,
            asdict(config),
            tuple(self.history),
            student,
        )

    def _task(
        self,
        lesson: Lesson,
        found: Reported,
        played: int,
        stopped_by: str,
    ) -> Report:
        student = self.learner.student
        alone = student.alone(lesson.name)
        return Report(
            kind="multitask",
            env_id=lesson.recipe.env_id,
            method=self.config.method,
            seed=self.config.seed,
            stopped_by=stopped_by,
            teacher=Measured.of(found.teacher, lesson.teacher),
            student=Measured.of(found.student, alone, size_bytes(alone)),
            random=Measured.of(found.random),
            retention=found.retention,
            kept=found.kept,
            env_steps=lesson.taken,
            updates=self.learner.updates,
            evaluations=played,
            seconds={**lesson.clock.wall, "total": sum(lesson.clock.wall.values())},
            cpu_seconds=dict(lesson.clock.cpu),
            history=tuple(lesson.exam.history),
            policy=student.task(lesson.name),
        )
