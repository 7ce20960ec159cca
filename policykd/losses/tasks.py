"""One objective for a student of several tasks: each batch is judged by its own task's; it mixes no rows of two."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial

from policykd.errors import UsageError
from policykd.losses.compose import Objective, PairLoss, Term, Weighted, as_objective
from policykd.prediction import Batch, Prediction, Progress

__all__ = ["by_task", "tasks_in"]


def by_task(objectives: Mapping[str, Weighted | Objective | PairLoss]) -> Weighted:
    """The objective of a multi-task student: ``batch.extra["task"]`` picks whose terms count, as ``task/term``.

    A step on one batch a task then minimises the sum of the tasks' losses (Rusu et al. 2015, 1511.06295, section 3.3).
    Schedules are told the losses of their own task, under the names that they have there.

    Args:
        objectives: an objective or pair loss by the task's name, in the order of the student's tasks, which numbers
            them. Weights may be schedules, losses may have parameters.

    Raises:
        UsageError: ``batch.task`` when a batch names no task, or one without an objective.
    """
    parts = tuple(as_objective(loss) for loss in objectives.values())
    return as_objective(partial(_of_its_task, names=tuple(objectives), parts=parts))


class _Own(Mapping[str, float]):
    """A task's losses by its own names; those that nobody reads wait for no device. ``whole`` are those of all."""

    def __init__(self, losses: Mapping[str, float], task: str) -> None:
        self._losses = self.whole = losses
        before = f"{task}/"
        self._names = {name.removeprefix(before): name for name in losses if name.startswith(before)}

    def __getitem__(self, name: str) -> float:
        return self._losses[self._names[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def tasks_in(objective: Weighted) -> tuple[str, ...]:
    """The names of the tasks that an objective, or a part of it, tells apart; () for none."""
    for _, part in objective.parts.values():
        if isinstance(part, Weighted) and (found := tasks_in(part)):
            return found
        if isinstance(part, partial) and part.func is _of_its_task:
            return tuple(part.keywords["names"])
    return ()


def _of_its_task(
    student: Prediction, batch: Batch, progress: Progress, *, names: tuple[str, ...], parts: tuple[Weighted, ...]
) -> dict[str, Term]:
    # The largest: a row that is masked out may have been blanked, its number too.
    number = int(batch.extra["task"].max()) if "task" in batch.extra and len(batch) else -1
    if not 0 <= number < len(parts):
        found = f"a batch of task {number}" if number >= 0 else 'a batch without extra["task"]'
        raise UsageError(
            "batch.task",
            found,
            f"one of the tasks {', '.join(names)} (0 to {len(names) - 1})",
            "student.tag(name, batch)",
        )
    if progress.losses:
        progress = replace(progress, losses=_Own(progress.losses, names[number]))
    found_terms = parts[number].terms(student, batch, progress)
    return {f"{names[number]}/{term}" if term else names[number]: rows for term, rows in found_terms.items()}
