"""What inspect says of good, old and hostile files; it runs none of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hostile_zips import (
    changed,
    pickled,
    refused,
    warmed,
)

from policykd import teachers
from policykd.errors import CheckpointError


@pytest.fixture(scope="module", autouse=True)
def warm(agents) -> None:
    warmed(teachers.load, agents("ppo")[1])


@pytest.fixture
def good(agents) -> Path:
    return agents("ppo")[1]


def test_inspection_of_every_kind_of_agent(agents, tmp_path):
    for name in ("ppo", "a2c", "trpo", "maskable", "dqn", "qrdqn", "sac-her", "td3", "ddpg", "tqc", "crossq", "ars"):
        found = teachers.inspect(agents(name)[1])
        assert found.problem is None, (name, found.problem)
        assert found.verdict in ("data", "function"), (name, found.code[:3])
        json.dumps(found.to_dict())


def test_inspection_sees_gadgets_and_plain_text_traps(good, tmp_path):
    import numpy.testing._private.utils as gadgets
    import stable_baselines3

    class Builds:
        def __reduce__(self) -> Any:
            return stable_baselines3.SAC, ("MlpPolicy", "evil_module:Foo-v0")

    class Runs:
        def __reduce__(self) -> Any:
            return gadgets.runstring, ("import evil", {})

    found = teachers.inspect(changed(good, tmp_path, a=pickled(Builds()), b=pickled(Runs()), env="evil:Foo-v0"))
    verdicts = {(c.where, c.verdict) for c in found.code}
    assert {("data:a", "unknown"), ("data:b", "dangerous"), ("data:env", "dangerous")} <= verdicts
    assert found.problem is None


def test_a_folder_is_described_as_such(tmp_path, good):
    refused(tmp_path, "teacher.folder", "no zip")
    with pytest.raises(CheckpointError):
        teachers.inspect(tmp_path / "nothing")
