"""Whole files and their labels, read within bounds; what is damaged, foreign or too large is refused, never guessed."""

from __future__ import annotations

import gzip
import zlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from policykd.datasets.splits import Split
from policykd.errors import CheckpointError, UsageError

__all__ = ["Rows", "coded", "damaged", "distinct", "missing", "read_bytes", "texts_of", "unzipped"]

LARGEST = 2**31
"""Bytes that any one file may hold, or unpack to."""


@dataclass(frozen=True, eq=False)
class Rows:
    """What a reader found, before it is cut: ``test`` is None where the source has no test set of its own."""

    classes: tuple[str, ...]
    train: Split
    test: Split | None = None
    notes: tuple[str, ...] = ()


def damaged(path: Path | str, found: str, expected: str = "") -> CheckpointError:
    """The error for a file that is not what it says."""
    return CheckpointError("data.damaged", f"{path}: {found}", expected, "take an undamaged copy")


def missing(what: str, looked: Sequence[Path | str], fix: str) -> CheckpointError:
    """The error for data that is not on this machine: where was looked, and how it gets there."""
    return CheckpointError("data.missing", f"no {what} in {', '.join(map(str, looked))}", "", fix)


def read_bytes(path: Path, limit: int = LARGEST) -> bytes:
    """All of a file.

    Raises:
        CheckpointError: ``data.missing``, ``data.damaged`` (unreadable, or larger than ``limit`` bytes).
    """
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except FileNotFoundError:
        raise missing("data", [path], "check the path") from None
    except OSError as why:
        raise damaged(path, str(why.strerror), "a file that can be read") from None
    return _bounded(path, data, limit)


def unzipped(path: Path | str, file: BinaryIO, limit: int) -> bytes:
    """What a gzip stream unpacks to.

    Raises:
        CheckpointError: ``data.damaged``, also for more than ``limit`` bytes.
    """
    try:
        with gzip.GzipFile(fileobj=file) as stream:
            return _bounded(path, stream.read(limit + 1), limit)
    except (OSError, EOFError, zlib.error) as why:
        raise damaged(path, str(why), "a whole gzip file") from None


def _bounded(path: Path | str, data: bytes, limit: int) -> bytes:
    if len(data) > limit:
        raise damaged(path, f"more than {limit} bytes", "less")
    return data


def coded(path: Path | str, *columns: Sequence[str] | np.ndarray) -> tuple[tuple[str, ...], list[Tensor]]:
    """Names of the classes, and each label column as long ``[n]``.

    Whole numbers are sorted as numbers, -1 (or an empty text) is missing; other texts are names, sorted.

    Raises:
        UsageError: ``data.labels`` for numbers that are not whole, or below -1.
    """
    arrays = [np.asarray(column) for column in columns]
    if any(array.dtype.kind in "US" for array in arrays):
        texts = [[text.strip() for text in array.astype(str).tolist()] for array in arrays]
        if not all(_whole(text) for column in texts for text in column):
            names = sorted({text for column in texts for text in column if text})
            place = {name: i for i, name in enumerate(names)} | {"": -1}
            return tuple(names), [torch.tensor([place[text] for text in column]).long() for column in texts]
        arrays = [np.array([int(text or -1) for text in column], dtype=np.int64) for column in texts]
    whole = [_integers(path, array) for array in arrays]
    values = np.unique(np.concatenate(whole))
    values = values[values >= 0]
    found = [np.where(array < 0, -1, np.searchsorted(values, array)) for array in whole]
    return tuple(map(str, values.tolist())), [torch.from_numpy(array.astype(np.int64)) for array in found]


def _whole(text: str) -> bool:
    return not text or text.removeprefix("-").isdecimal()


def _integers(path: Path | str, array: np.ndarray) -> np.ndarray:
    numbers = array.dtype.kind in "biuf"
    if array.ndim != 1 or not numbers or not np.isfinite(array).all() or (array != np.trunc(array)).any():
        raise UsageError(
            "data.labels",
            f"{path}: labels of {array.dtype}, shape {array.shape}, that are not all whole",
            "one whole number or name a row",
            "is the label the first column, or the one named `label`?",
        )
    if len(array) and (array.min() < -1 or array.max() >= 2**53):
        raise UsageError("data.labels", f"{path}: labels from {array.min()} to {array.max()}", "0 or more; -1: missing")
    return array.astype(np.int64)


def distinct(rows: Split) -> tuple[Split, tuple[str, ...]]:
    """Texts told once: empty ones go, the first of equal ones stays, none of those whose labels disagree."""
    if isinstance(rows.inputs, Tensor):
        return rows, ()
    said: defaultdict[str, set[int]] = defaultdict(set)
    first: dict[str, int] = {}
    for i, (text, label) in enumerate(zip(rows.inputs, rows.labels.tolist(), strict=True)):
        said[text].add(label)
        first.setdefault(text, i)
    kept = [i for text, i in first.items() if text.strip() and len(said[text]) == 1]
    empty = sum(not text.strip() for text in rows.inputs)
    clash = sum(len(said[text]) > 1 and bool(text.strip()) for text in rows.inputs)
    twice = len(rows) - len(kept) - empty - clash
    told = ((empty, "empty texts"), (twice, "exact duplicates"), (clash, "copies with labels that disagree"))
    return rows[torch.tensor(kept).long()], tuple(f"left out {n} {what}" for n, what in told if n)


def texts_of(data: bytes) -> str:
    """UTF-8, with or without a byte order mark; Latin-1 where it is not that."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")
