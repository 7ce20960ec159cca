"""One call from a labelled data set to a small classifier beside its teacher; written only with rooms below it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from policykd.class_config import ClassifyConfig, ClassLoss, ViewName
from policykd.classifiers import Classifier, build, load, parse
from policykd.classify.objectives import check_loss, tapped
from policykd.classify.probing import probe
from policykd.classify.report import ClassMeasured, ClassReport
from policykd.classify.seeing import fits, on_labels, tried, view_of
from policykd.classify.training import Course, OnLook, OnUpdate, distil, rate, train_classifier
from policykd.clock import Clock
from policykd.datasets import Labelled, find
from policykd.errors import UsageError
from policykd.intervals import Interval, mean_interval, ratio_interval
from policykd.losses import Objective, PairLoss, Weighted
from policykd.prediction import Prediction
from policykd.supervised import MISSING, Fitted, View, score

__all__ = ["ClassMeasured", "ClassReport", "ClassifyConfig", "distill_classifier", "planned", "train_classifier"]


def distill_classifier(
    data: Labelled | str | Path,
    *,
    teacher: Classifier | str | Path,
    student: Classifier | str,
    config: ClassifyConfig | None = None,
    loss: Weighted | Objective | PairLoss | ClassLoss | None = None,
    view: View | ViewName | None = None,
    alone: Classifier | None = None,
    via: Sequence[str] = (),
    on_done: Callable[[str, Classifier], None] | None = None,
    on_update: OnUpdate | None = None,
    on_look: OnLook | None = None,
    **overrides: Any,
) -> ClassReport:
    """Teach a small classifier what a large one says, and the same one the labels alone; measure all three.

    Both students begin with the same weights, take as many steps and see the same views; each is the best of its epochs
    on the validation rows, and is measured on test rows that neither teacher nor students have seen.

    Args:
        data: a set, or a name or path for ``datasets.find``.
        teacher: a Classifier, the folder of one, or a shape to train here on all labels first.
        student: a shape, or a Classifier (whose weights are where both students begin).
        config: how; ``overrides`` are its fields by name.
        loss: a name for ``config.loss``, or a loss of your own in its place: on Categoricals, and on taps of
            teacher and student.
        view: a name for ``config.view``, or a view of your own in its place (``supervised.views``): of each batch, or
            ``config.copies`` of each row. The student alone learns what labels it leaves.
        alone: what to compare with, where it has been trained before (``train_classifier``); None trains it.
        via: shapes of assistants between teacher and student, each taught by the one before, as the student is
            (Mirzadeh et al. 2020, 1902.03393); ``same`` is the student's own, a generation (born again: 1805.04770).
        on_done: told of everybody who has learnt: ``teacher``, ``alone``, ``via-1``, ``student``.
        on_update, on_look: told of every step and every epoch of theirs.

    Returns:
        The report; ``report.policies`` holds all of them.

    Raises:
        UsageError: ``classify.classes`` for a teacher of other classes than the data's, ``classify.splits`` for data
            without validation or test rows that have a label, ``classify.labels`` for training rows without one,
            ``classify.view`` for a view of what is no image, ``classify.raters`` for data without them and beside a
            loss of your own,
            ``classify.features`` for a loss on layers that are not there, and whatever a loss of your own refuses
            (``classify.via`` of assistants). All of them before anything is learnt.
    """
    if isinstance(loss, str):
        loss, overrides = None, {**overrides, "loss": loss}
    if isinstance(view, str):
        view, overrides = None, {**overrides, "view": view}
    config, own_view = replace(config or ClassifyConfig(), **overrides), view
    copies = config.copies or 0
    if own_view is not None:
        config = replace(config, view="none", copies=None)
    if config.raters and loss is not None:
        raise UsageError(
            "classify.raters",
            "raters=True beside a loss of your own, which hears of labels what it asks for",
            "one of them",
            "leave raters out: hard_and_soft(hard=soft_label_ce) learns what they said, and for the comparison "
            "alone=train_classifier(..., loss=soft_label_ce).student",
        )
    clock = Clock()
    with clock.phase("load"):
        if not isinstance(data, Labelled):
            data = find(data)  # one cut for all seeds: no test row of one run was taught in another
        first = student if isinstance(student, Classifier) else _built(student, data, config.seed)
        # What a shape's learning rate is by default is each one's own, the assistants' too.
        open_rate, config = config.learning_rate, planned(data, first, config)
        few = data if config.labels == 1 else data.share(config.labels, seed=config.seed)
    course = Course(
        replace(config, learning_rate=open_rate), len(data.train.labels), clock, on_update, on_look,
        view=own_view or view_of(config.view, data.train.inputs), copies=copies if own_view else config.copies or 0,
    )  # fmt: skip
    taught, untaught = _teacher(teacher, data, course)
    _check_classes(data.classes, teacher=taught, student=first, alone=first if alone is None else alone)
    chain = {
        f"via-{i}": copy.deepcopy(first) if shape == "same" else _built(shape, data, config.seed + 10 * i)
        for i, shape in enumerate(via, 1)
    }
    chain["student"] = copy.deepcopy(first)
    if loss is None:
        for teaches, learns in pairwise((taught, *chain.values())):
            tapped(teaches, learns, config.loss)  # layers that it needs are missed now, not when they are trained
    else:
        check_loss(loss, taught, chain, tried(few, config, course.view, course.copies))
    done = on_done or (lambda who, classifier: None)
    of_teacher = _trained(taught, data, course) if untaught else None
    if of_teacher is not None:
        taught = of_teacher.student
        done("teacher", taught)
    by_itself: Fitted[Classifier] | None = None
    if alone is None:
        by_itself = train_classifier(
            copy.deepcopy(first),
            few,
            epochs=course.epochs,
            batch_size=config.batch_size,
            learning_rate=course.rate(first),
            average=config.average,
            patience=config.patience,
            seed=config.seed,
            batches=course.batches,
            **on_labels(config, course.view, len(data.classes)),
            **course.told("alone"),
        )
        alone = by_itself.student
        done("alone", alone)
    made: dict[str, Fitted[Classifier] | None] = {"teacher": of_teacher, "alone": by_itself}
    everyone, asked, labelling = {"teacher": taught, "alone": alone}, taught, {}
    for who, learns in chain.items():
        own = loss if who == "student" else copy.deepcopy(loss)  # what a loss learns, it learns of one pair
        fitted, labelling[who] = distil(asked, learns, few, own, course, who)
        made[who], everyone[who] = fitted, fitted.student
        asked = fitted.student
        done(who, asked)
    said = {"teacher": course.said(taught, data.test.inputs)}
    with clock.phase("evaluate"):
        said |= {who: it.label_all(data.test.inputs) for who, it in everyone.items() if who != "teacher"}
    truth = data.test.labels
    gain, kept = _compared(said, truth)
    found = {
        who: _measured(it, said[who], truth, None if who == "teacher" else said["teacher"], made[who])
        for who, it in everyone.items()
    }
    return ClassReport(
        data={**data.describe(), "labelled": int((few.train.labels != MISSING).sum())},
        teacher=found["teacher"],
        alone=found["alone"],
        student=found["student"],
        via=tuple(it for who, it in found.items() if who.startswith("via-")),
        gain=gain,
        kept=kept,
        answers=labelling["student"],
        via_answers=tuple(labelling[who] for who in chain if who != "student"),
        seed=config.seed,
        seconds={**clock.wall, "total": clock.elapsed},
        cpu_seconds=dict(clock.cpu),
        config={
            **asdict(config),
            "cache": None if config.cache is None else str(config.cache),
            **({} if own_view is None else {"view": "own", "copies": copies}),
        },
        history=tuple(course.history),
        policies=everyone,
    )


def planned(data: Labelled, student: Classifier, config: ClassifyConfig) -> ClassifyConfig:
    """``config`` with what was left open chosen as ``distill_classifier`` would; it refuses what does not fit the data.

    Raises:
        UsageError: ``classify.splits``, ``classify.labels``, ``classify.view``, ``classify.raters``, ``config.copies``.
    """
    config = config.settled(texts=isinstance(data.train.inputs, tuple))
    _check(data, config)
    course = Course(config, len(data.train.labels), Clock())
    return replace(config, epochs=course.epochs, learning_rate=course.rate(student))


def _check(data: Labelled, config: ClassifyConfig) -> None:
    for name, least in (("validation", 1), ("test", 2)):  # a single row has no interval
        known = int((data.splits[name].labels != MISSING).sum())
        if known < least:
            found = f"data with {known} labelled {name} rows"
            raise UsageError("classify.splits", found, f"{least} or more that nothing is learnt from", "hold some out")
    if not bool((data.train.labels != MISSING).any()):
        raise UsageError("classify.labels", "training rows without a label", "some that have one")
    inputs = data.train.inputs
    fitting, expected = fits(config.view, inputs)
    if not fitting:
        kind = "texts" if isinstance(inputs, tuple) else f"inputs of shape {tuple(inputs.shape[1:])}"
        raise UsageError("classify.view", f"the view {config.view} of {kind}", expected, "leave --view out")
    if config.raters and data.train.soft is None:
        found = f"--raters of {data.name}, whose rows nobody rated"
        raise UsageError("classify.raters", found, "soft labels (those of vader-movie, say)", "leave --raters out")


def _check_classes(names: tuple[str, ...], **who: Classifier) -> None:
    found = {name: it.classes for name, it in who.items()}
    teacher = found["teacher"]
    # Names of one's own ("0", "1") may stand for the data's, in their order; the data's in another order may not.
    mixed = teacher != names and set(teacher) == set(names)
    if len(set(found.values())) > 1 or len(teacher) != len(names) or mixed:
        said = [f"{name} {len(its)} ({', '.join(its)[:80]})" for name, its in {**found, "data": names}.items()]
        raise UsageError(
            "classify.classes",
            f"classes of {'; '.join(said)}",
            "the same classes in one order",
            "build them with classes=data.classes",
        )


def _built(shape: str, data: Labelled, seed: int) -> Classifier:
    return build(shape, inputs=data.train.inputs, classes=data.classes, seed=seed)


def _teacher(teacher: Classifier | str | Path, data: Labelled, course: Course) -> tuple[Classifier, bool]:
    """The teacher, and whether it has yet to be taught."""
    if isinstance(teacher, Classifier):
        return teacher, False
    with course.clock.phase("load"):
        if Path(teacher).is_dir():
            found = load(teacher)
            found.origin = replace(found.origin, path=str(teacher))
            return found, False
        return _built(str(parse(str(teacher))), data, course.config.seed + 1), True


def _trained(fresh: Classifier, data: Labelled, course: Course) -> Fitted[Classifier]:
    config, trained_before = course.config, fresh.shape is not None and fresh.shape.kind == "minilm"
    if trained_before:
        probe(fresh, data, seed=config.seed + 1, clock=course.clock)
    return train_classifier(
        fresh,
        data,
        epochs=config.teacher_epochs or (3 if trained_before else course.epochs),
        batch_size=32 if trained_before else config.batch_size,
        learning_rate=config.teacher_learning_rate or (5e-5 if trained_before else rate(fresh.shape, 1e-3)),
        average=config.average,
        patience=config.patience,
        seed=config.seed + 1,
        **course.told("teacher"),
    )


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
