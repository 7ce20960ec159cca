"""What a loop has seen and nobody has asked about yet, handed from the acting to the learning thread; never a label."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from policykd.errors import SpaceError, UsageError
from policykd.prediction import Obs, Spec, obs_tensor

__all__ = ["Inbox", "Seen"]


class Seen(NamedTuple):
    """Rows that were observed together: ``[n, ...]`` each."""

    obs: Any
    teacher_obs: Any
    extra: Mapping[str, np.ndarray]
    rows: int


class Inbox:
    """A queue between two threads; the oldest rows fall out where it holds too many, and are counted.

    Args:
        spec: of the student: what one observation is.
        room: rows held at most.

    Attributes:
        observed: rows that ever came in.
        overflowed: rows that fell out.
        episodes: that ended.
    """

    def __init__(self, spec: Spec, room: int) -> None:
        self.spec, self.room = spec, room
        self.observed = self.overflowed = self.episodes = 0
        self._returns: deque[float] = deque(maxlen=100)
        self._rows: deque[Seen] = deque()
        self._waiting = 0
        self._running = np.zeros(0)
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._waiting

    def put(self, obs: Any, reward: Any, done: Any, teacher_obs: Any, extra: Mapping[str, Any]) -> None:
        """Take in one observation, or a batch of them; copied, as environments write where they lie."""
        batched = self.spec.is_batched(obs)
        seen = _copied(obs, batched)
        n = len(next(iter(seen.values())) if isinstance(seen, dict) else seen)
        told = None if teacher_obs is None else _copied(teacher_obs, batched)
        more = {name: _copied(np.asarray(value), batched) for name, value in extra.items()}
        for name, column in (*more.items(), *([("teacher_obs", told)] if isinstance(told, np.ndarray) else [])):
            if len(column) != n:
                raise UsageError("online.rows", f"{len(column)} rows of {name} beside {n} observations", "as many")
        with self._lock:
            self._rows.append(Seen(seen, told, more, n))
            self.observed += n
            self._waiting += n
            while self._waiting > self.room and len(self._rows) > 1:
                lost = self._rows.popleft().rows
                self._waiting -= lost
                self.overflowed += lost
            if reward is not None:
                self._count(np.atleast_1d(np.asarray(reward, float)), n)
            if done is not None:
                self._end(np.atleast_1d(np.asarray(done, bool)), n)

    def recent(self) -> list[float]:
        """Returns of the last hundred episodes."""
        with self._lock:
            return list(self._returns)

    def _count(self, reward: np.ndarray, n: int) -> None:
        if len(self._running) != n:
            self._running = np.zeros(n)
        self._running += reward

    def _end(self, done: np.ndarray, n: int) -> None:
        if not done.any():
            return
        self.episodes += int(done.sum())
        if len(self._running) == n:
            self._returns.extend(self._running[done].tolist())
            self._running[done] = 0.0

    def take(self, rows: int) -> tuple[Obs, Obs, dict[str, Tensor]] | None:
        """At least ``rows`` rows, as tensors (the teacher's view, the student's, further columns); None for fewer."""
        with self._lock:
            if self._waiting < rows:
                return None
            taken: list[Seen] = []
            while rows > 0:
                taken.append(self._rows.popleft())
                rows -= taken[-1].rows
                self._waiting -= taken[-1].rows
        obs = _joined([s.obs for s in taken])
        told = obs if taken[0].teacher_obs is None else _joined([s.teacher_obs for s in taken])
        names = taken[0].extra
        return told, obs, {k: torch.from_numpy(np.concatenate([s.extra[k] for s in taken])) for k in names}


def _copied(value: Any, batched: bool) -> Any:
    if isinstance(value, Mapping):
        return {k: _copied(v, batched) for k, v in value.items()}
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    copied = np.array(value)
    return copied if batched else copied[None]


def _joined(parts: list[Any]) -> Obs:
    if any(part is None for part in parts):
        raise SpaceError("space.observation", "observations with and without teacher_obs", "one of the two")
    if isinstance(parts[0], dict):
        return obs_tensor({k: np.concatenate([p[k] for p in parts]) for k in parts[0]})
    return obs_tensor(np.concatenate(parts))
