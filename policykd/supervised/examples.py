"""What a loader of labelled inputs gives, as one record, and fast loaders of what is in memory; it labels nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from policykd.distributions import Categorical, leading
from policykd.errors import UsageError
from policykd.prediction import Batch, Obs, Prediction, map_obs, rows_of

__all__ = [
    "MISSING",
    "Examples",
    "Inputs",
    "Rows",
    "View",
    "as_examples",
    "length_of",
    "nobody",
    "take",
    "take_inputs",
]

MISSING = -1
"""The label of a row whose true label nobody knows."""

Inputs: TypeAlias = Obs | tuple[str, ...]
"""Raw inputs, a row each: a tensor ``[n, ...]``, a dict of them, or texts."""


def length_of(loader: Iterable[Any]) -> int | None:
    """Batches in a pass, None where that is not known."""
    try:
        return len(loader) if isinstance(loader, Sized) else None
    except TypeError:  # torch's DataLoader has a length, unless its data has none
        return None


def nobody(n: int) -> Prediction:
    """The target where no teacher has spoken: a law over a single choice, which every pair loss refuses."""
    return Prediction(Categorical(torch.zeros(n, 1)))


@dataclass(frozen=True, eq=False)
class Examples:
    """Inputs and what is known of them.

    Attributes:
        inputs: as they come, ``[n, ...]``; nothing is normalised or encoded yet.
        label: long ``[n]`` (of sequences ``[n, t]``), ``MISSING`` where nobody knows.
        soft: the law of the label where it is one, ``[n, k]``: what several people said, or mixed labels.
        target: the teacher's word on exactly these inputs, or None.
        mask: rows (of sequences: tokens, ``[n, t]``) that count, None for all.
    """

    inputs: Inputs
    label: Tensor
    soft: Tensor | None = None
    target: Prediction | None = None
    mask: Tensor | None = None

    def __len__(self) -> int:
        return len(self.label)

    @property
    def told(self) -> bool:
        """Whether anybody has said anything of any row."""
        if self.target is not None or (self.soft is not None and bool(self.soft.any())):
            return True
        return bool((self.label != MISSING).any())

    def batch(self, obs: Obs) -> Batch:
        """As a Learner takes them, ``obs`` being the inputs as the student reads them."""
        extra = {"label": self.label} if self.soft is None else {"label": self.label, "soft": self.soft}
        target = nobody(len(self)) if self.target is None else self.target
        return Batch(obs, target, mask=self.mask, extra=extra)


View: TypeAlias = Callable[[Examples, torch.Generator], Examples]
"""An augmentation: the same examples seen another way. It draws from the generator only, and drops the target."""


def as_examples(item: Any) -> Examples:
    """What one step of a loader gave: Examples, ``(inputs, label)``, or ``(inputs, label, target)``.

    Args:
        item: the target may be logits ``[n, ..., k]`` or a Prediction.

    Raises:
        UsageError: ``supervised.batch`` for anything else, ``label.type`` for labels that are no whole numbers.
    """
    if isinstance(item, Examples):
        return item
    if not (isinstance(item, Sequence) and len(item) in (2, 3) and isinstance(item[1], Tensor)):
        raise UsageError(
            "supervised.batch", f"a loader that gives {_described(item)}", "(inputs, label) or (inputs, label, logits)"
        )
    inputs, label, whole = item[0], item[1], _whole(item[1])
    target = item[2] if len(item) == 3 else None
    if isinstance(target, Tensor):
        target = Prediction(Categorical(target))
    if not (target is None or isinstance(target, Prediction)):
        found = f"answers of type {type(target).__name__}"
        raise UsageError("supervised.batch", found, "logits [n, ..., k] or a Prediction", "torch.as_tensor(logits)")
    read = inputs if isinstance(inputs, Tensor | dict) else tuple(inputs)
    if rows_of(read) != len(label):
        raise UsageError("supervised.batch", f"{rows_of(read)} inputs with {len(label)} labels", "a label an input")
    if target is not None and leading(target.dist)[:1] != (len(label),):
        found = f"answers for {tuple(leading(target.dist))} rows with {len(label)} labels"
        raise UsageError("supervised.batch", found, "an answer an input")
    return Examples(read, whole, target=target)


def _whole(label: Tensor) -> Tensor:
    if label.is_floating_point() or label.is_complex():
        raise UsageError("label.type", f"labels of {label.dtype}", "numbers of classes, 0 or more, -1 where missing")
    return label.long()


def _described(item: Any) -> str:
    if isinstance(item, Sequence) and not isinstance(item, str):
        return f"{type(item).__name__} of {', '.join(type(part).__name__ for part in item) or 'nothing'}"
    return type(item).__name__


class Rows:
    """A loader over what is in memory: whole batches by index, no Python per row; each pass in a new order.

    Args:
        inputs: ``[n, ...]``, a dict of such, or texts.
        label: long ``[n, ...]``.
        soft, target, mask: as of Examples, a row each.
        batch_size: rows in a batch; the last one may have less, but a single row that is left over joins the batch
            before it (a layer that normalises over the batch has nothing to say of one row).
        batches: in a pass; None gives each row once, a larger number goes round again (all batches are full then).
        shuffle: False keeps the order.
        seed: of the orders.

    Raises:
        UsageError: ``supervised.empty`` for no rows, ``supervised.batch`` for columns of different lengths,
            ``label.type`` for labels that are no whole numbers.
    """

    def __init__(
        self,
        inputs: Inputs,
        label: Tensor,
        *,
        soft: Tensor | None = None,
        target: Prediction | None = None,
        mask: Tensor | None = None,
        batch_size: int = 128,
        batches: int | None = None,
        shuffle: bool = True,
        seed: int = 0,
    ) -> None:
        columns = [t for t in (soft, mask) if t is not None]
        lengths = {rows_of(inputs), len(label), *map(len, columns)}
        if target is not None:
            lengths.add(len(target.dist.mode()))
        if len(lengths) > 1:
            found = f"columns of {', '.join(map(str, sorted(lengths)))} rows"
            raise UsageError("supervised.batch", found, "as many labels and answers as inputs")
        if not len(label) or batch_size < 1 or (batches is not None and batches < 1):
            raise UsageError("supervised.empty", f"{len(label)} rows in batches of {batch_size}", "one row or more")
        self.examples = Examples(inputs, _whole(label), soft, target, mask)
        self.batch_size, self.batches, self.shuffle = batch_size, batches, shuffle
        self._generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        """Batches in a pass."""
        return len(self._sizes())

    def __iter__(self) -> Iterator[Examples]:
        sizes = self._sizes()
        rounds = [self._order() for _ in range(math.ceil(sum(sizes) / len(self.examples)))]
        for rows in torch.cat(rounds)[: sum(sizes)].split(sizes):
            yield take(self.examples, rows)

    def _sizes(self) -> list[int]:
        """Rows of each batch of a pass."""
        if self.batches is not None:
            return [self.batch_size] * self.batches
        whole, left = divmod(len(self.examples), self.batch_size)
        if left == 1 and whole and self.batch_size > 1:
            return [self.batch_size] * (whole - 1) + [self.batch_size + 1]
        return [self.batch_size] * whole + [left] * (left > 0)

    def _order(self) -> Tensor:
        n = len(self.examples)
        return torch.randperm(n, generator=self._generator) if self.shuffle else torch.arange(n)


def take_inputs(inputs: Inputs, rows: Tensor) -> Inputs:
    """Some of the inputs, by index."""
    if isinstance(inputs, tuple):
        return tuple(inputs[i] for i in rows.tolist())
    return map_obs(inputs, lambda t: t[rows])


def take(examples: Examples, rows: Tensor) -> Examples:
    """Some of the rows, by index."""

    def of(t: Tensor) -> Tensor:
        return t[rows]

    return replace(
        examples,
        inputs=take_inputs(examples.inputs, rows),
        label=of(examples.label),
        soft=None if examples.soft is None else of(examples.soft),
        target=None if examples.target is None else examples.target.map(of),
        mask=None if examples.mask is None else of(examples.mask),
    )
