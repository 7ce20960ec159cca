"""Inert readers of files that others made: zip, pickle, YAML, weights; nothing in them is executed or imported."""

from __future__ import annotations

from policykd.checkpoints.archive import Archive, open_archive, sealed
from policykd.checkpoints.fields import Fields, read_fields
from policykd.checkpoints.spaces import as_space
from policykd.checkpoints.vecnormalize import Moments, Statistics, read_vecnormalize
from policykd.checkpoints.weights import read_weights
from policykd.checkpoints.yamls import arguments, read_yaml

__all__ = [
    "Archive",
    "Fields",
    "Moments",
    "Statistics",
    "arguments",
    "as_space",
    "open_archive",
    "read_fields",
    "read_vecnormalize",
    "read_weights",
    "read_yaml",
    "sealed",
]
