"""Objectives on rows and classes of a batch: by hand, by loops over pairs and triplets, by numpy, by forward KL."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from toys import CARTPOLE, Balancer

from policykd import Learner, losses, students
from policykd.distributions import Bernoulli, Categorical, Deterministic, DiagGaussian, Distribution, MultiCategorical
from policykd.errors import DistributionError, UsageError
from policykd.losses import (
    decoupled,
    dist_relations,
    forward_kl,
    on_target,
    relational_angle,
    relational_distance,
    soften,
)
from policykd.prediction import Batch, Prediction
from policykd.reduction import reduce_rows

INF, NAN = math.inf, math.nan
Objective = Callable[[Prediction, Batch], dict[str, Tensor]]


def randn(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + len(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def cat(logits: Tensor, **features: Tensor) -> Prediction:
    return Prediction(Categorical(logits), features=features)


def batch(target: Prediction, mask: Tensor | None = None, **extra: Tensor) -> Batch:
    lead = target.dist.mode().shape
    return Batch(torch.zeros(*lead, 1), target, mask=mask, extra=extra)


def rows(objective: Any, student: Prediction, of: Batch, **knobs: Any) -> Tensor:
    said = objective(student, of, **knobs)
    assert list(said) == [""]
    return said[""]


RELATIONAL = [relational_distance, relational_angle]
ON_LOGITS: list[Any] = [*RELATIONAL, dist_relations, decoupled]


# --- what all of them keep -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lead", [(1,), (6,), (2, 3)])
@pytest.mark.parametrize("objective", ON_LOGITS)
def test_one_finite_number_a_row_and_gradients_to_the_student_alone(objective: Any, lead: tuple[int, ...]) -> None:
    x, y = randn(*lead, 4).requires_grad_(), randn(*lead, 4, seed=9).requires_grad_()
    found = rows(objective, cat(x), batch(cat(y)))
    assert found.shape == lead and bool((found >= 0).all())
    found.sum().backward()
    assert x.grad is not None and x.grad.isfinite().all() and y.grad is None
    assert bool(x.grad.any()) == (len(lead) * lead[0] > 1 or objective in (dist_relations, decoupled))


@pytest.mark.parametrize("objective", ON_LOGITS)
def test_a_single_row_without_batch_dimensions(objective: Any) -> None:
    assert rows(objective, cat(randn(4)), batch(cat(randn(4, seed=9)))).shape == ()


@pytest.mark.parametrize("objective", ON_LOGITS)
def test_nothing_to_learn_from_an_equal(objective: Any) -> None:
    x = randn(5, 4)
    torch.testing.assert_close(rows(objective, cat(x), batch(cat(x))), torch.zeros(5, dtype=torch.float64))


@pytest.mark.parametrize("objective", ON_LOGITS)
def test_a_row_that_is_masked_out_is_nobody_s_partner_whatever_it_holds(objective: Any) -> None:
    x, y, mask = randn(2, 4, 3), randn(2, 4, 3, seed=9), torch.tensor([[1, 1, 0, 1], [0, 1, 1, 0]], dtype=torch.bool)
    x[~mask], y[~mask] = NAN, NAN
    of = batch(cat(y), mask)
    found = rows(objective, cat(x), of)
    alone = rows(objective, cat(x[mask]), batch(cat(y[mask])))
    torch.testing.assert_close(found[mask], alone)
    x = torch.where(mask.unsqueeze(-1), x, 0.0).requires_grad_()  # as the Learner blanks them
    of = batch(cat(torch.where(mask.unsqueeze(-1), y, 0.0)), mask)
    total = reduce_rows(rows(objective, cat(x), of), None, mask)
    total.backward()
    torch.testing.assert_close(total, alone.mean())
    assert x.grad is not None and x.grad.isfinite().all() and not x.grad[~mask].any()


@pytest.mark.parametrize("objective", ON_LOGITS)
def test_every_row_masked(objective: Any) -> None:
    x, mask = randn(3, 4).requires_grad_(), torch.zeros(3, dtype=torch.bool)
    total = reduce_rows(rows(objective, cat(x), batch(cat(randn(3, 4, seed=9)), mask)), None, mask)
    total.backward()
    assert float(total.detach()) == 0.0 and x.grad is not None and not x.grad.any()


@pytest.mark.parametrize("objective", ON_LOGITS)
def test_several_students_are_related_one_by_one(objective: Any) -> None:
    x, y = randn(2, 5, 3), randn(5, 3, seed=9)
    found = rows(objective, cat(x), batch(cat(y)))
    for member in range(2):
        torch.testing.assert_close(found[member], rows(objective, cat(x[member]), batch(cat(y))))


@pytest.mark.parametrize("objective", ON_LOGITS)
def test_nan_is_never_hidden(objective: Any) -> None:
    x = randn(4, 3)
    x[1, 0] = NAN
    assert bool(rows(objective, cat(x), batch(cat(randn(4, 3, seed=9))))[1].isnan())


@pytest.mark.parametrize("objective", ON_LOGITS)
def test_a_learner_learns_by_them(objective: Any) -> None:
    obs = randn(48, 4).float()
    learner = Learner(students.mlp(CARTPOLE, (8,)), objective, lr=0.01)
    updates = [learner.step(Batch(obs, Balancer(0.5).label(obs), mask=torch.arange(48) < 40)) for _ in range(40)]
    losses_ = [float(update.loss) for update in updates]
    assert losses_[-1] < 0.7 * losses_[0] and all(map(math.isfinite, losses_))


# --- relations of rows -----------------------------------------------------------------------------------------------


def by_pairs(x: Tensor, y: Tensor, delta: float = 1.0) -> list[float]:
    """Distance-wise loss of each row by a loop over its partners."""
    n = len(x)

    def distances(e: Tensor) -> np.ndarray:
        apart = np.linalg.norm(e.numpy()[:, None] - e.numpy()[None], axis=-1)
        return apart / (apart.sum() / (n * (n - 1)))

    error = torch.from_numpy(distances(x) - distances(y))
    each = F.huber_loss(error, torch.zeros_like(error), reduction="none", delta=delta)
    return (each.sum(1) / (n - 1)).tolist()  # of itself a row is as far as in the teacher: 0


def by_triplets(x: Tensor, y: Tensor, delta: float = 1.0) -> list[float]:
    """Angle-wise loss of each corner by a loop over its pairs."""
    found = []
    for j in range(len(x)):
        pairs = list(permutations([i for i in range(len(x)) if i != j], 2))
        errors = [
            F.cosine_similarity(x[i] - x[j], x[k] - x[j], 0) - F.cosine_similarity(y[i] - y[j], y[k] - y[j], 0)
            for i, k in pairs
        ]
        error = torch.stack(errors)
        found.append(float(F.huber_loss(error, torch.zeros_like(error), delta=delta)))
    return found


@pytest.mark.parametrize("delta", [1.0, 0.1])
def test_distances_and_angles_by_loops(delta: float) -> None:
    x, y = randn(6, 3), randn(6, 5, seed=9)
    s, of = cat(randn(6, 2), x=x), batch(cat(randn(6, 2), x=y))
    assert rows(relational_distance, s, of, feature="x", delta=delta).tolist() == pytest.approx(by_pairs(x, y, delta))
    assert rows(relational_angle, s, of, feature="x", delta=delta).tolist() == pytest.approx(by_triplets(x, y, delta))


def test_logits_are_the_feature_by_default() -> None:
    x, y = randn(6, 3), randn(6, 3, seed=9)
    assert rows(relational_distance, cat(x), batch(cat(y))).tolist() == pytest.approx(by_pairs(x, y))
    assert rows(relational_angle, cat(x), batch(cat(y))).tolist() == pytest.approx(by_triplets(x, y))


def test_distances_by_hand() -> None:
    # Distances 1, 1, 2 of mean 4/3 against 3, 4, 5 of mean 4: differences 0, -1/4, 1/4.
    x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    y = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
    found = rows(relational_distance, cat(x), batch(cat(y)))
    # 0-1: 3/4 - 3/4; 0-2: 3/4 - 1; 1-2: 3/2 - 5/4.
    assert found.tolist() == pytest.approx([1 / 64, 1 / 64, 1 / 32])


def test_angles_by_hand() -> None:
    # Corners of a line: cosines -1, 1, 1; of a right triangle 3, 4, 5: 0, 3/5, 4/5.
    x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    y = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
    found = rows(relational_angle, cat(x), batch(cat(y)))
    assert found.tolist() == pytest.approx([0.5, 0.5 * 0.16, 0.5 * 0.04])


@pytest.mark.parametrize("objective", RELATIONAL)
def test_what_relations_do_not_see(objective: Any) -> None:
    x, of = randn(6, 3), batch(cat(randn(6, 3, seed=9)))
    turn = torch.linalg.qr(randn(3, 3)).Q
    torch.testing.assert_close(rows(objective, cat(7.0 * x @ turn + 5.0), of), rows(objective, cat(x), of))


@pytest.mark.parametrize("shape", [(7,), (2, 7), (2, 3, 5)])
@pytest.mark.parametrize("objective", RELATIONAL)
def test_features_of_any_shape_are_flattened(objective: Any, shape: tuple[int, ...]) -> None:
    x, y = randn(5, *shape), randn(5, 4, seed=9)
    found = rows(objective, cat(randn(5, 2), x=x), batch(cat(randn(5, 2), y=y)), feature=("x", "y"))
    flat = rows(objective, cat(randn(5, 2), x=x.flatten(1)), batch(cat(randn(5, 2), x=y)), feature="x")
    torch.testing.assert_close(found, flat)


@pytest.mark.parametrize(("objective", "least"), [(relational_distance, 2), (relational_angle, 3)])
def test_too_few_rows_say_nothing(objective: Any, least: int) -> None:
    for n in range(1, 5):
        x = randn(n, 3).requires_grad_()
        found = rows(objective, cat(x), batch(cat(randn(n, 3, seed=9))))
        found.sum().backward()
        silent = n < least or (objective is relational_distance and n == 2)  # of two, each is the mean
        assert x.grad is not None and x.grad.isfinite().all()
        torch.testing.assert_close(found.abs().max() < 1e-12, torch.tensor(silent))
        assert bool((x.grad.abs() > 1e-12).any()) != silent


@pytest.mark.parametrize("objective", RELATIONAL)
def test_rows_in_one_place_have_finite_gradients(objective: Any) -> None:
    for x, y in ((torch.zeros(4, 3), randn(4, 3)), (randn(4, 3), torch.zeros(4, 3)), (torch.zeros(4, 3),) * 2):
        x = x.double().requires_grad_()
        found = rows(objective, cat(x), batch(cat(y.double())))
        found.sum().backward()
        assert found.isfinite().all() and x.grad is not None and x.grad.isfinite().all()


@pytest.mark.parametrize("objective", RELATIONAL)
def test_masked_actions_count_nothing(objective: Any) -> None:
    x, y = randn(4, 3), randn(4, 3, seed=9)
    y[:, 2] = -INF
    found = rows(objective, cat(x), batch(cat(y)))
    torch.testing.assert_close(found, rows(objective, cat(x[:, :2]), batch(cat(y[:, :2]))))


FAMILIES: dict[str, tuple[Distribution, Distribution]] = {
    "multi_categorical": (MultiCategorical(randn(4, 5), (2, 3)), MultiCategorical(randn(4, 5, seed=9), (2, 3))),
    "bernoulli": (Bernoulli(randn(4, 5)), Bernoulli(randn(4, 5, seed=9))),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("objective", RELATIONAL)
def test_logits_of_other_families(objective: Any, family: str) -> None:
    s, t = FAMILIES[family]
    want = rows(objective, cat(s.logits), batch(cat(t.logits)))  # type: ignore[union-attr]
    torch.testing.assert_close(rows(objective, Prediction(s), batch(Prediction(t))), want)


@pytest.mark.parametrize("objective", RELATIONAL)
def test_relations_that_cannot_be(objective: Any) -> None:
    s, t = cat(randn(4, 3)), cat(randn(4, 3))
    for other in (Deterministic(randn(4, 3)), DiagGaussian(randn(4, 3), randn(4, 3)), Categorical(randn(4, 2))):
        with pytest.raises(DistributionError, match=r"feature='torso' \[loss.pair\]"):
            objective(s, batch(Prediction(other)))
    with pytest.raises(DistributionError, match=r"\[loss.pair\]"):
        objective(Prediction(Deterministic(randn(4, 3))), batch(Prediction(Deterministic(randn(4, 3)))))
    with pytest.raises(UsageError, match=r"the student gives no feature 'x'.*\[loss.feature\]"):
        objective(s, batch(t), feature="x")
    with pytest.raises(UsageError, match=r"the teacher gives no feature 'y'.*\[loss.feature\]"):
        objective(cat(randn(4, 3), x=randn(4, 2)), batch(t), feature=("x", "y"))
    with pytest.raises(UsageError, match=r"the same rows on both sides \[loss.feature-shape\]"):
        objective(cat(randn(5, 3)), batch(t))
    with pytest.raises(UsageError, match=r"\[loss.feature-shape\]"):
        objective(cat(randn(4, 3), x=randn(3, 2)), batch(cat(randn(4, 3), x=randn(4, 2))), feature="x")
    with pytest.raises(UsageError, match=r"\[loss.delta\]"):
        objective(s, batch(t), delta=0.0)


# --- DIST ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_dist_is_numpy_s_correlation(temperature: float) -> None:
    x, y = randn(6, 4), randn(6, 4, seed=9)
    p, q = ((z / temperature).softmax(-1).numpy() for z in (x, y))
    inner = np.array([1 - np.corrcoef(p[i], q[i])[0, 1] for i in range(6)])
    columns = np.mean([1 - np.corrcoef(p[:, k], q[:, k])[0, 1] for k in range(4)])
    ask = partial(rows, dist_relations, cat(x), batch(cat(y)), temperature=temperature)
    scale = temperature**2
    np.testing.assert_allclose(ask(gamma=0.0), scale * inner)
    np.testing.assert_allclose(ask(beta=0.0), np.full(6, scale * columns))
    np.testing.assert_allclose(ask(beta=2.0, gamma=3.0), scale * (2 * inner + 3 * columns))
    assert ask(beta=0.0, gamma=0.0).tolist() == [0.0] * 6


def test_dist_of_one_row_has_no_columns() -> None:
    s, of = cat(randn(1, 4)), batch(cat(randn(1, 4, seed=9)))
    torch.testing.assert_close(rows(dist_relations, s, of), rows(dist_relations, s, of, gamma=0.0))
    assert rows(dist_relations, s, of, beta=0.0).tolist() == [0.0]


@pytest.mark.parametrize("classes", [3, 10, 100, 1000])
def test_dist_of_a_fresh_student_has_no_direction_made_of_rounding(classes: int) -> None:
    x = torch.zeros(6, classes, requires_grad=True)  # a mean of ten 0.1 is not 0.1 in floating point
    found = rows(dist_relations, cat(x), batch(cat(randn(6, classes))))
    found.sum().backward()
    assert found.tolist() == pytest.approx([2.0] * 6) and x.grad is not None
    assert float(x.grad.abs().max()) < 100


def test_dist_where_nothing_varies() -> None:
    for x, y in ((torch.zeros(3, 4), randn(3, 4)), (randn(3, 4), torch.zeros(3, 4))):
        x = x.double().requires_grad_()
        found = rows(dist_relations, cat(x), batch(cat(y.double())))
        found.sum().backward()
        assert found.tolist() == pytest.approx([2.0] * 3)  # correlated with nothing: 1 - 0 twice
        assert x.grad is not None and x.grad.isfinite().all()


@pytest.mark.parametrize("temperature", [1e-3, 1e6])
@pytest.mark.parametrize("objective", [dist_relations, decoupled])
def test_the_ends_of_a_temperature_are_finite(objective: Any, temperature: float) -> None:
    x = randn(5, 4).requires_grad_()
    found = rows(objective, cat(x), batch(cat(randn(5, 4, seed=9))), temperature=temperature)
    found.sum().backward()
    assert found.isfinite().all() and x.grad is not None and x.grad.isfinite().all()


# --- DKD -------------------------------------------------------------------------------------------------------------


def kd(x: Tensor, y: Tensor, temperature: float) -> Tensor:
    """T^2 x KL of softened laws, by torch."""
    each = F.kl_div((x / temperature).log_softmax(-1), (y / temperature).softmax(-1), reduction="none")
    return temperature**2 * each.sum(-1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("label", [None, torch.tensor([0, 1, 2, 3, -1, 0])])
def test_alpha_1_and_beta_1_less_p_is_ordinary_distillation(label: Tensor | None, temperature: float) -> None:
    x, y = randn(6, 4), randn(6, 4, seed=9)
    of = batch(cat(y)) if label is None else batch(cat(y), label=label)
    c = y.argmax(-1) if label is None else torch.where(label < 0, y.argmax(-1), label)
    p = (y / temperature).softmax(-1).gather(-1, c.unsqueeze(-1)).squeeze(-1)
    tckd = rows(decoupled, cat(x), of, alpha=1.0, beta=0.0, temperature=temperature)
    nckd = rows(decoupled, cat(x), of, alpha=0.0, beta=1.0, temperature=temperature)
    torch.testing.assert_close(tckd + (1 - p) * nckd, kd(x, y, temperature))
    both = rows(decoupled, cat(x), of, alpha=2.0, beta=3.0, temperature=temperature)
    torch.testing.assert_close(both, 2 * tckd + 3 * nckd)
    # The same with one row at a time, whose beta is its own, and with the project's KL.
    each = [
        rows(decoupled, cat(x[i]), of[i], alpha=1.0, beta=float(1 - p[i]), temperature=temperature) for i in range(6)
    ]
    torch.testing.assert_close(torch.stack(each), kd(x, y, temperature))
    softened = on_target(forward_kl, partial(soften, temperature=temperature))
    torch.testing.assert_close(torch.stack(each), temperature**2 * softened(cat(x / temperature), cat(y)))


def test_dkd_by_hand() -> None:
    # Teacher (1/2, 1/4, 1/4), student (1/4, 1/2, 1/4), class 0, T = 1.
    s, of = cat(torch.tensor([[0.25, 0.5, 0.25]]).log()), batch(cat(torch.tensor([[0.5, 0.25, 0.25]]).log()))
    of = of.with_extra(label=torch.tensor([0]))
    tckd = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    nckd = 0.5 * math.log(0.5 / (2 / 3)) + 0.5 * math.log(0.5 / (1 / 3))
    ask = partial(rows, decoupled, s, of, temperature=1.0)
    assert float(ask(alpha=1.0, beta=0.0)) == pytest.approx(tckd, rel=1e-5)
    assert float(ask(alpha=0.0, beta=1.0)) == pytest.approx(nckd, rel=1e-5)
    assert ask(alpha=0.0, beta=0.0).tolist() == [0.0]


def test_labels_that_are_missing_are_the_teacher_s_mode() -> None:
    x, y = randn(4, 3), randn(4, 3, seed=9)
    mode = y.argmax(-1)
    want = rows(decoupled, cat(x), batch(cat(y), label=mode))
    for extra in ({}, {"label": torch.full((4,), -1)}, {"label": mode.to(torch.int32)}):
        torch.testing.assert_close(rows(decoupled, cat(x), batch(cat(y), **extra)), want)
    other = rows(decoupled, cat(x), batch(cat(y), label=(mode + 1) % 3))
    assert not torch.allclose(other, want)


def test_a_certain_teacher_and_two_classes_say_nothing_of_the_others() -> None:
    x = randn(2, 3).requires_grad_()
    y = torch.tensor([[0.0, -INF, -INF], [800.0, 0.0, 1.0]], dtype=torch.float64)
    found = rows(decoupled, cat(x), batch(cat(y)), alpha=0.0, temperature=1.0)
    whole = rows(decoupled, cat(x), batch(cat(y)), temperature=1.0)
    whole.sum().backward()
    assert float(found[0].detach()) == 0.0 and float(found[1].detach()) > 0.0
    torch.testing.assert_close(whole[0], -x.log_softmax(-1)[0, 0])
    assert x.grad is not None and x.grad.isfinite().all()
    two = rows(decoupled, cat(randn(3, 2)), batch(cat(randn(3, 2, seed=9))), alpha=0.0)
    assert two.tolist() == [0.0] * 3


def test_masked_actions_of_a_teacher() -> None:
    x, y = randn(2, 4).requires_grad_(), randn(2, 4, seed=9)
    y[:, 3] = -INF
    for label in (torch.tensor([0, 1]), torch.tensor([3, 3])):  # a label may be what the teacher rules out
        found = rows(decoupled, cat(x), batch(cat(y), label=label), beta=1.0)
        found.sum().backward()
        assert found.isfinite().all() and x.grad is not None and x.grad.isfinite().all()


@pytest.mark.parametrize(
    "label",
    [
        torch.zeros(3, dtype=torch.long),
        torch.zeros(4, 1, dtype=torch.long),
        torch.zeros(4),
        torch.ones(4, dtype=torch.bool),
        torch.tensor([0, 1, 2, 3]),
    ],
)
def test_labels_that_are_none(label: Tensor) -> None:
    with pytest.raises(UsageError, match=r"-1.*\[loss.label\]"):
        decoupled(cat(randn(4, 3)), batch(cat(randn(4, 3)), label=label))


@pytest.mark.parametrize("objective", [dist_relations, decoupled])
def test_knobs_and_pairs_that_cannot_be(objective: Any) -> None:
    s, of = cat(randn(4, 3)), batch(cat(randn(4, 3)))
    for temperature in (0.0, -1.0, INF, NAN):
        with pytest.raises(UsageError, match=r"\[loss.temperature\]"):
            objective(s, of, temperature=temperature)
    for weight in (-1.0, INF, NAN):
        with pytest.raises(UsageError, match=r"beta = .*\[loss.weight\]"):
            objective(s, of, beta=weight)
    for other in (Categorical(randn(4, 2)), Bernoulli(randn(4, 3)), Deterministic(randn(4, 3))):
        with pytest.raises(DistributionError, match=r"\[loss.pair\]"):
            objective(s, batch(Prediction(other)))
    with pytest.raises(DistributionError, match=r"\[loss.pair\]"):
        objective(cat(randn(4, 1)), batch(cat(randn(4, 1))))


def test_they_are_objectives_and_public() -> None:
    for objective in ON_LOGITS:
        assert objective.__name__ in losses.__all__
        terms = losses.weighted(part=(0.5, partial(objective))).terms(cat(randn(4, 3)), batch(cat(randn(4, 3, seed=9))))
        assert [(term.weight, term.rows.shape) for term in terms.values()] == [(0.5, (4,))]
