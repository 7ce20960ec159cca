"""Walker2d-v4: walk on two legs (MuJoCo), 17 numbers in, 6 torques; gymnasium names no threshold, ours is 3000."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

from policykd.recipe import Recipe

_WIDE = dict(log_std_init=-2, ortho_init=False, activation_fn="relu", net_arch=dict(pi=[256, 256], vf=[256, 256]))

RECIPE = Recipe(
    "Walker2d-v4",
    reward_threshold=3000.0,
    hyperparams={
        "ppo": dict(n_timesteps=1_000_000, n_steps=512, batch_size=32, n_epochs=20, gamma=0.99, gae_lambda=0.95,
                    learning_rate=5e-5, clip_range=0.1, ent_coef=6e-4, max_grad_norm=1.0, vf_coef=0.9,
                    policy_kwargs=_WIDE, normalize=True),
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
