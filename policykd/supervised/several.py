"""Several tasks at once: a batch of each in every step, one student for all; it weighs none (losses.weights do)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import replace
from typing import Any

from policykd.clock import Clock
from policykd.errors import UsageError
from policykd.learner import Learner
from policykd.policy import Tasks
from policykd.prediction import Obs, Progress, Update
from policykd.supervised.epochs import Labels, Reads, check_classes, sound
from policykd.supervised.examples import Examples, as_examples

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
            ``supervised.empty``.
        DistributionError: ``supervised.nan``, ``supervised.classes``.
    """
    student = learner.student
    teachers, clock = teachers or {}, clock or Clock()
    strange = (set(loaders) ^ set(student.names)) | (set(teachers) - set(student.names))
    if strange:
        found = f"loaders or teachers that differ from the student's tasks in {', '.join(sorted(strange))}"
        raise UsageError("multitask.tasks", found, f"one loader each for {', '.join(student.names)}")
    lengths = [len(loader) for loader in loaders.values() if isinstance(loader, Sized)]
    steps = max(lengths, default=0) if len(lengths) == len(loaders) else 0
    if not steps:
        raise UsageError("supervised.empty", "loaders without a batch, or without a length", "len(loader) of 1 or more")
    rounds = {name: _round(loader, name) for name, loader in loaders.items()}
    seen = 0
    for step in range(count * steps):
        batches = []
        for name in student.names:
            examples = next(rounds[name])
            with clock.phase("label"):
                examples = _labelled(examples, teachers.get(name))
            obs: Obs = prepare(examples.inputs) if prepare is not None else examples.inputs  # type: ignore[assignment]
            batches.append(student.tag(name, examples.batch(obs)))
            if step == 0:
                check_classes(student, batches[-1])
            seen += len(examples)
        with clock.phase("learn"):
            update = learner.step(batches, Progress(seen, learner.updates, step / (count * steps)))
        yield update


def _round(loader: Iterable[Any], name: str) -> Iterator[Examples]:
    while True:
        empty = True
        for item in loader:
            empty = False
            yield as_examples(item)
        if empty:
            raise UsageError("supervised.empty", f"the loader of {name} without a batch", "examples")


def _labelled(examples: Examples, teacher: Labels | None) -> Examples:
    if examples.target is not None or teacher is None:
        return examples
    return replace(examples, target=sound(teacher.label(examples.inputs)))
