"""Stepping a vector of environments and labelling what was seen; only the environments' state outlives a call."""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass, replace

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from torch import Tensor

from policykd.distributions import masked
from policykd.policy import Policy
from policykd.prediction import Batch, Obs, Prediction, map_obs, obs_tensor
from policykd.rollouts.panel import Panel
from policykd.rollouts.vector import action_masks, masks_actions

__all__ = ["Collector", "Rollout"]


@dataclass(frozen=True, eq=False)
class Rollout:
    """What a stretch of ``t`` vector steps saw, time and environments flattened into rows.

    Attributes:
        batch: labelled observations; ``extra`` holds ``reward``, ``done`` and the ``action`` that was taken.
            Rows of a reset step (next-step autoreset: the action is ignored there) are left out, or masked out where
            the Collector keeps ``episodes``.
        steps: environment steps taken, reset rows not counted.
        returns, lengths: of the episodes that ended in this stretch.
    """

    batch: Batch
    steps: int
    returns: tuple[float, ...]
    lengths: tuple[int, ...]


def _stack(parts: list[Obs]) -> Obs:
    first = parts[0]
    if isinstance(first, dict):
        return {k: torch.stack([p[k] for p in parts if isinstance(p, dict)]) for k in first}
    return torch.stack([p for p in parts if isinstance(p, Tensor)])


def _join(parts: list[Prediction]) -> Prediction:
    columns: list[list[Tensor]] = []
    for part in parts:
        column: list[Tensor] = []
        part.map(lambda t, column=column: column.append(t) or t)  # type: ignore[misc]
        columns.append(column)
    joined = iter([torch.stack(ts) for ts in zip(*columns, strict=True)])
    return parts[0].map(lambda _: next(joined))


def _allowed(said: Prediction, mask: Tensor | None) -> Prediction:
    return said if mask is None else replace(said, dist=masked(said.dist, mask))


class Collector:
    """Steps ``envs`` and labels every observation once with ``teacher``.

    Who acts is an argument of each call: ``beta`` is the probability, drawn anew for every environment and step, that
    the teacher's action is taken instead of the student's (1: teacher, 0: student; Ross et al. 2011, 1011.0686,
    eq. 3.1).

    Args:
        envs: a vector of environments with next-step autoreset.
        teacher: labels; acts with probability ``beta``.
        seed: of the environments and of the draws.
        explore: draw the actions from the distributions; False takes their modes.
        values: label values and Q too (False saves the critic's time where no loss asks for them).
        episodes: for datasets: ``extra`` also numbers the episodes (``episode``) and tells ``terminated`` from cut off,
            and the row of a reset step, which holds an episode's final observation, stays, masked out.
        window: episodes that ``recent_return`` averages over.

    An environment with a method ``action_masks`` (as for sb3_contrib's MaskablePPO) is asked before every step: what it
    forbids is a logit of -inf in the labels, and neither teacher nor student does it.
    """

    def __init__(
        self,
        envs: VectorEnv,
        teacher: Policy,
        *,
        seed: int,
        explore: bool = False,
        values: bool = True,
        episodes: bool = False,
        window: int = 100,
    ) -> None:
        self.envs, self.teacher, self.explore, self.values, self.episodes = envs, teacher, explore, values, episodes
        self._draws = np.random.default_rng(seed)
        self._generator = torch.Generator().manual_seed(seed)
        self._obs = envs.reset(seed=seed)[0]
        self._resetting = np.zeros(envs.num_envs, bool)
        self._return = np.zeros(envs.num_envs)
        self._length = np.zeros(envs.num_envs, int)
        self._episode, self._begun = np.arange(envs.num_envs), envs.num_envs
        self._masked = masks_actions(envs)
        self._who: np.ndarray | None = None
        self._members = 0
        self._turns: list[int] = []
        self.recent: deque[tuple[float, int]] = deque(maxlen=window)

    def _act(self, said: Prediction) -> np.ndarray:
        action = said.dist.sample(self._generator) if self.explore else said.dist.mode()
        return self.teacher.spec.to_env(action)

    def _students(self, student: Policy | Panel, obs: Obs, mask: Tensor | None) -> np.ndarray:
        if isinstance(student, Panel):
            allowed = None if mask is None else mask.numpy()
            draws = self._generator if self.explore else None
            return student.answer(self._obs, self._turns_of(student), masks=allowed, generator=draws)
        return self._act(_allowed(student(obs, values=False), mask))

    def _turns_of(self, panel: Panel) -> np.ndarray:
        """Which member has each environment now; dealt anew where there are other members than before."""
        if self._who is None or self._members != panel.members:
            self._members, self._turns = panel.members, []
            self._who = np.array([self._next_turn() for _ in range(self.envs.num_envs)])
        return self._who

    def _next_turn(self) -> int:
        # Everybody in turn, in an order that is drawn anew each time round.
        if not self._turns:
            self._turns = self._draws.permutation(self._members).tolist()
        return self._turns.pop()

    def _masks(self) -> Tensor | None:
        if not self._masked:
            return None
        masks = action_masks(self.envs)
        masks[self._resetting] = True  # a finished episode may allow nothing, and its action is ignored
        return torch.from_numpy(masks)

    def collect(self, vector_steps: int, student: Policy | Panel | None = None, beta: float = 1.0) -> Rollout:
        """Take ``vector_steps`` steps of every environment.

        Args:
            student: acts where the teacher does not; may be None when ``beta`` is 1. The members of a Panel take turns:
                an environment is one member's until its episode ends, then the next one's.
            beta: probability that the teacher acts.
        """
        n = self.envs.num_envs
        seen: list[Obs] = []
        labels: list[Prediction] = []
        masks: list[Tensor | None] = []
        kept: list[np.ndarray] = []
        columns: dict[str, list[np.ndarray]] = defaultdict(list)
        returns: list[float] = []
        lengths: list[int] = []
        with torch.no_grad():
            for _ in range(vector_steps):
                obs = self.obs
                teachers = np.full(n, True) if student is None else self._draws.random(n) < beta
                mask = self._masks()
                if beta > 0:
                    labels.append(_allowed(self.teacher(obs, values=self.values), mask))
                if student is None or teachers.all():
                    action = self._act(labels[-1])
                else:
                    action = self._students(student, obs, mask)
                    if teachers.any():
                        action[teachers] = self._act(labels[-1])[teachers]
                self._obs, reward, terminated, truncated, _ = self.envs.step(action)
                keep, done = ~self._resetting, terminated | truncated
                seen.append(obs)
                masks.append(mask)
                kept.append(keep)
                columns["reward"].append(np.asarray(reward, np.float32))
                columns["done"].append(done)
                columns["action"].append(np.array(action))
                if self.episodes:
                    columns["episode"].append(self._number())
                    columns["terminated"].append(np.array(terminated))
                self._return += np.where(keep, reward, 0.0)
                self._length += keep
                for i in np.flatnonzero(done):
                    returns.append(float(self._return[i]))
                    lengths.append(int(self._length[i]))
                    self._return[i], self._length[i] = 0.0, 0
                if self._who is not None:
                    self._who[done] = [self._next_turn() for _ in range(int(done.sum()))]
                self._resetting = done
            counts = torch.from_numpy(np.stack(kept).reshape(-1))
            rows = torch.ones_like(counts) if self.episodes else counts
            obs = map_obs(_stack(seen), lambda t: t.flatten(0, 1)[rows])
            if beta > 0:
                target = _join(labels).map(lambda t: t.flatten(0, 1)[rows])
            else:
                allowed = [m for m in masks if m is not None]
                mask = torch.stack(allowed).flatten(0, 1)[rows] if allowed else None
                target = _allowed(self.teacher(obs, values=self.values), mask)
        extra = {k: torch.from_numpy(np.stack(v)).flatten(0, 1)[rows] for k, v in columns.items()}
        batch = Batch(obs, target, mask=counts if self.episodes else None, extra=extra)
        self.recent.extend(zip(returns, lengths, strict=True))
        return Rollout(batch, int(counts.sum()), tuple(returns), tuple(lengths))

    def _number(self) -> np.ndarray:
        """Each row's episode; a reset step still belongs to the one that has ended, and begins another."""
        numbers, resetting = self._episode.copy(), np.flatnonzero(self._resetting)
        self._episode[resetting] = self._begun + np.arange(len(resetting))
        self._begun += len(resetting)
        return numbers

    @property
    def obs(self) -> Obs:
        """What every environment shows now; a copy."""
        return map_obs(obs_tensor(self._obs), torch.clone)

    @property
    def recent_return(self) -> float:
        """Mean return of the last finished episodes, NaN before the first."""
        return float(np.mean([r for r, _ in self.recent])) if self.recent else float("nan")

    @property
    def recent_length(self) -> float:
        """Mean length of the last finished episodes, NaN before the first."""
        return float(np.mean([n for _, n in self.recent])) if self.recent else float("nan")
