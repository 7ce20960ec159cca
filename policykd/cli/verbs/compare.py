"""``policykd compare``: one table over runs and agents, from the files that their measuring left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from policykd.cli.arguments.compare import Arguments
from policykd.cli.measured import rows_in
from policykd.cli.screen import Screen, number, span

__all__ = ["run"]


def run(args: Arguments, screen: Screen) -> dict[str, Any]:
    """Read them; returns one object a run or agent."""
    found = [row for path in args.paths for row in rows_in(Path(path), every=True)]
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
            f"{it['path']} *" if it["chosen"] else it["path"],
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
    several = any(it["chosen"] for it in found)
    screen.table(f"as measured{' (*: the smallest of its frontier at the target)' * several}", columns, rows)
    return {"rows": found}
