"""What runs and agents were measured to be, from their report.json and card.json; it measures nothing itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from policykd.errors import RunError

__all__ = ["rows_in"]


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
