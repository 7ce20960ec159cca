"""Decisions as text that is read by people and runs as Python; it refuses to know how they were found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from policykd.errors import UsageError
from policykd.networks import flat_width
from policykd.students.network import observed

__all__ = ["conditions", "nested", "number"]

_INDENT = "    "


def number(x: Any, digits: int | None) -> str:
    """A number, or nested lists of them, to ``digits`` significant digits; None writes every float to its last bit."""
    if isinstance(x, list):
        return f"[{', '.join(number(y, digits) for y in x)}]"
    if isinstance(x, int):
        return str(x)
    return repr(float(x) if digits is None else float(f"{x:.{digits}g}"))


def conditions(space: spaces.Space, names: Sequence[str] | None, digits: int | None) -> Callable[[int, float], str]:
    """How "column ``i`` of the flattened observation is at most ``t``" is written for an observation of ``space``.

    A box's number is ``obs[3]`` (``obs[1, 2]``), a choice ``obs != 3`` instead of one column a choice, a Dict's part
    ``obs['key'][3]``; ``names`` stand in for all of these, one a column.

    Raises:
        UsageError: ``tree.names`` for another number of names than columns, ``tree.digits`` for fewer than 1.
    """
    parts = observed(space)
    widths = [flat_width(part) for _, part in parts]
    if names is not None and len(names) != sum(widths):
        raise UsageError(
            "tree.names", f"{len(names)} names", f"{sum(widths)}, one for each column of {space}", "name all of them"
        )
    if digits is not None and digits < 1:
        raise UsageError("tree.digits", f"digits={digits}", "1 or more, or None for all of them")

    def written(column: int, at_most: float) -> str:
        limit = number(at_most, digits)
        if names is not None:
            return f"{names[column]} <= {limit}"
        for (key, part), width in zip(parts, widths, strict=True):
            if column < width:
                return _of_part("obs" if key is None else f"obs[{key!r}]", part, column, at_most, limit)
            column -= width
        raise IndexError(column)

    return written


def _of_part(name: str, part: spaces.Space, column: int, at_most: float, limit: str) -> str:
    match part:
        case spaces.Discrete(start=start):
            choice, taken = f"{name}", column + int(start)
        case spaces.MultiDiscrete(nvec=nvec, start=starts):
            ends = np.cumsum(nvec.reshape(-1))
            factor = int(np.searchsorted(ends, column, side="right"))
            choice = f"{name}[{factor}]"
            taken = int(column - ends[factor] + nvec.reshape(-1)[factor] + starts.reshape(-1)[factor])
        case _:
            index = ", ".join(map(str, np.unravel_index(column, part.shape or (1,)))) if part.shape else ""
            return f"{name}[{index}] <= {limit}" if index else f"{name} <= {limit}"
    return f"{choice} != {taken}" if 0 <= at_most < 1 else f"({choice} == {taken}) <= {limit}"


def nested(
    left: Sequence[int], right: Sequence[int], condition: Callable[[int], str], action: Callable[[int], str]
) -> str:
    """Nested if / elif / else from the root, node 0; a leaf is a node whose children are itself."""
    lines: list[str] = []
    # A stack, because a tree may be deeper than Python calls may nest.
    todo: list[tuple[int, int, bool]] = [(0, 0, False)]
    while todo:
        node, depth, otherwise = todo.pop()
        indent = _INDENT * depth
        if left[node] == node:
            lines += [f"{indent}else:"] * otherwise
            lines.append(f"{indent}{_INDENT * otherwise}action = {action(node)}")
            continue
        lines.append(f"{indent}{'elif' if otherwise else 'if'} {condition(node)}:")
        todo += [(right[node], depth, True), (left[node], depth + 1, False)]
    return "\n".join(lines)
