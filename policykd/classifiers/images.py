"""Modules over images and vectors that scale their raw inputs themselves; they refuse texts."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from policykd.classifiers.shapes import Shape
from policykd.errors import UsageError

__all__ = ["ImageNetwork", "Scale", "fit_scale"]

_CONSTANT = 1e-3  # a channel that spreads less than this (of 1) is left as it is: its noise must not be blown up


def _channels_last(shape: tuple[int, ...]) -> bool:
    # SB3's rule: the channels are the shortest axis, and the first one where two are equally short.
    return len(shape) == 3 and shape[-1] < shape[0]


class Scale(nn.Module):
    """Raw inputs as a network likes them: bytes to [0, 1], then (x - mean) / std; mean 0 and std 1 until fitted.

    Args:
        shape: of one input: ``[d]`` (statistics of each column), ``[h, w]`` (one for all), ``[c, h, w]`` or
            ``[h, w, c]`` (each channel's; the channels are the shortest axis).

    Attributes:
        mean, std: buffers, in units of the inputs once bytes are in [0, 1].
    """

    mean: Tensor
    std: Tensor

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        kept = {1: (0,), 3: (2,) if _channels_last(shape) else (0,)}.get(len(shape), ())
        self._kept = kept
        size = [n if axis in kept else 1 for axis, n in enumerate(shape)]
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("std", torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        """``[*b, *shape]`` to float32 of that shape."""
        x = x.float() / 255.0 if x.dtype == torch.uint8 else x.float()
        return (x - self.mean) / self.std

    @torch.no_grad()
    def fit(self, inputs: Tensor) -> None:
        """Take mean and standard deviation of ``inputs``, ``[n, *shape]``.

        Raises:
            UsageError: ``classifier.inputs`` without a row, or with numbers that are NaN or infinite.
        """
        axes = [0, *(axis + 1 for axis in range(self.mean.dim()) if axis not in self._kept)]
        if len(inputs) == 0 or not bool(torch.isfinite(inputs).all()):
            raise UsageError(
                "classifier.inputs",
                f"{len(inputs)} training inputs" + (", some not finite" if len(inputs) else ""),
                "one or more rows of finite numbers",
                "leave rows out that hold NaN",
            )
        # Sums in float64, some rows at a time: a training set as float64 would not fit into memory.
        total = torch.zeros_like(self.mean, dtype=torch.float64)
        square, count = total.clone(), inputs.numel() / total.numel()
        pieces = inputs.split(1024)
        unit = 255.0 if inputs.dtype == torch.uint8 else 1.0
        for piece in pieces:
            total += piece.to(self.mean.device).double().div(unit).sum(axes).reshape(total.shape)
        mean = total / count
        for piece in pieces:
            far = piece.to(self.mean.device).double().div(unit) - mean
            square += far.square_().sum(axes).reshape(total.shape)
        std = (square / count).sqrt()
        self.mean.copy_(mean)
        self.std.copy_(torch.where(std < _CONSTANT, 1.0, std))


def fit_scale(module: nn.Module, inputs: Tensor) -> None:
    """Give every ``Scale`` in ``module`` the statistics of training inputs, ``[n, ...]`` (raw, as they will be given).

    Raises:
        UsageError: ``classifier.inputs``, as ``Scale.fit``.
    """
    for part in module.modules():
        if isinstance(part, Scale):
            part.fit(inputs)


class ImageNetwork(nn.Module):
    """An mlp or a cnn: ``[*b, *inputs]`` raw to logits ``[*b, k]``, ReLU everywhere.

    Convolutions have kernel 3, stride 2 and padding 1, so each halves the image; there is no batch statistic.

    Args:
        shape: of kind mlp or cnn.
        inputs: shape of one input; a cnn takes ``[h, w]``, ``[c, h, w]`` or ``[h, w, c]``.
        outputs: number of classes k.

    Attributes:
        scale, convolutions, hidden, head: what can be tapped; ``convolutions.1`` says ``[b, c, h, w]`` after its ReLU,
            ``hidden`` ``[b, n]`` what the head reads (``flat`` without hidden layers).

    Raises:
        UsageError: ``classifier.shape`` for a cnn on anything but images.
    """

    def __init__(self, shape: Shape, inputs: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        self.inputs = tuple(inputs)
        image = len(self.inputs) in (2, 3) and min(self.inputs) > 0
        if shape.kind == "cnn" and not image:
            raise UsageError(
                "classifier.shape",
                f"{shape} on inputs of shape {self.inputs}",
                "images: [h, w], [c, h, w] or [h, w, c]",
                "give mlp:64,64, or inputs.reshape(-1, h, w)",
            )
        self.scale = Scale(self.inputs)
        width = torch.Size(self.inputs).numel()
        layers: list[nn.Module] = []
        if shape.kind == "cnn":
            depth, high, wide = self._as_image(self.inputs)
            for n_in, n_out in zip((depth, *shape.widths), shape.widths, strict=False):
                layers += [nn.Conv2d(n_in, n_out, 3, 2, 1), nn.ReLU()]
                high, wide = (high + 1) // 2, (wide + 1) // 2
            width = shape.widths[-1] * high * wide
        self.convolutions = nn.Sequential(*layers)
        self.flat = nn.Flatten()
        widths = (width, *shape.hidden)
        dense: list[nn.Module] = []
        for n_in, n_out in zip(widths[:-1], widths[1:], strict=True):
            dense += [nn.Linear(n_in, n_out), nn.ReLU()]
        self.hidden = nn.Sequential(*dense)
        self.head = nn.Linear(widths[-1], outputs)

    @staticmethod
    def _as_image(shape: tuple[int, ...]) -> tuple[int, int, int]:
        found = (1, *shape) if len(shape) == 2 else (shape[2], *shape[:2]) if _channels_last(shape) else shape
        return cast("tuple[int, int, int]", tuple(found))

    def forward(self, x: Tensor) -> Tensor:
        """Logits.

        Raises:
            UsageError: ``classifier.inputs`` for inputs of another shape.
        """
        n = len(self.inputs)
        lead = x.shape[: x.dim() - n]
        if not lead or tuple(x.shape[len(lead) :]) != self.inputs:
            raise UsageError(
                "classifier.inputs",
                f"inputs of shape {tuple(x.shape)}",
                f"(n, {', '.join(map(str, self.inputs))})",
                "give a batch of inputs shaped like those it was built for",
            )
        x = self.scale(x).reshape(-1, *self.inputs)
        if len(self.convolutions):
            x = x.movedim(-1, -3) if _channels_last(self.inputs) else x
            x = self.convolutions(x.reshape(-1, *self._as_image(self.inputs)))
        return self.head(self.hidden(self.flat(x))).reshape(*lead, -1)
