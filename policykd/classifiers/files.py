"""A classifier on disk: classifier.safetensors beside classifier.json; it refuses pickles and unequal pairs."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor

from policykd.classifiers import minilm
from policykd.classifiers.classifier import Classifier
from policykd.classifiers.making import empty
from policykd.classifiers.shapes import Shape, parse
from policykd.classifiers.vocabulary import Vocabulary
from policykd.disk import write_whole
from policykd.errors import CheckpointError, MissingExtraError, PolicykdError, UsageError
from policykd.spaces_json import origin_from_json, origin_to_json

__all__ = ["fingerprint", "load", "save"]

_SCHEMA = 1
_LARGEST_JSON = 2**26


def save(classifier: Classifier, folder: str | Path, name: str = "classifier") -> Path:
    """Write ``<name>.safetensors`` and ``<name>.json`` into ``folder`` (made if missing), each all or nothing.

    Returns:
        Path of the weights.

    Raises:
        UsageError: ``classifier.file`` for a module of the user's own, whose shape is not known.
        RunError: ``classifier.write`` when the folder cannot be written.
    """
    if classifier.shape is None:
        raise UsageError(
            "classifier.file",
            f"a classifier around {type(classifier.module).__name__}, whose shape is not known",
            "one made by classifiers.build",
            "keep its weights yourself: safetensors.torch.save_file(classifier.module.state_dict(), path)",
        )
    weights = tensors_to_bytes(_weights(classifier))
    card = {
        "schema": _SCHEMA,
        "kind": "classifier",
        **_about(classifier),
        "origin": origin_to_json(classifier.origin),
        "params": classifier.acting_parameters,
        "weights": {"file": f"{name}.safetensors", "sha256": hashlib.sha256(weights).hexdigest()},
    }
    text = json.dumps(card, indent=1, allow_nan=False)
    files = {f"{name}.safetensors": weights, f"{name}.json": text.encode()}
    write_whole(Path(folder), files, code="classifier.write")
    return Path(folder) / f"{name}.safetensors"


def _weights(classifier: Classifier) -> dict[str, Tensor]:
    # Cloned: safetensors refuses tensors that are views of one memory, as those of a Learner's student are.
    return {k: v.detach().cpu().clone().contiguous() for k, v in classifier.module.state_dict().items()}


def _about(classifier: Classifier) -> dict[str, Any]:
    """All that decides what its weights mean, as JSON."""
    module, encoder = classifier.module, classifier.encoder
    return {
        "shape": None if classifier.shape is None else str(classifier.shape),
        "classes": list(classifier.classes),
        "inputs": list(getattr(module, "inputs", ())) if classifier.shape and not classifier.shape.texts else None,
        "taps": classifier.taps,
        "attention": isinstance(module, minilm.MiniLM) and module.attention,
        "vocabulary": encoder.to_json() if isinstance(encoder, Vocabulary) else None,
        "length": encoder.length if isinstance(encoder, minilm.Tokens) else None,
    }


def fingerprint(classifier: Classifier) -> str:
    """sha256 (hex) of its weights, shape, classes, taps and vocabulary: equal where labels must be equal.

    Of a module of the user's own it knows the class, the layers and the weights, not the code.
    """
    # Where a function lies in memory is no part of what a module is.
    layers = re.sub(r" at 0x[0-9a-f]+", "", str(classifier.module))
    told = {**_about(classifier), "module": type(classifier.module).__qualname__, "layers": layers}
    found = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
    for name, tensor in sorted(classifier.module.state_dict().items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        whole = tensor.detach().cpu().contiguous().reshape(-1)
        found.update(memoryview(whole.view(torch.uint8).numpy()))
    return found.hexdigest()


def _refused(path: Path, found: str, expected: str, fix: str = "take an undamaged copy") -> CheckpointError:
    return CheckpointError("classifier.file", f"{path}: {found[:300]}", expected, fix)


def _read(path: Path, largest: int | None = None) -> bytes:
    try:
        if largest is not None and path.stat().st_size > largest:
            raise _refused(path, f"{path.stat().st_size} bytes", "a classifier's description")
        return path.read_bytes()
    except OSError as why:
        raise _refused(
            path,
            str(why.strerror),
            "classifier.safetensors and classifier.json side by side",
            "copy both files, or give the folder that holds them",
        ) from None


def load(path: str | Path) -> Classifier:
    """The classifier in a folder, or the one whose ``.safetensors`` (with its ``.json`` beside it) is named.

    Raises:
        CheckpointError: ``classifier.file`` for files that are missing, damaged or not of one classifier, and for
            weights that are not finite.
        MissingExtraError: for minilm without the extra ``text``.
    """
    path = Path(path)
    file = path / "classifier.safetensors" if path.is_dir() else path
    data, about = _read(file), file.with_suffix(".json")
    card = _described(_read(about, _LARGEST_JSON), about)
    if hashlib.sha256(data).hexdigest() != card["sha256"]:
        raise _refused(
            file,
            f"not the file that {about.name} describes (another sha256)",
            "the two files of one classifier",
            "one was damaged or replaced: take both from the same place",
        )
    try:
        tensors = tensors_from_bytes(data)
    except (SafetensorError, ValueError, KeyError) as why:
        raise _refused(file, str(why), "a safetensors file") from None
    return _assembled(card, tensors, file)


def _described(data: bytes, path: Path) -> dict[str, Any]:
    try:
        card: dict[str, Any] = json.loads(data)
        if card["kind"] != "classifier" or card["schema"] != _SCHEMA:
            raise ValueError(f"kind {card['kind']!r}, schema {card['schema']!r}")
        shape = parse(card["shape"])
        inputs = () if shape.texts else tuple(card["inputs"])
        if not all(type(n) is int and 1 <= n <= 2**16 for n in inputs) or len(inputs) > 8:
            raise ValueError(f"inputs of shape {inputs}")
        if not isinstance(card["classes"], list) or not isinstance(card["taps"], dict):
            raise ValueError("classes that are no list, or taps that are no mapping")
        vocabulary = None if card["vocabulary"] is None else Vocabulary.from_json(card["vocabulary"])
        length = card["length"]
        if shape.kind == "minilm" and not (type(length) is int and 2 <= length <= 512):
            raise ValueError(f"length {length!r}")
        return {
            "shape": shape,
            "classes": card["classes"],
            "inputs": inputs,
            "taps": {str(feature): str(name) for feature, name in card["taps"].items()},
            "attention": card["attention"] is True,
            "vocabulary": vocabulary,
            "length": length,
            "origin": origin_from_json(card["origin"]),
            "sha256": str(card["weights"]["sha256"]),
        }
    except PolicykdError as why:
        reason = str(why)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as why:
        reason = repr(why)
    raise _refused(path, reason, f"a classifier's description (schema {_SCHEMA})")


def _assembled(card: Mapping[str, Any], tensors: dict[str, Tensor], file: Path) -> Classifier:
    shape: Shape = card["shape"]
    if max(shape.layers, len(shape.widths) + len(shape.hidden)) > len(tensors):
        raise _refused(file, f"{len(tensors)} tensors", f"those of {shape}")
    encoder = minilm.Tokens(card["length"]) if shape.kind == "minilm" else card["vocabulary"]
    about = {k: card[k] for k in ("inputs", "taps", "attention")}
    try:
        made = empty(shape, card["classes"], encoder=encoder, **about)
    except MissingExtraError:
        raise
    except (PolicykdError, RuntimeError, TypeError) as why:
        raise _refused(file, str(why).splitlines()[0], "weights and description of one classifier") from None
    made.origin = card["origin"]
    want = {k: (tuple(v.shape), v.dtype) for k, v in made.module.state_dict().items()}
    have = {k: (tuple(v.shape), v.dtype) for k, v in tensors.items()}
    for key in sorted(set(want) | set(have)):
        if want.get(key) != have.get(key):
            raise _refused(
                file,
                f"{key} is {have.get(key, 'missing')}",
                f"{want.get(key, 'no such tensor')}",
                "take both files from the same place",
            )
        if not torch.isfinite(tensors[key]).all():
            raise _refused(file, f"{key} has NaN or infinite numbers", "finite weights", "train again")
    # Own memory: a tensor read from bytes must not be trained in place.
    made.module.load_state_dict({k: v.clone() for k, v in tensors.items()}, assign=True)
    return made
