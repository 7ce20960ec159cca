"""Which spaces a student and SB3's MLP policies both read; it builds nothing and needs no SB3."""

from __future__ import annotations

from dataclasses import replace

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from policykd.errors import SpaceError
from policykd.networks import is_image
from policykd.prediction import Spec
from policykd.students.network import observed

__all__ = ["check_spaces", "spec_in"]


def spec_in(env: gym.Env, spec: Spec) -> Spec:
    """The spec with the environment's bounds of observations; the keys of a Dict keep the student's order.

    Raises:
        SpaceError: ``student.sb3-space`` where a network for one would not fit the other.
    """

    def kind(space: spaces.Space) -> object:
        """What the network depends on."""
        return (type(space), space.shape, space.dtype) if isinstance(space, spaces.Box) else space

    theirs = dict(observed(env.observation_space))
    ours = dict(observed(spec.observation_space))
    same = theirs.keys() == ours.keys() and all(kind(theirs[key]) == kind(ours[key]) for key in ours)
    if not same or env.action_space != spec.action_space:
        raise SpaceError(
            "student.sb3-space",
            f"an environment with {env.observation_space} and {env.action_space}",
            f"the student's {spec.observation_space} and {spec.action_space}",
            "give the environment that the student acts in, with its wrappers",
        )
    if isinstance(spec.observation_space, spaces.Dict):
        return replace(spec, observation_space=spaces.Dict([(str(key), theirs[key]) for key in ours]))
    return replace(spec, observation_space=env.observation_space)


def check_spaces(spec: Spec) -> None:
    """Refuse spaces that SB3's MLP policies do not read as a student does.

    Raises:
        SpaceError: ``student.sb3-space``.
    """
    for name, part in [*observed(spec.observation_space), ("actions", spec.action_space)]:
        start = part.start if isinstance(part, spaces.Discrete | spaces.MultiDiscrete) else 0
        if is_image(part) or np.any(start != 0):
            raise SpaceError(
                "student.sb3-space",
                f"{name or 'observations'}: {part}",
                "numbers, or choices that start at 0: SB3's MLP policies read nothing else",
                "export the student instead (policykd export)",
            )
