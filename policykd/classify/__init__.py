"""One call from a labelled data set to a small classifier beside its teacher; written only with rooms below it."""

from __future__ import annotations

import copy
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from policykd.class_config import ClassifyConfig
from policykd.classifiers import Classifier, build, load, parse
from policykd.classify.report import ClassMeasured, ClassReport
from policykd.classify.training import Course, OnLook, OnUpdate, distil, rate, train_classifier
from policykd.clock import Clock
from policykd.datasets import Labelled, find
from policykd.errors import UsageError
from policykd.intervals import Interval, mean_interval, ratio_interval
from policykd.losses import Objective, PairLoss, Weighted
from policykd.prediction import Prediction
from policykd.supervised import MISSING, Fitted, score

__all__ = ["ClassMeasured", "ClassReport", "ClassifyConfig", "distill_classifier", "train_classifier"]

_EPOCHS, _STEPS = 20, 2_000
"""Passes over the training rows, and steps that they make at least."""


def distill_classifier(
    data: Labelled | str | Path,
    *,
    teacher: Classifier | str | Path,
    student: Classifier | str,
    config: ClassifyConfig | None = None,
    loss: Weighted | Objective | PairLoss | None = None,
    alone: Classifier | None = None,
    on_update: OnUpdate | None = None,
    on_look: OnLook | None = None,
    **overrides: Any,
) -> ClassReport:
    """Teach a small classifier what a large one says, and the same one the labels alone; measure all three.

    Both students begin with the same weights and take as many steps; each is the best of its epochs on the validation
    rows, and is measured on test rows that neither teacher nor students have seen.

    Args:
        data: a set, or a name or path for ``datasets.find``.
        teacher: a Classifier, the folder of one, or a shape to train here on all labels first.
        student: a shape, or a Classifier (whose weights are where both students begin).
        config: how; ``overrides`` are its fields by name.
        loss: a loss of your own in the place of ``config.loss``; its rows are those of a Categorical.
        alone: what to compare with, where it has been trained before (``train_classifier``); None trains it.
        on_update, on_look: told of every step and every epoch, of ``teacher``, ``alone`` and ``student``.

    Returns:
        The report; ``report.policies`` holds the three.

    Raises:
        UsageError: ``classify.classes`` for a teacher of other classes than the data's, ``classify.splits`` for data
            without validation or test rows, ``classify.labels`` for ones without a label at all.
    """
    config = replace(config or ClassifyConfig(), **overrides)
    clock = Clock()
    with clock.phase("load"):
        if not isinstance(data, Labelled):
            data = find(data)  # one cut for all seeds: no test row of one run was taught in another
        _check(data)
        few = data if config.labels == 1 else data.share(config.labels, seed=config.seed)
        first = student if isinstance(student, Classifier) else _built(student, data, config.seed)
    batches = math.ceil(len(data.train.labels) / config.batch_size)
    config = replace(
        config,
        epochs=config.epochs or max(_EPOCHS, math.ceil(_STEPS / batches)),
        learning_rate=config.learning_rate or rate(first.shape, 3e-3),
    )
    course = Course(config, clock, on_update, on_look)
    taught, of_teacher = _teacher(teacher, data, course)
    if taught.classes != first.classes or len(taught.classes) != len(data.classes):
        raise UsageError(
            "classify.classes",
            f"a teacher of {len(taught.classes)}, a student of {len(first.classes)} and data of {len(data.classes)} "
            "classes",
            "the same classes",
            "train the teacher on this data set, or name its classes alike",
        )
    by_itself: Fitted[Classifier] | None = None
    if alone is None:
        by_itself = train_classifier(
            copy.deepcopy(first),
            few,
            epochs=course.epochs,
            batch_size=config.batch_size,
            learning_rate=course.rate,
            average=config.average,
            patience=config.patience,
            seed=config.seed,
            batches=batches,
            **course.told("alone"),
        )
        alone = by_itself.student
    distilled, labelling = distil(taught, copy.deepcopy(first), few, batches, loss, course)
    with clock.phase("evaluate"):
        said = {
            "teacher": taught.label_all(data.test.inputs),
            "alone": alone.label_all(data.test.inputs),
            "student": distilled.student.label_all(data.test.inputs),
        }
    truth = data.test.labels
    gain, kept = _compared(said, truth)
    found = {
        name: _measured(who, said[name], truth, None if name == "teacher" else said["teacher"], fitted)
        for name, who, fitted in (
            ("teacher", taught, of_teacher),
            ("alone", alone, by_itself),
            ("student", distilled.student, distilled),
        )
    }
    return ClassReport(
        data={**data.describe(), "labelled": int((few.train.labels != MISSING).sum())},
        **found,
        gain=gain,
        kept=kept,
        answers=labelling,
        seed=config.seed,
        seconds={**clock.wall, "total": clock.elapsed},
        cpu_seconds=dict(clock.cpu),
        config=asdict(config),
        history=tuple(course.history),
        policies={"teacher": taught, "alone": alone, "student": distilled.student},
    )


def _check(data: Labelled) -> None:
    empty = [name for name in ("validation", "test") if not len(getattr(data, name).labels)]
    if empty:
        raise UsageError(
            "classify.splits", f"data without {' and '.join(empty)} rows", "some that nothing is learnt from"
        )
    if not bool((data.train.labels != MISSING).any()):
        raise UsageError("classify.labels", "training rows without a label", "some that have one")


def _built(shape: str, data: Labelled, seed: int) -> Classifier:
    return build(shape, inputs=data.train.inputs, classes=data.classes, seed=seed)


def _teacher(
    teacher: Classifier | str | Path, data: Labelled, course: Course
) -> tuple[Classifier, Fitted[Classifier] | None]:
    if isinstance(teacher, Classifier):
        return teacher, None
    if Path(teacher).is_dir():
        with course.clock.phase("load"):
            found = load(teacher)
            found.origin = replace(found.origin, path=str(teacher))
        return found, None
    config, shape = course.config, parse(str(teacher))
    trained_before = shape.kind == "minilm"
    with course.clock.phase("load"):
        fresh = _built(str(shape), data, config.seed + 1)
    made = train_classifier(
        fresh,
        data,
        epochs=config.teacher_epochs or (3 if trained_before else course.epochs),
        batch_size=32 if trained_before else config.batch_size,
        learning_rate=config.teacher_learning_rate or (5e-5 if trained_before else rate(shape, 1e-3)),
        average=config.average,
        patience=config.patience,
        seed=config.seed + 1,
        **course.told("teacher"),
    )
    return made.student, made


def _measured(
    who: Classifier, said: Prediction, truth: Tensor, teacher: Prediction | None, fitted: Fitted[Any] | None
) -> ClassMeasured:
    return ClassMeasured(
        None if who.shape is None else str(who.shape),
        who.acting_parameters,
        who.size_bytes,
        score(said, truth, teacher),
        None if fitted is None else len(fitted.looks),
        None if fitted is None else fitted.best.epoch,
        None if fitted is None else fitted.looks[-1].update.step,
        who.origin.path,
    )


def _compared(said: dict[str, Prediction], truth: Tensor) -> tuple[Interval, Interval]:
    """Gain over the student alone and share of the teacher's accuracy, paired over test rows."""
    known = truth != MISSING
    right = {name: (it.dist.mode()[known] == truth[known]).double().numpy() for name, it in said.items()}
    difference = right["student"] - right["alone"]
    gain = Interval(float(difference.mean()), *mean_interval(difference))
    theirs = float(right["teacher"].mean())
    if theirs == 0:
        return gain, Interval(None, reason="the teacher is never right")
    low, high = ratio_interval(right["student"], right["teacher"], np.zeros(len(difference)), paired=True)
    return gain, Interval(float(right["student"].mean()) / theirs, low, high)
