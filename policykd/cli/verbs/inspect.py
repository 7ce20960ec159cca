"""``policykd inspect``: what a file holds and what code it carries; it shows, and runs none of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from policykd import classifiers, students, teachers
from policykd.cli.arguments.inspect import Arguments
from policykd.cli.measured import rows_in
from policykd.cli.screen import Screen, span
from policykd.load import load_student
from policykd.students import Student, Tree
from policykd.teachers import Inspection

__all__ = ["run"]

_LEAVES = 32
"""Of a tree whose rules are printed."""

_VERDICTS = {
    "data": "none; what is pickled in it is plain data",
    "function": "functions carried by value, as nearly every SB3 file does (a schedule); unpickling would build them",
    "unknown": "names from outside SB3's world; unpickling would import them",
    "dangerous": "DANGEROUS: unpickling would run commands, open files or import modules",
}


def run(args: Arguments, screen: Screen) -> dict[str, Any]:
    """Look; returns what was found."""
    path = Path(args.path)
    places = (path, path / "student.safetensors", path / "student" / "student.safetensors")
    weights = next((p for p in places if p.suffix == ".safetensors" and p.is_file()), None)
    if weights is None:
        place = next((p for p in (path, path / "student") if (p / "classifier.json").is_file()), None)
        return _teacher(args.path, screen) if place is None else _classifier(place, screen)
    found = _student(weights, screen)
    rows = list(rows_in(path, every=True)) if (path / "report.json").is_file() else []
    if any(row["size"] is not None for row in rows):
        found["candidates"] = rows
        _candidates(rows, screen)
    screen.line("code: none; safetensors and JSON cannot carry any")
    return found


def _classifier(place: Path, screen: Screen) -> dict[str, Any]:
    it = classifiers.load(place)
    found = {
        "kind": "classifier",
        "path": str(place),
        "shape": str(it.shape),
        "classes": list(it.classes),
        "params": it.acting_parameters,
        "bytes": it.size_bytes,
    }
    screen.table("classifier", ("", ""), [(name, str(value)) for name, value in found.items()])
    screen.line("code: none; safetensors and JSON cannot carry any")
    return found


def _student(weights: Path, screen: Screen) -> dict[str, Any]:
    student = load_student(weights)
    found = {
        "kind": "tree" if isinstance(student, Tree) else "student",
        "path": str(weights),
        "size": weights.stat().st_size,
        "family": student.spec.family,
        "observation_space": str(student.spec.observation_space),
        "action_space": str(student.spec.action_space),
        **(_tree(student) if isinstance(student, Tree) else _network(student)),
        "acting_parameters": student.acting_parameters,
        "bytes": students.size_bytes(student),
        "env_id": student.origin.env_id,
        "code": [],
    }
    title = str(found["kind"])
    screen.table(title, ("", ""), [(k, str(v)) for k, v in found.items() if k not in ("kind", "code", "rules")])
    if isinstance(student, Tree):
        screen.line(f"{student.rules()}\n" if student.leaves <= _LEAVES else f"{student.leaves} rules: --json has them")
    return found


def _tree(tree: Tree) -> dict[str, Any]:
    return {"leaves": tree.leaves, "depth": tree.depth, "inner_nodes": tree.inner_nodes, "rules": tree.rules()}


def _network(student: Student) -> dict[str, Any]:
    return {
        "hidden": list(student.shape.hidden),
        "activation": student.shape.activation,
        "value_head": student.value_head is not None,
    }


def _candidates(rows: Sequence[dict[str, Any]], screen: Screen) -> None:
    cells = [
        (
            f"{it['size']} *" if it["chosen"] else it["size"],
            f"{it['params']:,}",
            span(it["retention"], it["retention_ci"], 3),
            it["path"],
        )
        for it in rows
    ]
    screen.table(
        "sizes of the frontier (*: the smallest at the target)", ("size", "parameters", "retention", "path"), cells
    )


def _teacher(path: str, screen: Screen) -> dict[str, Any]:
    found = teachers.inspect(path)
    screen.table("agent", ("", ""), _facts(found))
    tensors = [(name, "x".join(map(str, shape)) or "scalar") for name, shape in found.tensors.items()]
    screen.table("weights", ("tensor", "shape"), tensors)
    rows = [(u.verdict, u.name, f"{u.count}", u.where, u.call) for u in found.code if u.verdict != "data"]
    if rows:
        columns = ("verdict", "name", "times", "where", "call")
        screen.table("code that unpickling would run (none was run here)", columns, rows)
    plain = {use.name for use in found.code if use.verdict == "data"}
    screen.hint(f"unpickling would also name {len(plain)} kinds of plain data (--json lists them)")
    screen.line(f"code: {_VERDICTS[found.verdict]}")
    if found.problem is not None:
        screen.line(f"does not load: {found.problem}")
    return {"kind": "teacher", **found.to_dict()}


def _facts(found: Inspection) -> list[tuple[str, str]]:
    facts = {
        "path": found.path,
        "sha256": found.sha256,
        "bytes": f"{found.size:,}",
        "algorithm": f"{found.algo} ({found.algo_reason})" if found.algo else None,
        "written by": f"stable-baselines3 {found.sb3_version}" if found.sb3_version else None,
        "family": found.family,
        "observations": found.observation_space,
        "actions": found.action_space,
        "acting parameters": None if found.acting_parameters is None else f"{found.acting_parameters:,}",
        "all parameters": None if found.all_parameters is None else f"{found.all_parameters:,}",
        "gamma": found.gamma,
        "reward scale": found.reward_scale,
        "normaliser": found.normaliser and found.normaliser["path"],
        "environment": found.env_id
        and (found.env_id if found.env_id == found.env_id_then else f"{found.env_id} (then {found.env_id_then})"),
        "wrappers": ", ".join(str(w["name"]) for w in found.wrappers) or None,
    }
    return [(name, str(value)) for name, value in facts.items() if value is not None]
