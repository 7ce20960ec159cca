"""PPO's terms and the teacher's beside them, as objectives over ``Batch.extra``; it collects nothing, reduces nothing.

Columns are those of ``Experience.rollout``. Every objective returns rows ``[*b]``, so that the Learner's one reduction
does the rest; weights are numbers or functions of Progress.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from policykd.errors import DistributionError, UsageError
from policykd.losses import (
    Advisor,
    Objective,
    PairLoss,
    Term,
    Weight,
    Weighted,
    as_objective,
    forward_kl,
    value_mse,
    weighted,
)
from policykd.losses.noise import above
from policykd.policy import Policy
from policykd.prediction import Batch, Prediction, Progress
from policykd.reinforced.experience import allowed, log_prob

__all__ = [
    "advised",
    "clipped_surrogate",
    "critic_objective",
    "entropy_bonus",
    "gated",
    "kickstarting",
    "proximal",
    "returns_error",
    "reward_objective",
]


def _ratio(student: Prediction, batch: Batch) -> Tensor:
    """pi(a | s) / pi_old(a | s) of the actions that were taken, ``[*b]``."""
    now = log_prob(allowed(student, batch).dist, batch.extra["action"])
    return torch.exp(now - batch.extra["old_log_prob"])


def clipped_surrogate(student: Prediction, batch: Batch, *, clip: float = 0.2) -> dict[str, Tensor]:
    """-min(r A, clip(r, 1 - e, 1 + e) A) (Schulman et al. 2017, 1707.06347, eq. 7).

    Args:
        batch: with ``action``, ``old_log_prob``, ``advantage``.
        clip: e. As e -> inf this is the plain surrogate -r A.
    """
    ratio, advantage = _ratio(student, batch), batch.extra["advantage"]
    return {"surrogate": -torch.minimum(ratio * advantage, ratio.clamp(1.0 - clip, 1.0 + clip) * advantage)}


def returns_error(student: Prediction, batch: Batch) -> dict[str, Tensor]:
    """((V - return) / unit)^2, the critic's error in its own unit: the same weight means the same everywhere.

    Raises:
        DistributionError: ``loss.no-value`` for a student without values.
    """
    if student.value is None:
        raise DistributionError(
            "loss.no-value", "a critic's error of a student without values", "a critic", "teach an ActorCritic"
        )
    return {"return": ((student.value - batch.extra["return"]) / batch.extra["unit"]).square()}


def entropy_bonus(student: Prediction, batch: Batch) -> dict[str, Tensor]:
    """-H(pi(. | s)): subtracting the entropy is adding its negative."""
    return {"bonus": -allowed(student, batch).dist.entropy()}


def proximal(
    student: Prediction, batch: Batch, progress: Progress, *, loss: Weighted, clip: float = 0.2
) -> dict[str, Tensor | Term]:
    """loss x max(r, 1 - e): proximal policy distillation (Spigler 2024, 2407.15134, eq. 3) with any loss for the KL.

    The gradient goes through the ratio r too, as in the authors' code: where r is below 1 - e it does not.

    Args:
        loss: of the student to the teacher; the paper's is ``losses.forward_kl``, KL(teacher || student).
        clip: e. e = 1 leaves the ratio as it is, e = 0 keeps it at 1 and above.
    """
    floor = _ratio(student, batch).clamp(min=1.0 - clip)
    terms = loss.terms(allowed(student, batch), batch, progress)
    return {name: Term(weight, rows * floor) for name, (weight, rows) in terms.items()}


def kickstarting(student: Prediction, batch: Batch, progress: Progress, *, loss: Weighted) -> dict[str, Tensor | Term]:
    """The loss as it is (Schmitt et al. 2018, 1803.03835, eq. 3: the cross-entropy to the teacher)."""
    return dict(loss.terms(allowed(student, batch), batch, progress))


def gated(student: Prediction, batch: Batch, progress: Progress, *, loss: Weighted) -> dict[str, Tensor | Term]:
    """The loss only in rows where V_teacher > V_student (Czarnecki et al. 2019, 1902.02186, section 5).

    Both values must be of the same discount. The gate carries no gradient.

    Raises:
        UsageError: ``reinforced.gate`` for a teacher that says nothing of value.
    """
    if batch.target.value is None or student.value is None:
        raise UsageError(
            "reinforced.gate",
            "a value gate on a teacher without values",
            "a teacher with a critic",
            "leave --value-gate out",
        )
    better = above(student, batch.target)
    # A row that counts 0 must not spoil the sum, however wrong the student is there.
    terms = loss.terms(student, batch, progress)
    return {name: Term(weight, torch.where(better, rows, 0.0)) for name, (weight, rows) in terms.items()}


def critic_objective(value_weight: float = 0.0) -> Weighted:
    """What a critic alone is taught: the returns, and its teacher's values at ``value_weight``."""
    parts: dict[str, tuple[Weight, PairLoss | Objective]] = {"value": (1.0, returns_error)}
    if value_weight > 0:
        parts["teacher_value"] = (value_weight, value_mse)
    return weighted(**parts)


def reward_objective(
    loss: PairLoss | Objective | Weighted,
    *,
    teacher: Weight = 1.0,
    ratio: bool = True,
    gate: bool = False,
    clip: float = 0.2,
    value: float = 0.5,
    entropy: float = 0.0,
) -> Weighted:
    """PPO with a term that pulls towards the teacher.

    Args:
        loss: of the student to the teacher.
        teacher: its weight, a number or a function of Progress; 0 is plain PPO.
        ratio: weigh the rows by the clipped ratio (PPD); False leaves them alone (kickstarting).
        gate: learn from the teacher only where its value is above the student's.
        clip: of PPO's ratio, and PPD's.
        value, entropy: weights of the critic's error and of the entropy.
    """
    toward = as_objective(loss)
    if gate:
        toward = as_objective(partial(gated, loss=toward))
    pull = partial(proximal, loss=toward, clip=clip) if ratio else partial(kickstarting, loss=toward)
    return weighted(
        policy=(1.0, partial(clipped_surrogate, clip=clip)),
        value=(value, returns_error),
        entropy=(entropy, entropy_bonus),
        teacher=(teacher, pull),
    )


def advised(
    auxiliary: Policy,
    loss: PairLoss = forward_kl,
    *,
    alpha: float = 4.0,
    clip: float = 0.2,
    value: float = 0.5,
    entropy: float = 0.0,
) -> Weighted:
    """Row by row imitation or PPO: the teacher counts where it can be imitated (ADVISOR, 2007.12173, section 3.2).

    For teachers that see more than the student does. ``losses.Advisor`` decides over PPO's surrogate and entropy; the
    critic learns from every row. A Learner of it takes the place of the one that ``start`` returns:

    >>> learner, experience = start(actor, teacher, envs, config, loss=loss, ratio=False, lr=1e-3)  # doctest: +SKIP
    >>> objective = advised(copy.deepcopy(actor), loss)                                              # doctest: +SKIP
    >>> learner = Learner(learner.student, objective, lr=1e-3, average=None, max_grad_norm=0.5)      # doctest: +SKIP
    >>> for update in reinforced(learner, experience, config, steps=300_000): ...                    # doctest: +SKIP

    Args:
        auxiliary: a policy of the student's spec that nobody else trains, ``copy.deepcopy(actor)``.
        loss: of student and auxiliary to the teacher; it must be 0 where they agree.
        alpha: how fast a teacher that cannot be imitated loses weight: 0 is imitation alone, inf is PPO alone.
        clip, value, entropy: as in ``reward_objective``.

    Raises:
        UsageError: ``weight.dynamic`` for a negative alpha.
    """
    reward = weighted(policy=(1.0, partial(clipped_surrogate, clip=clip)), entropy=(entropy, entropy_bonus))
    advisor = as_objective(Advisor(auxiliary, reward, imitation=loss, alpha=alpha))
    return weighted(advisor=(1.0, partial(kickstarting, loss=advisor)), value=(value, returns_error))
