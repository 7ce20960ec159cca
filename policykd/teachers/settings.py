"""What rl_zoo3's YAML files say of an agent's environment; it makes none."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gymnasium as gym

from policykd.checkpoints.pickles import short
from policykd.checkpoints.vecnormalize import Moments, Statistics
from policykd.checkpoints.yamls import arguments, read_yaml
from policykd.env_ids import current_id
from policykd.errors import CheckpointError
from policykd.prediction import EnvWrapper
from policykd.teachers.folders import Parts

__all__ = ["Settings", "adapted", "read_settings", "short_name"]

_ANT, _FORCES = 27, 84

_ID = re.compile(r"(?:[a-z0-9_]+-)?(?P<id>(?:[\w.]+:)?[A-Z][\w./-]*-v\d+)(?:_\d+)?")
# Wrappers that rollouts and evaluation know by a short name; others keep the name of their class.
_SHORT = {
    "TimeFeatureWrapper": "TimeFeature",
    "AtariWrapper": "Atari",
}


@dataclass(frozen=True)
class Settings:
    """An agent's environment, as far as its files tell.

    Attributes:
        env_id_then: the id that it was trained on.
        env_id: the id that runs today.
        env_kwargs: arguments of the environment.
        wrappers: to apply to it, in order.
        normalised: whether observations or rewards passed through VecNormalize.
        gamma: the discount, for algorithms that do not keep it (ARS).
    """

    env_id_then: str | None = None
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    wrappers: tuple[EnvWrapper, ...] = ()
    normalised: bool = False
    gamma: float | None = None

    @property
    def env_id(self) -> str | None:
        """The id that runs today."""
        return None if self.env_id_then is None else current_id(self.env_id_then)


def read_settings(parts: Parts) -> Settings:
    """The settings beside a zip; where there are none, the environment is guessed from the names of zip and folder.

    Raises:
        CheckpointError: ``yaml.unreadable``, ``yaml.arguments``.
    """
    args = read_yaml(parts.args) if parts.args else {}
    config = read_yaml(parts.config) if parts.config else {}
    kwargs = {**arguments(config.get("env_kwargs")), **arguments(args.get("env_kwargs"))}
    if parts.env_kwargs:
        kwargs |= read_yaml(parts.env_kwargs)
    gamma = config.get("gamma")
    return Settings(
        env_id_then=_text(args.get("env")) or _guess(parts.zip),
        env_kwargs=kwargs,
        wrappers=(
            *_wrappers(config.get("env_wrapper")),
            *_stacked(config.get("frame_stack")),
            *_wrappers(config.get("vec_env_wrapper")),
        ),
        normalised=_normalised(config),
        gamma=float(gamma) if isinstance(gamma, int | float) else None,
    )


def adapted(settings: Settings, observation_space: gym.Space, statistics: Statistics | None) -> Settings:
    """The settings for the environment that runs today, where it returns other observations than it did then.

    Ant-v2 and v3 returned 84 contact forces that v4 leaves out, and under mujoco-py 2 they were all zero: an agent
    whose normaliser never saw one move gets zeros, another gets v4's own forces.
    """
    if settings.env_id_then not in ("Ant-v2", "Ant-v3") or not isinstance(observation_space, gym.spaces.Box):
        return settings
    if observation_space.shape[0] - any(w.name == "TimeFeature" for w in settings.wrappers) != _ANT + _FORCES:
        return settings
    moments = None if statistics is None else statistics.obs
    if isinstance(moments, Moments) and bool((moments.var[_ANT : _ANT + _FORCES] > 1e-6).any()):
        return replace(settings, env_kwargs={**settings.env_kwargs, "use_contact_forces": True})
    return replace(settings, wrappers=(EnvWrapper("PadZeros", {"count": _FORCES}), *settings.wrappers))


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _guess(path: Path) -> str | None:
    for name in (path.stem, path.resolve().parent.name):
        if found := _ID.fullmatch(name):
            return found["id"]
    return None


def _normalised(config: Mapping[str, Any]) -> bool:
    """``normalize`` of the zoo: true, false, or arguments of VecNormalize; newer files resolve them beside it."""
    value = config.get("normalize")
    if isinstance(value, bool) or value is None:
        flags = arguments(config.get("normalize_kwargs"))
        if not value:
            return False
    else:
        flags = arguments(value)
    return bool(flags.get("norm_obs", True)) or bool(flags.get("norm_reward", True))


def _wrappers(value: Any) -> tuple[EnvWrapper, ...]:
    """``env_wrapper`` of the zoo: a class's name, a list of them, each alone or as {name: arguments}."""
    match value:
        case None | "":
            return ()
        case str():
            return (_wrapper(value, {}),)
        case dict():
            return tuple(_wrapper(str(name), arguments(kwargs)) for name, kwargs in value.items())
        case list():
            return tuple(wrapper for entry in value for wrapper in _wrappers(entry))
    raise CheckpointError("yaml.arguments", f"env_wrapper {short(value)}", "names of wrapper classes")


def _wrapper(name: str, kwargs: Mapping[str, Any]) -> EnvWrapper:
    return EnvWrapper(short_name(name), kwargs)


def short_name(name: str) -> str:
    """The name under which rollouts know a wrapper class; the class's own where they do not."""
    return _SHORT.get(name.rsplit(".", 1)[-1], name)


def _stacked(value: Any) -> tuple[EnvWrapper, ...]:
    return (EnvWrapper("FrameStack", {"n": value}),) if isinstance(value, int) and value > 1 else ()
