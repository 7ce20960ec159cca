"""An agent's files to a Teacher, without SB3 and without running anything that is in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from policykd.checkpoints.archive import Archive, open_archive, sealed
from policykd.checkpoints.arrays import as_float, as_mapping
from policykd.checkpoints.fields import Fields, printed_array, read_fields
from policykd.checkpoints.pickles import Call, Global, short
from policykd.checkpoints.spaces import as_space
from policykd.checkpoints.vecnormalize import Statistics, read_vecnormalize
from policykd.checkpoints.weights import read_weights
from policykd.errors import CheckpointError
from policykd.prediction import EnvWrapper, Origin
from policykd.teachers.blueprint import Blueprint, Kind, Options, check_actions, kind_of, options_from
from policykd.teachers.folders import Parts, find
from policykd.teachers.settings import Settings, adapted, read_settings
from policykd.teachers.teacher import Teacher

__all__ = ["algorithm", "load", "plan_of", "policy_class"]


# SB3 before 1.1 wrapped another algorithm in HER, which flattened {observation, desired_goal} on the way.
_FLATTEN_GOAL = (EnvWrapper("FlattenGoal"),)


def load(path: str | Path, normalizer: str | Path | None = "auto") -> Teacher:
    """The agent at ``path`` as a policy of raw observations.

    Args:
        path: a zip of SB3 or sb3-contrib (``model.save``), or a folder that holds one: rl_zoo3's
            (``logs/ppo/LunarLander-v3_1``: the final agent, else best_model.zip, else the last checkpoint) or a Hub's.
        normalizer: ``"auto"`` takes the VecNormalize statistics beside the zip; a path names them; None acts in the
            zip's own spaces, on observations that are already normalised, exactly as SB3's ``model.predict``.

    Returns:
        A ``Teacher``; its docstring says what each algorithm predicts.

    Raises:
        CheckpointError: for every fault of the files; ``normaliser.missing`` where the agent was trained on normalised
            observations and no statistics are found.
    """
    parts = find(Path(path))
    with sealed(parts.zip):
        archive = open_archive(parts.zip)
        fields = read_fields(archive)
        plan = plan_of(archive, fields)
        settings = read_settings(parts)
        statistics = _statistics(parts, fields, plan.kind, settings, normalizer)
        settings = adapted(settings, plan.observation_space, statistics)
        gamma = fields.value("gamma", settings.gamma)
        origin = Origin(
            path=str(parts.zip),
            sha256=archive.sha256,
            env_id=settings.env_id,
            env_kwargs=settings.env_kwargs,
            wrappers=(*settings.wrappers, *_FLATTEN_GOAL) if "model_class" in fields else settings.wrappers,
            gamma=None if gamma is None else as_float(gamma),
        )
        return Teacher(plan, origin, statistics)


def plan_of(archive: Archive, fields: Fields) -> Blueprint:
    """What to build from an SB3 zip.

    Raises:
        CheckpointError: ``sb3.missing-field``, ``sb3.contradiction``, ``policy.*``, ``space.*``, ``weights.*``,
            ``pickle.*``.
    """
    policy = policy_class(fields)
    kind = kind_of(policy.module, policy.name)
    kwargs = as_mapping(fields.value("policy_kwargs", {}))
    observation_space, action_space = (as_space(_field(fields, n), n) for n in ("observation_space", "action_space"))
    check_actions(kind, action_space)
    options = options_from(kwargs, kind, policy.name)
    _check_texts(fields, action_space, options)
    return Blueprint(
        algo=algorithm(policy, kind, fields.raw),
        policy=policy.name,
        kind=kind,
        observation_space=observation_space,
        action_space=action_space,
        options=options,
        weights=read_weights(archive.read("policy.pth"), f"{archive.path}: policy.pth"),
    )


def policy_class(fields: Fields) -> Global:
    """The name of the policy's class.

    Raises:
        CheckpointError: ``policy.custom-class`` where the file defines the class itself.
    """
    found = _field(fields, "policy_class")
    if not isinstance(found, Global):
        what = f"a call of {found.name}{_arguments(found)}" if isinstance(found, Call) else short(found)
        raise CheckpointError(
            "policy.custom-class",
            f"policy class given as {what}"[:200],
            "the name of a policy class of stable_baselines3 or sb3_contrib",
            "nothing was run",
        )
    return found


def _arguments(call: Call) -> str:
    texts = [short(a) for a in call.args] if isinstance(call.args, tuple) else []
    return f"({', '.join(texts)})"


def algorithm(policy: Global, kind: Kind, fields: Any) -> str:
    """The algorithm's lower-case name, from the policy's class and from which settings the file has."""
    match kind:
        case "actor_critic":
            if "maskable" in policy.module:
                return "ppo_mask"
            return "ppo" if "clip_range" in fields else "trpo" if "cg_max_steps" in fields else "a2c"
        case "deterministic_actor":
            return "ddpg" if fields.get("policy_delay") == 1 and fields.get("target_noise_clip") == 0 else "td3"
    # stable_baselines3.dqn.policies, sb3_contrib.tqc.policies: the package names the algorithm
    return policy.module.split(".")[1]


def _field(fields: Fields, name: str) -> Any:
    if name not in fields:
        raise CheckpointError("sb3.missing-field", f"{fields.path}: no field {name!r} in 'data'", "an SB3 agent")
    return fields.value(name)


def _check_texts(fields: Fields, space: gym.Space, options: Options) -> None:
    """Compare what decides about actions with the texts that SB3 wrote beside the pickles.

    Raises:
        CheckpointError: ``sb3.contradiction``.
    """
    text = fields.text("action_space")
    if isinstance(space, gym.spaces.Box):
        for name, bound in (("low", space.low), ("high", space.high)):
            printed = printed_array(text.get(name))
            # Loose, because a user may have told numpy to print three digits.
            if printed is not None and not (
                printed.size == bound.size and np.allclose(printed, np.ravel(bound), rtol=1e-2, atol=1e-3)
            ):
                raise _contradiction(fields, f"action bounds {bound}", f"{printed}, as printed beside them")
    activation = fields.text("policy_kwargs").get("activation_fn")
    if (
        isinstance(activation, str)
        and activation.startswith("<class")
        and options.activation.__name__ not in activation
    ):
        raise _contradiction(fields, f"activation {options.activation.__name__}", f"{activation}, as printed beside it")


def _contradiction(fields: Fields, found: str, expected: str) -> CheckpointError:
    return CheckpointError(
        "sb3.contradiction", f"{fields.path}: {found}", expected, "take the file from its source again"
    )


def _statistics(
    parts: Parts, fields: Fields, kind: Kind, settings: Settings, normalizer: str | Path | None
) -> Statistics | None:
    if normalizer is None:
        return None
    if normalizer != "auto":
        return read_vecnormalize(Path(normalizer))
    if parts.normaliser is not None:
        return read_vecnormalize(parts.normaliser)
    if settings.normalised or _behind_vecnormalize(fields, kind):
        raise CheckpointError(
            "normaliser.missing",
            f"{parts.zip} was trained behind VecNormalize and no vecnormalize.pkl is beside it",
            "its statistics (vecnormalize.pkl or vec_normalize.pkl)",
            "name them with normalizer=PATH; normalizer=None acts on observations that are normalised already",
        )
    return None


def _behind_vecnormalize(fields: Fields, kind: Kind) -> bool:
    """Whether the file itself says that VecNormalize stood before the agent.

    On-policy algorithms keep the unnormalised observation only behind VecNormalize; the others keep one in any case.
    """
    return kind in ("actor_critic", "ars") and fields.raw.get("_last_original_obs") is not None
