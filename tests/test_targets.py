"""Targets at loss time: temperatures and their ends, Q-values in any reward unit, smoothing, row weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor

from policykd import losses
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
from policykd.losses import targets
from policykd.prediction import Batch, Prediction

INF = math.inf


def randn(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


DISCRETE: dict[str, Distribution] = {
    "categorical": Categorical(randn(2, 3, 5)),
    "multi_categorical": MultiCategorical(randn(2, 3, 5), (2, 3)),
    "bernoulli": Bernoulli(randn(2, 3, 4)),
}
CONTINUOUS: dict[str, Distribution] = {
    "diag_gaussian": DiagGaussian(randn(2, 3, 2), randn(2, 3, 2)),
    "tanh_gaussian": TanhGaussian(randn(2, 3, 2), randn(2, 3, 2)),
    "deterministic": Deterministic(randn(2, 3, 2)),
}
TRANSFORMS: dict[str, Callable[[Prediction], Prediction]] = {
    "soften": partial(targets.soften, temperature=2.0),
    "soften_0": partial(targets.soften, temperature=0.0),
    "sharpen": targets.sharpen,
    "smooth": partial(targets.smooth, eps=0.1),
    "standardise": targets.standardise,
}
FROM_Q: dict[str, Callable[[Prediction], Prediction]] = {
    "from_q": targets.from_q,
    "from_q_scaled": targets.from_q_scaled,
}
WEIGHTS: dict[str, Callable[[Prediction], Tensor]] = {
    "confidence": partial(targets.confidence_weight, threshold=0.5),
    "gap": targets.gap_weight,
    "advantage": targets.advantage_weight,
}


def cat(*logits: float, q: tuple[float, ...] | None = None) -> Prediction:
    return Prediction(
        Categorical(torch.tensor(logits, dtype=torch.float64)), q=None if q is None else torch.tensor(q).double()
    )


def probs(prediction: Prediction) -> list[float]:
    assert isinstance(prediction.dist, Categorical)
    return prediction.dist.probs.tolist()


# --- the table -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", DISCRETE)
@pytest.mark.parametrize("name", TRANSFORMS)
def test_the_family_stays_and_no_gradient_comes_back(name: str, family: str) -> None:
    rest = {"value": randn(2, 3), "features": {"h": randn(2, 3, 7)}}
    target = Prediction(map_tensors(DISCRETE[family], lambda t: t.clone().requires_grad_()), **rest)
    after = TRANSFORMS[name](target)
    assert type(after.dist) is type(target.dist)
    assert after.value is target.value and after.features is target.features
    assert after.dist.logits.shape == target.dist.logits.shape
    assert not after.dist.logits.requires_grad
    torch.testing.assert_close(after.dist.mode(), target.dist.mode())
    assert after.dist.entropy().isfinite().all()


@pytest.mark.parametrize("family", CONTINUOUS)
@pytest.mark.parametrize("name", [*TRANSFORMS, "confidence", "gap"])
def test_continuous_families_are_refused(name: str, family: str) -> None:
    with pytest.raises(DistributionError, match=rf"{type(CONTINUOUS[family]).__name__}.*\[target.discrete\]"):
        (TRANSFORMS | WEIGHTS)[name](Prediction(CONTINUOUS[family]))


@pytest.mark.parametrize("name", [*FROM_Q, "advantage", "q_scale"])
def test_targets_without_values_are_refused(name: str) -> None:
    with pytest.raises(DistributionError, match=r"soften.*\[loss.no-q\]"):
        (FROM_Q | WEIGHTS | {"q_scale": targets.q_scale})[name](cat(1.0, 2.0))


@pytest.mark.parametrize("name", [*TRANSFORMS, *FROM_Q])
def test_masked_actions_stay_masked(name: str) -> None:
    target = cat(1.0, -INF, 0.5, -INF, q=(3.0, 9.0, 1.0, 2.0))
    after = (TRANSFORMS | FROM_Q)[name](target)
    found = probs(after)
    assert found[1] == found[3] == 0.0
    assert found[0] >= found[2] and sum(found) == pytest.approx(1)


# --- temperature -----------------------------------------------------------------------------------------------------


def test_soften_by_hand() -> None:
    assert probs(targets.soften(cat(math.log(9.0), 0.0), temperature=2.0)) == pytest.approx([0.75, 0.25])
    assert probs(targets.soften(cat(math.log(2.0), 0.0), temperature=0.5)) == pytest.approx([0.8, 0.2])


def test_soften_one_changes_nothing() -> None:
    for dist in DISCRETE.values():
        after = targets.soften(Prediction(dist), temperature=1.0).dist
        torch.testing.assert_close(after.log_prob(dist.mode()), dist.log_prob(dist.mode()))
        torch.testing.assert_close(after.entropy(), dist.entropy())


@pytest.mark.parametrize("temperature", [1e-3, 1e-30, 1e-300, 0.0])
def test_cold_is_greedy(temperature: float) -> None:
    assert probs(targets.soften(cat(1.0, 3.0, 2.0), temperature=temperature)) == [0.0, 1.0, 0.0]
    single = Prediction(Categorical(torch.tensor([1e4, 3e4, 2e4])))
    assert probs(targets.soften(single, temperature=temperature)) == [0.0, 1.0, 0.0]
    assert probs(targets.soften(cat(2.0, 2.0, 1.0), temperature=temperature)) == [0.5, 0.5, 0.0]
    coins = targets.soften(Prediction(Bernoulli(torch.tensor([3.0, -3.0, 0.0]))), temperature=temperature).dist
    assert coins.probs.tolist() == pytest.approx([1.0, 0.0, 0.5])


@pytest.mark.parametrize("temperature", [1e9, INF])
def test_hot_is_uniform_over_legal_actions(temperature: float) -> None:
    assert probs(targets.soften(cat(1.0, -INF, 2.0), temperature=temperature)) == pytest.approx([0.5, 0.0, 0.5])


def test_cold_forward_kl_is_the_hard_label() -> None:
    student, teacher = Prediction(DISCRETE["categorical"]), Prediction(Categorical(randn(2, 3, 5, seed=4)))
    for t in (1e-4, 0.0):
        rows = losses.forward_kl(student, targets.soften(teacher, temperature=t))
        torch.testing.assert_close(rows, losses.hard_nll(student, teacher))


@pytest.mark.parametrize("bad", [-1.0, math.nan])
def test_bad_temperatures(bad: float) -> None:
    for call in (
        partial(targets.soften, temperature=bad),
        partial(targets.from_q, tau=bad),
        partial(targets.from_q_scaled, tau=bad),
    ):
        with pytest.raises(UsageError, match=r"\[loss.temperature\]"):
            call(cat(1.0, 2.0, q=(1.0, 2.0)))


# --- Q-values --------------------------------------------------------------------------------------------------------


def test_from_q_by_hand() -> None:
    target = cat(0.0, 0.0, q=(0.01 * math.log(3), 0.0))
    assert probs(targets.from_q(target)) == pytest.approx([0.75, 0.25], rel=1e-5)  # Rusu's tau = 0.01
    assert probs(targets.from_q(target, tau=0.0)) == [1.0, 0.0]


def test_from_q_takes_any_size() -> None:
    q = torch.tensor([[1e8, 1e8 + 64, -1e30]])
    target = Prediction(Categorical(torch.zeros(1, 3)), q=q)
    assert targets.from_q(target).dist.log_probs[0, 1] == 0


@pytest.mark.parametrize("unit", [1e-4, 1.0, 1e5])
@pytest.mark.parametrize("shift", [0.0, -1e3])
def test_scaled_targets_do_not_know_the_reward_unit(unit: float, shift: float) -> None:
    q = randn(64, 4)
    base, other = (Prediction(Categorical(torch.zeros(64, 4).double()), q=x) for x in (q, unit * (q + shift)))
    assert targets.q_scale(other) == pytest.approx(unit * targets.q_scale(base), rel=1e-6)
    torch.testing.assert_close(
        targets.from_q_scaled(base).dist.probs, targets.from_q_scaled(other).dist.probs, rtol=1e-6, atol=1e-9
    )


def test_q_scale_by_hand() -> None:
    # Standard deviations 1, 5 and 0: the middle one counts.
    q = torch.tensor([[2.0, 0.0], [10.0, 0.0], [3.0, 3.0]])
    assert targets.q_scale(Prediction(Categorical(torch.zeros(3, 2)), q=q)) == pytest.approx(1.0)
    flat = Prediction(Categorical(torch.zeros(3, 2)), q=torch.full((3, 2), 7.0))
    assert targets.q_scale(flat) == 1.0
    assert targets.from_q_scaled(flat).dist.probs.tolist() == [[0.5, 0.5]] * 3


def test_a_frozen_scale_makes_rows_independent() -> None:
    q = randn(8, 3) * torch.arange(1.0, 9.0).unsqueeze(-1)
    target = Prediction(Categorical(torch.zeros(8, 3).double()), q=q)
    frozen = partial(targets.from_q_scaled, scale=targets.q_scale(target))
    torch.testing.assert_close(frozen(target)[2:3].dist.probs, frozen(target[2:3]).dist.probs)
    assert not torch.allclose(
        targets.from_q_scaled(target)[:1].dist.probs, targets.from_q_scaled(target[:1]).dist.probs
    )
    for scale in (0.0, -1.0, math.nan, INF):
        with pytest.raises(UsageError, match=r"\[loss.scale\]"):
            targets.from_q_scaled(target, scale=scale)


# --- smoothing and standardising -------------------------------------------------------------------------------------


def test_smoothing_by_hand_and_at_its_ends() -> None:
    target = cat(math.log(3.0), 0.0, -INF)
    assert probs(targets.smooth(target, eps=0.2)) == pytest.approx([0.7, 0.3, 0.0])
    assert targets.smooth(target, eps=0.0) is target
    assert probs(targets.smooth(target, eps=1.0)) == pytest.approx([0.5, 0.5, 0.0])
    sure = Prediction(Categorical(torch.tensor([1e4, 0.0])))
    assert probs(targets.smooth(sure, eps=0.1)) == pytest.approx([0.95, 0.05])
    coin = targets.smooth(Prediction(Bernoulli(torch.tensor([100.0]))), eps=0.1).dist
    assert coin.probs.tolist() == pytest.approx([0.95])
    for eps in (-0.1, 1.1, math.nan):
        with pytest.raises(UsageError, match=r"\[loss.eps\]"):
            targets.smooth(target, eps=eps)


def test_standardised_logits_have_mean_0_and_spread_1() -> None:
    after = targets.standardise(Prediction(Categorical(randn(9, 6, scale=40.0) + 3))).dist.logits
    torch.testing.assert_close(after.mean(-1), torch.zeros(9).double(), atol=1e-9, rtol=0)
    torch.testing.assert_close(after.std(-1, correction=0), torch.ones(9).double())
    assert targets.standardise(cat(5.0, 5.0, 5.0)).dist.logits.tolist() == [0.0, 0.0, 0.0]


# --- row weights -----------------------------------------------------------------------------------------------------


def test_confidence_by_hand_and_at_its_ends() -> None:
    target = Prediction(Categorical(torch.tensor([[math.log(3.0), 0.0], [0.1, 0.0], [1e4, 0.0]])))
    for threshold, kept in ((0.0, [1, 1, 1]), (0.7, [1, 0, 1]), (1.0, [0, 0, 1]), (1.1, [0, 0, 0])):
        assert targets.confidence_weight(target, threshold=threshold).tolist() == kept
    two = Prediction(MultiCategorical(torch.tensor([[math.log(3.0), 0.0, math.log(3.0), 0.0]]), (2, 2)))
    assert targets.confidence_weight(two, threshold=0.6).tolist() == [0]  # 0.75^2
    assert targets.confidence_weight(two, threshold=0.55).tolist() == [1]


def test_gap_weight_by_hand() -> None:
    target = Prediction(Categorical(torch.tensor([[math.log(3.0), 0.0], [0.0, 0.0]])))
    assert targets.gap_weight(target).tolist() == pytest.approx([2.0, 0.0])
    assert targets.gap_weight(target, scale=0.5).tolist() == pytest.approx([1.0, 0.0])
    assert targets.gap_weight(target[1:]).tolist() == [1.0]


def test_advantage_weight_by_hand() -> None:
    target = Prediction(Categorical(torch.zeros(2, 3)), q=torch.tensor([[1.0, 2.0, 6.0], [0.0, 3.0, 0.0]]))
    assert targets.advantage_weight(target).tolist() == pytest.approx([3 / 2.5, 2 / 2.5])
    assert targets.advantage_weight(target, against="min").tolist() == pytest.approx([5 / 4, 3 / 4])
    assert targets.advantage_weight(target, scale=1.0).tolist() == pytest.approx([3.0, 2.0])
    masked = replace(target, dist=Categorical(torch.tensor([[0.0, 0.0, -INF], [0.0, 0.0, 0.0]])))
    assert targets.advantage_weight(masked, against="min", scale=1.0).tolist() == pytest.approx([1.0, 3.0])


@pytest.mark.parametrize("name", ["gap", "advantage"])
def test_weights_have_mean_one_and_carry_no_gradient(name: str) -> None:
    target = Prediction(Categorical(randn(4, 7, 3).requires_grad_()), q=randn(4, 7, 3, seed=1).requires_grad_())
    weight = WEIGHTS[name](target)
    assert weight.shape == (4, 7) and not weight.requires_grad
    torch.testing.assert_close(weight.mean(), torch.ones(()).double())
    torch.testing.assert_close(WEIGHTS[name](replace(target, q=None if target.q is None else 50 * target.q)), weight)


def test_weigh_multiplies_what_was_there() -> None:
    batch = Batch(torch.zeros(2, 1), Prediction(Categorical(torch.tensor([[5.0, 0.0], [0.1, 0.0]]))))
    once = targets.weigh(batch, targets.confidence_weight)
    assert once.weight is not None and once.weight.tolist() == [1, 0]
    twice = targets.weigh(replace(batch, weight=torch.tensor([3.0, 4.0])), targets.confidence_weight)
    assert twice.weight is not None and twice.weight.tolist() == [3, 0]
    assert batch.weight is None
