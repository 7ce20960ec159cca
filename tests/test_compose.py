"""Weighted objectives: terms, schedules, users' own functions, parametric losses, broken contracts."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from policykd import losses
from policykd.distributions import Categorical
from policykd.errors import DistributionError, UsageError
from policykd.losses import as_objective, on_rows, on_target, weighted
from policykd.losses.weights import weight_at
from policykd.prediction import Batch, Prediction, Progress


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


STUDENT = Prediction(Categorical(randn(4, 3)), value=randn(4))
TARGET = Prediction(Categorical(randn(4, 3, seed=1)), value=randn(4, seed=2), q=randn(4, 3, seed=3))
BATCH = Batch(torch.zeros(4, 2), TARGET, extra={"label": torch.tensor([0, 1, 2, 0])})


def confident(student: Prediction, target: Prediction) -> Tensor:
    """A user's pair loss."""
    return target.dist.probs.amax(-1) * losses.forward_kl(student, target)


def labels(student: Prediction, batch: Batch) -> dict[str, Tensor]:
    """A user's objective: needs more of the batch than the target."""
    return {"nll": -student.dist.log_prob(batch.extra["label"]), "entropy": -student.dist.entropy()}


class Learnt(nn.Module):
    """A parametric loss."""

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, student: Prediction, target: Prediction) -> Tensor:
        return self.log_scale.exp() * losses.forward_kl(student, target)


class LearntObjective(Learnt):
    def forward(self, student: Prediction, batch: Batch) -> dict[str, Tensor]:  # type: ignore[override]
        return {"learnt": super().forward(student, batch.target)}


# --- weighted --------------------------------------------------------------------------------------------------------


def test_terms_are_reported_before_their_weights() -> None:
    objective = weighted(policy=(1.0, losses.forward_kl), value=(0.5, losses.value_mse))
    found = objective.terms(STUDENT, BATCH)
    assert {name: term.weight for name, term in found.items()} == {"policy": 1.0, "value": 0.5}
    torch.testing.assert_close(found["policy"].rows, losses.forward_kl(STUDENT, TARGET))
    torch.testing.assert_close(found["value"].rows, losses.value_mse(STUDENT, TARGET))
    assert list(objective(STUDENT, BATCH)) == ["policy", "value"]
    torch.testing.assert_close(objective(STUDENT, BATCH)["value"], losses.value_mse(STUDENT, TARGET))


def test_a_weight_of_zero_skips_the_work() -> None:
    def never(student: Prediction, target: Prediction) -> Tensor:
        raise AssertionError("computed although its weight is 0")

    objective = weighted(policy=(1.0, losses.forward_kl), off=(0.0, never), later=(lambda p: p.fraction, never))
    assert list(objective.terms(STUDENT, BATCH)) == ["policy"]
    assert objective.weights() == {"policy": 1.0, "off": 0.0, "later": 0.0}
    with pytest.raises(AssertionError):
        objective.terms(STUDENT, BATCH, Progress(fraction=0.5))


def test_a_weight_of_zero_needs_no_value_head() -> None:
    blind = Prediction(STUDENT.dist)
    assert list(weighted(policy=(1.0, losses.mse), value=(0.0, losses.value_mse))(blind, BATCH)) == ["policy"]
    with pytest.raises(DistributionError, match=r"\[loss.no-value\]"):
        weighted(policy=(1.0, losses.mse), value=(0.1, losses.value_mse))(blind, BATCH)


def test_weights_may_follow_the_run() -> None:
    objective = weighted(
        policy=(lambda p: 1.0 - p.fraction, losses.forward_kl),
        value=(lambda p: 1.0 if p.env_steps > 100 else 0.25, losses.value_mse),
    )
    assert objective.weights() == {"policy": 1.0, "value": 0.25}
    late = Progress(env_steps=200, fraction=1.0)
    assert objective.weights(late) == {"policy": 0.0, "value": 1.0}
    assert {k: t.weight for k, t in objective.terms(STUDENT, BATCH, late).items()} == {"value": 1.0}


@pytest.mark.parametrize("bad", [math.nan, math.inf, "1", None, torch.ones(())])
def test_weights_that_are_no_numbers(bad: Any) -> None:
    with pytest.raises(UsageError, match=r"\[loss.weight\]"):
        weight_at(bad, Progress(), "policy")
    if not isinstance(bad, torch.Tensor):
        with pytest.raises(UsageError, match=r"'policy'.*\[loss.weight\]"):
            weighted(policy=(bad, losses.mse))
    with pytest.raises(UsageError, match=r"'policy'.*\[loss.weight\]"):
        weighted(policy=(lambda p: bad, losses.mse)).terms(STUDENT, BATCH)


@pytest.mark.parametrize("bad", [losses.mse, (1.0,), (1.0, "mse"), (losses.mse, 1.0), 1.0])
def test_terms_that_are_no_pairs(bad: Any) -> None:
    with pytest.raises(UsageError, match=r"weighted\(policy=\(1.0, loss\)\) \[loss.term\]"):
        weighted(policy=bad)


def test_nothing_to_weigh() -> None:
    with pytest.raises(UsageError, match=r"\[loss.term\]"):
        weighted()


# --- users' functions ------------------------------------------------------------------------------------------------


def test_a_plain_pair_loss_is_lifted() -> None:
    objective = as_objective(confident)
    found = objective.terms(STUDENT, BATCH)
    assert list(found) == ["policy"] and found["policy"].weight == 1.0
    torch.testing.assert_close(found["policy"].rows, confident(STUDENT, TARGET))
    assert as_objective(objective) is objective


def test_a_plain_objective_keeps_its_names() -> None:
    assert list(as_objective(labels).terms(STUDENT, BATCH)) == ["nll", "entropy"]


def test_an_objective_among_the_terms_reports_under_its_part() -> None:
    found = weighted(policy=(1.0, confident), label=(0.1, labels)).terms(STUDENT, BATCH)
    assert {k: t.weight for k, t in found.items()} == {"policy": 1.0, "label/nll": 0.1, "label/entropy": 0.1}


def test_weighted_inside_weighted_multiplies() -> None:
    inner = weighted(policy=(2.0, losses.mse), value=(lambda p: p.fraction, losses.value_mse))
    found = weighted(kd=(0.5, inner), policy=(1.0, confident)).terms(STUDENT, BATCH, Progress(fraction=0.25))
    assert {k: t.weight for k, t in found.items()} == {"kd/policy": 1.0, "kd/value": 0.125, "policy": 1.0}


def one_argument_more(student: Prediction, target: Prediction, sharpness: float = 2.0) -> Tensor:
    return sharpness * losses.mse(student, target)


def bound_batch(scale: float, student: Prediction, batch: Batch) -> dict[str, Tensor]:
    return {"policy": scale * losses.mse(student, batch.target)}


def more_after_the_batch(student: Prediction, batch: Batch, scale: float = 2.0) -> dict[str, Tensor]:
    return {"policy": scale * losses.mse(student, batch.target)}


class Callable2:
    def __call__(self, student: Prediction, batch: Batch) -> dict[str, Tensor]:
        return {"policy": losses.mse(student, batch.target)}

    def pair(self, student: Prediction, target: Prediction) -> Tensor:
        return losses.mse(student, target)


@pytest.mark.parametrize(
    "loss",
    [
        losses.mse,
        partial(losses.huber, delta=2.0),
        lambda s, t: losses.mse(s, t),
        one_argument_more,
        partial(one_argument_more, sharpness=3.0),
        Learnt(),
        partial(Learnt()),
        Callable2().pair,
        on_target(losses.forward_kl, losses.from_q),
        on_rows(losses.mse, losses.gap_weight),
        lambda s, batch: {"policy": losses.mse(s, batch.target)},
        partial(bound_batch, 2.0),
        more_after_the_batch,
        Callable2(),
        LearntObjective(),
    ],
)
def test_pair_losses_and_objectives_are_told_apart(loss: Callable[..., Any]) -> None:
    (rows,) = as_objective(loss)(STUDENT, BATCH).values()
    assert rows.shape == (4,) and rows.isfinite().all()


def test_a_loss_that_cannot_be_called() -> None:
    with pytest.raises(UsageError, match=r"str.*\[loss.term\]"):
        as_objective("forward_kl")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("loss", "code", "hint"),
    [
        (lambda s, t: losses.mse(s, t).mean(), "loss.rows", "leave mean() and sum() over rows to the Learner"),
        (lambda s, t: s.dist.logits - t.dist.logits, "loss.rows", "one number per row, (4,)"),
        (lambda s, t: 1.0, "loss.returns", "a tensor with one number per row"),
        (lambda s, t: {"policy": losses.mse(s, t)}, "loss.returns", "name the second parameter `batch`"),
        (lambda s, batch: losses.mse(s, batch.target), "loss.returns", "name the second parameter `target`"),
        (lambda s, batch: {"x": losses.mse(s, batch.target).sum()}, "loss.rows", "(4,)"),
        (lambda s, batch: {"x": 3}, "loss.returns", "'x' returned int"),
    ],
)
def test_broken_contracts_say_what_to_do(loss: Callable[..., Any], code: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        as_objective(loss)(STUDENT, BATCH)
    assert caught.value.code == code and hint in str(caught.value)


def test_stacked_students_keep_their_rows() -> None:
    stacked = Prediction(Categorical(randn(5, 4, 3)), value=randn(5, 4))
    found = weighted(policy=(1.0, losses.hard_nll), value=(1.0, losses.value_huber)).terms(stacked, BATCH)
    assert {k: tuple(t.rows.shape) for k, t in found.items()} == {"policy": (5, 4), "value": (5, 4)}


# --- before a loss ---------------------------------------------------------------------------------------------------


def test_on_target_applies_from_left_to_right() -> None:
    loss = on_target(losses.forward_kl, partial(losses.from_q, tau=0.5), partial(losses.smooth, eps=0.1))
    expected = losses.forward_kl(STUDENT, losses.smooth(losses.from_q(TARGET, tau=0.5), eps=0.1))
    torch.testing.assert_close(loss(STUDENT, TARGET), expected)


def test_on_rows_multiplies_and_drops() -> None:
    weight = torch.tensor([2.0, 0.0, 1.0, 0.5]).double()
    loss = on_rows(losses.mse, lambda target: weight)
    torch.testing.assert_close(loss(STUDENT, TARGET), weight * losses.mse(STUDENT, TARGET))
    lost = on_rows(lambda s, t: losses.mse(s, t) / weight, lambda target: weight)  # inf in row 1
    assert lost(STUDENT, TARGET)[1] == 0


# --- parametric losses -----------------------------------------------------------------------------------------------


def test_modules_are_found_wherever_they_hide() -> None:
    one, two, three, four = Learnt(), Learnt(), LearntObjective(), Learnt()
    objective = weighted(
        a=(1.0, one),
        b=(1.0, partial(two)),
        c=(0.0, three),
        d=(1.0, on_target(on_rows(four, losses.gap_weight), losses.sharpen)),
        e=(1.0, weighted(again=(1.0, one), method=(1.0, two.forward))),
        f=(1.0, losses.mse),
    )
    assert [id(m) for m in objective.modules] == [id(m) for m in (one, two, three, four)]
    assert as_objective(one).modules == [one]
    assert as_objective(losses.mse).modules == []


def test_a_parametric_loss_gets_its_gradient() -> None:
    loss = Learnt()
    as_objective(loss).terms(STUDENT, BATCH)["policy"].rows.sum().backward()
    assert loss.log_scale.grad is not None and float(loss.log_scale.grad) > 0


# --- the front door --------------------------------------------------------------------------------------------------


def test_the_front_door_is_sorted_and_resolves() -> None:
    assert losses.__all__ == sorted(losses.__all__)
    for module in (losses, losses.compose, losses.policy, losses.targets, losses.value, losses.weights):
        assert module.__all__ == sorted(module.__all__)
        assert all(hasattr(module, name) for name in module.__all__)
