"""report.json: teacher, student and random policy side by side; it measures nothing and leaves no field out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from policykd.evaluation import Interval, Kept, Score
from policykd.policy import Policy
from policykd.students import MultiTask, Student

__all__ = ["Candidate", "FrontierReport", "Measured", "MultiReport", "Report", "Stage", "geometric_mean", "versions"]


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    found = {}
    for name in ("policykd", "torch", "gymnasium", "stable-baselines3", "numpy"):
        try:
            found[name.replace("-", "_")] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _finite(x: float | None) -> float | None:
    return None if x is None or not math.isfinite(x) else float(x)


def _json(x: Any) -> Any:
    return None if isinstance(x, float) and not math.isfinite(x) else x


@dataclass(frozen=True)
class Measured:
    """One policy's returns over the reported episodes."""

    return_mean: float
    return_ci: tuple[float, float]
    return_std: float
    episodes: int
    length_mean: float
    source: str | None = None
    algo: str | None = None
    params: int | None = None
    bytes: int | None = None

    @classmethod
    def of(cls, score: Score, policy: Policy | None = None, size: int | None = None) -> Measured:
        """The record of a score, with what is known of the policy."""
        known = (
            {}
            if policy is None
            else {"algo": policy.origin.algo, "source": policy.origin.path, "params": policy.acting_parameters}
        )
        return cls(
            score.mean,
            score.ci(),
            float(score.returns.std()),
            score.episodes,
            score.mean_length,
            bytes=size,
            **known,  # type: ignore[arg-type]
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON fields; what is not known is left out."""
        fields = {**vars(self), "return_ci": list(self.return_ci)}
        return {k: v for k, v in fields.items() if v is not None}


def _retention(found: Interval) -> dict[str, Any]:
    return {
        "retention": _finite(found.value),
        "retention_ci": None if found.low is None or found.high is None else [found.low, found.high],
        **({"retention_reason": found.reason} if found.reason else {}),
    }


def _course(report: Report | MultiReport) -> dict[str, Any]:
    """What a run took, and what it was asked for."""
    return {
        "env_steps": report.env_steps,
        "updates": report.updates,
        "evaluations": report.evaluations,
        "seconds": {k: round(v, 3) for k, v in report.seconds.items()},
        "cpu_seconds": {k: round(v, 3) for k, v in report.cpu_seconds.items()},
        "history": [{k: _json(v) for k, v in look.items()} for look in report.history],
        "config": dict(report.config),
        "versions": versions(),
    }


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
            **_retention(self.retention),
            "agreement": self.kept.agreement,
            "kl": _finite(self.kept.kl),
            "value_error": _finite(self.kept.value_error),
            "via": [_assistant(it) for it in self.via],
            **_course(self),
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
        **_retention(report.retention),
        "agreement": report.kept.agreement,
        "stopped_by": report.stopped_by,
        "env_steps": report.env_steps,
        "updates": report.updates,
        "seconds": {k: round(v, 3) for k, v in report.seconds.items()},
        "history": [{k: _json(v) for k, v in look.items()} for look in report.history],
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


@dataclass(frozen=True, eq=False)
class Candidate:
    """A size in the end: its best student, measured on episodes that chose nothing."""

    name: str
    policy: Policy = field(repr=False)
    seed: int
    """Which of the students of this size it is."""
    retention: Interval
    score: Score = field(repr=False)
    size: int
    """Bytes of the weights as they are saved."""
    latency_us: float
    """Median microseconds of one decision: ``predict`` on a single observation."""
    cycles: int
    """Cycles after which it was taught no more."""
    seeds: tuple[tuple[int, Policy, float | None, int], ...] = field(repr=False)
    """Every student of this size: seed, policy, retention on the selecting episodes, and how many these were."""


@dataclass(frozen=True, eq=False)
class FrontierReport:
    """What a frontier found: all sizes, smallest first, and the smallest that can be trusted."""

    best: Report
    """Of the chosen student; of the one with the highest lower bound where none is chosen."""
    target: float
    chosen: str | None
    candidates: tuple[Candidate, ...]
    level: float = 0.95
    """Confidence of each interval: higher than 95 %, because a student may be looked at several times."""

    @property
    def policy(self) -> Policy | None:
        """The chosen student, or the best."""
        return self.best.policy

    def to_dict(self) -> dict[str, Any]:
        """The fields of report.json: those of the chosen (or best) student, and a list of all."""
        return {
            **self.best.to_dict(),
            "target": self.target,
            "chosen": self.chosen,
            "level": round(self.level, 4),
            "candidates": [_fields(c) for c in self.candidates],
        }

    def __str__(self) -> str:
        lines = [
            f"{c.name}: {c.policy.acting_parameters:,} parameters, retention {c.retention}" for c in self.candidates
        ]
        said = f"smallest at {self.target:g}: {self.chosen}" if self.chosen else f"none reaches {self.target:g}"
        return "\n".join([*lines, said])


def _fields(c: Candidate) -> dict[str, Any]:
    return {
        "name": c.name,
        "path": None,
        "params": c.policy.acting_parameters,
        "bytes": c.size,
        **_retention(c.retention),
        "return_mean": c.score.mean,
        "return_ci": list(c.score.ci()),
        "episodes": c.score.episodes,
        "latency_us": None if math.isnan(c.latency_us) else round(c.latency_us, 1),
        "seed": c.seed,
        "cycles": c.cycles,
        "seeds": [{"seed": s, "retention": r, "episodes": n} for s, _, r, n in c.seeds],
    }


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
    """By the task's name; ``policy`` is the student's view of it, ``params`` and ``bytes`` are of that view alone."""
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
            **_retention(r),
            "retention_geometric_mean": _finite(r.value),
            "agreement": None,
            "kl": None,
            "value_error": None,
            "tasks": {name: task.to_dict() for name, task in self.tasks.items()},
            **_course(self),
        }

    def __str__(self) -> str:
        lines = [f"{name}: {task}" for name, task in self.tasks.items()]
        return "\n".join([*lines, f"{self.params:,} parameters; geometric mean of retention {self.retention}"])
