"""LunarLander-v3: land on the pad with 3 engines, 8 numbers in, 4 actions; solved at 200."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

from policykd.recipe import Recipe

RECIPE = Recipe(
    "LunarLander-v3",
    reward_threshold=200.0,
    hyperparams={
        "ppo": dict(n_timesteps=1_000_000, n_envs=16, n_steps=1024, batch_size=128, n_epochs=4, gamma=0.999,
                    gae_lambda=0.98, ent_coef=0.01, learning_rate="lin_7e-4", policy_kwargs=dict(net_arch=[64, 64])),
        "a2c": dict(n_timesteps=500_000, n_envs=8, n_steps=5, gamma=0.995, ent_coef=1e-5, learning_rate="lin_8e-4"),
        "dqn": dict(n_timesteps=200_000, learning_rate=6e-4, batch_size=128, buffer_size=50_000, learning_starts=0,
                    train_freq=4, gradient_steps=-1, target_update_interval=250, exploration_fraction=0.12,
                    exploration_final_eps=0.1, policy_kwargs=dict(net_arch=[128, 128])),
        "qrdqn": dict(n_timesteps=200_000, gamma=0.995, learning_rate="lin_1.5e-3",
                      policy_kwargs=dict(net_arch=[128, 128])),
        "trpo": dict(n_timesteps=400_000, n_envs=2, n_steps=512, cg_damping=0.01, gamma=0.99, gae_lambda=0.98,
                     learning_rate=1e-3, n_critic_updates=15, normalize=True),
    },
)


def make(**kwargs: Any) -> gym.Env:
    """The environment as this recipe means it."""
    return RECIPE.make(**kwargs)
