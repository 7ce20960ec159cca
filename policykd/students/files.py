"""A student on disk: student.safetensors beside student.json; it refuses pickles and pairs that do not match."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor, nn

from policykd.disk import write_whole
from policykd.errors import CheckpointError, PolicykdError
from policykd.networks import KeyedNormaliser, Normaliser
from policykd.prediction import Origin, Spec
from policykd.spaces_json import origin_from_json, origin_to_json, spec_from_json, spec_to_json
from policykd.students.multitask import MultiTask
from policykd.students.network import Student, empty
from policykd.students.nodes import Tree
from policykd.students.normaliser import install_normaliser, normalised_parts
from policykd.students.shape import Shape

__all__ = ["load", "save"]

_SCHEMA = 1
_LARGEST_JSON = 2**26
_SHARED = ("hidden", "heads", "inputs", "activation", "value")  # arguments of MultiTask that its file holds


def save(student: Student | Tree | MultiTask, folder: str | Path, name: str = "student") -> Path:
    """Write ``<name>.safetensors`` and ``<name>.json`` into ``folder`` (made if missing), each all or nothing.

    A view of one task (``MultiTask.task``) holds layers of others: save ``MultiTask.alone``.

    Returns:
        Path of the weights.

    Raises:
        RunError: ``student.write`` when the folder cannot be written.
    """
    named = student.weights() if isinstance(student, MultiTask) else student.state_dict()
    weights = tensors_to_bytes({k: v.detach().cpu().contiguous() for k, v in named.items()})
    card = {
        "schema": _SCHEMA,
        **_about(student),
        "params": student.acting_parameters,
        "weights": {"file": f"{name}.safetensors", "sha256": hashlib.sha256(weights).hexdigest()},
    }
    text = json.dumps(card, indent=1, allow_nan=False)
    files = {f"{name}.safetensors": weights, f"{name}.json": text.encode()}
    write_whole(Path(folder), files, code="student.write")
    return Path(folder) / f"{name}.safetensors"


def _about(student: Student | Tree | MultiTask) -> dict[str, Any]:
    if isinstance(student, MultiTask):
        views = student.tasks()
        tasks = [
            {"name": name, "spec": spec_to_json(view.spec), "origin": origin_to_json(view.origin)}
            for name, view in views.items()
        ]
        return {"kind": "multitask", "tasks": tasks, "shape": {k: vars(student)[k] for k in _SHARED}}
    return {
        "kind": "tree" if isinstance(student, Tree) else "student",
        "spec": spec_to_json(student.spec),
        "shape": _size(student) if isinstance(student, Tree) else asdict(student.shape),
        "origin": origin_to_json(student.origin),
    }


def _size(tree: Tree) -> dict[str, int]:
    return {"inner_nodes": tree.inner_nodes, "leaves": tree.leaves, "depth": tree.depth}


def _read(path: Path, largest: int | None = None) -> bytes:
    try:
        if largest is not None and path.stat().st_size > largest:
            raise CheckpointError("student.json", f"{path} has {path.stat().st_size} bytes", "a student's description")
        return path.read_bytes()
    except OSError as why:
        raise CheckpointError(
            "student.missing",
            f"{path}: {why.strerror}",
            "student.safetensors and student.json side by side",
            "copy both files, or give the folder that holds them",
        ) from None


def _described(data: bytes, path: Path) -> dict[str, Any]:
    """The card, its spec, shape (a tree's: its size) and origin (or those of its tasks) as objects."""
    try:
        card: dict[str, Any] = json.loads(data)
        if card["kind"] not in ("student", "tree", "multitask") or card["schema"] != _SCHEMA:
            raise ValueError(f"kind {card['kind']!r}, schema {card['schema']!r}")
        card["weights"] = str(card["weights"]["sha256"])
        if card["kind"] == "multitask":
            tasks = [
                (str(t["name"]), (spec_from_json(t["spec"]), origin_from_json(t["origin"]))) for t in card["tasks"]
            ]
            card["tasks"], shape = dict(tasks), card["shape"]
            if len(card["tasks"]) < len(tasks) or set(shape) != set(_SHARED):
                raise ValueError(f"{len(tasks)} tasks, {len(card['tasks'])} names; {sorted(shape)}"[:300])
            card["shape"] = {**shape, "hidden": tuple(shape["hidden"])}
            return card
        card["spec"], card["origin"] = spec_from_json(card["spec"]), origin_from_json(card["origin"])
        card["shape"] = dict(card["shape"]) if card["kind"] == "tree" else Shape(**card["shape"])
        return card
    except PolicykdError as why:
        reason = str(why)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as why:
        reason = repr(why)
    raise CheckpointError(
        "student.json", f"{path}: {reason}", f"a student's description (schema {_SCHEMA})", "take an undamaged copy"
    )


def load(path: str | Path) -> Student | Tree | MultiTask:
    """The student (or tree) in a folder, or the one whose ``.safetensors`` (with its ``.json`` beside it) is named.

    Raises:
        CheckpointError: ``student.missing``, ``student.json`` (not a description), ``student.mismatch`` (weights of
            another student than the description's), ``student.weights`` (not safetensors), ``weights.not-finite``,
            ``student.tree`` (arrays that are no tree).
    """
    path = Path(path)
    file = path / "student.safetensors" if path.is_dir() else path
    data = _read(file)
    about = file.with_suffix(".json")
    card = _described(_read(about, _LARGEST_JSON), about)
    if hashlib.sha256(data).hexdigest() != card["weights"]:
        raise CheckpointError(
            "student.mismatch",
            f"{file} is not the file that {about.name} describes (another sha256)",
            "the two files of one student",
            "one was damaged or replaced: take both from the same place",
        )
    try:
        tensors = tensors_from_bytes(data)
    except (SafetensorError, ValueError, KeyError) as why:
        raise CheckpointError(
            "student.weights", f"{file}: {why}", "a safetensors file", "take an undamaged copy"
        ) from None
    match card["kind"]:
        case "multitask":
            return _several(card["tasks"], card["shape"], tensors, file)
        case "tree":
            return _tree(card["spec"], card["shape"], card["origin"], tensors, file)
    return _assembled(card["spec"], card["shape"], card["origin"], tensors, file)


def _tree(spec: Spec, size: dict[str, int], origin: Origin, tensors: dict[str, Tensor], file: Path) -> Tree:
    found = {key: (str(tensor.dtype), tensor.dim()) for key, tensor in tensors.items()}
    whole = dict.fromkeys(("feature", "left", "right"), ("torch.int64", 1))
    want = {**whole, "threshold": ("torch.float32", 1), "value": ("torch.float32", 2)}
    if "log_std" in found:
        want["log_std"] = ("torch.float32", 1)
    reason = f"tensors {found}"
    if found == want:
        try:
            tree = Tree(spec, **{key: tensor.numpy() for key, tensor in tensors.items()}, origin=origin)
        except (PolicykdError, RuntimeError, TypeError, OverflowError) as why:
            reason = str(why).splitlines()[0]
        else:
            if _size(tree) == size:
                return tree
            reason = f"a tree of {_size(tree)}, described as {size}"
    raise CheckpointError(
        "student.tree", f"{file}: {reason[:300]}", "the arrays of one decision tree", "take an undamaged copy"
    )


def _mismatch(file: Path, found: str, expected: str) -> CheckpointError:
    return CheckpointError("student.mismatch", f"{file}: {found}", expected, "take both files from the same place")


def _assembled(spec: Spec, shape: Shape, origin: Origin, tensors: dict[str, Tensor], file: Path) -> Student:
    if 2 * (len(shape.hidden) + len(shape.channels)) > len(tensors):
        expected = f"those of hidden={shape.hidden[:8]}, channels={shape.channels[:8]}"
        raise _mismatch(file, f"{len(tensors)} tensors", expected)
    try:
        student = empty(spec, shape)  # no memory is taken before the shapes are known to be those of the weights
    except (PolicykdError, RuntimeError, TypeError) as why:
        raise _mismatch(file, str(why).splitlines()[0], "weights and description of one student") from None
    student.origin = origin
    _normalise(student, "", tensors, file)
    _fill(student, student.state_dict(), tensors, file)
    return student


def _several(
    tasks: Mapping[str, tuple[Spec, Origin]], shape: dict[str, Any], tensors: dict[str, Tensor], file: Path
) -> MultiTask:
    if len(tasks) * 2 > len(tensors) or 2 * len(shape.get("hidden", ())) > len(tensors):
        raise _mismatch(file, f"{len(tensors)} tensors", f"those of {len(tasks)} tasks, {shape}"[:300])
    try:
        with torch.device("meta"):
            student = MultiTask(
                {name: spec for name, (spec, _) in tasks.items()},
                **shape,
                origins={name: origin for name, (_, origin) in tasks.items()},
            )
    except (PolicykdError, RuntimeError, TypeError) as why:
        raise _mismatch(file, str(why).splitlines()[0], "weights and description of one student") from None
    for i, view in enumerate(student.tasks().values()):
        _normalise(view, f"views.{i}.", tensors, file)
    _fill(student, student.weights(), tensors, file)
    return student


def _normalise(student: Student, stem: str, tensors: Mapping[str, Tensor], file: Path) -> None:
    """Give ``student`` the normaliser whose statistics are among ``tensors``."""
    parts: dict[str | None, Normaliser] = {}
    try:
        for key, space in normalised_parts(student.spec).items():
            place = f"{stem}normaliser." + ("" if key is None else KeyedNormaliser.module_name(key) + ".")
            names = [place + end for end in ("mean", "var", "limits")]
            if set(names) <= set(tensors):
                mean, var, limits = (tensors[name].numpy() for name in names)
                if not mean.shape == var.shape == space.shape or not np.all(var >= 0):
                    raise _mismatch(
                        file, f"{names[0]} of shape {mean.shape}", f"{space.shape}, and no negative variance"
                    )
                parts[key] = Normaliser(mean, var, *limits.tolist())
    except (RuntimeError, TypeError) as why:
        raise _mismatch(file, str(why).splitlines()[0], "weights and description of one student") from None
    install_normaliser(student, parts)


def _fill(student: nn.Module, wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor], file: Path) -> None:
    """Put ``tensors`` in place of the student's own (``wanted``, by name, layers that are shared once)."""
    want = {k: (tuple(v.shape), v.dtype) for k, v in wanted.items()}
    have = {k: (tuple(v.shape), v.dtype) for k, v in tensors.items()}
    for key in sorted(set(want) | set(have)):
        if want.get(key) != have.get(key):
            raise _mismatch(file, f"{key} is {have.get(key, 'missing')}", f"{want.get(key, 'no such tensor')}")
    for key, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(
                "weights.not-finite", f"{file}: {key} has NaN or infinite numbers", "finite weights", "train again"
            )
    # Own memory: a tensor read from bytes must not be trained in place. What is shared is one module under many names.
    student.load_state_dict({k: v.clone() for k, v in tensors.items()}, strict=False, assign=True)
