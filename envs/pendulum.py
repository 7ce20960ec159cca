"""Pendulum-v1: hold a pendulum upright with one torque; gymnasium names no threshold, ours is -200."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

from policykd.recipe import Recipe

RECIPE = Recipe(
    "Pendulum-v1",
    reward_threshold=-200.0,
    hyperparams={
        "ppo": dict(n_timesteps=200_000, n_envs=4, n_steps=1024, n_epochs=10, gamma=0.9, gae_lambda=0.95,
                    learning_rate=1e-3, use_sde=True, sde_sample_freq=4),
        "sac": dict(n_timesteps=20_000, learning_rate=1e-3, learning_starts=500, policy_kwargs=dict(net_arch=[64, 64])),
        "td3": dict(n_timesteps=20_000, learning_rate=1e-3, buffer_size=20_000, learning_starts=1_000, gamma=0.98,
                    noise_type="normal", noise_std=0.1, policy_kwargs=dict(net_arch=[128, 128])),
        "ddpg": dict(n_timesteps=20_000, learning_rate=1e-3, buffer_size=20_000, learning_starts=1_000, gamma=0.98,
                     noise_type="normal", noise_std=0.1, policy_kwargs=dict(net_arch=[128, 128])),
        "tqc": dict(n_timesteps=20_000, learning_rate=1e-3, learning_starts=500, policy_kwargs=dict(net_arch=[64, 64])),
    },
)


def make(**kwargs: Any) -> gym.Env:
    """The environment as this recipe means it."""
    return RECIPE.make(**kwargs)
