"""report.json of several tasks: a report each, and the geometric mean of what is kept; it weighs no task."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from policykd.evaluation import Interval
from policykd.report.distilled import Report
from policykd.report.measured import course, finite, of_retention
from policykd.students import MultiTask

__all__ = ["MultiReport", "geometric_mean"]


def geometric_mean(kept: Mapping[str, Interval]) -> Interval:
    """The geometric mean of the tasks' retentions, with its 95 % interval.

    The tasks' distances to their bounds, as logarithms, add up in squares: they were measured independently (the
    method of variance estimates recovery, Zou & Donner 2008, doi 10.1002/sim.3095). None without a retention of every
    task; 0 where a student keeps nothing of one.
    """
    lost = [f"{name}: {it.reason}" for name, it in kept.items() if it.value is None]
    if lost or not kept:
        return Interval(None, reason=lost[0] if lost else "no task")
    values = [0.0 if it.value is None else it.value for it in kept.values()]
    if min(values) <= 0:
        return Interval(0.0, reason=f"nothing is kept of {min(kept, key=lambda name: kept[name].value or 0.0)}")
    mean = math.exp(sum(map(math.log, values)) / len(values))
    below = above = 0.0
    for name, it in kept.items():
        if it.value is None or it.low is None or it.high is None:
            return Interval(mean, reason=f"{name}: {it.reason}")
        below += math.log(it.value / it.low) ** 2 if it.low > 0 else math.inf
        above += math.log(it.high / it.value) ** 2
    return Interval(mean, mean * math.exp(-math.sqrt(below) / len(kept)), mean * math.exp(math.sqrt(above) / len(kept)))


@dataclass(frozen=True)
class MultiReport:
    """What a run found that taught one student several tasks: a Report of each, and what all have in common."""

    tasks: Mapping[str, Report]
    """By the task's name; ``policy`` is the student's view of it, ``params`` and ``bytes`` are of that view alone.

    A task's ``seconds`` are what it was collected and evaluated for; learning is of all tasks at once.
    """
    method: str
    seed: int
    stopped_by: str
    params: int
    """Numbers that act in any task, shared ones counted once."""
    size: int
    """Bytes of the weights as they are saved."""
    env_steps: int
    """Of all tasks together; each task's Report has its own."""
    updates: int
    seconds: Mapping[str, float]
    cpu_seconds: Mapping[str, float]
    config: Mapping[str, Any] = field(default_factory=dict)
    history: tuple[Mapping[str, Any], ...] = ()
    """One entry a selection: environment steps, updates, and the geometric mean of retention that chose the weights."""
    policy: MultiTask | None = field(default=None, repr=False, compare=False)
    """The trained student itself; not part of the JSON."""

    @property
    def retention(self) -> Interval:
        """The geometric mean over tasks."""
        return geometric_mean({name: task.retention for name, task in self.tasks.items()})

    @property
    def evaluations(self) -> int:
        """Episodes played to select or stop, in all tasks."""
        return sum(task.evaluations for task in self.tasks.values())

    def to_dict(self) -> dict[str, Any]:
        """The fields of report.json: what tasks have in common, and in ``tasks`` each one's own.

        Returns of different environments have no mean: ``return_mean`` and ``agreement`` are None here.
        """
        r, tasks = self.retention, self.tasks.values()
        sizes = [task.teacher.params for task in tasks if task.teacher.params is not None]
        unknown = {"return_mean": None, "return_ci": None}
        return {
            "schema": 1,
            "kind": "multitask",
            "env_id": " + ".join(task.env_id for task in tasks),
            "method": self.method,
            "seed": self.seed,
            "stopped_by": self.stopped_by,
            "teacher": {"params": sum(sizes), **unknown, "episodes": sum(t.teacher.episodes for t in tasks)},
            "student": {
                "algo": "multitask",
                "params": self.params,
                "bytes": self.size,
                **unknown,
                "episodes": sum(t.student.episodes for t in tasks),
            },
            "random": {"return_mean": None, "episodes": sum(t.random.episodes for t in tasks)},
            **of_retention(r),
            "retention_geometric_mean": finite(r.value),
            "agreement": None,
            "kl": None,
            "value_error": None,
            "tasks": {name: task.to_dict() for name, task in self.tasks.items()},
            **course(self),
        }

    def __str__(self) -> str:
        lines = [f"{name}: {task}" for name, task in self.tasks.items()]
        return "\n".join([*lines, f"{self.params:,} parameters; geometric mean of retention {self.retention}"])
