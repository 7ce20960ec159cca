"""What one thread reads of the lessons while another begins anew."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from toys import CARTPOLE

from policykd import students
from policykd.distributions import Categorical
from policykd.online.lessons import Lessons
from policykd.online.settings import OnlineConfig
from policykd.prediction import Batch, Prediction, Progress


class Torn(Lessons):
    """Lessons in which another thread comes in between: ``between`` is called as often as an attribute is touched.

    Attributes:
        wait: attributes that are touched before; None for never.
    """

    wait: int | None = None
    between: Callable[[], None] = staticmethod(lambda: None)

    def _touch(self) -> None:
        if vars(self).get("wait") is None:
            return
        vars(self)["wait"] -= 1
        if vars(self)["wait"] < 0:
            vars(self)["wait"] = None
            vars(self)["between"]()

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("__") and name != "_touch":
            self._touch()
        return super().__getattribute__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._touch()
        super().__setattr__(name, value)


def taught() -> Torn:
    """Eight rows in memory, two steps due, one taken."""
    lessons = Torn(students.mlp(CARTPOLE, (4,)), None, OnlineConfig(warm_up=8, batch_size=8, rows_per_update=4))
    version = {"version": torch.zeros(8, dtype=torch.int64)}
    lessons.remember(Batch(torch.randn(8, 4), Prediction(Categorical(torch.randn(8, 2))), extra=version))
    assert lessons.begin(None) and lessons.step(Progress(), 0) is not None
    return lessons


READ: list[tuple[str, set[int]]] = [("updates", {1}), ("due", {1, 0})]


@pytest.mark.parametrize(("name", "true"), READ)
@pytest.mark.parametrize("wait", range(8))
def test_who_reads_while_the_lessons_are_forgotten_sees_what_was_or_what_is(
    name: str, true: set[int], wait: int
) -> None:
    lessons = taught()
    vars(lessons)["between"], vars(lessons)["wait"] = lessons.forget, wait
    assert getattr(lessons, name) in true


@pytest.mark.parametrize(("name", "true"), READ)
@pytest.mark.parametrize("wait", range(16))
def test_who_forgets_while_the_lessons_are_read_leaves_no_half_of_it(name: str, true: set[int], wait: int) -> None:
    lessons, found = taught(), set[int]()
    vars(lessons)["between"] = lambda: found.add(getattr(lessons, name))
    vars(lessons)["wait"] = wait
    lessons.forget()
    assert found <= true and (found or wait > 4), "somebody read in between"
    assert (lessons.updates, lessons.due) == (1, 0)
