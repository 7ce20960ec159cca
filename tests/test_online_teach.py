"""Another teacher takes over: its kind, its versions, its time to answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from online_toys import Gone, Plan, distiller, live, right
from toys import CARTPOLE, Balancer

from policykd.distributions import Categorical
from policykd.errors import UsageError
from policykd.online import Answer, Watch
from policykd.online.desk import Desk
from policykd.policy import Policy
from policykd.prediction import Obs, Prediction


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


@pytest.mark.parametrize("first", [True, False])
def test_a_policy_of_another_kind_is_refused_before_anything_is_switched(first: bool) -> None:
    online, alone = distiller(Critic(first)), distiller(Critic(first))
    for one in (online, alone):
        live(one, 6)
    with pytest.raises(UsageError, match=r"\bq \(2,\).*OnlineDistiller\(online\.student, teacher\) \[online\.labels\]"):
        online.teach(Critic(not first))
    for one in (online, alone):
        live(one, 6, 6)
    assert online.published.checksum == alone.published.checksum
    assert online.status.answered == 48 and online.status.teacher_version == 0
    online.teach(Critic(first))
    live(online, 1, 12)
    assert online.status.teacher_version == 1 and online.status.answered == 52


def test_before_the_first_label_any_kind_will_do() -> None:
    online = distiller(Critic(True))
    online.teach(Critic(False))
    assert live(online, 4) == [] and online.status.answered == 16


def test_the_warning_says_why_answers_are_not_believed() -> None:
    online = distiller(Critic(False), silence=20)
    live(online, 4)
    online.teach(Plan("", lambda ids, obs: right(ids, obs, q=torch.zeros(4, 2))))
    (heard,) = live(online, 8, 4)
    assert "observations without an answer that could be learnt from" in heard
    assert "it says logits (2,), q (2,), the first labels were logits (2,)" in heard
    assert online.status.invalid == 32
    alien = distiller(Plan("", lambda ids, obs: Answer(ids, Prediction(Categorical(torch.zeros(4, 3))))), silence=20)
    (heard,) = live(alien, 8)
    assert "logits have the shape (4, 3)" in heard
    nan = torch.full((4, 2), torch.nan)
    blind = distiller(Plan("", lambda ids, obs: Answer(ids, Prediction(Categorical(nan)))), silence=20)
    (heard,) = live(blind, 8)
    assert "its labels are NaN or infinite" in heard


@pytest.mark.parametrize("stale", ["drop", "weigh"])
def test_a_remote_teachers_versions_count_on(stale: str) -> None:
    online = distiller(Critic(False), stale=stale)
    live(online, 4)
    online.teach(Critic(False))
    live(online, 4, 4)
    assert online.status.teacher_version == 1
    versions = iter([0] * 4 + [2] * 4)
    online.teach(Plan("", lambda ids, obs: right(ids, obs, next(versions))))
    live(online, 4, 8)
    assert online.status.teacher_version == 2 and online.status.answered == 48
    live(online, 4, 12)
    assert online.status.teacher_version == 4 and online.status.answered == 64
    found = {int(v) for v in online._lessons.memory.sample(500).extra["version"]}
    assert found == {0, 1, 2, 4}


def test_what_came_before_a_new_teacher_is_of_the_old_one() -> None:
    desk = Desk(Plan("", lambda ids, obs: right(ids, obs, 5)), CARTPOLE, 100)
    obs = torch.zeros(4, 4)
    desk.ask(obs, obs, {})
    desk.fetch()
    desk.read()
    desk.ask(obs, obs, {})
    desk.fetch()
    desk.hire(Plan("", lambda ids, obs: right(ids, obs, 1)))
    (old,) = desk.read()
    desk.ask(obs, obs, {})
    desk.fetch()
    (new,) = desk.read()
    assert set(old.extra["version"].tolist()) == {5} and set(new.extra["version"].tolist()) == {7}


def test_a_new_teacher_has_time_to_answer() -> None:
    class Mute(Plan):
        def poll(self) -> list[Answer]:
            return []

    online = distiller(Mute(""), silence=20)
    assert len(live(online, 8)) == 1 and online.status.silent
    online.teach(Mute(""))
    assert live(online, 4, 8) == [] and not online.status.silent
    assert len(live(online, 4, 12)) == 1 and online.status.outages == 2


class Slow(Plan):
    """Answers nothing until it is let, then what ``wanted`` says of its questions, a block an answer."""

    wanted: tuple[int, ...] = ()

    def poll(self) -> list[Answer]:
        wanted, self.wanted = self.wanted, ()
        return [self.make(*self.questions[i]) for i in wanted]


def test_what_the_old_teacher_did_not_answer_is_given_up() -> None:
    old = Slow("")
    online = distiller(old)
    live(online, 3)
    assert online.status.open == 12
    old.wanted = (1,)
    online.teach(Plan(""))
    assert (online.status.open, online.status.missing) == (4, 8)
    assert live(online, 1, 3) == []
    status = online.status
    assert (status.open, status.missing, status.answered) == (0, 8, 8)
    assert status.asked == status.answered + status.missing + status.open


def test_the_old_teachers_last_version_is_older_than_the_new_ones_first() -> None:
    old = Slow("", lambda ids, obs: right(ids, obs, 9 if ids[0] else 2))
    online = distiller(old)
    old.wanted = (0,)
    live(online, 2)
    assert online.status.teacher_version == 2
    old.wanted = (1,)
    online.teach(Plan(""))
    live(online, 1, 2)
    assert online.status.teacher_version == 10 and online.status.answered == 12


def test_an_old_teachers_last_error_is_no_outage_of_the_new_one() -> None:
    old = Slow("", lambda ids, obs: Answer(ids, Gone("no route")))
    online = distiller(old)
    live(online, 2)
    old.wanted = (0, 1)
    online.teach(Slow(""))
    assert live(online, 1, 2) == [] and (online.status.failures, online.status.missing) == (2, 8)


def test_an_old_teacher_that_is_gone_does_not_keep_a_new_one_out() -> None:
    class Dead(Plan):
        def poll(self) -> list[Answer]:
            if len(self.questions) < 2:
                return []
            raise Gone("no route")

    online = distiller(Dead(""), silence=1_000)
    live(online, 2)
    failures = online.status.failures
    online.teach(Plan(""))
    assert (online.status.open, online.status.missing, online.status.failures) == (0, 8, failures + 1)
    assert live(online, 1, 2) == [] and online.status.answered == 4


@pytest.mark.parametrize(
    "last",
    [
        lambda ids, obs: Answer(ids, Prediction(Categorical(torch.zeros(4, 3)))),
        lambda ids, obs: Answer(ids, Prediction(Categorical(torch.full((4, 2), torch.nan)))),
        lambda ids, obs: Answer(ids, Gone("no route")),
        lambda ids, obs: Answer(ids, None),  # type: ignore[arg-type]
        lambda ids, obs: None,
        lambda ids, obs: Answer(np.append(ids[:2], [-1, 10**6]), Prediction(Categorical(torch.zeros(4, 2)))),
    ],
    ids=["alien", "nan", "error", "nothing", "no answer", "numbers of others"],
)
def test_an_old_teachers_last_word_that_is_no_label_leaves_nothing_open(last: Callable[..., Any]) -> None:
    old = Slow("", last)
    online = distiller(old)
    live(online, 2)
    old.wanted = (0,)
    online.teach(Slow(""))
    online.update()
    status = online.status
    assert status.open == 0 and status.answered + status.missing == 8


def test_a_watch_that_rests_is_not_told_of_a_silence_that_is_none() -> None:
    """While it rests hardly anything is asked: questions of the old teacher would wait, and nobody answer."""
    old = Slow("")
    resting = Watch(low=0.02, learning=False)
    online = distiller(old, watch=resting, silence=20, rest_every=100)
    live(online, 1)
    assert online.status.open > 0
    online.teach(Plan(""))
    assert live(online, 20, 1) == [] and online.status.outages == 0


def test_a_watch_that_never_learnt_knows_the_kind_all_the_same() -> None:
    online = distiller(Critic(True), watch=Watch(low=0.02, learning=False), rest_every=1)
    live(online, 2)
    assert online.status.remembered == 0 and online.status.answered == 8
    with pytest.raises(UsageError, match=r"\bq \(2,\).*\[online\.labels\]"):
        online.teach(Critic(False))
    live(online, 2, 2)
    assert online.status.answered == 16
