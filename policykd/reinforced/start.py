"""From a student that imitates to one that learns from reward too: critic, Learner, Experience; it takes no step."""

from __future__ import annotations

from gymnasium.vector import VectorEnv

from policykd.config import RewardConfig
from policykd.errors import UsageError
from policykd.learner import Learner, Schedule
from policykd.losses import Objective, PairLoss, Weight, Weighted, policy
from policykd.losses.defaults import default_policy_loss
from policykd.losses.weights import linear
from policykd.policy import Policy
from policykd.prediction import Prediction, Spec
from policykd.reinforced.actor_critic import ActorCritic, critic_for
from policykd.reinforced.experience import Experience
from policykd.reinforced.objective import reward_objective
from policykd.rollouts import Collector

__all__ = ["discount", "pull", "start"]

_GAMMA = 0.99  # SB3's default
_GRADIENT_NORM = 0.5  # SB3's default of PPO


def discount(config: RewardConfig, teacher: Policy) -> float:
    """The discount that is asked for, or the teacher's."""
    if config.gamma is not None:
        return config.gamma
    return _GAMMA if teacher.origin.gamma is None else teacher.origin.gamma


def pull(spec: Spec, sample: Prediction, *, ratio: bool) -> PairLoss:
    """The loss towards a teacher when nobody chooses: KL(teacher || student) for PPD, the family's default otherwise.

    Of a teacher with action values both are the KL to the law that the family's default makes of them.

    Args:
        sample: a first batch of the teacher's predictions.
        ratio: whether its rows are weighted by PPO's ratio.
    """
    return policy.forward_kl if ratio and not spec.discrete else default_policy_loss(spec, sample)


def start(
    actor: Policy,
    teacher: Policy,
    envs: VectorEnv,
    config: RewardConfig,
    *,
    loss: PairLoss | Objective | Weighted,
    ratio: bool,
    lr: Schedule,
    weight: Weight | None = None,
    seed: int = 0,
) -> tuple[Learner[ActorCritic], Experience]:
    """What ``reinforced`` takes.

    Args:
        actor: a student with its normaliser.
        envs: reset here; next-step autoreset.
        loss: of the student to the teacher (``pull``).
        ratio: True for PPD, False for kickstarting.
        weight: of that loss; None for the line that ``config`` describes.
        seed: of the critic, the environments and the draws.

    Raises:
        UsageError: ``reinforced.gate`` where a value gate would compare values of two discounts; ``reinforced.actor``.
        SpaceError: ``reinforced.density``.
    """
    gamma = discount(config, teacher)
    comparable = gamma == teacher.origin.gamma
    if config.value_gate and not comparable:
        raise UsageError(
            "reinforced.gate",
            f"a value gate between a teacher of gamma {teacher.origin.gamma} and a student of gamma {gamma}",
            "values of one discount",
            "leave --gamma out, or --value-gate",
        )
    if weight is None:
        fades = config.teacher_until > 0
        weight = linear(config.teacher_weight, 0.0, finish=config.teacher_until) if fades else config.teacher_weight
    pair = ActorCritic(actor, critic_for(actor, seed=seed))
    objective = reward_objective(
        loss, teacher=weight, ratio=ratio, gate=config.value_gate, clip=config.clip, entropy=config.entropy
    )
    learner = Learner(pair, objective, lr=lr, average=config.reward_average or None, max_grad_norm=_GRADIENT_NORM)
    collector = Collector(envs, teacher, seed=seed, explore=True, values=comparable, episodes=True)
    experience = Experience(
        collector, gamma=gamma, gae_lambda=config.gae_lambda, normalise=config.normalise_reward, seed=seed
    )
    return learner, experience
