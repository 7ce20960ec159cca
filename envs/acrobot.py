"""Acrobot-v1: swing a two-link arm up with 3 torques; solved at -100."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

from policykd.recipe import Recipe

RECIPE = Recipe(
    "Acrobot-v1",
    reward_threshold=-100.0,
    hyperparams={
        "ppo": dict(n_timesteps=1_000_000, n_envs=16, n_steps=256, n_epochs=4, gamma=0.99, gae_lambda=0.94,
                    normalize=True),
        "a2c": dict(n_timesteps=500_000, n_envs=16, normalize=True),
        "dqn": dict(n_timesteps=100_000, learning_rate=6e-4, batch_size=128, buffer_size=50_000, learning_starts=0,
                    train_freq=4, gradient_steps=-1, target_update_interval=250, exploration_fraction=0.12,
                    exploration_final_eps=0.1, policy_kwargs=dict(net_arch=[128, 128])),
        "trpo": dict(n_timesteps=200_000, n_envs=2, n_steps=1024, normalize=True),
    },
)


def make(**kwargs: Any) -> gym.Env:
    """The environment as this recipe means it."""
    return RECIPE.make(**kwargs)
