"""The straight step is an economy, not another step: it leaves the same bits behind as automatic differentiation."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from policykd import losses, students
from policykd.distributions import Categorical
from policykd.learner import Learner
from policykd.prediction import Batch, Prediction, Progress, Spec
from policykd.shortcut import Shortcut

SPEC = Spec(spaces.Box(-np.inf, np.inf, (3,), np.float32), spaces.Discrete(4), "categorical")
Q_TARGET = losses.on_target(losses.forward_kl, partial(losses.from_q_scaled, tau=0.3, scale=1.0))


def batch(n: int = 50, seed: int = 0, weight: bool = False, masked: bool = False, dtype: Any = torch.float32) -> Batch:
    g = torch.Generator().manual_seed(seed)
    obs = 3.0 * torch.randn(n, 3, generator=g).to(dtype)
    logits = torch.randn(n, 4, generator=g)
    said = Prediction(Categorical(logits), q=logits * 2)
    return Batch(
        obs,
        said,
        torch.rand(n, generator=g) if weight else None,
        torch.rand(n, generator=g) < 0.7 if masked else None,
    )


def learner(loss: Any = losses.forward_kl, hidden: Any = (8, 5), scaled: bool = True, **how: Any) -> Learner:
    kind = {k: how.pop(k) for k in ("activation", "value") if k in how}
    student = students.mlp(SPEC, hidden, **kind)
    if scaled:
        students.fit_normaliser(student, 3.0 * torch.randn(100, 3, generator=torch.Generator().manual_seed(5)))
    return Learner(student, loss, **how)


def several(loss: Any = losses.forward_kl, scaled: bool = True, **how: Any) -> Learner:
    """Five students of three shapes, side by side."""
    kind = {k: how.pop(k) for k in ("activation",) if k in how}
    shapes: list[Any] = [(8, 5), (8, 5), "linear", (6,), (6,)]
    alone = [students.mlp(SPEC, hidden, seed=seed, **kind) for seed, hidden in enumerate(shapes)]
    for one in alone if scaled else ():
        students.fit_normaliser(one, 3.0 * torch.randn(100, 3, generator=torch.Generator().manual_seed(5)))
    return Learner(students.Cohort(alone), loss, **how)


def trained(make: Callable[[], Learner], batches: list[Batch], straight: bool) -> tuple[list[Tensor], int]:
    """All that steps left behind, and how often the shortcut had an answer."""
    it, answers = make(), []
    take = Shortcut.take

    def counted(self: Shortcut, batch: Batch, progress: Progress) -> Any:
        answers.append(take(self, batch, progress) if straight else None)
        return answers[-1]

    found: list[Tensor] = []
    with mock.patch.object(Shortcut, "take", counted):
        for i, one in enumerate(batches):
            update = it.step(one, Progress(fraction=i / len(batches)))
            assert update.grad_norm is not None
            found += [update.loss, update.grad_norm, *update.terms.values()]
            assert not update.loss.requires_grad
    found += [p.detach().clone() for m in (it.student, it.averaged) for p in m.parameters()]
    return found, sum(answer is not None for answer in answers)


KNOWN: dict[str, Callable[[], Learner]] = {
    "silu": learner,
    "tanh": partial(learner, activation="tanh"),
    "relu": partial(learner, activation="relu"),
    "linear": partial(learner, hidden="linear"),
    "one layer": partial(learner, hidden=(6,)),
    "no normaliser": partial(learner, scaled=False),
    "Q-values": partial(learner, Q_TARGET),
    "weight 0.25": lambda: learner(losses.weighted(policy=(0.25, losses.forward_kl))),
    "weight 0.3": lambda: learner(losses.weighted(policy=(0.3, losses.forward_kl))),
    "falling": lambda: learner(losses.weighted(policy=(lambda p: 2.0 ** round(-3 * p.fraction), losses.forward_kl))),
    "bare": partial(learner, average=None, max_grad_norm=None),
    "several": several,
    "several, tanh": partial(several, activation="tanh"),
    "several, relu, no normaliser": partial(several, activation="relu", scaled=False),
    "several, Q-values, weight 0.25": lambda: several(losses.weighted(policy=(0.25, Q_TARGET))),
}


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("weight", [False, True])
@pytest.mark.parametrize("rows", [64, 50, 1])
def test_same_bits_as_automatic_differentiation(name: str, weight: bool, rows: int) -> None:
    batches = [batch(rows, seed, weight) for seed in range(6)]
    plain, none = trained(KNOWN[name], batches, straight=False)
    short, taken = trained(KNOWN[name], batches, straight=True)
    assert (none, taken) == (0, len(batches))
    for a, b in zip(plain, short, strict=True):
        assert torch.equal(a, b)


def test_observations_of_another_dtype() -> None:
    batches = [batch(dtype=torch.float64), batch(dtype=torch.float16)]
    plain, _ = trained(learner, batches, straight=False)
    short, taken = trained(learner, batches, straight=True)
    assert taken == 2 and all(torch.equal(a, b) for a, b in zip(plain, short, strict=True))


def test_a_masked_action_of_the_teachers() -> None:
    one = batch()
    logits = one.target.dist.logits.clone()  # type: ignore[union-attr]
    logits[::2, 1] = -torch.inf
    batches = [Batch(one.obs, Prediction(Categorical(logits)))]
    plain, _ = trained(learner, batches, straight=False)
    short, taken = trained(learner, batches, straight=True)
    assert taken == 1 and all(torch.equal(a, b) for a, b in zip(plain, short, strict=True))
    assert all(bool(torch.isfinite(t).all()) for t in short)


def listened() -> Learner:
    it = learner()
    it.student.action_head.register_forward_hook(lambda *_: None)  # type: ignore[union-attr,operator]
    return it


def frozen() -> Learner:
    it = learner()
    it.student.torso.requires_grad_(False)  # type: ignore[union-attr,operator]
    return it


@pytest.mark.parametrize(
    ("make", "one"),
    [
        (learner, batch(masked=True)),
        (learner, [batch(), batch(seed=1)]),
        (listened, batch()),
        (frozen, batch()),
        (partial(learner, losses.reverse_kl), batch()),
        (partial(learner, lambda student, target: losses.forward_kl(student, target) * 2), batch()),
        (partial(learner, losses.weighted(a=(1.0, losses.forward_kl), b=(1.0, losses.mse))), batch()),
        (partial(learner, value=True), batch()),
        (several, batch(masked=True)),
        (partial(several, losses.reverse_kl), batch()),
        (partial(several, activation="gelu"), batch()),
    ],
    ids=[
        "mask",
        "batches",
        "hook",
        "frozen",
        "other loss",
        "user's",
        "two terms",
        "value head",
        "several, mask",
        "several, other loss",
        "several, gelu",
    ],
)
def test_what_it_does_not_know_goes_the_learners_way(make: Callable[[], Learner], one: Any) -> None:
    plain, _ = trained(make, [one], straight=False)
    short, taken = trained(make, [one], straight=True)
    assert taken == 0 and all(torch.equal(a, b) for a, b in zip(plain, short, strict=True))


def test_a_weight_of_zero_leaves_everything_and_is_asked_once_a_step() -> None:
    asked = []

    def weight(progress: Progress) -> float:
        asked.append(progress.fraction)
        return 0.0

    make = partial(learner, losses.weighted(policy=(weight, losses.forward_kl)))
    plain, _ = trained(make, [batch()], straight=False)
    short, taken = trained(make, [batch()], straight=True)
    assert taken == 1 and len(asked) == 2 and all(torch.equal(a, b) for a, b in zip(plain, short, strict=True))


def test_layers_that_were_frozen_later_stay() -> None:
    it = learner()
    student = it.student
    assert isinstance(student, students.Student)
    it.step(batch())  # Adam is under way
    head, torso = (module.weight.detach().clone() for module in (student.action_head, student.torso[0]))  # type: ignore[union-attr]
    student.torso.requires_grad_(False)
    for seed in (1, 2):
        it.step(batch(seed=seed))
    assert torch.equal(student.torso[0].weight, torso) and not torch.equal(student.action_head.weight, head)  # type: ignore[arg-type]
    student.torso.requires_grad_(True)
    it.step(batch(seed=3))
    assert not torch.equal(student.torso[0].weight, torso)  # type: ignore[arg-type]


def test_what_no_term_asks_for_stays_whatever_adam_remembers() -> None:
    weights = iter([1.0, 0.0])
    it = learner(losses.weighted(policy=(lambda progress: next(weights), losses.forward_kl)))
    it.step(batch())
    before = [p.detach().clone() for p in it.student.parameters()]
    it.step(batch(seed=1))
    assert all(torch.equal(p, old) for p, old in zip(it.student.parameters(), before, strict=True))


def test_a_teacher_in_double_precision() -> None:
    one = batch()
    logits = one.target.dist.logits.double()  # type: ignore[union-attr]
    batches = [Batch(one.obs, Prediction(Categorical(logits)))] * 3
    for make in (learner, several):
        plain, _ = trained(make, batches, straight=False)
        short, taken = trained(make, batches, straight=True)
        assert taken == 0 and all(torch.equal(a, b) for a, b in zip(plain, short, strict=True))


def changed(change: Callable[[students.Student], None]) -> Learner:
    student = students.mlp(SPEC, (8, 8), activation="tanh")
    change(student)
    return Learner(student, losses.forward_kl)


def normed(student: students.Student) -> None:
    torch.nn.utils.parametrizations.weight_norm(student.torso[2])


def tied(student: students.Student) -> None:
    student.torso[2].bias = student.torso[0].bias


def swapped(student: students.Student) -> None:
    student.torso[1] = torch.nn.ReLU()


def dropped(student: students.Student) -> None:
    student.torso.append(torch.nn.Identity())


@pytest.mark.parametrize("change", [normed, tied, swapped, dropped])
def test_a_student_that_somebody_has_changed_is_what_it_computes(change: Callable[[students.Student], None]) -> None:
    make = partial(changed, change)
    obs = batch().obs
    assert isinstance(obs, Tensor)
    student = make().student
    assert isinstance(student, students.Student)
    by_hand = student.action_head(student.torso(obs))
    assert torch.allclose(student(obs).dist.logits, by_hand, atol=1e-6)  # type: ignore[union-attr]
    it = make()
    before = {name: p.detach().clone() for name, p in it.student.named_parameters()}
    short, taken = trained(lambda: it, [batch(), batch(seed=1)], straight=True)
    plain, _ = trained(make, [batch(), batch(seed=1)], straight=False)
    assert taken == 0 and all(torch.equal(a, b) for a, b in zip(plain, short, strict=True))
    assert all(not torch.equal(p, before[name]) for name, p in it.student.named_parameters())


def test_a_layer_that_is_replaced_later_is_seen() -> None:
    it = learner(hidden=(8,), scaled=False)
    student = it.student
    assert isinstance(student, students.Student)
    it.step(batch())
    student.action_head = torch.nn.Linear(8, 4)
    short, taken = trained(lambda: it, [batch()], straight=True)
    assert taken == 0 and float(short[0]) > 0


@pytest.mark.parametrize("listen", ["register_full_backward_hook", "register_full_backward_pre_hook"])
def test_who_listens_to_gradients_hears_them(listen: str) -> None:
    it = learner()
    heard: list[int] = []
    getattr(it.student.action_head, listen)(lambda *_: heard.append(1))  # type: ignore[union-attr]
    it.student.torso[0].weight.register_post_accumulate_grad_hook(lambda _: heard.append(2))  # type: ignore[union-attr,index]
    it.step(batch())
    assert sorted(heard) == [1, 2]


def test_a_normaliser_that_comes_later_is_used() -> None:
    def late() -> Learner:
        it = learner(scaled=False)
        students.fit_normaliser(it.student, 5.0 + torch.randn(100, 3, generator=torch.Generator().manual_seed(1)))
        return it

    plain, _ = trained(late, [batch()], straight=False)
    short, taken = trained(late, [batch()], straight=True)
    assert taken == 1 and all(torch.equal(a, b) for a, b in zip(plain, short, strict=True))
