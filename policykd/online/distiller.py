"""A student that learns inside somebody else's loop: it acts, is told what was seen, and learns; it steps no world."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from policykd.errors import SpaceError, UsageError
from policykd.learner import Learner
from policykd.losses import Objective, PairLoss, Weighted
from policykd.online.ahead import Ahead
from policykd.online.answers import Local, RemoteTeacher
from policykd.online.columns import View
from policykd.online.desk import Desk
from policykd.online.drift import Watch
from policykd.online.inbox import Inbox
from policykd.online.labels import Unread
from policykd.online.lessons import Lessons
from policykd.online.lookout import Lookout
from policykd.online.meter import Meter
from policykd.online.post import Correspondence
from policykd.online.publish import Published, publish
from policykd.online.settings import OnlineConfig
from policykd.online.status import Status
from policykd.policy import Policy
from policykd.prediction import Batch, Progress, Update

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
            ``losses.weights.by_performance`` needs ``retention``.
        config: how; ``changes`` are fields of it, ``OnlineDistiller(student, teacher, memory="reservoir")``.
        watch: when to learn, None for always. It looks at what new labels say of the student that acts (the divergence
            that ``status`` averages, or 1 - agreement where there is none), 25 rows a look. While it rests, one
            observation in ``config.rest_every`` is asked about, and nothing is remembered or learnt. At an alarm what
            was learnt from is forgotten, and learning begins anew: memory, optimizer and average, not the student.
        retention: share of the teacher's return that the student keeps, as far as ``status`` tells you; None while
            nobody knows. It becomes ``Progress.retention``; without it that is None, and ``by_performance`` constant.

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
        *,
        watch: Watch | None = None,
        retention: Callable[[Status], float | None] | None = None,
        **changes: Any,
    ) -> None:
        self.student, self.config = student, replace(config or OnlineConfig(), **changes)
        config = self.config
        self._lessons = Lessons(student, loss, config)
        self._values = self._lessons.with_value or loss is not None
        self._retention = retention
        behind = config.stale_after if config.stale == "drop" else None
        asked = self._hired(teacher)
        self._desk = Desk(asked, student.spec, config.open_rows, behind)
        self._inbox = Inbox(student.spec, config.open_rows)
        self._inbox.renew(self._view(asked))
        self._meter = Meter(None if config.budget_ms is None else config.budget_ms / 1e3)
        self._post = Correspondence(self._desk, self._inbox, self._meter, config)
        self._generator = torch.Generator().manual_seed(config.seed)
        self._published = publish(student, 0, 0)
        self._ahead = Ahead(student.spec)
        self._lookout = Lookout(watch, config.rest_every, self._ahead.compare)
        self._rest_or_learn()
        self._starved = False
        self._newest: Batch | None = None

    def _hired(self, teacher: Policy | RemoteTeacher) -> RemoteTeacher:
        if not isinstance(teacher, Policy):
            return teacher
        for name, (found, wanted) in self.student.spec.differences(teacher.spec).items():
            if name != "observation":  # a privileged teacher has a view of its own
                fix = "build it with students.mlp(teacher.spec)"
                raise SpaceError(f"space.{name}", f"a student for the {name} {found}", f"the teacher's, {wanted}", fix)
        return Local(teacher, values=self._values)

    def _view(self, asked: RemoteTeacher) -> View | None:
        if not isinstance(asked, Local):
            return None
        return View(asked.policy.spec, "observation" in self.student.spec.differences(asked.policy.spec))

    @property
    def learner(self) -> Learner | None:
        """What takes the gradient steps; None before the warm-up is over. It belongs to the updating thread."""
        return self._lessons.learner

    @property
    def watch(self) -> Watch | None:
        """The watch as it is now, which says whether labels are learnt from; None without one."""
        return self._lookout.watch

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
        return self._published.act(obs, deterministic, self._generator)

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
            obs: one raw observation or a batch of them; copied, in the dtype of its space, or that of the first where
                both are floats. What has NaN or infinities in it is counted, and nothing else.
            reward, done: what followed, for ``status`` alone; a number each, or one an observation.
            teacher_obs: what the teacher sees where that is something else; held to a Policy's space as ``obs`` is.
            extra: further columns, which an objective finds in ``Batch.extra``.

        Raises:
            SpaceError: ``space.observation`` for what student or teacher cannot read, as a fraction where their space
                is of whole numbers.
            UsageError: ``online.columns`` for other columns than those of the first observation (of ``teacher_obs``:
                of the first for this teacher), or one named ``version``; ``online.rows`` for columns, rewards or ends
                of another number than the observations. Nothing is taken in then.
        """
        self._inbox.put(obs, reward, done, teacher_obs, extra or {})

    def teach(self, teacher: Policy | RemoteTeacher) -> None:
        """From now on ask another teacher. For the updating thread.

        Its versions count on from the newest so far: the first is one newer, whatever the teacher calls it.

        Raises:
            SpaceError: ``space.family``, ``space.action``.
            UsageError: ``online.labels`` for a Policy whose labels have other columns than those that were learnt
                from or looked at (action values, values, features), where one view serves both. The old teacher stays.
        """
        asked = self._hired(teacher)
        view, newest = self._view(asked), self._newest
        if isinstance(asked, Local) and view is not None and not view.own and newest is not None:
            try:
                self._desk.kind.check(asked.says(newest[:1].obs), 1)
            except Unread as unread:
                fix = "begin another with the same student: OnlineDistiller(online.student, teacher)"
                raise UsageError("online.labels", f"another kind of teacher: {unread.why}", "the same", fix) from None
        self._post.renew(asked, view)

    def update(self) -> Update | None:
        """Send questions off, take answers in, and take the gradient steps that are due, within the budget.

        A step, a question and a publication are each done whole or not begun. What does not fit stays due, and where
        questions and answers left no time for a step, the next call begins with one.

        Returns:
            The last step's Update; None where there was none: no labels yet, no time, a teacher that is silent, or a
            watch that rests. A thread that does nothing but update sleeps a moment then, or it keeps the interpreter
            from the others.

        Warns:
            TeacherSilent: once for each time that the teacher falls silent.
        """
        self._meter.begin()
        last = self._steps(1) if self._starved else None
        self._starved = False
        worked = self._post.exchange(self._take_in)
        if self._post.is_silent() or not self._lookout.learning:
            return last
        teacher = self._desk.teacher
        if not self._lessons.begin(teacher.policy if isinstance(teacher, Local) else None):
            return last
        last = self._steps() or last
        self._starved = self._meter.budget is not None and worked and last is None and self._lessons.due > 0
        return last

    def _steps(self, most: int | None = None) -> Update | None:
        """The steps that are due and for which there is time; the last of them."""
        lessons, taken = self._lessons, 0
        last: Update | None = None
        retention = self._retention(self.status) if self._retention is not None and lessons.due > 0 else None
        while lessons.due > 0 and taken != most and self._meter.fits("step"):
            with self._meter.unit("step"):
                agreement = self._ahead.agreement
                progress = Progress(self._inbox.observed, lessons.updates, retention=retention, agreement=agreement)
                update = lessons.step(progress, self._desk.counts.version)
            if update is None:
                break
            last, taken = update, taken + 1
            self._publish_if_due()
        self._publish_if_due()
        return last

    def publish(self) -> Published:
        """Let the student act as it is now; ``update`` does so every ``publish_every`` steps. For its thread."""
        with self._meter.unit("publish"):
            lessons, number = self._lessons, self._published.number + 1
            policy = self.student if lessons.learner is None else lessons.learner.averaged
            self._published = publish(policy, number, lessons.updates)
        return self._published

    def _publish_if_due(self) -> None:
        waiting = self._lessons.updates - self._published.updates
        if waiting >= self.config.publish_every and self._meter.fits("publish"):
            self.publish()

    def _take_in(self, batch: Batch) -> None:
        """New labels: to look at, and to learn from unless the watch rests."""
        student = self._published.policy
        self._newest = batch
        self._ahead.see(batch, student)
        if self._lookout.see(batch, student):
            self._lessons.forget()
        self._rest_or_learn()
        if self._lookout.learning:
            self._lessons.remember(batch)

    def _rest_or_learn(self) -> None:
        self._post.every = 1 if self._lookout.learning else self.config.rest_every

    @property
    def status(self) -> Status:
        """What has become of everything so far."""
        inbox, counts, lessons = self._inbox, self._desk.counts, self._lessons
        step, returns = self._meter.cost("step"), inbox.recent()
        return Status(
            observed=inbox.observed,
            waiting=len(inbox) + self._post.held,
            overflowed=inbox.overflowed,
            unusable=inbox.unusable,
            skipped=self._post.skipped,
            asked=counts.asked,
            answered=counts.answered,
            open=self._desk.open,
            reordered=counts.reordered,
            late=counts.late,
            duplicated=counts.duplicated,
            unknown=counts.unknown,
            missing=counts.missing,
            invalid=counts.invalid,
            stale_dropped=counts.stale_dropped + lessons.left_out,
            stale_weighted=lessons.weighted,
            failures=counts.failures,
            outages=self._post.outages,
            silent=self._post.silent,
            teacher_version=counts.version,
            learning=self._lookout.learning,
            alarms=self._lookout.alarms,
            remembered=len(lessons.memory),
            agreement=self._ahead.agreement,
            divergence=self._ahead.divergence,
            updates=lessons.updates,
            due=lessons.due if self._lookout.learning else 0,
            published=self._published.number,
            step_ms=None if step is None else 1e3 * step,
            episodes=inbox.episodes,
            recent_return=sum(returns) / len(returns) if returns else None,
        )
