"""A few of the observations that were acted on, spread evenly over the play; it does not say what they are for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from policykd.prediction import Obs, obs_tensor, rows_of

__all__ = ["Sampled", "Visited", "spread"]


@dataclass(frozen=True, eq=False)
class Visited:
    """Rows kept of a stretch of play, as arrays: they cross process borders.

    Attributes:
        obs: raw observations ``[m, ...]``, or a dict of them.
        masks: the actions that were allowed there, ``[m, a]`` bool; None where the environment says nothing.
        seen: rows that were seen in all.
    """

    obs: Any
    masks: np.ndarray | None
    seen: int


def _join(parts: list[Any]) -> Any:
    if isinstance(parts[0], dict):
        return {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}
    return np.concatenate(parts)


def _take(obs: Any, rows: Any) -> Any:
    return {k: v[rows] for k, v in obs.items()} if isinstance(obs, dict) else obs[rows]


class Sampled:
    """Keeps every k-th vector of observations, doubling k (and dropping every other one) at twice ``limit`` rows."""

    def __init__(self, limit: int) -> None:
        self.limit, self.stride = limit, 1
        self._vectors = self._seen = self._held = 0
        self._kept: list[Any] = []
        self._masks: list[np.ndarray] = []

    def add(self, obs: Any, masks: np.ndarray | None, rows: np.ndarray | None = None) -> None:
        """Look at a vector of observations, of which only ``rows`` (a mask or indices; None for all) count."""
        count = rows_of(obs) if rows is None else int(rows.sum() if rows.dtype == bool else len(rows))
        if self._vectors % self.stride == 0:
            # A copy in any case: the next step writes where these observations lie.
            keep = np.arange(count) if rows is None else rows
            self._kept.append(_take(obs, keep))
            self._masks += [] if masks is None else [masks[keep]]
            self._held += count
            if self._held > 2 * self.limit:
                self._kept, self._masks, self.stride = self._kept[::2], self._masks[::2], self.stride * 2
                self._held = sum(map(rows_of, self._kept))
        self._vectors += 1
        self._seen += count

    def visited(self) -> Visited | None:
        """At most ``limit`` of the rows; None where there are none."""
        if not self._seen:
            return None
        obs, masks = _join(self._kept), np.concatenate(self._masks) if self._masks else None
        rows = np.linspace(0, rows_of(obs) - 1, min(rows_of(obs), self.limit)).astype(int)
        return Visited(_take(obs, rows), None if masks is None else masks[rows], self._seen)


def spread(parts: Sequence[Visited], keep: int) -> tuple[Obs | None, Tensor | None]:
    """Up to ``keep`` observations of several stretches, from each in proportion to what was seen there, and masks."""
    if not parts:
        return None, None
    ends = np.cumsum([part.seen for part in parts])
    wanted = np.linspace(0, ends[-1] - 1, min(int(ends[-1]), keep)).astype(int)
    chosen = []
    for part, end in zip(parts, ends, strict=True):
        share, have = int(((wanted >= end - part.seen) & (wanted < end)).sum()), rows_of(part.obs)
        # A stretch that kept less than its share gives what it has.
        chosen.append(np.linspace(0, have - 1, min(share, have)).astype(int))
    obs = obs_tensor(_join([_take(part.obs, rows) for part, rows in zip(parts, chosen, strict=True)]))
    masks = [part.masks[rows] for part, rows in zip(parts, chosen, strict=True) if part.masks is not None]
    return obs, torch.from_numpy(np.concatenate(masks)) if masks else None
