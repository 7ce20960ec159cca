"""report.json of a distilled classifier: teacher, the student alone, the student distilled; it measures nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from policykd.classifiers import Classifier
from policykd.intervals import Interval
from policykd.report import versions
from policykd.supervised import ClassScore

__all__ = ["ClassMeasured", "ClassReport"]


@dataclass(frozen=True)
class ClassMeasured:
    """One classifier on the test rows."""

    shape: str | None
    params: int
    bytes: int
    score: ClassScore
    epochs: int | None = None
    """That were run; None where it was not trained here."""
    best_epoch: int | None = None
    updates: int | None = None
    source: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON fields; what is not known, or no finite number, is left out."""
        s = self.score
        fields = {
            "source": self.source,
            "shape": self.shape,
            "params": self.params,
            "bytes": self.bytes,
            "rows": s.rows,
            "accuracy": s.accuracy.value,
            "accuracy_ci": [s.accuracy.low, s.accuracy.high],
            "nll": s.nll,
            "ece": s.ece,
            "agreement": s.agreement,
            "kd_loss": s.kd_loss,
            "epochs": self.epochs,
            "best_epoch": self.best_epoch,
            "updates": self.updates,
        }
        # A class that a user's module holds to be impossible has an infinite -log probability.
        unknown = {name for name, v in fields.items() if v is None or (isinstance(v, float) and not math.isfinite(v))}
        return {name: value for name, value in fields.items() if name not in unknown}


@dataclass(frozen=True)
class ClassReport:
    """What distilling a classifier came to. ``str`` is a line for people, ``to_dict`` the fields of report.json."""

    data: Mapping[str, Any]
    teacher: ClassMeasured
    alone: ClassMeasured
    student: ClassMeasured
    gain: Interval
    """Accuracy of the distilled student less that of the one alone, paired over test rows."""
    kept: Interval
    """Accuracy of the distilled student over the teacher's."""
    answers: Mapping[str, Any]
    """Rows that the student's teacher labelled, the share of them that was in the cache, CPU seconds."""
    seed: int
    seconds: Mapping[str, float]
    cpu_seconds: Mapping[str, float]
    config: Mapping[str, Any]
    via: tuple[ClassMeasured, ...] = ()
    """Assistants between teacher and student, the first one first."""
    via_answers: tuple[Mapping[str, Any], ...] = ()
    """What ``answers`` says, of the teacher of each of them."""
    history: tuple[Mapping[str, Any], ...] = ()
    """An entry an epoch: who, epoch, examples, validation accuracy."""
    policies: Mapping[str, Classifier] = field(default_factory=dict, repr=False, compare=False)
    """``teacher``, ``alone``, ``via-1`` and so on, ``student`` themselves; not part of the JSON."""

    def to_dict(self) -> dict[str, Any]:
        """The fields of report.json; nothing in it is NaN or infinite."""
        return {
            "schema": 1,
            "kind": "supervised",
            "method": self.config["loss"],
            "seed": self.seed,
            "data": dict(self.data),
            "teacher": self.teacher.to_dict(),
            "alone": self.alone.to_dict(),
            "student": self.student.to_dict(),
            "via": [
                {**it.to_dict(), "answers": dict(said)} for it, said in zip(self.via, self.via_answers, strict=True)
            ],
            "gain": self.gain.value,
            "gain_ci": [self.gain.low, self.gain.high],
            "kept": self.kept.value,
            "kept_ci": [self.kept.low, self.kept.high],
            "answers": dict(self.answers),
            "seconds": {k: round(v, 3) for k, v in self.seconds.items()},
            "cpu_seconds": {k: round(v, 3) for k, v in self.cpu_seconds.items()},
            "history": [dict(look) for look in self.history],
            "config": dict(self.config),
            "versions": versions(),
        }

    def __str__(self) -> str:
        def share(it: ClassMeasured) -> str:
            return f"{it.score.accuracy.value:.4f} ({it.params:,})"

        return (
            f"{self.data['name']}: teacher {share(self.teacher)}, alone {share(self.alone)}, "
            f"distilled {share(self.student)}; gain {self.gain}"
        )
