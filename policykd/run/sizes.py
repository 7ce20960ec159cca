"""Students of many sizes in one run folder, each where its size and seed say; it saves, and chooses none of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from policykd import students
from policykd.errors import RunError, UnknownNameError, UsageError
from policykd.policy import Policy
from policykd.report import FrontierReport
from policykd.students import Cohort, Student, Tree

__all__ = ["place", "pretend_distilled", "save_sizes", "save_unmeasured", "sizes_in"]


def place(size: str, seed: int | None = None) -> str:
    """The folder of a size (or of one of its students) in a run: ``students/16x16``, ``students/tree-8/seed-0``."""
    name = re.sub(r"[^\w.-]+", "-", size.replace(",", "x"))
    return f"students/{name}" if seed is None else f"students/{name}/seed-{seed}"


def sizes_in(cohort: Cohort) -> list[tuple[str, int]]:
    """Name of each size in a cohort (``16,16``, ``linear``) and how many members it has, in their order."""
    stacks: Any = cohort.stacks
    return [(",".join(map(str, stack.shape.hidden)) or "linear", stack.members) for stack in stacks]


def save_sizes(report: FrontierReport, fields: dict[str, Any], folder: Path) -> list[Path]:
    """Save every student of a frontier, and say in ``fields`` (of report.json) where each lies.

    Returns:
        The folders; a policy that is no student of this project is not saved, and its path is None.
    """
    saved = []
    for candidate, said in zip(report.candidates, fields["candidates"], strict=True):
        for (seed, policy, *_), entry in zip(candidate.seeds, said["seeds"], strict=True):
            entry["path"] = _save(policy, folder / place(candidate.name, seed))
            saved += [] if entry["path"] is None else [Path(entry["path"])]
            if seed == candidate.seed:
                said["path"] = entry["path"]
    return saved


def _save(policy: Policy, folder: Path) -> str | None:
    if not isinstance(policy, Student | Tree):
        return None
    students.save(policy, folder)
    return str(folder)


def save_unmeasured(found: Iterable[tuple[str, int, Policy]], folder: Path) -> list[Path]:
    """Save students (size, seed, policy) that have not been measured: ``students/16x16/so-far-0`` and so on."""
    made = [(policy, folder / place(size) / f"so-far-{seed}") for size, seed, policy in found]
    return [path for policy, path in made if _save(policy, path) is not None]


def pretend_distilled(report: Mapping[str, Any], size: str | None, folder: Path) -> tuple[dict[str, Any], Path]:
    """The fields of one student's report, and its folder: what a run that made a single student would have.

    Args:
        report: the fields of report.json; of a run that is no frontier they are returned as they are.
        size: of a frontier's students; None for the chosen one.
        folder: the run's.

    Raises:
        RunError: ``promote.none`` where a size was not named and no student reached the target.
        UsageError: ``promote.size`` for a size of a run that has no sizes.
        UnknownNameError: ``name.size``.
    """
    place_of_one = folder / "student"
    if report.get("kind") != "frontier":
        if size is not None:
            raise UsageError("promote.size", f"--size {size} of {folder}", "a run of policykd frontier", "leave it out")
        return dict(report), place_of_one
    known = {c["name"]: c for c in report["candidates"]}
    if size is None and report["chosen"] is None:
        low = {n: (c["retention_ci"] or [float("-inf")])[0] for n, c in known.items()}
        raise RunError(
            "promote.none",
            f"no student of {folder} reached the target of {report['target']:g}",
            "a frontier that chose one",
            f"name the size that you want all the same: --size {max(low, key=lambda n: low[n])}",
        )
    if size is None or size == report["chosen"]:
        return dict(report), place_of_one
    if size not in known:
        raise UnknownNameError.of("size", size, known)
    found = known[size]
    # Agreement is measured of the chosen student alone.
    kept = {"retention": found["retention"], "retention_ci": found["retention_ci"], "agreement": None}
    return {**report, "student": found, **kept}, folder / place(size, found["seed"])
