"""An environment of your own, that no registry knows: a recipe says how to make it.

Saved as envs/corridor.py it works for every verb: policykd train envs/corridor.py --algo ppo --out runs/corridor-ppo,
then policykd distill runs/corridor-ppo --env envs/corridor.py.
"""

import tempfile
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

import policykd as kd
from policykd.teachers.train import train


class Corridor(gym.Env[np.ndarray, np.int64]):
    """Walk to the door at 0 from anywhere in [-1, 1]; every step costs 1, 40 at most."""

    observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.place, self.steps = self.np_random.uniform(-1, 1), 0
        return self._seen(), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.place = float(np.clip(self.place + (0.1 if action else -0.1), -1, 1))
        self.steps += 1
        return self._seen(), -1.0, abs(self.place) < 0.1, self.steps == 40, {}

    def _seen(self) -> np.ndarray:
        return np.array([self.place], np.float32)


def make(**kwargs: Any) -> gym.Env:
    """One environment."""
    return Corridor(**kwargs)


RECIPE = kd.Recipe(
    "corridor",
    make_env=make,
    hyperparams={"ppo": dict(n_timesteps=3_000, n_steps=256, learning_rate=2e-3)},
)

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        train(RECIPE, "ppo", out=Path(folder))
        teacher = kd.load_teacher(folder)
    report = kd.distill(teacher, env=RECIPE, hidden="2", steps=5_000, cycles=1)
    print(report)
