"""Adversaries: both sides of the game by hand, an optimizer of their own, and a game that is played to its end."""

from __future__ import annotations

import copy
import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from gymnasium import spaces
from torch import Tensor, nn

from policykd import losses, students
from policykd.distributions import Bernoulli, Categorical, DiagGaussian, MultiCategorical
from policykd.errors import DistributionError, SpaceError, UsageError
from policykd.learner import Learner
from policykd.losses import Adversary, Discriminator, Uncertainty, forward_kl, on_target, weighted
from policykd.prediction import Batch, Prediction, Progress, Spec

SPEC = Spec(spaces.Box(-np.inf, np.inf, (3,), np.float32), spaces.Discrete(4), "categorical")


def batch(n: int = 64, seed: int = 0, **how: Any) -> Batch:
    g = torch.Generator().manual_seed(seed)
    obs = torch.randn(n, 3, generator=g)
    return Batch(
        obs, Prediction(Categorical(obs @ torch.randn(3, 4, generator=torch.Generator().manual_seed(9)))), **how
    )


def said(*shape: int, seed: int = 0) -> Prediction:
    return Prediction(Categorical(torch.randn(*shape, generator=torch.Generator().manual_seed(seed))))


def awake(disc: Discriminator, seed: int = 5) -> Discriminator:
    """One that no longer says 1/2 to everything."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in disc.parameters():
            p.copy_(0.5 * torch.randn(p.shape, generator=g))
    return disc


def numbers(module: nn.Module) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in module.parameters()])


# The two sides


def test_a_fresh_one_says_one_half() -> None:
    disc = Discriminator(4)
    torch.testing.assert_close(disc(said(5, 4), said(5, 4, seed=1)), torch.full((5,), math.log(2)))
    torch.testing.assert_close(disc.adversary_loss(said(5, 4), said(5, 4, seed=1)), torch.full((5,), 2 * math.log(2)))


def test_both_sides_are_torchs_binary_cross_entropy() -> None:
    disc, s, t = awake(Discriminator(4)), said(5, 4), said(5, 4, seed=1)
    fake, real = disc.net(s.dist.probs).squeeze(-1), disc.net(t.dist.probs).squeeze(-1)
    bce, one, zero = partial(F.binary_cross_entropy_with_logits, reduction="none"), torch.ones(5), torch.zeros(5)
    torch.testing.assert_close(disc(s, t), bce(fake, one))
    torch.testing.assert_close(disc.adversary_loss(s, t), bce(real, one) + bce(fake, zero))


def test_no_gradient_comes_back_from_the_adversarys_side() -> None:
    disc, s, t = awake(Discriminator(4)), said(5, 4), said(5, 4, seed=1)
    s.dist.logits.requires_grad_()
    t.dist.logits.requires_grad_()
    disc.adversary_loss(s, t).sum().backward()
    assert s.dist.logits.grad is None and t.dist.logits.grad is None
    disc(s, t).sum().backward()
    assert s.dist.logits.grad is not None and s.dist.logits.grad.abs().sum() > 0 and t.dist.logits.grad is None


def test_certain_judgements_stay_finite() -> None:
    disc = awake(Discriminator(4))
    with torch.no_grad():
        disc.net[-1].weight.mul_(1e6)
    s = said(8, 4)
    s.dist.logits.requires_grad_()
    both = disc(s, said(8, 4, seed=1)) + disc.adversary_loss(s, said(8, 4, seed=1))
    both.sum().backward()
    assert both.isfinite().all() and s.dist.logits.grad is not None and s.dist.logits.grad.isfinite().all()


@pytest.mark.parametrize("of", ["probabilities", "standardised"])
def test_what_it_looks_at(of: Any) -> None:
    logits = torch.tensor([[3.0, 1.0, 2.0, -math.inf]])
    disc = awake(Discriminator(4, of=of))
    z = math.sqrt(1.5)
    seen = [[z, -z, 0.0, 0.0]] if of == "standardised" else torch.softmax(logits, -1).tolist()
    torch.testing.assert_close(
        disc.judge(Prediction(Categorical(logits)), "student"), disc.net(torch.tensor(seen))[:, 0]
    )
    logits.requires_grad_()
    disc(Prediction(Categorical(logits)), said(1, 4)).sum().backward()
    assert logits.grad is not None and logits.grad.isfinite().all()


def test_other_discrete_families() -> None:
    factors = Prediction(MultiCategorical(torch.randn(6, 5, generator=torch.Generator().manual_seed(0)), (2, 3)))
    coins = Prediction(Bernoulli(torch.tensor([[0.0, math.inf]])))
    assert awake(Discriminator(5))(factors, factors).shape == (6,)
    assert awake(Discriminator(4))(coins, coins).isfinite().all()


def test_features_of_one_name_or_two() -> None:
    maps = torch.randn(5, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    s, t = said(5, 4), said(5, 4, seed=1)
    s, t = Prediction(s.dist, features={"mine": maps}), Prediction(t.dist, features={"theirs": maps})
    disc = awake(Discriminator(18, of="feature", feature=("mine", "theirs")))
    torch.testing.assert_close(disc(s, t), F.softplus(-disc.net(maps.flatten(1))[:, 0]))
    torch.testing.assert_close(disc.judge(s, "student"), disc.judge(t, "teacher"))
    with pytest.raises(UsageError, match=r"\[loss.feature\]"):
        Discriminator(18, of="feature", feature="mine").adversary_loss(s, t)


@pytest.mark.parametrize(
    ("how", "code"),
    [
        ({"width": 4, "of": "feature"}, "adversary.of"),
        ({"width": 4, "feature": "x"}, "adversary.of"),
        ({"width": 4, "of": "logits"}, "adversary.of"),
        ({"width": 0}, "adversary.width"),
        ({"width": 4, "hidden": (8, 0)}, "adversary.width"),
    ],
)
def test_what_cannot_be_meant(how: dict[str, Any], code: str) -> None:
    with pytest.raises(UsageError, match=rf"\[{code}\]"):
        Discriminator(**how)


def test_sides_that_do_not_fit() -> None:
    with pytest.raises(SpaceError, match=r"\[adversary.width\]"):
        Discriminator(3)(said(5, 4), said(5, 4))
    law = Prediction(DiagGaussian(torch.zeros(1, 4), torch.zeros(1, 4)))
    with pytest.raises(DistributionError, match=r"\[adversary.family\]"):
        Discriminator(4)(law, law)


def test_its_seed_is_its_own() -> None:
    before = torch.random.get_rng_state()
    a, b, c = Discriminator(4), Discriminator(4), Discriminator(4, seed=1)
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(numbers(a), numbers(b)) and not torch.equal(numbers(a), numbers(c))
    linear = Discriminator(4, hidden=())
    assert len(list(linear.parameters())) == 2


# In a Learner


def learner(disc: nn.Module, weight: Any = 0.1, **how: Any) -> Learner:
    objective = weighted(policy=(1.0, forward_kl), adversary=(weight, disc))
    return Learner(students.mlp(SPEC, (8,)), objective, lr=0.01, **how)


def test_a_step_by_hand() -> None:
    """The student's Adam and the adversary's, each on its own loss, as torch would do it."""
    disc, data = awake(Discriminator(4, hidden=(6,))), batch(weight=torch.rand(64), mask=torch.arange(64) < 50)
    it = learner(disc, adversary_lr=0.02)
    student, twin = copy.deepcopy(it.student), copy.deepcopy(disc)
    main, other = torch.optim.Adam(student.parameters(), lr=0.01), torch.optim.Adam(twin.parameters(), lr=0.02)
    assert data.weight is not None
    for _ in range(3):
        update = it.step(data)

        def reduced(rows: Tensor) -> Tensor:
            assert data.weight is not None
            return (rows * data.weight)[:50].sum() / 50

        word = student(data.obs)
        main.zero_grad()
        reduced(forward_kl(word, data.target) + 0.1 * twin(word, data.target)).backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        main.step()
        other.zero_grad()
        theirs = reduced(twin.adversary_loss(word, data.target))
        theirs.backward()
        other.step()
        assert it.adversary_loss is not None and not it.adversary_loss.requires_grad
        torch.testing.assert_close(it.adversary_loss, theirs.detach())
        assert set(update.terms) == {"policy", "adversary"}
    torch.testing.assert_close(numbers(it.student), numbers(student), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(numbers(disc), numbers(twin), rtol=1e-4, atol=1e-6)


def test_it_does_not_follow_its_own_value() -> None:
    """The student's loss leaves gradients at the adversary, which nobody may follow."""
    disc = awake(Discriminator(4))
    before = numbers(disc)
    it = learner(disc, weight=1.0, adversary_lr=0.0)
    grad_norm = it.step(batch()).grad_norm
    assert torch.equal(numbers(disc), before)
    student = students.mlp(SPEC, (8,))
    word, data = student(batch().obs), batch()
    (forward_kl(word, data.target) + disc(word, data.target)).mean().backward()
    want = torch.cat([p.grad.reshape(-1) for p in student.parameters() if p.grad is not None]).norm()
    torch.testing.assert_close(grad_norm, want)  # of the student's numbers alone


def test_its_learning_rate_is_the_students_by_default_and_may_follow_the_run() -> None:
    def moved(**how: Any) -> Tensor:
        disc = awake(Discriminator(4))
        before = numbers(disc)
        learner(disc, **how).step(batch(), Progress(fraction=0.5))
        return (numbers(disc) - before).abs().max()  # Adam's first step is the learning rate

    assert float(moved()) == pytest.approx(0.01, rel=1e-3)
    assert float(moved(adversary_lr=lambda p: 0.1 * p.fraction)) == pytest.approx(0.05, rel=1e-3)


def test_with_a_weight_of_zero_it_rests() -> None:
    disc = awake(Discriminator(4))
    before = numbers(disc)
    it = learner(disc, weight=lambda p: p.fraction)
    it.step(batch(), Progress(fraction=0.0))
    assert it.adversary_loss is None and torch.equal(numbers(disc), before)
    it.step(batch(), Progress(fraction=1.0))
    assert it.adversary_loss is not None and not torch.equal(numbers(disc), before)


def test_every_row_masked() -> None:
    disc = awake(Discriminator(4))
    before = numbers(disc)
    it = learner(disc)
    spoilt = Batch(batch().obs * math.nan, batch().target, mask=torch.zeros(64, dtype=torch.bool))
    assert float(it.step(spoilt).loss) == 0 and it.adversary_loss == 0
    assert torch.equal(numbers(disc), before)


def test_a_step_that_fails_leaves_nothing_behind() -> None:
    disc, data = awake(Discriminator(4)), batch()
    it, twin = learner(disc), learner(copy.deepcopy(disc))
    wrong = Batch(data.obs, said(64, 3))
    with pytest.raises(DistributionError):
        it.step([data, wrong])
    it.step(data)
    twin.step(data)
    assert it.adversary_loss is not None and twin.adversary_loss is not None
    assert torch.equal(it.adversary_loss, twin.adversary_loss)
    assert not disc._forward_hooks


def test_several_batches_and_losses_around_it() -> None:
    """It learns from the pairs that it saw: a softened target, a batch of one task."""
    disc = awake(Discriminator(4))
    sharp = on_target(disc, losses.sharpen)
    it = Learner(students.mlp(SPEC, (8,)), weighted(a=(1.0, sharp)), average=None)
    a, b = batch(), batch(seed=1)
    word = [copy.deepcopy(it.student)(x.obs) for x in (a, b)]
    sharpened = [losses.sharpen(x.target) for x in (a, b)]
    want = sum(
        (disc.adversary_loss(w, t).mean() for w, t in zip(word, sharpened, strict=True)), torch.zeros(())
    ).detach()
    it.step([a, b])
    assert it.adversary_loss is not None
    torch.testing.assert_close(it.adversary_loss, want)


def test_inside_learnt_weights_it_keeps_its_optimizer() -> None:
    disc = awake(Discriminator(4))
    outer = Uncertainty(weighted(policy=(1.0, forward_kl), adversary=(0.1, disc)))
    it = Learner(students.mlp(SPEC, (8,)), outer, lr=0.01, adversary_lr=0.0)
    before, rho = numbers(disc), numbers(outer.rho)
    it.step(batch())
    assert torch.equal(numbers(disc), before) and not torch.equal(numbers(outer.rho), rho)


def test_resumed_it_goes_on_bit_for_bit() -> None:
    def course(it: Learner, first: int, last: int) -> list[float]:
        found = []
        for i in range(first, last):
            found.append(float(it.step(batch(seed=i)).loss))
            assert it.adversary_loss is not None
            found.append(float(it.adversary_loss))
        return found

    first = learner(Discriminator(4))
    course(first, 0, 10)
    state = first.state_dict()
    later = course(first, 10, 15)
    second = learner(Discriminator(4, seed=3))
    second.load_state_dict(state)
    assert course(second, 10, 15) == later
    without = Learner(students.mlp(SPEC, (8,)), forward_kl)
    without.step(batch())
    assert "adversary" in state and "adversary" not in without.state_dict() and without.adversary_loss is None


def test_several_students_face_one_adversary_and_some_go_on() -> None:
    disc = awake(Discriminator(4))
    cohort = students.Cohort([students.mlp(SPEC, (8,), seed=i) for i in range(3)])
    it = Learner(cohort, weighted(policy=(1.0, forward_kl), adversary=(0.1, disc)), lr=0.01)
    before = numbers(disc)
    update = it.step(batch(mask=torch.arange(64) < 60))
    assert update.loss.shape == (3,) and it.adversary_loss is not None and it.adversary_loss.shape == (3,)
    assert not torch.equal(numbers(disc), before)
    less = it.kept([0, 2])
    less.step(batch())
    assert less.adversary_loss is not None and less.adversary_loss.shape == (2,)


class Fooled(Adversary):
    """A user's own, on the mean logit."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(0.1))

    def forward(self, student: Prediction, target: Prediction) -> Tensor:
        return F.softplus(-self.gain * student.dist.probs[..., 0])

    def adversary_loss(self, student: Prediction, target: Prediction) -> Tensor:
        return (self.gain - 1.0).square().expand(student.dist.logits.shape[:-1])


def test_an_adversary_of_ones_own() -> None:
    disc = Fooled()
    it = learner(disc, adversary_lr=0.05)
    for i in range(100):
        it.step(batch(seed=i))
    assert float(disc.gain.detach()) == pytest.approx(1.0, abs=0.1)


def test_the_game_alone_brings_the_students_law_to_the_teachers() -> None:
    """No other loss: of a bias-only student, what the adversary rewards is the teacher's law itself."""
    target = Prediction(Categorical(torch.tensor([0.6, 0.3, 0.1, 0.0]).clamp(min=1e-4).log().expand(64, 4)))
    student = students.mlp(SPEC, "linear")
    it = Learner(
        student, weighted(adversary=(1.0, Discriminator(4, hidden=(16,)))), lr=0.01, adversary_lr=0.01, average=0.99
    )
    obs = torch.zeros(64, 3)
    start = float(forward_kl(student(obs), target).mean().detach())
    for _ in range(400):
        it.step(Batch(obs, target))
    assert float(forward_kl(it.averaged(obs), target).mean().detach()) < 0.2 * start
