"""One call from a teacher to the smallest student that can be trusted, every size taught from one stream of steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym

from policykd.clock import Clock
from policykd.config import FrontierConfig
from policykd.frontier.ladder import ladder
from policykd.frontier.school import School
from policykd.home import recipe_for
from policykd.load import load_teacher
from policykd.news import FrontierLook, FrontierTick
from policykd.policy import Policy
from policykd.recipe import Recipe
from policykd.report import FrontierReport

__all__ = ["frontier", "ladder"]


def frontier(
    teacher: Policy | str | Path,
    env: str | Path | Recipe | Callable[..., gym.Env] | None = None,
    *,
    config: FrontierConfig | None = None,
    on_tick: Callable[[FrontierTick], None] | None = None,
    on_look: Callable[[FrontierLook], None] | None = None,
    **changes: Any,
) -> FrontierReport:
    """Teach students of many sizes together, and find the smallest that keeps ``target`` of the teacher's return.

    One stream of environment steps and teacher labels teaches all of them. They take turns acting, so that each sees
    its own mistakes. After each cycle they are screened, and those go who cannot win: sizes beyond one that has come
    half-way from the target to its teacher, and, by intervals only, students that are surely worse than a sibling of
    their size and sizes of the worse half that are surely short of the target and of the better half (successive
    halving, Jamieson & Talwalkar 2015, 1502.07943). In the end the best of each size plays fresh episodes.

    Args:
        teacher: a policy, or the path of one.
        env: id, recipe or its path, or a function that makes the environment; None takes the teacher's own.
        config: how; ``changes`` replace its fields (``target=0.9, sizes=("linear", "8")``).
        on_tick: called after each round of collection.
        on_look: called after each screening.

    Raises:
        SpaceError: ``space.*`` when teacher and environment do not fit together.
        UsageError: ``frontier.*``, ``config.*``, ``student.*`` for what cannot be meant.
        MissingExtraError: for a tree without scikit-learn.
    """
    clock = Clock()
    with clock.phase("load"):
        config = replace(config or FrontierConfig(), **changes)
        teacher = teacher if isinstance(teacher, Policy) else load_teacher(teacher)
        recipe = recipe_for(teacher, env)
        rungs = ladder(teacher, config.sizes)
    school = School(teacher, recipe, config, rungs, clock, on_tick, on_look)
    stopped_by = school.run()
    return school.report(stopped_by)
