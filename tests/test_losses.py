"""Every policy loss on every pair of families: the table in losses/policy.py, cell by cell."""

from __future__ import annotations

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
    kl,
    map_tensors,
)
from policykd.errors import DistributionError
from policykd.prediction import Prediction

NVEC = (3, 4)
FAMILIES = ["categorical", "multi_categorical", "bernoulli", "diag_gaussian", "tanh_gaussian", "deterministic"]
DISCRETE, DENSE = FAMILIES[:3], FAMILIES[:5]

LOSSES = {
    "forward_kl": losses.forward_kl,
    "reverse_kl": losses.reverse_kl,
    "jensen_shannon": losses.jensen_shannon,
    "jensen_shannon_near_0": partial(losses.jensen_shannon, beta=1e-6),
    "jensen_shannon_near_1": partial(losses.jensen_shannon, beta=1 - 1e-6),
    "hard_nll": losses.hard_nll,
    "soft_cross_entropy": partial(losses.soft_cross_entropy, temperature=2.0),
    "standardised_logits": losses.standardised_logits,
    "mse": losses.mse,
    "mse_pre_tanh": partial(losses.mse, space="pre_tanh"),
    "huber": partial(losses.huber, delta=0.5),
    "wasserstein2": losses.wasserstein2,
}

# (student, teacher), written by hand from the issue, not from the code.
SAME_WITH_DENSITY = {(f, f) for f in DENSE}
SAME_DISCRETE = {(f, f) for f in DISCRETE}
ACTIONS = {
    ("diag_gaussian", "diag_gaussian"),
    ("diag_gaussian", "deterministic"),
    ("deterministic", "diag_gaussian"),
    ("tanh_gaussian", "tanh_gaussian"),
    ("tanh_gaussian", "deterministic"),
    ("deterministic", "tanh_gaussian"),
    ("deterministic", "deterministic"),
}
TAKES = {
    "forward_kl": SAME_WITH_DENSITY,
    "reverse_kl": SAME_WITH_DENSITY,
    "jensen_shannon": SAME_WITH_DENSITY,
    "jensen_shannon_near_0": SAME_WITH_DENSITY,
    "jensen_shannon_near_1": SAME_WITH_DENSITY,
    "hard_nll": SAME_WITH_DENSITY | {("diag_gaussian", "deterministic"), ("tanh_gaussian", "deterministic")},
    "soft_cross_entropy": SAME_DISCRETE,
    "standardised_logits": {("categorical", "categorical"), ("multi_categorical", "multi_categorical")},
    "mse": SAME_DISCRETE | ACTIONS,
    "mse_pre_tanh": SAME_DISCRETE | ACTIONS,
    "huber": SAME_DISCRETE | ACTIONS,
    "wasserstein2": ACTIONS - {("tanh_gaussian", "deterministic"), ("deterministic", "tanh_gaussian")},
}
ZERO_AT_EQUALITY = sorted(set(LOSSES) - {"hard_nll", "soft_cross_entropy"})
# The loss leaves the standard deviation (or how sure the teacher is) free, or has no minimum there.
MODE_ONLY = {"hard_nll", "mse", "mse_pre_tanh", "huber", "standardised_logits"}

VALID = [(name, s, t) for name, cells in TAKES.items() for s, t in sorted(cells)]
REFUSED = [(name, s, t) for name in TAKES for s in FAMILIES for t in FAMILIES if (s, t) not in TAKES[name]]


def build(family: str, b: tuple[int, ...] = (2, 3), seed: int = 0) -> Distribution:
    g = torch.Generator().manual_seed(seed)

    def randn(n: int, scale: float = 1.0) -> Tensor:
        return scale * torch.randn(*b, n, generator=g, dtype=torch.float64)

    match family:
        case "categorical":
            return Categorical(randn(5, 1.5))
        case "multi_categorical":
            return MultiCategorical(randn(7, 1.5), NVEC)
        case "bernoulli":
            return Bernoulli(randn(4, 1.5))
        case "diag_gaussian":
            return DiagGaussian(randn(3), randn(3, 0.4))
        case "tanh_gaussian":
            return TanhGaussian(randn(3, 0.7), randn(3, 0.4))
    return Deterministic(randn(3).tanh())


def said(family: str, b: tuple[int, ...] = (2, 3), seed: int = 0, grad: bool = False) -> Prediction:
    prediction = Prediction(build(family, b, seed))
    return prediction.map(lambda t: t.clone().requires_grad_()) if grad else prediction


def leaves(prediction: Prediction) -> list[Tensor]:
    found: list[Tensor] = []
    prediction.map(lambda t: (found.append(t), t)[1])
    return found


def test_the_table_is_complete() -> None:
    assert set(TAKES) == set(LOSSES)
    assert len(VALID) + len(REFUSED) == len(LOSSES) * len(FAMILIES) ** 2


@pytest.mark.parametrize("b", [(), (3,), (2, 3)])
@pytest.mark.parametrize(("name", "student", "teacher"), VALID)
def test_one_finite_number_a_row(name: str, student: str, teacher: str, b: tuple[int, ...]) -> None:
    rows = LOSSES[name](said(student, b), said(teacher, b, 1))
    assert rows.shape == b
    assert rows.isfinite().all()
    if name in ZERO_AT_EQUALITY:
        assert (rows > 0).all()


@pytest.mark.parametrize(("name", "student", "teacher"), VALID)
def test_rows_do_not_look_at_each_other(name: str, student: str, teacher: str) -> None:
    s, t = said(student), said(teacher, seed=1)
    torch.testing.assert_close(LOSSES[name](s, t)[1], LOSSES[name](s[1], t[1]))


@pytest.mark.parametrize(("name", "student", "teacher"), VALID)
def test_stacked_students_share_a_teacher(name: str, student: str, teacher: str) -> None:
    s, t = said(student, (5, 2, 3)), said(teacher, (2, 3), 1)
    rows = LOSSES[name](s, t)
    assert rows.shape == (5, 2, 3)
    torch.testing.assert_close(rows[4], LOSSES[name](s[4], t))


@pytest.mark.parametrize(("name", "student", "teacher"), [c for c in VALID if c[1] == c[2]])
def test_nothing_to_learn_from_an_equal(name: str, student: str, teacher: str) -> None:
    s = said(student, grad=True)
    rows = LOSSES[name](s, said(teacher))
    if name in ZERO_AT_EQUALITY:
        torch.testing.assert_close(rows, torch.zeros_like(rows), atol=1e-12, rtol=0)
    if name != "hard_nll":  # which wants to be surer than the teacher
        rows.sum().backward()
        for leaf in leaves(s):
            grad = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
            torch.testing.assert_close(grad, torch.zeros_like(grad), atol=1e-9, rtol=0)


@pytest.mark.parametrize(("name", "student", "teacher"), VALID)
def test_the_student_learns_and_the_teacher_does_not(name: str, student: str, teacher: str) -> None:
    s, t = said(student, grad=True), said(teacher, seed=1, grad=True)
    before = LOSSES[name](s, t)
    before.sum().backward()
    assert all(leaf.grad is None for leaf in leaves(t))
    grads = [leaf.grad for leaf in leaves(s) if leaf.grad is not None]
    assert grads and all(g.isfinite().all() for g in grads)
    # A short step downhill makes every row smaller: rows are independent, so each has its own slope.
    step = [leaf - 1e-4 * (0 if leaf.grad is None else leaf.grad) for leaf in leaves(s)]
    there = iter(step)
    after = LOSSES[name](s.map(lambda _: next(there)), t)
    assert (after < before).all()


@pytest.mark.parametrize(("name", "student", "teacher"), VALID)
def test_descent_recovers_the_teacher(name: str, student: str, teacher: str) -> None:
    """A student that can say anything gets the teacher's mode, and the teacher's law where that is the aim."""
    # A modest start: errors in squashed units have next to no slope where tanh is flat.
    s, t = said(student, (8,)).map(lambda x: (0.2 * x).requires_grad_()), said(teacher, (8,), 1)
    optimizer = torch.optim.Adam(leaves(s), lr=0.2)
    for step in range(250):
        optimizer.param_groups[0]["lr"] = 0.2 * (1 - step / 250)
        optimizer.zero_grad()
        LOSSES[name](s, t).sum().backward()
        optimizer.step()
    ours, theirs = s.dist.mode(), t.dist.mode()
    if student in DISCRETE:
        assert torch.equal(ours, theirs)
    else:
        torch.testing.assert_close(ours, theirs, atol=0.05, rtol=0)
    if student == teacher and student != "deterministic" and name not in MODE_ONLY:
        torch.testing.assert_close(kl(t.dist, s.dist), torch.zeros(8, dtype=torch.float64), atol=5e-3, rtol=0)


@pytest.mark.parametrize(("name", "student", "teacher"), REFUSED)
def test_other_pairs_are_refused_by_name(name: str, student: str, teacher: str) -> None:
    s, t = said(student), said(teacher, seed=1)
    with pytest.raises(DistributionError) as caught:
        LOSSES[name](s, t)
    assert caught.value.code in ("loss.pair", "dist.kl-pair")
    assert type(s.dist).__name__ in caught.value.found and type(t.dist).__name__ in caught.value.found
    assert caught.value.expected and caught.value.fix


@pytest.mark.parametrize(("name", "student", "teacher"), VALID)
def test_other_widths_are_refused(name: str, student: str, teacher: str) -> None:
    s, t = said(student), said(teacher, seed=1)
    if isinstance(t.dist, MultiCategorical):
        narrow = Prediction(MultiCategorical(t.dist.logits, (4, 3)))
    else:
        narrow = Prediction(map_tensors(t.dist, lambda x: x[..., :1]))
    with pytest.raises(DistributionError):
        LOSSES[name](s, narrow)


@pytest.mark.parametrize(("name", "student", "teacher"), VALID)
def test_nan_is_never_hidden(name: str, student: str, teacher: str) -> None:
    s, t = said(student), said(teacher, seed=1)
    sick = t.map(lambda x: x.index_fill(0, torch.tensor([1]), torch.nan))
    rows = LOSSES[name](s, sick)
    assert rows[0].isfinite().all()
    assert rows[1].isnan().all() or (name == "hard_nll" and student in DISCRETE)
    ill = s.map(lambda x: x.index_fill(0, torch.tensor([1]), torch.nan))
    assert LOSSES[name](ill, t)[1].isnan().all()
