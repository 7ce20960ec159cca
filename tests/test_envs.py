"""Every recipe in envs/ makes its environment, knows when it is solved, and names hyper-parameters that SB3 takes."""

from __future__ import annotations

import ast
import runpy
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from policykd import recipe
from policykd.recipe import Recipe
from policykd.teachers import train

FOLDER = Path(__file__).parent.parent / "envs"
FILES = sorted(FOLDER.glob("*.py"))
EXPECTED = {
    "Acrobot-v1": -100,
    "BipedalWalker-v3": 300,
    "CartPole-v1": 475,
    "DriftingCartPole-v0": 475,
    "HalfCheetah-v4": 4800,
    "Hopper-v4": 3800,
    "LunarLander-v3": 200,
    "LunarLanderContinuous-v3": 200,
    "MountainCar-v0": -110,
    "MountainCarContinuous-v0": 90,
    "Pendulum-v1": -200,
    "Walker2d-v4": 3000,
}
OWN = {"DriftingCartPole-v0"}
"""Worlds that are written here; the others are Gymnasium's, with hyper-parameters."""


def test_the_shelf_is_complete() -> None:
    assert {recipe.load(file).env_id: recipe.load(file).threshold for file in FILES} == EXPECTED


@pytest.mark.parametrize("file", FILES, ids=lambda p: p.stem)
def test_recipe(file: Path) -> None:
    found = recipe.load(str(file))
    assert found.env_id.split("-")[0].lower() == file.stem.replace("_", "")
    upstream = None if found.env_id in OWN else gym.spec(found.env_id).reward_threshold
    assert found.threshold == (upstream if upstream is not None else found.reward_threshold)
    env = found.make()
    try:
        assert env.render_mode is None
        obs, _ = env.reset(seed=0)
        assert env.observation_space.contains(obs)
        env.action_space.seed(0)
        obs, reward, *_ = env.step(env.action_space.sample())
        assert env.observation_space.contains(obs)
        assert np.isfinite(reward)
    finally:
        env.close()
    made = runpy.run_path(str(file))["make"]()
    assert found.env_id in OWN or made.spec.id == found.env_id
    made.close()


@pytest.mark.parametrize("file", FILES, ids=lambda p: p.stem)
def test_hyperparameters_are_sb3s(file: Path) -> None:
    found = recipe.load(file)
    assert "ppo" in found.hyperparams
    for algo in found.hyperparams:
        assert train.construct(found, algo, seed=0).num_timesteps == 0


@pytest.mark.parametrize("file", FILES, ids=lambda p: p.stem)
def test_house_rules(file: Path) -> None:
    source = file.read_text()
    own = recipe.load(file).env_id in OWN
    assert len(source.splitlines()) < (120 if own else 40)
    modules = {n.module for n in ast.walk(ast.parse(source)) if isinstance(n, ast.ImportFrom)}
    modules |= {a.name for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Import) for a in n.names}
    assert {str(m).split(".")[0] for m in modules} <= {
        *("__future__", "typing", "gymnasium", "policykd"),
        *(["numpy"] if own else []),
    }
    assert isinstance(runpy.run_path(str(file))["RECIPE"], Recipe)
