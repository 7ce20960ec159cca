"""One call from several teachers to one student that does what each of them does; written only with rooms below it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym

from policykd.clock import Clock
from policykd.config import DistillConfig
from policykd.errors import SpaceError, UnknownNameError, UsageError
from policykd.home import recipe_for
from policykd.load import load_teacher
from policykd.losses import as_objective
from policykd.multitask.lesson import Loss
from policykd.multitask.training import Training
from policykd.news import Look, Tick
from policykd.policy import Policy
from policykd.recipe import Recipe
from policykd.report import MultiReport
from policykd.students import MultiTask
from policykd.students.multitask import Heads, Inputs

__all__ = ["by_environment", "multitask"]

Teacher = Policy | str | Path
Home = str | Path | Recipe | Callable[..., gym.Env]


def multitask(
    teachers: Mapping[str, Teacher] | Sequence[Teacher],
    student: MultiTask | None = None,
    envs: Mapping[str, Home] | None = None,
    *,
    config: DistillConfig | None = None,
    loss: Loss | Mapping[str, Loss] | None = None,
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
        loss: objective or pair loss of every task, of which each gets parameters and memory of its own, or some by the
            task's name; whoever has none gets the family's default (``losses.defaults``). Weights that are functions of
            ``Progress`` are told retention, agreement and losses of their own task.
        hidden, heads, inputs: of the student that is built.
        on_tick, on_look: called with the task's name after each round, and after each selection. The learner that they
            are shown is the whole student's: ``learner.averaged.task(name)`` acts.

    Returns:
        The MultiReport; its ``policy`` is the student with the best weights by the geometric mean of the selecting
        retentions.

    Raises:
        UsageError: ``multitask.teachers`` for less than two; ``multitask.tasks`` for a student of other tasks;
            ``multitask.method`` for methods that do not teach by imitation; ``multitask.loss`` for a loss that becomes
            NaN or infinite; ``name.task`` for an environment or loss of a task that no teacher has; ``config.*``.
        SpaceError: ``space.*`` when teacher, student and environment of a task do not fit together.
        EnvError: ``multitask.nan`` for observations or labels that are NaN.
    """
    clock = Clock()
    with clock.phase("load"):
        config = replace(config or DistillConfig(), **changes)
        _check_config(config)
        found = by_environment(teachers)
        losses = _losses(loss, found)
        for name in envs or {}:
            if name not in found:
                raise UnknownNameError.of("task", name, found)
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
    training = Training(found, student, recipes, config, clock, on_tick, on_look, losses)
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


def _losses(loss: Loss | Mapping[str, Loss] | None, tasks: Mapping[str, Policy]) -> dict[str, Loss]:
    """What somebody chose, by the task's name."""
    if loss is None:
        return {}
    if not isinstance(loss, Mapping):
        whole = as_objective(loss)
        return {name: copy.deepcopy(whole) if whole.modules else whole for name in tasks}
    for name in loss:
        if name not in tasks:
            raise UnknownNameError.of("task", name, tasks)
    return {name: as_objective(one) for name, one in loss.items()}


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
