"""One call from several teachers to one student that does what each of them does; written only with rooms below it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast, final

import gymnasium as gym
from torch import Tensor

from policykd.clock import Clock
from policykd.config import DistillConfig
from policykd.datasets import Ring
from policykd.errors import EnvError, SpaceError, UsageError
from policykd.home import WARM_UP, first_steps, recipe_for, width
from policykd.learner import Learner
from policykd.load import load_teacher
from policykd.losses import Weighted
from policykd.losses.defaults import default_objective
from policykd.losses.tasks import by_task
from policykd.news import Look, Tick
from policykd.policy import Policy
from policykd.prediction import Batch, Progress, Update, map_obs
from policykd.recipe import Recipe
from policykd.report import Measured, MultiReport, Report
from policykd.rollouts import Collector, make
from policykd.selection import AS_GOOD, SEEDS, Reported, Selection
from policykd.students import MultiTask, Student, adopt_scales, size_bytes
from policykd.students.multitask import Heads, Inputs
from policykd.supervised import ROUND, cosine, mixture

__all__ = ["by_environment", "multitask"]

_FIRST_LOOK = 256
"""Rows of each task learnt from before the student is first measured against ``until_retention``."""

_LEAST = 1e-3
"""A task of which less is kept counts as this much in the mean that selects, so that it still tells others apart."""

Teacher = Policy | str | Path
Home = str | Path | Recipe | Callable[..., gym.Env]


def multitask(
    teachers: Mapping[str, Teacher] | Sequence[Teacher],
    student: MultiTask | None = None,
    envs: Mapping[str, Home] | None = None,
    *,
    config: DistillConfig | None = None,
    hidden: str | tuple[int, ...] = (16, 16),
    heads: Heads = "own",
    inputs: Inputs = "own",
    on_tick: Callable[[str, Tick], None] | None = None,
    on_look: Callable[[str, Look], None] | None = None,
    **changes: Any,
) -> MultiReport:
    """Teach one student what each of several teachers does in its own environment, and measure what it kept of each.

    Every task has its own environments, labels and memory; a step minimises the sum of the tasks' losses on a batch of
    each (Rusu et al. 2015, 1511.06295, section 3.3), and the student itself acts, as in ``distill``. A cycle is as long
    as the longest of its tasks' would be alone, and every task takes its own number of steps in it. A further cycle
    takes steps only in tasks in which the student is short of its teacher; the others are learnt from what is known.

    Args:
        teachers: a policy, or the path of one, by the task's name; without names the tasks are called after their
            environments.
        student: the student to teach, in place, whose tasks have these names; None builds ``MultiTask.suited``.
        envs: where a task's teacher does not live in its own environment, by the task's name.
        config: how; ``changes`` are fields of it, ``multitask(..., steps=20_000, seed=1)``. Steps are each task's.
        hidden, heads, inputs: of the student that is built.
        on_tick, on_look: called with the task's name after each round, and after each selection. The learner that they
            are shown is the whole student's: ``learner.averaged.task(name)`` acts.

    Returns:
        The MultiReport; its ``policy`` is the student with the best weights by the geometric mean of the selecting
        retentions.

    Raises:
        UsageError: ``multitask.teachers`` for less than two; ``multitask.tasks`` for a student of other tasks;
            ``multitask.method`` for methods that do not teach by imitation; ``config.*``.
        SpaceError: ``space.*`` when teacher, student and environment of a task do not fit together.
        EnvError: ``multitask.nan`` for observations or labels that are NaN.
    """
    clock = Clock()
    with clock.phase("load"):
        config = replace(config or DistillConfig(), **changes)
        _check_config(config)
        found = by_environment(teachers)
        recipes = {name: recipe_for(teacher, (envs or {}).get(name)) for name, teacher in found.items()}
        if student is None:
            student = MultiTask.suited(found, hidden, heads=heads, inputs=inputs, seed=config.seed)
        _check_student(student, found)
        for name, view in student.tasks().items():
            recipe = recipes[name]
            view.origin = replace(
                view.origin,
                env_id=recipe.env_id,
                env_kwargs=recipe.env_kwargs,
                wrappers=recipe.wrappers,
                gamma=found[name].origin.gamma,
            )
    training = _Training(found, student, recipes, config, clock, on_tick, on_look)
    return training.report(training.run())


def by_environment(teachers: Mapping[str, Teacher] | Sequence[Teacher]) -> dict[str, Policy]:
    """The teachers by name, loaded where they are paths; those without a name are called after their environment.

    Raises:
        UsageError: ``multitask.teachers`` for less than two.
    """
    names = list(teachers) if isinstance(teachers, Mapping) else None
    given = list(teachers.values()) if isinstance(teachers, Mapping) else list(teachers)
    if len(given) < 2:
        raise UsageError(
            "multitask.teachers", f"{len(given)} teacher", "two or more, one a task", "for one: distill(teacher)"
        )
    loaded = [t if isinstance(t, Policy) else load_teacher(t) for t in given]
    found: dict[str, Policy] = {}
    for i, teacher in enumerate(loaded):
        plain = names[i] if names is not None else teacher.origin.env_id or "task"
        free = (f"{plain}-{n}" if n > 1 else plain for n in range(1, len(loaded) + 1))
        found[next(name for name in free if name not in found)] = teacher
    return found


def _check_config(config: DistillConfig) -> None:
    if config.method not in ("teacher", "student", "dagger"):
        raise UsageError(
            "multitask.method", f"several tasks with the method {config.method}", "teacher, student or dagger"
        )


def _check_student(student: MultiTask, teachers: Mapping[str, Policy]) -> None:
    if set(student.names) != set(teachers):
        raise UsageError(
            "multitask.tasks",
            f"a student of the tasks {', '.join(student.names)}",
            f"the teachers', {', '.join(teachers)}",
            "give teachers and specs the same names",
        )
    for task, view in student.tasks().items():
        for name, (found, wanted) in view.spec.differences(teachers[task].spec).items():
            raise SpaceError(
                f"space.{name}",
                f"in {task} a student for the {name} {found}",
                f"the teacher's, {wanted}",
                "take its spec",
            )


@dataclass(frozen=True, eq=False)
class _Seen:
    """What a Selection reads of a Learner, for one task of it."""

    averaged: Policy
    updates: int


@final
class _Exam(Selection):
    """A Selection that leaves it to others which weights are best: that is decided over all tasks."""

    def look_at(self, view: Policy, updates: int, env_steps: int, target: float | None = None) -> bool:
        """Measure the student; with a ``target``, whether it has that retention on fresh episodes too."""
        seen = cast(Learner, _Seen(view, updates))
        if target is not None:
            return self.reached(seen, env_steps, target)
        self.look(seen, env_steps)
        return False

    def as_it_is(self, view: Policy) -> Reported:
        """The reported episodes of the student with the weights it has."""
        self._best = None
        return self.finish(view)


@dataclass(eq=False)
class _Lesson:
    """One task: who teaches it where, what is known, and how far the student is."""

    name: str
    teacher: Policy
    recipe: Recipe
    collector: Collector
    memory: Ring
    exam: _Exam
    steps: int
    """Of the first cycle."""
    taken: int = 0
    short: bool = True
    kept: float | None = None
    """Retention at the last look."""

    def collect(self, until: int, student: Policy | None, beta: float) -> None:
        """Take environment steps until there are ``until`` in all, and remember what was seen."""
        while self.taken < until:
            missing = -(-(until - self.taken) // self.collector.envs.num_envs)
            rollout = self.collector.collect(missing, student, beta)
            self._refuse_nan(rollout.batch)
            self.memory.add(rollout.batch)
            self.taken += rollout.steps

    def _refuse_nan(self, batch: Batch) -> None:
        """One task's NaN would be in the layers of all."""
        found = []

        def see(t: Tensor) -> Tensor:
            found.append(bool(t.isnan().any()))
            return t

        map_obs(batch.obs, see)
        where = len(found)
        batch.target.map(see)
        if any(found):
            what = "observations" if any(found[:where]) else "labels"
            raise EnvError(
                "multitask.nan",
                f"{what} of {self.name} that are NaN",
                "numbers",
                "look at its environment and teacher",
            )


class _Training:
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
    ) -> None:
        self.config, self.clock, self.on_tick, self.on_look = config, clock, on_tick, on_look
        self.next_look: float = _FIRST_LOOK
        self.history: list[dict[str, Any]] = []
        self.best: tuple[float, dict[str, Any]] | None = None
        self.lessons: list[_Lesson] = []
        objectives: dict[str, Weighted] = {}
        for name in student.names:
            lesson, objectives[name] = self._begin(name, teachers[name], student.task(name), recipes[name])
            self.lessons.append(lesson)
        self.learner: Learner[MultiTask] = Learner(
            student, by_task(objectives), lr=cosine(config.learning_rate), average=config.average or None
        )

    def _begin(self, name: str, teacher: Policy, view: Student, recipe: Recipe) -> tuple[_Lesson, Weighted]:
        config, clock = self.config, self.clock
        with_value = config.value_weight > 0 and view.value_head is not None
        exam = _Exam(teacher, recipe, config, clock, lambda look: self._looked(lesson, look))
        with clock.phase("collect"):
            envs = make(recipe, width(config, recipe), config.vector)
            collector = Collector(envs, teacher, seed=SEEDS * config.seed, explore=config.explore, values=with_value)
            memory = Ring(config.memory, seed=config.seed, extra=False)
            lesson = _Lesson(name, teacher, recipe, collector, memory, exam, first_steps(config, teacher.spec))
            acting = (view, 0.0) if config.method == "student" else (None, 1.0)
            lesson.collect(min(WARM_UP, lesson.steps), *acting)
            first = memory.newest(len(memory))
        with clock.phase("learn"):
            adopt_scales(view, teacher, first)
            with_value = with_value and first.target.value is not None
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
            with clock.phase("collect"):
                for lesson in short:
                    until = began[lesson.name] + math.ceil(share * 2**cycle * lesson.steps)
                    lesson.collect(until, learner.averaged.task(lesson.name), beta(told))
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

    def _examine(self, lesson: _Lesson, target: float | None = None) -> bool:
        view = self.learner.averaged.task(lesson.name)
        return lesson.exam.look_at(view, self.learner.updates, self.env_steps, target)

    def _looked(self, lesson: _Lesson, look: Look) -> None:
        lesson.kept = look.retention.value
        # Without a gap between teacher and random policy there is no retention, and nothing to be reached.
        lesson.short = lesson.kept is None or lesson.kept < (self.config.until_retention or AS_GOOD)
        if self.on_look is not None:
            whole: Any = self.learner
            self.on_look(lesson.name, replace(look, learner=whole))

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
            found[lesson.name] = (lesson, played, lesson.exam.as_it_is(student.task(lesson.name)))
        seconds, cpu = {**clock.wall, "total": clock.elapsed}, dict(clock.cpu)
        tasks = {
            name: self._task(lesson, it, played, stopped_by, seconds, cpu)
            for name, (lesson, played, it) in found.items()
        }
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
        lesson: _Lesson,
        found: Reported,
        played: int,
        stopped_by: str,
        seconds: Mapping[str, float],
        cpu: Mapping[str, float],
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
            seconds=seconds,
            cpu_seconds=cpu,
            history=tuple(lesson.exam.history),
            policy=student.task(lesson.name),
        )
