"""Passes over a loader of labelled inputs, an Update a batch; the teacher labels what is new, and nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from policykd.clock import Clock
from policykd.distributions import Categorical, is_law
from policykd.errors import DistributionError, PolicykdError, UsageError
from policykd.learner import Learner
from policykd.policy import Taught, evaluating
from policykd.prediction import Batch, Obs, Prediction, Progress, Update
from policykd.supervised.examples import Examples, View, as_examples, length_of

__all__ = ["Labels", "Reads", "answered", "check_classes", "epochs", "learn", "mutual", "sound", "unlabelled"]

_SILENT = {
    "dist.kl-pair": "",
    "loss.pair": "",
    "loss.no-q": "",
    "loss.feature": "the teacher",
    "loss.no-value": "target",
}
"""How losses complain of a teacher who has said nothing: by code, and a word of the message."""


class Labels(Protocol):
    """Whoever has a frozen word on raw inputs: a Classifier, a Policy, a user's object."""

    def label(self, inputs: Any, /) -> Prediction:
        """The prediction that a student is taught with, without gradient."""
        ...


class Reads(Protocol):
    """How raw inputs become what a student reads (``Classifier.prepare``: texts to tokens, images as they are)."""

    def __call__(self, inputs: Any, /) -> Obs:
        """The inputs as tensors."""
        ...


def epochs(
    learner: Learner[Any],
    loader: Iterable[Any],
    count: int,
    *,
    teacher: Labels | None = None,
    view: View | None = None,
    student_view: View | None = None,
    prepare: Reads | None = None,
    begin: int = 0,
    end: int | None = None,
    seen: int = 0,
    seed: int = 0,
    clock: Clock | None = None,
) -> Iterator[Update]:
    """Learn from every batch of ``loader``, ``count`` times over.

    Args:
        learner: of a student that reads what ``prepare`` makes of the inputs.
        loader: any iterable that can be passed over again (torch's DataLoader, ``Rows``), of Examples,
            ``(inputs, label)`` or ``(inputs, label, logits)``.
        count: epochs of the whole run; ``Progress.fraction`` is the share of them that is over.
        teacher: asked for what has no target yet. None leaves rows without one: learning from labels alone.
        view: an augmentation that teacher and student see alike; the teacher is asked about every view.
        student_view: one that only the student sees, after the teacher has spoken (a state vector's noise).
        prepare: None takes inputs as they are.
        begin, end: first epoch to run, and the one before which to stop (None: ``count``).
        seen: examples seen so far.
        seed: of the views.
        clock: gets the phases ``label`` (the teacher) and ``learn``.

    Yields:
        One Update a batch; its ``progress.env_steps`` counts examples, this batch's among them.

    Raises:
        UsageError: ``supervised.empty`` for a loader without a batch, ``supervised.view`` for a view of inputs that a
            teacher, who is not here, has labelled already; ``supervised.unlabelled`` for a pass over rows without a
            label, a rater or a teacher, and for a loss that needs a teacher who is not there; ``supervised.batch``;
            ``supervised.epochs``.
        DistributionError: ``supervised.nan`` for a teacher's logits that are no law, the loader's own too;
            ``supervised.classes`` where teacher and student do not count the same classes.
    """
    if count < 1:
        raise UsageError("supervised.epochs", f"{count} epochs", "1 or more")
    clock = clock or Clock()
    batches = length_of(loader)
    for epoch in range(begin, count if end is None else end):
        # A generator an epoch: what is drawn in it does not depend on where a run was taken up again.
        generator = torch.Generator().manual_seed(seed + 1_000_003 * epoch)
        any_batch = told = False
        for i, item in enumerate(loader):
            any_batch = True
            examples = as_examples(item)
            with clock.phase("label"):
                examples = _labelled(examples, teacher, view, generator)
            told = told or examples.told
            if student_view is not None:
                examples = replace(student_view(examples, generator), target=examples.target)
            within = min(i / batches, 1.0) if batches else 0.0
            seen += len(examples)
            progress = Progress(seen, learner.updates, min((epoch + within) / count, 1.0))
            with clock.phase("learn"):
                obs: Any = examples.inputs if prepare is None else prepare(examples.inputs)
                batch = examples.batch(obs)
                if i == 0:
                    check_classes(learner.student, batch)
                update = learn(learner, batch, progress, told=examples.target is not None)
            yield update
        if not any_batch:
            raise UsageError(
                "supervised.empty", "a loader without a batch", "examples", "an iterator is used up after one pass"
            )
        if not told:
            raise unlabelled("a pass over rows without a label or a teacher")


def _labelled(examples: Examples, teacher: Labels | None, view: View | None, generator: torch.Generator) -> Examples:
    if view is not None:
        if teacher is None and examples.target is not None:
            raise UsageError(
                "supervised.view",
                "a view of inputs that are labelled already",
                "the teacher, to be asked about the new ones",
                "pass teacher=, or leave the view out",
            )
        examples = replace(view(examples, generator), target=None)  # what was said of other inputs does not hold
    return answered(examples, teacher)


def answered(examples: Examples, teacher: Labels | None) -> Examples:
    """The examples with the teacher's word where they have none yet, and that it is a law.

    Raises:
        DistributionError: ``supervised.nan``.
    """
    said = examples.target
    if said is None and teacher is not None:
        said = teacher.label(examples.inputs)
    return examples if said is None else replace(examples, target=sound(said, examples.mask))


def sound(said: Prediction, mask: Tensor | None = None) -> Prediction:
    """What a teacher said, if it is a law everywhere: no NaN, no infinite logit, no row of classes that cannot be.

    Args:
        mask: rows (tokens) that count, ``[*b]``; the others may hold anything.

    Raises:
        DistributionError: ``supervised.nan``.
    """
    # A sum that is a number has no other in it, and is what nearly every batch is asked for.
    if isinstance(said.dist, Categorical) and not bool(said.dist.logits.sum().isfinite()):
        wrong = ~is_law(said.dist)
        if mask is not None and mask.shape == wrong.shape:
            wrong = wrong & mask.bool()
        if bool(wrong.any()):
            rows = int(wrong.reshape(len(wrong), -1).any(-1).sum())
            raise DistributionError(
                "supervised.nan",
                f"NaN or infinity in a teacher's logits for {rows} of {len(wrong)} rows",
                "numbers (-inf only for classes that cannot be)",
                "check its inputs and weights",
            )
    return said


def learn(learner: Learner[Any], batch: Batch | Sequence[Batch], progress: Progress, *, told: bool) -> Update:
    """A step of the learner; what a loss says of a teacher who was never asked is said in the loop's words.

    Args:
        told: whether a teacher has spoken of all of it.

    Raises:
        UsageError: ``supervised.unlabelled``.
    """
    try:
        return learner.step(batch, progress)
    except PolicykdError as why:
        if told or _SILENT.get(why.code, "\0") not in why.found:
            raise
        raise unlabelled("a loss that needs a teacher, and rows that none has labelled") from why


def unlabelled(found: str) -> UsageError:
    """The error of rows that teach nothing."""
    return UsageError(
        "supervised.unlabelled",
        found,
        "labels, or a teacher's word",
        "pass teacher=, or give the loader labels or logits",
    )


@torch.no_grad()
def check_classes(student: Taught, batch: Batch) -> None:
    """Refuse a student that does not count the classes of its target.

    Raises:
        DistributionError: ``supervised.classes``.
    """
    if not isinstance(batch.target.dist, Categorical) or batch.target.dist.logits.shape[-1] == 1:
        return
    # Nothing is learnt from this look: neither by a layer's running statistics, which one row would spoil.
    with evaluating(student):
        said = student.read(replace(batch[:1], mask=None))
    if isinstance(said.dist, Categorical):
        _same_classes(said.dist, batch.target.dist)


def _same_classes(student: Categorical, teacher: Categorical) -> None:
    own, theirs = student.logits.shape[-1], teacher.logits.shape[-1]
    if own != theirs:
        raise DistributionError(
            "supervised.classes",
            f"a teacher of {theirs} classes and a student of {own}",
            "the same classes",
            "build the student with the teacher's classes",
        )


def mutual(
    learners: Sequence[Learner[Any]], loader: Iterable[Any], count: int, *, prepare: Reads | None = None
) -> Iterator[list[Update]]:
    """Several students that teach each other (deep mutual learning: Zhang et al. 2018, 1706.00384).

    Each batch, each student in turn learns from the labels and from the mean law of the others as they are by then;
    the objective decides what counts (``losses.hard_and_soft``). With two of them the mean is the other one's word.

    Args:
        learners: two or more; their students read the same inputs.
        loader, count, prepare: as of ``epochs``.

    Yields:
        One Update a learner, a batch.

    Raises:
        UsageError: ``supervised.mutual`` for less than two; ``supervised.empty``.
        DistributionError: ``supervised.mutual`` for a law that is none over classes; ``supervised.classes``.
    """
    if len(learners) < 2:
        raise UsageError("supervised.mutual", f"{len(learners)} student", "two or more")
    seen, total = 0, count * (length_of(loader) or 0)
    for _ in range(count):
        before = seen
        for item in loader:
            examples = as_examples(item)
            obs: Any = examples.inputs if prepare is None else prepare(examples.inputs)
            fraction = min(learners[0].updates / total, 1.0) if total else 0.0
            seen += len(examples)
            made = []
            for i, learner in enumerate(learners):
                laws = [_heard(other.student, examples.batch(obs)) for j, other in enumerate(learners) if j != i]
                for law in laws[1:]:
                    _same_classes(law, laws[0])
                mean = torch.stack([law.log_probs for law in laws]).logsumexp(0) - math.log(len(laws))
                batch = replace(examples, target=Prediction(Categorical(mean))).batch(obs)
                if seen == len(examples):
                    check_classes(learner.student, batch)
                made.append(learner.step(batch, Progress(seen, learner.updates, fraction)))
            yield made
        if seen == before:
            raise UsageError("supervised.empty", "a loader without a batch", "examples")


@torch.no_grad()
def _heard(student: Taught, batch: Batch) -> Categorical:
    """A peer's word, as a teacher gives it: without dropout, and its running statistics stay as they are."""
    with evaluating(student):
        said = student.read(batch)
    if not isinstance(said.dist, Categorical):
        raise DistributionError("supervised.mutual", f"a law of {type(said.dist).__name__}", "classes")
    return said.dist
