"""The layers that teachers and students are both made of: preprocessing, normaliser, encoders; no policy, no file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F
from gymnasium import spaces
from torch import Tensor, nn

from policykd.errors import SpaceError
from policykd.prediction import Obs

__all__ = ["Normaliser", "dense", "flat_width", "is_image", "nature_cnn", "normalise", "preprocess"]


def is_image(space: gym.Space) -> bool:
    """Whether SB3 would take the space for an image: three axes of bytes from 0 to 255."""
    return (
        isinstance(space, spaces.Box)
        and space.dtype == np.uint8
        and len(space.shape) == 3
        and bool(np.all(space.low == 0) and np.all(space.high == 255))
    )


def flat_width(space: gym.Space) -> int:
    """Number of features of a space once preprocessed and flattened (one-hot where it is discrete)."""
    return int(spaces.utils.flatdim(space))


def preprocess(obs: Tensor, space: gym.Space, scale_images: bool = True) -> Tensor:
    """One raw observation tensor as network input, like SB3's ``preprocess_obs``.

    Images become float in [0, 1] with channels first (as in ``space``); Discrete and MultiDiscrete become one-hot.

    Args:
        obs: ``[*b, *space.shape]``; an image may come with its channels on the other side.
        space: the space that the network was built for.
        scale_images: divide images by 255.
    """
    match space:
        case spaces.Box() if is_image(space):
            if tuple(obs.shape[-3:]) != space.shape:
                obs = obs.movedim(-1, -3)
            return obs.float() / 255.0 if scale_images else obs.float()
        case spaces.Box() | spaces.MultiBinary():
            return obs.float()
        case spaces.Discrete(n=n, start=start):
            return F.one_hot(obs.long() - int(start), int(n)).float()
        case spaces.MultiDiscrete(nvec=nvec):
            parts = [F.one_hot(x, int(n)) for x, n in zip(obs.long().unbind(-1), nvec.reshape(-1), strict=True)]
            return torch.cat(parts, -1).float()
    raise SpaceError("space.observation", f"observation space {space}", "Box, Discrete, MultiDiscrete, MultiBinary or a Dict")


class Normaliser(nn.Module):
    """VecNormalize's arithmetic on observations: clip((obs - mean) / sqrt(var + eps)) in float64, then float32.

    Statistics are buffers: they travel with the weights and never train. For a Dict observation there is one Normaliser
    a key (hold them in an ``nn.ModuleDict``).

    Args:
        mean, var: ``[*shape]`` of one observation.
        epsilon, clip: VecNormalize's ``epsilon`` and ``clip_obs``.
    """

    mean: Tensor
    var: Tensor
    limits: Tensor

    def __init__(self, mean: np.ndarray, var: np.ndarray, epsilon: float = 1e-8, clip: float = 10.0) -> None:
        super().__init__()
        self.register_buffer("mean", torch.as_tensor(np.array(mean, np.float64)))
        self.register_buffer("var", torch.as_tensor(np.array(var, np.float64)))
        self.register_buffer("limits", torch.tensor([epsilon, clip], dtype=torch.float64))

    @property
    def epsilon(self) -> float:
        """VecNormalize's ``epsilon``."""
        return float(self.limits[0])

    @property
    def clip(self) -> float:
        """VecNormalize's ``clip_obs``."""
        return float(self.limits[1])

    def forward(self, obs: Tensor) -> Tensor:
        """Normalised observations, float32."""
        scaled = (obs.double() - self.mean) / torch.sqrt(self.var + self.limits[0])
        return torch.minimum(torch.maximum(scaled, -self.limits[1]), self.limits[1]).float()

    def invert(self, obs: Tensor) -> Tensor:
        """Raw observations (float64) of normalised ones, where nothing was clipped."""
        return obs.double() * torch.sqrt(self.var + self.limits[0]) + self.mean


def normalise(obs: Obs, normaliser: nn.Module | None) -> Obs:
    """Raw observations through a Normaliser, a ``ModuleDict`` of them (keys without one pass), or nothing."""
    if normaliser is None:
        return obs
    if isinstance(normaliser, nn.ModuleDict):
        if not isinstance(obs, Mapping):
            raise SpaceError("space.observation", "a plain observation", f"a dict with {sorted(normaliser)}")
        return {k: normaliser[k](v) if k in normaliser else v for k, v in obs.items()}
    return normaliser(obs)


def dense(sizes: Sequence[int], activation: type[nn.Module] = nn.Tanh) -> nn.Sequential:
    """Linear layers of the given widths with the activation after each (SB3's ``create_mlp`` without an output layer)."""
    layers: list[nn.Module] = []
    for n_in, n_out in zip(sizes[:-1], sizes[1:], strict=True):
        layers += [nn.Linear(n_in, n_out), activation()]
    return nn.Sequential(*layers)


def nature_cnn(channels: int) -> nn.Sequential:
    """Convolutions of Mnih et al. 2015 (Nature 518, methods), as SB3's NatureCNN: ``[*b, c, h, w]`` to flat features."""
    return nn.Sequential(
        nn.Conv2d(channels, 32, 8, 4),
        nn.ReLU(),
        nn.Conv2d(32, 64, 4, 2),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3, 1),
        nn.ReLU(),
        nn.Flatten(),
    )
