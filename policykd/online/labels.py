"""Which of a teacher's words are labels of the student's kind, row by row; it asks nobody and keeps no books."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from policykd.distributions import (
    Bernoulli,
    Categorical,
    Deterministic,
    DiagGaussian,
    Distribution,
    MultiCategorical,
    TanhGaussian,
    can_choose,
    is_law,
)
from policykd.online.answers import Answer
from policykd.prediction import Family, Prediction, Spec

__all__ = ["Kind", "Unread", "opened"]


class Unread(Exception):
    """An answer that holds no labels for this student.

    Attributes:
        rows: how many it was to hold, 1 where that cannot be told.
        why: what is wrong with it.
    """

    def __init__(self, rows: int, why: str) -> None:
        super().__init__(why)
        self.rows, self.why = rows, why


def opened(answer: Any) -> tuple[np.ndarray, Any, int]:
    """Numbers of the questions (``[n]``, int64), what was said of them, and the teacher's version.

    Raises:
        Unread: for anything but whole numbers, a word on them and a whole version.
    """
    try:
        numbers, said, version = Answer(*answer)
        ids = np.asarray(numbers).reshape(-1)
    except Exception:  # whatever was sent: it may be of any kind
        raise Unread(1, f"it sent a {type(answer).__name__} and no (ids, Prediction, version)") from None
    if len(ids) and ids.dtype.kind not in "iu":
        raise Unread(len(ids), f"its questions have numbers that are not whole ({ids.dtype})")
    try:
        number = int(version)
        whole = bool(number == version) and abs(number) < 1 << 62
    except Exception:  # as above
        whole = False
    if not whole:
        raise Unread(len(ids), f"its version is {version!r} and no whole number")
    return ids.astype(np.int64), said, number


_KINDS: dict[Family, tuple[type[Distribution], ...]] = {
    "categorical": (Categorical,),
    "multi_categorical": (MultiCategorical,),
    "bernoulli": (Bernoulli,),
    "diag_gaussian": (DiagGaussian, Deterministic),
    "deterministic": (DiagGaussian, Deterministic),
    "tanh_gaussian": (TanhGaussian, Deterministic),
    "tanh_deterministic": (TanhGaussian, Deterministic),
}


class Kind:
    """What an answer must be to be learnt from: of the student's family and width, with the first labels' columns.

    Args:
        spec: of the student.
    """

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self._first: dict[str, tuple[torch.Size, torch.dtype]] | None = None

    def check(self, said: Any, n: int) -> None:
        """Refuse what are not ``n`` labels of this kind.

        Raises:
            Unread: says what is different.
        """
        if not isinstance(said, Prediction):
            raise Unread(n, f"it says a {type(said).__name__} and no Prediction")
        if not isinstance(said.dist, _KINDS[self.spec.family]):
            raise Unread(n, f"it says a {type(said.dist).__name__} to a student of the family {self.spec.family}")
        if not isinstance(said.features, Mapping):
            raise Unread(n, f"its features are a {type(said.features).__name__} and not named")
        width, space, columns = self.spec.action_width, self.spec.action_space, _columns(said)
        if isinstance(said.dist, MultiCategorical) and isinstance(space, spaces.MultiDiscrete):
            choices: Any = said.dist.nvec  # as a file or a network brought it
            if not isinstance(choices, tuple | list) or list(choices) != space.nvec.ravel().tolist():
                raise Unread(n, f"it chooses among {choices}, the student among {space.nvec.tolist()}")
        for name, column in columns.items():
            if not (isinstance(column, Tensor) and column.is_floating_point()):
                raise Unread(n, f"its {name} are a {type(column).__name__} and no tensor of real numbers")
            if not _fits(name, tuple(column.shape), n, width):
                raise Unread(n, f"its {name} have the shape {tuple(column.shape)} for {n} observations")
        if self._first is not None:
            found = {name: column.shape[1:] for name, column in columns.items()}
            first = {name: shape for name, (shape, _) in self._first.items()}
            if found != first:
                raise Unread(n, f"it says {_told(found)}, the first labels were {_told(first)}")

    def sound(self, said: Prediction) -> np.ndarray:
        """Which rows are numbers that can be learnt from, ``[n]``: of what ``check`` lets pass."""
        good = is_law(said.dist)
        if said.q is not None:
            good = good & can_choose(said.q)
        for t in (said.value, *said.features.values()):
            if t is not None:
                good = good & _finite(t)
        return good.cpu().numpy()

    def taken(self, said: Prediction, rows: np.ndarray) -> Prediction:
        """The labels of some rows, without gradient; the first that are taken say what columns labels have."""
        if self._first is None:
            self._first = {name: (column.shape[1:], column.dtype) for name, column in _columns(said).items()}
        which, dtypes = torch.from_numpy(rows), iter([dtype for _, dtype in self._first.values()])
        named = [name for name in self._first if name.startswith("features/")]
        features = {name.removeprefix("features/"): _columns(said)[name] for name in named}
        plain = Prediction(said.dist, said.value, said.q, features)
        return plain.map(lambda t: t.detach()[which].to("cpu", next(dtypes)))


def _columns(said: Prediction) -> dict[str, Any]:
    """Every column of a label by its name, in the order of ``Prediction.map``."""
    found = {name: value for name, value in vars(said.dist).items() if name != "nvec"}
    found |= {name: value for name, value in (("value", said.value), ("q", said.q)) if value is not None}
    return found | {f"features/{name}": value for name, value in said.features.items()}


def _fits(name: str, shape: tuple[int, ...], n: int, width: int) -> bool:
    match name:
        case "value":
            return shape == (n,)
        case "log_std":
            return shape in ((n, width), (n, 1))
    return shape[:1] == (n,) if name.startswith("features/") else shape == (n, width)


def _told(columns: Mapping[str, torch.Size]) -> str:
    return ", ".join(f"{name} {tuple(shape)}" for name, shape in columns.items())


def _finite(t: Tensor) -> Tensor:
    return t.reshape(len(t), -1).isfinite().all(1)
