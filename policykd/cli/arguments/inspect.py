"""Flags of ``policykd inspect``."""

from __future__ import annotations

from dataclasses import dataclass

from policykd.cli.arguments import Manner

__all__ = ["Arguments"]


@dataclass(frozen=True, kw_only=True)
class Arguments(Manner):
    """What is in a checkpoint, and what code it carries; nothing in it is run."""

    path: str
    """An SB3 zip, a zoo or Hub folder, a folder of agents/, a run folder, or a student."""
