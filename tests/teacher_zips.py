"""Small agents of every algorithm and policy kind: random weights, made with SB3 on environments that do nothing."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import sb3_contrib
import stable_baselines3
import torch
import yaml
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn

VECTOR = spaces.Box(-np.inf, np.inf, (3,), np.float32)
IMAGE = spaces.Box(0, 255, (36, 40, 1), np.uint8)
FLOAT_IMAGE = spaces.Box(0.0, 1.0, (2, 36, 36), np.float32)
MIXED = spaces.Dict(
    {
        "zebra": spaces.Box(-1, 1, (2, 2), np.float32),
        "apple": spaces.Discrete(3),
        "image": spaces.Box(0, 255, (36, 36, 3), np.uint8),
        "multi": spaces.MultiDiscrete([2, 3]),
    }
)
GOAL = spaces.Dict({k: spaces.Box(-1, 1, (2,), np.float32) for k in ("observation", "achieved_goal", "desired_goal")})
ARM = spaces.Box(np.array([-2.0, 0.5], np.float32), np.array([2.0, 0.75], np.float32))
UNIT = spaces.Box(-1, 1, (2,), np.float32)


class Blank(gym.Env):
    """An environment of given spaces that returns samples, and an episode of five steps."""

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space) -> None:
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        return self._sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        return self._sample(), 1.0, self.t >= 5, False, {}

    def compute_reward(self, achieved: np.ndarray, desired: np.ndarray, info: Any) -> np.ndarray:
        return np.zeros(len(achieved), np.float32)

    def _sample(self) -> Any:
        return sample(self.observation_space, self.np_random, None)


def sample(space: spaces.Space, rng: np.random.Generator, count: int | None) -> Any:
    """Random observations: normal where the space has no bounds, uniform within them otherwise."""
    lead = () if count is None else (count,)
    match space:
        case spaces.Dict():
            return {k: sample(part, rng, count) for k, part in space.spaces.items()}
        case spaces.Box() if np.all(np.isfinite(space.low)) and np.all(np.isfinite(space.high)):
            return rng.uniform(space.low, space.high, (*lead, *space.shape)).astype(space.dtype)
        case spaces.Box():
            normal, wide = rng.normal(size=(*lead, *space.shape)), rng.uniform(-10, 10, (*lead, *space.shape))
            return np.where(rng.random((*lead, *(1 for _ in space.shape))) < 0.5, normal, wide).astype(space.dtype)
        case spaces.Discrete():
            return rng.integers(0, space.n, lead) if lead else int(rng.integers(0, space.n))
        case spaces.MultiDiscrete():
            return rng.integers(0, space.nvec, (*lead, *space.nvec.shape))
        case spaces.MultiBinary():
            return rng.integers(0, 2, (*lead, *space.shape)).astype(np.int8)
    raise AssertionError(space)


@dataclass(frozen=True)
class Case:
    """How to make one agent."""

    algo: str
    policy: str
    observation_space: spaces.Space
    action_space: spaces.Space
    policy_kwargs: dict[str, Any] = field(default_factory=dict)
    kwargs: dict[str, Any] = field(default_factory=dict)

    @property
    def on_policy(self) -> bool:
        return self.algo in ("PPO", "A2C", "TRPO", "MaskablePPO")


_SMALL = {"net_arch": [8, 6]}
_CNN = {"features_extractor_kwargs": {"features_dim": 12}}
_N = spaces.Discrete(3)
CASES: dict[str, Case] = {
    "ppo": Case("PPO", "MlpPolicy", VECTOR, _N, _SMALL),
    "ppo-defaults": Case("PPO", "MlpPolicy", VECTOR, _N),
    "ppo-box": Case("PPO", "MlpPolicy", VECTOR, ARM, {"net_arch": {"pi": [8], "vf": [5, 4]}}),
    "ppo-linear": Case("PPO", "MlpPolicy", VECTOR, ARM, {"net_arch": []}),
    "ppo-old-list": Case("PPO", "MlpPolicy", VECTOR, _N, {"net_arch": [{"pi": [7], "vf": [4]}]}),
    "ppo-pi-only": Case("PPO", "MlpPolicy", VECTOR, _N, {"net_arch": {"pi": [7]}}),
    "ppo-elu": Case("PPO", "MlpPolicy", VECTOR, _N, {**_SMALL, "activation_fn": nn.ELU}),
    "ppo-sde": Case("PPO", "MlpPolicy", VECTOR, ARM, _SMALL, {"use_sde": True}),
    "ppo-sde-row": Case("PPO", "MlpPolicy", VECTOR, ARM, {**_SMALL, "full_std": False}, {"use_sde": True}),
    "ppo-sde-squash": Case(
        "PPO", "MlpPolicy", VECTOR, ARM, {**_SMALL, "squash_output": True, "use_expln": True}, {"use_sde": True}
    ),
    "ppo-multi-discrete": Case("PPO", "MlpPolicy", VECTOR, spaces.MultiDiscrete([2, 3]), _SMALL),
    "ppo-multi-binary": Case("PPO", "MlpPolicy", VECTOR, spaces.MultiBinary(4), _SMALL),
    "ppo-discrete-obs": Case("PPO", "MlpPolicy", spaces.Discrete(5), _N, _SMALL),
    "ppo-multi-discrete-obs": Case("PPO", "MlpPolicy", spaces.MultiDiscrete([3, 4]), _N, _SMALL),
    "ppo-multi-binary-obs": Case("PPO", "MlpPolicy", spaces.MultiBinary(4), _N, _SMALL),
    "ppo-matrix-obs": Case("PPO", "MlpPolicy", spaces.Box(-5, 5, (2, 3), np.float64), _N, _SMALL),
    "ppo-cnn": Case("PPO", "CnnPolicy", IMAGE, _N, _CNN),
    "ppo-cnn-split": Case("PPO", "CnnPolicy", IMAGE, ARM, {**_CNN, "net_arch": [6], "share_features_extractor": False}),
    "ppo-cnn-float": Case("PPO", "CnnPolicy", FLOAT_IMAGE, _N, {**_CNN, "normalize_images": False}),
    "ppo-mlp-image": Case("PPO", "MlpPolicy", IMAGE, _N, {"net_arch": [4]}),
    "ppo-dict": Case(
        "PPO", "MultiInputPolicy", MIXED, ARM, {"net_arch": [6], "features_extractor_kwargs": {"cnn_output_dim": 5}}
    ),
    "ppo-flatten": Case("PPO", "MlpPolicy", VECTOR, _N, {**_SMALL, "features_extractor_class": FlattenExtractor}),
    "a2c": Case("A2C", "MlpPolicy", VECTOR, ARM, _SMALL),
    "trpo": Case("TRPO", "MlpPolicy", VECTOR, ARM, _SMALL),
    "maskable": Case("MaskablePPO", "MlpPolicy", VECTOR, _N, _SMALL),
    "maskable-multi": Case("MaskablePPO", "MlpPolicy", VECTOR, spaces.MultiDiscrete([2, 3]), _SMALL),
    "dqn": Case("DQN", "MlpPolicy", VECTOR, _N, _SMALL),
    "dqn-defaults": Case("DQN", "MlpPolicy", VECTOR, _N),
    "dqn-cnn": Case("DQN", "CnnPolicy", IMAGE, _N, _CNN),
    "dqn-dict": Case(
        "DQN", "MultiInputPolicy", MIXED, _N, {"net_arch": [6], "features_extractor_kwargs": {"cnn_output_dim": 5}}
    ),
    "qrdqn": Case("QRDQN", "MlpPolicy", VECTOR, _N, {**_SMALL, "n_quantiles": 7}),
    "qrdqn-cnn": Case("QRDQN", "CnnPolicy", IMAGE, _N, {**_CNN, "n_quantiles": 4}),
    "sac": Case("SAC", "MlpPolicy", VECTOR, ARM, {"net_arch": {"pi": [8], "qf": [5, 4]}}),
    "sac-linear": Case("SAC", "MlpPolicy", VECTOR, ARM, {"net_arch": []}),
    "sac-sde": Case("SAC", "MlpPolicy", VECTOR, ARM, {**_SMALL, "use_expln": True}, {"use_sde": True}),
    "sac-sde-unbounded": Case("SAC", "MlpPolicy", VECTOR, ARM, {**_SMALL, "clip_mean": 0.0}, {"use_sde": True}),
    "sac-cnn-shared": Case("SAC", "CnnPolicy", IMAGE, ARM, {**_CNN, "net_arch": [6], "share_features_extractor": True}),
    "sac-her": Case(
        "SAC", "MultiInputPolicy", GOAL, ARM, _SMALL, {"replay_buffer_class": stable_baselines3.HerReplayBuffer}
    ),
    "td3": Case("TD3", "MlpPolicy", VECTOR, ARM, _SMALL),
    "td3-cnn": Case("TD3", "CnnPolicy", IMAGE, ARM, {**_CNN, "net_arch": [6]}),
    "ddpg": Case("DDPG", "MlpPolicy", VECTOR, ARM, _SMALL),
    "tqc": Case("TQC", "MlpPolicy", VECTOR, ARM, {**_SMALL, "n_quantiles": 5, "n_critics": 3}),
    "tqc-sde": Case("TQC", "MlpPolicy", VECTOR, ARM, {**_SMALL, "clip_mean": 0.5}, {"use_sde": True}),
    "crossq": Case("CrossQ", "MlpPolicy", VECTOR, ARM, {**_SMALL, "batch_norm_eps": 0.01}),
    "crossq-plain": Case("CrossQ", "MlpPolicy", VECTOR, ARM, {**_SMALL, "batch_norm": False}),
    "crossq-sde": Case("CrossQ", "MlpPolicy", VECTOR, ARM, _SMALL, {"use_sde": True}),
    "ars": Case("ARS", "MlpPolicy", VECTOR, ARM, _SMALL),
    "ars-clipped": Case("ARS", "MlpPolicy", VECTOR, ARM, {**_SMALL, "squash_output": False}),
    "ars-linear": Case("ARS", "LinearPolicy", VECTOR, ARM),
    "ars-linear-bias": Case("ARS", "LinearPolicy", VECTOR, ARM, {"with_bias": True, "squash_output": True}),
    "ars-discrete": Case("ARS", "MlpPolicy", VECTOR, _N, _SMALL),
}


def algorithm(name: str) -> type[BaseAlgorithm]:
    """The class of that name in SB3 or sb3-contrib."""
    home: Any = stable_baselines3 if name in dir(stable_baselines3) else sb3_contrib
    return getattr(home, name)


def make(case: Case, seed: int = 0) -> BaseAlgorithm:
    """A model with random weights, biases, spreads and running statistics."""
    kwargs = dict(case.kwargs)
    if case.algo in ("DQN", "QRDQN", "SAC", "TD3", "DDPG", "TQC", "CrossQ"):
        kwargs["buffer_size"] = 50
    if case.on_policy:
        kwargs |= {"n_steps": 8} | ({} if case.algo == "A2C" else {"batch_size": 4})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = algorithm(case.algo)(
            case.policy,
            Blank(case.observation_space, case.action_space),
            policy_kwargs=dict(case.policy_kwargs),
            seed=seed,
            device="cpu",
            **kwargs,
        )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.policy.state_dict().items():
            if name.endswith("ra_var"):
                tensor.uniform_(0.5, 2.0, generator=generator)
            elif tensor.is_floating_point():
                tensor += 0.3 * torch.randn(tensor.shape, generator=generator)
    return model


def save(model: BaseAlgorithm, path: Path) -> Path:
    """``model.save``, quietly."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save(path)
    return path


def memoised(folder: Path) -> Callable[[str], tuple[BaseAlgorithm, Path]]:
    """Each case's model and zip, made when it is first asked for."""
    made: dict[str, tuple[BaseAlgorithm, Path]] = {}

    def get(name: str) -> tuple[BaseAlgorithm, Path]:
        if name not in made:
            model = make(CASES[name])
            made[name] = model, save(model, folder / f"{name}.zip")
        return made[name]

    return get


def vecnormalize(case: Case, steps: int = 20, **kwargs: Any) -> VecNormalize:
    """A VecNormalize that has seen a few steps."""
    env = VecNormalize(DummyVecEnv([lambda: Blank(case.observation_space, case.action_space)]), **kwargs)
    env.seed(0)
    env.reset()
    rng = np.random.default_rng(0)
    for _ in range(steps):
        env.step([sample(case.action_space, rng, None)])
    return env


def dump(path: Path, **content: Any) -> None:
    """YAML as rl_zoo3 writes it, with the tag that no safe loader takes."""
    path.write_text(yaml.dump(OrderedDict(content)))
    assert "python/object/apply:collections.OrderedDict" in path.read_text()
