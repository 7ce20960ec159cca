"""A student that learns inside somebody else's loop: it acts, is told what was seen, and learns; it steps no world."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from policykd import students
from policykd.errors import SpaceError
from policykd.learner import Learner
from policykd.losses import Objective, PairLoss, Weighted
from policykd.losses.defaults import default_objective
from policykd.online.ahead import Ahead
from policykd.online.answers import Local, RemoteTeacher
from policykd.online.desk import Desk
from policykd.online.inbox import Inbox
from policykd.online.memory import memory_of
from policykd.online.meter import Meter
from policykd.online.post import Correspondence
from policykd.online.publish import Published, publish
from policykd.online.settings import OnlineConfig
from policykd.online.status import Status
from policykd.policy import Policy
from policykd.prediction import Batch, Obs, Progress, Update, map_obs, obs_tensor

__all__ = ["OnlineDistiller"]


class OnlineDistiller:
    """Teaches ``student`` in a loop of yours: ``act``, ``observe``, ``update``.

        online = OnlineDistiller(student, teacher)
        action = online.act(obs)
        online.observe(obs, reward=reward, done=done)
        online.update()

    One thread may act and observe while another updates: ``act`` uses the student as it was last published, a copy
    that nobody writes to, and takes no lock.

    Args:
        student: taught in place; what acts is a copy, ``published.policy``.
        teacher: a Policy, which answers at once, or anything with ``ask`` and ``poll`` (``RemoteTeacher``).
        loss: objective or pair loss; None takes the family's default (``losses.defaults``). A stream has no end, so
            ``Progress.fraction`` stays 0: schedules go by ``steps=``, or by the agreement, which is known here.
        config: how; ``changes`` are fields of it, ``OnlineDistiller(student, teacher, memory="reservoir")``.

    Raises:
        SpaceError: ``space.family``, ``space.action`` when student and teacher do not fit together.
        UsageError: ``config.zero``, ``online.knobs``, ``name.memory``, ``name.stale``.
    """

    def __init__(
        self,
        student: Policy,
        teacher: Policy | RemoteTeacher,
        loss: Weighted | Objective | PairLoss | None = None,
        config: OnlineConfig | None = None,
        **changes: Any,
    ) -> None:
        self.student, self.config = student, replace(config or OnlineConfig(), **changes)
        self._loss = loss
        config = self.config
        self._with_value = isinstance(student, students.Student) and student.value_head is not None
        self._local: Local | None = None
        self._desk = Desk(
            self._hired(teacher, 0),
            student.spec,
            config.open_rows,
            config.stale_after if config.stale == "drop" else None,
        )
        self._inbox = Inbox(student.spec, config.open_rows)
        self._memory = memory_of(config.memory, config.capacity, seed=config.seed)
        self._meter = Meter(None if config.budget_ms is None else config.budget_ms / 1e3)
        self._post = Correspondence(self._desk, self._inbox, self._meter, config)
        self._generator = torch.Generator().manual_seed(config.seed)
        self._learner: Learner | None = None
        self._published = publish(student, 0, 0)
        self._ahead = Ahead(student.spec)
        self._weighted = self._left_out = 0
        self._oldest: int | None = None

    def _hired(self, teacher: Policy | RemoteTeacher, version: int) -> RemoteTeacher:
        if not isinstance(teacher, Policy):
            self._local = None
            return teacher
        for name, (found, wanted) in self.student.spec.differences(teacher.spec).items():
            if name != "observation":  # a privileged teacher has a view of its own
                fix = "build it with students.mlp(teacher.spec)"
                raise SpaceError(f"space.{name}", f"a student for the {name} {found}", f"the teacher's, {wanted}", fix)
        self._local = Local(teacher, values=self._with_value or self._loss is not None, version=version)
        return self._local

    @property
    def learner(self) -> Learner | None:
        """What takes the gradient steps; None before the warm-up is over. It belongs to the updating thread."""
        return self._learner

    @property
    def published(self) -> Published:
        """The student that acts now."""
        return self._published

    def act(self, obs: Any, *, deterministic: bool | None = None) -> np.ndarray:
        """An action as the environment takes it, from the student that was last published.

        Args:
            obs: one raw observation or a batch of them, arrays or tensors (or a dict).
            deterministic: the distribution's mode, or a draw; None draws until the student has learnt anything.
        """
        published = self._published  # read once: the next one may come at any time
        spec = published.policy.spec
        batched = spec.is_batched(obs)
        x = _tensors(obs)
        if not batched:
            x = map_obs(x, _one)
        if deterministic is None:
            deterministic = published.updates > 0
        with torch.inference_mode():
            dist = published.says(x)
            action = dist.mode() if deterministic else dist.sample(self._generator)
        actions = spec.to_env(action)
        return actions if batched else actions[0]

    def observe(
        self,
        obs: Any,
        *,
        reward: Any = None,
        done: Any = None,
        teacher_obs: Any = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        """Remember what was seen, for the teacher to label; nothing is asked or learnt here.

        Args:
            obs: one raw observation or a batch of them; copied.
            reward, done: what followed, for ``status`` alone; a number each, or one an observation.
            teacher_obs: what the teacher sees where that is something else.
            extra: further columns, which an objective finds in ``Batch.extra``.

        Raises:
            SpaceError: ``space.observation``.
        """
        self._inbox.put(obs, reward, done, teacher_obs, extra or {})

    def teach(self, teacher: Policy | RemoteTeacher) -> None:
        """From now on ask another teacher; a Policy's labels count as one version newer. For the updating thread."""
        newest = self._desk.counts.version
        self._desk.teacher = self._hired(teacher, 0 if newest is None else newest + 1)
        self._desk.error = None

    def update(self) -> Update | None:
        """Send questions off, take answers in, and take the gradient steps that are due, within the budget.

        A step, a question and a publication are each done whole or not begun. What does not fit stays due.

        Returns:
            The last step's Update; None where there was none: no labels yet, no time, or a teacher that is silent. A
            thread that does nothing but update sleeps a moment then, or it keeps the interpreter from the others.

        Warns:
            TeacherSilent: once for each time that the teacher falls silent.
        """
        self._meter.begin()
        self._post.exchange(self._remember)
        if self._post.is_silent() or (self._learner is None and not self._start()):
            return None
        assert self._learner is not None
        learner, last = self._learner, None
        while self._due() > 0 and self._meter.fits("step"):
            with self._meter.unit("step"):
                batch = self._draw()
                if batch is None:
                    break
                progress = Progress(self._inbox.observed, learner.updates, agreement=self._ahead.agreement)
                last = learner.step(batch, progress)
            self._publish_if_due(learner)
        self._publish_if_due(learner)
        return last

    def publish(self) -> Published:
        """Let the student act as it is now; ``update`` does so every ``publish_every`` steps. For its thread."""
        with self._meter.unit("publish"):
            learner = self._learner
            policy, updates = (self.student, 0) if learner is None else (learner.averaged, learner.updates)
            self._published = publish(policy, self._published.number + 1, updates)
        return self._published

    def _publish_if_due(self, learner: Learner) -> None:
        if learner.updates - self._published.updates >= self.config.publish_every and self._meter.fits("publish"):
            self.publish()

    def _due(self) -> int:
        done = 0 if self._learner is None else self._learner.updates
        return self._memory.added // self.config.rows_per_update - done

    def _remember(self, batch: Batch) -> None:
        self._ahead.see(batch, self._published.policy)
        self._memory.add(batch)
        version = int(batch.extra["version"][0])
        self._oldest = version if self._oldest is None else min(self._oldest, version)

    def _start(self) -> bool:
        """Set the scales and begin to learn, once there is enough to see them."""
        config, student = self.config, self.student
        if len(self._memory) < min(config.warm_up, config.capacity):
            return False
        first = self._memory.sample(config.warm_up)
        if isinstance(student, students.Student):
            if self._local is not None:
                students.adopt_scales(student, self._local.policy, first)
            elif not student.scaled:
                students.fit_normaliser(student, first.obs)
                if first.target.value is not None:
                    students.fit_value_units(student, first.target.value)
        loss = self._loss
        if loss is None:
            with_value = self._with_value and first.target.value is not None
            loss = default_objective(
                student.spec, first.target, with_value=with_value, value_weight=config.value_weight
            )
        self._learner = Learner(student, loss, lr=config.learning_rate, average=config.average or None)
        return True

    def _draw(self) -> Batch | None:
        """Rows to learn from, old teachers' labels weighed or left out; None where none is left."""
        batch, config = self._memory.sample(self.config.batch_size), self.config
        newest = self._desk.counts.version
        if config.stale == "keep" or newest is None or self._oldest is None or self._oldest >= newest:
            return batch
        behind = (newest - batch.extra["version"] - config.stale_after).clamp_min(0)
        old = int((behind > 0).sum())
        if config.stale == "drop":
            self._left_out += old
            return batch[behind == 0] if old < len(batch) else None
        self._weighted += old
        return replace(batch, weight=torch.pow(config.stale_decay, behind.float()))

    @property
    def status(self) -> Status:
        """What has become of everything so far."""
        inbox, counts, learner = self._inbox, self._desk.counts, self._learner
        step, returns = self._meter.cost("step"), inbox.recent()
        return Status(
            observed=inbox.observed,
            waiting=len(inbox) + self._post.held,
            overflowed=inbox.overflowed,
            asked=counts.asked,
            answered=counts.answered,
            open=self._desk.open,
            reordered=counts.reordered,
            late=counts.late,
            duplicated=counts.duplicated,
            unknown=counts.unknown,
            missing=counts.missing,
            invalid=counts.invalid,
            stale_dropped=counts.stale_dropped + self._left_out,
            stale_weighted=self._weighted,
            failures=counts.failures,
            outages=self._post.outages,
            silent=self._post.silent,
            teacher_version=counts.version,
            remembered=len(self._memory),
            agreement=self._ahead.agreement,
            divergence=self._ahead.divergence,
            updates=0 if learner is None else learner.updates,
            due=self._due(),
            published=self._published.number,
            step_ms=None if step is None else 1e3 * step,
            episodes=inbox.episodes,
            recent_return=sum(returns) / len(returns) if returns else None,
        )


def _one(t: Tensor) -> Tensor:
    return t.unsqueeze(0)


def _tensors(obs: Any) -> Obs:
    if isinstance(obs, Tensor):
        return obs
    if isinstance(obs, Mapping):
        return {k: v if isinstance(v, Tensor) else torch.from_numpy(np.array(v)) for k, v in obs.items()}
    return obs_tensor(np.asarray(obs))
