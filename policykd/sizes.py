"""Sizes of students as people type them (``64,64``, ``linear``, ``4%``); light, and it refuses to build anything."""

from __future__ import annotations

import re
from collections.abc import Sequence

from policykd.errors import UsageError

__all__ = ["parse_budget", "parse_hidden", "parse_share", "parse_size"]


def parse_hidden(text: str | Sequence[str | int]) -> tuple[int, ...]:
    """Widths from what people type: ``"64,64"``, ``"64 64"``, ``("64", "64")``, ``(64, 64)`` or ``"linear"``.

    Raises:
        UsageError: ``student.hidden`` for anything else.
    """
    words = re.split(r"[\s,]+", text.strip().strip("()")) if isinstance(text, str) else [str(w) for w in text]
    words = [w for word in words for w in re.split(r"[\s,]+", word.strip()) if w]
    if words == ["linear"] or (not words and not isinstance(text, str)):
        return ()
    if not words or not all(w.isascii() and w.isdigit() and int(w) > 0 for w in words):
        raise UsageError(
            "student.hidden",
            f"hidden layers {text!r}",
            "widths of 1 or more, or 'linear'",
            "type --hidden 64,64 (two layers of 64), --hidden 8 (one of 8) or --hidden linear (none)",
        )
    return tuple(int(w) for w in words)


def parse_size(text: str) -> tuple[int, ...] | int:
    """A rung of a ladder: widths of a network (``"16,16"``, ``"linear"``), or the leaves of a tree (``"tree:8"``).

    Raises:
        UsageError: ``student.hidden`` for anything else, ``student.leaves`` for a tree with fewer than two leaves.
    """
    kind, _, leaves = str(text).partition(":")
    if kind.strip() != "tree":
        return parse_hidden(text)
    if not (leaves.isascii() and leaves.isdigit() and int(leaves) > 1):
        raise UsageError("student.leaves", f"the size {text!r}", "a tree with 2 leaves or more", "type tree:8")
    return int(leaves)


def parse_share(text: str | int) -> tuple[float, bool]:
    """``"4%"`` as (4.0, True), ``"2000"`` as (2000.0, False).

    Raises:
        UsageError: ``student.budget`` for anything else.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(%?)", str(text).strip().replace("_", ""))
    number, percent = (float(match[1]), bool(match[2])) if match else (0.0, False)
    if number <= 0 or (not percent and number != int(number)):
        raise UsageError(
            "student.budget",
            f"a budget of {text!r}",
            "a whole number of parameters, or a share of the teacher's",
            "type --max-params 2000 or --max-params 4%",
        )
    return number, percent


def parse_budget(text: str | int, teacher_parameters: int) -> int:
    """A number of parameters from what people type: ``"2000"``, or ``"4%"`` of the teacher's acting parameters.

    Raises:
        UsageError: ``student.budget`` for anything that is not at least 1 parameter.
    """
    number, percent = parse_share(text)
    budget = int(teacher_parameters * number / 100 + 1e-9) if percent else int(number)
    if budget < 1:
        raise UsageError(
            "student.budget",
            f"a budget of {text!r} of {teacher_parameters} parameters",
            "at least one parameter",
            "allow a larger share",
        )
    return budget
