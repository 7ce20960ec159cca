"""``policykd list``: what can be named here, each with a word about it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym

from policykd import losses, recipe
from policykd.cli.arguments.list import Arguments, What
from policykd.cli.measured import rows_in
from policykd.cli.names import LOSSES
from policykd.cli.screen import Screen, span
from policykd.config import METHODS, REWARDED
from policykd.errors import PolicykdError
from policykd.students import ACTIVATIONS

__all__ = ["run"]

Listing = tuple[Sequence[str], list[tuple[str, ...]]]
"""Columns and rows."""

_METHODS = {
    "teacher": "the teacher acts, the student learns its answers (behaviour cloning on soft targets)",
    "student": "the student acts, the teacher says what it would have done",
    "dagger": "the teacher acts first, the student more and more; all that was seen is kept (the default)",
    "dataset": "nobody acts: rows that policykd label wrote",
}
_REWARDED = {
    "ppd": "the student acts and learns from reward too; the teacher's pull follows PPO's ratio (past a weak teacher)",
    "kickstart": "the same, and the teacher's pull is the same everywhere",
}
_STUDENTS = {
    "64,64": "a network with two layers of 64; any widths, any number of layers (--hidden 64,64)",
    "linear": "no hidden layer (--hidden linear)",
    "tree:8": "a decision tree with 8 leaves, which prints itself as rules (policykd frontier --sizes tree:8)",
    "4%": "the widest two-layer network within a share of the teacher's parameters (--max-params 4%)",
}


def run(args: Arguments, screen: Screen) -> dict[str, Any]:
    """List it; returns names and what is known of them."""
    makers: dict[What, Callable[[Path | None], Listing]] = {
        "envs": _envs,
        "losses": _losses,
        "methods": lambda folder: (
            ("method", "whose states"),
            [(name, (_METHODS | _REWARDED)[name]) for name in (*METHODS, *REWARDED)],
        ),
        "students": _students,
        "agents": lambda folder: _measured(folder or Path("agents")),
        "runs": lambda folder: _measured(folder or Path("runs")),
    }
    columns, rows = makers[args.what](args.folder)
    screen.table(args.what, columns, rows)
    return {args.what: [dict(zip(columns, row, strict=True)) for row in rows]}


def _envs(folder: Path | None) -> Listing:
    rows = []
    for path in sorted((folder or Path("envs")).glob("*.py")):
        try:
            found = recipe.load(path)
        except PolicykdError as why:
            rows.append((str(path), f"({why})", "", ""))
            continue
        rows.append((str(path), found.env_id, f"{found.threshold}", ", ".join(sorted(found.hyperparams))))
    newest: dict[str, str] = {}
    for env_id, spec in sorted(
        gym.registry.items(), key=lambda x: (x[1].namespace or "", x[1].name, x[1].version or 0)
    ):
        newest[f"{spec.namespace}/{spec.name}"] = env_id
    # A namespace (phys2d/, tabular/) holds experiments of gymnasium's own, GymV21 and V26 wrap another library's.
    rows += [
        (env_id, env_id, f"{gym.registry[env_id].reward_threshold}", "")
        for env_id in newest.values()
        if "/" not in env_id and not env_id.startswith("GymV2")
    ]
    return ("env", "id", "solved at", "hyper-parameters for"), [
        (a, b, "" if c == "None" else c, d) for a, b, c, d in rows
    ]


def _losses(folder: Path | None) -> Listing:
    rows = []
    for name, function in LOSSES.items():
        says = (vars(losses)[function].__doc__ or "").strip().partition("\n")[0]
        rows.append((name, says.replace("``", "").replace(", [*b]", "")))
    return ("loss", "what it is"), [*rows, ("module:function", "your own (student, target) -> one number a row")]


def _students(folder: Path | None) -> Listing:
    return ("student", "what it is"), [*_STUDENTS.items(), ("activations", ", ".join(sorted(ACTIVATIONS)))]


def _measured(folder: Path) -> Listing:
    rows: list[tuple[str, ...]] = [
        (
            it["path"],
            str(it["env_id"]),
            str(it["kind"]),
            span(it["return_mean"], it["return_ci"]),
            span(it["retention"], it["retention_ci"], 3),
        )
        for it in rows_in(folder, strict=False)
    ]
    return ("path", "environment", "kind", "return [95 %]", "retention [95 %]"), rows
