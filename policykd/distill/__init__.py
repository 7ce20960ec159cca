"""One call from a teacher and an environment to a measured student; written only with public rooms below it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import gymnasium as gym

from policykd import students
from policykd.clock import Clock
from policykd.config import REWARDED, DistillConfig, RewardConfig, parse_via
from policykd.distill.chain import Loss, OnLook, OnTick, assistants, check_loss, pass_on
from policykd.distill.rewarded import with_reward
from policykd.distill.training import Training
from policykd.errors import SpaceError, UsageError
from policykd.home import recipe_for
from policykd.load import load_teacher
from policykd.losses import Weight
from policykd.news import Look, Tick
from policykd.policy import Policy
from policykd.prediction import Spec
from policykd.recipe import Recipe
from policykd.reinforced import check_actor, check_density, check_gate
from policykd.report import Report, Stage

__all__ = ["Look", "Stage", "Tick", "distill", "recipe_for"]


def distill(
    teacher: Policy | str | Path,
    student: Policy | None = None,
    env: str | Path | Recipe | Callable[..., gym.Env] | None = None,
    *,
    config: DistillConfig | None = None,
    reward: RewardConfig | None = None,
    loss: Loss | None = None,
    teacher_weight: Weight | None = None,
    hidden: str | tuple[int, ...] = (64, 64),
    via: str | Sequence[str | Sequence[int]] = (),
    on_tick: OnTick | None = None,
    on_look: OnLook | None = None,
    on_stage: Callable[[Stage], None] | None = None,
    **changes: Any,
) -> Report:
    """Teach ``student`` what ``teacher`` does in ``env``, and measure what it kept.

    Args:
        teacher: a Policy, or a path that ``load_teacher`` reads.
        student: the student to teach, in place; None builds ``students.suited(teacher, hidden)``.
        env: Gymnasium id, path of a recipe, Recipe, or a function that makes an environment; None takes the teacher's.
        config: how; ``changes`` are fields of it or of ``reward``, ``distill(..., steps=50_000, seed=1)``.
        reward: how methods that learn from reward too (``ppd``, ``kickstart``) do that.
        loss: objective or pair loss; None takes the family's default (``losses.defaults``).
        teacher_weight: of the teacher's term beside reward: a number, which ``reward.teacher_until`` fades, or any
            function of ``Progress`` (``losses.weights``, a lambda), which is all there is then. Of its fields
            ``fraction`` is of the steps with reward, ``retention`` of the newest selection (``reward.looks`` of them,
            and one before where the student imitates first; None until then), ``agreement`` of each rollout.
        hidden: widths of the student that is built; the teacher's own make it a born-again one (1805.04770).
        via: widths of assistants between teacher and student, largest first, ``[(256, 256), (64, 64)]``: each is taught
            by the one before, at these settings (1902.03393). ``"same"`` is one of the student's shape (1805.04770).
        on_tick, on_look: called after each round, and after each selection.
        on_stage: called before and after each assistant and the student.

    Returns:
        The Report; its ``policy`` is the student with the best weights by selection. With assistants its steps, updates
        and seconds are of all; theirs are in ``via``. All retentions and targets are in the scale of ``teacher``.

    Raises:
        SpaceError: ``space.*`` when teacher, student and environment do not fit together, ``reinforced.density`` for
            a family that explores nothing and shall learn from reward.
        UsageError: ``config.*`` for budgets that cannot be meant, ``distill.via`` for assistants that cannot,
            ``reinforced.gate`` for a value gate without comparable values, ``distill.weight`` for a function of
            Progress that nothing would follow, ``loss.weight`` (in training) for one that returns no finite number.
    """
    clock = Clock()
    with clock.phase("load"):
        rewarded = {f.name: changes.pop(f.name) for f in fields(RewardConfig) if f.name in changes}
        schedule = teacher_weight if callable(teacher_weight) else None
        if teacher_weight is not None and schedule is None:
            rewarded["teacher_weight"] = teacher_weight
        config, reward = replace(config or DistillConfig(), **changes), replace(reward or RewardConfig(), **rewarded)
        if schedule is not None:
            _check_schedule(config, reward)
        teacher = teacher if isinstance(teacher, Policy) else load_teacher(teacher)
        if config.method in REWARDED:
            check_density(teacher.spec if student is None else student.spec)
            check_gate(reward, teacher)
        recipe = recipe_for(teacher, env)
        if student is None:
            student = students.suited(teacher, hidden, seed=config.seed)
        _check_student(student.spec, teacher.spec)
        pupils = [*assistants(parse_via(via, config, reward), teacher, student, seed=config.seed), student]
        for pupil in pupils:
            pupil.origin = replace(
                pupil.origin,
                env_id=recipe.env_id,
                env_kwargs=recipe.env_kwargs,
                wrappers=recipe.wrappers,
                gamma=teacher.origin.gamma,
            )
        if loss is not None and len(pupils) > 1:
            check_loss(loss, teacher, pupils[0])
    if config.method in REWARDED:
        check_actor(student)

    def lesson(
        by: Policy, pupil: Policy, how: DistillConfig, its_loss: Loss | None, tick: OnTick | None, look: OnLook | None
    ) -> Report:
        # What a weight remembers stays in its stage, as what a loss has learnt does.
        its_weight = schedule if pupil is student else copy.deepcopy(schedule)
        training = Training(by, pupil, recipe, how, reward, clock, its_loss, tick, look, teacher, its_weight)
        return training.report(with_reward(training) if how.method in REWARDED else training.run())

    return pass_on(teacher, pupils, lesson, config, loss, clock, on_tick, on_look, on_stage)


def _check_schedule(config: DistillConfig, reward: RewardConfig) -> None:
    if config.method not in REWARDED:
        raise UsageError(
            "distill.weight",
            f"a teacher_weight that follows the run, with the method {config.method}",
            "ppd or kickstart, which have a term beside it",
            "weigh the loss instead: loss=losses.weighted(policy=(weight, loss))",
        )
    usual = RewardConfig()
    if (reward.teacher_weight, reward.teacher_until) != (usual.teacher_weight, usual.teacher_until):
        start, end = reward.teacher_weight, reward.teacher_until
        raise UsageError(
            "distill.weight",
            f"a teacher_weight that follows the run beside a number that fades ({start:g} until {end})",
            "one of them",
            f"leave the number out: teacher_weight=losses.weights.linear({start:g}, 0.0, finish={end})",
        )


def _check_student(student: Spec, teacher: Spec) -> None:
    for name, (found, wanted) in student.differences(teacher).items():
        raise SpaceError(
            f"space.{name}",
            f"a student for the {name} {found}",
            f"the teacher's, {wanted}",
            "build it with students.mlp(teacher.spec)",
        )
