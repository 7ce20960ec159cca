"""Numpy arrays and plain values out of inert records, decoded from their bytes by hand; it refuses object arrays."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from policykd.checkpoints.pickles import Call, Global, short
from policykd.errors import CheckpointError

__all__ = ["as_array", "as_bool", "as_dtype", "as_float", "as_int", "as_mapping", "plain"]


def _refused(found: str, expected: str) -> CheckpointError:
    return CheckpointError("pickle.value", found, expected, "the file was not written by numpy, gymnasium or SB3")


def _bytes(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    # Pickles of protocol 2 and below spell bytes as latin-1 text.
    if isinstance(value, Call) and value.name == "_codecs.encode" and isinstance(value.args, tuple) and value.args:
        return str(value.args[0]).encode("latin-1")
    if isinstance(value, Call) and value.name in ("builtins.bytes", "builtins.bytearray") and len(value.args) == 1:
        return _bytes(value.args[0])
    raise _refused(f"array content given as {type(value).__name__}", "bytes")


def as_dtype(value: Any) -> np.dtype:
    """A boolean or number dtype out of its record (or of ``numpy.float32`` as a name, or of its text).

    Raises:
        CheckpointError: ``pickle.value``.
    """
    order = "="
    if isinstance(value, Call) and value.name == "numpy.dtype" and isinstance(value.args, tuple) and value.args:
        if isinstance(value.state, tuple) and len(value.state) > 1:
            order = value.state[1]
        value = value.args[0]
    if isinstance(value, Global) and value.module == "numpy":
        value = value.name.rstrip("_")
    if not isinstance(value, str) or order not in ("=", "<", ">", "|"):
        raise _refused(f"a dtype given as {short(value)}", "a number type")
    try:
        found = np.dtype(value)
    except TypeError:
        raise _refused(f"dtype {short(value)}", "a number type") from None
    if found.kind not in "biuf" or found.hasobject:
        raise _refused(f"dtype {found}", "booleans, integers or floats")
    return found if order in "=|" else found.newbyteorder(order)  # type: ignore[arg-type]


def _shaped(data: bytes, dtype: np.dtype, shape: Any, fortran: bool) -> np.ndarray:
    shape = tuple(as_int(n) for n in (shape if isinstance(shape, tuple | list) else (shape,)))
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != len(data):
        raise _refused(f"an array of shape {shape} and type {dtype} in {len(data)} bytes", "as many bytes as it needs")
    array = np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
    return array.astype(dtype.newbyteorder("="))


def as_array(value: Any) -> np.ndarray:
    """An array out of numpy's three pickled forms (``_reconstruct``, ``_frombuffer``, ``scalar``), or out of a number.

    The memory it takes is that of the bytes in the file.

    Raises:
        CheckpointError: ``pickle.value``.
    """
    if isinstance(value, bool | int | float):
        return np.asarray(value)
    if isinstance(value, Call) and isinstance(value.func, Global) and isinstance(value.args, tuple):
        module, name, args, state = value.func.module, value.func.name, value.args, value.state
        if module.startswith("numpy"):
            if name == "_reconstruct" and isinstance(state, tuple) and len(state) == 5:
                _, shape, dtype, fortran, data = state
                return _shaped(_bytes(data), as_dtype(dtype), shape, bool(fortran))
            if name == "_frombuffer" and len(args) == 4:
                data, dtype, shape, order = args
                return _shaped(_bytes(data), as_dtype(dtype), shape, order == "F")
            if name == "scalar" and len(args) == 2:
                return _shaped(_bytes(args[1]), as_dtype(args[0]), (), False)
    raise _refused(short(value), "a numpy array")


def as_float(value: Any) -> float:
    """A finite number.

    Raises:
        CheckpointError: ``pickle.value``.
    """
    array = as_array(value)
    if array.size != 1 or not np.isfinite(array).all():
        raise _refused(f"an array of shape {array.shape}" if array.size != 1 else f"{array.item()}", "a finite number")
    return float(array.item())


def as_int(value: Any) -> int:
    """A whole number.

    Raises:
        CheckpointError: ``pickle.value``.
    """
    number = as_float(value)
    if number != int(number):
        raise _refused(f"{number}", "a whole number")
    return int(number)


def as_bool(value: Any) -> bool:
    """True or False.

    Raises:
        CheckpointError: ``pickle.value``.
    """
    if value not in (0, 1):
        raise _refused(short(value), "true or false")
    return bool(value)


def as_mapping(value: Any) -> dict[str, Any]:
    """A dict with text keys, in the file's order, out of a dict or the record of an OrderedDict.

    Raises:
        CheckpointError: ``pickle.value``.
    """
    pairs: Any = None
    if isinstance(value, Mapping):
        pairs = value.items()
    elif isinstance(value, Call) and value.name in (
        "collections.OrderedDict",
        "builtins.dict",
        "collections.defaultdict",
    ):
        # Python 2's OrderedDict passes its content as one list of pairs.
        start = value.args[0] if isinstance(value.args, tuple) and len(value.args) == 1 else []
        pairs = [*(start if isinstance(start, list | tuple) else []), *value.pairs]
    if pairs is None or not all(isinstance(p, tuple | list) and len(p) == 2 and isinstance(p[0], str) for p in pairs):
        raise _refused(short(value), "a dict with text keys")
    return dict(pairs)


def plain(value: Any, depth: int = 0) -> Any:
    """``value`` with arrays of numbers as arrays and dicts as dicts; every other record stays a record."""
    if depth > 20:
        raise _refused("values nested more than 20 deep", "the arguments of a policy")
    if isinstance(value, list | tuple):
        return [plain(v, depth + 1) for v in value]
    if isinstance(value, dict) or (isinstance(value, Call) and value.name == "collections.OrderedDict"):
        return {k: plain(v, depth + 1) for k, v in as_mapping(value).items()}
    if isinstance(value, Call) and value.name.startswith("numpy.") and value.name.endswith(".scalar"):
        return as_array(value).item()
    return value
