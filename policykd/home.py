"""Where a teacher lives, how many environments of it to step, and for how long; it steps none of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gymnasium as gym

from policykd.config import Teaching
from policykd.errors import SpaceError, UsageError
from policykd.networks import flat_width
from policykd.policy import Policy
from policykd.prediction import Spec
from policykd.recipe import Recipe
from policykd.recipe import load as load_recipe
from policykd.rollouts import native

__all__ = ["WARM_UP", "first_steps", "recipe_for", "width"]

WARM_UP = 1024
"""Rows that set the scales (normaliser, values, Q) before the first gradient step."""

_STEPS_A_NUMBER = 1_500
"""Environment steps of the first cycle for each number in an observation and in an action."""


def recipe_for(teacher: Policy, env: str | Path | Recipe | Callable[..., gym.Env] | None = None) -> Recipe:
    """The environment that ``teacher`` lives in, or ``env`` with the teacher's wrappers; its spaces are the teacher's.

    Raises:
        UsageError: ``env.missing`` where neither says.
        SpaceError: ``space.observation``, ``space.action``.
    """
    if env is None and teacher.origin.env_id is None:
        raise UsageError(
            "env.missing",
            "a teacher that does not say where it lives",
            "an environment",
            "name it: --env LunarLander-v3",
        )
    kwargs = teacher.origin.env_kwargs if env is None else None
    recipe = load_recipe(env or teacher.origin.env_id or "", env_kwargs=kwargs, wrappers=teacher.origin.wrappers)
    probe = recipe.make()
    _check_spaces(teacher, probe, recipe)
    probe.close()
    return recipe


def _check_spaces(teacher: Policy, env: gym.Env, recipe: Recipe) -> None:
    seen = Spec(env.observation_space, env.action_space, teacher.spec.family)
    for name, (found, wanted) in seen.differences(teacher.spec).items():
        raise SpaceError(
            f"space.{name}",
            f"{recipe.env_id} has {name} space {found}",
            f"the teacher's, {wanted}",
            "name the environment that the teacher was trained in (--env), with its wrappers",
        )


def first_steps(config: Teaching, spec: Spec) -> int:
    """Environment steps of the first cycle."""
    if config.steps is not None:
        return config.steps
    # The wider the map that is to be learnt, the more of it there is to see. An image counts as a hundred numbers.
    return _STEPS_A_NUMBER * (min(flat_width(spec.observation_space), 100) + spec.action_width)


def width(config: Teaching, recipe: Recipe, usual: int = 16) -> int:
    """Environments stepped side by side: ``usual`` ones, or 64 where a native vector steps them all at once."""
    if config.method == "dataset":
        return 1
    if config.num_envs is not None:
        return config.num_envs
    return 64 if config.vector == "auto" and native(recipe) else usual
