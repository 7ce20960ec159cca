"""The common loss core of the supervised, online and reinforced modules: pure, one number per row; it never reduces."""

from __future__ import annotations

from policykd.losses import bounded, combine, compose, dynamic, gate, noise, policy, targets, value, weights
from policykd.losses.bounded import bounded_wasserstein2
from policykd.losses.combine import Combine, calibrated
from policykd.losses.compose import Objective, PairLoss, Term, Weighted, as_objective, on_rows, on_target, weighted
from policykd.losses.dynamic import Advisor, DynamicAverage, Uncertainty
from policykd.losses.gate import Gate
from policykd.losses.noise import disagreement_weight, value_gate, with_disagreement
from policykd.losses.policy import (
    centred_q,
    forward_kl,
    hard_nll,
    huber,
    jensen_shannon,
    mse,
    reverse_kl,
    soft_cross_entropy,
    standardised_logits,
    wasserstein2,
)
from policykd.losses.targets import (
    advantage_weight,
    confidence_weight,
    from_q,
    from_q_scaled,
    gap_weight,
    q_scale,
    sharpen,
    smooth,
    soften,
    standardise,
    weigh,
)
from policykd.losses.tasks import by_task
from policykd.losses.value import huber as value_huber
from policykd.losses.value import mse as value_mse
from policykd.losses.value import value_scale
from policykd.losses.weights import Weight, weight_at

__all__ = [
    "Advisor",
    "Combine",
    "DynamicAverage",
    "Gate",
    "Objective",
    "PairLoss",
    "Term",
    "Uncertainty",
    "Weight",
    "Weighted",
    "advantage_weight",
    "as_objective",
    "bounded",
    "bounded_wasserstein2",
    "by_task",
    "calibrated",
    "centred_q",
    "combine",
    "compose",
    "confidence_weight",
    "disagreement_weight",
    "dynamic",
    "forward_kl",
    "from_q",
    "from_q_scaled",
    "gap_weight",
    "gate",
    "hard_nll",
    "huber",
    "jensen_shannon",
    "mse",
    "noise",
    "on_rows",
    "on_target",
    "policy",
    "q_scale",
    "reverse_kl",
    "sharpen",
    "smooth",
    "soft_cross_entropy",
    "soften",
    "standardise",
    "standardised_logits",
    "targets",
    "value",
    "value_gate",
    "value_huber",
    "value_mse",
    "value_scale",
    "wasserstein2",
    "weigh",
    "weight_at",
    "weighted",
    "weights",
    "with_disagreement",
]
