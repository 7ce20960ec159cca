"""Files that are broken or hostile on purpose, and what a load of one must and must not do."""

from __future__ import annotations

import base64
import io
import json
import os
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
import torch
from teacher_zips import sample

from policykd import teachers
from policykd.errors import CheckpointError


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.marker}",)


def rewrite(
    source: Path,
    target: Path,
    change: dict[str, bytes | None] | None = None,
    rename: dict[str, str] | None = None,
    compression: int = zipfile.ZIP_STORED,
) -> Path:
    """Copy a zip with members changed, left out (None), added or renamed, and valid checksums."""
    change, rename = dict(change or {}), rename or {}
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        for name in old.namelist():
            content = change.pop(name) if name in change else old.read(name)
            if content is not None:
                new.writestr(rename.get(name, name), content)
        for name, content in change.items():
            if content is not None:
                new.writestr(name, content)
    return target


def fields_of(path: Path) -> dict[str, Any]:
    """The JSON of a zip's ``data``."""
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read("data"))


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    """The state dict of a zip's ``policy.pth``."""
    with zipfile.ZipFile(path) as archive:
        return torch.load(io.BytesIO(archive.read("policy.pth")), weights_only=True)


def saved(weights: Any) -> bytes:
    """What ``torch.save`` writes."""
    buffer = io.BytesIO()
    torch.save(weights, buffer)
    return buffer.getvalue()


def pickled(value: Any) -> dict[str, str]:
    """A field of ``data`` as SB3 writes what JSON cannot hold."""
    return {":type:": str(type(value)), ":serialized:": base64.b64encode(cloudpickle.dumps(value)).decode()}


# What no load may do. (``compile`` is absent: ast.parse, which reads the zoo's ``dict(norm_obs=True)``, announces it.)
FORBIDDEN = (
    "pickle.find_class",
    "import",
    "exec",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "subprocess.Popen",
    "marshal",
)
_heard: list[str] | None = None


def _hear(event: str, args: Any) -> None:
    if _heard is not None and event.startswith(FORBIDDEN):
        _heard.append(f"{event} {args!r}"[:200])


@contextmanager
def nothing_runs() -> Iterator[None]:
    """Fail if anything inside is imported, executed or looked up by a pickle (be ``warmed`` before)."""
    global _heard
    if not _hooked:
        sys.addaudithook(_hear)
        _hooked.append(True)
    _heard = heard = []
    try:
        yield
    finally:
        _heard = None
    assert not heard, heard


_hooked: list[bool] = []


def warmed(load: Callable[[Path], Any], path: Path) -> None:
    """Load a good file once, because torch and zipfile import parts of themselves when they are first used."""
    "é".encode().decode("cp437")
    load(path)


def refused(path: Path, code: str, *words: str, **kwargs: Any) -> CheckpointError:
    """The error with which ``load`` refuses a file, checked for its form."""
    with nothing_runs(), pytest.raises(CheckpointError) as caught:
        teachers.load(path, **kwargs)
    text = str(caught.value)
    assert caught.value.code == code and text.endswith(f"[{code}]"), text
    assert "\n" not in text and len(text) < 800, text
    assert all(word in text for word in words), text
    return caught.value


def changed(good: Path, tmp_path: Path, **fields: Any) -> Path:
    """The good agent with other fields in ``data``; a field given as ... is left out."""
    data = {k: v for k, v in {**fields_of(good), **fields}.items() if v is not ...}
    return rewrite(good, tmp_path / "changed.zip", {"data": json.dumps(data).encode()})


def with_weights(good: Path, tmp_path: Path, weights: Any) -> Path:
    return rewrite(good, tmp_path / "weights.zip", {"policy.pth": saved(weights)})


def same_actions(good: Path, path: Path) -> None:
    space = teachers.load(good).spec.observation_space
    obs = sample(space, np.random.default_rng(0), 50)
    with nothing_runs():
        teacher = teachers.load(path)
    np.testing.assert_array_equal(
        teacher.predict(obs, deterministic=True)[0], teachers.load(good).predict(obs, deterministic=True)[0]
    )
