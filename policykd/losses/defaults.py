"""The loss each family of actions gets when nobody chooses; the table that chose is in docs/benchmarks.md."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from gymnasium import spaces

from policykd.losses import policy, targets, value
from policykd.losses.bounded import bounded_wasserstein2
from policykd.losses.compose import PairLoss, Weighted, on_target, weighted
from policykd.losses.targets import q_scale
from policykd.prediction import Prediction, Spec

__all__ = ["TAU", "default_objective", "default_policy_loss"]

TAU = 0.3
"""Temperature of Q-values in units of ``targets.q_scale``."""


SATURATED = 2.5
"""Mean before tanh from which a squashed action (0.987 of its range) counts as being at its bound."""


def default_policy_loss(spec: Spec, sample: Prediction) -> PairLoss:
    """The default pair loss of a family.

    Args:
        spec: of the student's (and teacher's) actions.
        sample: a first batch of the teacher's predictions; it freezes the scale of Q-values.
    """
    match spec.family:
        case "categorical" if sample.q is not None:
            return on_target(policy.forward_kl, partial(targets.from_q_scaled, tau=TAU, scale=q_scale(sample)))
        case "categorical" | "multi_categorical" | "bernoulli":
            return policy.forward_kl
        case "diag_gaussian" | "deterministic":
            return _within(spec.action_space)
        case "tanh_gaussian":
            edge = torch.full((spec.action_width,), SATURATED)
            return partial(bounded_wasserstein2, low=-edge, high=edge)
        case "tanh_deterministic":
            return policy.mse


def _within(space: spaces.Space) -> PairLoss:
    """Errors in units of the half-range where an action has one."""
    if not isinstance(space, spaces.Box):
        return policy.wasserstein2
    low, high = (torch.as_tensor(np.ravel(x), dtype=torch.float32) for x in (space.low, space.high))
    half = torch.where(torch.isfinite(high - low), (high - low) / 2, 1.0)
    return partial(bounded_wasserstein2, low=low, high=high, scale=half)


def default_objective(spec: Spec, sample: Prediction, *, with_value: bool, value_weight: float) -> Weighted:
    """``weighted(policy=(1, default loss), value=(value_weight, mse))``; the value term where both sides have one."""
    parts = {"policy": (1.0, default_policy_loss(spec, sample))}
    if with_value and value_weight > 0:
        parts["value"] = (value_weight, value.mse)
    return weighted(**parts)
