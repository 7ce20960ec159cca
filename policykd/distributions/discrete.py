"""Laws of choices: one, several at once, coins; a masked action counts 0, in the value and in the gradient."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Bernoulli", "Categorical", "MultiCategorical", "weighted_terms"]


def weighted_terms(weight: Tensor, value: Tensor) -> Tensor:
    """weight * value for weights of 0 or more, with 0 * inf = 0, and a gradient without NaN there."""
    return weight * torch.where(weight == 0, 0.0, value)  # not `weight > 0`: a NaN must stay one


def _draw_index(probs: Tensor, generator: torch.Generator | None) -> Tensor:
    flat = torch.multinomial(probs.reshape(-1, probs.shape[-1]), 1, generator=generator)
    return flat.reshape(probs.shape[:-1])


@dataclass(frozen=True, eq=False)
class Categorical:
    """One choice of ``a``.

    Args:
        logits: unnormalised log-probabilities, ``[*b, a]``; -inf masks an action.
    """

    logits: Tensor

    # Not cached: computed once under no_grad (a draw, a chart), it would cut the graph of a later loss.
    @property
    def log_probs(self) -> Tensor:
        """Normalised log-probabilities, ``[*b, a]``."""
        return F.log_softmax(self.logits, -1)

    @property
    def probs(self) -> Tensor:
        """Probabilities, ``[*b, a]``."""
        return self.log_probs.exp()

    def log_prob(self, action: Tensor) -> Tensor:
        """Log-probability of the index ``action`` (integer, ``[*b]`` or broadcast to it), ``[*b]``."""
        shape = torch.broadcast_shapes(self.logits.shape[:-1], action.shape)
        index = action.long().expand(shape).unsqueeze(-1)
        return self.log_probs.expand(*shape, -1).gather(-1, index).squeeze(-1)

    def entropy(self) -> Tensor:
        """Entropy in nats, ``[*b]``."""
        log_probs = self.log_probs
        return -weighted_terms(log_probs.exp(), log_probs).sum(-1)

    def mode(self) -> Tensor:
        """The most probable index, ``[*b]``."""
        return self.logits.argmax(-1)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """One index a row, ``[*b]``, without gradient."""
        return _draw_index(self.probs.detach(), generator)


@dataclass(frozen=True, eq=False)
class MultiCategorical:
    """Several independent choices at once (``MultiDiscrete``).

    Args:
        logits: the factors' logits side by side, ``[*b, sum(nvec)]``.
        nvec: number of choices of each factor.
    """

    logits: Tensor
    nvec: tuple[int, ...]

    @property
    def factors(self) -> tuple[Categorical, ...]:
        """One Categorical a factor."""
        return tuple(Categorical(part) for part in self.logits.split(self.nvec, -1))

    def log_prob(self, action: Tensor) -> Tensor:
        """Log-probability of the indices ``action`` (``[*b, len(nvec)]``), ``[*b]``."""
        parts = [f.log_prob(a) for f, a in zip(self.factors, action.unbind(-1), strict=True)]
        return torch.stack(parts, -1).sum(-1)

    def entropy(self) -> Tensor:
        """Entropy in nats, ``[*b]``."""
        return torch.stack([f.entropy() for f in self.factors], -1).sum(-1)

    def mode(self) -> Tensor:
        """The most probable index of each factor, ``[*b, len(nvec)]``."""
        return torch.stack([f.mode() for f in self.factors], -1)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """One index a factor, ``[*b, len(nvec)]``, without gradient."""
        return torch.stack([f.sample(generator) for f in self.factors], -1)


@dataclass(frozen=True, eq=False)
class Bernoulli:
    """Independent coins (``MultiBinary``).

    Args:
        logits: log-odds of a 1, ``[*b, d]``; +-inf fixes a coin.
    """

    logits: Tensor

    @property
    def probs(self) -> Tensor:
        """Probability of a 1, ``[*b, d]``."""
        return torch.sigmoid(self.logits)

    def log_prob(self, action: Tensor) -> Tensor:
        """Log-probability of the 0/1 vector ``action`` (``[*b, d]``), ``[*b]``."""
        return (F.logsigmoid(torch.where(action > 0, self.logits, -self.logits))).sum(-1)

    def entropy(self) -> Tensor:
        """Entropy in nats, ``[*b]``."""
        one, zero = F.logsigmoid(self.logits), F.logsigmoid(-self.logits)
        return -(weighted_terms(one.exp(), one) + weighted_terms(zero.exp(), zero)).sum(-1)

    def mode(self) -> Tensor:
        """The more probable side of each coin (0 where both are equal), ``[*b, d]``."""
        return (self.logits > 0).to(self.logits.dtype)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """One 0/1 vector a row, ``[*b, d]``, without gradient."""
        return torch.bernoulli(self.probs.detach(), generator=generator)
