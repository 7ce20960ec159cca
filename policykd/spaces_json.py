"""Spaces, specs and origins as strict JSON and back, bounds to the last bit; it refuses all but five plain spaces."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import asdict
from typing import Any

import numpy as np
from gymnasium import spaces

from policykd.errors import SpaceError
from policykd.prediction import FAMILIES, EnvWrapper, Origin, Spec

__all__ = [
    "origin_from_json",
    "origin_to_json",
    "space_from_json",
    "space_to_json",
    "spec_from_json",
    "spec_to_json",
]

_LARGEST = 2**26  # numbers in one space; a damaged file must not ask for all memory
_SPECIAL = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}


def _numbers(array: np.ndarray) -> Any:
    """Nested lists of numbers, or one number where all are equal; JSON has no infinities, so these are texts."""

    def word(x: Any) -> Any:
        if isinstance(x, list):
            return [word(y) for y in x]
        return x if isinstance(x, bool | int) or math.isfinite(x) else str(x)

    first = array.reshape(-1)[:1]
    # Bytes, because 0 and -0 are equal and must both come back.
    if array.size and array.tobytes() == first.tobytes() * array.size:
        return word(first[0].item())
    return word(array.tolist())


def _array(numbers: Any, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    def value(x: Any) -> Any:
        if isinstance(x, list):
            return [value(y) for y in x]
        return _SPECIAL[x] if isinstance(x, str) else x

    array = np.asarray(value(numbers), dtype)
    return np.full(shape, array) if array.ndim == 0 else array.reshape(shape)


def space_to_json(space: spaces.Space) -> dict[str, Any]:
    """A space as a dict that ``json.dumps(allow_nan=False)`` takes.

    Raises:
        SpaceError: ``space.json`` for a kind of space that has no such form.
    """
    match space:
        case spaces.Box(low=low, high=high, shape=shape, dtype=dtype):
            bounds = {"low": _numbers(low), "high": _numbers(high)}
            return {"type": "Box", "dtype": str(dtype), "shape": list(shape), **bounds}
        case spaces.Discrete(n=n, start=start, dtype=dtype):
            return {"type": "Discrete", "dtype": str(dtype), "n": int(n), "start": int(start)}
        case spaces.MultiDiscrete(nvec=nvec, start=start, dtype=dtype):
            return {"type": "MultiDiscrete", "dtype": str(dtype), "nvec": nvec.tolist(), "start": start.tolist()}
        case spaces.MultiBinary(n=n):
            return {"type": "MultiBinary", "n": int(n) if np.ndim(n) == 0 else [int(i) for i in n]}  # type: ignore[arg-type, union-attr]
        case spaces.Dict():
            # A list of pairs, because the order of the keys is the order in which a network reads them.
            return {"type": "Dict", "keys": [[key, space_to_json(part)] for key, part in space.spaces.items()]}
    raise SpaceError("space.json", f"space {space}", "Box, Discrete, MultiDiscrete, MultiBinary or a Dict of these")


def space_from_json(data: Any) -> spaces.Space:
    """The space that ``space_to_json`` described.

    Raises:
        SpaceError: ``space.json`` for anything that does not describe one.
    """
    try:
        return _decode(data)
    except (KeyError, TypeError, ValueError, AttributeError, AssertionError, OverflowError, RecursionError) as why:
        raise SpaceError(
            "space.json", f"a space written as {str(data)[:80]}", f"type, bounds and shape ({why!r})"
        ) from None


def _decode(data: Any) -> spaces.Space:
    match data["type"]:
        case "Box":
            shape, dtype = tuple(int(n) for n in data["shape"]), np.dtype(data["dtype"])
            if math.prod(shape) > _LARGEST or min(shape, default=0) < 0 or dtype.kind not in "biuf":
                raise ValueError(f"shape {shape}, dtype {dtype}")
            low, high = (_array(data[end], shape, dtype) for end in ("low", "high"))
            return spaces.Box(low, high, shape, dtype.type)
        case "Discrete":
            return spaces.Discrete(int(data["n"]), start=int(data["start"]), dtype=np.dtype(data["dtype"]).type)
        case "MultiDiscrete":
            dtype = np.dtype(data["dtype"])
            return spaces.MultiDiscrete(
                np.asarray(data["nvec"], dtype), dtype=dtype.type, start=np.asarray(data["start"], dtype)
            )
        case "MultiBinary":
            n = data["n"]
            if math.prod(n if isinstance(n, list) else [n]) > _LARGEST:
                raise ValueError(f"n {n}")
            return spaces.MultiBinary(n)
        case "Dict":
            return spaces.Dict(OrderedDict((str(key), _decode(part)) for key, part in data["keys"]))
    raise ValueError(f"type {data['type']}")


def spec_to_json(spec: Spec) -> dict[str, Any]:
    """Both spaces and the family.

    Raises:
        SpaceError: ``space.json`` for a kind of space that has no such form.
    """
    return {
        "observation_space": space_to_json(spec.observation_space),
        "action_space": space_to_json(spec.action_space),
        "family": spec.family,
    }


def spec_from_json(data: Any) -> Spec:
    """The Spec that ``spec_to_json`` described.

    Raises:
        SpaceError: ``space.json`` for spaces that are none.
        KeyError, TypeError, ValueError: for anything else that is not a spec.
    """
    if data["family"] not in FAMILIES:
        raise ValueError(f"family {data['family']!r}")
    return Spec(space_from_json(data["observation_space"]), space_from_json(data["action_space"]), data["family"])


def origin_to_json(origin: Origin) -> dict[str, Any]:
    """Every field of an Origin; what stands in ``env_kwargs`` must be JSON already."""
    return asdict(origin)


def origin_from_json(data: Any) -> Origin:
    """The Origin that ``origin_to_json`` described.

    Raises:
        KeyError, TypeError, ValueError: for anything that is not an origin.
    """
    fields = dict(data)
    fields["wrappers"] = tuple(EnvWrapper(**w) for w in fields["wrappers"])
    return Origin(**fields)
