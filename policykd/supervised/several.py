"""Several tasks at once: a batch of each in every step, one student for all; it weighs none (losses.weights do)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from policykd.clock import Clock
from policykd.errors import UsageError
from policykd.learner import Learner
from policykd.policy import Tasks
from policykd.prediction import Obs, Progress, Update
from policykd.supervised.epochs import Labels, Reads, answered, check_classes, learn, unlabelled
from policykd.supervised.examples import Examples, as_examples, length_of

__all__ = ["several"]


def several(
    learner: Learner[Tasks],
    loaders: Mapping[str, Iterable[Any]],
    count: int,
    *,
    teachers: Mapping[str, Labels] | None = None,
    prepare: Reads | None = None,
    clock: Clock | None = None,
) -> Iterator[Update]:
    """Learn from a batch of each task in every step, ``count`` passes over the longest loader.

    Shorter loaders go round. Rows without a label (-1) teach by their teacher alone; a task may be without a teacher.

    Args:
        learner: of a student of several tasks; ``losses.by_task`` is its objective.
        loaders: by the task's name, as of ``epochs``.
        teachers: by the task's name, for what has no target yet.
        prepare, clock: as of ``epochs``.

    Raises:
        UsageError: ``multitask.tasks`` for loaders or teachers of other tasks than the student's;
            ``supervised.empty``; ``supervised.length`` for a loader without a length; ``supervised.unlabelled`` for a
            task without a label or a teacher in a whole pass, and for a loss that needs one who is not there.
        DistributionError: ``supervised.nan``, ``supervised.classes``.
    """
    student = learner.student
    teachers, clock = teachers or {}, clock or Clock()
    strange = (set(loaders) ^ set(student.names)) | (set(teachers) - set(student.names))
    if strange:
        found = f"loaders or teachers that differ from the student's tasks in {', '.join(sorted(strange))}"
        raise UsageError("multitask.tasks", found, f"one loader each for {', '.join(student.names)}")
    lengths = {name: _length(name, loader) for name, loader in loaders.items()}
    steps = max(lengths.values())
    rounds = {name: _round(loader, name, lengths[name], teachers.get(name)) for name, loader in loaders.items()}
    seen = 0
    for step in range(count * steps):
        batches, told = [], True
        for name in student.names:
            examples = next(rounds[name])
            with clock.phase("label"):
                examples = answered(examples, teachers.get(name))
            told = told and examples.target is not None
            obs: Obs = prepare(examples.inputs) if prepare is not None else examples.inputs  # type: ignore[assignment]
            batches.append(student.tag(name, examples.batch(obs)))
            if step == 0:
                check_classes(student, batches[-1])
            seen += len(examples)
        with clock.phase("learn"):
            update = learn(learner, batches, Progress(seen, learner.updates, step / (count * steps)), told=told)
        yield update


def _length(name: str, loader: Iterable[Any]) -> int:
    found = length_of(loader)
    if found is None:
        raise UsageError(
            "supervised.length",
            f"the loader of {name} without a length",
            "len(loader) of each: the longest says how many steps a pass has",
            "give Rows, or a DataLoader of data with a length",
        )
    if not found:
        raise UsageError("supervised.empty", f"the loader of {name} without a batch", "examples")
    return found


def _round(loader: Iterable[Any], name: str, length: int, teacher: Labels | None) -> Iterator[Examples]:
    """One pass after the other; the last batch of one in which nobody has said anything is an error."""
    while True:
        place, told = 0, teacher is not None
        for place, item in enumerate(loader, 1):
            examples = as_examples(item)
            told = told or examples.told
            if place == length and not told:
                raise unlabelled(f"a pass over rows of {name} without a label or a teacher")
            yield examples
        if not place:
            raise UsageError("supervised.empty", f"the loader of {name} without a batch", "examples")
