"""Names of teachers and inputs by what is in them: equal where a teacher's answers must be equal; nothing is kept."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from policykd.classifiers import Classifier, fingerprint
from policykd.supervised.examples import Inputs

__all__ = ["hash_inputs", "hash_weights"]


def hash_weights(module: torch.nn.Module, *more: str) -> str:
    """SHA-256 over a module's layers, and names, types and numbers of its state and buffers, in hexadecimal.

    Of a Classifier in it also ``classifiers.fingerprint``, vocabulary included. Other code under the same names, and
    what a module keeps outside of tensors without showing it (``extra_repr``), are not seen: tell them by ``more``.
    """
    # Where a function lies in memory is no part of what a module is.
    layers = re.sub(r" at 0x[0-9a-f]+", "", str(module))
    prints = [fingerprint(part) for part in module.modules() if isinstance(part, Classifier)]
    digest = hashlib.sha256(json.dumps([type(module).__qualname__, layers, *prints, *more]).encode())
    for name, t in sorted({**dict(module.named_buffers()), **module.state_dict()}.items()):
        _feed(digest, name, t)
    return digest.hexdigest()


def hash_inputs(inputs: Inputs) -> str:
    """SHA-256 over raw inputs, in hexadecimal."""
    digest = hashlib.sha256()
    if isinstance(inputs, tuple):
        for text in inputs:
            digest.update(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest())
    else:
        for name, t in sorted(inputs.items()) if isinstance(inputs, Mapping) else [("", inputs)]:
            _feed(digest, name, t)
    return digest.hexdigest()


def _feed(digest: Any, name: str, t: Tensor) -> None:
    t = t.detach().cpu().contiguous()
    digest.update(f"{name} {t.dtype} {tuple(t.shape)}".encode())
    digest.update(t.reshape(-1).view(torch.uint8).numpy().data if t.numel() else b"")
