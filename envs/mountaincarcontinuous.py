"""MountainCarContinuous-v0: the same car with a continuous force; solved at 90."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

from policykd.recipe import Recipe

RECIPE = Recipe(
    "MountainCarContinuous-v0",
    reward_threshold=90.0,
    hyperparams={
        "ppo": dict(n_timesteps=100_000, n_steps=8, batch_size=8, n_epochs=10, gamma=0.9999, gae_lambda=0.9,
                    learning_rate=8e-5, clip_range=0.1, ent_coef=0.004, max_grad_norm=5.0, vf_coef=0.2, use_sde=True,
                    policy_kwargs=dict(log_std_init=-3.3, ortho_init=False), normalize=True),
        "sac": dict(n_timesteps=50_000, learning_rate=3e-4, batch_size=512, buffer_size=50_000, learning_starts=0,
                    ent_coef=0.1, train_freq=32, gradient_steps=32, gamma=0.9999, tau=0.01, use_sde=True,
                    policy_kwargs=dict(log_std_init=-3.7, net_arch=[64, 64])),
        "td3": dict(n_timesteps=300_000, noise_type="ornstein-uhlenbeck", noise_std=0.5,
                    policy_kwargs=dict(net_arch=[64, 64])),
    },
)


def make(**kwargs: Any) -> gym.Env:
    """The environment as this recipe means it."""
    return RECIPE.make(**kwargs)
