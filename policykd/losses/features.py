"""Losses between named activations of a student and its teacher, one number per row; it refuses to tap a network.

Every loss is ``(student: Prediction, target: Prediction) -> Tensor[*b]``; targets are detached here. Features come from
``Prediction.features``: some policies give their own (``torso``), ``policykd.taps.Tapped`` gives any layer's.
``feature`` is one name for both sides, or (the student's, the teacher's). What a feature means is told by the axes that
follow the leading ``*b``:

===================  =======================================================================  ======================
loss                 takes                                                                    may differ
===================  =======================================================================  ======================
Hint                 vectors ``[*b, n]``, tokens ``[*b, t, n]``, maps ``[*b, c, h, w]``       n or c; h and w (pooled)
feature_mse          any, ``[*b, ...]``                                                       h and w of maps (pooled)
cosine_distance      any, ``[*b, ...]``                                                       h and w of maps (pooled)
attention_transfer   maps ``[*b, c, h, w]``                                                   c; h and w (pooled)
attention_relation   attention ``[*b, heads, t, t]``                                          heads, if averaged
value_relation       values ``[*b, heads, t, d]``                                             d; heads, if split anew
===================  =======================================================================  ======================

Three own axes are always read as a map: where h or w differ, the larger is averaged down to the smaller. Any other
difference is a UsageError, ``loss.feature-shape``; a feature that one side does not give is ``loss.feature``. Only the
losses on attention and values (``losses.attention``) know of padding: elsewhere each token of a row counts.
"""

from __future__ import annotations

import math
from typing import TypeAlias, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from policykd.distributions import leading
from policykd.errors import UsageError
from policykd.prediction import Prediction

__all__ = [
    "Feature",
    "Hint",
    "attention_transfer",
    "cosine_distance",
    "feature_mse",
    "feature_of",
    "feature_pair",
    "shape_error",
    "unit",
]

Feature: TypeAlias = str | tuple[str, str]
"""One name for both sides, or (the student's, the teacher's)."""


def feature_of(said: Prediction, name: str, side: str) -> Tensor:
    """A feature of what one side says, ``[*b, ...]`` with at least one axis of its own.

    Args:
        said: with leading dimensions ``*b``.
        name: of the feature.
        side: ``student`` or ``teacher``, for messages.

    Raises:
        UsageError: ``loss.feature`` where it is missing, ``loss.feature-shape`` where it has not a row for each.
    """
    found, lead = said.features.get(name), leading(said.dist)
    if found is None:
        known = ", ".join(said.features) or "none at all"
        fix = f"listen to a layer: policykd.taps.Tapped({side}, {{{name!r}: 'name.of.module'}})"
        raise UsageError("loss.feature", f"the {side} gives no feature {name!r}", f"one that it gives ({known})", fix)
    if found.shape[: len(lead)] != lead:
        expected = f"one row for each of {tuple(lead)}"
        raise UsageError("loss.feature-shape", f"the {side}'s {name!r} of shape {tuple(found.shape)}", expected)
    return found.unsqueeze(-1) if found.dim() == len(lead) else found


def feature_pair(student: Prediction, target: Prediction, feature: Feature) -> tuple[Tensor, Tensor, int]:
    """The student's feature, the teacher's (detached), and how many axes of their own both have.

    The teacher's leading dimensions may be the last of the student's (several students, one teacher).

    Raises:
        UsageError: ``loss.feature``, ``loss.feature-shape``.
    """
    own_name, name = (feature, feature) if isinstance(feature, str) else feature
    s, t = feature_of(student, own_name, "student"), feature_of(target, name, "teacher").detach()
    lead, shorter = leading(student.dist), leading(target.dist)
    axes = s.dim() - len(lead)
    if axes != t.dim() - len(shorter) or lead[len(lead) - len(shorter) :] != shorter:
        raise shape_error(s, t, "the same number of axes on both sides, and the same rows")
    return s, t, axes


def shape_error(student: Tensor, target: Tensor, expected: str, fix: str = "") -> UsageError:
    """The error ``loss.feature-shape`` of two features that a loss cannot compare."""
    found = f"a student's feature of shape {tuple(student.shape)} and a teacher's of {tuple(target.shape)}"
    return UsageError("loss.feature-shape", found, expected, fix)


def unit(x: Tensor) -> Tensor:
    """Vectors of the last axis at length 1; a zero vector stays one, with gradient 0."""
    size = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    zero = size == 0  # not `size > 0`: a NaN must stay one
    return torch.where(zero, 0.0, x / torch.where(zero, 1.0, size))


def feature_mse(student: Prediction, target: Prediction, *, feature: Feature) -> Tensor:
    """Mean squared difference over the numbers of a row's feature, ``[*b]``: for sides of one width.

    Args:
        student, target: with the feature, ``[*b, ...]``; maps ``[*b, c, h, w]`` may differ in h and w.
        feature: its name.

    Raises:
        UsageError: ``loss.feature``, ``loss.feature-shape``.
    """
    s, t, axes = _alike(student, target, feature)
    return (s - t).square().flatten(-axes).mean(-1)


def cosine_distance(student: Prediction, target: Prediction, *, feature: Feature) -> Tensor:
    """1 - cos of the angle between both features, flattened, ``[*b]``: 0 to 2; length does not count.

    A zero vector has no direction: its distance is 1, its gradient 0.

    Args:
        student, target: with the feature, ``[*b, ...]``; maps ``[*b, c, h, w]`` may differ in h and w.
        feature: its name.

    Raises:
        UsageError: ``loss.feature``, ``loss.feature-shape``.
    """
    s, t, axes = _alike(student, target, feature)
    return 1.0 - (unit(s.flatten(-axes)) * unit(t.flatten(-axes))).sum(-1)


def attention_transfer(student: Prediction, target: Prediction, *, feature: Feature, power: float = 2.0) -> Tensor:
    """Mean over places of (Q_s - Q_t)^2, ``[*b]``: look where the teacher looks.

    Zagoruyko & Komodakis 2017 (1612.03928, section 3.1 and eq. 2): Q is the mean over channels of |A|^power as a vector
    of length 1. The paper takes the norm of Q_s - Q_t; its square over h x w is what implementations took to. The
    larger map is averaged down to the smaller after channels are summed, so that signs do not cancel. A map of zeros
    looks nowhere: Q = 0, without a gradient.

    Args:
        student, target: with the feature, ``[*b, c, h, w]``; c, h and w may differ.
        feature: its name.
        power: 1 counts channels alike; the larger, the more the strongest channels decide.

    Raises:
        UsageError: ``loss.feature``, ``loss.feature-shape``, ``loss.power`` outside [1, inf).
    """
    if not 1 <= power < math.inf:
        raise UsageError("loss.power", f"power = {power}", "a finite number of 1 or more")
    s, t, axes = feature_pair(student, target, feature)
    if axes != 3:
        raise shape_error(s, t, "maps [*b, c, h, w]", "tap a convolution, or take cosine_distance")
    q_s, q_t = _pooled(_activity(s, power), _activity(t, power))
    return (unit(q_s.flatten(-2)) - unit(q_t.flatten(-2))).square().mean(-1)


def _activity(maps: Tensor, power: float) -> Tensor:
    size = maps.abs()
    # Q does not know the unit of A, and powers of it would over- or underflow.
    top = size.detach().amax((-3, -2, -1), keepdim=True)
    return (size / torch.where(top == 0, 1.0, top)).pow(power).mean(-3)


@final
class Hint(nn.Module):
    """1/2 mean (W f_s + b - f_t)^2 over the teacher's numbers, ``[*b]``: FitNets' regression with a learnt map.

    Romero et al. 2015 (1412.6550, eq. 3, there a sum); on a policy's torso the feature regression of Actor-Mimic
    (Parisotto et al. 2016, 1511.06342). The map is linear, over channels of maps (a convolution of size 1) and
    over the numbers of each token or vector otherwise. Maps whose h or w differ: the larger is averaged down.

    A parametric loss: the Learner trains ``weight`` and ``bias`` and saves them, but they are no part of the student.

    Args:
        feature: its name.
        student_width, teacher_width: channels of maps, numbers of vectors and tokens.
        seed: of the first map.

    Raises:
        UsageError: ``loss.width`` for a width below 1; at the call ``loss.feature``, ``loss.feature-shape``.
    """

    def __init__(self, feature: Feature, student_width: int, teacher_width: int, *, seed: int = 0) -> None:
        super().__init__()
        if min(student_width, teacher_width) < 1:
            raise UsageError("loss.width", f"widths {student_width} and {teacher_width}", "1 or more")
        self.feature = feature
        self.weight = nn.Parameter(torch.empty(teacher_width, student_width))
        self.bias = nn.Parameter(torch.zeros(teacher_width))
        bound = student_width**-0.5
        nn.init.uniform_(self.weight, -bound, bound, generator=torch.Generator().manual_seed(seed))

    @classmethod
    def fitting(cls, feature: Feature, student: Prediction, target: Prediction, *, seed: int = 0) -> Hint:
        """The Hint whose widths are those of what both sides say."""
        s, t, axes = feature_pair(student, target, feature)
        own = -3 if axes == 3 else -1
        return cls(feature, s.shape[own], t.shape[own], seed=seed)

    def forward(self, student: Prediction, target: Prediction) -> Tensor:
        """The loss of each row; see the class."""
        s, t, axes = feature_pair(student, target, self.feature)
        own = -3 if axes == 3 else -1
        teacher_width, student_width = self.weight.shape
        if axes > 3 or (s.shape[own], t.shape[own]) != (student_width, teacher_width):
            expected = f"vectors, tokens or maps of widths {student_width} and {teacher_width}"
            raise shape_error(s, t, expected, "Hint.fitting(feature, student_prediction, target)")
        if axes == 3:
            s, t = _pooled(s, t)
        if axes == 2 and s.shape[-2] != t.shape[-2]:
            raise shape_error(s, t, "as many tokens on both sides")
        mapped = F.linear(s.movedim(own, -1), self.weight, self.bias).movedim(-1, own)
        return 0.5 * (mapped - t).square().flatten(-axes).mean(-1)


def _alike(student: Prediction, target: Prediction, feature: Feature) -> tuple[Tensor, Tensor, int]:
    s, t, axes = feature_pair(student, target, feature)
    if axes == 3:
        s, t = _pooled(s, t)
    if s.shape[-axes:] != t.shape[-axes:]:
        raise shape_error(s, t, "the same widths on both sides", "losses.Hint learns a map between widths")
    return s, t, axes


def _pooled(s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    size = (min(s.shape[-2], t.shape[-2]), min(s.shape[-1], t.shape[-1]))
    return _pool(s, size), _pool(t, size)


def _pool(x: Tensor, size: tuple[int, int]) -> Tensor:
    if x.shape[-2:] == size:
        return x
    flat = x.reshape(x.shape[:-2].numel(), 1, *x.shape[-2:])
    return F.adaptive_avg_pool2d(flat, size).reshape(*x.shape[:-2], *size)
