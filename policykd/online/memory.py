"""Bounded memories of a stream without an end, by name: the newest rows, or a fair sample of all; they never label."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from policykd.datasets import Ring
from policykd.errors import UnknownNameError, UsageError
from policykd.prediction import Batch

__all__ = ["MEMORIES", "Memory", "Reservoir", "memory_of"]


class Memory(Protocol):
    """Labelled rows, of which there are never more than a fixed number."""

    added: int
    """Rows ever added."""

    def __len__(self) -> int:
        """Rows held."""

    def add(self, batch: Batch) -> None:
        """Take in a batch of one leading dimension; a row that is masked out is not kept."""

    def sample(self, n: int) -> Batch:
        """``n`` rows drawn uniformly with replacement; a copy."""


def _tensors(batch: Batch) -> list[Tensor]:
    found: list[Tensor] = []

    def note(t: Tensor) -> Tensor:
        found.append(t)
        return t

    batch.map(note)
    return found


class Reservoir:
    """A uniform sample of every row that was ever added (Vitter 1985, ACM TOMS 11, algorithm R).

    A stream's past stays as present as its newest rows: right for a world that does not change, slow in one that does.

    Args:
        capacity: rows held.
        seed: of the draws, those that replace rows and those that are asked for.

    Attributes:
        added: rows ever added.
    """

    def __init__(self, capacity: int, *, seed: int) -> None:
        if capacity < 1:
            raise UsageError("ring.capacity", f"a capacity of {capacity} rows", "at least 1")
        self.capacity, self.added = capacity, 0
        self._held: Batch | None = None
        self._room = 0
        self._generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return min(self.added, self.capacity)

    @torch.no_grad()
    def add(self, batch: Batch) -> None:
        """Keep each new row with the probability that every row of the stream has.

        Raises:
            UsageError: ``ring.columns`` for other columns than the first batch had.
        """
        if batch.mask is not None:
            rows = batch[batch.mask.bool()]
            batch = Batch(rows.obs, rows.target, rows.weight, None, rows.extra)
        n = len(batch)
        if n == 0:
            return
        self._reserve(batch, min(self.added + n, self.capacity))
        # Row number i of the stream lands on a place below i + 1: within the capacity, it takes that place.
        numbers = torch.arange(self.added, self.added + n)
        drawn = (torch.rand(n, generator=self._generator, dtype=torch.float64) * (numbers + 1)).long()
        places = torch.where(numbers < self.capacity, numbers, drawn)
        # Where two rows of a batch land on one place, the later one stays, as if they had come one by one.
        last = {place: row for row, place in enumerate(places.tolist()) if place < self.capacity}
        to, taken = torch.tensor(list(last)).long(), torch.tensor(list(last.values())).long()
        for own, new in zip(_tensors(self._filled()), _tensors(batch), strict=True):
            own[to] = new[taken].to(own.device)
        self.added += n

    def sample(self, n: int) -> Batch:
        """``n`` rows drawn uniformly with replacement."""
        held = self._filled()
        return held[torch.randint(len(self), (n,), generator=self._generator)]

    def all(self) -> Batch:
        """Every row held, in no particular order: a view until the next ``add``."""
        return self._filled()[: len(self)]

    def _filled(self) -> Batch:
        if self._held is None:
            raise UsageError("ring.empty", "a draw from an empty memory", "at least one added batch")
        return self._held

    def _reserve(self, batch: Batch, rows: int) -> None:
        held = self._held
        if held is not None:
            found, wanted = _columns(batch), _columns(held)
            if found != wanted:
                raise UsageError("ring.columns", f"a batch of {found}", f"{wanted}", "add batches of one kind")
        if rows <= self._room:
            return
        self._room = min(self.capacity, max(2 * self._room, rows, 1024))
        grown = batch.map(lambda t: torch.empty(self._room, *t.shape[1:], dtype=t.dtype))
        if held is not None:
            for new, old in zip(_tensors(grown), _tensors(held), strict=True):
                new[: len(old)] = old
        self._held = grown


def _columns(batch: Batch) -> list[tuple[torch.Size, torch.dtype]]:
    return [(t.shape[1:], t.dtype) for t in _tensors(batch)]


def _fifo(capacity: int, seed: int) -> Memory:
    return Ring(capacity, seed=seed)


def _reservoir(capacity: int, seed: int) -> Memory:
    return Reservoir(capacity, seed=seed)


MEMORIES: dict[str, Callable[[int, int], Memory]] = {"fifo": _fifo, "reservoir": _reservoir}
"""Memories by name: ``fifo`` holds the newest rows, ``reservoir`` a uniform sample of all."""


def memory_of(name: str, capacity: int, *, seed: int) -> Memory:
    """An empty memory.

    Raises:
        UnknownNameError: ``name.memory``.
        UsageError: ``ring.capacity``.
    """
    if name not in MEMORIES:
        raise UnknownNameError.of("memory", name, MEMORIES)
    return MEMORIES[name](capacity, seed)
