"""A live Stable-Baselines3 model as a frozen policy; it copies what it takes and leaves the model as it was."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from policykd.checkpoints.pickles import Global
from policykd.checkpoints.vecnormalize import Moments, Statistics
from policykd.checkpoints.weights import checked
from policykd.env_ids import current_id
from policykd.prediction import EnvWrapper, Origin
from policykd.teachers.blueprint import Blueprint, check_actions, kind_of, options_from
from policykd.teachers.loading import algorithm
from policykd.teachers.settings import short_name
from policykd.teachers.teacher import Teacher

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.vec_env import VecNormalize

__all__ = ["from_sb3"]


def from_sb3(model: BaseAlgorithm, vecnormalize: VecNormalize | None = None) -> Teacher:
    """The policy of a model as it is now: weights and statistics are copied, and later training changes nothing here.

    Args:
        model: PPO, A2C, DQN, SAC, TD3, DDPG, or sb3-contrib's TRPO, ARS, QRDQN, TQC, CrossQ, MaskablePPO.
        vecnormalize: the wrapper whose statistics belong to the model; None acts in the model's own spaces, as
            ``model.predict`` does (give ``model.get_vec_normalize_env()`` for a policy of raw observations).

    Raises:
        CheckpointError: ``policy.recurrent``, ``policy.custom-class``, ``policy.argument``, ``space.start``.
    """
    policy = type(model.policy)
    kind = kind_of(policy.__module__, policy.__qualname__)
    check_actions(kind, model.action_space)
    weights = {name: tensor.detach().cpu().clone() for name, tensor in model.policy.state_dict().items()}
    plan = Blueprint(
        algo=algorithm(Global(policy.__module__, policy.__qualname__), kind, vars(model)),
        policy=policy.__qualname__,
        kind=kind,
        observation_space=copy.deepcopy(model.observation_space),
        action_space=copy.deepcopy(model.action_space),
        options=options_from(model.policy_kwargs, kind, policy.__qualname__),
        weights=checked(weights, type(model).__name__),
    )
    gamma = vars(model).get("gamma")
    origin = Origin(gamma=None if gamma is None else float(gamma), **_environment(model))
    return Teacher(plan, origin, None if vecnormalize is None else _statistics(vecnormalize))


def _environment(model: BaseAlgorithm) -> dict[str, Any]:
    env = model.get_env()
    if env is None:
        return {}
    try:
        spec = env.get_attr("spec", 0)[0]
    except AttributeError:  # a vector environment of somebody's own, that has no gymnasium environments inside
        return {}
    if spec is None:
        return {}
    wrappers = [(w.name, w.kwargs or {}) for w in spec.additional_wrappers if w.name != "Monitor"]
    return {
        "env_id": current_id(spec.id),
        "env_kwargs": {k: v for k, v in spec.kwargs.items() if k != "render_mode"},
        "wrappers": tuple(EnvWrapper(short_name(name), kwargs) for name, kwargs in wrappers),
    }


def _statistics(wrapper: VecNormalize) -> Statistics:
    def moments(rms: Any) -> Moments:
        return Moments(np.array(rms.mean, np.float64), np.array(rms.var, np.float64))

    obs: Moments | Mapping[str, Moments] | None = None
    if wrapper.norm_obs:
        rms: Any = wrapper.obs_rms
        obs = {k: moments(rms[k]) for k in wrapper.norm_obs_keys or rms} if isinstance(rms, dict) else moments(rms)
    scale = float(np.sqrt(wrapper.ret_rms.var + wrapper.epsilon)) if wrapper.norm_reward else 1.0
    return Statistics(obs, wrapper.clip_obs, wrapper.epsilon, scale)
