"""What a teacher is to a loop that cannot wait for it; it judges no answer and keeps no books."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch

from policykd.policy import Policy
from policykd.prediction import Obs, Prediction

__all__ = ["Answer", "Local", "RemoteTeacher"]


class Answer(NamedTuple):
    """Labels for some questions, in any order."""

    ids: Any
    """Numbers of the questions, ``[n]``, integers as they were asked."""
    said: Prediction | Exception
    """The teacher's word on each, leading dimension ``[n]``; or the error that came instead: they are given up."""
    version: int = 0
    """Of the teacher that says so; a teacher that has changed counts up."""


@runtime_checkable
class RemoteTeacher(Protocol):
    """A teacher that answers when it can. Both calls return at once; either may raise where the teacher is gone."""

    def ask(self, ids: np.ndarray, obs: Obs) -> None:
        """Send questions off: numbers ``[n]`` (int64) and raw observations ``[n, ...]``."""

    def poll(self) -> Iterable[Answer | tuple[Any, Prediction | Exception, int]]:
        """Answers that have come in since the last call."""


class Local:
    """A Policy as a teacher that has answered by the time it is polled.

    Args:
        policy: the teacher.
        values: whether it is asked for values and features too.
    """

    def __init__(self, policy: Policy, *, values: bool) -> None:
        self.policy, self.values = policy, values
        self._answers: list[Answer] = []

    def says(self, obs: Obs) -> Prediction:
        """Its labels for raw observations, ``[n, ...]``."""
        with torch.no_grad():
            said: Prediction = self.policy(obs, values=self.values)
        return said

    def ask(self, ids: np.ndarray, obs: Obs) -> None:
        """Label the observations."""
        self._answers.append(Answer(ids, self.says(obs)))

    def poll(self) -> list[Answer]:
        """What was asked since the last call."""
        answers, self._answers = self._answers, []
        return answers
