"""The step that most students take, straight: layers and forward KL with their gradients; it decides nothing.

What the Learner computes by automatic differentiation comes out the same, bit for bit, for one student and for several
side by side: small networks spend more time on its bookkeeping than on their numbers. Whatever is not known here goes
the Learner's own way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeAlias

import torch
from gymnasium import spaces
from torch import Tensor, nn

from policykd import fused
from policykd.distributions import Categorical
from policykd.losses import Weight, Weighted, forward_kl, on_target, weight_at
from policykd.networks import Normaliser
from policykd.policy import Taught
from policykd.prediction import Batch, Prediction, Progress
from policykd.students import Cohort, Student
from policykd.students.shape import ACTIVATIONS

__all__ = ["Reduced", "Shortcut"]

Reduced: TypeAlias = tuple[Tensor, dict[str, Tensor], dict[str, float | Tensor]]
"""A loss, its reduced terms, and their weights."""


def _on_target() -> partial[Tensor]:
    made = on_target(forward_kl)
    assert isinstance(made, partial)
    return made


class _Net(NamedTuple):
    """The layers of one network, or of the members of one shape side by side."""

    weights: list[Tensor]
    biases: list[Tensor]

    def layers(self) -> list[tuple[Tensor, Tensor]]:
        return list(zip(self.weights, self.biases, strict=True))

    def all(self) -> list[Tensor]:
        return [*self.weights, *self.biases]


def _linears(student: Student) -> list[nn.Linear]:
    return [m for m in (*student.torso, student.action_head) if isinstance(m, nn.Linear)]


def _nets(student: Taught) -> tuple[list[_Net], type[nn.Module]] | None:
    """Plain layers with one activation between them and one head; None for any other student."""
    if type(student) is Cohort:
        nets = [_Net(*map(list, zip(*layers, strict=True))) for layers in student.layers()]
        activations = {ACTIVATIONS[shape.activation] for shape in student.shapes if shape.hidden}
    elif type(student) is Student and student.value_head is None and student.is_plain(student.action_head):
        linears = _linears(student)
        nets = [_Net([m.weight for m in linears], [m.bias for m in linears])]
        activations = {ACTIVATIONS[student.shape.activation]} if student.shape.hidden else set()
        # One weight in two layers has the sum of two gradients; a weight that is computed has none of its own.
        if Counter(map(id, nets[0].all())) != Counter(map(id, student.parameters())):
            return None
    else:
        return None
    known = len(activations) <= 1 and activations <= set(fused.KNOWN)
    return (nets, next(iter(activations), nn.Tanh)) if known else None


class Shortcut:
    """The mean of forward KL and its gradient, for Categorical students of plain layers; made by ``of``."""

    @classmethod
    def of(cls, student: Taught, objective: Weighted) -> Shortcut | None:
        """The shortcut for this student, or these, and objective; None where there is none."""
        if len(objective.parts) != 1 or objective.modules:
            return None
        [(term, (weight, loss))] = objective.parts.items()
        transforms: tuple[Callable[[Prediction], Prediction], ...] = ()
        if isinstance(loss, partial) and loss.func is _on_target().func:
            loss, transforms = loss.keywords["loss"], loss.keywords["transforms"]
        if loss is not forward_kl or not isinstance(student, (Student, Cohort)):
            return None
        space = student.spec.observation_space
        flat_box = isinstance(space, spaces.Box) and len(space.shape) == 1
        known = _nets(student) if student.spec.family == "categorical" and flat_box else None
        return None if known is None else cls(student, *known, term, weight, transforms)

    def __init__(
        self,
        student: Student | Cohort,
        nets: list[_Net],
        activation: type[nn.Module],
        term: str,
        weight: Weight,
        transforms: tuple[Callable[[Prediction], Prediction], ...],
    ) -> None:
        self._term = term
        self._student, self._activation, self._weight, self._transforms = student, activation, weight, transforms
        self._modules = [student, *student.modules()]
        self._nets, self._parameters = nets, [p for net in nets for p in net.all()]
        self._width, self._outputs = nets[0].weights[0].shape[-1], nets[0].weights[-1].shape[-2]

    def _free(self) -> bool:
        """Whether every weight is still there and trained, and nobody listens to a layer."""
        for p in self._parameters:
            if not p.requires_grad or p._backward_hooks or p._post_accumulate_grad_hooks:
                return False
        for m in self._modules:
            if m._forward_hooks or m._forward_pre_hooks or m._backward_hooks or m._backward_pre_hooks:
                return False
        if isinstance(self._student, Cohort):
            return True
        now, then = _linears(self._student), self._nets[0].weights
        return len(now) == len(then) and all(m.weight is weight for m, weight in zip(now, then, strict=True))

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
        if target.dist.logits.dtype != torch.float32:  # differentiation casts on the way back; nothing here does
            return None
        at = weight_at(self._weight, progress, self._term)
        if at == 0:
            return torch.zeros(()), {}, {}
        x = (obs if normaliser is None else normaliser(obs)).float()
        every = [net.layers() for net in self._nets]
        done = [fused.forward(x, self._activation, layers[:-1], layers[-1:]) for layers in every]
        said = [head for _, [head] in done]
        # One evaluation of the KL for all; what a head says lies with its rows last.
        whole = said[0] if len(said) == 1 else torch.cat([head.mT for head in said]).mT
        rows, probs, log_q = fused.categorical_kl_forward(target.dist.logits, whole)
        of_rows = rows.new_full((1,), at).div_(n)
        if batch.weight is not None:
            rows, of_rows = rows * batch.weight, of_rows * batch.weight
        of_whole = fused.categorical_kl_backward(of_rows, probs, log_q)
        of_said = [of_whole] if len(said) == 1 else of_whole.split([len(head) for head in said])
        for net, (inner, _), of_head in zip(self._nets, done, of_said, strict=True):
            depth = len(net.weights) - 1
            _, *gradients = fused.backward(x, self._activation, depth, net.weights, inner, [of_head])
            for parameters, found in zip(net, gradients, strict=True):
                for p, gradient in zip(parameters, found, strict=True):
                    p.grad = gradient
        reduced = rows.mean(-1)
        return reduced if at == 1 else at * reduced, {self._term: reduced}, {self._term: at}
