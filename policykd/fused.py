"""Steps that learning takes thousands of times, with their gradients written out; no formula lives here alone.

What ``dense`` and ``categorical_kl`` compute is written plainly elsewhere too (layers one by one, ``distributions.kl``),
and tests hold each to it. Small networks spend most of a step on the bookkeeping of automatic differentiation; here it
is one node instead of ten or twenty. Gradients of gradients are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

__all__ = ["categorical_kl", "dense", "linear"]


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``x @ weight.T + bias``, of one layer, or of as many side by side as there are members.

    Args:
        x: ``[*b, i]`` for one layer; ``[b, i]`` (shared by all) or ``[members, b, i]`` for several.
        weight, bias: ``[o, i]`` and ``[o]``, or ``[members, o, i]`` and ``[members, o]``.

    Returns:
        ``[*b, o]`` or ``[members, b, o]``.
    """
    if weight.dim() == 2:
        return F.linear(x, weight, bias)
    return torch.baddbmm(bias.unsqueeze(1), x.expand(len(weight), *x.shape[-2:]), weight.mT)


def _tanh_(x: Tensor) -> Tensor:
    # Right to 1.2e-7, and twice as fast as torch's own where that is not vectorised.
    return x.mul_(2.0).sigmoid_().mul_(2.0).sub_(1.0)


def _from_output(backward: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    return lambda gradient, before, after: backward(gradient, after)


def _from_input(backward: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    return lambda gradient, before, after: backward(gradient, before)


_KNOWN: dict[type[nn.Module], tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor, Tensor], Tensor]]] = {
    nn.Tanh: (_tanh_, _from_output(torch.ops.aten.tanh_backward)),
    nn.SiLU: (F.silu, _from_input(torch.ops.aten.silu_backward)),
    nn.ReLU: (torch.relu, _from_output(lambda gradient, after: gradient.masked_fill(after <= 0, 0.0))),
}


class _Dense(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, activation: type[nn.Module], depth: int, *layers: Tensor) -> Tensor:
        apply, _ = _KNOWN[activation]
        inner = []
        last = x
        for weight, bias in zip(layers[:depth], layers[depth:], strict=True):
            before = linear(last, weight, bias)
            after = apply(before)
            inner += [before if activation is nn.SiLU else after, after]
            last = after
        ctx.activation, ctx.depth = activation, depth
        ctx.save_for_backward(x, *layers[:depth], *inner)
        return last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, *saved = ctx.saved_tensors
        weights, inner = saved[: ctx.depth], saved[ctx.depth :]
        _, derivative = _KNOWN[ctx.activation]
        of_weights: list[Tensor] = []
        of_biases: list[Tensor] = []
        for i in reversed(range(ctx.depth)):
            gradient = derivative(gradient, inner[2 * i], inner[2 * i + 1])
            below = inner[2 * i - 1] if i else x
            of_biases.append(gradient.sum(-2))
            of_weights.append(torch.matmul(gradient.mT, below))
            if i or ctx.needs_input_grad[0]:
                gradient = torch.matmul(gradient, weights[i])
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = gradient.sum(0) if gradient.dim() > x.dim() else gradient
        return of_x, None, None, *reversed(of_weights), *reversed(of_biases)


def dense(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], activation: type[nn.Module]) -> Tensor:
    """Linear layers with ``activation`` after each: one network, or as many side by side as there are members.

    Args:
        x: ``[*b, i]``; with several members ``[b, i]``, shared by all of them.
        weights, biases: of each layer, as in ``linear``.
        activation: class of the module.

    Returns:
        ``[*b, o]`` or ``[members, b, o]``; ``x`` itself without layers.
    """
    if not weights:
        return x
    if torch.is_grad_enabled() and activation in _KNOWN and x.dim() == 2:
        return _Dense.apply(x, activation, len(weights), *weights, *biases)
    nonlinear = activation()
    for weight, bias in zip(weights, biases, strict=True):
        x = nonlinear(linear(x, weight, bias))
    return x


class _CategoricalKL(torch.autograd.Function):
    # Choices first, rows last: few choices a row would leave a vector unit mostly empty.
    @staticmethod
    def forward(ctx: Any, p: Tensor, q: Tensor) -> Tensor:
        log_p = torch.log_softmax(p.mT.contiguous(), -2)
        log_q = torch.log_softmax(q.mT.contiguous(), -2)
        probs = log_p.exp()
        ctx.save_for_backward(probs, log_q)
        difference = log_p - log_q
        difference.masked_fill_(probs == 0, 0.0)  # 0 x inf counts 0
        return (difference * probs).sum(-2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        probs, log_q = ctx.saved_tensors
        return None, (log_q.exp() - probs).mul_(gradient.unsqueeze(-2)).mT


def categorical_kl(p: Tensor, q: Tensor) -> Tensor:
    """KL(softmax(p) || softmax(q)) in nats, one number a row; the gradient in q is softmax(q) - softmax(p).

    Args:
        p, q: logits, ``[*b, n, a]`` and ``[*c, n, a]`` that broadcast to q's shape; no gradient flows into p. A choice
            with p = -inf counts 0.

    Returns:
        ``[*c, n]``.
    """
    return _CategoricalKL.apply(p, q)
