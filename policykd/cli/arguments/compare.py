"""Flags of ``policykd compare``."""

from __future__ import annotations

from dataclasses import dataclass

from policykd.cli.arguments import Manner
from policykd.errors import UsageError

__all__ = ["Arguments"]


@dataclass(frozen=True, kw_only=True)
class Arguments(Manner):
    """One table over runs and agents, from their report.json and card.json; nothing is played."""

    paths: tuple[str, ...]
    """Run folders, folders of agents/, or folders of such folders (runs agents)."""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if not self.paths:
            raise UsageError("cli.arguments", "no run", "one path or more", "policykd compare runs agents")
