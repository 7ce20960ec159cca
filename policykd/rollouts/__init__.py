"""Stepping environments: for training (``Collector``), for measuring (``play``, ``play_panel``); it keeps nothing."""

from __future__ import annotations

from policykd.rollouts.collect import Collector, Rollout
from policykd.rollouts.episodes import CHUNK, Episodes, Played, play, play_panel
from policykd.rollouts.panel import RANDOM, Panel
from policykd.rollouts.vector import make, native

__all__ = [
    "CHUNK",
    "RANDOM",
    "Collector",
    "Episodes",
    "Panel",
    "Played",
    "Rollout",
    "make",
    "native",
    "play",
    "play_panel",
]
