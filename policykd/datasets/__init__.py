"""Labelled rows, in memory and on disk; this room never labels and never learns."""

from __future__ import annotations

from policykd.datasets.ring import Ring

__all__ = ["Ring"]
