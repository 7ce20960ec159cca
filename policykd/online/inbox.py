"""What a loop has seen and nobody has asked about yet, handed from the acting to the learning thread; never a label."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from policykd.online.columns import Columns, View, fitted, gathered, kinds_of, like, mapped, numbers, usable
from policykd.prediction import Obs, Spec, obs_tensor, rows_of

__all__ = ["Inbox", "Seen"]


class Seen(NamedTuple):
    """Rows that were observed together: ``[n, ...]`` each."""

    obs: Any
    teacher_obs: Any
    extra: Mapping[str, np.ndarray]
    rows: int
    view: Columns
    """What columns ``teacher_obs`` is, none where there is none."""


class Inbox:
    """A queue between two threads; the oldest rows fall out where it holds too many, and are counted.

    Args:
        spec: of the student: what one observation is.
        room: rows held at most.

    Attributes:
        observed: rows that ever came in.
        overflowed: rows that fell out.
        unusable: rows that cannot be asked about.
        episodes: that ended.
    """

    def __init__(self, spec: Spec, room: int) -> None:
        self.spec, self.room = spec, room
        self.observed = self.overflowed = self.unusable = self.episodes = 0
        self._returns: deque[float] = deque(maxlen=100)
        self._rows: deque[Seen] = deque()
        self._waiting = 0
        self._view: View | None = None
        self._obs: Columns = {}
        self._shown: Columns | None = None
        self._extra: Columns | None = None
        self._running = np.zeros(0)
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._waiting

    def put(self, obs: Any, reward: Any, done: Any, teacher_obs: Any, extra: Mapping[str, Any]) -> None:
        """Take in one observation, or a batch of them; copied, as environments write where they lie.

        Raises:
            SpaceError, UsageError: see ``columns.gathered``, ``fitted``, ``numbers`` and ``like``; nothing is taken in
                then.
        """
        with self._lock:
            seen, shown, more = gathered(self.spec, self._view, obs, teacher_obs, extra)
            seen = fitted("obs", self.spec.observation_space, seen, self._obs)
            if self._view is not None and shown is not None:
                shown = fitted("teacher_obs", self._view.spec.observation_space, shown, self._shown or {})
            n, good = rows_of(seen), usable(seen, shown)
            rewards = None if reward is None else numbers("reward", reward, n, float)
            ends = None if done is None else numbers("done", done, n, bool)
            view, more = self._like_the_first(shown, more)
            rows = n if good is None else int(good.sum())
            if good is not None:
                seen, shown, more = (mapped(part, lambda column: column[good]) for part in (seen, shown, more))
            self.observed += n
            self.unusable += n - rows
            if rows:
                self._obs = self._obs or kinds_of(seen, {}, "obs")
                self._queue(Seen(seen, shown, more, rows, view))
            self._count(rewards, ends, n)

    def renew(self, view: View | None) -> None:
        """Rows to come are for another teacher; those that it cannot read are given up.

        Args:
            view: of the teacher, None where it is not known.
        """
        with self._lock:
            self._view, self._shown = view, None
            if view is None:
                return
            kept = [seen for seen in self._rows if view.reads(seen.obs, seen.teacher_obs)]
            waiting = sum(seen.rows for seen in kept)
            self.unusable += self._waiting - waiting
            self._rows, self._waiting = deque(kept), waiting

    def recent(self) -> list[float]:
        """Returns of the last hundred episodes."""
        with self._lock:
            return list(self._returns)

    def take(self, rows: int) -> tuple[Obs, Obs, dict[str, Tensor]] | None:
        """At least ``rows`` rows, as tensors (the teacher's view, the student's, further columns); None for fewer.

        Rows of several kinds of ``teacher_obs``, as there are after ``renew``, are not taken together: there may be
        fewer then.
        """
        with self._lock:
            if self._waiting < rows:
                return None
            taken: list[Seen] = []
            while rows > 0 and not (taken and self._rows[0].view != taken[0].view):
                taken.append(self._rows.popleft())
                rows -= taken[-1].rows
                self._waiting -= taken[-1].rows
        obs = _joined([s.obs for s in taken])
        shown = obs if taken[0].teacher_obs is None else _joined([s.teacher_obs for s in taken])
        names = taken[0].extra
        return shown, obs, {k: torch.from_numpy(np.concatenate([s.extra[k] for s in taken])) for k in names}

    def _like_the_first(self, shown: Any, more: dict[str, np.ndarray]) -> tuple[Columns, dict[str, np.ndarray]]:
        """Further columns, held to those of the first row that ever came, and of the first under this teacher."""
        view = kinds_of(shown, {}) if self._shown is None else self._shown
        extra = kinds_of(None, more) if self._extra is None else self._extra
        more = like(view | extra, shown, more)
        self._shown, self._extra = view, extra
        return view, more

    def _queue(self, seen: Seen) -> None:
        self._rows.append(seen)
        self._waiting += seen.rows
        while self._waiting > self.room and len(self._rows) > 1:
            lost = self._rows.popleft().rows
            self._waiting -= lost
            self.overflowed += lost

    def _count(self, rewards: np.ndarray | None, ends: np.ndarray | None, n: int) -> None:
        if rewards is not None:
            if len(self._running) != n:
                self._running = np.zeros(n)
            self._running += rewards
        if ends is not None and ends.any():
            self.episodes += int(ends.sum())
            if len(self._running) == n:
                self._returns.extend(self._running[ends].tolist())
                self._running[ends] = 0.0


def _joined(parts: list[Any]) -> Obs:
    if isinstance(parts[0], dict):
        return obs_tensor({k: np.concatenate([p[k] for p in parts]) for k in parts[0]})
    return obs_tensor(np.concatenate(parts))
