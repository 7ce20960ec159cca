"""Several teachers' words in one: by hand, against torch.distributions, masks, families, refusals."""

from __future__ import annotations

import math
import pickle
from functools import partial
from itertools import product as pairs
from typing import Any, final

import pytest
import torch
from torch import Tensor
from torch import distributions as td
from toys import CARTPOLE, Told

from policykd.distributions import (
    Bernoulli,
    Categorical,
    Deterministic,
    DiagGaussian,
    Distribution,
    MultiCategorical,
    TanhGaussian,
    map_tensors,
)
from policykd.errors import DistributionError, UsageError
from policykd.losses import calibrated, combine
from policykd.losses.targets import from_q_scaled, q_scale
from policykd.policy import Policy
from policykd.prediction import Prediction

INF = math.inf


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cat(*probs: float) -> Prediction:
    return Prediction(Categorical(torch.tensor(probs, dtype=torch.float64).log()))


def normal(mean: float, std: float, kind: type = DiagGaussian) -> Prediction:
    return Prediction(kind(torch.tensor([mean]).double(), torch.tensor([std]).double().log()))


def probs(p: Prediction) -> list[float]:
    assert isinstance(p.dist, Categorical)
    return p.dist.probs.tolist()


FAMILIES: dict[str, list[Prediction]] = {
    "categorical": [Prediction(Categorical(randn(2, 3, 5, seed=s)), value=randn(2, 3, seed=s)) for s in range(3)],
    "multi_categorical": [Prediction(MultiCategorical(randn(2, 3, 5, seed=s), (2, 3))) for s in range(3)],
    "bernoulli": [Prediction(Bernoulli(randn(2, 3, 4, seed=s))) for s in range(3)],
    "diag_gaussian": [Prediction(DiagGaussian(randn(2, 3, 2, seed=s), randn(2, 3, 2, seed=9 + s))) for s in range(3)],
    "tanh_gaussian": [Prediction(TanhGaussian(randn(2, 3, 2, seed=s), randn(2, 3, 2, seed=9 + s))) for s in range(3)],
    "deterministic": [Prediction(Deterministic(randn(2, 3, 2, seed=s))) for s in range(3)],
}
HOWS: dict[str, combine.Combine] = {
    "mean": combine.mean,
    "product": combine.product,
    "geometric": partial(combine.product, weights=[1 / 3] * 3),
    "confident": combine.confident,
}
TABLE = [pair for pair in pairs(HOWS, FAMILIES) if pair != ("confident", "deterministic")]


def same(a: Distribution, b: Distribution) -> None:
    if isinstance(a, Categorical | MultiCategorical | Bernoulli):
        # Logits are free up to a constant: what they say of actions is compared.
        torch.testing.assert_close(a.entropy(), b.entropy())
        torch.testing.assert_close(a.log_prob(b.mode()), b.log_prob(b.mode()))
        torch.testing.assert_close(a.mode(), b.mode())
        return
    for x, y in zip(vars(a).values(), vars(b).values(), strict=True):
        torch.testing.assert_close(x, y)


# --- the table: every way x every family -----------------------------------------------------------------------------


@pytest.mark.parametrize(("how", "family"), TABLE)
def test_the_family_stays_and_no_gradient_comes_back(how: str, family: str) -> None:
    said = [Prediction(map_tensors(p.dist, lambda t: t.clone().requires_grad_())) for p in FAMILIES[family]]
    word = HOWS[how](said)
    assert type(word.dist) is type(said[0].dist) and word.q is None
    for name, tensor in vars(word.dist).items():
        if isinstance(tensor, Tensor):
            assert tensor.shape == vars(said[0].dist)[name].shape
            assert tensor.isfinite().all() and not tensor.requires_grad


@pytest.mark.parametrize(("how", "family"), [t for t in TABLE if t[0] != "product"])
def test_teachers_that_agree_are_one_teacher(how: str, family: str) -> None:
    one = FAMILIES[family][0]
    same(HOWS[how]([one, one, one]).dist, one.dist)


@pytest.mark.parametrize(("how", "family"), TABLE)
def test_their_order_does_not_matter_and_rows_do_not_mix(how: str, family: str) -> None:
    said = FAMILIES[family]
    word = HOWS[how](said)
    same(HOWS[how](said[::-1]).dist, word.dist)
    same(HOWS[how]([p[1, 2] for p in said]).dist, map_tensors(word.dist, lambda t: t[1, 2]))


@pytest.mark.parametrize(("way", "family"), list(pairs(("mean", "product"), FAMILIES)))
def test_a_weight_of_one_for_a_single_teacher_is_that_teacher(way: str, family: str) -> None:
    said = FAMILIES[family]
    how = getattr(combine, way)
    same(how(said, weights=[0.0, 1.0, 0.0]).dist, said[1].dist)
    gate = torch.zeros(3, 2, 3)
    gate[2, 0], gate[0, 1] = 1.0, 1.0
    word = how(said, weights=gate).dist
    same(map_tensors(word, lambda t: t[0]), said[2][0].dist)
    same(map_tensors(word, lambda t: t[1]), said[0][1].dist)


# --- by hand ---------------------------------------------------------------------------------------------------------


def test_the_mean_by_hand() -> None:
    said = [cat(0.8, 0.2, 0.0), cat(0.2, 0.2, 0.6)]
    assert probs(combine.mean(said)) == pytest.approx([0.5, 0.2, 0.3])
    assert probs(combine.mean(said, weights=[3, 1])) == pytest.approx([0.65, 0.2, 0.15])
    assert probs(combine.mean(said, weights=[0, 0])) == pytest.approx([0.5, 0.2, 0.3])


def test_the_product_by_hand() -> None:
    said = [cat(0.8, 0.2), cat(0.5, 0.5), cat(0.25, 0.75)]
    assert probs(combine.product(said)) == pytest.approx([0.8 * 0.25 / 0.35, 0.2 * 0.75 / 0.35])
    # As a geometric mean it is as sure as its members are, times nothing.
    one = cat(0.9, 0.1)
    assert probs(combine.product([one, one], weights=[0.5, 0.5])) == pytest.approx([0.9, 0.1])
    assert probs(combine.product([one, one])) == pytest.approx([81 / 82, 1 / 82])


def test_the_mean_of_normal_laws_has_the_mixtures_moments() -> None:
    said = [normal(-1.0, 0.5), normal(2.0, 1.5), normal(0.5, 0.1)]
    mixture = td.MixtureSameFamily(
        td.Categorical(probs=torch.tensor([0.5, 0.3, 0.2]).double()),
        td.Normal(torch.tensor([-1.0, 2.0, 0.5]).double(), torch.tensor([0.5, 1.5, 0.1]).double()),
    )
    word = combine.mean(said, weights=[5, 3, 2]).dist
    assert isinstance(word, DiagGaussian)
    torch.testing.assert_close(word.mean[0], mixture.mean)
    torch.testing.assert_close(word.log_std.exp()[0], mixture.variance.sqrt())


def test_the_product_of_normal_laws_is_their_densities_product() -> None:
    said = [normal(-1.0, 0.5), normal(2.0, 1.5)]
    x = torch.linspace(-5, 5, 4001).double()
    density = sum(p.dist.log_prob(x[:, None]) for p in said).exp()
    density /= torch.trapezoid(density, x)
    word = combine.product(said).dist
    torch.testing.assert_close(word.log_prob(x[:, None]).exp(), density, atol=1e-6, rtol=1e-6)
    assert isinstance(word, DiagGaussian)
    assert float(word.mean) == pytest.approx((-1.0 * 4 + 2.0 / 2.25) / (4 + 1 / 2.25))


def test_squashed_laws_are_combined_before_tanh() -> None:
    for how in (combine.mean, combine.product):
        plain, squashed = (
            how([normal(-1.0, 0.5, kind), normal(2.0, 1.5, kind)]) for kind in (DiagGaussian, TanhGaussian)
        )
        assert isinstance(squashed.dist, TanhGaussian) and isinstance(plain.dist, DiagGaussian)
        same(squashed.dist.base, plain.dist)


def test_very_narrow_laws_stay_finite() -> None:
    said = [Prediction(DiagGaussian(torch.tensor([float(m)]), torch.tensor([-40.0]))) for m in (0, 2)]
    word = combine.product(said).dist
    assert isinstance(word, DiagGaussian) and float(word.mean) == pytest.approx(1.0)
    assert word.log_std.isfinite().all() and combine.mean(said).dist.log_std.isfinite().all()  # type: ignore[union-attr]


def test_factors_are_combined_one_by_one() -> None:
    two = [MultiCategorical(torch.tensor([0.8, 0.2, 0.1, 0.9]).log(), (2, 2)), MultiCategorical(torch.zeros(4), (2, 2))]
    word = combine.mean([Prediction(d) for d in two]).dist
    assert isinstance(word, MultiCategorical)
    assert [f.probs.tolist() for f in word.factors] == [pytest.approx([0.65, 0.35]), pytest.approx([0.3, 0.7])]
    coins = [Bernoulli(torch.logit(torch.tensor([0.9, 0.5]))), Bernoulli(torch.logit(torch.tensor([0.5, 0.1])))]
    mean = combine.mean([Prediction(d) for d in coins]).dist
    product = combine.product([Prediction(d) for d in coins]).dist
    assert isinstance(mean, Bernoulli) and mean.probs.tolist() == pytest.approx([0.7, 0.3])
    assert isinstance(product, Bernoulli) and product.probs.tolist() == pytest.approx([0.9, 0.1])


# --- masks -----------------------------------------------------------------------------------------------------------


def test_masks() -> None:
    said = [cat(0.5, 0.5, 0.0), cat(0.5, 0.0, 0.5)]
    assert probs(combine.mean(said)) == pytest.approx([0.5, 0.25, 0.25])
    assert probs(combine.product(said)) == pytest.approx([1.0, 0.0, 0.0])
    assert probs(combine.product(said, weights=[1.0, 0.0])) == pytest.approx([0.5, 0.5, 0.0])
    both = [cat(0.5, 0.5, 0.0), cat(0.1, 0.9, 0.0)]
    for how in (combine.mean, combine.product, combine.confident):
        word = how(both).dist
        assert isinstance(word, Categorical) and word.logits[2] == -INF and not word.logits.isnan().any()
    with pytest.raises(DistributionError, match=r"\[combine.empty\]"):
        combine.product([cat(1.0, 0.0), cat(0.0, 1.0)])


# --- confidence ------------------------------------------------------------------------------------------------------


def test_confidence_is_ca_mkd_on_what_was_done() -> None:
    said = [cat(0.8, 0.2), cat(0.4, 0.6), cat(0.1, 0.9)]
    action = torch.tensor(0)
    ce = [-math.log(p) for p in (0.8, 0.4, 0.1)]
    shares = [math.exp(c) / sum(map(math.exp, ce)) for c in ce]
    w = [(1 - s) / 2 for s in shares]
    assert sum(w) == pytest.approx(1.0) and max(w) <= 0.5
    want = sum(a * b for a, b in zip(w, (0.8, 0.4, 0.1), strict=True))
    assert probs(combine.confident(said, action=action))[0] == pytest.approx(want)


def test_confidence_without_a_label_goes_by_entropy() -> None:
    sure, unsure = cat(0.99, 0.01), cat(0.5, 0.5)
    two = probs(combine.confident([sure, unsure]))[0]
    h = [0.056, math.log(2)]
    w = math.exp(-h[0]) / sum(math.exp(-x) for x in h)  # of two teachers, 1 - softmax(CE) is softmax(-CE)
    assert two == pytest.approx(w * 0.99 + (1 - w) * 0.5, abs=1e-3)
    assert probs(combine.confident([unsure])) == pytest.approx([0.5, 0.5])
    impossible = probs(combine.confident([cat(1.0, 0.0), cat(0.3, 0.7)], action=torch.tensor(1)))
    assert impossible == pytest.approx([0.3, 0.7])
    with pytest.raises(DistributionError, match=r"\[combine.confidence\]"):
        combine.confident(FAMILIES["deterministic"])


# --- values ----------------------------------------------------------------------------------------------------------


def valued(value: list[float], *p: float) -> Prediction:
    return Prediction(Categorical(torch.tensor([p] * len(value)).double().log()), value=torch.tensor(value).double())


def test_best_by_value_chooses_row_by_row() -> None:
    said = [valued([1.0, -5.0, 2.0], 0.9, 0.1), valued([0.0, -4.0, 2.0], 0.2, 0.8)]
    word = combine.best_by_value(said, gammas=[0.99, 0.99])
    assert [round(p[0], 6) for p in probs(word)] == [0.9, 0.2, 0.9]  # type: ignore[index]
    assert word.value is not None and word.value.tolist() == [1.0, -4.0, 2.0]


@pytest.mark.parametrize("gammas", [[0.99, 0.999], [None, None], [0.99, None], [0.99]])
def test_values_of_unequal_or_unknown_discounts_are_not_compared(gammas: list[float | None]) -> None:
    with pytest.raises(DistributionError, match=r"\[combine.gamma\]"):
        combine.best_by_value([valued([1.0], 0.5, 0.5)] * 2, gammas=gammas)


def test_values_are_averaged_where_all_have_one() -> None:
    said = [valued([1.0, 2.0], 0.5, 0.5), valued([3.0, 6.0], 0.5, 0.5)]
    for how in (combine.mean, combine.product):
        word = how(said, weights=[1, 3])
        assert word.value is not None and word.value.tolist() == [2.5, 5.0]
    assert combine.mean([*said, Prediction(said[0].dist)]).value is None
    with pytest.raises(DistributionError, match=r"1.*\[combine.no-value\]"):
        combine.best_by_value([said[0], Prediction(said[0].dist)], gammas=[0.9, 0.9])


# --- action values ---------------------------------------------------------------------------------------------------


@final
class Valuer(Policy):
    """A DQN teacher: action values that are the first two numbers of an observation, in a unit."""

    def __init__(self, unit: float) -> None:
        super().__init__(CARTPOLE)
        self.unit = unit

    def forward(self, obs: Any, state: Any = None, start: Any = None, *, values: bool = True) -> Prediction:
        q = self.unit * obs[..., :2]
        return Prediction(Categorical(q), value=q.amax(-1), q=q)

    @property
    def acting_parameters(self) -> int:
        return 0


@pytest.mark.parametrize("unit", [1e-2, 1.0, 1e4])
def test_action_values_become_laws_with_a_frozen_scale(unit: float) -> None:
    obs = randn(500, 4)
    teachers = [Told(CARTPOLE, lambda obs: obs[..., 2:]), Valuer(unit)]
    how = calibrated(combine.mean, teachers, obs)
    said = [t.label(obs) for t in teachers]
    law = from_q_scaled(said[1], tau=0.3, scale=q_scale(said[1]))
    want = (said[0].dist.probs + law.dist.probs) / 2  # type: ignore[union-attr]
    word = how(said).dist
    assert isinstance(word, Categorical)
    torch.testing.assert_close(word.probs, want)
    alone = how([p[:1] for p in said]).dist  # a row by itself hears the same
    assert isinstance(alone, Categorical)
    torch.testing.assert_close(alone.probs, want[:1])
    again = pickle.loads(pickle.dumps(how))(said).dist  # evaluation may send policies to other processes
    torch.testing.assert_close(again.probs, want)


def test_the_unit_of_the_reward_does_not_matter() -> None:
    obs = randn(500, 4)
    words = []
    for unit in (1e-2, 1e4):
        teachers = [Told(CARTPOLE, lambda obs: obs[..., 2:]), Valuer(unit)]
        words.append(
            calibrated(combine.product, teachers, obs)([t.label(obs) for t in teachers]).dist.log_prob(obs[:, 0] > 0)
        )
    torch.testing.assert_close(*words)


def test_knobs_pass_through_calibrated() -> None:
    obs = randn(50, 4)
    teachers = [Told(CARTPOLE, lambda obs: obs[..., 2:]), Valuer(1.0)]
    how = calibrated(combine.mean, teachers, obs)
    said = [t.label(obs) for t in teachers]
    same(how(said, weights=[1.0, 0.0]).dist, said[0].dist)  # type: ignore[call-arg]


# --- refusals --------------------------------------------------------------------------------------------------------


def test_refusals() -> None:
    one, q = cat(0.5, 0.5), Prediction(Categorical(torch.zeros(2)), q=torch.zeros(2))
    with pytest.raises(UsageError, match=r"\[combine.none\]"):
        combine.mean([])
    with pytest.raises(DistributionError, match=r"2 actions beside .*3 actions.*\[combine.family\]"):
        combine.mean([one, cat(0.2, 0.3, 0.5)])
    with pytest.raises(DistributionError, match=r"Categorical.*DiagGaussian.*\[combine.family\]"):
        combine.product([one, normal(0.0, 1.0)])
    with pytest.raises(DistributionError, match=r"teacher 1.*calibrated.*\[combine.scale\]"):
        combine.mean([one, q])
    for weights in ([1.0], [1.0, -1.0], torch.ones(2, 7), []):
        with pytest.raises(UsageError, match=r"\[combine.weights\]"):
            combine.mean([one, one], weights=weights)
