"""The one reduction: rows to a number, and what must be true of rows that do not count; it knows no loss."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from policykd.prediction import Batch, map_obs

__all__ = ["blanked", "reduce_rows"]


def reduce_rows(rows: Tensor, weight: Tensor | None, mask: Tensor | None, *, members: bool = False) -> Tensor:
    """sum(weight x mask x rows) / max(sum(mask), 1): the only reduction there is.

    Args:
        rows: one loss a row, ``[*b]``; a row that is masked out may hold anything, NaN included.
        weight, mask: ``[*b]`` or None for ones. With every row masked the result is 0, with a zero gradient.
        members: ``rows`` is ``[members, *b]``, and each member gets a number of its own.

    Returns:
        A number, or ``[members]``.
    """
    if weight is not None:
        rows = rows * weight
    if mask is not None:
        rows = torch.where(mask.bool(), rows, 0.0)
    flat = rows.flatten(1) if members else rows if rows.dim() == 1 else rows.reshape(-1)
    return flat.mean(-1) if mask is None else flat.sum(-1) / mask.sum().clamp_min(1)


def blanked(batch: Batch, mask: Tensor) -> Batch:
    """``batch`` with zeros where ``mask`` says that nothing counts, so that no NaN there reaches a gradient."""
    # 0 x NaN is NaN in a gradient: what is masked out must not only count 0, it must be harmless.
    mask = mask.bool()
    alive = mask.flatten(1).any(1) if mask.dim() > 1 else mask  # rows of the first dimension where anything counts

    def cleared(t: Tensor, keep: Tensor) -> Tensor:
        return t.masked_fill(~keep.reshape(*keep.shape, *[1] * (t.dim() - keep.dim())), 0)

    def blank(t: Tensor) -> Tensor:
        return cleared(t, mask if t.shape[: mask.dim()] == mask.shape else alive)

    def blank_feature(t: Tensor) -> Tensor:
        return blank(t) if t.dim() > mask.dim() else cleared(t, alive)  # one of a sentence may be as wide as it is long

    def blank_obs(t: Any) -> Any:
        # A token that does not count is still its neighbours' context, and which of them are words is no number.
        if not isinstance(t, Tensor) or t.dtype == torch.bool:  # raw texts are no numbers either
            return t
        t = cleared(t, alive)
        if mask.dim() > 1 and t.is_floating_point() and t.shape[: mask.dim()] == mask.shape:
            return torch.where(t.isfinite(), t, cleared(t, mask))
        return t

    target = batch.target.map(blank)
    if target.features:
        target = replace(target, features={name: blank_feature(t) for name, t in batch.target.features.items()})
    # Whose rows they are is true of those that do not count, too.
    extra = {name: column if name == "task" else blank(column) for name, column in batch.extra.items()}
    weight = None if batch.weight is None else blank(batch.weight)
    return Batch(map_obs(batch.obs, blank_obs), target, weight, mask, extra)
