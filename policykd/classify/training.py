"""One training of a classifier: on true labels, or on what a teacher says; it sees no test rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from policykd.class_config import ClassifyConfig
from policykd.classifiers import Classifier, Shape
from policykd.classify.objectives import FEATURES, objective, tapped
from policykd.classify.seeing import joined, parts
from policykd.clock import Clock
from policykd.datasets import Labelled
from policykd.learner import Learner
from policykd.losses import Objective, PairLoss, Weighted, label_nll
from policykd.policy import Taught
from policykd.prediction import Prediction, Update, rows_of
from policykd.supervised import MISSING, EpochLook, Fitted, Rows, View, answers, cosine, fit
from policykd.supervised.examples import Inputs, take_inputs
from policykd.taps import Tapped

__all__ = ["Course", "OnLook", "OnUpdate", "distil", "rate", "train_classifier"]

_EPOCHS, _STEPS = 20, 2_000
"""Passes over the training rows, and steps that they make at least."""

_KEPT = 2**30
"""Bytes of a teacher's features that are kept in memory; where there are more, it is asked again each epoch."""

OnUpdate = Callable[[str, Update], None]
OnLook = Callable[[str, EpochLook], None]


def rate(shape: Shape | None, usual: float) -> float:
    """The learning rate that suits a shape."""
    # Of a word's embedding only the batches that hold it move it.
    return 1e-2 if shape is not None and shape.kind in ("bag", "bag2") else usual


class Course:
    """What all trainings of a run share: settings, clock, listeners, history.

    Args:
        rows: of training; an epoch of students has as many batches as they make.
        view, copies: what students see beside the rows, or in their place.
    """

    def __init__(
        self,
        config: ClassifyConfig,
        rows: int,
        clock: Clock,
        on_update: OnUpdate | None = None,
        on_look: OnLook | None = None,
        *,
        view: View | None = None,
        copies: int = 0,
    ) -> None:
        self.config, self.clock, self.on_update, self.on_look = config, clock, on_update, on_look
        self.view, self.copies = view, copies
        self.batches = math.ceil(rows / config.batch_size)
        self.epochs = config.epochs or max(_EPOCHS, math.ceil(_STEPS / self.batches))
        self.history: list[dict[str, Any]] = []

    def said(self, teacher: Classifier, inputs: Inputs) -> Prediction:
        """What a teacher says of rows that nothing is learnt from; from the cache where there is one."""
        return answers(teacher, inputs, cache=self.config.cache, clock=self.clock).target

    def rate(self, student: Classifier) -> float:
        """A student's learning rate."""
        return self.config.learning_rate or rate(student.shape, 3e-3)

    def told(self, who: str) -> dict[str, Any]:
        """The clock and the listeners of one training."""

        def update(made: Update) -> None:
            if self.on_update is not None:
                self.on_update(who, made)

        def look(made: EpochLook) -> None:
            entry = {"who": who, "epoch": made.epoch, "examples": made.examples}
            self.history.append({**entry, "accuracy": made.found.accuracy.value})
            if self.on_look is not None:
                self.on_look(who, made)

        return {"clock": self.clock, "on_update": update, "on_look": look}


def train_classifier(
    student: Classifier,
    data: Labelled,
    *,
    epochs: int = 20,
    batch_size: int = 128,
    learning_rate: float = 0.003,
    average: float = 0.99,
    patience: int | None = None,
    seed: int = 0,
    batches: int | None = None,
    loss: Weighted | Objective | PairLoss = label_nll,
    view: View | None = None,
    clock: Clock | None = None,
    on_update: Callable[[Update], None] | None = None,
    on_look: Callable[[EpochLook], None] | None = None,
) -> Fitted[Classifier]:
    """Teach a classifier the true labels of the training rows that have one: a teacher, or a student alone.

    Args:
        student: is changed; the best one on the validation rows is in the result.
        batches: in an epoch; None: as many as the labelled rows make.
        loss: on labels.
        view: an augmentation (``supervised.views``).
        epochs, batch_size, learning_rate, average, patience, seed: as of ClassifyConfig.
        clock, on_update, on_look: as of ``supervised.fit``.

    Raises:
        UsageError: ``supervised.empty`` without a labelled row; ``label.range``.
    """
    kept = torch.where(data.train.labels != MISSING)[0]
    rows = Rows(
        student.prepare(take_inputs(data.train.inputs, kept)),
        data.train.labels[kept],
        soft=None if data.train.soft is None else data.train.soft[kept],
        batch_size=batch_size,
        batches=batches,
        seed=seed,
    )
    learner = Learner(student, loss, lr=cosine(learning_rate), average=average or None)
    held = student.prepare(data.validation.inputs)
    return fit(
        learner,
        rows,
        epochs,
        validation=lambda s: s.label_all(held),
        label=data.validation.labels,
        view=view,
        patience=patience,
        seed=seed,
        clock=clock,
        on_update=on_update,
        on_look=on_look,
    )


def distil(
    teacher: Classifier,
    student: Classifier,
    data: Labelled,
    loss: Weighted | Objective | PairLoss | None,
    course: Course,
    who: str = "student",
) -> tuple[Fitted[Classifier], dict[str, Any]]:
    """Teach ``student`` what ``teacher`` says of the training rows; the best one, and what the teacher was asked.

    Args:
        loss: None for the one that the configuration names.
        who: what the listeners are told.
    """
    config = course.config
    pieces, view = parts(data, config, course.view, course.copies)
    whole = joined(pieces)
    inputs, label = whole.inputs, whole.label
    features = loss is None and config.loss in FEATURES
    asking, learning = tapped(teacher, student, config.loss) if features else (teacher, student)
    chosen = objective(config, _widths(asking, learning, inputs, config)) if loss is None else loss
    # What a loss of the user's own compares are the teacher's taps.
    heard = tuple(asking.names) if isinstance(asking, Tapped) else tuple(teacher.taps) if loss is not None else ()
    on_the_fly = view is not None or not _fits(asking, inputs, heard)
    labelling: dict[str, Any] = {"rows": len(label), "hit_rate": 0.0, "seconds": None, "on_the_fly": on_the_fly}
    target: Prediction | None = None
    before = course.clock.cpu["label"]
    if not on_the_fly:
        # Activations are too many for the disk.
        cache = None if heard else config.cache
        first, *views_of = (answers(asking, p.inputs, cache=cache, features=heard, clock=course.clock) for p in pieces)  # type: ignore[arg-type]
        said = sum(views_of, first)
        target = said.target
        labelling |= {"hit_rate": said.hit_rate}
        labelling |= {"other_teachers": said.other_teachers, "other_data": said.other_data}
    # The teacher reads raw inputs; the student's own encoding is made once where nobody else needs them.
    raw = on_the_fly and isinstance(inputs, tuple)
    loader = Rows(
        inputs if raw else student.prepare(inputs),
        label,
        soft=whole.soft,
        target=target,
        batch_size=config.batch_size,
        batches=course.batches,
        seed=config.seed,
    )
    learner: Learner[Any] = Learner(learning, chosen, lr=cosine(course.rate(student)), average=config.average or None)
    held = student.prepare(data.validation.inputs)
    made = fit(
        learner,
        loader,
        course.epochs,
        validation=lambda s: _inner(s).label_all(held),
        label=data.validation.labels,
        validation_target=course.said(teacher, data.validation.inputs),
        teacher=asking if on_the_fly else None,  # type: ignore[arg-type]
        view=view,
        prepare=student.prepare if raw else None,
        patience=config.patience,
        seed=config.seed,
        **course.told(who),
    )
    labelling["seconds"] = round(course.clock.cpu["label"] - before, 3)
    return replace(made, student=_inner(made.student)), labelling


def _fits(teacher: Taught, inputs: Inputs, features: Sequence[str]) -> bool:
    """Whether the teacher's features of all rows may be kept in memory."""
    if not features:
        return True
    said = answers(teacher, take_inputs(inputs, torch.arange(1)), features=features).target  # type: ignore[arg-type]
    return sum(said.features[name].numel() for name in features) * 4 * rows_of(inputs) <= _KEPT


def _inner(student: Taught) -> Classifier:
    found = student.inner if isinstance(student, Tapped) else student
    assert isinstance(found, Classifier)
    return found


def _widths(teacher: Taught, student: Taught, inputs: Inputs, config: ClassifyConfig) -> tuple[int, int]:
    if config.loss != "hints" or not (isinstance(teacher, Tapped) and isinstance(student, Tapped)):
        return 0, 0
    one = take_inputs(inputs, torch.arange(1))
    own, theirs = (it.label(_inner(it).prepare(one)).features["embedding"] for it in (student, teacher))
    return own.shape[-1], theirs.shape[-1]
