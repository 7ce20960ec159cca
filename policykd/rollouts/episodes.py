"""Whole episodes of policies on given seeds, none of them chosen by its length; it draws no conclusions."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from policykd.policy import Many, Policy
from policykd.prediction import Obs
from policykd.recipe import Recipe
from policykd.rollouts.panel import RANDOM, Panel
from policykd.rollouts.playing import Pair, play_singly, play_vectors
from policykd.rollouts.vector import native
from policykd.rollouts.visited import Sampled, Visited, spread
from policykd.rollouts.workers import each

__all__ = ["CHUNK", "Episodes", "Played", "play", "play_panel"]

CHUNK = 25
"""Episodes of one policy that are played together: the unit of a batch, and of what one process takes at a time."""

_TOGETHER = 4  # native vectors of a Many's members stepped side by side
_BLOCKS = 8  # native vectors that are worth other processes: one takes some 0.1 s at most


@dataclass(frozen=True, eq=False)
class Episodes:
    """One finished episode a seed, in the order of the seeds.

    Attributes:
        returns: undiscounted returns, ``[n]``.
        lengths: environment steps, ``[n]``.
        obs: up to ``keep`` of the raw observations that were acted on, spread evenly over the play.
        masks: the actions that were allowed there, ``[n, a]`` bool; None where the environment says nothing.
        cpu_seconds: processor time of other processes than this one.
    """

    returns: np.ndarray
    lengths: np.ndarray
    obs: Obs | None
    masks: Tensor | None = None
    cpu_seconds: float = 0.0

    @property
    def steps(self) -> int:
        """Environment steps in all."""
        return int(self.lengths.sum())


@dataclass(frozen=True, eq=False)
class Played:
    """One finished episode a pair of member and seed, in the order of the pairs.

    Attributes:
        members: who played, ``[n]``.
        returns: undiscounted returns, ``[n]``.
        lengths: environment steps, ``[n]``.
        visited: for each member, up to ``keep`` of the raw observations that it acted on, and what was allowed there.
        cpu_seconds: processor time of other processes than this one.
    """

    members: np.ndarray
    returns: np.ndarray
    lengths: np.ndarray
    visited: Mapping[int, tuple[Obs | None, Tensor | None]]
    cpu_seconds: float = 0.0

    def of(self, member: int) -> Episodes:
        """The episodes of one member, in the order of its pairs; their processor time is everybody's."""
        rows = self.members == member
        return Episodes(
            self.returns[rows], self.lengths[rows], *self.visited.get(member, (None, None)), self.cpu_seconds
        )


_Chunk: TypeAlias = tuple[np.ndarray, np.ndarray, dict[int, Visited]]  # returns, lengths, visited


def play(
    policy: Policy | None,
    recipe: Recipe,
    seeds: Sequence[int],
    *,
    deterministic: bool = True,
    keep: int = 0,
    slots: int = CHUNK,
    workers: int | None = None,
) -> Episodes:
    """Play one whole episode on each seed: ``play_panel`` for one policy, or None for uniformly random actions.

    Args:
        seeds: one an episode; where the id has a native vector implementation, the first seeds them all.

    Returns:
        Returns and lengths in the order of ``seeds``. The same call gives the same result.
    """
    member, panel = (RANDOM, Panel(())) if policy is None else (0, Panel((policy,)))
    pairs = [(member, seed) for seed in seeds]
    how: dict[str, Any] = {"deterministic": deterministic, "keep": keep, "slots": slots, "workers": workers}
    return play_panel(panel, recipe, pairs, block=max(1, len(pairs)), **how).of(member)


def play_panel(
    panel: Panel,
    recipe: Recipe,
    pairs: Sequence[tuple[int, int]],
    *,
    deterministic: bool = True,
    keep: int = 0,
    slots: int = CHUNK,
    block: int = 100,
    workers: int | None = None,
) -> Played:
    """Play one whole episode for each pair of a member of the panel and a seed.

    The pairs are cut into chunks of episodes that one policy plays side by side. How depends on the pairs alone, so
    that the results are the same for any number of ``workers``; and a policy's do not depend on who else plays.

    Args:
        pairs: member (-1: uniformly random actions) and seed. Where the id has a native vector implementation, each
            member's pairs are cut in their order into vectors of ``block`` episodes, seeded by the first pair's seed.
        deterministic: act with the distributions' modes.
        keep: how many of each member's visited observations to return.
        slots: environments stepped side by side, at most; a free one takes the chunk's next pair.
        block: episodes of a native vector.
        workers: processes; None for one a core, 8 at most. Work that is not worth a second process stays in this one.

    Raises:
        UsageError: ``panel.member`` for a member that the panel does not have.
        EnvError: ``env.worker`` when a process dies. What an environment or a policy raises arrives as it is.
    """
    vectors = native(recipe)
    chunks = _natives(panel, pairs, block) if vectors else _singles(panel, pairs, block)
    count = Counter(member for member, _ in pairs)

    def task(k: int) -> _Chunk:
        rows = [[pairs[i] for i in part] for part in chunks[k]]
        mine = Counter(member for part in rows for member, _ in part)
        # Twice a chunk's fair share: another may have seen more than its own.
        kept = {m: Sampled(min(keep, math.ceil(2 * keep * mine[m] / count[m]))) for m in mine if keep}
        generator = None if deterministic else torch.Generator().manual_seed(rows[0][0][1])
        with torch.no_grad():
            if vectors:
                returns, lengths = play_vectors(panel, recipe, rows, generator, kept)
            else:
                returns, lengths = play_singly(panel, recipe, rows[0], generator, kept, slots)
        return returns, lengths, {m: found for m, sampled in kept.items() if (found := sampled.visited())}

    worth = not vectors or sum(map(len, chunks)) >= _BLOCKS
    found, cpu_seconds = each(task, len(chunks), workers if worth else 1)
    returns, lengths = np.zeros(len(pairs)), np.zeros(len(pairs), int)
    visited: dict[int, list[Visited]] = {member: [] for member in count}
    for chunk, (earned, taken, seen) in zip(chunks, found, strict=True):
        rows = [i for part in chunk for i in part]
        returns[rows], lengths[rows] = earned, taken
        for member, part in seen.items():
            visited[member].append(part)
    members = np.array([member for member, _ in pairs], int)
    return Played(members, returns, lengths, {m: spread(parts, keep) for m, parts in visited.items()}, cpu_seconds)


def _grouped(keys: Sequence[int]) -> dict[int, list[int]]:
    groups: dict[int, list[int]] = {}
    for i, key in enumerate(keys):
        groups.setdefault(key, []).append(i)
    return groups


def _cut(rows: list[Any], size: int, evenly: bool = False) -> list[list[Any]]:
    if evenly:
        size = math.ceil(len(rows) / math.ceil(len(rows) / size))
    return [rows[i : i + size] for i in range(0, len(rows), size)]


def _singles(panel: Panel, pairs: Sequence[Pair], block: int) -> list[list[list[int]]]:
    """Chunks of one part each: the pairs, by number, of one policy."""
    policies = _grouped([panel.policy_of(member) for member, _ in pairs])
    return [[part] for rows in policies.values() for own in _cut(rows, block) for part in _cut(own, CHUNK, evenly=True)]


def _natives(panel: Panel, pairs: Sequence[Pair], block: int) -> list[list[list[int]]]:
    """Chunks of parts, each of which is a vector: of one member each, and several only where one call serves them."""
    vectors: dict[int, list[list[int]]] = {}
    for member, rows in _grouped([member for member, _ in pairs]).items():
        vectors.setdefault(panel.policy_of(member), []).extend(_cut(rows, block))
    chunks = []
    for policy, parts in vectors.items():
        many = policy != RANDOM and isinstance(panel.policies[policy], Many)
        chunks += _cut(parts, _TOGETHER if many else 1)
    return chunks
