"""A student's layers without automatic differentiation: what they say, and the way back down; it knows no loss.

Small networks spend more time on its bookkeeping than on their numbers. What comes out is the same, bit for bit, for
one student and for several side by side.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple, TypeAlias

import torch
from gymnasium import spaces
from torch import Tensor, nn

from policykd import fused
from policykd.networks import Normaliser
from policykd.policy import Taught
from policykd.prediction import Obs, Prediction
from policykd.students import Cohort, Student
from policykd.students.shape import ACTIVATIONS

__all__ = ["Net", "Said", "Straight"]


class Net(NamedTuple):
    """The layers and heads of one network, or of the members of one shape side by side."""

    weights: list[Tensor]
    biases: list[Tensor]
    depth: int
    """Number of layers; the others are heads."""

    def all(self) -> list[Tensor]:
        """Every weight and bias."""
        return [*self.weights, *self.biases]


Said: TypeAlias = tuple[list[Tensor], list[Tensor]]
"""Of one network: what its layers say, as ``fused.backward`` takes it, and what its heads say."""


def _linears(student: Student) -> list[nn.Linear]:
    return [m for m in (*student.torso, *student.heads()) if isinstance(m, nn.Linear)]


def _nets(student: Student | Cohort) -> tuple[list[Net], type[nn.Module]] | None:
    """Plain layers with one activation between them; None for any other student."""
    if isinstance(student, Cohort):
        nets = []
        for inner, outer in student.layers():
            weights, biases = zip(*inner, *outer, strict=True)
            nets.append(Net(list(weights), list(biases), len(inner)))
        activations = {ACTIVATIONS[shape.activation] for shape in student.shapes if shape.hidden}
    else:
        linears = _linears(student)
        net = Net([m.weight for m in linears], [m.bias for m in linears], len(linears) - len(student.heads()))
        nets, activations = [net], {ACTIVATIONS[student.shape.activation]} if net.depth else set()
        # One weight in two layers has the sum of two gradients; a weight that is computed has none of its own.
        own = [*net.all(), *([student.log_std] if isinstance(student.log_std, nn.Parameter) else [])]
        if not student.is_plain(*student.heads()) or Counter(map(id, own)) != Counter(map(id, student.parameters())):
            return None
    known = len(activations) <= 1 and activations <= set(fused.KNOWN)
    return (nets, next(iter(activations), nn.Tanh)) if known else None


class Straight:
    """The layers of a student, or of several; made by ``of``.

    Attributes:
        nets: one network, or one a shape.
        outputs: width of the first head.
    """

    @classmethod
    def of(cls, student: Taught) -> Straight | None:
        """The layers of this student, or of these; None for one that is not plain layers on flat observations."""
        if type(student) not in (Student, Cohort):
            return None
        assert isinstance(student, (Student, Cohort))
        space = student.spec.observation_space
        if not (isinstance(space, spaces.Box) and len(space.shape) == 1):
            return None
        known = _nets(student)
        return None if known is None else cls(student, *known)

    def __init__(self, student: Student | Cohort, nets: list[Net], activation: type[nn.Module]) -> None:
        self._student, self.nets, self._activation = student, nets, activation
        self._modules = [student, *student.modules()]
        self._parameters = [p for net in nets for p in net.all()]
        self._width, self.outputs = nets[0].weights[0].shape[-1], nets[0].weights[nets[0].depth].shape[-2]
        self._x = torch.empty(0)
        self._done: list[Said] = []
        self._above: list[Tensor | None] = []
        self._of_said: list[list[Tensor | None]] = []

    def takes(self, obs: Obs) -> bool:
        """Whether these are rows ``[n, width]``, every weight is still there and trained, and nobody listens."""
        if not (isinstance(obs, Tensor) and obs.dim() == 2 and obs.shape[-1] == self._width and len(obs)):
            return False
        normaliser = self._student.normaliser
        return (normaliser is None or type(normaliser) is Normaliser) and self._free()

    def _free(self) -> bool:
        for p in self._parameters:
            if not p.requires_grad or p._backward_hooks or p._post_accumulate_grad_hooks:
                return False
        for m in self._modules:
            if m._forward_hooks or m._forward_pre_hooks or m._backward_hooks or m._backward_pre_hooks:
                return False
        if isinstance(self._student, Cohort):
            return True
        student, then = self._student, self.nets[0].weights
        now = _linears(student)
        if not student.is_plain(*student.heads()) or len(now) != len(then):
            return False
        return all(m.weight is weight for m, weight in zip(now, then, strict=True))

    def forward(self, obs: Tensor) -> tuple[Tensor, list[Said]]:
        """What the first layers read, and what the layers of each network say."""
        normaliser = self._student.normaliser
        x = (obs if normaliser is None else normaliser(obs)).float()
        every = [list(zip(net.weights, net.biases, strict=True)) for net in self.nets]
        done = [
            fused.forward(x, self._activation, layers[: net.depth], layers[net.depth :])
            for net, layers in zip(self.nets, every, strict=True)
        ]
        return x, done

    def backward(
        self,
        x: Tensor,
        done: Sequence[Said],
        of_said: Sequence[Sequence[Tensor | None]],
        above: Sequence[Tensor | None],
    ) -> None:
        """Put gradients at the weights, from those of what heads, and last layers, say."""
        for net, (inner, _), of_heads, of_last in zip(self.nets, done, of_said, above, strict=True):
            _, *gradients = fused.backward(x, self._activation, net.depth, net.weights, inner, of_heads, of_last)
            for parameters, found in zip((net.weights, net.biases), gradients, strict=True):
                for p, gradient in zip(parameters, found, strict=True):
                    # A loss may ask for a weight itself, or for what the student says elsewhere.
                    p.grad = gradient if p.grad is None else p.grad if gradient is None else p.grad + gradient

    def read(self, obs: Obs) -> Prediction | None:
        """What the student says about rows ``[n, width]``, without a graph below it; None where it does not take them.

        After a backward pass through what is made of it, ``back`` goes on down to the weights.
        """
        if not self.takes(obs):
            return None
        assert isinstance(obs, Tensor)
        with torch.no_grad():
            self._x, self._done = self.forward(obs)
        self._of_said = [[None] * len(said) for _, said in self._done]
        self._above = [None] * len(self._done)
        outs = [
            [_leaf(head, into, i) for i, head in enumerate(said)]
            for (_, said), into in zip(self._done, self._of_said, strict=True)
        ]
        if isinstance(self._student, Cohort):
            return self._student.says(outs)
        [(inner, _)] = self._done
        return self._student.says(_leaf(inner[-1], self._above, 0) if inner else self._x, outs[0])

    @torch.no_grad()
    def back(self) -> None:
        """From the gradients of what was read to those of the weights."""
        self.backward(self._x, self._done, self._of_said, self._above)


def _leaf(said: Tensor, into: list[Tensor | None], at: int) -> Tensor:
    leaf = said.detach().requires_grad_()
    # The gradient as it comes: what is laid out anew as the leaf lies may round otherwise in the products below.
    leaf.register_hook(partial(_keep, into, at))
    return leaf


def _keep(into: list[Tensor | None], at: int, gradient: Tensor) -> None:
    into[at] = gradient
