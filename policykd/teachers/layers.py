"""SB3's layers as plain torch modules, rebuilt around the tensors of a checkpoint; it allocates no weight of its own.

Shapes come from the tensors and are checked against the spaces, so that no declaration in a file can ask for memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import torch
from gymnasium import spaces
from torch import Tensor, nn

from policykd.checkpoints.pickles import short
from policykd.errors import CheckpointError
from policykd.networks import flat_width, is_image, nature_cnn, preprocess
from policykd.prediction import Obs

__all__ = ["BatchRenorm", "Features", "NatureCNN", "Shelf", "check_declared", "widths"]


def _misfit(found: str, expected: str) -> CheckpointError:
    return CheckpointError("weights.shape", found, expected, "the weights do not belong to this policy")


class BatchRenorm(nn.Module):
    """Batch renormalisation (Ioffe 2017, 1702.03275) as it acts: running statistics, then an affine map."""

    ra_mean: Tensor
    ra_var: Tensor

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.register_buffer("ra_mean", torch.empty(width))
        self.register_buffer("ra_var", torch.empty(width))
        self.register_buffer("steps", torch.empty((), dtype=torch.long))
        self.scale = nn.Parameter(torch.empty(width))
        self.bias = nn.Parameter(torch.empty(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """``[*b, width]`` to the same."""
        x = (x - self.ra_mean) / (self.ra_var + self.eps).sqrt()
        return self.scale * x + self.bias


class NatureCNN(nn.Module):
    """SB3's NatureCNN: convolutions, then one dense layer."""

    def __init__(self, channels: int, flat: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.cnn = nature_cnn(channels)
        self.linear = nn.Sequential(nn.Linear(flat, width), nn.ReLU())

    @property
    def dense(self) -> nn.Linear:
        """The layer behind the convolutions."""
        return next(layer for layer in self.linear if isinstance(layer, nn.Linear))

    def forward(self, x: Tensor) -> Tensor:
        """``[b, c, h, w]`` to ``[b, width]``."""
        return self.linear(self.cnn(x))


class Features(nn.Module):
    """Observations (normalised, as the policy was trained on) to flat features, ``[*b, width]``.

    Args:
        space: the observation space.
        encoders: a NatureCNN for each part that has one, by key (``""`` for a plain observation).
        scale_images: divide images by 255.
    """

    def __init__(self, space: gym.Space, encoders: Mapping[str, NatureCNN], scale_images: bool) -> None:
        super().__init__()
        self.space = space
        self.scale_images = scale_images
        # Keys of a Dict may hold dots, which module names must not: they are numbered.
        self.parts = list(space.spaces.items()) if isinstance(space, spaces.Dict) else [("", space)]
        self.encoders = nn.ModuleList([encoders.get(key, nn.Identity()) for key, _ in self.parts])
        self.width = sum(encoders[k].width if k in encoders else flat_width(part) for k, part in self.parts)

    @property
    def images(self) -> int:
        """Number of parts that pass through convolutions."""
        return sum(isinstance(encoder, NatureCNN) for encoder in self.encoders)

    @property
    def image(self) -> NatureCNN | None:
        """The convolutions of an observation that is one image of bytes, scaled to [0, 1]."""
        encoder = self.encoders[0]
        alone = len(self.parts) == 1 and not isinstance(self.space, spaces.Dict)
        return (
            encoder if alone and isinstance(encoder, NatureCNN) and self.scale_images and is_image(self.space) else None
        )

    def forward(self, obs: Obs) -> Tensor:
        """Features of observations with any leading dimensions."""
        if isinstance(obs, dict):
            parts = zip(self.parts, self.encoders, strict=True)
            return torch.cat([self._encode(obs[key], part, encoder) for (key, part), encoder in parts], -1)
        return self._encode(obs, self.parts[0][1], self.encoders[0])

    def _encode(self, obs: Tensor, space: gym.Space, encoder: nn.Module) -> Tensor:
        x = preprocess(obs, space, self.scale_images)
        own = len(space.shape or ()) if isinstance(space, spaces.Box | spaces.MultiBinary) else 1
        lead = x.shape[: x.ndim - own]
        if isinstance(encoder, nn.Identity):
            return x.reshape(*lead, -1)
        return encoder(x.reshape(-1, *x.shape[-3:])).reshape(*lead, -1)


class Shelf:
    """A state dict from which modules take their tensors, each once; what is left in the end belongs to no module."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self._left = dict(weights)

    def has(self, prefix: str) -> bool:
        """Whether any tensor's name starts so."""
        return any(name.startswith(prefix) for name in self._left)

    def take(self, prefix: str) -> dict[str, Tensor]:
        """Every tensor whose name starts so, by the rest of its name."""
        names = [name for name in self._left if name.startswith(prefix)]
        return {name.removeprefix(prefix): self._left.pop(name) for name in names}

    def one(self, name: str) -> Tensor:
        """The tensor of that name."""
        if name not in self._left:
            raise _misfit(f"no tensor {name!r}", "one")
        return self._left.pop(name)

    def finish(self) -> None:
        """Refuse tensors that nobody took, target networks apart."""
        extra = [n for n in self._left if not n.split(".")[0].endswith("_target")]
        if extra:
            raise _misfit(f"{len(extra)} tensors that the policy does not have ({', '.join(extra[:3])})"[:200], "none")

    def outputs(self, prefix: str) -> int:
        """The width of the last numbered dense layer under a prefix."""
        rest = {name.removeprefix(f"{prefix}."): t for name, t in self._left.items() if name.startswith(f"{prefix}.")}
        dense = {int(n.split(".")[0]): t.shape[0] for n, t in rest.items() if t.ndim == 2 and n.split(".")[0].isdigit()}
        if not dense:
            raise _misfit(f"no layers {prefix}", "one or more")
        return dense[max(dense)]

    def linear(self, prefix: str, n_in: int, n_out: int | None = None) -> nn.Linear:
        """One dense layer."""
        return self._dense(self.take(f"{prefix}."), prefix, n_in, n_out)

    def sequence(
        self, prefix: str, n_in: int, activation: type[nn.Module], n_out: int | None = None, eps: float = 1e-3
    ) -> nn.Sequential:
        """A stack as SB3's ``create_mlp`` numbers it: a number without tensors is an activation.

        Args:
            n_in: width of what it receives.
            n_out: width of its output layer; None for a stack that ends in an activation.
            eps: of its BatchRenorm layers.
        """
        tensors, layers, width = self.take(f"{prefix}."), list[nn.Module](), n_in
        numbers = {int(head) for name in tensors if (head := name.split(".")[0]).isdigit() and len(head) < 5}
        for i in range(max(numbers, default=-1) + 1):
            own = {name: tensors.pop(name) for name in list(tensors) if name.startswith(f"{i}.")}
            own = {name.split(".", 1)[1]: tensor for name, tensor in own.items()}
            if "ra_mean" in own:
                layers.append(_filled(BatchRenorm, own, f"{prefix}.{i}", width, eps))
            elif own:
                layers.append(self._dense(own, f"{prefix}.{i}", width, None))
                width = layers[-1].out_features  # type: ignore[assignment]
            elif not layers or not isinstance(layers[-1], nn.Linear):
                raise _misfit(f"no tensors for layer {prefix}.{i}", "dense layers with an activation between them")
            else:
                layers.append(activation())
        if tensors:
            raise _misfit(f"tensors {sorted(tensors)[:3]} in {prefix}", "numbered layers")
        if n_out is None and layers and isinstance(layers[-1], nn.Linear):
            layers.append(activation())
        if n_out is not None and (not layers or not isinstance(layers[-1], nn.Linear) or width != n_out):
            raise _misfit(f"{prefix} ends in {width} outputs", f"{n_out}")
        return nn.Sequential(*layers)

    def features(self, prefix: str, space: gym.Space, scale_images: bool) -> Features:
        """A features extractor: flattened numbers, or a NatureCNN for each image."""
        tensors = self.take(f"{prefix}.")
        parts = space.spaces if isinstance(space, spaces.Dict) else {"": space}
        encoders: dict[str, NatureCNN] = {}
        for key, part in parts.items():
            start = f"extractors.{key}." if key or isinstance(space, spaces.Dict) else ""
            own = {n.removeprefix(start): tensors.pop(n) for n in list(tensors) if n.startswith(start)}
            if own and scale_images and not is_image(part):
                raise CheckpointError(
                    "space.image", f"a NatureCNN for {part}"[:160], "bytes from 0 to 255, as SB3 asks for"
                )
            if own:
                encoders[key] = _nature(own, f"{prefix}.{start}", part)
        if tensors:
            raise _misfit(f"tensors {sorted(tensors)[:3]} in {prefix}"[:200], "SB3's NatureCNN or CombinedExtractor")
        return Features(space, encoders, scale_images)

    @staticmethod
    def _dense(tensors: dict[str, Tensor], name: str, n_in: int, n_out: int | None) -> nn.Linear:
        weight = tensors.get("weight")
        if weight is None or weight.ndim != 2:
            raise _misfit(f"layer {name} with {sorted(tensors)}"[:200], "a dense layer")
        if weight.shape[1] != n_in or n_out not in (None, weight.shape[0]):
            raise _misfit(f"{name}.weight of shape {tuple(weight.shape)}", f"({n_out or '*'}, {n_in})")
        return _filled(nn.Linear, tensors, name, n_in, weight.shape[0], "bias" in tensors)


def _filled(make: type[nn.Module], tensors: dict[str, Tensor], name: str, *args: Any) -> Any:
    """A module made without memory, whose parameters then are the given tensors."""
    with torch.device("meta"):
        module = make(*args)
    want = {k: v.shape for k, v in module.state_dict().items()}
    have = {k: v.shape for k, v in tensors.items()}
    if want != have:
        wrong = next(k for k in [*want, *have] if want.get(k) != have.get(k))
        shapes = [tuple(s) if s is not None else "none" for s in (have.get(wrong), want.get(wrong))]
        raise _misfit(f"{name}.{wrong} of shape {shapes[0]}", f"{shapes[1]}")
    module.load_state_dict(tensors, assign=True)
    return module


def _nature(tensors: dict[str, Tensor], name: str, space: gym.Space) -> NatureCNN:
    first, last = tensors.get("cnn.0.weight"), tensors.get("linear.0.weight")
    shape = space.shape if isinstance(space, spaces.Box) else None
    if shape is None or len(shape) != 3 or min(shape[1:]) < 36:
        raise _misfit(f"a NatureCNN at {name} for {space}"[:200], "an image space of 36 x 36 pixels or more")
    if first is None or last is None or first.ndim != 4 or last.ndim != 2:
        raise _misfit(f"{name} with {sorted(tensors)[:4]}", "the layers of SB3's NatureCNN")
    height, width = (((n - 8) // 4 + 1 - 4) // 2 + 1 - 3 + 1 for n in shape[1:])
    return _filled(NatureCNN, tensors, name, shape[0], 64 * height * width, last.shape[0])


def widths(stack: Sequence[nn.Module] | nn.Sequential) -> list[int]:
    """Output widths of the dense layers of a stack."""
    return [layer.out_features for layer in stack if isinstance(layer, nn.Linear)]


def check_declared(net_arch: Any, part: str, found: list[int]) -> None:
    """Refuse weights of other widths than ``net_arch`` declares for ``part`` (pi, vf or qf); undeclared ones pass.

    Raises:
        CheckpointError: ``weights.shape``.
    """
    match net_arch:
        case list() if all(isinstance(n, int) for n in net_arch):
            declared = net_arch
        case dict():
            declared = net_arch.get(part, [])
        case [*shared, dict() as own]:  # SB3 before 1.8: widths of shared layers, then each net's own
            declared = [*shared, *(own.get(part) or [])]
        case None:
            return
        case _:
            raise _misfit(f"net_arch {short(net_arch)}", "widths, or a dict of them")
    if declared != found:
        raise _misfit(f"layers of widths {found}", f"{short(declared)}, as net_arch[{part!r}] declares")
