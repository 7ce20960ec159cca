"""Teachers that answer as they are told, and small online students, for the tests of the room ``online``."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from toys import CARTPOLE, Balancer

from policykd import students
from policykd.distributions import Categorical
from policykd.online import Answer, OnlineDistiller
from policykd.prediction import Obs, Prediction


class Gone(ConnectionError):
    """A teacher that cannot be reached."""


def seen(number: int) -> np.ndarray:
    """Observation number so and so."""
    return np.random.default_rng(number).normal(size=4).astype(np.float32)


def right(ids: Any, obs: Tensor, version: int = 0, **rest: Any) -> Answer:
    """What Balancer's kind would say of these, in the right form."""
    return Answer(ids, Prediction(Categorical(torch.stack([obs[:, 2], -obs[:, 2]], -1)), **rest), version)


def said(n: int = 4, **rest: Any) -> Prediction:
    """A law for each of ``n`` rows that prefers nothing."""
    return Prediction(Categorical(torch.zeros(n, 2)), **rest)


def distiller(teacher: Any = None, loss: Any = None, **how: Any) -> OnlineDistiller:
    """A small student of CartPole's spaces, its blocks of four."""
    small: dict[str, Any] = dict(ask_rows=4, warm_up=8, batch_size=8, rows_per_update=4, open_rows=64)
    return OnlineDistiller(students.mlp(CARTPOLE, (8,), seed=3), teacher or Balancer(3.0), loss, **{**small, **how})


def live(online: OnlineDistiller, blocks: int, first: int = 0) -> list[str]:
    """Four observations, then an update, so many times; what was warned of."""
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        for block in range(first, first + blocks):
            for i in range(4 * block, 4 * block + 4):
                online.observe(seen(i))
            online.update()
    return [str(w.message) for w in heard]


class Plan:
    """A remote teacher; ``plan`` says of each question how it is answered: ``.`` rightly, ``x`` by an error."""

    def __init__(self, plan: str, make: Callable[..., Answer] = right) -> None:
        self.plan, self.make = plan, make
        self.questions: list[tuple[np.ndarray, Tensor]] = []
        self._read = 0

    def ask(self, ids: np.ndarray, obs: Obs) -> None:
        assert isinstance(obs, Tensor)
        self.questions.append((ids, obs))

    def poll(self) -> list[Answer]:
        new, self._read = self.questions[self._read :], len(self.questions)
        at = range(self._read - len(new), self._read)
        fates = [self.plan[i] if i < len(self.plan) else "." for i in at]
        return [
            Answer(ids, Gone("no route")) if fate == "x" else self.make(ids, obs)
            for fate, (ids, obs) in zip(fates, new, strict=True)
        ]


class Odd:
    """A teacher that answers each block with whatever ``make`` makes of its numbers; then rightly, where it may."""

    def __init__(self, make: Callable[[np.ndarray, Tensor], list[Any]]) -> None:
        self.make = make
        self._answers: list[Any] = []

    def ask(self, ids: np.ndarray, obs: Obs) -> None:
        assert isinstance(obs, Tensor)
        self._answers += self.make(ids, obs)

    def poll(self) -> list[Any]:
        answers, self._answers = self._answers, []
        return answers
