"""From a student that imitates to one that learns from reward too: critic, Learner, Experience; it takes no step."""

from __future__ import annotations

import copy

import numpy as np
from gymnasium.vector import VectorEnv

from policykd.config import RewardConfig
from policykd.errors import UsageError
from policykd.learner import Learner, Schedule
from policykd.losses import Objective, PairLoss, Weight, Weighted, policy
from policykd.losses.defaults import default_policy_loss
from policykd.losses.weights import linear
from policykd.policy import Policy
from policykd.prediction import Obs, Prediction, Spec, obs_tensor
from policykd.reinforced.actor_critic import ActorCritic, critic_for
from policykd.reinforced.experience import Experience
from policykd.reinforced.objective import reward_objective
from policykd.rollouts import Collector
from policykd.teachers import Ensemble

__all__ = ["check_gate", "discount", "pull", "sampled", "start"]

_GAMMA = 0.99  # SB3's default
_GRADIENT_NORM = 0.5  # SB3's default of PPO


def discount(config: RewardConfig, teacher: Policy) -> float:
    """The discount that is asked for, or the teacher's."""
    if config.gamma is not None:
        return config.gamma
    return _GAMMA if teacher.origin.gamma is None else teacher.origin.gamma


def sampled(spec: Spec, rows: int = 2) -> Obs:
    """Observations drawn from the space, ``[rows, ...]``, to ask a policy what kind of things it says."""
    space = copy.deepcopy(spec.observation_space)
    space.seed(0)
    found = [space.sample() for _ in range(rows)]
    return obs_tensor(
        {k: np.stack([row[k] for row in found]) for k in found[0]} if isinstance(found[0], dict) else np.stack(found)
    )


def check_gate(config: RewardConfig, teacher: Policy) -> None:
    """Refuse a value gate without values of one discount on both sides, before anything is learnt.

    Raises:
        UsageError: ``reinforced.gate``.
    """
    if not config.value_gate:
        return
    gamma, theirs = discount(config, teacher), teacher.origin.gamma
    members = list(teacher.teachers) if isinstance(teacher, Ensemble) else []
    if theirs is None and members:
        gammas = ", ".join(str(one.origin.gamma) for one in members if isinstance(one, Policy))
        raise UsageError(
            "reinforced.gate",
            f"a value gate on teachers of gamma {gammas}, whose values cannot be combined",
            "teachers of one known discount",
            "leave --value-gate out",
        )
    if teacher.label(sampled(teacher.spec)).value is None:
        raise UsageError(
            "reinforced.gate",
            "a value gate on a teacher without values",
            "a teacher with a critic (any of SB3's but ARS), or several that all have one",
            "leave --value-gate out",
        )
    if theirs is None:
        raise UsageError(
            "reinforced.gate",
            "a value gate on a teacher that does not say the gamma of its values",
            "values of one discount",
            "leave --value-gate out, or say it in teacher.origin",
        )
    if gamma != theirs:
        raise UsageError(
            "reinforced.gate",
            f"a value gate between a teacher of gamma {theirs} and a student of gamma {gamma}",
            "values of one discount",
            "leave --gamma out, or --value-gate",
        )


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
        weight: of that loss, a number or a function of Progress; None for the line that ``config`` describes.
        seed: of the critic, the environments and the draws.

    Raises:
        UsageError: ``reinforced.gate`` as ``check_gate``; ``reinforced.actor``.
        SpaceError: ``reinforced.density``.
    """
    check_gate(config, teacher)
    gamma = discount(config, teacher)
    comparable = gamma == teacher.origin.gamma
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
