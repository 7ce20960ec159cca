"""Several teachers as one, their action values made laws on states that the first one visits; it teaches nobody."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from policykd import losses
from policykd.config import COMBINATIONS, Combination
from policykd.errors import UnknownNameError
from policykd.home import recipe_for
from policykd.load import load_teacher
from policykd.losses.combine import Combine
from policykd.policy import Policy
from policykd.rollouts import play
from policykd.teachers import Ensemble

__all__ = ["council"]

_SAMPLE = 1024
"""Observations on which the scales of action values are frozen."""

_EPISODES = 10

_SEED = 2_000_000_000
"""First seed of the episodes that are sampled: apart from all that train, select or are reported."""

_HOWS: dict[Combination, Combine] = {
    "mean": losses.combine.mean,
    "product": losses.combine.product,
    "confident": losses.combine.confident,
}


def council(teachers: Sequence[Policy | str | Path], how: Combination | Combine = "mean", env: Any = None) -> Ensemble:
    """One teacher out of several of the same environment, of whatever algorithms; every loop takes it.

    What a DQN or QRDQN says becomes softmax(Q / (tau x scale)) with a scale of its own, frozen on observations of ten
    episodes that the first teacher plays.

    Args:
        teachers: policies, or paths that ``load_teacher`` reads.
        how: ``mean``, ``product`` or ``confident`` (``losses.combine`` says what each is), or such a function.
        env: where the first teacher plays, if it does not say: as in ``distill``.

    Raises:
        UnknownNameError: ``name.combine``.
        SpaceError: ``ensemble.*`` for teachers that differ in more than what they say.
        UsageError: ``ensemble.empty``, ``env.missing``.
    """
    if isinstance(how, str):
        if how not in COMBINATIONS:
            raise UnknownNameError.of("combine", how, COMBINATIONS)
        how = _HOWS[how]
    members = [t if isinstance(t, Policy) else load_teacher(t) for t in teachers]
    together = Ensemble(members, how)  # whoever does not fit is refused before anything is played
    recipe = recipe_for(members[0], env)
    seen = play(members[0], recipe, range(_SEED, _SEED + _EPISODES), keep=_SAMPLE).obs
    if seen is None or not any(member.label(seen).q is not None for member in members):
        return together
    return Ensemble(members, losses.calibrated(how, members, seen))
