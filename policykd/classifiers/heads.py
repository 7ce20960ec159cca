"""One trunk with a head a label set: several tasks on the same kind of inputs; it refuses to mix rows of two tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast, final

import torch
from torch import Tensor, nn

from policykd.classifiers.classifier import Classifier, Encoder
from policykd.errors import UsageError
from policykd.policy import Tasks

__all__ = ["Heads"]


class _Branch(nn.Module):
    """Trunk and head, whatever the trunk takes: a Sequential would take one tensor."""

    def __init__(self, trunk: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.trunk, self.head = trunk, head

    def forward(self, *args: Tensor, **named: Tensor) -> Tensor:
        """Logits ``[*b, k]``."""
        said: Tensor = self.head(self.trunk(*args, **named))
        return said


@final
class Heads(Tasks):
    """A classifier for several sets of labels: all layers are shared but the last (Caruana 1997).

    Args:
        trunk: inputs to ``[*b, width]``; of encoded texts, tensors by name as keyword arguments (``tokens``).
        tasks: classes (names, or how many) by the task's name; the order numbers the tasks.
        width: of what the trunk says.
        seed: of the heads' first weights.
        encoder: of raw texts (``task(name).prepare`` encodes them for all tasks).

    Attributes:
        names: the tasks' names, in the order of their numbers.

    Raises:
        UsageError: ``multitask.tasks`` for no task, ``classifier.classes``.
    """

    def __init__(
        self,
        trunk: nn.Module,
        tasks: Mapping[str, Sequence[str] | int],
        width: int,
        *,
        seed: int = 0,
        encoder: Encoder | None = None,
    ) -> None:
        super().__init__()
        if not tasks:
            raise UsageError("multitask.tasks", "a classifier of no task", "one or more", "give classes by task")
        self.names = tuple(tasks)
        generator = torch.Generator().manual_seed(seed)
        views = []
        for classes in tasks.values():
            count = classes if isinstance(classes, int) else len(classes)
            head = nn.utils.skip_init(nn.Linear, width, count)
            nn.init.normal_(head.weight, std=0.01, generator=generator)
            nn.init.zeros_(head.bias)
            views.append(Classifier(_Branch(trunk, head), classes, encoder=encoder))
        self.views = nn.ModuleList(views)

    def task(self, name: str) -> Classifier:
        """A task's view: what is learnt there is learnt here, and the other way round.

        Raises:
            UnknownNameError: ``name.task``.
        """
        return cast(Classifier, self.views[self.number(name)])

    @property
    def acting_parameters(self) -> int:
        """Numbers in the trunk and all heads, each counted once."""
        return sum(p.numel() for p in self.parameters())
