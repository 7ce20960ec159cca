"""Rollouts for a Learner that learns from reward and teacher at once; it makes no objective and measures no return."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch

from policykd.clock import Clock
from policykd.config import RewardConfig
from policykd.datasets import Ring
from policykd.learner import Learner
from policykd.prediction import Progress, Update
from policykd.reinforced.actor_critic import ActorCritic
from policykd.reinforced.experience import Experience
from policykd.reinforced.objective import critic_objective
from policykd.students import Student

__all__ = ["reinforced"]


def reinforced(
    learner: Learner[ActorCritic],
    experience: Experience,
    config: RewardConfig,
    *,
    steps: int,
    taken: int = 0,
    value_weight: float = 0.0,
    seed: int = 0,
    memory: Ring | None = None,
    known: Callable[[Progress], Progress] | None = None,
    clock: Clock | None = None,
) -> Iterator[Update]:
    """Let the student act, label what it saw once, and learn from it for some epochs; until ``steps`` are taken.

    The weights that act are those that learn, never their moving average: PPO's ratio is of the policy that acted.
    In the first ``config.critic_first`` rollouts only the critic learns: an actor that is as good as its teacher has
    nothing to gain from a critic that knows nothing.

    Args:
        learner: of an ActorCritic, with ``reward_objective`` or another objective over the columns of ``experience``.
        config: rollouts, epochs, minibatches.
        steps: environment steps to take; overrun by less than one step of every environment.
        taken: environment steps taken before.
        value_weight: of the teacher's values while only the critic learns, where there are any of the same discount.
        seed: of the order of the rows.
        memory: gets observations and labels of each rollout, for whoever looks at the newest; nothing is read from it.
        known: fills in what only others know of the progress (retention, agreement), once a rollout.
        clock: gets the phases ``collect`` and ``learn``.

    Yields:
        One Update a gradient step; its ``progress`` counts all environment steps, its fraction those of this loop.
    """
    clock = clock or Clock()
    generator = torch.Generator().manual_seed(seed)
    student, envs = learner.student, experience.collector.envs.num_envs
    critic: Learner[Student] | None = None
    end, began, rollouts = taken + steps, taken, 0
    while taken < end:
        with clock.phase("collect"):
            wanted = min(max(1, config.rollout // envs), -(-(end - taken) // envs))
            rollout = experience.rollout(student, wanted)
            if not rollout.steps:  # every environment was being reset
                continue
            if memory is not None:
                memory.add(rollout.batch)
        taken += rollout.steps
        progress = Progress(taken, 0, min((taken - began) / steps, 1.0))
        progress = progress if known is None else known(progress)
        if critic is None:
            # A Learner of its own: the actor's Adam begins when the actor does.
            weight = 0.0 if rollout.batch.target.value is None else value_weight
            critic = Learner(student.critic, critic_objective(weight), lr=learner.lr, average=None)
        taught = critic if rollouts < config.critic_first else learner
        rollouts += 1
        parts = max(1, round(len(rollout.batch) / config.minibatch))
        for _ in range(config.epochs):
            for rows in torch.randperm(len(rollout.batch), generator=generator).tensor_split(parts):
                made = critic.updates + learner.updates
                with clock.phase("learn"):
                    update = taught.step(rollout.batch[rows], replace(progress, updates=made))
                yield replace(update, step=made + 1)
