"""Hopper-v4: hop on one leg (MuJoCo), 11 numbers in, 3 torques; solved at 3800."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

from policykd.recipe import Recipe

_WIDE = dict(log_std_init=-2, ortho_init=False, activation_fn="relu", net_arch=dict(pi=[256, 256], vf=[256, 256]))

RECIPE = Recipe(
    "Hopper-v4",
    reward_threshold=3800.0,
    hyperparams={
        "ppo": dict(n_timesteps=1_000_000, n_steps=512, batch_size=32, n_epochs=5, gamma=0.999, gae_lambda=0.99,
                    learning_rate=1e-4, ent_coef=2e-3, max_grad_norm=0.7, vf_coef=0.8, policy_kwargs=_WIDE,
                    normalize=True),
        "sac": dict(n_timesteps=1_000_000, learning_starts=10_000),
        "td3": dict(n_timesteps=1_000_000, learning_rate=1e-3, learning_starts=10_000, noise_type="normal",
                    noise_std=0.1),
        "tqc": dict(n_timesteps=1_000_000, learning_starts=10_000),
        "trpo": dict(n_timesteps=1_000_000, n_envs=2, n_steps=1024, batch_size=128, cg_max_steps=25, cg_damping=0.1,
                     learning_rate=1e-3, gae_lambda=0.95, n_critic_updates=20, target_kl=0.04, normalize=True),
    },
)


def make(**kwargs: Any) -> gym.Env:
    """The environment as this recipe means it."""
    return RECIPE.make(**kwargs)
