"""Recipes: what an environment argument may be, what the teacher's wrappers do, and what the screen shows (nothing)."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import cloudpickle
import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from sb3_contrib.common.wrappers import TimeFeatureWrapper

from policykd import recipe
from policykd.env_ids import current_id
from policykd.errors import EnvError, MissingExtraError, UnknownNameError
from policykd.prediction import EnvWrapper
from policykd.recipe import Recipe, TimeFeature

TIME = EnvWrapper("TimeFeature")


class Goal(gym.Env[Any, Any]):
    """Dict observations, three steps."""

    def __init__(self) -> None:
        box = spaces.Box(-1, 1, (2,), np.float32)
        self.observation_space = spaces.Dict({"observation": box, "desired_goal": spaces.Box(0, 1, (1,))})
        self.action_space = spaces.Discrete(2)

    def _obs(self) -> dict[str, np.ndarray]:
        return {"observation": np.full(2, 0.5, np.float32), "desired_goal": np.ones(1, np.float32)}

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        return self._obs(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self._obs(), 0.0, False, False, {}


def test_old_ids_mean_their_successors() -> None:
    assert current_id("LunarLander-v2") == "LunarLander-v3"
    assert current_id("Walker2d-v3") == current_id("Walker2d-v2") == "Walker2d-v4"
    assert current_id("CartPole-v1") == "CartPole-v1"
    assert current_id("somebody.else:Thing-v2") == "somebody.else:Thing-v2"
    for old in ("BipedalWalker-v2", "HumanoidStandup-v2", "Taxi-v3", "Pendulum-v0", "LunarLanderContinuous-v2"):
        assert current_id(old) in gym.registry
    assert recipe.load("LunarLander-v2").env_id == "LunarLander-v3"


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "CartPole-v1", "Hopper-v4"])
@pytest.mark.parametrize("test_mode", [False, True])
def test_time_feature_is_sb3_contribs(env_id: str, test_mode: bool) -> None:
    ours = Recipe(env_id, wrappers=(EnvWrapper("TimeFeature", {"test_mode": test_mode}),)).make()
    theirs = TimeFeatureWrapper(Recipe(env_id).make(), test_mode=test_mode)
    assert ours.observation_space == theirs.observation_space
    ours.action_space.seed(0)
    rows = [(env.reset(seed=3)[0]) for env in (ours, theirs)]
    assert rows[0].dtype == rows[1].dtype
    np.testing.assert_array_equal(*rows)
    for _ in range(30):
        action = ours.action_space.sample()
        (a, *rest_a), (b, *rest_b) = ours.step(action), theirs.step(action)
        np.testing.assert_array_equal(a, b)
        assert rest_a == rest_b
        if rest_a[1] or rest_a[2]:
            np.testing.assert_array_equal(ours.reset(seed=4)[0], theirs.reset(seed=4)[0])
    ours.close()
    theirs.close()


def test_time_feature_of_a_dict() -> None:
    ours, theirs = TimeFeature(Goal(), max_steps=3), TimeFeatureWrapper(Goal(), max_steps=3)
    assert ours.observation_space == theirs.observation_space
    assert ours.reset()[0]["observation"].tolist() == [0.5, 0.5, 1.0]
    theirs.reset()
    for _ in range(3):
        a, b = ours.step(0)[0], theirs.step(0)[0]
        assert list(a) == list(b)
        for key in a:
            np.testing.assert_array_equal(a[key], b[key])
    assert a["observation"].tolist() == [0.5, 0.5, 0.0]


def test_time_feature_refuses_images() -> None:
    env = Goal()
    env.observation_space = spaces.Box(0, 255, (4, 4, 1), np.uint8)
    with pytest.raises(EnvError, match=r"flat Box.*\[env.wrapper\]"):
        TimeFeature(env)


def test_a_wrapper_is_applied_once() -> None:
    twice = recipe.load(Recipe("Pendulum-v1", wrappers=(TIME,)), wrappers=(TIME,))
    assert twice.wrappers == (TIME,)
    assert recipe.load("Pendulum-v1", wrappers=(TIME,)).make().observation_space.shape == (4,)


def test_unknown_wrapper() -> None:
    with pytest.raises(UnknownNameError, match="did you mean TimeFeature"):
        Recipe("Pendulum-v1", wrappers=(EnvWrapper("TimeFeatures"),)).make()


FILE = """
import gymnasium as gym
from policykd.recipe import Recipe
INNER = "Pendulum-v1"
def make(**kwargs):
    return gym.make(INNER, **kwargs)
RECIPE = Recipe("my-pendulum", env_kwargs={"g": 5.0}, make_env=make, reward_threshold=-300)
"""


@pytest.mark.parametrize("kind", [str, Path])
def test_a_file_is_run_by_path(tmp_path: Path, kind: type) -> None:
    file = tmp_path / "my_pendulum.py"
    file.write_text(FILE)
    found = recipe.load(kind(file), env_kwargs={"g": 7.0, "render_mode": "human"})
    assert (found.env_id, found.threshold, dict(found.env_kwargs)) == ("my-pendulum", -300, {"g": 7.0})
    env = cloudpickle.loads(cloudpickle.dumps(found.make))()  # what asynchronous environments do
    assert env.unwrapped.g == 7.0
    assert env.render_mode is None
    assert "my_pendulum" not in sys.modules


def test_a_function_and_a_recipe() -> None:
    found = recipe.load(Goal)
    assert found.env_id == "Goal"
    assert isinstance(found.make(), Goal)
    assert found.threshold is None
    assert recipe.load(found).make_env is Goal
    assert recipe.load("CartPole-v1").threshold == 475.0


def test_arguments_reach_the_environment() -> None:
    assert Recipe("Pendulum-v1", {"g": 3.0}).make(render_mode="rgb_array").render_mode == "rgb_array"
    assert recipe.load("Pendulum-v1", env_kwargs={"g": 3.0}).make().unwrapped.g == 3.0


@pytest.mark.parametrize(
    ("env", "says"),
    [
        ("LunarLandr-v3", r"did you mean LunarLander-v3.*\[env.unknown\]"),
        ("cartpole", r"did you mean CartPole-v\d.*\[env.unknown\]"),
        ("Nothing-like-it", r"package.module:Env-v0.*\[env.unknown\]"),
        ("no_such_package.at_all:Env-v0", r"no_such_package.*\[env.make\]"),
        ("HalfCheetah-v99", r"HalfCheetah-v.*\[env.unknown\]"),
        ("envs/not_here.py", r"no file envs/not_here.py.*\[env.recipe\]"),
        (3, r"given as 3.*\[env.recipe\]"),
    ],
)
def test_bad_environments(env: Any, says: str) -> None:
    with pytest.raises(EnvError, match=says):
        recipe.load(env).make()


def test_bad_arguments_and_files(tmp_path: Path) -> None:
    with pytest.raises(EnvError, match=r"gravity.*\[env.make\]"):
        recipe.load("CartPole-v1", env_kwargs={"gravity": 1}).make()
    (tmp_path / "empty.py").write_text("RECIPE = 3")
    with pytest.raises(EnvError, match=r"defines no RECIPE.*\[env.recipe\]"):
        recipe.load(tmp_path / "empty.py")


@pytest.mark.parametrize(
    ("env_id", "package", "extra"),
    [("LunarLander-v3", "Box2D", "envs"), ("Hopper-v4", "mujoco", "mujoco"), ("ALE/Pong-v5", "ale_py", "atari")],
)
def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, env_id: str, package: str, extra: str) -> None:
    for name in list(sys.modules):
        if name.startswith(("gymnasium.envs.box2d", "gymnasium.envs.mujoco")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"policykd\[{extra}\]"):
        Recipe(env_id).make()


@pytest.mark.parametrize("env_id", ["HalfCheetah-v4", "LunarLander-v3"])
def test_making_is_quiet(
    env_id: str, capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mujoco

    monkeypatch.chdir(tmp_path)
    before, handler = list(warnings.filters), mujoco.get_mju_user_warning()
    Recipe(env_id).make().close()
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []  # MuJoCo writes MUJOCO_LOG.TXT where it is not stopped
    assert warnings.filters == before
    assert mujoco.get_mju_user_warning() is handler


def test_a_users_own_warning_is_heard() -> None:
    def make() -> gym.Env:
        warnings.warn("mine", UserWarning, stacklevel=1)
        return Goal()

    with pytest.warns(UserWarning, match="mine"):
        recipe.load(make).make()
