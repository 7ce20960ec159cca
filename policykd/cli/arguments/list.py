"""Flags of ``policykd list``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from policykd.cli.arguments import Manner

__all__ = ["Arguments", "What"]

What = Literal["envs", "losses", "methods", "students", "agents", "runs"]


@dataclass(frozen=True, kw_only=True)
class Arguments(Manner):
    """What can be named here."""

    what: What
    """What to list."""
    folder: Path | None = None
    """Where to look for recipes, agents or runs: envs, agents and runs without it."""
