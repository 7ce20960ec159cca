"""Rows with true labels, cut into train, validation and test; it reads no file and never touches a test label."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeAlias

import torch
from torch import Tensor

from policykd.errors import UsageError

__all__ = ["Inputs", "Labelled", "Split", "divided"]

Inputs: TypeAlias = Tensor | tuple[str, ...]

_TEST = 0.2


@dataclass(frozen=True, eq=False)
class Split:
    """Inputs and their labels, row by row.

    Attributes:
        inputs: uint8 or float, ``[n, ...]``, or n texts.
        labels: long ``[n]``; -1 where the label is missing.
        soft: ``[n, k]``, shares of human raters who chose each class (rows sum to 1), None without raters.

    Raises:
        UsageError: ``data.shape``, ``data.labels``, ``data.nan``.
    """

    inputs: Inputs
    labels: Tensor
    soft: Tensor | None = None

    def __post_init__(self) -> None:
        n, labels, soft = len(self.inputs), self.labels, self.soft
        if labels.dtype != torch.int64:
            raise UsageError("data.labels", f"labels of {labels.dtype}", "torch.int64", "use labels.long()")
        if tuple(labels.shape) != (n,):
            raise UsageError("data.shape", f"{n} inputs and labels of shape {tuple(labels.shape)}", f"({n},)")
        if n and int(labels.min()) < -1:
            raise UsageError("data.labels", f"the label {int(labels.min())}", "0 or more; -1 where it is missing")
        if isinstance(self.inputs, Tensor) and self.inputs.is_floating_point() and not self.inputs.isfinite().all():
            raise UsageError("data.nan", "inputs that are not finite", "numbers", "fill or drop those rows")
        if soft is not None and (soft.ndim != 2 or len(soft) != n):
            raise UsageError("data.shape", f"soft labels of shape {tuple(soft.shape)}", f"({n}, classes)")
        if soft is not None and n and not ((soft >= 0).all() and ((soft.sum(-1) - 1).abs() < 1e-4).all()):
            raise UsageError("data.labels", "soft labels that are no probabilities", "rows that sum to 1")

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: Tensor) -> Split:
        """The rows that a bool ``[n]`` or long tensor names, in its order."""
        index = rows.nonzero().squeeze(1) if rows.dtype == torch.bool else rows
        inputs = (
            self.inputs[index] if isinstance(self.inputs, Tensor) else tuple(self.inputs[i] for i in index.tolist())
        )
        return Split(inputs, self.labels[index], None if self.soft is None else self.soft[index])


@dataclass(frozen=True, eq=False)
class Labelled:
    """A classification set. Within a split rows keep the order of the source, often class by class: shuffle them.

    Attributes:
        name: a name of ``NAMES``, or the file's own.
        source: where it was read.
        classes: names of the labels 0 .. k - 1.
        train, validation, test: validation has no rows where none was asked for.
        notes: what was left out or changed on the way, in words.

    Raises:
        UsageError: ``data.empty`` (no rows to train or to test on), ``data.labels`` (out of range, fewer than two
            classes), ``data.shape`` (splits of unequal shape, soft labels of another width).
    """

    name: str
    source: str
    classes: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        k = len(self.classes)
        if k < 2 or len(set(self.classes)) < k:
            raise UsageError("data.labels", f"{self.name}: classes {self.classes}", "two different ones or more")
        for part, split in self.splits.items():
            if not len(split) and part != "validation":
                raise UsageError(
                    "data.empty", f"{self.name}: no rows in {part}", "at least one", "give more rows of each class"
                )
            if len(split) and int(split.labels.max()) >= k:
                found = f"{self.name}: the label {int(split.labels.max())} in {part}"
                raise UsageError("data.labels", found, f"0 to {k - 1}, for {k} classes")
            if split.soft is not None and split.soft.shape[-1] != k:
                raise UsageError("data.shape", f"{self.name}: {split.soft.shape[-1]} soft labels a row", f"{k}")
            if _kind(split.inputs) != _kind(self.train.inputs):
                found = f"{self.name}: inputs {_kind(split.inputs)} in {part}"
                raise UsageError("data.shape", found, f"{_kind(self.train.inputs)} as in train")

    @property
    def splits(self) -> dict[str, Split]:
        """Train, validation and test by name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    @cached_property
    def sha256(self) -> str:
        """Digest of the classes and of every input, label and soft label; neither name, source nor notes count."""
        digest = hashlib.sha256()
        _feed_texts(digest, self.classes)
        for split in self.splits.values():
            if isinstance(split.inputs, Tensor):
                _feed_tensor(digest, split.inputs)
            else:
                _feed_texts(digest, split.inputs)
            _feed_tensor(digest, split.labels)
            _feed_tensor(digest, torch.zeros(0) if split.soft is None else split.soft)
        return digest.hexdigest()

    def only(self, fraction: float, seed: int = 0) -> Labelled:
        """The set with that fraction of its training rows, stratified: rounded class by class, at least one of each.

        With one seed a smaller fraction's rows are among a larger one's. Validation and test stay whole. 1 returns
        the set itself.

        Raises:
            UsageError: ``data.fraction`` unless 0 < fraction <= 1.
        """
        _check(fraction, 0 < fraction <= 1, "a fraction above 0, at most 1")
        if fraction == 1:
            return self
        kept = _drawn(self.train.labels, fraction, _generator("only", seed), least=1)
        return self._changed(self.train[kept], f"{fraction:g} of the training rows, seed {seed}")

    def share(self, fraction: float, seed: int = 0) -> Labelled:
        """The set with all of its training inputs, but labels (those there are) for that fraction of them only.

        Stratified and nested as in ``only``, at least one label of each class; the others become -1. At 0 no label
        is left, at 1 the set itself is returned. Soft labels of the training rows are dropped: they would tell.
        Validation and test keep theirs.

        Raises:
            UsageError: ``data.fraction`` unless 0 <= fraction <= 1.
        """
        _check(fraction, 0 <= fraction <= 1, "a fraction from 0 to 1")
        if fraction == 1:
            return self
        labels = self.train.labels
        shown = _drawn(labels, fraction, _generator("share", seed), least=1 if fraction else 0)
        train = Split(self.train.inputs, labels.where(shown, -1))
        return self._changed(train, f"{fraction:g} of the training labels, seed {seed}")

    def with_noise(self, rate: float, seed: int = 0) -> Labelled:
        """The set with symmetric label noise: that share of the training labels is replaced by *another* class.

        Exactly round(rate n) of the n labelled training rows flip, each to a class drawn evenly from the k - 1 others
        (some papers draw from all k: their rate r is our r (k - 1) / k). At 1 every label is wrong, at 0 the set itself
        is returned. Missing labels stay missing; soft labels of the training rows are dropped; validation and test
        stay clean.

        Raises:
            UsageError: ``data.fraction`` unless 0 <= rate <= 1.
        """
        _check(rate, 0 <= rate <= 1, "a rate from 0 to 1")
        if rate == 0:
            return self
        generator, labels = _generator("noise", seed), self.train.labels.clone()
        known = (labels >= 0).nonzero().squeeze(1)
        flipped = known[torch.randperm(len(known), generator=generator)[: _rounded(rate, len(known))]]
        k = len(self.classes)
        labels[flipped] = (labels[flipped] + torch.randint(1, k, (len(flipped),), generator=generator)) % k
        return self._changed(Split(self.train.inputs, labels), f"{rate:g} of the training labels flipped, seed {seed}")

    def describe(self) -> dict[str, Any]:
        """What a report says of the set: JSON values; ``majority`` is the largest class's share of the test rows."""
        counts = self.test.labels[self.test.labels >= 0].bincount(minlength=len(self.classes))
        return {
            "name": self.name,
            "source": self.source,
            "notes": list(self.notes),
            "classes": list(self.classes),
            "rows": {part: len(split) for part, split in self.splits.items()},
            "labelled": int((self.train.labels >= 0).sum()),
            "majority": float(counts.max() / counts.sum().clamp(min=1)),
            "sha256": self.sha256,
        }

    def _changed(self, train: Split, note: str) -> Labelled:
        return replace(self, train=train, notes=(*self.notes, note))


def divided(
    name: str,
    source: str,
    classes: Sequence[str],
    rows: Split,
    test: Split | None,
    *,
    seed: int,
    validation: float,
    notes: tuple[str, ...] = (),
) -> Labelled:
    """Rows cut by a generator of ``seed``'s own: a fifth to test unless there is a test set, then the validation rows.

    Fractions are rounded class by class; a class of two rows or more gives at least one row to each cut but keeps one
    for training. Rows without a label are training rows.

    Args:
        validation: fraction of the rows that are not for testing; 0 for none.

    Raises:
        UsageError: ``data.fraction`` unless 0 <= validation < 1; what ``Labelled`` raises.
    """
    _check(validation, 0 <= validation < 1, "a validation fraction from 0, below 1")
    if not len(rows):
        raise UsageError("data.empty", f"{name}: no rows in {source}", "at least one row of each class")
    if test is None:
        held = _drawn(rows.labels, _TEST, _generator("test", seed), least=1, leave=1, missing=False)
        rows, test = rows[~held], rows[held]
    least = 1 if validation else 0
    held = _drawn(rows.labels, validation, _generator("validation", seed), least=least, leave=1, missing=False)
    return Labelled(name, source, tuple(classes), rows[~held], rows[held], test, notes)


def _check(value: float, fine: bool, expected: str) -> None:
    if not fine:
        raise UsageError("data.fraction", f"{value}", expected)


def _rounded(fraction: float, n: int) -> int:
    return int(fraction * n + 0.5)


def _generator(purpose: str, seed: int) -> torch.Generator:
    """A stream for each purpose: cuts, shares and noise of one seed must not draw the same rows."""
    mixed = hashlib.sha256(f"{purpose} {seed}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(mixed[:7], "little"))


def _drawn(
    labels: Tensor, fraction: float, generator: torch.Generator, *, least: int, leave: int = 0, missing: bool = True
) -> Tensor:
    """Mask ``[n]`` of rows drawn class by class; at least ``least`` of each, while ``leave`` of each are left.

    ``missing``: rows without a label are drawn from too, as a class of their own.
    """
    mask = torch.zeros(len(labels), dtype=torch.bool)
    values, counts = labels.unique(return_counts=True)
    for value, rows in zip(values.tolist(), labels.argsort(stable=True).split(counts.tolist()), strict=True):
        order = rows[torch.randperm(len(rows), generator=generator)]
        if value >= 0 or missing:
            mask[order[: min(max(_rounded(fraction, len(rows)), least), max(len(rows) - leave, 0))]] = True
    return mask


def _kind(inputs: Inputs) -> str:
    return f"{inputs.dtype} {tuple(inputs.shape[1:])}" if isinstance(inputs, Tensor) else "texts"


def _feed_tensor(digest: Any, tensor: Tensor) -> None:
    digest.update(f"{tensor.dtype} {tuple(tensor.shape)};".encode())
    digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)


def _feed_texts(digest: Any, texts: Sequence[str]) -> None:
    digest.update(f"texts {len(texts)};".encode())
    for text in texts:
        # Lengths first: ("ab", "c") is not ("a", "bc").
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little") + data)
