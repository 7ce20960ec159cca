"""What runs and agents were measured to be, from their report.json and card.json; it measures nothing itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from policykd.errors import RunError

__all__ = ["rows_in"]


def rows_in(path: Path, *, strict: bool = True, every: bool = False) -> Iterator[dict[str, Any]]:
    """The run or agent at ``path``, or those in the folders in it.

    Args:
        strict: refuse a path that holds none.
        every: of a frontier a row a size, instead of the chosen (or best) one's.

    Raises:
        RunError: ``compare.nothing``, ``compare.classifier`` (a classifier has accuracies, not returns; in a folder of
            runs it is left out), ``run.damaged``.
    """
    for name in ("card.json", "report.json"):
        if (path / name).is_file():
            it = _read(path / name)
            if it.get("kind") == "supervised":
                if strict:
                    what = f"{path}, the run of a classifier"
                    raise RunError(
                        "compare.classifier", what, "runs of policies, which have returns", "read report.json"
                    )
                return
            yield from _sizes(path, it) if every and it.get("kind") == "frontier" else [_row(path, name, it)]
            return
    inner = sorted(p for p in path.iterdir() if p.is_dir()) if path.is_dir() else []
    found = [row for p in inner if not p.name.startswith(".") for row in rows_in(p, strict=False, every=every)]
    if strict and not found:
        lacks = "is not there" if not path.exists() else "holds no finished run and no agent"
        raise RunError("compare.nothing", f"{path} {lacks}", "report.json or card.json", "name run folders or agents")
    yield from found


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_bytes())
        if not isinstance(found, dict):
            raise ValueError(f"a {type(found).__name__}")
    except (OSError, ValueError) as why:
        raise _damaged(file, why) from None
    return found


def _damaged(file: Path, why: Exception) -> RunError:
    return RunError("run.damaged", f"{file}: {why!r}", "the JSON that policykd wrote", "make it anew")


def _row(path: Path, name: str, it: dict[str, Any]) -> dict[str, Any]:
    try:
        card = name == "card.json"
        role = it["kind"] if card else "teacher" if it["kind"] == "train" else "student"
        score, facts = (it["score"], it) if card else (it[role], it[role])
        found = {
            "path": str(path),
            "from": name,
            "env_id": it["env_id"],
            "kind": f"{facts.get('algo') or it.get('method')} {role}",
            "seconds": it.get("seconds", {}).get("total"),
            "size": None,
            "chosen": None,
        }
        return found | _figures(facts, score, it)
    except (KeyError, TypeError, AttributeError) as why:
        raise _damaged(path / name, why) from None


def _figures(facts: dict[str, Any], score: dict[str, Any], kept: dict[str, Any]) -> dict[str, Any]:
    return {
        "params": facts.get("params"),
        "bytes": facts.get("bytes"),
        "return_mean": score["return_mean"],
        "return_ci": score["return_ci"],
        "episodes": score["episodes"],
        "retention": kept.get("retention"),
        "retention_ci": kept.get("retention_ci"),
        "agreement": kept.get("agreement"),
    }


def _sizes(path: Path, it: dict[str, Any]) -> list[dict[str, Any]]:
    """A frontier's sizes, smallest first; each with the folder of its student, wherever the run lies now."""
    whole = _row(path, "report.json", it)
    try:
        return [
            {
                **whole,
                "path": str(path if one["path"] is None else path.joinpath(*Path(one["path"]).parts[-3:])),
                "kind": f"{'tree' if one['name'].startswith('tree:') else 'mlp'} student",
                "size": one["name"],
                "chosen": one["name"] == it["chosen"],
                **_figures(one, one, one),
            }
            for one in it["candidates"]
        ]
    except (KeyError, TypeError, AttributeError) as why:
        raise _damaged(path / "report.json", why) from None
