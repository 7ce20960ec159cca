"""A student on disk: student.safetensors beside student.json; it refuses pickles and pairs that do not match."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor

from policykd.disk import write_whole
from policykd.errors import CheckpointError, PolicykdError
from policykd.networks import KeyedNormaliser, Normaliser
from policykd.prediction import Origin, Spec
from policykd.spaces_json import origin_from_json, origin_to_json, spec_from_json, spec_to_json
from policykd.students.network import Student, empty
from policykd.students.nodes import Tree
from policykd.students.normaliser import install_normaliser, normalised_parts
from policykd.students.shape import Shape

__all__ = ["load", "save"]

_SCHEMA = 1
_LARGEST_JSON = 2**26


def save(student: Student | Tree, folder: str | Path, name: str = "student") -> Path:
    """Write ``<name>.safetensors`` and ``<name>.json`` into ``folder`` (made if missing), each all or nothing.

    Returns:
        Path of the weights.

    Raises:
        RunError: ``student.write`` when the folder cannot be written.
    """
    weights = tensors_to_bytes({k: v.detach().cpu().contiguous() for k, v in student.state_dict().items()})
    card = {
        "schema": _SCHEMA,
        "kind": "tree" if isinstance(student, Tree) else "student",
        "spec": spec_to_json(student.spec),
        "shape": _size(student) if isinstance(student, Tree) else asdict(student.shape),
        "params": student.acting_parameters,
        "origin": origin_to_json(student.origin),
        "weights": {"file": f"{name}.safetensors", "sha256": hashlib.sha256(weights).hexdigest()},
    }
    text = json.dumps(card, indent=1, allow_nan=False)
    files = {f"{name}.safetensors": weights, f"{name}.json": text.encode()}
    write_whole(Path(folder), files, code="student.write")
    return Path(folder) / f"{name}.safetensors"


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


def _described(data: bytes, path: Path) -> tuple[Spec, Shape | dict[str, int], Origin, str]:
    """Spec, shape (a tree's: its size), origin, and the sha256 of the weights."""
    try:
        card = json.loads(data)
        if card["kind"] not in ("student", "tree") or card["schema"] != _SCHEMA:
            raise ValueError(f"kind {card['kind']!r}, schema {card['schema']!r}")
        spec, origin = spec_from_json(card["spec"]), origin_from_json(card["origin"])
        shape = dict(card["shape"]) if card["kind"] == "tree" else Shape(**card["shape"])
        return spec, shape, origin, str(card["weights"]["sha256"])
    except PolicykdError as why:
        reason = str(why)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as why:
        reason = repr(why)
    raise CheckpointError(
        "student.json", f"{path}: {reason}", f"a student's description (schema {_SCHEMA})", "take an undamaged copy"
    )


def load(path: str | Path) -> Student | Tree:
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
    spec, shape, origin, sha256 = _described(_read(about, _LARGEST_JSON), about)
    if hashlib.sha256(data).hexdigest() != sha256:
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
    if isinstance(shape, Shape):
        return _assembled(spec, shape, origin, tensors, file)
    return _tree(spec, shape, origin, tensors, file)


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


def _assembled(spec: Spec, shape: Shape, origin: Origin, tensors: dict[str, Tensor], file: Path) -> Student:
    def mismatch(found: str, expected: str) -> CheckpointError:
        return CheckpointError("student.mismatch", f"{file}: {found}", expected, "take both files from the same place")

    if 2 * (len(shape.hidden) + len(shape.channels)) > len(tensors):
        raise mismatch(f"{len(tensors)} tensors", f"those of hidden={shape.hidden[:8]}, channels={shape.channels[:8]}")
    try:
        student = empty(spec, shape)  # no memory is taken before the shapes are known to be those of the weights
        student.origin = origin
        parts: dict[str | None, Normaliser] = {}
        for key, space in normalised_parts(spec).items():
            stem = "normaliser." + ("" if key is None else KeyedNormaliser.module_name(key) + ".")
            names = [stem + end for end in ("mean", "var", "limits")]
            if set(names) <= set(tensors):
                mean, var, limits = (tensors[name].numpy() for name in names)
                if not mean.shape == var.shape == space.shape or not np.all(var >= 0):
                    raise mismatch(f"{names[0]} of shape {mean.shape}", f"{space.shape}, and no negative variance")
                parts[key] = Normaliser(mean, var, *limits.tolist())
        install_normaliser(student, parts)
    except (PolicykdError, RuntimeError, TypeError) as why:
        raise mismatch(str(why).splitlines()[0], "weights and description of one student") from None
    want = {k: (tuple(v.shape), v.dtype) for k, v in student.state_dict().items()}
    have = {k: (tuple(v.shape), v.dtype) for k, v in tensors.items()}
    for key in sorted(set(want) | set(have)):
        if want.get(key) != have.get(key):
            raise mismatch(f"{key} is {have.get(key, 'missing')}", f"{want.get(key, 'no such tensor')}")
    for key, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(
                "weights.not-finite", f"{file}: {key} has NaN or infinite numbers", "finite weights", "train again"
            )
    # Own memory: a tensor read from bytes must not be trained in place.
    student.scaled = True
    student.load_state_dict({k: v.clone() for k, v in tensors.items()}, assign=True)
    return student
