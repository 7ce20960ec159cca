"""Teachers that fail now and then, or take all the time there is."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

import pytest
from online_toys import Gone, Plan, distiller, live, right, seen
from torch import Tensor
from toys import CARTPOLE, Balancer

from policykd import losses
from policykd.errors import SpaceError
from policykd.learner import Learner
from policykd.online import Answer, Threaded
from policykd.online import meter as meters
from policykd.online.ahead import Ahead
from policykd.policy import Policy
from policykd.prediction import Obs, Prediction

# An error in the place of an answer


def test_one_failure_between_good_answers_is_counted_and_no_outage() -> None:
    online = distiller(Plan(".x.x..x."))
    assert live(online, 8) == []
    status = online.status
    assert (status.failures, status.missing, status.answered, status.open) == (3, 12, 20, 0)
    assert status.outages == 0 and status.updates == 5


def test_two_failures_in_a_row_are_an_outage_until_an_answer_is_believed() -> None:
    online = distiller(Plan("...xx.x...xxx"))
    assert live(online, 4) == []
    (heard,) = live(online, 1, 4)
    assert "no route" in heard and online.status.silent
    assert live(online, 5, 5) == [] and not online.status.silent and online.status.outages == 1
    assert len(live(online, 3, 10)) == 1 and online.status.outages == 2
    assert online.status.failures == 6 and online.status.missing == 24


def test_who_has_never_answered_has_no_credit() -> None:
    online = distiller(Plan("x"))
    (heard,) = live(online, 1)
    assert "no route" in heard and online.status.failures == 1


def test_what_a_failure_closed_may_still_come_late_and_only_open_rows_go_missing() -> None:
    class Changing(Plan):
        def poll(self) -> list[Answer]:
            if len(self.questions) < 2:
                return []
            (ids, obs), (more, later) = self.questions
            self.questions.clear()
            some = right(ids[:1], obs[:1])
            error = Answer([*ids, *ids, 99, -1], Gone("no route"))
            return [some, error, right(ids, obs), right(more, later)]

    online = distiller(Changing(""))
    assert live(online, 2) == []
    status = online.status
    assert (status.answered, status.missing, status.late, status.duplicated) == (5, 3, 3, 1)
    assert (status.failures, status.open, status.unknown) == (1, 0, 0)


def waited(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.001)


def test_what_a_thread_raises_is_the_answer_to_its_question() -> None:
    calls: list[int] = []

    def answer(obs: Obs) -> Prediction:
        assert isinstance(obs, Tensor)
        calls.append(len(obs))
        if len(calls) == 2:
            raise Gone("once")
        said = right(None, obs).said
        assert isinstance(said, Prediction)
        return said

    with Threaded(answer) as teacher, warnings.catch_warnings():
        warnings.simplefilter("error")
        online = distiller(teacher)
        for block in range(4):
            for i in range(4):
                online.observe(seen(4 * block + i))
            online.update()
            waited(lambda: (online.update(), online.status.open == 0)[1])
    assert online.status.failures == 1 and online.status.missing == 4 and online.status.answered == 12


def test_a_mistake_in_a_thread_is_raised() -> None:
    said = threading.Event()

    def answer(obs: Obs) -> Prediction:
        said.set()
        raise SpaceError("space.observation", "these", "others")

    with Threaded(answer) as teacher:
        online = distiller(teacher)
        for i in range(4):
            online.observe(seen(i))
        with pytest.raises(SpaceError, match=r"\[space\.observation\]"):
            waited(lambda: (online.update(), False)[1])
    assert said.is_set() and online.status.open == 0


# Time


class Critic(Policy):
    """Says what a Balancer does, with action values where it is asked to."""

    def __init__(self, q: bool) -> None:
        super().__init__(CARTPOLE)
        self.inner, self.q = Balancer(3.0), q

    def forward(self, obs: Obs, state: Any = None, start: Any = None, *, values: bool = True) -> Prediction:
        said = self.inner(obs, values=False)
        return Prediction(said.dist, q=said.dist.logits) if self.q else Prediction(said.dist)

    @property
    def acting_parameters(self) -> int:
        return 4


class Clock:
    """Processor time that passes only where a test says so: for a step, a label, a look at answers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, step: float, ask: float = 0.0, read: float = 0.0) -> None:
        self.now, self.steps = 0.0, 0
        monkeypatch.setattr(meters.time, "thread_time", lambda: self.now)

        def slow(owner: type, name: str, cost: float) -> None:
            really = getattr(owner, name)

            def slowly(*args: Any, **kwargs: Any) -> Any:
                self.now += cost
                self.steps += owner is Learner
                return really(*args, **kwargs)

            monkeypatch.setattr(owner, name, slowly)

        slow(Learner, "step", step)
        slow(Critic, "forward", ask)
        slow(Ahead, "see", read)


def test_questions_that_take_all_the_time_do_not_stop_learning(monkeypatch: pytest.MonkeyPatch) -> None:
    """A label costs 9 of 10 ms and a step 2: every other call asks, and every other one learns."""
    clock = Clock(monkeypatch, step=0.002, ask=0.009)
    online = distiller(Critic(False), losses.forward_kl, budget_ms=10)
    for block in range(200):
        for i in range(4 * block, 4 * block + 4):
            online.observe(seen(i))
        begun = clock.now
        online.update()
        assert clock.now - begun <= 0.0111, "the budget and no more than was doubted of one estimate"
    status = online.status
    assert 90 <= clock.steps == status.updates and status.asked >= 4 * 90
    assert status.due <= 2 and status.observed == status.asked + status.waiting + status.overflowed


def test_nothing_is_asked_while_answers_lie_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch, step=0.001, ask=0.003, read=0.006)
    online = distiller(Critic(False), budget_ms=10, open_rows=32)
    most = 0
    for block in range(0, 200, 2):
        for i in range(4 * block, 4 * block + 8):
            online.observe(seen(i))
        online.update()
        most = max(most, online.status.open)
    status = online.status
    assert most <= 12, "three questions fit into one call"
    assert status.missing == status.late == 0 and status.overflowed > 0, "it is the newest that are asked about"
    assert status.answered > 200 and status.updates > 40
