"""Epochs with a look at the validation rows after each: the best student is kept; it plays with no test rows."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic

import torch
from torch import Tensor
from typing_extensions import TypeVar

from policykd.clock import Clock
from policykd.errors import UsageError
from policykd.learner import Learner
from policykd.policy import Taught
from policykd.prediction import Prediction, Update
from policykd.supervised.epochs import Labels, Reads, epochs
from policykd.supervised.examples import MISSING, View
from policykd.supervised.scores import ClassScore, score

__all__ = ["EpochLook", "Fitted", "fit", "follow_buffers"]

S = TypeVar("S", bound=Taught, default=Any)


@dataclass(frozen=True, eq=False)
class EpochLook:
    """What an epoch came to."""

    epoch: int
    """Epochs that are over."""
    examples: int
    """Seen so far."""
    found: ClassScore
    """On the validation rows."""
    update: Update
    """The epoch's last."""
    best: bool
    """Whether no epoch before was as good."""


@dataclass(frozen=True, eq=False)
class Fitted(Generic[S]):
    """A student as it was after its best epoch."""

    student: S
    best: EpochLook
    looks: tuple[EpochLook, ...]
    stopped_by: str
    """``budget``, or ``patience``: no better epoch in so many."""


def fit(
    learner: Learner[S],
    loader: Iterable[Any],
    count: int,
    *,
    validation: Callable[[S], Prediction],
    label: Tensor,
    validation_target: Prediction | None = None,
    teacher: Labels | None = None,
    view: View | None = None,
    student_view: View | None = None,
    prepare: Reads | None = None,
    patience: int | None = None,
    seed: int = 0,
    clock: Clock | None = None,
    on_update: Callable[[Update], None] | None = None,
    on_look: Callable[[EpochLook], None] | None = None,
) -> Fitted[S]:
    """Run ``epochs`` and keep the averaged student of the epoch with the best validation.

    The best is the one of the lowest -log probability of the labels; where no validation row has one, of what the
    teacher takes for the truth. Accuracy would choose by luck: on 170 rows it moves in steps of 0.6 points, and the
    first of a hundred epochs to have a good day is not the best.

    Args:
        learner, loader, count, teacher, view, student_view, prepare, seed, clock: as of ``epochs``.
        validation: what a student says of the validation rows (``lambda s: s.label(inputs)``).
        label: their labels, long ``[n, ...]``.
        validation_target: what the teacher says of them.
        patience: epochs without a better one after which it is over; None goes on to the end.
        on_update, on_look: told of every step and of every epoch.

    Raises:
        UsageError: ``supervised.patience``; ``score.labels`` for validation rows with neither label nor teacher; as
            ``epochs``.
    """
    if patience is not None and patience < 1:
        raise UsageError("supervised.patience", f"a patience of {patience} epochs", "1 or more")
    clock = clock or Clock()
    looks: list[EpochLook] = []
    best: float | None = None
    kept: S | None = None
    kept_look: EpochLook | None = None
    stopped_by, seen = "budget", 0
    labelled = bool((label != MISSING).any())
    for epoch in range(count):
        update: Update | None = None
        for update in epochs(
            learner, loader, count, teacher=teacher, view=view, student_view=student_view, prepare=prepare,
            begin=epoch, end=epoch + 1, seen=seen, seed=seed, clock=clock,
        ):  # fmt: skip
            if on_update is not None:
                on_update(update)
        assert update is not None  # epochs refuses a loader without a batch
        seen = update.progress.env_steps
        with clock.phase("evaluate"):
            follow_buffers(learner)
            said = validation(learner.averaged)
            truth = label if labelled or validation_target is None else validation_target.dist.mode()
            found = score(said, truth, validation_target)
        better = best is None or found.nll < best
        look = EpochLook(epoch + 1, seen, found, update, better)
        looks.append(look)
        if better:
            best, kept, kept_look = found.nll, copy.deepcopy(learner.averaged), look
        if on_look is not None:
            on_look(look)
        if patience is not None and kept_look is not None and epoch + 1 - kept_look.epoch >= patience:
            stopped_by = "patience"
            break
    assert kept is not None and kept_look is not None
    return Fitted(kept, kept_look, tuple(looks), stopped_by)


@torch.no_grad()
def follow_buffers(learner: Learner[Any]) -> None:
    """Give the averaged student the student's buffers: statistics of a normalising layer belong to its newest rows."""
    if learner.averaged is not learner.student:
        for own, theirs in zip(learner.averaged.buffers(), learner.student.buffers(), strict=True):
            own.copy_(theirs)
