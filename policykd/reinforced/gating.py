"""A gate over several teachers, trained on nothing but reward; it teaches no student and leaves the teachers alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gymnasium as gym
import torch
from torch import Tensor

from policykd.config import RewardConfig
from policykd.distributions import map_tensors
from policykd.errors import UsageError
from policykd.home import recipe_for
from policykd.losses import Gate, forward_kl
from policykd.policy import Policy
from policykd.prediction import Obs, Update
from policykd.recipe import Recipe
from policykd.reinforced.actor_critic import acting, check_actor
from policykd.reinforced.loop import reinforced
from policykd.reinforced.start import start
from policykd.rollouts import make, play
from policykd.students import fit_normaliser
from policykd.supervised import cosine
from policykd.teachers import Ensemble

__all__ = ["GATE", "train_gate"]

GATE = RewardConfig(critic_first=0, teacher_weight=0.0, gae_lambda=0.97, rollout=8_192, epochs=6)
"""How a gate learns from reward when nobody chooses."""

_SEED = 1_900_000_000
"""First seed of the episodes that are sampled: apart from all that train, select or are reported."""

_EPISODES, _SAMPLE = 4, 400
"""Of each teacher: episodes that it plays, and observations of them that set the scales."""


def train_gate(
    team: Ensemble,
    env: str | Path | Recipe | Callable[..., gym.Env] | None = None,
    *,
    steps: int = 300_000,
    config: RewardConfig = GATE,
    sample: Obs | None = None,
    num_envs: int = 16,
    seed: int = 0,
    on_update: Callable[[Update], None] | None = None,
) -> Ensemble:
    """Let the gate of ``team`` learn from return whom to listen to in which state.

    The team acts by its own ``how`` and learns by PPO, whose only free numbers are the gate's; no student and no loss
    of one is involved. The benchmark's teams act by a vote, ``combine.each(combine.mean, sharpen)``, while the gate
    learns, and teach by ``combine.mean``: ``Ensemble(team.teachers, how, trained.gate)`` puts a gate beside another
    ``how``. ``torch.save(trained.gate.state_dict(), path)`` keeps one.

    >>> team = kd.council(["agents/cartpole-ppo", "agents/cartpole-dqn"])                      # doctest: +SKIP
    >>> kd.distill(kd.reinforced.train_gate(team))                                             # doctest: +SKIP

    Args:
        team: two teachers or more, action values made laws (``losses.calibrated``, ``kd.council``), with a gate, which
            is trained in place, or without one, when it gets a fresh ``losses.Gate``.
        env: where to act, as in ``distill``; None takes the teachers' own.
        steps: environment steps; overrun by less than one step of every environment.
        config: rollouts, epochs and rates; what it says of the teacher's weight and of imitation is not read.
        sample: observations, ``[n, ...]``, that set the scales of a fresh gate and of the critic; None lets every
            teacher play four episodes.
        num_envs: environments stepped side by side.
        seed: of a fresh gate, the critic, the environments and the draws.
        on_update: called after each gradient step.

    Returns:
        The team with the trained gate: ``team`` itself if it had one.

    Raises:
        UsageError: ``gate.team`` for anything but an Ensemble, ``gate.teachers`` for fewer than two teachers,
            ``gate.how`` for a ``how`` that takes no weights or lets no gradient through, ``config.zero``,
            ``env.missing``.
        DistributionError: ``combine.scale`` for action values that are no laws yet.
        SpaceError: ``space.*``, ``reinforced.density`` for teachers whose actions cannot be drawn.
    """
    if not isinstance(team, Ensemble):
        found = f"a gate for a {type(team).__name__}"
        raise UsageError("gate.team", found, "an Ensemble of two teachers or more", "kd.council(teachers)")
    for name, number in (("steps", steps), ("num_envs", num_envs)):
        if number < 1:
            raise UsageError("config.zero", f"{name}={number}", "at least 1", f"leave {name} out for the default")
    check_actor(team)
    recipe = recipe_for(team, env)
    obs = _seen(team, recipe) if sample is None else sample
    if team.gate is None:
        team = Ensemble(_members(team), team.how, Gate(team.spec, len(team.teachers), obs, seed=seed))
    _check_how(team, obs)
    envs = make(recipe, num_envs, "auto")
    try:
        learner, experience = start(
            team, team, envs, config, loss=forward_kl, ratio=False, lr=cosine(config.reward_rate), weight=0.0, seed=seed
        )
        fit_normaliser(learner.student.critic, obs)
        for update in reinforced(learner, experience, config, steps=steps, seed=seed):
            if on_update is not None:
                on_update(update)
    finally:
        envs.close()
    team.load_state_dict(acting(learner.averaged).state_dict())
    return team


def _members(team: Ensemble) -> list[Policy]:
    return [teacher for teacher in team.teachers if isinstance(teacher, Policy)]


def _seen(team: Ensemble, recipe: Recipe) -> Obs:
    """What every teacher sees where it acts: states of one alone say little of where the others differ."""
    found = [play(t, recipe, range(_SEED, _SEED + _EPISODES), keep=_SAMPLE).obs for t in _members(team)]
    parts = [obs for obs in found if obs is not None]
    first = parts[0]
    if isinstance(first, dict):
        return {key: torch.cat([part[key] for part in parts if isinstance(part, dict)]) for key in first}
    return torch.cat([part for part in parts if isinstance(part, Tensor)])


def _check_how(team: Ensemble, obs: Obs) -> None:
    fix = "combine.mean, also inside calibrated() and each(): Ensemble(teachers, combine.mean)"
    rows = {key: column[:2] for key, column in obs.items()} if isinstance(obs, dict) else obs[:2]
    try:
        word = team(rows, values=False)
    except TypeError as why:
        found = f"a gate for a team whose how takes no weights: {why}"
        raise UsageError("gate.how", found, "a how with weights that may carry a gradient", fix) from why
    learns: list[bool] = []

    def note(t: Tensor) -> Tensor:
        learns.append(t.requires_grad)
        return t

    map_tensors(word.dist, note)
    if not any(learns):
        found = "a gate for a team whose how lets no gradient of the weights through"
        raise UsageError("gate.how", found, "a how with weights that may carry a gradient", fix)
