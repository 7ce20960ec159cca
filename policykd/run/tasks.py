"""One student of several tasks in a run folder, each task's charts and student in a place of its own; it measures none.

``student/`` holds the whole student, ``tasks/<name>/`` the student of a task alone, which every verb takes for a path.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from policykd import students
from policykd.report import MultiReport
from policykd.run.charts import Charts
from policykd.students import MultiTask

__all__ = ["conclude_tasks", "places", "save_tasks"]


def places(names: Iterable[str]) -> dict[str, str]:
    """The folder of each task in a run: ``tasks/CartPole-v1``; names that would share one are numbered."""
    found: dict[str, str] = {}
    for name in names:
        plain = "tasks/" + (re.sub(r"[^\w.-]+", "-", name).strip(".") or "task")
        place, number = plain, 1
        while place in found.values():
            number += 1
            place = f"{plain}-{number}"
        found[name] = place
    return found


def save_tasks(student: MultiTask, folder: Path) -> list[Path]:
    """Save the whole student and, beside it, each task's alone; returns their folders."""
    made = [folder / "student"]
    students.save(student, made[0])
    for name, place in places(student.names).items():
        made.append(folder / place)
        students.save(student.alone(name), made[-1])
    return made


def conclude_tasks(report: MultiReport, fields: dict[str, Any], folder: Path, charts: Charts) -> list[Path]:
    """The end of a run: every student saved, the last points drawn, and in ``fields`` (of report.json) where each lies.

    Returns:
        The folders with students in them.
    """
    step = fields["env_steps"]
    for name, place in places(report.tasks).items():
        task = fields["tasks"][name]
        task["path"] = None if report.policy is None else str(folder / place)
        for series, retention in (("teacher", 1.0), ("random", 0.0)):
            charts.reference(step, _line(task[series]["return_mean"], retention), f"{place}/{series}")
        charts.scalars(step, _final(task), place)
    charts.scalars(step, _final(fields), "student")
    return [] if report.policy is None else save_tasks(report.policy, folder)


def _line(mean: float, retention: float) -> dict[str, float]:
    return {"eval/mean_reward": mean, "eval/retention": retention, "rollout/ep_rew_mean": mean}


def _final(fields: Mapping[str, Any]) -> dict[str, float | None]:
    mine = fields["student"]
    return {
        "final/retention": fields["retention"],
        "final/return": mine["return_mean"],
        "final/params": mine["params"],
        "final/bytes": mine["bytes"],
        "final/agreement": fields["agreement"],
    }
