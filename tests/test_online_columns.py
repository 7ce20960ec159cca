"""What is seen: columns that stay the same, as many of each, and numbers; or they are refused, or counted."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from online_toys import Odd, distiller, right, said, seen
from torch import Tensor
from toys import Balancer, Told

from policykd import students
from policykd.errors import SpaceError, UsageError
from policykd.online import Answer, OnlineDistiller
from policykd.prediction import Obs, Spec


def test_one_row_with_and_one_without_a_column_is_refused_where_it_is_seen() -> None:
    online = distiller(Odd(lambda ids, obs: [right(ids, obs)]))
    online.observe(seen(0), teacher_obs=np.zeros(7), extra={"price": 1.0})
    for how in (
        dict(extra={"price": 1.0}),
        dict(teacher_obs=np.zeros(7)),
        dict(teacher_obs=np.zeros(8), extra={"price": 1.0}),
        dict(teacher_obs=np.zeros(7), extra={"cost": 1.0}),
        dict(teacher_obs=np.zeros(7), extra={"price": 1.0, "cost": 1.0}),
        dict(teacher_obs=np.zeros(7), extra={"price": np.zeros(2)}),
        dict(teacher_obs=np.zeros(7), extra={"price": "much"}),
    ):
        with pytest.raises(UsageError, match=r"\[online\.columns\]"):
            online.observe(seen(1), **how)  # type: ignore[arg-type]
    assert online.status.observed == online.status.waiting == 1
    for price in (2, 3.5, np.float32(4)):
        online.observe(seen(1), teacher_obs=np.zeros(7), extra={"price": price})
    online.update()
    assert online.status.answered == 4
    assert set(online._lessons.memory.sample(99).extra["price"].tolist()) == {1, 2, 3.5, 4}


def test_a_fraction_is_not_lost_in_a_column_of_whole_numbers() -> None:
    online = distiller()
    online.observe(seen(0), extra={"price": 1})
    with pytest.raises(UsageError, match=r"float64.*\[online\.columns\]"):
        online.observe(seen(1), extra={"price": 1.5})


def test_the_name_of_the_version_is_taken() -> None:
    with pytest.raises(UsageError, match=r"version.*\[online\.columns\]"):
        distiller().observe(seen(0), extra={"version": 3})


def test_rewards_and_ends_of_another_number_are_refused_before_the_row_is_taken_in() -> None:
    online = distiller()
    three = np.zeros((3, 4), np.float32)
    for how in (dict(reward=np.ones(2)), dict(reward=np.ones(3), done=np.ones(2, bool)), dict(done=np.ones((3, 1)))):
        with pytest.raises(UsageError, match=r"\[online\.rows\]"):
            online.observe(three, **how)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"\[online\.rows\]"):
        online.observe(seen(0), reward=np.ones(2))
    assert online.status.observed == online.status.waiting == online.status.episodes == 0
    online.observe(three, reward=2.0, done=True)
    assert (online.status.episodes, online.status.recent_return) == (3, 2.0)


def test_parts_of_a_dict_have_as_many_rows_as_each_other() -> None:
    two = {"a": np.zeros((3, 2)), "b": np.zeros((2, 5))}
    with pytest.raises(UsageError, match=r"2 rows of teacher_obs\['b'\].*\[online\.rows\]"):
        distiller(Odd(lambda ids, obs: [])).observe(np.zeros((3, 4), np.float32), teacher_obs=two)
    pair = spaces.Dict({"a": spaces.Box(-1, 1, (2,), np.float32), "b": spaces.Box(-1, 1, (1,), np.float32)})
    online = OnlineDistiller(students.mlp(Spec(pair, spaces.Discrete(2), "categorical"), (4,)), Odd(lambda i, o: []))
    for b in (np.zeros(1), np.zeros((3, 2)), np.zeros((3, 2, 1))):
        with pytest.raises(SpaceError, match=r"\[space\.observation\]"):
            online.observe({"a": np.zeros((3, 2), np.float32), "b": b})
    assert online.status.observed == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_an_observation_that_is_no_number_is_counted_and_its_reward_too(bad: float) -> None:
    teacher = Balancer(3.0)
    online, clean = distiller(teacher), distiller()
    for i in range(32):
        obs = seen(i)
        if i % 4 == 1:
            obs[2] = bad
        else:
            clean.observe(obs)
            clean.update()
        online.observe(obs, reward=1.0, done=i % 8 == 7)
        online.update()
    status = online.status
    assert (status.observed, status.unusable, status.asked, teacher.rows) == (32, 8, 24, 24)
    assert (status.episodes, status.recent_return) == (4, 8.0)
    assert status.updates == 6 and online.published.checksum == clean.published.checksum


def test_of_a_batch_the_rows_that_are_numbers_are_asked_about() -> None:
    asked: list[Obs] = []

    def make(ids: np.ndarray, obs: Tensor) -> list[Any]:
        asked.append(obs)
        return [right(ids, obs)]

    online = distiller(Odd(make), ask_rows=3)
    obs, shown = np.arange(20, dtype=np.float32).reshape(5, 4), np.arange(15, dtype=np.float32).reshape(5, 3)
    obs[1, 0], shown[3, 2] = math.nan, math.inf
    online.observe(obs, teacher_obs=shown, extra={"price": np.arange(5.0)}, reward=np.ones(5), done=True)
    online.update()
    (given,) = asked
    assert torch.equal(given, torch.from_numpy(shown[[0, 2, 4]]))  # type: ignore[arg-type]
    assert online.status.unusable == 2 and online.status.episodes == 5
    rows = online._lessons.memory.sample(50)
    assert {(int(p), float(o[0])) for p, o in zip(rows.extra["price"], rows.obs, strict=True)} == {
        (0, 0.0),
        (2, 8.0),
        (4, 16.0),
    }


WIDE = Spec(spaces.Box(-np.inf, np.inf, (5,), np.float32), spaces.Discrete(2), "categorical")


def privileged() -> Told:
    return Told(WIDE, lambda obs: torch.stack([obs[..., 4], -obs[..., 4]], -1))


def test_a_privileged_teachers_view_is_missed_where_it_is_forgotten() -> None:
    online = distiller(privileged())
    for how in ({}, dict(teacher_obs=np.zeros(4)), dict(teacher_obs=np.zeros((1, 5)))):
        with pytest.raises(SpaceError, match=r"teacher_obs=.*\[space\.observation\]"):
            online.observe(seen(0), **how)
    with pytest.raises(SpaceError, match=r"teacher_obs=.*\[space\.observation\]"):
        online.observe(np.zeros((2, 4), np.float32), teacher_obs=np.zeros(5))
    with pytest.raises(SpaceError, match=r"teacher_obs=.*\[space\.observation\]"):
        distiller().observe(seen(0), teacher_obs=np.zeros(5))
    for i in range(4):
        online.observe(seen(i), teacher_obs=np.zeros(5, np.float32))
    online.update()
    assert online.status.answered == 4 and online.status.failures == 0 and online.status.observed == 4


def test_a_teacher_with_another_view_is_not_asked_about_what_it_did_not_see() -> None:
    online = distiller(Balancer(3.0))
    for i in range(6):
        online.observe(seen(i))
    online.update()
    for i in range(2):
        online.observe(seen(i))
    assert online.status.waiting == 4
    online.teach(privileged())
    assert (online.status.waiting, online.status.unusable) == (0, 4)
    for i in range(4):
        online.observe(seen(i), teacher_obs=np.full(5, i, np.float32))
    online.update()
    assert online.status.answered == 8 and online.status.teacher_version == 1
    status = online.status
    assert status.observed == status.waiting + status.overflowed + status.asked + status.unusable + status.skipped


def test_rows_of_two_views_are_not_asked_about_together() -> None:
    asked: list[Obs] = []

    def make(ids: np.ndarray, obs: Tensor) -> list[Any]:
        asked.append(obs)
        return [Answer(ids, said(len(ids)))]

    online = distiller(Odd(make))
    for i in range(2):
        online.observe(seen(i))
    online.teach(Odd(make))
    for i in range(6):
        online.observe(seen(i), teacher_obs=np.full(7, i))
    with pytest.raises(UsageError, match=r"\[online\.columns\]"):
        online.observe(seen(0))
    online.update()
    assert [tuple(obs.shape) for obs in asked if isinstance(obs, Tensor)] == [(2, 4), (4, 7)]
    assert online.status.waiting == 2 and online.status.answered == 6


def kept(online: OnlineDistiller) -> Tensor:
    """What is remembered of the observations, each row once, in order."""
    obs = online._lessons.memory.sample(200).obs
    assert isinstance(obs, Tensor)
    return torch.unique(obs, dim=0)


@pytest.mark.parametrize("memory", ["fifo", "reservoir"])
def test_whole_numbers_first_do_not_take_the_fractions_from_what_follows(memory: str) -> None:
    online = distiller(Odd(lambda ids, obs: [right(ids, obs)]), memory=memory, ask_rows=1)
    for row in ([0, 0, 0, 0], [0.125, 0, 0, 0], np.full(4, 0.25, np.float32), torch.full((4,), 0.5)):
        online.observe(row)
        online.update()
    assert kept(online)[:, 0].tolist() == [0, 0.125, 0.25, 0.5] and kept(online).dtype == torch.float32


@pytest.mark.parametrize("memory", ["fifo", "reservoir"])
@pytest.mark.parametrize("first", [np.float32, np.float64])
def test_floats_stay_as_the_first_were(memory: str, first: type) -> None:
    asked: list[Tensor] = []

    def make(ids: np.ndarray, obs: Tensor) -> list[Any]:
        asked.append(obs)
        return [right(ids, obs)]

    online = distiller(Odd(make), memory=memory)
    for kind in (first, np.float64, np.float32):
        for i in range(4):
            online.observe(seen(i).astype(kind))
        online.update()
    rows = np.stack([seen(i) for i in range(4)]).astype(first)
    assert len(asked) == 3 and all(torch.equal(obs, torch.from_numpy(rows)) for obs in asked)
    assert {obs.dtype for obs in asked} == {kept(online).dtype} and len(kept(online)) == 4


PICTURE = spaces.Dict({"frame": spaces.Box(0, 255, (3,), np.uint8), "speed": spaces.Box(-1, 1, (1,), np.float32)})


def pictured(teacher: Any) -> OnlineDistiller:
    spec = Spec(PICTURE, spaces.Discrete(2), "categorical")
    return OnlineDistiller(students.mlp(spec, (4,)), teacher, ask_rows=1)


def test_each_part_of_a_dict_has_its_own_dtype() -> None:
    asked: list[Any] = []

    class Mute:
        def ask(self, ids: np.ndarray, obs: Obs) -> None:
            asked.append(obs)

        def poll(self) -> list[Any]:
            return []

    online = pictured(Mute())
    for frame in ([0, 7, 255], np.array([0.0, 7.0, 255.0]), np.array([0, 7, 255], np.uint8)):
        online.observe({"frame": frame, "speed": [1]})
    for bad in ([0, 7, 256], [-1, 7, 0], [0.5, 7, 0], [math.nan, 7, 0]):
        with pytest.raises(SpaceError, match=r"obs\['frame'\].*uint8.*\[space\.observation\]"):
            online.observe({"frame": bad, "speed": [1]})
    assert online.status.observed == 3 and online.status.unusable == 0
    online.update()
    assert [obs["frame"].tolist() for obs in asked] == [[[0, 7, 255]]] * 3
    assert {(obs["frame"].dtype, obs["speed"].dtype) for obs in asked} == {(torch.uint8, torch.float32)}


def test_a_number_that_becomes_infinite_is_counted() -> None:
    online = distiller(Odd(lambda ids, obs: [right(ids, obs)]))
    online.observe(seen(0))
    online.observe(np.array([1e300, 0, 0, 0]))
    assert (online.status.observed, online.status.unusable, online.status.waiting) == (2, 1, 1)


def test_no_rows_say_nothing_of_what_rows_are() -> None:
    online = distiller(Odd(lambda ids, obs: [right(ids, obs)]))
    online.observe(np.empty((0, 4)))
    for i in range(4):
        online.observe(seen(i))
    online.update()
    assert kept(online).dtype == torch.float32


def test_what_a_known_teacher_sees_is_held_to_its_space() -> None:
    asked: list[Tensor] = []

    def note(obs: Tensor) -> Tensor:
        asked.append(obs)
        return torch.stack([obs[..., 4], -obs[..., 4]], -1)

    online = distiller(Told(WIDE, note), ask_rows=1)
    for shown in ([0, 0, 0, 0, 1], [0.5, 0, 0, 0, 1]):
        online.observe(seen(0), teacher_obs=shown)
        online.update()
    assert [(float(obs[0, 0]), obs.dtype) for obs in asked] == [(0.0, torch.float32), (0.5, torch.float32)]
    counting = Spec(spaces.MultiDiscrete([9, 9]), spaces.Discrete(2), "categorical")
    other = distiller(Told(counting, lambda obs: torch.zeros(len(obs), 2)))
    with pytest.raises(SpaceError, match=r"teacher_obs.*int64.*\[space\.observation\]"):
        other.observe(seen(0), teacher_obs=[1.5, 2])
    assert other.status.observed == 0


@pytest.mark.parametrize("memory", ["fifo", "reservoir"])
def test_whole_numbers_after_doubles_are_doubles(memory: str) -> None:
    online = distiller(Odd(lambda ids, obs: [right(ids, obs)]), memory=memory, ask_rows=1)
    for row in ([0.1, 0, 0, 0], [1, 0, 0, 0]):
        online.observe(row)
        online.update()
    assert kept(online)[:, 0].tolist() == [0.1, 1.0]
