"""Any blocking function as a teacher that answers when it can; it knows no protocol and keeps no secrets of its own."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from types import TracebackType

import numpy as np

from policykd.errors import UsageError
from policykd.online.answers import Answer
from policykd.prediction import Obs, Prediction

__all__ = ["Threaded"]


class Threaded:
    """Threads that call ``answer`` (a request over a network, a large model) while the caller goes on.

    Args:
        answer: observations ``[n, ...]`` to a Prediction for each, or to one and the teacher's version.
        workers: questions under way at the same time.
        waiting: questions that may queue; one too many pushes out the oldest, which is then never answered.

    The threads are daemons: they do not keep a program alive. ``close()``, or leaving a ``with`` block, ends them when
    their present question is answered.
    """

    def __init__(
        self, answer: Callable[[Obs], Prediction | tuple[Prediction, int]], *, workers: int = 1, waiting: int = 128
    ) -> None:
        if workers < 1 or waiting < 1:
            raise UsageError("online.workers", f"{workers} workers and {waiting} questions", "at least 1 of each")
        self._answer = answer
        self._asked: deque[tuple[np.ndarray, Obs]] = deque(maxlen=waiting)
        self._said: deque[Answer] = deque(maxlen=waiting)
        self._wake = threading.Condition()
        self._closed = False
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(workers)]
        for thread in self._threads:
            thread.start()

    def ask(self, ids: np.ndarray, obs: Obs) -> None:
        """Queue a question."""
        with self._wake:
            if self._closed:
                raise UsageError("online.closed", "a question to a teacher that was closed", "an open one")
            self._asked.append((ids, obs))
            self._wake.notify()

    def poll(self) -> list[Answer]:
        """Answers that have come in; where ``answer`` raised, that error is the answer."""
        answers: list[Answer] = []
        while self._said:
            answers.append(self._said.popleft())
        return answers

    def close(self) -> None:
        """Take no more questions, and let the threads end."""
        with self._wake:
            self._closed = True
            self._asked.clear()
            self._wake.notify_all()

    def __enter__(self) -> Threaded:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _work(self) -> None:
        while True:
            with self._wake:
                while not (self._asked or self._closed):
                    self._wake.wait()
                if self._closed:
                    return
                ids, obs = self._asked.popleft()
            try:
                said = self._answer(obs)
                known, version = said if isinstance(said, tuple) else (said, 0)
                self._said.append(Answer(ids, known, version))
            except Exception as error:
                self._said.append(Answer(ids, error))
