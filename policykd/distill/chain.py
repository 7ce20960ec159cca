"""Assistants between a teacher and a student too small for it, each taught by the one before; it teaches none itself.

Teacher assistants are those of Mirzadeh et al. 2019 (1902.03393); one of the student's own size is a generation of
born-again networks (Furlanello et al. 2018, 1805.04770). Whoever learns, it is measured against the first teacher.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from policykd import students
from policykd.clock import Clock
from policykd.config import DistillConfig
from policykd.errors import DistributionError, UsageError
from policykd.losses import Objective, PairLoss, Weighted, as_objective
from policykd.news import Look, Tick
from policykd.policy import Policy
from policykd.prediction import Batch
from policykd.reinforced.start import sampled
from policykd.report import Report, Stage
from policykd.students import Student

__all__ = ["Lesson", "Loss", "OnLook", "OnTick", "assistants", "check_loss", "pass_on"]

Loss: TypeAlias = Weighted | Objective | PairLoss
OnTick: TypeAlias = Callable[[Tick], None]
OnLook: TypeAlias = Callable[[Look], None]
Lesson: TypeAlias = Callable[
    [Policy, Policy, DistillConfig, Loss | None, OnTick | None, OnLook | None],
    Report,
]
"""One stage: from who teaches and who learns to a report in the scale of the first teacher."""

_SEED = 1_000_003
"""From one assistant's first weights to the next one's: a student of the same size shall not begin as they did."""


def assistants(
    sizes: Sequence[tuple[int, ...] | str], teacher: Policy, student: Policy, *, seed: int = 0
) -> list[Student]:
    """Those who stand between ``teacher`` and ``student``, untaught; each has a value head if the student has one.

    Args:
        sizes: as ``config.parse_via`` returns them; ``"same"`` is a student of the same shape.
        seed: each one's first weights have a seed of their own that follows from it.

    Raises:
        UsageError: ``distill.via`` for one that is smaller than who would learn from it, and for ``same`` where the
            student's shape is not known.
    """
    value = isinstance(student, Student) and student.value_head is not None
    made: list[Student] = []
    for i, size in enumerate(sizes):
        own = seed + _SEED * (i + 1)
        if not isinstance(size, str):
            made.append(students.suited(teacher, size, value=value, seed=own))
        elif isinstance(student, Student):
            made.append(Student(student.spec, student.shape, seed=own))
        else:
            raise UsageError(
                "distill.via",
                f"an assistant like the student, which is a {type(student).__name__}",
                "a student made by policykd.students, or widths",
                "name its widths: via=[(64, 64)]",
            )
    for one, pupil in zip(made, [*made, student][1:], strict=True):
        if one.acting_parameters < pupil.acting_parameters:
            raise UsageError(
                "distill.via",
                f"an assistant ({_widths(one)}) with {one.acting_parameters:,} parameters, "
                f"whose pupil has {pupil.acting_parameters:,}",
                "assistants from the largest to the smallest, none smaller than the student",
                "change their order, or leave it out",
            )
    return made


def check_loss(loss: Loss, teacher: Policy, assistant: Policy) -> None:
    """Refuse a loss that takes the teacher's word and not an assistant's, who has a law and no Q-values.

    It is asked about two observations, before anything is learnt, where the teacher has Q-values.

    Raises:
        UsageError: ``distill.via``.
    """
    obs = sampled(assistant.spec)
    if teacher.label(obs).q is None:
        return
    said = assistant.label(obs)
    try:
        as_objective(copy.deepcopy(loss))(said, Batch(obs, said))
    except DistributionError as why:
        raise UsageError(
            "distill.via",
            f"a loss that does not take what an assistant says: {why}",
            "a loss of laws: an assistant has learnt the law that was made of Q-values, and has none itself",
            "leave --loss out, or --via",
        ) from None


def pass_on(
    teacher: Policy,
    pupils: Sequence[Policy],
    lesson: Lesson,
    config: DistillConfig,
    loss: Loss | None,
    clock: Clock,
    on_tick: OnTick | None = None,
    on_look: OnLook | None = None,
    on_stage: Callable[[Stage], None] | None = None,
) -> Report:
    """Teach each of ``pupils`` by the one before, the first by ``teacher``; the report of the last, who is the student.

    News count environment steps and updates from the beginning of the chain. Of ``config.max_seconds`` each stage gets
    an equal share of what is left. What a loss has learnt (a parametric one) stays in its stage.

    Returns:
        Steps, updates, evaluations and seconds of all stages together, the reports of the others in ``via``.
    """
    done: list[Report] = []
    by, steps, updates = teacher, 0, 0
    for i, pupil in enumerate(pupils):
        left = len(pupils) - i
        stage = Stage(i + 1, len(pupils), pupil)
        if on_stage is not None:
            on_stage(stage)
        how, before = config, (clock.elapsed, dict(clock.wall), dict(clock.cpu))
        if config.max_seconds is not None:
            how = replace(config, max_seconds=clock.elapsed + (config.max_seconds - clock.elapsed) / left)
        report = lesson(
            by,
            pupil,
            how,
            copy.deepcopy(loss) if left > 1 else loss,
            None if on_tick is None else _later_tick(on_tick, steps, updates, left),
            None if on_look is None else _later_look(on_look, steps, updates),
        )
        done.append(_own(report, clock, *before) if left > 1 else _whole(report, done, config))
        by, steps, updates = pupil, steps + report.env_steps, updates + report.updates
        if on_stage is not None:
            on_stage(replace(stage, report=done[-1]))
    return done[-1]


def _later_tick(tell: OnTick, steps: int, updates: int, left: int) -> OnTick:
    def on_tick(tick: Tick) -> None:
        told, at = tick.update, tick.update.progress
        progress = replace(at, env_steps=at.env_steps + steps, updates=at.updates + updates)
        update = replace(told, step=told.step + updates, progress=progress)
        # Each stage has the same budget, and those that were not spent are known.
        tell(replace(tick, update=update, total_steps=steps + left * tick.total_steps))

    return on_tick


def _later_look(tell: OnLook, steps: int, updates: int) -> OnLook:
    return lambda look: tell(replace(look, env_steps=look.env_steps + steps, updates=look.updates + updates))


def _own(report: Report, clock: Clock, began: float, wall: Mapping[str, float], cpu: Mapping[str, float]) -> Report:
    """The report with the seconds of its stage alone."""
    spent = {name: now - wall.get(name, 0.0) for name, now in clock.wall.items()}
    return replace(
        report,
        seconds={**spent, "total": clock.elapsed - began},
        cpu_seconds={name: now - cpu.get(name, 0.0) for name, now in clock.cpu.items()},
    )


def _whole(report: Report, via: Sequence[Report], config: DistillConfig) -> Report:
    """The last report as that of the chain; its seconds are of one clock already."""
    if not via:
        return report
    steps, updates = sum(r.env_steps for r in via), sum(r.updates for r in via)
    history: list[dict[str, Any]] = [
        {**look, "env_steps": look["env_steps"] + steps, "updates": look["updates"] + updates}
        for look in report.history
    ]
    return replace(
        report,
        env_steps=report.env_steps + steps,
        updates=report.updates + updates,
        evaluations=report.evaluations + sum(r.evaluations for r in via),
        stopped_by="time" if any(r.stopped_by == "time" for r in via) else report.stopped_by,
        history=tuple(history),
        config={**report.config, "max_seconds": config.max_seconds},
        via=tuple(via),
    )


def _widths(student: Student) -> str:
    return ",".join(map(str, student.shape.hidden)) or "linear"
