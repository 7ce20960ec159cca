"""What a teacher is to a loop that cannot wait for it, and which of its words can be learnt from; it keeps no books."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from policykd.distributions import (
    Bernoulli,
    Categorical,
    Deterministic,
    DiagGaussian,
    Distribution,
    MultiCategorical,
    TanhGaussian,
    leading,
)
from policykd.policy import Policy
from policykd.prediction import Family, Obs, Prediction, Spec

__all__ = ["Answer", "Local", "RemoteTeacher", "below_infinity", "fits", "possible"]


class Answer(NamedTuple):
    """Labels for some questions, in any order."""

    ids: Any
    """Numbers of the questions, ``[n]``, integers as they were asked."""
    said: Prediction
    """The teacher's word on each, leading dimension ``[n]``."""
    version: int = 0
    """Of the teacher that says so; a teacher that has changed counts up."""


@runtime_checkable
class RemoteTeacher(Protocol):
    """A teacher that answers when it can. Both calls return at once; either may raise where the teacher is gone."""

    def ask(self, ids: np.ndarray, obs: Obs) -> None:
        """Send questions off: numbers ``[n]`` (int64) and raw observations ``[n, ...]``."""

    def poll(self) -> Iterable[Answer | tuple[Any, Prediction, int]]:
        """Answers that have come in since the last call."""


class Local:
    """A Policy as a teacher that has answered by the time it is polled.

    Args:
        policy: the teacher.
        values: whether it is asked for values and features too.
        version: of its labels.
    """

    def __init__(self, policy: Policy, *, values: bool, version: int = 0) -> None:
        self.policy, self.values, self.version = policy, values, version
        self._answers: list[Answer] = []

    def ask(self, ids: np.ndarray, obs: Obs) -> None:
        """Label the observations."""
        with torch.no_grad():
            self._answers.append(Answer(ids, self.policy(obs, values=self.values), self.version))

    def poll(self) -> list[Answer]:
        """What was asked since the last call."""
        answers, self._answers = self._answers, []
        return answers


_KINDS: dict[Family, tuple[type[Distribution], ...]] = {
    "categorical": (Categorical,),
    "multi_categorical": (MultiCategorical,),
    "bernoulli": (Bernoulli,),
    "diag_gaussian": (DiagGaussian, Deterministic),
    "deterministic": (DiagGaussian, Deterministic),
    "tanh_gaussian": (TanhGaussian, Deterministic),
    "tanh_deterministic": (TanhGaussian, Deterministic),
}


def fits(spec: Spec, dist: Distribution, n: int) -> bool:
    """Whether these are ``n`` laws over the student's actions."""
    return isinstance(dist, _KINDS[spec.family]) and leading(dist) == (n,)


def _finite(t: Tensor) -> Tensor:
    return t.reshape(len(t), -1).isfinite().all(1)


def below_infinity(t: Tensor) -> Tensor:
    """Rows of numbers of which none is NaN or infinite, but for -inf; ``[n]``."""
    return (t < torch.inf).reshape(len(t), -1).all(1)  # false for NaN


def possible(dist: Distribution) -> Tensor:
    """Rows that are a law: -inf is an action that cannot be taken, or a normal law without spread."""
    match dist:
        case Categorical(logits=logits):
            return below_infinity(logits) & (logits > -torch.inf).any(-1)
        case MultiCategorical(logits=logits, nvec=nvec):
            can = [(part > -torch.inf).any(-1) for part in logits.split(nvec, -1)]
            return below_infinity(logits) & torch.stack(can).all(0)
        case Bernoulli(logits=logits):
            return ~logits.isnan().any(-1)
        case DiagGaussian(mean=mean, log_std=log_std) | TanhGaussian(mean=mean, log_std=log_std):
            return _finite(mean) & below_infinity(log_std)
    return _finite(dist.action)
