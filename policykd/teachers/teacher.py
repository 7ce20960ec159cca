"""A trained agent as a frozen Policy: its normaliser, its networks, its reward unit; it reads no file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, final

import gymnasium as gym
from torch import Tensor, nn

from policykd.checkpoints.vecnormalize import Moments, Statistics
from policykd.distributions import Categorical
from policykd.errors import CheckpointError
from policykd.networks import KeyedNormaliser, Normaliser, normalise
from policykd.policy import ActingLayers, Policy
from policykd.prediction import Obs, Origin, Prediction, Spec
from policykd.teachers.actor_critic import ActorCritic
from policykd.teachers.blueprint import Blueprint
from policykd.teachers.brain import Brain
from policykd.teachers.continuous import ContinuousActor, Scorer
from policykd.teachers.q_network import QNetwork, scaled

__all__ = ["Teacher"]


@final
class Teacher(Policy):
    """An agent of SB3 or sb3-contrib that takes raw observations and never changes.

    What it says, by algorithm:

    - PPO, A2C, TRPO, MaskablePPO: the policy's distribution and V(s). With gSDE the standard deviation is the marginal
      one of a single step; SB3 keeps one noise matrix for several.
    - DQN, QRDQN: ``q`` holds Q(s, .) in environment reward units (QRDQN: the mean of its quantiles), ``value`` its
      maximum, and the distribution is ``Categorical(logits=q)``. Its mode is the greedy action of SB3; its draws are
      a softmax at temperature 1, not epsilon-greedy.
    - SAC, TQC, CrossQ: a tanh-Gaussian and the least critic at its deterministic action. These critics count the
      entropy bonus of later steps, so that they lie above the plain return.
    - TD3, DDPG: a deterministic action in [-1, 1] and the least critic there. ARS: an action, or scores; no value.

    Attributes:
        normaliser: VecNormalize's statistics: a ``networks.Normaliser``, a ``KeyedNormaliser``, or None.
        brain: the networks, from normalised observations on; ``brain.trunk`` are its dense layers.
    """

    def __init__(self, plan: Blueprint, origin: Origin, statistics: Statistics | None = None) -> None:
        brain = _build(plan)
        scale = 1.0 if statistics is None else statistics.reward_scale
        origin = replace(origin, algo=plan.algo, reward_scale=scale)
        super().__init__(Spec(plan.observation_space, plan.action_space, brain.family), origin)
        self.brain = brain
        self.normaliser = None if statistics is None else _normaliser(statistics, plan.observation_space)
        self.requires_grad_(False)
        self.eval()

    def forward(self, obs: Obs, state: Any = None, start: Tensor | None = None, *, values: bool = True) -> Prediction:
        """Prediction for raw observations; ``values=False`` runs no critic."""
        said = self.brain(normalise(obs, self.normaliser), values)
        scale = self.origin.reward_scale
        if scale == 1.0:
            return said
        value = None if said.value is None else said.value * scale
        if said.q is None:
            return replace(said, value=value)
        q = said.q * scale
        return replace(said, dist=Categorical(q), value=value, q=q)

    @property
    def acting_parameters(self) -> int:
        """Numbers in the features extractor and the trunk."""
        modules = (self.brain.features, self.brain.shared, self.brain.trunk)
        return sum(p.numel() for module in modules for p in module.parameters())

    @property
    def acting_layers(self) -> ActingLayers | None:
        """Features extractor and trunk as plain layers; None with several images, BatchRenorm, or mixed activations.

        QRDQN's output layer is averaged over its quantiles, and a Q-network's gives Q in environment reward units.
        """
        found = self.brain.acting_layers()
        if found is None or self.origin.reward_scale == 1.0 or not isinstance(self.brain, QNetwork):
            return found
        return replace(found, linears=(*found.linears[:-1], scaled(found.linears[-1], self.origin.reward_scale)))


def _build(plan: Blueprint) -> Brain:
    match plan.kind:
        case "actor_critic":
            return ActorCritic(plan)
        case "q" | "quantile":
            return QNetwork(plan)
        case "gaussian_actor" | "deterministic_actor":
            return ContinuousActor(plan)
        case "ars":
            return Scorer(plan)


def _normaliser(statistics: Statistics, space: gym.Space) -> nn.Module | None:
    def one(moments: Moments, part: gym.Space, what: str) -> Normaliser:
        if moments.mean.shape != part.shape:
            raise CheckpointError(
                "normaliser.shape",
                f"statistics of shape {moments.mean.shape} for {what} of shape {part.shape}",
                "the normaliser that the agent was trained with",
                "give its path as normalizer=..., or normalizer=None to act on normalised observations",
            )
        return Normaliser(moments.mean, moments.var, statistics.epsilon, statistics.clip)

    parts = space.spaces if isinstance(space, gym.spaces.Dict) else None
    match statistics.obs:
        case None:
            return None
        case Moments() as moments:
            if parts is None:
                return one(moments, space, "observations")
            found, expected = "statistics of one array", f"of the keys {sorted(parts)}"
        case Mapping() as moments:
            if parts is not None and set(moments) <= set(parts):
                return KeyedNormaliser({k: one(m, parts[k], f"key {k!r}") for k, m in moments.items()})
            found, expected = f"statistics of the keys {sorted(moments)}", "of the agent's observations"
    raise CheckpointError("normaliser.shape", found, expected, "give the agent's own normaliser as normalizer=...")
