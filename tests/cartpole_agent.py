"""A PPO agent for CartPole-v1 that nobody trained: its one linear layer holds a pole-balancing rule that earns 500."""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import torch
from stable_baselines3 import PPO

__all__ = ["write_balancer"]

_RULE = (0.1, 0.4, 1.0, 0.8)  # push towards where the pole falls, and back to the middle


def write_balancer(folder: Path, sharpness: float = 10.0) -> Path:
    """Save it in rl_zoo3's layout, ``<folder>/ppo/CartPole-v1_1/CartPole-v1.zip``; returns the agent's folder."""
    with gym.make("CartPole-v1") as env:
        model = PPO("MlpPolicy", env, n_steps=2, batch_size=2, policy_kwargs={"net_arch": []}, device="cpu")
    layer = model.policy.action_net
    with torch.no_grad():
        layer.weight.copy_(sharpness * torch.tensor([[-x for x in _RULE], list(_RULE)]))
        layer.bias.zero_()
    agent = folder / "ppo" / "CartPole-v1_1"
    agent.mkdir(parents=True)
    model.save(agent / "CartPole-v1.zip")
    return agent
