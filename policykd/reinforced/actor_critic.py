"""A student that acts and a critic beside it, for as long as there is reward to learn from; nothing here is shipped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor

from policykd import students
from policykd.errors import SpaceError, UsageError
from policykd.policy import ActingLayers, Many, Policy
from policykd.prediction import Obs, Prediction, Spec
from policykd.students import Student

__all__ = ["ActorCritic", "acting", "check_actor", "check_density", "critic_for", "rescale"]


@final
class ActorCritic(Policy):
    """A policy whose distribution is the actor's and whose value is the critic's.

    The critic is a network of its own: the actor that is left when it is thrown away has no number more than it needs.

    Args:
        actor: the student; its value head, if it had one, would go stale and is refused.
        critic: a Student with a value head, made by ``critic_for``; only that head and its torso are trained.

    Raises:
        UsageError: ``reinforced.actor`` for several students at once or one with a value head.
        SpaceError: ``reinforced.density`` for an actor that is a point mass: it explores nothing.
    """

    def __init__(self, actor: Policy, critic: Student) -> None:
        super().__init__(actor.spec, actor.origin)
        check_actor(actor)
        self.actor, self.critic = actor, critic

    def forward(self, obs: Obs, state: Any = None, start: Tensor | None = None, *, values: bool = True) -> Prediction:
        """The actor's distribution for raw observations ``[*b, ...]`` and the critic's value, in reward units."""
        said: Prediction = self.actor(obs, state, start, values=False)
        if not values:
            return said
        return Prediction(said.dist, self.critic(obs).value, state=said.state)

    @property
    def acting_parameters(self) -> int:
        """The actor's."""
        return self.actor.acting_parameters

    @property
    def acting_layers(self) -> ActingLayers | None:
        """The actor's."""
        return self.actor.acting_layers


def acting(policy: Policy) -> Policy:
    """Who acts for ``policy``: the actor of an ActorCritic, itself otherwise."""
    return policy.actor if isinstance(policy, ActorCritic) else policy


def check_density(spec: Spec) -> None:
    """Refuse a family whose actions cannot be drawn: SpaceError ``reinforced.density``."""
    if spec.family in ("deterministic", "tanh_deterministic"):
        raise SpaceError(
            "reinforced.density",
            f"a student of the family {spec.family}, which has one action and no other to try",
            "a distribution to draw from (the teacher was PPO, A2C, TRPO, SAC, TQC, DQN or QRDQN)",
            "--method dagger imitates such a teacher without reward",
        )


def check_actor(actor: Policy) -> None:
    """Refuse who cannot learn from reward: ``reinforced.actor``, ``reinforced.density``."""
    check_density(actor.spec)
    if isinstance(actor, Many):
        raise UsageError("reinforced.actor", f"a {type(actor).__name__}", "one student", "teach them one by one")
    if isinstance(actor, Student) and actor.value_head is not None:
        raise UsageError(
            "reinforced.actor",
            "a student with a value head",
            "one without: the critic is a network of its own, thrown away at the end",
            "leave --value out (value=False)",
        )


def critic_for(actor: Policy, hidden: str | Sequence[int] = (64, 64), *, seed: int = 0) -> Student:
    """A critic that reads what ``actor`` reads, through the actor's normaliser where it is a Student.

    Args:
        hidden: widths of its layers; images go through convolutions first.
        seed: of its first weights.
    """
    critic = students.build(actor.spec, hidden, activation="tanh", value=True, seed=seed)
    if isinstance(actor, Student):
        critic.normaliser, critic.scaled = actor.normaliser, True
    for part in (critic.action_head, critic.log_std):
        if part is not None:
            part.requires_grad_(False)
    return critic


@torch.no_grad()
def rescale(critic: Student, unit: float) -> None:
    """Let the critic speak in another unit without changing what it says.

    Source: van Hasselt et al. 2016, 1602.07714 (Pop-Art), eq. 4, with an offset that stays.
    """
    head = critic.value_head
    if head is not None:
        share = float(critic.value_units[1]) / unit
        head.weight.mul_(share)
        head.bias.mul_(share)
        critic.value_units[1] = unit
