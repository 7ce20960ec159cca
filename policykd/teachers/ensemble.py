"""Several teachers as one; it refuses those that live in different worlds, and leaves the formula to ``losses``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias, final

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from policykd.errors import SpaceError, UsageError
from policykd.policy import Policy
from policykd.prediction import Obs, Origin, Prediction, Spec

__all__ = ["Ensemble"]

How: TypeAlias = Callable[..., Prediction]


@final
class Ensemble(Policy):
    """Teachers of one environment, of whatever algorithms, asked side by side and combined by ``how``.

    ``distill``, ``frontier`` and the online loops take it as any teacher; each member keeps its own normaliser.
    ``Ensemble(teachers, losses.combine.mean)``, or, with a DQN or QRDQN among them, whose action values are no law yet,
    ``Ensemble(teachers, losses.calibrated(losses.combine.mean, teachers, obs))``.

    Values reach ``how`` only where all discounts are known and equal (``origin.gamma``); otherwise they cannot be
    compared, and the ensemble has none.

    Args:
        teachers: policies with the same spaces and family of actions. They are not copied.
        how: their predictions, in their order, to one (``losses.combine``, or a function of yours).
        gate: their shares in each row, ``[k, *b]``, of raw observations and their predictions (``losses.Gate``), which
            ``how`` gets as ``weights``. Nothing else of an ensemble learns.

    Attributes:
        origin: ``env_id`` and wrappers of all, ``path`` and ``algo`` joined by `` + ``.

    Raises:
        UsageError: ``ensemble.empty``.
        SpaceError: ``ensemble.observation``, ``ensemble.action``, ``ensemble.family``, ``ensemble.env``,
            ``ensemble.wrappers``: which teacher differs from the first, and how.
    """

    def __init__(self, teachers: Sequence[Policy], how: How, gate: nn.Module | None = None) -> None:
        if not teachers:
            raise UsageError("ensemble.empty", "an ensemble of no teachers", "at least one")
        for place, teacher in enumerate(teachers[1:], 1):
            _check(place, teacher, teachers[0])
        origin = _joined([teacher.origin for teacher in teachers])
        super().__init__(teachers[0].spec, origin)
        self.teachers, self.how, self.gate = nn.ModuleList(teachers), how, gate

    def ask(self, obs: Obs) -> list[Prediction]:
        """What each says, as ``how`` gets it; no gradient."""
        with torch.no_grad():
            said: list[Prediction] = [teacher(obs) for teacher in self.teachers]
        return said if self.origin.gamma is not None else [replace(p, value=None) for p in said]

    def forward(self, obs: Obs, state: Any = None, start: Tensor | None = None, *, values: bool = True) -> Prediction:
        """The combined prediction; critics are asked even with ``values=False``, because ``how`` may go by them."""
        said = self.ask(obs)
        word = self.how(said) if self.gate is None else self.how(said, weights=self.gate(obs, said))
        return word if values else replace(word, value=None, q=None)

    @property
    def acting_parameters(self) -> int:
        """Numbers in all networks that act, the gate's included."""
        gate = 0 if self.gate is None else sum(p.numel() for p in self.gate.parameters())
        return gate + sum(teacher.acting_parameters for teacher in self.teachers if isinstance(teacher, Policy))


def _check(place: int, teacher: Policy, first: Policy) -> None:
    name = f"teacher {place} ({teacher.origin.path or teacher.origin.algo or type(teacher).__name__})"
    fix = "combine teachers of one environment and family; distil the others into it first"
    for what, (found, wanted) in teacher.spec.differences(first.spec).items():
        raise SpaceError(f"ensemble.{what}", f"{name} with the {what} {found}", f"the first teacher's, {wanted}", fix)
    if first.spec.squashed and not _same_bounds(teacher.spec, first.spec):
        found, wanted = teacher.spec.action_space, first.spec.action_space
        raise SpaceError("ensemble.action", f"{name} with squashed actions in {found}", f"the bounds of {wanted}", fix)
    mine, theirs = teacher.origin, first.origin
    if mine.wrappers != theirs.wrappers:
        raise SpaceError(
            "ensemble.wrappers", f"{name} behind {mine.wrappers}", f"the first teacher's, {theirs.wrappers}", fix
        )


def _same_bounds(a: Spec, b: Spec) -> bool:
    mine, theirs = a.action_space, b.action_space
    if not (isinstance(mine, spaces.Box) and isinstance(theirs, spaces.Box)):
        return True
    return np.array_equal(mine.low, theirs.low) and np.array_equal(mine.high, theirs.high)


def _joined(origins: Sequence[Origin]) -> Origin:
    homes = {(o.env_id, str(sorted(o.env_kwargs.items()))) for o in origins if o.env_id is not None}
    if len(homes) > 1:
        found = ", ".join(sorted(f"{env_id} {kwargs}" if kwargs != "[]" else f"{env_id}" for env_id, kwargs in homes))
        raise SpaceError("ensemble.env", f"teachers of {found}", "one environment", "make an ensemble for each")
    home = next((o for o in origins if o.env_id is not None), origins[0])
    gammas = {o.gamma for o in origins}
    return Origin(
        path=_listed([o.path for o in origins]),
        algo=_listed([o.algo for o in origins]),
        env_id=home.env_id,
        env_kwargs=home.env_kwargs,
        wrappers=home.wrappers,
        gamma=gammas.pop() if len(gammas) == 1 else None,
    )


def _listed(names: Sequence[str | None]) -> str | None:
    known = [name for name in names if name is not None]
    return " + ".join(known) if len(known) == len(names) else None
