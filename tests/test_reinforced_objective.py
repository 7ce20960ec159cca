"""PPO's terms against SB3's own arithmetic, PPD's against the authors' line, and what happens at the ends of a knob."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import ConvertCallback
from stable_baselines3.common.running_mean_std import RunningMeanStd
from torch import Tensor

from policykd import losses
from policykd.distributions import Bernoulli, Categorical, DiagGaussian, Distribution, TanhGaussian, kl
from policykd.errors import UsageError
from policykd.prediction import Batch, Prediction, Progress
from policykd.reduction import reduce_rows
from policykd.reinforced import RewardScale, advantages, clipped_surrogate, gated, proximal, reward_objective
from policykd.reinforced.experience import log_prob


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# Advantages


@pytest.mark.parametrize(("gamma", "gae_lambda"), [(0.99, 0.95), (0.9, 0.0), (0.97, 1.0), (1.0, 1.0), (0.0, 0.5)])
def test_advantages_are_those_of_sb3(gamma: float, gae_lambda: float) -> None:
    """SB3 adds gamma V(final observation) to the reward of an episode that was cut off; here it is what follows."""
    time, envs = 50, 3
    g = generator(1)
    reward, value, final = (torch.randn(time, envs, generator=g) for _ in range(3))
    last = torch.randn(envs, generator=g)
    done = torch.rand(time, envs, generator=g) < 0.2
    terminated = done & (torch.rand(time, envs, generator=g) < 0.5)
    assert (done & ~terminated).any() and terminated.any()
    following = torch.where(done, final, torch.cat([value[1:], last[None]]))
    found = advantages(reward, value, following, terminated, done, gamma=gamma, gae_lambda=gae_lambda)
    box = spaces.Box(-1, 1, (1,))
    theirs = RolloutBuffer(time, box, box, "cpu", gae_lambda, gamma, envs)
    starts = torch.cat([torch.zeros(1, envs, dtype=torch.bool), done[:-1]])
    for t in range(time):
        paid = reward[t] + gamma * final[t] * (done & ~terminated)[t]
        blank = np.zeros((envs, 1), np.float32)
        theirs.add(blank, blank, paid.numpy(), starts[t].numpy(), value[t], torch.zeros(envs))
    theirs.compute_returns_and_advantage(last, done[-1].numpy())
    np.testing.assert_allclose(found.numpy(), theirs.advantages, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose((found + value).numpy(), theirs.returns, rtol=1e-5, atol=1e-5)


def test_advantages_by_hand() -> None:
    """Three steps, gamma 0.5, lambda 0.5; the second ends an episode for good, then cuts one off."""
    reward, value = torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([[10.0], [20.0], [30.0]])
    following, no = torch.tensor([[20.0], [8.0], [40.0]]), torch.zeros(3, 1, dtype=torch.bool)
    end = torch.tensor([[False], [True], [False]])
    last = 4 + 20 - 30  # -6
    ended = advantages(reward, value, following, end, end, gamma=0.5, gae_lambda=0.5)
    assert ended.flatten().tolist() == [1 + 10 - 10 + 0.25 * (2 - 20), 2 - 20, last]
    cut = advantages(reward, value, following, no, end, gamma=0.5, gae_lambda=0.5)
    assert cut.flatten().tolist() == [1 + 0.25 * (2 + 4 - 20), 2 + 4 - 20, last]
    on = advantages(reward, value, following, no, no, gamma=0.5, gae_lambda=0.5)
    assert on.flatten().tolist() == [1 + 0.25 * (-14 + 0.25 * last), -14 + 0.25 * last, last]


def test_reward_scale_is_that_of_vecnormalize() -> None:
    """VecNormalize: returns = returns * gamma + reward; update(returns); returns[done] = 0."""
    g, gamma, mine, theirs = generator(2), 0.9, RewardScale(0.9), RunningMeanStd(shape=())
    returns = np.zeros(4)
    for rows in (30, 1, 17):
        reward, done = 5 + torch.randn(rows, 4, generator=g), torch.rand(rows, 4, generator=g) < 0.1
        mine.follow(reward, done)
        for gained, ended in zip(reward.numpy(), done.numpy(), strict=True):
            returns = returns * gamma + gained
            theirs.update(returns)
            returns[ended] = 0
        assert mine.unit == pytest.approx(math.sqrt(theirs.var + 1e-8), rel=1e-4)
        assert mine.mean == pytest.approx(float(theirs.mean), rel=1e-4)


# PPO


def test_ppo_is_that_of_sb3() -> None:
    """The gradients that SB3's own ``train()`` leaves behind, at weights other than those that acted."""
    model = PPO("MlpPolicy", "CartPole-v1", n_steps=64, batch_size=64, n_epochs=1, ent_coef=0.03, seed=0, device="cpu")
    model.max_grad_norm, model.lr_schedule = 1e9, lambda _: 0.0
    _, callback = model._setup_learn(64, ConvertCallback(lambda *_: True))
    assert model.env is not None
    model.collect_rollouts(model.env, callback, model.rollout_buffer, 64)
    with torch.no_grad():
        for p in model.policy.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=generator(3)))
    model.train()
    theirs = {name: p.grad.clone() for name, p in model.policy.named_parameters() if p.grad is not None}
    model.policy.zero_grad()

    rows = next(iter(model.rollout_buffer.get(64)))
    advantage = (rows.advantages - rows.advantages.mean()) / (rows.advantages.std() + 1e-8)
    extra = {
        "action": rows.actions.long().flatten(),
        "old_log_prob": rows.old_log_prob,
        "advantage": advantage,
        "return": rows.returns,
        "unit": torch.ones(64),
    }
    logits = model.policy.get_distribution(rows.observations).distribution.logits
    student = Prediction(Categorical(logits), model.policy.predict_values(rows.observations).flatten())
    batch = Batch(rows.observations, student.map(Tensor.detach), extra=extra)
    objective = reward_objective(losses.forward_kl, teacher=0.0, clip=0.2, value=0.5, entropy=0.03)
    terms = objective.terms(student, batch)
    assert set(terms) == {"policy/surrogate", "value/return", "entropy/bonus"}
    ratio = torch.exp(student.dist.log_prob(extra["action"]) - rows.old_log_prob)
    assert float(((ratio - 1).abs() > 0.2).float().mean()) > 0.02, "some rows are clipped"
    sum(w * reduce_rows(r, None, None) for w, r in terms.values()).backward()  # type: ignore[union-attr]
    assert len(theirs) == 12
    for name, p in model.policy.named_parameters():
        assert p.grad is not None
        torch.testing.assert_close(p.grad, theirs[name], rtol=1e-4, atol=1e-6, msg=name)


def rewarded(old: list[float], advantage: list[float], target: Distribution, **more: Tensor) -> Batch:
    extra = {"action": torch.zeros(len(old), dtype=torch.long), "old_log_prob": torch.tensor(old)}
    extra |= {"advantage": torch.tensor(advantage), **more}
    return Batch(torch.zeros(len(old), 1), Prediction(target), extra=extra)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [
        (1.1, 2.0, -2.2, -2.2),
        (1.3, 2.0, -2.4, 0.0),  # enough: no gradient beyond 1 + clip
        (1.3, -2.0, 2.6, 2.6),
        (0.7, -2.0, 1.6, 0.0),
        (0.7, 2.0, -1.4, -1.4),
    ],
)
def test_clipped_surrogate_by_hand(ratio: float, advantage: float, loss: float, slope: float) -> None:
    """``slope`` is the derivative to log pi(a): that of -r A is -r A itself, and 0 where it is clipped."""
    now = torch.tensor([[math.log(0.25), math.log(0.75)]], requires_grad=True)
    batch = rewarded([math.log(0.25 / ratio)], [advantage], Categorical(now.detach()))
    rows = clipped_surrogate(Prediction(Categorical(now)), batch, clip=0.2)["surrogate"]
    assert rows.tolist() == pytest.approx([loss])
    rows.sum().backward()
    assert now.grad is not None
    assert float(now.grad[0, 0]) == pytest.approx(slope * 0.75, abs=1e-6)  # d log pi(a) / d logit = 1 - pi(a)


# The teacher's term


def teaching(ratio: Tensor, clip: float) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of the objective and of the authors' line, and the student's logits."""
    logits = torch.randn(len(ratio), 3, generator=generator(4), requires_grad=True)
    target = Categorical(torch.randn(len(ratio), 3, generator=generator(5)))
    dist = Categorical(logits)
    old = (dist.log_probs[:, 0] - ratio.log()).detach()
    batch = rewarded(old.tolist(), [0.0] * len(ratio), target)
    terms = proximal(Prediction(dist), batch, Progress(), loss=losses.as_objective(losses.forward_kl), clip=clip)
    (term,) = terms.values()
    # spiglerg/sb3_distill, ppd.py: clipped_ratio = th.clamp(ratio, 1-clip_range, None); mean(clipped_ratio * kl)
    theirs = torch.clamp(torch.exp(dist.log_probs[:, 0] - old), 1 - clip, None) * kl(target, dist)
    return term.rows, theirs, logits  # type: ignore[union-attr]


@pytest.mark.parametrize("clip", [0.0, 0.2, 1.0])
def test_ppd_is_the_authors_line(clip: float) -> None:
    ratio = torch.tensor([0.3, 0.79, 0.81, 1.0, 1.5, 4.0])
    mine, theirs, logits = teaching(ratio, clip)
    torch.testing.assert_close(mine, theirs)
    ours = torch.autograd.grad(mine.sum(), logits, retain_graph=True)[0]
    torch.testing.assert_close(ours, torch.autograd.grad(theirs.sum(), logits)[0])


def test_ppd_takes_a_gradient_through_the_ratio_only_above_its_floor() -> None:
    mine, _, logits = teaching(torch.tensor([0.5, 2.0]), 0.2)
    got = torch.autograd.grad(mine.sum(), logits, retain_graph=True)[0]
    target = Categorical(torch.randn(2, 3, generator=generator(5)))
    alone = torch.autograd.grad(kl(target, Categorical(logits)).sum(), logits)[0]
    torch.testing.assert_close(got[0], 0.8 * alone[0])
    assert not torch.allclose(got[1], 2.0 * alone[1])


def test_kickstarting_is_the_loss_as_it_is_and_a_weight_of_zero_is_ppo() -> None:
    dist, target = (Categorical(torch.randn(5, 3, generator=generator(s))) for s in (6, 7))
    more = {"return": torch.zeros(5), "unit": torch.ones(5)}
    batch = rewarded([-1.0] * 5, [1.0] * 5, target, **more)
    student = Prediction(dist, torch.zeros(5))
    terms = reward_objective(losses.forward_kl, teacher=lambda p: 1 - p.fraction, ratio=False).terms
    half = terms(student, batch, Progress(fraction=0.25))["teacher/policy"]
    assert half.weight == 0.75
    torch.testing.assert_close(half.rows, kl(target, dist))
    assert set(terms(student, batch, Progress(fraction=1.0))) == {"policy/surrogate", "value/return"}


def test_a_value_gate_leaves_the_rows_where_the_teacher_expects_more() -> None:
    dist, target = (Categorical(torch.randn(4, 3, generator=generator(s))) for s in (8, 9))
    value = torch.tensor([1.0, 2.0, 3.0, 4.0], requires_grad=True)
    batch = Batch(torch.zeros(4, 1), Prediction(target, torch.tensor([2.0, 2.0, 2.0, 9.0])))
    loss = losses.as_objective(losses.forward_kl)
    (term,) = gated(Prediction(dist, value), batch, Progress(), loss=loss).values()
    rows = term.rows  # type: ignore[union-attr]
    torch.testing.assert_close(rows, kl(target, dist) * torch.tensor([1.0, 0.0, 0.0, 1.0]))
    assert not rows.requires_grad
    for mute in (Batch(batch.obs, Prediction(target)), batch):
        said = Prediction(dist, None if mute is batch else value)
        with pytest.raises(UsageError, match=r"reinforced\.gate"):
            gated(said, mute, Progress(), loss=loss)


def test_a_gated_objective_of_ones_own() -> None:
    """A user's loss, PPD's ratio and the gate, all at once."""

    def mine(student: Prediction, target: Prediction) -> Tensor:
        return torch.ones(4)

    more: dict[str, Any] = {"return": torch.zeros(4), "unit": torch.ones(4)}
    dist = Categorical(torch.zeros(4, 2))
    batch = rewarded([math.log(0.5), math.log(0.25), math.log(0.5), math.log(1.0)], [0.0] * 4, dist, **more)
    batch = Batch(batch.obs, Prediction(dist, torch.tensor([1.0, 1.0, -1.0, 1.0])), extra=batch.extra)
    terms = reward_objective(mine, gate=True).terms(Prediction(dist, torch.zeros(4)), batch)
    assert terms["teacher/policy"].rows.tolist() == pytest.approx([1.0, 2.0, 0.0, 0.8])


@pytest.mark.parametrize(
    ("dist", "other"),
    [
        (DiagGaussian(torch.zeros(3, 2), torch.zeros(3, 2)), torch.distributions.Normal(0.0, 1.0)),
        (Bernoulli(torch.zeros(3, 2)), torch.distributions.Bernoulli(0.5)),
    ],
)
def test_log_prob_of_what_was_drawn(dist: Distribution, other: Any) -> None:
    action = dist.sample(generator(10))
    torch.testing.assert_close(log_prob(dist, action), other.log_prob(action).sum(-1))


def test_log_prob_of_a_squashed_action_is_exact_where_tanh_saturates() -> None:
    dist = TanhGaussian(torch.zeros(3, 1), torch.zeros(3, 1))
    before = torch.tensor([[0.5], [12.0], [30.0]])
    law = torch.distributions.TransformedDistribution(
        torch.distributions.Normal(0.0, 1.0), torch.distributions.TanhTransform()
    )
    found = log_prob(dist, before)
    assert float(found[0]) == pytest.approx(float(law.log_prob(torch.tanh(before[0]))), rel=1e-5)
    # log N(u; 0, 1) - log(1 - tanh(u)^2), the latter 2 log 2 - 2u for large u
    for u, said in zip((12.0, 30.0), found[1:].tolist(), strict=True):
        assert said == pytest.approx(-u * u / 2 - 0.5 * math.log(2 * math.pi) - (2 * math.log(2) - 2 * u), rel=1e-5)
