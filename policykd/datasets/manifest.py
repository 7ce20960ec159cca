"""What manifest.json says of a dataset: spec, origin, columns, shards; it opens no shard and believes no file name."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from policykd.errors import CheckpointError, PolicykdError, UsageError
from policykd.prediction import Origin, Spec
from policykd.spaces_json import origin_from_json, origin_to_json, spec_from_json, spec_to_json

__all__ = ["MANIFEST", "Column", "Manifest", "Shard"]

MANIFEST = "manifest.json"
_SCHEMA = 1


@dataclass(frozen=True)
class Column:
    """Type and shape (of one row) of a named array."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return int(np.dtype(self.dtype).itemsize * np.prod(self.shape, dtype=np.int64))


@dataclass(frozen=True)
class Shard:
    """One file of rows, and how to know that it is whole."""

    file: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """A dataset without its rows.

    Attributes:
        spec, origin: of the policy that labelled it.
        about: whatever was noted when it was written.
        steps: rows that count: environment steps.
        episodes: episodes that ended in it.
        columns: what a row holds: ``obs`` or ``obs/<key>``, ``target/<tensor>``, ``weight``, ``mask``, ``extra/...``.
    """

    spec: Spec
    origin: Origin
    about: Mapping[str, Any] = field(default_factory=dict)
    steps: int = 0
    episodes: int = 0
    columns: Mapping[str, Column] = field(default_factory=dict)
    shards: tuple[Shard, ...] = ()

    @property
    def rows(self) -> int:
        """Rows in all, those that are masked out included."""
        return sum(s.rows for s in self.shards)

    def to_json(self) -> bytes:
        """The file's text.

        Raises:
            UsageError: ``dataset.about`` for notes or arguments of an environment that JSON cannot say.
            SpaceError: ``space.json``.
        """
        data = {
            "schema": _SCHEMA,
            "kind": "dataset",
            "spec": spec_to_json(self.spec),
            "origin": origin_to_json(self.origin),
            "about": dict(self.about),
            "rows": self.rows,
            "steps": self.steps,
            "episodes": self.episodes,
            "columns": {name: {"dtype": c.dtype, "shape": list(c.shape)} for name, c in self.columns.items()},
            "shards": [vars(s) for s in self.shards],
        }
        try:
            return json.dumps(data, indent=1, allow_nan=False).encode()
        except (TypeError, ValueError) as why:
            raise UsageError(
                "dataset.about", f"a note or an origin that is not JSON ({why})", "numbers, texts, and lists of them"
            ) from None

    @classmethod
    def from_json(cls, text: bytes, path: object) -> Manifest:
        """The manifest that a file describes.

        Raises:
            CheckpointError: ``dataset.manifest`` for anything else; ``path`` is named in it.
        """
        try:
            return _described(json.loads(text))
        except PolicykdError as why:
            reason = str(why)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as why:
            reason = repr(why)
        raise CheckpointError(
            "dataset.manifest",
            f"{path}: {reason}",
            f"a dataset's manifest (schema {_SCHEMA})",
            "take an undamaged copy",
        )


def _described(data: Any) -> Manifest:
    if data["kind"] != "dataset" or data["schema"] != _SCHEMA:
        raise ValueError(f"kind {data['kind']!r}, schema {data['schema']!r}")
    columns = {}
    for name, column in data["columns"].items():
        dtype, shape = np.dtype(column["dtype"]), tuple(int(n) for n in column["shape"])
        if dtype.kind not in "biuf" or not dtype.isnative or min(shape, default=0) < 0:
            raise ValueError(f"the column {name!r}: {column}")
        columns[name] = Column(str(dtype), shape)
    shards = tuple(Shard(str(s["file"]), int(s["rows"]), int(s["bytes"]), str(s["sha256"])) for s in data["shards"])
    for shard in shards:
        if not re.fullmatch(r"shard-\d{5,}\.npz", shard.file) or shard.rows < 1:
            raise ValueError(f"the shard {shard}")
    found = Manifest(
        spec_from_json(data["spec"]),
        origin_from_json(data["origin"]),
        dict(data["about"]),
        int(data["steps"]),
        int(data["episodes"]),
        columns,
        shards,
    )
    if not shards or int(data["rows"]) != found.rows:
        raise ValueError(f"{data['rows']} rows in {len(shards)} shards")
    return found
