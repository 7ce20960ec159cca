"""CSV files with a label column, of texts or of numbers; quoting is the csv module's, and no cell is evaluated."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np

from policykd.datasets.images import arrays_of
from policykd.datasets.rows import Rows, coded, damaged, read_bytes, texts_of
from policykd.datasets.splits import Inputs, Split
from policykd.errors import UsageError

__all__ = ["tables"]

_LARGEST = 2**28


def tables(train: Path, test: Path | None = None) -> Rows:
    """One CSV file, or two of one form: a label column (named `label`, else the first) and texts or numbers.

    Texts are in the column named `text`, or in the second of two that is no number; otherwise every column but the
    label's must hold numbers, which ``arrays_of`` turns into images or float rows.

    Raises:
        CheckpointError: ``data.missing``, ``data.damaged`` (rows of unequal length, cells that are no numbers).
        UsageError: ``data.empty``, ``data.labels``, ``data.shape``.
    """
    paths = [train] if test is None else [train, test]
    inputs, columns = zip(*[_table(path) for path in paths], strict=True)
    classes, labels = coded(train, *columns)
    first, *rest = [Split(x, y) for x, y in zip(inputs, labels, strict=True)]
    return Rows(classes, first, rest[0] if rest else None)


def _table(path: Path) -> tuple[Inputs, np.ndarray]:
    text = texts_of(read_bytes(path, _LARGEST))
    head = _cells(path, text, 2)
    if not head:
        raise UsageError("data.empty", f"{path}: no rows", "a label and a text, or numbers, a row")
    names = [cell.strip().lower() for cell in head[0]]
    # No word of the first row is a number, those of the second are: names of columns without a `label` among them.
    heads = len(head) > 1 and not any(map(_number, head[0])) and all(map(_number, head[1][1:]))
    header = bool({"label", "text"} & set(names)) or heads
    sample = head[-1] if header else head[0]
    label = names.index("label") if header and "label" in names else 0
    if header and len(head) < 2:
        raise UsageError("data.empty", f"{path}: only a header", "a label and a text, or numbers, a row")
    if len(sample) < 2:
        raise UsageError(
            "data.shape", f"{path}: {len(sample)} column", "a label column and others", "separate by commas"
        )
    if header and "text" in names:
        return _texts(path, text, label, names.index("text"), header)
    if len(sample) == 2 and not _number(sample[1 - label]):
        return _texts(path, text, label, 1 - label, header)
    return _numbers(path, text, label, header)


def _texts(path: Path, text: str, label: int, column: int, header: bool) -> tuple[Inputs, np.ndarray]:
    if label == column:
        raise UsageError("data.shape", f"{path}: one column for label and text", "a column `label` beside `text`")
    rows = _cells(path, text)[header:]
    return tuple(row[column] for row in rows), np.array([row[label] for row in rows])


def _numbers(path: Path, text: str, label: int, header: bool) -> tuple[Inputs, np.ndarray]:
    try:
        # An eighth of the time and memory that cells would take.
        table = np.loadtxt(io.StringIO(text), np.float32, delimiter=",", comments=None, skiprows=int(header), ndmin=2)
        labels = table[:, label]
        if (labels >= 2**24).any():
            raise ValueError  # there float32 makes one of two neighbours
    except ValueError:
        rows = _cells(path, text)[header:]
        labels = np.array([row[label] for row in rows])
        try:
            table = np.array(rows)
            table[:, label] = "0"
            table = table.astype(np.float32)
        except ValueError as why:
            raise damaged(path, str(why), "numbers in every column but the label's, or a column named `text`") from None
    return arrays_of(path, np.delete(table, label, axis=1)), labels


def _cells(path: Path, text: str, limit: int | None = None) -> list[list[str]]:
    """Rows that are not blank; all as long as the first."""
    rows: list[list[str]] = []
    try:
        for row in csv.reader(io.StringIO(text, newline=""), strict=True):
            if row:
                rows.append(row)
            if len(rows) == limit:
                break
    except csv.Error as why:
        raise damaged(path, f"after row {len(rows)}: {why}", "comma-separated rows") from None
    odd = next((i for i, row in enumerate(rows) if len(row) != len(rows[0])), None)
    if odd is not None:
        raise damaged(path, f"{len(rows[odd])} cells in row {odd + 1}", f"{len(rows[0])} as in the first")
    return rows


def _number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
