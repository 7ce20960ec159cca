"""The step that most students take, straight: forward KL with its gradient, on layers with theirs; it decides nothing.

What the Learner computes by automatic differentiation comes out the same, bit for bit. Whatever is not known here goes
the Learner's own way.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor

from policykd import fused
from policykd.distributions import Categorical
from policykd.losses import Weight, Weighted, forward_kl, on_target, weight_at
from policykd.prediction import Batch, Family, Prediction, Progress
from policykd.straight import Straight

__all__ = ["Reduced", "Shortcut"]

Reduced: TypeAlias = tuple[Tensor, dict[str, Tensor], dict[str, float | Tensor]]
"""A loss, its reduced terms, and their weights."""


def _on_target() -> partial[Tensor]:
    made = on_target(forward_kl)
    assert isinstance(made, partial)
    return made


class Shortcut:
    """The mean of forward KL and its gradient, for Categorical students of plain layers; made by ``of``."""

    @classmethod
    def of(cls, layers: Straight | None, family: Family, objective: Weighted) -> Shortcut | None:
        """The shortcut for these layers and this objective; None where there is none."""
        if len(objective.parts) != 1 or objective.modules:
            return None
        [(term, (weight, loss))] = objective.parts.items()
        transforms: tuple[Callable[[Prediction], Prediction], ...] = ()
        if isinstance(loss, partial) and loss.func is _on_target().func:
            loss, transforms = loss.keywords["loss"], loss.keywords["transforms"]
        if loss is not forward_kl or layers is None or any(len(net.weights) > net.depth + 1 for net in layers.nets):
            return None
        return cls(layers, term, weight, transforms) if family == "categorical" else None

    def __init__(
        self,
        layers: Straight,
        term: str,
        weight: Weight,
        transforms: tuple[Callable[[Prediction], Prediction], ...],
    ) -> None:
        self._layers, self._term, self._weight, self._transforms = layers, term, weight, transforms

    @torch.no_grad()
    def take(self, batch: Batch, progress: Progress) -> Reduced | None:
        """What the batch teaches, gradients being put at the weights; None where that is not known here.

        Args:
            batch: rows that all count, ``[n, width]``, with a Categorical target.
            progress: what the weight is a function of.
        """
        n, layers = len(batch), self._layers
        if batch.mask is not None or not (batch.weight is None or batch.weight.shape == (n,)):
            return None
        if not layers.takes(batch.obs):
            return None
        target = batch.target
        for transform in self._transforms:
            target = transform(target)
        if not (isinstance(target.dist, Categorical) and target.dist.logits.shape == (n, layers.outputs)):
            return None
        if target.dist.logits.dtype != torch.float32:  # differentiation casts on the way back; nothing here does
            return None
        at = weight_at(self._weight, progress, self._term)
        if at == 0:
            return torch.zeros(()), {}, {}
        assert isinstance(batch.obs, Tensor)
        x, done = layers.forward(batch.obs)
        said = [head for _, [head] in done]
        # One evaluation of the KL for all; what a head says lies with its rows last.
        whole = said[0] if len(said) == 1 else torch.cat([head.mT for head in said]).mT
        rows, probs, log_q = fused.categorical_kl_forward(target.dist.logits, whole)
        of_rows = rows.new_full((1,), at).div_(n)
        if batch.weight is not None:
            rows, of_rows = rows * batch.weight, of_rows * batch.weight
        of_whole = fused.categorical_kl_backward(of_rows, probs, log_q)
        of_said = [of_whole] if len(said) == 1 else of_whole.split([len(head) for head in said])
        layers.backward(x, done, [[of_head] for of_head in of_said], [None] * len(said))
        reduced = rows.mean(-1)
        return reduced if at == 1 else at * reduced, {self._term: reduced}, {self._term: at}
