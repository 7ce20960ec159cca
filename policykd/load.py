"""Any path to a Policy, teacher or student; it finds out what lies there and refuses to guess between two answers."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from policykd import students, teachers
from policykd.errors import CheckpointError, UsageError
from policykd.policy import Policy
from policykd.prediction import EnvWrapper
from policykd.students import MultiTask, Student, Tree

__all__ = ["load_student", "load_teacher"]

_LARGEST_CARD = 2**24


def load_teacher(path: str | Path, normalizer: str | Path | Literal["auto"] | None = "auto") -> Policy:
    """The policy at ``path``, ready to act on raw observations; no file's code is run.

    ``path`` may be an SB3 or sb3-contrib ``.zip`` (with or without its suffix), an rl_zoo3 folder, a Hub-style folder,
    an ``agents/`` folder, a run folder, a student's folder, or its ``.safetensors``.

    Args:
        path: what to load.
        normalizer: ``"auto"`` finds a VecNormalize file; None acts in the zip's own spaces, exactly as SB3's
            ``model.predict``; a path names one. A student brings its own.

    Raises:
        CheckpointError: ``path.missing``, ``path.unreadable``; ``path.nothing`` for a folder without a policy;
            ``card.sha256`` and ``card.json`` for a shelf entry that is not what its card says; or its reader's.
        UsageError: ``path.several`` for a student of several tasks, which is no policy by itself.
    """
    found, path = _found(path, normalizer)
    if isinstance(found, MultiTask):
        name = found.names[0]
        raise UsageError(
            "path.several",
            f"{path} holds one student of the tasks {', '.join(found.names)}",
            "a policy for one environment",
            f"load_student(path, task={name!r}), or in a shell the folder of the task in its run, RUN/tasks/...",
        )
    return found


def _found(path: str | Path, normalizer: str | Path | Literal["auto"] | None) -> tuple[Policy | MultiTask, Path]:
    """What lies at ``path``, and where that is."""
    path = Path(path)
    try:
        path = _existing(path)
        card = _card(path) if path.is_dir() and (path / "card.json").exists() else {}
        weights = _weights(path)
        _check_hashes(card, path, weights)
    except OSError as why:
        raise CheckpointError(
            "path.unreadable", f"{str(path)[:200]}: {why.strerror}", "a path that can be read", "check its permissions"
        ) from None
    policy: Policy | MultiTask
    if weights.suffix == ".safetensors":
        if normalizer not in ("auto", None):
            raise UsageError(
                "path.normalizer",
                f"a normaliser ({normalizer}) for the student {weights}",
                "none: a student brings its own",
                "leave --normalizer out",
            )
        policy = students.load(weights)
    else:
        beside = path / "vecnormalize.pkl"
        if card and normalizer == "auto":
            normalizer = beside if beside.is_file() else None
        policy = teachers.load(weights, normalizer=normalizer)
    return policy if isinstance(policy, MultiTask) else _introduced(policy, card, path / "card.json"), path


def load_student(path: str | Path, task: str | None = None) -> Student | Tree:
    """The student at ``path``: its folder or file, a run or ``agents/`` folder, or an SB3 ``.zip`` with an MLP actor.

    A zip (one that ``students.sb3.to_sb3`` made, say) becomes a student that acts as it does, without a value head.

    Args:
        path: what to load.
        task: of a student of several tasks (``students.load`` returns it whole): whose view to return.

    Returns:
        A ``students.Student``, or a ``students.Tree`` where one lies there.

    Raises:
        CheckpointError: as ``load_teacher``.
        UsageError: ``student.transfer`` for a policy that has no plain layers; ``path.several`` for several tasks of
            which none is named, ``path.task`` for a student that has no tasks.
        UnknownNameError: ``name.task``.
    """
    if task is not None:
        found, path = _found(path, "auto")
        if not isinstance(found, MultiTask):
            raise UsageError("path.task", f"the task {task} of {path}", "a student of several tasks", "leave it out")
        return found.task(task)
    policy = load_teacher(path)
    return policy if isinstance(policy, Student | Tree) else students.from_teacher(policy, "all")


def _existing(path: Path) -> Path:
    """``path``, or the zip that SB3's users name without its suffix."""
    if path.exists():
        return path
    if (zipped := path.with_name(path.name + ".zip")).is_file():
        return zipped
    parent, name = path.parent, path.name
    while not parent.exists() and parent != parent.parent:
        parent, name = parent.parent, parent.name
    siblings = sorted(p.name for p in parent.iterdir()) if parent.is_dir() else []
    close = difflib.get_close_matches(name, siblings, n=3, cutoff=0.5)
    fix = f"did you mean {' or '.join(str(parent / c) for c in close)}?" if close else f"look in {parent}"
    raise CheckpointError("path.missing", f"{path} does not exist", "a file or a folder", fix)


def _weights(path: Path) -> Path:
    """The file (or the folder that ``teachers`` reads) with the policy's weights."""
    if path.is_file():
        return path
    for place in (path / "student.safetensors", path / "student" / "student.safetensors", path / "model.zip"):
        if place.is_file():
            return place
    if any(path.glob("*.zip")):
        return path
    raise CheckpointError(
        "path.nothing",
        f"the folder {path} holds no policy ({_listing(path)})",
        "student.safetensors (here or in student/), model.zip, or a zoo's or Hub's *.zip",
        "give the folder of one agent, or the file itself",
    )


def _listing(path: Path) -> str:
    names = sorted(p.name + "/" * p.is_dir() for p in path.iterdir())
    return ", ".join(names[:8]) + (f", and {len(names) - 8} more" if len(names) > 8 else "") if names else "it is empty"


def _card(path: Path) -> Mapping[str, Any]:
    file = path / "card.json"
    try:
        if file.stat().st_size > _LARGEST_CARD:
            raise ValueError(f"{file.stat().st_size} bytes")
        card = json.loads(file.read_bytes())
        if not isinstance(card, dict) or not isinstance(card.get("sha256", ""), str | dict):
            raise ValueError("no card")
    except (OSError, ValueError, RecursionError) as why:
        raise CheckpointError("card.json", f"{file}: {why}", "an agent's card", "take an undamaged copy") from None
    return card


def _check_hashes(card: Mapping[str, Any], path: Path, weights: Path) -> None:
    """Compare files with the card's ``sha256``: that of the weights, or a table of file names."""
    said = card.get("sha256")
    if said is None:
        return
    for name, wanted in (said if isinstance(said, dict) else {weights.name: said}).items():
        file = path / str(name)
        inside = file.resolve().is_relative_to(path.resolve()) and file.is_file()
        found = hashlib.sha256(file.read_bytes()).hexdigest() if inside else "no such file"
        if found != wanted:
            raise CheckpointError(
                "card.sha256",
                f"{file} is not what its card describes ({found[:12]})",
                f"sha256 {str(wanted)[:12]}",
                "it was damaged or replaced: take it from the place the card came from",
            )


def _introduced(policy: Policy, card: Mapping[str, Any], file: Path) -> Policy:
    """The policy with what its card knows of its environment, where its own files do not say."""
    if policy.origin.env_id is None and card.get("env_id"):
        try:
            policy.origin = replace(
                policy.origin,
                env_id=str(card["env_id"]),
                env_kwargs=dict(card.get("env_kwargs") or {}),
                wrappers=tuple(EnvWrapper(**w) for w in card.get("wrappers") or ()),
            )
        except (TypeError, ValueError) as why:
            raise CheckpointError("card.json", f"{file}: {why}", "an agent's card") from None
    return policy
