"""Training a teacher: the folder it leaves, when it stops, what it refuses; on tiny budgets."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
import yaml
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from policykd import recipe
from policykd.errors import CheckpointError, MissingExtraError, RunError, SpaceError, UnknownNameError, UsageError
from policykd.prediction import EnvWrapper, Progress
from policykd.recipe import Recipe
from policykd.teachers import train as training
from policykd.teachers.output import slim
from policykd.teachers.train import train

PPO_TINY = {"n_timesteps": 128, "n_steps": 32, "batch_size": 32, "n_epochs": 1, "n_envs": 2}


def cartpole(**params: Any) -> Recipe:
    """CartPole with a threshold out of reach and the given hyper-parameters of PPO."""
    return Recipe("CartPole-v1", reward_threshold=1e9, hyperparams={"ppo": {**PPO_TINY, **params}})


def test_the_folder(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    seen: list[Progress] = []
    out = tmp_path / "run"
    found = Recipe(
        "CartPole-v1",
        wrappers=(EnvWrapper("TimeFeature"),),
        reward_threshold=1e9,
        hyperparams={"ppo": {**PPO_TINY, "normalize": True, "learning_rate": "lin_1e-3"}},
    )
    result = train(found, "ppo", out=out, seed=3, progress=seen.append)
    assert capfd.readouterr() == ("", "")
    assert (result.timesteps, result.stopped_by, result.folder) == (128, "budget", out)
    assert {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file() and "tfevents" not in p.name} == {
        "CartPole-v1.zip",
        "CartPole-v1/args.yml",
        "CartPole-v1/config.yml",
        "CartPole-v1/vecnormalize.pkl",
        "evaluations.npz",
    }
    args = yaml.safe_load((out / "CartPole-v1/args.yml").read_text())
    assert args == {"algo": "ppo", "env": "CartPole-v1", "env_kwargs": {}, "seed": 3}
    config = yaml.safe_load((out / "CartPole-v1/config.yml").read_text())
    assert config["learning_rate"] == "lin_1e-3"
    assert config["env_wrapper"] == "sb3_contrib.common.wrappers.TimeFeatureWrapper"
    looks = np.load(out / "evaluations.npz", allow_pickle=False)
    assert looks["results"].shape == looks["ep_lengths"].shape == (len(looks["timesteps"]), 20)
    assert result.best_return == looks["results"].mean(1).max()
    model = PPO.load(out / "CartPole-v1.zip")
    envs = VecNormalize.load(str(out / "CartPole-v1/vecnormalize.pkl"), DummyVecEnv([found.make]))
    action, _ = model.predict(envs.reset())
    assert action.shape == (1,)
    tags = EventAccumulator(str(out)).Reload().Tags()["scalars"]
    assert {"eval/mean_reward", "eval/mean_ep_length", "train/loss", "train/learning_rate", "time/fps"} <= set(tags)
    assert [p.env_steps for p in seen] == sorted(p.env_steps for p in seen)
    assert 0 < seen[0].fraction <= seen[-1].fraction <= 1


def test_stops_at_the_threshold_only_when_confirmed(tmp_path: Path) -> None:
    sure = train(cartpole(), "ppo", out=tmp_path / "a", total_timesteps=5_000, until=1.0)
    assert (sure.stopped_by, sure.timesteps) == ("threshold", 500)
    with np.load(tmp_path / "a/evaluations.npz") as looks:
        assert len(looks["timesteps"]) == 1


def test_a_lucky_look_does_not_stop(tmp_path: Path) -> None:
    class Coin(gym.Env[Any, Any]):
        """Pays 1 for a seed of selection, 0 for a seed of confirmation."""

        observation_space = gym.spaces.Box(-1, 1, (1,))
        action_space = gym.spaces.Discrete(2)
        pays = 0.0

        def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
            if seed is not None:
                self.pays = float(seed == 1_000_000)
            return np.zeros(1, np.float32), {}

        def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
            return np.zeros(1, np.float32), self.pays, True, False, {}

    found = Recipe("coin", make_env=Coin, reward_threshold=0.5, hyperparams={"ppo": PPO_TINY})
    result = train(found, "ppo", out=tmp_path / "run")
    assert (result.stopped_by, result.best_return) == ("budget", 1.0)


def test_same_seed_same_agent_and_global_generators_untouched(tmp_path: Path) -> None:
    torch.manual_seed(1)
    before = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state())
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        train(cartpole(), "ppo", out=tmp_path / name, seed=seed)
    assert before[0] == random.getstate()
    assert before[1] == np.random.get_state()[1].tolist()
    assert torch.equal(before[2], torch.get_rng_state())
    a, b, c = (PPO.load(tmp_path / n / "CartPole-v1.zip").policy.action_net.weight for n in "abc")
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_off_policy_hyperparameters(tmp_path: Path) -> None:
    params = {
        "learning_starts": 10,
        "noise_type": "normal",
        "noise_std": 0.2,
        "train_freq": [1, "episode"],
        "gradient_steps": 2,
        "policy_kwargs": {"net_arch": [8], "activation_fn": "tanh"},
    }
    found = Recipe("Pendulum-v1", hyperparams={"td3": params})
    result = train(found, "td3", out=tmp_path / "run", total_timesteps=400)
    assert result.timesteps == 400
    model = training.construct(found, "td3", seed=0)
    assert isinstance(model.actor.mu[1], torch.nn.Tanh)
    assert model.action_noise._sigma.tolist() == [0.2]
    model.get_env().close()


@pytest.mark.parametrize(
    ("changes", "algo", "kwargs", "error", "says"),
    [
        ({}, "pppo", {}, UnknownNameError, "did you mean ppo"),
        ({"lerning_rate": 1}, "ppo", {}, UnknownNameError, "did you mean learning_rate"),
        ({"policy_kwargs": {"activation_fn": "tanhh"}}, "ppo", {}, UnknownNameError, "did you mean tanh"),
        ({}, "sac", {}, SpaceError, r"sac on Discrete\(2\).*\[space.action\]"),
        ({}, "ppo", {"total_timesteps": 0}, UsageError, r"0 environment steps.*\[train.budget\]"),
    ],
)
def test_bad_input(tmp_path: Path, changes: Any, algo: str, kwargs: Any, error: Any, says: str) -> None:
    with pytest.raises(error, match=says):
        train(cartpole(**changes), algo, out=tmp_path / "run", **kwargs)
    assert not (tmp_path / "run").exists()


def test_an_existing_run_is_kept(tmp_path: Path) -> None:
    (tmp_path / "precious").touch()
    with pytest.raises(RunError, match=r"is not empty.*\[run.exists\]"):
        train(cartpole(), "ppo", out=tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["precious"]


def test_missing_contrib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(training, "import_module", refuse)
    with pytest.raises(MissingExtraError, match=r"policykd\[contrib\]"):
        train(Recipe("CartPole-v1"), "trpo", out=tmp_path / "run")


def test_slim_acts_the_same_in_less_room(tmp_path: Path) -> None:
    train(cartpole(), "ppo", out=tmp_path / "run")
    fat = tmp_path / "run/CartPole-v1.zip"
    slim(fat, tmp_path / "slim.zip")
    assert (tmp_path / "slim.zip").stat().st_size < 0.6 * fat.stat().st_size
    env = DummyVecEnv([recipe.load("CartPole-v1").make])
    before, after = PPO.load(fat), PPO.load(tmp_path / "slim.zip", env=env)
    obs = np.random.default_rng(0).normal(size=(500, 4)).astype(np.float32)
    np.testing.assert_array_equal(before.predict(obs, deterministic=True)[0], after.predict(obs, deterministic=True)[0])
    after.learn(64)
    assert after.num_timesteps == 64


def test_slim_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "bad.zip").write_bytes(b"no zip")
    with pytest.raises(CheckpointError, match=r"\[zip.unreadable\]"):
        slim(tmp_path / "bad.zip", tmp_path / "slim.zip")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.zip"]
