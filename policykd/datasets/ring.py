"""A bounded memory of labelled rows, oldest out first; it never labels and never learns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from policykd.datasets.frames import Frames
from policykd.errors import UsageError
from policykd.prediction import Batch

__all__ = ["Ring"]

_AT_ONCE = 1 << 28  # bytes that are reserved for all rows from the start; a larger memory grows as it fills

Shapes = dict[str, tuple[int, ...]]


def _named(batch: Batch) -> dict[str, Tensor]:
    """The tensors of a batch, in the order of ``Batch.map``."""
    said = batch.target
    family = type(said.dist).__name__
    obs = {f"obs/{k}": t for k, t in batch.obs.items()} if isinstance(batch.obs, dict) else {"obs": batch.obs}
    words = {f"target/{family}.{k}": t for k, t in vars(said.dist).items() if isinstance(t, Tensor)}
    rest = {"target/value": said.value, "target/q": said.q}
    features = {f"target/features/{k}": t for k, t in said.features.items()}
    flags = {"weight": batch.weight, "mask": batch.mask}
    extra = {f"extra/{k}": t for k, t in batch.extra.items()}
    found = {**obs, **words, **rest, **features, **flags, **extra}
    return {name: t.detach() for name, t in found.items() if t is not None}


def _record(arrays: Mapping[str, np.ndarray], frames: Mapping[str, Frames]) -> np.dtype:
    """All columns of a row side by side, widest elements first.

    One record is one place in memory: a random row misses the cache once, not once for every column.
    """
    fields = [(name, np.dtype(np.int32), (frames[name].stack,)) for name in frames]
    fields += [(name, a.dtype, a.shape[1:]) for name, a in arrays.items() if name not in frames]
    return np.dtype(sorted(fields, key=lambda field: -field[1].itemsize), align=True)


class Ring:
    """FIFO of ``capacity`` rows in the CPU's memory; its columns are those of the first batch that is added.

    Images that stack frames (bytes, three axes or more) are held as the frames they share with other rows, each once,
    where the first batch has many to share: what comes out is the same, bit for bit.

    Args:
        capacity: rows held at most.
        seed: of the draws.
        extra: which of a batch's ``extra`` columns are kept: all, none, or those of these names.

    Attributes:
        added: rows ever added.
    """

    def __init__(self, capacity: int, *, seed: int, extra: bool | tuple[str, ...] = True) -> None:
        if capacity < 1:
            raise UsageError("ring.capacity", f"a capacity of {capacity} rows", "at least 1")
        self.capacity, self.added, self.extra = capacity, 0, extra
        self._pattern: Batch | None = None
        self._shapes: Shapes = {}
        self._frames: dict[str, Frames] = {}
        self._rows = np.empty(0, np.void)
        self._generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return min(self.added, self.capacity)

    @property
    def nbytes(self) -> int:
        """Bytes reserved for the columns, room for rows to come included."""
        return int(self._rows.nbytes) + sum(f.nbytes for f in self._frames.values())

    def add(self, batch: Batch) -> None:
        """Append a batch of one leading dimension; rows beyond the capacity push out the oldest.

        Rows that are masked out are not kept, and no mask is: every row of a memory counts.

        Raises:
            UsageError: ``ring.columns`` for other columns than the first batch had, or without one named in ``extra``.
        """
        if self.extra is not True:
            names = self.extra or ()
            batch = replace(batch, extra={name: t for name, t in batch.extra.items() if name in names})
        if batch.mask is not None:
            batch = replace(batch[batch.mask.bool()], mask=None)
        batch = batch[-self.capacity :] if len(batch) > self.capacity else batch
        n, tensors = len(batch), _named(batch)
        self._check(n, {name: tuple(t.shape) for name, t in tensors.items()})
        if n == 0:
            return
        arrays = {name: t.cpu().numpy() for name, t in tensors.items()}
        if self._pattern is None:
            tried = {name: Frames.worth(array, self.capacity) for name, array in arrays.items()}
            self._frames = {name: frames for name, frames in tried.items() if frames is not None}
            self._shapes = {name: array.shape[1:] for name, array in arrays.items()}
            self._rows = np.empty(0, _record(arrays, self._frames))
            self._pattern = batch.map(lambda t: t.new_empty(0))
        self._reserve(min(self.capacity, self.added + n))
        self._forget(n)
        for name, frames in self._frames.items():
            arrays[name] = frames.put(arrays[name].astype(np.uint8, copy=False))
        start = self.added % self.capacity
        head = min(n, self.capacity - start)
        for name in self._shapes:
            column, new = self._rows[name], arrays[name]
            column[start : start + head] = new[:head]
            column[: n - head] = new[head:]
        self.added += n

    def sample(self, n: int) -> Batch:
        """``n`` rows drawn uniformly with replacement."""
        self._filled()
        return self._batch(self._copied(torch.randint(len(self), (n,), generator=self._generator)))

    def all(self) -> Batch:
        """Every row held, in no particular order: a view until the next ``add``; stacks of frames are copied."""
        return self._batch(self._rows[: len(self)])

    def take(self, rows: Tensor) -> Batch:
        """A copy of some of ``all``'s rows, by their places in it (``[n]``, 0 to ``len(self) - 1``).

        Raises:
            IndexError: for any other place.
        """
        self._filled()
        if len(rows) and (int(rows.min()) < 0 or int(rows.max()) >= len(self)):
            raise IndexError(f"places from {int(rows.min())} to {int(rows.max())} in a memory of {len(self)} rows")
        return self._batch(self._copied(rows))

    def newest(self, n: int) -> Batch:
        """The ``n`` rows that were added last (or all there are), oldest first; no random number is drawn."""
        self._filled()
        return self._batch(self._copied(torch.arange(self.added - min(n, len(self)), self.added) % self.capacity))

    def _filled(self) -> Batch:
        if self._pattern is None:
            raise UsageError("ring.empty", "a draw from an empty memory", "at least one added batch")
        return self._pattern

    def _copied(self, rows: Tensor | np.ndarray) -> np.ndarray:
        # As opaque bytes a record is moved at once, not field by field.
        opaque = self._rows.view(f"V{self._rows.itemsize}")
        return opaque.take(np.asarray(rows)).view(self._rows.dtype)

    def _batch(self, records: np.ndarray) -> Batch:
        pattern, frames = self._filled(), self._frames
        arrays = (frames[name].get(records[name]) if name in frames else records[name] for name in self._shapes)
        return pattern.map(lambda _: torch.from_numpy(next(arrays)))

    def _reserve(self, rows: int) -> None:
        if rows > len(self._rows):
            at_once = self.capacity * self._rows.itemsize <= _AT_ONCE
            grown = np.empty(self.capacity if at_once else min(self.capacity, 3 * rows // 2), self._rows.dtype)
            grown[: len(self._rows)] = self._rows
            self._rows = grown

    def _forget(self, n: int) -> None:
        """Let go of the frames of those rows that ``n`` new ones will overwrite."""
        if self._frames and self.added + n > self.capacity:
            old = self._copied(np.arange(max(self.added, self.capacity), self.added + n) % self.capacity)
            for name, frames in self._frames.items():
                frames.drop(old[name])

    def _check(self, n: int, found: Shapes) -> None:
        """Refuse what does not fit the columns before any of it is written."""
        shapes = self._shapes or {name: shape[1:] for name, shape in found.items()}
        wanted = {name: (n, *shape) for name, shape in shapes.items()}
        named = () if isinstance(self.extra, bool) else self.extra
        if found != wanted or not {f"extra/{name}" for name in named} <= set(found):
            raise UsageError(
                "ring.columns",
                f"a batch of the columns {found}",
                f"{wanted}" + (f" with the extra {', '.join(named)}" if named else ""),
                "add batches of one kind to a memory",
            )
