"""CartPole in a world that changes: pole length, gravity and force drift, and only a privileged view shows them.

    make()                                      7 numbers, physics drawn anew for each episode: what a teacher trains on
    make(privileged=False, physics=BEFORE, then=AFTER, change=20_000)      4 numbers; the world turns at step 20,000

Both views come from one seed alike. ``info["teacher_obs"]`` holds the 7 numbers in either.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from policykd.recipe import Recipe

STANDARD = (0.5, 9.8, 10.0)
"""Physics is (half the pole's length in m, gravity in m/s^2, force in N); these are CartPole-v1's.

A negative force is a motor wired the other way round: action 1 pushes left.
"""
LOW, HIGH = (0.2, 5.0, 8.0), (2.0, 20.0, 30.0)
"""Training draws each number log-uniformly from here, and the force's sign like a coin's side."""
BEFORE, AFTER = (0.25, 9.8, 10.0), (1.0, 16.0, -20.0)
"""A repair that went wrong: a longer pole, a heavier world, a stronger motor in reverse; all well within the draws.

The sign is what matters: one linear rule balances every pole of LOW to HIGH while the motor is the right way round.
"""


def between(physics: tuple[float, ...], then: tuple[float, ...], share: float) -> np.ndarray:
    """The physics at a share (0 to 1, clipped) of the way: magnitudes on a straight line, signs turning half-way."""
    share = min(max(share, 0.0), 1.0)
    sizes = (1 - share) * np.abs(physics) + share * np.abs(then)
    return sizes * np.sign(physics if share < 0.5 else then)


class Drifting(gym.Wrapper[np.ndarray, Any, np.ndarray, Any]):
    """Sets the physics of CartPole at each step, and shows them to who is privileged.

    Args:
        env: CartPole.
        physics: at first; None draws it at each reset.
        then: what it becomes, None for nothing else; needs ``physics``.
        change: first step, counted over all episodes, at which it is no longer ``physics``.
        until: step by which it is ``then``, on a straight line from ``change`` (a force's sign turns half-way, because
            no motor is half reversed); None changes it at once.
        privileged: whether an observation has the three numbers too, as multiples of ``STANDARD``.
    """

    def __init__(
        self,
        env: gym.Env,
        physics: tuple[float, ...] | None = None,
        then: tuple[float, ...] | None = None,
        change: int = 0,
        until: int | None = None,
        privileged: bool = True,
    ) -> None:
        super().__init__(env)
        self._first, self._then, self._privileged = physics, then, privileged
        self._change, self._until = change, until
        self._now: np.ndarray = np.array(physics or STANDARD)
        self.lived = 0
        if privileged:
            space, wide = env.observation_space, np.full(3, np.inf, np.float32)
            assert isinstance(space, gym.spaces.Box)
            self.observation_space = gym.spaces.Box(np.r_[space.low, -wide], np.r_[space.high, wide], dtype=np.float32)

    def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict[str, Any]]:
        """CartPole's, in the physics of this step, or in new ones."""
        obs, info = self.env.reset(**kwargs)
        if self._first is None:
            self._now = np.exp(self.np_random.uniform(np.log(LOW), np.log(HIGH)))
            self._now[2] *= self.np_random.choice((-1.0, 1.0))
        return self._seen(obs, info)

    def step(self, action: Any) -> tuple[np.ndarray, Any, bool, bool, dict[str, Any]]:
        """CartPole's; the physics of the next step are shown."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        self.lived += 1
        obs, info = self._seen(obs, info)
        return obs, reward, terminated, truncated, info

    def _seen(self, obs: np.ndarray, info: dict[str, Any]) -> tuple[np.ndarray, dict[str, Any]]:
        if self._first is not None and self._then is not None:
            done = self.lived - self._change
            share = float(done >= 0) if self._until is None else done / (self._until - self._change)
            self._now = between(self._first, self._then, share)
        cart: Any = self.env.unwrapped
        cart.length, cart.gravity, cart.force_mag = self._now.tolist()
        cart.polemass_length = cart.masspole * cart.length
        info["teacher_obs"] = np.concatenate((obs, self._now / STANDARD), dtype=np.float32)
        return info["teacher_obs"] if self._privileged else obs, info


def make(render_mode: str | None = None, **kwargs: Any) -> gym.Env:
    """One CartPole of 500 steps at most, with ``Drifting``'s arguments."""
    return Drifting(gym.make("CartPole-v1", render_mode=render_mode, disable_env_checker=True), **kwargs)


RECIPE = Recipe(
    "DriftingCartPole-v0",
    make_env=make,
    reward_threshold=475.0,
    hyperparams={
        "ppo": dict(n_timesteps=1_000_000, n_envs=16, n_steps=256, batch_size=256, n_epochs=10, gamma=0.99,
                    gae_lambda=0.95, learning_rate="lin_1e-3", clip_range="lin_0.2"),
    },
)
