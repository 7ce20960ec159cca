"""Noisy teachers: how far several disagree, which rows are worth it, and a teacher that follows its student."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from toys import CARTPOLE, Balancer

from policykd import Learner, students
from policykd.distributions import Bernoulli, Categorical, Deterministic, DiagGaussian, MultiCategorical
from policykd.errors import DistributionError
from policykd.losses import combine, disagreement_weight, forward_kl, noise, value_gate, weigh, with_disagreement
from policykd.losses.skewed import to_mixture
from policykd.prediction import Batch, Prediction

INF = math.inf


def cat(*probs: float) -> Prediction:
    return Prediction(Categorical(torch.tensor([probs], dtype=torch.float64).log()))


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- disagreement ----------------------------------------------------------------------------------------------------


def test_disagreement_by_hand() -> None:
    assert float(noise.disagreement([cat(1.0, 0.0), cat(0.0, 1.0)])) == pytest.approx(math.log(2))
    three = [cat(1.0, 0.0, 0.0), cat(0.0, 1.0, 0.0), cat(0.0, 0.0, 1.0)]
    assert float(noise.disagreement(three)) == pytest.approx(math.log(3))
    assert float(noise.disagreement([cat(0.3, 0.7)] * 4)) == pytest.approx(0.0, abs=1e-12)
    # H(mean) - mean of H, the other form of the same divergence.
    said = [cat(0.9, 0.1), cat(0.4, 0.6), cat(0.7, 0.3)]
    centre = combine.mean(said).dist.entropy()
    want = centre - torch.stack([p.dist.entropy() for p in said]).mean(0)
    torch.testing.assert_close(noise.disagreement(said), want)


def test_of_two_it_is_the_jensen_shannon_divergence_that_losses_use() -> None:
    a, b = randn(5, 4).log_softmax(-1), randn(5, 4, seed=1).log_softmax(-1)
    found = noise.disagreement([Prediction(Categorical(a)), Prediction(Categorical(b))])
    torch.testing.assert_close(found, (to_mixture(a, b, 0.5) + to_mixture(b, a, 0.5)) / 4)


def test_disagreement_of_other_families() -> None:
    coins = [Prediction(Bernoulli(torch.tensor([[INF, 0.0]]))), Prediction(Bernoulli(torch.tensor([[-INF, 0.0]])))]
    assert float(noise.disagreement(coins)) == pytest.approx(math.log(2))
    factors = [Prediction(MultiCategorical(randn(1, 5, seed=s), (2, 3))) for s in (0, 1)]
    parts = [[Prediction(p.dist.factors[i]) for p in factors] for i in (0, 1)]  # type: ignore[union-attr]
    torch.testing.assert_close(noise.disagreement(factors), sum(map(noise.disagreement, parts), torch.zeros(1)))
    law = Prediction(DiagGaussian(torch.zeros(1, 1), torch.zeros(1, 1)))
    far = Prediction(DiagGaussian(torch.full((1, 1), 6.0), torch.zeros(1, 1)))
    assert float(noise.disagreement([law, law])) == 0.0
    # Both are 3 from a mean of variance 1 + 9: 1/2 (1 + 9) / 10 - 1/2 + log(10) / 2.
    assert float(noise.disagreement([law, far])) == pytest.approx(math.log(10) / 2)
    with pytest.raises(DistributionError, match=r"\[dist.kl-pair\]"):
        noise.disagreement([Prediction(Deterministic(torch.zeros(1, 1)))] * 2)


def test_masked_actions_do_not_spoil_it() -> None:
    found = noise.disagreement([cat(0.5, 0.5, 0.0), cat(0.5, 0.5, 0.0)])
    assert float(found) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(("threshold", "want"), [(INF, [1, 1]), (0.3, [1, 0]), (0.0, [1, 0]), (-1.0, [0, 0])])
def test_the_disagreement_filter_and_its_ends(threshold: float, want: list[int]) -> None:
    said = [Prediction(Categorical(torch.tensor([[2.0, 0.0], z]))) for z in ([9.0, 0.0], [0.0, 9.0])]
    word = with_disagreement(combine.mean)(said)
    assert word.features["disagreement"].shape == (2, 1)
    assert disagreement_weight(word, threshold=threshold).tolist() == want
    weighed = weigh(Batch(torch.zeros(2, 4), word), lambda t: disagreement_weight(t, threshold=threshold))
    assert weighed.weight is not None and weighed.weight.tolist() == want


def test_a_target_that_does_not_carry_it_is_refused() -> None:
    with pytest.raises(DistributionError, match=r"with_disagreement.*\[target.no-disagreement\]"):
        disagreement_weight(cat(0.5, 0.5), threshold=0.1)


# --- the value gate --------------------------------------------------------------------------------------------------


def valued(logits: Tensor, value: list[float]) -> Prediction:
    return Prediction(Categorical(logits), value=torch.tensor(value, dtype=torch.float64, requires_grad=True))


def test_only_rows_count_where_the_teacher_is_worth_more() -> None:
    student = valued(randn(4, 3).requires_grad_(), [0.0, 1.0, 2.0, 3.0])
    target = valued(randn(4, 3, seed=1), [1.0, 1.0, 1.0, 9.0])
    plain, gated = forward_kl(student, target), value_gate(forward_kl)(student, target)
    torch.testing.assert_close(gated, plain * torch.tensor([1, 0, 0, 1]))
    gated.sum().backward()
    assert student.value is not None and student.value.grad is None  # no gradient through the choice
    assert student.dist.logits.grad[1:3].abs().sum() == 0  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("margin", "want"), [(-INF, [1, 1, 1, 1]), (0.0, [1, 0, 0, 1]), (5.0, [0, 0, 0, 1]), (INF, [0] * 4)]
)
def test_the_value_gate_at_the_ends_of_its_margin(margin: float, want: list[int]) -> None:
    student = valued(randn(4, 3), [0.0, 1.0, 2.0, 3.0])
    target = valued(randn(4, 3, seed=1), [1.0, 1.0, 1.0, 9.0])
    gated = value_gate(forward_kl, margin=margin)(student, target)
    assert (gated > 0).int().tolist() == want


def test_a_row_that_is_gated_out_does_no_harm() -> None:
    student, target = valued(torch.tensor([[0.0, -INF]]), [5.0]), valued(torch.tensor([[0.0, 0.0]]), [1.0])
    assert forward_kl(student, target).isinf() and value_gate(forward_kl)(student, target).tolist() == [0.0]


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_a_gate_without_values_is_refused(side: str) -> None:
    with_value, without = valued(randn(1, 2), [0.0]), Prediction(Categorical(randn(1, 2)))
    pair = (without, with_value) if side == "student" else (with_value, without)
    with pytest.raises(DistributionError, match=rf"{side} without values.*\[loss.no-value\]"):
        value_gate(forward_kl)(*pair)


# --- a teacher that follows its student ------------------------------------------------------------------------------


def test_the_averaged_student_is_a_mean_teacher() -> None:
    obs = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    learner = Learner(students.mlp(CARTPOLE, (8,)), forward_kl, lr=0.05, average=0.9)
    teacher = learner.averaged
    for _ in range(50):
        learner.step(Batch(obs, Balancer().label(obs)))
    before = [p.clone() for p in teacher.parameters()]
    learner.step(Batch(obs, teacher.label(obs)))  # the student follows its own past, and its teacher follows it
    decay = min(0.9, 51 / 61)
    for old, new, own in zip(before, teacher.parameters(), learner.student.parameters(), strict=True):
        torch.testing.assert_close(new, decay * old + (1 - decay) * own)
