"""What a student that draws its actions lived through, with what PPO asks of each step; it takes no gradient step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, final

import torch
from gymnasium import spaces
from torch import Tensor

from policykd.distributions import Categorical, Deterministic, Distribution, MultiCategorical, TanhGaussian, masked
from policykd.policy import Policy
from policykd.prediction import Batch, Obs, Prediction
from policykd.reinforced.actor_critic import ActorCritic, rescale
from policykd.rollouts import Collector, Rollout
from policykd.students import fit_value_units

__all__ = ["Experience", "RewardScale", "advantages", "allowed", "log_prob"]

_REWARD_CLIP = 10.0  # VecNormalize's


def advantages(
    reward: Tensor,
    value: Tensor,
    following: Tensor,
    terminated: Tensor,
    done: Tensor,
    *,
    gamma: float,
    gae_lambda: float,
) -> Tensor:
    """Generalised advantage estimates (Schulman et al. 2015, 1506.02438, eq. 16), ``[time, environments]``.

    Args:
        reward: of each step.
        value: V of the observation that was acted on.
        following: V of the observation that the step led to: the final one where an episode ends there.
        terminated: whether the episode ended there for good: nothing follows, and V counts 0.
        done: whether it ended at all. An episode that was cut off goes on in V(final observation).
        gamma, gae_lambda: 0 looks one step ahead, 1 to the end.
    """
    delta = reward + gamma * following * ~terminated - value
    found, later = torch.empty_like(delta), torch.zeros_like(delta[0])
    for t in range(len(delta) - 1, -1, -1):
        later = found[t] = delta[t] + gamma * gae_lambda * ~done[t] * later
    return found


def log_prob(dist: Distribution, action: Tensor) -> Tensor:
    """Log-probability of an ``extra["action"]``, ``[*b]``: of a TanhGaussian it holds what went into tanh."""
    return dist.log_prob_before_tanh(action) if isinstance(dist, TanhGaussian) else dist.log_prob(action)


def allowed(said: Prediction, batch: Batch) -> Prediction:
    """The prediction among the actions that the environment allowed in these rows."""
    mask = batch.extra.get("allowed")
    return said if mask is None else replace(said, dist=masked(said.dist, mask))


@final
class _Drawing(Policy):
    """Draws an actor's continuous actions and remembers them, before the environment's bounds clip them."""

    def __init__(self, actor: Policy, generator: torch.Generator) -> None:
        super().__init__(actor.spec, actor.origin)
        self.actor, self.generator = actor, generator
        self.drawn: list[Tensor] = []

    def forward(self, obs: Obs, state: Any = None, start: Tensor | None = None, *, values: bool = True) -> Prediction:
        dist = self.actor(obs, state, start, values=False).dist
        squashed = isinstance(dist, TanhGaussian)
        action = (dist.base if squashed else dist).sample(self.generator)
        self.drawn.append(action)
        return Prediction(Deterministic(torch.tanh(action) if squashed else action))

    @property
    def acting_parameters(self) -> int:
        return self.actor.acting_parameters


@dataclass
class RewardScale:
    """Standard deviation of the discounted returns so far: what SB3's VecNormalize divides rewards by.

    The sum is each environment's own and forgets at the end of an episode; the spread is over all of them.
    """

    gamma: float
    count: float = 1e-4
    mean: float = 0.0
    var: float = 1.0
    _sum: Tensor | None = None

    @property
    def unit(self) -> float:
        """Reward units in one normalised unit."""
        return (self.var + 1e-8) ** 0.5

    def follow(self, reward: Tensor, done: Tensor) -> None:
        """Take in steps of every environment, ``[time, environments]``."""
        total = torch.zeros(reward.shape[1]) if self._sum is None else self._sum
        seen = []
        for gained, ended in zip(reward.float(), done, strict=True):
            total = total * self.gamma + gained
            seen.append(total)
            total = torch.where(ended, 0.0, total)
        self._sum, sums = total, torch.stack(seen).double()
        # Two samples' moments in one (Chan et al. 1979), as SB3's RunningMeanStd.
        n, mean, var = float(sums.numel()), float(sums.mean()), float(sums.var(correction=0))
        gap, count = mean - self.mean, self.count + n
        self.var = (self.var * self.count + var * n + gap * gap * self.count * n / count) / count
        self.mean += gap * n / count
        self.count = count


class Experience:
    """Rollouts of a student with the columns that objectives of ``policykd.reinforced`` read.

    Args:
        collector: with ``explore=True, episodes=True``, so that actions are drawn and final observations are seen.
        gamma, gae_lambda: of the advantages.
        normalise: let the critic's unit follow the spread of the returns, and clip rewards at ten of them, as
            VecNormalize does; False leaves the unit as the first rollout finds it, and rewards as they are.
        seed: of the draws of continuous actions.
    """

    def __init__(
        self, collector: Collector, *, gamma: float, gae_lambda: float = 0.95, normalise: bool = True, seed: int = 0
    ) -> None:
        self.collector, self.gamma, self.gae_lambda, self.normalise = collector, gamma, gae_lambda, normalise
        self.scale = RewardScale(gamma)
        self._generator = torch.Generator().manual_seed(seed)
        self._fitted = False

    def rollout(self, student: ActorCritic, vector_steps: int) -> Rollout:
        """Let ``student`` act for ``vector_steps`` steps of every environment; the teacher labels all rows at once.

        Returns:
            A Rollout whose batch holds no row of a reset step, and in ``extra``: ``action`` as it was drawn (before
            clipping, tanh or a Discrete's start), ``old_log_prob``, ``old_value`` and ``return`` in reward units,
            ``advantage`` (of this rollout's mean 0 and standard deviation 1), ``unit`` (of the critic), and
            ``allowed`` where the environment rules actions out.
        """
        envs, collector = self.collector.envs.num_envs, self.collector
        drawing = None if student.spec.discrete else _Drawing(student.actor, self._generator)
        found = collector.collect(vector_steps, drawing or student.actor, beta=0.0)
        batch, extra = found.batch, found.batch.extra
        counts = torch.ones(len(batch), dtype=torch.bool) if batch.mask is None else batch.mask
        action = _chosen(student, extra["action"]) if drawing is None else torch.stack(drawing.drawn).flatten(0, 1)
        ruled = _ruled(batch.target.dist)
        told = {"action": action} if ruled is None else {"action": action, "allowed": ruled}
        # What the environments show now is acted on in the next rollout; here it is what the last steps led to.
        last = collector.obs
        with torch.no_grad():
            said = allowed(student(batch.obs), replace(batch, extra=told))
            ahead = _value(student.critic(last))
            reward, done, terminated = (
                extra[name].reshape(vector_steps, envs) for name in ("reward", "done", "terminated")
            )
            if not self._fitted:
                said, ahead = self._fit(student, batch, reward, done, said, last)
            if self.normalise:
                self.scale.follow(reward, done)
                rescale(student.critic, self.scale.unit)
                bound = _REWARD_CLIP * self.scale.unit
                reward = reward.clamp(-bound, bound)
            value = _value(said).reshape(vector_steps, envs)
            # Next-step autoreset: the row after an episode's last one holds its final observation.
            advantage = advantages(
                reward,
                value,
                torch.cat([value[1:], ahead.unsqueeze(0)]),
                terminated,
                done,
                gamma=self.gamma,
                gae_lambda=self.gae_lambda,
            )
            told |= {
                "old_log_prob": log_prob(said.dist, action),
                "old_value": value.flatten(),
                "return": (advantage + value).flatten(),
                "advantage": advantage.flatten(),
                "unit": student.critic.value_units[1].expand(len(batch)),
            }
        kept = Batch(batch.obs, batch.target, extra=told)[counts]
        scaled = kept.extra["advantage"]
        scaled = (scaled - scaled.mean()) / (scaled.std() + 1e-8 if len(scaled) > 1 else 1.0)
        return replace(found, batch=kept.with_extra(advantage=scaled))

    def _fit(
        self, student: ActorCritic, batch: Batch, reward: Tensor, done: Tensor, said: Prediction, last: Obs
    ) -> tuple[Prediction, Tensor]:
        """Give a fresh critic the offset and unit of the first returns, so that its head begins near them."""
        self._fitted = True
        zeros = torch.zeros_like(reward)
        sums = advantages(reward, zeros, zeros, done, done, gamma=self.gamma, gae_lambda=1.0)
        fit_value_units(student.critic, sums[: max(1, len(sums) // 2)])
        value = _value(student.critic(batch.obs))
        return replace(said, value=value), _value(student.critic(last))


def _value(said: Prediction) -> Tensor:
    assert said.value is not None  # a critic has a value head
    return said.value


def _chosen(student: ActorCritic, action: Tensor) -> Tensor:
    """Environment actions of discrete families as the distribution drew them."""
    match student.spec.action_space:
        case spaces.Discrete(start=start):
            return action.long() - int(start)
        case spaces.MultiDiscrete(start=start):
            return (action.long() - torch.as_tensor(start)).flatten(1)
    return action.float().flatten(1)


def _ruled(dist: Distribution) -> Tensor | None:
    """Which actions were allowed, read from the labels: what an environment forbids is a logit of -inf there."""
    if not isinstance(dist, Categorical | MultiCategorical):
        return None
    legal = ~torch.isneginf(dist.logits)
    return None if bool(legal.all()) else legal
