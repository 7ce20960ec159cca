"""Students as plain Stable-Baselines3 models and back; it unpickles nothing: what comes back is a live model."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from stable_baselines3.sac.policies import SACPolicy
from stable_baselines3.td3.policies import TD3Policy
from torch import nn

from policykd.errors import RunError, UsageError
from policykd.networks import Normaliser
from policykd.prediction import Family, Origin, Spec
from policykd.students.network import Student
from policykd.students.nodes import Tree
from policykd.students.normaliser import install_normaliser, statistics_of
from policykd.students.shape import ACTIVATIONS, Shape
from policykd.students.spaces_sb3 import check_spaces, spec_in

__all__ = ["from_sb3", "to_sb3"]

_SAMPLE = 1e5  # observations that the statistics count for, should someone let VecNormalize go on with them
_DETERMINISTIC_STD = 0.1  # of half the action range: PPO cannot explore without any


class _Blank(gym.Env):
    """Spaces without a world: SB3 builds a model from them, and saves none of it."""

    def __init__(self, spec: Spec) -> None:
        self.observation_space, self.action_space = spec.observation_space, spec.action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.observation_space.sample(), 0.0, True, False, {}


def to_sb3(student: Student | Tree, path: str | Path, env: gym.Env | None = None) -> Path:
    """Write the student as ``<path>.zip``, and its normaliser as ``<path>/vecnormalize.pkl`` (rl_zoo3's layout).

    Choices and diag_gaussian become PPO, tanh_gaussian the actor of SAC, tanh_deterministic that of TD3; deterministic
    becomes PPO with a standard deviation of a tenth of half the action range. ``PPO.load`` and ``VecNormalize.load``
    open the files where there is no policykd, and ``learn`` goes on from the student. A value head becomes PPO's value
    network on a copy of the torso, because SB3's two networks share no layers; the critics of SAC and TD3 are fresh.
    The normaliser is frozen (``training=False``) and leaves rewards alone.

    Args:
        student: what to write.
        path: with or without ``.zip``.
        env: the environment that learning will go on in. SB3 compares spaces to the last bound, and an environment
            may state other bounds today than when the teacher was trained: its own are written then.

    Returns:
        Path of the zip.

    Raises:
        SpaceError: ``student.sb3-space`` for images, for choices that do not start at 0, and for an ``env`` whose
            observations have other shapes or whose actions have other bounds than the student's.
        UsageError: ``student.sb3-tree`` for a tree, which no policy of SB3 can hold; ``student.sb3-stale`` where a
            normaliser lies in the place of one that this student does not have.
        RunError: ``student.write`` when the files cannot be written.
    """
    if isinstance(student, Tree):
        raise UsageError(
            "student.sb3-tree",
            f"a decision tree with {student.leaves} leaves",
            "a network: no policy of Stable-Baselines3 holds a tree",
            "write the tree's rules (tree.rules(digits=None)), or distil a network",
        )
    spec = student.spec if env is None else spec_in(env, student.spec)
    check_spaces(spec)
    path = Path(path)
    path = path if path.suffix == ".zip" else path.with_name(path.name + ".zip")
    beside = path.with_suffix("") / "vecnormalize.pkl"
    if student.normaliser is None and beside.exists():
        raise UsageError(
            "student.sb3-stale",
            f"{beside} is there, and this student has no normaliser",
            "a place where no other agent's normaliser would be taken for this one's",
            "choose another path, or remove that file",
        )
    venv = DummyVecEnv([lambda: _Blank(spec)])
    with _own_randomness():
        model = _model(student, venv)
    _fill(model, student)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.stem}.") as folder:
            model.save(Path(folder) / "model.zip")
            if student.normaliser is not None:
                _vecnormalize(statistics_of(student), venv).save(str(Path(folder) / "vecnormalize.pkl"))
                beside.parent.mkdir(exist_ok=True)
                os.replace(Path(folder) / "vecnormalize.pkl", beside)
            os.replace(Path(folder) / "model.zip", path)
    except OSError as why:
        raise RunError("student.write", f"{path}: {why.strerror}", "a place that can be written") from None
    return path


def from_sb3(model: BaseAlgorithm, vecnormalize: VecNormalize | None = None) -> Student:
    """The student that acts as a live SB3 model does: MLP policies of PPO, A2C, SAC, TD3 and DDPG.

    The value network comes along as a value head where its hidden layers still equal the actor's, as in a fresh zip
    of ``to_sb3``. A zip on disk is for ``load.load_student``, other models for ``teachers.from_sb3``.

    Args:
        model: the model; it is left alone.
        vecnormalize: its normaliser; None takes the one around ``model.get_env()``, if there is one.

    Raises:
        UsageError: ``student.sb3-policy`` for a policy that is not a plain MLP.
        SpaceError: ``student.sb3-space`` for images, and for choices that do not start at 0.
    """
    policy: Any = model.policy
    linears, activation = _actor(model)
    value = _value_head(model, linears[:-1])
    spec = Spec(model.observation_space, model.action_space, _family(model))
    check_spaces(spec)
    clip = policy.actor.clip_mean if isinstance(policy, SACPolicy) and policy.actor.use_sde else None
    shape = Shape(tuple(x.out_features for x in linears[:-1]), activation, value is not None, clip_mean=clip or None)
    student = Student(spec, shape, origin=Origin(algo="mlp", gamma=vars(model)["gamma"]))
    with torch.no_grad():
        _copy(linears, student.acting_layers.linears)
        if value is not None:
            _copy([value], [student.value_head])
        if isinstance(student.log_std, nn.Linear) and isinstance(policy.actor.log_std, nn.Linear):
            _copy([policy.actor.log_std], [student.log_std])
        elif isinstance(student.log_std, nn.Parameter) and not policy.use_sde:
            student.log_std.copy_(policy.log_std)
    normaliser = model.get_vec_normalize_env() if vecnormalize is None else vecnormalize
    if normaliser is not None and normaliser.norm_obs:
        rms: Any = normaliser.obs_rms
        rms = rms if isinstance(rms, dict) else {None: rms}
        limits = (normaliser.epsilon, normaliser.clip_obs)
        install_normaliser(student, {key: Normaliser(r.mean, r.var, *limits) for key, r in rms.items()})
    return student


def _family(model: BaseAlgorithm) -> Family:
    match model.policy, model.action_space:
        case SACPolicy(), _:
            return "tanh_gaussian"
        case TD3Policy(), _:
            return "tanh_deterministic"
        case _, spaces.Discrete():
            return "categorical"
        case _, spaces.MultiDiscrete():
            return "multi_categorical"
        case _, spaces.MultiBinary():
            return "bernoulli"
    return "tanh_gaussian" if model.policy.squash_output else "diag_gaussian"


def _linears(*modules: nn.Module) -> list[nn.Linear]:
    return [m for module in modules for m in module.modules() if isinstance(m, nn.Linear)]


def _actor(model: BaseAlgorithm) -> tuple[list[nn.Linear], str]:
    """The layers that act, in order, and their activation's name."""
    policy: Any = model.policy
    activation = vars(policy.actor if isinstance(policy, SACPolicy) else policy).get("activation_fn")
    names = [name for name, kind in ACTIVATIONS.items() if kind is activation]
    plain = policy.features_extractor_class in (FlattenExtractor, CombinedExtractor)
    match policy:
        case ActorCriticPolicy() if plain and names:
            return _linears(policy.mlp_extractor.policy_net, policy.action_net), names[0]
        case SACPolicy() if plain and names:
            return _linears(policy.actor.latent_pi, policy.actor.mu), names[0]
        case TD3Policy() if plain and names:
            return _linears(policy.actor.mu), names[0]
    raise UsageError(
        "student.sb3-policy",
        f"{type(policy).__name__} of {type(model).__name__}",
        f"an MLP policy of PPO, A2C, SAC, TD3 or DDPG with one of {', '.join(sorted(ACTIVATIONS))}",
        "wrap it with teachers.from_sb3, then students.from_teacher",
    )


def _value_layers(model: BaseAlgorithm) -> list[nn.Linear]:
    policy = model.policy
    if not isinstance(policy, ActorCriticPolicy):
        return []
    return _linears(policy.mlp_extractor.value_net, policy.value_net)


def _value_head(model: BaseAlgorithm, hidden: list[nn.Linear]) -> nn.Linear | None:
    """The value network's last layer, if all before it is the actor's over again."""
    layers = _value_layers(model)
    if len(layers) != len(hidden) + 1:
        return None
    pairs = [(a.state_dict(), b.state_dict()) for a, b in zip(layers, hidden, strict=False)]
    same = all(torch.equal(a["weight"], b["weight"]) and torch.equal(a["bias"], b["bias"]) for a, b in pairs)
    return layers[-1] if same else None


def _copy(source: Iterable[Any], target: Iterable[Any]) -> None:
    for theirs, mine in zip(source, target, strict=True):
        mine.load_state_dict(theirs.state_dict())


@contextmanager
def _own_randomness() -> Iterator[None]:
    """SB3 draws fresh critics from torch's global generator: lend it one, and hand the old one back as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def _model(student: Student, venv: DummyVecEnv) -> BaseAlgorithm:
    policy = "MultiInputPolicy" if isinstance(student.spec.observation_space, spaces.Dict) else "MlpPolicy"
    hidden = list(student.shape.hidden)
    kwargs: dict[str, Any] = {"activation_fn": ACTIVATIONS[student.shape.activation]}
    common: dict[str, Any] = {"policy": policy, "env": venv, "policy_kwargs": kwargs, "device": "cpu"}
    if not student.spec.squashed:
        kwargs["net_arch"] = {"pi": hidden, "vf": hidden}
        return PPO(**common)
    model: SAC | TD3
    if student.spec.family == "tanh_gaussian":
        kwargs["net_arch"] = {"pi": hidden, "qf": [256, 256]}
        if student.shape.clip_mean is not None:
            kwargs["clip_mean"] = student.shape.clip_mean
        model = SAC(**common, buffer_size=1, use_sde=student.shape.clip_mean is not None)
    else:
        kwargs["net_arch"] = {"pi": hidden, "qf": [400, 300]}
        model = TD3(**common, buffer_size=1)
    model.buffer_size = 1_000_000  # SB3's default, for whoever goes on; nothing is stored here
    return model


@torch.no_grad()
def _fill(model: BaseAlgorithm, student: Student) -> None:
    policy, log_std = model.policy, student.log_std
    _copy(student.acting_layers.linears, _actor(model)[0])
    match policy:
        case TD3Policy():
            policy.actor_target.load_state_dict(policy.actor.state_dict())
        case SACPolicy() if isinstance(policy.actor.log_std, nn.Linear):
            _copy([log_std], [policy.actor.log_std])
        case ActorCriticPolicy() if isinstance(student.spec.action_space, spaces.Box):
            if isinstance(log_std, nn.Parameter):
                policy.log_std.copy_(log_std)
            else:
                half = np.clip(
                    (student.spec.action_space.high - student.spec.action_space.low).reshape(-1) / 2, 1e-3, 10
                )
                policy.log_std.copy_(torch.as_tensor(np.log(_DETERMINISTIC_STD * half)))
    critic = _value_layers(model)
    if student.value_head is not None and critic:
        offset, scale = student.value_units
        _copy([*student.acting_layers.linears[:-1], student.value_head], critic)
        critic[-1].weight.mul_(scale)
        critic[-1].bias.mul_(scale).add_(offset)


def _vecnormalize(parts: Mapping[str | None, Normaliser], venv: DummyVecEnv) -> VecNormalize:
    first = next(iter(parts.values()))
    keys = [key for key in parts if key is not None] or None
    wrapped = VecNormalize(
        venv, training=False, norm_reward=False, clip_obs=first.clip, epsilon=first.epsilon, norm_obs_keys=keys
    )
    statistics: dict[Any, RunningMeanStd] = {}
    for key, part in parts.items():
        statistics[key] = RunningMeanStd(epsilon=_SAMPLE, shape=tuple(part.mean.shape))
        statistics[key].mean, statistics[key].var = (t.cpu().numpy().copy() for t in (part.mean, part.var))
    wrapped.obs_rms = statistics if keys else statistics[None]  # type: ignore[assignment]
    return wrapped
