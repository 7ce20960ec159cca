"""Zoo and Hub folders, normalisers and settings: what is found, what it does to actions and values, what is refused."""

from __future__ import annotations

import json
import pickle
import shutil
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hostile_zips import Payload, fields_of, nothing_runs, rewrite, warmed
from teacher_zips import CASES, Case, dump, make, sample, save, vecnormalize

from policykd import teachers
from policykd.checkpoints.vecnormalize import Moments, Statistics
from policykd.checkpoints.yamls import arguments
from policykd.errors import CheckpointError
from policykd.prediction import EnvWrapper, obs_tensor
from policykd.teachers.settings import Settings, adapted


@pytest.fixture(scope="module", autouse=True)
def warm(agents: Any) -> None:
    warmed(teachers.load, agents("ppo")[1])


@pytest.fixture
def zoo(agents, tmp_path) -> Path:
    """logs/ppo/LunarLanderContinuous-v2_3, normalised."""
    folder = tmp_path / "logs" / "ppo" / "LunarLanderContinuous-v2_3"
    inside = folder / "LunarLanderContinuous-v2"
    inside.mkdir(parents=True)
    shutil.copy(agents("ppo-box")[1], folder / "LunarLanderContinuous-v2.zip")
    shutil.copy(agents("ppo-linear")[1], folder / "best_model.zip")
    shutil.copy(agents("ppo-linear")[1], folder / "rl_model_900_steps.zip")
    vecnormalize(CASES["ppo-box"]).save(str(inside / "vecnormalize.pkl"))
    dump(inside / "args.yml", algo="ppo", env="LunarLanderContinuous-v2", env_kwargs=None)
    dump(
        inside / "config.yml",
        env_wrapper="sb3_contrib.common.wrappers.TimeFeatureWrapper",
        normalize="dict(norm_obs=True, norm_reward=True)",
        gamma=0.9,
    )
    return folder


def test_a_zoo_folder(zoo, agents):
    with nothing_runs():
        teacher = teachers.load(zoo)
    assert Path(teacher.origin.path).name == "LunarLanderContinuous-v2.zip"
    assert teacher.origin.env_id == "LunarLanderContinuous-v3"
    assert teacher.origin.wrappers == (EnvWrapper("TimeFeature"),)
    assert teacher.origin.gamma == 0.99  # the agent's own
    assert teachers.load(str(zoo)).origin == teacher.origin
    assert teachers.load(zoo / "LunarLanderContinuous-v2.zip").origin == teacher.origin


def test_which_zip_of_a_zoo_folder(zoo, agents):
    def taken() -> str:
        return Path(teachers.load(zoo).origin.path).name

    assert taken() == "LunarLanderContinuous-v2.zip"
    (zoo / "LunarLanderContinuous-v2.zip").unlink()
    assert taken() == "best_model.zip"
    (zoo / "best_model.zip").unlink()
    shutil.copy(agents("ppo-box")[1], zoo / "rl_model_1000_steps.zip")
    assert taken() == "rl_model_1000_steps.zip"
    # A checkpoint's own statistics come before the folder's.
    other = vecnormalize(CASES["ppo-box"], steps=40)
    other.save(str(zoo / "rl_model_vecnormalize_1000_steps.pkl"))
    np.testing.assert_array_equal(teachers.load(zoo).normaliser.mean.numpy(), other.obs_rms.mean)
    shutil.copy(agents("ppo")[1], zoo / "a.zip")
    shutil.copy(agents("ppo")[1], zoo / "b.zip")
    with pytest.raises(CheckpointError, match=r"a\.zip, b\.zip.*\[teacher\.folder\]"):
        teachers.load(zoo)


def test_a_hub_folder(agents, tmp_path):
    shutil.copy(agents("sac")[1], tmp_path / "sac-Pendulum-v0.zip")
    (tmp_path / "train_eval_metrics.zip").write_bytes(b"PK")
    vecnormalize(CASES["sac"]).save(str(tmp_path / "vec_normalize.pkl"))
    dump(tmp_path / "args.yml", algo="sac", env="Pendulum-v0")
    dump(tmp_path / "config.yml", normalize=True)
    (tmp_path / "env_kwargs.yml").write_text("g: 9.81\n")
    teacher = teachers.load(tmp_path)
    assert (teacher.origin.algo, teacher.origin.env_id) == ("sac", "Pendulum-v1")
    assert teacher.origin.env_kwargs == {"g": 9.81} and teacher.normaliser is not None


@pytest.mark.parametrize(
    ("place", "env_id"),
    [
        ("LunarLander-v2.zip", "LunarLander-v3"),
        ("ppo-CartPole-v1.zip", "CartPole-v1"),
        ("HalfCheetah-v3_7/best_model.zip", "HalfCheetah-v4"),
        ("HalfCheetahBulletEnv-v0.zip", "HalfCheetahBulletEnv-v0"),
        ("ALE-Pong-v5_1/rl_model_10_steps.zip", "ALE-Pong-v5"),
        ("model.zip", None),
    ],
)
def test_an_environment_is_guessed_from_names(agents, tmp_path, place, env_id):
    path = tmp_path / "x" / place
    path.parent.mkdir(parents=True)
    shutil.copy(agents("ppo")[1], path)
    assert teachers.load(path).origin.env_id == env_id


def test_a_zip_without_its_ending(agents, tmp_path):
    shutil.copy(agents("ppo")[1], tmp_path / "agent.zip")
    assert teachers.load(tmp_path / "agent").origin == teachers.load(tmp_path / "agent.zip").origin


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (None, ()),
        ("utils.wrappers.TimeFeatureWrapper", (EnvWrapper("TimeFeature"),)),
        ([{"rl_zoo3.wrappers.TimeFeatureWrapper": {"max_steps": 9}}], (EnvWrapper("TimeFeature", {"max_steps": 9}),)),
        (["stable_baselines3.common.atari_wrappers.AtariWrapper"], (EnvWrapper("Atari"),)),
        ({"mine.Wrapper": None}, (EnvWrapper("mine.Wrapper"),)),
    ],
)
def test_wrappers(agents, tmp_path, given, found):
    shutil.copy(agents("ppo")[1], tmp_path / "CartPole-v1.zip")
    dump(tmp_path / "config.yml", env_wrapper=given, frame_stack=4)
    assert teachers.load(tmp_path).origin.wrappers == (*found, EnvWrapper("FrameStack", {"n": 4}))


# ---- normalisers


@pytest.mark.parametrize("name", ["ppo-box", "dqn", "sac", "td3"])
def test_raw_observations_and_reward_units(agents, tmp_path, name):
    model, path = agents(name)
    shutil.copy(path, tmp_path / "agent.zip")
    wrapper = vecnormalize(CASES[name], gamma=0.9, clip_obs=2.0, epsilon=1e-4)
    wrapper.save(str(tmp_path / "vecnormalize.pkl"))
    obs = sample(model.observation_space, np.random.default_rng(5), 100)
    inner = wrapper.normalize_obs(obs)
    scale = np.sqrt(wrapper.ret_rms.var + wrapper.epsilon)
    plain = teachers.load(path)
    for teacher in (teachers.load(tmp_path / "agent.zip"), teachers.from_sb3(model, wrapper)):
        np.testing.assert_array_equal(
            teacher.predict(obs, deterministic=True)[0], model.predict(inner, deterministic=True)[0]
        )
        assert teacher.origin.reward_scale == scale != 1.0
        said, unscaled = teacher.label(obs_tensor(obs)), plain.label(obs_tensor(inner))
        torch.testing.assert_close(said.value, unscaled.value * scale)
        if name == "dqn":
            torch.testing.assert_close(said.q, unscaled.q * scale)
            last = teacher.acting_layers.linears[-1]
            torch.testing.assert_close(last.weight, plain.acting_layers.linears[-1].weight * scale)
    none = teachers.load(tmp_path / "agent.zip", normalizer=None)
    assert none.normaliser is None and none.origin.reward_scale == 1.0
    np.testing.assert_array_equal(none.predict(obs, deterministic=True)[0], model.predict(obs, deterministic=True)[0])
    elsewhere = tmp_path / "elsewhere.pkl"
    shutil.move(tmp_path / "vecnormalize.pkl", elsewhere)
    assert teachers.load(tmp_path / "agent.zip", normalizer=elsewhere).origin.reward_scale == scale


def test_normalised_keys_of_a_dict(tmp_path):
    space = spaces.Dict(
        {k: spaces.Box(-9, 9, (2,), np.float32) for k in ("observation", "achieved_goal", "desired_goal")}
    )
    case = Case("PPO", "MultiInputPolicy", space, spaces.Discrete(2), {"net_arch": [4]})
    model = make(case)
    path = save(model, tmp_path / "agent.zip")
    obs = sample(space, np.random.default_rng(5), 50)
    for keys in (None, ["observation"]):
        wrapper = vecnormalize(case, norm_obs_keys=keys)
        wrapper.save(str(tmp_path / "vecnormalize.pkl"))
        teacher = teachers.load(path)
        assert [key for key, _ in teacher.normaliser.items()] == (keys or list(space.spaces))
        want, _ = model.predict(wrapper.normalize_obs(obs), deterministic=True)
        np.testing.assert_array_equal(teacher.predict(obs, deterministic=True)[0], want)
        again = teachers.from_sb3(model, wrapper).predict(obs, deterministic=True)[0]
        np.testing.assert_array_equal(again, want)


@pytest.mark.parametrize(("norm_obs", "norm_reward"), [(False, True), (True, False), (False, False)])
def test_half_a_normaliser(agents, tmp_path, norm_obs, norm_reward):
    shutil.copy(agents("ppo-box")[1], tmp_path / "agent.zip")
    wrapper = vecnormalize(CASES["ppo-box"], norm_obs=norm_obs, norm_reward=norm_reward)
    wrapper.save(str(tmp_path / "vecnormalize.pkl"))
    teacher = teachers.load(tmp_path / "agent.zip")
    assert (teacher.normaliser is not None) == norm_obs
    assert (teacher.origin.reward_scale != 1.0) == norm_reward


def test_a_missing_normaliser(zoo, agents, tmp_path):
    (zoo / "LunarLanderContinuous-v2" / "vecnormalize.pkl").unlink()
    with pytest.raises(CheckpointError, match=r"normalizer=None.*\[normaliser\.missing\]"):
        teachers.load(zoo)
    assert teachers.load(zoo, normalizer=None).normaliser is None
    # An on-policy agent's own file says so too, without any settings beside it.
    case = CASES["ppo-box"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = make(case)
        model.set_env(vecnormalize(case))
        model.learn(8)
    path = save(model, tmp_path / "agent.zip")
    with pytest.raises(CheckpointError, match=r"\[normaliser\.missing\]"):
        teachers.load(path)
    with pytest.raises(CheckpointError, match=r"\[file\.missing\]"):
        teachers.load(path, normalizer=tmp_path / "nothing.pkl")
    assert "normaliser.missing" in teachers.inspect(path).problem


@pytest.mark.parametrize("config", [{"normalize": False}, {"normalize": "dict(norm_obs=False, norm_reward=False)"}, {}])
def test_agents_without_normaliser(agents, tmp_path, config):
    shutil.copy(agents("ppo")[1], tmp_path / "CartPole-v1.zip")
    dump(tmp_path / "config.yml", **config)
    assert teachers.load(tmp_path).normaliser is None


def test_normalisers_that_are_none(agents, tmp_path):
    shutil.copy(agents("ppo-box")[1], tmp_path / "agent.zip")
    marker = tmp_path / "ran"
    good = vecnormalize(CASES["ppo-box"])

    def refused(content: bytes, code: str) -> None:
        (tmp_path / "vecnormalize.pkl").write_bytes(content)
        with nothing_runs(), pytest.raises(CheckpointError) as caught:
            teachers.load(tmp_path / "agent.zip")
        assert caught.value.code == code and "\n" not in str(caught.value)

    refused(pickle.dumps(Payload(marker)), "normaliser.foreign")
    assert teachers.inspect(tmp_path / "agent.zip").verdict == "dangerous"
    refused(pickle.dumps({"obs_rms": 1}), "normaliser.foreign")
    refused(pickle.dumps(good)[:-40], "pickle.broken")
    refused(b"", "pickle.broken")
    for change, code in (
        ({"obs_rms": Payload(marker)}, "pickle.value"),
        ({"clip_obs": -1.0}, "normaliser.broken"),
        ({"epsilon": float("nan")}, "pickle.value"),
        ({"norm_obs": "yes"}, "pickle.value"),
    ):
        broken = vecnormalize(CASES["ppo-box"])
        broken.__dict__.update(change)
        refused(pickle.dumps(broken), code)
    for mean, var in ((np.zeros(3), -np.ones(3)), (np.full(3, np.nan), np.ones(3)), (np.zeros(2), np.ones(3))):
        broken = vecnormalize(CASES["ppo-box"])
        broken.obs_rms.mean, broken.obs_rms.var = mean, var
        refused(pickle.dumps(broken), "normaliser.broken")
    broken = vecnormalize(CASES["ppo-box"])
    broken.obs_rms.mean, broken.obs_rms.var = np.zeros(4), np.ones(4)
    refused(pickle.dumps(broken), "normaliser.shape")
    refused(pickle.dumps(vecnormalize(CASES["sac-her"])), "normaliser.shape")
    assert not marker.exists()


@pytest.mark.parametrize("protocol", range(2, 6))
def test_statistics_in_every_pickle_protocol_since_python_3(agents, tmp_path, protocol):
    shutil.copy(agents("ppo-box")[1], tmp_path / "agent.zip")
    wrapper = vecnormalize(CASES["ppo-box"])
    (tmp_path / "vecnormalize.pkl").write_bytes(pickle.dumps(wrapper, protocol=protocol))
    np.testing.assert_array_equal(teachers.load(tmp_path / "agent.zip").normaliser.var.numpy(), wrapper.obs_rms.var)


# ---- settings


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system ['touch ran']",
        "a: !!python/name:os.system",
        "a: !!python/object/new:collections.OrderedDict []",
        "!!python/object/apply:collections.OrderedDict [7]",
        "!!python/object/apply:collections.OrderedDict {args: [], state: {a: 1}}",
        "- a list",
        "{",
        "a: " + "[" * 5000,
        "\x00",
    ],
)
def test_settings_that_are_refused(agents, tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    shutil.copy(agents("ppo")[1], tmp_path / "agent.zip")
    (tmp_path / "config.yml").write_text(text)
    with nothing_runs(), pytest.raises(CheckpointError, match=r"\[yaml\.unreadable\]") as caught:
        teachers.load(tmp_path / "agent.zip")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()
    assert "yaml.unreadable" in teachers.inspect(tmp_path / "agent.zip").problem


def test_arguments_are_parsed_and_never_evaluated():
    assert arguments("dict(norm_obs=True, clip=[1, 2.5])") == {"norm_obs": True, "clip": [1, 2.5]}
    assert arguments("{'a': -1}") == arguments({"a": -1}) == {"a": -1}
    assert arguments(None) == {}
    for text in ("dict(a=print(1))", "__import__('os').system('x')", "dict(**x)", "dict(1)", "(", "7", "1" * 5000):
        with pytest.raises(CheckpointError, match=r"\[yaml\.arguments\]"):
            arguments(text)


def test_ant_of_today_returns_less():
    """Ant-v3's 84 contact forces: zeros where the normaliser never saw one move, v4's own where it did."""
    space = spaces.Box(-np.inf, np.inf, (111,), np.float64)
    then = Settings(env_id_then="Ant-v3")
    padded = adapted(then, space, None)
    assert padded.env_id == "Ant-v4" and padded.wrappers == (EnvWrapper("PadZeros", {"count": 84}),)
    still, moving = np.ones(111), np.ones(111)
    still[27:] = 0.0
    assert adapted(then, space, Statistics(Moments(np.zeros(111), still))).wrappers == padded.wrappers
    live = adapted(then, space, Statistics(Moments(np.zeros(111), moving)))
    assert live.env_kwargs == {"use_contact_forces": True} and live.wrappers == ()
    timed = Settings(env_id_then="Ant-v2", wrappers=(EnvWrapper("TimeFeature"),))
    grown = spaces.Box(-np.inf, np.inf, (112,), np.float64)
    assert [w.name for w in adapted(timed, grown, None).wrappers] == ["PadZeros", "TimeFeature"]
    for same in (Settings(env_id_then="Hopper-v3"), Settings(env_id_then="Ant-v4")):
        assert adapted(same, space, None) == same


def test_a_live_models_environment(tmp_path):
    from stable_baselines3 import PPO

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = PPO("MlpPolicy", gym.make("CartPole-v1", sutton_barto_reward=True), n_steps=8, batch_size=4)
    origin = teachers.from_sb3(model).origin
    assert origin.env_id == "CartPole-v1" and origin.env_kwargs == {"sutton_barto_reward": True}
    assert origin.gamma == 0.99 and origin.path is None
    model.env = None
    assert teachers.from_sb3(model).origin.env_id is None


def test_old_her_flattens_the_goal(agents, tmp_path):
    """SB3 before 1.1 saved HER's own settings beside those of the algorithm inside."""
    path = agents("sac")[1]
    data = {**fields_of(path), "model_class": {":type:": "SAC", ":serialized:": ""}}
    old = rewrite(path, tmp_path / "FetchReach-v1.zip", {"data": json.dumps(data).encode()})
    assert teachers.load(old).origin.wrappers == (EnvWrapper("FlattenGoal"),)
