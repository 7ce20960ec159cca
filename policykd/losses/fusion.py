"""Several teachers as one, by attention to what they see in each input; it learns from true labels alone.

``Fusion(said)`` is a ``Combine``: predictions in, one out, its law the gates' mean of the laws, ``features["fused"]``
the gates' mixture of the teachers' features. ``fit`` is the only way in for a gradient. Trained on the distillation
loss it would learn which teacher is easy to copy (``losses.gate``); so what it says never carries one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from policykd.distributions import Categorical, leading
from policykd.errors import DistributionError, SpaceError, UsageError
from policykd.losses import choices, combine
from policykd.losses.features import feature_of
from policykd.optimizer import Adam, Flat
from policykd.prediction import Prediction

__all__ = ["Fusion"]

_LIMIT = 5.0  # features beyond this many standard deviations of the sample read as that


@final
class Fusion(nn.Module):
    """F(x) = [sum_k g_hk(x) W_hk F_k(x)] over heads h, side by side; g_h = softmax over teachers of a small net.

    Teachers that are right on different inputs are each listened to on their own: instance-level weights of teachers
    and of their hidden layers (AMTML-KD: Liu et al. 2021, 2103.04062), with the heads of Vaswani et al. 2017
    (1706.03762, section 3.2.2). The net reads all teachers' features side by side. The law is the mean of the teachers'
    laws (``combine.mean``), weighted by the mean of the heads' gates. Unfitted, every gate is 1 / K exactly.

    Args:
        said: one prediction a teacher on a sample of inputs, ``[n]``, Categoricals over the same classes; it sets
            widths, and the scale of features. A thousand rows are plenty.
        feature: which of ``Prediction.features`` is fused, ``[*b, n, ...]``, n of a teacher's own; the mean is taken
            over further dimensions (a map's places). None fuses the probabilities.
        heads: gates for each input.
        width: of a head's part of ``features["fused"]``, which has heads x width numbers.
        hidden: of the gates' net; 0 makes it linear.
        seed: of the first weights.

    Raises:
        UsageError: ``fusion.teachers`` for fewer than two teachers (at the call: for another number),
            ``fusion.size`` for sizes out of range, ``loss.feature``, ``loss.feature-shape``.
        DistributionError: ``fusion.family`` unless they are Categoricals, ``combine.family`` for different classes.
        SpaceError (at the call): ``fusion.width`` for features of another width.
    """

    def __init__(
        self,
        said: Sequence[Prediction],
        *,
        feature: str | None = None,
        heads: int = 4,
        width: int = 16,
        hidden: int = 32,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if len(said) < 2:
            raise UsageError("fusion.teachers", f"a fusion of {len(said)} teachers", "two or more")
        if min(heads, width) < 1 or hidden < 0:
            found = f"heads={heads}, width={width}, hidden={hidden}"
            raise UsageError("fusion.size", found, "heads and width of 1 or more, hidden of 0 or more")
        self.feature, self.heads, self.width = feature, heads, width
        sample = [self._feature(p) for p in said]
        self.widths = tuple(f.shape[-1] for f in sample)
        law = combine.mean(said).dist
        assert isinstance(law, Categorical)
        self.classes = law.logits.shape[-1]
        inner, total = hidden or sum(self.widths), sum(self.widths)
        self.maps = nn.ModuleList(nn.utils.skip_init(nn.Linear, n, heads * width, bias=False) for n in self.widths)
        self.query = nn.utils.skip_init(nn.Linear, total, inner) if hidden else nn.Identity()
        self.gate = nn.utils.skip_init(nn.Linear, inner, heads * len(said))
        self.head = nn.utils.skip_init(nn.Linear, heads * width, self.classes)
        _draw(self, torch.Generator().manual_seed(seed))
        rows = torch.cat(sample, -1).flatten(0, -2)
        std = rows.std(0, correction=0)
        self.register_buffer("centre", rows.mean(0))
        self.register_buffer("spread", torch.where(std > 1e-6, std, 1.0))
        self.centre: Tensor
        self.spread: Tensor

    @torch.no_grad()
    def forward(self, said: Sequence[Prediction]) -> Prediction:
        """One prediction for the rows of ``said``, frozen; leading dimensions ``*b``."""
        gates, fused = self._fused(said)
        word = combine.mean(said, weights=gates.mean(-2).movedim(-1, 0))
        return replace(word, features={"fused": fused})

    @torch.no_grad()
    def gates(self, said: Sequence[Prediction]) -> Tensor:
        """The teachers' shares for each head, ``[*b, heads, k]``, of sum 1."""
        return self._fused(said)[0]

    def label_loss(self, said: Sequence[Prediction], label: Tensor) -> Tensor:
        """-log of the mixed law's probability of the true label, and of a linear reading of the fused features'.

        Args:
            said: one prediction a teacher, leading dimensions ``*b``.
            label: ``[*b]``, -1 where it is missing (0 in that row).

        Returns:
            Their sum, ``[*b]``. The law trains the gates; the reading, which nobody else uses, the maps W too.

        Raises:
            UsageError: ``label.range``, ``label.shape``.
        """
        gates, fused = self._fused(said)
        law = combine.mean(said, weights=gates.mean(-2).movedim(-1, 0)).dist
        if label.shape != leading(law):
            raise UsageError("label.shape", f"labels of shape {tuple(label.shape)}", f"{tuple(leading(law))}")
        if label.numel() and not (-1 <= int(label.min()) and int(label.max()) < self.classes):
            found = f"labels from {int(label.min())} to {int(label.max())}"
            raise UsageError("label.range", found, f"0 to {self.classes - 1}, -1 where one is missing")
        index = label.clamp(min=0).long()
        # Nobody's class has no finite loss; what gates can do about it is nothing.
        mixed = law.log_prob(index).clamp(min=-100.0)
        read = F.log_softmax(self.head(fused), -1).gather(-1, index.unsqueeze(-1)).squeeze(-1)
        return torch.where(label >= 0, -mixed - read, 0.0)

    def fit(
        self,
        said: Sequence[Prediction],
        label: Tensor,
        *,
        epochs: int = 30,
        rows: int = 256,
        lr: float = 3e-3,
        seed: int = 0,
    ) -> list[float]:
        """Learn from true labels, by Adam on ``label_loss``; rows that the teachers were not fitted to teach most.

        Args:
            said: one prediction a teacher on all inputs, ``[n]`` (token by token: flattened to that).
            label: ``[n]``, -1 where it is missing.
            epochs: passes over the labelled rows.
            rows: in a step.
            lr: learning rate, which falls to 0 along a line.
            seed: of the order of rows.

        Returns:
            The mean loss of each epoch.

        Raises:
            UsageError: ``fusion.labels`` without a labelled row; ``label.range``, ``label.shape``.
        """
        generator = torch.Generator().manual_seed(seed)
        known = (label >= 0).nonzero().squeeze(-1) if label.dim() == 1 else torch.zeros(0)
        if not len(known):
            raise UsageError("fusion.labels", f"labels of shape {tuple(label.shape)}", "labels [n], one of them known")
        flat = Flat([(1, [p for p in self.parameters() if p.requires_grad])])
        adam, losses, steps = Adam(flat), [], epochs * -(-len(known) // rows)
        for _ in range(epochs):
            total = 0.0
            for index in known[torch.randperm(len(known), generator=generator)].split(rows):
                flat.follow()
                with torch.enable_grad():
                    loss = self.label_loss([p[index] for p in said], label[index]).mean()
                    loss.backward()
                flat.gather()
                adam.step(lr * (1.0 - adam.steps / steps))
                total += float(loss.detach()) * len(index)
            losses.append(total / len(known))
        flat.follow()
        return losses

    def _fused(self, said: Sequence[Prediction]) -> tuple[Tensor, Tensor]:
        """Gates ``[*b, heads, k]`` and fused features ``[*b, heads x width]``."""
        if len(said) != len(self.widths):
            raise UsageError("fusion.teachers", f"{len(said)} predictions", f"those of {len(self.widths)} teachers")
        found = [self._feature(p) for p in said]
        if tuple(f.shape[-1] for f in found) != self.widths:
            widths = ", ".join(str(f.shape[-1]) for f in found)
            raise SpaceError("fusion.width", f"features of width {widths}", f"{', '.join(map(str, self.widths))}")
        seen = ((torch.cat(found, -1) - self.centre) / self.spread).clamp(-_LIMIT, _LIMIT)
        asked = self.gate(torch.tanh(self.query(seen)) if isinstance(self.query, nn.Linear) else seen)
        gates = torch.softmax(asked.unflatten(-1, (self.heads, len(said))), -1)
        parts = [own(f) for own, f in zip(self.maps, seen.split(self.widths, -1), strict=True)]
        mapped = torch.stack([part.unflatten(-1, (self.heads, self.width)) for part in parts], -2)
        return gates, (gates.unsqueeze(-1) * mapped).sum(-2).flatten(-2)

    def _feature(self, said: Prediction) -> Tensor:
        """What a teacher sees, ``[*b, n]``, frozen."""
        if not isinstance(said.dist, Categorical):
            found = f"a fusion of a {choices.describe(said.dist)}"
            raise DistributionError("fusion.family", found, "Categoricals over classes", "take losses.combine")
        if self.feature is None:
            return said.dist.probs.detach()
        own = feature_of(said, self.feature, "teacher").detach().float()
        first = len(leading(said.dist)) + 1
        return own.flatten(first).mean(-1) if own.dim() > first else own


@torch.no_grad()
def _draw(fusion: Fusion, generator: torch.Generator) -> None:
    """First weights as torch draws them, from a generator of their own; gates that listen to all alike."""
    for layer in fusion.modules():
        if isinstance(layer, nn.Linear):
            for p in layer.parameters():
                p.uniform_(-1.0, 1.0, generator=generator).div_(layer.in_features**0.5)
    for p in fusion.gate.parameters():
        p.zero_()
