"""A Batch as named arrays and back: what stands in one shard; it refuses NaN and words of another family."""

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
)
from policykd.errors import SpaceError, UsageError
from policykd.prediction import Batch, Family, Obs, Prediction, Spec, map_obs

__all__ = ["check_fit", "from_columns", "predicted", "said", "to_columns"]

Columns = dict[str, np.ndarray]

_KINDS: Mapping[Family, tuple[type, tuple[str, ...]]] = {
    "categorical": (Categorical, ("logits",)),
    "multi_categorical": (MultiCategorical, ("logits",)),
    "bernoulli": (Bernoulli, ("logits",)),
    "diag_gaussian": (DiagGaussian, ("mean", "log_std")),
    "tanh_gaussian": (TanhGaussian, ("mean", "log_std")),
    "deterministic": (Deterministic, ("action",)),
    "tanh_deterministic": (Deterministic, ("action",)),
}


def said(prediction: Prediction, spec: Spec) -> dict[str, Tensor]:
    """The tensors of a prediction by name: those of its distribution, ``value`` and ``q`` where there are any.

    Raises:
        SpaceError: ``dataset.spec`` for a distribution of another family, or as wide as other actions.
    """
    kind, names = _KINDS[spec.family]
    dist = prediction.dist
    width = vars(dist)[names[0]].shape[-1] if type(dist) is kind else 0
    nvec = _nvec(spec) if isinstance(dist, MultiCategorical) else ()
    if width != spec.action_width or (isinstance(dist, MultiCategorical) and dist.nvec != nvec):
        raise SpaceError(
            "dataset.spec",
            f"a prediction that is a {type(dist).__name__}" + (f" of width {width}" if width else ""),
            f"{kind.__name__} of width {spec.action_width}, as {spec.family} over {spec.action_space} has it",
            "write the dataset with the spec of the policy that labelled it",
        )
    rest = {"value": prediction.value, "q": prediction.q}
    return {**{name: vars(dist)[name] for name in names}, **{k: v for k, v in rest.items() if v is not None}}


def predicted(tensors: Mapping[str, Tensor], spec: Spec) -> Prediction:
    """The prediction whose tensors ``said`` named; names that it does not know are left alone.

    Raises:
        KeyError: where a tensor of the family is missing.
    """
    kind, names = _KINDS[spec.family]
    parts: dict[str, Any] = {name: tensors[name] for name in names}
    if kind is MultiCategorical:
        parts["nvec"] = _nvec(spec)
    dist: Distribution = kind(**parts)
    return Prediction(dist, tensors.get("value"), tensors.get("q"))


def to_columns(batch: Batch, spec: Spec, *, features: bool = False) -> Columns:
    """The batch as arrays ``[n, ...]``: ``obs`` or ``obs/<key>``, ``target/...``, ``weight``, ``mask``, ``extra/...``.

    Args:
        features: keep the target's named activations too (``target/features/<name>``).

    Raises:
        SpaceError: ``dataset.spec`` and ``space.observation`` for rows that are not of this spec.
        UsageError: ``dataset.rows`` for columns of different lengths, ``dataset.nan`` for a NaN in a row that counts.
    """
    tensors: dict[str, Tensor] = {}
    if isinstance(batch.obs, dict):
        tensors |= {f"obs/{key}": value for key, value in batch.obs.items()}
    else:
        tensors["obs"] = batch.obs
    tensors |= {f"target/{name}": value for name, value in said(batch.target, spec).items()}
    if features:
        tensors |= {f"target/features/{name}": value for name, value in batch.target.features.items()}
    tensors |= {name: t for name, t in (("weight", batch.weight), ("mask", batch.mask)) if t is not None}
    tensors |= {f"extra/{name}": value for name, value in batch.extra.items()}
    columns = {name: np.ascontiguousarray(t.detach().cpu().numpy()) for name, t in tensors.items()}
    _check_rows(columns)
    if not spec.is_batched(map_obs(batch.obs, lambda t: t.detach().cpu())):
        raise UsageError("dataset.rows", "a single observation", "a batch of them", "add a leading dimension")
    return columns


def from_columns(columns: Mapping[str, np.ndarray], spec: Spec) -> Batch:
    """The batch that ``to_columns`` took apart.

    Raises:
        KeyError: where a column is missing.
    """
    tensors = {name: torch.from_numpy(array) for name, array in columns.items()}

    def under(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}

    obs: Obs = tensors["obs"] if "obs" in tensors else under("obs/")
    if isinstance(spec.observation_space, spaces.Dict):
        obs = {key: tensors[f"obs/{key}"] for key in spec.observation_space.spaces}
    word = predicted(under("target/"), spec)
    target = Prediction(word.dist, word.value, word.q, under("target/features/"))
    return Batch(obs, target, tensors.get("weight"), tensors.get("mask"), under("extra/"))


def check_fit(found: Spec, wanted: Spec, what: str) -> None:
    """Whether rows of ``found`` can teach a student of ``wanted``; bounds and dtypes may differ, shapes may not.

    Raises:
        SpaceError: ``dataset.spec``.
    """
    for name, (have, want) in found.differences(wanted).items():
        raise SpaceError(
            "dataset.spec",
            f"{what} has the {name} {have}",
            f"the student's, {want}",
            "build the student from the dataset's spec, or label a dataset with this student's teacher",
        )


def _nvec(spec: Spec) -> tuple[int, ...]:
    space = spec.action_space
    return tuple(int(n) for n in space.nvec.reshape(-1)) if isinstance(space, spaces.MultiDiscrete) else ()


def _check_rows(columns: Columns) -> None:
    counts = {name: len(array) if array.ndim else -1 for name, array in columns.items()}
    if len(set(counts.values())) != 1 or -1 in counts.values():
        raise UsageError("dataset.rows", f"columns of {counts} rows", "one leading dimension, the same for all")
    mask = columns.get("mask")
    for name, array in columns.items():
        if array.dtype.kind != "f" or name.startswith("extra/"):
            continue
        rows = array if mask is None else array[mask.astype(bool)]
        if np.isnan(rows).any():
            raise UsageError(
                "dataset.nan", f"NaN in {name}", "numbers in every row that counts", "mask these rows out, or drop them"
            )
