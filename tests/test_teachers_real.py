"""Sixteen agents that others trained, where their folder is present, against SB3's own predict and VecNormalize."""

from __future__ import annotations

import importlib
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from teacher_zips import algorithm

from policykd import teachers
from policykd.checkpoints import open_archive, read_fields
from policykd.checkpoints.arrays import as_mapping
from policykd.errors import CheckpointError
from policykd.networks import KeyedNormaliser, normalise
from policykd.prediction import obs_tensor

pytestmark = pytest.mark.needs_teachers

# Acting and all parameters, today's id, wrappers, and whether VecNormalize stood before it: from the agents' own table.
AGENTS = {
    "ppo/CartPole-v1_1": (4610, 9155, "CartPole-v1", (), False),
    "ppo/LunarLander-v2_1": (4996, 9797, "LunarLander-v3", (), False),
    "a2c/LunarLander-v2_1": (4996, 9797, "LunarLander-v3", (), False),
    "dqn/LunarLander-v2_1": (69124, 138248, "LunarLander-v3", (), False),
    "dqn/Acrobot-v1_1": (68355, 136710, "Acrobot-v1", (), False),
    "qrdqn/MountainCar-v0_1": (85835, 171670, "MountainCar-v0", (), False),
    "a2c/BipedalWalker-v3_1": (6020, 12101, "BipedalWalker-v3", (), True),
    "trpo/LunarLanderContinuous-v2_1": (4866, 9669, "LunarLanderContinuous-v3", (), True),
    "ddpg/Pendulum-v1_1": (122201, 489604, "Pendulum-v1", (), False),
    "sac/Pendulum-v1_1": (4481, 22725, "Pendulum-v1", (), False),
    "ars/Pendulum-v1_1": (81, 81, "Pendulum-v1", (), True),
    "sac/MountainCarContinuous-v0_1": (4417, 22405, "MountainCarContinuous-v0", (), False),
    "tqc/HalfCheetah-v3_1": (71942, 386928, "HalfCheetah-v4", (), False),
    "trpo/Hopper-v3_1": (5123, 10119, "Hopper-v4", (), True),
    "ppo/Walker2d-v3_1": (5766, 11213, "Walker2d-v4", ("TimeFeature",), True),
    "tqc/FetchReach-v1_1": (5572, 20218, "FetchReach-v1", ("TimeFeature",), True),
}


def observations(space: spaces.Space, seed: int = 0) -> Any:
    """500 observations from N(0, 1) and 500 from U(-10, 10)."""
    rng = np.random.default_rng(seed)
    if isinstance(space, spaces.Dict):
        return {k: observations(part, seed + i) for i, (k, part) in enumerate(space.spaces.items())}
    rows = (rng.normal(size=(500, *space.shape)), rng.uniform(-10, 10, (500, *space.shape)))
    return np.concatenate(rows).astype(space.dtype)


def sb3_model(path: Path, teacher: teachers.Teacher) -> Any:
    """SB3's own load, which here unpickles nothing: every pickled field is replaced."""
    fields = read_fields(open_archive(path))
    named = fields.value("policy_class")
    kwargs = {k: v for k, v in as_mapping(fields.value("policy_kwargs")).items() if not k.startswith("optimizer")}
    replaced: dict[str, Any] = {
        **dict.fromkeys(fields.pickled),
        "observation_space": teacher.spec.observation_space,
        "action_space": teacher.spec.action_space,
        "policy_class": getattr(importlib.import_module(named.module), named.name),
        "policy_kwargs": kwargs,
        "learning_rate": 0.0,
        **dict.fromkeys(("lr_schedule", "clip_range", "delta_std_schedule", "exploration_schedule"), lambda _: 0.0),
        **{k: v for k, v in (("train_freq", 1), ("buffer_size", 1), ("target_entropy", 0.0)) if k in fields},
        **({"replay_buffer_class": None, "replay_buffer_kwargs": {}} if "replay_buffer_class" in fields else {}),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return algorithm(teacher.origin.algo.upper()).load(path, custom_objects=replaced, device="cpu")


def zip_of(shared_teachers: Path, name: str) -> Path:
    return next((shared_teachers / name).glob("*.zip"))


@pytest.mark.parametrize("name", AGENTS)
def test_actions_are_sb3s_to_the_last_bit(shared_teachers, name):
    path = zip_of(shared_teachers, name)
    teacher = teachers.load(path, normalizer=None)
    model = sb3_model(path, teacher)
    obs = observations(teacher.spec.observation_space)
    want, _ = model.predict(obs, deterministic=True)
    have, _ = teacher.predict(obs, deterministic=True)
    np.testing.assert_array_equal(have, want)
    assert have.dtype == want.dtype


@pytest.mark.parametrize("name", AGENTS)
def test_what_the_folder_says(shared_teachers, name):
    acting, total, env_id, wrappers, normalised = AGENTS[name]
    teacher = teachers.load(shared_teachers / name)
    assert teacher.acting_parameters == acting
    assert teacher.origin.env_id == env_id and teacher.origin.algo == name.split("/")[0]
    assert tuple(w.name for w in teacher.origin.wrappers) == wrappers
    assert (teacher.normaliser is not None) == normalised
    # From the zip alone the folder's other files are found too.
    again = teachers.load(zip_of(shared_teachers, name))
    assert again.origin == teacher.origin and again.spec == teacher.spec
    found = teachers.inspect(shared_teachers / name)
    assert found.problem is None and found.verdict == "function"
    assert (found.acting_parameters, found.all_parameters) == (acting, total)
    assert json.loads(json.dumps(found.to_dict()))["env_id"] == env_id


@pytest.mark.parametrize("name", [n for n, facts in AGENTS.items() if facts[4]])
def test_normalised_observations_are_vecnormalizes_to_the_last_bit(shared_teachers, name):
    from stable_baselines3.common.running_mean_std import RunningMeanStd
    from stable_baselines3.common.vec_env import VecNormalize

    teacher = teachers.load(shared_teachers / name)
    theirs = VecNormalize.__new__(VecNormalize)
    theirs.norm_obs, theirs.norm_obs_keys = True, None
    normaliser: Any = teacher.normaliser
    parts = dict(normaliser.items()) if isinstance(normaliser, KeyedNormaliser) else {"": normaliser}
    moments = {}
    for key, part in parts.items():
        moments[key] = RunningMeanStd(shape=tuple(part.mean.shape))
        moments[key].mean, moments[key].var = part.mean.numpy(), part.var.numpy()
        theirs.epsilon, theirs.clip_obs = part.epsilon, part.clip
    theirs.obs_rms, theirs.norm_obs_keys = (moments, list(moments)) if "" not in moments else (moments[""], None)
    obs = observations(teacher.spec.observation_space)
    want = VecNormalize.normalize_obs(theirs, obs)
    have = normalise(obs_tensor(obs), teacher.normaliser)
    for key in parts:
        a, b = (have[key], want[key]) if key else (have, want)
        np.testing.assert_array_equal(a.numpy(), b)


def test_without_its_normaliser_a_zip_is_refused(shared_teachers, tmp_path):
    path = zip_of(shared_teachers, "trpo/Hopper-v3_1")
    alone = tmp_path / "agent.zip"
    alone.write_bytes(path.read_bytes())
    with pytest.raises(CheckpointError, match=r"normalizer=None.*\[normaliser.missing\]"):
        teachers.load(alone)
    assert teachers.load(alone, normalizer=None).normaliser is None
    given = teachers.load(alone, normalizer=path.with_suffix("") / "vecnormalize.pkl")
    assert given.origin.reward_scale == teachers.load(path).origin.reward_scale
