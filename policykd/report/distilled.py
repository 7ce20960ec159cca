"""report.json of one student: teacher, student and random policy side by side; it leaves no field out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from policykd.evaluation import Interval, Kept
from policykd.policy import Policy
from policykd.report.measured import Measured, course, finite, of_retention, plain
from policykd.students import Student

__all__ = ["Report", "Stage"]


@dataclass(frozen=True)
class Report:
    """What a run found. ``str`` is a line for people, ``to_dict`` the contract of report.json."""

    kind: str
    env_id: str
    method: str
    seed: int
    stopped_by: str
    """budget, target, converged, or time."""
    teacher: Measured
    student: Measured
    random: Measured
    retention: Interval
    kept: Kept
    env_steps: int
    updates: int
    evaluations: int
    """Episodes played to select or stop, over all policies; the reported ones are not among them."""
    seconds: Mapping[str, float]
    cpu_seconds: Mapping[str, float]
    config: Mapping[str, Any] = field(default_factory=dict)
    history: tuple[Mapping[str, Any], ...] = ()
    """One entry a selection: environment steps, updates, selection return and retention."""
    policy: Policy | None = field(default=None, repr=False, compare=False)
    """The trained student itself; not part of the JSON."""
    via: tuple[Report, ...] = ()
    """Of assistants between teacher and student, each with steps and seconds of its own; those above are of all."""

    def to_dict(self) -> dict[str, Any]:
        """The fields of report.json; nothing in it is NaN or infinite."""
        return {
            "schema": 1,
            "kind": self.kind,
            "env_id": self.env_id,
            "method": self.method,
            "seed": self.seed,
            "stopped_by": self.stopped_by,
            "teacher": self.teacher.to_dict(),
            "student": self.student.to_dict(),
            "random": self.random.to_dict(),
            **of_retention(self.retention),
            "agreement": self.kept.agreement,
            "kl": finite(self.kept.kl),
            "value_error": finite(self.kept.value_error),
            "via": [_assistant(it) for it in self.via],
            **course(self),
        }

    def __str__(self) -> str:
        s, t = self.student, self.teacher
        size = f"{s.params:,} of {t.params:,} parameters" if s.params and t.params else "student"
        return (
            f"{size}: return {s.return_mean:.1f} [{s.return_ci[0]:.1f}, {s.return_ci[1]:.1f}], "
            f"teacher {t.return_mean:.1f}, random {self.random.return_mean:.1f}; retention {self.retention}"
        )


def _assistant(report: Report) -> dict[str, Any]:
    """What a chain's report says of a stage before the last."""
    hidden = report.policy.shape.hidden if isinstance(report.policy, Student) else None
    return {
        "hidden": None if hidden is None else list(hidden),
        "path": None,
        "params": report.student.params,
        "bytes": report.student.bytes,
        "return_mean": report.student.return_mean,
        "return_ci": list(report.student.return_ci),
        "episodes": report.student.episodes,
        **of_retention(report.retention),
        "agreement": report.kept.agreement,
        "stopped_by": report.stopped_by,
        "env_steps": report.env_steps,
        "updates": report.updates,
        "seconds": {k: round(v, 3) for k, v in report.seconds.items()},
        "history": [{k: plain(v) for k, v in look.items()} for look in report.history],
    }


@dataclass(frozen=True, eq=False)
class Stage:
    """News of a chain: who is taught now, or has been."""

    number: int
    """1 for the first assistant, ``of`` for the student."""
    of: int
    student: Policy
    report: Report | None = None
    """None before; an assistant's own, or in the end the whole chain's."""
