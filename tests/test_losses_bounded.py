"""Losses that know where the environment clips, and which loss a family gets when nobody chooses."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from policykd import losses
from policykd.distributions import Categorical, Deterministic, DiagGaussian, Distribution, TanhGaussian
from policykd.errors import DistributionError
from policykd.losses.bounded import bounded_wasserstein2, shortfall
from policykd.losses.defaults import default_objective, default_policy_loss
from policykd.prediction import Batch, Prediction, Spec

LOW, HIGH = torch.tensor([-1.0]), torch.tensor([1.0])
OBS = spaces.Box(-1, 1, (3,), np.float32)


def _column(*x: float) -> torch.Tensor:
    return torch.tensor(x).unsqueeze(-1)


def test_beyond_a_bound_only_the_way_to_it_counts() -> None:
    teacher = _column(0.5, 3.0, 3.0, 3.0, -2.0, -2.0, 1.0)
    student = _column(0.7, 0.4, 1.5, -4.0, -1.5, 0.25, 1.25)
    expected = _column(0.2, -0.6, 0.0, -5.0, 0.0, 1.25, 0.0)
    assert torch.allclose(shortfall(student, teacher, LOW, HIGH), expected)


def test_the_gradient_leads_back_from_the_wrong_bound() -> None:
    # The square of clipped actions has no gradient here: that is why it is not the loss.
    student = torch.tensor([[-5.0]], requires_grad=True)
    shortfall(student, torch.tensor([[4.0]]), LOW, HIGH).square().sum().backward()
    assert student.grad is not None and float(student.grad) == pytest.approx(2 * (-5.0 - 1.0))
    clipped = torch.tensor([[-5.0]], requires_grad=True)
    (clipped.clamp(-1, 1) - 1.0).square().sum().backward()
    assert clipped.grad is not None and float(clipped.grad) == 0.0


@pytest.mark.parametrize("family", [DiagGaussian, TanhGaussian])
def test_without_bounds_it_is_the_squared_distance(family: Any) -> None:
    g = torch.Generator().manual_seed(0)
    s, t = (Prediction(family(*(torch.randn(4, 2, generator=g) for _ in range(2)))) for _ in range(2))
    free = torch.full((2,), torch.inf)
    loss = bounded_wasserstein2(s, t, low=-free, high=free)
    assert torch.allclose(loss, losses.wasserstein2(s, t), atol=1e-6)
    assert torch.allclose(bounded_wasserstein2(s, t, low=-free, high=free, scale=2.0), loss / 4, atol=1e-6)
    assert torch.equal(bounded_wasserstein2(t, t, low=LOW, high=HIGH), torch.zeros(4))


def test_by_hand() -> None:
    s = Prediction(DiagGaussian(torch.tensor([[0.5, 0.0]]), torch.tensor([[0.0, 0.0]])))
    t = Prediction(DiagGaussian(torch.tensor([[7.0, 0.5]]), torch.log(torch.tensor([[3.0, 1.0]]))))
    low, high = -torch.ones(2), torch.ones(2)
    # (1 - 0.5)^2 + 0.5^2 for the means, (3 - 1)^2 for the standard deviations.
    assert bounded_wasserstein2(s, t, low=low, high=high).tolist() == pytest.approx([0.25 + 0.25 + 4.0])


def test_a_point_mass_has_no_spread_and_other_families_are_refused() -> None:
    s, t = Prediction(Deterministic(torch.tensor([[0.5]]))), Prediction(Deterministic(torch.tensor([[2.0]])))
    assert bounded_wasserstein2(s, t, low=LOW, high=HIGH).tolist() == pytest.approx([0.25])
    with pytest.raises(DistributionError, match=r"\[loss.pair\]"):
        bounded_wasserstein2(Prediction(Categorical(torch.zeros(1, 2))), t, low=LOW, high=HIGH)


def _spec(family: Any, low: float = -2.0, high: float = 2.0) -> Spec:
    action: spaces.Space = spaces.Discrete(3) if family == "categorical" else spaces.Box(low, high, (2,), np.float32)
    return Spec(OBS, action, family)


def test_a_gaussian_is_measured_in_half_ranges_of_its_actions() -> None:
    zero = torch.zeros(1, 2)
    t = Prediction(DiagGaussian(torch.tensor([[5.0, 0.0]]), zero))
    s = Prediction(DiagGaussian(zero, zero))
    assert default_policy_loss(_spec("diag_gaussian"), t)(s, t).tolist() == pytest.approx([1.0])
    unbounded = default_policy_loss(_spec("diag_gaussian", -np.inf, np.inf), t)
    assert unbounded(s, t).tolist() == pytest.approx([25.0])


def test_q_values_are_softened_by_the_spread_of_the_sample() -> None:
    q = torch.tensor([[1.0, 2.0, 4.0], [0.0, 0.0, 3.0]])
    sample = Prediction(Categorical(q), q=q)
    small, large = (
        default_policy_loss(_spec("categorical"), Prediction(Categorical(c * q), q=c * q))(
            Prediction(Categorical(torch.zeros(2, 3))), Prediction(Categorical(c * q), q=c * q)
        )
        for c in (1.0, 1000.0)
    )
    assert torch.allclose(small, large, atol=1e-5), "the same for rewards in any unit"
    greedy = Prediction(Categorical(torch.nn.functional.one_hot(q.argmax(-1), 3) * 50.0))
    assert bool((default_policy_loss(_spec("categorical"), sample)(greedy, sample) > 0).all())


def _dists() -> dict[str, Distribution]:
    x = torch.tensor([[0.3, -0.4]])
    return {
        "categorical": Categorical(torch.tensor([[0.3, -0.4, 0.0]])),
        "diag_gaussian": DiagGaussian(x, x),
        "tanh_gaussian": TanhGaussian(x, x),
        "deterministic": Deterministic(x),
        "tanh_deterministic": Deterministic(x),
    }


@pytest.mark.parametrize("family", list(_dists()))
def test_every_family_has_a_default_that_is_zero_at_the_teacher(family: Any) -> None:
    said = Prediction(_dists()[family], value=torch.tensor([1.0]))
    batch = Batch(torch.zeros(1, 3), said)
    objective = default_objective(_spec(family), said, with_value=True, value_weight=0.5)
    terms = objective.terms(said, batch)
    assert set(terms) == {"policy", "value"} and terms["value"].weight == 0.5
    assert float(terms["policy"].rows) == pytest.approx(0.0, abs=1e-6)
    without = default_objective(_spec(family), said, with_value=False, value_weight=0.5)
    assert set(without.terms(said, batch)) == {"policy"}


def test_it_is_a_loss_like_any_other() -> None:
    loss = partial(bounded_wasserstein2, low=-torch.ones(2), high=torch.ones(2))
    said = Prediction(DiagGaussian(torch.zeros(3, 2), torch.zeros(3, 2)))
    rows = losses.weighted(policy=(1.0, loss))(said, Batch(torch.zeros(3, 1), said))["policy"]
    assert rows.shape == (3,)


@pytest.mark.parametrize("lead", [(), (3,)])
@pytest.mark.parametrize("shared", [False, True])
def test_the_written_gradient_is_that_of_the_plain_formula(lead: tuple[int, ...], shared: bool) -> None:
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> torch.Tensor:
        return 2 * torch.randn(*shape, dtype=torch.float64, generator=generator)

    mean = drawn(*lead, 6, 2).requires_grad_()
    log_std = (drawn(*lead, 1, 2) if shared else drawn(*lead, 6, 2)).requires_grad_()
    low, high, scale = torch.tensor([-1.0, -0.5]), torch.tensor([1.0, 2.0]), torch.tensor([1.0, 1.25])
    teacher, spread = drawn(6, 2), drawn(6, 2)
    student = Prediction(DiagGaussian(mean, log_std.expand_as(mean)))
    # A teacher that asks for a gradient gets the plain formula, node by node.
    targets = [Prediction(DiagGaussian(t, spread)) for t in (teacher, teacher.clone().requires_grad_())]
    fast, plain = (bounded_wasserstein2(student, t, low=low, high=high, scale=scale) for t in targets)
    assert type(fast.grad_fn).__name__ == "_SquaredErrorsBackward" != type(plain.grad_fn).__name__
    torch.testing.assert_close(fast, plain)
    noise = torch.rand(fast.shape, generator=generator, dtype=torch.float64)
    for ours, theirs in zip(
        *(torch.autograd.grad((x * noise).sum(), [mean, log_std]) for x in (fast, plain)), strict=True
    ):
        torch.testing.assert_close(ours, theirs)
