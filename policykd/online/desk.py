"""Asking a teacher that may be slow, remote, out of order or dead, and believing only what fits; it never learns.

A question is a block of observations with consecutive numbers. An answer may hold any of them, whenever it comes; what
becomes of each row of it is counted, and none is believed twice.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from policykd.errors import PolicykdError
from policykd.online.answers import RemoteTeacher
from policykd.online.labels import Kind, Unread, opened
from policykd.prediction import Batch, Obs, Prediction, Spec, map_obs, rows_of

__all__ = ["Counts", "Desk", "Question"]

_IN_A_ROW = 2
"""Errors in the place of answers that are an outage: of many requests one fails now and then."""


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
    """What the teacher raised last, or what came in the place of answers, until it answers again."""
    refused: str | None = None
    """Why the last answer that was refused whole was no label, until one is believed."""
    open: int = 0
    """Rows that wait for an answer."""
    post: deque[tuple[Any, int]] = field(default_factory=deque)
    """Answers that have come and are not read, with what to add to their version."""

    def __post_init__(self) -> None:
        """Begin with empty books."""
        self.kind = Kind(self.spec)
        self._questions: OrderedDict[int, Question] = OrderedDict()
        self._firsts = np.empty(0, np.int64)
        self._given_up: OrderedDict[int, None] = OrderedDict()
        self._next, self._highest, self._offset = 0, -1, 0
        self.hire(self.teacher)

    def hire(self, teacher: RemoteTeacher) -> None:
        """Ask this teacher from now on; its versions count on from the newest so far.

        What the old one has answered is read in its turn; its other questions are given up, as nobody polls it again.
        """
        if self.open:
            with suppress(PolicykdError):
                self._poll()
        self._old_post, self._old_next = len(self.post), self._next
        self._dismiss()
        self.teacher, self.error, self.refused = teacher, None, None
        self._errors = _IN_A_ROW - 1  # who has never answered is not believed to have failed by chance

    def ask(self, seen: Obs, obs: Obs, extra: Mapping[str, Tensor]) -> bool:
        """Put ``n`` observations to the teacher; whether it took the question.

        Args:
            seen: the teacher's view, ``[n, ...]``.
            obs: the student's, which a label will stand beside.
            extra: further columns of these rows.
        """
        n = rows_of(seen)
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
        if not self.post:
            self._poll()

    def _poll(self) -> None:
        try:
            self.post.extend((answer, self._offset) for answer in self.teacher.poll())
        except PolicykdError:
            raise
        except Exception as error:
            self._fail(error)

    def read(self) -> list[Batch]:
        """Rows whose label is in the next answer; ``extra["version"]`` says of which teacher.

        Raises:
            PolicykdError: that came in the place of an answer.
        """
        answer, offset = self.post.popleft()
        old = self._old_post > 0
        self._old_post -= old
        try:
            return self._judged(answer, offset, old)
        finally:
            if old and not self._old_post:
                self._dismiss()

    def _judged(self, answer: Any, offset: int, old: bool) -> list[Batch]:
        try:
            ids, said, version = opened(answer)
            if isinstance(said, Exception):
                self._lose(ids, said, old)
                return []
            self.kind.check(said, len(ids))
        except Unread as unread:
            self.counts.invalid += unread.rows
            self.refused = unread.why
            return []
        return self._read(ids, said, version + offset)

    def _fail(self, error: Exception) -> None:
        self.error = error
        self.counts.failures += 1

    def _lose(self, ids: np.ndarray, error: Exception, old: bool) -> None:
        """Give up questions that an error is the answer to, of the ``old`` teacher or of this one."""
        self.counts.failures += 1
        ids = np.unique(ids[(ids >= 0) & (ids < self._next)])
        for question, which in self._places(ids):
            if question is not None:
                at = ids[which] - question.first
                at = at[at < len(question.open)]
                self._give_up(question, at[question.open[at]])
        self._tidy()
        if isinstance(error, PolicykdError):
            raise error  # as if it had been raised by ``ask``
        if old:
            return
        self._errors += 1
        if self._errors >= _IN_A_ROW:
            self.error = error

    def _read(self, ids: np.ndarray, said: Prediction, version: int) -> list[Batch]:
        sound = self.kind.sound(said)
        unknown = (ids < 0) | (ids >= self._next)
        self.counts.unknown += int(unknown.sum())
        self.counts.invalid += int((~sound & ~unknown).sum())
        if len(sound) and not sound.any():
            self.refused = "its labels are NaN or infinite"
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
        found = []
        for question, which in self._places(ids[rows]):
            mine = rows[which]
            mine = mine[self._believed(question, ids[mine])]
            if len(mine) == 0 or question is None:
                continue
            question.open[ids[mine] - question.first] = False
            self.open -= len(mine)
            self.error, self.refused, self._errors = None, None, 0
            if dropped:
                self.counts.stale_dropped += len(mine)
                continue
            self.counts.answered += len(mine)
            self.counts.reordered += int((ids[mine] < self._highest).sum())
            self._highest = max(self._highest, int(ids[mine].max()))
            found.append(self._batch(question, ids[mine] - question.first, said, mine, version))
        self._tidy()
        return found

    def _places(self, ids: np.ndarray) -> Iterator[tuple[Question | None, np.ndarray]]:
        """The questions that some numbers may be of, None for one that is closed, with which of them (``[n]`` bool)."""
        places = np.searchsorted(self._firsts, ids, "right") - 1
        for place in np.unique(places):
            yield self._questions.get(int(self._firsts[place])) if place >= 0 else None, places == place

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
        where = torch.from_numpy(at)
        extra = {k: t[where] for k, t in question.extra.items()}
        extra["version"] = torch.full((len(at),), version, dtype=torch.int64)
        return Batch(map_obs(question.obs, lambda t: t[where]), self.kind.taken(said, rows), extra=extra)

    def _close(self) -> None:
        """Give up the oldest questions where there are more than there is room for."""
        for question in self._questions.values():
            if self.open <= self.room:
                break
            self._give_up(question, np.flatnonzero(question.open))
        self._tidy()

    def _dismiss(self) -> None:
        """Give up the old teacher's questions, but for those that its unread answers are about; count on from it."""
        about = [np.empty(0, np.int64)]
        for answer, _ in islice(self.post, self._old_post):
            with suppress(Unread):
                about.append(opened(answer)[0])
        ids = np.concatenate(about)
        for question in self._questions.values():
            if question.first < self._old_next:
                at = np.flatnonzero(question.open)
                self._give_up(question, at[~np.isin(question.first + at, ids)])
        self._tidy()
        newest = self.counts.version
        self._offset = 0 if newest is None else newest + 1

    def _give_up(self, question: Question, at: np.ndarray) -> None:
        """Wait no longer for rows of a question that are open."""
        question.open[at] = False
        self.open -= len(at)
        self.counts.missing += len(at)
        self._given_up.update(dict.fromkeys((question.first + at).tolist()))
        while len(self._given_up) > self.room:
            self._given_up.popitem(last=False)

    def _tidy(self) -> None:
        """Forget the questions that wait for nothing."""
        for first in [q.first for q in self._questions.values() if not q.open.any()]:
            del self._questions[first]
        self._firsts = np.fromiter(self._questions, np.int64, len(self._questions))
