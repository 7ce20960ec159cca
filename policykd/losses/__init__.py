"""The common loss core of the supervised, online and reinforced modules: pure, one number per row; it never reduces."""

from __future__ import annotations

from policykd.losses import bounded, combine, compose, dynamic, gate, labels, noise, policy, targets, value, weights
from policykd.losses.adversarial import Adversary, Discriminator
from policykd.losses.attention import attention_relation, value_relation
from policykd.losses.bounded import bounded_wasserstein2
from policykd.losses.boxes import box_huber, box_iou
from policykd.losses.combine import Combine, calibrated
from policykd.losses.compose import Objective, PairLoss, Term, Weighted, as_objective, on_rows, on_target, weighted
from policykd.losses.dynamic import Advisor, DynamicAverage, Uncertainty
from policykd.losses.features import Hint, attention_transfer, cosine_distance, feature_mse
from policykd.losses.fusion import Fusion
from policykd.losses.gate import Gate
from policykd.losses.labels import agreeing, hard_and_soft, label_nll, small_loss, soft_kl, soft_label_ce
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
from policykd.losses.relations import decoupled, dist_relations, relational_angle, relational_distance
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
    "Adversary",
    "Advisor",
    "Combine",
    "Discriminator",
    "DynamicAverage",
    "Fusion",
    "Gate",
    "Hint",
    "Objective",
    "PairLoss",
    "Term",
    "Uncertainty",
    "Weight",
    "Weighted",
    "advantage_weight",
    "agreeing",
    "as_objective",
    "attention_relation",
    "attention_transfer",
    "bounded",
    "bounded_wasserstein2",
    "box_huber",
    "box_iou",
    "by_task",
    "calibrated",
    "centred_q",
    "combine",
    "compose",
    "confidence_weight",
    "cosine_distance",
    "decoupled",
    "disagreement_weight",
    "dist_relations",
    "dynamic",
    "feature_mse",
    "forward_kl",
    "from_q",
    "from_q_scaled",
    "gap_weight",
    "gate",
    "hard_and_soft",
    "hard_nll",
    "huber",
    "jensen_shannon",
    "label_nll",
    "labels",
    "mse",
    "noise",
    "on_rows",
    "on_target",
    "policy",
    "q_scale",
    "relational_angle",
    "relational_distance",
    "reverse_kl",
    "sharpen",
    "small_loss",
    "smooth",
    "soft_cross_entropy",
    "soft_kl",
    "soft_label_ce",
    "soften",
    "standardise",
    "standardised_logits",
    "targets",
    "value",
    "value_gate",
    "value_huber",
    "value_mse",
    "value_relation",
    "value_scale",
    "wasserstein2",
    "weigh",
    "weight_at",
    "weighted",
    "weights",
    "with_disagreement",
]
