"""The rows that a student learns from, and the steps that they call for; it asks nobody and publishes nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch

from policykd import students
from policykd.learner import Learner
from policykd.losses import Objective, PairLoss, Weighted
from policykd.losses.defaults import default_objective
from policykd.online.memory import Memory, memory_of
from policykd.online.settings import OnlineConfig
from policykd.policy import Policy
from policykd.prediction import Batch, Progress, Update

__all__ = ["Lessons"]


class _Course(NamedTuple):
    """What is new after ``forget``. One attribute holds it: another thread that reads sees all of it, or none."""

    memory: Memory
    learner: Learner | None = None
    before: int = 0
    """Gradient steps of the courses before."""

    @property
    def steps(self) -> int:
        return 0 if self.learner is None else self.learner.updates


class Lessons:
    """A memory, and a Learner once there is enough in it.

    One thread may read ``updates``, ``due`` and ``memory`` while another teaches.

    Args:
        student: taught in place.
        loss: objective or pair loss; None takes the family's default.
        config: how.

    Attributes:
        weighted, left_out: remembered rows that counted less, or not at all, because the teacher has changed since.
    """

    def __init__(self, student: Policy, loss: Weighted | Objective | PairLoss | None, config: OnlineConfig) -> None:
        self.student, self.config = student, config
        self._course = _Course(memory_of(config.memory, config.capacity, seed=config.seed))
        self.weighted = self.left_out = 0
        self.with_value = isinstance(student, students.Student) and student.value_head is not None
        self._loss = loss
        self._begun = 0
        self._oldest: int | None = None

    @property
    def memory(self) -> Memory:
        """Of labelled rows."""
        return self._course.memory

    @property
    def learner(self) -> Learner | None:
        """None before the warm-up is over."""
        return self._course.learner

    @property
    def updates(self) -> int:
        """Gradient steps so far."""
        course = self._course
        return course.before + course.steps

    @property
    def due(self) -> int:
        """Gradient steps that the rows in memory call for and that were not taken."""
        course = self._course
        return course.memory.added // self.config.rows_per_update - course.steps

    def remember(self, batch: Batch) -> None:
        """Take in new labels, ``[n]``."""
        self.memory.add(batch)
        version = int(batch.extra["version"][0])
        self._oldest = version if self._oldest is None else min(self._oldest, version)

    def forget(self) -> None:
        """Begin anew with the student as it is: an empty memory, a fresh optimizer and a fresh average."""
        self._begun, self._oldest = self._begun + 1, None
        memory = memory_of(self.config.memory, self.config.capacity, seed=self.config.seed + self._begun)
        self._course = _Course(memory, before=self.updates)

    def begin(self, teacher: Policy | None) -> bool:
        """Set the scales and begin to learn, once there is enough to see them; whether there is.

        Args:
            teacher: whose scales are taken, None where it is not at hand.
        """
        if self.learner is not None:
            return True
        config, student = self.config, self.student
        if len(self.memory) < min(config.warm_up, config.capacity):
            return False
        first = self.memory.sample(config.warm_up)
        if isinstance(student, students.Student):
            if teacher is not None:
                students.adopt_scales(student, teacher, first)
            elif not student.scaled:
                students.fit_normaliser(student, first.obs)
                if first.target.value is not None:
                    students.fit_value_units(student, first.target.value)
        loss = self._loss
        if loss is None:
            with_value = self.with_value and first.target.value is not None
            loss = default_objective(
                student.spec, first.target, with_value=with_value, value_weight=config.value_weight
            )
        learner = Learner(student, loss, lr=config.learning_rate, average=config.average or None)
        self._course = self._course._replace(learner=learner)
        return True

    def step(self, progress: Progress, newest: int | None) -> Update | None:
        """One gradient step; None where all rows that were drawn are left out.

        Args:
            progress: how far the run has come.
            newest: version of a teacher that has answered.
        """
        course = self._course
        assert course.learner is not None
        batch = self.draw(newest)
        if batch is None:
            return None
        update = course.learner.step(batch, progress)
        return replace(update, step=course.before + update.step) if course.before else update

    def draw(self, newest: int | None) -> Batch | None:
        """Rows to learn from, old teachers' labels weighed or left out; None where none is left."""
        batch, config = self.memory.sample(self.config.batch_size), self.config
        if config.stale == "keep" or newest is None or self._oldest is None or self._oldest >= newest:
            return batch
        behind = (newest - batch.extra["version"] - config.stale_after).clamp_min(0)
        old = int((behind > 0).sum())
        if config.stale == "drop":
            self.left_out += old
            return batch[behind == 0] if old < len(batch) else None
        self.weighted += old
        return replace(batch, weight=torch.pow(config.stale_decay, behind.float()))
