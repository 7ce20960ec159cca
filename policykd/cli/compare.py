"""``policykd compare``: one table over runs and agents, from the files that their measuring left."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from policykd.cli.arguments.compare import Arguments
from policykd.cli.screen import Screen, number, span
from policykd.errors import RunError

__all__ = ["rows_in", "run"]


def run(args: Arguments, screen: Screen) -> dict[str, Any]:
    """Read them; returns one object a run or agent."""
    found = [row for path in args.paths for row in rows_in(Path(path))]
    columns = (
        "what",
        "environment",
        "kind",
        "parameters",
        "bytes",
        "return [95 %]",
        "retention [95 %]",
        "agreement",
        "s",
    )
    rows = [
        (
            it["path"],
            str(it["env_id"]),
            str(it["kind"]),
            "" if it["params"] is None else f"{it['params']:,}",
            "" if it["bytes"] is None else f"{it['bytes']:,}",
            span(it["return_mean"], it["return_ci"]),
            span(it["retention"], it["retention_ci"], 3),
            number(it["agreement"], 3),
            number(it["seconds"]),
        )
        for it in found
    ]
    screen.table("as measured", columns, rows)
    return {"rows": found}


def rows_in(path: Path, *, strict: bool = True) -> Iterator[dict[str, Any]]:
    """The run or agent at ``path``, or those in the folders in it.

    Args:
        strict: refuse a path that holds none.

    Raises:
        RunError: ``compare.nothing``, ``run.damaged``.
    """
    for name in ("card.json", "report.json"):
        if (path / name).is_file():
            yield _row(path, name)
            return
    inner = sorted(p for p in path.iterdir() if p.is_dir()) if path.is_dir() else []
    found = [row for p in inner if not p.name.startswith(".") for row in rows_in(p, strict=False)]
    if strict and not found:
        what = "is not there" if not path.exists() else "holds no finished run and no agent"
        raise RunError("compare.nothing", f"{path} {what}", "report.json or card.json", "name run folders or agents")
    yield from found


def _row(path: Path, name: str) -> dict[str, Any]:
    try:
        it = json.loads((path / name).read_bytes())
        card = name == "card.json"
        role = it["kind"] if card else "teacher" if it["kind"] == "train" else "student"
        score, facts = (it["score"], it) if card else (it[role], it[role])
        return {
            "path": str(path),
            "from": name,
            "env_id": it["env_id"],
            "kind": f"{facts.get('algo') or it.get('method')} {role}",
            "params": facts.get("params"),
            "bytes": facts.get("bytes"),
            "return_mean": score["return_mean"],
            "return_ci": score["return_ci"],
            "episodes": score["episodes"],
            "retention": it.get("retention"),
            "retention_ci": it.get("retention_ci"),
            "agreement": it.get("agreement"),
            "seconds": it.get("seconds", {}).get("total"),
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as why:
        raise RunError(
            "run.damaged", f"{path / name}: {why!r}", "the JSON that policykd wrote", "make it anew"
        ) from None
