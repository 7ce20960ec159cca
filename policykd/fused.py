"""Steps that learning takes thousands of times, with their gradients written out; no formula lives here alone.

What they compute is written plainly too (layers one by one, ``distributions.kl``, ``losses.bounded``), and tests hold
each to it. Small networks spend most of a step on the bookkeeping of automatic differentiation; here it is
one node instead of ten or twenty. Gradients of gradients are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

__all__ = [
    "KNOWN",
    "Layers",
    "backward",
    "categorical_kl",
    "categorical_kl_backward",
    "categorical_kl_forward",
    "forward",
    "linear",
    "network",
    "squared_errors",
]


def linear(x: Tensor, weight: Tensor, bias: Tensor, *, scale: float = 1.0) -> Tensor:
    """``scale * (x @ weight.T + bias)``, of one layer, or of as many side by side as there are members.

    Args:
        x: ``[*b, i]`` for one layer; ``[b, i]`` (shared by all) or ``[members, b, i]`` for several.
        weight, bias: ``[o, i]`` and ``[o]``, or ``[members, o, i]`` and ``[members, o]``.

    Returns:
        ``[*b, o]`` or ``[members, b, o]``.
    """
    if weight.dim() == 3:
        every = x.expand(len(weight), *x.shape[-2:])
        return torch.baddbmm(bias.unsqueeze(1), every, weight.mT, beta=scale, alpha=scale)
    if x.dim() == 2:
        return torch.addmm(bias, x, weight.mT, beta=scale, alpha=scale)
    said = F.linear(x, weight, bias)
    return said if scale == 1.0 else said * scale


def _head(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    # What ``linear`` computes. Outputs are few and rows many: with rows last in memory the product is up to twice as
    # fast, and what comes after (the KL of a Categorical) reads it as it is.
    if weight.dim() == 2:
        return torch.addmm(bias.unsqueeze(1), weight, x.mT).mT
    return torch.baddbmm(bias.unsqueeze(2), weight, x.expand(len(weight), *x.shape[-2:]).mT).mT


def _of_weight(gradient: Tensor, below: Tensor) -> Tensor:
    # The same product either way round; with the narrower side first it is up to four times as fast.
    if gradient.shape[-1] <= below.shape[-1]:
        return torch.matmul(gradient.mT, below)
    return torch.matmul(below.mT, gradient).mT


_MINUS_ONE = torch.tensor(-1.0)


def _tanh(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    # tanh(z) = 2 sigmoid(2 z) - 1 is right to 1.2e-7, and many times as fast as torch's own; the product doubles z.
    after = linear(x, weight, bias, scale=2.0).sigmoid_()
    torch.add(_MINUS_ONE, after, alpha=2.0, out=after)
    return after, after


def _silu(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    before = linear(x, weight, bias)
    return before, F.silu(before)


def _relu(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    after = linear(x, weight, bias).relu_()
    return after, after


def _tanh_backward_(gradient: Tensor, after: Tensor) -> Tensor:
    return torch.ops.aten.tanh_backward.grad_input(gradient, after, grad_input=gradient)


def _silu_backward_(gradient: Tensor, before: Tensor) -> Tensor:
    return torch.ops.aten.silu_backward.grad_input(gradient, before, grad_input=gradient)


def _relu_backward_(gradient: Tensor, after: Tensor) -> Tensor:
    return gradient.masked_fill_(after <= 0, 0.0)


_Layer: TypeAlias = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
_Derivative: TypeAlias = Callable[[Tensor, Tensor], Tensor]
KNOWN: dict[type[nn.Module], tuple[_Layer, _Derivative]] = {
    nn.Tanh: (_tanh, _tanh_backward_),
    nn.SiLU: (_silu, _silu_backward_),
    nn.ReLU: (_relu, _relu_backward_),
}
"""By class of the activation: a layer, from x, weight and bias to what its derivative is a function of and what is
passed on; and that derivative times a gradient, in the gradient's place."""


Layers = Sequence[tuple[Tensor, Tensor]]


def forward(x: Tensor, activation: type[nn.Module], layers: Layers, heads: Layers) -> tuple[list[Tensor], list[Tensor]]:
    """What ``network`` computes, for ``backward``: no graph is made of it.

    Returns:
        What each layer says (two numbers an output: what its derivative is a function of, and what is passed on), and
        what each head says.
    """
    layer, _ = KNOWN[activation]
    inner: list[Tensor] = []
    last = x
    for weight, bias in layers:
        kept, last = layer(last, weight, bias)
        inner += [kept, last]
    return inner, [_head(last, weight, bias) for weight, bias in heads]


def backward(
    x: Tensor,
    activation: type[nn.Module],
    depth: int,
    weights: Sequence[Tensor],
    inner: Sequence[Tensor],
    of_heads: Sequence[Tensor | None],
    above: Tensor | None = None,
    *,
    through: bool = False,
) -> tuple[Tensor | None, list[Tensor | None], list[Tensor | None]]:
    """The gradients of what ``forward`` computed.

    Args:
        depth: number of layers; the other ``weights`` are the heads'.
        of_heads, above: the gradients of what the heads and the last layer say, None where nothing is asked of them.
        through: whether x has a gradient too.

    Returns:
        Of x (None without ``through``), of the weights and of the biases.
    """
    _, derivative = KNOWN[activation]
    of_weights: list[Tensor | None] = [None] * len(weights)
    of_biases: list[Tensor | None] = [None] * len(weights)
    # All layers below learn from the sum of what the heads ask for.
    gradient, torso = None if above is None else above.clone(), inner[-1] if inner else x
    for i, of_head in enumerate(of_heads, depth):
        if of_head is not None:
            of_biases[i], of_weights[i] = of_head.sum(-2), _of_weight(of_head, torso)
            if depth or through:
                asked = torch.matmul(of_head, weights[i])
                gradient = asked if gradient is None else gradient.add_(asked)
    for i in reversed(range(depth)):
        if gradient is None:
            break
        gradient = derivative(gradient, inner[2 * i])
        below = inner[2 * i - 1] if i else x
        of_biases[i], of_weights[i] = gradient.sum(-2), _of_weight(gradient, below)
        if i or through:
            gradient = torch.matmul(gradient, weights[i])
    if not through or gradient is None:
        return None, of_weights, of_biases
    return gradient.sum(0) if gradient.dim() > x.dim() else gradient, of_weights, of_biases


class _Network(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, activation: type[nn.Module], depth: int, *flat: Tensor) -> tuple[Tensor, ...]:
        every = list(zip(flat[: len(flat) // 2], flat[len(flat) // 2 :], strict=True))
        inner, said = forward(x, activation, every[:depth], every[depth:])
        ctx.activation, ctx.depth = activation, depth
        ctx.save_for_backward(x, *(w for w, _ in every), *inner)
        ctx.set_materialize_grads(False)
        return inner[-1] if inner else x, *said

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, above: Tensor | None, *of_heads: Tensor | None) -> tuple[Tensor | None, ...]:
        x, *saved = ctx.saved_tensors
        count = ctx.depth + len(of_heads)
        of_x, of_weights, of_biases = backward(
            x, ctx.activation, ctx.depth, saved[:count], saved[count:], of_heads, above, through=ctx.needs_input_grad[0]
        )
        return of_x, None, None, *of_weights, *of_biases


def network(x: Tensor, layers: Layers, activation: type[nn.Module], heads: Layers) -> tuple[Tensor, ...]:
    """Linear layers with ``activation`` after each, and linear heads on the last: one network, or one a member.

    Args:
        x: ``[*b, i]``; with several members ``[b, i]``, shared by all of them.
        layers, heads: weight and bias of each, as in ``linear``.
        activation: class of the module.

    Returns:
        What the heads read (``x`` itself without layers), then what each says; ``[*b, n]`` or ``[members, b, n]``.
    """
    if torch.is_grad_enabled() and activation in KNOWN and x.dim() == 2:
        every = [*layers, *heads]
        said = _Network.apply(x, activation, len(layers), *(w for w, _ in every), *(b for _, b in every))
        return (x, *said[1:]) if not layers else said
    nonlinear = activation()
    for weight, bias in layers:
        x = nonlinear(linear(x, weight, bias))
    return x, *(linear(x, weight, bias) for weight, bias in heads)


def categorical_kl_forward(p: Tensor, q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What ``categorical_kl`` computes, for ``categorical_kl_backward``: the rows, and two things to remember."""
    # Choices first, rows last: few choices a row would leave a vector unit mostly empty.
    log_p = torch.log_softmax(p.mT.contiguous(), -2)
    log_q = torch.log_softmax(q.mT.contiguous(), -2)
    probs = log_p.exp()
    difference = log_p - log_q
    difference.masked_fill_(probs == 0, 0.0)  # 0 x inf counts 0
    return (difference * probs).sum(-2), probs, log_q


def categorical_kl_backward(gradient: Tensor, probs: Tensor, log_q: Tensor) -> Tensor:
    """The gradient of q, from that of the rows."""
    return (log_q.exp() - probs).mul_(gradient.unsqueeze(-2)).mT


class _CategoricalKL(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, p: Tensor, q: Tensor) -> Tensor:
        rows, *kept = categorical_kl_forward(p, q)
        ctx.save_for_backward(*kept)
        return rows

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        return None, categorical_kl_backward(gradient, *ctx.saved_tensors)


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
