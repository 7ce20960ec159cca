"""The sizes of students that a frontier tries, from what people type; it builds none of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from policykd import students
from policykd.errors import UsageError
from policykd.networks import is_image
from policykd.policy import Policy
from policykd.sizes import parse_size
from policykd.students.network import observed

__all__ = ["Rung", "ladder"]

_LADDER = ("linear", "tree:8", "4", "8", "16", "16,16", "32,32", "64,64", "128,128")


@dataclass(frozen=True)
class Rung:
    """A size on the ladder: a network's widths, or the leaves of a tree."""

    name: str
    hidden: tuple[int, ...] | None
    leaves: int | None
    params: int
    """Acting parameters; of a tree, at most."""


def ladder(teacher: Policy, sizes: Sequence[str] = ()) -> list[Rung]:
    """The sizes to try, smallest first.

    Args:
        teacher: nobody is larger than it, but for sizes that are asked for; nor than 128,128.
        sizes: as people type them; none for the default ladder, which has a tree where scikit-learn is there.

    Raises:
        UsageError: ``student.hidden``, ``student.leaves``; ``frontier.images`` for a teacher that looks at images.
    """
    if any(is_image(space) for _, space in observed(teacher.spec.observation_space)):
        raise UsageError(
            "frontier.images",
            "a teacher that looks at images",
            "observations that are vectors",
            "distil sizes one by one: policykd distill --hidden 64",
        )
    names = list(dict.fromkeys(sizes)) or [n for n in _LADDER if ":" not in n or find_spec("sklearn") is not None]
    rungs = []
    for size in dict.fromkeys(map(parse_size, names)):  # "8" and "08" are one size
        if isinstance(size, int):
            most = 2 * (size - 1) + size * teacher.spec.action_width
            rungs.append(Rung(f"tree:{size}", None, size, most))
        else:
            params = students.suited(teacher, size).acting_parameters
            rungs.append(Rung(",".join(map(str, size)) or "linear", size, None, params))
    if not sizes:
        rungs = [r for r in rungs if r.params <= teacher.acting_parameters] or rungs[:1]
    return sorted(rungs, key=lambda r: r.params)
