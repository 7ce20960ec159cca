"""Several policies asked together, each about its own rows; it steps nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from policykd.distributions import Distribution, masked
from policykd.errors import SpaceError, UsageError
from policykd.policy import Many, Policy
from policykd.prediction import obs_tensor

__all__ = ["RANDOM", "Panel"]

_TILE = 8
# The rows that a matrix product has over after its last full tile are added up in another order (MKL: tiles of 4, for
# one output column too). In whole tiles, what is said of an observation is the same whoever is asked about beside it,
# so that in practice an episode does not depend on those that are played with it.

RANDOM = -1
"""The member that acts uniformly at random; it sits on every panel."""


class Panel:
    """Policies for one environment, their members numbered through: a policy counts one, a ``Many`` all it holds.

    Args:
        policies: of one observation and one action space; the families of their distributions may differ.

    Attributes:
        members: how many there are, the random one not counted.

    Raises:
        SpaceError: ``panel.spaces`` where a policy lives in other spaces than the first.
    """

    def __init__(self, policies: Sequence[Policy]) -> None:
        for policy in policies[1:]:
            found = policy.spec.differences(policies[0].spec)
            for space in found.keys() - {"family"}:
                mine, first = found[space]
                raise SpaceError("panel.spaces", f"{space} space {mine} on a panel", f"the first policy's {first}")
        self.policies = tuple(policies)
        sizes = [policy.members if isinstance(policy, Many) else 1 for policy in self.policies]
        self.members = sum(sizes)
        self._policy_of = np.repeat(np.arange(len(sizes)), sizes)
        self._place_in = np.concatenate([np.arange(size) for size in sizes]) if sizes else np.zeros(0, int)

    def policy_of(self, member: int) -> int:
        """Which of ``policies`` speaks for ``member``; RANDOM for the random one.

        Raises:
            UsageError: ``panel.member`` for a number that nobody has.
        """
        if not RANDOM <= member < self.members:
            raise UsageError("panel.member", f"member {member}", f"{RANDOM} (at random) to {self.members - 1}")
        return RANDOM if member == RANDOM else int(self._policy_of[member])

    def answer(
        self,
        obs: Any,
        who: np.ndarray,
        *,
        masks: np.ndarray | None = None,
        generator: torch.Generator | None = None,
    ) -> np.ndarray:
        """Actions in environment units, ``[n, ...]``; each policy is called once, with its own rows only.

        Args:
            obs: raw observations ``[n, ...]``, or a dict of them.
            who: the member that acts on each row, ``[n]``; not the random one.
            masks: allowed actions, ``[n, a]`` bool; None for all.
            generator: draws the actions; None takes the modes.
        """
        if len(self.policies) == 1:
            return self._act(0, obs, who, masks, generator)
        policies = self._policy_of[who]
        if (policies == policies[0]).all():
            return self._act(policies[0], obs, who, masks, generator)
        order, parts = [], []
        for index in np.unique(policies):
            rows = np.flatnonzero(policies == index)
            parts.append(
                self._act(index, _take(obs, rows), who[rows], None if masks is None else masks[rows], generator)
            )
            order.append(rows)
        joined = np.concatenate(parts)
        actions = np.empty_like(joined)
        actions[np.concatenate(order)] = joined
        return actions

    def _act(
        self, index: int, obs: Any, who: np.ndarray, masks: np.ndarray | None, generator: torch.Generator | None
    ) -> np.ndarray:
        policy, n = self.policies[index], len(who)
        if n % _TILE:
            rows = np.minimum(np.arange(n + -n % _TILE), n - 1)
            obs, who, masks = _take(obs, rows), who[rows], None if masks is None else masks[rows]
        seen = obs_tensor(obs)
        dist: Distribution
        if isinstance(policy, Many):
            dist = policy.answer(seen, torch.from_numpy(self._place_in[who])).dist
        else:
            dist = policy(seen, values=False).dist
        if masks is not None:
            dist = masked(dist, torch.from_numpy(masks))
        return policy.spec.to_env(dist.mode() if generator is None else dist.sample(generator))[:n]


def _take(obs: Any, rows: np.ndarray) -> Any:
    return {k: v[rows] for k, v in obs.items()} if isinstance(obs, dict) else obs[rows]
