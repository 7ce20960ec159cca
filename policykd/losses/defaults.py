"""The loss each family of actions gets when nobody chooses; the table that chose is in docs/benchmarks.md."""

from __future__ import annotations

from functools import partial

from policykd.losses import policy, targets, value
from policykd.losses.compose import PairLoss, Weighted, on_target, weighted
from policykd.losses.targets import q_scale
from policykd.prediction import Family, Prediction

__all__ = ["TAU", "default_objective", "default_policy_loss"]

TAU = 0.3
"""Temperature of Q-values in units of ``targets.q_scale``."""


def default_policy_loss(family: Family, sample: Prediction) -> PairLoss:
    """The default pair loss of a family.

    Args:
        family: of the student's (and teacher's) actions.
        sample: a first batch of the teacher's predictions; it freezes the scale of Q-values.
    """
    match family:
        case "categorical" if sample.q is not None:
            return on_target(policy.forward_kl, partial(targets.from_q_scaled, tau=TAU, scale=q_scale(sample)))
        case "categorical" | "multi_categorical" | "bernoulli":
            return policy.forward_kl
        case "diag_gaussian":
            return policy.wasserstein2
        case "tanh_gaussian":
            return policy.wasserstein2
        case "deterministic" | "tanh_deterministic":
            return policy.mse


def default_objective(family: Family, sample: Prediction, *, with_value: bool, value_weight: float) -> Weighted:
    """``weighted(policy=(1, default loss), value=(value_weight, mse))``; the value term where both sides have one."""
    parts = {"policy": (1.0, default_policy_loss(family, sample))}
    if with_value and value_weight > 0:
        parts["value"] = (value_weight, value.mse)
    return weighted(**parts)
