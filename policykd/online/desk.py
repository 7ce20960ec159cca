"""Asking a teacher that may be slow, remote, out of order or dead, and believing only what fits; it never learns.

A question is a block of observations with consecutive numbers. An answer may hold any of them, whenever it comes; what
becomes of each row of it is counted, and none is believed twice.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from policykd.errors import PolicykdError
from policykd.online.answers import Answer, RemoteTeacher, below_infinity, fits, possible
from policykd.prediction import Batch, Obs, Prediction, Spec, map_obs

__all__ = ["Counts", "Desk", "Question"]


@dataclass(eq=False)
class Question:
    """A block of observations that were asked about, and which rows of it are still open."""

    first: int
    obs: Obs
    extra: Mapping[str, Tensor]
    open: np.ndarray


@dataclass
class Counts:
    """What became of questions and answers, in rows."""

    asked: int = 0
    answered: int = 0
    reordered: int = 0
    late: int = 0
    duplicated: int = 0
    unknown: int = 0
    missing: int = 0
    invalid: int = 0
    stale_dropped: int = 0
    failures: int = 0
    version: int | None = None


@dataclass(eq=False)
class Desk:
    """Puts questions to a teacher and keeps the books.

    Args:
        teacher: whom to ask.
        spec: of the student: an answer of another family or width is invalid.
        room: open questions held at most, in rows; the oldest are given up.
        behind: versions that an answer may be behind the newest and still be believed; None for any number.
    """

    teacher: RemoteTeacher
    spec: Spec
    room: int
    behind: int | None = None
    counts: Counts = field(default_factory=Counts)
    error: Exception | None = None
    """What the teacher raised last, until it answers again."""
    open: int = 0
    """Rows that wait for an answer."""
    post: deque[Answer] = field(default_factory=deque)
    """Answers that have come and are not read."""

    def __post_init__(self) -> None:
        """Begin with empty books."""
        self._questions: OrderedDict[int, Question] = OrderedDict()
        self._firsts = np.empty(0, np.int64)
        self._given_up: OrderedDict[int, None] = OrderedDict()
        self._next, self._highest = 0, -1
        self._shapes: list[torch.Size] | None = None

    def ask(self, seen: Obs, obs: Obs, extra: Mapping[str, Tensor]) -> bool:
        """Put ``n`` observations to the teacher; whether it took the question.

        Args:
            seen: the teacher's view, ``[n, ...]``.
            obs: the student's, which a label will stand beside.
            extra: further columns of these rows.
        """
        first = next(iter(seen.values())) if isinstance(seen, dict) else seen
        n = len(first)
        ids = np.arange(self._next, self._next + n)
        try:
            self.teacher.ask(ids, seen)
        except PolicykdError:
            raise  # a question that makes no sense, not a teacher that is gone
        except Exception as error:
            self._fail(error)
            return False
        self._questions[self._next] = Question(self._next, obs, extra, np.ones(n, bool))
        self._next += n
        self.counts.asked += n
        self.open += n
        self._close()
        return True

    def fetch(self) -> None:
        """Take in the teacher's answers, once all that it gave before have been read."""
        if self.post:
            return
        try:
            self.post.extend(Answer(*answer) for answer in self.teacher.poll())
        except PolicykdError:
            raise
        except Exception as error:
            self._fail(error)

    def read(self) -> list[Batch]:
        """Rows whose label is in the next answer; ``extra["version"]`` says of which teacher."""
        return self._read(self.post.popleft())

    def _fail(self, error: Exception) -> None:
        self.error = error
        self.counts.failures += 1

    def _read(self, answer: Answer) -> list[Batch]:
        ids, version = np.asarray(answer.ids, np.int64).reshape(-1), int(answer.version)
        sound = self._sound(answer.said, len(ids))
        if sound is None:
            self.counts.invalid += len(ids)
            return []
        unknown = (ids < 0) | (ids >= self._next)
        self.counts.unknown += int(unknown.sum())
        self.counts.invalid += int((~sound & ~unknown).sum())
        rows = np.flatnonzero(sound & ~unknown)
        if len(rows) == 0:
            return []
        newest = version if self.counts.version is None else max(version, self.counts.version)
        self.counts.version = newest
        # The first of several labels for one question counts.
        _, firsts = np.unique(ids[rows], return_index=True)
        self.counts.duplicated += len(rows) - len(firsts)
        rows = rows[np.sort(firsts)]
        # A label that cannot be wrong in itself may still come from a teacher that has changed since.
        dropped = self.behind is not None and newest - version > self.behind
        found, places = [], np.searchsorted(self._firsts, ids[rows], "right") - 1
        for place in np.unique(places):
            mine = rows[places == place]
            question = self._questions.get(int(self._firsts[place])) if place >= 0 else None
            believed = self._believed(question, ids[mine])
            mine = mine[believed]
            if len(mine) == 0 or question is None:
                continue
            question.open[ids[mine] - question.first] = False
            self.open -= len(mine)
            self.error = None
            if dropped:
                self.counts.stale_dropped += len(mine)
                continue
            self.counts.answered += len(mine)
            self.counts.reordered += int((ids[mine] < self._highest).sum())
            self._highest = max(self._highest, int(ids[mine].max()))
            found.append(self._batch(question, ids[mine] - question.first, answer.said, mine, version))
        self._forget([q.first for q in self._questions.values() if not q.open.any()])
        return found

    def _believed(self, question: Question | None, ids: np.ndarray) -> np.ndarray:
        """Which of these answers a question still waits for; the others are counted."""
        if question is not None:
            inside = ids - question.first < len(question.open)
            open_ = np.zeros(len(ids), bool)
            open_[inside] = question.open[ids[inside] - question.first]
        else:
            open_ = np.zeros(len(ids), bool)
        late = sum(self._was_given_up(i) for i in ids[~open_].tolist())
        self.counts.late += late
        self.counts.duplicated += int((~open_).sum()) - late
        return open_

    def _was_given_up(self, number: int) -> bool:
        """Whether this question was given up, once for each; of very old ones it is forgotten."""
        there = number in self._given_up
        self._given_up.pop(number, None)
        return there

    def _batch(self, question: Question, at: np.ndarray, said: Prediction, rows: np.ndarray, version: int) -> Batch:
        where, which = torch.from_numpy(at), torch.from_numpy(rows)
        extra = {k: t[where] for k, t in question.extra.items()}
        extra["version"] = torch.full((len(at),), version, dtype=torch.int64)
        label = Prediction(said.dist, said.value, said.q, said.features).map(lambda t: t.detach()[which])
        return Batch(map_obs(question.obs, lambda t: t[where]), label, extra=extra)

    def _close(self) -> None:
        """Give up the oldest questions where there are more than there is room for."""
        self._firsts = np.fromiter(self._questions, np.int64, len(self._questions))
        old: list[int] = []
        for question in self._questions.values():
            if self.open <= self.room:
                break
            waiting = np.flatnonzero(question.open)
            self.open -= len(waiting)
            self.counts.missing += len(waiting)
            self._given_up.update(dict.fromkeys((question.first + waiting).tolist()))
            old.append(question.first)
        self._forget(old)
        while len(self._given_up) > self.room:
            self._given_up.popitem(last=False)

    def _forget(self, firsts: list[int]) -> None:
        for first in firsts:
            del self._questions[first]
        if firsts:
            self._firsts = np.fromiter(self._questions, np.int64, len(self._questions))

    def _sound(self, said: Prediction, n: int) -> np.ndarray | None:
        """Which rows are numbers that can be learnt from; None where the answer is not of the student's kind."""
        if not fits(self.spec, said.dist, n):
            return None
        rest = [t for t in (said.value, said.q, *said.features.values()) if t is not None]
        shapes = [t.shape[1:] for t in (*vars(said.dist).values(), *rest) if isinstance(t, Tensor)]
        if shapes[0][-1] != self.spec.action_width or shapes != (self._shapes or shapes):
            return None
        good = possible(said.dist)
        for t in rest:
            good = good & below_infinity(t)
        if bool(good.any()):
            self._shapes = shapes
        return good.cpu().numpy()
