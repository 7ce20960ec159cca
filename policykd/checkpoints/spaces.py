"""Gymnasium spaces out of the records of gym's or gymnasium's own; it refuses spaces that no SB3 policy can have."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from policykd.checkpoints.arrays import as_array, as_dtype, as_int, as_mapping
from policykd.checkpoints.pickles import Call, Global, short
from policykd.errors import CheckpointError

__all__ = ["as_space"]


def _refused(found: str, expected: str) -> CheckpointError:
    return CheckpointError("space.unreadable", found, expected)


def as_space(record: Any, what: str = "space") -> gym.Space:
    """The space that a pickled gym or gymnasium space describes.

    Args:
        record: from ``pickles.read``.
        what: its name in error messages.

    Raises:
        CheckpointError: ``space.unreadable`` for a foreign class (``spaces.Tuple`` among them) or impossible content.
    """
    func = record.func if isinstance(record, Call) else None
    known = ("Box", "Dict", "Discrete", "MultiBinary", "MultiDiscrete")
    if not isinstance(func, Global) or func.module.split(".")[:2] not in (["gym", "spaces"], ["gymnasium", "spaces"]):
        raise _refused(f"{what} given as {short(record)}", f"a gymnasium space ({', '.join(known)})")
    state = as_mapping(record.state)
    try:
        match func.name:
            case "Box":
                return _box(state, what)
            case "Discrete":
                start = as_int(state.get("start", 0))
                return spaces.Discrete(_positive(state.get("n"), what), start=start)
            case "MultiDiscrete":
                nvec = as_array(state.get("nvec")).astype(np.int64)
                if nvec.ndim != 1 or not nvec.size or (nvec < 1).any():
                    raise _refused(f"{what}: MultiDiscrete of {nvec.shape}", "a flat list of positive numbers")
                return spaces.MultiDiscrete(nvec)
            case "MultiBinary":
                n = state.get("n")
                sizes = n if isinstance(n, tuple | list) else np.atleast_1d(as_array(n)).tolist()
                shape = [_positive(k, what) for k in sizes]
                return spaces.MultiBinary(shape[0] if len(shape) == 1 else shape)
            case "Dict":
                # An OrderedDict, because gymnasium sorts the keys of any other: their order is that of the features.
                parts = as_mapping(state.get("spaces"))
                if not parts or any("Dict" in str(p.func) for p in parts.values() if isinstance(p, Call)):
                    raise _refused(f"{what}: an empty or nested Dict", "one flat Dict")
                return spaces.Dict(OrderedDict((k, as_space(v, f"{what}[{k!r}]")) for k, v in parts.items()))
    except (AssertionError, ValueError, TypeError, OverflowError, MemoryError) as error:
        raise _refused(f"{what}: {func.name} with {error}"[:160], f"a possible {func.name}") from error
    raise _refused(f"{what} of class {func}", f"one of {', '.join(known)}")


def _positive(value: Any, what: str) -> int:
    # A JSON number, a pickled int, a numpy scalar; some files hold a text.
    n = int(value) if isinstance(value, str) and value.isdigit() else as_int(value)
    if not 1 <= n <= 10_000_000:
        raise _refused(f"{what} of size {n}", "1 or more")
    return n


def _box(state: dict[str, Any], what: str) -> spaces.Box:
    low, high = as_array(state.get("low")), as_array(state.get("high"))
    shape = state.get("shape", state.get("_shape"))
    dtype = as_dtype(state.get("dtype"))
    declared = tuple(as_int(n) for n in shape) if isinstance(shape, tuple | list) else low.shape
    if low.shape != high.shape or low.shape != declared:
        raise _refused(f"{what}: Box of shape {declared} with bounds of {low.shape} and {high.shape}", "one shape")
    if np.isnan(low).any() or np.isnan(high).any() or (low > high).any():
        raise _refused(f"{what}: Box with NaN bounds or low above high", "low <= high")
    return spaces.Box(low.astype(dtype), high.astype(dtype), dtype=dtype.type)
