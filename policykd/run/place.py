"""Where a run may be, and its plain files; it knows nothing of what a run did."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from policykd.errors import RunError

__all__ = ["check_vacant", "file_hash", "read_json", "to_json"]

_LARGEST_JSON = 2**26


def check_vacant(folder: Path) -> None:
    """Refuse a folder that holds anything.

    Raises:
        RunError: ``run.exists``.
    """
    if not folder.exists():
        return
    if (folder / "run.json").exists():
        found = f"{folder} already holds a run"
    elif not folder.is_dir():
        found = f"{folder} is a file"
    elif any(folder.iterdir()):
        found = f"{folder} is not empty"
    else:
        return
    raise RunError("run.exists", found, "a new or empty folder", "choose another --out, or remove it")


def file_hash(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def to_json(fields: Mapping[str, Any]) -> bytes:
    """As a run's files hold it; NaN is refused."""
    return (json.dumps(fields, indent=1, allow_nan=False) + "\n").encode()


def read_json(path: Path) -> dict[str, Any]:
    """What a run's file holds.

    Raises:
        RunError: ``run.damaged``.
    """
    try:
        if path.stat().st_size > _LARGEST_JSON:
            raise ValueError(f"{path.stat().st_size} bytes")
        found = json.loads(path.read_bytes())
        if not isinstance(found, dict):
            raise ValueError(f"a {type(found).__name__}")
    except (OSError, ValueError, RecursionError) as why:
        raise RunError("run.damaged", f"{path}: {why}", "the JSON that policykd wrote", "run it again") from None
    return found
