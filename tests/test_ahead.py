"""What another process does meanwhile: the result is the same, errors arrive, and nobody is left behind."""

from __future__ import annotations

import gc
import os
import time

import pytest
from toys import Coins, Keen

from policykd.errors import EnvError, UsageError
from policykd.evaluation import References, extend
from policykd.recipe import load as load_recipe
from policykd.rollouts.workers import Ahead


def test_another_process_does_it_or_this_one_when_asked() -> None:
    assert Ahead(os.getpid, workers=2).result() != os.getpid()
    assert Ahead(os.getpid, workers=1).result() == os.getpid()
    ahead = Ahead(lambda: [1, 2], workers=2)
    assert ahead.result() is ahead.result()


def test_errors_arrive_as_they_are() -> None:
    def refuse() -> None:
        raise UsageError("some.code", "this", "that")

    for workers in (1, 2):
        with pytest.raises(UsageError, match=r"some\.code"):
            Ahead(refuse, workers).result()
    with pytest.raises(EnvError, match=r"env\.worker"):
        Ahead(lambda: os._exit(3), workers=2).result()


def test_nobody_is_left_behind() -> None:
    for leave in (lambda ahead: ahead.close(), lambda ahead: None):
        ahead = Ahead(lambda: time.sleep(60), workers=2)
        (child,) = ahead._children.values()
        pid = child.pid
        leave(ahead)
        del ahead, child
        gc.collect()
        with pytest.raises(ProcessLookupError):
            os.kill(pid or 0, 0)


def test_references_are_what_they_would_be_alone() -> None:
    recipe, teacher = load_recipe(Coins), Keen(0.9)
    wanted = {(True, 7): 30, (False, 7): 40}
    for workers in (1, 2):
        found = References(teacher, recipe, wanted, workers)
        for taught, episodes in ((True, 30), (False, 40)):
            score = found.get(taught, 7)
            alone = extend(None, teacher if taught else None, recipe, episodes, seed=7)
            assert score is not None and score.returns.tolist() == alone.returns.tolist()
        assert found.get(True, 8) is None
