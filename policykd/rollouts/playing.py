"""Stepping the environments of episodes to their ends, natively or one by one; it chooses neither players nor seeds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector.utils import create_empty_array

from policykd.recipe import Recipe
from policykd.rollouts.panel import RANDOM, Panel
from policykd.rollouts.vector import make
from policykd.rollouts.visited import Sampled

__all__ = ["Pair", "play_singly", "play_vectors"]

Pair: TypeAlias = tuple[int, int]
"""A member of a panel, and the seed that it plays."""


def _masks(envs: list[gym.Env]) -> np.ndarray:
    return np.stack([np.asarray(env.get_wrapper_attr("action_masks")(), bool).reshape(-1) for env in envs])


def _random(env: gym.Env) -> Any:
    mask, space = _masks([env])[0].astype(np.int8), env.action_space
    if isinstance(space, gym.spaces.MultiDiscrete):
        return space.sample(tuple(np.split(mask, np.cumsum(space.nvec)[:-1])))
    return space.sample(mask)


def play_vectors(
    panel: Panel,
    recipe: Recipe,
    parts: list[list[Pair]],
    generator: torch.Generator | None,
    kept: Mapping[int, Sampled],
) -> tuple[np.ndarray, np.ndarray]:
    """Returns and lengths of the episodes of native vectors stepped side by side, one a part.

    Args:
        parts: the pairs of each vector, of one member.
        generator: draws the actions; None takes the modes.
        kept: takes the observations that its member acts on.
    """
    # A native vector takes one integer: (first seed, n) is then the seed, the same for every policy.
    widths = [len(part) for part in parts]
    starts, n = np.cumsum([0, *widths]), sum(widths)
    who = np.array([member for part in parts for member, _ in part])
    returns, lengths, live = np.zeros(n), np.zeros(n, int), np.full(n, True)
    obs: dict[int, Any] = {}
    envs = []
    try:
        for k, part in enumerate(parts):
            envs.append(make(recipe, len(part)))
            envs[k].action_space.seed(part[0][1])
            obs[k] = envs[k].reset(seed=part[0][1])[0]
        while obs:
            spans = {k: slice(starts[k], starts[k + 1]) for k in obs}
            rows = np.concatenate([np.arange(span.start, span.stop) for span in spans.values()])
            cuts, asked, over = np.cumsum([widths[k] for k in obs])[:-1], who[rows], False
            while not over:
                actions: Any = None
                if who[0] != RANDOM:
                    joined = _side_by_side(list(obs.values()))
                    for member, sampled in kept.items():
                        sampled.add(joined, None, live[rows] & (asked == member))
                    answers = panel.answer(joined, asked, generator=generator)
                    actions = dict(zip(obs, np.split(answers, cuts) if len(cuts) else [answers], strict=True))
                for k, span in spans.items():
                    action = envs[k].action_space.sample() if actions is None else actions[k]
                    obs[k], reward, terminated, truncated, _ = envs[k].step(action)
                    on = live[span]
                    returns[span] += np.where(on, reward, 0.0)
                    lengths[span] += on
                    on &= ~(terminated | truncated)
                    if not on.any():
                        del obs[k]
                        over = True
    finally:
        for env in envs:
            env.close()
    return returns, lengths


def _side_by_side(obs: list[Any]) -> Any:
    if len(obs) == 1:
        return obs[0]
    return {k: np.concatenate([o[k] for o in obs]) for k in obs[0]} if isinstance(obs[0], dict) else np.concatenate(obs)


def play_singly(
    panel: Panel,
    recipe: Recipe,
    pairs: list[Pair],
    generator: torch.Generator | None,
    kept: Mapping[int, Sampled],
    slots: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns and lengths of the episodes of single environments, up to ``slots`` of them stepped side by side.

    Args:
        pairs: all of one policy's members.
        generator, kept: as for ``play_vectors``.
    """
    returns, lengths = np.zeros(len(pairs)), np.zeros(len(pairs), int)
    members = np.array([member for member, _ in pairs])
    envs: list[gym.Env] = []
    try:
        envs += [recipe.make() for _ in range(min(slots, len(pairs)))]
        masks_known = envs[0].has_wrapper_attr("action_masks")
        # Row j belongs to live[j]; written in place, because a step of a small environment costs little more than a
        # new array.
        board: Any = create_empty_array(envs[0].observation_space, len(envs))
        waiting = iter(range(len(pairs)))
        live: list[tuple[gym.Env, int]] = []  # environment, which pair

        def put(row: int, seen: Any) -> None:
            if isinstance(board, dict):
                for key, column in board.items():
                    column[row] = seen[key]
            else:
                board[row] = seen

        def begin(env: gym.Env) -> None:
            # A free slot takes the next pair, so every seed is played and played out.
            for i in waiting:
                env.action_space.seed(pairs[i][1])
                put(len(live), env.reset(seed=pairs[i][1])[0])
                live.append((env, i))
                return

        for env in envs:
            begin(env)
        while live:
            if members[0] == RANDOM:
                actions: Any = [_random(env) if masks_known else env.action_space.sample() for env, _ in live]
            else:
                obs = {k: v[: len(live)] for k, v in board.items()} if isinstance(board, dict) else board[: len(live)]
                masks = _masks([env for env, _ in live]) if masks_known else None
                who = members[[i for _, i in live]]
                for member, sampled in kept.items():
                    sampled.add(obs, masks, who == member)
                actions = panel.answer(obs, who, masks=masks, generator=generator)
            running, live = live, []
            for (env, i), action in zip(running, actions, strict=True):
                seen, reward, terminated, truncated, _ = env.step(action)
                returns[i] += float(reward)
                lengths[i] += 1
                if terminated or truncated:
                    begin(env)
                else:
                    put(len(live), seen)
                    live.append((env, i))
    finally:
        for env in envs:
            env.close()
    return returns, lengths
