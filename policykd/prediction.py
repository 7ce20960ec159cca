"""The records that flow between rooms; it computes no loss and knows nobody who acts.

All tensors of a Prediction share their leading dimensions ``*b`` (students x time x batch, whichever there are).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias, get_args

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from policykd.distributions import Distribution, map_tensors
from policykd.errors import SpaceError

__all__ = [
    "FAMILIES",
    "Batch",
    "EnvWrapper",
    "Family",
    "Obs",
    "Origin",
    "Prediction",
    "Progress",
    "Spec",
    "Update",
    "alike",
    "map_obs",
    "obs_tensor",
    "rows_of",
]

Family: TypeAlias = Literal[
    "categorical",
    "multi_categorical",
    "bernoulli",
    "diag_gaussian",
    "tanh_gaussian",
    "deterministic",
    "tanh_deterministic",
]
FAMILIES: tuple[Family, ...] = get_args(Family)
Obs: TypeAlias = Tensor | dict[str, Tensor]


def map_obs(obs: Obs, f: Callable[[Tensor], Tensor]) -> Obs:
    """``f`` applied to an observation tensor, or to each tensor of a dict of them."""
    return {k: f(v) for k, v in obs.items()} if isinstance(obs, dict) else f(obs)


def rows_of(obs: Any) -> int:
    """How many rows a tensor, an array, a tuple, or a dict of them, holds."""
    return len(next(iter(obs.values())) if isinstance(obs, Mapping) else obs)


def obs_tensor(obs: np.ndarray | Mapping[str, np.ndarray]) -> Obs:
    """Observations of an environment as tensors of the same dtype (a copy only where numpy's memory is read-only)."""
    if isinstance(obs, Mapping):
        return {k: torch.from_numpy(np.require(v, requirements="W")) for k, v in obs.items()}
    return torch.from_numpy(np.require(obs, requirements="W"))


def alike(a: gym.Space, b: gym.Space) -> bool:
    """Whether two spaces are of one kind and size; bounds may differ, and an image have its channels first or last."""
    match a, b:
        case spaces.Dict(), spaces.Dict():
            return set(a.spaces) == set(b.spaces) and all(alike(a[key], b[key]) for key in a.spaces)
        case spaces.Discrete(), spaces.Discrete():
            return bool(a.n == b.n and a.start == b.start)
        case spaces.MultiDiscrete(), spaces.MultiDiscrete():
            return np.array_equal(a.nvec, b.nvec) and np.array_equal(a.start, b.start)
    return type(a) is type(b) and sorted(a.shape or ()) == sorted(b.shape or ())


@dataclass(frozen=True)
class Spec:
    """What a student must match: the spaces, and the family of the action distribution.

    Actions of the squashed families (``tanh_*``) live in [-1, 1]; the others are in environment units.
    """

    observation_space: gym.Space
    action_space: gym.Space
    family: Family

    @property
    def squashed(self) -> bool:
        """Whether actions live in [-1, 1] and are stretched to the action space's bounds."""
        return self.family.startswith("tanh_")

    @property
    def discrete(self) -> bool:
        """Whether actions are choices rather than numbers."""
        return self.family in ("categorical", "multi_categorical", "bernoulli")

    @property
    def action_width(self) -> int:
        """Number of outputs that the acting network needs: logits of all choices, or action dimensions."""
        match self.action_space:
            case spaces.Discrete(n=n):
                return int(n)
            case spaces.MultiDiscrete(nvec=nvec):
                return int(nvec.sum())
            case spaces.MultiBinary() | spaces.Box():
                return int(np.prod(self.action_space.shape or (1,)))
        raise SpaceError(
            "space.action", f"action space {self.action_space}", "Discrete, MultiDiscrete, MultiBinary or Box"
        )

    def differences(self, other: Spec) -> dict[str, tuple[Any, Any]]:
        """What keeps a policy of this spec from standing in for one of the other, spaces being compared by ``alike``.

        Returns:
            Own and the other's ``family``, ``observation``, ``action``, where they differ.
        """
        pairs = {
            "observation": (self.observation_space, other.observation_space),
            "action": (self.action_space, other.action_space),
        }
        found: dict[str, tuple[Any, Any]] = {name: pair for name, pair in pairs.items() if not alike(*pair)}
        return found if self.family == other.family else {"family": (self.family, other.family), **found}

    def to_env(self, action: Tensor | np.ndarray) -> np.ndarray:
        """Actions of the distribution, ``[*b, d]`` (Discrete: ``[*b]``), as the environment takes them.

        Squashed actions are stretched from [-1, 1] to the bounds; others are clipped to them. The arithmetic is SB3's,
        in the action space's dtype and order, so that results agree to the last bit.
        """
        array = action.detach().cpu().numpy() if isinstance(action, Tensor) else np.asarray(action)
        match self.action_space:
            case spaces.Box(low=low, high=high, shape=shape):
                array = array.reshape(*array.shape[:-1], *shape)
                if self.squashed:
                    return low + (0.5 * (array + 1.0) * (high - low))
                return np.clip(array, low, high)
            case spaces.Discrete(start=start) | spaces.MultiDiscrete(start=start):
                return array.astype(self.action_space.dtype) + start
            case spaces.MultiBinary(shape=shape):
                return array.astype(self.action_space.dtype).reshape(*array.shape[:-1], *shape)
        return array

    def is_batched(self, obs: Any) -> bool:
        """Whether ``obs`` holds several observations rather than one.

        Raises:
            SpaceError: ``space.observation`` when it is neither.
        """
        space, found = self.observation_space, obs
        if isinstance(space, spaces.Dict):
            key = next(iter(space.spaces))
            if not isinstance(obs, Mapping) or set(obs) != set(space.spaces):
                keys = sorted(obs) if isinstance(obs, Mapping) else type(obs).__name__
                raise SpaceError("space.observation", f"an observation with {keys}", f"keys {sorted(space.spaces)}")
            space, found = space.spaces[key], obs[key]
        want, have = tuple(space.shape or ()), tuple(np.shape(found))
        shapes = {want, (want[-1], *want[:-1]), (*want[1:], want[0])} if len(want) == 3 else {want}
        if have in shapes:
            return False
        if have[1:] in shapes:
            return True
        raise SpaceError(
            "space.observation",
            f"observations of shape {have}",
            f"{want} or (n, {', '.join(map(str, want))})".replace(", )", ")"),
            "give observations as the environment (with the teacher's wrappers) returns them",
        )


@dataclass(frozen=True)
class EnvWrapper:
    """An environment wrapper that a teacher needs: a name known to ``policykd.recipe`` and its arguments."""

    name: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Origin:
    """Where a policy comes from; whatever is not known is None or empty."""

    path: str | None = None
    sha256: str | None = None
    algo: str | None = None
    """Lower-case name of the algorithm (``ppo``, ``tqc``), or of the student's kind (``mlp``)."""
    env_id: str | None = None
    """Id that exists today (LunarLander-v2 has become LunarLander-v3)."""
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    wrappers: tuple[EnvWrapper, ...] = ()
    gamma: float | None = None
    reward_scale: float = 1.0
    """Environment reward units in one unit of the critic: sqrt(var + eps) of VecNormalize's returns, or 1."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a policy says about a batch of observations.

    Attributes:
        dist: action distribution, leading dimensions ``*b``.
        value: discounted return in environment reward units, ``[*b]``.
        q: raw action values in environment reward units, ``[*b, a]``; temperatures act in losses/targets.py.
        features: named activations, ``[*b, n]``.
        state: recurrent state.
    """

    dist: Distribution
    value: Tensor | None = None
    q: Tensor | None = None
    features: Mapping[str, Tensor] = field(default_factory=dict)
    state: Any = None

    def map(self, f: Callable[[Tensor], Tensor]) -> Prediction:
        """``f`` applied to every tensor but the recurrent state's."""
        return Prediction(
            map_tensors(self.dist, f),
            None if self.value is None else f(self.value),
            None if self.q is None else f(self.q),
            {k: f(v) for k, v in self.features.items()},
            self.state,
        )

    def __getitem__(self, rows: Any) -> Prediction:
        return self.map(lambda t: t[rows])


@dataclass(frozen=True, eq=False)
class Batch:
    """Labelled observations.

    Attributes:
        obs: the student's view, ``[*b, ...]`` or a dict of such tensors.
        target: the teacher's word, frozen: no gradient flows into it.
        weight: how much a row counts, ``[*b]``, None for 1.
        mask: rows that count at all, ``[*b]`` bool, None for all.
        extra: label, action, reward, old_log_prob, advantage, return, task: what objectives beyond pair losses need.
    """

    obs: Obs
    target: Prediction
    weight: Tensor | None = None
    mask: Tensor | None = None
    extra: Mapping[str, Tensor] = field(default_factory=dict)

    def map(self, f: Callable[[Tensor], Tensor]) -> Batch:
        """``f`` applied to every tensor."""
        return Batch(
            map_obs(self.obs, f),
            self.target.map(f),
            None if self.weight is None else f(self.weight),
            None if self.mask is None else f(self.mask),
            {k: f(v) for k, v in self.extra.items()},
        )

    def __getitem__(self, rows: Any) -> Batch:
        return self.map(lambda t: t[rows])

    def __len__(self) -> int:
        return rows_of(self.obs)

    def with_extra(self, **extra: Tensor) -> Batch:
        """The same batch with more columns."""
        return replace(self, extra={**self.extra, **extra})


@dataclass(frozen=True)
class Progress:
    """How far a run has come; schedules are functions of it."""

    env_steps: int = 0
    updates: int = 0
    fraction: float = 0.0
    """Share of the budget that is spent, 0 to 1."""
    retention: float | None = None
    """What the student keeps of its teacher's return, as far as the loop knows."""
    agreement: float | None = None
    """Share of the last rows on which student and teacher would act alike, as far as the loop knows."""
    losses: Mapping[str, float] = field(default_factory=dict)
    """Each term of the step before, reduced and not weighted; a Learner fills them in. Empty at the first step."""


@dataclass(frozen=True, eq=False)
class Update:
    """What one ``Learner.step`` did. Tensors stay on the device: read them when you like (``float(update.loss)``)."""

    step: int
    loss: Tensor
    terms: Mapping[str, Tensor] = field(default_factory=dict)
    """The reduced value of each weighted term, before its weight."""
    weights: Mapping[str, float | Tensor] = field(default_factory=dict)
    """A number, or what a parametric loss has learnt (a tensor without dimensions)."""
    grad_norm: Tensor | None = None
    progress: Progress = Progress()
    lr: float = 0.0
