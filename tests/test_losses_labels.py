"""Objectives on true labels: against torch's cross-entropy, at the ends of every knob, with labels that are missing."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from policykd import losses
from policykd.distributions import Categorical, DiagGaussian
from policykd.errors import DistributionError, UsageError
from policykd.learner import Learner
from policykd.losses import (
    agreeing,
    forward_kl,
    hard_and_soft,
    label_nll,
    small_loss,
    soft_cross_entropy,
    soft_kl,
    soft_label_ce,
    weights,
)
from policykd.policy import Taught
from policykd.prediction import Batch, Prediction, Progress


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def said(logits: Tensor) -> Prediction:
    return Prediction(Categorical(logits))


def batch(label: Tensor, teacher: Tensor | None = None, **extra: Tensor) -> Batch:
    teacher = torch.zeros(*label.shape, 3, dtype=torch.float64) if teacher is None else teacher
    return Batch(torch.zeros(*label.shape, 1), said(teacher), extra={"label": label, **extra})


GAUSS = Prediction(DiagGaussian(torch.zeros(2, 3), torch.zeros(2, 3)))
LABELS = torch.tensor([0, 2, 1, 2])

# Hard labels


@pytest.mark.parametrize("eps", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("lead", [(6,), (2, 3)])
def test_nll_is_torchs_cross_entropy(eps: float, lead: tuple[int, ...]) -> None:
    logits, label = randn(*lead, 3), torch.arange(6).reshape(lead) % 3
    want = F.cross_entropy(logits.reshape(6, 3), label.reshape(6), label_smoothing=eps, reduction="none")
    torch.testing.assert_close(label_nll(said(logits), batch(label), eps=eps)[""], want.reshape(lead))


def test_nll_by_hand() -> None:
    logits = torch.tensor([[0.5, 0.25, 0.25]]).log()
    assert float(label_nll(said(logits), batch(torch.tensor([1])))[""]) == pytest.approx(math.log(4))
    # (1 - 0.3) log 4 + 0.3 (log 2 + log 4 + log 4) / 3
    assert float(label_nll(said(logits), batch(torch.tensor([1])), eps=0.3)[""]) == pytest.approx(
        0.7 * math.log(4) + 0.1 * 5 * math.log(2)
    )


@pytest.mark.parametrize("eps", [0.0, 0.2, 1.0])
def test_a_missing_label_is_zero_without_a_gradient(eps: float) -> None:
    logits = randn(3, 3).requires_grad_()
    rows = label_nll(said(logits), batch(torch.tensor([0, -1, 2])), eps=eps)[""]
    assert rows.detach()[1] == 0 and rows.detach()[0] > 0
    rows.sum().backward()
    assert logits.grad is not None and logits.grad[1].tolist() == [0, 0, 0] and logits.grad[[0, 2]].abs().sum() > 0


def test_a_masked_class_has_no_share_of_the_smoothing() -> None:
    logits = torch.tensor([[0.0, 0.0, -math.inf]], requires_grad=True)
    rows = label_nll(said(logits), batch(torch.tensor([0])), eps=0.4)[""]
    assert float(rows.detach()) == pytest.approx(math.log(2))
    rows.sum().backward()
    assert logits.grad is not None and logits.grad.isfinite().all()


def test_several_students_share_the_labels() -> None:
    logits = randn(2, 4, 3)
    rows = label_nll(said(logits), batch(LABELS))[""]
    torch.testing.assert_close(rows, torch.stack([label_nll(said(z), batch(LABELS))[""] for z in logits]))


@pytest.mark.parametrize(
    ("objective", "student", "given", "code"),
    [
        (label_nll, said(randn(4, 3)), batch(torch.tensor([0, 1, 2, 3])), "label.range"),
        (label_nll, said(randn(4, 3)), batch(torch.tensor([0, 1, 2, -2])), "label.range"),
        (label_nll, said(randn(4, 3)), batch(LABELS.float()), "label.range"),
        (label_nll, said(randn(4, 3)), batch(LABELS.reshape(4, 1)), "label.shape"),
        (label_nll, said(randn(4, 3)), Batch(randn(4, 1), said(randn(4, 3))), "label.missing"),
        (partial(label_nll, eps=1.5), said(randn(4, 3)), batch(LABELS), "loss.eps"),
        (soft_label_ce, said(randn(4, 3)), batch(LABELS), "label.missing"),
        (soft_label_ce, said(randn(4, 3)), batch(LABELS, soft=randn(4, 2)), "label.shape"),
    ],
)
def test_what_cannot_be_meant(objective: Callable[..., Any], student: Prediction, given: Batch, code: str) -> None:
    with pytest.raises(UsageError, match=rf"\[{code}\]"):
        objective(student, given)


def test_a_student_without_classes_is_refused() -> None:
    with pytest.raises(DistributionError, match=r"\[label.family\]"):
        label_nll(GAUSS, batch(torch.tensor([0, 1])))


def test_no_rows_at_all() -> None:
    empty = batch(torch.zeros(0, dtype=torch.long))
    assert label_nll(said(randn(0, 3)), empty)[""].shape == (0,)


# Raters


def test_soft_labels_by_hand_and_by_torch() -> None:
    soft = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    logits = torch.tensor([[0.0, 0.0, -math.inf], [1.0, 2.0, 3.0], [5.0, 0.0, 0.0]], requires_grad=True)
    rows = soft_label_ce(said(logits), batch(torch.tensor([0, 0, 0]), soft=soft))[""]
    assert rows.tolist() == pytest.approx([math.log(2), math.log(math.e + math.e**2 + math.e**3) - 1, 0.0])
    rows.sum().backward()
    assert logits.grad is not None and logits.grad.isfinite().all()
    z, p = randn(5, 4), randn(5, 4, seed=1).softmax(-1)
    given = Batch(z, said(z), extra={"soft": p})
    torch.testing.assert_close(soft_label_ce(said(z), given)[""], F.cross_entropy(z, p, reduction="none"))


# Hard and soft


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
def test_soft_kl_is_the_cross_entropy_less_its_minimum(temperature: float) -> None:
    z, t = randn(5, 4).requires_grad_(), randn(5, 4, seed=1)
    want = soft_cross_entropy(said(z), said(t), temperature=temperature)
    least = soft_cross_entropy(said(t), said(t), temperature=temperature)
    found = soft_kl(said(z), said(t), temperature=temperature)
    torch.testing.assert_close(found, want - least)
    by_torch = F.kl_div((z / temperature).log_softmax(-1), (t / temperature).softmax(-1), reduction="none").sum(-1)
    torch.testing.assert_close(found, temperature**2 * by_torch)
    assert soft_kl(said(t), said(t), temperature=temperature).abs().max() < 1e-12
    [a] = torch.autograd.grad(found.sum(), z, retain_graph=True)
    [b] = torch.autograd.grad(want.sum(), z)
    torch.testing.assert_close(a, b)


def test_soft_kl_at_the_ends_of_its_temperature() -> None:
    z, t = randn(5, 4), randn(5, 4, seed=1)
    torch.testing.assert_close(soft_kl(said(z), said(t), temperature=1.0), forward_kl(said(z), said(t)))
    high = soft_kl(said(z), said(t), temperature=1e4)
    torch.testing.assert_close(high, losses.mse(said(z), said(t)) / 2, rtol=1e-3, atol=1e-6)
    z.requires_grad_()
    low = soft_kl(said(z), said(t), temperature=1e-6)
    low.sum().backward()
    assert low.max() < 1e-4 and z.grad is not None and z.grad.isfinite().all()


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_a_temperature_must_be_positive(temperature: float) -> None:
    with pytest.raises(UsageError, match=r"\[loss.temperature\]"):
        soft_kl(said(randn(1, 3)), said(randn(1, 3)), temperature=temperature)
    with pytest.raises(UsageError, match=r"\[loss.temperature\]"):
        hard_and_soft(temperature=temperature)


def test_soft_kl_of_other_families() -> None:
    with pytest.raises(DistributionError, match=r"\[loss.pair\]"):
        soft_kl(GAUSS, GAUSS)


def test_hard_and_soft_is_hintons_sum() -> None:
    z, t = randn(4, 3), randn(4, 3, seed=1)
    given = batch(LABELS, t)
    terms = hard_and_soft(alpha=0.7, temperature=3.0).terms(said(z), given)
    total = sum(float((term.weight * term.rows).sum()) for term in terms.values())
    soft = F.kl_div((z / 3).log_softmax(-1), (t / 3).softmax(-1), reduction="sum")
    assert total == pytest.approx(float(0.3 * F.cross_entropy(z, LABELS, reduction="sum") + 0.7 * 9 * soft))
    assert {name: term.weight for name, term in terms.items()} == pytest.approx({"hard": 0.3, "soft": 0.7})


def refused(student: Prediction, target: Prediction) -> Tensor:
    raise AssertionError("asked")


def test_at_its_ends_the_other_term_is_not_computed() -> None:
    z, bare = said(randn(4, 3)), Batch(torch.zeros(4, 1), said(randn(4, 3)))
    assert set(hard_and_soft(alpha=0.0, loss=refused).terms(z, batch(LABELS))) == {"hard"}
    assert set(hard_and_soft(alpha=1.0).terms(z, bare)) == {"soft"}  # without a label


def test_teacher_annealing() -> None:
    objective = hard_and_soft(alpha=weights.linear(1.0, 0.0))
    at = [objective.terms(said(randn(4, 3)), batch(LABELS), Progress(fraction=f)) for f in (0.0, 0.25, 1.0)]
    shares = [{name: term.weight for name, term in terms.items()} for terms in at]
    assert shares == [{"soft": 1.0}, {"hard": 0.25, "soft": 0.75}, {"hard": 1.0}]


@pytest.mark.parametrize("alpha", [-0.1, 1.1])
def test_alpha_is_a_share(alpha: float) -> None:
    with pytest.raises(UsageError, match=r"\[label.alpha\]"):
        hard_and_soft(alpha=alpha)
    with pytest.raises(UsageError, match=r"\[label.alpha\]"):
        hard_and_soft(alpha=lambda p: alpha).terms(said(randn(4, 3)), batch(LABELS))


def test_other_losses_in_both_places() -> None:
    objective = hard_and_soft(
        alpha=0.5, loss=losses.weighted(a=(1.0, forward_kl), b=(2.0, losses.mse)), hard=partial(label_nll, eps=0.1)
    )
    terms = objective.terms(said(randn(4, 3)), batch(LABELS))
    assert {name: term.weight for name, term in terms.items()} == {"hard": 0.5, "soft/a": 0.5, "soft/b": 1.0}
    nested = losses.weighted(kd=(2.0, hard_and_soft(alpha=0.5))).terms(said(randn(4, 3)), batch(LABELS))
    assert {name: term.weight for name, term in nested.items()} == {"kd/hard": 1.0, "kd/soft": 1.0}


def test_a_parametric_loss_inside_is_found() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(1.0))

        def forward(self, student: Prediction, target: Prediction) -> Tensor:
            return self.scale * forward_kl(student, target)

    loss = Scaled()
    assert hard_and_soft(loss=loss).modules == [loss]
    assert losses.as_objective(small_loss(loss, keep=0.5)).modules == [loss]
    assert losses.as_objective(agreeing(loss)).modules == [loss]


# Filters


def rows_of(objective: Any, student: Prediction, given: Batch, progress: Progress | None = None) -> list[float]:
    terms = losses.as_objective(objective).terms(student, given, progress)
    return [] if not terms else next(iter(terms.values())).rows.tolist()


UNEQUAL = torch.tensor([[4.0, 0, 0], [0, 0, 1], [0, 0, 4], [2, 0, 0]])  # label losses: small, middle, large, largest


@pytest.mark.parametrize(("keep", "want"), [(1.0, [1, 1, 1, 1]), (0.5, [1, 1, 0, 0]), (0.25, [1, 0, 0, 0])])
def test_the_smallest_losses_are_kept(keep: float, want: list[int]) -> None:
    label = torch.tensor([0, 2, 1, 1])
    plain = rows_of(label_nll, said(UNEQUAL), batch(label))
    assert plain.index(max(plain)) == 2
    found = rows_of(small_loss(label_nll, keep=keep), said(UNEQUAL), batch(label))
    assert found == [p * w for p, w in zip(plain, want, strict=True)]


def test_to_keep_nothing_computes_nothing() -> None:
    assert rows_of(small_loss(refused, keep=0.0), said(UNEQUAL), batch(LABELS)) == []


def test_keep_may_follow_the_run() -> None:
    objective = small_loss(label_nll, keep=weights.linear(1.0, 0.5))
    found = [rows_of(objective, said(UNEQUAL), batch(LABELS), Progress(fraction=f)) for f in (0.0, 1.0)]
    assert [sum(x > 0 for x in rows) for rows in found] == [4, 2]


def test_rows_without_label_or_masked_out_do_not_compete() -> None:
    label = torch.tensor([0, -1, 1, 1])
    given = Batch(
        torch.zeros(4, 1), said(UNEQUAL), mask=torch.tensor([False, True, True, True]), extra={"label": label}
    )
    found = rows_of(small_loss(label_nll, keep=0.5), said(UNEQUAL), given)
    assert [x > 0 for x in found] == [False, False, False, True]  # of two that compete, the smaller


def test_a_loss_that_is_nan_is_not_small_and_members_choose_alone() -> None:
    spoilt = UNEQUAL.clone()
    spoilt[0] = math.nan
    label = torch.tensor([0, 2, 1, 1])
    assert rows_of(small_loss(label_nll, keep=0.25), said(spoilt), batch(label))[0] == 0
    both = rows_of(small_loss(label_nll, keep=0.25), said(torch.stack([UNEQUAL, UNEQUAL.flip(0)])), batch(label))
    assert torch.tensor(both).gt(0).int().tolist() == [[1, 0, 0, 0], [0, 1, 0, 0]]


@pytest.mark.parametrize("t", [2, 3])  # as many tokens as rows, too: shapes alone do not tell them apart
def test_labels_of_tokens_need_no_teacher(t: int) -> None:
    label = torch.arange(2 * t).reshape(2, t) % 3
    label[0, 1] = -1
    nobody = said(torch.zeros(2, 1, dtype=torch.float64))  # a law over a single choice a sentence
    alone = Batch(torch.zeros(2, t, 1), nobody, extra={"label": label})
    logits = randn(2, t, 3)
    taught = rows_of(small_loss(label_nll, keep=0.5), said(logits), batch(label))
    assert rows_of(small_loss(label_nll, keep=0.5), said(logits), alone) == taught
    logits[1, 0] = math.nan
    logits.requires_grad_()
    found = losses.as_objective(small_loss(label_nll, keep=0.5)).terms(said(logits), alone, Progress())[""].rows
    assert found.count_nonzero() == round(0.5 * (2 * t - 1)) and bool(found.isfinite().all())
    found.sum().backward()
    assert bool(logits.grad.isfinite().all())  # type: ignore[union-attr]
    with pytest.raises(DistributionError, match=r"pass teacher=.*\[loss\.pair\]"):
        rows_of(agreeing(label_nll), said(randn(2, t, 3)), alone)


@pytest.mark.parametrize("keep", [-0.1, 1.1])
def test_keep_is_a_share(keep: float) -> None:
    with pytest.raises(UsageError, match=r"\[label.keep\]"):
        small_loss(label_nll, keep=keep)


@pytest.mark.parametrize(("p", "want"), [(0.0, [1, 0, 1]), (0.2, [1, 0, 1]), (0.5, [1, 0, 0]), (1.1, [0, 0, 0])])
def test_labels_that_the_teacher_believes(p: float, want: list[int]) -> None:
    teacher = torch.tensor([[0.8, 0.1, 0.1], [0.8, 0.1, 0.1], [0.6, 0.1, 0.3]]).log()
    given = batch(torch.tensor([0, -1, 2]), teacher)
    found = rows_of(agreeing(label_nll, p=p), said(randn(3, 3)), given)
    assert [int(x > 0) for x in found] == want


def test_a_filter_of_no_probability() -> None:
    with pytest.raises(UsageError, match=r"\[label.p\]"):
        agreeing(label_nll, p=-0.1)
    with pytest.raises(DistributionError, match=r"\[label.family\]"):
        rows_of(agreeing(label_nll), said(randn(2, 3)), Batch(randn(2, 1), GAUSS, extra={"label": LABELS[:2]}))


# In a Learner


class Linear(Taught):
    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.layer = nn.Linear(width, classes)
        nn.init.zeros_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)

    def read(self, batch: Batch) -> Prediction:
        return Prediction(Categorical(self.layer(batch.obs)))


def test_label_noise_does_less_harm_with_either_filter() -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(400, 5, generator=draw)
    truth = x @ torch.randn(5, 3, generator=draw)
    label = truth.argmax(-1)
    wrong = torch.rand(400, generator=draw) < 0.35
    noisy = torch.where(wrong, (label + 1) % 3, label)
    data = Batch(x, said(2 * truth), extra={"label": noisy})

    def error(objective: Any) -> float:
        it = Learner(Linear(5, 3), objective, lr=0.05, average=None)
        for i in range(150):
            it.step(data, Progress(updates=i, fraction=i / 150))
        return float((it.student.read(data).dist.mode() != label).float().mean())

    plain = error(label_nll)
    assert error(small_loss(label_nll, keep=weights.linear(1.0, 0.6, finish=0.3))) < plain - 0.005
    assert error(agreeing(label_nll, p=0.34)) < plain - 0.005


def test_names_of_terms() -> None:
    objective = losses.weighted(
        label=(0.5, label_nll), clean=(1.0, agreeing(label_nll)), few=(1.0, small_loss(label_nll, keep=0.5))
    )
    assert set(objective(said(randn(4, 3)), batch(LABELS))) == {"label", "clean", "few"}
