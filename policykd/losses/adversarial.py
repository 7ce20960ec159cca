"""Pair losses that learn to tell student from teacher, and their optimizer; nothing here moves student or teacher.

An ``Adversary`` in an objective is trained by the Learner, through ``Opponents``, after each step and on the very pairs
that it judged in it; the student's words are detached there. With a weight of 0 it judges nothing and learns nothing.
``weighted(policy=(1.0, forward_kl), adversary=(0.1, Discriminator(4)))``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from policykd.distributions import leading
from policykd.errors import DistributionError, SpaceError, UsageError
from policykd.losses import choices
from policykd.losses.compose import Weighted
from policykd.losses.features import Feature, feature_of
from policykd.optimizer import Adam, Flat
from policykd.prediction import Batch, Prediction

__all__ = ["Adversary", "Discriminator", "Opponents"]


class Adversary(nn.Module, ABC):
    """A parametric pair loss with an aim of its own: its parameters follow ``adversary_loss``, never its value.

    The Learner finds it wherever it finds parametric losses. It must be called as a module (``adversary(student,
    target)``), so that the Learner hears which pairs it judged.
    """

    @abstractmethod
    def forward(self, student: Prediction, target: Prediction) -> Tensor:
        """What the student is taught with, ``[*b]``: its side of the game."""

    @abstractmethod
    def adversary_loss(self, student: Prediction, target: Prediction) -> Tensor:
        """What the adversary is taught with, ``[*b]``: its own side; no gradient comes back to either prediction."""


@final
class Opponents:
    """The adversaries of an objective and the one optimizer that is theirs alone: the Learner's other half.

    Attributes:
        parameters: the ids of what it trains, which nobody else may.
        optimizer: Adam on all of them.
    """

    @classmethod
    def of(cls, objective: Weighted) -> Opponents | None:
        """Those of an objective, however deep inside other losses; None where there are none."""
        every = {id(m): m for top in objective.modules for m in top.modules() if isinstance(m, Adversary)}
        return cls(list(every.values())) if every else None

    def __init__(self, every: Sequence[Adversary]) -> None:
        self._every = tuple(every)
        own = {id(p): p for m in every for p in m.parameters()}
        self.parameters = frozenset(own)
        self._flat = Flat([(1, [p for p in own.values() if p.requires_grad])])
        self.optimizer = Adam(self._flat)
        self._judged: list[tuple[Adversary, Prediction, Prediction, Batch]] = []

    def forget(self) -> None:
        """Drop the pairs of a step that did not come to its end."""
        self._judged.clear()

    @contextmanager
    def hearing(self, batch: Batch) -> Iterator[None]:
        """Note down the pairs that are judged, whatever the losses around an adversary made of them."""

        def hear(adversary: nn.Module, said: tuple[Any, ...], odds: Any) -> None:
            if torch.is_grad_enabled() and isinstance(adversary, Adversary):
                student, target = said
                self._judged.append((adversary, student.map(Tensor.detach), target.map(Tensor.detach), batch))

        handles = [m.register_forward_hook(hear) for m in self._every]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def step(self, lr: float, reduce: Callable[[Tensor, Tensor | None, Tensor | None], Tensor]) -> Tensor | None:
        """One step down the reduced ``adversary_loss`` of the pairs heard, which are then forgotten.

        Args:
            lr: learning rate.
            reduce: rows, weight and mask to a number (of Many: one a member).

        Returns:
            That loss, detached; None, and no step, where nothing was judged.
        """
        if not self._judged:
            return None
        self._flat.follow()  # the student's loss left gradients here, too
        parts = [reduce(a.adversary_loss(s, t), batch.weight, batch.mask) for a, s, t, batch in self._judged]
        loss = sum(parts[1:], parts[0])
        loss.sum().backward()
        self._flat.gather()
        self.optimizer.step(lr)
        self.forget()
        return loss.detach()


@final
class Discriminator(Adversary):
    """A small net D that tells the teacher's words (real) from the student's (Goodfellow et al. 2014, 1406.2661).

    Xu et al. 2017 (1709.00513, section 3.2) let such a net judge logits, beside the usual losses, which it cannot
    replace: it does not see the input. Student: -log D(student), the form whose gradient does not vanish early on.
    Adversary: -log D(teacher) - log(1 - D(student)). A fresh D says 1/2 to everything: log 2, and 2 log 2. Where both
    say the same, its best answer stays 1/2. Leaky ReLUs between linear layers; no spectral normalisation.

    Args:
        width: numbers that it looks at: the actions of all choices (two a coin), or the feature's numbers in a row.
        of: ``probabilities`` of discrete actions, 0 where masked; ``standardised`` logits (z-scores, which hide how
            sure each is); ``feature``, a named activation, flattened.
        feature: its name, or (the student's, the teacher's), for ``of="feature"``; both of one shape.
        hidden: widths of the layers between.
        seed: of the first weights.

    Raises:
        UsageError: ``adversary.of`` unless ``feature`` is given where, and only where, a feature is judged;
            ``adversary.width`` for widths below 1.
            At the call: ``loss.feature``, ``loss.feature-shape``.
        DistributionError (at the call): ``adversary.family`` for continuous actions.
        SpaceError (at the call): ``adversary.width`` for another number of numbers.
    """

    def __init__(
        self,
        width: int,
        *,
        of: Literal["probabilities", "standardised", "feature"] = "probabilities",
        feature: Feature | None = None,
        hidden: Sequence[int] = (64, 64),
        seed: int = 0,
    ) -> None:
        super().__init__()
        if of not in ("probabilities", "standardised", "feature") or (of == "feature") != (feature is not None):
            raise UsageError(
                "adversary.of",
                f"of={of!r}, feature={feature!r}",
                "probabilities or standardised, or a feature by its name",
                'Discriminator(width, of="feature", feature="hidden")',
            )
        sizes = [width, *hidden, 1]
        if min(sizes) < 1:
            raise UsageError("adversary.width", f"layers of {sizes}", "widths of 1 or more")
        self.width, self.of = width, of
        self.features = (feature, feature) if isinstance(feature, str) else feature
        generator = torch.Generator().manual_seed(seed)
        layers: list[nn.Module] = []
        for inputs, outputs in zip(sizes[:-1], sizes[1:], strict=True):
            layers += [_linear(inputs, outputs, generator), nn.LeakyReLU(0.2)]
        self.net = nn.Sequential(*layers[:-1])
        last = layers[-2]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def judge(self, said: Prediction, side: Literal["student", "teacher"]) -> Tensor:
        """Log-odds that what one side says is the teacher's, ``[*b]``."""
        seen = self._seen(said, side)
        if seen.shape[-1] != self.width:
            raise SpaceError(
                "adversary.width", f"{seen.shape[-1]} numbers a row", f"{self.width}, as the Discriminator was made for"
            )
        odds: Tensor = self.net(seen).squeeze(-1)
        return odds

    def forward(self, student: Prediction, target: Prediction) -> Tensor:
        """-log D(student), ``[*b]``."""
        return F.softplus(-self.judge(student, "student"))

    def adversary_loss(self, student: Prediction, target: Prediction) -> Tensor:
        """-log D(teacher) - log(1 - D(student)), ``[*b]``."""
        mine = self.judge(student.map(Tensor.detach), "student")
        theirs = self.judge(target.map(Tensor.detach), "teacher")
        return F.softplus(-theirs) + F.softplus(mine)

    def _seen(self, said: Prediction, side: str) -> Tensor:
        if self.features is not None:
            own = feature_of(said, self.features[side == "teacher"], side)
            return own.flatten(len(leading(said.dist)))
        parts = choices.split(said.dist)
        if parts is None:
            raise DistributionError(
                "adversary.family",
                f"probabilities of a {choices.describe(said.dist)}",
                "discrete actions",
                'judge a feature (of="feature")',
            )
        if self.of == "probabilities":
            seen = [torch.softmax(z, -1) for z in parts]
        else:
            seen = [torch.where(choices.legal(z), choices.z_scores(z), 0.0) for z in parts]
        return torch.cat([x.flatten(len(leading(said.dist))) for x in seen], -1)


@torch.no_grad()
def _linear(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    """A layer with first weights as torch draws them, from a generator of their own."""
    layer = nn.utils.skip_init(nn.Linear, inputs, outputs)
    for p in (layer.weight, layer.bias):
        p.uniform_(-1.0, 1.0, generator=generator).div_(inputs**0.5)
    return layer
