"""Stepping a vector of environments and labelling what was seen; only the environments' state outlives a call."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from torch import Tensor

from policykd.prediction import Batch, Obs, Policy, Prediction, map_obs, obs_tensor

__all__ = ["Collector", "Rollout"]


@dataclass(frozen=True, eq=False)
class Rollout:
    """What a stretch of ``t`` vector steps saw, time and environments flattened into rows.

    Attributes:
        batch: labelled observations; ``extra`` holds ``reward``, ``done`` and the ``action`` that was taken.
            Rows of a reset step (next-step autoreset: the action is ignored there) are left out.
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
        window: episodes that ``recent_return`` averages over.
    """

    def __init__(
        self,
        envs: VectorEnv,
        teacher: Policy,
        *,
        seed: int,
        explore: bool = False,
        values: bool = True,
        window: int = 100,
    ) -> None:
        self.envs, self.teacher, self.explore, self.values = envs, teacher, explore, values
        self._draws = np.random.default_rng(seed)
        self._generator = torch.Generator().manual_seed(seed)
        self._obs = envs.reset(seed=seed)[0]
        self._resetting = np.zeros(envs.num_envs, bool)
        self._return = np.zeros(envs.num_envs)
        self._length = np.zeros(envs.num_envs, int)
        self.recent: deque[tuple[float, int]] = deque(maxlen=window)

    def _act(self, said: Prediction) -> np.ndarray:
        action = said.dist.sample(self._generator) if self.explore else said.dist.mode()
        return self.teacher.spec.to_env(action)

    def collect(self, vector_steps: int, student: Policy | None = None, beta: float = 1.0) -> Rollout:
        """Take ``vector_steps`` steps of every environment.

        Args:
            student: acts where the teacher does not; may be None when ``beta`` is 1.
            beta: probability that the teacher acts.
        """
        n = self.envs.num_envs
        seen: list[Obs] = []
        labels: list[Prediction] = []
        kept, rewards, dones, actions = [], [], [], []
        returns: list[float] = []
        lengths: list[int] = []
        with torch.no_grad():
            for _ in range(vector_steps):
                obs = map_obs(obs_tensor(self._obs), torch.clone)
                teachers = np.full(n, True) if student is None else self._draws.random(n) < beta
                if beta > 0:
                    labels.append(self.teacher(obs, values=self.values))
                if student is None or teachers.all():
                    action = self._act(labels[-1])
                else:
                    action = self._act(student(obs, values=False))
                    if teachers.any():
                        action[teachers] = self._act(labels[-1])[teachers]
                self._obs, reward, terminated, truncated, _ = self.envs.step(action)
                keep, done = ~self._resetting, terminated | truncated
                seen.append(obs)
                kept.append(keep)
                rewards.append(np.asarray(reward, np.float32))
                dones.append(done)
                actions.append(np.array(action))
                self._return += np.where(keep, reward, 0.0)
                self._length += keep
                for i in np.flatnonzero(done):
                    returns.append(float(self._return[i]))
                    lengths.append(int(self._length[i]))
                    self._return[i], self._length[i] = 0.0, 0
                self._resetting = done
            rows = torch.from_numpy(np.stack(kept).reshape(-1))
            obs = map_obs(_stack(seen), lambda t: t.flatten(0, 1)[rows])
            if beta > 0:
                target = _join(labels).map(lambda t: t.flatten(0, 1)[rows])
            else:
                target = self.teacher(obs, values=self.values)
        columns = {"reward": rewards, "done": dones, "action": actions}
        extra = {k: torch.from_numpy(np.stack(v)).flatten(0, 1)[rows] for k, v in columns.items()}
        self.recent.extend(zip(returns, lengths, strict=True))
        return Rollout(Batch(obs, target, extra=extra), int(rows.sum()), tuple(returns), tuple(lengths))

    @property
    def recent_return(self) -> float:
        """Mean return of the last finished episodes, NaN before the first."""
        return float(np.mean([r for r, _ in self.recent])) if self.recent else float("nan")
