"""Students as plain SB3 zips: what SB3 loads acts as the student does, holds nothing of ours, and goes on learning."""

from __future__ import annotations

import base64
import json
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3 as sb3
import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from policykd import students
from policykd.errors import RunError, SpaceError, UsageError
from policykd.prediction import FAMILIES, Spec, obs_tensor
from policykd.students import Shape, Student
from policykd.students.sb3 import from_sb3, to_sb3

BOX = spaces.Box(np.float32([-1, -np.inf, -3]), np.float32([1, np.inf, 3]))
OBSERVATIONS: dict[str, spaces.Space] = {
    "box": BOX,
    "choice": spaces.Discrete(5),
    "dict": spaces.Dict(OrderedDict(z=BOX, a=spaces.Discrete(3), m=spaces.Box(-2, 2, (2, 2)))),
}
ACTIONS: dict[str, spaces.Space] = {
    "categorical": spaces.Discrete(4),
    "multi_categorical": spaces.MultiDiscrete([3, 2]),
    "bernoulli": spaces.MultiBinary(3),
}
BOX_ACTION = spaces.Box(np.float32([-2, 0]), np.float32([2, 1]))
ALGORITHMS: dict[str, type[BaseAlgorithm]] = {"tanh_gaussian": sb3.SAC, "tanh_deterministic": sb3.TD3}


def make(family: str, observation: str = "box", hidden: Any = (16, 8), normalise: bool = True, **how: Any) -> Student:
    """A student with weights that no initialisation gives: its modes are far from ties."""
    spec = Spec(OBSERVATIONS[observation], ACTIONS.get(family, BOX_ACTION), family)  # type: ignore[arg-type]
    student = students.mlp(spec, hidden, value=True, **how)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(torch.empty_like(parameter).normal_(0, 0.5, generator=generator))
    if normalise:
        students.fit_normaliser(student, obs_tensor(sample(spec.observation_space, 64)))
        students.fit_value_units(student, torch.tensor([-100.0, 300.0]))
    return student


def sample(space: spaces.Space, n: int) -> Any:
    space.seed(1)
    drawn = [space.sample() for _ in range(n)]
    return (
        {k: np.stack([d[k] for d in drawn]) for k in space.spaces}
        if isinstance(space, spaces.Dict)
        else np.stack(drawn)
    )


class Random(gym.Env):
    """Random observations and rewards, short episodes."""

    def __init__(self, spec: Spec) -> None:
        self.observation_space, self.action_space, self.steps = spec.observation_space, spec.action_space, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return self.observation_space.sample(), float(np.sum(action)), self.steps >= 8, False, {}


def opened(student: Student, path: Path) -> tuple[BaseAlgorithm, VecNormalize | None]:
    """The student's files as SB3 itself opens them."""
    venv = DummyVecEnv([lambda: Monitor(Random(student.spec))])
    file = path.with_suffix("") / "vecnormalize.pkl"
    normaliser = VecNormalize.load(str(file), venv) if file.exists() else None
    return ALGORITHMS.get(student.spec.family, sb3.PPO).load(path, env=normaliser or venv, device="cpu"), normaliser


@pytest.mark.parametrize("observation", OBSERVATIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_sb3_acts_as_the_student_does(family: str, observation: str, tmp_path: Path) -> None:
    student = make(family, observation)
    path = to_sb3(student, tmp_path / "logs" / "agent")
    assert path == tmp_path / "logs" / "agent.zip"
    assert (path.with_suffix("") / "vecnormalize.pkl").exists() == (observation != "choice")
    model, normaliser = opened(student, path)
    raw = sample(student.spec.observation_space, 500)
    seen = raw if normaliser is None else normaliser.normalize_obs(raw)
    theirs, _ = model.predict(seen, deterministic=True)  # type: ignore[arg-type]
    ours, _ = student.predict(raw, deterministic=True)
    assert np.array_equal(theirs, ours)
    assert len(np.unique(ours, axis=0)) > 1

    # Back again, from the live model: the same modes, the same numbers, and the value head where SB3 has one.
    back = from_sb3(model)
    assert np.array_equal(back.predict(raw, deterministic=True)[0], ours)
    assert back.acting_parameters == student.acting_parameters and back.origin.gamma == 0.99
    said, mine = back.label(obs_tensor(raw)), student.label(obs_tensor(raw))
    if not student.spec.squashed:
        assert said.value is not None and mine.value is not None
        assert torch.allclose(said.value, mine.value, rtol=1e-5, atol=1e-4)
    if family == "diag_gaussian" or family == "tanh_gaussian":
        assert torch.equal(said.dist.log_std, mine.dist.log_std)  # type: ignore[union-attr]


@pytest.mark.parametrize("family", ["categorical", "diag_gaussian", "tanh_gaussian", "tanh_deterministic"])
def test_the_linear_student_and_other_activations(family: str, tmp_path: Path) -> None:
    for hidden, activation in [((), "tanh"), ((5,), "relu"), ((5,), "silu")]:
        student = make(family, "box", hidden, normalise=False, activation=activation)
        model, normaliser = opened(student, to_sb3(student, tmp_path / f"{activation}{len(hidden)}.zip"))
        raw = sample(BOX, 200)
        assert normaliser is None
        assert np.array_equal(model.predict(raw, deterministic=True)[0], student.predict(raw, deterministic=True)[0])
        assert from_sb3(model).shape.activation == (activation if hidden else from_sb3(model).shape.activation)


def test_a_bounded_mean_becomes_gsde(tmp_path: Path) -> None:
    spec = make("tanh_gaussian").spec
    student = Student(spec, Shape((4,), clip_mean=0.7), seed=1)
    with torch.no_grad():
        student.action_head.weight.normal_(generator=torch.Generator().manual_seed(0))
    model, _ = opened(student, to_sb3(student, tmp_path / "agent"))
    raw = sample(BOX, 200)
    ours = student.predict(raw, deterministic=True)[0]
    assert np.array_equal(model.predict(raw, deterministic=True)[0], ours)
    assert from_sb3(model).shape.clip_mean == 0.7
    assert np.array_equal(from_sb3(model).predict(raw, deterministic=True)[0], ours)


def test_the_files_hold_nothing_of_ours(tmp_path: Path) -> None:
    for family in ("categorical", "tanh_gaussian", "tanh_deterministic"):
        path = to_sb3(make(family, "dict"), tmp_path / family)
        with zipfile.ZipFile(path) as archive:
            members = [archive.read(name) for name in archive.namelist()]
            data = json.loads(archive.read("data"))
        members += [
            base64.b64decode(v[":serialized:"]) for v in data.values() if isinstance(v, dict) and ":serialized:" in v
        ]
        members.append((path.with_suffix("") / "vecnormalize.pkl").read_bytes())
        assert len(members) > 10 and not any(b"policykd" in member for member in members)
        assert data["num_timesteps"] == 0
    assert len(list(tmp_path.iterdir())) == 6  # a zip and a folder each, no leftovers


def test_ppo_goes_on_from_a_student_on_a_real_environment(tmp_path: Path) -> None:
    env = gym.make("CartPole-v1")
    student = students.mlp(Spec(env.observation_space, env.action_space, "categorical"), (16,), value=True, seed=1)  # type: ignore[arg-type]
    rollout = _rollout(env, 10_000)
    students.fit_normaliser(student, torch.from_numpy(rollout))
    with torch.no_grad():
        student.action_head.weight.mul_(100)
    path = to_sb3(student, tmp_path / "CartPole-v1.zip")

    venv = VecNormalize.load(str(tmp_path / "CartPole-v1" / "vecnormalize.pkl"), DummyVecEnv([lambda: Monitor(env)]))
    assert not venv.training and not venv.norm_reward
    model = sb3.PPO.load(path, env=venv, device="cpu")
    theirs, _ = model.predict(venv.normalize_obs(rollout), deterministic=True)  # type: ignore[arg-type]
    ours, _ = student.predict(rollout, deterministic=True)
    assert np.array_equal(theirs, ours) and 0.01 < ours.mean() < 0.99
    values = model.policy.predict_values(torch.as_tensor(venv.normalize_obs(rollout)))  # type: ignore[union-attr, operator]
    assert torch.allclose(values.squeeze(-1), student.label(torch.from_numpy(rollout)).value, atol=1e-4)  # type: ignore[arg-type]
    venv.seed(0)
    model.learn(2048)
    assert model.num_timesteps == 2048
    assert not np.array_equal(model.predict(venv.normalize_obs(rollout))[0], ours)  # type: ignore[arg-type]
    assert np.array_equal(venv.obs_rms.mean, student.normaliser.mean.numpy())  # type: ignore[union-attr]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_goes_on_learning(family: str, tmp_path: Path) -> None:
    student = make(family, "box")
    model, _ = opened(student, to_sb3(student, tmp_path / "agent"))
    if isinstance(model, sb3.PPO):
        model.n_steps, model.n_epochs = 64, 1
        model.rollout_buffer.buffer_size = 64
        model.rollout_buffer.reset()
        model.learn(64)
    else:
        model.learn(112)  # SB3's off-policy algorithms wait for 100 steps before they learn
    assert model.num_timesteps >= 64
    assert all(torch.isfinite(p).all() for p in model.policy.parameters())


def _rollout(env: gym.Env, n: int) -> np.ndarray:
    env.action_space.seed(0)
    obs, _ = env.reset(seed=0)
    found = []
    while len(found) < n:
        found.append(obs)
        obs, _, terminated, truncated, _ = env.step(env.action_space.sample())
        if terminated or truncated:
            obs, _ = env.reset()
    return np.stack(found).astype(np.float32)


def test_sb3_evaluates_a_student() -> None:
    env = Monitor(gym.make("CartPole-v1"))
    student = students.mlp(Spec(env.observation_space, env.action_space, "categorical"), ())  # type: ignore[arg-type]
    with torch.no_grad():  # push towards where the pole falls: this balances it
        student.action_head.weight.copy_(torch.tensor([[0.0, 0, 0, 0], [0.1, 0.5, 3.0, 3.0]]))
    env.reset(seed=0)
    returns, lengths = evaluate_policy(student, env, n_eval_episodes=3, return_episode_rewards=True)  # type: ignore[arg-type]
    assert returns == [500.0] * 3 and lengths == [500] * 3


def test_making_a_zip_draws_from_no_global_generator(tmp_path: Path) -> None:
    student = make("tanh_gaussian")
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index, union-attr]
    first, second = (to_sb3(student, tmp_path / name) for name in ("a", "b"))
    assert torch.equal(before[0], torch.random.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])  # type: ignore[index, arg-type]
    critics = [sb3.SAC.load(p, device="cpu").critic.state_dict() for p in (first, second)]
    assert all(torch.equal(critics[0][k], critics[1][k]) for k in critics[0])


def test_what_has_no_plain_zip(tmp_path: Path) -> None:
    image = spaces.Box(0, 255, (1, 10, 12), np.uint8)
    cases = [
        Spec(image, spaces.Discrete(2), "categorical"),
        Spec(spaces.Dict(see=image), spaces.Discrete(2), "categorical"),
        Spec(BOX, spaces.Discrete(2, start=1), "categorical"),
        Spec(spaces.Discrete(3, start=-1), spaces.Discrete(2), "categorical"),
        Spec(BOX, spaces.MultiDiscrete([2, 2], start=[0, 1]), "multi_categorical"),
    ]
    for spec in cases:
        with pytest.raises(SpaceError, match=r"student\.sb3-space"):
            to_sb3(students.mlp(spec, (4,)), tmp_path / "agent")
    assert not list(tmp_path.iterdir())


def test_the_environments_own_bounds_are_written_on_request(tmp_path: Path) -> None:
    """Agents of gym's days say Box(-inf, inf) where the environment has bounds now; SB3 refuses the pair."""
    narrow = spaces.Box(np.float32([-1, -9, -3]), np.float32([1, 9, 3]))
    for name, now in [("box", narrow), ("dict", spaces.Dict({**OBSERVATIONS["dict"].spaces, "z": narrow}))]:  # type: ignore[attr-defined]
        student = make("categorical", name)
        env = Random(Spec(now, student.spec.action_space, "categorical"))
        with pytest.raises(ValueError, match="spaces do not match"):
            sb3.PPO.load(to_sb3(student, tmp_path / name), env=env, device="cpu")
        path = to_sb3(student, tmp_path / name, env)
        normaliser = VecNormalize.load(
            str(tmp_path / name / "vecnormalize.pkl"), DummyVecEnv([lambda e=env: Monitor(e)])
        )
        model = sb3.PPO.load(path, env=normaliser, device="cpu")
        raw = sample(student.spec.observation_space, 100)
        theirs, _ = model.predict(normaliser.normalize_obs(raw), deterministic=True)  # type: ignore[arg-type]
        assert np.array_equal(theirs, student.predict(raw, deterministic=True)[0])

    student = make("tanh_gaussian")
    for space, action in [
        (spaces.Box(-1, 1, (4,)), BOX_ACTION),
        (BOX, spaces.Box(-1, 1, (2,))),
        (spaces.Discrete(3), BOX_ACTION),
    ]:
        with pytest.raises(SpaceError, match=r"student\.sb3-space"):
            to_sb3(student, tmp_path / "other", Random(Spec(space, action, "tanh_gaussian")))


def test_another_agents_normaliser_is_not_taken_over(tmp_path: Path) -> None:
    to_sb3(make("categorical"), tmp_path / "agent")
    plain = make("categorical", normalise=False)
    with pytest.raises(UsageError, match=r"student\.sb3-stale"):
        to_sb3(plain, tmp_path / "agent.zip")
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"student\.write"):
        to_sb3(plain, tmp_path / "file" / "agent")


def test_live_models_that_are_no_plain_mlp() -> None:
    env = DummyVecEnv([lambda: Random(Spec(BOX, spaces.Discrete(2), "categorical"))])
    with pytest.raises(UsageError, match=r"student\.sb3-policy"):
        from_sb3(sb3.DQN("MlpPolicy", env, buffer_size=8))
    with pytest.raises(UsageError, match=r"student\.sb3-policy"):
        from_sb3(sb3.PPO("MlpPolicy", env, policy_kwargs={"activation_fn": torch.nn.Softshrink}, device="cpu"))


def test_a_value_network_of_its_own_stays_behind() -> None:
    env = DummyVecEnv([lambda: Random(Spec(BOX, spaces.Discrete(2), "categorical"))])
    model = sb3.A2C("MlpPolicy", env, policy_kwargs={"net_arch": {"pi": [8], "vf": [4]}}, device="cpu")
    student = from_sb3(model)
    raw = sample(BOX, 100)
    assert student.value_head is None and student.shape.hidden == (8,)
    assert np.array_equal(student.predict(raw, deterministic=True)[0], model.predict(raw, deterministic=True)[0])
