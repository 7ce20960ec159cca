"""Vectors of environments: native where the id has one, else synchronous, asynchronous on request; it keeps no data."""

from __future__ import annotations

from typing import Literal

import gymnasium as gym
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from policykd.errors import EnvError
from policykd.recipe import Recipe

__all__ = ["Mode", "action_masks", "make", "masks_actions", "native"]

Mode = Literal["auto", "sync", "async"]


def native(recipe: Recipe) -> bool:
    """Whether the recipe is a plain id whose vector implementation can stand in for it (no wrappers around it)."""
    if recipe.make_env is not None or recipe.wrappers:
        return False
    spec = gym.registry.get(recipe.env_id)
    return spec is not None and spec.vector_entry_point is not None and not spec.additional_wrappers


def make(recipe: Recipe, num_envs: int, mode: Mode = "auto") -> VectorEnv:
    """``num_envs`` copies of the recipe's environment with next-step autoreset and no render mode.

    Args:
        mode: ``auto`` takes the native vector implementation where there is one, else steps the copies one by one in
            this process; ``sync`` always does the latter; ``async`` gives each copy a process of its own (pays for
            environments slower than about a millisecond a step).

    Raises:
        EnvError: ``env.autoreset`` when a native implementation resets in another way.
    """
    if mode == "auto" and native(recipe):
        envs = gym.make_vec(recipe.env_id, num_envs, vectorization_mode="vector_entry_point", **dict(recipe.env_kwargs))
        found = envs.metadata.get("autoreset_mode")
        if found is not AutoresetMode.NEXT_STEP:
            raise EnvError("env.autoreset", f"{recipe.env_id} resets with {found}", "NEXT_STEP", "use mode='sync'")
        return envs
    makers = [recipe.make] * num_envs
    if mode == "async":
        return AsyncVectorEnv(makers, autoreset_mode=AutoresetMode.NEXT_STEP)
    return SyncVectorEnv(makers, copy=False, autoreset_mode=AutoresetMode.NEXT_STEP)


def masks_actions(envs: VectorEnv) -> bool:
    """Whether the environments say which actions they allow: a method ``action_masks``, as MaskablePPO wants it."""
    if not isinstance(envs, SyncVectorEnv | AsyncVectorEnv):
        return False  # native implementations have no methods of single environments
    return bool(envs.call("has_wrapper_attr", "action_masks")[0])


def action_masks(envs: VectorEnv) -> np.ndarray:
    """What each environment allows now, ``[n, a]`` bool; the factors of a MultiDiscrete stand side by side."""
    if not isinstance(envs, SyncVectorEnv | AsyncVectorEnv):
        raise EnvError("env.masks", f"{type(envs).__name__} cannot be asked for action masks", "mode='sync'")
    masks = envs.call("action_masks")
    return np.stack([np.asarray(mask, bool).reshape(-1) for mask in masks])
