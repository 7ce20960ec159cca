"""BipedalWalker-v3: walk on rough ground with 4 motors, 24 numbers in; solved at 300."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

from policykd.recipe import Recipe

RECIPE = Recipe(
    "BipedalWalker-v3",
    reward_threshold=300.0,
    hyperparams={
        "ppo": dict(n_timesteps=5_000_000, n_envs=32, n_steps=2048, batch_size=64, n_epochs=10, gamma=0.999,
                    gae_lambda=0.95, learning_rate=3e-4, clip_range=0.18, normalize=True),
        "a2c": dict(n_timesteps=5_000_000, n_envs=16, n_steps=8, gae_lambda=0.9, vf_coef=0.4, learning_rate="lin_1e-3",
                    use_sde=True, policy_kwargs=dict(log_std_init=-2, ortho_init=False), normalize=True),
        "sac": dict(n_timesteps=500_000, learning_rate="lin_7e-4", buffer_size=300_000, learning_starts=10_000,
                    gamma=0.98, tau=0.02, train_freq=64, gradient_steps=64, use_sde=True,
                    policy_kwargs=dict(log_std_init=-3, net_arch=[256, 256])),
        "td3": dict(n_timesteps=1_000_000, learning_rate=1e-3, buffer_size=200_000, learning_starts=10_000, gamma=0.98,
                    noise_type="normal", noise_std=0.1, policy_kwargs=dict(net_arch=[256, 256])),
    },
)


def make(**kwargs: Any) -> gym.Env:
    """The environment as this recipe means it."""
    return RECIPE.make(**kwargs)
