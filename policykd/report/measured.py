"""What all reports are made of: measured returns, an interval as JSON, the course of a run; it measures none."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Protocol

from policykd.evaluation import Interval, Score
from policykd.policy import Policy

__all__ = ["Measured", "course", "finite", "of_retention", "plain", "versions"]


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    found = {}
    for name in ("policykd", "torch", "gymnasium", "stable-baselines3", "numpy"):
        try:
            found[name.replace("-", "_")] = version(name)
        except PackageNotFoundError:
            continue
    return found


def finite(x: float | None) -> float | None:
    """The number, None for one that JSON does not know."""
    return None if x is None or not math.isfinite(x) else float(x)


def plain(x: Any) -> Any:
    """Anything, None for a number that JSON does not know."""
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


def of_retention(found: Interval) -> dict[str, Any]:
    """Value, interval and, where there is none, the reason."""
    return {
        "retention": finite(found.value),
        "retention_ci": None if found.low is None or found.high is None else [found.low, found.high],
        **({"retention_reason": found.reason} if found.reason else {}),
    }


class _Course(Protocol):
    """A report of a run: what it took, and what it was asked for."""

    @property
    def env_steps(self) -> int: ...

    @property
    def updates(self) -> int: ...

    @property
    def evaluations(self) -> int: ...

    @property
    def seconds(self) -> Mapping[str, float]: ...

    @property
    def cpu_seconds(self) -> Mapping[str, float]: ...

    @property
    def history(self) -> tuple[Mapping[str, Any], ...]: ...

    @property
    def config(self) -> Mapping[str, Any]: ...


def course(report: _Course) -> dict[str, Any]:
    """What a run took, and what it was asked for."""
    return {
        "env_steps": report.env_steps,
        "updates": report.updates,
        "evaluations": report.evaluations,
        "seconds": {k: round(v, 3) for k, v in report.seconds.items()},
        "cpu_seconds": {k: round(v, 3) for k, v in report.cpu_seconds.items()},
        "history": [{k: plain(v) for k, v in look.items()} for look in report.history],
        "config": dict(report.config),
        "versions": versions(),
    }
