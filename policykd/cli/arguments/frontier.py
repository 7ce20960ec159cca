"""Flags of ``policykd frontier``; how to teach and measure is ``policykd.config.FrontierConfig``, field by field."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from policykd.cli.arguments import Teaches
from policykd.config import FrontierConfig

__all__ = ["Arguments"]


@dataclass(frozen=True, kw_only=True)
class Arguments(Teaches):
    """Teach students of many sizes together, and find the smallest that keeps the target share of the return."""

    out: Path | None = None
    """The run folder, new or empty; runs/<time>-<env>-frontier without it."""
    how: FrontierConfig = field(default_factory=FrontierConfig)
