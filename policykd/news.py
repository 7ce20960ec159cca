"""What a front tells while it runs, for displays, charts and checkpoints; it carries, and refuses to compute."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from policykd.datasets import Ring
from policykd.evaluation import Interval, Score
from policykd.learner import Learner
from policykd.policy import Policy
from policykd.prediction import Update
from policykd.rollouts import Collector

__all__ = ["FrontierLook", "FrontierTick", "Look", "Tick"]


@dataclass(frozen=True, eq=False)
class Tick:
    """News of a round of collection and of the updates that followed it.

    Attributes:
        update: the newest one.
        learner, collector, memory: as they are now; reading them changes nothing, stepping or sampling them does.
        total_steps: environment steps of the whole budget.
    """

    update: Update
    learner: Learner
    collector: Collector
    memory: Ring
    total_steps: int


@dataclass(frozen=True, eq=False)
class Look:
    """News of a selection: the student that acts was measured.

    Attributes:
        env_steps, updates: when.
        learner: as it is now.
        score, teacher, random: returns of the student and of what it is compared with.
        retention: of these scores; the reported one comes from other episodes.
    """

    env_steps: int
    updates: int
    learner: Learner
    score: Score
    teacher: Score
    random: Score
    retention: Interval


@dataclass(frozen=True, eq=False)
class FrontierTick:
    """As a Tick, of students of many sizes.

    Attributes:
        update: the newest one of the networks; its loss has one number for each that still learns.
        learner: of the networks that still learn; None where only trees do.
        collector, memory, total_steps: as of a Tick.
        students: size, seed and policy of everybody as they are now, those too that learn no more; nobody is measured.
    """

    update: Update
    learner: Learner | None
    collector: Collector
    memory: Ring
    total_steps: int
    students: Callable[[], list[tuple[str, int, Policy]]]


@dataclass(frozen=True, eq=False)
class FrontierLook:
    """News of a screening: every student that still learns was measured on selecting episodes.

    Attributes:
        env_steps, updates: when.
        measured: size and seed of each student, its returns, and what it kept of its teacher's on these episodes.
        teacher, random: returns of those that it is compared with.
    """

    env_steps: int
    updates: int
    measured: tuple[tuple[str, int, Score, Interval], ...]
    teacher: Score
    random: Score
