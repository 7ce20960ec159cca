"""A distiller that watches: it stops, looks on, is alarmed and learns anew, whoever the teacher is."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from online_toys import seen
from torch import Tensor
from toys import CARTPOLE, Balancer

from policykd import students
from policykd.distributions import Categorical
from policykd.evaluation import Kept
from policykd.online import Answer, OnlineDistiller, PageHinkley, Watch
from policykd.online.lookout import LOOK, Lookout
from policykd.online.memory import memory_of
from policykd.prediction import Batch, Obs, Prediction

RULE = torch.tensor([2.0, -1.0, 1.0, 0.5])


class Turncoat:
    """A remote teacher, ``late`` polls behind, that says the opposite from some observation on.

    Attributes:
        sign: 1, or -1 for the opposite.
        asked: observations of each poll's questions.
    """

    def __init__(self, late: int) -> None:
        self.late, self.sign, self.version = late, 1.0, 3
        self.asked: list[Tensor] = []
        self._post: list[tuple[int, Answer]] = []
        self._polls = 0

    def ask(self, ids: np.ndarray, obs: Obs) -> None:
        assert isinstance(obs, Tensor)
        self.asked.append(obs.clone())
        z = self.sign * (obs @ RULE)
        answer = Answer(ids, Prediction(Categorical(torch.stack([-z, z], -1))), self.version)
        self._post.append((self._polls + self.late, answer))

    def poll(self) -> list[Answer]:
        self._polls += 1
        due = [answer for when, answer in self._post if when <= self._polls]
        self._post = [(when, answer) for when, answer in self._post if when > self._polls]
        return due


def distiller(teacher: Any, watch: Watch | None, **how: Any) -> OnlineDistiller:
    small: dict[str, Any] = dict(
        ask_rows=8, warm_up=32, batch_size=32, rows_per_update=2, publish_every=5, learning_rate=0.02, capacity=2_000
    )
    return OnlineDistiller(students.mlp(CARTPOLE, "linear", seed=3), teacher, watch=watch, **{**small, **how})


KEEN = Watch(low=0.05, patience=6, detector=PageHinkley(threshold=8.0, warm_up=6))


@pytest.mark.parametrize("late", [0, 10], ids=["at once", "late"])
def test_it_stops_is_alarmed_and_learns_anew_from_a_remote_teacher(late: int) -> None:
    teacher = Turncoat(late)
    online = distiller(teacher, KEEN, rest_every=4)

    def live(start: int, rows: int) -> None:
        for i in range(start, start + rows, 4):
            ends = np.array([j % 10 == 9 for j in range(i, i + 4)])
            online.observe(np.stack([seen(j) for j in range(i, i + 4)]), reward=np.ones(4), done=ends)
            online.update()

    live(0, 3_000)
    rested = online.status
    assert not rested.learning and rested.alarms == 0 and rested.updates > 100 and rested.remembered > 600
    live(3_000, 1_200)
    looked = online.status
    assert not looked.learning and looked.alarms == 0, "it only looks"
    assert (looked.updates, looked.remembered, looked.published) == (
        rested.updates,
        rested.remembered,
        rested.published,
    )
    assert looked.due == 0 and looked.asked - rested.asked == 300 == looked.answered - rested.answered
    assert looked.skipped - rested.skipped == 900

    teacher.sign, teacher.version, before = -1.0, 4, online.learner
    while online.status.alarms == 0:
        assert online.status.observed < 4_200 + 1_600, "sixteen looks of 100 observations"
        live(online.status.observed, 4)
    woken = online.status
    assert woken.learning and woken.remembered <= 8 and online.learner is None is not before
    assert woken.updates == rested.updates and woken.published == rested.published and woken.teacher_version == 4
    assert woken.episodes == woken.observed // 10 and woken.answered > looked.answered
    if late:
        assert woken.open > 0, "what was asked is waited for"

    live(woken.observed, 2_400)
    status = online.status
    assert status.alarms == 1 and not status.learning and status.updates > woken.updates + 100
    assert status.published > woken.published and 0 <= status.updates - online.published.updates < 5
    assert status.observed == status.waiting + status.asked + status.skipped and status.overflowed == 0
    assert status.asked == status.answered + status.open
    obs = np.stack([seen(i) for i in range(10_000, 10_200)])
    opposite = (torch.from_numpy(obs) @ RULE < 0).long().numpy()
    assert (online.act(obs) == opposite).mean() > 0.95


def test_steps_go_on_counting_after_an_alarm() -> None:
    teacher = Turncoat(0)
    online = distiller(teacher, Watch(low=-1.0, detector=PageHinkley(threshold=8.0, warm_up=6)), rest_every=1)
    steps: list[int] = []
    for i in range(2_400):
        teacher.sign = 1.0 if i < 1_200 else -1.0
        online.observe(seen(i))
        update = online.update()
        if update is not None:
            steps.append(update.step)
            assert update.progress.updates == update.step - 1
    assert online.status.alarms == 1
    assert steps == sorted(set(steps)) and steps[-1] == online.status.updates
    assert online.learner is not None and online.learner.updates < online.status.updates


@pytest.mark.parametrize("memory", ["fifo", "reservoir"])
def test_a_watch_that_never_rests_changes_nothing(memory: str) -> None:
    watch = Watch(low=-1.0, detector=PageHinkley(threshold=math.inf))
    one, two = distiller(Balancer(3.0), None, memory=memory), distiller(Balancer(3.0), watch, memory=memory)
    for i in range(800):
        for online in (one, two):
            online.observe(seen(i))
            online.update()
    assert one.published.checksum == two.published.checksum
    assert replace(one.status, step_ms=None) == replace(two.status, step_ms=None)
    assert one.watch is None and two.watch is not None and two.watch.detector.count == 800 // 4 // LOOK


def test_a_watch_that_rests_from_the_start_asks_about_one_in_so_many() -> None:
    teacher = Turncoat(0)
    online = distiller(teacher, Watch(low=1.0, learning=False), rest_every=3)
    for i in range(0, 96, 3):
        online.observe(np.stack([seen(j) for j in range(i, i + 3)]), extra={"n": np.arange(i, i + 3)})
        assert online.update() is None
    asked = torch.cat(teacher.asked)
    assert torch.equal(asked, torch.from_numpy(np.stack([seen(i) for i in range(0, len(asked) * 3, 3)])))
    status = online.status
    assert (status.asked, status.skipped, status.waiting, status.remembered, status.due) == (30, 60, 6, 0, 0)
    assert status.agreement is not None and status.published == 0
    watch = online.watch
    assert watch is not None and watch.detector.count == 30 // LOOK


def test_a_block_of_which_nothing_is_asked_about_is_passed_over() -> None:
    teacher = Turncoat(0)
    online = distiller(teacher, Watch(low=1.0, learning=False), ask_rows=2, rest_every=5)
    for i in range(40):
        online.observe(seen(i))
        online.update()
    assert [round(float(obs[0, 0]), 4) for obs in teacher.asked] == [
        round(float(seen(i)[0]), 4) for i in range(0, 40, 5)
    ]


# Looks by hand


def labels(n: int) -> Batch:
    return Batch(torch.zeros(n, 4), Prediction(Categorical(torch.zeros(n, 2))), extra={"at": torch.arange(n)})


def looks(blocks: list[int], told: list[Kept], every: int = 1) -> tuple[list[float], list[int]]:
    """What a watch is told, and how many rows each comparison had."""
    seen_: list[float] = []
    rows: list[int] = []

    class Deaf(Watch):
        def see(self, value: float) -> Watch:
            seen_.append(value)
            return self

    def compare(batch: Batch, student: Any) -> Kept:
        rows.append(len(batch))
        return told[(len(rows) - 1) % len(told)]

    lookout = Lookout(Deaf(low=0.0), every, compare)
    for n in blocks:
        assert not lookout.see(labels(n), students.mlp(CARTPOLE, "linear"))
    return seen_, rows


def test_a_look_is_of_so_many_rows_whatever_they_came_in() -> None:
    found, rows = looks([10, 60, 5, 25], [Kept(1.0, 1.0, None), Kept(1.0, 2.0, None), Kept(1.0, 4.0, None)])
    assert rows == [10, 15, 25, 20, 5, 25]
    assert found == [(10 * 1.0 + 15 * 2.0) / 25, 4.0, (20 * 1.0 + 5 * 2.0) / 25, 4.0]


def test_where_there_is_no_divergence_it_is_the_share_that_act_otherwise() -> None:
    assert looks([25], [Kept(0.75, None, None)])[0] == [0.25]
    assert looks([25], [Kept(0.75, math.inf, None)])[0] == [math.inf]
    assert looks([25], [Kept(0.75, math.nan, None)])[0] == [math.inf], "a student that says NaN"


def test_while_learning_it_looks_at_one_row_in_so_many() -> None:
    chosen: list[int] = []

    def compare(batch: Batch, student: Any) -> Kept:
        chosen.extend(batch.extra["at"].tolist())
        return Kept(1.0, 0.5, None)

    lookout = Lookout(Watch(low=0.0), 4, compare)
    for n in (6, 6, 1, 8):
        lookout.see(labels(n), students.mlp(CARTPOLE, "linear"))
    assert chosen == [0, 4, 2, 0, 3, 7], "of the stream: 0, 4, 8, 12, 16, 20"


def test_a_memory_that_begins_anew_draws_anew() -> None:
    teacher = Turncoat(0)
    online = distiller(teacher, Watch(low=-1.0))
    for i in range(64):
        online.observe(seen(i))
        online.update()
    online._lessons.forget()
    assert online.status.remembered == online.status.due == 0
    again, fresh = online._lessons.memory, memory_of("fifo", 2_000, seed=0)
    for memory in (again, fresh):
        memory.add(labels(200))
    assert again.sample(50).extra["at"].tolist() != fresh.sample(50).extra["at"].tolist()
