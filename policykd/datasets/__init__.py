"""Labelled rows, in memory and on disk; this room steps no environment and never learns.

Minari's datasets are read and written by ``policykd.datasets.minari``, which needs the extra of that name.
"""

from __future__ import annotations

from policykd.datasets.labelled import NAMES, Labelled, Split, find
from policykd.datasets.manifest import Manifest
from policykd.datasets.ring import Ring
from policykd.datasets.shards import Dataset, read, write

__all__ = ["NAMES", "Dataset", "Labelled", "Manifest", "Ring", "Split", "find", "read", "write"]
