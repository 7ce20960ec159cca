"""Policy losses: hand-computed numbers, outside authorities, the ends of every knob, masked actions."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch import distributions as td

from policykd import losses
from policykd.distributions import (
    Bernoulli,
    Categorical,
    Deterministic,
    DiagGaussian,
    Distribution,
    MultiCategorical,
    TanhGaussian,
)
from policykd.errors import DistributionError, UsageError
from policykd.prediction import Prediction

INF = math.inf
EPS = [1e-6, 1e-9, 1e-12]


def say(dist: Distribution, grad: bool = False) -> Prediction:
    return Prediction(dist).map(lambda t: t.detach().clone().requires_grad_(grad))


def cat(*logits: float) -> Prediction:
    return Prediction(Categorical(torch.tensor(logits, dtype=torch.float64)))


def law(*probs: float) -> Prediction:
    return cat(*(math.log(p) if p > 0 else -INF for p in probs))


def normal(mean: float, std: float) -> Prediction:
    return Prediction(DiagGaussian(torch.tensor([mean]).double(), torch.tensor([math.log(std)]).double()))


def tanh(mean: float, std: float) -> Prediction:
    return Prediction(TanhGaussian(torch.tensor([mean]).double(), torch.tensor([math.log(std)]).double()))


def randn(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- KL and Jensen-Shannon -------------------------------------------------------------------------------------------


def test_forward_and_reverse_by_hand() -> None:
    student, teacher = law(0.75, 0.25), law(0.5, 0.5)
    forward = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    reverse = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert float(losses.forward_kl(student, teacher)) == pytest.approx(forward)
    assert float(losses.reverse_kl(student, teacher)) == pytest.approx(reverse)
    js = 0.5 * sum(a * math.log(a / b) for a, b in [(0.75, 0.625), (0.25, 0.375), (0.5, 0.625), (0.5, 0.375)])
    assert float(losses.jensen_shannon(student, teacher)) == pytest.approx(4 * js)


def test_reverse_kl_may_drop_a_mode_and_forward_kl_may_not() -> None:
    teacher, one_mode, wide = law(0.49, 0.02, 0.49), law(0.98, 0.01, 0.01), law(0.34, 0.32, 0.34)
    assert losses.forward_kl(wide, teacher) < losses.forward_kl(one_mode, teacher)
    assert losses.reverse_kl(one_mode, teacher) < losses.reverse_kl(wide, teacher)


def textbook_js(p: np.ndarray, q: np.ndarray, beta: float) -> float:
    """The formula as it is printed, from logits, in extended precision, so that it keeps digits near the ends."""
    p, q = (np.exp(x.astype(np.longdouble)) for x in (p, q))
    p, q, b = p / p.sum(), q / q.sum(), np.longdouble(beta)
    m = b * p + (1 - b) * q
    return float((b * (p * np.log(p / m)).sum() + (1 - b) * (q * np.log(q / m)).sum()) / (b * (1 - b)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("beta", [1e-6, 1e-3, 0.1, 0.3, 0.5, 0.9, 1 - 1e-3, 1 - 1e-6])
def test_jensen_shannon_is_the_textbooks(beta: float, dtype: torch.dtype) -> None:
    z, y = randn(20, 6, seed=0, scale=2), randn(20, 6, seed=1, scale=2)
    ours = losses.jensen_shannon(say(Categorical(z.to(dtype))), say(Categorical(y.to(dtype))), beta=beta)
    rows = zip(y.numpy(), z.numpy(), strict=True)
    theirs = torch.tensor([textbook_js(p, q, beta) for p, q in rows], dtype=torch.float64)
    tol = 1e-9 if dtype == torch.float64 else 2e-5
    torch.testing.assert_close(ours.double(), theirs, rtol=tol, atol=tol)


def test_jensen_shannon_of_nearly_equal_laws_keeps_its_digits() -> None:
    """In float32 the printed formula gives noise of either sign here; the truth is chi^2 / 2 at every beta."""
    z = randn(50, 5)
    d = 1e-3 * randn(50, 5, seed=1)
    student, teacher = (say(Categorical(x.float())) for x in (z, z + d))
    p = z.softmax(-1)
    half_chi2 = 0.5 * (p * (d - (p * d).sum(-1, keepdim=True)).square()).sum(-1)
    for beta in (0.1, 0.5, 0.9):
        rows = losses.jensen_shannon(student, teacher, beta=beta)
        assert (rows >= 0).all()
        torch.testing.assert_close(rows.double(), half_chi2, rtol=0.02, atol=0)


PAIRS = {
    "categorical": (Categorical(randn(9, 5, seed=0)), Categorical(randn(9, 5, seed=1))),
    "multi_categorical": (MultiCategorical(randn(9, 5), (2, 3)), MultiCategorical(randn(9, 5, seed=1), (2, 3))),
    "bernoulli": (Bernoulli(randn(9, 4)), Bernoulli(randn(9, 4, seed=1))),
    "diag_gaussian": (
        DiagGaussian(randn(9, 2), randn(9, 2, seed=2, scale=0.5)),
        DiagGaussian(randn(9, 2, seed=1), randn(9, 2, seed=3, scale=0.5)),
    ),
    "tanh_gaussian": (
        TanhGaussian(randn(9, 2), randn(9, 2, seed=2, scale=0.5)),
        TanhGaussian(randn(9, 2, seed=1), randn(9, 2, seed=3, scale=0.5)),
    ),
}


@pytest.mark.parametrize("family", PAIRS)
def test_jensen_shannon_is_continuous_at_both_ends(family: str) -> None:
    """Value and gradient: annealing beta never jumps."""
    dist, other = PAIRS[family]
    teacher = say(other)

    def value_and_slope(beta: float) -> tuple[Tensor, list[Tensor]]:
        student = say(dist, grad=True)
        found: list[Tensor] = []
        student.map(lambda t: (found.append(t), t)[1])
        rows = losses.jensen_shannon(student, teacher, beta=beta)
        return rows.detach(), list(torch.autograd.grad(rows.sum(), found))

    for end, kl in ((0.0, losses.forward_kl), (1.0, losses.reverse_kl)):
        at, slope = value_and_slope(end)
        torch.testing.assert_close(at, kl(say(dist), teacher))
        for eps in EPS:
            near, near_slope = value_and_slope(abs(end - eps))
            torch.testing.assert_close(near, at, rtol=500 * eps + 1e-9, atol=500 * eps + 1e-9)
            for a, b in zip(near_slope, slope, strict=True):
                torch.testing.assert_close(a, b, rtol=1e4 * eps + 1e-7, atol=1e4 * eps + 1e-7)


@pytest.mark.parametrize("family", PAIRS)
def test_jensen_shannon_turned_round(family: str) -> None:
    a, b = (say(d) for d in PAIRS[family])
    for beta in (0.0, 0.2, 0.5, 1.0):
        torch.testing.assert_close(
            losses.jensen_shannon(a, b, beta=beta), losses.jensen_shannon(b, a, beta=1 - beta), rtol=1e-9, atol=1e-12
        )


def test_jensen_shannon_is_bounded_in_the_middle() -> None:
    far = losses.jensen_shannon(cat(1000.0, 0.0, 0.0), cat(0.0, 0.0, 1000.0))
    assert float(far) == pytest.approx(4 * math.log(2))


@pytest.mark.parametrize("beta", [0.02, 0.3, 0.5, 0.8])
def test_geometric_jensen_shannon_against_an_integral(beta: float) -> None:
    student, teacher = normal(0.4, 0.7), normal(-0.5, 1.6)
    x = np.linspace(-25, 25, 200_001)
    q, p = (np.exp(-0.5 * ((x - m) / s) ** 2) / (s * math.sqrt(2 * math.pi)) for m, s in ((0.4, 0.7), (-0.5, 1.6)))
    with np.errstate(divide="ignore", invalid="ignore"):
        m = p**beta * q ** (1 - beta)
        m /= np.trapezoid(m, x)
        kl_p, kl_q = (np.trapezoid(np.where(a > 1e-200, a * np.log(a / m), 0), x) for a in (p, q))
    expected = (beta * kl_p + (1 - beta) * kl_q) / (beta * (1 - beta))
    assert float(losses.jensen_shannon(student, teacher, beta=beta)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("beta", [-0.1, 1.1, math.nan])
def test_beta_outside_its_range(beta: float) -> None:
    with pytest.raises(UsageError, match=r"\[loss.beta\]"):
        losses.jensen_shannon(law(0.5, 0.5), law(0.5, 0.5), beta=beta)


# --- labels, hard and soft -------------------------------------------------------------------------------------------


def test_hard_nll_is_torchs_cross_entropy() -> None:
    z, y = randn(30, 4), randn(30, 4, seed=1)
    rows = losses.hard_nll(say(Categorical(z)), say(Categorical(y)))
    torch.testing.assert_close(rows, F.cross_entropy(z, y.argmax(-1), reduction="none"))


def test_hard_nll_of_continuous_families() -> None:
    student, teacher = normal(0.5, 2.0), normal(-1.0, 0.1)
    expected = -td.Normal(0.5, 2.0).log_prob(torch.tensor(-1.0))
    assert float(losses.hard_nll(student, teacher)) == pytest.approx(float(expected))
    point = say(Deterministic(torch.tensor([-1.0]).double()))
    assert float(losses.hard_nll(student, point)) == pytest.approx(float(expected))
    squashed = td.TransformedDistribution(td.Normal(0.5, 2.0), td.TanhTransform())
    expected = -squashed.log_prob(torch.tensor(-1.0).tanh())
    assert float(losses.hard_nll(tanh(0.5, 2.0), tanh(-1.0, 0.1))) == pytest.approx(float(expected), rel=1e-5)


def test_hard_nll_of_a_saturated_teacher_keeps_its_slope() -> None:
    student = say(TanhGaussian(torch.tensor([0.0, 0.0]), torch.zeros(2)), grad=True)
    teacher = say(TanhGaussian(torch.tensor([15.0, -15.0]), torch.zeros(2)))
    losses.hard_nll(student, teacher).backward()
    torch.testing.assert_close(student.dist.mean.grad, torch.tensor([-15.0, 15.0]))


@pytest.mark.parametrize("temperature", [0.1, 1.0, 4.0])
def test_soft_cross_entropy_is_torchs_times_t_squared(temperature: float) -> None:
    z, y = randn(30, 4), randn(30, 4, seed=1)
    rows = losses.soft_cross_entropy(say(Categorical(z)), say(Categorical(y)), temperature=temperature)
    theirs = F.cross_entropy(z / temperature, (y / temperature).softmax(-1), reduction="none")
    torch.testing.assert_close(rows, temperature**2 * theirs)


def test_soft_cross_entropy_at_a_high_temperature_is_half_the_mse() -> None:
    student, teacher = say(Categorical(randn(30, 4))), say(Categorical(randn(30, 4, seed=1)))
    t = 1e3
    rows = losses.soft_cross_entropy(student, teacher, temperature=t)
    least = losses.soft_cross_entropy(teacher, teacher, temperature=t)
    torch.testing.assert_close(rows - least, 0.5 * losses.mse(student, teacher), rtol=5e-3, atol=1e-4)


@pytest.mark.parametrize("t", [1e-3, 1e-6])
def test_soft_cross_entropy_at_a_low_temperature_asks_for_no_margin(t: float) -> None:
    z, y = randn(30, 4), randn(30, 4, seed=1)
    rows = losses.soft_cross_entropy(say(Categorical(z)), say(Categorical(y)), temperature=t)
    expected = z.amax(-1) - z.gather(-1, y.argmax(-1, keepdim=True)).squeeze(-1)
    torch.testing.assert_close(rows / t, expected, rtol=1e-2, atol=20 * t)
    assert rows.max() < 10 * t


@pytest.mark.parametrize("loss", [losses.soft_cross_entropy, losses.standardised_logits])
@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_temperatures_outside_their_range(loss: losses.PairLoss, temperature: float) -> None:
    with pytest.raises(UsageError, match=r"hard_nll \[loss.temperature\]"):
        partial(loss, temperature=temperature)(cat(1.0, 2.0, 3.0), cat(1.0, 2.0, 3.0))


def test_standardised_logits_by_hand() -> None:
    student, teacher = cat(0.0, 1.0, 5.0), cat(2.0, 4.0, 3.0)
    # Population z-scores: of (2, 4, 3) with std sqrt(2/3); of (0, 1, 5) with mean 2, std sqrt(14/3).
    t = np.array([-1.0, 1.0, 0.0]) / math.sqrt(2 / 3) / 2
    s = np.array([-2.0, -1.0, 3.0]) / math.sqrt(14 / 3) / 2
    p, q = (np.exp(x) / np.exp(x).sum() for x in (t, s))
    expected = 4 * (p * np.log(p / q)).sum()
    assert float(losses.standardised_logits(student, teacher, temperature=2.0)) == pytest.approx(expected, rel=1e-6)


def test_standardised_logits_see_neither_scale_nor_shift() -> None:
    z, teacher = randn(9, 4), say(Categorical(randn(9, 4, seed=1)))
    once, again = (losses.standardised_logits(say(Categorical(x)), teacher) for x in (z, 7 * z - 3))
    torch.testing.assert_close(once, again, rtol=1e-5, atol=1e-6)


def test_standardised_logits_of_equal_logits_have_a_finite_slope() -> None:
    student = say(Categorical(torch.zeros(2, 4)), grad=True)
    losses.standardised_logits(student, say(Categorical(randn(2, 4).float()))).sum().backward()
    assert student.dist.logits.grad.isfinite().all()


@pytest.mark.parametrize("dist", [Categorical(randn(2)), MultiCategorical(randn(5), (2, 3)), Bernoulli(randn(2))])
def test_standardised_logits_refuse_two_ways(dist: Distribution) -> None:
    with pytest.raises(DistributionError, match=r"three ways or more.*\[loss.pair\]"):
        losses.standardised_logits(say(dist), say(dist))


# --- errors of logits and actions ------------------------------------------------------------------------------------


def test_mse_by_hand() -> None:
    # Centred: (-1, 0, 1) and (-2, 1, 1): differences 1, -1, 0.
    assert float(losses.mse(cat(0.0, 1.0, 2.0), cat(5.0, 8.0, 8.0))) == pytest.approx(2 / 3)
    assert float(losses.mse(normal(1.0, 3.0), normal(-1.0, 0.1))) == pytest.approx(4.0)
    assert float(losses.mse(tanh(1.0, 3.0), tanh(-1.0, 0.1))) == pytest.approx((2 * math.tanh(1.0)) ** 2)
    assert float(losses.mse(tanh(1.0, 3.0), tanh(-1.0, 0.1), space="pre_tanh")) == pytest.approx(4.0)
    coins = [say(Bernoulli(torch.tensor(x).double())) for x in ([0.0, 1.0], [2.0, 1.0])]
    assert float(losses.mse(*coins)) == pytest.approx(2.0)
    two = [say(MultiCategorical(torch.tensor(x).double(), (2, 3))) for x in ([0.0, 2, 0, 1, 2], [0.0, 0, 5, 8, 8])]
    # Factors count alike: (1 + 2 / 3) / 2.
    assert float(losses.mse(*two)) == pytest.approx((1 + 2 / 3) / 2)
    points = [say(Deterministic(torch.tensor(x).double())) for x in ([0.5, 0.0], [0.0, 0.0])]
    assert float(losses.mse(*points)) == pytest.approx(0.125)


def test_mse_leaves_the_standard_deviation_alone() -> None:
    student = say(DiagGaussian(randn(3, 2), randn(3, 2)), grad=True)
    losses.mse(student, say(DiagGaussian(randn(3, 2, seed=1), randn(3, 2)))).sum().backward()
    assert student.dist.log_std.grad is None and student.dist.mean.grad is not None


def test_huber_is_torchs() -> None:
    a, b = randn(40, 3, scale=3), randn(40, 3, seed=1, scale=3)
    for delta in (0.1, 1.0, 5.0):
        ours = losses.huber(say(Deterministic(a)), say(Deterministic(b)), delta=delta)
        torch.testing.assert_close(ours, F.huber_loss(a, b, delta=delta, reduction="none").mean(-1))


def test_hubers_ends() -> None:
    student, teacher = say(Deterministic(randn(9, 3))), say(Deterministic(randn(9, 3, seed=1)))
    wide, narrow = (losses.huber(student, teacher, delta=d) for d in (1e9, 1e-9))
    torch.testing.assert_close(wide, 0.5 * losses.mse(student, teacher))
    torch.testing.assert_close(narrow / 1e-9, (student.dist.mode() - teacher.dist.mode()).abs().mean(-1))
    torch.testing.assert_close(losses.huber(student, teacher, delta=INF), wide)
    for delta in (0.0, -1.0, math.nan):
        with pytest.raises(UsageError, match=r"\[loss.delta\]"):
            losses.huber(student, teacher, delta=delta)


def test_wasserstein_is_the_distance_of_quantiles() -> None:
    u = torch.linspace(0, 1, 200_001, dtype=torch.float64)[1:-1]
    a, b = td.Normal(1.0, 0.5).icdf(u), td.Normal(-0.3, 2.0).icdf(u)
    expected = (a - b).square().mean()
    assert float(losses.wasserstein2(normal(1.0, 0.5), normal(-0.3, 2.0))) == pytest.approx(float(expected), rel=1e-3)
    squashed = (a.tanh() - b.tanh()).square().mean()
    assert losses.wasserstein2(tanh(1.0, 0.5), tanh(-0.3, 2.0)) > squashed


def test_wasserstein_to_a_point() -> None:
    point = say(Deterministic(torch.tensor([2.0]).double()))
    assert float(losses.wasserstein2(normal(0.5, 3.0), point)) == pytest.approx(1.5**2 + 3**2)
    assert float(losses.wasserstein2(point, normal(0.5, 3.0))) == pytest.approx(1.5**2 + 3**2)
    narrow = normal(2.0, 1e-30)
    assert float(losses.wasserstein2(narrow, point)) == pytest.approx(0.0)


def test_centred_q_is_regression_on_advantages() -> None:
    q = torch.tensor([[1.0, 2.0, 6.0]]).double()
    teacher = Prediction(Categorical(torch.zeros(1, 3).double()), q=q)
    exact = say(Categorical((q - 3) / 10 + 0.7))
    assert float(losses.centred_q(exact, teacher, scale=10.0)) == pytest.approx(0.0)
    flat = say(Categorical(torch.zeros(1, 3).double()))
    assert float(losses.centred_q(flat, teacher, scale=10.0)) == pytest.approx((0.04 + 0.01 + 0.09) / 3)
    # The same teacher paid in cents: measured scale, same loss.
    cents = Prediction(teacher.dist, q=100 * q)
    torch.testing.assert_close(losses.centred_q(flat, teacher), losses.centred_q(flat, cents))
    with pytest.raises(DistributionError, match=r"\[loss.no-q\]"):
        losses.centred_q(flat, flat)
    with pytest.raises(UsageError, match=r"\[loss.scale\]"):
        losses.centred_q(flat, teacher, scale=0.0)


# --- masked actions --------------------------------------------------------------------------------------------------

PUSHES_OFF = {
    "forward_kl": losses.forward_kl,
    "reverse_kl": losses.reverse_kl,
    "jensen_shannon": losses.jensen_shannon,
    "jensen_shannon_0": partial(losses.jensen_shannon, beta=0.0),
    "jensen_shannon_1": partial(losses.jensen_shannon, beta=1.0),
    "soft_cross_entropy": losses.soft_cross_entropy,
}
LEGAL_ONLY = {"mse": losses.mse, "huber": losses.huber, "standardised_logits": losses.standardised_logits}
MASKING = PUSHES_OFF | LEGAL_ONLY
MASK = torch.tensor([True, False, True, True, False])


def masked_pair() -> tuple[Tensor, Tensor]:
    return randn(6, 5), randn(6, 5, seed=1).masked_fill(~MASK, -INF)


@pytest.mark.parametrize("name", MASKING)
def test_masked_actions(name: str) -> None:
    z, y = masked_pair()
    student, teacher = say(Categorical(z), grad=True), say(Categorical(y))
    rows = MASKING[name](student, teacher)
    assert rows.isfinite().all()
    rows.sum().backward()
    slope = student.dist.logits.grad
    assert slope.isfinite().all()
    if name in PUSHES_OFF:
        assert (slope[:, ~MASK] > 0).all()
    else:
        assert (slope[:, ~MASK] == 0).all()


@pytest.mark.parametrize("name", MASKING)
def test_a_student_under_the_same_mask_is_compared_on_legal_actions(name: str) -> None:
    z, y = masked_pair()
    full = MASKING[name](say(Categorical(z.masked_fill(~MASK, -INF))), say(Categorical(y)))
    short = MASKING[name](say(Categorical(z[:, MASK])), say(Categorical(y[:, MASK])))
    torch.testing.assert_close(full, short)


@pytest.mark.parametrize("name", ["forward_kl", "reverse_kl", "jensen_shannon"])
def test_illegal_mass_costs_its_logarithm(name: str) -> None:
    z, y = masked_pair()
    full = MASKING[name](say(Categorical(z)), say(Categorical(y)))
    short = MASKING[name](say(Categorical(z[:, MASK])), say(Categorical(y[:, MASK])))
    torch.testing.assert_close(full, short - z.softmax(-1)[:, MASK].sum(-1).log())


@pytest.mark.parametrize("name", MASKING)
def test_one_legal_action(name: str) -> None:
    y = torch.full((1, 5), -INF).double()
    y[0, 2] = 3.0
    student = say(Categorical(randn(1, 5)), grad=True)
    rows = MASKING[name](student, say(Categorical(y)))
    rows.sum().backward()
    assert rows.isfinite().all() and student.dist.logits.grad.isfinite().all()
    expected = 0.0 if name in LEGAL_ONLY else -float(student.dist.log_probs[0, 2].detach())
    assert float(rows.detach()) == pytest.approx(expected, abs=1e-9)


def test_fixed_coins() -> None:
    teacher = say(Bernoulli(torch.tensor([INF, -INF, 0.5]).double()))
    for name, loss in {k: v for k, v in MASKING.items() if k != "standardised_logits"}.items():
        student = say(Bernoulli(torch.tensor([1.0, 1.0, 0.5]).double()), grad=True)
        rows = loss(student, teacher)
        rows.backward()
        assert rows.isfinite() and student.dist.logits.grad.isfinite().all(), name
        if name in PUSHES_OFF:
            assert student.dist.logits.grad[0] < 0 < student.dist.logits.grad[1], name


@pytest.mark.parametrize("name", MASKING)
@pytest.mark.parametrize("scale", [50.0, 1e4])
def test_far_apart_in_float32(name: str, scale: float) -> None:
    student = say(Categorical(randn(20, 5, scale=scale).float()), grad=True)
    rows = MASKING[name](student, say(Categorical(randn(20, 5, seed=1, scale=scale).float())))
    rows.sum().backward()
    assert rows.isfinite().all() and student.dist.logits.grad.isfinite().all()


@pytest.mark.parametrize("beta", [0.0, 1e-6, 0.5, 1.0])
@pytest.mark.parametrize(("one", "other"), [(-20.0, 2.0), (2.0, -20.0), (-25.0, -25.0)])
def test_narrow_and_wide_gaussians_in_float32(one: float, other: float, beta: float) -> None:
    """SAC clips log_std to [-20, 2]; a narrow law's precision must not overflow on the way."""
    student = say(DiagGaussian(torch.tensor([1.0]), torch.tensor([one])), grad=True)
    rows = losses.jensen_shannon(student, say(DiagGaussian(torch.tensor([0.0]), torch.tensor([other]))), beta=beta)
    rows.backward()
    assert rows.isfinite() and rows > 0
    assert student.dist.mean.grad.isfinite() and student.dist.log_std.grad.isfinite()


@settings(derandomize=True, max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-30, 30), st.floats(-30, 30)), min_size=2, max_size=6),
    st.one_of(st.sampled_from([0.0, 1.0, 1e-9, 1 - 1e-9]), st.floats(0, 1)),
)
def test_jensen_shannon_is_a_divergence(pairs: list[tuple[float, float]], beta: float) -> None:
    student, teacher = cat(*(a for a, _ in pairs)), cat(*(b for _, b in pairs))
    js = float(losses.jensen_shannon(student, teacher, beta=beta))
    ends = max(float(losses.forward_kl(student, teacher)), float(losses.reverse_kl(student, teacher)))
    # KL is convex in its second law: each half is at most the KL to the other end.
    forward, reverse = float(losses.forward_kl(student, teacher)), float(losses.reverse_kl(student, teacher))
    rounding = 1e-6 * (1 + forward + reverse)
    assert -rounding <= js <= forward + reverse + rounding
    assert math.isfinite(js) and js <= 2 * ends + rounding
