"""Environment wrappers that teachers were trained with; each changes the observation and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from policykd.errors import EnvError

__all__ = ["WRAPPERS", "FlattenGoal", "PadZeros", "TimeFeature"]


class TimeFeature(gym.Wrapper[Any, Any, Any, Any]):
    """Append the share of the episode that remains, ``1 - t / T``, to the observation.

    Pardo et al. 2018 (arXiv 1712.00378); the arithmetic of sb3_contrib's TimeFeatureWrapper, which 16 of 97 agents of
    the zoo were trained with. Of a Dict observation the key ``observation`` grows.

    Args:
        env: environment with a flat Box observation, or a Dict with a flat Box named ``observation``.
        max_steps: T, where the environment has no time limit of its own.
        test_mode: the feature stays 1.

    Raises:
        EnvError: ``env.wrapper`` for any other observation space.
    """

    def __init__(self, env: gym.Env, max_steps: int = 1000, test_mode: bool = False) -> None:
        super().__init__(env)
        whole = env.observation_space
        parts = dict(whole.spaces) if isinstance(whole, spaces.Dict) else {}
        box = parts.get("observation") if parts else whole
        if not isinstance(box, spaces.Box) or len(box.shape) != 1:
            raise EnvError("env.wrapper", f"TimeFeature around {whole}", "a flat Box observation")
        grown = spaces.Box(
            np.append(box.low, 0.0).astype(box.dtype), np.append(box.high, 1.0).astype(box.dtype), dtype=box.dtype.type
        )
        self.observation_space = spaces.Dict({**parts, "observation": grown}) if parts else grown
        limit = env.spec.max_episode_steps if env.spec is not None else None
        self._limit = limit or max_steps
        self._frozen = test_mode
        self._dtype = box.dtype
        self._step = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """The first observation of an episode, and 1."""
        self._step = 0
        obs, info = self.env.reset(seed=seed, options=options)
        return self._grow(obs), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """One step of the environment with the remaining share."""
        self._step += 1
        obs, reward, terminated, truncated, info = self.env.step(action)
        return self._grow(obs), reward, terminated, truncated, info

    def _grow(self, obs: Any) -> Any:
        remaining = np.array(1.0 if self._frozen else 1 - self._step / self._limit, self._dtype)
        if isinstance(obs, dict):
            return {**obs, "observation": np.append(obs["observation"], remaining)}
        return np.append(obs, remaining)


class PadZeros(gym.ObservationWrapper[Any, Any, Any]):
    """Append ``count`` zeros to a flat observation.

    What an agent expects that learnt before its environment lost numbers which were always 0: Ant-v2 and Ant-v3 carried
    84 contact forces that an old MuJoCo never filled in; Ant-v4 leaves them out.

    Raises:
        EnvError: ``env.wrapper`` for anything but a flat Box observation.
    """

    def __init__(self, env: gym.Env, count: int) -> None:
        super().__init__(env)
        box = env.observation_space
        if not isinstance(box, spaces.Box) or len(box.shape) != 1:
            raise EnvError("env.wrapper", f"PadZeros around {box}", "a flat Box observation")
        self._zeros = np.zeros(count, box.dtype)
        low, high = np.full(count, -np.inf), np.full(count, np.inf)
        self.observation_space = spaces.Box(
            np.concatenate([box.low, low]).astype(box.dtype),
            np.concatenate([box.high, high]).astype(box.dtype),
            dtype=box.dtype.type,
        )

    def observation(self, observation: Any) -> Any:
        """The observation with its zeros."""
        return np.concatenate([observation, self._zeros])


class FlattenGoal(gym.ObservationWrapper[Any, Any, Any]):
    """The keys ``observation`` and ``desired_goal`` of a goal environment side by side.

    How SB3 fed its agents before it took Dict observations (its ``ObsDictWrapper``), which old ``her`` files were
    trained with.

    Raises:
        EnvError: ``env.wrapper`` for an environment without those keys.
    """

    _KEYS = ("observation", "desired_goal")

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        whole = env.observation_space
        if not isinstance(whole, spaces.Dict) or not set(self._KEYS) <= set(whole.spaces):
            raise EnvError("env.wrapper", f"FlattenGoal around {whole}", f"a Dict with {', '.join(self._KEYS)}")
        parts = [spaces.flatten_space(whole[k]) for k in self._KEYS]
        low, high = (np.concatenate([getattr(part, end) for part in parts]) for end in ("low", "high"))
        self.observation_space = spaces.Box(low, high, dtype=low.dtype.type)

    def observation(self, observation: Any) -> Any:
        """The parts as one flat array."""
        return np.concatenate([np.ravel(observation[k]) for k in self._KEYS]).astype(self.observation_space.dtype)


WRAPPERS: Mapping[str, Callable[..., gym.Env]] = {
    "FlattenGoal": FlattenGoal,
    "PadZeros": PadZeros,
    "TimeFeature": TimeFeature,
}
"""Wrappers by the name that ``prediction.EnvWrapper`` gives them."""
