"""Flags of ``policykd doctor``."""

from __future__ import annotations

from dataclasses import dataclass

from policykd.cli.arguments import Manner

__all__ = ["Arguments"]


@dataclass(frozen=True, kw_only=True)
class Arguments(Manner):
    """What is installed here, what is missing and how to get it: paste it into an issue."""
