"""The layers that teachers and students are both made of: preprocessing, normaliser, encoders; no policy, no file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import quote

import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F
from gymnasium import spaces
from torch import Tensor, nn

from policykd.errors import SpaceError
from policykd.prediction import Obs

__all__ = ["KeyedNormaliser", "Normaliser", "dense", "flat_width", "is_image", "nature_cnn", "normalise", "preprocess"]


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
                # SB3's rule: channels are the shortest axis. They move to the side where the network expects them.
                channels_first = space.shape[0] < space.shape[-1]
                obs = obs.movedim(-1, -3) if channels_first else obs.movedim(-3, -1)
            return obs.float() / 255.0 if scale_images else obs.float()
        case spaces.Box() | spaces.MultiBinary():
            return obs.float()
        case spaces.Discrete(n=n, start=start):
            return F.one_hot(obs.long() - int(start), int(n)).float()
        case spaces.MultiDiscrete(nvec=nvec):
            parts = [F.one_hot(x, int(n)) for x, n in zip(obs.long().unbind(-1), nvec.reshape(-1), strict=True)]
            return torch.cat(parts, -1).float()
    wanted = "Box, Discrete, MultiDiscrete, MultiBinary or a Dict"
    raise SpaceError("space.observation", f"observation space {space}", wanted)


class Normaliser(nn.Module):
    """VecNormalize's arithmetic on observations: clip((obs - mean) / sqrt(var + eps)) in float64, then float32.

    Statistics are buffers: they travel with the weights and never train.

    Args:
        mean, var: ``[*shape]`` of one observation.
        epsilon, clip: VecNormalize's ``epsilon`` and ``clip_obs``.
    """

    mean: Tensor
    var: Tensor
    limits: Tensor
    std: Tensor

    def __init__(self, mean: np.ndarray, var: np.ndarray, epsilon: float = 1e-8, clip: float = 10.0) -> None:
        super().__init__()
        self.register_buffer("mean", torch.as_tensor(np.array(mean, np.float64)))
        self.register_buffer("var", torch.as_tensor(np.array(var, np.float64)))
        self.register_buffer("limits", torch.tensor([epsilon, clip], dtype=torch.float64))
        # Derived, so not saved: it is worth a third of the forward pass of a small student's first layer.
        self.register_buffer("std", torch.sqrt(self.var + self.limits[0]), persistent=False)
        self._clip = clip
        self.register_load_state_dict_post_hook(Normaliser._derive)

    @staticmethod
    def _derive(module: nn.Module, _: object) -> None:
        assert isinstance(module, Normaliser)  # torch's hook hands over the module it was registered on
        module.std.copy_(torch.sqrt(module.var + module.limits[0]))
        module._clip = float(module.limits[1])

    @property
    def epsilon(self) -> float:
        """VecNormalize's ``epsilon``."""
        return float(self.limits[0])

    @property
    def clip(self) -> float:
        """VecNormalize's ``clip_obs``."""
        return self._clip

    def forward(self, obs: Tensor) -> Tensor:
        """Normalised observations, float32."""
        return ((obs.double() - self.mean) / self.std).clamp(-self._clip, self._clip).float()

    def invert(self, obs: Tensor) -> Tensor:
        """Raw observations (float64) of normalised ones, where nothing was clipped."""
        return obs.double() * self.std + self.mean


class KeyedNormaliser(nn.Module):
    """One Normaliser for each of some keys of a Dict observation; any string is a key (a ``ModuleDict`` refuses some).

    Args:
        parts: Normaliser of each key; keys without one pass through.
    """

    def __init__(self, parts: Mapping[str, Normaliser]) -> None:
        super().__init__()
        self._keys = tuple(parts)
        for key, part in parts.items():
            self.add_module(self.module_name(key), part)

    @staticmethod
    def module_name(key: str) -> str:
        """A key's name in the state dict: torch allows neither dots nor the name of an attribute."""
        return "of_" + quote(key, safe="").replace(".", "%2E")

    def items(self) -> list[tuple[str, Normaliser]]:
        """Keys with their Normalisers."""
        return [(key, self.get_submodule(self.module_name(key))) for key in self._keys]  # type: ignore[misc]

    def forward(self, obs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The observation with these keys normalised, float32."""
        return {**obs, **{key: part(obs[key]) for key, part in self.items()}}


def normalise(obs: Obs, normaliser: nn.Module | None) -> Obs:
    """Raw observations through a Normaliser, a KeyedNormaliser, or nothing."""
    if normaliser is None:
        return obs
    if isinstance(normaliser, KeyedNormaliser) != isinstance(obs, Mapping):
        raise SpaceError("space.observation", f"a {type(obs).__name__}", f"what a {type(normaliser).__name__} takes")
    return normaliser(obs)


def dense(sizes: Sequence[int], activation: type[nn.Module] = nn.Tanh) -> nn.Sequential:
    """Linear layers of the given widths, the activation after each (SB3's ``create_mlp`` without an output layer)."""
    layers: list[nn.Module] = []
    for n_in, n_out in zip(sizes[:-1], sizes[1:], strict=True):
        layers += [nn.Linear(n_in, n_out), activation()]
    return nn.Sequential(*layers)


def nature_cnn(channels: int) -> nn.Sequential:
    """Convolutions of Mnih et al. 2015 (Nature 518), as SB3's NatureCNN: ``[*b, c, h, w]`` to flat features."""
    return nn.Sequential(
        nn.Conv2d(channels, 32, 8, 4),
        nn.ReLU(),
        nn.Conv2d(32, 64, 4, 2),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3, 1),
        nn.ReLU(),
        nn.Flatten(),
    )
