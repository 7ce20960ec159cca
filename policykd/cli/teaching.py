"""What verbs that teach students of an agent say alike: a plan, seconds by phase, where to look; it teaches nobody."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from policykd import losses
from policykd.cli.arguments import Teaches
from policykd.cli.flags import settings
from policykd.cli.names import loss_of
from policykd.cli.screen import Screen
from policykd.losses import Weighted
from policykd.policy import Policy
from policykd.recipe import Recipe
from policykd.report import Report

__all__ = ["objective", "plan", "show_plan", "spent", "waited", "where"]


def objective(name: str | None, value_weight: float) -> Weighted | None:
    """The loss that ``--loss`` names, with the values beside it where they are taught; None for the family's default.

    Raises:
        UnknownNameError, UsageError: as ``loss_of``.
    """
    if name is None:
        return None
    found = losses.as_objective(loss_of(name))
    if value_weight > 0 and set(found.parts) == {"policy"}:
        return losses.weighted(policy=found.parts["policy"], value=(value_weight, losses.value_mse))
    return found


def plan(args: Teaches, teacher: Policy, recipe: Recipe, folder: Path, **learners: Any) -> dict[str, Any]:
    """What a dry run returns: the teacher, its environment, who would learn, and the configuration."""
    return {
        "teacher": {
            "source": teacher.origin.path,
            "algo": teacher.origin.algo,
            "family": teacher.spec.family,
            "params": teacher.acting_parameters,
            "observation_space": str(teacher.spec.observation_space),
            "action_space": str(teacher.spec.action_space),
            "gamma": teacher.origin.gamma,
            "normalised": teacher.normaliser is not None,
        },
        "env_id": recipe.env_id,
        "wrappers": [w.name for w in recipe.wrappers],
        **learners,
        "out": str(folder),
        "config": settings(args),
    }


def show_plan(
    facts: Mapping[str, Any], screen: Screen, *tables: tuple[str, tuple[str, ...], list[tuple[str, ...]]]
) -> None:
    """The teacher, ``tables`` (title, columns, rows) about who would learn, and the configuration."""
    screen.table(
        "teacher", ("", ""), [(k, str(v)) for k, v in facts["teacher"].items()] + [("env_id", facts["env_id"])]
    )
    for title, columns, rows in tables:
        screen.table(title, columns, rows)
    screen.table("configuration", ("", ""), [(k, str(v)) for k, v in facts["config"].items()])
    screen.hint("dry run: nothing was written")


def waited(report: Report, screen: Screen, began: float) -> Report:
    """The report with what a person waited for before ``began``: imports and loading."""
    before = began - screen.began
    seconds = dict(report.seconds)
    seconds |= {"load": seconds.get("load", 0.0) + before, "total": seconds["total"] + before}
    return replace(report, seconds=seconds)


def spent(fields: Mapping[str, Any], screen: Screen) -> None:
    """Seconds by phase, and what they were spent on."""
    seconds = fields["seconds"]
    phases = ("load", "collect", "learn", "evaluate")
    parts = " + ".join(f"{name} {seconds[name]:.1f}" for name in phases if name in seconds)
    end = f"{fields['env_steps']:,} environment steps, {fields['updates']:,} updates, stopped by {fields['stopped_by']}"
    screen.hint(f"{seconds['total']:.1f} s ({parts}); {end}")


def where(folder: Path, screen: Screen, size: str = "") -> None:
    """Where report and charts are, and how to keep the student (with the option that names one of several)."""
    screen.hint(f"report    {folder}/report.json")
    screen.hint(f"charts    tensorboard --logdir {folder}")
    screen.hint(f"keep it   policykd promote {folder} NAME{size}")
