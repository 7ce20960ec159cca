"""Wrappers of old agents: what they append, in which order, what they refuse (TimeFeature: tests/test_recipe.py)."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from policykd.errors import EnvError
from policykd.prediction import EnvWrapper
from policykd.recipe import load
from policykd.wrappers import FlattenGoal, PadZeros


class _Goals(gym.Env[Any, Any]):
    observation_space = spaces.Dict(
        {
            "achieved_goal": spaces.Box(-1, 1, (2,), np.float64),
            "desired_goal": spaces.Box(-5, 5, (2,), np.float64),
            "observation": spaces.Box(-np.inf, np.inf, (3,), np.float64),
        }
    )
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        parts = {"achieved_goal": np.zeros(2), "desired_goal": np.array([4.0, 5.0]), "observation": np.arange(1.0, 4.0)}
        return parts, {}


def test_zeros_follow_the_observation() -> None:
    recipe = load("CartPole-v1", wrappers=(EnvWrapper("PadZeros", {"count": 3}),))
    env, bare = recipe.make(), gym.make("CartPole-v1")
    assert env.observation_space.shape == (7,)
    obs, _ = env.reset(seed=3)
    assert np.array_equal(obs, np.append(bare.reset(seed=3)[0], [0, 0, 0])) and obs.dtype == np.float32
    assert np.array_equal(env.step(1)[0], np.append(bare.step(1)[0], [0, 0, 0]))
    assert env.observation_space.contains(obs)


def test_goals_stand_behind_the_observation() -> None:
    env = FlattenGoal(_Goals())
    obs, _ = env.reset()
    assert obs.tolist() == [1, 2, 3, 4, 5] and env.observation_space.shape == (5,)
    assert isinstance(env.observation_space, spaces.Box)
    assert env.observation_space.low.tolist() == [-np.inf] * 3 + [-5, -5]


@pytest.mark.parametrize("wrapped", [lambda: PadZeros(_Goals(), 2), lambda: FlattenGoal(gym.make("CartPole-v1"))])
def test_what_does_not_fit_is_refused(wrapped: Any) -> None:
    with pytest.raises(EnvError, match=r"\[env.wrapper\]"):
        wrapped()
