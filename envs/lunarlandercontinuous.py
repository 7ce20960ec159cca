"""LunarLanderContinuous-v3: the lander with throttles instead of switches; solved at 200."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

from policykd.recipe import Recipe

RECIPE = Recipe(
    "LunarLanderContinuous-v3",
    reward_threshold=200.0,
    hyperparams={
        "ppo": dict(n_timesteps=1_000_000, n_envs=16, n_steps=1024, n_epochs=4, gamma=0.999, gae_lambda=0.98,
                    ent_coef=0.01),
        "sac": dict(n_timesteps=300_000, learning_rate="lin_7e-4", learning_starts=10_000, tau=0.01,
                    policy_kwargs=dict(net_arch=[128, 128])),
        "td3": dict(n_timesteps=300_000, learning_rate=1e-3, buffer_size=200_000, learning_starts=10_000, gamma=0.98,
                    noise_type="normal", noise_std=0.1, policy_kwargs=dict(net_arch=[128, 128])),
        "trpo": dict(n_timesteps=400_000, n_envs=2, n_steps=1024, learning_rate=1e-3, gae_lambda=0.95, normalize=True),
    },
)


def make(**kwargs: Any) -> gym.Env:
    """The environment as this recipe means it."""
    return RECIPE.make(**kwargs)
