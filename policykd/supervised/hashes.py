"""Names of teachers and inputs by what is in them: equal where a teacher's answers must be equal; nothing is kept."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from functools import partial
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from policykd.classifiers import Classifier, fingerprint
from policykd.supervised.examples import Inputs
from policykd.taps import Tapped

__all__ = ["hash_inputs", "hash_weights"]


def hash_weights(module: torch.nn.Module, *more: str) -> str:
    """SHA-256 over a module's layers, and names, types and numbers of its state and buffers, in hexadecimal.

    Of a Classifier in it also ``classifiers.fingerprint``, vocabulary included; of a ``Tapped`` what is tapped; of
    teachers in one (``teachers.Ensemble``) what ``how`` is. Other code under the same names, and what a module keeps
    outside of tensors without showing it (``extra_repr``), are not seen: tell them by ``more``.
    """
    layers = _shown(module)
    prints = [fingerprint(part) for part in module.modules() if isinstance(part, Classifier)]
    prints += [json.dumps(sorted(part.names.items())) for part in module.modules() if isinstance(part, Tapped)]
    prints += [_about(part.how) for part in module.modules() if "how" in vars(part)]
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


def _about(value: Any) -> str:
    """A function, or what is bound to it, by name and content."""
    match value:
        case partial():
            return f"{_about(value.func)}{_about(value.args)}{_about(value.keywords)}"
        case Tensor():
            return hash_inputs(value)
        case torch.nn.Module():
            return hash_weights(value)
        case Mapping():
            return f"{{{', '.join(f'{key}: {_about(inner)}' for key, inner in sorted(value.items()))}}}"
        case tuple() | list():
            return f"[{', '.join(map(_about, value))}]"
        case FunctionType():
            bound = [cell.cell_contents for cell in value.__closure__ or () if cell.cell_contents is not value]
            code = value.__code__
            whole = [value.__module__, value.__qualname__, code.co_code.hex(), code.co_names, _shown(code.co_consts)]
            return f"{whole}{_about(bound)}{_about(value.__defaults__ or ())}{_about(value.__kwdefaults__ or {})}"
    return _shown(value)


def _shown(value: Any) -> str:
    # Where something lies in memory is no part of what it is.
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))


def _feed(digest: Any, name: str, t: Tensor) -> None:
    t = t.detach().cpu().contiguous()
    digest.update(f"{name} {t.dtype} {tuple(t.shape)}".encode())
    digest.update(t.reshape(-1).view(torch.uint8).numpy().data if t.numel() else b"")
