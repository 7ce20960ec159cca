"""What students see: the view of a name, or of a user, and copies of it; it knows nobody who learns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from policykd.class_config import ClassifyConfig
from policykd.classify.objectives import rated
from policykd.datasets import Labelled
from policykd.losses import label_nll, soft_label_ce
from policykd.supervised import MISSING, View, views
from policykd.supervised.examples import Examples, Inputs, take_inputs

__all__ = ["NOISE", "fits", "joined", "on_labels", "parts", "tried", "view_of"]

NOISE = 0.1
"""Standard deviation of the view ``noise``, in standard deviations of each column of the training rows."""

_TRIED = 32
"""Rows on which a loss is tried."""

_VIEWS = {
    "shift": views.shift(2),
    "flip": views.flip(),
    "mixup": views.mixup(),
    "words": views.words(),
    "spans": views.spans(),
}


def view_of(name: str | None, inputs: Inputs) -> View | None:
    """The view of a name, None for none.

    Args:
        inputs: of training, whose spread is the unit of noise.
    """
    if name == "noise" and isinstance(inputs, Tensor):
        return views.noise(NOISE * inputs.float().std(0, correction=0))
    return _VIEWS.get(name or "none")


def fits(name: str | None, inputs: Inputs) -> tuple[bool, str]:
    """Whether a view can be had of such inputs, and what it is of."""
    texts, image = isinstance(inputs, tuple), "images [channels, height, width]"
    dims = inputs.dim() if isinstance(inputs, Tensor) else 0
    match name or "none":
        case "none":
            return True, "anything"
        case "words" | "spans":
            return texts, "texts"
        case "mixup":
            return not texts, f"{image}, or numbers"
        case "noise":
            return dims == 2, "numbers, a row each"
    return dims == 4, image


def on_labels(config: ClassifyConfig, view: View | None, classes: int) -> dict[str, Any]:
    """How labels alone are learnt from inputs seen as the distilled student sees them: mixup mixes labels too."""
    if config.view == "mixup":
        return {"view": views.mixup(classes=classes), "loss": soft_label_ce}
    loss = rated if config.raters else label_nll
    return {"loss": loss, "view": None if config.view in ("words", "spans") else view}  # which take the label away


def parts(data: Labelled, config: ClassifyConfig, view: View | None, copies: int) -> tuple[list[Examples], View | None]:
    """Rows, and views of them where there are copies; and the view that is left to be taken of each batch.

    Apart, because the rows are the same under every seed, and so are the answers to them; views are not.
    """
    rows = torch.arange(len(data.train.labels))
    if config.inputs == "labelled":
        rows = torch.where(data.train.labels != MISSING)[0]
    soft = None if data.train.soft is None else data.train.soft[rows]
    own = Examples(take_inputs(data.train.inputs, rows), data.train.labels[rows], soft)
    if view is None or not copies:
        return [own], view
    generator = torch.Generator().manual_seed(config.seed)
    return [own, joined([view(own, generator) for _ in range(copies)])], None


def tried(data: Labelled, config: ClassifyConfig, view: View | None, copies: int) -> Examples:
    """A few of the rows, as one step of the distilled student would have them."""
    rows = torch.arange(len(data.train))
    if config.inputs == "labelled":
        rows = torch.where(data.train.labels != MISSING)[0]
    pieces, of_batch = parts(replace(data, train=data.train[rows[:_TRIED]]), config, view, min(copies, 1))
    whole = joined(pieces)
    return whole if of_batch is None else of_batch(whole, torch.Generator().manual_seed(config.seed))


def joined(parts: Sequence[Examples]) -> Examples:
    """Rows of all parts, one after the other, and what is known of each."""
    first = parts[0]
    if len(parts) == 1:
        return first
    inputs: Inputs
    if isinstance(first.inputs, tuple):
        inputs = tuple(text for part in parts for text in part.inputs)
    else:
        inputs = torch.cat([part.inputs for part in parts if isinstance(part.inputs, Tensor)])
    soft = None
    if any(part.soft is not None for part in parts):
        width = next(part.soft.shape[1] for part in parts if part.soft is not None)
        soft = torch.cat([torch.zeros(len(p.label), width) if p.soft is None else p.soft for p in parts])
    return Examples(inputs, torch.cat([part.label for part in parts]), soft)
