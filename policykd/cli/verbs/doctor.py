"""``policykd doctor``: what is here, what is missing, the line that brings it; it changes nothing, asks no server."""

from __future__ import annotations

import os
import platform
import re
import shutil
from importlib import metadata
from typing import Any

import torch

from policykd.cli.arguments.doctor import Arguments
from policykd.cli.screen import Screen

__all__ = ["run"]

_OF_DEVELOPERS = {"dev"}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def run(args: Arguments, screen: Screen) -> dict[str, Any]:
    """Look around; returns what was found."""
    needs = [_requirement(text) for text in metadata.requires("policykd") or ()]
    core = {name: _version(name) for name, extra in needs if extra is None}
    extras: dict[str, dict[str, str | None]] = {}
    for name, extra in needs:
        if extra is not None and extra not in _OF_DEVELOPERS:
            extras.setdefault(extra, {})[name] = _version(name)
    machine = {
        "policykd": _version("policykd"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processors": os.cpu_count(),
        "torch threads": torch.get_num_threads(),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
        "MUJOCO_GL": os.environ.get("MUJOCO_GL"),
        "GPU": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "disk free": f"{shutil.disk_usage('.').free / 2**30:.1f} GiB",
    }
    screen.table("machine", ("", ""), [(k, "none" if v is None else str(v)) for k, v in machine.items()])
    screen.table("core", ("package", "version"), [(name, v or "MISSING") for name, v in core.items()])
    rows = []
    for extra, packages in extras.items():
        missing = [name for name, v in packages.items() if v is None]
        have = ", ".join(f"{name} {v}" for name, v in packages.items() if v is not None)
        rows.append((extra, have, f"pip install 'policykd[{extra}]'" if missing else ""))
    screen.table("extras", ("extra", "here", "missing: type"), rows)
    broken = sorted(name for name, v in core.items() if v is None)
    screen.line(f"missing: {', '.join(broken)} -> pip install policykd" if broken else "all of the core is here")
    return {"machine": machine, "core": core, "extras": extras}


def _requirement(text: str) -> tuple[str, str | None]:
    """(package, extra) of a line of the package's metadata."""
    name = _NAME.match(text)
    extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)['\"]", text)
    return name[0] if name else text, extra[1] if extra else None


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
