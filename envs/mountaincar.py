"""MountainCar-v0: rock a car out of a valley with 3 actions; solved at -110."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

from policykd.recipe import Recipe

RECIPE = Recipe(
    "MountainCar-v0",
    reward_threshold=-110.0,
    hyperparams={
        "ppo": dict(n_timesteps=1_000_000, n_envs=16, n_steps=16, n_epochs=4, gamma=0.99, gae_lambda=0.98,
                    normalize=True),
        "a2c": dict(n_timesteps=1_000_000, n_envs=16, normalize=True),
        "dqn": dict(n_timesteps=150_000, learning_rate=4e-3, batch_size=128, buffer_size=10_000, learning_starts=1_000,
                    gamma=0.98, train_freq=16, gradient_steps=8, target_update_interval=600, exploration_fraction=0.2,
                    exploration_final_eps=0.07, policy_kwargs=dict(net_arch=[128, 128])),
        "trpo": dict(n_timesteps=200_000, n_envs=2, normalize=True),
    },
)


def make(**kwargs: Any) -> gym.Env:
    """The environment as this recipe means it."""
    return RECIPE.make(**kwargs)
