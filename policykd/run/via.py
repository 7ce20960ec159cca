"""Assistants of a distillation in a run folder, each in a place of its own under ``via/``; it measures none of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from policykd import students
from policykd.policy import Policy
from policykd.report import Report, Stage
from policykd.run.charts import Charts
from policykd.students import Student

__all__ = ["conclude_via", "place_of", "save_assistant"]


def place_of(stage: Stage) -> str:
    """The folder, and series of charts, of a stage in a run: ``via/1-256x256`` of an assistant, else ``student``."""
    return "student" if stage.number == stage.of else _place(stage.number, stage.student)


def _place(number: int, assistant: Policy) -> str:
    hidden = assistant.shape.hidden if isinstance(assistant, Student) else ()
    return f"via/{number}-{'x'.join(map(str, hidden)) or 'linear'}"


def save_assistant(stage: Stage, folder: Path) -> Path | None:
    """Save the assistant as it is now; None for the student, whose place others fill."""
    if stage.number == stage.of or not isinstance(stage.student, Student):
        return None
    place = folder / place_of(stage)
    students.save(stage.student, place)
    return place


def conclude_via(via: Sequence[Report], fields: dict[str, Any], folder: Path, charts: Charts) -> list[Path]:
    """Save every assistant, draw its last points, and say in ``fields`` (of report.json) where each lies.

    Returns:
        The folders.
    """
    saved, step = [], 0
    for number, (report, said) in enumerate(zip(via, fields["via"], strict=True), 1):
        step += report.env_steps
        if not isinstance(report.policy, Student):
            continue
        place = _place(number, report.policy)
        students.save(report.policy, folder / place)
        said["path"] = str(folder / place)
        saved.append(folder / place)
        final = {"retention": "retention", "return": "return_mean", "params": "params", "bytes": "bytes"}
        charts.scalars(step, {f"final/{tag}": said[name] for tag, name in final.items()}, place)
    return saved
