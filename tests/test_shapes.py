"""Shapes, checked by jaxtyping + beartype: one number per row out of every public function, wrong axes refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from functools import partial
from typing import Any

import pytest
import torch
from beartype import beartype
from jaxtyping import Float, Int, TypeCheckError, jaxtyped
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
    kl,
    masked,
)
from policykd.prediction import Batch, Prediction

LEADING = [(), (3,), (2, 3)]
NVEC = (3, 4)
checked = jaxtyped(typechecker=beartype)


def randn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)))


MAKE: dict[str, Callable[[tuple[int, ...]], Distribution]] = {
    "categorical": lambda b: Categorical(randn(*b, 5)),
    "multi_categorical": lambda b: MultiCategorical(randn(*b, sum(NVEC)), NVEC),
    "bernoulli": lambda b: Bernoulli(randn(*b, 4)),
    "diag_gaussian": lambda b: DiagGaussian(randn(*b, 3), 0.1 * randn(*b, 3)),
    "tanh_gaussian": lambda b: TanhGaussian(randn(*b, 3), 0.1 * randn(*b, 3)),
    "deterministic": lambda b: Deterministic(randn(*b, 3)),
}
DISCRETE = list(MAKE)[:3]
DENSE = list(MAKE)[:5]


# The contracts, with the shapes written down. ``b`` are the leading dimensions, bound by the first argument.


@checked
def rows_of_choice(logits: Float[Tensor, "*b a"], f: Callable[[], Any]) -> Float[Tensor, "*b"]:
    return f()


@checked
def one_choice(logits: Float[Tensor, "*b a"], f: Callable[[], Any]) -> Int[Tensor, "*b"]:
    return f()


@checked
def choices_of(logits: Float[Tensor, "*b a"], f: Callable[[], Any], n: int) -> Int[Tensor, "*b {n}"]:
    return f()


@checked
def vector_of(numbers: Float[Tensor, "*b d"], f: Callable[[], Any]) -> Float[Tensor, "*b d"]:
    return f()


def main(dist: Distribution) -> Tensor:
    return getattr(dist, fields(dist)[0].name)


# --- distributions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("b", LEADING)
@pytest.mark.parametrize("family", MAKE)
def test_actions(family: str, b: tuple[int, ...]) -> None:
    dist = MAKE[family](b)
    for act in (dist.mode, dist.sample):
        match dist:
            case Categorical():
                one_choice(main(dist), act)
            case MultiCategorical():
                choices_of(main(dist), act, len(NVEC))
            case _:
                vector_of(main(dist), act)


@pytest.mark.parametrize("b", LEADING)
@pytest.mark.parametrize("family", DENSE)
def test_log_prob_entropy_and_kl(family: str, b: tuple[int, ...]) -> None:
    dist = MAKE[family](b)
    rows_of_choice(main(dist), dist.entropy)
    rows_of_choice(main(dist), lambda: dist.log_prob(dist.sample()))
    rows_of_choice(main(dist), lambda: kl(dist, MAKE[family](b)))


@pytest.mark.parametrize("b", LEADING)
@pytest.mark.parametrize("family", ["categorical", "multi_categorical"])
def test_masks(family: str, b: tuple[int, ...]) -> None:
    dist = MAKE[family](b)
    for mask in (torch.ones(*b, main(dist).shape[-1], dtype=torch.bool), torch.ones(main(dist).shape[-1])):
        vector_of(main(dist), lambda mask=mask: masked(dist, mask).logits)


# --- losses ----------------------------------------------------------------------------------------------------------

POLICY: dict[str, tuple[losses.PairLoss, list[str]]] = {
    "forward_kl": (losses.forward_kl, DENSE),
    "reverse_kl": (losses.reverse_kl, DENSE),
    "jensen_shannon": (losses.jensen_shannon, DENSE),
    "jensen_shannon_0": (partial(losses.jensen_shannon, beta=0.0), DENSE),
    "jensen_shannon_1": (partial(losses.jensen_shannon, beta=1.0), DENSE),
    "hard_nll": (losses.hard_nll, DENSE),
    "soft_cross_entropy": (losses.soft_cross_entropy, DISCRETE),
    "standardised_logits": (losses.standardised_logits, DISCRETE[:2]),
    "mse": (losses.mse, list(MAKE)),
    "huber": (losses.huber, list(MAKE)),
    "wasserstein2": (losses.wasserstein2, list(MAKE)[3:]),
    "centred_q": (losses.centred_q, ["categorical"]),
}


def said(family: str, b: tuple[int, ...]) -> Prediction:
    dist = MAKE[family](b)
    return Prediction(dist, value=randn(*b), q=randn(*b, 5) if family == "categorical" else None)


@pytest.mark.parametrize("b", LEADING)
@pytest.mark.parametrize(("name", "family"), [(n, f) for n, (_, families) in POLICY.items() for f in families])
def test_policy_losses(name: str, family: str, b: tuple[int, ...]) -> None:
    loss, student = POLICY[name][0], said(family, b)
    rows_of_choice(main(student.dist), lambda: loss(student, said(family, b)))


@pytest.mark.parametrize("b", LEADING)
@pytest.mark.parametrize("loss", [losses.value_mse, losses.value_huber])
def test_value_losses(loss: losses.PairLoss, b: tuple[int, ...]) -> None:
    student = said("categorical", b)
    rows_of_choice(main(student.dist), lambda: loss(student, said("categorical", b)))


@pytest.mark.parametrize("b", LEADING)
@pytest.mark.parametrize("family", DISCRETE)
def test_targets(family: str, b: tuple[int, ...]) -> None:
    target = said(family, b)
    transforms: list[Callable[[Prediction], Prediction]] = [
        partial(losses.soften, temperature=2.0),
        losses.sharpen,
        partial(losses.smooth, eps=0.1),
        losses.standardise,
    ]
    if target.q is not None:
        transforms += [losses.from_q, losses.from_q_scaled]
    for transform in transforms:
        vector_of(main(target.dist), lambda transform=transform: main(transform(target).dist))


@pytest.mark.parametrize("b", LEADING)
@pytest.mark.parametrize("weight", [losses.confidence_weight, losses.gap_weight, losses.advantage_weight])
def test_row_weights(weight: Callable[[Prediction], Tensor], b: tuple[int, ...]) -> None:
    target = said("categorical", b)
    rows_of_choice(main(target.dist), lambda: weight(target))
    rows_of_choice(main(target.dist), lambda: losses.weigh(Batch(torch.zeros(*b, 2), target), weight).weight)


@pytest.mark.parametrize("b", LEADING)
def test_objectives(b: tuple[int, ...]) -> None:
    student, batch = said("categorical", b), Batch(torch.zeros(*b, 2), said("categorical", b))
    objective = losses.weighted(
        policy=(1.0, losses.forward_kl),
        sharp=(1.0, losses.on_target(losses.mse, losses.from_q)),
        sure=(1.0, losses.on_rows(losses.hard_nll, losses.gap_weight)),
        value=(0.5, losses.value_mse),
    )
    for term in objective.terms(student, batch).values():
        rows_of_choice(main(student.dist), lambda term=term: term.rows)


# --- the checker itself ----------------------------------------------------------------------------------------------


def test_wrong_shapes_are_refused() -> None:
    dist = MAKE["categorical"]((2, 3))
    for wrong in (
        lambda: dist.entropy().mean(),
        lambda: dist.logits,
        lambda: dist.entropy().unsqueeze(-1),
        lambda: dist.entropy().T,
        lambda: dist.mode(),  # integers
        lambda: 0.0,
    ):
        with pytest.raises(TypeCheckError):
            rows_of_choice(dist.logits, wrong)
    with pytest.raises(TypeCheckError):
        rows_of_choice(torch.zeros(()), dist.entropy)  # no axis of choices
    with pytest.raises(TypeCheckError):
        vector_of(dist.logits, lambda: dist.logits[..., :-1])
