"""Losses between the self-attention of two transformers, one number per row; it refuses to look inside a layer.

Pair losses on features (see ``losses.features``): attention maps and values must be what some module returns, or what
a policy gives of its own accord.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from policykd.distributions import leading, weighted_terms
from policykd.errors import UsageError
from policykd.losses.features import Feature, feature_of, feature_pair, shape_error
from policykd.prediction import Prediction

__all__ = ["attention_relation", "value_relation"]


def attention_relation(
    student: Prediction,
    target: Prediction,
    *,
    feature: Feature,
    heads: Literal["each", "mean"] = "each",
    mask: str | None = None,
) -> Tensor:
    """KL(teacher's attention || student's), nats, averaged over heads and query positions, ``[*b]``.

    Wang et al. 2020 (MiniLM, 2002.10957, section 3.1), of one layer (there the last). Where a student's attention is 0
    and the teacher's is not, the smallest normal number stands for it: large, but finite.

    Args:
        student, target: with the feature, ``[*b, heads, t, t]``: probabilities, each last axis of sum 1.
        feature: its name.
        heads: ``each`` compares head by head, and needs as many on both sides; ``mean`` compares the averages over
            heads, whose numbers may differ.
        mask: name of a feature ``[*b, t]`` of either side that is not 0 at real tokens: padded queries do not count.
            Padded keys are the model's own business: it gives them probability 0. A row of padding alone is 0.

    Raises:
        UsageError: ``loss.feature``, ``loss.feature-shape``; ``loss.heads`` for another word.
    """
    if heads not in ("each", "mean"):
        raise UsageError("loss.heads", f"heads = {heads!r}", "'each' or 'mean'")
    s, t, axes = feature_pair(student, target, feature)
    if axes != 3:
        raise shape_error(s, t, "attention maps [*b, heads, t, t]")
    if heads == "mean":
        s, t = s.mean(-3, keepdim=True), t.mean(-3, keepdim=True)
    if s.shape[-3:] != t.shape[-3:]:
        raise shape_error(s, t, "as many heads and tokens on both sides", "heads='mean' where only heads differ")
    log_s = s.clamp_min(torch.finfo(s.dtype).tiny).log()
    return _over_positions(weighted_terms(t, t.log() - log_s).sum(-1), _real(student, target, mask, s.shape[-2]))


def value_relation(
    student: Prediction, target: Prediction, *, feature: Feature, heads: int | None = None, mask: str | None = None
) -> Tensor:
    """KL(teacher's relation || student's) of values, nats, averaged over heads and positions, ``[*b]``.

    Wang et al. 2020 (MiniLM, 2002.10957, section 3.2): the relation of a token to all others is
    softmax(v V^T / sqrt d), so that d may differ.

    Args:
        student, target: with the feature, ``[*b, heads, t, d]``: a layer's values.
        feature: its name.
        heads: relation heads (MiniLMv2: Wang et al. 2021, 2012.15828): all values of a token side by side, split into
            so many parts. None keeps those of the models, which then must be equally many.
        mask: name of a feature ``[*b, t]`` of either side that is not 0 at real tokens: padded ones count neither as
            query nor as key. A row of padding alone is 0.

    Raises:
        UsageError: ``loss.feature``, ``loss.feature-shape``; ``loss.heads`` for heads that do not divide a width.
    """
    s, t, axes = feature_pair(student, target, feature)
    if axes != 3:
        raise shape_error(s, t, "values [*b, heads, t, d]")
    if heads is not None:
        s, t = _split_anew(s, heads), _split_anew(t, heads)
    if s.shape[-3:-1] != t.shape[-3:-1]:
        raise shape_error(s, t, "as many heads and tokens on both sides", "heads=... splits both sides alike")
    real = _real(student, target, mask, s.shape[-2])
    log_s, log_t = _log_relation(s, real), _log_relation(t, real)
    return _over_positions(weighted_terms(log_t.exp(), log_t - log_s).sum(-1), real)


def _split_anew(values: Tensor, heads: int) -> Tensor:
    *_, old, tokens, d = values.shape
    if heads < 1 or old * d % heads:
        raise UsageError("loss.heads", f"{heads} heads of values of {old} x {d}", f"a divisor of {old * d}")
    side_by_side = values.transpose(-3, -2).reshape(*values.shape[:-3], tokens, heads, old * d // heads)
    return side_by_side.transpose(-3, -2)


def _log_relation(values: Tensor, real: Tensor | None) -> Tensor:
    scores = values @ values.transpose(-2, -1) / values.shape[-1] ** 0.5
    if real is not None:
        # A row without a single real token keeps its keys: it does not count, but must not become NaN.
        out = ~real & real.any(-1, keepdim=True)
        scores = scores.masked_fill(out[..., None, None, :], -torch.inf)
    return F.log_softmax(scores, -1)


def _real(student: Prediction, target: Prediction, mask: str | None, tokens: int) -> Tensor | None:
    """Where tokens are real, ``[*b, t]`` bool; the student's word where both have one."""
    if mask is None:
        return None
    said, side = (student, "student") if mask in student.features else (target, "teacher")
    real = feature_of(said, mask, side)
    if real.shape[len(leading(said.dist)) :] != (tokens,):
        found = f"the {side}'s {mask!r} of shape {tuple(real.shape)}"
        raise UsageError("loss.feature-shape", found, f"[*b, {tokens}], a number for each token")
    return real != 0


def _over_positions(rows: Tensor, real: Tensor | None) -> Tensor:
    """The mean over heads and positions of ``[*b, heads, t]``, padded positions left out."""
    each = rows.mean(-2)
    if real is None:
        return each.mean(-1)
    return torch.where(real, each, 0.0).sum(-1) / real.sum(-1).clamp(min=1)
