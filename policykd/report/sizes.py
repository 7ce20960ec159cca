"""report.json of a frontier: every size beside its teacher, and the one that is chosen; it chooses none."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from policykd.evaluation import Interval, Score
from policykd.policy import Policy
from policykd.report.distilled import Report
from policykd.report.measured import of_retention

__all__ = ["Candidate", "FrontierReport"]


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
        **of_retention(c.retention),
        "return_mean": c.score.mean,
        "return_ci": list(c.score.ci()),
        "episodes": c.score.episodes,
        "latency_us": None if math.isnan(c.latency_us) else round(c.latency_us, 1),
        "seed": c.seed,
        "cycles": c.cycles,
        "seeds": [{"seed": s, "retention": r, "episodes": n} for s, _, r, n in c.seeds],
    }
