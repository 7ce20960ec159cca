"""Steps that learning takes thousands of times, with their gradients written out; no formula lives here alone.

What they compute is written plainly too (layers one by one, ``distributions.kl``, ``losses.bounded``), and tests hold
each to it. Small networks spend most of a step on the bookkeeping of automatic differentiation; here it is
one node instead of ten or twenty. Gradients of gradients are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

__all__ = ["Layers", "categorical_kl", "linear", "network", "squared_errors"]


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


class _Network(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, activation: type[nn.Module], depth: int, *layers: Tensor) -> tuple[Tensor, ...]:
        apply, _ = _KNOWN[activation]
        weights, biases = layers[: len(layers) // 2], layers[len(layers) // 2 :]
        inner = []
        last = x
        for weight, bias in zip(weights[:depth], biases[:depth], strict=True):
            before = linear(last, weight, bias)
            last = apply(before)
            inner += [before if activation is nn.SiLU else last, last]
        ctx.activation, ctx.depth = activation, depth
        ctx.save_for_backward(x, *weights, *inner)
        ctx.set_materialize_grads(False)
        return last, *(linear(last, w, b) for w, b in zip(weights[depth:], biases[depth:], strict=True))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, above: Tensor | None, *of_heads: Tensor | None) -> tuple[Tensor | None, ...]:
        x, *saved = ctx.saved_tensors
        count = ctx.depth + len(of_heads)
        weights, inner = saved[:count], saved[count:]
        _, derivative = _KNOWN[ctx.activation]
        of_weights: list[Tensor | None] = [None] * count
        of_biases: list[Tensor | None] = [None] * count
        # All layers below learn from the sum of what the heads ask for.
        gradient, torso = above, inner[-1] if inner else x
        for i, of_head in enumerate(of_heads, ctx.depth):
            if of_head is not None:
                of_biases[i], of_weights[i] = of_head.sum(-2), torch.matmul(of_head.mT, torso)
                if ctx.depth or ctx.needs_input_grad[0]:
                    asked = torch.matmul(of_head, weights[i])
                    gradient = asked if gradient is None else gradient + asked
        for i in reversed(range(ctx.depth)):
            if gradient is None:
                break
            gradient = derivative(gradient, inner[2 * i], inner[2 * i + 1])
            below = inner[2 * i - 1] if i else x
            of_biases[i], of_weights[i] = gradient.sum(-2), torch.matmul(gradient.mT, below)
            if i or ctx.needs_input_grad[0]:
                gradient = torch.matmul(gradient, weights[i])
        of_x = None
        if ctx.needs_input_grad[0] and gradient is not None:
            of_x = gradient.sum(0) if gradient.dim() > x.dim() else gradient
        return of_x, None, None, *of_weights, *of_biases


Layers = Sequence[tuple[Tensor, Tensor]]


def network(x: Tensor, layers: Layers, activation: type[nn.Module], heads: Layers) -> tuple[Tensor, ...]:
    """Linear layers with ``activation`` after each, and linear heads on the last: one network, or one a member.

    Args:
        x: ``[*b, i]``; with several members ``[b, i]``, shared by all of them.
        layers, heads: weight and bias of each, as in ``linear``.
        activation: class of the module.

    Returns:
        What the heads read (``x`` itself without layers), then what each says; ``[*b, n]`` or ``[members, b, n]``.
    """
    if torch.is_grad_enabled() and activation in _KNOWN and x.dim() == 2:
        every = [*layers, *heads]
        said = _Network.apply(x, activation, len(layers), *(w for w, _ in every), *(b for _, b in every))
        return (x, *said[1:]) if not layers else said
    nonlinear = activation()
    for weight, bias in layers:
        x = nonlinear(linear(x, weight, bias))
    return x, *(linear(x, weight, bias) for weight, bias in heads)


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


class _SquaredErrors(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, mean: Tensor, log_std: Tensor, error: Tensor, std: Tensor, scale: Tensor | float) -> Tensor:
        own = log_std.exp()
        spread = (own - std).div_(scale)
        ctx.save_for_backward(error, spread, own)
        ctx.scale = scale
        return error.square().add_(spread.square()).sum(-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        error, spread, own = ctx.saved_tensors
        twice = gradient.unsqueeze(-1).mul(2.0).div(ctx.scale)
        return error * twice, (spread * own).mul_(twice), None, None, None


def squared_errors(mean: Tensor, log_std: Tensor, error: Tensor, std: Tensor, scale: Tensor | float) -> Tensor:
    """Sum over dimensions of ``error^2 + ((exp(log_std) - std) / scale)^2``, one number a row.

    Args:
        mean, log_std: the student's, ``[*b, d]``; what gradients flow into.
        error: ``(mean - the teacher's) / scale`` where that counts and 0 where it does not, ``[*b, d]``, without a
            gradient: that of ``mean`` is 2 error / scale.
        std: the teacher's, ``[*c, d]`` that broadcasts to ``[*b, d]``.
        scale: unit of the error, ``[d]`` or a number.
    """
    return _SquaredErrors.apply(mean, log_std, error, std, scale)
