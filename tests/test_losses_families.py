"""Formulas on every family that a loss claims, written once more in numpy: no part of the code's own KL is used."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
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
from policykd.losses import PairLoss
from policykd.losses.labels import soft_kl
from policykd.prediction import Prediction

Numbers = NDArray[np.float64]
Choices = list[tuple[Numbers, Numbers]]

N, NVEC = 8, (3, 4)
RNG = np.random.default_rng(5)
Z, Y = 2 * RNG.normal(size=(2, N, sum(NVEC)))
"""The student's numbers and the teacher's."""
STD, WIDE = 0.5 * RNG.normal(size=(2, N, sum(NVEC)))
"""Logarithms of standard deviations."""


def t(x: Numbers) -> Tensor:
    return torch.as_tensor(x)


DISCRETE: dict[str, tuple[Distribution, Distribution]] = {
    "categorical": (Categorical(t(Z)), Categorical(t(Y))),
    "multi_categorical": (MultiCategorical(t(Z), NVEC), MultiCategorical(t(Y), NVEC)),
    "bernoulli": (Bernoulli(t(Z)), Bernoulli(t(Y))),
}


def softmax(x: Numbers) -> Numbers:
    e = np.exp(x - x.max(-1, keepdims=True))
    return np.asarray(e / e.sum(-1, keepdims=True))


def choices(family: str) -> Choices:
    """Logits of the student and the teacher, a pair a choice: a coin is a choice between 0 and its log-odds."""
    if family == "categorical":
        return [(Z, Y)]
    if family == "multi_categorical":
        return [(Z[:, :3], Y[:, :3]), (Z[:, 3:], Y[:, 3:])]
    zero = np.zeros(N)
    return [(np.stack([zero, Z[:, i]], -1), np.stack([zero, Y[:, i]], -1)) for i in range(sum(NVEC))]


def said(loss: PairLoss, pair: tuple[Distribution, Distribution]) -> Tensor:
    return loss(Prediction(pair[0]), Prediction(pair[1]))


def close(found: Tensor, wanted: Numbers, rtol: float = 1e-8) -> None:
    np.testing.assert_allclose(found.numpy(), wanted, rtol=rtol, atol=1e-10)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("family", DISCRETE)
def test_soft_cross_entropy_and_soft_kl(family: str, temperature: float) -> None:
    crossed, own = np.zeros(N), np.zeros(N)
    for z, y in choices(family):
        p, q = softmax(y / temperature), softmax(z / temperature)
        crossed -= temperature**2 * (p * np.log(q)).sum(-1)
        own -= temperature**2 * (p * np.log(p)).sum(-1)
    close(said(partial(losses.soft_cross_entropy, temperature=temperature), DISCRETE[family]), crossed)
    close(said(partial(soft_kl, temperature=temperature), DISCRETE[family]), crossed - own)


@pytest.mark.parametrize("family", DISCRETE)
def test_hard_nll(family: str) -> None:
    rows = np.zeros(N)
    for z, y in choices(family):
        rows -= np.log(softmax(z)[np.arange(N), y.argmax(-1)])
    close(said(losses.hard_nll, DISCRETE[family]), rows)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
@pytest.mark.parametrize("family", ["categorical", "multi_categorical"])
def test_standardised_logits(family: str, temperature: float) -> None:
    rows = np.zeros(N)
    for pair in choices(family):
        q, p = (
            softmax((x - x.mean(-1, keepdims=True)) / (x.std(-1, keepdims=True) + 1e-7) / temperature) for x in pair
        )
        rows += temperature**2 * (p * np.log(p / q)).sum(-1)
    close(said(partial(losses.standardised_logits, temperature=temperature), DISCRETE[family]), rows)


def divergences(family: str, beta: float) -> tuple[Numbers, Numbers, Numbers]:
    """Forward KL, reverse KL, and the skewed Jensen-Shannon divergence as it is printed, over beta (1 - beta)."""
    forward, reverse, skewed = np.zeros((3, N))
    for z, y in choices(family):
        q, p = softmax(z), softmax(y)
        m = beta * p + (1 - beta) * q
        forward += (p * np.log(p / q)).sum(-1)
        reverse += (q * np.log(q / p)).sum(-1)
        halves = beta * (p * np.log(p / m)).sum(-1) + (1 - beta) * (q * np.log(q / m)).sum(-1)
        skewed += halves / (beta * (1 - beta))
    return forward, reverse, skewed


@pytest.mark.parametrize("beta", [0.1, 0.5, 0.8])
@pytest.mark.parametrize("family", DISCRETE)
def test_divergences_of_choices(family: str, beta: float) -> None:
    forward, reverse, skewed = divergences(family, beta)
    close(said(losses.forward_kl, DISCRETE[family]), forward)
    close(said(losses.reverse_kl, DISCRETE[family]), reverse)
    close(said(partial(losses.jensen_shannon, beta=beta), DISCRETE[family]), skewed)


def kl_of_normals(m: Numbers, s: Numbers, n: Numbers, r: Numbers) -> Numbers:
    """KL(N(m, s^2) || N(n, r^2)), summed over the last axis."""
    return np.asarray((np.log(r / s) + (s**2 + (m - n) ** 2) / (2 * r**2) - 0.5).sum(-1))


@pytest.mark.parametrize("beta", [0.1, 0.5, 0.8])
@pytest.mark.parametrize("family", [DiagGaussian, TanhGaussian])
def test_divergences_of_normal_laws(family: type[DiagGaussian] | type[TanhGaussian], beta: float) -> None:
    s, r = np.exp(STD), np.exp(WIDE)
    pair = family(t(Z), t(STD)), family(t(Y), t(WIDE))
    close(said(losses.forward_kl, pair), kl_of_normals(Y, r, Z, s))
    close(said(losses.reverse_kl, pair), kl_of_normals(Z, s, Y, r))
    # The normalised geometric mean p^beta q^(1 - beta): precisions add up.
    precision = beta / r**2 + (1 - beta) / s**2
    mean, std = (beta * Y / r**2 + (1 - beta) * Z / s**2) / precision, precision**-0.5
    halves = beta * kl_of_normals(Y, r, mean, std) + (1 - beta) * kl_of_normals(Z, s, mean, std)
    close(said(partial(losses.jensen_shannon, beta=beta), pair), halves / (beta * (1 - beta)))


def test_reverse_kl_of_squashed_laws_is_an_integral_over_actions() -> None:
    """Not before tanh: densities of actions from -1 to 1, which the change of variables leaves the same KL."""
    a = np.tanh(np.linspace(-12, 12, 200_001))[1:-1]
    inside = np.abs(a) < 1 - 1e-12
    a = a[inside]
    u = np.arctanh(a)

    def log_density(mean: float, std: float) -> Numbers:
        normal = -0.5 * ((u - mean) / std) ** 2 - math.log(std * math.sqrt(2 * math.pi))
        return np.asarray(normal - np.log1p(-(a**2)))

    q, p = log_density(0.4, 0.7), log_density(-0.5, 1.3)
    wanted = np.trapezoid(np.exp(q) * (q - p), a)
    pair = [
        Prediction(TanhGaussian(torch.tensor([[m]]).double(), torch.tensor([[math.log(s)]]).double()))
        for m, s in ((0.4, 0.7), (-0.5, 1.3))
    ]
    assert float(losses.reverse_kl(pair[0], pair[1])) == pytest.approx(wanted, rel=1e-5)


def plain_huber(e: Numbers, delta: float) -> Numbers:
    size = np.abs(e)
    return np.where(size <= delta, 0.5 * e**2, delta * (size - 0.5 * delta))


@pytest.mark.parametrize("delta", [0.1, 1.0, 5.0])
@pytest.mark.parametrize("family", DISCRETE)
def test_huber_of_choices(family: str, delta: float) -> None:
    if family == "bernoulli":
        wanted = plain_huber(Z - Y, delta).mean(-1)
    else:
        factors = [(z - z.mean(-1, keepdims=True)) - (y - y.mean(-1, keepdims=True)) for z, y in choices(family)]
        wanted = np.mean([plain_huber(e, delta).mean(-1) for e in factors], 0)
    close(said(partial(losses.huber, delta=delta), DISCRETE[family]), wanted)


ACTIONS = {
    "two normal laws": (DiagGaussian(t(Z), t(STD)), DiagGaussian(t(Y), t(WIDE)), Z - Y),
    "two squashed laws": (TanhGaussian(t(Z), t(STD)), TanhGaussian(t(Y), t(WIDE)), np.tanh(Z) - np.tanh(Y)),
    "two points": (Deterministic(t(Z)), Deterministic(t(Y)), Z - Y),
    "a normal law and a point": (DiagGaussian(t(Z), t(STD)), Deterministic(t(Y)), Z - Y),
    "a point and a normal law": (Deterministic(t(Z)), DiagGaussian(t(Y), t(STD)), Z - Y),
    "a squashed law and a point": (TanhGaussian(t(Z), t(STD)), Deterministic(t(np.tanh(Y))), np.tanh(Z) - np.tanh(Y)),
}


@pytest.mark.parametrize("delta", [0.1, 1.0, 5.0])
@pytest.mark.parametrize("pair", ACTIONS)
def test_huber_of_actions(pair: str, delta: float) -> None:
    student, teacher, error = ACTIONS[pair]
    close(said(partial(losses.huber, delta=delta), (student, teacher)), plain_huber(error, delta).mean(-1))
    if pair == "two squashed laws":
        before = said(partial(losses.huber, delta=delta, space="pre_tanh"), (student, teacher))
        close(before, plain_huber(Z - Y, delta).mean(-1))
