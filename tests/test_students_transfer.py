"""Students that start from real teachers: every algorithm of SB3 and sb3-contrib with plain layers, live."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import sb3_contrib
import stable_baselines3 as sb3
import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from policykd import students, teachers
from policykd.errors import UsageError

BOX = spaces.Box(-np.inf, np.inf, (3,))
DICT = spaces.Dict(z=BOX, a=spaces.Discrete(3))
IMAGE = spaces.Box(0, 255, (2, 40, 36), np.uint8)
DISCRETE, CONTINUOUS = spaces.Discrete(4), spaces.Box(np.float32([-2, 0]), np.float32([2, 1]))
SMALL: dict[str, Any] = {"buffer_size": 8}
SDE: dict[str, Any] = {"use_sde": True}


class Blank(gym.Env):
    """Spaces, and random observations in them."""

    def __init__(self, observation: spaces.Space, action: spaces.Space) -> None:
        self.observation_space, self.action_space = observation, action

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.observation_space.sample(), 0.0, False, False, {}


CASES: list[tuple[type[BaseAlgorithm], str, spaces.Space, spaces.Space, dict[str, Any]]] = [
    (sb3.PPO, "MlpPolicy", BOX, DISCRETE, {}),
    (sb3.PPO, "MlpPolicy", BOX, spaces.MultiDiscrete([2, 3]), {}),
    (sb3.PPO, "MlpPolicy", BOX, spaces.MultiBinary(3), {}),
    (sb3.PPO, "MultiInputPolicy", DICT, CONTINUOUS, {}),
    (sb3.PPO, "CnnPolicy", IMAGE, DISCRETE, {}),
    (sb3.PPO, "MlpPolicy", IMAGE, DISCRETE, {}),
    (sb3.A2C, "MlpPolicy", BOX, CONTINUOUS, SDE),
    (sb3.A2C, "MlpPolicy", BOX, CONTINUOUS, {"policy_kwargs": {"net_arch": [], "activation_fn": torch.nn.ReLU}}),
    (sb3.DQN, "MlpPolicy", BOX, DISCRETE, SMALL),
    (sb3.DQN, "CnnPolicy", IMAGE, DISCRETE, SMALL),
    (sb3.SAC, "MlpPolicy", BOX, CONTINUOUS, SMALL),
    (sb3.SAC, "MultiInputPolicy", DICT, CONTINUOUS, {**SMALL, **SDE}),
    (sb3.TD3, "MlpPolicy", BOX, CONTINUOUS, SMALL),
    (sb3.DDPG, "MlpPolicy", BOX, CONTINUOUS, SMALL),
    (sb3_contrib.TRPO, "MlpPolicy", BOX, CONTINUOUS, {}),
    (sb3_contrib.ARS, "MlpPolicy", BOX, CONTINUOUS, {}),
    (sb3_contrib.ARS, "LinearPolicy", BOX, CONTINUOUS, {}),
    (sb3_contrib.QRDQN, "MlpPolicy", BOX, DISCRETE, SMALL),
    (sb3_contrib.TQC, "MlpPolicy", BOX, CONTINUOUS, SMALL),
    (sb3_contrib.MaskablePPO, "MlpPolicy", BOX, DISCRETE, {}),
]


def live(
    algorithm: type[BaseAlgorithm], policy: str, observation: spaces.Space, action: spaces.Space, how: dict[str, Any]
) -> tuple[teachers.Teacher, Any]:
    """A teacher with weights far from ties, its normaliser included, and observations for it."""
    env = DummyVecEnv([lambda: Blank(observation, action)])
    device = {} if algorithm is sb3_contrib.ARS else {"device": "cpu"}
    model = algorithm(policy, env, seed=0, **device, **how)  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in model.policy.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    observation.seed(0)
    drawn = [observation.sample() for _ in range(200)]
    raw = {k: np.stack([d[k] for d in drawn]) for k in drawn[0]} if isinstance(drawn[0], dict) else np.stack(drawn)
    normaliser = None
    if observation is not IMAGE:
        normaliser = VecNormalize(env, norm_obs_keys=["z"] if isinstance(raw, dict) else None)
        rms = normaliser.obs_rms["z"] if isinstance(raw, dict) else normaliser.obs_rms
        rms.update(raw["z"] if isinstance(raw, dict) else raw)  # type: ignore[union-attr]
    return teachers.from_sb3(model, normaliser), raw


@pytest.mark.parametrize(
    ("algorithm", "policy", "observation", "action", "how"),
    CASES,
    ids=[f"{c[0].__name__} {c[1]} {type(c[3]).__name__}{' sde' * ('use_sde' in c[4])}" for c in CASES],
)
def test_a_student_of_all_layers_acts_as_its_teacher(
    algorithm: Any, policy: str, observation: spaces.Space, action: spaces.Space, how: dict[str, Any]
) -> None:
    teacher, raw = live(algorithm, policy, observation, action, how)
    student = students.from_teacher(teacher)
    theirs, ours = (p.predict(raw, deterministic=True)[0] for p in (teacher, student))
    assert np.array_equal(theirs, ours)
    assert len(np.unique(ours.reshape(len(ours), -1), axis=0)) > 1
    if algorithm is not sb3_contrib.QRDQN:  # whose student has the mean of the quantiles only
        bias = 2 if policy == "LinearPolicy" else 0  # ARS's linear policy has none
        assert student.acting_parameters == teacher.acting_parameters + bias
    # It learns, and the teacher does not change.
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    for parameter in student.parameters():
        assert parameter.requires_grad
        parameter.data.add_(1.0)
    assert all(torch.equal(before[k], v) for k, v in teacher.state_dict().items())


def test_teachers_that_are_more_than_plain_layers() -> None:
    for case in [
        (sb3_contrib.CrossQ, "MlpPolicy", BOX, CONTINUOUS, SMALL),
        (sb3.PPO, "MultiInputPolicy", spaces.Dict(see=IMAGE, z=BOX), DISCRETE, {}),
    ]:
        algorithm, policy, observation, action, how = case
        model = algorithm(policy, DummyVecEnv([lambda o=observation, a=action: Blank(o, a)]), device="cpu", **how)
        with pytest.raises(UsageError, match=r"student\.transfer"):
            students.from_teacher(teachers.from_sb3(model))


def test_an_activation_that_students_do_not_have() -> None:
    how = {"policy_kwargs": {"activation_fn": torch.nn.Tanhshrink}}
    teacher, _ = live(sb3.PPO, "MlpPolicy", BOX, DISCRETE, how)
    with pytest.raises(UsageError, match=r"Tanhshrink.*student\.transfer"):
        students.from_teacher(teacher)
