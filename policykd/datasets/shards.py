"""Labelled rows on disk: a folder of flat npz shards beside manifest.json; it refuses pickles and damaged shards."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from policykd.datasets.columns import Columns, check_fit, from_columns, to_columns
from policykd.datasets.manifest import MANIFEST, Column, Manifest, Shard
from policykd.errors import CheckpointError, RunError, UsageError
from policykd.prediction import Batch, Origin, Spec

__all__ = ["Dataset", "read", "write"]

_LARGEST_MANIFEST = 2**26
_SHARD_BYTES = 2**26
_SHARD_ROWS = 2**16
_HEADER = 4096  # more than numpy writes before an array's numbers


@dataclass(frozen=True)
class Dataset:
    """A folder that ``write`` made. Iterating over it reads and checks one shard at a time, in the order of writing.

    Attributes:
        folder: where it is.
        manifest: spec, origin, columns, counts.
    """

    folder: Path
    manifest: Manifest

    def __iter__(self) -> Iterator[Batch]:
        """One Batch a shard.

        Raises:
            CheckpointError: ``dataset.missing``, ``dataset.damaged``.
        """
        for shard in self.manifest.shards:
            yield from_columns(_arrays(self.folder / shard.file, shard, self.manifest.columns), self.manifest.spec)

    def check_student(self, spec: Spec) -> None:
        """Whether a student of this spec can learn from these rows.

        Raises:
            SpaceError: ``dataset.spec``.
        """
        check_fit(self.manifest.spec, spec, f"the dataset {self.folder}")


def write(
    folder: str | Path,
    batches: Iterable[Batch],
    *,
    spec: Spec,
    origin: Origin | None = None,
    about: Mapping[str, Any] | None = None,
    rows_per_shard: int | None = None,
    compress: bool = False,
    features: bool = False,
) -> Dataset:
    """Write ``batches`` (one leading dimension each, all with the same columns) as shards; all or nothing.

    Rows of an episode must come in the order of time; ``extra["episode"]`` tells episodes apart and ``extra["done"]``
    marks their last steps. Nothing is in ``folder`` before everything is written.

    Args:
        folder: made; may exist if it is empty.
        batches: with the target's distribution, value and q, whichever there are.
        spec, origin: of the policy that labelled the rows.
        about: JSON values to note beside them.
        rows_per_shard: None for about 64 MiB a shard.
        compress: zip the arrays: worth it for images.
        features: keep the target's named activations.

    Raises:
        RunError: ``dataset.exists`` for a folder with something in it, ``dataset.write`` where it cannot be written.
        UsageError: ``dataset.empty``, ``dataset.columns`` (batches that differ), ``dataset.rows``, ``dataset.nan``,
            ``dataset.about``.
        SpaceError: ``dataset.spec``, ``space.observation`` for rows that are not of this spec.
    """
    folder = Path(folder)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise RunError("dataset.exists", f"{folder} exists already", "a folder that is new or empty", "choose another")
    manifest = Manifest(spec, origin or Origin(), about or {})
    manifest.to_json()  # what cannot be described is refused before any row is asked for
    with _writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        for arrays in _cut((to_columns(b, spec, features=features) for b in batches), rows_per_shard):
            with _writing(folder):
                shard = _save(temporary, len(manifest.shards), arrays, compress)
            manifest = _grown(manifest, shard, arrays)
        if not manifest.shards:
            raise UsageError("dataset.empty", "no rows", "at least one batch with a row", "collect some first")
        with _writing(folder):
            _put(temporary / MANIFEST, manifest.to_json())
            temporary.chmod(0o755)
            if folder.exists():
                folder.rmdir()
            os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Dataset(folder, manifest)


def read(folder: str | Path) -> Dataset:
    """The dataset in ``folder``; shards are looked for now, and read and checked when they are iterated over.

    Raises:
        CheckpointError: ``dataset.missing`` (no manifest, or no shard where it names one), ``dataset.manifest`` (not
            one of ours), ``dataset.damaged`` (a shard of another size; while iterating: of another content).
    """
    folder = Path(folder)
    path = folder / MANIFEST
    try:
        with path.open("rb") as file:
            text = file.read(_LARGEST_MANIFEST)
    except OSError as why:
        raise CheckpointError(
            "dataset.missing",
            f"{path}: {why.strerror}",
            f"a folder with {MANIFEST} and its shards",
            "make one with `policykd label`",
        ) from None
    manifest = Manifest.from_json(text, path)
    for shard in manifest.shards:
        file_path = folder / shard.file
        if not file_path.is_file():
            raise CheckpointError("dataset.missing", f"no shard {file_path}", "every shard of the manifest")
        if file_path.stat().st_size != shard.bytes:
            raise _damaged(file_path, f"{file_path.stat().st_size} bytes", f"{shard.bytes}")
    return Dataset(folder, manifest)


def _cut(parts: Iterable[Columns], rows: int | None) -> Iterator[Columns]:
    """Parts joined and cut anew into ``rows`` rows each, or as many as make a shard of the usual size."""
    held: list[Columns] = []
    count = 0
    expected: dict[str, Column] = {}
    for part in parts:
        found = _described(part)
        expected = expected or found
        if found != expected:
            differ = sorted(k for k in set(found) | set(expected) if found.get(k) != expected.get(k))
            raise UsageError("dataset.columns", f"a batch that differs in {differ}", "the same columns in every batch")
        row_bytes = max(1, sum(c.row_bytes for c in expected.values()))
        size = rows or max(1, min(_SHARD_ROWS, _SHARD_BYTES // row_bytes))
        held.append(part)
        count += _length(part)
        while count >= size:
            joined = _joined(held)
            yield {name: array[:size] for name, array in joined.items()}
            held, count = [{name: array[size:] for name, array in joined.items()}], count - size
    if count:
        yield _joined(held)


def _described(arrays: Columns) -> dict[str, Column]:
    return {name: Column(str(array.dtype), array.shape[1:]) for name, array in arrays.items()}


def _length(arrays: Columns) -> int:
    return len(next(iter(arrays.values())))


def _joined(parts: list[Columns]) -> Columns:
    return parts[0] if len(parts) == 1 else {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}


def _grown(manifest: Manifest, shard: Shard, arrays: Columns) -> Manifest:
    counts = arrays["mask"].astype(bool) if "mask" in arrays else np.full(shard.rows, True)
    ends = arrays["extra/done"].astype(bool) & counts if "extra/done" in arrays else np.zeros(0)
    return replace(
        manifest,
        steps=manifest.steps + int(counts.sum()),
        episodes=manifest.episodes + int(ends.sum()),
        columns=_described(arrays),
        shards=(*manifest.shards, shard),
    )


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as why:
        raise RunError(
            "dataset.write", f"{folder}: {why.strerror}", "a folder that can be written", "choose another"
        ) from None


def _save(folder: Path, number: int, arrays: Columns, compress: bool) -> Shard:
    buffer = io.BytesIO()
    (np.savez_compressed if compress else np.savez)(buffer, allow_pickle=False, **arrays)
    data, name = buffer.getvalue(), f"shard-{number:05d}.npz"
    _put(folder / name, data)
    return Shard(name, _length(arrays), len(data), hashlib.sha256(data).hexdigest())


def _put(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _arrays(path: Path, shard: Shard, columns: Mapping[str, Column]) -> Columns:
    try:
        data = path.read_bytes()
    except OSError as why:
        raise CheckpointError("dataset.missing", f"{path}: {why.strerror}", "every shard of the manifest") from None
    if hashlib.sha256(data).hexdigest() != shard.sha256:
        raise _damaged(path, "bytes with another sha256", "those that the manifest describes")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            # A few bytes can claim to unpack to all memory: believe the manifest, not the archive.
            for info in archive.infolist():
                if info.file_size > columns[info.filename.removesuffix(".npy")].row_bytes * shard.rows + _HEADER:
                    raise ValueError(f"{info.filename} unpacks to {info.file_size} bytes")
        with np.load(io.BytesIO(data), allow_pickle=False) as loaded:
            arrays = {name: np.asarray(loaded[name]) for name in columns}
    except (ValueError, KeyError, OSError, EOFError, RuntimeError, SyntaxError, zipfile.BadZipFile, zlib.error) as why:
        raise _damaged(path, repr(why), "the arrays of the manifest") from None
    for name, column in columns.items():
        have, want = (str(arrays[name].dtype), arrays[name].shape), (column.dtype, (shard.rows, *column.shape))
        if have != want:
            raise _damaged(path, f"{name} of {have}", f"{want}")
    return arrays


def _damaged(path: Path, found: str, expected: str) -> CheckpointError:
    return CheckpointError("dataset.damaged", f"{path}: {found}", expected, "take an undamaged copy, or label again")
