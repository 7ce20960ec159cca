"""Distributions against torch.distributions, numeric integrals, Monte Carlo and finite differences."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch import distributions as td

from policykd.distributions import (
    Bernoulli,
    Categorical,
    Deterministic,
    DiagGaussian,
    Distribution,
    MultiCategorical,
    TanhGaussian,
    kl,
    leading,
    map_tensors,
    masked,
    weighted_terms,
)
from policykd.errors import DistributionError

INF = math.inf
SHAPES = [(), (3,), (2, 3)]
NVEC = (3, 2, 4)


def randn(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=g, dtype=torch.float64)


def build(family: str, b: tuple[int, ...] = (2, 3), seed: int = 0, scale: float = 1.5) -> Distribution:
    match family:
        case "categorical":
            return Categorical(randn(*b, 5, seed=seed, scale=scale))
        case "multi_categorical":
            return MultiCategorical(randn(*b, sum(NVEC), seed=seed, scale=scale), NVEC)
        case "bernoulli":
            return Bernoulli(randn(*b, 4, seed=seed, scale=scale))
        case "diag_gaussian":
            return DiagGaussian(randn(*b, 3, seed=seed, scale=scale), randn(*b, 3, seed=seed + 100, scale=0.5))
        case "tanh_gaussian":
            return TanhGaussian(randn(*b, 3, seed=seed, scale=0.7), randn(*b, 3, seed=seed + 100, scale=0.5))
    return Deterministic(randn(*b, 3, seed=seed).tanh())


DENSE = ["categorical", "multi_categorical", "bernoulli", "diag_gaussian", "tanh_gaussian"]
ALL = [*DENSE, "deterministic"]


def authority(dist: Distribution) -> list[td.Distribution]:
    """The same law in torch.distributions: one distribution per independent factor, each already summed over dims."""
    match dist:
        case Categorical(logits=logits):
            return [td.Categorical(logits=logits)]
        case MultiCategorical(logits=logits, nvec=nvec):
            return [td.Categorical(logits=part) for part in logits.split(nvec, -1)]
        case Bernoulli(logits=logits):
            return [td.Independent(td.Bernoulli(logits=logits), 1)]
        case DiagGaussian(mean=mean, log_std=log_std):
            return [td.Independent(td.Normal(mean, log_std.exp()), 1)]
        case TanhGaussian(mean=mean, log_std=log_std):
            base = td.Normal(mean, log_std.exp())
            return [td.Independent(td.TransformedDistribution(base, td.TanhTransform(cache_size=1)), 1)]
    raise AssertionError(dist)


def columns(dist: Distribution, action: Tensor) -> list[Tensor]:
    return list(action.unbind(-1)) if isinstance(dist, MultiCategorical) else [action]


# --- against torch.distributions -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("b", SHAPES)
@pytest.mark.parametrize("family", DENSE)
def test_log_prob_is_torchs(family: str, b: tuple[int, ...], dtype: torch.dtype) -> None:
    dist = map_tensors(build(family, b), lambda t: t.to(dtype))
    action = dist.sample(torch.Generator().manual_seed(1))
    theirs = sum(d.log_prob(a) for d, a in zip(authority(dist), columns(dist, action), strict=True))
    ours = dist.log_prob(action)
    assert ours.shape == b == leading(dist)
    # float32's atanh near the ends of [-1, 1] costs both of us digits.
    tol = 1e-6 if dtype == torch.float64 else (1e-4 if family == "tanh_gaussian" else 2e-6)
    torch.testing.assert_close(ours, theirs, rtol=tol, atol=tol)


@pytest.mark.parametrize("b", SHAPES)
@pytest.mark.parametrize("family", ["categorical", "multi_categorical", "bernoulli", "diag_gaussian"])
def test_entropy_is_torchs(family: str, b: tuple[int, ...]) -> None:
    dist = build(family, b)
    theirs = sum(d.entropy() for d in authority(dist))
    assert dist.entropy().shape == b
    torch.testing.assert_close(dist.entropy(), theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("b", SHAPES)
@pytest.mark.parametrize("family", DENSE)
def test_kl_is_torchs(family: str, b: tuple[int, ...], dtype: torch.dtype) -> None:
    p, q = (map_tensors(build(family, b, seed), lambda t: t.to(dtype)) for seed in (0, 1))
    theirs = sum(
        # torch compares two laws behind one transform by comparing what is before it, as we do.
        td.kl_divergence(x.base_dist.base_dist, y.base_dist.base_dist).sum(-1)
        if family == "tanh_gaussian"
        else td.kl_divergence(x, y)
        for x, y in zip(authority(p), authority(q), strict=True)
    )
    assert kl(p, q).shape == b
    tol = 1e-6 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(kl(p, q), theirs, rtol=tol, atol=1e-6)


@pytest.mark.parametrize("family", ["categorical", "multi_categorical", "bernoulli"])
def test_discrete_laws_sum_to_one(family: str) -> None:
    dist = build(family, ())
    sizes = {"categorical": (5,), "multi_categorical": NVEC, "bernoulli": (2,) * 4}[family]
    every = torch.cartesian_prod(*(torch.arange(n) for n in sizes))
    total = torch.stack([dist.log_prob(a).exp() for a in every]).sum()
    torch.testing.assert_close(total, torch.ones((), dtype=torch.float64))


def test_tanh_density_integrates_to_one() -> None:
    dist = TanhGaussian(torch.tensor([0.4]).double(), torch.tensor([-0.3]).double())
    grid = torch.linspace(-1, 1, 400_001, dtype=torch.float64)[1:-1]
    total = torch.trapezoid(dist.log_prob(grid.unsqueeze(-1)).exp(), grid)
    assert float(total) == pytest.approx(1.0, abs=1e-6)


# --- hand-computed ---------------------------------------------------------------------------------------------------


def test_hand_computed_numbers() -> None:
    half = Categorical(torch.tensor([0.0, 0.0]))
    three_to_one = Categorical(torch.tensor([math.log(3.0), 0.0]))
    assert float(half.entropy()) == pytest.approx(math.log(2))
    # KL = 0.5 log(0.5 / 0.75) + 0.5 log(0.5 / 0.25) = 0.5 log(4 / 3)
    assert float(kl(half, three_to_one)) == pytest.approx(0.5 * math.log(4 / 3), abs=1e-6)
    assert float(three_to_one.log_prob(torch.tensor(1))) == pytest.approx(math.log(0.25))
    # KL(N(1, 1) || N(0, 2^2)) = log 2 + (1 + 1) / 8 - 1 / 2
    p = DiagGaussian(torch.tensor([1.0]), torch.tensor([0.0]))
    q = DiagGaussian(torch.tensor([0.0]), torch.tensor([math.log(2.0)]))
    assert float(kl(p, q)) == pytest.approx(math.log(2) - 0.25, abs=1e-6)
    coins = Bernoulli(torch.tensor([0.0, math.log(3.0)]))
    assert float(coins.log_prob(torch.tensor([1.0, 0.0]))) == pytest.approx(math.log(0.5 * 0.25))


def test_modes() -> None:
    assert int(Categorical(torch.tensor([0.0, 2.0, 2.0])).mode()) == 1
    multi = MultiCategorical(torch.tensor([0.0, 1.0, 3.0, 5.0, 4.0]), (2, 3))
    assert multi.mode().tolist() == [1, 1]
    assert Bernoulli(torch.tensor([-1.0, 0.0, 1.0])).mode().tolist() == [0, 0, 1]
    mean = torch.tensor([0.3, -2.0])
    assert torch.equal(DiagGaussian(mean, mean).mode(), mean)
    assert torch.equal(TanhGaussian(mean, mean).mode(), mean.tanh())
    assert torch.equal(Deterministic(mean).mode(), mean)


# --- sampling --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ALL)
def test_samples_repeat_with_the_seed_and_carry_no_gradient(family: str) -> None:
    dist = map_tensors(build(family), lambda t: t.requires_grad_())
    before = torch.random.get_rng_state()
    one, two, other = (dist.sample(torch.Generator().manual_seed(s)) for s in (7, 7, 8))
    assert torch.equal(one, two)
    assert family == "deterministic" or not torch.equal(one, other)
    assert not one.requires_grad
    assert one.shape == dist.mode().shape
    assert torch.equal(torch.random.get_rng_state(), before), "the global generator was touched"


N = 40_000


@pytest.mark.parametrize("family", DENSE)
def test_sample_statistics(family: str) -> None:
    """Mean of log p over samples is minus the entropy, and per-dimension means are those of the law, within 5 sigma."""
    one = build(family, (), seed=3)
    many = map_tensors(one, lambda t: t.expand(N, *t.shape).clone())
    action = many.sample(torch.Generator().manual_seed(0))
    log_p = many.log_prob(action)
    error = 5 * log_p.std() / math.sqrt(N)
    assert abs(log_p.mean() + one.entropy()) < error
    match one:
        case Categorical() | MultiCategorical():
            parts = one.factors if isinstance(one, MultiCategorical) else (one,)
            for factor, drawn in zip(parts, columns(one, action), strict=True):
                share = torch.bincount(drawn, minlength=factor.logits.shape[-1]) / N
                assert ((share - factor.probs).abs() < 5 * (factor.probs / N).sqrt()).all()
        case Bernoulli():
            assert ((action.mean(0) - one.probs).abs() < 5 * 0.5 / math.sqrt(N)).all()
        case DiagGaussian() | TanhGaussian():
            before = action.atanh() if isinstance(one, TanhGaussian) else action
            std = one.log_std.exp()
            assert ((before.mean(0) - one.mean).abs() < 5 * std / math.sqrt(N)).all()
            assert ((before.std(0) / std - 1).abs() < 5 / math.sqrt(2 * N)).all()


@pytest.mark.parametrize("family", ALL)
def test_no_rows_are_no_trouble(family: str) -> None:
    dist = build(family, (0,))
    assert leading(dist) == (0,)
    assert dist.mode().shape[0] == dist.entropy().shape[0] == dist.sample().shape[0] == 0


# --- gradients -------------------------------------------------------------------------------------------------------


def tensors(dist: Distribution) -> list[Tensor]:
    return [v for v in vars(dist).values() if isinstance(v, Tensor)]


def rebuilt(like: Distribution, values: tuple[Tensor, ...]) -> Distribution:
    values_left = iter(values)
    return map_tensors(like, lambda _: next(values_left))


def gradcheck(f: Callable[..., Tensor], inputs: list[Tensor]) -> bool:
    return torch.autograd.gradcheck(f, [x.detach().clone().requires_grad_() for x in inputs])


@pytest.mark.parametrize("family", DENSE)
def test_gradients_against_finite_differences(family: str) -> None:
    p, q = build(family, (2,), 0), build(family, (2,), 1)
    action = q.sample(torch.Generator().manual_seed(0))
    n = len(tensors(p))
    assert gradcheck(lambda *v: rebuilt(p, v).entropy(), tensors(p))
    assert gradcheck(lambda *v: rebuilt(p, v).log_prob(action), tensors(p))
    assert gradcheck(lambda *v: kl(rebuilt(p, v[:n]), rebuilt(q, v[n:])), tensors(p) + tensors(q))


@pytest.mark.parametrize("family", DENSE)
def test_a_look_without_gradient_does_not_cut_the_graph(family: str) -> None:
    p, q = map_tensors(build(family), lambda t: t.requires_grad_()), build(family, seed=1)
    with torch.no_grad():
        p.sample(), p.entropy(), kl(p, q)
    assert kl(q, p).requires_grad and p.entropy().requires_grad


def test_gradients_with_masked_actions_are_finite_and_right() -> None:
    """A masked logit is as good as absent: same values and gradients as the law over the legal actions alone."""
    p, q = randn(4, 5, seed=0), randn(4, 5, seed=1)
    mask = torch.tensor([True, False, True, True, False])
    for f in (kl, lambda a, b: kl(b, a), lambda a, b: a.entropy() + b.entropy()):
        full = [x.clone().requires_grad_() for x in (p, q)]
        short = [x[:, mask].clone().requires_grad_() for x in (p, q)]
        a = f(*(masked(Categorical(x), mask) for x in full))
        b = f(*(Categorical(x) for x in short))
        torch.testing.assert_close(a, b)
        a.sum().backward()
        b.sum().backward()
        for x, y in zip(full, short, strict=True):
            torch.testing.assert_close(x.grad[:, mask], y.grad)
            assert torch.equal(x.grad[:, ~mask], torch.zeros_like(x.grad[:, ~mask]))


# --- masks -----------------------------------------------------------------------------------------------------------


def test_masked_actions_are_never_chosen() -> None:
    mask = torch.tensor([False, True, False, True, True])
    dist = masked(Categorical(randn(1000, 5)), mask)
    assert set(dist.sample(torch.Generator().manual_seed(0)).tolist()) <= {1, 3, 4}
    assert set(dist.mode().tolist()) <= {1, 3, 4}
    assert float(dist.log_prob(torch.zeros(1000)).max()) == -INF


def test_a_mask_per_factor() -> None:
    mask = torch.tensor([True, False, True, True, False, True, True, False, True])
    dist = masked(build("multi_categorical", (500,)), mask)
    drawn = dist.sample(torch.Generator().manual_seed(0))
    assert [sorted(set(col.tolist())) for col in drawn.unbind(-1)] == [[0, 2], [0], [0, 1, 3]]
    assert dist.entropy().isfinite().all()
    torch.testing.assert_close(kl(dist, dist), torch.zeros(500, dtype=torch.float64))


def test_one_legal_action_has_no_entropy() -> None:
    dist = masked(Categorical(randn(3)), torch.tensor([False, True, False]))
    assert float(dist.entropy()) == 0.0
    assert float(dist.log_prob(torch.tensor(1))) == 0.0


def test_kl_is_infinite_where_the_second_law_forbids_what_the_first_does() -> None:
    free, bound = Categorical(torch.zeros(3)), masked(Categorical(torch.zeros(3)), torch.tensor([True, True, False]))
    assert float(kl(free, bound)) == INF
    assert float(kl(bound, free)) == pytest.approx(math.log(3 / 2))


@pytest.mark.parametrize("family", ["bernoulli", "diag_gaussian", "tanh_gaussian", "deterministic"])
def test_families_without_masks_say_so(family: str) -> None:
    dist = build(family, ())
    with pytest.raises(DistributionError, match=r"leave action_masks out.*\[dist.mask\]"):
        masked(dist, torch.ones(3, dtype=torch.bool))


@pytest.mark.parametrize("family", ["categorical", "multi_categorical"])
def test_bad_masks_are_refused(family: str) -> None:
    dist = build(family, (2,))
    width = dist.logits.shape[-1]
    with pytest.raises(DistributionError, match=r"\[dist.mask\]"):
        masked(dist, torch.ones(2, width + 1, dtype=torch.bool))
    empty = torch.ones(2, width, dtype=torch.bool)
    empty[1, :5] = False  # a whole Categorical, or the first factor of the MultiCategorical
    with pytest.raises(DistributionError, match=r"\[dist.mask-empty\]"):
        masked(dist, empty)


# --- ends ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1e3, 1e6])
@pytest.mark.parametrize("family", ["categorical", "multi_categorical", "bernoulli"])
def test_huge_logits_stay_finite(family: str, scale: float) -> None:
    p = map_tensors(build(family, (8,), scale=scale), lambda t: t.float().requires_grad_())
    q = map_tensors(build(family, (8,), 1, scale=scale), lambda t: t.float().requires_grad_())
    loss = kl(p, q) + p.entropy() + p.log_prob(q.mode())
    assert loss.isfinite().all()
    loss.sum().backward()
    assert p.logits.grad.isfinite().all() and q.logits.grad.isfinite().all()


def test_fixed_coins() -> None:
    p = Bernoulli(torch.tensor([INF, -INF, 0.0]).double().requires_grad_())
    q = Bernoulli(torch.tensor([0.0, 0.0, 0.0]).double().requires_grad_())
    assert p.entropy().item() == pytest.approx(math.log(2))
    assert kl(p, q).item() == pytest.approx(2 * math.log(2))
    assert kl(q, p).item() == INF
    assert kl(p, p).item() == 0.0
    assert p.sample().tolist()[:2] == [1.0, 0.0]
    assert p.log_prob(torch.tensor([1.0, 0.0, 1.0])).item() == pytest.approx(-math.log(2))
    (kl(p, q) + p.entropy()).backward()
    assert p.logits.grad.isfinite().all() and q.logits.grad.isfinite().all()


def test_nan_is_never_hidden() -> None:
    """The guard for 0 x inf must not turn a broken network into a perfect score."""
    for family in DENSE:
        good = build(family, (2,))
        bad = map_tensors(good, lambda t: t * math.nan)
        assert bad.entropy().isnan().all(), family
        assert kl(bad, good).isnan().all() and kl(good, bad).isnan().all(), family
    assert weighted_terms(torch.tensor([0.0, math.nan]), torch.tensor([-INF, 1.0])).isnan().tolist() == [False, True]


def test_tanh_log_prob_at_the_ends() -> None:
    dist = TanhGaussian(torch.tensor([0.0, 20.0]), torch.tensor([0.0, 0.0]))
    for action in ([1.0, 1.0], [-1.0, -1.0], [-1.0, 1.0]):
        assert dist.log_prob(torch.tensor(action)).isfinite()
    # Far out, log(1 - tanh^2 u) = log 4 - 2 |u|: a difference of rounded squares would give -inf.
    u = torch.tensor([30.0, -30.0])
    normal = -0.5 * ((u - dist.mean) ** 2) - 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(dist.log_prob_before_tanh(u), (normal - math.log(4) + 60).sum(), rtol=1e-6, atol=0)


def test_tanh_log_prob_agrees_on_both_sides_of_tanh() -> None:
    dist, u = build("tanh_gaussian", (5,)), randn(5, 3, seed=9)
    torch.testing.assert_close(dist.log_prob(u.tanh()), dist.log_prob_before_tanh(u))


# --- TanhGaussian's entropy ------------------------------------------------------------------------------------------


def integral(mean: float, std: float) -> float:
    """The entropy by a dense sum over 12 standard deviations, in the variable before tanh."""
    z = np.linspace(-12, 12, 20_001)
    u = mean + std * z
    fold = 2 * (math.log(2) - u - np.logaddexp(0, -2 * u))
    density = np.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    return 0.5 * math.log(2 * math.pi * math.e) + math.log(std) + float(np.trapezoid(density * fold, z))


# (std, error that the source states for it)
QUADRATURE = [(0.05, 1e-12), (0.3, 1e-12), (1.0, 3e-11), (2.0, 3e-6), (3.0, 1.7e-4), (4.0, 1.3e-3), (math.e**2, 0.021)]


@pytest.mark.parametrize(("std", "stated"), QUADRATURE)
def test_tanh_entropy_against_a_dense_integral(std: float, stated: float) -> None:
    means = torch.linspace(-6, 6, 61, dtype=torch.float64).unsqueeze(-1)
    ours = TanhGaussian(means, torch.full_like(means, math.log(std))).entropy()
    theirs = torch.tensor([integral(float(m), std) for m in means], dtype=torch.float64)
    assert float((ours - theirs).abs().max()) <= 1.1 * stated


def test_tanh_entropy_in_float32() -> None:
    dist = build("tanh_gaussian", (50,))
    single = map_tensors(dist, lambda t: t.float())
    torch.testing.assert_close(single.entropy().double(), dist.entropy(), rtol=1e-5, atol=1e-5)


# --- pairs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("second", ALL)
@pytest.mark.parametrize("first", ALL)
def test_kl_takes_a_family_with_itself_only(first: str, second: str) -> None:
    p, q = build(first), build(second, seed=1)
    if first == second != "deterministic":
        assert (kl(p, q) > 0).all()
        torch.testing.assert_close(kl(p, p), torch.zeros(2, 3, dtype=torch.float64))
        return
    with pytest.raises(DistributionError) as caught:
        kl(p, q)
    assert type(p).__name__ in str(caught.value) and type(q).__name__ in str(caught.value)
    assert str(caught.value).endswith("[dist.kl-pair]") and caught.value.fix


@pytest.mark.parametrize("family", DENSE)
def test_kl_refuses_other_widths_instead_of_broadcasting(family: str) -> None:
    wide = build(family, (2,))
    narrow = (
        MultiCategorical(wide.logits[..., :5], (3, 2))
        if family == "multi_categorical"
        else map_tensors(wide, lambda t: t[..., :1])
    )
    with pytest.raises(DistributionError, match=r"\[dist.kl-pair\]"):
        kl(wide, narrow)


def test_kl_refuses_other_factors_of_the_same_total() -> None:
    logits = randn(2, 9)
    with pytest.raises(DistributionError, match=r"\[dist.kl-pair\]"):
        kl(MultiCategorical(logits, (3, 2, 4)), MultiCategorical(logits, (4, 2, 3)))


@pytest.mark.parametrize("family", DENSE)
def test_leading_dimensions_broadcast(family: str) -> None:
    """Stacked students against one teacher: [5, 2, 3] with [2, 3]."""
    students, teacher = build(family, (5, 2, 3)), build(family, (2, 3), 1)
    assert kl(teacher, students).shape == (5, 2, 3)
    assert students.log_prob(teacher.mode()).shape == (5, 2, 3)
    one = map_tensors(students, lambda t: t[4])
    torch.testing.assert_close(kl(teacher, students)[4], kl(teacher, one))
    torch.testing.assert_close(students.log_prob(teacher.mode())[4], one.log_prob(teacher.mode()))


def test_a_point_mass_has_no_density() -> None:
    dist = build("deterministic")
    assert (dist.entropy() == -INF).all()
    with pytest.raises(DistributionError, match=r"\[dist.no-density\]"):
        dist.log_prob(dist.mode())


# --- records ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ALL)
def test_map_tensors_keeps_the_family(family: str) -> None:
    dist = build(family)
    row = map_tensors(dist, lambda t: t[1])
    assert type(row) is type(dist)
    assert leading(row) == (3,)
    torch.testing.assert_close(row.entropy(), dist.entropy()[1])
    assert torch.equal(row.mode(), dist.mode()[1])
    if isinstance(dist, MultiCategorical):
        assert row.nvec == NVEC


@pytest.mark.parametrize("family", ALL)
def test_distributions_are_frozen(family: str) -> None:
    dist = build(family)
    with pytest.raises(AttributeError):
        setattr(dist, next(iter(dist.__dataclass_fields__)), torch.zeros(1))


# --- properties ------------------------------------------------------------------------------------------------------

logits = st.lists(st.floats(-50, 50, width=32), min_size=2, max_size=6)


@settings(derandomize=True, max_examples=60, deadline=None)
@given(logits, logits, st.floats(-100, 100))
def test_properties_of_categoricals(a: list[float], b: list[float], shift: float) -> None:
    n = min(len(a), len(b))
    x, y = torch.tensor(a[:n]).double(), torch.tensor(b[:n]).double()
    p, q = Categorical(x), Categorical(y)
    assert -1e-9 <= float(p.entropy()) <= math.log(n) + 1e-9
    assert float(kl(p, q)) >= -1e-9
    torch.testing.assert_close(kl(Categorical(x + shift), q), kl(p, q), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(p.probs.sum(-1), torch.ones((), dtype=torch.float64))


@settings(derandomize=True, max_examples=60, deadline=None)
@given(st.floats(-5, 5), st.floats(-3, 2), st.floats(-5, 5), st.floats(-3, 2))
def test_properties_of_gaussians(m: float, s: float, n: float, r: float) -> None:
    p, q = (DiagGaussian(torch.tensor([x]).double(), torch.tensor([y]).double()) for x, y in ((m, s), (n, r)))
    assert float(kl(p, q)) >= -1e-9
    tanh_p, tanh_q = TanhGaussian(p.mean, p.log_std), TanhGaussian(q.mean, q.log_std)
    assert torch.equal(kl(tanh_p, tanh_q), kl(p, q))
    # Squashing into (-1, 1) leaves at most log 2 nats a dimension.
    assert float(tanh_p.entropy()) <= math.log(2) + 0.03
