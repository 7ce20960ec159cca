"""Whole episodes of one policy on given seeds, none of them chosen by its length; it draws no conclusions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from policykd.distributions import masked
from policykd.prediction import Obs, Policy, map_obs, obs_tensor
from policykd.recipe import Recipe
from policykd.rollouts.vector import make, native

__all__ = ["Episodes", "play"]


@dataclass(frozen=True, eq=False)
class Episodes:
    """One finished episode a seed, in the order of the seeds.

    Attributes:
        returns: undiscounted returns, ``[n]``.
        lengths: environment steps, ``[n]``.
        obs: up to ``keep`` of the raw observations that were acted on, spread evenly over time.
        masks: the actions that were allowed there, ``[n, a]`` bool; None where the environment says nothing.
    """

    returns: np.ndarray
    lengths: np.ndarray
    obs: Obs | None
    masks: Tensor | None = None

    @property
    def steps(self) -> int:
        """Environment steps in all."""
        return int(self.lengths.sum())


class _Sampled:
    """Keeps every k-th vector of observations, doubling k (and dropping every other one) at twice ``limit`` rows."""

    def __init__(self, limit: int) -> None:
        self.limit, self.stride, self.seen = limit, 1, 0
        self.kept: list[Any] = []
        self.masks: list[np.ndarray] = []

    def add(self, obs: Any, masks: np.ndarray | None) -> None:
        if self.limit and self.seen % self.stride == 0:
            self.kept.append({k: v.copy() for k, v in obs.items()} if isinstance(obs, dict) else obs.copy())
            self.masks += [] if masks is None else [masks]
            rows = sum(len(next(iter(o.values())) if isinstance(o, dict) else o) for o in self.kept)
            if rows > 2 * self.limit:
                self.kept, self.masks, self.stride = self.kept[::2], self.masks[::2], self.stride * 2
        self.seen += 1

    def rows(self) -> tuple[Obs | None, Tensor | None]:
        """Observations, and the masks beside them where there are any."""
        if not self.kept:
            return None, None
        first = self.kept[0]
        stacked: Any
        if isinstance(first, dict):
            stacked = {k: np.concatenate([o[k] for o in self.kept]) for k in first}
        else:
            stacked = np.concatenate(self.kept)
        tensors = obs_tensor(stacked)
        n = len(next(iter(tensors.values())) if isinstance(tensors, dict) else tensors)
        rows = torch.linspace(0, n - 1, min(n, self.limit)).long()
        masks = torch.from_numpy(np.concatenate(self.masks))[rows] if self.masks else None
        return map_obs(tensors, lambda t: t[rows]), masks


def _actions(policy: Policy, obs: Any, masks: np.ndarray | None, generator: torch.Generator | None) -> np.ndarray:
    dist = policy(obs_tensor(obs), values=False).dist
    if masks is not None:
        dist = masked(dist, torch.from_numpy(masks))
    action: Tensor = dist.mode() if generator is None else dist.sample(generator)
    return policy.spec.to_env(action)


def _masks(envs: list[gym.Env]) -> np.ndarray:
    return np.stack([np.asarray(env.get_wrapper_attr("action_masks")(), bool).reshape(-1) for env in envs])


def _random(env: gym.Env) -> Any:
    mask, space = _masks([env])[0].astype(np.int8), env.action_space
    if isinstance(space, gym.spaces.MultiDiscrete):
        return space.sample(tuple(np.split(mask, np.cumsum(space.nvec)[:-1])))
    return space.sample(mask)


def _gather(obs: list[Any]) -> Any:
    return {k: np.stack([o[k] for o in obs]) for k in obs[0]} if isinstance(obs[0], dict) else np.stack(obs)


def _play_native(
    policy: Policy | None, recipe: Recipe, seeds: Sequence[int], generator: torch.Generator | None, sampled: _Sampled
) -> tuple[np.ndarray, np.ndarray]:
    # A native vector takes one integer: (seeds[0], n) is then the seed, the same for every policy.
    n = len(seeds)
    envs = make(recipe, n)
    envs.action_space.seed(seeds[0])
    obs = envs.reset(seed=seeds[0])[0]
    returns, lengths, live = np.zeros(n), np.zeros(n, int), np.full(n, True)
    while live.any():
        sampled.add(obs[live], None)
        action = envs.action_space.sample() if policy is None else _actions(policy, obs, None, generator)
        obs, reward, terminated, truncated, _ = envs.step(action)
        returns += np.where(live, reward, 0.0)
        lengths += live
        live &= ~(terminated | truncated)
    envs.close()
    return returns, lengths


def _play_singly(
    policy: Policy | None,
    recipe: Recipe,
    seeds: Sequence[int],
    generator: torch.Generator | None,
    sampled: _Sampled,
    slots: int,
) -> tuple[np.ndarray, np.ndarray]:
    envs: list[gym.Env] = [recipe.make() for _ in range(min(slots, len(seeds)))]
    returns, lengths = np.zeros(len(seeds)), np.zeros(len(seeds), int)
    waiting = list(range(len(seeds)))[::-1]
    masks_known = envs[0].has_wrapper_attr("action_masks")
    # live: (slot, which seed, observation); a free slot takes the next seed, so every seed is played and played out.
    live: list[tuple[gym.Env, int, Any]] = []

    def begin(env: gym.Env) -> None:
        if waiting:
            i = waiting.pop()
            env.action_space.seed(seeds[i])
            live.append((env, i, env.reset(seed=seeds[i])[0]))

    for env in envs:
        begin(env)
    while live:
        if policy is None:
            actions: Any = [_random(env) if masks_known else env.action_space.sample() for env, _, _ in live]
        else:
            obs = _gather([o for _, _, o in live])
            masks = _masks([env for env, _, _ in live]) if masks_known else None
            sampled.add(obs, masks)
            actions = _actions(policy, obs, masks, generator)
        running, live = live, []
        for (env, i, _), action in zip(running, actions, strict=True):
            seen, reward, terminated, truncated, _ = env.step(action)
            returns[i] += float(reward)
            lengths[i] += 1
            if terminated or truncated:
                begin(env)
            else:
                live.append((env, i, seen))
    for env in envs:
        env.close()
    return returns, lengths


def play(
    policy: Policy | None,
    recipe: Recipe,
    seeds: Sequence[int],
    *,
    deterministic: bool = True,
    keep: int = 0,
    slots: int = 50,
) -> Episodes:
    """Play one whole episode on each seed.

    Args:
        policy: None draws uniformly random actions.
        seeds: one an episode; where the id has a native vector implementation, the first seeds them all.
        deterministic: act with the distribution's mode.
        keep: how many of the visited observations to return.
        slots: environments stepped side by side.

    Returns:
        Returns and lengths in the order of ``seeds``. The same call gives the same result.
    """
    generator = None if deterministic else torch.Generator().manual_seed(seeds[0])
    sampled = _Sampled(keep)
    with torch.no_grad():
        if native(recipe):
            returns, lengths = _play_native(policy, recipe, seeds, generator, sampled)
        else:
            returns, lengths = _play_singly(policy, recipe, seeds, generator, sampled, slots)
    return Episodes(returns, lengths, *sampled.rows())
