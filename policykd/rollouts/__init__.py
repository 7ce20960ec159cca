"""Stepping environments: for training (``Collector``) and for measuring (``play``); it keeps nothing."""

from __future__ import annotations

from policykd.rollouts.collect import Collector, Rollout
from policykd.rollouts.episodes import Episodes, play
from policykd.rollouts.vector import make, native

__all__ = ["Collector", "Episodes", "Rollout", "make", "native", "play"]
