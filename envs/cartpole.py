"""CartPole-v1: a pole on a cart, 4 numbers in, 2 actions; solved at 475 of 500."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

from policykd.recipe import Recipe

RECIPE = Recipe(
    "CartPole-v1",
    reward_threshold=475.0,
    hyperparams={
        "ppo": dict(n_timesteps=100_000, n_envs=8, n_steps=32, batch_size=256, n_epochs=20, gamma=0.98, gae_lambda=0.8,
                    learning_rate="lin_1e-3", clip_range="lin_0.2"),
        "a2c": dict(n_timesteps=500_000, n_envs=8, learning_rate="lin_7e-4"),
        "dqn": dict(n_timesteps=100_000, learning_rate=2e-3, batch_size=64, buffer_size=100_000, learning_starts=1_000,
                    train_freq=256, gradient_steps=128, target_update_interval=10, exploration_fraction=0.16,
                    exploration_final_eps=0.04, policy_kwargs=dict(net_arch=[128, 128])),
        "qrdqn": dict(n_timesteps=100_000, learning_rate=2e-3, batch_size=64, buffer_size=100_000,
                      learning_starts=1_000, train_freq=256, gradient_steps=128, target_update_interval=10,
                      exploration_fraction=0.16, exploration_final_eps=0.04,
                      policy_kwargs=dict(net_arch=[64, 64], n_quantiles=10)),
        "trpo": dict(n_timesteps=100_000, n_envs=2, n_steps=512, batch_size=512, gamma=0.98, n_critic_updates=20),
        "ars": dict(n_timesteps=100_000, n_delta=2, policy="LinearPolicy"),
    },
)


def make(**kwargs: Any) -> gym.Env:
    """The environment as this recipe means it."""
    return RECIPE.make(**kwargs)
