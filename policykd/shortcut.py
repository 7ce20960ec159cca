"""The step that most students take, straight: layers and forward KL with their gradients; it decides nothing.

What the Learner computes by automatic differentiation comes out the same, bit for bit: small networks spend more time
on its bookkeeping than on their numbers. Whatever is not known here goes the Learner's own way.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import torch
from gymnasium import spaces
from torch import Tensor, nn

from policykd import fused
from policykd.distributions import Categorical
from policykd.losses import Weight, Weighted, forward_kl, on_target, weight_at
from policykd.networks import Normaliser
from policykd.policy import Taught
from policykd.prediction import Batch, Prediction, Progress
from policykd.students import Student

__all__ = ["Reduced", "Shortcut"]

Reduced: TypeAlias = tuple[Tensor, dict[str, Tensor], dict[str, float | Tensor]]
"""A loss, its reduced terms, and their weights."""


def _on_target() -> partial[Tensor]:
    made = on_target(forward_kl)
    assert isinstance(made, partial)
    return made


class Shortcut:
    """The mean of forward KL and its gradient, for a Categorical student of plain layers; made by ``of``."""

    @classmethod
    def of(cls, student: Taught, objective: Weighted) -> Shortcut | None:
        """The shortcut for this student and objective, or None where there is none."""
        if type(student) is not Student or len(objective.parts) != 1 or objective.modules:
            return None
        [(term, (weight, loss))] = objective.parts.items()
        transforms: tuple[Callable[[Prediction], Prediction], ...] = ()
        if isinstance(loss, partial) and loss.func is _on_target().func:
            loss, transforms = loss.keywords["loss"], loss.keywords["transforms"]
        space = student.spec.observation_space
        flat_box = isinstance(space, spaces.Box) and len(space.shape) == 1
        known = loss is forward_kl and student.spec.family == "categorical" and flat_box and student.value_head is None
        linears = [m for m in (*student.torso, student.action_head) if isinstance(m, nn.Linear)]
        activations = {type(m) for m in student.torso if not isinstance(m, nn.Linear)}
        if not (known and len(activations) <= 1 and activations <= set(fused.KNOWN)):
            return None
        activation = activations.pop() if activations else nn.Tanh
        return cls(student, activation, linears, term, weight, transforms)

    def __init__(
        self,
        student: Student,
        activation: type[nn.Module],
        linears: list[nn.Linear],
        term: str,
        weight: Weight,
        transforms: tuple[Callable[[Prediction], Prediction], ...],
    ) -> None:
        self._term = term
        self._student, self._activation, self._weight, self._transforms = student, activation, weight, transforms
        self._modules = [student, *student.modules()]
        self._layers = [(m.weight, m.bias) for m in linears]
        self._weights, self._biases = [w for w, _ in self._layers], [b for _, b in self._layers]
        self._width, self._outputs = linears[0].in_features, linears[-1].out_features

    def _free(self) -> bool:
        """Whether every weight is still trained, and nobody listens to a layer."""
        if not all(p.requires_grad and not p._backward_hooks for layer in self._layers for p in layer):
            return False
        return not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in self._modules)

    @torch.no_grad()
    def take(self, batch: Batch, progress: Progress) -> Reduced | None:
        """What the batch teaches, gradients being put at the weights; None where that is not known here.

        Args:
            batch: rows that all count, ``[n, width]``, with a Categorical target.
            progress: what the weight is a function of.
        """
        obs, normaliser, n = batch.obs, self._student.normaliser, len(batch)
        if not (isinstance(obs, Tensor) and obs.shape == (n, self._width) and n and batch.mask is None):
            return None
        plain = batch.weight is None or batch.weight.shape == (n,)
        if not (plain and (normaliser is None or type(normaliser) is Normaliser) and self._free()):
            return None
        target = batch.target
        for transform in self._transforms:
            target = transform(target)
        if not (isinstance(target.dist, Categorical) and target.dist.logits.shape == (n, self._outputs)):
            return None
        at = weight_at(self._weight, progress, self._term)
        if at == 0:
            return torch.zeros(()), {}, {}
        x = (obs if normaliser is None else normaliser(obs)).float()
        inner, [said] = fused.forward(x, self._activation, self._layers[:-1], self._layers[-1:])
        rows, probs, log_q = fused.categorical_kl_forward(target.dist.logits, said)
        of_rows = rows.new_full((1,), at / n)
        if batch.weight is not None:
            rows, of_rows = rows * batch.weight, of_rows * batch.weight
        of_said = fused.categorical_kl_backward(of_rows, probs, log_q)
        depth = len(self._layers) - 1
        _, of_weights, of_biases = fused.backward(x, self._activation, depth, self._weights, inner, [of_said])
        for p, gradient in zip([*self._weights, *self._biases], [*of_weights, *of_biases], strict=True):
            p.grad = gradient
        reduced = rows.mean(-1)
        return reduced if at == 1 else at * reduced, {self._term: reduced}, {self._term: at}
