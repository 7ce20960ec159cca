"""VecNormalize's statistics out of its pickle, by hand; it refuses any other pickle."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from policykd.checkpoints.archive import LFS, file_bytes, sealed
from policykd.checkpoints.arrays import as_array, as_bool, as_float, as_mapping
from policykd.checkpoints.pickles import Call, read, short
from policykd.errors import CheckpointError

__all__ = ["Moments", "Statistics", "read_vecnormalize"]

MAX_FILE = 256 << 20
_CLASS = "stable_baselines3.common.vec_env.vec_normalize.VecNormalize"


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and variance of an observation, each of its shape."""

    mean: np.ndarray
    var: np.ndarray


@dataclass(frozen=True, eq=False)
class Statistics:
    """What VecNormalize knew.

    Attributes:
        obs: moments of the observation (of each normalised key of a Dict); None where observations pass unchanged.
        clip, epsilon: ``clip_obs`` and ``epsilon``.
        reward_scale: reward units in one normalised unit: sqrt(var + eps) of the returns, 1 without ``norm_reward``.
        names: the globals that the pickle names, with counts.
    """

    obs: Moments | Mapping[str, Moments] | None
    clip: float = 10.0
    epsilon: float = 1e-8
    reward_scale: float = 1.0
    names: Counter[str] = field(default_factory=Counter)


def read_vecnormalize(path: Path) -> Statistics:
    """The statistics in a ``vecnormalize.pkl``.

    Raises:
        CheckpointError: ``normaliser.foreign`` for another kind of pickle, ``normaliser.broken`` for impossible
            numbers, or an error of the file.
    """
    raw = file_bytes(path, MAX_FILE)
    if raw.startswith(LFS):
        raise CheckpointError(
            "normaliser.foreign",
            f"{path} is a Git LFS pointer, not the file",
            "one of VecNormalize.save",
            "git lfs pull",
        )
    with sealed(path):
        found = read(raw)
        record = found.value
        if not isinstance(record, Call) or record.name != _CLASS:
            kind = record.name if isinstance(record, Call) else type(record).__name__
            raise CheckpointError(
                "normaliser.foreign", f"{path} is a pickle of {kind}"[:200], "one of VecNormalize.save"
            )
        state = as_mapping(record.state)
        clip, epsilon = as_float(state.get("clip_obs", 10.0)), as_float(state.get("epsilon", 1e-8))
        if clip <= 0 or epsilon < 0:
            raise _broken(path, f"clip_obs {clip} and epsilon {epsilon}", "positive numbers")
        obs: Any = None
        if as_bool(state.get("norm_obs", True)):
            obs = _observations(path, state)
        scale = 1.0
        if as_bool(state.get("norm_reward", True)):
            returns = _moments(path, state.get("ret_rms"))
            if returns.var.size != 1:
                raise _broken(path, f"returns with a variance of shape {returns.var.shape}", "one number")
            scale = float(np.sqrt(returns.var.item() + epsilon))
        return Statistics(obs, clip, epsilon, scale, found.names)


def _observations(path: Path, state: Mapping[str, Any]) -> Moments | dict[str, Moments]:
    rms, keys = state.get("obs_rms"), state.get("norm_obs_keys")
    if isinstance(rms, Call) and rms.name.endswith("RunningMeanStd"):
        return _moments(path, rms)
    parts = as_mapping(rms)
    # norm_obs_keys came with SB3 1.2; before it, every key was normalised.
    names = [str(k) for k in keys] if isinstance(keys, list | tuple) else list(parts)
    if not names or not set(names) <= set(parts):
        raise _broken(path, f"statistics of {sorted(parts)} for the keys {names}", "statistics of every normalised key")
    return {name: _moments(path, parts[name]) for name in names}


def _moments(path: Path, rms: Any) -> Moments:
    if not isinstance(rms, Call) or not rms.name.endswith(".RunningMeanStd"):
        raise _broken(path, f"statistics given as {short(rms)}", "a RunningMeanStd")
    state = as_mapping(rms.state)
    mean, var = (as_array(state.get(name)).astype(np.float64) for name in ("mean", "var"))
    if mean.shape != var.shape or not np.isfinite(mean).all() or not np.isfinite(var).all() or (var < 0).any():
        raise _broken(
            path, f"mean of {mean.shape} and variance of {var.shape}", "finite numbers of one shape, variance >= 0"
        )
    return Moments(mean, var)


def _broken(path: Path, found: str, expected: str) -> CheckpointError:
    return CheckpointError("normaliser.broken", f"{path}: {found}", expected, "normalizer=None acts without it")
