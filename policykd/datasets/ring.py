"""A bounded memory of labelled rows, oldest out first; it never labels and never learns."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from policykd.errors import UsageError
from policykd.prediction import Batch

__all__ = ["Ring"]


def _columns(batch: Batch) -> list[Tensor]:
    columns: list[Tensor] = []

    def note(t: Tensor) -> Tensor:
        columns.append(t)
        return t

    batch.map(note)
    return columns


class Ring:
    """Preallocated FIFO of ``capacity`` rows; its columns are those of the first batch that is added.

    Args:
        capacity: rows held at most.
        seed: of the draws.
    """

    def __init__(self, capacity: int, *, seed: int) -> None:
        if capacity < 1:
            raise UsageError("ring.capacity", f"a capacity of {capacity} rows", "at least 1")
        self.capacity, self.added = capacity, 0
        self._store: Batch | None = None
        self._generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return min(self.added, self.capacity)

    def add(self, batch: Batch) -> None:
        """Append a batch of one leading dimension; rows beyond the capacity push out the oldest.

        Rows that are masked out are not kept, and no mask is: every row of a memory counts.
        """
        if batch.mask is not None:
            batch = replace(batch[batch.mask.bool()], mask=None)
        batch = batch[-self.capacity :] if len(batch) > self.capacity else batch
        if self._store is None:
            self._store = batch.map(lambda t: t.new_empty((self.capacity, *t.shape[1:])))
        start, n = self.added % self.capacity, len(batch)
        head = min(n, self.capacity - start)
        for column, new in zip(_columns(self._store), _columns(batch), strict=True):
            column[start : start + head] = new[:head]
            column[: n - head] = new[head:]
        self.added += n

    def sample(self, n: int) -> Batch:
        """``n`` rows drawn uniformly with replacement."""
        return self._filled()[torch.randint(len(self), (n,), generator=self._generator)]

    def all(self) -> Batch:
        """Every row held (a view), in no particular order."""
        return self._filled()[: len(self)]

    def newest(self, n: int) -> Batch:
        """The ``n`` rows that were added last (or all there are), oldest first; no random number is drawn."""
        return self._filled()[torch.arange(self.added - min(n, len(self)), self.added) % self.capacity]

    def _filled(self) -> Batch:
        if self._store is None:
            raise UsageError("ring.empty", "a draw from an empty memory", "at least one added batch")
        return self._store
