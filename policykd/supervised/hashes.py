"""Names of teachers and inputs by what is in them: equal where a teacher's answers must be equal; nothing is kept."""

from __future__ import annotations

import copyreg
import hashlib
import json
import re
from collections.abc import Mapping
from functools import partial
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, MappingProxyType, MethodType, ModuleType
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from policykd.classifiers import Classifier, fingerprint
from policykd.errors import UsageError
from policykd.supervised.examples import Inputs
from policykd.taps import Tapped

__all__ = ["hash_inputs", "hash_weights"]

_PLAIN = (type(None), type(...), bool, int, float, complex, str, bytes, range)

_Seen: TypeAlias = dict[int, tuple[int, Any]]
"""What has been described: by id, which one it was, and itself, so that nothing else comes to lie in its place."""


def hash_weights(module: torch.nn.Module, *more: str) -> str:
    """SHA-256 over a module's layers, and names, types and numbers of its state and buffers, in hexadecimal.

    Of a Classifier in it also ``classifiers.fingerprint``, vocabulary included; of a ``Tapped`` what is tapped; of
    teachers in one (``teachers.Ensemble``) what ``how`` is: code, and what it is bound to or holds. Other code under
    the same names (what a function calls, an object's class), and what a module keeps outside of tensors without
    showing it (``extra_repr``), are not seen: tell them by ``more``.

    Raises:
        UsageError: ``labels.hash`` for a ``how`` that holds what cannot be told from another (a lock, an open file).
    """
    try:
        return _weights(module, more, {})
    except RecursionError:
        raise _unknown("what holds itself") from None


def _weights(module: torch.nn.Module, more: tuple[str, ...], seen: _Seen) -> str:
    seen[id(module)] = len(seen), module
    layers = _shown(module)
    prints = [fingerprint(part) for part in module.modules() if isinstance(part, Classifier)]
    prints += [json.dumps(sorted(part.names.items())) for part in module.modules() if isinstance(part, Tapped)]
    prints += [_about(part.how, seen) for part in module.modules() if "how" in vars(part)]
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


def _about(value: Any, seen: _Seen) -> str:
    """A function, or what is bound to it, by name and content."""
    kind = type(value)
    if kind in _PLAIN:
        return repr(value)
    if id(value) in seen:
        return f"<{seen[id(value)][0]}>"
    match value:
        case torch.nn.Module():
            return _weights(value, (), seen)
        case Tensor():
            return hash_inputs(value)
        case type():
            return f"{value.__module__}.{value.__qualname__}"
        case ModuleType():
            return value.__name__
        case partial():
            return f"partial{_about([value.func, value.args, value.keywords], seen)}"
        case MethodType():
            return f"{_about(value.__self__, seen)}.{_about(value.__func__, seen)}"
        case BuiltinFunctionType():
            return f"{_about(value.__self__, seen)}.{value.__module__}.{value.__qualname__}"
        case CodeType():
            return f"code{_about([value.co_code, value.co_names, value.co_consts], seen)}"
        case CellType():
            return _about(_held(value), seen)
    if kind is np.ndarray and not value.dtype.hasobject:
        return f"{value.dtype.descr} {value.shape} {hashlib.sha256(value.tobytes()).hexdigest()}"
    if kind in (dict, MappingProxyType):
        pairs = sorted(value.items(), key=lambda pair: f"{type(pair[0])}{_shown(pair[0])}")
        return f"{{{', '.join(f'{_about(key, seen)}: {_about(inner, seen)}' for key, inner in pairs)}}}"
    if kind in (set, frozenset):
        return f"{kind.__name__}{sorted(_about(part, seen) for part in sorted(value, key=_shown))}"
    if kind in (tuple, list):
        return f"{kind.__name__}[{', '.join(_about(part, seen) for part in value)}]"
    seen[id(value)] = len(seen), value
    return f"{_about(kind, seen)}{_about(_parts(value), seen)}"


def _parts(value: Any) -> list[Any]:
    """What a function is made of, or what any other object would be made of again by ``copy``."""
    if isinstance(value, FunctionType):
        bound = list(value.__closure__ or ())
        given = [value.__defaults__, value.__kwdefaults__, vars(value)]
        return [value.__module__, value.__qualname__, value.__code__, bound, *given]
    kind = type(value)
    known = copyreg.dispatch_table.get(kind)
    try:
        made = known(value) if known else value.__reduce_ex__(4)
    except Exception as why:  # a class may refuse to be copied in any way
        raise _unknown(f"a {kind.__module__}.{kind.__qualname__}") from why
    # What a name stands for may wrap something else; of a class the code that is called is a part, the rest a name.
    parts = [made, getattr(value, "__dict__", {})] if isinstance(made, str) else [*made[:3], *map(_listed, made[3:5])]
    called = kind.__call__ if callable(value) else None
    return [*parts, called] if isinstance(called, FunctionType) else parts


def _listed(items: Any) -> list[Any]:
    return [] if items is None else list(items)


def _held(cell: CellType) -> list[Any]:
    try:
        return [cell.cell_contents]
    except ValueError:  # a name that has not been given a value yet
        return []


def _unknown(what: str) -> UsageError:
    return UsageError(
        "labels.hash",
        f"{what} in how teachers are combined",
        "functions, numbers, tensors and objects of these, which can be told from others",
        "name the teacher yourself: answers(..., teacher_hash='...')",
    )


def _shown(value: Any) -> str:
    # Where something lies in memory is no part of what it is.
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))


def _feed(digest: Any, name: str, t: Tensor) -> None:
    t = t.detach().cpu().contiguous()
    digest.update(f"{name} {t.dtype} {tuple(t.shape)}".encode())
    digest.update(t.reshape(-1).view(torch.uint8).numpy().data if t.numel() else b"")
