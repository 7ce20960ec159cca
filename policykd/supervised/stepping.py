"""Labelled batches for a Learner from environments or from a memory, one update at a time; it measures no returns."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

from policykd.clock import Clock
from policykd.config import Teaching
from policykd.datasets.ring import Ring
from policykd.learner import Learner
from policykd.policy import Policy
from policykd.prediction import Batch, Progress, Update
from policykd.rollouts.collect import Collector
from policykd.rollouts.panel import Panel

__all__ = ["ROUND", "Known", "cosine", "interact", "label", "mixture", "replay"]

ROUND = 512
"""Environment steps of one round, over all environments: short against an episode, long against a call."""

Mixture = Callable[[Progress], float]
Known = Callable[[Progress], Progress]


def cosine(peak: float, end: float = 0.02) -> Callable[[Progress], float]:
    """A learning rate from ``peak`` to ``end * peak`` along half a cosine of a cycle.

    Warm restarts of growing length are those of SGDR (Loshchilov & Hutter 2016, 1608.03983).
    """

    def at(progress: Progress) -> float:
        return peak * (end + (1.0 - end) * 0.5 * (1.0 + math.cos(math.pi * min(progress.fraction, 1.0))))

    return at


def mixture(config: Teaching, cycle: int = 0) -> Mixture:
    """Probability that the teacher acts, as a function of progress: 1 (teacher), 0 (student) or falling (dagger)."""
    if config.method == "teacher":
        return lambda progress: 1.0
    if config.method == "student" or cycle > 0 or config.mixture <= 0:
        return lambda progress: 0.0
    return lambda progress: max(0.0, 1.0 - progress.fraction / config.mixture)


def interact(
    learner: Learner,
    collector: Collector,
    memory: Ring,
    config: Teaching,
    *,
    steps: int,
    beta: Mixture,
    actor: Callable[[], Policy | Panel] | None = None,
    done: int = 0,
    taken: int = 0,
    made: int = 0,
    known: Known | None = None,
    clock: Clock | None = None,
) -> Iterator[Update]:
    """Learn from the memory, collect a round, add it to the memory; until ``steps`` environment steps are learnt from.

    The budget is overrun by less than one step of every environment, and there is one update for every
    ``config.rows_per_update`` steps taken.

    With the student acting and all data kept this is DAgger (Ross et al. 2011, 1011.0686, algorithm 3.1), in many small
    rounds, with the moving average of the student in the student's place.

    Args:
        steps: environment steps of this cycle.
        beta: probability that the teacher acts.
        actor: who acts where the teacher does not, asked before each round; None for the learner's averaged student.
        done: environment steps at which this cycle begins.
        taken: environment steps taken so far (a cycle may begin with some of its own already in the memory).
        made: updates of this cycle made so far, for one that is taken up again.
        known: fills in what only others know of the progress (retention, agreement), once a round.
        clock: gets the phases ``collect`` and ``learn``.

    Yields:
        One Update a gradient step; its ``progress`` counts environment steps over all cycles, its fraction in this one.
    """
    clock = clock or Clock()
    end = done + steps
    vector_steps = max(1, ROUND // collector.envs.num_envs)
    while True:
        told = Progress(taken, learner.updates, min((taken - done) / steps, 1.0))
        told = told if known is None else known(told)
        while made < (taken - done) // config.rows_per_update:
            made += 1
            progress = replace(told, updates=learner.updates)
            with clock.phase("learn"):
                update = learner.step(memory.sample(config.batch_size), progress)
            yield update
        if taken >= end:
            return
        with clock.phase("collect"):
            wanted = min(vector_steps, -(-(end - taken) // collector.envs.num_envs))
            rollout = collector.collect(wanted, learner.averaged if actor is None else actor(), beta(told))
            memory.add(rollout.batch)
        taken += rollout.steps


def replay(
    learner: Learner,
    memory: Ring,
    config: Teaching,
    *,
    steps: int,
    done: int = 0,
    known: Known | None = None,
    clock: Clock | None = None,
) -> Iterator[Update]:
    """Learn from what the memory holds, no environment stepped (behaviour cloning on soft labels).

    There are ``steps / config.rows_per_update`` updates, as many as ``interact`` makes of the same budget; each
    counts as ``rows_per_update`` environment steps in ``progress``, so that charts and schedules are comparable.

    Args:
        steps: of this cycle.
        done: where that count begins.
        known: as for ``interact``, once in as many updates as a round of it makes.
        clock: gets the phase ``learn``.
    """
    clock = clock or Clock()
    updates, told = max(1, steps // config.rows_per_update), Progress()
    for i in range(updates):
        if known is not None and i % max(1, ROUND // config.rows_per_update) == 0:
            told = known(told)
        taken = done + (i + 1) * config.rows_per_update
        progress = replace(told, env_steps=taken, updates=learner.updates, fraction=i / updates)
        with clock.phase("learn"):
            update = learner.step(memory.sample(config.batch_size), progress)
        yield update


def label(collector: Collector, steps: int, student: Policy | None = None, beta: float = 1.0) -> Iterator[Batch]:
    """Labelled batches for a dataset, until ``steps`` environment steps are taken; nothing is learnt.

    Args:
        collector: made with ``episodes=True``, so that episodes can be told apart.
        student, beta: who acts, as in ``Collector.collect``.
    """
    taken = 0
    while taken < steps:
        vector_steps = min(ROUND // collector.envs.num_envs + 1, -(-(steps - taken) // collector.envs.num_envs))
        rollout = collector.collect(vector_steps, student, beta)
        taken += rollout.steps
        yield rollout.batch
