"""The ``data`` member of an SB3 zip: JSON fields, some of them pickles in base64; it decodes one field at a time."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from policykd.checkpoints.archive import Archive
from policykd.checkpoints.pickles import Pickle, read
from policykd.errors import CheckpointError

__all__ = ["Fields", "read_fields"]

MAX_DATA = 64 << 20
# JSON needs some 60 bytes of memory for what two bytes say; real agents have some hundred values, and long texts.
MAX_VALUES = 2_000_000
_PICKLED = ":serialized:"


@dataclass(frozen=True)
class Fields:
    """What an agent was saved with, by attribute name."""

    path: str
    raw: Mapping[str, Any]

    def __contains__(self, name: str) -> bool:
        return name in self.raw

    @cached_property
    def pickled(self) -> tuple[str, ...]:
        """Names of the fields that are pickles."""
        return tuple(k for k, v in self.raw.items() if isinstance(v, dict) and _PICKLED in v)

    def pickle(self, name: str) -> Pickle:
        """A pickled field as inert records.

        Raises:
            CheckpointError: ``sb3.bad-field``, or an error of the pickle.
        """
        text = self.raw[name][_PICKLED]
        try:
            return read(base64.b64decode(text, validate=True))
        except (binascii.Error, TypeError, ValueError) as error:
            raise CheckpointError("sb3.bad-field", f"{self.path}: field {name!r}: {error}"[:200], "base64") from error

    def value(self, name: str, default: Any = None) -> Any:
        """A field: its JSON value, or the records of its pickle."""
        if name not in self.raw:
            return default
        return self.pickle(name).value if name in self.pickled else self.raw[name]

    def text(self, name: str) -> Mapping[str, Any]:
        """What SB3 wrote beside a pickle for people to read: the attributes' texts."""
        beside = self.raw.get(name)
        return {k: v for k, v in beside.items() if k != _PICKLED} if isinstance(beside, dict) else {}


def read_fields(archive: Archive) -> Fields:
    """The fields of an SB3 zip.

    Raises:
        CheckpointError: ``sb3.bad-data``, ``zip.too-big``.
    """
    if archive.sizes["data"] > MAX_DATA:
        raise CheckpointError("zip.too-big", f"{archive.path}: 'data' has {archive.sizes['data']} bytes", f"{MAX_DATA}")
    raw = archive.read("data")
    if (values := raw.count(b",") + raw.count(b"[") + raw.count(b"{")) > MAX_VALUES:
        raise CheckpointError("zip.bomb", f"{archive.path}: 'data' holds {values} values", f"at most {MAX_VALUES}")
    try:
        fields = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise CheckpointError("sb3.bad-data", f"{archive.path}: 'data' is no JSON: {error}"[:200], "JSON") from error
    if not isinstance(fields, dict):
        raise CheckpointError("sb3.bad-data", f"{archive.path}: 'data' is a {type(fields).__name__}", "a JSON object")
    return Fields(str(archive.path), fields)


def printed_array(text: Any) -> np.ndarray | None:
    """The numbers of an array that numpy printed; None where it left some out (``...``) or it is no such text."""
    if not isinstance(text, str) or "..." in text:
        return None
    try:
        return np.array([float(x) for x in text.replace("[", " ").replace("]", " ").split()])
    except ValueError:
        return None
