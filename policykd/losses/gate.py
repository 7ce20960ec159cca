"""Who of several teachers is listened to in which state, by attention; it never sees the loss that it weighs.

A gate learns from return: ``Ensemble(teachers, how, gate)`` is a policy whose only free numbers are the gate's, and any
policy gradient trains it (``policykd.reinforced``). Trained on the distillation loss it would learn which teacher is
easy to copy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import final

import gymnasium as gym
import torch
from gymnasium import spaces
from torch import Tensor, nn

from policykd.distributions import Bernoulli, Deterministic, DiagGaussian, TanhGaussian
from policykd.errors import UsageError
from policykd.losses import choices
from policykd.networks import dense, flat_width, preprocess
from policykd.prediction import Obs, Prediction, Spec

__all__ = ["Gate"]

_LIMIT = 5.0  # observations beyond this many standard deviations of the sample read as that


@final
class Gate(nn.Module):
    """softmax_k(q(s) . key_k / sqrt(width)): attention (Vaswani et al. 2017, 1706.03762, eq. 1) over teachers.

    The query is a small net of the observation. A teacher's key is a linear map of what it says there (probabilities,
    or mean and log standard deviation; action values by their z-scores, which have no unit) and a vector of its own:
    so the gate knows both who speaks and what is said. A fresh gate listens to all alike, or nearly.

    Args:
        spec: of the teachers.
        teachers: how many.
        sample: observations, ``[n, ...]``, for the scale of the query's net.
        hidden, width: of the query's layer, and of queries and keys.
        seed: of the first weights.

    Raises:
        UsageError: ``gate.teachers`` for fewer than two teachers, ``gate.said`` (at the call) for another number.
    """

    def __init__(
        self, spec: Spec, teachers: int, sample: Obs, *, hidden: int = 64, width: int = 32, seed: int = 0
    ) -> None:
        super().__init__()
        if teachers < 2:
            raise UsageError("gate.teachers", f"a gate over {teachers} teachers", "two or more")
        self.spec, self.teachers = spec, teachers
        continuous = 1 if spec.family.endswith("deterministic") else 2
        said = spec.action_width * (1 if spec.discrete else continuous)
        self.query = nn.Sequential(*dense([flat_width(spec.observation_space), hidden]), nn.Linear(hidden, width))
        self.key = nn.Linear(said, width)
        self.names = nn.Parameter(torch.empty(teachers, width))
        _draw(self, torch.Generator().manual_seed(seed))
        rows = _flat(sample, spec.observation_space)
        std = rows.std(0)
        self.register_buffer("centre", rows.mean(0))
        self.register_buffer("spread", torch.where(std > 1e-6, std, 1.0))
        self.centre: Tensor
        self.spread: Tensor

    def forward(self, obs: Obs, said: Sequence[Prediction]) -> Tensor:
        """The teachers' shares in each row, ``[k, *b]``, above 0 and of sum 1."""
        if len(said) != self.teachers:
            raise UsageError("gate.said", f"{len(said)} predictions", f"those of {self.teachers} teachers")
        rows = _flat(obs, self.spec.observation_space)
        query = self.query(((rows - self.centre) / self.spread).clamp(-_LIMIT, _LIMIT))
        keys = self.key(torch.stack([_described(p) for p in said]))
        keys = keys + self.names.reshape(self.teachers, *[1] * (keys.dim() - 2), -1)
        return torch.softmax((query * keys).sum(-1) / keys.shape[-1] ** 0.5, 0)


def _flat(obs: Obs, space: gym.Space) -> Tensor:
    """Observations as vectors, ``[*b, n]``: keys of a Dict side by side, choices one-hot."""
    if isinstance(space, spaces.Dict):
        assert isinstance(obs, Mapping)
        return torch.cat([_flat(obs[key], part) for key, part in space.spaces.items()], -1)
    assert isinstance(obs, Tensor)
    ready = preprocess(obs, space)
    own = 1 if isinstance(space, spaces.Discrete | spaces.MultiDiscrete) else len(space.shape or ())
    return ready.reshape(*ready.shape[: ready.dim() - own], flat_width(space))


@torch.no_grad()
def _draw(gate: Gate, generator: torch.Generator) -> None:
    """First weights as torch draws them, from a generator of their own."""
    for layer in gate.modules():
        if isinstance(layer, nn.Linear):
            for p in (layer.weight, layer.bias):
                p.uniform_(-1.0, 1.0, generator=generator).div_(layer.in_features**0.5)
    gate.names.normal_(0.0, 0.1, generator=generator)


@torch.no_grad()
def _described(said: Prediction) -> Tensor:
    """What a teacher says, as numbers of order one, ``[*b, m]``."""
    match dist := said.dist:
        case DiagGaussian():
            return torch.cat([dist.mean, dist.log_std], -1)
        case TanhGaussian():
            return torch.cat([dist.mode(), dist.log_std], -1)
        case Deterministic():
            return dist.action
        case Bernoulli():
            return dist.probs
    if said.q is not None:
        return torch.softmax(choices.z_scores(said.q), -1)
    return torch.cat([torch.softmax(part, -1) for part in choices.split(dist) or []], -1)
