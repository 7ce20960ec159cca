"""How well the student that acts does on labels before it learns from them; it measures no returns."""

from __future__ import annotations

from typing import Any, final

from torch import Tensor

from policykd.evaluation import Kept, compare_on
from policykd.policy import Policy
from policykd.prediction import Batch, Obs, Prediction, Spec

__all__ = ["Ahead"]

_ROWS = 1_000
"""Rows over which the means fade."""


@final
class _Quoted(Policy):
    """A teacher as far as it has answered."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.said: Prediction | None = None

    def forward(self, obs: Obs, state: Any = None, start: Tensor | None = None, *, values: bool = True) -> Prediction:
        assert self.said is not None
        return self.said

    @property
    def acting_parameters(self) -> int:
        return 0


class Ahead:
    """Fading means of what ``compare_on`` says of new labels (test, then train: Dawid 1984, JRSS A 147).

    Attributes:
        agreement: share of rows on which student and teacher would act alike; None before the first.
        divergence: mean KL(teacher || student) in nats; None also where there is none.
    """

    def __init__(self, spec: Spec) -> None:
        self.agreement: float | None = None
        self.divergence: float | None = None
        self._quoted = _Quoted(spec)

    def compare(self, batch: Batch, student: Policy) -> Kept:
        """What ``student`` keeps of some labels' actions, ``[n]``."""
        self._quoted.said = Prediction(batch.target.dist)
        return compare_on(batch.obs, student, self._quoted)

    def see(self, batch: Batch, student: Policy) -> None:
        """Take in new labels, ``[n]``."""
        kept = self.compare(batch, student)
        share = min(1.0, len(batch) / _ROWS)
        self.agreement = _faded(self.agreement, kept.agreement, share)
        if kept.kl is not None:
            self.divergence = _faded(self.divergence, kept.kl, share)


def _faded(mean: float | None, new: float, share: float) -> float:
    return new if mean is None else mean + share * (new - mean)
