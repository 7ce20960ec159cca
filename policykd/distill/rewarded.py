"""A student's further way: from imitation to reward and teacher at once; it measures as ``Training`` does."""

from __future__ import annotations

from policykd.datasets import Ring
from policykd.distill.training import Training
from policykd.reinforced import Experience, pull, reinforced, start
from policykd.selection import SEEDS
from policykd.supervised import cosine

__all__ = ["with_reward"]


def with_reward(training: Training) -> str:
    """Imitation, then reward and teacher at once, until the budget or time is spent, or the target is met."""
    config, target = training.config, training.config.until_retention
    if training.reward.imitate > 0 and any(training.late() for _ in training.cycle(0)):
        return "time"
    if training.reward.imitate > 0 and training.selection.meets(training.learner, training.env_steps, target):
        return "target"
    experience = _meet_reward(training)
    began, steps = training.env_steps, max(1, training.total - training.env_steps)
    updates = reinforced(
        training.learner,
        experience,
        training.reward,
        steps=steps,
        taken=began,
        value_weight=config.value_weight,
        seed=config.seed,
        memory=training.memory,
        known=training.known,
        clock=training.clock,
    )
    looks = 1
    for update in training.told(updates):
        if training.late():
            return "time"
        if update.progress.env_steps - began >= looks * steps / training.reward.looks < steps:
            looks += 1
            if training.selection.meets(training.learner, training.env_steps, target):
                return "target"
    return "target" if training.selection.meets(training.learner, training.env_steps, target) else "budget"


def _meet_reward(training: Training) -> Experience:
    """The student that acts so far goes on as an actor, in environments that begin anew."""
    config, student = training.config, training.learner.student
    student.load_state_dict(training.learner.averaged.state_dict())
    ratio = config.method == "ppd"
    with training.clock.phase("learn"):
        learner, experience = start(
            student,
            training.teacher,
            training.collector.envs,
            training.reward,
            loss=training.loss or pull(student.spec, training.sample, ratio=ratio),
            ratio=ratio,
            lr=cosine(training.reward.reward_rate),
            weight=training.weight,
            seed=SEEDS * config.seed,
        )
    learner.updates = training.learner.updates
    training.learner, training.collector = learner, experience.collector
    training.memory = Ring(training.reward.rollout, seed=config.seed, extra=False)
    return experience
