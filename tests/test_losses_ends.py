"""The ends of every knob: the value tends to what is promised, and the gradient stays a number in float32."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

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
)
from policykd.losses import as_objective
from policykd.losses.labels import agreeing, hard_and_soft, label_nll, small_loss, soft_kl
from policykd.prediction import Batch, Prediction

N = 6


def randn(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


MASKED = randn(N, 5, seed=1).masked_fill(torch.tensor([False, True, False, False, True]), -math.inf)
FAMILIES: dict[str, tuple[Distribution, Distribution]] = {
    "categorical": (Categorical(randn(N, 5)), Categorical(randn(N, 5, seed=1))),
    "masked": (Categorical(randn(N, 5)), Categorical(MASKED)),
    "far apart": (Categorical(randn(N, 5, scale=1e4)), Categorical(randn(N, 5, seed=1, scale=1e4))),
    "alike": (Categorical(torch.zeros(N, 5)), Categorical(torch.zeros(N, 5))),
    "multi_categorical": (
        MultiCategorical(randn(N, 7), (3, 4)),
        MultiCategorical(randn(N, 7, seed=1), (3, 4)),
    ),
    "bernoulli": (Bernoulli(randn(N, 3)), Bernoulli(randn(N, 3, seed=1))),
    "fixed coins": (Bernoulli(randn(N, 2)), Bernoulli(torch.tensor([math.inf, -math.inf]).expand(N, 2))),
    "diag_gaussian": (DiagGaussian(randn(N, 2), randn(N, 2, seed=2)), DiagGaussian(randn(N, 2, seed=1), randn(N, 2))),
    "tanh_gaussian": (TanhGaussian(randn(N, 2), randn(N, 2, seed=2)), TanhGaussian(randn(N, 2, seed=1), randn(N, 2))),
    "deterministic": (Deterministic(randn(N, 2)), Deterministic(randn(N, 2, seed=1))),
}
DISCRETE = ("categorical", "masked", "far apart", "alike", "multi_categorical", "bernoulli", "fixed coins")
CHOICES = ("categorical", "masked", "far apart", "alike", "multi_categorical")
CLASSES = ("categorical", "masked", "far apart", "alike")

LOW, HIGH = (1e-3, 1e-6, 1e-12), (1e2, 1e6, 1e12)
KNOBS: list[tuple[Any, str, tuple[float, ...], tuple[str, ...]]] = [
    (losses.soft_cross_entropy, "temperature", (*LOW, *HIGH), DISCRETE),
    (soft_kl, "temperature", (*LOW, *HIGH), DISCRETE),
    (losses.standardised_logits, "temperature", (*LOW, *HIGH), CHOICES),
    (losses.huber, "delta", (*LOW, *HIGH, math.inf), tuple(FAMILIES)),
    (losses.jensen_shannon, "beta", (0.0, 1e-12, 1.0), (*DISCRETE, "diag_gaussian", "tanh_gaussian")),
    (losses.relational_distance, "delta", (*LOW, *HIGH, math.inf), DISCRETE),
    (losses.relational_angle, "delta", (*LOW, *HIGH, math.inf), DISCRETE),
    (losses.decoupled, "alpha", (0.0, 1e6), CLASSES),
    (losses.decoupled, "beta", (0.0, 1e6), CLASSES),
    (losses.decoupled, "temperature", (*LOW, *HIGH), CLASSES),
    (losses.dist_relations, "beta", (0.0, 1e6), CLASSES),
    (losses.dist_relations, "gamma", (0.0, 1e6), CLASSES),
    (losses.dist_relations, "temperature", (*LOW, *HIGH), CLASSES),
    (label_nll, "eps", (0.0, 1e-12, 1.0), CLASSES),
]
CASES = [
    pytest.param(loss, {knob: value}, family, id=f"{loss.__name__}-{knob}-{value:g}-{family}")
    for loss, knob, values, families in KNOBS
    for value in values
    for family in families
]


def slopes(objective: Any, dist: Distribution, batch: Batch, **more: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Rows, summed over terms, and the gradient of their sum to each of the student's tensors."""
    leaves: list[Tensor] = []

    def leaf(t: Tensor) -> Tensor:
        leaves.append(t.clone().requires_grad_())
        return leaves[-1]

    student = Prediction(dist, **more).map(leaf)  # type: ignore[arg-type]
    terms = as_objective(objective).terms(student, batch)
    rows = sum((term.weight * term.rows for term in terms.values()), torch.zeros(len(batch)))
    found = torch.autograd.grad(rows.sum(), leaves, allow_unused=True) if rows.requires_grad else ()
    return rows.detach(), [g for g in found if g is not None]


@pytest.mark.parametrize(("loss", "knob", "family"), CASES)
def test_gradients_are_numbers_at_the_ends_of_a_knob(loss: Any, knob: dict[str, float], family: str) -> None:
    own, theirs = FAMILIES[family]
    batch = Batch(torch.zeros(N, 1), Prediction(theirs), extra={"label": torch.tensor([0, 2, 3, -1, 0, 2])})
    rows, found = slopes(partial(loss, **knob), own, batch)
    assert rows.isfinite().all()
    assert all(g.isfinite().all() for g in found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("family", ["categorical", "multi_categorical"])
def test_standardised_logits_vanish_at_a_low_temperature(family: str, dtype: torch.dtype) -> None:
    own, theirs = (Prediction(d).map(lambda t: t.to(dtype)) for d in FAMILIES[family])
    for t in (1e-2, 1e-4, 1e-8):
        rows, [slope] = slopes(
            partial(losses.standardised_logits, temperature=t), own.dist, Batch(torch.zeros(N, 1), theirs)
        )
        # At most T times the widest gap of z-scores, a choice: 2 sqrt(a) of a numbers.
        assert (rows >= 0).all() and rows.max() < 10 * t and slope.abs().max() < 10 * t


@pytest.mark.parametrize("family", ["categorical", "multi_categorical"])
def test_standardised_logits_at_a_high_temperature_are_half_the_error_of_z_scores(family: str) -> None:
    own, theirs = (Prediction(d).map(Tensor.double) for d in FAMILIES[family])
    batch = Batch(torch.zeros(N, 1), theirs)
    rows, [slope] = slopes(partial(losses.standardised_logits, temperature=1e4), own.dist, batch)

    def z(logits: Tensor) -> Tensor:
        return (logits - logits.mean(-1, keepdim=True)) / (logits.std(-1, correction=0, keepdim=True) + 1e-7)

    sizes = list(getattr(own.dist, "nvec", (5,)))
    x = own.dist.logits.clone().requires_grad_()  # type: ignore[union-attr]
    pairs = zip(x.split(sizes, -1), theirs.dist.logits.split(sizes, -1), strict=True)  # type: ignore[union-attr]
    half = sum((0.5 * (z(a) - z(b)).square().mean(-1) for a, b in pairs), torch.zeros(()))
    torch.testing.assert_close(rows, half.detach(), rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(slope, torch.autograd.grad(half.sum(), x)[0], rtol=1e-2, atol=1e-4)


def test_a_share_of_the_mean_that_rounds_to_all_of_it() -> None:
    """Between beta = 1e-9 and 0 lies KL, far as it may be; float32 has no number between 1 - 1e-9 and 1."""
    student, teacher = (Prediction(Categorical(torch.tensor([z]))) for z in ([0.0, 1e4, 0.0], [1e4, 0.0, 0.0]))
    at = [float(losses.jensen_shannon(student, teacher, beta=b)) for b in (1e-3, 1e-9, 1e-12, 0.0)]
    assert at[1:3] == pytest.approx([-math.log(1e-9) + 1, -math.log(1e-12) + 1], rel=1e-4)
    assert at == sorted(at) and at[3] == pytest.approx(1e4)


VALUES = Prediction(Deterministic(torch.zeros(N, 1)), value=randn(N, scale=10.0))


@pytest.mark.parametrize("delta", [*LOW, *HIGH, math.inf])
def test_value_huber(delta: float) -> None:
    batch = Batch(torch.zeros(N, 1), VALUES)
    rows, found = slopes(partial(losses.value_huber, delta=delta), VALUES.dist, batch, value=randn(N, seed=1))
    assert rows.isfinite().all() and found and all(g.isfinite().all() for g in found)
    if delta >= 1e2:
        plain, same = slopes(losses.value_mse, VALUES.dist, batch, value=randn(N, seed=1))
        torch.testing.assert_close(rows, plain / 2)
        torch.testing.assert_close(found, [g / 2 for g in same])


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e6, None])
@pytest.mark.parametrize("spread", [1.0, 1e6, 0.0])
def test_centred_q(spread: float, scale: float | None) -> None:
    law = Categorical(torch.zeros(N, 5))
    batch = Batch(torch.zeros(N, 1), Prediction(law, q=spread * randn(N, 5, seed=1)))
    rows, [slope] = slopes(partial(losses.centred_q, scale=scale), Categorical(randn(N, 5)), batch)
    assert rows.isfinite().all() and slope.isfinite().all() and slope.abs().sum() > 0


@pytest.mark.parametrize("unit", [1e-10, 1.0, 1e10])
@pytest.mark.parametrize("power", [1.0, 1e2, 1e4, 1e6])
def test_attention_transfer_at_large_powers_is_the_strongest_channels(power: float, unit: float) -> None:
    maps, theirs = unit * randn(N, 3, 4, 4), randn(N, 2, 4, 4, seed=1)
    law = Categorical(torch.zeros(N, 2))
    batch = Batch(torch.zeros(N, 1), Prediction(law, features={"map": theirs}))
    leaf = maps.clone().requires_grad_()
    rows = losses.attention_transfer(Prediction(law, features={"map": leaf}), batch.target, feature="map", power=power)
    rows.sum().backward()
    assert rows.isfinite().all() and leaf.grad is not None and leaf.grad.isfinite().all()
    if power == 1e6:  # one place each, where the strongest channel is strongest
        places = [t.abs().amax(1).flatten(1).argmax(-1) for t in (maps, theirs)]
        torch.testing.assert_close(rows.detach(), torch.where(places[0] == places[1], 0.0, 2 / 16))


def boxes(seed: int, scale: float = 1.0) -> Tensor:
    corners = randn(N, 3, 4, seed=seed, scale=scale)
    return torch.cat([corners[..., :2], corners[..., :2] + corners[..., 2:].abs()], -1)


@pytest.mark.parametrize(
    "knob", [*({"delta": d} for d in (*LOW, *HIGH, math.inf)), {"confidence": 0.0}, {"confidence": 1.0}]
)
def test_box_huber(knob: dict[str, float]) -> None:
    law = Categorical(torch.tensor([[0.0, 3.0], [50.0, -50.0], [-math.inf, 0.0]]).expand(N, 3, 2))
    target = Prediction(law, features={"boxes": boxes(1, 1e3)})
    leaf = boxes(0).requires_grad_()
    rows = losses.box_huber(Prediction(law, features={"boxes": leaf}), target, **knob)
    rows.sum().backward()
    assert rows.isfinite().all() and leaf.grad is not None and leaf.grad.isfinite().all()
    counted = [True, True, True] if knob.get("confidence", 0.0) == 0 else [False, False, True]
    assert [bool(x) for x in (leaf.grad.abs().sum((0, 2)) > 0)] == counted


# Rows that are left out

LABEL = torch.tensor([0, 2, 1, 2])
RIGHT = torch.tensor([[9.0, 0, 0], [0, 0, 9], [0, 9, 0], [0, 0, 9]])
LEFT_OUT = torch.tensor([[-9.0, 0, 0], [0, 0, 9], [0, 9, 0], [0, 0, 9]])
"""A teacher who does not believe the first label."""


def spoilt(value: float, whole: bool = False) -> Tensor:
    z = randn(4, 3, scale=0.1)
    z[0, :] = value if whole else torch.tensor([value, 0.0, 0.0])
    return z


FILTERS = {
    "small_loss": small_loss(label_nll, keep=0.5),
    "small_loss both": small_loss(hard_and_soft(alpha=0.5), keep=0.75),
    "agreeing": agreeing(label_nll, p=0.5),
    "agreeing both": agreeing(hard_and_soft(alpha=0.5), p=0.5),
}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", FILTERS)
def test_a_row_that_is_left_out_is_not_in_the_gradient_either(name: str, value: float) -> None:
    z = spoilt(value, whole=True)
    batch = Batch(torch.zeros(4, 1), Prediction(Categorical(LEFT_OUT)), extra={"label": LABEL})
    rows, [slope] = slopes(FILTERS[name], Categorical(z), batch)
    assert rows[0] == 0 and rows.isfinite().all()
    assert slope[0].tolist() == [0, 0, 0] and slope.isfinite().all() and slope.abs().sum() > 0
    z[0] = torch.tensor([-20.0, 0.0, 0.0])  # as wrong as it can be
    fine, [same] = slopes(FILTERS[name], Categorical(z), batch)
    torch.testing.assert_close(rows[1:], fine[1:])
    torch.testing.assert_close(slope[1:], same[1:])


@pytest.mark.parametrize("name", ["small_loss both", "agreeing both"])
def test_what_a_teacher_could_not_say_is_left_out(name: str) -> None:
    teacher = LEFT_OUT.clone()
    teacher[0] = math.nan
    batch = Batch(torch.zeros(4, 1), Prediction(Categorical(teacher)), extra={"label": LABEL})
    rows, [slope] = slopes(FILTERS[name], Categorical(randn(4, 3)), batch)
    assert rows[0] == 0 and rows.isfinite().all() and slope.isfinite().all() and slope[1:].abs().sum() > 0


@pytest.mark.parametrize("objective", [small_loss(label_nll, keep=1.0), agreeing(label_nll, p=0.0)])
def test_a_nan_that_counts_is_not_hidden(objective: Any) -> None:
    batch = Batch(torch.zeros(4, 1), Prediction(Categorical(RIGHT)), extra={"label": LABEL})
    rows, [slope] = slopes(objective, Categorical(spoilt(math.nan)), batch)
    assert rows.isnan().tolist() == [True, False, False, False]
    assert slope[0].isnan().any() and slope[1:].isfinite().all()


def test_each_of_several_students_leaves_out_its_own_rows() -> None:
    z = torch.stack([spoilt(math.nan), randn(4, 3, scale=0.1)])
    batch = Batch(torch.zeros(4, 1), Prediction(Categorical(RIGHT)), extra={"label": LABEL})
    for objective in (small_loss(hard_and_soft(alpha=0.5), keep=0.75), agreeing(label_nll, p=1.1)):
        student = z.clone().requires_grad_()
        terms = as_objective(objective).terms(Prediction(Categorical(student)), batch)
        rows = sum((t.weight * t.rows for t in terms.values()), torch.zeros(()))
        rows.sum().backward()
        assert rows.isfinite().all() and student.grad is not None and student.grad.isfinite().all()
        alone = slopes(objective, Categorical(z[1]), batch)
        torch.testing.assert_close(rows[1].detach(), alone[0])
        torch.testing.assert_close(student.grad[1], alone[1][0])


@pytest.mark.parametrize("p", [0.0, 1e-12, 1.0, 1.1, math.inf])
@pytest.mark.parametrize("keep", [0.0, 1e-9, 1.0])
def test_filters_at_their_ends(keep: float, p: float) -> None:
    batch = Batch(torch.zeros(4, 1), Prediction(Categorical(LEFT_OUT)), extra={"label": LABEL})
    for objective in (small_loss(label_nll, keep=keep), agreeing(label_nll, p=p)):
        rows, found = slopes(objective, Categorical(randn(4, 3, scale=1e4)), batch)
        assert rows.isfinite().all() and all(g.isfinite().all() for g in found)
