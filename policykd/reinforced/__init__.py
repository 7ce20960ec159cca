"""Learning from reward and from a teacher at once: the loop that makes rollouts for a Learner; it measures no returns.

PPO's terms and the teacher's are objectives over ``Batch.extra`` (``reward_objective``), the student acts beside a
critic that is thrown away (``ActorCritic``), and every gradient step is a ``Learner.step``. What learns need not be a
student: ``train_gate`` teaches several teachers' gate.
"""

from __future__ import annotations

from policykd.reinforced.actor_critic import ActorCritic, acting, check_actor, check_density, critic_for
from policykd.reinforced.experience import Experience, RewardScale, advantages
from policykd.reinforced.gating import GATE, train_gate
from policykd.reinforced.loop import reinforced
from policykd.reinforced.objective import (
    advised,
    clipped_surrogate,
    critic_objective,
    entropy_bonus,
    gated,
    kickstarting,
    proximal,
    returns_error,
    reward_objective,
)
from policykd.reinforced.start import check_gate, discount, pull, start

__all__ = [
    "GATE",
    "ActorCritic",
    "Experience",
    "RewardScale",
    "acting",
    "advantages",
    "advised",
    "check_actor",
    "check_density",
    "check_gate",
    "clipped_surrogate",
    "critic_for",
    "critic_objective",
    "discount",
    "entropy_bonus",
    "gated",
    "kickstarting",
    "proximal",
    "pull",
    "reinforced",
    "returns_error",
    "reward_objective",
    "start",
    "train_gate",
]
