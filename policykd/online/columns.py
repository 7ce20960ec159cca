"""What one ``observe`` brings, as columns of one length that can be put beside each other; it queues nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from torch import Tensor

from policykd.errors import SpaceError, UsageError
from policykd.prediction import Spec, rows_of

__all__ = ["Columns", "View", "fitted", "gathered", "kinds_of", "like", "mapped", "numbers", "usable"]

Columns = dict[str, tuple[tuple[int, ...], np.dtype]]
"""Shape of a row, and dtype, by name."""


class View(NamedTuple):
    """What a teacher that is known can see."""

    spec: Spec
    own: bool
    """Whether that is something else than the student sees."""

    def reads(self, obs: Any, teacher_obs: Any) -> bool:
        """Whether it can be asked about rows that were seen under another teacher."""
        if teacher_obs is None and self.own:
            return False
        try:
            return _is_batched(self.spec, obs if teacher_obs is None else teacher_obs)
        except SpaceError:
            return False


def gathered(
    spec: Spec, view: View | None, obs: Any, teacher_obs: Any, extra: Mapping[str, Any]
) -> tuple[Any, Any, dict[str, np.ndarray]]:
    """Observations, the teacher's, and further columns, as arrays ``[n, ...]`` of our own.

    Args:
        spec: of the student.
        view: of the teacher, None where it is not known.

    Raises:
        SpaceError: ``space.observation`` for what student or teacher cannot read.
        UsageError: ``online.rows`` for columns of other lengths; ``online.columns`` for a name that is taken, and for
            what are no numbers.
    """
    batched = _is_batched(spec, obs)
    if view is not None:
        _check_view(view, teacher_obs, batched)
    seen, shown = _copied(obs, batched), None if teacher_obs is None else _copied(teacher_obs, batched)
    more = {name: _copied(value, batched) for name, value in extra.items()}
    if "version" in more:
        found = 'a column extra["version"]'
        raise UsageError("online.columns", found, "another name: it is the teacher's version", "rename the column")
    n = rows_of(seen)
    for name, column in (*_named("obs", seen), *_named("teacher_obs", shown), *more.items()):
        if np.ndim(column) == 0 or len(column) != n:
            found = "one number" if np.ndim(column) == 0 else f"{len(column)} rows"
            raise UsageError("online.rows", f"{found} of {name} beside {n} observations", "as many")
        if not isinstance(column, np.ndarray) or column.dtype.kind not in "biuf":
            found = f"{name} of {getattr(column, 'dtype', type(column).__name__)}"
            raise UsageError("online.columns", found, "numbers", "leave out what is none")
    return seen, shown, more


def numbers(name: str, value: Any, n: int, dtype: type) -> np.ndarray:
    """A number for each of ``n`` observations, where one may stand for all, ``[n]``.

    Raises:
        UsageError: ``online.rows`` for another number of them.
    """
    found: np.ndarray = np.asarray(value, dtype)
    if found.shape not in ((), (n,)):
        raise UsageError("online.rows", f"{name} of shape {found.shape} beside {n} observations", f"one, or ({n},)")
    return found if found.shape else np.full(n, found)


def fitted(name: str, space: spaces.Space, value: Any, first: Columns) -> Any:
    """An observation, or a dict of them, ``[n, ...]``, in the dtype of its space, so that all rows have the same.

    Floats in a space of floats keep the dtype that they had in the ``first`` rows: it is what teachers are used to.
    A float that is too large for its dtype becomes infinite.

    Args:
        name: of the observation: its parts are named as ``kinds_of`` names them.

    Raises:
        SpaceError: ``space.observation`` for what is no whole number, or too large a one, in a space of these.
    """
    if isinstance(space, spaces.Dict):
        return {key: fitted(f"{name}[{key!r}]", space[key], part, first) for key, part in value.items()}
    dtype = value.dtype if space.dtype is None else space.dtype
    if dtype.kind == "f":
        dtype = first[name][1] if name in first else value.dtype if value.dtype.kind == "f" else dtype
    if value.dtype == dtype:
        return value
    with np.errstate(over="ignore", invalid="ignore"):
        cast = value.astype(dtype)
    if dtype.kind in "biu" and not np.array_equal(cast, value):
        lost = value[cast != value][0]
        found, expected = f"{lost} in {name} of {value.dtype}", f"{dtype}, as its space {space} has it"
        raise SpaceError("space.observation", found, expected, "round it, or give the environment a space of floats")
    return cast


def usable(seen: Any, shown: Any) -> np.ndarray | None:
    """Rows without NaN or infinity in what student or teacher sees, ``[n]`` bool; None for all of them."""
    good: np.ndarray | None = None
    for _, column in (*_named("obs", seen), *_named("teacher_obs", shown)):
        if column.dtype.kind == "f" and not (finite := np.isfinite(column)).all():
            rows = finite.reshape(len(finite), -1).all(1)
            good = rows if good is None else good & rows
    return good


def mapped(value: Any, f: Callable[[np.ndarray], np.ndarray]) -> Any:
    """``f`` of an array, of each of a dict of them, or None of None."""
    if isinstance(value, dict):
        return {key: mapped(part, f) for key, part in value.items()}
    return None if value is None else f(value)


def kinds_of(shown: Any, more: Mapping[str, np.ndarray], name: str = "teacher_obs") -> Columns:
    """What stands beside the student's observations; or of what kind they are, by their ``name``."""
    named = (*_named(name, shown), *more.items())
    return {name: (column.shape[1:], column.dtype) for name, column in named}


def like(first: Columns, shown: Any, more: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Further columns in the dtypes that they had in the first rows.

    Raises:
        UsageError: ``online.columns`` for other columns, or numbers that do not fit into those dtypes.
    """
    found = kinds_of(shown, more)
    if found == first:
        return dict(more)
    same = {name: shape for name, (shape, _) in found.items()} == {name: shape for name, (shape, _) in first.items()}
    # An int may follow a float, as rewards do; the other way round its fraction would be lost.
    if not same or not all(np.can_cast(found[name][1], first[name][1], "same_kind") for name in more):
        raise UsageError(
            "online.columns",
            f"an observation with {_list(found)}",
            f"{_list(first)}, as the first had",
            "give every observation the same columns",
        )
    return {name: column.astype(first[name][1], copy=False) for name, column in more.items()}


def _check_view(view: View, teacher_obs: Any, batched: bool) -> None:
    space = view.spec.observation_space
    if teacher_obs is None:
        if view.own:
            expected = f"what the teacher sees, {space}, which is not what the student does"
            raise SpaceError(
                "space.observation", "an observation without teacher_obs=", expected, "observe(obs, teacher_obs=...)"
            )
        return
    try:
        same = _is_batched(view.spec, teacher_obs) == batched
    except SpaceError as error:
        raise SpaceError(error.code, f"in teacher_obs= {error.found}", error.expected, error.fix) from None
    if not same:
        found = "teacher_obs= of a batch beside one observation" if not batched else "one teacher_obs= beside a batch"
        raise SpaceError("space.observation", found, "the teacher's view of the same rows")


def _is_batched(spec: Spec, obs: Any) -> bool:
    """``Spec.is_batched``, of every part of a dict."""
    batched, space = spec.is_batched(obs), spec.observation_space
    if isinstance(space, spaces.Dict):
        for key, part in space.spaces.items():
            if replace(spec, observation_space=part).is_batched(obs[key]) != batched:
                raise SpaceError("space.observation", f"one row of {key!r} beside several", "as many of each")
    return batched


def _named(name: str, value: Any) -> Iterator[tuple[str, np.ndarray]]:
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _named(f"{name}[{key!r}]", part)
    elif value is not None:
        yield name, value


def _copied(value: Any, batched: bool) -> Any:
    if isinstance(value, Mapping):
        return {k: _copied(v, batched) for k, v in value.items()}
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    copied = np.array(value)
    return copied if batched else copied[None]


def _list(found: Columns) -> str:
    return ", ".join(f"{name} {shape} {dtype}" for name, (shape, dtype) in found.items()) or "no further columns"
