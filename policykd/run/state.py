"""Nested state (of a Learner, say) as safetensors and JSON, and back; it refuses objects that are neither."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor

from policykd.errors import CheckpointError

__all__ = ["pack", "unpack"]

# A mapping with keys that JSON would turn into text is stored as a list of pairs under this name, a tensor under that.
_PAIRS, _TENSOR = "$pairs", "$tensor"


def pack(state: Any) -> tuple[bytes, bytes]:
    """(safetensors, JSON) of a tree of mappings, sequences, tensors, numbers, texts; sequences come back as lists."""
    tensors: dict[str, Tensor] = {}
    tree = _lay(state, tensors)
    return tensors_to_bytes(tensors), json.dumps(tree, indent=1).encode()


def _lay(value: Any, tensors: dict[str, Tensor]) -> Any:
    match value:
        case Tensor():
            name = f"{len(tensors):05}"
            # Own memory: safetensors refuses two names for one storage.
            tensors[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
            return {_TENSOR: name}
        case Mapping() if all(isinstance(k, str) for k in value):
            return {k: _lay(v, tensors) for k, v in value.items()}
        case Mapping():
            return {_PAIRS: [[k, _lay(v, tensors)] for k, v in value.items()]}
        case list() | tuple():
            return [_lay(v, tensors) for v in value]
        case None | bool() | int() | float() | str():
            return value
    raise TypeError(f"state holds a {type(value).__name__}, which is no tensor, number, text or collection of them")


def unpack(weights: bytes, tree: bytes, where: str) -> Any:
    """The tree that ``pack`` laid out.

    Args:
        where: the files' place, for messages.

    Raises:
        CheckpointError: ``run.checkpoint`` for damaged files.
    """
    try:
        tensors = tensors_from_bytes(weights)
        return _raise(json.loads(tree), tensors)
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as why:
        raise CheckpointError(
            "run.checkpoint",
            f"{where}: {why!r}"[:200],
            "a learner's state as this project writes it",
            "take an older one",
        ) from None


def _raise(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    match value:
        case {"$tensor": str(name)}:
            return tensors[name]
        case {"$pairs": list(pairs)}:
            return {k: _raise(v, tensors) for k, v in pairs}
        case dict():
            return {k: _raise(v, tensors) for k, v in value.items()}
        case list():
            return [_raise(v, tensors) for v in value]
    return value
