"""The network that every student is: encoders, torso, heads; it refuses to know where its weights come from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, final

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from policykd.distributions import (
    Bernoulli,
    Categorical,
    Deterministic,
    DiagGaussian,
    Distribution,
    MultiCategorical,
    TanhGaussian,
)
from policykd.errors import SpaceError
from policykd.fused import network
from policykd.networks import dense, flat_width, is_image, normalise, preprocess
from policykd.policy import ActingLayers, Policy
from policykd.prediction import Obs, Origin, Prediction, Spec
from policykd.students.shape import ACTIVATIONS, Shape

__all__ = ["Student", "distribution_of", "empty", "observed"]

_LOG_STD_LOW, _LOG_STD_HIGH = -20.0, 2.0  # SB3's SAC actor clamps here too
_OUTPUT_GAIN = 0.01  # a fresh student is close to uniform (or to the middle), whatever it sees


def observed(space: spaces.Space) -> list[tuple[str | None, spaces.Space]]:
    """The parts that an observation is read in: the keys of a Dict in its order, or the whole under None.

    Raises:
        SpaceError: ``space.observation`` for a space that no student reads.
    """
    parts: list[tuple[str | None, spaces.Space]] = [(None, space)]
    if isinstance(space, spaces.Dict):
        parts = list(space.spaces.items())
    for key, part in parts:
        if not isinstance(part, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
            where = "observation space" if key is None else f"observation key {key!r}"
            raise SpaceError(
                "space.observation",
                f"{where}: {part}",
                "Box, Discrete, MultiDiscrete, MultiBinary, or one Dict of these",
                "flatten it in an environment wrapper",
            )
    return parts


def _check_family(spec: Spec) -> None:
    match spec.action_space:
        case spaces.Discrete():
            fitting = {"categorical"}
        case spaces.MultiDiscrete():
            fitting = {"multi_categorical"}
        case spaces.MultiBinary():
            fitting = {"bernoulli"}
        case spaces.Box(low=low, high=high):
            fitting = {"diag_gaussian", "deterministic"}
            if np.all(np.isfinite(low)) and np.all(np.isfinite(high)):
                fitting |= {"tanh_gaussian", "tanh_deterministic"}
        case _:
            fitting = set()
    if spec.family not in fitting:
        raise SpaceError(
            "student.family",
            f"family {spec.family} for action space {spec.action_space}",
            " or ".join(sorted(fitting)) or "Discrete, MultiDiscrete, MultiBinary or Box actions",
            "take the teacher's spec",
        )


def _convolutions(shape: tuple[int, ...], channels: tuple[int, ...]) -> nn.Sequential:
    """``[b, c, h, w]`` to flat features.

    Large images: kernels 8, 4, 3 with strides 4, 2, 1; (16, 32) are the convolutions of Mnih et al. 2013 (1312.5602),
    (32, 64, 64) those of Mnih et al. 2015 (Nature 518). Small ones: kernels 3 with stride 2, padded.
    """
    large = min(shape[1:]) >= 36
    layers: list[nn.Module] = []
    for i, (n_in, n_out) in enumerate(zip((shape[0], *channels[:-1]), channels, strict=True)):
        kernel, stride = ((8, 4), (4, 2), (3, 1))[min(i, 2)] if large else (3, 2)
        layers += [nn.Conv2d(n_in, n_out, kernel, stride, 0 if large else 1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten())


class _Encoder(nn.Module):
    """One part of the observation to flat features, ``[*b, width]``; images by convolution if there are channels."""

    def __init__(self, space: spaces.Space, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.space = space
        self.axes = len(space.shape or ()) if isinstance(space, spaces.Box | spaces.MultiBinary) else 1
        self.conv: nn.Sequential | None = None
        self.width = flat_width(space)
        if channels and is_image(space):
            height, width, depth = space.shape  # type: ignore[misc]
            # SB3's rule: the channels are the shortest axis, and the first one where two are equally short.
            self.channels_last = depth < height
            image = (depth, height, width) if self.channels_last else tuple(space.shape)  # type: ignore[arg-type]
            self.conv = _convolutions(image, channels)
            try:
                self.width = int(self.conv(torch.empty(1, *image)).shape[-1])
            except RuntimeError:
                raise SpaceError(
                    "student.channels", f"{len(channels)} convolutions on an image of {image}", "fewer of them"
                ) from None

    def forward(self, obs: Tensor) -> Tensor:
        x = preprocess(obs, self.space)
        if self.conv is None:
            return x.unsqueeze(-1) if self.axes == 0 else x if self.axes == 1 else x.flatten(-self.axes)
        if self.channels_last:
            x = x.movedim(-1, -3)
        return self.conv(x.reshape(-1, *x.shape[-3:])).reshape(*x.shape[:-3], -1)


def distribution_of(spec: Spec, out: Tensor, log_std: Tensor | None, clip_mean: float | None = None) -> Distribution:
    """The distribution that a network's outputs stand for.

    Args:
        out: logits, mean or action before tanh, ``[*b, spec.action_width]``.
        log_std: of the normal families, ``[*b, d]`` or what expands to it.
        clip_mean: bound of a tanh_gaussian's mean.
    """
    match spec.family:
        case "categorical":
            return Categorical(out)
        case "multi_categorical":
            return MultiCategorical(out, tuple(int(n) for n in spec.action_space.nvec.reshape(-1)))  # type: ignore[attr-defined]
        case "bernoulli":
            return Bernoulli(out)
        case "diag_gaussian":
            return DiagGaussian(out, log_std.expand_as(out))  # type: ignore[union-attr]
        case "tanh_gaussian":
            if clip_mean is not None:
                out = out.clamp(-clip_mean, clip_mean)
            return TanhGaussian(out, log_std.clamp(_LOG_STD_LOW, _LOG_STD_HIGH))  # type: ignore[union-attr]
        case "deterministic":
            return Deterministic(out)
        case "tanh_deterministic":
            return Deterministic(torch.tanh(out))


def _listened(module: nn.Module) -> bool:
    forward = module._forward_hooks or module._forward_pre_hooks
    return bool(forward or module._backward_hooks or module._backward_pre_hooks)


@final
class Student(Policy):
    """A small policy that can be trained, saved and shipped.

    Args:
        spec: spaces and family to match.
        shape: widths, activation, heads.
        seed: of the first weights.
        origin: environment and wrappers it is meant for.

    Attributes:
        normaliser: Normaliser, KeyedNormaliser, or None; see ``fit_normaliser``.
        torso: linear layers and activations, encoded observation to ``[*b, hidden[-1]]``.
        action_head: logits, mean or action, ``[*b, spec.action_width]``.
        log_std: parameter ``[d]`` (diag_gaussian), linear head (tanh_gaussian) or None.
        value_head: linear head or None; its output is in units of ``value_units``.
        scaled: whether the weights belong to a scale of observations already (a normaliser was given, layers are the
            teacher's, a file was loaded); ``adopt_scales`` leaves such a student alone.
        value_units: buffer (offset, scale): the value is offset + scale * head, in environment reward units.

    Raises:
        SpaceError: ``student.family``, ``space.observation`` for spaces and families that no student has.
    """

    value_units: Tensor

    def __init__(self, spec: Spec, shape: Shape, *, seed: int = 0, origin: Origin | None = None) -> None:
        super().__init__(spec, origin or Origin(algo="cnn" if shape.channels else "mlp"))
        _check_family(spec)
        self.shape = shape
        self.scaled = False
        parts = observed(spec.observation_space)
        self._keys = [key for key, _ in parts]
        # On "meta" no layer draws its default weights from the global generator.
        with torch.device("meta"):
            self.encoders = nn.ModuleList(_Encoder(space, shape.channels) for _, space in parts)
            width = sum(e.width for e in self.encoders)  # type: ignore[misc]
            self.torso = dense((width, *shape.hidden), ACTIVATIONS[shape.activation])
            width = (width, *shape.hidden)[-1]
            self.action_head = nn.Linear(width, spec.action_width)
            self.log_std: nn.Parameter | nn.Linear | None = None
            if spec.family == "diag_gaussian":
                self.log_std = nn.Parameter(torch.empty(spec.action_width))
            elif spec.family == "tanh_gaussian":
                self.log_std = nn.Linear(width, spec.action_width)
            self.value_head = nn.Linear(width, 1) if shape.value else None
            self.register_buffer("value_units", torch.empty(2) if shape.value else None)
        device = torch.get_default_device()
        if device.type != "meta":
            self.to_empty(device=device)
            self.reset_parameters(seed)

    @torch.no_grad()
    def reset_parameters(self, seed: int) -> None:
        """First weights: orthogonal (Saxe et al. 2014, 1312.6120), outputs close to zero, standard deviation 1."""
        generator = torch.Generator().manual_seed(seed)
        heads = {id(self.action_head), id(self.log_std), id(self.value_head)}
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                gain = _OUTPUT_GAIN if id(module) in heads else math.sqrt(2.0)
                nn.init.orthogonal_(module.weight, gain, generator=generator)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if isinstance(self.log_std, nn.Parameter):
            self.log_std.zero_()
        if self.value_head is not None:
            self.value_units.copy_(torch.tensor([0.0, 1.0]))

    def forward(self, obs: Obs, state: Any = None, start: Tensor | None = None, *, values: bool = True) -> Prediction:
        """Prediction for raw observations ``[*b, ...]``; ``features["torso"]`` is ``[*b, hidden[-1]]``."""
        torso, *outs = self._network(self.encode(obs), self.heads(values=values))
        return self.says(torso, outs, values=values)

    def heads(self, *, values: bool = True) -> list[nn.Linear]:
        """The linear layers on the torso: of actions, of their spread, of the value."""
        found = [self.action_head, self.log_std, self.value_head if values else None]
        return [head for head in found if isinstance(head, nn.Linear)]

    def says(self, torso: Tensor, outs: Sequence[Tensor], *, values: bool = True) -> Prediction:
        """The Prediction that outputs of ``heads`` on ``torso`` stand for."""
        out, *more = outs
        spread = more.pop(0) if isinstance(self.log_std, nn.Linear) else self.log_std
        dist = distribution_of(self.spec, out, spread, self.shape.clip_mean)
        if not values:
            return Prediction(dist)
        value = None
        if more:
            value = self.value_units[0] + self.value_units[1] * more[0].squeeze(-1)
        return Prediction(dist, value, features={"torso": torso})

    def encode(self, obs: Obs) -> Tensor:
        """Raw observations ``[*b, ...]`` as the torso reads them, ``[*b, width]``."""
        seen = normalise(obs, self.normaliser)
        if isinstance(seen, dict):
            parts = [encoder(seen[key]) for key, encoder in zip(self._keys, self.encoders, strict=True)]  # type: ignore[index]
            return torch.cat(parts, -1)
        return self.encoders[0](seen)

    def is_plain(self, *heads: nn.Linear) -> bool:
        """Whether the layers compute what the shape says, and nobody listens to one of them."""
        kinds = (nn.Linear, ACTIVATIONS[self.shape.activation])
        for i, module in enumerate(self.torso):
            if type(module).forward is not kinds[i % 2].forward or _listened(module):
                return False
        return not any(type(head).forward is not nn.Linear.forward or _listened(head) for head in heads)

    def _network(self, x: Tensor, heads: list[nn.Linear]) -> tuple[Tensor, ...]:
        """What the heads read, and what each says."""
        if not self.is_plain(*heads):
            torso = self.torso(x)  # whoever listens to single layers hears them
            return torso, *(head(torso) for head in heads)
        inner = [(m.weight, m.bias) for m in self.torso if isinstance(m, nn.Linear)]
        activation = ACTIVATIONS[self.shape.activation]
        return network(x, inner, activation, [(head.weight, head.bias) for head in heads])

    @property
    def acting_layers(self) -> ActingLayers:
        """The student's own layers; ``convolutions`` only where the whole observation is one image."""
        linears = (*(m for m in self.torso if isinstance(m, nn.Linear)), self.action_head)
        convolutions = self.encoders[0].modules() if self._keys == [None] else ()
        return ActingLayers(
            linears,
            ACTIVATIONS[self.shape.activation],
            tuple(m for m in convolutions if isinstance(m, nn.Conv2d)),
            self.log_std,
            self.shape.clip_mean,
        )

    @property
    def acting_parameters(self) -> int:
        """Numbers in encoders, torso and action head."""
        acting = (self.encoders, self.torso, self.action_head)
        return sum(p.numel() for module in acting for p in module.parameters())


def empty(spec: Spec, shape: Shape) -> Student:
    """A student of the right shapes without memory behind them (device "meta"): to count, or to be filled."""
    with torch.device("meta"):
        return Student(spec, shape)
