"""Flags of ``policykd promote``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from policykd.cli.arguments import Manner

__all__ = ["Arguments"]


@dataclass(frozen=True, kw_only=True)
class Arguments(Manner):
    """Put the agent of a finished run on the shelf, with a card, and write the shelf's table anew."""

    run: Path
    """The run folder of `policykd distill`, `policykd frontier` or `policykd train`."""
    name: str
    """Its name on the shelf: <env>-<algo or student> is the habit."""
    out: Path = Path("agents")
    """The shelf."""
    size: str | None = None
    """Of a frontier: the size whose student to take, whatever it kept; the chosen one without it."""
    licence: str = "MIT"
    """Licence of the agent, for the card."""
    dry_run: bool = False
    """Show the card; write nothing."""
